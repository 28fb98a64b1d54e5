//! The log: records in order, durable before anybody is told of them.
//!
//! Who appends a record goes on at once; a thread of the log's own writes what has come together as one group, makes it
//! durable with one `fdatasync`, and tells how far it is. Space is reserved first, so that a full disk is an error before
//! anything has happened, and never one of a record that was appended.
//!
//! Its records lie in segments of a disk, or in objects of a bucket; how they are queued, gathered and told of is the same.
//!
//! Cost: `append` takes a lock and moves the payload; encoding, checksums and writes are the thread's.

mod format;
mod objects;
mod observer;
mod queue;
mod recover;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use millstream_types::{Error, ErrorKind, Result, SqlState};

use crate::bucket::Bucket;
use crate::disk::{Disk, io_error};
use format::RECORD_BYTES;
pub(crate) use objects::LogObjects;
pub use observer::{LogObserver, LogSize, OldestRecord};
pub use queue::Reservation;
use queue::{Queue, Space};

/// The folder of the log.
pub(crate) const FOLDER: &str = "log";

/// How a log is written.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The data directory that it belongs to.
    pub id: u128,
    /// The writer's term: not lower than that of any writer before it. In a bucket it is given by what is there.
    pub term: u64,
    /// The size from which on a segment ends, in bytes.
    pub segment_bytes: u64,
    /// How much longer a segment's file is made at once, in bytes.
    pub step_bytes: u64,
    /// How long a group waits, at most, for those who were in the last one.
    pub gather_max: Duration,
    /// After so long without anything to write it is looked, in a bucket, whether another process has taken over.
    pub look_after: Duration,
}

impl Default for LogOptions {
    fn default() -> Self {
        let (gather_max, look_after) = (Duration::from_millis(2), Duration::from_secs(5));
        LogOptions { id: 0, term: 1, segment_bytes: 64 << 20, step_bytes: 8 << 20, gather_max, look_after }
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
    /// Another process has the data now: this one has to end. Nothing more will become durable.
    fn taken_over(&self, error: Error);
}

/// The log of a data directory, open for writing.
pub struct Log {
    queue: Arc<Queue>,
    found: LogReader,
    term: u64,
    thread: Option<JoinHandle<()>>,
}

/// What a log had when it was opened.
pub(crate) struct LogReader {
    medium: Medium,
    /// The last record; 0 if there is none.
    last: u64,
}

/// What a log lies in.
#[derive(Clone)]
enum Medium {
    /// Segments of a disk, by first record.
    Segments { disk: Arc<dyn Disk>, id: u128, segments: Vec<u64> },
    /// Objects of a bucket.
    Objects(Arc<LogObjects>),
}

/// Records in order; nothing follows an error.
pub type Records<'a> = Box<dyn Iterator<Item = Result<Record>> + 'a>;

/// Makes a log without records, whose first one will have a number.
///
/// # Errors
/// 53100 and 58030 if the disk fails.
pub(crate) fn begin_at(disk: &dyn Disk, options: &LogOptions, first: u64) -> Result<()> {
    disk.create_folder(FOLDER).map_err(|e| io_error("make", FOLDER, &e))?;
    writer::create_segment(disk, options, first, 0).map(drop)
}

impl LogReader {
    /// What there is on a disk, cut where it ends.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub(crate) fn of_disk(disk: Arc<dyn Disk>, id: u128) -> Result<LogReader> {
        let found = recover::recover(&*disk, id)?;
        Ok(LogReader { medium: Medium::Segments { disk, id, segments: found.segments }, last: found.last })
    }

    /// What there is in a bucket.
    ///
    /// # Errors
    /// As [`Log::open_in_bucket`].
    pub(crate) fn of_bucket(bucket: Arc<Bucket>, id: u128) -> Result<LogReader> {
        let (objects, last) = LogObjects::to_read(bucket, id)?;
        Ok(LogReader { medium: Medium::Objects(Arc::new(objects)), last })
    }

