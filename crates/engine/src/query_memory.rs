//! What queries may take in memory, and in what pieces.
//!
//! Operators reserve memory before they take it. Those that can spill have equal shares of what the others leave, and spill
//! when they would take more; one that cannot fails its query when nothing is left.

use std::sync::Arc;

use datafusion::common::config::ConfigNonZeroUsize;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryLimit, MemoryPool};
use datafusion::prelude::SessionConfig;

/// What a sort keeps free for when it has to merge what it has spilled: one part in so many of what all queries may take.
const SORT_RESERVATION_SHARE: usize = 16;
/// A batch should take no more than one part in so many.
const BATCH_SHARE: usize = 64;
/// A row is taken to need so many bytes where it is not known.
const ROW_BYTES: usize = 512;
/// Rows of a batch.
const BATCH_ROWS: std::ops::RangeInclusive<usize> = 128..=8192;
/// Bytes that a query takes from a table at once: what expressions make of them comes to as much again.
const SCANNED_BYTES: std::ops::RangeInclusive<usize> = 1 << 16..=1 << 20;

/// The memory of all queries.
pub(crate) fn pool(limit: usize) -> Arc<dyn MemoryPool> {
    Arc::new(FairSpillPool::new(limit))
}

/// Bytes that a query should take from a table at once.
pub(crate) fn scanned_bytes(pool: &dyn MemoryPool) -> usize {
    match pool.memory_limit() {
        MemoryLimit::Finite(limit) => (limit / BATCH_SHARE).clamp(*SCANNED_BYTES.start(), *SCANNED_BYTES.end()),
        MemoryLimit::Infinite | MemoryLimit::Unknown => *SCANNED_BYTES.end(),
    }
}

/// Has operators work with batches, and keep free what merging takes, as fits their memory.
pub(crate) fn fitting(mut config: SessionConfig, pool: &dyn MemoryPool) -> SessionConfig {
    let MemoryLimit::Finite(limit) = pool.memory_limit() else { return config };
    let execution = &mut config.options_mut().execution;
    execution.sort_spill_reservation_bytes = execution.sort_spill_reservation_bytes.min(limit / SORT_RESERVATION_SHARE);
    // Inputs of a repartition that spill at once write several files, which are read one after the other: while one of them may
    // get more batches, nobody reads those in the next, and the inputs wait until somebody does. So each batch has a file.
    execution.max_spill_file_size_bytes = ConfigNonZeroUsize::try_new(1).expect("it is not zero");
    let n_rows = (limit / BATCH_SHARE / ROW_BYTES).clamp(*BATCH_ROWS.start(), *BATCH_ROWS.end());
    if n_rows < *BATCH_ROWS.end() {
        // Sorted in place, rows are reserved anew for each batch that they are then cut into.
        execution.sort_in_place_threshold_bytes = 0;
    }
    config.with_batch_size(1 << n_rows.ilog2())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_fit_their_memory() {
        for (limit, n_rows, n_bytes) in [(9_000_000, 256, 140_625), (1 << 40, 8192, 1 << 20), (1, 128, 1 << 16)] {
            let pool = pool(limit);
            let config = fitting(SessionConfig::new(), &*pool);
            assert_eq!((config.batch_size(), scanned_bytes(&*pool)), (n_rows, n_bytes));
        }
    }
}
