//! What operators share when they save their state, whole or as what has changed of it.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use hashbrown::HashMap;
use millstream_expr::scalar::batch_of;
use millstream_state::{HashedRows, SavedState, StateChanges, TableShape};
use millstream_types::hash::hash_columns;
use millstream_types::{Error, Result};

/// Rows that are gathered and saved at once.
pub(crate) const SAVED_ROWS: usize = 1 << 13;

/// A table that is being saved.
pub(crate) struct SavedTable<'a> {
    changes: &'a mut StateChanges,
    number: u32,
    shape: TableShape,
    /// The columns that say where a row belongs, and their places in the identity.
    by: Vec<usize>,
    by_in_identity: Vec<usize>,
}

impl<'a> SavedTable<'a> {
    /// A table of columns of these types; those of the identity tell its rows apart, `by` say where rows belong.
    ///
    /// # Errors
    /// Internal, if rows are partitioned by more than their identity.
    pub(crate) fn new(
        changes: &'a mut StateChanges,
        number: u32,
        types: Vec<DataType>,
        identity: Vec<usize>,
        by: &[usize],
    ) -> Result<Self> {
        let by_in_identity = places_in_key(by, &identity)?;
        let field = |(i, t): (usize, DataType)| Field::new(format!("c{i}"), t, true);
        let schema = Arc::new(Schema::new(types.into_iter().enumerate().map(field).collect::<Vec<_>>()));
        let shape = TableShape { schema, identity };
        Ok(SavedTable { changes, number, shape, by: by.to_vec(), by_in_identity })
    }

    /// A table in which rows may stand several times.
    pub(crate) fn multiset(
        changes: &'a mut StateChanges,
        number: u32,
        types: Vec<DataType>,
        by: &[usize],
    ) -> Result<Self> {
        let identity = (0..types.len()).collect();
        Self::new(changes, number, types, identity, by)
    }

    /// Adds rows, given as columns.
    pub(crate) fn add(&mut self, columns: Vec<ArrayRef>, n_rows: usize) -> Result<()> {
        let rows = hashed(self.shape.schema.clone(), columns, n_rows, &self.by)?;
        self.changes.add_rows(self.number, &self.shape, rows)
    }

    /// Takes rows away, given as the columns of their identity.
    pub(crate) fn take_away(&mut self, columns: Vec<ArrayRef>, n_rows: usize) -> Result<()> {
        let gone = hashed(self.shape.gone_schema()?, columns, n_rows, &self.by_in_identity)?;
        self.changes.add_gone(self.number, &self.shape, gone)
    }

    /// The columns of rows that tell them apart.
    pub(crate) fn identity(&self, columns: &[ArrayRef]) -> Vec<ArrayRef> {
        self.shape.identity.iter().map(|&c| Arc::clone(&columns[c])).collect()
    }
}

fn hashed(schema: SchemaRef, columns: Vec<ArrayRef>, n_rows: usize, by: &[usize]) -> Result<HashedRows> {
    let keys: Vec<ArrayRef> = by.iter().map(|&c| Arc::clone(&columns[c])).collect();
    let mut hashes = Vec::new();
    hash_columns(&keys, n_rows, &mut hashes);
    Ok(HashedRows { batch: batch_of(schema, columns, n_rows)?, hashes })
}

/// A range of partitions in so many parts, or fewer if there are not as many.
pub(crate) fn in_parts(partitions: &Range<usize>, n: usize) -> Vec<Range<usize>> {
    let at = |part: usize| partitions.start + partitions.len() * part / n.max(1);
    (0..n.max(1)).map(|part| at(part)..at(part + 1)).filter(|part| !part.is_empty()).collect()
}

/// The types of a schema's columns.
pub(crate) fn types_of(schema: &Schema) -> Vec<DataType> {
    schema.fields().iter().map(|f| f.data_type().clone()).collect()
}

/// Whether an operator notes what changes, in a `C`.
///
/// ```text
///   Off ────── track ─────▶ All ────── save ──────▶ Changes ──┐
///    └─ restore ─▶ Restored ────────── track ─────────▲       │
///                                                     └─ save ┘
/// ```
#[derive(Default)]
pub(crate) enum Tracking<C> {
    /// It does not.
    #[default]
    Off,
    /// It does not, and what there is was restored: it is saved.
    Restored,
    /// It does not yet: nothing is saved, so the next save is of all there is.
    All,
    /// What has changed since the last save.
    Changes(C),
}

impl<C: Default> Tracking<C> {
    /// From now on changes are noted.
    pub(crate) fn start(&mut self) {
        match self {
            Tracking::Off => *self = Tracking::All,
            Tracking::Restored => *self = Tracking::Changes(C::default()),
            Tracking::All | Tracking::Changes(_) => {}
        }
    }

    /// What to note changes in, if they are noted.
    #[inline]
    pub(crate) fn changes(&mut self) -> Option<&mut C> {
        match self {
            Tracking::Changes(changes) => Some(changes),
            _ => None,
        }
    }

    /// Whether changes are noted.
    #[inline]
    pub(crate) fn is_noting(&self) -> bool {
        matches!(self, Tracking::Changes(_))
    }

    /// Allocated bytes of what was noted.
    pub(crate) fn n_bytes(&self, of: impl Fn(&C) -> usize) -> usize {
        match self {
            Tracking::Changes(changes) => of(changes),
            _ => 0,
        }
    }

