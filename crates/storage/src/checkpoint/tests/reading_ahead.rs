//! In a bucket what is read next is on its way while something else is read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use millstream_state::{StoredBlock, read_blocks};
use millstream_types::delta::{schema_of, take_batch};
use millstream_types::hash::{N_PARTITIONS, hash_columns};
use millstream_types::{Epoch, Result};

use super::super::*;
use super::model::options;
use crate::bucket::BucketObjects;
use crate::bucket::sim::SimBucket;

const TABLE: TableId = TableId { owner: 1, node: 2, table: 3 };
const STREAM: u64 = 7;
/// Objects of each.
const N_OBJECTS: i64 = 12;
/// What does not come about after so long does not.
const TIMEOUT: Duration = Duration::from_secs(60);

fn rows(object: i64) -> RecordBatch {
    let columns = [1, 1000, 1].map(|factor| {
        Arc::new((0..200).map(|i| Some((object * 200 + i) * factor)).collect::<Int64Array>()) as ArrayRef
    });
    let schema = schema_of(&[("a", DataType::Int64), ("b", DataType::Int64), ("c", DataType::Int64)]);
    RecordBatch::try_new(schema, columns.to_vec()).expect("columns of one length")
}

/// A table and a stream, with objects of several blocks.
fn store(sim: &SimBucket) -> CheckpointStore {
    let objects = BucketObjects::new(sim.bucket());
    let store = CheckpointStore::open(Arc::new(objects), options()).expect("it opens");
    for object in 0..N_OBJECTS {
        let (checkpoint, epoch, rows) = (store.begin(), object as u64 + 1, rows(object));
        let mut hashes = Vec::new();
        hash_columns(&rows.columns()[..1], rows.num_rows(), &mut hashes);
        let hashed = HashedRows { batch: rows.clone(), hashes };
        let mut writer = checkpoint.object(0).expect("it begins");
        writer.add(TABLE, &TableShape::multiset(rows.schema()), &[], &[hashed]).expect("there is room");
        let objects = writer.finish().expect("there is room").into_iter().collect();
        let mut writer = checkpoint.stream_object(STREAM, &rows.schema()).expect("it begins");
        writer.push(1, &[(0, Epoch(epoch))], &rows).expect("there is room");
        let of_streams = writer.finish().expect("there is room").into_iter().collect();
        let commit =
            Commit { epoch, owners: [TABLE.owner].into(), stream_floors: [(STREAM, 0)].into(), ..Commit::default() };
        store.commit(&checkpoint, commit, objects, of_streams).expect("there is room");
    }
    store
}

/// Does something that reads, once so many reads of it have come together.
fn with_reads_together<T: Send>(sim: &SimBucket, n_reads: usize, read: impl FnOnce() -> Result<T> + Send) -> T {
    let held = sim.hold_reads();
    std::thread::scope(|scope| {
        let reading = scope.spawn(read);
        let deadline = Instant::now() + TIMEOUT;
        while sim.n_reading() < n_reads {
            assert!(Instant::now() < deadline, "{} reads at once, not {n_reads}", sim.n_reading());
            std::thread::yield_now();
        }
        drop(held);
        reading.join().expect("it does not panic").expect("all is there")
    })
}

fn sorted(rows: &[RecordBatch]) -> RecordBatch {
    let all = concat_batches(&rows[0].schema(), rows).expect("of one schema");
    let order = arrow::compute::sort_to_indices(all.column(0), None, None).expect("numbers");
    take_batch(&all, &order).expect("they are there")
}

#[test]
fn indexes_and_blocks_come_together() {
    let sim = SimBucket::default();
    let store = store(&sim);
    let snapshot = store.hold();
    let expected: Vec<RecordBatch> = (0..N_OBJECTS).map(rows).collect();
    let of_index = 2 * N_OBJECTS as usize;

    let changes = with_reads_together(&sim, of_index, || snapshot.changes(TABLE, &(0..N_PARTITIONS)));
    let pieces = with_reads_together(&sim, N_OBJECTS as usize, || changes.read_all().collect::<Result<Vec<_>>>());
    let read: Vec<RecordBatch> = pieces.into_iter().map(|piece| piece.batch).collect();
    assert_eq!(sorted(&read), sorted(&expected));

    let blocks = with_reads_together(&sim, of_index, || snapshot.stream_blocks(STREAM));
    let blocks: Vec<StoredBlock> = blocks.into_iter().map(|(_, block)| block).collect();
    assert!(blocks.len() > N_OBJECTS as usize, "objects have several blocks");
    let mut read = read_blocks(&blocks);
    let mut rows: Vec<RecordBatch> =
        (0..5).map(|_| read.next().expect("there are some").expect("it is there")).collect();
    rows.extend(with_reads_together(&sim, 16, || read.collect::<Result<Vec<_>>>()));
    assert_eq!(sorted(&rows), sorted(&expected));

    // Columns that do not lie next to each other.
    let apart = with_reads_together(&sim, 2, || blocks[0].rows.read(Some(&[2, 0])));
    assert_eq!(apart, rows[0].project(&[2, 0]).expect("it has them"));
}
