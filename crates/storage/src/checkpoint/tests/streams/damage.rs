//! One byte of an object of a stream is another, or the object is missing: an error that names it, for that stream only.

use std::sync::atomic::AtomicBool;

use super::super::super::*;
use super::super::model::open;
use super::model::{commit_rows, read};
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::encoding::checksum;
use crate::errors::is_damage;
use millstream_types::{Error, SqlState};

fn some_rows() -> (SimDisk, CheckpointStore, String) {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    commit_rows(&store, &[(1, 0), (2, 0)], 1, 60);
    commit_rows(&store, &[(1, 0), (2, 0)], 2, 60);
    let path = store.newest().objects_of_stream(1).next().expect("it is there").path();
    (disk, store, path)
}

fn read_stream(store: &CheckpointStore, stream: u64) -> millstream_types::Result<usize> {
    let rows = read(&store.hold().stream_blocks(stream)?, 0)?;
    Ok(rows.values().map(Vec::len).sum())
}

fn check_error(error: &Error, path: &str) {
    assert!(is_damage(error) && error.message().contains(path), "{error}");
    assert!(error.fields().hint.as_ref().is_some_and(|hint| hint.contains("backup")), "{error:?}");
}

#[test]
fn any_byte() {
    let (disk, store, path) = some_rows();
    let opened = store.hold().stream_blocks(1).expect("it reads right");
    let len = disk.open(&path).expect("it is there").len().expect("a length") as usize;
    let (mut n_in_blocks, mut n_in_index) = (0, 0);
    for at in 0..len {
        disk.damage(&path, at, |bytes| bytes[0] ^= 1);
        check_error(&read_stream(&store, 1).expect_err("it is damaged"), &path);
        assert!(store.hold().verify().is_err_and(|error| is_damage(&error)));
        match read(&opened, 0) {
            Ok(_) => n_in_index += 1,
            Err(error) => {
                check_error(&error, &path);
                n_in_blocks += 1;
            }
        }
        assert_eq!(read_stream(&store, 2), Ok(60));
        disk.damage(&path, at, |bytes| bytes[0] ^= 1);
    }
    assert!(n_in_blocks > 1000 && n_in_index > 500, "{n_in_blocks} and {n_in_index}");
    assert_eq!(read_stream(&store, 1), Ok(60));
    store.hold().verify().expect("nothing is damaged");
}

#[test]
fn an_object_that_is_missing_cut_off_or_another() {
    let (disk, store, path) = some_rows();
    let opened = store.hold().stream_blocks(1).expect("it reads right");
    let check = || {
        check_error(&read_stream(&store, 1).expect_err("it is damaged"), &path);
        check_error(&read(&opened, 0).expect_err("it is damaged"), &path);
        assert_eq!(read_stream(&store, 2), Ok(60));
    };
    disk.open(&path).expect("it is there").set_len(500).expect("it can be cut");
    check();
    disk.remove(&path).expect("it is there");
    check();
    // Others go on: rows come, are merged, and are forgotten.
    let limits = |_| StreamLimits { bytes_max: u64::MAX, span_us_max: i64::MAX };
    for _ in 0..5 {
        commit_rows(&store, &[(1, 0), (2, 0)], 1, 10);
        commit_rows(&store, &[(1, 0), (2, 0)], 2, 10);
        while store.merge_streams_once(&AtomicBool::new(false), limits).expect("others can be merged").is_some() {}
    }
    assert_eq!(read_stream(&store, 2), Ok(110));
    assert!(store.newest().stream_objects.len() < 8);
    check_error(&read_stream(&store, 1).expect_err("it is damaged"), &path);
    commit_rows(&store, &[(1, 1), (2, 0)], 1, 10);
    assert_eq!(read_stream(&store, 1), Ok(60));
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let (disk, store, path) = some_rows();
    disk.damage(&path, 0, |bytes| {
        bytes[8] = 2;
        let right = checksum(&bytes[..32]);
        bytes[32..40].copy_from_slice(&right);
    });
    let error = read_stream(&store, 1).expect_err("it is newer");
    assert_eq!(error.state(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(error.message().contains(&path) && error.message().contains("version 2"), "{error}");
}
