//! Rows that are inserted where their keys may exist.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::kernels::zip::zip;
use arrow::row::{RowConverter, SortField};
use millstream_types::{Error, Result, SqlState};

use super::rows::{comparable, comparators, gather};
use super::{Clash, Existing, KeyedRows, Staged, duplicate_key, hashes_of, take};

/// What becomes of a new row whose key exists.
#[derive(Clone)]
pub(crate) enum Conflict {
    /// The statement fails.
    Error,
    /// The new row is ignored.
    Ignore,
    /// The new row takes the old one's place.
    Overwrite,
    /// The new row's values that are not null do.
    UpdateIfNotNull,
    /// `DO UPDATE` of other columns than those of the key.
    Update(UpdateRows),
    /// `DO UPDATE` of columns of the key as well.
    Move(UpdateRows),
}

/// What is known of the base, on which a statement works.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    /// Every row of the base that has one of the keys that were looked up: of all rows to be inserted ...
    pub(crate) found: &'a KeyedRows,
    /// ... and of these, if any, which updates have given other keys.
    pub(crate) moved: Option<&'a KeyedRows>,
}

/// Why rows were not inserted.
#[derive(Debug)]
pub(crate) enum NotInserted {
    /// The statement fails.
    Failed(Error),
    /// Updates give these rows other keys, of which it is not known whether the base has them.
    Moved(RecordBatch),
}

impl From<Error> for NotInserted {
    fn from(error: Error) -> Self {
        NotInserted::Failed(error)
    }
}

impl From<arrow::error::ArrowError> for NotInserted {
    fn from(error: arrow::error::ArrowError) -> Self {
        NotInserted::Failed(error.into())
    }
}

impl From<NotInserted> for Error {
    fn from(why: NotInserted) -> Self {
        match why {
            NotInserted::Failed(error) => error,
            NotInserted::Moved(_) => Error::internal("keys that an update gives were not looked up"),
        }
    }
}

/// From rows that are there, and as many new ones of the same keys: which of them change, and to what, one row for each
/// that does.
pub(crate) type UpdateRows =
    Arc<dyn Fn(&RecordBatch, &RecordBatch) -> Result<(BooleanArray, RecordBatch)> + Send + Sync>;

impl Conflict {
    /// Whether rows may get other keys, which have to be looked up before the statement's turn.
    pub(crate) fn moves(&self) -> bool {
        matches!(self, Conflict::Move(_))
    }

    /// Whether what a statement leaves as it is, or that it fails, tells something of rows that exist.
    pub(crate) fn observes(&self) -> bool {
        matches!(self, Conflict::Error | Conflict::Ignore | Conflict::Update(_) | Conflict::Move(_))
    }
}

impl Staged {
    /// Inserts rows of a table with a key. Rows added from `since` on are the same statement's. Gives the rows that were
    /// inserted or updated, as they are now.
    ///
    /// # Errors
    /// 23505, 21000, and what an update gives. After an error some rows may have been staged.
    pub(crate) fn insert(
        &mut self,
        rows: &RecordBatch,
        conflict: &Conflict,
        known: Known<'_>,
        since: usize,
    ) -> Result<RecordBatch, NotInserted> {
        let rows = self.rows(rows.columns().to_vec(), rows.num_rows())?;
        let keys = self.added.keys_of(&rows);
        let hashes = hashes_of(&keys, rows.num_rows());
        let occurrence = occurrences(&keys, &hashes, self.added.is_exact())?;
        let n_rounds = occurrence.iter().max().map_or(0, |max| *max as usize + 1);
        let picked =
            |keep: &dyn Fn(usize) -> bool| (0..rows.num_rows()).filter(|&i| keep(i)).map(|i| i as u32).collect();
        match conflict {
            _ if n_rounds <= 1 => self.insert_distinct(&rows, conflict, known, since),
            Conflict::Error => {
                let at = occurrence.iter().position(|&n| n > 0).unwrap_or(0);
                Err(duplicate_key(&self.relation, &rows, at).into())
            }
            Conflict::Ignore => {
                let first = take(&rows, picked(&|i| occurrence[i] == 0))?;
                self.insert_distinct(&first, conflict, known, since)
            }
            Conflict::Overwrite => {
                // Only the last row of each key stays: counted from the end it is the first one.
                let reversed = take(&rows, (0..rows.num_rows() as u32).rev().collect())?;
                let keys = self.added.keys_of(&reversed);
                let from_end = occurrences(&keys, &hashes_of(&keys, rows.num_rows()), self.added.is_exact())?;
                let last = take(&rows, picked(&|i| from_end[rows.num_rows() - 1 - i] == 0))?;
                self.insert_distinct(&last, conflict, known, since)?;
                Ok(rows)
            }
            _ => self.insert_in_rounds(&rows, conflict, known, since, &occurrence),
        }
    }

