//! The log in a bucket whose requests fail, and several writers of one log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream_types::{Error, Result, SqlState};
use parking_lot::{Condvar, Mutex};

use super::*;
use crate::bucket::is_taken_over;
use crate::bucket::sim::{Fault, PASSING, SimBucket};
use crate::log::{Log, LogEvents, LogOptions, Record};

/// Longer than anything here takes.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// Notes what it is told.
#[derive(Default)]
struct Told {
    durable: AtomicU64,
    ended: Mutex<Option<Error>>,
    changed: Condvar,
}

impl LogEvents for Told {
    fn durable(&self, sequence: u64) {
        let ended = self.ended.lock();
        assert!(ended.is_none(), "nothing becomes durable after the end");
        let before = self.durable.swap(sequence, Ordering::SeqCst);
        assert!(before < sequence, "each group is told once, in order");
        self.changed.notify_all();
    }

    fn lost(&self, error: Error) {
        panic!("a bucket is not lost: {error}");
    }

    fn taken_over(&self, error: Error) {
        *self.ended.lock() = Some(error);
        self.changed.notify_all();
    }
}

impl Told {
    /// Waits until a record is durable; whether it is.
    fn wait(&self, sequence: u64) -> bool {
        let mut ended = self.ended.lock();
        while self.durable.load(Ordering::SeqCst) < sequence && ended.is_none() {
            assert!(!self.changed.wait_for(&mut ended, HANGS_AFTER).timed_out(), "record {sequence} hangs");
        }
        self.durable.load(Ordering::SeqCst) >= sequence
    }

    /// Waits until another writer has taken over.
    fn wait_for_end(&self) {
        let mut ended = self.ended.lock();
        while ended.is_none() {
            assert!(!self.changed.wait_for(&mut ended, HANGS_AFTER).timed_out(), "nobody takes over");
        }
        assert!(ended.as_ref().is_some_and(is_taken_over), "{ended:?}");
    }
}

/// A log, and what it tells.
type Opened = (Log, Arc<Told>);

fn open(sim: &SimBucket) -> Result<Opened> {
    let told = Arc::new(Told::default());
    let options = LogOptions { id: 7, look_after: Duration::from_secs(3600), ..LogOptions::default() };
    let log = Log::open_in_bucket(sim.bucket(), options, Arc::clone(&told) as Arc<dyn LogEvents>)?;
    told.durable.store(log.last_found(), Ordering::SeqCst);
    Ok((log, told))
}

/// A record that a writer of a letter appends: which it is is told by what it says.
fn append(log: &Log, writer: u8, n: u64) -> Result<u64> {
    let payload = [&[writer][..], &n.to_le_bytes(), &vec![writer; (n * 37 % 300) as usize]].concat();
    let room = log.reserve(payload.len())?;
    log.append(room, 3, payload, 1)
}

/// The writers and numbers of all records from one on, in order.
fn said(log: &Log, from: u64) -> Vec<(u8, u64)> {
    said_in(log.records(from).and_then(Iterator::collect).expect("it reads right"), log, from)
}

fn said_in(records: Vec<Record>, log: &Log, from: u64) -> Vec<(u8, u64)> {
    for (record, sequence) in records.iter().zip(from..) {
        assert_eq!((record.sequence, record.kind), (sequence, 3));
    }
    assert_eq!(records.len() as u64, log.last_found() + 1 - from.min(log.last_found() + 1));
    let number = |record: &Record| u64::from_le_bytes(record.payload[1..9].try_into().expect("eight bytes"));
    records.iter().map(|record| (record.payload[0], number(record))).collect()
}

/// How many records of a writer there are, which must be the first ones that it appended.
fn n_of(said: &[(u8, u64)], writer: u8) -> u64 {
    let numbers: Vec<u64> = said.iter().filter(|(of, _)| *of == writer).map(|(_, n)| *n).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "writer {}", writer as char);
    numbers.len() as u64
}

#[test]
fn what_was_appended_is_read_again() {
    let sim = SimBucket::default();
    for round in 0..4 {
        let (log, told) = open(&sim.of_another()).expect("it opens");
        assert_eq!(log.term(), round + 1);
        assert_eq!(n_of(&said(&log, 1), b'a'), round * 30);
        for n in round * 30..round * 30 + 30 {
            append(&log, b'a', n).expect("it takes it");
            assert!(n % 4 > 0 || told.wait(n + 1));
        }
        for from in [1, 17, round * 30, round * 30 + 1] {
            said(&log, from.max(1));
        }
    }
    let (log, _) = open(&sim).expect("it opens");
    assert_eq!(n_of(&said(&log, 1), b'a'), 120, "what was appended before it was closed is there");
    let (reader, last) = LogObjects::to_read(sim.bucket(), 7).expect("it can be read");
    assert_eq!(reader.records(5, last).expect("it can be read").count(), 116);
}

