//! What is written is read again, whatever its types, and only what is asked for.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, IntervalMonthDayNanoArray, ListBuilder,
    RecordBatch, RecordBatchOptions, StringViewArray, StringViewBuilder, StructArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, IntervalMonthDayNano, Schema, SchemaRef};
use millstream_types::delta::take_batch;
use millstream_types::hash::{N_PARTITIONS, hash_columns, partition_of, partitions_of};

use super::super::*;
use super::model::{DATA_ID, open, open_on};
use crate::data_directory::DataDirectory;
use crate::disk::OsDisk;
use crate::disk::sim::SimDisk;
use crate::object_store::{DiskStore, ObjectStore};

const TABLE: TableId = TableId { owner: 1, node: 2, table: 3 };

/// Rows of many types, from one number to another.
fn rows_of_many_types(from: i64, to: i64) -> HashedRows {
    let numbers = || from..to;
    let text = |n: i64| (n % 3 > 0).then(|| format!("a text that is longer than a view, {n}"));
    let keys: ArrayRef = Arc::new(numbers().map(Some).collect::<Int64Array>());
    let mut lists = ListBuilder::new(StringViewBuilder::new());
    for n in numbers() {
        (0..n % 4).for_each(|i| lists.values().append_option(text(n + i)));
        lists.append(n % 5 > 0);
    }
    let texts: ArrayRef = Arc::new(numbers().map(text).collect::<StringViewArray>());
    let fields = StructArray::from(vec![(Arc::new(Field::new("t", DataType::Utf8View, true)), Arc::clone(&texts))]);
    let decimals = numbers().map(|n| Some(i128::from(n) << 70)).collect::<Decimal128Array>();
    let columns: Vec<ArrayRef> = vec![
        Arc::clone(&keys),
        texts,
        Arc::new(numbers().map(|n| Some(n % 2 == 0)).collect::<BooleanArray>()),
        Arc::new(numbers().map(|n| Some(n as f64 * -0.0)).collect::<Float64Array>()),
        Arc::new(decimals.with_precision_and_scale(38, 9).expect("it has 38 digits")),
        Arc::new(
            numbers()
                .map(|n| Some(IntervalMonthDayNano::new(n as i32, 1, n << 33)))
                .collect::<IntervalMonthDayNanoArray>(),
        ),
        Arc::new(lists.finish()),
        Arc::new(fields),
    ];
    let named = |(i, c): (usize, &ArrayRef)| Field::new(format!("c{i}"), c.data_type().clone(), true);
    let schema = Schema::new(columns.iter().enumerate().map(named).collect::<Vec<_>>());
    let mut hashes = Vec::new();
    hash_columns(std::slice::from_ref(&keys), keys.len(), &mut hashes);
    HashedRows { batch: RecordBatch::try_new(Arc::new(schema), columns).expect("columns of one length"), hashes }
}

fn commit_rows(store: &CheckpointStore, shape: &TableShape, gone: &[HashedRows], rows: &[HashedRows]) {
    let checkpoint = store.begin();
    let mut writer = checkpoint.object(0).expect("it begins");
    writer.add(TABLE, shape, gone, rows).expect("there is room");
    let objects = writer.finish().expect("there is room").into_iter().collect();
    let epoch = store.newest().epoch + 1;
    let commit = Commit { epoch, owners: [TABLE.owner].into(), ..Commit::default() };
    store.commit(&checkpoint, commit, objects, vec![]).expect("there is room");
}

