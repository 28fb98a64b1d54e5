//! The Nexmark benchmark: the engine, planned from SQL, into a blackhole sink.
//!
//!     cargo bench --bench nexmark -- --query q4,q9 --events 4000000 --workers 2 --epoch-rows 40000 --event-interval-ms 10
//!
//!     cargo bench --bench nexmark -- --query q4,q9,q18 --whole-engine
//!     cargo bench --bench nexmark -- --query q4,q9,q18 --data-dir /var/tmp --checkpoint-interval 1
//!     cargo bench --bench nexmark -- --query q9,q20 --whole-engine --memory-limit 700MB
//!
//! Prints one JSON line a query. `kernel_share` is the part of the CPU time that the kernel took, nearly all of it to
//! clear memory that state grows into; it is what differs most between machines. Afterwards the query runs again, unmeasured, and its integrated result is compared
//! with that of a batch run over the same events. Each of several queries runs in a process of its own, so that the
//! peak of memory is its own.

use std::ops::Range;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use millstream_benches::checksum::Checksum;
use millstream_benches::engine_under_test::{self, EngineUnderTest, Job, Output};
use millstream_benches::figure::{Figure, percentile_ms, rounded};
use millstream_benches::input::{PregeneratedSource, nexmark_source};
use millstream_benches::nexmark_reference;
use millstream_benches::process::Process;
use millstream_benches::queries::{QUERIES, Query};
use millstream_benches::server_process::DataArgs;
use millstream_benches::whole_engine::{self, WholeJob};
use millstream_runtime::Source;
use millstream_types::{Error, Result};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Stateless queries go on until they have run this long.
const STATELESS_SECONDS: f64 = 2.0;

/// Runs Nexmark queries on the engine and prints one JSON line for each.
#[derive(Parser, Clone)]
struct Args {
    /// Queries, separated by commas: q0 to q5, q7 to q9, q14 to q22; all of them if none is given
    #[arg(long, value_delimiter = ',')]
    query: Vec<String>,
    /// Events of all kinds
    #[arg(long, default_value_t = 4_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    events: u64,
    /// Worker threads
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Events an epoch
    #[arg(long, default_value_t = 40_000, value_parser = clap::value_parser!(u64).range(1..))]
    epoch_rows: u64,
    /// Event time between two events
    #[arg(long, default_value_t = 10.0)]
    event_interval_ms: f64,
    /// Generate the input into memory before the measurement
    #[arg(long)]
    pregenerate: bool,
    /// Do not compare the result with a batch run
    #[arg(long)]
    no_check: bool,
    /// Run the query as clients do: on an engine whose coordinator closes the epochs; its result is not compared
    #[arg(long)]
    whole_engine: bool,
    #[command(flatten)]
    data: DataArgs,
    /// With --whole-engine or --data-dir, what the process is to do with, such as 2GB; what does not fit goes on on disk
    #[arg(long, value_name = "BYTES", value_parser = millstream_engine::parse_bytes)]
    memory_limit: Option<usize>,
    /// Print the dataflow, and what each of its operators did, to standard error
    #[arg(long)]
    explain: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    millstream_state::allocator::keep_freed_memory();
    let args = Args::parse();
    let names: Vec<_> = match args.query.as_slice() {
        [] => QUERIES.iter().map(|query| query.name.to_owned()).collect(),
        names => names.to_vec(),
    };
    if let Some(unknown) = names.iter().find(|name| Query::by_name(name).is_none()) {
        let known: Vec<_> = QUERIES.iter().map(|query| query.name).collect();
        eprintln!("error: no query {unknown}; there are {}", known.join(", "));
        return ExitCode::from(2);
    }
    let failed = match names.as_slice() {
        [name] => run_here(&args, Query::by_name(name).expect("names were looked up above")),
        names => names.iter().filter(|name| !run_in_process(&args, name)).count() > 0,
    };
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Whether the query failed.
fn run_here(args: &Args, query: &'static Query) -> bool {
    let is_whole = args.whole_engine || args.data.data_dir.is_some();
    let figure = if is_whole { measure_whole(args, query) } else { measure(args, query) };
    let result = figure.and_then(|figure| {
        println!("{figure}");
        if args.no_check || is_whole { Ok(()) } else { check(args, query) }
    });
    result.inspect_err(|error| eprintln!("{}: error: {error}", query.name)).is_err()
}

/// Whether this program, run again for the one query, succeeded.
fn run_in_process(args: &Args, query: &str) -> bool {
    let options = [
        ("--query", query.to_owned()),
        ("--events", args.events.to_string()),
        ("--workers", args.workers.to_string()),
        ("--epoch-rows", args.epoch_rows.to_string()),
        ("--event-interval-ms", args.event_interval_ms.to_string()),
        ("--checkpoint-interval", args.data.checkpoint_interval.to_string()),
    ];
    let flags = [
        (args.pregenerate, "--pregenerate"),
        (args.no_check, "--no-check"),
        (args.explain, "--explain"),
        (args.whole_engine, "--whole-engine"),
    ];
    let run = std::env::current_exe().and_then(|program| {
        let mut command = Command::new(program);
        options.iter().for_each(|(name, value)| _ = command.arg(name).arg(value));
        args.memory_limit.iter().for_each(|limit| _ = command.arg("--memory-limit").arg(limit.to_string()));
        args.data.data_dir.iter().for_each(|folder| _ = command.arg("--data-dir").arg(folder));
        flags.iter().filter(|(set, _)| *set).for_each(|(_, name)| _ = command.arg(name));
        command.status()
    });
    match run {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("{query}: error: {error}");
            false
        }
    }
}

