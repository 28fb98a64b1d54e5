//! What operators share when they save their state, whole or as what has changed of it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_expr::scalar::batch_of;
use millstream_state::{HashedRows, NumberSet, RowStore, SavedState, StateChanges, TableShape};
use millstream_types::hash::hash_columns;
use millstream_types::{Error, Result};

use crate::operator::Progress;

/// Rows that are gathered and saved in a turn.
pub(crate) const SAVED_ROWS: usize = if cfg!(test) { 100 } else { 1 << 10 };

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

/// The types of a schema's columns.
pub(crate) fn types_of(schema: &Schema) -> Vec<DataType> {
    schema.fields().iter().map(|f| f.data_type().clone()).collect()
}

/// How far a save has come. It goes on, turn by turn, while nothing changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct SaveCursor {
    /// The table, and the place in it.
    table: usize,
    place: TablePlace,
}

/// How far a save of a table has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct TablePlace {
    /// How many pieces of what is gone have been said.
    n_gone: usize,
    /// The number of the row that comes next.
    pub(crate) next: u32,
    /// Where several rows have a number: the value behind which it goes on.
    pub(crate) behind: Option<ArrayRef>,
}

impl SaveCursor {
    /// Lets `say` say a little more of each table, the first of which it has not said all.
    pub(crate) fn go_on(
        &mut self,
        n_tables: usize,
        mut say: impl FnMut(usize, &mut TablePlace) -> Result<Progress>,
    ) -> Result<Progress> {
        while self.table < n_tables {
            if say(self.table, &mut self.place)? == Progress::More {
                return Ok(Progress::More);
            }
            *self = SaveCursor { table: self.table + 1, place: TablePlace::default() };
        }
        Ok(Progress::Done)
    }
}

/// Lets `say` say all that there is, turn by turn.
pub(crate) fn save_all(mut say: impl FnMut(&mut SaveCursor) -> Result<Progress>) -> Result<()> {
    let mut cursor = SaveCursor::default();
    while say(&mut cursor)? == Progress::More {}
    Ok(())
}

/// Whether an operator notes what changes, in a `C`, and how far it has come in saving it.
pub(crate) struct Tracking<C> {
    noted: Noted<C>,
    cursor: SaveCursor,
}

/// ```text
///   Off ────── track ─────▶ All ────── save ──────▶ Changes ──┐
///    └─ restore ─▶ Restored ────────── track ─────────▲       │
///                                                     └─ save ┘
/// ```
enum Noted<C> {
    /// Nothing.
    Off,
    /// Nothing, and what there is was restored: it is saved.
    Restored,
    /// Nothing yet, and nothing is saved, so the next save is of all there is.
    All,
    /// What has changed since the last save.
    Changes(C),
}

impl<C> Default for Tracking<C> {
    fn default() -> Self {
        Tracking { noted: Noted::Off, cursor: SaveCursor::default() }
    }
}

impl<C: Default> Tracking<C> {
    /// Of an operator whose state was restored.
    pub(crate) fn restored() -> Self {
        Tracking { noted: Noted::Restored, cursor: SaveCursor::default() }
    }

    /// From now on changes are noted.
    pub(crate) fn start(&mut self) {
        match self.noted {
            Noted::Off => self.noted = Noted::All,
            Noted::Restored => self.noted = Noted::Changes(C::default()),
            Noted::All | Noted::Changes(_) => {}
        }
    }

    /// What to note changes in, if they are noted.
    #[inline]
    pub(crate) fn changes(&mut self) -> Option<&mut C> {
        match &mut self.noted {
            Noted::Changes(changes) => Some(changes),
            _ => None,
        }
    }

    /// Whether changes are noted.
    #[inline]
    pub(crate) fn is_noting(&self) -> bool {
        matches!(self.noted, Noted::Changes(_))
    }

    /// Allocated bytes of what was noted.
    pub(crate) fn n_bytes(&self, of: impl Fn(&C) -> usize) -> usize {
        match &self.noted {
            Noted::Changes(changes) => of(changes),
            _ => 0,
        }
    }

    /// What has changed since the last save; nothing if all there is has to be saved.
    ///
    /// # Errors
    /// Internal, if nobody has asked for changes.
    pub(crate) fn unsaved(&self) -> Result<Option<&C>> {
        match &self.noted {
            Noted::Off | Noted::Restored => Err(Error::internal("an operator has not noted its changes")),
            Noted::All => Ok(None),
            Noted::Changes(changes) => Ok(Some(changes)),
        }
    }

    /// How far the save has come.
    pub(crate) fn cursor(&self) -> SaveCursor {
        self.cursor.clone()
    }

    /// Notes how far the save has come; when it is done, all that there is is saved, and what changes is noted.
    pub(crate) fn note_saved(&mut self, progress: Progress, upto: SaveCursor) -> Progress {
        self.cursor = upto;
        if progress == Progress::Done {
            *self = Tracking { noted: Noted::Changes(C::default()), cursor: SaveCursor::default() };
        }
        progress
    }
}