#[test]
fn rows_of_many_types_on_a_real_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let all = rows_of_many_types(0, 3000);
    let shape = TableShape::multiset(all.batch.schema());
    let open = |directory: &DataDirectory| {
        let store = DiskStore::new(Arc::new(OsDisk::new(folder.path())), &FOLDERS).expect("folders");
        let options = CheckpointOptions { data_id: directory.id(), ..CheckpointOptions::default() };
        CheckpointStore::open(Arc::new(store) as Arc<dyn ObjectStore>, options).expect("it opens")
    };
    let directory = DataDirectory::open(&folder.path().to_owned().into()).expect("it is made");
    commit_rows(&open(&directory), &shape, &[], &[rows_of_many_types(0, 1000), rows_of_many_types(1000, 3000)]);
    drop(directory);
    let directory = DataDirectory::open(&folder.path().to_owned().into()).expect("it is there");
    let store = open(&directory);
    commit_rows(&store, &shape, &[rows_of_many_types(0, 500)], &[]);
    let snapshot = store.hold();
    let read = snapshot.net_rows(TABLE, &(0..N_PARTITIONS)).expect("it reads right");
    let read = concat_batches(&all.batch.schema(), &read).expect("one schema");
    let partitions = all.hashes.iter().map(|&hash| partition_of(hash) as u8);
    let order = Part::Rows.order_of(&shape, &all.batch, partitions);
    let mut places: Vec<u32> = (500..3000).collect();
    places.sort_by_key(|&row| order[row as usize]);
    assert_eq!(read, take_batch(&all.batch, &places.into()).expect("types that can be taken"));
}

#[test]
fn a_row_without_identity_columns() {
    let store = open(&SimDisk::default()).expect("it opens");
    let schema: SchemaRef = rows_of_many_types(0, 0).batch.schema();
    let shape = TableShape::keyed(schema, vec![]);
    let none = RecordBatchOptions::new().with_row_count(Some(1));
    let gone = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &none).expect("no columns");
    let in_one_partition = |n: i64| HashedRows { hashes: vec![5 << 56], ..rows_of_many_types(n, n + 1) };
    commit_rows(&store, &shape, &[], &[in_one_partition(1)]);
    for n in 2..20 {
        commit_rows(
            &store,
            &shape,
            &[HashedRows { batch: gone.clone(), hashes: vec![5 << 56] }],
            &[in_one_partition(n)],
        );
        store.merge_once(&Default::default()).expect("it can be merged");
        store.collect().expect("it can be deleted");
        let rows = store.hold().net_rows(TABLE, &partitions_of(0, 1)).expect("it reads right");
        assert_eq!(rows, [in_one_partition(n).batch]);
    }
    assert!(store.newest().n_objects() < 6, "{} objects", store.newest().n_objects());
}

#[test]
fn blocks_are_bounded_and_only_those_asked_for_are_read() {
    let disk = SimDisk::default();
    let options = CheckpointOptions { data_id: DATA_ID, ..CheckpointOptions::default() };
    let store = open_on(Arc::new(disk.clone()), options).expect("it opens");
    let rows = rows_of_many_types(0, 100_000);
    let shape = TableShape::keyed(rows.batch.schema(), vec![0]);
    commit_rows(&store, &shape, &[], std::slice::from_ref(&rows));
    let snapshot = store.hold();
    let object = snapshot.object(0).expect("it opens");
    let blocks = &object.sections()[0].rows;
    assert!(blocks.len() > 10 && blocks.iter().all(|block| block.decoded_bytes <= 1 << 20));
    // Nobody who reads other partitions meets a block that was damaged.
    let damaged = &blocks[blocks.len() / 2];
    let path = snapshot.manifest().object_paths().next().expect("one object");
    disk.damage(&path, damaged.offset as usize + 100, |bytes| bytes[0] ^= 1);
    for partition in 0..N_PARTITIONS {
        let read = snapshot.net_rows(TABLE, &(partition..partition + 1));
        let is_in_it = damaged.runs.iter().any(|&(p, _)| usize::from(p) == partition);
        assert_eq!(read.is_err(), is_in_it, "partition {partition}");
        let n_rows = rows.hashes.iter().filter(|&&hash| partition_of(hash) == partition).count();
        let n_read = read.map_or(n_rows, |rows| rows.iter().map(RecordBatch::num_rows).sum());
        assert_eq!(n_read, n_rows);
    }
    assert_eq!(DATA_ID, snapshot.manifest().data_id);
}
