//! Changes of saved state: what of an operator's tables has gone and come since it was last saved.
//!
//! A row is known by its table's identity: the columns of a unique key, or all columns; then the table is a multiset.
//! The state is what all changes come to, oldest first: each row of `gone` takes away one row of that identity, then `rows`
//! are added. Two identities are the same if their values have the same bits, and rows of one identity are of one hash
//! partition, so any range of partitions can be taken by itself.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use hashbrown::HashMap;
use millstream_types::delta::{take_batch, values_bytes};
use millstream_types::hash::partition_of;
use millstream_types::{Error, Result};
use parking_lot::Mutex;

use crate::codec::compacted;
use crate::saved::SavedState;
use crate::spilled::SpilledChanges;

/// What the rows of a table of state are, and what tells them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableShape {
    /// The columns of a row.
    pub schema: SchemaRef,
    /// The columns that say which row is meant: a unique key, or all; then there may be several of the same.
    pub identity: Vec<usize>,
}

impl TableShape {
    /// A table in which rows may stand several times.
    pub fn multiset(schema: SchemaRef) -> TableShape {
        let identity = (0..schema.fields().len()).collect();
        TableShape { schema, identity }
    }

    /// A table in which the columns of a key are never the same in two rows.
    pub fn keyed(schema: SchemaRef, key: Vec<usize>) -> TableShape {
        TableShape { schema, identity: key }
    }

    /// Whether rows may stand several times.
    pub fn is_multiset(&self) -> bool {
        self.identity.len() == self.schema.fields().len()
    }

    /// The columns of rows that say what is gone.
    ///
    /// # Errors
    /// Internal, if the identity names columns that are not there.
    pub fn gone_schema(&self) -> Result<SchemaRef> {
        Ok(Arc::new(self.schema.project(&self.identity)?))
    }
}

/// Rows, and the hash of each, which says what partition it is in.
#[derive(Clone, Debug)]
pub struct HashedRows {
    /// The rows.
    pub batch: RecordBatch,
    /// A hash a row.
    pub hashes: Vec<u64>,
}

/// The change of one table.
#[derive(Clone, Debug)]
pub struct TableChange {
    /// What its rows are.
    pub shape: TableShape,
    /// Identities, each of which takes one row away.
    pub gone: Vec<HashedRows>,
    /// Rows that come after that.
    pub rows: Vec<HashedRows>,
}

/// Which of a table's change rows belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangePart {
    /// Identities, each of which takes one row away.
    Gone,
    /// Rows that come after that.
    Rows,
}

/// Takes changes as they are said, so that they need not be in memory all at once.
pub trait ChangeSink: fmt::Debug + Send {
    /// Takes rows of a table, of its shape.
    ///
    /// # Errors
    /// If they cannot be kept; then the operator stops saying more.
    fn take(&mut self, table: u32, shape: &TableShape, part: ChangePart, rows: HashedRows) -> Result<()>;
}

/// The change of an operator's tables, on one worker or on all of them.
#[derive(Clone, Debug, Default)]
pub struct StateChanges {
    tables: BTreeMap<u32, TableChange>,
    /// Changes for which there was no memory, later than those of the tables, or of partitions in which the tables have none:
    /// of each part of the operator what was put away, the oldest first.
    away: Vec<Vec<SpilledChanges>>,
    /// Bytes of the tables' rows.
    n_bytes: usize,
    /// Who gets what is added, instead of the tables.
    sink: Option<Arc<Mutex<dyn ChangeSink>>>,
}

impl StateChanges {
    /// Hands on all that is added, and keeps nothing.
    pub fn handed_to(sink: Arc<Mutex<dyn ChangeSink>>) -> Self {
        StateChanges { sink: Some(sink), ..StateChanges::default() }
    }

    /// Adds rows that came.
    ///
    /// # Errors
    /// Internal, if they are not of the table's shape.
    pub fn add_rows(&mut self, table: u32, shape: &TableShape, rows: HashedRows) -> Result<()> {
        let fits = rows.batch.schema().fields() == shape.schema.fields();
        self.add(table, shape, ChangePart::Rows, rows, fits)
    }

