//! What of an arrangement is saved, and what has changed since.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use millstream_types::Result;

use super::Arrangement;
use crate::changes::TableShape;
use crate::codec::compacted;
use crate::column::{chunk_of, offset_of};
use crate::snapshot::RowBits;
use crate::unsaved::{Identities, UnsavedChunk, UnsavedRows};

impl Arrangement {
    /// What has changed since the last call, or all that there is on the first; from now on it counts as saved. Called
    /// between epochs; takes time for each chunk, not for each row.
    pub fn take_unsaved(&mut self) -> UnsavedRows {
        let schema = self.rows.schema.clone();
        let shape = match &self.saved_identity {
            Some(identity) => TableShape::keyed(schema, identity.clone()),
            None => TableShape::multiset(schema),
        };
        let mut unsaved = UnsavedRows::new(shape);
        unsaved.forgotten = std::mem::take(&mut self.forgotten_saved);
        let published = self.published.lock();
        for (chunk_idx, chunk) in self.chunks.iter_mut().enumerate() {
            let living = RowBits::first(chunk.n_sealed).without(&chunk.dead);
            let (came, gone) = (living.without(&chunk.saved), chunk.saved.and(&chunk.dead));
            if came.count() + gone.count() == 0 {
                continue;
            }
            chunk.saved = living;
            let image = published.chunks[chunk_idx].as_ref().expect("rows that are sealed are published");
            unsaved.chunk_idxs.push(chunk_idx);
            unsaved.chunks.push(UnsavedChunk { image: Arc::clone(image), came, gone });
        }
        unsaved
    }

    /// All rows that there are count as saved.
    pub fn note_saved(&mut self) {
        for chunk in &mut self.chunks {
            chunk.saved = RowBits::first(chunk.n_sealed).without(&chunk.dead);
        }
        self.forgotten_saved = Identities::default();
    }

    /// Says by which columns rows are partitioned: what tells saved rows apart says then where they belong, too. Called
    /// while there are no rows.
    pub fn note_place(&mut self, partitioned_by: &[usize]) {
        if let Some(identity) = &mut self.saved_identity {
            let new: Vec<usize> = partitioned_by.iter().copied().filter(|c| !identity.contains(c)).collect();
            identity.extend(new);
        }
    }

    /// Keeps the identities of those of some rows that are saved, and are about to be forgotten. Of chunks that were put away
    /// one is in memory at a time, if the rows ascend.
    pub(super) fn note_forgotten(&mut self, gone: &[u32]) -> Result<()> {
        let Some(identity) = &self.saved_identity else { return Ok(()) };
        let is_saved = |row: &u32| self.chunks[chunk_of(*row)].saved.get(offset_of(*row));
        let saved: Vec<u32> = gone.iter().copied().filter(is_saved).collect();
        if saved.is_empty() {
            return Ok(());
        }
        let schema = Arc::new(self.rows.schema.project(identity).expect("columns of its own"));
        let store = self.short_of_memory();
        for piece in saved.chunk_by(|&a, &b| !self.rows.has_away() || chunk_of(a) == chunk_of(b)) {
            let columns = self.rows.gather_columns(identity, piece)?;
            // They outlive the chunk.
            let columns = columns.iter().map(compacted).collect();
            let options = RecordBatchOptions::new().with_row_count(Some(piece.len()));
            let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options);
            self.forgotten_saved.push(batch.expect("columns of its own"));
            if let Some(store) = &store {
                // What cannot be put away stays.
                self.cannot_spill |= self.forgotten_saved.put_away(&**store).is_err();
            }
        }
        for row in saved {
            self.chunks[chunk_of(row)].saved.clear(offset_of(row));
        }
        Ok(())
    }
}
