//! Writes to a relation that are in no epoch yet: what goes and what comes, as rows in columns.
//!
//! A transaction stages its writes over the rows of the epoch that it reads, the coordinator those of the transactions
//! of an epoch over what is closed. Both decide conflicts by the same code: rows of the base that have the keys in
//! question are looked up in bulk and handed in as `found`, and whatever was staged before comes on top of them.
//!
//! ```text
//!   a relation's rows now  =  base  -  removed (rows of the base)  +  added (rows that came, less those that went again)
//! ```
//!
//! [`Staged::mark`] and [`Staged::rollback_to`] undo: a savepoint, or a transaction that failed at its turn.

mod conflict;
mod rows;

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array, make_comparator};
use arrow::compute::{SortOptions, concat_batches, filter_record_batch};
use arrow::datatypes::SchemaRef;
use millstream_planner::catalog::Relation;
use millstream_types::delta::take_batch;
use millstream_types::hash::hash_columns;
use millstream_types::{Delta, Error, Result, SqlState};

pub(crate) use conflict::{Conflict, Known, NotInserted, UpdateRows};
pub(crate) use rows::KeyedRows;
use rows::gather;

/// Changes of fewer rows make one delta.
const ONE_DELTA_ROWS_MAX: usize = 1 << 13;

/// Staged writes to one relation.
pub(crate) struct Staged {
    relation: Arc<Relation>,
    /// All columns.
    schema: SchemaRef,
    /// Rows of the base that go. Shared with queries that leave them out.
    removed: Arc<KeyedRows>,
    /// Rows that come.
    added: KeyedRows,
    /// Added rows that were killed, in order.
    killed: Vec<u32>,
    /// Row ids that stand for those that the coordinator will give out: -1, -2 and so on.
    next_provisional_id: i64,
}

/// A point to go back to.
#[derive(Clone, Copy, Default)]
pub(crate) struct Mark {
    n_removed: usize,
    n_added: usize,
    n_killed: usize,
}

/// Where the row is that has a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Nowhere,
    /// Among the added rows.
    Added(u32),
    /// In the base, found there by a lookup.
    Base(u32),
}

/// A key that should not be there is.
pub(crate) enum Clash {
    /// A row to remove is no longer as it was seen.
    Changed,
    /// The key of a row to add is taken: rows of which this is one, and its place.
    Taken(RecordBatch, usize),
    /// Something else.
    Failed(Error),
}

impl From<Error> for Clash {
    fn from(error: Error) -> Self {
        Clash::Failed(error)
    }
}

impl Staged {
    pub(crate) fn new(relation: &Arc<Relation>) -> Self {
        let schema = relation.full_schema();
        let rows = || KeyedRows::new(schema.clone(), &relation.primary_key);
        Staged {
            relation: Arc::clone(relation),
            schema: schema.clone(),
            removed: Arc::new(rows()),
            added: rows(),
            killed: Vec::new(),
            next_provisional_id: -1,
        }
    }

    /// Columns as rows of the relation.
    fn rows(&self, columns: Vec<ArrayRef>, n_rows: usize) -> Result<RecordBatch> {
        millstream_expr::scalar::batch_of(self.schema.clone(), columns, n_rows)
    }

