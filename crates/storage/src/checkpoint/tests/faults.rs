//! Every call to the disk in turn fails, or is the last one before the power is gone.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use super::super::*;
use super::model::{Model, merge_any_of_streams, open};
use crate::disk::Disk;
use crate::disk::sim::{Fault, SimDisk};
use crate::random::Bits;
use millstream_types::{Error, Result, SqlState};

/// A run of checkpoints, merges and deletions, and what may be there after it.
struct Run {
    disk: SimDisk,
    random: Bits,
    model: Model,
    epoch: u64,
    /// The last epoch whose checkpoint was committed, and later ones that may have been.
    committed: u64,
    doubtful: Vec<u64>,
    models: BTreeMap<u64, Model>,
    errors: Vec<Error>,
}

impl Run {
    fn new(disk: SimDisk, seed: u64) -> Run {
        let (random, model) = (Bits(seed), Model::default());
        let models = [(0, Model::default())].into();
        Run { disk, random, model, epoch: 0, committed: 0, doubtful: vec![], models, errors: vec![] }
    }

    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    fn checkpoint(&mut self, store: &CheckpointStore) {
        self.epoch += 1;
        self.model.change(&mut self.random);
        self.models.insert(self.epoch, self.model.clone());
        let since = self.models[&self.committed].clone();
        let committed = self.model.commit(store, &since, self.epoch, 2);
        if self.note(committed).is_some() {
            self.committed = self.epoch;
            self.doubtful.clear();
            return;
        }
        self.doubtful.push(self.epoch);
        if !self.disk.is_off() {
            self.models[&self.committed].check(&store.hold());
        }
    }

    /// Goes on until the disk is off. A store that could not be opened is opened again.
    fn go(&mut self) {
        for part in 0..2 {
            let opened = open(&self.disk);
            let opened = match self.note(opened) {
                None if !self.disk.is_off() => Some(open(&self.disk).expect("it fails once")),
                opened => opened,
            };
            let Some(store) = opened else { return };
            // One that was in doubt may be the newest now, and is what others follow.
            self.committed = store.newest().epoch;
            assert!(self.committed <= self.epoch);
            for step in 0..3 {
                if self.disk.is_off() {
                    return;
                }
                self.checkpoint(&store);
                let merged = if step == 1 {
                    store.merge_any(&mut self.random)
                } else {
                    store.merge_once(&AtomicBool::new(false))
                };
                self.note(merged);
                if step == 1 {
                    let merged = merge_any_of_streams(&store, &mut self.random);
                    self.note(merged);
                }
                if (step + part) % 2 == 0 {
                    let collected = store.collect();
                    self.note(collected);
                }
            }
        }
    }

    /// Finds what is there after the process or the power was cut, and goes on from it.
    fn check_after(&self, disk: &SimDisk) {
        let store = open(disk).expect("what was durable reads right");
        let newest = store.newest();
        let is_right = newest.epoch == self.committed || self.doubtful.contains(&newest.epoch);
        assert!(is_right, "{} of {} and {:?}", newest.epoch, self.committed, self.doubtful);
        let model = &self.models[&newest.epoch];
        model.check(&store.hold());
        let mut next = model.clone();
        next.change(&mut Bits(99));
        next.commit(&store, model, newest.epoch + 1, 1).expect("the disk works again");
        while store.merge_once(&AtomicBool::new(false)).expect("the disk works again").is_some() {}
        merge_any_of_streams(&store, &mut Bits(7)).expect("the disk works again");
        store.collect().expect("the disk works again");
        next.check(&store.hold());
        drop(store);
        next.check(&open(disk).expect("it opens").hold());
        check_files(disk);
    }
}

/// Panics if there are files that nothing names.
fn check_files(disk: &SimDisk) {
    let store = open(disk).expect("it opens");
    let mut manifests = disk.list(MANIFESTS).expect("a folder");
    manifests.sort();
    assert!(manifests.len() <= 2, "{manifests:?}");
    let named: Vec<String> = store.kept_paths();
    let others: Vec<String> = objects(disk).into_iter().filter(|file| !named.contains(file)).collect();
    assert!(others.is_empty(), "nothing names {others:?}");
}

fn objects(disk: &SimDisk) -> Vec<String> {
    let of_folder = |folder: &'static str| {
        disk.list(folder).expect("a folder").into_iter().map(move |name| format!("{folder}/{name}"))
    };
    of_folder(OBJECTS).chain(of_folder(STREAMS)).collect()
}

fn n_calls() -> u64 {
    let mut run = Run::new(SimDisk::default(), 1);
    run.go();
    assert!(run.errors.is_empty(), "{:?}", run.errors);
    run.disk.n_calls()
}

#[test]
fn power_cuts_at_every_call() {
    for call in 0..n_calls() {
        for seed in 0..2 {
            println!("call {call}, seed {seed}");
            let disk = SimDisk::default();
            disk.fail_at(call, Fault::Off);
            let mut run = Run::new(disk.clone(), 1);
            run.go();
            assert!(disk.is_off());
            let mut coins = Bits(seed * 1000 + call);
            let after = if seed == 0 { disk.after_kill() } else { disk.after_power_cut(|| coins.coin()) };
            run.check_after(&after);
        }
    }
}

#[test]
fn every_call_fails_once() {
    for call in 0..n_calls() {
        for fault in [Fault::Full, Fault::Broken, Fault::Short] {
            println!("call {call}, {fault:?}");
            let disk = SimDisk::default();
            disk.fail_at(call, fault);
            let mut run = Run::new(disk.clone(), 1);
            run.go();
            if fault == Fault::Full {
                assert!(run.errors.iter().all(|error| error.state() == SqlState::DISK_FULL), "{:?}", run.errors);
            }
            let mut coins = Bits(call);
            let after = if call % 2 == 0 { disk.after_kill() } else { disk.after_power_cut(|| coins.coin()) };
            run.check_after(&after);
        }
    }
}

#[test]
fn a_full_disk_fails_checkpoints_until_there_is_room() {
    let disk = SimDisk::default();
    let store = open(&disk).expect("it opens");
    let mut run = Run::new(disk.clone(), 8);
    run.checkpoint(&store);
    let used = disk.used();
    let mut n_failed = 0;
    for more in (0..200_000).step_by(10_000) {
        disk.set_space(Some(used + more));
        run.checkpoint(&store);
        let error = run.errors.pop();
        n_failed += usize::from(error.is_some());
        assert!(error.is_none_or(|error| error.state() == SqlState::DISK_FULL));
        store.collect().expect("deleting needs no room");
        check_files_of(&disk, &store);
    }
    assert!(n_failed > 2 && run.committed > 1, "{n_failed} failed");
    disk.set_space(None);
    run.checkpoint(&store);
    assert!(run.errors.is_empty() && run.committed == run.epoch);
}

fn check_files_of(disk: &SimDisk, store: &CheckpointStore) {
    let named = store.kept_paths();
    assert!(objects(disk).into_iter().all(|file| named.contains(&file)));
    assert!(disk.list(MANIFESTS).expect("a folder").iter().all(|name| !name.ends_with(".tmp")));
}
