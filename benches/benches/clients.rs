//! What clients get from a server, over the wire: selects by key, large results, COPY both ways, inserts of single rows.
//!
//!     cargo bench --bench clients -- --part select,result,copy,insert --rows 1000000 --seconds 5 --connections 8
//!     cargo bench --bench clients -- --data-dir /var/tmp --checkpoint-interval 1
//!
//! The server is a process of its own. Rates are by the second, and by the second of the server's CPU time, which does
//! not count what the client takes. `server_cpus` and `client_cpus` say how many CPUs each of them used.
//! `server_rss_growth_mb` is the peak of the server's memory less what it was before. Prints one JSON line a figure.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use millstream_benches::repeated::Repeated;
use millstream_benches::server_process::{DataArgs, serve_if_asked};
use millstream_benches::wire_client::{Answer, Format, WireClient, execute, prepare, query};
use millstream_types::hash::mix;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keys of the view that is selected from.
const KEYS: u64 = 100_000;
/// Rows of one `INSERT ... SELECT` when a table is filled.
const FILL_ROWS: u64 = 100_000;

/// Measures what clients get from a server.
#[derive(Parser)]
struct Args {
    /// What is measured; everything if not given
    #[arg(long, value_delimiter = ',')]
    part: Vec<Part>,
    /// Rows of large results and copies
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// How long single statements are run
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Connections that run single statements
    #[arg(long, default_value_t = 8)]
    connections: u64,
    /// Worker threads of the server
    #[arg(long, default_value_t = 2)]
    workers: usize,
    #[command(flatten)]
    data: DataArgs,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    /// How long single statements are run.
    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A row of a view by its key
    Select,
    /// A large result
    Result,
    /// Rows in and out
    Copy,
    /// One row each
    Insert,
}

fn main() -> ExitCode {
    millstream_state::allocator::keep_freed_memory();
    if let Some(ended) = serve_if_asked() {
        return ended;
    }
    let args = Args::parse();
    let parts = if args.part.is_empty() { Part::value_variants() } else { &args.part[..] };
    for part in parts {
        let outcome = match part {
            Part::Select => select(&args),
            Part::Result => result(&args),
            Part::Copy => copy(&args),
            Part::Insert => insert(&args),
        };
        if let Err(error) = outcome {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Rows of a view by key, prepared and by the simple protocol.
fn select(args: &Args) -> io::Result<()> {
    let server = args.data.start(args.workers)?;
    let mut client = server.connect()?;
    client.run(
        "CREATE TABLE t (id bigint PRIMARY KEY, g bigint, v bigint);
         CREATE MATERIALIZED VIEW by_g AS SELECT g, count(*) AS n, sum(v) AS total FROM t GROUP BY g",
    )?;
    fill(&mut client, KEYS, &format!("INSERT INTO t SELECT i, i % {KEYS}, i * 7"))?;
    let key = |n: u64| mix(n) % KEYS;
    let prepared = "SELECT g, n, total FROM by_g WHERE g = $1";
    let simple = |n| query(&format!("SELECT g, n, total FROM by_g WHERE g = {}", key(n)));
    let (n_connections, time) = (args.connections, args.time());
    let one_row = |answer: &Answer| answer.n_rows == 1;
    let run = Repeated { prepare: Some(prepare(prepared, 1)), is_right: &one_row, n_connections, time };
    let binary = |n| execute([key(n).cast_signed()], Format::Binary);
    println!("{}", run.figure(&server, "select_prepared", "selects", &binary)?);
    let run = Repeated { prepare: None, is_right: &one_row, n_connections, time };
    println!("{}", run.figure(&server, "select_simple", "selects", &simple)?);
    Ok(())
}

/// All rows of a table, in text and in binary.
fn result(args: &Args) -> io::Result<()> {
    let server = args.data.start(args.workers)?;
    let mut client = server.connect()?;
    client.run("CREATE TABLE t (id bigint PRIMARY KEY, v bigint, name text, at timestamptz)")?;
    let columns = "i, i::bigint * 7919, lpad(i::text, 20, 'x'), to_timestamp(1700000000 + i)";
    fill(&mut client, args.rows, &format!("INSERT INTO t SELECT {columns}"))?;
    let sql = "SELECT id, v, name, at FROM t";
    for (name, messages) in [("result_text", query(sql)), ("result_binary", execute([], Format::Binary))] {
        // A query of the simple protocol takes the statement away that has no name.
        client.send(&prepare(sql, 0))?;
        client.answer()?;
        let spent = server.measure(|| {
            client.send(&messages)?;
            Ok(expect_rows(client.answer()?, args.rows)?.n_rows)
        })?;
        println!("{}", spent.figure(name, "rows"));
    }
    Ok(())
}

/// Rows of two bigints into a table, into a stream, and out.
fn copy(args: &Args) -> io::Result<()> {
    let data: String = (0..args.rows).map(|i| format!("{i}\t{}\n", mix(i) >> 1)).collect();
    for (kind, create) in [
        ("table", "CREATE TABLE t (k bigint PRIMARY KEY, v bigint)"),
        ("stream", "CREATE STREAM t (k bigint, v bigint)"),
    ] {
        let server = args.data.start(args.workers)?;
        let mut client = server.connect()?;
        client.run(create)?;
        let spent = server.measure(|| {
            let answer = client.copy_in("COPY t FROM STDIN", data.as_bytes())?;
            expect_tag(&answer, &format!("COPY {}", args.rows))?;
            Ok(args.rows)
        })?;
        println!("{}", spent.figure(&format!("copy_into_{kind}"), "rows"));
        if kind == "table" {
            let spent = server.measure(|| Ok(expect_rows(client.run("COPY t TO STDOUT")?, args.rows)?.n_rows))?;
            println!("{}", spent.figure("copy_out", "rows"));
        }
    }
    Ok(())
}

/// Single rows into a table.
fn insert(args: &Args) -> io::Result<()> {
    let server = args.data.start(args.workers)?;
    server.connect()?.run("CREATE TABLE t (k bigint PRIMARY KEY, v bigint)")?;
    let (n_connections, time) = (args.connections, args.time());
    let inserted = |answer: &Answer| answer.tag == "INSERT 0 1";
    let run = Repeated {
        prepare: Some(prepare("INSERT INTO t VALUES ($1, $2)", 2)),
        is_right: &inserted,
        n_connections,
        time,
    };
    let row = |n: u64| execute([n.cast_signed(), 7], Format::Text);
    println!("{}", run.figure(&server, "insert_prepared", "inserts", &row)?);
    Ok(())
}

/// Fills a table with rows of the numbers `i`, from 0.
fn fill(client: &mut WireClient, n_rows: u64, insert: &str) -> io::Result<()> {
    for from in (0..n_rows).step_by(FILL_ROWS as usize) {
        let last = n_rows.min(from + FILL_ROWS) - 1;
        client.run(&format!("{insert} FROM generate_series({from}, {last}) AS s(i)"))?;
    }
    Ok(())
}

fn expect_rows(answer: Answer, n_rows: u64) -> io::Result<Answer> {
    if answer.n_rows == n_rows {
        return Ok(answer);
    }
    Err(io::Error::other(format!("{} rows instead of {n_rows}", answer.n_rows)))
}

fn expect_tag(answer: &Answer, tag: &str) -> io::Result<()> {
    if answer.tag == tag {
        return Ok(());
    }
    Err(io::Error::other(format!("{:?} instead of {tag:?}", answer.tag)))
}
