//! What of an arrangement no checkpoint has yet: rows that came and rows that went since it was last saved.
//!
//! The owner only exchanges sets of rows; the rows themselves are read and copied by whoever writes them, on any thread.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::concat_batches;
use millstream_types::delta::{take_batch, values_bytes};
use millstream_types::hash::{hash_columns, mix};
use millstream_types::{Epoch, Error, Result};

use crate::changes::{HashedRows, TableShape};
use crate::cold::{ColdChunk, ColdStore};
use crate::snapshot::{ChunkImage, RowBits, image_batch};

/// What has changed of an arrangement's rows since it was last saved. Holds memory, not locks.
pub struct UnsavedRows {
    shape: TableShape,
    pub(crate) chunks: Vec<UnsavedChunk>,
    /// Which chunks of the arrangement they are.
    pub(crate) chunk_idxs: Vec<usize>,
    /// Identities of rows that were saved and are forgotten.
    pub(crate) forgotten: Identities,
}

/// Bytes of identities that are put away together, and fewer are not.
const IDENTITIES_BYTES: usize = if cfg!(test) { 1 << 12 } else { 1 << 18 };

/// Identities of rows, in no order; many of them are put away where memory is short.
#[derive(Default)]
pub(crate) struct Identities {
    here: Vec<RecordBatch>,
    away: Vec<Arc<dyn ColdChunk>>,
    n_bytes: usize,
}

impl Identities {
    /// Adds some, which keep nothing else in memory.
    pub(crate) fn push(&mut self, identities: RecordBatch) {
        self.n_bytes += values_bytes(&identities);
        self.here.push(identities);
    }

    pub(crate) fn n_rows(&self) -> usize {
        let here: usize = self.here.iter().map(RecordBatch::num_rows).sum();
        here + self.away.iter().map(|chunk| chunk.n_rows()).sum::<usize>()
    }

    /// Bytes in memory.
    pub(crate) fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Bytes in memory that are worth to be put away.
    pub(crate) fn n_bytes_spillable(&self) -> usize {
        if self.n_bytes >= IDENTITIES_BYTES { self.n_bytes } else { 0 }
    }

    /// Bytes that were put away, where they are.
    pub(crate) fn n_bytes_away(&self) -> usize {
        self.away.iter().map(|chunk| chunk.n_bytes()).sum()
    }

    /// Puts them away, if they are many.
    ///
    /// # Errors
    /// If that cannot be; then what is left stays.
    pub(crate) fn put_away(&mut self, store: &dyn ColdStore) -> Result<()> {
        while self.n_bytes_spillable() > 0 {
            let (mut n, mut n_bytes) = (0, 0);
            while n < self.here.len() && n_bytes < IDENTITIES_BYTES {
                n_bytes += values_bytes(&self.here[n]);
                n += 1;
            }
            let together = concat_batches(&self.here[0].schema(), &self.here[..n])?;
            self.away.push(store.put(&together)?);
            self.here.drain(..n);
            self.n_bytes -= n_bytes;
        }
        Ok(())
    }

    /// All of them, some at a time.
    fn read(&self) -> impl Iterator<Item = Result<RecordBatch>> {
        let here = self.here.iter().map(|identities| Ok(identities.clone()));
        here.chain(self.away.iter().map(|chunk| chunk.read(None)))
    }
}

/// The change of a chunk.
pub(crate) struct UnsavedChunk {
    pub(crate) image: Arc<ChunkImage>,
    pub(crate) came: RowBits,
    pub(crate) gone: RowBits,
}

impl UnsavedRows {
    pub(crate) fn new(shape: TableShape) -> Self {
        UnsavedRows { shape, chunks: Vec::new(), chunk_idxs: Vec::new(), forgotten: Identities::default() }
    }

    /// What the rows are.
    pub fn shape(&self) -> &TableShape {
        &self.shape
    }

    /// Rows that came and rows that went.
    pub fn n_rows(&self) -> usize {
        let of_chunks = self.chunks.iter().map(|chunk| chunk.came.count() + chunk.gone.count());
        of_chunks.sum::<usize>() + self.forgotten.n_rows()
    }

    /// Bytes in memory that are in no arrangement: identities of rows that are gone. What came is the arrangement's, or was.
    pub fn n_bytes(&self) -> usize {
        self.forgotten.n_bytes()
    }

    /// Hands the identities of rows that are gone, and the rows that came, with hashes, to `take`: of the columns `by`,
    /// which are among those of the identity, or of nothing in particular if rows may be anywhere and none ever goes. All
    /// that is gone comes first, then the rows, about so many bytes at a time.
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
        let mut n_rows = 0;
        let mut hashed = |batch: RecordBatch, by: Option<&[usize]>| -> Result<HashedRows> {
            let hashes = match by {
                Some(by) => hashes_of(&batch, by)?,
                None => (n_rows..n_rows + batch.num_rows() as u64).map(mix).collect(),
            };
            n_rows += batch.num_rows() as u64;
            Ok(HashedRows { batch, hashes })
        };
        let (mut pending, mut n_bytes_pending) = (Vec::new(), 0);
        let with_gone = self.chunks.iter().filter(|chunk| chunk.gone.count() > 0);
        let identities = with_gone.map(|c| selected(&self.shape, &c.image, &c.gone, Some(&self.shape.identity)));
        for gone in self.forgotten.read().chain(identities) {
            if places.is_none() {
                return Err(Error::internal("rows that may be anywhere are gone"));
            }
            let gone = gone?;
            n_bytes_pending += values_bytes(&gone);
            pending.push(hashed(gone, places.as_deref())?);
            if n_bytes_pending >= n_bytes {
                take(&std::mem::take(&mut pending), &[])?;
                n_bytes_pending = 0;
            }
        }
        let mut gone = pending;
        let mut came = Vec::new();
        for chunk in self.chunks.iter().filter(|chunk| chunk.came.count() > 0) {
            let rows = selected(&self.shape, &chunk.image, &chunk.came, None)?;
            n_bytes_pending += values_bytes(&rows);
            came.push(hashed(rows, by)?);
            if n_bytes_pending >= n_bytes {
                take(&std::mem::take(&mut gone), &std::mem::take(&mut came))?;
                n_bytes_pending = 0;
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
