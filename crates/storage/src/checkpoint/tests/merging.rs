//! Whatever changes come and whatever is merged, the rows are those of the model.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::super::*;
use super::hooked::Hooked;
use super::model::{DATA_ID, Model, merge_any_of_streams, open, options, read};
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::object_store::ObjectStore;
use crate::random::Bits;

#[test]
fn any_changes_and_any_merges() {
    for seed in 0..8 {
        let mut random = Bits(seed);
        let disk = SimDisk::default();
        let open = || open(&disk).expect("it opens");
        let mut store = open();
        let mut model = Model::default();
        let mut n_merges = 0;
        for epoch in 1..50 {
            let before = model.clone();
            model.change(&mut random);
            let n_workers = 1 + random.below(3) as usize;
            model.commit(&store, &before, epoch, n_workers).expect("there is room");
            for _ in 0..random.below(3) {
                let merged = store.merge_any(&mut random).expect("it can be merged");
                n_merges += usize::from(merged.is_some_and(|merged| merged.n_objects > 1));
                assert!(merged.is_none_or(|merged| merged.n_tables_kept == 0), "{merged:?}");
                model.check(&store.hold());
            }
            if random.below(4) == 0 {
                merge_any_of_streams(&store, &mut Bits(epoch)).expect("it can be merged");
                store.merge_once(&AtomicBool::new(false)).expect("it can be merged");
                model.check(&store.hold());
            }
            if random.below(4) == 0 {
                store.collect().expect("it can be deleted");
            }
            if random.below(10) == 0 {
                drop(store);
                store = open();
            }
            println!("seed {seed}, epoch {epoch}");
            model.check(&store.hold());
        }
        assert!(n_merges > 5, "{n_merges} merges");
        while store.merge_once(&AtomicBool::new(false)).expect("it can be merged").is_some() {}
        let n_objects = store.newest().objects.len();
        assert!(n_objects < 30, "{n_objects} objects are left");
    }
}

#[test]
fn nothing_of_what_is_gone_is_left_in_the_oldest() {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    let mut random = Bits(3);
    let mut model = Model::default();
    let mut n_oldest = 0;
    for epoch in 1..40 {
        let before = model.clone();
        model.change(&mut random);
        model.commit(&store, &before, epoch, 2).expect("there is room");
        while store.merge_once(&AtomicBool::new(false)).expect("it can be merged").is_some() {
            let newest = store.newest();
            let oldest = &newest.objects[0];
            if oldest.worker.is_none() {
                assert!(oldest.shares.iter().all(|share| share.n_gone == 0), "{oldest:?}");
                assert!(oldest.shares.iter().all(|share| newest.owners.contains(&share.owner)));
                n_oldest += 1;
            }
        }
    }
    assert!(n_oldest > 0);
}

#[test]
fn a_checkpoint_that_commits_while_a_merge_runs() {
    let disk = SimDisk::default();
    let hooked = Hooked::new(&disk);
    let store = CheckpointStore::open(Arc::clone(&hooked) as Arc<dyn ObjectStore>, options()).expect("it opens");
    let store = Arc::new(store);
    let mut random = Bits(5);
    let mut model = Model::default();
    let mut n_meanwhile = 0;
    for epoch in (1..60).step_by(2) {
        let before = model.clone();
        model.change(&mut random);
        model.commit(&store, &before, epoch, 2).expect("there is room");
        let committed = model.clone();
        let mut next = model.clone();
        next.change(&mut random);
        if epoch % 6 == 1 {
            let dropped = *next.owners.first().expect("there are owners");
            next.drop_owner(dropped);
        }
        let (of_hook, from, to) = (Arc::clone(&store), committed.clone(), next.clone());
        let hook = move || {
            to.commit(&of_hook, &from, epoch + 1, 1).expect("there is room");
            of_hook.collect().expect("it can be deleted");
        };
        *hooked.hook.lock() = Some(("-merged.obj", Box::new(hook)));
        store.merge_once(&AtomicBool::new(false)).expect("it can be merged");
        if hooked.hook.lock().take().is_none() {
            model = next;
            n_meanwhile += 1;
        }
        model.check(&store.hold());
        store.collect().expect("it can be deleted");
        model.check(&store.hold());
    }
    assert!(n_meanwhile > 5, "{n_meanwhile} checkpoints while one was merged");
    drop(store);
    model.check(&open(&disk).expect("it opens").hold());
}

#[test]
fn a_merge_that_is_stopped_leaves_nothing() {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    let mut model = Model::default();
    let mut random = Bits(9);
    for epoch in 1..7 {
        let before = model.clone();
        model.change(&mut random);
        model.commit(&store, &before, epoch, 1).expect("there is room");
    }
    let n_files = disk.list(OBJECTS).expect("a folder").len();
    assert_eq!(store.merge_once(&AtomicBool::new(true)).expect("it is stopped"), None);
    assert_eq!(disk.list(OBJECTS).expect("a folder").len(), n_files);
    assert!(store.merge_once(&AtomicBool::new(false)).expect("it goes on").is_some());
    model.check(&store.hold());
}

#[test]
fn a_damaged_table_keeps_its_damage_and_others_are_merged() {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    let mut model = Model::default();
    let mut random = Bits(11);
    for epoch in 1..7 {
        let before = model.clone();
        model.change(&mut random);
        model.commit(&store, &before, epoch, 1).expect("there is room");
    }
    let snapshot = store.hold();
    let table = TableId { owner: 1, node: 1, table: 0 };
    let (i, block) = (0..6)
        .find_map(|i| {
            let object = snapshot.object(i).expect("it opens");
            let section = object.sections().iter().find(|section| section.table == table)?;
            Some((i, section.rows.first()?.clone()))
        })
        .expect("the table has rows");
    let path = snapshot.manifest().object_paths().nth(i).expect("it is there");
    disk.damage(&path, block.offset as usize + 8, |bytes| bytes[0] ^= 4);
    drop(snapshot);
    let n_before = store.newest().objects.len();
    let mut n_kept = 0;
    while let Some(merged) = store.merge_once(&AtomicBool::new(false)).expect("others can be merged") {
        n_kept += merged.n_tables_kept;
    }
    assert!(n_kept > 0 && store.newest().objects.len() < n_before);
    let snapshot = store.hold();
    assert_eq!(snapshot.manifest().data_id, DATA_ID);
    for (&of, rows) in &model.tables {
        let read = read(&snapshot, of, 1);
        if of == table {
            assert!(crate::errors::is_damage(&read.expect_err("it is damaged")));
        } else {
            assert_eq!(&read.expect("it reads right"), rows);
        }
    }
}
