//! Rows of a stream that lie elsewhere for good, and those that are forgotten after a while.
//!
//! What a checkpoint has written of a stream leaves memory: blocks that are read from where it was put take the place of the
//! chunks. They have no row ids, so this is for rows that are never deleted and not indexed; those of an indexed stream stay.
//!
//! Retention is a *floor*: from some epoch on, rows that were born at or before it are forgotten, all at once, wherever they
//! are. Readers at that epoch or a later one do not see them; blocks and chunks without other rows go when nobody can ask for
//! an earlier epoch any more. No reader of changes is told: a view keeps what it has taken in.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use millstream_types::{Epoch, Error, Result};

use super::{Arrangement, Chunk};
use crate::chunk_columns::ChunkColumns;
use crate::snapshot::{Births, ChunkImage, RowBits};
use crate::stored::StoredBlock;
use crate::unsaved::UnsavedRows;

/// What an arrangement has stored.
#[derive(Default)]
pub(super) struct Stored {
    /// What is published of it; all in blocks.
    images: Arc<Vec<Arc<ChunkImage>>>,
    n_rows: usize,
    /// Bytes where the blocks lie.
    n_bytes: usize,
    /// Chunks whose rows were handed over to be stored.
    handed_over: Vec<usize>,
    /// Blocks that take the place of others as soon as nobody can tell their births apart.
    replacements: VecDeque<Replacement>,
    /// From the first epoch on, rows that were born at or before the second are forgotten.
    floors: Vec<(Epoch, Epoch)>,
}

struct Replacement {
    /// The objects whose blocks go.
    objects: HashSet<u64>,
    /// No row was born later.
    up_to: Epoch,
    blocks: Vec<StoredBlock>,
}

impl Stored {
    /// What is known of the blocks takes memory.
    pub(super) fn n_bytes_in_memory(&self) -> usize {
        self.images.len() * (size_of::<ChunkImage>() + size_of::<Arc<ChunkImage>>())
    }

    /// Whether an index finds all rows, and none that is forgotten.
    pub(super) fn is_indexable(&self) -> bool {
        self.images.is_empty() && self.floors.is_empty()
    }

    fn object(image: &ChunkImage) -> Option<u64> {
        match &image.columns {
            ChunkColumns::Stored(block) => Some(block.object),
            _ => None,
        }
    }

    fn set(&mut self, images: Vec<Arc<ChunkImage>>) {
        let n_bytes = |image: &Arc<ChunkImage>| match &image.columns {
            ChunkColumns::Stored(block) => block.rows.n_bytes(),
            _ => 0,
        };
        self.n_rows = images.iter().map(|image| image.len).sum();
        self.n_bytes = images.iter().map(n_bytes).sum();
        self.images = Arc::new(images);
    }

    /// Of blocks, the rows that were born after an epoch.
    fn n_rows_after<'a>(images: impl Iterator<Item = &'a Arc<ChunkImage>>, floor: Epoch) -> usize {
        images.map(|image| image.len - image.births.n_born_by(floor, image.len)).sum()
    }
}

fn image_of(block: StoredBlock) -> Arc<ChunkImage> {
    let births = Births::from(block.births.as_slice());
    let len = block.rows.n_rows();
    Arc::new(ChunkImage { columns: ChunkColumns::Stored(block), len, births, reclaimed: RowBits::default() })
}

impl Arrangement {
    /// Whether its rows can be stored: none is ever deleted.
    pub fn can_be_stored(&self) -> bool {
        !self.deletable
    }

    /// Rows that are stored.
    pub fn n_rows_stored(&self) -> usize {
        self.stored.n_rows
    }

    /// Bytes that they take where they lie.
    pub fn n_bytes_stored(&self) -> usize {
        self.stored.n_bytes
    }

    /// Hands over the rows that came since the last call, to be stored: [`Arrangement::store`] follows, for the rows of one
    /// call or of several. Called between epochs.
    pub fn take_to_store(&mut self) -> UnsavedRows {
        if !self.indexes.is_empty() {
            return self.take_unsaved();
        }
        // Rows that come from now on go to other chunks, so that these can go as a whole.
        (0..self.chunks.len()).for_each(|chunk| self.rows.close(chunk));
        let unsaved = self.take_unsaved();
        self.stored.handed_over.extend(&unsaved.chunk_idxs);
        unsaved
    }

    /// Blocks take the place of rows that were handed over up to an epoch. They stay in memory as well where they are indexed.
    ///
    /// # Errors
    /// Internal, if blocks do not have as many rows; then all stays as it is.
    pub fn store(&mut self, up_to: Epoch, blocks: Vec<StoredBlock>) -> Result<()> {
        let chunks = &self.chunks;
        let is_stored = |chunk: &usize| chunks[*chunk].births.newest() <= up_to;
        let (gone, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.stored.handed_over).into_iter().partition(is_stored);
        self.stored.handed_over = later;
        if !self.indexes.is_empty() || gone.is_empty() {
            return Ok(());
        }
        let n_rows: usize = gone.iter().map(|&chunk| self.chunks[chunk].n_sealed).sum();
        let n_stored: usize = blocks.iter().map(|block| block.rows.n_rows()).sum();
        if n_rows != n_stored {
            return Err(Error::internal(format!("{n_stored} rows of a stream were stored instead of {n_rows}")));
        }
        let mut images = (*self.stored.images).clone();
        images.extend(blocks.into_iter().map(image_of));
        self.stored.set(images);
        self.drop_chunks(&gone);
        self.publish_stored(&gone);
        Ok(())
    }

