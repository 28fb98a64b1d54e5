//! The memory of an arrangement: rows of two bigints with one index, as a table or a view keeps them.
//!
//!     cargo bench --bench state -- --rows 10000000
//!
//! Prints one JSON line for an append-only arrangement with an index, and one for an arrangement whose rows can be
//! deleted, found by that index. Each is filled in a process of its own, in epochs of 10,000 rows.

use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::DataType;
use clap::Parser;
use millstream_benches::figure::Figure;
use millstream_benches::process::Process;
use millstream_state::{Arrangement, ArrangementSpec};
use millstream_types::delta::schema_of;
use millstream_types::hash::mix;
use millstream_types::{Delta, Epoch, Result};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EPOCH_ROWS: u64 = 10_000;

/// Fills arrangements and prints how much memory they take.
#[derive(Parser)]
struct Args {
    /// Rows
    #[arg(long, default_value_t = 10_000_000)]
    rows: u64,
    /// The one arrangement to fill in this process
    #[arg(long, hide = true)]
    kind: Option<String>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    millstream_state::allocator::keep_freed_memory();
    let args = Args::parse();
    let run = |kind: &str| {
        let program = std::env::current_exe()?;
        Command::new(program).args(["--rows", &args.rows.to_string(), "--kind", kind]).status()
    };
    match &args.kind {
        Some(kind) => match fill(args.rows, kind) {
            Ok(figure) => println!("{figure}"),
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::FAILURE;
            }
        },
        None => {
            for kind in ["append-only", "deletable"] {
                if !run(kind).is_ok_and(|status| status.success()) {
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    ExitCode::SUCCESS
}

fn fill(n_rows: u64, kind: &str) -> Result<Figure> {
    let schema = schema_of(&[("k", DataType::Int64), ("v", DataType::Int64)]);
    let (identity, indexes) = if kind == "deletable" { (Some(vec![0]), vec![]) } else { (None, vec![vec![0]]) };
    let mut arrangement = Arrangement::new(&ArrangementSpec { schema: schema.clone(), identity, indexes })?;
    let started = Instant::now();
    for (epoch, from) in (1..).zip((0..n_rows).step_by(EPOCH_ROWS as usize)) {
        let rows = from..n_rows.min(from + EPOCH_ROWS);
        let keys = Int64Array::from_iter_values(rows.clone().map(|i| mix(i).cast_signed()));
        let values = Int64Array::from_iter_values(rows.map(u64::cast_signed));
        let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(values)];
        arrangement.apply(&Delta::inserts(RecordBatch::try_new(schema.clone(), columns)?))?;
        arrangement.seal(Epoch(epoch), Epoch(epoch)).expect("all is in memory");
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Figure::new("figure", "arrangement")
        .with("kind", kind)
        .with("rows", n_rows)
        .with("rows_per_second", (n_rows as f64 / seconds).round())
        .with("accounted_mb", (arrangement.n_bytes() as f64 / 1e6).round())
        .with("rss_peak_mb", Process::this().rss_peak_mb().map(f64::round)))
}
