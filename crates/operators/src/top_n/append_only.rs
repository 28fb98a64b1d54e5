//! Top-n of rows that only come: each partition keeps as many rows as it may show.

mod lists;
mod order_keys;

use std::cmp::Ordering;

use millstream_expr::RowOrder;
use millstream_expr::order::OrderedRows;
use millstream_state::{PagedVec, RowStore, Rows, SavedState, StateChanges};
use millstream_types::{Delta, EpochHeader, Error, Result};

use super::{Differences, TopNSpec, key_schema, partition_keys, restore_by_pushing, window};
use crate::group_table::GroupTable;
use crate::operator::{Operator, Output, Port, Progress};
use crate::saving::{ChangedRows, SaveCursor, SavedTable, Tracking, Unsaved, save_all, saved_rows, types_of};
use lists::Lists;
use order_keys::OrderKeys;

/// A row that is kept, in 32 bits: its id in the store, or, with the highest bit, its place in the batch that is being
/// pushed. A row goes into the store when the whole batch has been seen, so those that others of the same batch push
/// out are never copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RowRef(u32);

impl RowRef {
    const IN_BATCH: u32 = 1 << 31;

    fn in_batch(row_idx: usize) -> Self {
        RowRef(row_idx as u32 | Self::IN_BATCH)
    }

    fn as_in_batch(self) -> Option<usize> {
        (self.0 & Self::IN_BATCH != 0).then_some((self.0 & !Self::IN_BATCH) as usize)
    }
}

pub(super) struct AppendOnlyTopN {
    spec: TopNSpec,
    n_kept: usize,
    order: RowOrder,
    ties: RowOrder,

    // State.
    partitions: GroupTable,
    /// For each partition its first rows, in order, as [`RowRef`]s.
    lists: Lists,
    rows: RowStore,
    /// What the rows in the store are ordered by.
    keys: OrderKeys,
    /// Rows that have changed since they were last saved.
    tracking: Tracking<ChangedRows>,

    // Of the epoch.
    is_touched: PagedVec<bool>,
    /// Partitions that have changed.
    touched: Vec<u32>,
    /// The rows that they had before, one after another, and where each partition's end.
    before: Vec<u32>,
    before_ends: Vec<usize>,
    /// Rows that were shown before and are not kept any more.
    discarded: Vec<u32>,
}

/// The batch that is being pushed.
struct Batch<'a> {
    delta: &'a Delta,
    keys: OrderedRows,
    /// The columns that decide between equal keys; only encoded if some are.
    ties: Option<OrderedRows>,
    /// Rows that were put into a list, with its partition, in the order of rows.
    placed: Vec<(u32, u32)>,
    /// For each row how many of its instances were pushed out again.
    n_displaced: Vec<u32>,
}

impl Batch<'_> {
    fn key(&self, row_idx: usize) -> &[u8] {
        self.keys.key(row_idx)
    }
}

impl AppendOnlyTopN {
    pub(super) fn new(spec: TopNSpec, n_kept: usize) -> Result<Self> {
        let order_types = spec.order_by.iter().map(|o| spec.input.field(o.column).data_type());
        let (order, ties) = spec.orders()?;
        Ok(AppendOnlyTopN {
            keys: OrderKeys::new(order_types),
            n_kept,
            order,
            ties,
            partitions: GroupTable::new(key_schema(&spec))?,
            lists: Lists::new(n_kept),
            rows: RowStore::new(spec.input.clone())?,
            tracking: Tracking::default(),
            is_touched: PagedVec::new(false),
            touched: Vec::new(),
            before: Vec::new(),
            before_ends: Vec::new(),
            discarded: Vec::new(),
            spec,
        })
    }