/// The numbered rows of a table that are to be saved.
pub(crate) enum Unsaved<'a> {
    All(&'a RowStore),
    Changed(&'a ChangedRows),
}

impl<'a> Unsaved<'a> {
    /// What has changed; all rows if that is not known.
    pub(crate) fn of(all: &'a RowStore, changed: Option<&'a ChangedRows>) -> Self {
        changed.map_or(Unsaved::All(all), Unsaved::Changed)
    }

    /// Saves some more of it; `columns_of` gives rows by number.
    pub(crate) fn save_next(
        &self,
        place: &mut TablePlace,
        table: &mut SavedTable<'_>,
        columns_of: impl FnOnce(&[u32]) -> Vec<ArrayRef>,
    ) -> Result<Progress> {
        let (numbers, is_saved) = match self {
            Unsaved::All(rows) => (rows.next_ids(&mut place.next, SAVED_ROWS), None),
            Unsaved::Changed(ChangedRows { gone, changed, saved }) => {
                if gone.save_next(place, table)? == Progress::More {
                    return Ok(Progress::More);
                }
                let numbers = changed.next(&mut place.next, SAVED_ROWS);
                let is_saved: BooleanArray = numbers.iter().map(|&number| Some(saved.contains(number))).collect();
                (numbers, Some(is_saved).filter(|is_saved| is_saved.true_count() > 0))
            }
        };
        if numbers.is_empty() {
            return Ok(Progress::Done);
        }
        let columns = columns_of(&numbers);
        if let Some(is_saved) = is_saved {
            let identity = table.identity(&columns);
            let saved = identity.iter().map(|column| filter(column, &is_saved)).collect::<Result<_, _>>()?;
            table.take_away(saved, is_saved.true_count())?;
        }
        table.add(columns, numbers.len())?;
        Ok(Progress::More)
    }
}

/// Numbered rows of a table that have changed since it was last saved. A number of which nothing is said is of a row that
/// is saved as it is.
///
/// Memory is bits for the rows that have changed, and the identities of saved rows that are gone, whose numbers may be of
/// other rows by now.
#[derive(Default)]
pub(crate) struct ChangedRows {
    changed: NumberSet,
    /// Those of them of which a row with the same identity is saved.
    saved: NumberSet,
    gone: Identities,
}

impl ChangedRows {
    /// Rows are new.
    pub(crate) fn add(&mut self, numbers: &[u32]) {
        for &number in numbers {
            self.changed.insert(number);
            self.saved.remove(number);
        }
    }

    /// A row has changed beside its identity.
    #[inline]
    pub(crate) fn change(&mut self, number: u32) {
        if self.changed.insert(number) {
            self.saved.insert(number);
        }
    }

    /// Rows are going. Those that are returned are saved: what becomes of them is to be said by
    /// [`ChangedRows::take_away`].
    #[must_use]
    pub(crate) fn remove(&mut self, numbers: &[u32]) -> Vec<u32> {
        let was_saved = |number: &u32| !self.changed.remove(*number) | self.saved.remove(*number);
        numbers.iter().copied().filter(was_saved).collect()
    }

    /// Notes saved rows that are gone, given as the columns of their identity.
    pub(crate) fn take_away(&mut self, columns: Vec<ArrayRef>, n_rows: usize) {
        self.gone.add(columns, n_rows);
    }

    /// The next rows that have changed or are new, ascending, at most so many.
    pub(crate) fn next(&self, from: &mut u32, n_max: usize) -> Vec<u32> {
        self.changed.next(from, n_max)
    }

    /// Allocated bytes.
    pub(crate) fn n_bytes(&self) -> usize {
        self.changed.n_bytes() + self.saved.n_bytes() + self.gone.n_bytes
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
        for from in (0..n_rows).step_by(SAVED_ROWS) {
            let n = SAVED_ROWS.min(n_rows - from);
            let piece: Vec<ArrayRef> = columns.iter().map(|column| column.slice(from, n)).collect();
            self.pieces.push((piece, n));
        }
        if n_rows > 0 {
            self.n_bytes += columns.iter().map(|column| column.get_array_memory_size()).sum::<usize>();
        }
    }

    /// Takes some more of the rows away from a table.
    pub(crate) fn save_next(&self, place: &mut TablePlace, table: &mut SavedTable<'_>) -> Result<Progress> {
        let mut n_said = 0;
        for (columns, n_rows) in self.pieces.iter().skip(place.n_gone) {
            if n_said > 0 && n_said + n_rows > SAVED_ROWS {
                break;
            }
            table.take_away(columns.clone(), *n_rows)?;
            place.n_gone += 1;
            n_said += n_rows;
        }
        Ok(if n_said == 0 { Progress::Done } else { Progress::More })
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
