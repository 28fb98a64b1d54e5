//! Kernels measured one at a time: `cargo bench --bench kernels`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millstream_benches::input::{TABLES, nexmark_source};
use millstream_connectors::{ColumnDeclaration, SourceOptions, create_source};
use millstream_types::SqlType;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Events a read: about what an epoch under load hands to a worker.
const READ_SIZE: u64 = 20_000;

/// The Nexmark generator: all columns of each table, and the bids' columns that most queries read. Rates count events
/// of all kinds.
fn nexmark(c: &mut Criterion) {
    let mut group = c.benchmark_group("nexmark");
    group.throughput(Throughput::Elements(READ_SIZE));
    for table in TABLES {
        let source = nexmark_source(table, 10.0).expect("the options are valid");
        let all: Vec<usize> = (0..source.schema().fields().len()).collect();
        let mut at = 0;
        let mut read = |projection: &[usize]| {
            at += READ_SIZE;
            black_box(source.read(at..at + READ_SIZE, projection).expect("the generator reads any range"))
        };
        group.bench_function(format!("{table}, all columns"), |b| b.iter(|| read(&all)));
        if table == "bid" {
            group.bench_function("bid (auction, price, date_time)", |b| b.iter(|| read(&[0, 2, 5])));
        }
    }
    group.finish();
}

/// The general generator: one column for each of some distributions. Rates count rows.
fn generator(c: &mut Criterion) {
    let mut group = c.benchmark_group("generator");
    group.throughput(Throughput::Elements(READ_SIZE));
    let columns = [
        ("uniform(1, 1000000)", SqlType::BigInt),
        ("zipf(1000000, 1.1)", SqlType::BigInt),
        ("normal(0, 1)", SqlType::Double),
        ("timestamp(2024-01-01, 1 ms)", SqlType::Timestamp),
        ("text(8, 24)", SqlType::Text),
        ("choice(red, green, blue)", SqlType::Text),
        ("null(0.1, uniform(1, 100))", SqlType::BigInt),
    ];
    for (distribution, sql_type) in columns {
        let options =
            SourceOptions::new([("connector", "generator"), ("col.v", distribution)]).expect("a connector is named");
        let options = options.with_columns(vec![ColumnDeclaration { name: "v".to_owned(), sql_type }]);
        let source = create_source(&options).expect("the options are valid");
        let mut at = 0;
        group.bench_function(distribution, |b| {
            b.iter(|| {
                at += READ_SIZE;
                black_box(source.read(at..at + READ_SIZE, &[0]).expect("the generator reads any range"))
            });
        });
    }
    group.finish();
}

criterion_group!(kernels, nexmark, generator);
criterion_main!(kernels);
