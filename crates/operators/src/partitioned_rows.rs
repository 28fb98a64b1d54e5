//! Rows kept by partition, for operators that compute a partition anew when it has changed.

use std::ops::Range;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use millstream_state::{HashIndex, PagedVec, RowStore, Rows};
use millstream_types::hash::hash_columns;
use millstream_types::{Delta, Error, Result};

use crate::group_table::GroupTable;
use crate::operator::OUTPUT_BATCH_ROWS;

/// All rows of an input, each copy by itself, by partition.
///
/// Rows are added and taken back as they come; a row that is taken back before it came is owed until the end of the
/// epoch. That is [`PartitionedRows::settle`]; then come the changed partitions, piece by piece, and in the end
/// [`PartitionedRows::forget`]. Until then rows that are gone keep their ids, so that what they led to can be taken back.
///
/// Costs: adding a row copies it and puts it into one index; taking one back is a lookup. Memory is the rows, their
/// places, and the index, which exists only if rows may be taken back.
pub(crate) struct PartitionedRows {
    // Spec.
    partition_by: Vec<usize>,
    /// Columns that tell rows apart as far as is known; rows are indexed by them and compared by all.
    identity: Vec<usize>,

    // State.
    partitions: GroupTable,
    rows: RowStore,
    index: Option<HashIndex>,
    /// The rows of each partition, those that are gone included until the epoch is settled.
    members: Vec<Vec<u32>>,
    n_members: usize,

    // Of the epoch.
    /// Rows that went.
    gone: Vec<u32>,
    is_gone: PagedVec<bool>,
    /// Partitions with rows that came or went; some may have no rows any more.
    changed: Vec<u32>,
    is_changed: PagedVec<bool>,
    /// How many of the changed partitions are still to be computed: the first ones.
    n_pending: usize,
    /// Single rows that were taken back before they came.
    owed: Vec<Delta>,

    // Scratch.
    hashes: Vec<u64>,
    numbers: Vec<u32>,
}

impl PartitionedRows {
    /// An empty store. `identity` are columns whose values no two rows share, if known.
    ///
    /// # Errors
    /// Not supported, if a column's type cannot be kept.
    pub(crate) fn new(
        input: &SchemaRef,
        partition_by: &[usize],
        identity: Option<&[usize]>,
        append_only: bool,
    ) -> Result<Self> {
        let key: Vec<_> = partition_by.iter().map(|&c| input.field(c).clone()).collect();
        let all = || (0..input.fields().len()).collect();
        Ok(PartitionedRows {
            partition_by: partition_by.to_vec(),
            identity: identity.map_or_else(all, <[usize]>::to_vec),
            partitions: GroupTable::new(Schema::new(key).into())?,
            rows: RowStore::new(input.clone())?,
            index: (!append_only).then(HashIndex::new),
            members: Vec::new(),
            n_members: 0,
            gone: Vec::new(),
            is_gone: PagedVec::new(false),
            changed: Vec::new(),
            is_changed: PagedVec::new(false),
            n_pending: 0,
            owed: Vec::new(),
            hashes: Vec::new(),
            numbers: Vec::new(),
        })
    }

    /// Takes rows, and takes rows back; gives the ids of those that came.
    ///
    /// # Errors
    /// Internal, if a row is taken back from input that was said to be append-only.
    pub(crate) fn push(&mut self, delta: &Delta) -> Result<Vec<u32>> {
        self.look_up(delta);
        let numbers = std::mem::take(&mut self.numbers);
        let hashes = std::mem::take(&mut self.hashes);
        let ids = self.add(delta, &numbers, &hashes);
        let negative = |i: &usize| delta.weight(*i) < 0;
        for i in (0..delta.n_rows()).filter(negative) {
            for _ in delta.weight(i)..0 {
                if !self.take_back(delta.columns(), i, numbers[i], hashes[i])? {
                    let (row, _) = delta.slice(i, 1).into_parts();
                    self.owed.push(Delta::inserts(row));
                }
            }
        }
        (self.numbers, self.hashes) = (numbers, hashes);
        Ok(ids)
    }

