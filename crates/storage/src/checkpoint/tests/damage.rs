//! One byte of one file is another: an error that names the file, for those whose state it is, and for nobody else.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use super::super::*;
use super::model::{Model, open, read};
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::errors::is_damage;
use crate::random::Bits;

fn some_checkpoints() -> (SimDisk, Model) {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    let mut random = Bits(4);
    let mut model = Model::default();
    for epoch in 1..6 {
        let before = model.clone();
        model.change(&mut random);
        model.commit(&store, &before, epoch, 1).expect("there is room");
        if epoch == 4 {
            store.merge_once(&AtomicBool::new(false)).expect("it can be merged");
        }
        store.collect().expect("it can be deleted");
    }
    (disk, model)
}

#[test]
fn any_byte_of_any_object() {
    let (disk, model) = some_checkpoints();
    let store = open(&disk).expect("it opens");
    let newest = store.newest();
    assert!(newest.objects.len() > 1);
    for (i, object) in newest.objects.iter().enumerate() {
        let path = newest.object_paths().nth(i).expect("it is there");
        let owners: BTreeSet<u64> = object.shares.iter().map(|share| share.owner).collect();
        for at in (0..object.len as usize).step_by(7) {
            disk.damage(&path, at, |bytes| bytes[0] ^= 1);
            let snapshot = store.hold();
            let object = snapshot.object(i);
            let section_of = |at: u64| {
                let sections = object.as_ref().ok()?.sections();
                let is_in =
                    |block: &format::BlockEntry| (block.offset..block.offset + u64::from(block.len)).contains(&at);
                sections
                    .iter()
                    .find(|section| section.gone.iter().chain(&section.rows).any(is_in))
                    .map(|s| s.table.owner)
            };
            // Bytes between blocks, if there were any, would harm nobody.
            let harmed = match (&object, section_of(at as u64)) {
                (Err(_), _) => owners.clone(),
                (Ok(_), owner) => owner.into_iter().collect(),
            };
            assert!(!harmed.is_empty(), "byte {at} means something");
            for (&table, rows) in &model.tables {
                match read(&snapshot, table, 1) {
                    Ok(read) => assert_eq!(&read, rows, "byte {at} of {path}"),
                    Err(error) => {
                        assert!(is_damage(&error) && error.message().contains(&path), "{error}");
                        assert!(harmed.contains(&table.owner), "byte {at} of {path} harms {table:?}");
                    }
                }
            }
            for &owner in &harmed {
                let mut tables = model.tables.keys().filter(|table| table.owner == owner);
                assert!(tables.any(|&table| read(&snapshot, table, 1).is_err()), "byte {at} of {path}");
            }
            disk.damage(&path, at, |bytes| bytes[0] ^= 1);
        }
    }
}

#[test]
fn an_object_that_is_missing_or_cut_off() {
    let (disk, model) = some_checkpoints();
    let store = open(&disk).expect("it opens");
    let path = store.newest().object_paths().next().expect("it is there");
    let harmed: Vec<u64> = store.newest().objects[0].shares.iter().map(|share| share.owner).collect();
    disk.open(&path).expect("it is there").set_len(100).expect("it can be cut");
    let check = || {
        for (&table, rows) in &model.tables {
            match read(&store.hold(), table, 1) {
                Ok(read) => assert_eq!(&read, rows),
                Err(error) => assert!(is_damage(&error) && error.message().contains(&path), "{error}"),
            }
            assert_eq!(read(&store.hold(), table, 1).is_err(), harmed.contains(&table.owner));
        }
    };
    check();
    disk.remove(&path).expect("it is there");
    check();
    // Others can still be merged and committed.
    let mut next = model.clone();
    for epoch in 6..12 {
        let before = next.clone();
        next.change(&mut Bits(epoch));
        next.commit(&store, &before, epoch, 1).expect("there is room");
        while store.merge_once(&AtomicBool::new(false)).expect("others can be merged").is_some() {}
    }
    assert!(store.newest().objects.len() < 8);
}

#[test]
fn any_byte_of_the_newest_manifest() {
    let (disk, model) = some_checkpoints();
    let store = open(&disk).expect("it opens");
    let path = store.newest().path();
    drop(store);
    let n_bytes = disk.open(&path).expect("it is there").len().expect("a length") as usize;
    for at in 0..n_bytes {
        disk.damage(&path, at, |bytes| bytes[0] ^= 1);
        let error = open(&disk).err().expect("it does not read right");
        assert!(is_damage(&error) && error.message().contains(&path), "{error}");
        disk.damage(&path, at, |bytes| bytes[0] ^= 1);
    }
    model.check(&open(&disk).expect("nothing was changed").hold());
    // Taken away, the one before it is the newest.
    disk.remove(&path).expect("it is there");
    assert!(open(&disk).expect("there is one before it").newest().epoch >= 4);
}

#[test]
fn a_damaged_manifest_before_the_newest_is_not_needed() {
    let (disk, model) = some_checkpoints();
    let newest = open(&disk).expect("it opens").newest().number;
    disk.damage(&manifest::path_of(newest - 1), 20, |bytes| bytes[0] ^= 1);
    model.check(&open(&disk).expect("the newest reads right").hold());
}

#[test]
fn objects_without_a_manifest_are_damage() {
    let (disk, _) = some_checkpoints();
    for name in disk.list(MANIFESTS).expect("a folder") {
        disk.remove(&format!("{MANIFESTS}/{name}")).expect("it is there");
    }
    let n_objects = disk.list(OBJECTS).expect("a folder").len();
    assert!(is_damage(&open(&disk).err().expect("something is missing")));
    assert_eq!(disk.list(OBJECTS).expect("a folder").len(), n_objects, "nothing was deleted");
}
