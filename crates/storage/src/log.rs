//! The log: records in order, durable before anybody is told of them.
//!
//! Who appends a record goes on at once; a thread of the log's own writes what has come together as one group, makes it
//! durable with one `fdatasync`, and tells how far it is. Space is reserved first, so that a full disk is an error before
//! anything has happened, and never one of a record that was appended.
//!
//! Cost: `append` takes a lock and moves the payload; encoding, checksums and writes are the thread's.

mod format;
mod observer;
mod recover;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use millstream_types::{Error, ErrorKind, Result, SqlState};
use parking_lot::{Condvar, Mutex};

use crate::disk::{Disk, DiskFile, io_error};
use format::RECORD_BYTES;
pub use observer::{LogObserver, LogSize, OldestRecord};
pub use recover::Records;

/// The folder of the segments.
pub(crate) const FOLDER: &str = "log";

/// How a log is written.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The data directory that it belongs to.
    pub id: u128,
    /// The writer's term: higher than that of every writer before it.
    pub term: u64,
    /// The size from which on a segment ends, in bytes.
    pub segment_bytes: u64,
    /// How much longer a segment's file is made at once, in bytes.
    pub step_bytes: u64,
    /// How long a group waits, at most, for those who were in the last one.
    pub gather_max: Duration,
}

impl Default for LogOptions {
    fn default() -> Self {
        let gather_max = Duration::from_millis(2);
        LogOptions { id: 0, term: 1, segment_bytes: 64 << 20, step_bytes: 8 << 20, gather_max }
    }
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number: one more than that of the record before it.
    pub sequence: u64,
    /// What kind of record it is, to those who read it.
    pub kind: u8,
    /// What it says.
    pub payload: Vec<u8>,
}

/// Who is told what becomes of records. Called on the log's thread.
pub trait LogEvents: Send + Sync {
    /// All records up to this one are durable.
    fn durable(&self, sequence: u64);
    /// Nobody knows what is on the disk: the process has to end, and to recover from what is there. Nothing more will
    /// become durable.
    fn lost(&self, error: Error);
}

/// The log of a data directory, open for writing.
pub struct Log {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    id: u128,
    /// The segments and the last record that were there when it was opened.
    found: (Vec<u64>, u64),
    thread: Option<JoinHandle<()>>,
}

/// What the log's thread shares with those who append.
struct Shared {
    state: Mutex<State>,
    /// There is something to do for the thread.
    work: Condvar,
}

struct State {
    /// Records that wait to be written.
    queue: Vec<Queued>,
    /// Those who wait for them.
    n_waiting: usize,
    /// The number of the next record.
    next: u64,
    is_closing: bool,
    /// Why nothing more can be appended.
    lost: Option<Error>,
    // space
    file: Arc<dyn DiskFile>,
    path: String,
    /// The bytes that the segment's file has.
    allocated: u64,
    /// The bytes of it that are written, queued or reserved.
    promised: u64,
    /// How much longer the file is made at once.
    step_bytes: u64,
    /// First records of all segments, oldest first.
    segments: Vec<u64>,
}

struct Queued {
    kind: u8,
    payload: Vec<u8>,
}

/// Room for one record. Dropping it gives it back.
#[must_use]
pub struct Reservation {
    shared: Arc<Shared>,
    n_bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.state.lock().promised -= self.n_bytes;
    }
}

/// Makes a log without records, whose first one will have a number.
///
/// # Errors
/// 53100 and 58030 if the disk fails.
pub(crate) fn begin_at(disk: &dyn Disk, options: &LogOptions, first: u64) -> Result<()> {
    disk.create_folder(FOLDER).map_err(|e| io_error("make", FOLDER, &e))?;
    writer::create_segment(disk, options, first, 0).map(drop)
}

