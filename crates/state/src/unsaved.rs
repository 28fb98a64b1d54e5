//! What of an arrangement no checkpoint has yet: rows that came and rows that went since it was last saved.
//!
//! The owner only exchanges sets of rows; the rows themselves are read and copied by whoever writes them, on any thread.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use millstream_types::delta::{take_batch, values_bytes};
use millstream_types::hash::{hash_columns, mix};
use millstream_types::{Epoch, Error, Result};

use crate::changes::{HashedRows, TableShape};
use crate::snapshot::{ChunkImage, RowBits, image_batch};

/// What has changed of an arrangement's rows since it was last saved. Holds memory, not locks.
pub struct UnsavedRows {
    shape: TableShape,
    pub(crate) chunks: Vec<UnsavedChunk>,
    /// Which chunks of the arrangement they are.
    pub(crate) chunk_idxs: Vec<usize>,
    /// Identities of rows that were saved and are forgotten.
    pub(crate) forgotten: Vec<RecordBatch>,
}

/// The change of a chunk.
pub(crate) struct UnsavedChunk {
    pub(crate) image: Arc<ChunkImage>,
    pub(crate) came: RowBits,
    pub(crate) gone: RowBits,
}

impl UnsavedRows {
    pub(crate) fn new(shape: TableShape) -> Self {
        UnsavedRows { shape, chunks: Vec::new(), chunk_idxs: Vec::new(), forgotten: Vec::new() }
    }

    /// What the rows are.
    pub fn shape(&self) -> &TableShape {
        &self.shape
    }

    /// Rows that came and rows that went.
    pub fn n_rows(&self) -> usize {
        let of_chunks = self.chunks.iter().map(|chunk| chunk.came.count() + chunk.gone.count());
        of_chunks.chain(self.forgotten.iter().map(RecordBatch::num_rows)).sum()
    }

    /// Hands the identities of rows that are gone, and the rows that came, with hashes, to `take`: of the columns `by`,
    /// which are among those of the identity, or of nothing in particular if rows may be anywhere and none ever goes. All
    /// that is gone comes first, with some of the rows; the others follow, about so many bytes at a time.
    ///
    /// # Errors
    /// If rows cannot be read, or a column's type has no take kernel; internal, if rows are partitioned by more than their
    /// identity; what `take` gives.
    pub fn hand_out(
        &self,
        by: Option<&[usize]>,
        n_bytes: usize,
        mut take: impl FnMut(&[HashedRows], &[HashedRows]) -> Result<()>,
    ) -> Result<()> {
        let places = by.map(|by| self.places_in_identity(by)).transpose()?;
        let (mut gone, mut came, mut n_bytes_came) = (Vec::new(), Vec::new(), 0);
        let mut n_rows = 0;
        let mut add = |rows: &mut Vec<HashedRows>, batch: RecordBatch, by: Option<&[usize]>| -> Result<()> {
            let hashes = match by {
                Some(by) => hashes_of(&batch, by)?,
                None => (n_rows..n_rows + batch.num_rows() as u64).map(mix).collect(),
            };
            n_rows += batch.num_rows() as u64;
            rows.push(HashedRows { batch, hashes });
            Ok(())
        };
        for forgotten in &self.forgotten {
            add(&mut gone, forgotten.clone(), places.as_deref())?;
        }
        for chunk in &self.chunks {
            if chunk.gone.count() > 0 {
                let identities = selected(&self.shape, &chunk.image, &chunk.gone, Some(&self.shape.identity))?;
                add(&mut gone, identities, places.as_deref())?;
            }
        }
        if places.is_none() && !gone.is_empty() {
            return Err(Error::internal("rows that may be anywhere are gone"));
        }
        for chunk in self.chunks.iter().filter(|chunk| chunk.came.count() > 0) {
            let batch = selected(&self.shape, &chunk.image, &chunk.came, None)?;
            n_bytes_came += values_bytes(&batch);
            add(&mut came, batch, by)?;
            if n_bytes_came >= n_bytes {
                take(&std::mem::take(&mut gone), &std::mem::take(&mut came))?;
                n_bytes_came = 0;
            }
        }
        take(&gone, &came)
    }

    /// The rows that came, of which none is gone, in their order, with their births: runs `(first row, epoch)`.
    ///
    /// # Errors
    /// If rows that were put away cannot be read; internal, if some are gone.
    pub fn in_order(&self) -> impl Iterator<Item = Result<(RecordBatch, Vec<(u32, Epoch)>)>> {
        self.chunks.iter().map(|UnsavedChunk { image, came, gone }| {
            let first = came.offsets().next().unwrap_or(0);
            if gone.count() > 0 || came.offsets().last() != Some(first + came.count() - 1) {
                return Err(Error::internal("rows of a stream are gone"));
            }
            Ok((selected(&self.shape, image, came, None)?, image.births.runs_from(first)))
        })
    }

    fn places_in_identity(&self, by: &[usize]) -> Result<Vec<usize>> {
        let place = |column: &usize| self.shape.identity.iter().position(|c| c == column);
        let places: Option<Vec<usize>> = by.iter().map(place).collect();
        places.ok_or_else(|| Error::internal("rows are partitioned by more than their identity"))
    }
}

fn hashes_of(batch: &RecordBatch, by: &[usize]) -> Result<Vec<u64>> {
    let mut hashes = Vec::new();
    hash_columns(batch.project(by)?.columns(), batch.num_rows(), &mut hashes);
    Ok(hashes)
}

fn selected(shape: &TableShape, image: &ChunkImage, rows: &RowBits, columns: Option<&[usize]>) -> Result<RecordBatch> {
    let batch = image_batch(&shape.schema, image, columns)?;
    if rows.count() == image.len {
        return Ok(batch);
    }
    let rows: Vec<u32> = rows.offsets().map(|offset| offset as u32).collect();
    match (rows.first(), rows.last()) {
        // Rows that came one after the other need no copy.
        (Some(&first), Some(&last)) if (last - first) as usize + 1 == rows.len() => {
            Ok(batch.slice(first as usize, rows.len()))
        }
        _ => Ok(take_batch(&batch, &UInt32Array::from(rows))?),
    }
}
