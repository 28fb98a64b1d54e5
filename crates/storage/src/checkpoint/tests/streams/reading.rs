//! What is written is read again, whatever its types, and only what is asked for.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int16Array, Int64Array, IntervalMonthDayNanoArray, ListBuilder, NullArray, RecordBatch, RecordBatchOptions,
    StringViewArray, StringViewBuilder, StructArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, IntervalMonthDayNano, Schema};
use millstream_types::delta::schema_of;
use millstream_types::{Epoch, SqlState};

use super::super::super::*;
use super::super::hooked::Hooked;
use super::super::model::{DATA_ID, open, open_on};
use super::model::{commit, commit_rows};
use crate::backup::{back_up, restore};
use crate::data_directory::DataDirectory;
use crate::disk::OsDisk;
use crate::disk::sim::SimDisk;
use crate::errors::is_damage;
use crate::location::Location;
use crate::object_store::ObjectStore;

/// Rows of all types that a stream may have, and of some more, from one number to another.
pub(super) fn rows_of_all_types(from: i64, to: i64) -> RecordBatch {
    let numbers = || from..to;
    let text = |n: i64| (n % 3 > 0).then(|| format!("a text that is longer than a view, {n}"));
    let mut lists = ListBuilder::new(StringViewBuilder::new());
    for n in numbers() {
        (0..n % 4).for_each(|i| lists.values().append_option(text(n + i)));
        lists.append(n % 5 > 0);
    }
    let texts: ArrayRef = Arc::new(numbers().map(text).collect::<StringViewArray>());
    let bytes = numbers().map(text).map(|text| text.map(String::into_bytes)).collect::<BinaryViewArray>();
    let fields = StructArray::from(vec![(Arc::new(Field::new("t", DataType::Utf8View, true)), Arc::clone(&texts))]);
    let decimals = numbers().map(|n| Some(i128::from(n) << 70)).collect::<Decimal128Array>();
    let interval = |n: i64| Some(IntervalMonthDayNano::new(n as i32, 1, n << 33));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(numbers().map(Some).collect::<Int64Array>()),
        texts,
        Arc::new(bytes),
        Arc::new(numbers().map(|n| (n % 7 > 0).then_some(n % 2 == 0)).collect::<BooleanArray>()),
        Arc::new(numbers().map(|n| Some(n as f64 * -0.0)).collect::<Float64Array>()),
        Arc::new(numbers().map(|n| (n % 11 > 0).then_some(n as f32)).collect::<Float32Array>()),
        Arc::new(decimals.with_precision_and_scale(38, 9).expect("it has 38 digits")),
        Arc::new(numbers().map(|n| Some(n as i16)).collect::<Int16Array>()),
        Arc::new(numbers().map(|n| Some(n as u32)).collect::<UInt32Array>()),
        Arc::new(numbers().map(|n| Some(n as i32)).collect::<Date32Array>()),
        Arc::new(numbers().map(Some).collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
        Arc::new(numbers().map(interval).collect::<IntervalMonthDayNanoArray>()),
        Arc::new(lists.finish()),
        Arc::new(fields),
        Arc::new(NullArray::new((to - from) as usize)),
    ];
    let named = |(i, c): (usize, &ArrayRef)| Field::new(format!("c{i}"), c.data_type().clone(), true);
    let schema = Schema::new(columns.iter().enumerate().map(named).collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns).expect("columns of one length")
}

/// Commits rows of a stream, pushed piece by piece to slot 1.
fn commit_pieces(store: &CheckpointStore, stream: u64, pieces: &[RecordBatch]) -> Vec<StreamBlocks> {
    commit(store, &[(stream, 0)], |checkpoint, epoch| {
        let mut writer = checkpoint.stream_object(stream, &pieces[0].schema()).expect("it begins");
        for rows in pieces {
            writer.push(1, &[(0, Epoch(epoch))], rows).expect("there is room");
        }
        writer.finish().expect("there is room").into_iter().collect()
    })
}

