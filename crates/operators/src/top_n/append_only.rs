//! Top-n of rows that only come: each partition keeps as many rows as it may show.

use std::cmp::Ordering;

use arrow::row::Rows as EncodedRows;
use hashbrown::HashMap;
use millstream_state::{RowStore, Rows};
use millstream_types::{Delta, EpochHeader, Error, Result};

use super::{OrderEncoder, TopNSpec, emit_difference, key_schema, partition_keys, window};
use crate::group_table::GroupTable;
use crate::operator::{Operator, Output, Port, Progress};

/// A row that is kept: in the store, or still in the batch that is being pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowRef {
    Stored(u32),
    InBatch(u32),
}

#[derive(Clone, Debug)]
struct Entry {
    /// The order's columns, encoded.
    key: Box<[u8]>,
    row: RowRef,
}

pub(super) struct AppendOnlyTopN {
    spec: TopNSpec,
    n_kept: usize,
    order: OrderEncoder,
    ties: OrderEncoder,

    // State.
    partitions: GroupTable,
    /// For each partition its first rows, in order.
    entries: Vec<Vec<Entry>>,
    rows: RowStore,
    n_key_bytes: usize,

    // Of the epoch.
    /// What partitions that have changed showed before.
    before: HashMap<u32, Vec<u32>>,
    /// Rows that were shown before and are not kept any more.
    discarded: Vec<u32>,
}

impl AppendOnlyTopN {
    pub(super) fn new(spec: TopNSpec, n_kept: usize) -> Result<Self> {
        Ok(AppendOnlyTopN {
            n_kept,
            order: OrderEncoder::of_order(&spec)?,
            ties: OrderEncoder::of_ties(&spec)?,
            partitions: GroupTable::new(key_schema(&spec))?,
            entries: Vec::new(),
            rows: RowStore::new(spec.input.clone())?,
            n_key_bytes: 0,
            before: HashMap::new(),
            discarded: Vec::new(),
            spec,
        })
    }

    fn stored(entries: &[Entry]) -> impl Iterator<Item = u32> + '_ {
        entries.iter().filter_map(|e| match e.row {
            RowRef::Stored(row) => Some(row),
            RowRef::InBatch(_) => None,
        })
    }

    /// Compares a row of the batch with a kept one of the same key by all remaining columns.
    fn compare_ties(
        &self,
        delta: &Delta,
        ties: &mut Option<EncodedRows>,
        row: usize,
        kept: RowRef,
    ) -> Result<Ordering> {
        if self.ties.columns.is_empty() {
            return Ok(Ordering::Equal);
        }
        if ties.is_none() {
            *ties = self.ties.encode(delta.columns())?;
        }
        let of_batch = ties.as_ref().expect("there are columns");
        Ok(match kept {
            RowRef::InBatch(other) => of_batch.row(row).cmp(&of_batch.row(other as usize)),
            RowRef::Stored(id) => {
                let stored = self.rows.gather(&[id]);
                let stored = self.ties.encode(stored.columns())?.expect("there are columns");
                of_batch.row(row).cmp(&stored.row(0))
            }
        })
    }

    /// The place of a row among a partition's, or nothing if it is not kept.
    fn place(
        &self,
        delta: &Delta,
        ties: &mut Option<EncodedRows>,
        key: &[u8],
        row: usize,
        partition: u32,
    ) -> Result<Option<usize>> {
        let entries = &self.entries[partition as usize];
        if let Some(last) = entries.last().filter(|_| entries.len() == self.n_kept)
            && key > last.key.as_ref()
        {
            return Ok(None);
        }
        let mut at = entries.partition_point(|e| e.key.as_ref() < key);
        while at < entries.len() && entries[at].key.as_ref() == key {
            if self.compare_ties(delta, ties, row, entries[at].row)? == Ordering::Less {
                break;
            }
            at += 1;
        }
        Ok((at < self.n_kept).then_some(at))
    }
}

impl Operator for AppendOnlyTopN {
    fn push(&mut self, _: Port, delta: Delta, _: &mut Output) -> Result<Progress> {
        if self.n_kept == 0 {
            return Ok(Progress::Done);
        }
        let mut partitions = Vec::new();
        self.partitions.find_or_add(&partition_keys(&self.spec, &delta), delta.n_rows(), &mut partitions);
        self.entries.resize_with(self.partitions.bound() as usize, Vec::new);
        let keys = self.order.encode(delta.columns())?;
        let mut ties = None;
        let mut changed = Vec::new();
        for (row, &partition) in partitions.iter().enumerate() {
            let key = keys.as_ref().map_or(&[][..], |k| k.row(row).data());
            if delta.weight(row) < 0 {
                return Err(Error::internal("a row was taken back from append-only input"));
            }
            for _ in 0..delta.weight(row).min(self.n_kept as i64) {
                let Some(at) = self.place(&delta, &mut ties, key, row, partition)? else { break };
                let entries = &mut self.entries[partition as usize];
                self.before.entry(partition).or_insert_with(|| Self::stored(entries).collect());
                entries.insert(at, Entry { key: key.into(), row: RowRef::InBatch(row as u32) });
                self.n_key_bytes += key.len();
                if entries.len() > self.n_kept
                    && let Some(Entry { key, row }) = entries.pop()
                {
                    self.n_key_bytes -= key.len();
                    if let RowRef::Stored(id) = row {
                        self.discarded.push(id);
                    }
                }
                changed.push(partition);
            }
        }
        self.store_kept(&delta, changed);
        Ok(Progress::Done)
    }

    fn end_epoch(&mut self, _: &EpochHeader, out: &mut Output) -> Result<Progress> {
        let mut before: Vec<(u32, Vec<u32>)> = self.before.drain().collect();
        before.sort_unstable_by_key(|b| b.0);
        let shown = before.into_iter().map(|(partition, before)| {
            let after = Self::stored(&self.entries[partition as usize]);
            (window(&self.spec, before.into_iter()), window(&self.spec, after))
        });
        emit_difference(&self.spec, &self.rows, shown, out)?;
        self.discarded.drain(..).for_each(|row| self.rows.free(row));
        self.rows.reclaim();
        Ok(Progress::Done)
    }

    fn n_bytes(&self) -> usize {
        self.partitions.n_bytes()
            + self.rows.n_bytes()
            + self.n_key_bytes
            + self.entries.capacity() * size_of::<Vec<Entry>>()
            + self.rows.len() * size_of::<Entry>()
    }

    fn n_entries(&self) -> usize {
        self.rows.len()
    }
}

impl AppendOnlyTopN {
    /// Copies the batch's rows that are kept into the store.
    fn store_kept(&mut self, delta: &Delta, mut changed: Vec<u32>) {
        changed.sort_unstable();
        changed.dedup();
        let mut kept: Vec<u32> = Vec::new();
        for &partition in &changed {
            kept.extend(self.entries[partition as usize].iter().filter_map(|e| match e.row {
                RowRef::InBatch(row) => Some(row),
                RowRef::Stored(_) => None,
            }));
        }
        let mut ids = Vec::with_capacity(kept.len());
        self.rows.add(delta.columns(), Rows::Selected(&kept), &mut ids);
        let mut ids = ids.into_iter();
        for &partition in &changed {
            for entry in &mut self.entries[partition as usize] {
                if matches!(entry.row, RowRef::InBatch(_)) {
                    entry.row = RowRef::Stored(ids.next().expect("one for each kept row"));
                }
            }
        }
    }
}