    /// Whether nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { n_removed: self.removed.n_pushed(), n_added: self.added.n_pushed(), n_killed: self.killed.len() }
    }

    /// Rows ever added: the number of the next one.
    pub(crate) fn n_added(&self) -> usize {
        self.added.n_pushed()
    }

    pub(crate) fn rollback_to(&mut self, mark: Mark) {
        if self.removed.n_pushed() > mark.n_removed {
            Arc::make_mut(&mut self.removed).truncate(mark.n_removed);
        }
        self.added.truncate(mark.n_added);
        for row in self.killed.drain(mark.n_killed..) {
            if (row as usize) < mark.n_added {
                self.added.revive(row);
            }
        }
    }

    /// The rows of the base that go, ready to be looked for, and the rows that come.
    pub(crate) fn parts(&mut self) -> Result<(Arc<KeyedRows>, Vec<RecordBatch>)> {
        Arc::make_mut(&mut self.removed).index();
        Ok((Arc::clone(&self.removed), self.added.alive()?))
    }

    /// Adds rows of a stream, or of a table whose row ids are given already.
    pub(crate) fn append(&mut self, rows: &RecordBatch) -> Result<RecordBatch> {
        let rows = self.rows(rows.columns().to_vec(), rows.num_rows())?;
        self.added.push(rows.clone())?;
        Ok(rows)
    }

    /// Adds rows of a table without a key, under provisional row ids.
    pub(crate) fn append_unnumbered(&mut self, rows: &RecordBatch) -> Result<RecordBatch> {
        let n_rows = rows.num_rows() as i64;
        let first = self.next_provisional_id;
        self.next_provisional_id -= n_rows;
        let ids = Int64Array::from_iter_values((0..n_rows).map(|i| first - i));
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(ids));
        let rows = self.rows(columns, rows.num_rows())?;
        self.append(&rows)
    }

    /// What each key has now. `found` are rows of the base, all of those that have one of the keys among them.
    fn existing(&mut self, keys: &[ArrayRef], hashes: &[u64], found: &KeyedRows) -> Result<Vec<Existing>> {
        self.added.index();
        if !self.removed.is_empty() {
            Arc::make_mut(&mut self.removed).index();
        }
        let added = self.added.find(keys, hashes)?;
        let base = found.find(keys, hashes)?;
        let removed = if base.iter().any(Option::is_some) { self.removed.find(keys, hashes)? } else { vec![] };
        let one = |i: usize| match (added[i], base[i]) {
            (Some(row), _) => Existing::Added(row),
            (None, Some(row)) if removed[i].is_none() => Existing::Base(row),
            _ => Existing::Nowhere,
        };
        Ok((0..hashes.len()).map(one).collect())
    }

    /// The rows that were found to exist, in order.
    fn gather(&self, rows: &[Existing], found: &KeyedRows) -> Result<RecordBatch> {
        let n_added = self.added.batches().len();
        let place = |row: &Existing| match *row {
            Existing::Added(row) => Some(self.added.place(row)),
            Existing::Base(row) => {
                let (batch, at) = found.place(row);
                Some((n_added + batch, at))
            }
            Existing::Nowhere => None,
        };
        let places: Vec<(usize, usize)> = rows.iter().filter_map(place).collect();
        let batches: Vec<&RecordBatch> = self.added.batches().iter().chain(found.batches()).collect();
        gather(&self.schema, &batches, &places)
    }

    /// Lets rows go that exist; `old` are the same, in order.
    fn remove(&mut self, rows: &[Existing], old: &RecordBatch) -> Result<()> {
        let mut from_base = Vec::with_capacity(rows.len());
        for (i, row) in rows.iter().enumerate() {
            match *row {
                Existing::Added(row) => {
                    self.added.kill(row);
                    self.killed.push(row);
                }
                _ => from_base.push(i as u32),
            }
        }
        if from_base.is_empty() {
            return Ok(());
        }
        let old = if from_base.len() == rows.len() { old.clone() } else { take(old, from_base)? };
        Arc::make_mut(&mut self.removed).push(old)
    }

    /// Puts rows that were read in the place of others, or lets them go. Keys of `new` that `old` has not are among those
    /// for which `found` was looked up; if no key changes, it may be empty. Gives the new rows, or else the old ones.
    ///
    /// # Errors
    /// 23505 if a new key is taken.
    pub(crate) fn change(
        &mut self,
        old: &RecordBatch,
        new: Option<&RecordBatch>,
        found: &KeyedRows,
    ) -> Result<RecordBatch> {
        let old = self.rows(old.columns().to_vec(), old.num_rows())?;
        let keys = self.added.keys_of(&old);
        let rows = if self.added.is_empty() {
            vec![Existing::Base(0); old.num_rows()]
        } else {
            let hashes = hashes_of(&keys, old.num_rows());
            self.added.index();
            let added = self.added.find(&keys, &hashes)?;
            added.into_iter().map(|row| row.map_or(Existing::Base(0), Existing::Added)).collect()
        };
        self.remove(&rows, &old)?;
        let Some(new) = new else { return Ok(old) };
        let new = self.rows(new.columns().to_vec(), new.num_rows())?;
        match self.add_absent(&new, found) {
            Ok(()) => Ok(new),
            Err(Clash::Failed(error)) => Err(error),
            Err(Clash::Taken(rows, at)) => Err(duplicate_key(&self.relation, &rows, at)),
            Err(Clash::Changed) => Err(Error::internal("adding rows removes none")),
        }
    }

    /// Adds rows whose keys must not exist.
    fn add_absent(&mut self, new: &RecordBatch, found: &KeyedRows) -> Result<(), Clash> {
        let keys = self.added.keys_of(new);
        let hashes = hashes_of(&keys, new.num_rows());
        let existing = self.existing(&keys, &hashes, found)?;
        let repeated = || conflict::occurrences(&keys, &hashes, self.added.is_exact());
        if let Some(at) = existing.iter().position(|e| *e != Existing::Nowhere) {
            return Err(Clash::Taken(new.clone(), at));
        }
        if let Some(at) = repeated()?.iter().position(|&n| n > 0) {
            return Err(Clash::Taken(new.clone(), at));
        }
        Ok(self.added.push(new.clone())?)
    }

    /// Takes over what a transaction has staged: rows that it saw and removed, and rows that it added. With `found` every
    /// removed row must be there as it was seen and no added key may exist; without, nothing can have changed since.
    ///
    /// # Errors
    /// Which of that is not so.
    pub(crate) fn merge(
        &mut self,
        removed: &[RecordBatch],
        added: &[RecordBatch],
        found: Option<&KeyedRows>,
    ) -> Result<(), Clash> {
        let Some(found) = found else {
            for batch in removed {
                Arc::make_mut(&mut self.removed).push(batch.clone())?;
            }
            return added.iter().try_for_each(|batch| Ok(self.added.push(batch.clone())?));
        };
        for batch in removed {
            let keys = self.added.keys_of(batch);
            let existing = self.existing(&keys, &hashes_of(&keys, batch.num_rows()), found)?;
            if existing.contains(&Existing::Nowhere) || !same_rows(&self.gather(&existing, found)?, batch)? {
                return Err(Clash::Changed);
            }
            self.remove(&existing, batch)?;
        }
        added.iter().try_for_each(|batch| self.add_absent(batch, found))
    }

    /// Whether keys have the same rows now as they had when they were read. `seen` and `found` are rows of the base
    /// then and now.
    pub(crate) fn is_as_seen(&mut self, keys: &[ArrayRef], seen: &KeyedRows, found: &KeyedRows) -> Result<bool> {
        let hashes = hashes_of(keys, keys.first().map_or(0, |k| k.len()));
        let existing = self.existing(keys, &hashes, found)?;
        let then = seen.find(keys, &hashes)?;
        if existing.iter().zip(&then).any(|(now, then)| (*now == Existing::Nowhere) != then.is_none()) {
            return Ok(false);
        }
        let then: Vec<(usize, usize)> = then.into_iter().flatten().map(|row| seen.place(row)).collect();
        let then = gather(&self.schema, &seen.batches().iter().collect::<Vec<_>>(), &then)?;
        same_rows(&self.gather(&existing, found)?, &then)
    }

    /// What changes, as deltas that are right when applied in order. Rows of a table that have provisional ids are not
    /// for this.
    pub(crate) fn into_deltas(self) -> Result<Vec<Delta>> {
        let (removed, added) = (self.removed.batches(), self.added.alive()?);
        let count = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        let (n_removed, n_added) = (count(removed), count(&added));
        if n_removed > 0 && n_removed + n_added <= ONE_DELTA_ROWS_MAX {
            let all = concat_batches(&self.schema, removed.iter().chain(&added))?;
            let weights = std::iter::repeat_n(-1i64, n_removed).chain(std::iter::repeat_n(1, n_added));
            return Ok(vec![Delta::new(all, Some(weights.collect()))]);
        }
        let negative = |rows: &RecordBatch| Delta::inserts(rows.clone()).negate();
        Ok(removed.iter().map(negative).chain(added.into_iter().map(Delta::inserts)).collect())
    }
}