impl Log {
    /// Opens the log of a data directory: finds its end, cuts off what was never durable, and begins a new segment.
    ///
    /// # Errors
    /// XX001, naming file and place, if what was durable does not read right; 53100 and 58030 if the disk fails.
    pub fn open(disk: Arc<dyn Disk>, options: LogOptions, events: Arc<dyn LogEvents>) -> Result<Log> {
        disk.create_folder(FOLDER).map_err(|e| io_error("make", FOLDER, &e))?;
        let found = recover::recover(&*disk, options.id)?;
        if found.term > options.term {
            let message = format!("a writer of term {} has the log, which is after {}", found.term, options.term);
            return Err(Error::new(ErrorKind::External, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message));
        }
        let mut segments = found.segments.clone();
        if segments.last() == Some(&(found.last + 1)) {
            // It has no records: the new one takes its place.
            let path = recover::path_of(found.last + 1);
            disk.remove(&path).map_err(|e| io_error("remove", &path, &e))?;
            segments.pop();
        }
        let before = segments.clone();
        let segment = writer::create_segment(&*disk, &options, found.last + 1, 0)?;
        segments.push(found.last + 1);
        let state = State {
            queue: Vec::new(),
            n_waiting: 0,
            next: found.last + 1,
            is_closing: false,
            lost: None,
            file: segment.file,
            path: segment.path,
            allocated: segment.allocated,
            promised: format::HEADER_BYTES as u64,
            step_bytes: options.step_bytes,
            segments,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), work: Condvar::new() });
        let id = options.id;
        let writer = writer::Writer::new(Arc::clone(&shared), Arc::clone(&disk), options, events, found.last);
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run());
        let thread = Some(thread.map_err(|e| io_error("start a thread for", FOLDER, &e))?);
        Ok(Log { shared, disk, id, found: (before, found.last), thread })
    }

    /// Looks at it from outside.
    pub fn observer(&self) -> LogObserver {
        LogObserver { shared: Arc::clone(&self.shared), disk: Arc::clone(&self.disk) }
    }

    /// The last record that was there when the log was opened; 0 if there was none.
    pub fn last_found(&self) -> u64 {
        self.found.1
    }

    /// The segments that were there when the log was opened.
    pub fn n_segments_found(&self) -> usize {
        self.found.0.len()
    }

    /// Bytes of the segments that have the records from one on that were there when the log was opened.
    ///
    /// # Errors
    /// 58030 if the disk fails.
    pub fn n_bytes_found(&self, from: u64) -> Result<u64> {
        let segments = &self.found.0;
        let ends = segments.iter().skip(1).copied().chain([self.found.1 + 1]);
        let wanted = segments.iter().zip(ends).filter(|(_, end)| *end > from);
        let n_bytes = wanted.map(|(&first, _)| {
            let path = recover::path_of(first);
            self.disk.open(&path).and_then(|file| file.len()).map_err(|e| io_error("read", &path, &e))
        });
        n_bytes.sum()
    }

    /// The records that were there when the log was opened, from one on.
    ///
    /// # Errors
    /// XX001 if one does not read right; nothing follows it.
    pub fn records(&self, from: u64) -> Records<'_> {
        Records::new(&*self.disk, self.id, &self.found.0, self.found.1, from)
    }

    /// Reserves room for a record with a payload of so many bytes.
    ///
    /// # Errors
    /// 53100 if the disk is full; nothing has changed then. 58030 if it fails in another way.
    pub fn reserve(&self, payload_bytes: usize) -> Result<Reservation> {
        let n_bytes = (RECORD_BYTES + payload_bytes) as u64;
        let mut state = self.shared.state.lock();
        state.make_room(n_bytes)?;
        state.promised += n_bytes;
        Ok(Reservation { shared: Arc::clone(&self.shared), n_bytes })
    }

    /// Appends a record, for which so many wait, in the room reserved for it; gives its number.
    ///
    /// # Errors
    /// The reason why the log takes nothing more. 53100 if it is larger than what was reserved and there is no room.
    pub fn append(&self, mut room: Reservation, kind: u8, payload: Vec<u8>, n_waiting: usize) -> Result<u64> {
        let n_bytes = (RECORD_BYTES + payload.len()) as u64;
        let mut state = self.shared.state.lock();
        if let Some(error) = &state.lost {
            return Err(error.clone());
        }
        if n_bytes > room.n_bytes {
            let missing = n_bytes - room.n_bytes;
            state.make_room(missing)?;
        }
        state.promised = state.promised - room.n_bytes + n_bytes;
        room.n_bytes = 0;
        let sequence = state.next;
        state.next += 1;
        state.n_waiting += n_waiting;
        state.queue.push(Queued { kind, payload });
        drop(state);
        self.shared.work.notify_one();
        Ok(sequence)
    }

    /// Forgets segments all of whose records are before one.
    ///
    /// # Errors
    /// 58030 if the disk fails; what could not be removed is tried again the next time.
    pub fn truncate_before(&self, sequence: u64) -> Result<()> {
        let gone: Vec<u64> = {
            let state = self.shared.state.lock();
            let gone = state.segments.iter().zip(state.segments.iter().skip(1)).filter(|(_, next)| **next <= sequence);
            gone.map(|(&first, _)| first).collect()
        };
        // Oldest first, each durably, so that what is left has no gap.
        for first in gone {
            let path = recover::path_of(first);
            let removed = self.disk.remove(&path).and_then(|()| self.disk.sync_folder(FOLDER));
            removed.map_err(|e| io_error("remove", &path, &e))?;
            self.shared.state.lock().segments.retain(|&segment| segment != first);
        }
        Ok(())
    }
}

impl Drop for Log {
    /// Writes what was appended, makes it durable, and ends the thread.
    fn drop(&mut self) {
        self.shared.state.lock().is_closing = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // Its panic has been reported where it happened.
            let _ = thread.join();
        }
    }
}

impl State {
    /// Makes the segment's file longer if what is promised and so much more does not fit.
    fn make_room(&mut self, n_bytes: u64) -> Result<()> {
        let needed = self.promised + n_bytes;
        if needed <= self.allocated {
            return Ok(());
        }
        let to = needed + self.step_bytes;
        let allocated = self.file.allocate(to).map(|()| to);
        // Little room is room.
        let allocated = allocated.or_else(|_| self.file.allocate(needed).map(|()| needed));
        self.allocated = allocated.map_err(|e| io_error("make longer", &self.path, &e))?;
        Ok(())
    }
}
