//! How many bytes are written for each that changes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewBuilder};
use arrow::datatypes::DataType;
use millstream_types::delta::{schema_of, values_bytes};
use millstream_types::hash::{N_PARTITIONS, hash_columns};

use super::super::*;
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::object_store::{DiskStore, ObjectStore};
use crate::random::Bits;

const TABLE: TableId = TableId { owner: 1, node: 0, table: 0 };

/// Rows with these keys and texts of 100 characters that hardly compress: hexadecimal digits.
fn rows(keys: &[i64], random: &mut Bits) -> HashedRows {
    let mut texts = StringViewBuilder::new();
    for _ in keys {
        let digits: Vec<String> = (0..7).map(|_| format!("{:016x}", random.next())).collect();
        texts.append_value(&digits.concat()[..100]);
    }
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(keys.to_vec())), Arc::new(texts.finish())];
    let schema = schema_of(&[("k", DataType::Int64), ("t", DataType::Utf8View)]);
    hashed(RecordBatch::try_new(schema, columns).expect("two columns"))
}

fn keys_only(keys: &[i64]) -> HashedRows {
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(keys.to_vec()))];
    hashed(RecordBatch::try_new(schema_of(&[("k", DataType::Int64)]), columns).expect("one column"))
}

fn hashed(batch: RecordBatch) -> HashedRows {
    let mut hashes = Vec::new();
    hash_columns(&batch.columns()[..1], batch.num_rows(), &mut hashes);
    HashedRows { batch, hashes }
}

/// What was written, in bytes.
struct Written {
    /// Rows that changed.
    rows: u64,
    checkpoints: u64,
    merges: u64,
    n_layers_max: usize,
    in_merges: Duration,
}

impl Written {
    /// How often each changed byte was written, with the log, which has it once.
    fn times(&self) -> f64 {
        1.0 + (self.checkpoints + self.merges) as f64 / self.rows as f64
    }
}

/// Makes a table of so many rows and updates as many of them at random again and again, in checkpoints of a hundredth.
fn update_all(n_rows: i64, n_rounds: usize) -> Written {
    let disk = Arc::new(SimDisk::default()) as Arc<dyn Disk>;
    let store = Arc::new(DiskStore::new(disk, &FOLDERS).expect("folders")) as Arc<dyn ObjectStore>;
    let options = CheckpointOptions { whole_bytes_min: 0, ..CheckpointOptions::default() };
    let store = CheckpointStore::open(store, options).expect("it opens");
    let mut random = Bits(1);
    let all: Vec<i64> = (0..n_rows).collect();
    let shape = TableShape::keyed(rows(&[], &mut random).batch.schema(), vec![0]);
    let mut written = Written { rows: 0, checkpoints: 0, merges: 0, n_layers_max: 0, in_merges: Duration::ZERO };
    for n in 0..=100 * n_rounds {
        let keys: Vec<i64> = match n {
            0 => all.clone(),
            _ => {
                let mut keys: Vec<i64> = (0..n_rows / 100).map(|_| random.below(n_rows as u64) as i64).collect();
                keys.sort_unstable();
                keys.dedup();
                keys
            }
        };
        let (gone, rows) = (if n == 0 { vec![] } else { vec![keys_only(&keys)] }, rows(&keys, &mut random));
        let n_bytes = values_bytes(&rows.batch) as u64;
        let checkpoint = store.begin();
        let mut writer = checkpoint.object(0).expect("it begins");
        writer.add(TABLE, &shape, &gone, &[rows]).expect("there is room");
        let object = writer.finish().expect("there is room").expect("there are rows");
        if n > 0 {
            written.rows += n_bytes;
            written.checkpoints += object.n_bytes();
        }
        let commit = Commit { epoch: n as u64 + 1, owners: [TABLE.owner].into(), ..Commit::default() };
        store.commit(&checkpoint, commit, vec![object], vec![]).expect("there is room");
        let start = Instant::now();
        while let Some(merged) = store.merge_once(&AtomicBool::new(false)).expect("it can be merged") {
            written.merges += merged.bytes_after;
        }
        written.in_merges += start.elapsed();
        written.n_layers_max = written.n_layers_max.max(store.newest().n_objects());
        store.collect().expect("it can be deleted");
    }
    let read = store.hold().net_rows(TABLE, &(0..N_PARTITIONS)).expect("it reads right");
    assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), all.len());
    written
}

#[test]
fn random_updates_are_written_less_than_four_times() {
    let written = update_all(20_000, 10);
    let (rows, log) = (written.rows as f64, written.rows);
    println!(
        "{} bytes changed; log {log}, checkpoints {:.2} times, merges {:.2} times ({:?}), in all {:.2} times; {} layers at most",
        written.rows,
        written.checkpoints as f64 / rows,
        written.merges as f64 / rows,
        written.in_merges,
        written.times(),
        written.n_layers_max,
    );
    assert!(written.times() < 4.0, "each changed byte was written {:.2} times", written.times());
}
