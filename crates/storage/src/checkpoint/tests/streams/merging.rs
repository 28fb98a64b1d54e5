//! Whatever is merged, rows, their order and their births are the same.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::DataType;
use millstream_types::Epoch;
use millstream_types::delta::schema_of;

use super::super::super::*;
use super::super::hooked::Hooked;
use super::super::model::{open, open_on, options};
use super::model::{StreamModel, commit, commit_rows, read};
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::object_store::ObjectStore;
use crate::random::Bits;

const UNLIMITED: StreamLimits = StreamLimits { bytes_max: u64::MAX, span_us_max: i64::MAX };

fn commit_model(store: &CheckpointStore, model: &StreamModel, since: &StreamModel) {
    let floors: Vec<(u64, u64)> = model.floors.iter().map(|(&stream, &floor)| (stream, floor)).collect();
    commit(store, &floors, |checkpoint, _| model.write(checkpoint, since).expect("there is room"));
}

fn merge_all(store: &CheckpointStore, limits: StreamLimits) -> usize {
    let mut n_merges = 0;
    while let Some(merged) = store.merge_streams_once(&AtomicBool::new(false), |_| limits).expect("it can be merged") {
        assert!(merged.replaced.len() > 1);
        n_merges += 1;
    }
    n_merges
}

#[test]
fn any_rows_and_any_merges() {
    for seed in 0..8 {
        println!("seed {seed}");
        let mut random = Bits(seed);
        let disk = SimDisk::default();
        // Some blocks are small, some are copied.
        let options = CheckpointOptions { stream_block_bytes: [300, 1000, 5000][seed as usize % 3], ..options() };
        let open = || open_on(Arc::new(disk.clone()), options.clone()).expect("it opens");
        let mut store = open();
        let mut model = StreamModel::default();
        let mut n_merges = 0;
        for _ in 0..60 {
            let before = model.clone();
            model.change(&mut random);
            commit_model(&store, &model, &before);
            for &stream in model.floors.keys() {
                if random.coin() {
                    let merged = store.merge_any_of_stream(stream, &mut random).expect("it can be merged");
                    if let Some(merged) = merged {
                        n_merges += 1;
                        let all = store.hold().stream_blocks(stream).expect("it reads right");
                        let of_merged: Vec<_> =
                            all.into_iter().filter(|(_, b)| b.object == merged.blocks[0].1.object).collect();
                        assert_eq!(read(&of_merged, 0), read(&merged.blocks, 0));
                    }
                    model.check(&store.hold());
                }
            }
            if random.below(4) == 0 {
                n_merges += merge_all(&store, UNLIMITED);
            }
            store.collect().expect("it can be deleted");
            if random.below(10) == 0 {
                drop(store);
                store = open();
            }
            model.check(&store.hold());
        }
        assert!(n_merges > 20, "{n_merges} merges");
        merge_all(&store, UNLIMITED);
        assert!(store.newest().stream_objects.len() < 12);
    }
}

#[test]
fn objects_become_no_larger_than_they_may() {
    let store = open(&SimDisk::default()).expect("it opens");
    // A second each; the second stream may have five in one.
    let limits =
        |stream| if stream == 2 { StreamLimits { bytes_max: 50_000, span_us_max: 5_000_000 } } else { UNLIMITED };
    for _ in 0..100 {
        for stream in [1, 2] {
            commit_rows(&store, &[(1, 0), (2, 0)], stream, 5);
            while store.merge_streams_once(&AtomicBool::new(false), limits).expect("it can be merged").is_some() {}
        }
    }
    let newest = store.newest();
    let spans = |stream| newest.objects_of_stream(stream).map(|o| o.now_us - o.since_us).collect::<Vec<i64>>();
    assert!(spans(1).len() < 10 && spans(1)[0] > 50_000_000, "{:?}", spans(1));
    assert!(spans(2).len() < 60 && spans(2).iter().all(|&span| span <= 5_000_000), "{:?}", spans(2));
    assert!(newest.objects_of_stream(2).all(|object| object.len <= 50_000));
    let of_stream: Vec<_> = newest.objects_of_stream(1).collect();
    assert!(of_stream.windows(2).all(|two| two[0].up_to <= two[1].after && two[0].now_us <= two[1].since_us));
    assert_eq!(of_stream.iter().map(|object| object.n_rows).sum::<u64>(), 500);
}

