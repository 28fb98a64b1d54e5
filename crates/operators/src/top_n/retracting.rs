//! Top-n of rows that may be taken back: each partition keeps all its rows, in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use hashbrown::HashMap;
use millstream_expr::RowOrder;
use millstream_expr::scalar::batch_of;
use millstream_state::{PagedVec, RowStore, Rows, SavedState, StateChanges};
use millstream_types::{Delta, EpochHeader, Error, Result};

use super::{Differences, TopNSpec, key_schema, partition_keys, restore_by_pushing};
use crate::group_table::GroupTable;
use crate::operator::{Operator, Output, Port, Progress};
use crate::saving::{ChangedRows, SaveCursor, SavedTable, Tracking, Unsaved, save_all, saved_columns, types_of};

pub(super) struct RetractingTopN {
    spec: TopNSpec,
    order: RowOrder,
    ties: RowOrder,

    // State.
    partitions: GroupTable,
    /// For each partition the places of its distinct rows by order: the order's columns, then all others, encoded.
    entries: Vec<BTreeMap<Box<[u8]>, u32>>,
    rows: RowStore,
    /// How often each row is there.
    weights: PagedVec<i64>,
    n_negative: usize,
    n_key_bytes: usize,
    tracking: Tracking<ChangedRows>,

    // Of the epoch.
    /// What partitions that have changed showed before.
    before: HashMap<u32, Vec<u32>>,
    /// Rows that are gone.
    discarded: Vec<u32>,
}

impl RetractingTopN {
    pub(super) fn new(spec: TopNSpec) -> Result<Self> {
        let (order, ties) = spec.orders()?;
        Ok(RetractingTopN {
            order,
            ties,
            partitions: GroupTable::new(key_schema(&spec))?,
            entries: Vec::new(),
            rows: RowStore::new(spec.input.clone())?,
            weights: PagedVec::new(1),
            n_negative: 0,
            n_key_bytes: 0,
            tracking: Tracking::default(),
            before: HashMap::new(),
            discarded: Vec::new(),
            spec,
        })
    }

    /// The table of rows, which differ beside their weights.
    fn table<'a>(&self, partitioned_by: &[Vec<usize>], saved: &'a mut StateChanges) -> Result<SavedTable<'a>> {
        let mut types = types_of(&self.spec.input);
        let identity = (0..types.len()).collect();
        types.push(DataType::Int64);
        SavedTable::new(saved, 0, types, identity, &partitioned_by[0])
    }

    /// Rows, and their weights as a last column.
    fn weighted(&self, ids: &[u32]) -> Vec<ArrayRef> {
        let mut columns = self.rows.gather(ids).columns().to_vec();
        columns.push(Arc::new(Int64Array::from_iter_values(ids.iter().map(|&row| self.weights.get(row)))));
        columns
    }

    fn set_weight(&mut self, row: u32, before: i64, weight: i64) {
        self.n_negative += usize::from(weight < 0);
        self.n_negative -= usize::from(before < 0);
        if self.weights.get(row) != weight {
            self.weights.set(row, weight);
        }
    }

    fn shown(&self, partition: u32) -> Vec<u32> {
        let entries = self.entries[partition as usize].values();
        let rows = entries.flat_map(|&row| std::iter::repeat_n(row, self.weights.get(row).max(0) as usize));
        rows.skip(self.spec.offset).take(self.spec.limit.unwrap_or(usize::MAX)).collect()
    }

    fn save_next(
        &self,
        changed: Option<&ChangedRows>,
        cursor: &mut SaveCursor,
        partitioned_by: &[Vec<usize>],
        saved: &mut StateChanges,
    ) -> Result<Progress> {
        let mut table = self.table(partitioned_by, saved)?;
        let rows = Unsaved::of(&self.rows, changed);
        cursor.go_on(1, |_, place| rows.save_next(place, &mut table, |ids| self.weighted(ids)))
    }
}

