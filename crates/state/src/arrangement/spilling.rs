//! What of an arrangement is put away where memory is short.

use std::sync::Arc;

use millstream_types::Result;

use super::{Arrangement, CALM_EPOCHS};
use crate::cold::ColdStore;
use crate::column::chunk_of;

impl Arrangement {
    /// From now on what it has can be put away, there.
    pub fn spill_into(&mut self, store: Arc<dyn ColdStore>) {
        self.store = Some(store);
    }

    /// Puts away what only the next checkpoint asks for, then chunks that only others hold still, then full chunks, then
    /// shards of indexes, until about `n_bytes` of memory are free; returns how many are.
    ///
    /// # Errors
    /// If something cannot be put away; then it stays in memory, and [`Arrangement::n_bytes_spillable`] is nothing until it
    /// has worked again.
    pub fn spill(&mut self, n_bytes: usize) -> Result<usize> {
        let Some(store) = self.store.clone() else { return Ok(0) };
        self.n_calm = 0;
        let spilled = self.spill_to(&*store, n_bytes);
        self.cannot_spill = spilled.is_err();
        spilled
    }

    fn spill_to(&mut self, store: &dyn ColdStore, n_bytes: usize) -> Result<usize> {
        let before = self.n_bytes();
        // Nobody reads those before the next checkpoint.
        self.forgotten_saved.put_away(store)?;
        let wanted = n_bytes.saturating_sub(before.saturating_sub(self.n_bytes()));
        let left_behind = self.left_behind.n_bytes().saturating_sub(wanted);
        self.left_behind.put_away(left_behind, &self.rows.schema, store)?;
        let mut freed = before.saturating_sub(self.n_bytes());
        for _ in 0..self.chunks.len() {
            if freed >= n_bytes {
                return Ok(freed);
            }
            let chunk = self.next_to_go % self.chunks.len();
            self.next_to_go = chunk + 1;
            if !self.rows.can_go(chunk) {
                continue;
            }
            self.put_chunk_away(chunk, store)?;
            freed = before.saturating_sub(self.n_bytes());
        }
        for index in 0..self.indexes.len() {
            for shard in 0..self.indexes[index].index.n_shards() {
                if freed >= n_bytes {
                    return Ok(freed);
                }
                self.indexes[index].index.put_away(shard..shard + 1, store)?;
                freed = before.saturating_sub(self.n_bytes());
            }
        }
        Ok(freed)
    }

    /// Puts a chunk away, for all who hold it.
    fn put_chunk_away(&mut self, chunk: usize, store: &dyn ColdStore) -> Result<()> {
        self.rows.put_away(chunk, store)?;
        if let Some(columns) = &self.chunks[chunk].columns {
            columns.set(self.rows.share(chunk));
        }
        Ok(())
    }

    /// Puts chunks away that rows have been moved to, once they are full, as long as memory is short.
    pub(super) fn put_away_filled(&mut self, moved: &[u32]) {
        let Some(store) = self.short_of_memory() else { return };
        for rows in moved.chunk_by(|&a, &b| chunk_of(a) == chunk_of(b)) {
            let chunk = chunk_of(rows[0]);
            // What cannot be put away stays.
            self.cannot_spill |= self.rows.can_go(chunk) && self.put_chunk_away(chunk, &*store).is_err();
        }
    }

    /// Frees chunks, but for what others hold of them.
    pub(super) fn drop_chunks(&mut self, chunks: &[usize]) {
        self.left_behind.prune();
        for &chunk_idx in chunks {
            let n_bytes = self.rows.n_bytes_of(chunk_idx);
            if let Some(columns) = std::mem::take(&mut self.chunks[chunk_idx]).columns.filter(|_| n_bytes > 0) {
                self.left_behind.push(&columns, n_bytes);
            }
            self.rows.drop_chunk(chunk_idx);
        }
    }

    /// Where shards of indexes go back to after their use, as long as memory is short.
    pub(super) fn short_of_memory(&self) -> Option<Arc<dyn ColdStore>> {
        self.store.clone().filter(|_| self.n_calm < CALM_EPOCHS && !self.cannot_spill)
    }

    /// Whether a part of an index is away, so that each call that needs all of it reads that.
    pub fn has_index_away(&self) -> bool {
        self.indexes.iter().any(|index| index.index.n_bytes_away() > 0)
    }

    /// Of the bytes in memory, those that can be put away: none after an attempt that has failed.
    pub fn n_bytes_spillable(&self) -> usize {
        if self.cannot_spill { 0 } else { self.n_bytes_to_spill() }
    }

    /// Of the bytes in memory, those that it can be attempted to put away.
    pub fn n_bytes_to_spill(&self) -> usize {
        if self.store.is_none() {
            return 0;
        }
        let here =
            (0..self.chunks.len()).filter(|&chunk| self.rows.away(chunk).is_none() && self.rows.len_of(chunk) > 0);
        let (mut n_here, mut n_can_go) = (0, 0);
        here.for_each(|chunk| {
            n_here += 1;
            n_can_go += usize::from(self.rows.can_go(chunk));
        });
        let of_indexes: usize = self.indexes.iter().map(|index| index.index.n_bytes_spillable()).sum();
        let of_chunks = self.rows.n_bytes() / n_here.max(1) * n_can_go + self.left_behind.n_bytes();
        of_chunks + of_indexes + self.forgotten_saved.n_bytes_spillable()
    }

    /// Bytes that were put away, where they are.
    pub fn n_bytes_spilled(&self) -> usize {
        let of_indexes: usize = self.indexes.iter().map(|index| index.index.n_bytes_away()).sum();
        self.rows.n_bytes_away() + of_indexes + self.forgotten_saved.n_bytes_away()
    }
}
