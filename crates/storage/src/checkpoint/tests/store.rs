//! Holds, writers that meet each other, and versions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_types::SqlState;

use super::super::*;
use super::model::{Model, open, open_on, options};
use super::streams::model::schema;
use crate::disk::sim::SimDisk;
use crate::disk::{Disk, OsDisk};
use crate::encoding::checksum;
use crate::errors::IN_USE;
use crate::random::Bits;

#[test]
fn what_is_held_is_there_until_it_is_not() {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    let mut random = Bits(2);
    let mut model = Model::default();
    let mut held = None;
    for epoch in 1..30 {
        let before = model.clone();
        model.change(&mut random);
        model.commit(&store, &before, epoch, 2).expect("there is room");
        while store.merge_once(&AtomicBool::new(false)).expect("it can be merged").is_some() {}
        store.collect().expect("it can be deleted");
        if epoch == 3 {
            held = Some((store.hold(), model.clone()));
        }
        if let Some((snapshot, of_then)) = &held {
            of_then.check(snapshot);
            let needed = snapshot.manifest().log_sequence;
            assert!(store.log_needed_from() <= needed && (epoch < 6 || store.log_needed_from() == needed));
        }
    }
    let (snapshot, _) = held.expect("it was held");
    let paths: Vec<String> = snapshot.manifest().object_paths().chain([snapshot.manifest().path()]).collect();
    assert!(paths.iter().all(|path| disk.open(path).is_ok()));
    drop(snapshot);
    store.collect().expect("it can be deleted");
    let newest = store.newest();
    let needed: Vec<String> = newest.object_paths().collect();
    assert!(paths.iter().filter(|path| !needed.contains(path)).all(|path| disk.open(path).is_err()));
    assert!(store.log_needed_from() >= 29);
}

#[test]
fn a_checkpoint_that_is_not_committed_leaves_nothing() {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    let mut model = Model::default();
    model.change(&mut Bits(1));
    model.commit(&store, &Model::default(), 1, 1).expect("there is room");
    let before = disk.list(OBJECTS).expect("a folder");
    let checkpoint = store.begin();
    let mut next = model.clone();
    next.change(&mut Bits(2));
    next.commit(&store, &model, 2, 1).expect("there is room");
    let commit = Commit { epoch: 3, ..Commit::default() };
    let error = store.commit(&checkpoint, commit, vec![], vec![]).expect_err("another was committed since it began");
    assert_eq!(error.state(), SqlState::INTERNAL_ERROR);
    assert!(checkpoint.object(0).expect("it begins").finish().expect("nothing to write").is_none());
    assert_eq!(disk.list(OBJECTS).expect("a folder").len(), before.len() + 1);
}

#[test]
fn another_writer_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let disks: [Arc<dyn Disk>; 2] = [Arc::new(SimDisk::default()), Arc::new(OsDisk::new(folder.path()))];
    disks.into_iter().for_each(another_writer_of);
}

fn another_writer_of(disk: Arc<dyn Disk>) {
    let one = open_on(Arc::clone(&disk), options()).expect("it opens");
    let two = open_on(Arc::clone(&disk), options()).expect("nothing locks it here");
    let mut model = Model::default();
    model.change(&mut Bits(1));
    model.commit(&two, &Model::default(), 1, 1).expect("it is first");
    let commit = Commit { epoch: 1, ..Commit::default() };
    let error = one.commit(&one.begin(), commit, vec![], vec![]).expect_err("it is too late");
    assert_eq!(error.state(), IN_USE);
    assert!(error.message().contains("another process"), "{error}");
    assert!(disk.list(MANIFESTS).expect("a folder").iter().all(|name| !name.ends_with(".tmp")));
    // A term before that of the last writer is refused.
    let earlier = CheckpointOptions { term: 0, ..options() };
    let error = open_on(disk, earlier).err().expect("the other is after it");
    assert_eq!(error.state(), IN_USE);
}

/// Says that it is over when it is dropped, also by a test that fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn objects_are_written_and_read_by_many_threads() {
    fn is_send<T: Send>(_: &T) {}
    fn is_sync<T: Send + Sync>(_: &T) {}
    let store = open(&SimDisk::default()).expect("it opens");
    is_sync(&store);
    is_sync(&store.hold());
    is_sync(&store.begin());
    is_send(&store.begin().object(0).expect("it begins"));
    is_send(&store.begin().stream_object(1, &schema()).expect("it begins"));
    let mut model = Model::default();
    model.change(&mut Bits(1));
    model.commit(&store, &Model::default(), 1, 2).expect("there is room");
    let table = *model.tables.first_key_value().expect("it has tables").0;
    is_sync(&store.hold().changes(table, &(0..256)).expect("it reads right"));
    // Checkpoints, merges, deletions and readers beside each other.
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = Over(&is_over);
        let merges = scope.spawn(|| {
            let mut n_merges = 0;
            while !is_over.load(Ordering::Relaxed) {
                n_merges += usize::from(store.merge_once(&is_over).expect("it can be merged").is_some());
                let limits = |_| StreamLimits { bytes_max: u64::MAX, span_us_max: i64::MAX };
                let merged = store.merge_streams_once(&is_over, limits).expect("it can be merged");
                n_merges += usize::from(merged.is_some());
                store.collect().expect("it can be deleted");
                std::thread::yield_now();
            }
            n_merges
        });
        let reader = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let snapshot = store.hold();
                for &owner in &snapshot.manifest().owners {
                    for table in snapshot.tables(owner).expect("it is held").into_keys() {
                        snapshot.net_rows(table, &(0..256)).expect("it is held");
                    }
                }
                for &stream in snapshot.manifest().stream_floors.keys() {
                    for (_, block) in snapshot.stream_blocks(stream).expect("it is held") {
                        block.rows.read(None).expect("it is held");
                    }
                }
            }
        });
        let mut random = Bits(21);
        for epoch in 2..40 {
            let before = model.clone();
            model.change(&mut random);
            model.commit(&store, &before, epoch, 2).expect("there is room");
            model.check(&store.hold());
        }
        drop(over);
        reader.join().expect("it reads");
        println!("{} merges meanwhile", merges.join().expect("it merges"));
    });
    model.check(&store.hold());
}

#[test]
fn newer_versions_are_refused_by_name() {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    let mut model = Model::default();
    model.change(&mut Bits(1));
    model.commit(&store, &Model::default(), 1, 1).expect("there is room");
    let (path, object) = (store.newest().path(), store.newest().object_paths().next().expect("it is there"));
    drop(store);
    let as_next_version = |path: &str, to: Option<usize>| {
        disk.damage(path, 0, |bytes| {
            bytes[8] += 1;
            let end = to.unwrap_or(bytes.len()) - 8;
            let right = checksum(&bytes[..end]);
            bytes[end..end + 8].copy_from_slice(&right);
        });
    };
    as_next_version(&object, Some(40));
    let table = *model.tables.first_key_value().expect("it has tables").0;
    let store = open(&disk).expect("its manifest is known");
    let error = store.hold().net_rows(table, &(0..256)).expect_err("it is newer");
    assert_eq!(error.state(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(error.message().contains(&object) && error.message().contains("version 2"), "{error}");
    drop(store);
    as_next_version(&path, None);
    let error = open(&disk).err().expect("it is newer");
    assert_eq!(error.state(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(error.message().contains(&path) && error.message().contains("version 3"), "{error}");
}