/// The rows of a batch whose keys are not among those of `removed`, which is indexed. The batch has all columns.
pub(crate) fn without(batch: &RecordBatch, removed: &KeyedRows) -> Result<RecordBatch> {
    if removed.is_empty() {
        return Ok(batch.clone());
    }
    let keys = removed.keys_of(batch);
    let gone = removed.find(&keys, &hashes_of(&keys, batch.num_rows()))?;
    if gone.iter().all(Option::is_none) {
        return Ok(batch.clone());
    }
    Ok(filter_record_batch(batch, &gone.iter().map(|row| Some(row.is_none())).collect::<BooleanArray>())?)
}

/// Columns as a batch of the relation, its hidden column included.
pub(crate) fn under(relation: &Relation, columns: Vec<ArrayRef>, n_rows: usize) -> Result<RecordBatch> {
    millstream_expr::scalar::batch_of(relation.full_schema(), columns, n_rows)
}

/// Rows with the hidden column of a table without a key; an id that is there already is replaced.
pub(crate) fn numbered(relation: &Relation, rows: &RecordBatch, first: i64) -> Result<RecordBatch> {
    let ids = Int64Array::from_iter_values(first..first + rows.num_rows() as i64);
    let mut columns = rows.columns()[..relation.visible_columns().len()].to_vec();
    columns.push(Arc::new(ids));
    under(relation, columns, rows.num_rows())
}