    /// Begins with rows that are stored already, and with a floor that holds from an epoch on; there are none so far.
    pub fn begin_stored(&mut self, from: Epoch, floor: Epoch, blocks: Vec<StoredBlock>) {
        self.stored.set(blocks.into_iter().map(image_of).collect());
        self.n_live += self.stored.n_rows;
        if floor > Epoch::ZERO {
            self.stored.floors = vec![(from, floor)];
        }
        self.publish_stored(&[]);
    }

    /// Blocks take the place of those of some objects, with the same rows, none of which was born after an epoch.
    ///
    /// # Errors
    /// Internal, if they do not have as many rows; then all stays as it is.
    pub fn replace_stored(
        &mut self,
        objects: &[u64],
        up_to: Epoch,
        blocks: Vec<StoredBlock>,
        since: Epoch,
    ) -> Result<()> {
        let objects = objects.iter().copied().collect();
        self.stored.replacements.push_back(Replacement { objects, up_to, blocks });
        self.forget_stored(since)
    }

    /// From an epoch on, rows that were born at or before another are forgotten. It is sealed next.
    pub fn set_floor(&mut self, from: Epoch, floor: Epoch) {
        let last = self.stored.floors.last().map_or(Epoch::ZERO, |(_, floor)| *floor);
        if floor > last {
            self.stored.floors.push((from, floor));
            self.publish_stored(&[]);
        }
    }

    /// Lets go of what nobody can ask for any more.
    pub(super) fn forget_stored(&mut self, since: Epoch) -> Result<()> {
        let is_due = |replacement: &Replacement| replacement.up_to <= since;
        let mut outcome = Ok(());
        let mut has_changed = false;
        while let Some(replacement) = self.stored.replacements.pop_front_if(|replacement| is_due(replacement)) {
            match self.replace(replacement) {
                Ok(()) => has_changed = true,
                Err(error) => outcome = Err(error),
            }
        }
        let n_past = self.stored.floors.partition_point(|(from, _)| *from <= since);
        // The last one of them holds for those rows that lie in a block with later ones.
        let floor = self.stored.floors[..n_past].last().map_or(Epoch::ZERO, |(_, floor)| *floor);
        self.stored.floors.drain(..n_past.saturating_sub(1));
        let gone = if floor > Epoch::ZERO { self.drop_up_to(floor) } else { None };
        if has_changed || gone.is_some() {
            self.publish_stored(&gone.unwrap_or_default());
        }
        outcome
    }

    fn replace(&mut self, Replacement { objects, blocks, .. }: Replacement) -> Result<()> {
        let is_replaced =
            |image: &Arc<ChunkImage>| Stored::object(image).is_some_and(|object| objects.contains(&object));
        let Some(at) = self.stored.images.iter().position(is_replaced) else { return Ok(()) };
        let new: Vec<_> = blocks.into_iter().map(image_of).collect();
        // Blocks of which all rows are forgotten may be gone here.
        let floor = self.stored.floors.first().map_or(Epoch::ZERO, |(_, floor)| *floor);
        let n_before = Stored::n_rows_after(self.stored.images.iter().filter(|image| is_replaced(image)), floor);
        let n_after = Stored::n_rows_after(new.iter(), floor);
        if n_before != n_after {
            let message = format!("{n_after} rows of a stream take the place of {n_before} rows");
            return Err(Error::internal(message));
        }
        let mut images = (*self.stored.images).clone();
        images.retain(|image| !is_replaced(image));
        images.splice(at..at, new);
        let n_rows = self.stored.n_rows;
        self.stored.set(images);
        self.n_live = self.n_live + self.stored.n_rows - n_rows;
        Ok(())
    }

    /// Lets go of blocks and chunks all of whose rows were born at or before an epoch; gives the chunks, if anything went.
    fn drop_up_to(&mut self, floor: Epoch) -> Option<Vec<usize>> {
        let is_gone = |image: &Arc<ChunkImage>| image.births.newest() <= floor;
        let has_gone = self.stored.images.iter().any(is_gone);
        if has_gone {
            let images: Vec<_> = self.stored.images.iter().filter(|image| !is_gone(image)).cloned().collect();
            let n_rows = self.stored.n_rows;
            self.stored.set(images);
            self.n_live -= n_rows - self.stored.n_rows;
        }
        let is_gone = |(idx, chunk): &(usize, &Chunk)| {
            chunk.n_sealed > 0 && self.rows.len_of(*idx) == chunk.n_sealed && chunk.births.newest() <= floor
        };
        let gone: Vec<usize> = self.chunks.iter().enumerate().filter(is_gone).map(|(idx, _)| idx).collect();
        if !gone.is_empty() {
            // Row ids are given again, and an index cannot tell which rows are gone.
            self.indexes.clear();
            self.n_live -= gone.iter().map(|&chunk| self.chunks[chunk].n_sealed).sum::<usize>();
            self.stored.handed_over.retain(|chunk| !gone.contains(chunk));
            self.drop_chunks(&gone);
        }
        (has_gone || !gone.is_empty()).then_some(gone)
    }

    /// Has readers see what is stored, and not the chunks that are gone.
    fn publish_stored(&self, gone: &[usize]) {
        let mut published = self.published.lock();
        published.stored = Arc::clone(&self.stored.images);
        published.floors.clone_from(&self.stored.floors);
        for &chunk in gone {
            if let Some(image) = published.chunks.get_mut(chunk) {
                *image = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