    fn save_next(
        &self,
        changed: Option<&ChangedRows>,
        cursor: &mut SaveCursor,
        partitioned_by: &[Vec<usize>],
        saved: &mut StateChanges,
    ) -> Result<Progress> {
        let mut table = SavedTable::multiset(saved, 0, types_of(&self.spec.input), &partitioned_by[0])?;
        let rows = Unsaved::of(&self.rows, changed);
        cursor.go_on(1, |_, place| rows.save_next(place, &mut table, |ids| self.rows.gather(ids).columns().to_vec()))
    }

    fn key_of<'a>(&'a self, batch: &'a Batch<'_>, row: u32) -> &'a [u8] {
        match RowRef(row).as_in_batch() {
            Some(row_idx) => batch.key(row_idx),
            None => self.keys.get(row),
        }
    }

    /// Compares a row of the batch with a kept one of the same key by all remaining columns.
    fn compare_ties(&self, batch: &mut Batch<'_>, row_idx: usize, kept: u32) -> Result<Ordering> {
        if self.ties.is_empty() {
            return Ok(Ordering::Equal);
        }
        let of_batch = match &mut batch.ties {
            Some(ties) => ties,
            ties => ties.insert(self.ties.encode(batch.delta.columns())?),
        };
        Ok(match RowRef(kept).as_in_batch() {
            Some(other) => of_batch.compare(row_idx, other),
            None => {
                let stored = self.ties.encode(self.rows.gather(&[kept]).columns())?;
                of_batch.key(row_idx).cmp(stored.key(0))
            }
        })
    }

    /// The place of a row among a partition's, or nothing if it is not kept.
    #[inline]
    fn place(&self, batch: &mut Batch<'_>, row_idx: usize, partition: u32) -> Result<Option<usize>> {
        let list = self.lists.get(partition);
        let key = batch.key(row_idx);
        if let Some(&last) = list.get(self.n_kept - 1)
            && key > self.key_of(batch, last)
        {
            return Ok(None);
        }
        let mut at = list.partition_point(|&row| self.key_of(batch, row) < key);
        while at < list.len() && self.key_of(batch, list[at]) == batch.key(row_idx) {
            if self.compare_ties(batch, row_idx, list[at])? == Ordering::Less {
                break;
            }
            at += 1;
        }
        Ok((at < self.n_kept).then_some(at))
    }

    /// Notes what a partition had before the epoch, if it is the first change to it.
    #[inline]
    fn touch(&mut self, partition: u32) {
        let is_touched = self.is_touched.get_mut(partition);
        if !*is_touched {
            *is_touched = true;
            self.touched.push(partition);
            // Rows of the batch come only after this.
            self.before.extend_from_slice(self.lists.get(partition));
            self.before_ends.push(self.before.len());
        }
    }

    fn insert(&mut self, batch: &mut Batch<'_>, row_idx: usize, partition: u32, at: usize) {
        self.touch(partition);
        batch.placed.push((row_idx as u32, partition));
        if let Some(displaced) = self.lists.insert(partition, at, RowRef::in_batch(row_idx).0) {
            match RowRef(displaced).as_in_batch() {
                Some(row_idx) => {
                    batch.n_displaced.resize(batch.delta.n_rows(), 0);
                    batch.n_displaced[row_idx] += 1;
                }
                None => self.discarded.push(displaced),
            }
        }
    }

    /// Copies the batch's rows that are kept into the store.
    fn store_kept(&mut self, mut batch: Batch<'_>) {
        if !batch.n_displaced.is_empty() {
            let n_displaced = &mut batch.n_displaced;
            batch.placed.retain(|(row_idx, _)| {
                let n = &mut n_displaced[*row_idx as usize];
                let is_kept = *n == 0;
                *n -= u32::from(!is_kept);
                is_kept
            });
        }
        let kept: Vec<u32> = batch.placed.iter().map(|(row_idx, _)| *row_idx).collect();
        let mut ids = Vec::with_capacity(kept.len());
        self.rows.add(batch.delta.columns(), Rows::Selected(&kept), &mut ids);
        assert!(self.rows.id_bound() < RowRef::IN_BATCH, "memory ends before 2^31 rows");
        for (&(row_idx, partition), &id) in batch.placed.iter().zip(&ids) {
            self.lists.replace(partition, RowRef::in_batch(row_idx as usize).0, id);
            self.keys.set(id, batch.key(row_idx as usize));
        }
        if let Some(changes) = self.tracking.changes() {
            changes.add(&ids);
        }
    }
}