    /// The records, from one on.
    ///
    /// # Errors
    /// XX001 if something from there on is missing; 58030.
    pub(crate) fn records(&self, from: u64) -> Result<Records<'_>> {
        match &self.medium {
            Medium::Segments { disk, id, segments } => {
                Ok(Box::new(recover::Records::new(&**disk, *id, segments, self.last, from)))
            }
            Medium::Objects(objects) => Ok(Box::new(objects.records(from, self.last)?)),
        }
    }
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
        let space = Space {
            file: segment.file,
            path: segment.path,
            allocated: segment.allocated,
            promised: format::HEADER_BYTES as u64,
            step_bytes: options.step_bytes,
            segments,
        };
        let queue = Queue::new(found.last + 1, Some(space));
        let (id, term) = (options.id, options.term);
        let writer = writer::Writer::new(Arc::clone(&queue), Arc::clone(&disk), options, events, found.last);
        let medium = Medium::Segments { disk, id, segments: before };
        Log::start(queue, LogReader { medium, last: found.last }, term, move || writer.run())
    }

    /// Opens the log of a data directory in a bucket, and takes it over from whoever has it.
    ///
    /// # Errors
    /// XX001, naming the object, if what is there does not read right; 55006 if another process takes it over at the same
    /// time; 58030 if the bucket fails.
    pub(crate) fn open_in_bucket(bucket: Arc<Bucket>, options: LogOptions, events: Arc<dyn LogEvents>) -> Result<Log> {
        let (objects, last) = LogObjects::take_over(bucket, options.id)?;
        let (objects, queue) = (Arc::new(objects), Queue::new(last + 1, None));
        let term = objects.term();
        let writer = objects::Writer::new(Arc::clone(&queue), Arc::clone(&objects), options, events, last);
        Log::start(queue, LogReader { medium: Medium::Objects(objects), last }, term, move || writer.run())
    }

    fn start(queue: Arc<Queue>, found: LogReader, term: u64, run: impl FnOnce() + Send + 'static) -> Result<Log> {
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(run);
        let thread = Some(thread.map_err(|e| io_error("start a thread for", FOLDER, &e))?);
        Ok(Log { queue, found, term, thread })
    }

    /// The writer's term.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Looks at it from outside.
    pub fn observer(&self) -> LogObserver {
        LogObserver { queue: Arc::clone(&self.queue), medium: self.found.medium.clone() }
    }

    /// The segments, or objects with records, that were there when the log was opened.
    pub fn n_segments_found(&self) -> usize {
        match &self.found.medium {
            Medium::Segments { segments, .. } => segments.len(),
            Medium::Objects(objects) => objects.n_with_records_found(),
        }
    }

    /// Bytes of the segments or objects that have the records from one on that were there when the log was opened.
    ///
    /// # Errors
    /// 58030 if the disk or the bucket fails.
    pub fn n_bytes_found(&self, from: u64) -> Result<u64> {
        let LogReader { medium, last } = &self.found;
        let (disk, segments) = match medium {
            Medium::Segments { disk, segments, .. } => (disk, segments),
            Medium::Objects(objects) => return objects.n_bytes_found(from),
        };
        let ends = segments.iter().skip(1).copied().chain([last + 1]);
        let wanted = segments.iter().zip(ends).filter(|(_, end)| *end > from);
        let n_bytes = wanted.map(|(&first, _)| {
            let path = recover::path_of(first);
            disk.open(&path).and_then(|file| file.len()).map_err(|e| io_error("read", &path, &e))
        });
        n_bytes.sum()
    }

    /// The objects that it lies in, if it is in a bucket.
    pub(crate) fn objects(&self) -> Option<&Arc<LogObjects>> {
        match &self.found.medium {
            Medium::Segments { .. } => None,
            Medium::Objects(objects) => Some(objects),
        }
    }

    /// The last record that was there when the log was opened; 0 if there was none.
    pub fn last_found(&self) -> u64 {
        self.found.last
    }

    /// The records that were there when the log was opened, from one on.
    ///
    /// # Errors
    /// XX001 if one is missing or does not read right; nothing follows it. 58030 if it cannot be read.
    pub fn records(&self, from: u64) -> Result<Records<'_>> {
        self.found.records(from)
    }

    /// Reserves room for a record with a payload of so many bytes. A bucket has room for all.
    ///
    /// # Errors
    /// 53100 if the disk is full; nothing has changed then. 58030 if it fails in another way.
    pub fn reserve(&self, payload_bytes: usize) -> Result<Reservation> {
        Queue::reserve(&self.queue, (RECORD_BYTES + payload_bytes) as u64)
    }

    /// Appends a record, for which so many wait, in the room reserved for it; gives its number.
    ///
    /// # Errors
    /// The reason why the log takes nothing more. 53100 if it is larger than what was reserved and there is no room.
    pub fn append(&self, room: Reservation, kind: u8, payload: Vec<u8>, n_waiting: usize) -> Result<u64> {
        self.queue.append(room, kind, payload, n_waiting)
    }

    /// Forgets what has only records before one.
    ///
    /// # Errors
    /// 58030 if it fails; what could not be removed is tried again the next time. 55006 if another process has taken over.
    pub fn truncate_before(&self, sequence: u64) -> Result<()> {
        match &self.found.medium {
            Medium::Segments { disk, .. } => self.remove_segments_before(&**disk, sequence),
            Medium::Objects(objects) => objects.truncate_before(sequence),
        }
    }

    fn remove_segments_before(&self, disk: &dyn Disk, sequence: u64) -> Result<()> {
        // Oldest first, each durably, so that what is left has no gap.
        for first in self.queue.segments_before(sequence) {
            let path = recover::path_of(first);
            let removed = disk.remove(&path).and_then(|()| disk.sync_folder(FOLDER));
            removed.map_err(|e| io_error("remove", &path, &e))?;
            self.queue.forget_segment(first);
        }
        Ok(())
    }
}

impl Drop for Log {
    /// Writes what was appended, makes it durable, and ends the thread.
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // Its panic has been reported where it happened.
            let _ = thread.join();
        }
    }
}
