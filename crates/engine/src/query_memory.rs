//! What queries may take in memory, and in what pieces.
//!
//! Operators reserve memory before they take it. Those that can spill have equal shares of what the others leave, and spill
//! when they would take more; one that cannot fails its query when nothing is left.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::Result;
use datafusion::common::config::ConfigNonZeroUsize;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::SessionConfig;

/// What a sort keeps free for when it has to merge what it has spilled: one part in so many of what all queries may take.
const SORT_RESERVATION_SHARE: usize = 16;
/// A batch should take no more than one part in so many.
const BATCH_SHARE: usize = 64;
/// Rows of a batch.
const BATCH_ROWS: RangeInclusive<usize> = 64..=8192;
/// Bytes that a query takes from a table at once: what expressions make of them comes to as much again.
const SCANNED_BYTES: RangeInclusive<usize> = 1 << 16..=1 << 20;
/// What is worth to be taken of memory at all, and what is enough, in bytes.
const SHARE_BYTES_MIN: usize = 1 << 16;
const SHARE_BYTES_MAX: usize = 1 << 30;
/// A query that is short of memory can do with one part in so many of half of it.
const QUERY_SHARE: usize = 8;
/// It waits so long for others to have ended, and for what it had itself before.
const WAIT_MAX: Duration = Duration::from_secs(10);
const LET_GO_MAX: Duration = Duration::from_millis(200);
const WAIT_STEP: Duration = Duration::from_millis(5);

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

/// What a row is taken to need, in bytes: where nothing says more, and where what was thought first was too little.
#[derive(Clone, Copy)]
pub(crate) enum RowBytes {
    Usual = 512,
    Many = 2048,
}

/// Has operators work with batches, and keep free what merging takes, as fits their memory.
pub(crate) fn fitting(mut config: SessionConfig, pool: &dyn MemoryPool, row_bytes: RowBytes) -> SessionConfig {
    let MemoryLimit::Finite(limit) = pool.memory_limit() else { return config };
    let execution = &mut config.options_mut().execution;
    execution.sort_spill_reservation_bytes = execution.sort_spill_reservation_bytes.min(limit / SORT_RESERVATION_SHARE);
    // Inputs of a repartition that spill at once write several files, which are read one after the other: while one of them may
    // get more batches, nobody reads those in the next, and the inputs wait until somebody does. So each batch has a file.
    execution.max_spill_file_size_bytes = ConfigNonZeroUsize::try_new(1).expect("it is not zero");
    let n_rows = (limit / BATCH_SHARE / row_bytes as usize).clamp(*BATCH_ROWS.start(), *BATCH_ROWS.end());
    if n_rows < *BATCH_ROWS.end() {
        // Sorted in place, rows are reserved anew for each batch that they are then cut into.
        execution.sort_in_place_threshold_bytes = 0;
    }
    config.with_batch_size(1 << n_rows.ilog2())
}

/// What a plan runs under. It has the functions that it calls, so none need to be known by name.
pub(crate) fn task_context(config: SessionConfig, memory: Arc<RuntimeEnv>) -> TaskContext {
    let (scalars, higher_order, aggregates, windows) = Default::default();
    TaskContext::new(None, String::new(), config, scalars, higher_order, aggregates, windows, memory)
}

/// Whether an error is that there is no memory, or no room on disk for what memory has none for.
pub(crate) fn is_out_of_memory(error: &DataFusionError) -> bool {
    matches!(error.find_root(), DataFusionError::ResourcesExhausted(_))
}

/// Takes as much as it may have, for those whose work can be cut to any size: half of all, or the half of that, and so on.
///
/// # Errors
/// If even little is too much.
pub(crate) fn reserve_share(memory: &MemoryReservation, pool: &dyn MemoryPool) -> Result<usize> {
    reserve_between(memory, SHARE_BYTES_MIN, half_of(pool))
}

/// As [`reserve_share`], for a whole query, which waits a while until there is enough.
///
/// # Errors
/// If there is not.
pub(crate) async fn reserve_for_query(memory: &MemoryReservation, pool: &dyn MemoryPool) -> Result<usize> {
    let half = half_of(pool);
    for _ in 0..WAIT_MAX.as_millis() / WAIT_STEP.as_millis() {
        if let Ok(n_bytes) = reserve_between(memory, half / QUERY_SHARE, half) {
            return Ok(n_bytes);
        }
        tokio::time::sleep(WAIT_STEP).await;
    }
    reserve_between(memory, half / QUERY_SHARE, half)
}

fn half_of(pool: &dyn MemoryPool) -> usize {
    match pool.memory_limit() {
        MemoryLimit::Finite(limit) => (limit / 2).min(SHARE_BYTES_MAX),
        MemoryLimit::Infinite | MemoryLimit::Unknown => SHARE_BYTES_MAX,
    }
}

fn reserve_between(memory: &MemoryReservation, min: usize, max: usize) -> Result<usize> {
    let mut n_bytes = max.max(min);
    loop {
        match memory.try_grow(n_bytes) {
            Ok(()) => return Ok(n_bytes),
            Err(error) if n_bytes / 2 < min => return Err(error),
            Err(_) => n_bytes /= 2,
        }
    }
}

/// Waits until a query that has failed has let go what it had, as far as can be told: tasks of it end a little later.
pub(crate) async fn until_let_go(pool: &dyn MemoryPool) {
    for _ in 0..LET_GO_MAX.as_millis() / WAIT_STEP.as_millis() {
        if pool.reserved() == 0 {
            break;
        }
        tokio::time::sleep(WAIT_STEP).await;
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::MemoryConsumer;

    use super::*;

    #[test]
    fn batches_fit_their_memory() {
        for (limit, n_rows, n_rows_many, n_bytes) in
            [(9_000_000, 256, 64, 140_625), (1 << 40, 8192, 8192, 1 << 20), (1, 64, 64, 1 << 16)]
        {
            let pool = pool(limit);
            let rows = |row_bytes| fitting(SessionConfig::new(), &*pool, row_bytes).batch_size();
            assert_eq!((rows(RowBytes::Usual), rows(RowBytes::Many)), (n_rows, n_rows_many));
            assert_eq!(scanned_bytes(&*pool), n_bytes);
        }
    }

    #[test]
    fn shares_are_halved_until_they_fit() {
        let pool = pool(8 << 20);
        let consumer = |name| MemoryConsumer::new(name).with_can_spill(true).register(&pool);
        let (first, second, third) = (consumer("first"), consumer("second"), consumer("third"));
        let shares = [&first, &second].map(|memory| reserve_share(memory, &*pool).expect("there is room"));
        assert_eq!(shares, [2 << 20, 2 << 20]);
        let rest = MemoryConsumer::new("rest").register(&pool);
        rest.try_grow(4 << 20).expect("there is room");
        assert_eq!(reserve_share(&third, &*pool).expect("there is room"), 1 << 20);
    }
}
