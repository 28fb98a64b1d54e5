//! Rows that are inserted where their keys may exist.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::compute::kernels::zip::zip;
use arrow::row::{RowConverter, SortField};
use millstream_types::{Error, Result, SqlState};

use super::rows::{comparable, gather};
use super::{Existing, KeyedRows, Staged, comparators, duplicate_key, hashes_of, take};

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
    /// `DO UPDATE`
    Update(UpdateRows),
}

/// From rows that are there, and as many new ones of the same keys: which of them change, and to what, one row for each
/// that does.
pub(crate) type UpdateRows =
    Arc<dyn Fn(&RecordBatch, &RecordBatch) -> Result<(BooleanArray, RecordBatch)> + Send + Sync>;

impl Conflict {
    /// Whether what a statement leaves as it is, or that it fails, tells something of rows that exist.
    pub(crate) fn observes(&self) -> bool {
        matches!(self, Conflict::Error | Conflict::Ignore | Conflict::Update(_))
    }
}

impl Staged {
    /// Inserts rows of a table with a key; `found` has every row of the base whose key is among theirs. Rows added from
    /// `since` on are the same statement's. Gives the rows that were inserted or updated, as they are now.
    ///
    /// # Errors
    /// 23505, 21000, and what an update gives.
    pub(crate) fn insert(
        &mut self,
        rows: &RecordBatch,
        conflict: &Conflict,
        found: &KeyedRows,
        since: usize,
    ) -> Result<RecordBatch> {
        let rows = self.rows(rows.columns().to_vec(), rows.num_rows())?;
        let keys = self.added.keys_of(&rows);
        let hashes = hashes_of(&keys, rows.num_rows());
        let occurrence = occurrences(&keys, &hashes, self.added.is_exact())?;
        let n_rounds = occurrence.iter().max().map_or(0, |max| *max as usize + 1);
        let picked =
            |keep: &dyn Fn(usize) -> bool| (0..rows.num_rows()).filter(|&i| keep(i)).map(|i| i as u32).collect();
        match conflict {
            _ if n_rounds <= 1 => self.insert_distinct(&rows, conflict, found, since),
            Conflict::Error => {
                let at = occurrence.iter().position(|&n| n > 0).unwrap_or(0);
                Err(duplicate_key(&self.relation, &rows, at))
            }
            Conflict::Ignore => {
                let first = take(&rows, picked(&|i| occurrence[i] == 0))?;
                self.insert_distinct(&first, conflict, found, since)
            }
            Conflict::Overwrite => {
                // Only the last row of each key stays: counted from the end it is the first one.
                let reversed = take(&rows, (0..rows.num_rows() as u32).rev().collect())?;
                let keys = self.added.keys_of(&reversed);
                let from_end = occurrences(&keys, &hashes_of(&keys, rows.num_rows()), self.added.is_exact())?;
                let last = take(&rows, picked(&|i| from_end[rows.num_rows() - 1 - i] == 0))?;
                self.insert_distinct(&last, conflict, found, since)?;
                Ok(rows)
            }
            _ => self.insert_in_rounds(&rows, conflict, found, since, &occurrence),
        }
    }

    /// The first row of each key, then the second, and so on.
    fn insert_in_rounds(
        &mut self,
        rows: &RecordBatch,
        conflict: &Conflict,
        found: &KeyedRows,
        since: usize,
        occurrence: &[u32],
    ) -> Result<RecordBatch> {
        let mut written = Vec::new();
        for round in 0..=occurrence.iter().max().copied().unwrap_or(0) {
            let picked = (0..rows.num_rows()).filter(|&i| occurrence[i] == round).map(|i| i as u32).collect();
            written.push(self.insert_distinct(&take(rows, picked)?, conflict, found, since)?);
        }
        Ok(arrow::compute::concat_batches(&self.schema, &written)?)
    }

    /// Inserts rows of different keys.
    fn insert_distinct(
        &mut self,
        rows: &RecordBatch,
        conflict: &Conflict,
        found: &KeyedRows,
        since: usize,
    ) -> Result<RecordBatch> {
        let keys = self.added.keys_of(rows);
        let existing = self.existing(&keys, &hashes_of(&keys, rows.num_rows()), found)?;
        let Some(first) = existing.iter().position(|e| *e != Existing::Nowhere) else {
            self.added.push(rows.clone())?;
            return Ok(rows.clone());
        };
        if let Conflict::Error = conflict {
            return Err(duplicate_key(&self.relation, rows, first));
        }
        let (met, fresh): (Vec<u32>, Vec<u32>) =
            (0..rows.num_rows() as u32).partition(|&i| existing[i as usize] != Existing::Nowhere);
        let old_places: Vec<Existing> = met.iter().map(|&i| existing[i as usize]).collect();
        let own = |e: &Existing| matches!(e, Existing::Added(row) if *row as usize >= since);
        if matches!(conflict, Conflict::Update(_)) && old_places.iter().any(own) {
            return Err(affected_twice());
        }
        let (changes, changed) = self.replaced(&old_places, &take(rows, met.clone())?, conflict, found)?;
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
        let old = self.gather(&gone, found)?;
        self.remove(&gone, &old)?;
        self.added.push(written.clone())?;
        Ok(written)
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
            Conflict::Update(update) => {
                let old = self.gather(existing, found)?;
                let (changes, changed) = update(&old, new)?;
                let old_keys = self.added.keys_of(&filter_record_batch(&old, &changes)?);
                let same = comparators(&old_keys, &self.added.keys_of(&changed))?;
                if (0..changed.num_rows()).any(|i| same.iter().any(|c| c(i, i).is_ne())) {
                    return Err(Error::not_supported("ON CONFLICT DO UPDATE cannot change the primary key"));
                }
                Ok((changes, changed))
            }
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