/// Every request fails in turn, in each way, also while a log is opened again.
#[test]
fn nothing_durable_is_lost_however_requests_fail() {
    let n_requests = run_with(|_| {}).n_requests();
    assert!(n_requests > 30);
    for request in 0..n_requests {
        for fault in PASSING {
            run_with(|sim| sim.fail_at(request, fault));
            run_with(|sim| (request..request + 3).for_each(|request| sim.fail_at(request, fault)));
        }
        run_with(|sim| sim.fail_at(request, Fault::Off));
    }
}

fn run_with(prepare: impl FnOnce(&SimBucket)) -> SimBucket {
    let all = SimBucket::default();
    let sim = all.of_another();
    prepare(&sim);
    let mut n_appended = 0;
    let mut n_durable = 0;
    for _ in 0..3 {
        let opened = open(&sim);
        let Ok((log, told)) = opened else { continue };
        let found = n_of(&said_if_on(&sim, &log), b'a');
        if sim.is_off() {
            break;
        }
        assert!((n_durable..=n_appended).contains(&found));
        for n in found..found + 6 {
            append(&log, b'a', n).expect("it takes it");
            n_appended = n + 1;
            // The last of them may have gone with the log before; here it is appended again.
            if n % 2 == 0 && !sim.is_off() {
                while told.durable.load(Ordering::SeqCst) <= n && !sim.is_off() {
                    std::thread::yield_now();
                }
            }
        }
        n_durable = told.durable.load(Ordering::SeqCst);
        drop(log);
        n_durable = n_durable.max(told.durable.load(Ordering::SeqCst));
    }
    let (log, _) = open(&all.of_another()).expect("nothing fails there");
    let found = n_of(&said(&log, 1), b'a');
    assert!((n_durable..=n_appended).contains(&found), "{found} of {n_durable} durable and {n_appended} appended");
    sim
}

/// As [`said`], if the bucket can be read.
fn said_if_on(sim: &SimBucket, log: &Log) -> Vec<(u8, u64)> {
    // As by a process that starts again.
    while !sim.is_off() {
        let records: Result<Vec<Record>> = log.records(1).and_then(Iterator::collect);
        match records {
            Ok(records) => return said_in(records, log, 1),
            Err(error) => assert_eq!(error.state(), SqlState::IO_ERROR, "{error}"),
        }
    }
    vec![]
}

/// Another process takes over before each request of a writer: what either was told to be durable is there, and the
/// first is told of nothing afterwards.
#[test]
fn a_writer_is_fenced_at_every_point() {
    let n_requests = fence_at(u64::MAX);
    for request in 0..n_requests {
        fence_at(request);
    }
}

fn fence_at(request: u64) -> u64 {
    let all = SimBucket::default();
    let (one, two) = (all.of_another(), all.of_another());
    let second: Arc<Mutex<Option<Opened>>> = Arc::default();
    let opened = Arc::clone(&second);
    one.before(request, move || {
        let (log, told) = open(&two).expect("it takes over");
        append(&log, b'b', 0).expect("it takes it");
        assert!(told.wait(log.last_found() + 1));
        *opened.lock() = Some((log, told));
    });
    let mut n_durable = 0;
    let mut has_passed = false;
    if let Ok((log, told)) = open(&one) {
        let found = log.last_found();
        for n in 0..12 {
            if append(&log, b'a', n).is_err() {
                has_passed = true;
                break;
            }
            if n % 3 == 2 && !told.wait(found + n + 1) {
                has_passed = true;
                break;
            }
        }
        if let Some((log, told)) = &*second.lock() {
            append(log, b'b', 1).expect("it takes it");
            // The first may have come later than the second when it opened.
            told.wait(log.last_found() + 2);
        }
        let on_its_way = append(&log, b'a', 12).is_ok();
        drop(log);
        let durable = told.durable.load(Ordering::SeqCst);
        n_durable = durable - found;
        assert!(!has_passed || told.ended.lock().as_ref().is_some_and(is_taken_over));
        assert!(on_its_way || has_passed || told.ended.lock().is_some());
    }
    let of_second = second.lock().take().map(|(log, told)| {
        let n_durable = told.durable.load(Ordering::SeqCst) - log.last_found();
        drop(log);
        n_durable
    });
    let n_requests = one.n_requests();
    let (log, _) = open(&all.of_another()).expect("it opens");
    let said = said(&log, 1);
    assert!(n_of(&said, b'a') >= n_durable, "request {request}: {said:?}, {n_durable} of the first were durable");
    if let Some(n_durable) = of_second {
        assert!(n_of(&said, b'b') >= n_durable, "request {request}: {said:?}");
        assert!(n_durable >= 1);
    }
    n_requests
}