    /// What has changed since the last save, which is now; nothing if all there is has to be saved.
    ///
    /// # Errors
    /// Internal, if nobody has asked for changes.
    pub(crate) fn take(&mut self) -> Result<Option<C>> {
        match std::mem::replace(self, Tracking::Changes(C::default())) {
            Tracking::Off | Tracking::Restored => Err(Error::internal("an operator has not noted its changes")),
            Tracking::All => Ok(None),
            Tracking::Changes(changes) => Ok(Some(changes)),
        }
    }
}

/// Numbered rows of a table that have changed since it was last saved. A number of which nothing is said is of a row that
/// is saved as it is.
///
/// Memory is a few bytes for each row that has changed, and the identities of saved rows that are gone, whose numbers may
/// be of other rows by now.
#[derive(Default)]
pub(crate) struct ChangedRows {
    /// Whether a row with this identity is saved.
    is_saved: HashMap<u32, bool>,
    gone: Identities,
}

impl ChangedRows {
    /// Rows are new.
    pub(crate) fn add(&mut self, numbers: &[u32]) {
        self.is_saved.extend(numbers.iter().map(|&number| (number, false)));
    }

    /// A row has changed beside its identity.
    #[inline]
    pub(crate) fn change(&mut self, number: u32) {
        self.is_saved.entry(number).or_insert(true);
    }

    /// Rows are going. Those that are returned are saved: what becomes of them is to be said by
    /// [`ChangedRows::take_away`].
    #[must_use]
    pub(crate) fn remove(&mut self, numbers: &[u32]) -> Vec<u32> {
        numbers.iter().copied().filter(|number| self.is_saved.remove(number).unwrap_or(true)).collect()
    }

    /// Notes saved rows that are gone, given as the columns of their identity.
    pub(crate) fn take_away(&mut self, columns: Vec<ArrayRef>, n_rows: usize) {
        self.gone.add(columns, n_rows);
    }

    /// The rows that have changed or are new, ascending.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.is_saved.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// Saves what has changed; `columns_of` gives rows by number.
    pub(crate) fn save(
        self,
        table: &mut SavedTable<'_>,
        columns_of: impl Fn(&[u32]) -> Result<Vec<ArrayRef>>,
    ) -> Result<()> {
        let numbers = self.numbers();
        self.gone.save(table)?;
        for numbers in numbers.chunks(SAVED_ROWS) {
            let columns = columns_of(numbers)?;
            let is_saved: BooleanArray = numbers.iter().map(|number| Some(self.is_saved[number])).collect();
            let n_saved = is_saved.true_count();
            if n_saved > 0 {
                let identity = table.identity(&columns);
                let saved = identity.iter().map(|column| filter(column, &is_saved)).collect::<Result<_, _>>()?;
                table.take_away(saved, n_saved)?;
            }
            table.add(columns, numbers.len())?;
        }
        Ok(())
    }

    /// Allocated bytes.
    pub(crate) fn n_bytes(&self) -> usize {
        self.is_saved.capacity() * size_of::<(u32, bool)>() + self.gone.n_bytes
    }
}

/// Identities of saved rows that are gone.
#[derive(Default)]
pub(crate) struct Identities {
    pieces: Vec<(Vec<ArrayRef>, usize)>,
    n_bytes: usize,
}

impl Identities {
    /// Adds rows.
    pub(crate) fn add(&mut self, columns: Vec<ArrayRef>, n_rows: usize) {
        if n_rows > 0 {
            self.n_bytes += columns.iter().map(|column| column.get_array_memory_size()).sum::<usize>();
            self.pieces.push((columns, n_rows));
        }
    }

    /// Takes the rows away from a table.
    pub(crate) fn save(&self, table: &mut SavedTable<'_>) -> Result<()> {
        self.pieces.iter().try_for_each(|(columns, n_rows)| table.take_away(columns.clone(), *n_rows))
    }

    /// Allocated bytes.
    pub(crate) fn n_bytes(&self) -> usize {
        self.n_bytes
    }
}

/// Takes a table out: its columns, and how many rows it has; nothing if it has none.
pub(crate) fn saved_columns(
    saved: &mut SavedState,
    table: u32,
    n_columns: usize,
) -> Result<Option<(Vec<ArrayRef>, usize)>> {
    let Some(rows) = saved.take(table)? else { return Ok(None) };
    if rows.num_columns() != n_columns {
        let n_found = rows.num_columns();
        return Err(Error::internal(format!("a saved table has {n_found} columns instead of {n_columns}")));
    }
    Ok(Some((rows.columns().to_vec(), rows.num_rows())))
}

/// The same for tables that have rows of a schema.
pub(crate) fn saved_rows(saved: &mut SavedState, table: u32, schema: &SchemaRef) -> Result<Option<RecordBatch>> {
    let columns = saved_columns(saved, table, schema.fields().len())?;
    columns.map(|(columns, n_rows)| batch_of(schema.clone(), columns, n_rows)).transpose()
}

/// Where, among the columns of a key, the columns are that rows are partitioned by.
pub(crate) fn places_in_key(partitioned_by: &[usize], key: &[usize]) -> Result<Vec<usize>> {
    let place = |c: &usize| key.iter().position(|k| k == c);
    let places = partitioned_by.iter().map(place).collect::<Option<_>>();
    places.ok_or_else(|| Error::internal("rows are partitioned by more than their key"))
}

#[cfg(test)]
mod tests;