    /// Adds identities of rows that went.
    ///
    /// # Errors
    /// Internal, if they are not of the table's shape.
    pub fn add_gone(&mut self, table: u32, shape: &TableShape, gone: HashedRows) -> Result<()> {
        let fits = gone.batch.schema().fields() == shape.gone_schema()?.fields();
        self.add(table, shape, ChangePart::Gone, gone, fits)
    }

    fn add(&mut self, table: u32, shape: &TableShape, part: ChangePart, rows: HashedRows, fits: bool) -> Result<()> {
        if !fits || rows.batch.num_rows() != rows.hashes.len() {
            return Err(Error::internal("rows of saved state are not of their table's shape"));
        }
        if rows.hashes.is_empty() {
            return Ok(());
        }
        if let Some(sink) = &self.sink {
            return sink.lock().take(table, shape, part, rows);
        }
        let rows = rows.compacted()?;
        self.n_bytes += values_bytes(&rows.batch) + rows.hashes.len() * size_of::<u64>();
        let new = || TableChange { shape: shape.clone(), gone: Vec::new(), rows: Vec::new() };
        let change = self.tables.entry(table).or_insert_with(new);
        if change.shape != *shape {
            return Err(Error::internal("a table of saved state has two shapes"));
        }
        match part {
            ChangePart::Gone => change.gone.push(rows),
            ChangePart::Rows => change.rows.push(rows),
        }
        Ok(())
    }

    /// Adds changes that were put away, the oldest first, of partitions in which nothing else is added later.
    ///
    /// # Errors
    /// If somebody gets what is added, and they cannot be read.
    pub fn add_away(&mut self, part: Vec<SpilledChanges>) -> Result<()> {
        if self.sink.is_some() {
            return self.merge(sum_of_spilled(&part)?);
        }
        self.away.push(part);
        Ok(())
    }

    /// All that has changed, of some partitions at a time: what is in memory, then what each part has put away.
    ///
    /// # Errors
    /// Each, if it cannot be read.
    pub fn pieces(&self) -> impl Iterator<Item = Result<Cow<'_, StateChanges>>> {
        let away = self.away.iter().map(|part| sum_of_spilled(part).map(Cow::Owned));
        std::iter::once(Ok(Cow::Borrowed(self))).chain(away)
    }

    /// Adds what has changed of the same operator on another worker.
    ///
    /// # Errors
    /// Internal, if a table has another shape there; as [`StateChanges::add_away`].
    pub fn merge(&mut self, other: StateChanges) -> Result<()> {
        for (table, TableChange { shape, gone, rows }) in other.tables {
            gone.into_iter().try_for_each(|gone| self.add_gone(table, &shape, gone))?;
            rows.into_iter().try_for_each(|rows| self.add_rows(table, &shape, rows))?;
        }
        other.away.into_iter().try_for_each(|part| self.add_away(part))
    }

    /// The tables that have changed, by number, without what was put away ([`StateChanges::pieces`]).
    pub fn tables(&self) -> impl Iterator<Item = (u32, &TableChange)> {
        self.tables.iter().map(|(&table, change)| (table, change))
    }

    /// Bytes of what is in memory.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Rows that came and rows that went.
    pub fn n_rows(&self) -> usize {
        let changes = self.tables.values().flat_map(|change| change.gone.iter().chain(&change.rows));
        let away = self.away.iter().flatten().map(SpilledChanges::n_rows).sum::<usize>();
        changes.map(|rows| rows.hashes.len()).sum::<usize>() + away
    }
}

/// The state that changes come to, oldest first, as [`SavedState`] has it.
///
/// # Errors
/// Internal, if they do not add up: a row is taken away that is not there, or in another partition; or two rows have the
/// same key.
pub fn net(changes: &[StateChanges]) -> Result<SavedState> {
    let mut by_table: BTreeMap<u32, Vec<&TableChange>> = BTreeMap::new();
    let pieces: Vec<Cow<'_, StateChanges>> = changes.iter().flat_map(StateChanges::pieces).collect::<Result<_>>()?;
    for (table, change) in pieces.iter().flat_map(|piece| piece.tables()) {
        by_table.entry(table).or_default().push(change);
    }
    let mut saved = SavedState::default();
    for (table, changes) in by_table {
        let batches: Vec<&HashedRows> = changes.iter().flat_map(|change| &change.rows).collect();
        for (rows, left) in batches.iter().zip(left_of(table, &changes, &batches)?) {
            let left: Vec<u32> = (0..left.len() as u32).filter(|&i| left[i as usize]).collect();
            let hashes: Vec<u64> = left.iter().map(|&i| rows.hashes[i as usize]).collect();
            if hashes.is_empty() {
                continue;
            }
            saved.add(table, &take_batch(&rows.batch, &UInt32Array::from(left))?, &hashes)?;
        }
    }
    Ok(saved)
}

