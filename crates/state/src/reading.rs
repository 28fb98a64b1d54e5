//! Reading chunks one after the other, with the next ones on their way where they are far.

use std::collections::VecDeque;

use arrow::array::RecordBatch;
use millstream_types::{Epoch, Result};

use crate::cold::ReadAhead;
use crate::stored::StoredBlock;

/// Chunks of one reader that are on their way at once.
const AHEAD_MAX: usize = 16;

/// The chunks that a reader is about to ask for, as far as they are on their way. Dropped, they are not any more.
#[derive(Debug, Default)]
pub struct ChunksAhead {
    /// In the order in which they will be asked for.
    begun: VecDeque<(usize, ReadAhead)>,
    /// How many may be on their way: twice as many each time, so that who needs little does not have much read for it.
    n_max: usize,
}

impl ChunksAhead {
    /// Has those on their way that come next, as `begin` begins them; gives the chunk that is wanted now, if it is one of
    /// those that were.
    pub(crate) fn take(
        &mut self,
        chunk: usize,
        next: impl IntoIterator<Item = usize>,
        begin: impl Fn(usize) -> Option<ReadAhead>,
    ) -> Option<ReadAhead> {
        self.n_max = (2 * self.n_max).clamp(1, AHEAD_MAX);
        // Those before it are wanted no more.
        while self.begun.front().is_some_and(|(begun, _)| *begun < chunk) {
            self.begun.pop_front();
        }
        let is_begun = self.begun.front().is_some_and(|(begun, _)| *begun == chunk);
        let taken = if is_begun { self.begun.pop_front().map(|(_, rows)| rows) } else { None };
        let last = self.begun.back().map_or(chunk, |(last, _)| *last);
        for next in next.into_iter().take(self.n_max).skip_while(|next| *next <= last) {
            self.begun.extend(begin(next).map(|rows| (next, rows)));
        }
        taken
    }
}

/// The rows of blocks, in order, forgotten ones too.
pub fn read_blocks(blocks: &[StoredBlock]) -> impl Iterator<Item = Result<RecordBatch>> {
    let mut ahead = ChunksAhead::default();
    blocks.iter().enumerate().map(move |(i, block)| {
        match ahead.take(i, i + 1..blocks.len(), |next| blocks[next].rows.read_ahead(None)) {
            Some(rows) => rows.wait(),
            None => block.rows.read(None),
        }
    })
}

/// Of each block the rows that were born after an epoch.
///
/// # Errors
/// As [`ColdChunk::read`](crate::ColdChunk::read).
pub fn rows_after(blocks: &[StoredBlock], floor: Epoch) -> Result<Vec<RecordBatch>> {
    let born_later = |(rows, block): (Result<RecordBatch>, &StoredBlock)| {
        let rows = rows?;
        let first = block.births.iter().find(|(_, epoch)| *epoch > floor);
        let first = first.map_or(rows.num_rows(), |(first, _)| *first as usize);
        Ok(rows.slice(first, rows.num_rows() - first))
    };
    read_blocks(blocks).zip(blocks).map(born_later).collect()
}

#[cfg(test)]
mod tests;
