//! A Nexmark query on a whole engine, as clients have it: the coordinator closes epochs, and with a data directory there
//! are log and checkpoints.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type};
use millstream_engine::{CheckpointWhen, DATABASE, Engine, EngineConfig, MemoryLimits, Session};
use millstream_types::{Error, Result};

use crate::queries::Query;

/// How often it is looked whether all is done.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What the engine is to do.
pub struct WholeJob {
    /// The query.
    pub query: &'static Query,
    /// Events of all kinds.
    pub n_events: u64,
    /// Events of an epoch at most, of each table.
    pub epoch_rows: u64,
    /// Event time between two events.
    pub event_interval_ms: f64,
    /// Threads that share the work.
    pub n_workers: usize,
    /// The data directory; none to keep all data in memory.
    pub data_dir: Option<PathBuf>,
    /// The time between two checkpoints.
    pub checkpoint_interval: Duration,
    /// Bytes that the process is to do with; none for what the machine has.
    pub memory_limit: Option<usize>,
}

/// What it took.
#[derive(Debug)]
pub struct WholeRun {
    /// From the query's creation to the last event.
    pub seconds: f64,
    /// The last epochs, each until it was complete on all workers.
    pub epochs: Vec<Duration>,
    /// Checkpoints that were written meanwhile.
    pub n_checkpoints: i64,
    /// Bytes that they have written, the log left out.
    pub n_checkpoint_bytes: i64,
    /// Bytes of state in the end that lie on disk.
    pub n_spilled_bytes: i64,
}

/// Runs a query into a view: checkpoints have the state of views, and not of sinks.
///
/// # Errors
/// What the engine says.
pub async fn run(job: &WholeJob) -> Result<WholeRun> {
    let checkpoints = CheckpointWhen { interval: job.checkpoint_interval, ..CheckpointWhen::default() };
    let engine = Engine::start(EngineConfig {
        workers: job.n_workers,
        data_dir: job.data_dir.clone().map(Into::into),
        checkpoints,
        epoch_offsets_max: job.epoch_rows,
        memory: MemoryLimits::of_process(job.memory_limit.unwrap_or_else(MemoryLimits::of_machine)),
        ..EngineConfig::default()
    })?;
    let mut session = engine.session("bench", DATABASE, &[])?;
    for table in job.query.tables {
        let options = format!(
            "connector = 'nexmark', \"table\" = '{table}', events = '{}', event_interval_ms = '{}'",
            job.n_events, job.event_interval_ms
        );
        session.query(&format!("CREATE STREAM {table} WITH ({options})")).await?;
    }
    let began = Instant::now();
    session.query(&format!("CREATE MATERIALIZED VIEW result AS {}", job.query.sql)).await?;
    until_done(&mut session).await?;
    let seconds = began.elapsed().as_secs_f64();
    let epochs = numbers(&mut session, "SELECT compute_us FROM millstream.epochs WHERE rows > 0").await?;
    let written = "SELECT count(*), coalesce(sum(bytes_written), 0)::bigint FROM millstream.checkpoints";
    let written = numbers(&mut session, written).await?;
    let [n_checkpoints, n_checkpoint_bytes] = written[..] else { return Err(unexpected()) };
    let spilled = "SELECT (SELECT sum(bytes_spilled) FROM millstream.arrangements)::bigint +
                   (SELECT sum(spilled_bytes) FROM millstream.operators)::bigint";
    let n_spilled_bytes = numbers(&mut session, spilled).await?.iter().sum();
    engine.shutdown().await;
    let epochs = epochs.into_iter().map(|us| Duration::from_micros(us.cast_unsigned())).collect();
    Ok(WholeRun { seconds, epochs, n_checkpoints, n_checkpoint_bytes, n_spilled_bytes })
}

/// Waits until the view has all events.
async fn until_done(session: &mut Session) -> Result<()> {
    let reading = "SELECT count(*) FROM millstream.sources WHERE position < end_position";
    let computing = "SELECT count(*) FROM millstream.epochs WHERE rows > 0 AND compute_us IS NULL";
    for n_left in [reading, computing] {
        while numbers(session, n_left).await? != [0] {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    let failed = numbers(session, "SELECT count(*) FROM millstream.jobs WHERE error IS NOT NULL").await?;
    let wrong = numbers(session, "SELECT count(*) FROM millstream.row_errors").await?;
    if failed == [0] && wrong == [0] { Ok(()) } else { Err(Error::internal("the query has failed, or rows of it")) }
}

/// The values of a result's columns, which are bigints, column by column.
async fn numbers(session: &mut Session, sql: &str) -> Result<Vec<i64>> {
    let batches = session.query(sql).await?;
    let mut numbers = Vec::new();
    for column in batches.iter().flat_map(|batch| batch.columns()) {
        if column.data_type() != &DataType::Int64 {
            return Err(unexpected());
        }
        numbers.extend(column.as_primitive::<Int64Type>().iter().flatten());
    }
    Ok(numbers)
}

fn unexpected() -> Error {
    Error::internal("not the numbers that were asked for")
}