fn hashes_of(keys: &[ArrayRef], n_rows: usize) -> Vec<u64> {
    let mut hashes = Vec::with_capacity(n_rows);
    hash_columns(keys, n_rows, &mut hashes);
    hashes
}

/// Whether two batches have the same rows in the same order; rows that are merely equal are others.
fn same_rows(left: &RecordBatch, right: &RecordBatch) -> Result<bool> {
    if left.num_rows() != right.num_rows() {
        return Ok(false);
    }
    let columns = left.columns().iter().zip(right.columns());
    let compare = columns.map(|(l, r)| make_comparator(l, r, SortOptions::default()));
    let compare = compare.collect::<Result<Vec<_>, _>>()?;
    Ok((0..left.num_rows()).all(|i| compare.iter().all(|c| c(i, i).is_eq())))
}

/// 23505
pub(crate) fn duplicate_key(relation: &Relation, rows: &RecordBatch, row_idx: usize) -> Error {
    let names: Vec<&str> = relation.primary_key.iter().map(|&c| relation.columns[c].name.as_str()).collect();
    let error = Error::user(
        SqlState::UNIQUE_VIOLATION,
        format!("duplicate key value violates unique constraint \"{}_pkey\"", relation.name),
    );
    let Ok(key) = rows.project(&relation.primary_key) else { return error };
    let text = millstream_expr::row_errors::values_text(&key, row_idx);
    error.with_detail(format!("Key ({})=({}) already exists.", names.join(", "), text.join(", ")))
}

/// Takes rows by number.
fn take(rows: &RecordBatch, picked: Vec<u32>) -> Result<RecordBatch> {
    take_batch(rows, &UInt32Array::from(picked))
}

#[cfg(test)]
mod tests;