/// A writer that never pauses is overtaken, within a number of attempts that does not depend on its speed.
#[test]
fn a_busy_writer_is_overtaken() {
    let all = SimBucket::default();
    let (log, told) = open(&all.of_another()).expect("it opens");
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let mut n = 0;
            while append(&log, b'a', n).is_ok() && told.wait(n + 1) {
                n += 1;
            }
            n
        });
        assert!(told.wait(20));
        for term in 2..6 {
            let (second, of_second) = open(&all.of_another()).expect("it takes over");
            assert_eq!(second.term(), term);
            append(&second, b'b', term - 2).expect("it takes it");
            assert!(of_second.wait(second.last_found() + 1));
        }
        let n_durable = busy.join().expect("it ends");
        told.wait_for_end();
        let (last, _) = open(&all.of_another()).expect("it opens");
        let said = said(&last, 1);
        assert_eq!((n_of(&said, b'a') >= n_durable, n_of(&said, b'b')), (true, 4));
    });
}

/// A writer that is several times as fast as whoever takes over is overtaken, too.
#[test]
fn a_faster_writer_is_overtaken() {
    for n_each in [1, 3, 10] {
        let all = SimBucket::default();
        let (log, told) = open(&all.of_another()).expect("it opens");
        let log = Arc::new(log);
        let second = all.of_another();
        for request in 0..500 {
            let (log, told) = (Arc::clone(&log), Arc::clone(&told));
            second.before(request, move || {
                for n in request * n_each..(request + 1) * n_each {
                    if append(&log, b'a', n).is_ok_and(|sequence| !told.wait(sequence)) {
                        break;
                    }
                }
            });
        }
        let (second, _) = open(&second).expect("it takes over");
        assert!(n_of(&said(&second, 1), b'a') >= told.durable.load(Ordering::SeqCst));
        told.wait_for_end();
    }
}

/// The writer creates an object before each request of whoever takes over.
#[test]
fn a_take_over_that_is_cut_off_leaves_a_log() {
    for cut_off_at in 0..60 {
        let all = SimBucket::default();
        let (log, told) = open(&all.of_another()).expect("it opens");
        append(&log, b'a', 0).expect("it takes it");
        assert!(told.wait(1));
        let log = Arc::new(log);
        let second = all.of_another();
        for request in 0..30 {
            let (log, told) = (Arc::clone(&log), Arc::clone(&told));
            second.before(request, move || {
                if let Ok(sequence) = append(&log, b'a', request + 1) {
                    told.wait(sequence);
                }
            });
        }
        second.fail_at(cut_off_at, Fault::Off);
        let cut_off = open(&second);
        drop(cut_off);
        let n_durable = told.durable.load(Ordering::SeqCst);
        let (reader, last) = LogObjects::to_read(all.of_another().bucket(), 7).expect("it can be read");
        assert!(reader.records(1, last).expect("it can be read").count() as u64 >= n_durable);
        let (third, of_third) = open(&all.of_another()).expect("it takes over");
        append(&third, b'c', 0).expect("it takes it");
        assert!(of_third.wait(third.last_found() + 1));
        let _ = append(&log, b'a', 1000);
        told.wait_for_end();
        let (last, _) = open(&all.of_another()).expect("it opens");
        assert!(said(&last, 1).len() as u64 > n_durable);
    }
}

/// Who sleeps while two others take over one after the other, and forget what is old, still finds a fence.
#[test]
fn a_writer_that_slept_is_stopped() {
    let all = SimBucket::default();
    let (asleep, told) = open(&all.of_another()).expect("it opens");
    append(&asleep, b'a', 0).expect("it takes it");
    assert!(told.wait(1));
    for n in 0..3 {
        let (log, told) = open(&all.of_another()).expect("it takes over");
        for i in 0..3 {
            append(&log, b'b', 3 * n + i).expect("it takes it");
            assert!(told.wait(log.last_found() + i + 1));
        }
        log.truncate_before(log.last_found() + 3).expect("it can be cut");
        assert_eq!(said(&open(&all.of_another()).expect("it opens").0, log.last_found() + 3).len(), 1);
    }
    append(&asleep, b'a', 1).expect("it does not know yet");
    assert!(!told.wait(2), "nothing more is acknowledged");
    assert!(append(&asleep, b'a', 2).is_err_and(|error| is_taken_over(&error)));
}

#[test]
fn who_has_nothing_to_write_looks_whether_it_was_taken_over() {
    let all = SimBucket::default();
    let told = Arc::new(Told::default());
    let options = LogOptions { id: 7, look_after: Duration::from_millis(5), ..LogOptions::default() };
    let events = Arc::clone(&told) as Arc<dyn LogEvents>;
    let idle = Log::open_in_bucket(all.of_another().bucket(), options, events).expect("it opens");
    append(&idle, b'a', 0).expect("it takes it");
    assert!(told.wait(1));
    drop(open(&all.of_another()).expect("it takes over"));
    told.wait_for_end();
}

