//! The hash index: from a 64-bit row hash to the rows that have it.
//!
//! Open addressing with linear probing over 16-byte slots `(hash, head, count)`. A hash maps to its home slot by
//! `(low 32 bits * capacity) >> 32`, so slots lie roughly in hash order and growing is one sequential pass. Rows of one
//! hash form a chain through `next`; the slot points at its newest row. From `SHARD_AT` entries on the table is
//! split into shards by higher hash bits, each of which grows and shrinks alone: no insert pauses for more than a small
//! part of the whole.
//!
//! Costs: a probe is one cache miss while chains are short; inserting and removing a row are the same plus one for the
//! row's links. `next` and `prev` exist only for pages in which some chain has two rows; an index that rows never leave
//! has no `prev`, which saves an insert the miss in it.
//!
//! A shard can be put away. Whoever keeps an index of which that was done brings the shards of the hashes that it is about
//! to use back before (`HashIndex::fetch`); what was only looked at need not be written again. Links stay in memory.
//!
//! Equal hashes need not mean equal keys. Whoever probes compares the keys, unless the hash of the key's type is exact
//! ([`millstream_types::hash::is_exact`]).

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type, UInt64Type};
use millstream_types::{Error, Result};

use crate::cold::{ColdChunk, ColdStore};
use crate::paged::PagedVec;
use crate::prefetch::prefetch;

/// The end of a chain, and "no row".
pub const NO_ROW: u32 = u32::MAX;

const SHARD_BITS: u32 = 6;
/// Entries from which on the table is split into shards.
const SHARD_AT: usize = if cfg!(test) { 1 << 8 } else { 1 << 15 };
const INITIAL_SLOTS: usize = 16;
/// A shard with fewer entries for its slots than one in so many shrinks.
const SLOTS_PER_ENTRY_MAX: usize = 16;
/// Memory for links that an index keeps, each way, when its last row has left.
const EMPTY_LINK_BYTES_MAX: usize = 1 << 16;
/// How far ahead of use slots are prefetched.
const LOOKAHEAD: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u64,
    head: u32,
    count: u32,
}

const EMPTY: Slot = Slot { hash: 0, head: NO_ROW, count: 0 };

#[derive(Debug, Default)]
struct Shard {
    /// None while they are away.
    slots: Vec<Slot>,
    n_used: usize,
    /// The slots as they were put away, if they are still so.
    copy: Option<Arc<dyn ColdChunk>>,
}

/// What is to be done with the entries of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// They are looked at.
    Read,
    /// They may change.
    Write,
}

impl Shard {
    fn with_slots(n_slots: usize) -> Self {
        Shard { slots: vec![EMPTY; n_slots], n_used: 0, copy: None }
    }

    fn is_away(&self) -> bool {
        self.slots.is_empty()
    }