impl Operator for AppendOnlyTopN {
    fn push(&mut self, _: Port, delta: Delta, _: &mut Output) -> Result<Progress> {
        if self.n_kept == 0 {
            return Ok(Progress::Done);
        }
        let mut partitions = Vec::new();
        self.partitions.find_or_add(&partition_keys(&self.spec, &delta), delta.n_rows(), &mut partitions);
        self.lists.resize(self.partitions.bound());
        let keys = self.order.encode(delta.columns())?;
        let mut batch = Batch { delta: &delta, keys, ties: None, placed: Vec::new(), n_displaced: Vec::new() };
        for (row_idx, &partition) in partitions.iter().enumerate() {
            let weight = delta.weight(row_idx);
            if weight < 0 {
                return Err(Error::internal("a row was taken back from append-only input"));
            }
            for _ in 0..weight.min(self.n_kept as i64) {
                let Some(at) = self.place(&mut batch, row_idx, partition)? else { break };
                self.insert(&mut batch, row_idx, partition, at);
            }
        }
        self.store_kept(batch);
        Ok(Progress::Done)
    }

    fn end_epoch(&mut self, _: &EpochHeader, out: &mut Output) -> Result<Progress> {
        let mut differences = Differences::default();
        let mut from = 0;
        for (&partition, &to) in self.touched.iter().zip(&self.before_ends) {
            let (before, after) = (&self.before[from..to], self.lists.get(partition));
            differences.add(&self.spec, window(&self.spec, before), window(&self.spec, after));
            self.is_touched.set(partition, false);
            from = to;
        }
        differences.emit(&self.spec, &self.rows, out)?;
        self.touched.clear();
        self.before.clear();
        self.before_ends.clear();
        if let Some(changes) = self.tracking.changes() {
            let gone = changes.remove(&self.discarded);
            changes.take_away(self.rows.gather(&gone).columns().to_vec(), gone.len());
        }
        for row in self.discarded.drain(..) {
            self.keys.forget(row);
            self.rows.free(row);
        }
        self.rows.reclaim();
        Ok(Progress::Done)
    }

    /// One table of the rows that are kept, each copy by itself.
    fn save(&self, partitioned_by: &[Vec<usize>], saved: &mut StateChanges) -> Result<()> {
        save_all(|cursor| self.save_next(None, cursor, partitioned_by, saved))
    }

    fn track_changes(&mut self) {
        self.tracking.start();
    }

    fn save_changes(&mut self, partitioned_by: &[Vec<usize>], changes: &mut StateChanges) -> Result<Progress> {
        let mut cursor = self.tracking.cursor();
        let progress = self.save_next(self.tracking.unsaved()?, &mut cursor, partitioned_by, changes)?;
        Ok(self.tracking.note_saved(progress, cursor))
    }

    fn restore(&mut self, saved: &mut SavedState) -> Result<()> {
        if let Some(rows) = saved_rows(saved, 0, &self.spec.input)? {
            restore_by_pushing(self, Delta::inserts(rows))?;
        }
        self.tracking = Tracking::restored();
        Ok(())
    }

    fn n_bytes(&self) -> usize {
        self.partitions.n_bytes()
            + self.rows.n_bytes()
            + self.keys.n_bytes()
            + self.lists.n_bytes()
            + self.is_touched.n_bytes()
            + self.tracking.n_bytes(ChangedRows::n_bytes)
    }

    fn n_entries(&self) -> usize {
        self.rows.len()
    }
}
