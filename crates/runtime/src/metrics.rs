//! What each operator of a dataflow has done, counted on all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Counters of one node on one worker. Each is written by its worker alone and read by anybody.
#[derive(Debug, Default)]
pub struct NodeMetrics {
    /// Rows taken in.
    pub rows_in: AtomicU64,
    /// Rows given out.
    pub rows_out: AtomicU64,
    /// Deltas taken in.
    pub batches_in: AtomicU64,
    /// Deltas given out.
    pub batches_out: AtomicU64,
    /// Nanoseconds of work.
    pub busy_ns: AtomicU64,
    /// Bytes of state in memory.
    pub state_bytes: AtomicU64,
    /// Bytes of state that is spilled, on disk.
    pub spilled_bytes: AtomicU64,
    /// Entries of state.
    pub state_entries: AtomicU64,
}

impl NodeMetrics {
    pub(crate) fn add(counter: &AtomicU64, n: usize) {
        counter.store(counter.load(Relaxed) + n as u64, Relaxed);
    }

    pub(crate) fn busy_since(&self, start: Instant) {
        Self::add(&self.busy_ns, start.elapsed().as_nanos() as usize);
    }
}

/// How far a dataflow is in taking its inputs in, in its present round, over all workers and imports; or in being read back.
#[derive(Debug, Default)]
pub struct Intake {
    /// Rows or offsets that the round has, or bytes to be read, as far as is known.
    pub total: AtomicU64,
    /// Those that were fed.
    pub done: AtomicU64,
}

impl Intake {
    /// There are so many more.
    pub fn expect(&self, n: u64) {
        self.total.fetch_add(n, Relaxed);
    }

    /// So many more were taken in.
    pub fn took(&self, n: u64) {
        self.done.fetch_add(n, Relaxed);
    }

    /// A new round begins.
    pub fn restart(&self) {
        self.total.store(0, Relaxed);
        self.done.store(0, Relaxed);
    }
}

/// Counters of a dataflow: for each worker, one for each node, the root last.
#[derive(Clone, Debug)]
pub struct DataflowMetrics {
    /// By worker, then by node.
    pub workers: Arc<Vec<Vec<Arc<NodeMetrics>>>>,
}

impl DataflowMetrics {
    /// Counters at zero, for a dataflow of `n_nodes` nodes and its root.
    pub fn new(n_workers: usize, n_nodes: usize) -> Self {
        let nodes = || (0..=n_nodes).map(|_| Arc::default()).collect();
        DataflowMetrics { workers: Arc::new((0..n_workers).map(|_| nodes()).collect()) }
    }

    /// Bytes of state on all workers.
    pub fn state_bytes(&self) -> u64 {
        self.workers.iter().flatten().map(|n| n.state_bytes.load(Relaxed)).sum()
    }
}