    /// The used slots as rows.
    fn rows(&self) -> Result<RecordBatch> {
        let new = || Vec::with_capacity(self.n_used);
        let (mut hashes, mut heads, mut counts) = (Vec::with_capacity(self.n_used), new(), new());
        for slot in self.slots.iter().filter(|slot| slot.head != NO_ROW) {
            hashes.push(slot.hash);
            heads.push(slot.head);
            counts.push(slot.count);
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(hashes)),
            Arc::new(UInt32Array::from(heads)),
            Arc::new(UInt32Array::from(counts)),
        ];
        let types = [("hash", DataType::UInt64), ("head", DataType::UInt32), ("count", DataType::UInt32)];
        let fields: Vec<Field> = types.into_iter().map(|(name, t)| Field::new(name, t, false)).collect();
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }

    fn put_away(&mut self, store: &dyn ColdStore) -> Result<()> {
        if self.copy.is_none() {
            self.copy = Some(store.put(&self.rows()?)?);
        }
        self.slots = Vec::new();
        Ok(())
    }

    /// Brings the slots back.
    fn fetch(&mut self) -> Result<()> {
        let copy = self.copy.as_ref().ok_or_else(|| Error::internal("a shard of an index is not where it was put"))?;
        let rows = copy.read(None)?;
        let (hashes, heads) =
            (rows.column(0).as_primitive::<UInt64Type>(), rows.column(1).as_primitive::<UInt32Type>());
        let counts = rows.column(2).as_primitive::<UInt32Type>();
        // Below the load at which it would grow.
        let n_slots = (rows.num_rows() * 3 / 2).max(INITIAL_SLOTS);
        let mut shard = Shard { copy: self.copy.clone(), ..Shard::with_slots(n_slots) };
        for ((&hash, &head), &count) in hashes.values().iter().zip(heads.values()).zip(counts.values()) {
            let at = shard.find(hash);
            shard.slots[at] = Slot { hash, head, count };
        }
        shard.n_used = rows.num_rows();
        *self = shard;
        Ok(())
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        (((hash & 0xffff_ffff) * self.slots.len() as u64) >> 32) as usize
    }

    /// The slot that has this hash, or the empty one where it belongs.
    #[inline]
    fn find(&self, hash: u64) -> usize {
        let mut at = self.home(hash);
        loop {
            let slot = &self.slots[at];
            if slot.head == NO_ROW || slot.hash == hash {
                return at;
            }
            at += 1;
            if at == self.slots.len() {
                at = 0;
            }
        }
    }

    /// Keeps the load below 4/5.
    fn make_room(&mut self) {
        if (self.n_used + 1) * 5 > self.slots.len() * 4 {
            self.resize(self.slots.len() * 2);
        }
    }

    /// Gives memory back when most entries have left. Shrinking to a quarter leaves as much room again, so that it costs
    /// each removal a constant.
    fn give_back(&mut self) {
        if self.slots.len() > INITIAL_SLOTS && self.n_used * SLOTS_PER_ENTRY_MAX < self.slots.len() {
            self.resize((self.slots.len() / 4).max(INITIAL_SLOTS));
        }
    }

    fn resize(&mut self, n_slots: usize) {
        let mut resized = Shard::with_slots(n_slots);
        for slot in self.slots.iter().filter(|s| s.head != NO_ROW) {
            let at = resized.find(slot.hash);
            resized.slots[at] = *slot;
        }
        resized.n_used = self.n_used;
        resized.copy = self.copy.take();
        *self = resized;
    }

    /// Empties a slot and moves later ones back so that no probe is cut short.
    fn clear_slot(&mut self, mut hole: usize) {
        let n = self.slots.len();
        self.n_used -= 1;
        let mut at = hole;
        loop {
            at = if at + 1 == n { 0 } else { at + 1 };
            let slot = self.slots[at];
            if slot.head == NO_ROW {
                break;
            }
            let home = self.home(slot.hash);
            // The slot may fill the hole unless its home lies cyclically after the hole.
            let stays = if hole <= at { hole < home && home <= at } else { hole < home || home <= at };
            if !stays {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = EMPTY;
    }
}

/// An index from row hashes to row ids.
#[derive(Debug)]
pub struct HashIndex {
    shards: Vec<Shard>,
    shard_bits: u32,
    next: PagedVec<u32>,
    /// `None` if rows never leave.
    prev: Option<PagedVec<u32>>,
    n_rows: usize,
    /// Some shard is away, or is in memory as it was put away.
    has_copies: bool,
}

impl Default for HashIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl HashIndex {
    /// An empty index.
    pub fn new() -> Self {
        HashIndex { prev: Some(PagedVec::new(NO_ROW)), ..Self::append_only() }
    }

    /// An empty index from which no row is ever removed.
    pub fn append_only() -> Self {
        HashIndex {
            shards: vec![Shard::with_slots(INITIAL_SLOTS)],
            shard_bits: 0,
            next: PagedVec::new(NO_ROW),
            prev: None,
            n_rows: 0,
            has_copies: false,
        }
    }

    /// Rows in the index.
    pub fn len(&self) -> usize {
        self.n_rows
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.n_rows == 0
    }

    /// Allocated bytes.
    pub fn n_bytes(&self) -> usize {
        let slots: usize = self.shards.iter().map(|s| s.slots.capacity() * size_of::<Slot>()).sum();
        slots + self.next.n_bytes() + self.prev.as_ref().map_or(0, PagedVec::n_bytes)
    }

    /// Bytes of shards that are in memory and can be put away.
    pub(crate) fn n_bytes_spillable(&self) -> usize {
        if self.shard_bits == 0 {
            return 0;
        }
        self.shards.iter().map(|s| s.slots.capacity() * size_of::<Slot>()).sum()
    }

    /// Bytes of shards where they were put.
    pub(crate) fn n_bytes_away(&self) -> usize {
        self.shards.iter().filter_map(|shard| shard.copy.as_ref()).map(|copy| copy.n_bytes()).sum()
    }

    /// Whether shards may have to be fetched.
    pub(crate) fn has_copies(&self) -> bool {
        self.has_copies
    }

    /// The number of shards.
    pub(crate) fn n_shards(&self) -> usize {
        self.shards.len()
    }

    /// Puts shards away that are in memory, of a range.
    ///
    /// # Errors
    /// If that cannot be; then what is left stays.
    pub(crate) fn put_away(&mut self, shards: std::ops::Range<usize>, store: &dyn ColdStore) -> Result<()> {
        if self.shard_bits == 0 {
            return Ok(());
        }
        for shard in self.shards[shards].iter_mut().filter(|shard| !shard.is_away()) {
            self.has_copies = true;
            shard.put_away(store)?;
        }
        Ok(())
    }

    /// Brings the shards of hashes into memory.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn fetch(&mut self, hashes: &[u64], access: Access) -> Result<()> {
        if !self.has_copies {
            return Ok(());
        }
        let mut is_wanted = [false; 1 << SHARD_BITS];
        hashes.iter().for_each(|&hash| is_wanted[self.shard_of(hash)] = true);
        for (shard, _) in self.shards.iter_mut().zip(is_wanted).filter(|(_, is_wanted)| *is_wanted) {
            if shard.is_away() {
                shard.fetch()?;
            }
            if access == Access::Write {
                shard.copy = None;
            }
        }
        self.has_copies = self.shards.iter().any(|shard| shard.copy.is_some());
        Ok(())
    }

    /// Shards are told apart by bits below the partition's, so that a worker's few partitions still fill all shards.
    #[inline]
    pub(crate) fn shard_of(&self, hash: u64) -> usize {
        ((hash >> 48) & ((1 << self.shard_bits) - 1)) as usize
    }

    #[inline]
    fn prefetch(&self, hash: u64) {
        let shard = &self.shards[self.shard_of(hash)];
        prefetch(&shard.slots[shard.home(hash)]);
    }

    fn split_if_large(&mut self) {
        if self.shard_bits != 0 || self.shards[0].n_used < SHARD_AT {
            return;
        }
        let whole = std::mem::take(&mut self.shards[0]);
        self.shard_bits = SHARD_BITS;
        self.shards = (0..1usize << SHARD_BITS).map(|_| Shard::with_slots((2 * SHARD_AT) >> SHARD_BITS)).collect();
        for slot in whole.slots.into_iter().filter(|s| s.head != NO_ROW) {
            let shard_idx = self.shard_of(slot.hash);
            let shard = &mut self.shards[shard_idx];
            shard.make_room();
            let at = shard.find(slot.hash);
            shard.slots[at] = slot;
            shard.n_used += 1;
        }
    }

    /// Adds a row, in front of its chain.
    #[inline]
    pub fn insert(&mut self, hash: u64, row: u32) {
        let shard_idx = self.shard_of(hash);
        let shard = &mut self.shards[shard_idx];
        shard.make_room();
        let at = shard.find(hash);
        let slot = &mut shard.slots[at];
        self.n_rows += 1;
        if slot.head == NO_ROW {
            *slot = Slot { hash, head: row, count: 1 };
            shard.n_used += 1;
            let grew = shard.n_used == SHARD_AT;
            if grew {
                self.split_if_large();
            }
        } else {
            let old = slot.head;
            slot.head = row;
            slot.count += 1;
            self.next.set(row, old);
            if let Some(prev) = &mut self.prev {
                prev.set(old, row);
            }
        }
    }

    /// Adds one row for each hash.
    pub fn insert_all(&mut self, hashes: &[u64], rows: impl IntoIterator<Item = u32>) {
        hashes.iter().take(LOOKAHEAD).for_each(|&h| self.prefetch(h));
        for (i, row) in rows.into_iter().enumerate() {
            if let Some(&ahead) = hashes.get(i + LOOKAHEAD) {
                self.prefetch(ahead);
            }
            self.insert(hashes[i], row);
        }
    }

    /// Removes a row.
    ///
    /// # Panics
    /// If the row is not in the index under this hash (debug builds see all such cases), or if rows never leave it.
    pub fn remove(&mut self, hash: u64, row: u32) {
        let shard_idx = self.shard_of(hash);
        let links = self.prev.as_mut().expect("an append-only index loses no rows");
        let next = self.next.get(row);
        let shard = &mut self.shards[shard_idx];
        let at = shard.find(hash);
        let slot = &mut shard.slots[at];
        assert!(slot.count > 0, "the row is in the index");
        self.n_rows -= 1;
        slot.count -= 1;
        if slot.head == row {
            if next == NO_ROW {
                debug_assert_eq!(slot.count, 0);
                shard.clear_slot(at);
                shard.give_back();
                if self.n_rows == 0 && self.next.n_bytes() > EMPTY_LINK_BYTES_MAX {
                    self.next.clear();
                    links.clear();
                }
                return;
            }
            slot.head = next;
            links.set(next, NO_ROW);
        } else {
            let prev = links.get(row);
            debug_assert_ne!(prev, NO_ROW, "the row is in the index");
            self.next.set(prev, next);
            if next != NO_ROW {
                links.set(next, prev);
            }
            links.set(row, NO_ROW);
        }
        if next != NO_ROW {
            self.next.set(row, NO_ROW);
        }
    }

    /// The newest row with this hash and the number of rows that have it.
    #[inline]
    pub fn head(&self, hash: u64) -> Option<(u32, u32)> {
        let shard = &self.shards[self.shard_of(hash)];
        let slot = &shard.slots[shard.find(hash)];
        (slot.head != NO_ROW).then_some((slot.head, slot.count))
    }

    /// The row after `row` in its chain, or [`NO_ROW`].
    #[inline]
    pub fn next(&self, row: u32) -> u32 {
        self.next.get(row)
    }

    /// All rows with this hash, newest first.
    pub fn rows(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        let mut row = self.head(hash).map_or(NO_ROW, |(head, _)| head);
        std::iter::from_fn(move || {
            let this = row;
            (this != NO_ROW).then(|| {
                row = self.next.get(this);
                this
            })
        })
    }

    /// Calls `found(probe_idx, head, count)` for each hash that has rows, in order.
    #[inline]
    pub fn probe_all(&self, hashes: &[u64], mut found: impl FnMut(usize, u32, u32)) {
        self.probe_while(hashes, |i, head, count| {
            found(i, head, count);
            true
        });
    }

    /// Calls `found(probe_idx, head, count)` for each hash that has rows, in order, for as long as it returns true.
    #[inline]
    pub fn probe_while(&self, hashes: &[u64], mut found: impl FnMut(usize, u32, u32) -> bool) {
        hashes.iter().take(LOOKAHEAD).for_each(|&h| self.prefetch(h));
        for (i, &hash) in hashes.iter().enumerate() {
            if let Some(&ahead) = hashes.get(i + LOOKAHEAD) {
                self.prefetch(ahead);
            }
            if let Some((head, count)) = self.head(hash)
                && !found(i, head, count)
            {
                return;
            }
        }
    }

    /// For each hash calls `place(probe_idx, head)`; where there is no row yet, `head` is [`NO_ROW`] and the row that
    /// `place` returns is added. Otherwise the result is ignored.
    #[inline]
    pub fn find_or_insert_all(&mut self, hashes: &[u64], mut place: impl FnMut(usize, u32) -> u32) {
        hashes.iter().take(LOOKAHEAD).for_each(|&h| self.prefetch(h));
        for (i, &hash) in hashes.iter().enumerate() {
            if let Some(&ahead) = hashes.get(i + LOOKAHEAD) {
                self.prefetch(ahead);
            }
            let shard_idx = self.shard_of(hash);
            let shard = &mut self.shards[shard_idx];
            shard.make_room();
            let at = shard.find(hash);
            let slot = &mut shard.slots[at];
            let row = place(i, slot.head);
            if slot.head == NO_ROW {
                *slot = Slot { hash, head: row, count: 1 };
                shard.n_used += 1;
                self.n_rows += 1;
                if shard.n_used == SHARD_AT {
                    self.split_if_large();
                }
            }
        }
    }

    /// Gives a row another id, in place in its chain.
    ///
    /// # Panics
    /// If rows never leave this index.
    pub fn rename(&mut self, hash: u64, row: u32, new_row: u32) {
        let shard_idx = self.shard_of(hash);
        let links = self.prev.as_mut().expect("an append-only index renames no rows");
        let (next, prev) = (self.next.get(row), links.get(row));
        let shard = &mut self.shards[shard_idx];
        let at = shard.find(hash);
        if shard.slots[at].head == row {
            shard.slots[at].head = new_row;
        } else {
            self.next.set(prev, new_row);
        }
        if next != NO_ROW {
            links.set(next, new_row);
            self.next.set(row, NO_ROW);
        }
        if self.next.get(new_row) != next {
            self.next.set(new_row, next);
        }
        if prev != NO_ROW {
            links.set(row, NO_ROW);
        }
        if links.get(new_row) != prev {
            links.set(new_row, prev);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_types::hash::mix;
    use std::collections::{BTreeMap, BTreeSet};

    fn check(index: &HashIndex, model: &BTreeMap<u64, BTreeSet<u32>>) {
        for (&hash, rows) in model {
            let got: BTreeSet<u32> = index.rows(hash).collect();
            assert_eq!(&got, rows);
            assert_eq!(index.head(hash).map_or(0, |(_, n)| n as usize), rows.len());
        }
        assert_eq!(index.len(), model.values().map(BTreeSet::len).sum::<usize>());
    }

    /// Random inserts, removals and renames against a map of sets; few distinct hashes, so chains are long, and some
    /// hashes share their home slot.
    #[test]
    fn behaves_like_a_map_of_sets() {
        for seed in 0..20u64 {
            let mut index = HashIndex::new();
            let mut model: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
            let mut row_of = Vec::new();
            for step in 0..4000u64 {
                let r = mix(seed * 1_000_003 + step);
                let hash = if seed % 2 == 0 { mix(r % 97) } else { (r % 300) << 30 };
                if r >> 60 < 9 || row_of.is_empty() {
                    let row = step as u32;
                    index.insert(hash, row);
                    model.entry(hash).or_default().insert(row);
                    row_of.push((hash, row));
                } else {
                    let (hash, row) = row_of.swap_remove((r >> 8) as usize % row_of.len());
                    let rows = model.get_mut(&hash).expect("inserted before");
                    rows.remove(&row);
                    if r >> 60 < 12 {
                        index.remove(hash, row);
                    } else {
                        let new_row = 1_000_000 + step as u32;
                        index.rename(hash, row, new_row);
                        rows.insert(new_row);
                        row_of.push((hash, new_row));
                    }
                }
            }
            check(&index, &model);
        }
    }

    #[test]
    fn shards_that_were_put_away_come_back_as_they_were() {
        let (mut index, store) = (HashIndex::new(), crate::ColdMemory::default());
        let mut model: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
        let mut row_of: Vec<(u64, u32)> = Vec::new();
        for round in 0..12u64 {
            for i in 0..20_000u64 {
                let (hash, row) = (mix(mix(round * 20_000 + i) % 60_000), (round * 20_000 + i) as u32);
                index.fetch(&[hash], Access::Write).expect("it can be read");
                index.insert(hash, row);
                model.entry(hash).or_default().insert(row);
                row_of.push((hash, row));
            }
            let before = index.n_bytes();
            index.put_away(0..index.n_shards(), &store).expect("it can be put there");
            assert_eq!(store.n_bytes(), index.n_bytes_away());
            assert!(index.shard_bits == 0 || index.n_bytes() < before && index.n_bytes_spillable() == 0);
            for (hash, row) in row_of.drain(..5_000) {
                index.fetch(&[hash], Access::Write).expect("it can be read");
                index.remove(hash, row);
                model.get_mut(&hash).expect("inserted before").remove(&row);
            }
            let hashes: Vec<u64> = model.keys().copied().collect();
            index.fetch(&hashes, Access::Read).expect("it can be read");
            check(&index, &model);
        }
        assert!(index.shard_bits > 0);
        index.put_away(0..index.n_shards(), &store).expect("it can be put there");
        store.set_fails(true);
        let (hash, _) = row_of[0];
        index.fetch(&[hash], Access::Read).expect_err("it cannot be read");
    }

    #[test]
    fn grows_over_the_split_into_shards() {
        let mut index = HashIndex::new();
        let hashes: Vec<u64> = (0..200_000).map(mix).collect();
        index.insert_all(&hashes, 0..200_000);
        let mut n = 0;
        index.probe_all(&hashes, |i, head, count| {
            assert_eq!((head as usize, count), (i, 1));
            n += 1;
        });
        assert_eq!(n, 200_000);
        index.find_or_insert_all(&hashes, |i, head| {
            assert_eq!(head as usize, i);
            head
        });
        let n_bytes = index.n_bytes();
        for (i, &hash) in hashes.iter().enumerate() {
            index.remove(hash, i as u32);
        }
        assert!(index.is_empty() && index.shards.iter().all(|s| s.n_used == 0));
        assert!(index.n_bytes() * 50 < n_bytes, "{} bytes are left of {n_bytes}", index.n_bytes());
    }
}
