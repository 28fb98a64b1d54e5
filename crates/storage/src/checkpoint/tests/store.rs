//! Holds, writers that meet each other, and versions.

use std::sync::atomic::AtomicBool;

use millstream_types::SqlState;

use super::super::*;
use super::model::{Model, open};
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::encoding::checksum;
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
    let error = store.commit(&checkpoint, commit, vec![]).expect_err("another was committed since it began");
    assert_eq!(error.state(), SqlState::INTERNAL_ERROR);
    assert!(checkpoint.object(0).expect("it begins").finish().expect("nothing to write").is_none());
    assert_eq!(disk.list(OBJECTS).expect("a folder").len(), before.len() + 1);
}

#[test]
fn another_writer_is_noticed() {
    let disk = SimDisk::default();
    let (one, two) = (open(&disk).expect("it opens"), open(&disk).expect("nothing locks it here"));
    let mut model = Model::default();
    model.change(&mut Bits(1));
    model.commit(&two, &Model::default(), 1, 1).expect("it is first");
    let commit = Commit { epoch: 1, ..Commit::default() };
    let error = one.commit(&one.begin(), commit, vec![]).expect_err("it is too late");
    assert_eq!(error.state(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(error.message().contains("another writer"), "{error}");
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
    let as_version_2 = |path: &str, to: Option<usize>| {
        disk.damage(path, 0, |bytes| {
            bytes[8] = 2;
            let end = to.unwrap_or(bytes.len()) - 8;
            let right = checksum(&bytes[..end]);
            bytes[end..end + 8].copy_from_slice(&right);
        });
    };
    as_version_2(&object, Some(40));
    let table = *model.tables.first_key_value().expect("it has tables").0;
    let store = open(&disk).expect("its manifest is known");
    let error = store.hold().net_rows(table, &(0..256)).expect_err("it is newer");
    assert_eq!(error.state(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(error.message().contains(&object) && error.message().contains("version 2"), "{error}");
    drop(store);
    as_version_2(&path, None);
    let error = open(&disk).err().expect("it is newer");
    assert_eq!(error.state(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(error.message().contains(&path) && error.message().contains("version 2"), "{error}");
}