/// Which rows of which batch are left of a table's changes.
fn left_of(table: u32, changes: &[&TableChange], batches: &[&HashedRows]) -> Result<Vec<Vec<bool>>> {
    let wrong = |what: &str| Error::internal(format!("saved state does not add up: in table {table} {what}"));
    let mut left: Vec<Vec<bool>> = batches.iter().map(|rows| vec![true; rows.hashes.len()]).collect();
    // The places of rows by identity: batch and number.
    let mut places: HashMap<Vec<u8>, Vec<(usize, usize)>> = HashMap::new();
    let mut batch_idx = 0;
    for change in changes {
        let identities = |batch: &RecordBatch| identities_of(&change.shape, batch);
        for gone in &change.gone {
            for (i, identity) in identities(&gone.batch)?.into_iter().enumerate() {
                let place = places.get_mut(&identity).and_then(Vec::pop);
                let (batch, row) = place.ok_or_else(|| wrong("a row is gone that was not there"))?;
                if partition_of(batches[batch].hashes[row]) != partition_of(gone.hashes[i]) {
                    return Err(wrong("a row is gone from another partition"));
                }
                left[batch][row] = false;
            }
        }
        for rows in &change.rows {
            for (i, identity) in identities(&rows.batch.project(&change.shape.identity)?)?.into_iter().enumerate() {
                let places = places.entry(identity).or_default();
                if !places.is_empty() && !change.shape.is_multiset() {
                    return Err(wrong("two rows have the same key"));
                }
                places.push((batch_idx, i));
            }
            batch_idx += 1;
        }
    }
    Ok(left)
}

/// Makes one change of several, the oldest first: what came and went in between is in neither part.
///
/// # Errors
/// Internal, if a table has two shapes, or something was put away.
pub fn sum(changes: Vec<StateChanges>) -> Result<StateChanges> {
    if changes.iter().any(|changes| !changes.away.is_empty()) {
        return Err(Error::internal("changes that were put away are summed up in memory"));
    }
    let mut by_table: BTreeMap<u32, Vec<TableChange>> = BTreeMap::new();
    for (table, change) in changes.into_iter().flat_map(|changes| changes.tables) {
        by_table.entry(table).or_default().push(change);
    }
    let mut summed = StateChanges::default();
    for (table, changes) in by_table {
        let shape = changes[0].shape.clone();
        let mut left = Vec::new();
        let mut later = GoneLater::default();
        for change in changes.iter().rev() {
            for rows in change.rows.iter().rev() {
                left.push(rows.only(left_of_last(&shape, &rows.batch, &mut later)?)?);
            }
            change.gone.iter().try_for_each(|gone| later.add(&shape, &gone.batch))?;
        }
        // What is not taken out of these changes goes from what was there before them.
        for gone in changes.iter().flat_map(|change| &change.gone) {
            let kept = later.take_all(&shape, &gone.batch)?;
            summed.add_gone(table, &shape, gone.only(kept)?)?;
        }
        left.into_iter().rev().try_for_each(|rows| summed.add_rows(table, &shape, rows))?;
    }
    Ok(summed)
}

fn sum_of_spilled(changes: &[SpilledChanges]) -> Result<StateChanges> {
    sum(changes.iter().map(SpilledChanges::read).collect::<Result<_>>()?)
}

impl HashedRows {
    /// The same, which keep nothing else in memory: they stay until they are written, and their texts may lie among others
    /// of the operator's that go before.
    fn compacted(self) -> Result<HashedRows> {
        let options = RecordBatchOptions::new().with_row_count(Some(self.hashes.len()));
        let columns = self.batch.columns().iter().map(compacted).collect();
        let batch = RecordBatch::try_new_with_options(self.batch.schema(), columns, &options)?;
        Ok(HashedRows { batch, hashes: self.hashes })
    }

