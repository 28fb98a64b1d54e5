//! Top-n of rows that may be taken back: each partition keeps all its rows, in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use hashbrown::HashMap;
use millstream_expr::RowOrder;
use millstream_expr::scalar::batch_of;
use millstream_state::{RowStore, Rows, SavedState, StateChanges};
use millstream_types::{Delta, EpochHeader, Error, Result};

use super::{Differences, TopNSpec, key_schema, partition_keys, restore_by_pushing};
use crate::group_table::GroupTable;
use crate::operator::{Operator, Output, Port, Progress};
use crate::saving::{ChangedRows, SAVED_ROWS, SavedTable, Tracking, saved_columns, types_of};

/// A distinct row of a partition: where it is, and how often.
#[derive(Clone, Copy, Debug)]
struct Kept {
    row: u32,
    weight: i64,
}

/// What has changed since the last save.
#[derive(Default)]
struct Changes {
    rows: ChangedRows,
    /// The weights of rows that have changed.
    weights: HashMap<u32, i64>,
}

pub(super) struct RetractingTopN {
    spec: TopNSpec,
    order: RowOrder,
    ties: RowOrder,

    // State.
    partitions: GroupTable,
    /// For each partition its distinct rows by order: the order's columns, then all others, encoded.
    entries: Vec<BTreeMap<Box<[u8]>, Kept>>,
    rows: RowStore,
    n_key_bytes: usize,
    tracking: Tracking<Changes>,

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
    fn weighted(&self, ids: &[u32], weights: impl Iterator<Item = i64>) -> Vec<ArrayRef> {
        let mut columns = self.rows.gather(ids).columns().to_vec();
        columns.push(Arc::new(Int64Array::from_iter_values(weights)));
        columns
    }

    fn shown(&self, partition: u32) -> Vec<u32> {
        let entries = self.entries[partition as usize].values();
        let rows = entries.flat_map(|kept| std::iter::repeat_n(kept.row, kept.weight.max(0) as usize));
        rows.skip(self.spec.offset).take(self.spec.limit.unwrap_or(usize::MAX)).collect()
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
            let entries = &mut self.entries[partition as usize];
            if let Some(kept) = entries.get_mut(key.as_slice()) {
                kept.weight += delta.weight(i);
                if let Some(changes) = self.tracking.changes() {
                    changes.rows.change(kept.row);
                    changes.weights.insert(kept.row, kept.weight);
                }
                if kept.weight == 0 {
                    self.discarded.push(kept.row);
                    self.n_key_bytes -= key.len();
                    entries.remove(key.as_slice());
                }
                continue;
            }
            ids.clear();
            self.rows.add(delta.columns(), Rows::Selected(&[i as u32]), &mut ids);
            if let Some(changes) = self.tracking.changes() {
                changes.rows.add(&ids);
                changes.weights.insert(ids[0], delta.weight(i));
            }
            self.n_key_bytes += key.len();
            entries.insert(key.as_slice().into(), Kept { row: ids[0], weight: delta.weight(i) });
        }
        Ok(Progress::Done)
    }

    fn end_epoch(&mut self, _: &EpochHeader, out: &mut Output) -> Result<Progress> {
        let mut before: Vec<(u32, Vec<u32>)> = self.before.drain().collect();
        before.sort_unstable_by_key(|b| b.0);
        let mut empty = Vec::new();
        for (partition, _) in &before {
            let entries = &self.entries[*partition as usize];
            if entries.values().any(|kept| kept.weight < 0) {
                return Err(Error::internal("a row of a top-n was taken back that never came"));
            }
            if entries.is_empty() {
                empty.push(*partition);
            }
        }
        let mut differences = Differences::default();
        for (partition, before) in before {
            differences.add(&self.spec, &before, &self.shown(partition));
        }
        differences.emit(&self.spec, &self.rows, out)?;
        if let Some(changes) = self.tracking.changes() {
            let gone = changes.rows.remove(&self.discarded);
            changes.rows.take_away(self.rows.gather(&gone).columns().to_vec(), gone.len());
            self.discarded.iter().for_each(|row| _ = changes.weights.remove(row));
        }
        self.discarded.drain(..).for_each(|row| self.rows.free(row));
        self.rows.reclaim();
        self.partitions.remove(&empty);
        Ok(Progress::Done)
    }

    /// One table of the distinct rows, with their weights.
    fn save(&self, partitioned_by: &[Vec<usize>], saved: &mut StateChanges) -> Result<()> {
        let mut table = self.table(partitioned_by, saved)?;
        let all: Vec<Kept> = self.entries.iter().flat_map(BTreeMap::values).copied().collect();
        all.chunks(SAVED_ROWS).try_for_each(|kept| {
            let ids: Vec<u32> = kept.iter().map(|k| k.row).collect();
            table.add(self.weighted(&ids, kept.iter().map(|k| k.weight)), ids.len())
        })
    }

    fn track_changes(&mut self) {
        self.tracking.start();
    }

    fn save_changes(&mut self, partitioned_by: &[Vec<usize>], changes: &mut StateChanges) -> Result<()> {
        let Some(Changes { rows, weights }) = self.tracking.take()? else { return self.save(partitioned_by, changes) };
        let mut table = self.table(partitioned_by, changes)?;
        rows.save(&mut table, |ids| Ok(self.weighted(ids, ids.iter().map(|id| weights[id]))))
    }

    fn restore(&mut self, saved: &mut SavedState) -> Result<()> {
        let n_columns = self.spec.input.fields().len();
        if let Some((mut columns, n_rows)) = saved_columns(saved, 0, n_columns + 1)? {
            let weights = columns.pop().map(|w| w.as_primitive::<Int64Type>().values().clone());
            let rows = Delta::new(batch_of(self.spec.input.clone(), columns, n_rows)?, weights);
            restore_by_pushing(self, rows)?;
        }
        self.tracking = Tracking::Restored;
        Ok(())
    }

    fn n_bytes(&self) -> usize {
        let of_changes = |c: &Changes| c.rows.n_bytes() + c.weights.capacity() * size_of::<(u32, i64)>();
        let per_entry = size_of::<Box<[u8]>>() + size_of::<Kept>();
        self.partitions.n_bytes()
            + self.rows.n_bytes()
            + self.n_key_bytes
            + self.entries.capacity() * size_of::<BTreeMap<Box<[u8]>, Kept>>()
            + self.rows.len() * per_entry * 3 / 2
            + self.tracking.n_bytes(of_changes)
    }

    fn n_entries(&self) -> usize {
        self.rows.len()
    }
}