    /// Writes the partition and the hash of each row.
    fn look_up(&mut self, delta: &Delta) {
        let keys: Vec<ArrayRef> = self.partition_by.iter().map(|&c| delta.columns()[c].clone()).collect();
        self.partitions.find_or_add(&keys, delta.n_rows(), &mut self.numbers);
        self.note_changed();
        self.hashes.clear();
        self.hashes.resize(delta.n_rows(), 0);
        if self.index.is_some() {
            let identity: Vec<ArrayRef> = self.identity.iter().map(|&c| delta.columns()[c].clone()).collect();
            hash_columns(&identity, delta.n_rows(), &mut self.hashes);
        }
    }

    /// Notes that the partitions in `numbers` have changed.
    fn note_changed(&mut self) {
        self.members.resize_with(self.partitions.bound() as usize, Vec::new);
        for &partition in &self.numbers {
            let is_changed = self.is_changed.get_mut(partition);
            if !*is_changed {
                *is_changed = true;
                self.changed.push(partition);
            }
        }
    }

    /// Takes over rows as they were kept before, into an empty store; gives their ids and the partitions that have rows.
    pub(crate) fn restore(&mut self, rows: &RecordBatch) -> Result<(Vec<u32>, Vec<u32>)> {
        let delta = Delta::inserts(rows.clone());
        self.look_up(&delta);
        let (numbers, hashes) = (std::mem::take(&mut self.numbers), std::mem::take(&mut self.hashes));
        let ids = self.add(&delta, &numbers, &hashes);
        self.settle()?;
        self.n_pending = 0;
        Ok((ids, std::mem::take(&mut self.changed)))
    }

    /// The numbers of partitions by key; those that have no rows are made.
    pub(crate) fn numbers_of(&mut self, keys: &[ArrayRef], n_rows: usize) -> Vec<u32> {
        self.partitions.find_or_add(keys, n_rows, &mut self.numbers);
        self.members.resize_with(self.partitions.bound() as usize, Vec::new);
        std::mem::take(&mut self.numbers)
    }

    /// The next numbers of partitions; see [`RowStore::next_ids`].
    pub(crate) fn next_partitions(&self, from: &mut u32, n_max: usize) -> Vec<u32> {
        self.partitions.next_groups(from, n_max)
    }

    /// The rows.
    pub(crate) fn rows(&self) -> &RowStore {
        &self.rows
    }

    /// Adds each copy of the rows that come; gives their ids.
    fn add(&mut self, delta: &Delta, numbers: &[u32], hashes: &[u64]) -> Vec<u32> {
        let copies = |i: usize| std::iter::repeat_n(i as u32, delta.weight(i).max(0) as usize);
        let selected: Vec<u32> = (0..delta.n_rows()).flat_map(copies).collect();
        let mut ids = Vec::with_capacity(selected.len());
        self.rows.add(delta.columns(), Rows::Selected(&selected), &mut ids);
        for (&id, &i) in ids.iter().zip(&selected) {
            self.members[numbers[i as usize] as usize].push(id);
        }
        self.n_members += ids.len();
        if let Some(index) = &mut self.index {
            let hashes: Vec<u64> = selected.iter().map(|&i| hashes[i as usize]).collect();
            index.insert_all(&hashes, ids.iter().copied());
        }
        ids
    }

    /// Takes one copy of a row back, if it is there.
    fn take_back(&mut self, columns: &[ArrayRef], row_idx: usize, partition: u32, hash: u64) -> Result<bool> {
        let unexpected = || Error::internal("a row was taken back from append-only input");
        let index = self.index.as_mut().ok_or_else(unexpected)?;
        debug_assert!((partition as usize) < self.members.len());
        let rows = &self.rows;
        let is_equal = |id: &u32| {
            let mut mask = [true];
            rows.compare(&[*id], columns, &[row_idx as u32], &mut mask);
            mask[0]
        };
        let Some(id) = index.rows(hash).find(is_equal) else { return Ok(false) };
        index.remove(hash, id);
        self.is_gone.set(id, true);
        self.gone.push(id);
        Ok(true)
    }