    /// Those with the given indices.
    pub(crate) fn only(&self, rows: Vec<u32>) -> Result<HashedRows> {
        if rows.len() == self.hashes.len() {
            return Ok(self.clone());
        }
        let hashes = rows.iter().map(|&i| self.hashes[i as usize]).collect();
        Ok(HashedRows { batch: take_batch(&self.batch, &UInt32Array::from(rows))?, hashes })
    }
}

/// Identities that later changes take away, where changes are looked at from the newest to the oldest.
#[derive(Default)]
pub(crate) struct GoneLater(HashMap<Vec<u8>, usize>);

impl GoneLater {
    /// Adds those of an older change, after its rows were looked at.
    pub(crate) fn add(&mut self, shape: &TableShape, gone: &RecordBatch) -> Result<()> {
        identities_of(shape, gone)?.into_iter().for_each(|identity| *self.0.entry(identity).or_default() += 1);
        Ok(())
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, identity: &[u8]) -> bool {
        let Some(n) = self.0.get_mut(identity) else { return false };
        *n -= 1;
        if *n == 0 {
            self.0.remove(identity);
        }
        true
    }

    /// Takes out as many of these identities as there are; the indices of those.
    fn take_all(&mut self, shape: &TableShape, gone: &RecordBatch) -> Result<Vec<u32>> {
        let identities = identities_of(shape, gone)?;
        Ok((0..).zip(identities).filter(|(_, identity)| self.take(identity)).map(|(i, _)| i).collect())
    }
}

/// The rows, the newest that were not looked at yet, that no later change takes away.
pub(crate) fn left_of_last(shape: &TableShape, rows: &RecordBatch, later: &mut GoneLater) -> Result<Vec<u32>> {
    if later.is_empty() {
        return Ok((0..rows.num_rows() as u32).collect());
    }
    let identities = identities_of(shape, &rows.project(&shape.identity)?)?;
    Ok((0..).zip(identities).filter(|(_, identity)| !later.take(identity)).map(|(i, _)| i).collect())
}