impl Operator for RetractingTopN {
    fn push(&mut self, _: Port, delta: Delta, _: &mut Output) -> Result<Progress> {
        let mut partitions = Vec::new();
        self.partitions.find_or_add(&partition_keys(&self.spec, &delta), delta.n_rows(), &mut partitions);
        self.entries.resize_with(self.partitions.bound() as usize, BTreeMap::new);
        let order = self.order.encode(delta.columns())?;
        let ties = self.ties.encode(delta.columns())?;
        let mut key = Vec::new();
        let mut ids = Vec::new();
        for (i, &partition) in partitions.iter().enumerate().filter(|(i, _)| delta.weight(*i) != 0) {
            key.clear();
            key.extend_from_slice(order.key(i));
            key.extend_from_slice(ties.key(i));
            if !self.before.contains_key(&partition) {
                let shown = self.shown(partition);
                self.before.insert(partition, shown);
            }
            if let Some(&row) = self.entries[partition as usize].get(key.as_slice()) {
                let before = self.weights.get(row);
                let weight = before + delta.weight(i);
                self.set_weight(row, before, weight);
                if let Some(changes) = self.tracking.changes() {
                    changes.change(row);
                }
                if weight == 0 {
                    self.discarded.push(row);
                    self.n_key_bytes -= key.len();
                    self.entries[partition as usize].remove(key.as_slice());
                }
                continue;
            }
            ids.clear();
            self.rows.add(delta.columns(), Rows::Selected(&[i as u32]), &mut ids);
            if let Some(changes) = self.tracking.changes() {
                changes.add(&ids);
            }
            self.set_weight(ids[0], 0, delta.weight(i));
            self.n_key_bytes += key.len();
            self.entries[partition as usize].insert(key.as_slice().into(), ids[0]);
        }
        Ok(Progress::Done)
    }

    fn end_epoch(&mut self, _: &EpochHeader, out: &mut Output) -> Result<Progress> {
        let mut before: Vec<(u32, Vec<u32>)> = self.before.drain().collect();
        before.sort_unstable_by_key(|b| b.0);
        if self.n_negative > 0 {
            return Err(Error::internal("a row of a top-n was taken back that never came"));
        }
        let is_empty = |partition: &u32| self.entries[*partition as usize].is_empty();
        let empty: Vec<u32> = before.iter().map(|b| b.0).filter(is_empty).collect();
        let mut differences = Differences::default();
        for (partition, before) in before {
            differences.add(&self.spec, &before, &self.shown(partition));
        }
        differences.emit(&self.spec, &self.rows, out)?;
        if let Some(changes) = self.tracking.changes() {
            let gone = changes.remove(&self.discarded);
            changes.take_away(self.rows.gather(&gone).columns().to_vec(), gone.len());
        }
        self.discarded.drain(..).for_each(|row| self.rows.free(row));
        self.rows.reclaim();
        self.partitions.remove(&empty);
        Ok(Progress::Done)
    }

    /// One table of the distinct rows, with their weights.
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
        let n_columns = self.spec.input.fields().len();
        if let Some((mut columns, n_rows)) = saved_columns(saved, 0, n_columns + 1)? {
            let weights = columns.pop().map(|w| w.as_primitive::<Int64Type>().values().clone());
            let rows = Delta::new(batch_of(self.spec.input.clone(), columns, n_rows)?, weights);
            restore_by_pushing(self, rows)?;
        }
        self.tracking = Tracking::restored();
        Ok(())
    }

    fn n_bytes(&self) -> usize {
        let per_entry = size_of::<Box<[u8]>>() + size_of::<u32>();
        self.partitions.n_bytes()
            + self.rows.n_bytes()
            + self.weights.n_bytes()
            + self.n_key_bytes
            + self.entries.capacity() * size_of::<BTreeMap<Box<[u8]>, u32>>()
            + self.rows.len() * per_entry * 3 / 2
            + self.tracking.n_bytes(ChangedRows::n_bytes)
    }

    fn n_entries(&self) -> usize {
        self.rows.len()
    }
}