fn open_with_default_blocks(disk: &SimDisk) -> CheckpointStore {
    let options = CheckpointOptions { data_id: DATA_ID, ..CheckpointOptions::default() };
    open_on(Arc::new(disk.clone()), options).expect("it opens")
}

#[test]
fn rows_of_all_types_also_of_a_backup() {
    let folder = tempfile::tempdir().expect("a folder");
    let (at, copy, restored) = (folder.path().join("data"), folder.path().join("copy"), folder.path().join("restored"));
    let directory = DataDirectory::open(&at.clone().into()).expect("it is made");
    let options =
        CheckpointOptions { data_id: directory.id(), stream_block_bytes: 20_000, ..CheckpointOptions::default() };
    let open_at = |path: &std::path::Path| open_on(Arc::new(OsDisk::new(path)), options.clone()).expect("it opens");
    let pieces = [rows_of_all_types(0, 700), rows_of_all_types(700, 701), rows_of_all_types(701, 3000)];
    let all = rows_of_all_types(0, 3000);
    let check = |blocks: &[(u8, millstream_state::StoredBlock)]| {
        assert!(blocks.len() > 5, "{} blocks", blocks.len());
        let read: Vec<RecordBatch> =
            blocks.iter().map(|(_, block)| block.rows.read(None).expect("it reads right")).collect();
        assert_eq!(concat_batches(&all.schema(), &read).expect("one schema"), all);
        for columns in [vec![], vec![0], vec![14, 1, 1, 12], vec![3, 4, 5, 9, 13]] {
            for ((_, block), rows) in blocks.iter().zip(&read) {
                let read = block.rows.read(Some(&columns)).expect("it reads right");
                assert_eq!(read, rows.project(&columns).expect("its columns"));
            }
        }
    };
    let store = open_at(&at);
    let committed = commit_pieces(&store, 7, &pieces);
    check(&committed[0].blocks);
    check(&store.hold().stream_blocks(7).expect("it reads right"));
    assert!(store.hold().stream_blocks(8).expect("there is none").is_empty());
    let copied = back_up(&store.hold(), &Location::Folder(copy.clone())).expect("there is room");
    assert_eq!(copied.n_objects, 1);
    drop(store);
    restore(&Location::Folder(copy.clone()), &Location::Folder(restored.clone())).expect("it is a backup");
    for path in [&at, &copy, &restored] {
        check(&open_at(path).hold().stream_blocks(7).expect("it reads right"));
    }
    // A backup that is damaged is not restored.
    let object = std::fs::read_dir(copy.join(STREAMS)).expect("a folder").next().expect("an object").expect("a file");
    let mut bytes = std::fs::read(object.path()).expect("a file");
    bytes[1000] ^= 1;
    std::fs::write(object.path(), bytes).expect("it can be written");
    let error = restore(&Location::Folder(copy), &Location::Folder(folder.path().join("again"))).expect_err("damaged");
    assert!(is_damage(&error) && error.message().contains(STREAMS), "{error}");
}

