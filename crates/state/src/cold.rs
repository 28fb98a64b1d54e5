//! Rows that are not in memory: where they are put, and how they are read back.
//!
//! State that outgrows its memory is put into a [`ColdStore`] as chunks of rows, and is gone from there when the last
//! owner of a chunk drops it. What a chunk holds never changes. Chunks are read by whoever needs them, on its own thread,
//! into memory of its own: nothing is mapped, so that a disk that fails gives an error and not a signal.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use arrow::array::RecordBatch;
use millstream_types::{Error, Result};

/// Takes rows for which there is no room in memory.
pub trait ColdStore: fmt::Debug + Send + Sync {
    /// Puts rows away.
    ///
    /// # Errors
    /// 53100 and 58030 if the disk fails; internal, if a type has no encoding. Then nothing is kept.
    fn put(&self, rows: &RecordBatch) -> Result<Arc<dyn ColdChunk>>;
}

/// Rows that were put away. They are given up when this is dropped.
pub trait ColdChunk: fmt::Debug + Send + Sync {
    /// Reads the rows back, or some of their columns, in the given order.
    ///
    /// # Errors
    /// 58030 if the disk fails, XX001 if what it gives is not what was written.
    fn read(&self, projection: Option<&[usize]>) -> Result<RecordBatch>;

    /// Begins to read them, if the way there is so long that it is worth while; nothing if it is not, or while as much is on its
    /// way as may be.
    fn read_ahead(&self, _projection: Option<&[usize]>) -> Option<ReadAhead> {
        None
    }

    /// The number of rows.
    fn n_rows(&self) -> usize;

    /// Bytes that they take where they are.
    fn n_bytes(&self) -> usize;
}

/// Rows that are on their way. Dropped, they are not any more.
pub struct ReadAhead(Box<dyn FnOnce() -> Result<RecordBatch> + Send>);

impl ReadAhead {
    /// `wait` waits for the rows, and gives up what it has when it is dropped.
    pub fn new(wait: impl FnOnce() -> Result<RecordBatch> + Send + 'static) -> ReadAhead {
        ReadAhead(Box::new(wait))
    }

    /// The rows.
    ///
    /// # Errors
    /// As [`ColdChunk::read`].
    pub fn wait(self) -> Result<RecordBatch> {
        self.0()
    }
}

impl fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadAhead")
    }
}

/// A store that keeps rows in memory after all, for tests, which may let it fail.
#[derive(Debug, Default)]
pub struct ColdMemory {
    n_bytes: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
}

impl ColdMemory {
    /// Bytes of rows that somebody still owns.
    pub fn n_bytes(&self) -> usize {
        self.n_bytes.load(Relaxed)
    }

    /// Whether all that is asked of it from now on fails.
    pub fn set_fails(&self, fails: bool) {
        self.fails.store(fails, Relaxed);
    }
}

impl ColdStore for ColdMemory {
    fn put(&self, rows: &RecordBatch) -> Result<Arc<dyn ColdChunk>> {
        let chunk = MemoryChunk {
            rows: rows.clone(),
            n_bytes: millstream_types::delta::values_bytes(rows),
            of_all: Arc::clone(&self.n_bytes),
            fails: Arc::clone(&self.fails),
        };
        chunk.check()?;
        self.n_bytes.fetch_add(chunk.n_bytes, Relaxed);
        Ok(Arc::new(chunk))
    }
}

#[derive(Debug)]
struct MemoryChunk {
    rows: RecordBatch,
    n_bytes: usize,
    of_all: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
}

impl MemoryChunk {
    fn check(&self) -> Result<()> {
        if self.fails.load(Relaxed) { Err(Error::internal("a store that fails on purpose")) } else { Ok(()) }
    }
}

impl Drop for MemoryChunk {
    fn drop(&mut self) {
        if !self.fails.load(Relaxed) {
            self.of_all.fetch_sub(self.n_bytes, Relaxed);
        }
    }
}

impl ColdChunk for MemoryChunk {
    fn read(&self, projection: Option<&[usize]>) -> Result<RecordBatch> {
        self.check()?;
        match projection {
            None => Ok(self.rows.clone()),
            Some(columns) => Ok(self.rows.project(columns)?),
        }
    }

    fn n_rows(&self) -> usize {
        self.rows.num_rows()
    }

    fn n_bytes(&self) -> usize {
        self.n_bytes
    }
}