    /// Ends the epoch: no row is owed, members are those that are there, and all changed partitions are to be computed.
    ///
    /// # Errors
    /// Internal, if a row was taken back that never came.
    pub(crate) fn settle(&mut self) -> Result<()> {
        for owed in std::mem::take(&mut self.owed) {
            self.look_up(&owed);
            if !self.take_back(owed.columns(), 0, self.numbers[0], self.hashes[0])? {
                return Err(Error::internal("a row was taken back that never came"));
            }
        }
        for &partition in &self.changed {
            self.is_changed.set(partition, false);
            if !self.gone.is_empty() {
                let is_gone = &self.is_gone;
                self.members[partition as usize].retain(|&id| !is_gone.get(id));
            }
        }
        self.n_members -= self.gone.len();
        self.n_pending = self.changed.len();
        Ok(())
    }

    /// The partitions that the epoch has changed.
    pub(crate) fn changed(&self) -> &[u32] {
        &self.changed
    }

    /// The rows that the epoch took back; their values can still be gathered.
    pub(crate) fn gone(&self) -> &[u32] {
        &self.gone
    }

    /// Changed partitions that are still to be computed, with about a batch of rows; nothing if all are done.
    pub(crate) fn next_piece(&mut self) -> Option<Vec<u32>> {
        let to = self.n_pending;
        let mut n_rows = 0;
        while n_rows < OUTPUT_BATCH_ROWS && self.n_pending > 0 {
            self.n_pending -= 1;
            n_rows += self.members(self.changed[self.n_pending]).len() + 1;
        }
        (self.n_pending < to).then(|| self.changed[self.n_pending..to].to_vec())
    }

    /// Whether all changed partitions are done.
    pub(crate) fn is_done(&self) -> bool {
        self.n_pending == 0
    }

    /// The rows of partitions, one after another, and the run that each one's are.
    pub(crate) fn runs(&self, partitions: &[u32]) -> (Vec<u32>, Vec<Range<usize>>) {
        let mut ids = Vec::new();
        let mut runs = Vec::with_capacity(partitions.len());
        for &partition in partitions {
            let start = ids.len();
            ids.extend_from_slice(self.members(partition));
            runs.push(start..ids.len());
        }
        (ids, runs)
    }

    /// The rows of a partition, in the order in which they were last put.
    pub(crate) fn members(&self, partition: u32) -> &[u32] {
        &self.members[partition as usize]
    }

    /// Puts the rows of a partition into another order.
    pub(crate) fn reorder(&mut self, partition: u32, members: Vec<u32>) {
        debug_assert_eq!(members.len(), self.members[partition as usize].len());
        self.members[partition as usize] = members;
    }

    /// Rows by id.
    pub(crate) fn gather(&self, ids: &[u32]) -> RecordBatch {
        self.rows.gather(ids)
    }

    /// The keys of partitions.
    pub(crate) fn keys(&self, partitions: &[u32]) -> RecordBatch {
        self.partitions.keys(partitions)
    }

    /// Forgets rows that are gone, and changed partitions without rows unless they are to be kept.
    pub(crate) fn forget(&mut self, keep_empty: bool) {
        if !self.gone.is_empty() {
            for id in self.gone.drain(..) {
                self.is_gone.set(id, false);
                self.rows.free(id);
            }
            self.rows.reclaim();
        }
        let mut empty = std::mem::take(&mut self.changed);
        empty.retain(|&p| self.members[p as usize].is_empty() && !keep_empty);
        self.partitions.remove(&empty);
        for partition in empty {
            self.members[partition as usize] = Vec::new();
        }
    }

    /// Makes the one partition of input that is not partitioned, which counts as changed.
    pub(crate) fn make_whole(&mut self) {
        debug_assert!(self.partition_by.is_empty());
        self.partitions.find_or_add(&[], 1, &mut self.numbers);
        self.note_changed();
    }

    /// Allocated bytes.
    pub(crate) fn n_bytes(&self) -> usize {
        self.partitions.n_bytes()
            + self.rows.n_bytes()
            + self.index.as_ref().map_or(0, HashIndex::n_bytes)
            + self.members.capacity() * size_of::<Vec<u32>>()
            + self.n_members * size_of::<u32>() * 3 / 2
    }

    /// Rows that are kept.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }
}
