//! The log on a disk that fails, is killed, and loses its power.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::*;
use crate::disk::OsDisk;
use crate::disk::sim::{Fault, SimDisk};
use crate::random::Bits;

/// Notes what it is told.
#[derive(Default)]
struct Told {
    durable: AtomicU64,
    lost: Mutex<Option<Error>>,
    changed: Condvar,
    lock: Mutex<()>,
}

impl LogEvents for Told {
    fn durable(&self, sequence: u64) {
        let before = self.durable.swap(sequence, Ordering::SeqCst);
        assert!(before < sequence, "each group is told once, in order");
        let _held = self.lock.lock();
        self.changed.notify_all();
    }

    fn lost(&self, error: Error) {
        *self.lost.lock() = Some(error);
        let _held = self.lock.lock();
        self.changed.notify_all();
    }

    fn taken_over(&self, error: Error) {
        self.lost(error);
    }
}

impl Told {
    /// Waits until a record is durable; gives up if the log is lost.
    fn wait(&self, sequence: u64) -> bool {
        self.wait_while(sequence, || true)
    }

    /// As [`Told::wait`], as long as something is so.
    fn wait_while(&self, sequence: u64, is_so: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        let mut held = self.lock.lock();
        while self.durable.load(Ordering::SeqCst) < sequence && self.lost.lock().is_none() && is_so() {
            assert!(start.elapsed() < Duration::from_secs(60), "record {sequence} does not become durable");
            self.changed.wait_for(&mut held, Duration::from_millis(5));
        }
        self.durable.load(Ordering::SeqCst) >= sequence
    }
}

fn small() -> LogOptions {
    LogOptions { id: 7, segment_bytes: 2000, step_bytes: 600, ..LogOptions::default() }
}

fn open(disk: &SimDisk) -> Result<(Log, Arc<Told>)> {
    let told = Arc::new(Told::default());
    let log = Log::open(Arc::new(disk.clone()), small(), Arc::clone(&told) as Arc<dyn LogEvents>)?;
    Ok((log, told))
}

/// What the record with a number says in these tests.
fn payload(sequence: u64) -> Vec<u8> {
    let n_bytes = (sequence * 37 % 300) as usize;
    (0..n_bytes).map(|i| (i as u64 * 31 + sequence) as u8).collect()
}

fn append(log: &Log, sequence: u64) -> Result<()> {
    let payload = payload(sequence);
    let room = log.reserve(payload.len())?;
    let given = log.append(room, sequence as u8, payload, 1)?;
    assert_eq!(given, sequence, "numbers have no gap");
    Ok(())
}

/// The records from one on, which must be those that were appended; the last of them.
fn check_records(log: &Log, from: u64) -> u64 {
    let mut last = from - 1;
    for record in log.records(from).expect("it can be read") {
        let record = record.expect("what was durable reads right");
        assert_eq!(record.sequence, last + 1);
        assert_eq!((record.kind, record.payload), (record.sequence as u8, payload(record.sequence)));
        last = record.sequence;
    }
    assert_eq!(last, log.last_found());
    last
}

#[test]
fn what_was_appended_is_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Arc::new(OsDisk::new(folder.path()));
    for round in 0..3 {
        let told = Arc::new(Told::default());
        let log = Log::open(Arc::clone(&disk) as Arc<dyn Disk>, small(), Arc::clone(&told) as Arc<dyn LogEvents>);
        let log = log.expect("it opens");
        assert_eq!(check_records(&log, 1), round * 40);
        for sequence in round * 40 + 1..=round * 40 + 40 {
            append(&log, sequence).expect("there is room");
            assert!(sequence % 4 > 0 || told.wait(sequence));
        }
    }
    let n_segments = disk.list(FOLDER).expect("a folder").len();
    assert!(n_segments > 6, "{n_segments} segments of two records a kilobyte");
}

#[test]
fn old_segments_go_and_leave_no_gap() {
    let disk = SimDisk::default();
    let (log, told) = open(&disk).expect("it opens");
    for sequence in 1..=60 {
        append(&log, sequence).expect("there is room");
        assert!(told.wait(sequence));
    }
    let n_before = disk.list(FOLDER).expect("a folder").len();
    log.truncate_before(31).expect("files can be removed");
    let n_after = disk.list(FOLDER).expect("a folder").len();
    assert!(n_after < n_before, "{n_after} of {n_before} segments are left");
    drop(log);
    let (log, _) = open(&disk.after_power_cut(|| false)).expect("it opens");
    assert_eq!(check_records(&log, 31), 60);
}

