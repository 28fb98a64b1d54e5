//! One side of a join: its rows, indexed by key.

mod saved;

use arrow::array::{Array, ArrayRef, BooleanArray};
use millstream_state::{HashIndex, Matches, NO_ROW, PagedVec, RowStore, Rows};
use millstream_types::hash::{hash_columns, is_exact};
use millstream_types::{Delta, Error, Result};

use super::JoinInput;
use super::alone::{Alone, Decided, Partners, Totals};
use crate::saving::Tracking;
use saved::Changes;

/// The rows of one side.
///
/// Equal rows may be kept as several rows or as one with a weight. Within an epoch a row may be taken back before it
/// comes: it is then kept with a negative weight, until the row that it waits for cancels it.
pub(super) struct JoinSide {
    rows: RowStore,
    weights: PagedVec<i64>,
    keys: Vec<usize>,
    by_key: HashIndex,
    /// Finds rows to take back, where a key may have many.
    by_row: Option<HashIndex>,
    append_only: bool,
    /// Equal hashes of non-null keys mean equal keys.
    exact: bool,
    /// Rows with a weight other than 1.
    n_weighted: usize,
    n_negative: usize,
    /// For rows that emit something beside pairs.
    partners: Option<Partners>,
    totals: Totals,
    tracking: Tracking<Changes>,
    /// Of rows that only come and of which nothing changes: those below this id are saved.
    n_saved: u32,
}