#[test]
fn what_checkpoints_have_is_deleted_and_nothing_else() {
    let all = SimBucket::default();
    let (log, told) = open(&all.of_another()).expect("it opens");
    for n in 0..20 {
        append(&log, b'a', n).expect("it takes it");
        assert!(told.wait(n + 1));
    }
    let n_names = || all.names().len() as u64;
    assert_eq!(n_names(), 21, "a fence and an object for each record");
    log.truncate_before(1).expect("there is nothing to cut");
    assert_eq!(n_names(), 21);
    log.truncate_before(8).expect("it can be cut");
    assert_eq!(n_names(), 14);
    log.truncate_before(100).expect("it can be cut");
    assert_eq!(n_names(), 2, "the last object stays");
    let (next, _) = open(&all.of_another()).expect("it takes over");
    assert_eq!((next.last_found(), next.term()), (20, 2));
    assert_eq!(said(&next, 20).len(), 1);
    let gone = next.records(19).err().expect("it is no more");
    assert_eq!(gone.state(), SqlState::DATA_CORRUPTED);
    // Who has been taken over from deletes nothing.
    let error = log.truncate_before(100).and_then(|()| {
        append(&next, b'b', 0)?;
        log.truncate_before(100)
    });
    assert!(error.is_ok() || error.is_err_and(|e| is_taken_over(&e)));
    assert!(log.objects().is_some_and(|objects| objects.check_not_taken_over().is_err_and(|e| is_taken_over(&e))));
}

/// The writer before is still deleting what is old when another one has taken over.
#[test]
fn what_goes_meanwhile_is_not_missed() {
    for n_gone in 1..15 {
        let all = SimBucket::default();
        let (log, told) = open(&all.of_another()).expect("it opens");
        for n in 0..20 {
            append(&log, b'a', n).expect("it takes it");
            assert!(told.wait(n + 1));
        }
        let (next, _) = open(&all.of_another()).expect("it takes over");
        // The fence before them stays.
        (2..2 + n_gone).for_each(|number| all.change(&path_of(number), |_| None));
        assert_eq!(said(&next, n_gone + 1).len() as u64, 20 - n_gone);
        let error = next.records(n_gone).err().expect("that one is gone");
        assert!(error.message().contains(&path_of(n_gone + 1)), "{error}");
        next.truncate_before(19).expect("it can be cut");
        assert_eq!(said(&next, 19).len(), 2);
    }
}

/// A change of any byte is found and named, as is an object that is missing.
#[test]
fn damage_is_named() {
    let all = SimBucket::default();
    let (log, told) = open(&all.of_another()).expect("it opens");
    for n in 0..6 {
        append(&log, b'a', n).expect("it takes it");
        assert!(told.wait(n + 1));
    }
    drop(log);
    let read = |sim: &SimBucket| -> Result<usize> {
        let (objects, last) = LogObjects::to_read(sim.bucket(), 7)?;
        let records: Result<Vec<Record>> = objects.records(1, last)?.collect();
        records.map(|records| records.len())
    };
    assert_eq!(read(&all).expect("it reads right"), 6);
    for number in 2..=7 {
        let path = path_of(number);
        let mut right = Vec::new();
        all.change(&path, |bytes| {
            right.clone_from(&bytes);
            Some(bytes)
        });
        for at in (0..right.len()).step_by(5) {
            all.change(&path, |mut bytes| {
                bytes[at] ^= 0x20;
                Some(bytes)
            });
            let error = read(&all).expect_err("it is damaged");
            assert_eq!(error.state(), SqlState::DATA_CORRUPTED, "{error}");
            assert!(error.message().contains(&path), "{error}");
            all.change(&path, |_| Some(right.clone()));
        }
        all.change(&path, |bytes| Some(bytes[..bytes.len() - 1].to_vec()));
        assert!(read(&all).is_err_and(|error| error.message().contains(&path)), "{path} is cut");
        all.change(&path, |_| Some(right.clone()));
    }
    let newer = format::Header { n_records: 0, number: 7, first: 6, term: 1, writer: 1, id: 7 }.encode_as(9);
    let mut right = Vec::new();
    all.change(&path_of(7), |bytes| {
        right = bytes;
        Some(newer)
    });
    assert!(open(&all).err().is_some_and(|error| error.message().contains("version 9")));
    all.change(&path_of(7), |_| Some(right));
    all.change(&path_of(3), |_| None);
    assert!(read(&all).is_err_and(|error| error.message().contains(&path_of(3))));
}