#[test]
fn who_looks_at_it_sees_where_it_begins() {
    let (log, told) = open(&SimDisk::default()).expect("it opens");
    let observer = log.observer();
    assert_eq!(observer.oldest(4, 0).expect("reads"), None);
    assert_eq!((observer.size().expect("reads").n_segments, observer.size().expect("reads").last), (1, 0));
    for sequence in 1..=30 {
        append(&log, sequence).expect("there is room");
        assert!(told.wait(sequence));
    }
    let start = |sequence| payload(sequence).into_iter().take(4).collect::<Vec<u8>>();
    let oldest = observer.oldest(4, 30).expect("reads").expect("there is one");
    assert_eq!(oldest, OldestRecord { sequence: 1, payload_start: start(1) });
    let before = observer.size().expect("reads");
    assert_eq!(before.last, 30);
    assert!(before.n_segments > 2, "{before:?}");
    log.truncate_before(25).expect("removes");
    let oldest = observer.oldest(4, 30).expect("reads").expect("there is one");
    assert!((2..=25).contains(&oldest.sequence), "{oldest:?}");
    assert_eq!(oldest.payload_start, start(oldest.sequence));
    assert_eq!(observer.oldest(4, oldest.sequence - 1).expect("reads"), None, "it is not durable");
    let after = observer.size().expect("reads");
    assert!(after.n_segments < before.n_segments && after.n_bytes < before.n_bytes, "{after:?} after {before:?}");
}

#[test]
fn a_record_that_is_appended_when_the_log_closes_is_there() {
    let disk = SimDisk::default();
    let (log, _) = open(&disk).expect("it opens");
    append(&log, 1).expect("there is room");
    drop(log);
    assert_eq!(check_records(&open(&disk).expect("it opens").0, 1), 1);
}

/// Opens, appends, and loses the disk at each call that writes, in each way; whatever was told to be durable is there
/// afterwards, and what is there is a prefix of what was appended.
#[test]
fn nothing_durable_is_lost_wherever_the_power_goes() {
    let seed = 0x5eed;
    let mut bits = Bits(seed);
    let n_calls = {
        let disk = SimDisk::default();
        let (log, told) = open(&disk).expect("it opens");
        (1..=30).for_each(|sequence| append(&log, sequence).expect("there is room"));
        assert!(told.wait(30));
        drop(log);
        disk.n_calls()
    };
    for call in 0..n_calls {
        for way in 0..6 {
            let disk = SimDisk::default();
            disk.fail_at(call, Fault::Off);
            let mut durable = 0;
            let mut n_appended = 0;
            if let Ok((log, told)) = open(&disk) {
                while n_appended < 30 && append(&log, n_appended + 1).is_ok() {
                    n_appended += 1;
                    if bits.coin() && !told.wait_while(n_appended, || !disk.is_off()) {
                        break;
                    }
                }
                durable = told.durable.load(Ordering::SeqCst);
                disk.fail_at(disk.n_calls(), Fault::Off);
                // A log that is off never gets to write what it has: its thread is left to itself.
                std::mem::forget(log);
            }
            let mut after = match way {
                0 => disk.after_kill(),
                1 => disk.after_power_cut(|| false),
                2 => disk.after_power_cut(|| true),
                _ => disk.after_power_cut(|| bits.coin()),
            };
            // Twice: recovery itself may be cut off.
            for _ in 0..2 {
                let (log, told) = open(&after).unwrap_or_else(|e| panic!("call {call}, way {way}, seed {seed}: {e}"));
                let last = check_records(&log, 1);
                assert!(last >= durable, "call {call}, way {way}, seed {seed}: {last} of {durable} are there");
                assert!(last <= n_appended, "call {call}, way {way}, seed {seed}");
                append(&log, last + 1).expect("there is room");
                assert!(told.wait(last + 1));
                (durable, n_appended) = (last + 1, last + 1);
                drop(log);
                after = after.after_power_cut(|| bits.coin());
            }
        }
    }
}

#[test]
fn a_full_disk_refuses_before_anything_is_appended() {
    let disk = SimDisk::default();
    disk.set_space(Some(6000));
    let (log, told) = open(&disk).expect("it opens");
    let mut n_appended = 0;
    let error = loop {
        match append(&log, n_appended + 1) {
            Ok(()) => n_appended += 1,
            Err(error) => break error,
        }
        assert!(n_appended < 100, "the disk is never full");
    };
    assert_eq!(error.state(), SqlState::DISK_FULL);
    assert!(told.wait(n_appended), "what was appended becomes durable on the full disk");
    disk.set_space(None);
    append(&log, n_appended + 1).expect("there is room again");
    assert!(told.wait(n_appended + 1));
    drop(log);
    assert_eq!(check_records(&open(&disk).expect("it opens").0, 1), n_appended + 1);
}

