//! The readers' end of an arrangement: its rows at an epoch, and the difference between two.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use millstream_types::{Delta, Epoch, Result};
use parking_lot::Mutex;

use crate::column::{CHUNK_ROWS, ColumnImage, chunk_of, offset_of};

/// A set of rows of a chunk; copies share memory until one changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowBits {
    words: Option<Arc<[u64; CHUNK_ROWS / 64]>>,
    count: usize,
}

impl RowBits {
    #[inline]
    pub(crate) fn get(&self, offset: usize) -> bool {
        self.words.as_ref().is_some_and(|w| w[offset / 64] >> (offset % 64) & 1 == 1)
    }

    pub(crate) fn set(&mut self, offset: usize) {
        let words = self.words.get_or_insert_with(|| Arc::new([0; CHUNK_ROWS / 64]));
        let word = &mut Arc::make_mut(words)[offset / 64];
        self.count += usize::from(*word >> (offset % 64) & 1 == 0);
        *word |= 1 << (offset % 64);
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

/// When the rows of a chunk were born: runs `(first row, epoch)` with ascending epochs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Births(Vec<(u32, Epoch)>);

impl Births {
    pub(crate) fn push(&mut self, first_row: usize, epoch: Epoch) {
        debug_assert!(self.0.last().is_none_or(|l| l.1 <= epoch));
        self.0.push((first_row as u32, epoch));
    }

    /// Makes one run of those that nobody tells apart any more.
    pub(crate) fn fold(&mut self, since: Epoch) {
        let n_old = self.0.partition_point(|r| r.1 <= since);
        if n_old > 1 {
            let newest = self.0[n_old - 1].1;
            self.0.drain(1..n_old);
            self.0[0].1 = newest;
        }
    }

    pub(crate) fn newest(&self) -> Epoch {
        self.0.last().map_or(Epoch::ZERO, |r| r.1)
    }

    /// How many of the first `len` rows were born at or before an epoch.
    #[inline]
    pub(crate) fn n_born_by(&self, epoch: Epoch, len: usize) -> usize {
        match self.0.last() {
            Some((_, newest)) if *newest > epoch => {
                let i = self.0.partition_point(|r| r.1 <= epoch);
                self.0[i].0 as usize
            }
            _ => len,
        }
    }
}

/// A chunk as readers hold it.
pub(crate) struct ChunkImage {
    pub(crate) columns: Vec<ColumnImage>,
    pub(crate) len: usize,
    pub(crate) births: Births,
    /// Rows that no reader sees any more.
    pub(crate) reclaimed: RowBits,
}

/// What the owner has published; exchanged at each seal.
#[derive(Default)]
pub(crate) struct Published {
    pub(crate) chunks: Vec<Option<Arc<ChunkImage>>>,
    pub(crate) deaths: VecDeque<(Epoch, Arc<[u32]>)>,
    pub(crate) sealed: Epoch,
}

/// Reads an arrangement from any thread.
#[derive(Clone)]
pub struct ArrangementReader {
    schema: SchemaRef,
    published: Arc<Mutex<Published>>,
}

impl ArrangementReader {
    pub(crate) fn new(schema: SchemaRef, published: Arc<Mutex<Published>>) -> Self {
        ArrangementReader { schema, published }
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The last sealed epoch.
    pub fn sealed(&self) -> Epoch {
        self.published.lock().sealed
    }

    /// The rows as of an epoch. The caller holds the relation at that epoch, or an earlier one, and nothing that it
    /// wants to see is still to be sealed.
    pub fn snapshot(&self, epoch: Epoch) -> Snapshot {
        let (chunks, deaths) = {
            let published = self.published.lock();
            (published.chunks.clone(), published.deaths.clone())
        };
        let mut dead: Vec<u32> = Vec::new();
        for (_, rows) in deaths.iter().filter(|d| d.0 <= epoch) {
            dead.extend_from_slice(rows);
        }
        dead.sort_unstable();
        Snapshot { schema: self.schema.clone(), epoch, chunks, dead }
    }

    /// What changed after epoch `from` up to epoch `to`, as deltas of at most a chunk each. The caller holds the
    /// relation at `from` or earlier.
    ///
    /// # Errors
    /// If a column's type has no filter kernel.
    pub fn difference(&self, from: Epoch, to: Epoch) -> Result<Vec<Delta>> {
        let (chunks, deaths) = {
            let published = self.published.lock();
            (published.chunks.clone(), published.deaths.clone())
        };
        let mut changes: Vec<Option<Vec<i8>>> = chunks.iter().map(|_| None).collect();
        for (chunk_idx, chunk) in chunks.iter().enumerate() {
            let Some(chunk) = chunk else { continue };
            let (a, b) = (chunk.births.n_born_by(from, chunk.len), chunk.births.n_born_by(to, chunk.len));
            if a < b {
                let mut change = vec![0i8; chunk.len];
                change[a..b].fill(1);
                changes[chunk_idx] = Some(change);
            }
        }
        for (_, rows) in deaths.iter().filter(|d| from < d.0 && d.0 <= to) {
            for &row in rows.iter() {
                let chunk = chunks[chunk_of(row)].as_ref().expect("a chunk with held rows is there");
                changes[chunk_of(row)].get_or_insert_with(|| vec![0; chunk.len])[offset_of(row)] -= 1;
            }
        }
        let mut deltas = Vec::new();
        for (chunk, change) in chunks.iter().zip(changes) {
            let (Some(chunk), Some(change)) = (chunk, change) else { continue };
            let mask = BooleanArray::new(BooleanBuffer::collect_bool(chunk.len, |i| change[i] != 0), None);
            let weights = change.iter().filter(|&&w| w != 0).map(|&w| i64::from(w)).collect();
            let batch = filter_record_batch(&image_batch(&self.schema, chunk, None)?, &mask)?;
            deltas.push(Delta::new(batch, Some(weights)));
        }
        deltas.retain(|d| !d.is_empty());
        Ok(deltas)
    }
}

/// The rows of an arrangement at one epoch. Holds memory, not locks.
#[derive(Clone)]
pub struct Snapshot {
    schema: SchemaRef,
    epoch: Epoch,
    chunks: Vec<Option<Arc<ChunkImage>>>,
    /// Rows that had died by the epoch and are not yet reclaimed, ascending.
    dead: Vec<u32>,
}

impl Snapshot {
    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The number of chunks, each of which gives at most one batch.
    pub fn n_chunks(&self) -> usize {
        self.chunks.len()
    }

    /// The rows of one chunk, restricted to some columns; `None` if it has none. Chunks without dead rows are not copied.
    ///
    /// # Errors
    /// If a column's type has no filter kernel.
    pub fn chunk(&self, chunk_idx: usize, projection: Option<&[usize]>) -> Result<Option<RecordBatch>> {
        let Some(chunk) = &self.chunks[chunk_idx] else { return Ok(None) };
        let n_born = chunk.births.n_born_by(self.epoch, chunk.len);
        let first = self.dead.partition_point(|&row| chunk_of(row) < chunk_idx);
        let dead = self.dead[first..].iter().take_while(|&&row| chunk_of(row) == chunk_idx);
        let mut n_visible = n_born;
        let batch = image_batch(&self.schema, chunk, projection)?.slice(0, n_born);
        let mut gone = chunk.reclaimed.clone();
        dead.for_each(|&row| gone.set(offset_of(row)));
        if gone.count() > 0 {
            let visible = BooleanBuffer::collect_bool(n_born, |i| !gone.get(i));
            n_visible = visible.count_set_bits();
            if n_visible < n_born {
                return Ok((n_visible > 0).then_some(filter_record_batch(&batch, &BooleanArray::new(visible, None))?));
            }
        }
        Ok((n_visible > 0).then_some(batch))
    }

    /// All batches.
    ///
    /// # Errors
    /// If a column's type has no filter kernel.
    pub fn batches(&self) -> Result<Vec<RecordBatch>> {
        (0..self.n_chunks()).filter_map(|i| self.chunk(i, None).transpose()).collect()
    }
}

fn image_batch(schema: &SchemaRef, chunk: &ChunkImage, projection: Option<&[usize]>) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(chunk.len));
    let (schema, columns): (SchemaRef, Vec<ArrayRef>) = match projection {
        None => (schema.clone(), chunk.columns.iter().map(|c| c.to_array().slice(0, chunk.len)).collect()),
        Some(p) => {
            let columns = p.iter().map(|&i| chunk.columns[i].to_array().slice(0, chunk.len)).collect();
            (Arc::new(schema.project(p)?), columns)
        }
    };
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}