#[test]
fn blocks_are_bounded_and_births_are_kept() {
    let disk = SimDisk::default();
    let store = open_with_default_blocks(&disk);
    let schema = schema_of(&[("n", DataType::Int64)]);
    let numbers = |range: std::ops::Range<i64>| {
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(range.collect::<Int64Array>())]).expect("a column")
    };
    let blocks = commit(&store, &[(1, 0)], |checkpoint, _| {
        let mut writer = checkpoint.stream_object(1, &schema).expect("it begins");
        writer.push(1, &[(0, Epoch(1)), (5000, Epoch(2)), (30_000, Epoch(3))], &numbers(0..40_000)).expect("room");
        writer.push(2, &[(0, Epoch(9))], &numbers(0..1)).expect("there is room");
        writer.push(1, &[(0, Epoch(3)), (10, Epoch(5))], &numbers(40_000..40_100)).expect("there is room");
        writer.push(1, &[], &numbers(0..0)).expect("nothing comes of it");
        // What was born earlier, although it comes later, is a block of its own.
        writer.push(2, &[(0, Epoch(8))], &numbers(1..3)).expect("there is room");
        for (births, why) in [
            (vec![], "none"),
            (vec![(1, Epoch(1))], "not of the first"),
            (vec![(0, Epoch(2)), (1, Epoch(1))], "older"),
            (vec![(0, Epoch(1)), (2, Epoch(2))], "of no row"),
        ] {
            let mut writer = checkpoint.stream_object(1, &schema).expect("it begins");
            assert!(writer.push(1, &births, &numbers(0..2)).is_err(), "{why}");
        }
        writer.finish().expect("there is room").into_iter().collect()
    });
    let found = |(slot, block): &(u8, millstream_state::StoredBlock)| {
        let births = block.births.iter().map(|&(row, epoch)| (row, epoch.0)).collect::<Vec<_>>();
        (*slot, block.rows.n_rows(), births)
    };
    let expected = [
        (1, 16384, vec![(0, 1), (5000, 2)]),
        (1, 16384, vec![(0, 2), (13616, 3)]),
        (2, 1, vec![(0, 9)]),
        (1, 7332, vec![(0, 3), (7242, 5)]),
        (2, 2, vec![(0, 8)]),
    ];
    assert_eq!(blocks[0].blocks.iter().map(found).collect::<Vec<_>>(), expected);
    let places: Vec<usize> = blocks[0].blocks.iter().map(|(_, block)| block.place).collect();
    assert_eq!(places, [0, 1, 2, 3, 4]);
    // Rows of 10 kB: a hundred of them are 1 MiB. A larger one is a block of its own.
    let long = |n: usize, len: usize| {
        let texts: ArrayRef = Arc::new((0..n).map(|_| Some("z".repeat(len))).collect::<StringViewArray>());
        RecordBatch::try_new(schema_of(&[("t", DataType::Utf8View)]), vec![texts]).expect("a column")
    };
    let blocks = commit_pieces(&store, 2, &[long(1000, 10_000), long(3, 2_000_000)]);
    let n_rows: Vec<usize> = blocks[0].blocks.iter().map(|(_, block)| block.rows.n_rows()).collect();
    assert!(n_rows.len() > 9 && n_rows.iter().all(|&n| n <= 110) && n_rows.ends_with(&[1, 1, 1]), "{n_rows:?}");
}

#[test]
fn only_the_columns_that_are_wanted_are_read() {
    let disk = SimDisk::default();
    let hooked = Hooked::new(&disk);
    let options = CheckpointOptions { data_id: DATA_ID, ..CheckpointOptions::default() };
    let store = CheckpointStore::open(Arc::clone(&hooked) as Arc<dyn ObjectStore>, options).expect("it opens");
    let rows = rows_of_all_types(0, 5000);
    let blocks = commit_pieces(&store, 1, std::slice::from_ref(&rows)).remove(0).blocks;
    let (_, block) = &blocks[0];
    let read = |columns: &[usize]| {
        hooked.reads.lock().clear();
        block.rows.read(Some(columns)).expect("it reads right");
        hooked.reads.lock().iter().map(|(_, range)| range.end - range.start).collect::<Vec<u64>>()
    };
    let sizes: Vec<u64> = (0..rows.num_columns()).map(|column| read(&[column])[0]).collect();
    assert_eq!(sizes.iter().sum::<u64>(), block.rows.n_bytes() as u64);
    assert_eq!(read(&[]), [0; 0]);
    assert_eq!(read(&[4, 2, 3, 2]), [sizes[2..5].iter().sum::<u64>()]);
    assert_eq!(read(&[8, 0, 1]), [sizes[..2].iter().sum::<u64>(), sizes[8]]);
    assert!(block.rows.read(Some(&[99])).is_err(), "there is no such column");
    // Nobody is harmed who does not read it.
    let path = store.newest().object_paths().next().expect("it is there");
    hooked.reads.lock().clear();
    block.rows.read(Some(&[5])).expect("it reads right");
    let at = hooked.reads.lock()[0].1.start as usize;
    disk.damage(&path, at + 10, |bytes| bytes[0] ^= 1);
    let error = block.rows.read(Some(&[4, 5])).expect_err("it is damaged");
    assert!(error.message().contains(&path) && error.message().contains(&format!("byte {at}")), "{error}");
    block.rows.read(Some(&[0, 1, 2, 3, 4])).expect("it is not damaged");
    block.rows.read(Some(&[6, 7, 8])).expect("it is not damaged");
}