#[test]
fn small_blocks_are_put_together_and_full_ones_copied() {
    let disk = SimDisk::default();
    let options = CheckpointOptions { stream_block_bytes: 1 << 20, ..options() };
    let store = open_on(Arc::new(disk), options).expect("it opens");
    for n_rows in [100, 100, 10_000, 100, 9_000, 50, 50] {
        commit_rows(&store, &[(1, 0)], 1, n_rows);
    }
    let before = store.hold().stream_blocks(1).expect("it reads right");
    let merged = store.merge_streams_once(&AtomicBool::new(false), |_| UNLIMITED).expect("it can be merged");
    let blocks = merged.expect("there are many").blocks;
    let found = |(_, block): &(u8, millstream_state::StoredBlock)| {
        (block.rows.n_rows(), block.births.iter().map(|&(row, epoch)| (row, epoch.0)).collect::<Vec<_>>())
    };
    let expected = [
        (200, vec![(0, 1), (100, 2)]),
        (10_000, vec![(0, 3)]),
        (100, vec![(0, 4)]),
        (9_000, vec![(0, 5)]),
        (100, vec![(0, 6), (50, 7)]),
    ];
    assert_eq!(blocks.iter().map(found).collect::<Vec<_>>(), expected);
    assert_eq!(read(&blocks, 0), read(&before, 0));
    // What is known of them is still right.
    for (_, block) in &blocks {
        let known = block.statistics.columns[0].bounds.as_ref().expect("numbers have bounds");
        let rows = block.rows.read(Some(&[0])).expect("it reads right");
        let (first, last) = (rows.column(0).slice(0, 1), rows.column(0).slice(rows.num_rows() - 1, 1));
        assert_eq!((known.0.slice(block.place, 1), known.1.slice(block.place, 1)), (first, last));
    }
}

#[test]
fn what_is_forgotten_meanwhile_does_not_come_back() {
    let disk = SimDisk::default();
    let hooked = Hooked::new(&disk);
    let store = CheckpointStore::open(Arc::clone(&hooked) as Arc<dyn ObjectStore>, options()).expect("it opens");
    let store = Arc::new(store);
    for (floors, is_merged) in [(vec![(1, 1)], false), (vec![], false), (vec![(1, 0)], true)] {
        let stream = 1;
        for _ in 0..3 {
            commit_rows(&store, &[(1, 0)], stream, 20);
        }
        let first = store.newest().objects_of_stream(1).next().expect("it is there").up_to;
        let floors: Vec<(u64, u64)> = floors.into_iter().map(|(stream, floor)| (stream, floor * first)).collect();
        let (of_hook, commits) = (Arc::clone(&store), floors.clone());
        *hooked.hook.lock() = Some((
            STREAMS,
            Box::new(move || {
                commit(&of_hook, &commits, |_, _| vec![]);
                of_hook.collect().expect("it can be deleted");
            }),
        ));
        let merged = store.merge_streams_once(&AtomicBool::new(false), |_| UNLIMITED).expect("it can be merged");
        assert_eq!(merged.is_some(), is_merged, "{floors:?}");
        let n_left = store.newest().stream_objects.len();
        assert_eq!(n_left, if is_merged { 1 } else { 2 * floors.len() });
        // Nothing is left of what was not committed.
        drop(merged);
        commit(&store, &[], |_, _| vec![]);
        commit(&store, &[], |_, _| vec![]);
        store.collect().expect("it can be deleted");
        assert!(disk.list(STREAMS).expect("a folder").is_empty());
    }
}

#[test]
fn a_merge_that_is_stopped_leaves_nothing() {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    for _ in 0..4 {
        commit_rows(&store, &[(1, 0)], 1, 20);
    }
    let stopped = store.merge_streams_once(&AtomicBool::new(true), |_| UNLIMITED).expect("it is stopped");
    assert!(stopped.is_none());
    assert_eq!(disk.list(STREAMS).expect("a folder").len(), 4);
    assert_eq!(merge_all(&store, UNLIMITED), 1);
}

#[test]
fn damaged_objects_are_left_alone() {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    for _ in 0..9 {
        commit_rows(&store, &[(1, 0)], 1, 20);
    }
    let path = store.newest().objects_of_stream(1).nth(4).expect("there are nine").path();
    disk.damage(&path, 60, |bytes| bytes[0] ^= 1);
    assert_eq!(merge_all(&store, UNLIMITED), 2);
    let left: Vec<u64> = store.newest().objects_of_stream(1).map(|object| object.n_rows).collect();
    assert_eq!(left, [80, 20, 80]);
    assert!(disk.list(STREAMS).expect("a folder").iter().any(|name| path.ends_with(name)));
}

#[test]
fn objects_of_another_schema_are_left_alone() {
    let store = open(&SimDisk::default()).expect("it opens");
    for i in 0..8 {
        let schema = schema_of(&[(if i < 4 { "a" } else { "b" }, DataType::Int64)]);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![i]));
        let rows = RecordBatch::try_new(Arc::clone(&schema), vec![numbers]).expect("a column");
        commit(&store, &[(1, 0)], |checkpoint, epoch| {
            let mut writer = checkpoint.stream_object(1, &schema).expect("it begins");
            writer.push(0, &[(0, Epoch(epoch))], &rows).expect("there is room");
            writer.finish().expect("there is room").into_iter().collect()
        });
    }
    merge_all(&store, UNLIMITED);
    let n_rows: Vec<u64> = store.newest().objects_of_stream(1).map(|object| object.n_rows).collect();
    assert_eq!(n_rows, [4, 1, 3]);
    let names: Vec<String> = store
        .hold()
        .stream_blocks(1)
        .expect("it reads right")
        .iter()
        .map(|(_, b)| b.rows.read(None).expect("right").schema().field(0).name().clone())
        .collect();
    assert_eq!(names.len(), 3);
    assert_eq!(names.concat(), "abb");
}
