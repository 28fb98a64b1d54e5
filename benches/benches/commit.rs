//! What it takes until an insert is durable, beside what the disk takes to make something durable.
//!
//!     cargo bench --bench commit -- --data-dir /var/tmp --seconds 5 --sync-delay-ms 0,4
//!
//! First a file of the same disk is written and made durable over and over, 200 bytes each time, as the log is; then one
//! connection inserts single rows, then many do. A delay is put under the server's disk and under that file alike, for
//! disks that are faster than those that group commit is for. Prints one JSON line a figure.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use millstream_benches::figure::{Figure, rounded};
use millstream_benches::repeated::{Repeated, Runs};
use millstream_benches::server_process::{DataArgs, serve_if_asked};
use millstream_benches::slow_disk::slow_disk;
use millstream_benches::wire_client::{Answer, Format, execute, prepare};
use millstream_storage::disk::{Disk, OsDisk};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is written each time: about the record of an insert.
const RECORD_BYTES: usize = 200;
/// The room that the file has.
const FILE_BYTES: u64 = 8 << 20;

/// Measures group commit.
#[derive(Parser)]
struct Args {
    /// How long each figure is measured
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Connections that insert at once
    #[arg(long, default_value_t = 64)]
    connections: u64,
    /// By how much the disk is slowed, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 4.0])]
    sync_delay_ms: Vec<f64>,
    /// Worker threads of the server
    #[arg(long, default_value_t = 2)]
    workers: usize,
    #[command(flatten)]
    data: DataArgs,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    millstream_state::allocator::keep_freed_memory();
    if let Some(ended) = serve_if_asked() {
        return ended;
    }
    let mut args = Args::parse();
    // In memory there is nothing to measure.
    args.data.data_dir.get_or_insert_with(std::env::temp_dir);
    for delay_ms in &args.sync_delay_ms {
        if let Err(error) = measure(&args, *delay_ms) {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn measure(args: &Args, delay_ms: f64) -> io::Result<()> {
    let delay = Duration::try_from_secs_f64(delay_ms / 1e3).map_err(io::Error::other)?;
    let time = Duration::from_secs_f64(args.seconds);
    let folder = args.data.data_dir.as_deref().unwrap_or(Path::new("."));
    let disk = Median::of(sync_times(folder, delay, time)?);
    let figure = |name: &str| Figure::new("figure", name).with("sync_delay_ms", delay_ms);
    println!("{}", figure("fdatasync").with("a_second", disk.rate.round()).with("p50_ms", disk.p50_ms));
    for n_connections in [1, args.connections] {
        let server = args.data.start_on_slow_disk(args.workers, delay)?;
        server.connect()?.run("CREATE TABLE t (k bigint PRIMARY KEY, v bigint)")?;
        let inserted = |answer: &Answer| answer.tag == "INSERT 0 1";
        let prepare = Some(prepare("INSERT INTO t VALUES ($1, $2)", 2));
        let run = Repeated { prepare, is_right: &inserted, n_connections, time };
        let row = |n: u64| execute([n.cast_signed(), 7], Format::Text);
        let Runs { spent, times } = run.run(&server, &row)?;
        let inserts = Median::of(times.clone());
        // Of all connections together.
        let rate = times.len() as f64 / spent.seconds();
        println!(
            "{}",
            spent
                .figure("insert", "inserts")
                .with("sync_delay_ms", delay_ms)
                .with("connections", n_connections)
                .with("times_fdatasync_rate", rounded(rate / disk.rate, 2))
                .with("p50_over_fdatasync", rounded(inserts.p50_ms / disk.p50_ms, 2))
                .with_times(times)
        );
    }
    Ok(())
}

/// What single calls took, one after the other.
struct Median {
    rate: f64,
    p50_ms: f64,
}

impl Median {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let total: Duration = times.iter().sum();
        let middle = times.get(times.len() / 2).copied().unwrap_or_default();
        Median { rate: times.len() as f64 / total.as_secs_f64(), p50_ms: rounded(middle.as_secs_f64() * 1e3, 3) }
    }
}

/// How long it takes, each time, to write a little into a file that has the room, and to make it durable.
fn sync_times(folder: &Path, delay: Duration, time: Duration) -> io::Result<Vec<Duration>> {
    const PATH: &str = "synced";
    let folder = tempfile::tempdir_in(folder)?;
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(folder.path()));
    let disk = if delay > Duration::ZERO { slow_disk(delay)(disk) } else { disk };
    let file = disk.create(PATH)?;
    file.allocate(FILE_BYTES)?;
    file.sync()?;
    let record = [7; RECORD_BYTES];
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let from = Instant::now();
        file.write_at(&record, (times.len() * RECORD_BYTES) as u64 % (FILE_BYTES - RECORD_BYTES as u64))?;
        file.sync()?;
        times.push(from.elapsed());
    }
    Ok(times)
}
