//! Top-n of rows that may be taken back: each partition keeps all its rows, in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array};
use arrow::datatypes::Int64Type;
use hashbrown::HashMap;
use millstream_expr::RowOrder;
use millstream_expr::scalar::batch_of;
use millstream_state::{RowStore, Rows, SavedState};
use millstream_types::{Delta, EpochHeader, Error, Result};

use super::{Differences, TopNSpec, key_schema, partition_keys, restore_by_pushing};
use crate::group_table::GroupTable;
use crate::operator::{Operator, Output, Port, Progress};
use crate::saving::{SAVED_ROWS, save_rows, saved_columns};

/// A distinct row of a partition: where it is, and how often.
#[derive(Clone, Copy, Debug)]
struct Kept {
    row: u32,
    weight: i64,
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
            before: HashMap::new(),
            discarded: Vec::new(),
            spec,
        })
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
                if kept.weight == 0 {
                    self.discarded.push(kept.row);
                    self.n_key_bytes -= key.len();
                    entries.remove(key.as_slice());
                }
                continue;
            }
            ids.clear();
            self.rows.add(delta.columns(), Rows::Selected(&[i as u32]), &mut ids);
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
        self.discarded.drain(..).for_each(|row| self.rows.free(row));
        self.rows.reclaim();
        self.partitions.remove(&empty);
        Ok(Progress::Done)
    }

    /// One table of the distinct rows, with their weights.
    fn save(&self, partitioned_by: &[Vec<usize>], saved: &mut SavedState) -> Result<()> {
        let all: Vec<Kept> = self.entries.iter().flat_map(BTreeMap::values).copied().collect();
        all.chunks(SAVED_ROWS).try_for_each(|kept| {
            let ids: Vec<u32> = kept.iter().map(|k| k.row).collect();
            let mut columns = self.rows.gather(&ids).columns().to_vec();
            columns.push(Arc::new(Int64Array::from_iter_values(kept.iter().map(|k| k.weight))));
            save_rows(saved, 0, columns, ids.len(), &partitioned_by[0])
        })
    }

    fn restore(&mut self, saved: &SavedState) -> Result<()> {
        let n_columns = self.spec.input.fields().len();
        let Some((mut columns, n_rows)) = saved_columns(saved, 0, n_columns + 1)? else { return Ok(()) };
        let weights = columns.pop().map(|w| w.as_primitive::<Int64Type>().values().clone());
        let rows = Delta::new(batch_of(self.spec.input.clone(), columns, n_rows)?, weights);
        restore_by_pushing(self, rows)
    }

    fn n_bytes(&self) -> usize {
        let per_entry = size_of::<Box<[u8]>>() + size_of::<Kept>();
        self.partitions.n_bytes()
            + self.rows.n_bytes()
            + self.n_key_bytes
            + self.entries.capacity() * size_of::<BTreeMap<Box<[u8]>, Kept>>()
            + self.rows.len() * per_entry * 3 / 2
    }

    fn n_entries(&self) -> usize {
        self.rows.len()
    }
}