    /// The first row of each key, then the second, and so on.
    fn insert_in_rounds(
        &mut self,
        rows: &RecordBatch,
        conflict: &Conflict,
        known: Known<'_>,
        since: usize,
        occurrence: &[u32],
    ) -> Result<RecordBatch, NotInserted> {
        let mut written = Vec::new();
        for round in 0..=occurrence.iter().max().copied().unwrap_or(0) {
            let picked = (0..rows.num_rows()).filter(|&i| occurrence[i] == round).map(|i| i as u32).collect();
            written.push(self.insert_distinct(&take(rows, picked)?, conflict, known, since)?);
        }
        Ok(arrow::compute::concat_batches(&self.schema, &written)?)
    }

    /// Inserts rows of different keys.
    fn insert_distinct(
        &mut self,
        rows: &RecordBatch,
        conflict: &Conflict,
        known: Known<'_>,
        since: usize,
    ) -> Result<RecordBatch, NotInserted> {
        let keys = self.added.keys_of(rows);
        let existing = self.existing(&keys, &hashes_of(&keys, rows.num_rows()), known.found)?;
        let Some(first) = existing.iter().position(|e| *e != Existing::Nowhere) else {
            self.added.push(rows.clone())?;
            return Ok(rows.clone());
        };
        if let Conflict::Error = conflict {
            return Err(duplicate_key(&self.relation, rows, first).into());
        }
        let (met, fresh): (Vec<u32>, Vec<u32>) =
            (0..rows.num_rows() as u32).partition(|&i| existing[i as usize] != Existing::Nowhere);
        let old_places: Vec<Existing> = met.iter().map(|&i| existing[i as usize]).collect();
        let own = |e: &Existing| matches!(e, Existing::Added(row) if *row as usize >= since);
        if matches!(conflict, Conflict::Update(_) | Conflict::Move(_)) && old_places.iter().any(own) {
            return Err(affected_twice().into());
        }
        let (changes, changed) = self.replaced(&old_places, &take(rows, met.clone())?, conflict, known.found)?;
        // The rows that are written, in the statement's order.
        let mut places: Vec<(u32, (usize, usize))> = fresh.iter().map(|&i| (i, (0, i as usize))).collect();
        let replaced: Vec<u32> =
            met.iter().zip(changes.iter()).filter(|(_, c)| *c == Some(true)).map(|(i, _)| *i).collect();
        places.extend(replaced.iter().enumerate().map(|(n, &i)| (i, (1, n))));
        places.sort_unstable();
        let places: Vec<(usize, usize)> = places.into_iter().map(|p| p.1).collect();
        let written = gather(&self.schema, &[rows, &changed], &places)?;
        let gone: Vec<Existing> =
            old_places.iter().zip(changes.iter()).filter(|(_, c)| *c == Some(true)).map(|(e, _)| *e).collect();
        let old = self.gather(&gone, known.found)?;
        if conflict.moves() {
            self.check_looked_up(&old, &changed, known)?;
        }
        self.remove(&gone, &old)?;
        if conflict.moves() {
            return match self.add_absent(&written, known.found) {
                Ok(()) => Ok(written),
                Err(Clash::Taken(rows, at)) => Err(duplicate_key(&self.relation, &rows, at).into()),
                Err(Clash::Failed(error)) => Err(error.into()),
                Err(Clash::Changed) => Err(Error::internal("adding rows removes none").into()),
            };
        }
        self.added.push(written.clone())?;
        Ok(written)
    }