#[test]
fn room_that_is_not_used_is_given_back() {
    let disk = SimDisk::default();
    disk.set_space(Some(2000));
    let (log, _) = open(&disk).expect("it opens");
    for _ in 0..100 {
        drop(log.reserve(1000).expect("there is room each time"));
    }
    let _room = log.reserve(1000).expect("there is room");
    assert!(log.reserve(1000).is_err(), "room is given once");
}

#[test]
fn what_cannot_be_written_is_written_again() {
    let disk = SimDisk::default();
    let (log, told) = open(&disk).expect("it opens");
    append(&log, 1).expect("there is room");
    assert!(told.wait(1));
    let (room, calls) = (log.reserve(200).expect("there is room"), disk.n_calls());
    disk.fail_at(calls, Fault::Short);
    disk.fail_at(calls + 1, Fault::Broken);
    log.append(room, 2, payload(2), 1).expect("it takes it");
    assert!(told.wait(2));
    drop(log);
    assert_eq!(check_records(&open(&disk.after_power_cut(|| false)).expect("it opens").0, 1), 2);
}

#[test]
fn a_failed_fdatasync_ends_it() {
    let disk = SimDisk::default();
    let (log, told) = open(&disk).expect("it opens");
    let room = log.reserve(200).expect("there is room");
    disk.fail_at(disk.n_calls() + 1, Fault::Broken);
    log.append(room, 1, payload(1), 1).expect("it takes it");
    assert!(!told.wait(1), "nobody is told that it is durable");
    let error = append(&log, 2).expect_err("nothing more is taken");
    assert_eq!(error.state(), SqlState::IO_ERROR);
}

/// A change of any byte of what was durable, before the end, is found and named.
#[test]
fn damage_is_told_from_a_torn_tail() {
    let disk = SimDisk::default();
    let (log, told) = open(&disk).expect("it opens");
    for sequence in 1..=25 {
        append(&log, sequence).expect("there is room");
        assert!(told.wait(sequence));
    }
    drop(log);
    let segments: Vec<String> = disk.list(FOLDER).expect("a folder");
    assert!(segments.len() > 1);
    for name in &segments {
        let path = format!("{FOLDER}/{name}");
        let first: u64 = name.trim_end_matches(".log").parse().expect("a number");
        let bytes_end = {
            let (log, _) = open(&disk.after_kill()).expect("it opens");
            let n_bytes: usize = log
                .records(first)
                .expect("it can be read")
                .map(|r| r.expect("it reads right"))
                .take_while(|r| segments.iter().all(|s| s == name || !is_first_of(s, r.sequence, first)))
                .map(|r| RECORD_BYTES + r.payload.len())
                .sum();
            format::HEADER_BYTES + n_bytes
        };
        let is_last = Some(name) == segments.iter().max();
        for offset in (0..bytes_end).step_by(7) {
            let damaged = disk.after_kill();
            damaged.damage(&path, offset, |bytes| bytes[0] ^= 0x40);
            let found = open(&damaged).and_then(|(log, _)| {
                let records: Result<Vec<Record>> = log.records(1).and_then(Iterator::collect);
                records
            });
            match found {
                Err(error) => {
                    assert_eq!(error.state(), SqlState::DATA_CORRUPTED, "{error}");
                    assert!(error.message().contains(&path), "{error}");
                }
                // Of the very last record nobody else says that it was durable.
                Ok(records) => assert!(is_last && records.len() == 24, "{path} at {offset}: {} records", records.len()),
            }
        }
    }
}

/// Whether a record is the first of a segment behind the one that begins with `first`.
fn is_first_of(name: &str, sequence: u64, first: u64) -> bool {
    name.trim_end_matches(".log").parse() == Ok(sequence) && sequence != first
}

#[test]
fn a_log_of_another_directory_or_version_is_refused() {
    let disk = SimDisk::default();
    let (log, told) = open(&disk).expect("it opens");
    append(&log, 1).expect("there is room");
    assert!(told.wait(1));
    drop(log);
    let events = Arc::new(Told::default());
    let other = LogOptions { id: 8, ..small() };
    let refused = Log::open(Arc::new(disk.after_kill()), other, events).err().expect("it is refused");
    assert!(refused.message().contains("another data directory"), "{refused}");
    let newer = disk.after_kill();
    newer.damage(&recover::path_of(1), 0, |bytes| {
        let header = format::Header { first: 1, term: 1, id: 7 }.encode_as(9);
        bytes[..format::HEADER_BYTES].copy_from_slice(&header);
    });
    let refused = open(&newer).err().expect("it is refused");
    assert!(refused.message().contains("version 9"), "{refused}");
}
