//! Where the Nexmark benchmark meets the engine.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use millstream_runtime::Source;
use millstream_types::{Delta, Error, Result};

/// What the engine is to do.
pub struct Job {
    /// The query: one `SELECT`.
    pub sql: &'static str,
    /// The relations it reads, by name; offsets of all of them count the same events.
    pub sources: Vec<(&'static str, Arc<dyn Source>)>,
    /// Threads that share the work.
    pub n_workers: usize,
    /// Where the result goes.
    pub output: Output,
}

/// Where a query's changes go.
pub enum Output {
    /// Every column is computed, and dropped.
    Blackhole,
    /// Every change is handed over, from whichever worker it comes.
    Observed(Arc<dyn Fn(&Delta) + Send + Sync>),
}

/// A query that is installed and waits for input.
pub trait EngineUnderTest {
    /// Runs one epoch for each range of offsets, in order, and returns when the last is complete on all workers.
    ///
    /// As many epochs may be in flight as the engine allows when it is in use. The time of an epoch is that from taking
    /// its range to its completion on all workers.
    ///
    /// # Errors
    /// If the query fails.
    fn run(&mut self, epochs: &mut dyn Iterator<Item = Range<u64>>) -> Result<Vec<Duration>>;
}

/// Plans and installs the query.
///
/// # Errors
/// If the query cannot be planned.
pub fn start(job: Job) -> Result<Box<dyn EngineUnderTest>> {
    let tables: Vec<_> = job.sources.iter().map(|(name, _)| *name).collect();
    Err(Error::not_supported("the engine is not connected to this benchmark yet").with_detail(format!(
        "query over {} with {} workers",
        tables.join(", "),
        job.n_workers
    )))
}