    /// Whether the keys of updated rows that differ from those before are among those looked up.
    fn check_looked_up(&self, old: &RecordBatch, new: &RecordBatch, known: Known<'_>) -> Result<(), NotInserted> {
        let same = comparators(&self.added.keys_of(old), &self.added.keys_of(new))?;
        let moves = |i: &u32| same.iter().any(|c| c(*i as usize, *i as usize).is_ne());
        let moved = take(new, (0..new.num_rows() as u32).filter(moves).collect())?;
        let keys = self.added.keys_of(&moved);
        let hashes = hashes_of(&keys, moved.num_rows());
        let is_known = match known.moved {
            Some(rows) => rows.find(&keys, &hashes)?.iter().all(Option::is_some),
            None => moved.num_rows() == 0,
        };
        if is_known { Ok(()) } else { Err(NotInserted::Moved(moved)) }
    }

    /// Which of the rows that exist change, and to what.
    fn replaced(
        &self,
        existing: &[Existing],
        new: &RecordBatch,
        conflict: &Conflict,
        found: &KeyedRows,
    ) -> Result<(BooleanArray, RecordBatch)> {
        let all = |value: bool| BooleanArray::from(vec![value; existing.len()]);
        match conflict {
            Conflict::Error | Conflict::Ignore => Ok((all(false), RecordBatch::new_empty(self.schema.clone()))),
            Conflict::Overwrite => Ok((all(true), new.clone())),
            Conflict::UpdateIfNotNull => {
                let old = self.gather(existing, found)?;
                let columns = old.columns().iter().zip(new.columns()).map(|(o, n)| merge_not_null(o, n));
                Ok((all(true), self.rows(columns.collect::<Result<_>>()?, existing.len())?))
            }
            Conflict::Update(update) | Conflict::Move(update) => update(&self.gather(existing, found)?, new),
        }
    }
}

/// The new values, with the old ones where there are none.
fn merge_not_null(old: &ArrayRef, new: &ArrayRef) -> Result<ArrayRef> {
    if new.null_count() == 0 {
        return Ok(new.clone());
    }
    Ok(zip(&arrow::compute::is_not_null(new)?, new, old)?)
}

fn affected_twice() -> Error {
    Error::user(SqlState::CARDINALITY_VIOLATION, "ON CONFLICT DO UPDATE command cannot affect row a second time")
        .with_hint(
            "Ensure that no rows proposed for insertion within the same command have duplicate constrained values.",
        )
}

/// How many rows before it have the same key, for each row.
pub(super) fn occurrences(keys: &[ArrayRef], hashes: &[u64], exact: bool) -> Result<Vec<u32>> {
    fn count<K: std::hash::Hash + Eq>(keys: impl Iterator<Item = K>, n_rows: usize) -> Vec<u32> {
        let mut seen: hashbrown::HashMap<K, u32> = hashbrown::HashMap::with_capacity(n_rows);
        let next = |n: &mut u32| {
            *n += 1;
            *n - 1
        };
        keys.map(|key| next(seen.entry(key).or_default())).collect()
    }
    if hashes.len() <= 1 {
        return Ok(vec![0; hashes.len()]);
    }
    if exact {
        return Ok(count(hashes.iter(), hashes.len()));
    }
    // Different hashes are different keys, so only equal ones need a closer look.
    let by_hash = count(hashes.iter(), hashes.len());
    if by_hash.iter().all(|n| *n == 0) {
        return Ok(by_hash);
    }
    let keys: Vec<ArrayRef> = keys.iter().map(comparable).collect();
    let fields = keys.iter().map(|k| SortField::new(k.data_type().clone())).collect();
    let encoded = RowConverter::new(fields)?.convert_columns(&keys)?;
    Ok(count(encoded.iter().map(|row| row.data().to_vec()), hashes.len()))
}