fn identities_of(shape: &TableShape, gone: &RecordBatch) -> Result<Vec<Vec<u8>>> {
    if shape.identity.is_empty() {
        return Ok(vec![vec![]; gone.num_rows()]);
    }
    let fields = shape.gone_schema()?.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(gone.columns())?;
    Ok(rows.iter().map(|row| row.data().to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray, Int64Array, StringViewArray};
    use arrow::datatypes::{DataType, Int64Type};
    use millstream_types::delta::schema_of;
    use millstream_types::hash::mix;

    use super::*;

    /// Rows of numbers, partitioned by the first column.
    fn rows(schema: &SchemaRef, rows: &[&[i64]]) -> HashedRows {
        let column = |c: usize| -> ArrayRef { Arc::new(rows.iter().map(|r| Some(r[c])).collect::<Int64Array>()) };
        let columns = (0..schema.fields().len()).map(column).collect();
        let batch = RecordBatch::try_new(schema.clone(), columns).expect("numbers");
        HashedRows { batch, hashes: rows.iter().map(|r| mix(r[0] as u64)).collect() }
    }

    fn change(shape: &TableShape, gone: &[&[i64]], came: &[&[i64]]) -> StateChanges {
        let mut changes = StateChanges::default();
        let gone = rows(&shape.gone_schema().expect("columns of it"), gone);
        changes.add_gone(7, shape, gone).expect("of the shape");
        changes.add_rows(7, shape, rows(&shape.schema, came)).expect("of the shape");
        changes
    }

    fn left(changes: &[StateChanges]) -> Result<Vec<Vec<i64>>> {
        let Some(rows) = net(changes)?.rows(7)? else { return Ok(vec![]) };
        let value = |i: usize, column: &ArrayRef| column.as_primitive::<Int64Type>().value(i);
        let row = |i| rows.columns().iter().map(|column| value(i, column)).collect();
        let mut rows: Vec<Vec<i64>> = (0..rows.num_rows()).map(row).collect();
        rows.sort_unstable();
        Ok(rows)
    }

    #[test]
    fn changes_come_to_what_is_left() {
        let schema = schema_of(&[("k", DataType::Int64), ("v", DataType::Int64)]);
        let keyed = TableShape::keyed(schema.clone(), vec![0]);
        let of_keys = [
            change(&keyed, &[], &[&[1, 10], &[2, 20], &[3, 30]]),
            change(&keyed, &[&[1], &[3]], &[&[1, 11]]),
            change(&keyed, &[&[1], &[2]], &[&[2, 21], &[3, 31]]),
        ];
        assert_eq!(left(&of_keys).expect("adds up"), [[2, 21], [3, 31]]);
        assert_eq!(left(&of_keys[..1]).expect("adds up").len(), 3);
        assert!(left(&of_keys[1..]).is_err(), "what is gone was not there");
        assert!(left(&[change(&keyed, &[], &[&[1, 1], &[1, 2]])]).is_err(), "two rows of a key");
        let multiset = TableShape::multiset(schema);
        let of_copies = [
            change(&multiset, &[], &[&[1, 1], &[1, 1], &[1, 2]]),
            change(&multiset, &[&[1, 1], &[1, 2]], &[&[1, 3], &[1, 3]]),
        ];
        assert_eq!(left(&of_copies).expect("adds up"), [[1, 1], [1, 3], [1, 3]]);
    }

    #[test]
    fn the_sum_of_changes_comes_to_what_they_come_to() {
        let schema = schema_of(&[("k", DataType::Int64), ("v", DataType::Int64)]);
        let keyed = TableShape::keyed(schema.clone(), vec![0]);
        let there = change(&keyed, &[], &[&[1, 10], &[2, 20]]);
        let later = [
            change(&keyed, &[&[1]], &[&[1, 11], &[3, 30]]),
            change(&keyed, &[&[1], &[3]], &[&[1, 12], &[4, 40]]),
            change(&keyed, &[&[2]], &[]),
        ];
        let summed = sum(later.to_vec()).expect("of one shape");
        assert_eq!(summed.n_rows(), 4, "two that were there are gone, and two are new");
        assert_eq!(left(&[there, summed]).expect("adds up"), [[1, 12], [4, 40]]);
        let multiset = TableShape::multiset(schema);
        let there = change(&multiset, &[], &[&[1, 1]]);
        let later = [change(&multiset, &[], &[&[1, 1]]), change(&multiset, &[&[1, 1], &[1, 1]], &[&[2, 2]])];
        let summed = sum(later.to_vec()).expect("of one shape");
        assert_eq!(summed.n_rows(), 2, "one of the two that are gone was there");
        assert_eq!(left(&[there, summed]).expect("adds up"), [[2, 2]]);
    }

    #[test]
    fn what_stays_keeps_nothing_else_in_memory() {
        let schema = schema_of(&[("t", DataType::Utf8View)]);
        let texts: StringViewArray = (0..1000).map(|i| Some(format!("{i:>1000}"))).collect();
        let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(texts)]).expect("texts").slice(500, 10);
        let mut changes = StateChanges::default();
        let shape = TableShape::multiset(schema);
        changes.add_rows(7, &shape, HashedRows { batch: batch.clone(), hashes: vec![0; 10] }).expect("of the shape");
        let (_, change) = changes.tables().next().expect("one table");
        let kept = change.rows[0].batch.column(0).as_string_view();
        assert_eq!(kept, batch.column(0).as_string_view());
        assert_eq!(kept.data_buffers().iter().map(|buffer| buffer.len()).sum::<usize>(), 10_000);
    }

    #[test]
    fn tables_keep_their_shape() {
        let schema = schema_of(&[("k", DataType::Int64), ("v", DataType::Int64)]);
        let keyed = TableShape::keyed(schema.clone(), vec![0]);
        let mut changes = change(&keyed, &[], &[&[1, 10]]);
        let multiset = TableShape::multiset(schema.clone());
        assert!(changes.add_rows(7, &multiset, rows(&schema, &[&[1, 1]])).is_err());
        assert!(changes.add_gone(7, &keyed, rows(&schema, &[&[1, 1]])).is_err());
        assert!(changes.merge(change(&multiset, &[], &[&[2, 1]])).is_err());
        changes.merge(change(&keyed, &[&[3]], &[])).expect("of the same shape");
        assert_eq!(changes.n_rows(), 2);
    }
}
