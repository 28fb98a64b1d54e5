//! What somebody can read is there, and is not when nobody can.

use std::sync::atomic::AtomicBool;

use super::super::super::*;
use super::super::model::open;
use super::model::{commit_rows, read};
use crate::disk::Disk;
use crate::disk::sim::SimDisk;

fn files(disk: &SimDisk) -> usize {
    disk.list(STREAMS).expect("a folder").len()
}

#[test]
fn an_object_goes_with_the_last_of_its_blocks() {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    let mut committed = commit_rows(&store, &[(1, 0)], 1, 100);
    let opened = store.hold().stream_blocks(1).expect("it reads right");
    let rows = read(&opened, 0).expect("it reads right");
    assert!(opened.len() > 2);
    for _ in 0..3 {
        commit_rows(&store, &[(2, 0)], 2, 1);
        store.collect().expect("it can be deleted");
    }
    assert_eq!(files(&disk), 4);
    let one = committed[0].blocks.pop().expect("there are some");
    drop(committed);
    store.collect().expect("it can be deleted");
    assert_eq!(read(&opened, 0).expect("it is there"), rows);
    drop(opened);
    store.collect().expect("it can be deleted");
    assert_eq!(files(&disk), 4, "a block is left");
    one.1.rows.read(None).expect("it is there");
    drop(one);
    store.collect().expect("it can be deleted");
    assert_eq!(files(&disk), 3);
}

#[test]
fn blocks_outlive_the_store() {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    commit_rows(&store, &[(1, 0)], 1, 100);
    let blocks = store.hold().stream_blocks(1).expect("it reads right");
    let n_files = files(&disk);
    drop(store);
    assert_eq!(read(&blocks, 0).expect("it is there")[&3].len(), 100);
    drop(blocks);
    assert_eq!(files(&disk), n_files, "it may be named");
}

#[test]
fn blocks_that_were_merged_can_be_read_until_they_are_let_go() {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    let limits = |_| StreamLimits { bytes_max: u64::MAX, span_us_max: i64::MAX };
    for _ in 0..4 {
        commit_rows(&store, &[(1, 0)], 1, 20);
    }
    let before = store.hold().stream_blocks(1).expect("it reads right");
    let merged = store.merge_streams_once(&AtomicBool::new(false), limits).expect("it can be merged");
    let merged = merged.expect("there are four");
    assert_eq!((merged.stream, merged.replaced.len(), merged.up_to.0), (1, 4, 4));
    assert!(before.iter().all(|(_, block)| merged.replaced.contains(&block.object)));
    assert!(merged.blocks.iter().all(|(_, block)| !merged.replaced.contains(&block.object)));
    for _ in 0..2 {
        commit_rows(&store, &[(1, 0)], 1, 0);
        store.collect().expect("it can be deleted");
    }
    assert_eq!(files(&disk), 5);
    assert_eq!(read(&before, 0).expect("it is there"), read(&merged.blocks, 0).expect("it is there"));
    drop(before);
    store.collect().expect("it can be deleted");
    assert_eq!(files(&disk), 1);
}

#[test]
fn an_object_that_is_not_committed_leaves_nothing() {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    let checkpoint = store.begin();
    let schema = super::model::schema();
    let begin = || checkpoint.stream_object(1, &schema).expect("it begins");
    assert!(begin().finish().expect("nothing to write").is_none());
    let (births, rows) = super::model::columns(&[(1, 1, None), (1, 2, None)]);
    let mut writer = begin();
    writer.push(0, &births, &rows).expect("there is room");
    drop(writer);
    let mut writer = begin();
    writer.push(0, &births, &rows).expect("there is room");
    let written = writer.finish().expect("there is room").expect("two rows");
    assert_eq!((files(&disk), written.n_rows()), (1, 2));
    drop(written);
    assert_eq!(files(&disk), 0);
}