impl JoinSide {
    pub(super) fn new(input: &JoinInput, alone: Alone) -> Result<Self> {
        let exact = matches!(input.keys.as_slice(), [one] if is_exact(input.schema.field(*one).data_type()));
        Ok(JoinSide {
            rows: RowStore::new(input.schema.clone())?,
            weights: PagedVec::new(1),
            keys: input.keys.clone(),
            by_key: if input.append_only { HashIndex::append_only() } else { HashIndex::new() },
            by_row: (!input.append_only && !input.unique).then(HashIndex::new),
            append_only: input.append_only,
            exact,
            n_weighted: 0,
            n_negative: 0,
            partners: (alone != Alone::Nothing).then(|| Partners::new(alone)),
            totals: Totals::default(),
            tracking: Tracking::default(),
            n_saved: 0,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn n_bytes(&self) -> usize {
        let by_row = self.by_row.as_ref().map_or(0, HashIndex::n_bytes);
        let partners = self.partners.as_ref().map_or(0, Partners::n_bytes);
        let changes = self.tracking.n_bytes(Changes::n_bytes);
        self.rows.n_bytes() + self.weights.n_bytes() + self.by_key.n_bytes() + by_row + partners + changes
    }

    /// Whether every row has weight 1.
    pub(super) fn all_once(&self) -> bool {
        self.n_weighted == 0
    }

    #[inline]
    pub(super) fn weight(&self, row: u32) -> i64 {
        self.weights.get(row)
    }

    pub(super) fn gather(&self, column: usize, rows: &[u32]) -> ArrayRef {
        self.rows.column(column).gather(rows)
    }

    pub(super) fn counts_partners(&self) -> bool {
        self.partners.is_some()
    }

    /// A row has got, or lost, partners.
    #[inline]
    pub(super) fn count_partners(&mut self, row: u32, n: i64) {
        if self.tracking.is_noting() && self.partners.as_ref().is_some_and(|p| !p.is_touched(row)) {
            self.note(row);
        }
        if let Some(partners) = &mut self.partners {
            partners.count(row, n);
        }
    }

    /// What a null-aware anti join has to know of its right side.
    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Notes rows whose key has a null: those for which the mask is false.
    pub(super) fn note_null_keys(&mut self, delta: &Delta, mask: &BooleanArray, kept: &[u32]) {
        for i in (0..delta.n_rows()).filter(|&i| !mask.value(i)) {
            self.totals.n_null_keys += delta.weight(i);
            if let (Some(partners), Some(&row)) = (&mut self.partners, kept.get(i)) {
                partners.note_null_key(row);
            }
        }
    }

    /// What the rows that the epoch has touched are to emit.
    pub(super) fn decide(&mut self, right: Totals) -> Vec<Decided> {
        if self.partners.as_ref().is_some_and(|partners| partners.turns(right)) {
            for row in self.rows.ids() {
                self.note(row);
                self.partners.iter_mut().for_each(|partners| partners.touch(row));
            }
        }
        match &mut self.partners {
            Some(partners) => partners.decide(&self.weights, right),
            None => vec![],
        }
    }

    /// Forgets rows that have lost their last instance in this epoch.
    pub(super) fn remove_dead(&mut self) {
        let dead = match &mut self.partners {
            Some(partners) => partners.take_dead(),
            None => return,
        };
        if dead.is_empty() {
            return;
        }
        self.note_dead(&dead);
        let batch = self.rows.gather(&dead);
        let keys: Vec<ArrayRef> = self.keys.iter().map(|&k| batch.column(k).clone()).collect();
        let (mut hashes, mut row_hashes) = (Vec::new(), Vec::new());
        hash_columns(&keys, dead.len(), &mut hashes);
        hash_columns(batch.columns(), dead.len(), &mut row_hashes);
        for (i, &row) in dead.iter().enumerate() {
            self.remove(row, hashes[i], Some(row_hashes[i]));
        }
        self.rows.reclaim();
    }

    /// Keeps a delta; `hashes` are those of its keys. If rows count partners, gives the id of each row that was added.
    pub(super) fn apply(&mut self, delta: &Delta, hashes: &[u64]) -> Result<Vec<u32>> {
        self.totals.n_rows += delta.weights().map_or(delta.n_rows() as i64, |w| w.iter().sum());
        let plain = delta.weights().is_none() && self.n_negative == 0;
        if plain {
            let mut ids = Vec::with_capacity(delta.n_rows());
            self.rows.add(delta.columns(), Rows::Range { offset: 0, len: delta.n_rows() }, &mut ids);
            self.note_new(&ids);
            self.by_key.insert_all(hashes, ids.iter().copied());
            if let Some(by_row) = &mut self.by_row {
                let mut row_hashes = Vec::new();
                hash_columns(delta.columns(), delta.n_rows(), &mut row_hashes);
                by_row.insert_all(&row_hashes, ids.iter().copied());
            }
            return Ok(match &mut self.partners {
                Some(partners) => {
                    ids.iter().for_each(|&row| partners.touch(row));
                    ids
                }
                None => vec![],
            });
        }
        if self.append_only && delta.weights().is_some_and(|w| w.iter().any(|&w| w < 0)) {
            return Err(Error::internal("a row was taken back from an append-only side of a join"));
        }
        self.apply_weighted(delta, hashes)
    }

    fn apply_weighted(&mut self, delta: &Delta, hashes: &[u64]) -> Result<Vec<u32>> {
        let mut row_hashes = Vec::new();
        if self.by_row.is_some() {
            hash_columns(delta.columns(), delta.n_rows(), &mut row_hashes);
        }
        let find_by = if self.by_row.is_some() { &row_hashes } else { hashes };
        let place = self.find_equal(delta, find_by);
        let mut added = Vec::new();
        // Freed only when all rows have found theirs: a freed id is given out again.
        let mut dead = Vec::new();
        let mut kept = if self.partners.is_some() { vec![NO_ROW; delta.n_rows()] } else { vec![] };
        for i in 0..delta.n_rows() {
            let mut left = delta.weight(i);
            // Rows that an earlier row of this delta changed are looked up again.
            let mut found = place[i].filter(|&row| self.weights.get(row) > 0);
            while left != 0 {
                let looks_on = left < 0 || self.n_negative > 0;
                let next =
                    found.take().or_else(|| if looks_on { self.find_one(delta, i, left, find_by[i]) } else { None });
                let Some(row) = next else { break };
                let weight = self.weights.get(row);
                // Equal rows may be kept as several: one change may use up more than one of them.
                let cancelled = if left < 0 { left.max(-weight) } else { left.min(-weight) };
                left -= cancelled;
                if self.tracking.is_noting() {
                    self.note(row);
                }
                self.set_weight(row, weight + cancelled);
                match &mut self.partners {
                    // What the row has emitted is taken back at the end of the epoch.
                    Some(partners) => partners.touch(row),
                    None if weight + cancelled == 0 => dead.push((row, i)),
                    None => {}
                }
            }
            if left != 0 {
                added.clear();
                self.rows.add(delta.columns(), Rows::Selected(&[i as u32]), &mut added);
                let row = added[0];
                self.note_new(&added);
                self.by_key.insert(hashes[i], row);
                if let Some(by_row) = &mut self.by_row {
                    by_row.insert(row_hashes[i], row);
                }
                self.set_weight(row, left);
                if let Some(partners) = &mut self.partners {
                    partners.touch(row);
                    kept[i] = row;
                }
            }
        }
        if !dead.is_empty() {
            self.note_dead(&dead.iter().map(|(row, _)| *row).collect::<Vec<_>>());
        }
        for (row, i) in dead {
            self.remove(row, hashes[i], row_hashes.get(i).copied());
        }
        self.rows.reclaim();
        Ok(kept)
    }

    fn set_weight(&mut self, row: u32, weight: i64) {
        let old = self.weights.get(row);
        if old == weight {
            return;
        }
        self.n_weighted -= usize::from(old != 1);
        self.n_weighted += usize::from(weight != 1);
        self.n_negative -= usize::from(old < 0);
        self.n_negative += usize::from(weight < 0);
        self.weights.set(row, weight);
    }

    fn remove(&mut self, row: u32, hash: u64, row_hash: Option<u64>) {
        self.by_key.remove(hash, row);
        if let (Some(by_row), Some(row_hash)) = (&mut self.by_row, row_hash) {
            by_row.remove(row_hash, row);
        }
        self.rows.free(row);
        // A freed row's id is given out again with weight 1.
        self.set_weight(row, 1);
    }

    /// For each row of a delta that takes something back, a kept row equal to it.
    fn find_equal(&self, delta: &Delta, hashes: &[u64]) -> Vec<Option<u32>> {
        let index = self.by_row.as_ref().unwrap_or(&self.by_key);
        let mut candidates = Matches::default();
        for (i, &hash) in hashes.iter().enumerate().filter(|(i, _)| delta.weight(*i) < 0) {
            if let Some((head, _)) = index.head(hash) {
                candidates.push(i as u32, head);
            }
        }
        let mut found = vec![None; delta.n_rows()];
        let mut equal = vec![true; candidates.len()];
        self.rows.compare(&candidates.rows, delta.columns(), &candidates.probes, &mut equal);
        for ((&i, &row), equal) in candidates.probes.iter().zip(&candidates.rows).zip(equal) {
            if equal {
                found[i as usize] = Some(row);
            }
        }
        found
    }

    /// A kept row equal to a row of a delta, whose weight has the opposite sign of `weight`.
    fn find_one(&self, delta: &Delta, i: usize, weight: i64, hash: u64) -> Option<u32> {
        let index = self.by_row.as_ref().unwrap_or(&self.by_key);
        let wants_negative = weight > 0;
        index
            .rows(hash)
            .filter(|&row| if wants_negative { self.weights.get(row) < 0 } else { self.weights.get(row) > 0 })
            .find(|&row| {
                let mut equal = [true];
                self.rows.compare(&[row], delta.columns(), &[i as u32], &mut equal);
                equal[0]
            })
    }

    /// Adds pairs for the hashes, whose probes are numbered from `first` on, until there are at least `limit` pairs.
    /// Returns the probe to go on with, and the row of its chain if it was interrupted.
    pub(super) fn probe(&self, hashes: &[u64], first: usize, limit: usize, matches: &mut Matches) -> (usize, u32) {
        let mut stopped_at = (first + hashes.len(), NO_ROW);
        self.by_key.probe_while(hashes, |i, head, count| {
            let probe = first + i;
            if matches.len() >= limit {
                stopped_at = (probe, NO_ROW);
                return false;
            }
            if count == 1 {
                matches.push(probe as u32, head);
                return true;
            }
            let mut row = head;
            self.follow(probe as u32, &mut row, limit, matches);
            if row != NO_ROW {
                stopped_at = (probe, row);
            }
            row == NO_ROW
        });
        stopped_at
    }

    /// Adds pairs of one probe and the rows of a chain, from `row` on, until there are at least `limit` pairs.
    pub(super) fn follow(&self, probe: u32, row: &mut u32, limit: usize, matches: &mut Matches) {
        while *row != NO_ROW && matches.len() < limit {
            matches.push(probe, *row);
            *row = self.by_key.next(*row);
        }
    }

    /// Drops pairs whose keys differ although their hashes are equal.
    pub(super) fn verify(&self, keys: &[ArrayRef], matches: &mut Matches) {
        let nullable =
            keys.iter().any(|k| k.null_count() > 0) || self.keys.iter().any(|&k| self.rows.column(k).has_nulls());
        if self.exact && !nullable {
            return;
        }
        let mut equal = vec![true; matches.len()];
        self.rows.compare_keys(&self.keys, &matches.rows, keys, &matches.probes, &mut equal);
        if equal.contains(&false) {
            matches.retain(&equal);
        }
    }

    /// Takes over what was known of all rows.
    pub(super) fn restore_totals(&mut self, totals: Totals) {
        self.totals = totals;
    }

    pub(super) fn end_epoch(&mut self) -> Result<()> {
        if self.n_negative > 0 {
            return Err(Error::internal(format!("{} rows of a join were taken back that never came", self.n_negative)));
        }
        Ok(())
    }
}
