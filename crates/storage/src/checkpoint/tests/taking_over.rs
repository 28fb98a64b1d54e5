//! Two writers have the same bucket: whatever the first is at when the second takes over, what that one has is whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_types::{Error, Result};
use parking_lot::Mutex;

use super::super::*;
use super::model::{DATA_ID, Model, merge_any_of_streams, options};
use crate::bucket::sim::{PASSING, SimBucket};
use crate::bucket::{BucketObjects, is_taken_over};
use crate::errors::is_damage;
use crate::log::{Log, LogEvents, LogOptions};
use crate::random::Bits;

/// Nothing is told here: nothing is appended.
struct Nobody;

impl LogEvents for Nobody {
    fn durable(&self, _: u64) {}
    fn lost(&self, _: Error) {}
    fn taken_over(&self, _: Error) {}
}

fn open(sim: &SimBucket) -> Result<(Log, CheckpointStore)> {
    let bucket = sim.bucket();
    let log_options = LogOptions { id: DATA_ID, ..LogOptions::default() };
    let log = Log::open_in_bucket(Arc::clone(&bucket), log_options, Arc::new(Nobody))?;
    let objects = BucketObjects::owned(bucket, Arc::clone(log.objects().expect("it is in a bucket")));
    let store = CheckpointStore::open(Arc::new(objects), CheckpointOptions { term: log.term(), ..options() })?;
    Ok((log, store))
}

/// What a checkpoint of an epoch has, for all that were ever begun.
type Models = Arc<Mutex<BTreeMap<u64, Model>>>;

/// Commits a change of what is the newest.
fn commit_change(store: &CheckpointStore, models: &Models, epoch: u64) -> Result<()> {
    let since = models.lock()[&store.newest().epoch].clone();
    let mut model = since.clone();
    model.change(&mut Bits(epoch));
    models.lock().insert(epoch, model.clone());
    model.commit(store, &since, epoch, 2)
}

fn check_newest(store: &CheckpointStore, models: &Models) {
    let snapshot = store.hold();
    models.lock()[&snapshot.manifest().epoch].check(&snapshot);
}

/// Checkpoints, merges and deletions of a writer, until it is told that it is no more.
fn write(sim: &SimBucket, models: &Models) -> Result<()> {
    let (_log, store) = open(sim)?;
    for epoch in 1..5 {
        commit_change(&store, models, epoch)?;
        store.collect()?;
        store.merge_any(&mut Bits(epoch))?;
        merge_any_of_streams(&store, &mut Bits(epoch))?;
        store.collect()?;
    }
    Ok(())
}

#[test]
fn the_second_has_a_whole_state_whatever_the_first_was_at() {
    let n_requests = take_over_at(u64::MAX);
    for request in 0..n_requests {
        take_over_at(request);
    }
}

fn take_over_at(request: u64) -> u64 {
    let all = SimBucket::default();
    let (one, two) = (all.of_another(), all.of_another());
    let models: Models = Arc::new(Mutex::new([(0, Model::default())].into()));
    let second: Arc<Mutex<Option<(Log, CheckpointStore)>>> = Arc::default();
    let (opened, known) = (Arc::clone(&second), Arc::clone(&models));
    one.before(request, move || {
        let (log, store) = open(&two).expect("it takes over");
        check_newest(&store, &known);
        *opened.lock() = Some((log, store));
    });
    let written = write(&one, &models);
    let second = second.lock().take();
    match (&written, &second) {
        (Ok(()), _) => {}
        // What it was reading may be gone.
        (Err(error), Some(_)) => assert!(is_taken_over(error) || is_damage(error), "request {request}: {error}"),
        (Err(error), None) => panic!("{error}"),
    }
    // With term 1 it was there before the first, which has taken over from it then.
    if let Some((_log, store)) = second.filter(|(log, _)| log.term() > 1) {
        for epoch in 100..104 {
            check_newest(&store, &models);
            commit_change(&store, &models, epoch).expect("it has the data");
            store.collect().expect("it can be deleted");
        }
        check_newest(&store, &models);
    }
    let n_requests = one.n_requests();
    let (_log, store) = open(&all.of_another()).expect("it takes over");
    check_newest(&store, &models);
    n_requests
}

/// Requests fail while checkpoints are written: what is committed is whole, and no number is left out by which two writers
/// could pass each other.
#[test]
fn requests_that_fail_leave_a_whole_state() {
    let n_requests = take_over_at(u64::MAX);
    for request in 0..n_requests {
        for fault in PASSING {
            let all = SimBucket::default();
            let one = all.of_another();
            let models: Models = Arc::new(Mutex::new([(0, Model::default())].into()));
            one.fail_at(request, fault);
            let mut epoch = 0;
            for _ in 0..2 {
                // It may have failed; then it starts again.
                let Ok((_log, store)) = open(&one) else { continue };
                for _ in 0..3 {
                    epoch += 1;
                    if let Err(error) = commit_change(&store, &models, epoch).and_then(|()| store.collect()) {
                        assert!(!is_taken_over(&error), "request {request}, {fault:?}: {error}");
                    }
                }
                let next = store.newest().number + 1;
                assert!(
                    all.names()
                        .iter()
                        .all(|name| name < &format!("{MANIFESTS}/{next:020}") || !name.starts_with(MANIFESTS))
                );
            }
            let (_log, store) = open(&all.of_another()).expect("it takes over");
            check_newest(&store, &models);
        }
    }
}

/// A process that sleeps in the middle of a commit, while another one goes on, deletes nothing when it wakes.
#[test]
fn who_wakes_up_deletes_nothing() {
    let all = SimBucket::default();
    let models: Models = Arc::new(Mutex::new([(0, Model::default())].into()));
    let (_log, asleep) = open(&all.of_another()).expect("it opens");
    for epoch in 1..4 {
        commit_change(&asleep, &models, epoch).expect("it has the data");
    }
    let (_log, store) = open(&all.of_another()).expect("it takes over");
    let error = asleep.collect().expect_err("it has been taken over from");
    assert!(is_taken_over(&error), "{error}");
    for epoch in 4..8 {
        commit_change(&store, &models, epoch).expect("it has the data");
        store.collect().expect("it can be deleted");
    }
    // The manifest that stood in its way is deleted by now.
    let committed = commit_change(&asleep, &models, 50);
    assert!(committed.is_ok() || committed.is_err_and(|error| is_taken_over(&error)));
    assert!(asleep.collect().is_err_and(|error| is_taken_over(&error)));
    check_newest(&store, &models);
    assert_eq!(store.newest().epoch, 7);
    let (_log, next) = open(&all.of_another()).expect("it takes over");
    check_newest(&next, &models);
    assert_eq!(next.newest().epoch, 7);
}
