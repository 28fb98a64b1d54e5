//! From an insert to a subscriber, over the wire, and what a server costs that has nothing to do.
//!
//!     cargo bench --bench latency -- --seconds 20 --workers 2
//!
//! A view joins a stream with a table and groups it. One connection inserts into the stream at times that are fixed
//! beforehand, another subscribes to the view. The latency of an insert is the time from when it was to be sent, not
//! from when it was sent, to the arrival of the view's row that has it in it: so what is late makes all late that waits
//! behind it. Prints one JSON line a figure.

use std::fmt::Write;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use millstream_benches::figure::Figure;
use millstream_benches::server_process::{DataArgs, serve_if_asked};
use millstream_benches::wire_client::{WireClient, error_text, message, query, text_value};
use millstream_types::hash::mix;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The table that the stream is joined with has so many rows.
const USERS: u64 = 10_000;
/// Inserts of this time come first, and are not counted.
const WARM_UP: Duration = Duration::from_secs(1);
/// After this time a server that has nothing to do is taken to have found out.
const SETTLING: Duration = Duration::from_secs(2);

/// `latest` is the number of the last insert that a row has in it.
const SETUP: &str = "
    CREATE TABLE users (id bigint PRIMARY KEY, country bigint);
    CREATE STREAM orders (user_id bigint, amount bigint, insert_no bigint);
    CREATE MATERIALIZED VIEW by_country AS
        SELECT u.country, count(*) AS n, sum(o.amount) AS total, max(o.insert_no) AS latest
        FROM orders o JOIN users u ON u.id = o.user_id GROUP BY u.country";
/// The columns of the subscription that are looked at.
const DIFF_COLUMN: usize = 1;
const LATEST_COLUMN: usize = 5;

/// Measures the time from an insert to a subscriber.
#[derive(Parser)]
struct Args {
    /// How long each figure is measured
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Time between two inserts
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    interval_ms: u32,
    /// Rows of the inserts, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1000])]
    rows: Vec<u64>,
    /// Views that are there when nothing happens
    #[arg(long, default_value_t = 100)]
    idle_views: u32,
    /// How long nothing happens
    #[arg(long, default_value_t = 10)]
    idle_seconds: u32,
    /// Worker threads of the server
    #[arg(long, default_value_t = 2)]
    workers: usize,
    #[command(flatten)]
    data: DataArgs,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// How rows are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Insert,
    Copy,
}

/// When inserts are to be sent.
#[derive(Clone, Copy)]
struct Schedule {
    start: Instant,
    interval: Duration,
    n_inserts: u32,
}

impl Schedule {
    fn time_of(self, insert_no: u32) -> Instant {
        self.start + self.interval * insert_no
    }
}