#[test]
fn rows_without_columns() {
    let store = open(&SimDisk::default()).expect("it opens");
    let options = RecordBatchOptions::new().with_row_count(Some(5));
    let rows = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).expect("no columns");
    commit_pieces(&store, 1, &[rows.clone(), rows.clone()]);
    let blocks = store.hold().stream_blocks(1).expect("it reads right");
    assert_eq!(blocks.iter().map(|(_, block)| block.rows.n_rows()).sum::<usize>(), 10);
    assert!(blocks.iter().all(|(_, block)| block.rows.read(None).expect("it reads right").num_columns() == 0));
}

#[test]
fn rows_that_are_forgotten_take_their_objects_with_them() {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    let epochs = |store: &CheckpointStore, stream: u64| {
        store.newest().objects_of_stream(stream).map(|object| (object.after, object.up_to)).collect::<Vec<_>>()
    };
    for stream in [1, 2, 1, 1, 2] {
        commit_rows(&store, &[(1, 0), (2, 0)], stream, 10);
    }
    assert_eq!(epochs(&store, 1), [(0, 1), (2, 3), (3, 4)]);
    let newest = store.newest();
    let of_4 = newest.objects_of_stream(1).last().expect("there are three");
    assert_eq!((of_4.since_us, of_4.now_us, of_4.n_rows), (3_000_000, 4_000_000, 10));
    commit_rows(&store, &[(1, 3), (2, 1)], 1, 10);
    assert_eq!((epochs(&store, 1), epochs(&store, 2)), (vec![(3, 4), (5, 6)], vec![(1, 2), (4, 5)]));
    // A stream that is gone is not written, either.
    let blocks = commit_rows(&store, &[(1, 6)], 2, 10);
    assert!(blocks.is_empty() && store.newest().stream_objects.is_empty());
    assert_eq!(store.newest().n_objects(), 0);
    commit_rows(&store, &[(1, 6)], 1, 0);
    store.collect().expect("it can be deleted");
    assert_eq!(disk_names(&disk), [""; 0]);
}

fn disk_names(disk: &SimDisk) -> Vec<String> {
    use crate::disk::Disk;
    disk.list(STREAMS).expect("a folder")
}

/// `version_1.manifest` was written by version 1, and is read by all releases.
#[test]
fn a_manifest_of_version_1_has_no_streams() {
    let bytes = include_bytes!("../version_1.manifest");
    let data_id = u128::from_le_bytes(bytes[16..32].try_into().expect("16 bytes"));
    let manifest = Manifest::decode(bytes, 2, data_id).expect("it is read");
    assert_eq!((manifest.term, manifest.number, manifest.epoch, manifest.log_sequence), (1, 2, 3, 4));
    assert_eq!(manifest.owners, [65536, 65537, 65538].into());
    assert_eq!(manifest.values.len(), 3);
    assert!(manifest.catalog.ends_with(b"]}") && manifest.stream_floors.is_empty());
    assert!(manifest.stream_objects.is_empty());
    let written = manifest.encode();
    assert_eq!((bytes[8], written[8], written.len()), (1, 2, bytes.len() + 8));
    assert_eq!(Manifest::decode(&written, 2, data_id).expect("it is read"), manifest);
    // Cut or longer it is none, whatever its checksum says.
    for (n_more, n_less) in [(8, 0), (0, 4)] {
        let mut wrong = bytes[..bytes.len() - 8 - n_less].to_vec();
        wrong.extend(vec![0; n_more]);
        wrong.extend(crate::encoding::checksum(&wrong));
        let error = Manifest::decode(&wrong, 2, data_id).expect_err("it does not make sense");
        assert_eq!(error.state(), SqlState::DATA_CORRUPTED);
    }
}