/// The tables that the query reads, by name.
fn sources(args: &Args, query: &Query) -> Result<Vec<(&'static str, Arc<dyn Source>)>> {
    query.tables.iter().map(|table| Ok((*table, nexmark_source(table, args.event_interval_ms)?))).collect()
}

fn measure(args: &Args, query: &'static Query) -> Result<Figure> {
    let mut sources = sources(args, query)?;
    if args.pregenerate {
        for (_, source) in &mut sources {
            let n_epochs = args.events.div_ceil(args.epoch_rows);
            *source = Arc::new(PregeneratedSource::new(source.clone(), n_epochs, args.epoch_rows)?);
        }
    }
    let job = Job { sql: query.sql, sources, n_workers: args.workers, output: Output::Blackhole };
    let mut engine = engine_under_test::start(job)?;
    let process = Process::this();
    let (started, cpu_before) = (Instant::now(), process.cpu_seconds());
    let mut n_events = 0;
    let mut epochs = Vec::new();
    while epochs.is_empty() || (query.stateless && started.elapsed().as_secs_f64() < STATELESS_SECONDS) {
        epochs.extend(engine.run(&mut epochs_of(n_events..n_events + args.events, args.epoch_rows))?);
        n_events += args.events;
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu = process.cpu_seconds().zip(cpu_before);
    let cpu = cpu.map(|(after, before)| (after.user - before.user, after.kernel - before.kernel));
    let rate = |seconds: f64| (n_events as f64 / seconds).round();
    if args.explain {
        explain(&engine);
    }
    epochs.sort_unstable();
    let figure = Figure::new("query", query.name)
        .with("events", n_events)
        .with("workers", args.workers)
        .with("events_per_second", rate(seconds))
        .with("events_per_cpu_second", cpu.map(|(user, kernel)| rate(user + kernel)))
        .with("kernel_share", cpu.map(|(user, kernel)| rounded(kernel / (user + kernel), 2)))
        .with("rss_peak_mb", process.rss_peak_mb().map(f64::round))
        .with("epoch_p50_ms", percentile_ms(&epochs, 50))
        .with("epoch_p99_ms", percentile_ms(&epochs, 99));
    Ok(figure)
}

fn measure_whole(args: &Args, query: &'static Query) -> Result<Figure> {
    let internal = |error: std::io::Error| Error::internal(format!("cannot begin: {error}"));
    let folder = args.data.data_dir.as_ref().map(tempfile::tempdir_in).transpose().map_err(internal)?;
    let interval = Duration::try_from_secs_f64(args.data.checkpoint_interval);
    let job = WholeJob {
        query,
        n_events: args.events,
        epoch_rows: args.epoch_rows,
        event_interval_ms: args.event_interval_ms,
        n_workers: args.workers,
        data_dir: folder.as_ref().map(|folder| folder.path().to_owned()),
        checkpoint_interval: interval.map_err(|e| Error::internal(e.to_string()))?,
        memory_limit: args.memory_limit,
    };
    let process = Process::this();
    let cpu_before = process.cpu_seconds();
    let mut run = millstream_server::serve::runtime()?.block_on(whole_engine::run(&job))?;
    let cpu = process.cpu_seconds().zip(cpu_before).map(|(after, before)| after.sum() - before.sum());
    run.epochs.sort_unstable();
    let rate = |seconds: f64| (args.events as f64 / seconds).round();
    Ok(Figure::new("query", query.name)
        .with("events", args.events)
        .with("workers", args.workers)
        .with("durable", folder.is_some())
        .with("events_per_second", rate(run.seconds))
        .with("events_per_cpu_second", cpu.map(rate))
        .with("rss_peak_mb", process.rss_peak_mb().map(f64::round))
        .with("epoch_p50_ms", percentile_ms(&run.epochs, 50))
        .with("epoch_p99_ms", percentile_ms(&run.epochs, 99))
        .with("checkpoints", run.n_checkpoints)
        .with("checkpoint_bytes", run.n_checkpoint_bytes)
        .with("spilled_bytes", run.n_spilled_bytes))
}

/// The plan, then a line for each node on each worker: rows in and out, time, state.
fn explain(engine: &EngineUnderTest) {
    engine.explain.iter().for_each(|line| eprintln!("{line}"));
    for (worker, nodes) in engine.metrics.workers.iter().enumerate() {
        for (node, metrics) in nodes.iter().enumerate() {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            eprintln!(
                "worker {worker} node {node}: {} rows in {} batches, {} rows out, {:.3} s, {:.1} MB of state",
                load(&metrics.rows_in),
                load(&metrics.batches_in),
                load(&metrics.rows_out),
                load(&metrics.busy_ns) as f64 / 1e9,
                load(&metrics.state_bytes) as f64 / 1e6,
            );
        }
    }
}

/// A range of events, cut into epochs.
fn epochs_of(events: Range<u64>, epoch_rows: u64) -> impl Iterator<Item = Range<u64>> {
    let end = events.end;
    events
        .step_by(usize::try_from(epoch_rows).expect("an epoch fits in memory"))
        .map(move |at| at..end.min(at + epoch_rows))
}

/// Runs the query once more and in batch, and compares.
fn check(args: &Args, query: &'static Query) -> Result<()> {
    let kept: Arc<Mutex<Result<Checksum>>> = Arc::new(Mutex::new(Ok(Checksum::default())));
    let observer = kept.clone();
    let observe = move |delta: &millstream_types::Delta| {
        let mut kept = observer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(checksum) = &mut *kept
            && let Err(error) = checksum.add_delta(delta)
        {
            *kept = Err(error);
        }
    };
    let output = Output::Observed(Arc::new(observe));
    let job = Job { sql: query.sql, sources: sources(args, query)?, n_workers: args.workers, output };
    engine_under_test::start(job)?.run(&mut epochs_of(0..args.events, args.epoch_rows))?;
    let kept = kept.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().build();
    let runtime = runtime.map_err(|error| Error::internal(format!("cannot start threads: {error}")))?;
    let expected = runtime.block_on(nexmark_reference::run(query, &sources(args, query)?, args.events))?;
    if kept == expected {
        return Ok(());
    }
    Err(Error::internal("the engine's result is not that of the batch run")
        .with_detail(format!("engine: {kept:?}; batch: {expected:?}")))
}
