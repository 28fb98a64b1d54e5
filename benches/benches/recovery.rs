//! How long it takes from the start of a process to the first right answer, with what was there before.
//!
//!     cargo bench --bench recovery -- --data-dir /var/tmp --rows 10000000 --workers 2 --starts 5
//!
//! A table of rows of 100 bytes, and a view over it, are made and checkpointed; then servers are started on the data
//! directory, one after the other. A start is measured until a client gets through, until `SELECT` over the table is
//! answered, and until one over the view is. With `--cold` the system's cache of files is dropped before each start, which
//! needs root. Prints one JSON line a figure.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;
use millstream_benches::figure::Figure;
use millstream_benches::server_process::{ServerOptions, ServerProcess, serve_if_asked};
use millstream_benches::wire_client::WireClient;
use millstream_types::hash::mix;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rows of one COPY when the table is filled.
const FILL_ROWS: u64 = 100_000;
/// Groups of the view.
const GROUPS: u64 = 1000;
/// A view that is not back after so long does not come back.
const BACK_WITHIN: Duration = Duration::from_secs(600);

/// Measures recovery.
#[derive(Parser)]
struct Args {
    /// Rows of the table, of 100 bytes each: a bigint and a text
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// Worker threads
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// How often the server is started
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// Drop the system's cache of files before each start
    #[arg(long)]
    cold: bool,
    /// Where the data directory is made, and taken away in the end [default: the folder for temporary files]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    millstream_state::allocator::keep_freed_memory();
    if let Some(ended) = serve_if_asked() {
        return ended;
    }
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> io::Result<()> {
    let folder = tempfile::tempdir_in(args.data_dir.clone().unwrap_or_else(std::env::temp_dir))?;
    let options = ServerOptions {
        n_workers: args.workers,
        data_dir: Some(folder.path().to_owned()),
        checkpoint_interval: 10.0,
        sync_delay: Duration::ZERO,
    };
    fill(args, &options)?;
    let (mut connects, mut tables, mut views) = (vec![], vec![], vec![]);
    for _ in 0..args.starts {
        if args.cold {
            drop_caches()?;
        }
        let began = Instant::now();
        let server = ServerProcess::start_with(&options)?;
        let mut client = until_connected(&server)?;
        connects.push(began.elapsed());
        expect(&mut client, "SELECT count(*)::text || ' ' || sum(k)::text FROM t", &sums(args.rows))?;
        tables.push(began.elapsed());
        until_back(&mut client)?;
        expect(&mut client, "SELECT sum(n)::text || ' ' || sum(total)::text FROM v", &sums(args.rows))?;
        views.push(began.elapsed());
        server.stop()?;
    }
    for (name, times) in [("connection", connects), ("table", tables), ("view", views)] {
        let figure = Figure::new("figure", name).with("rows", args.rows).with("workers", args.workers);
        println!("{}", figure.with("cold", args.cold).with("bytes", n_bytes(folder.path())?).with_times(times));
    }
    Ok(())
}

/// Makes the table and the view, and ends with a checkpoint of them.
fn fill(args: &Args, options: &ServerOptions) -> io::Result<()> {
    let server = ServerProcess::start_with(options)?;
    let mut client = server.connect()?;
    client.run("CREATE TABLE t (k bigint PRIMARY KEY, v text)")?;
    for from in (0..args.rows).step_by(FILL_ROWS as usize) {
        let rows = from..args.rows.min(from + FILL_ROWS);
        client.copy_in("COPY t FROM STDIN", rows.map(line).collect::<String>().as_bytes())?;
    }
    let view = format!("SELECT k % {GROUPS} AS g, count(*) AS n, sum(k) AS total FROM t GROUP BY k % {GROUPS}");
    client.run(&format!("CREATE MATERIALIZED VIEW v AS {view}"))?;
    client.run("CHECKPOINT")?;
    server.stop()
}

/// A row as COPY takes it: 8 bytes of a number and 92 of text that does not repeat.
fn line(k: u64) -> String {
    const TEXT_BYTES: usize = 92;
    let mut text: String = (0..6).map(|part| format!("{:016x}", mix(6 * k + part))).collect();
    text.truncate(TEXT_BYTES);
    format!("{k}\t{text}\n")
}

/// The number of rows and the sum of their keys.
fn sums(n_rows: u64) -> String {
    format!("{n_rows} {}", u128::from(n_rows) * u128::from(n_rows - 1) / 2)
}

/// Connects as soon as the server lets somebody in.
fn until_connected(server: &ServerProcess) -> io::Result<WireClient> {
    /// The server is starting up.
    const NOT_YET: &str = "57P03";
    loop {
        match server.connect() {
            Err(error) if error.to_string().starts_with(NOT_YET) => sleep(Duration::from_millis(1)),
            outcome => return outcome,
        }
    }
}

/// Waits until the view can be read.
fn until_back(client: &mut WireClient) -> io::Result<()> {
    let began = Instant::now();
    while client.value("SELECT count(*) FROM millstream.jobs WHERE state <> 'running'")? != "0" {
        if began.elapsed() > BACK_WITHIN {
            return Err(io::Error::other("the view does not come back"));
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn expect(client: &mut WireClient, sql: &str, expected: &str) -> io::Result<()> {
    let answer = client.value(sql)?;
    if answer == expected { Ok(()) } else { Err(io::Error::other(format!("{sql}: {answer} instead of {expected}"))) }
}

fn drop_caches() -> io::Result<()> {
    // What is not written yet would stay.
    Command::new("sync").status()?;
    fs::write("/proc/sys/vm/drop_caches", "3")
}

/// All bytes of the files in a folder.
fn n_bytes(folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { n_bytes(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(sum)
}