fn main() -> ExitCode {
    millstream_state::allocator::keep_freed_memory();
    if let Some(ended) = serve_if_asked() {
        return ended;
    }
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> io::Result<()> {
    for &n_rows in &args.rows {
        println!("{}", latency(args, n_rows, By::Insert)?);
        if n_rows > 1 {
            println!("{}", latency(args, n_rows, By::Copy)?);
        }
    }
    println!("{}", idle(args)?);
    Ok(())
}

fn latency(args: &Args, n_rows: u64, by: By) -> io::Result<Figure> {
    let server = args.data.start(args.workers)?;
    let mut writer = server.connect()?;
    set_up(&mut writer)?;
    let mut subscriber = server.connect()?;
    subscriber.send(&query("SUBSCRIBE TO by_country WITH (SNAPSHOT = false)"))?;
    let (kind, body) = subscriber.read_message()?;
    if kind != b'T' {
        return Err(io::Error::other(format!("no subscription: {}", error_text(body))));
    }
    let interval = Duration::from_millis(args.interval_ms.into());
    let in_time = |time: Duration| u32::try_from(time.as_millis() / interval.as_millis()).unwrap_or(u32::MAX);
    let n_warm_up = in_time(WARM_UP);
    let n_inserts = n_warm_up + in_time(Duration::from_secs(args.seconds.into())).max(1);
    let schedule = Schedule { start: Instant::now() + interval, interval, n_inserts };
    let mut times = Vec::new();
    let spent = server.measure(|| {
        let reader = std::thread::spawn(move || observe(&mut subscriber, schedule));
        insert(&mut writer, schedule, n_rows, by)?;
        times = reader.join().map_err(|_| io::Error::other("the subscriber panicked"))??;
        Ok(u64::from(n_inserts) * n_rows)
    })?;
    Ok(Figure::new("figure", "latency")
        .with("rows", n_rows)
        .with("by", if by == By::Insert { "insert" } else { "copy" })
        .with("interval_ms", args.interval_ms)
        .with("inserts", n_inserts - n_warm_up)
        .with_times(times.split_off(n_warm_up as usize))
        .with("server_cpu_percent", spent.server_cpu_percent()))
}

fn set_up(client: &mut WireClient) -> io::Result<()> {
    client.run(SETUP)?;
    client.run(&format!("INSERT INTO users SELECT i, i % 50 FROM generate_series(0, {}) AS s(i)", USERS - 1))?;
    Ok(())
}

/// Sends each insert at its time, or once the one before it has been answered.
fn insert(writer: &mut WireClient, schedule: Schedule, n_rows: u64, by: By) -> io::Result<()> {
    for insert_no in 0..schedule.n_inserts {
        let messages = match by {
            By::Insert => query(&format!("INSERT INTO orders VALUES {}", rows(insert_no, n_rows, ["(", ", ", "), "]))),
            By::Copy => [
                query("COPY orders FROM STDIN"),
                message(b'd', rows(insert_no, n_rows, ["", "\t", "\n"]).as_bytes()),
                message(b'c', &[]),
            ]
            .concat(),
        };
        std::thread::sleep(schedule.time_of(insert_no).saturating_duration_since(Instant::now()));
        writer.send(&messages)?;
        writer.answer()?;
    }
    Ok(())
}

/// Rows as text, with what stands before each, between its values, and between two rows.
fn rows(insert_no: u32, n_rows: u64, [open, between, end]: [&str; 3]) -> String {
    let mut text = String::new();
    for row_idx in 0..n_rows {
        let random = mix(u64::from(insert_no) * n_rows + row_idx);
        let (user, amount) = (random % USERS, random >> 32 & 0xfff);
        // Writing to a string does not fail.
        let _ = write!(text, "{open}{user}{between}{amount}{between}{insert_no}{end}");
    }
    let n_bytes = text.len() - if open.is_empty() { 0 } else { ", ".len() };
    text.truncate(n_bytes);
    text
}

/// The time of each insert, from when it was to be sent to when a row with it, or with a later one, has arrived.
fn observe(subscriber: &mut WireClient, schedule: Schedule) -> io::Result<Vec<Duration>> {
    let mut times = Vec::new();
    while times.len() < schedule.n_inserts as usize {
        let (kind, body) = subscriber.read_message()?;
        match kind {
            b'D' if text_value(body, DIFF_COLUMN) == Some("1") => {
                let now = Instant::now();
                let latest: u32 = text_value(body, LATEST_COLUMN)
                    .and_then(|latest| latest.parse().ok())
                    .ok_or_else(|| io::Error::other("a row without a number of an insert"))?;
                for insert_no in times.len() as u32..=latest {
                    times.push(now.saturating_duration_since(schedule.time_of(insert_no)));
                }
            }
            b'E' => return Err(io::Error::other(error_text(body))),
            _ => {}
        }
    }
    Ok(times)
}

/// CPU use while views are there and nothing happens.
fn idle(args: &Args) -> io::Result<Figure> {
    let server = args.data.start(args.workers)?;
    let mut client = server.connect()?;
    set_up(&mut client)?;
    for view_no in 0..args.idle_views {
        client.run(&format!(
            "CREATE MATERIALIZED VIEW idle_{view_no} AS SELECT u.country, count(*) AS n, sum(o.amount) AS total
             FROM orders o JOIN users u ON u.id = o.user_id WHERE o.amount % 100 <> {view_no} GROUP BY u.country"
        ))?;
    }
    client.run(&format!("INSERT INTO orders VALUES {}", rows(0, 1000, ["(", ", ", "), "])))?;
    std::thread::sleep(SETTLING);
    let spent = server.measure(|| {
        std::thread::sleep(Duration::from_secs(args.idle_seconds.into()));
        Ok(0)
    })?;
    Ok(Figure::new("figure", "idle")
        .with("views", args.idle_views)
        .with("seconds", args.idle_seconds)
        .with("server_cpu_percent", spent.server_cpu_percent()))
}
