//! Taking a log over: a fence is created where the writer before would write next, and behind it nobody else writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use millstream_types::{Error, Result};
use parking_lot::Mutex;

use super::format::{HEADER_BYTES, Header};
use super::{FOLDER, LogObjects, Object, path_of};
use crate::bucket::{Bucket, taken_over};
use crate::data_directory::random_id;
use crate::disk::io_error;
use crate::errors::damaged;
use crate::object_store::Put;

/// Farther ahead no bar is made.
const AHEAD_MAX: u64 = 1024;

/// So often it is tried to be the one who takes over: others that try it are as many processes that start.
const N_ATTEMPTS: usize = 100;

/// How often one object is created without knowing whether it is there, and how long one waits in between.
const N_TRIES: usize = 5;
const TRIED_AFTER: Duration = Duration::from_millis(20);

/// Where a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    /// The number of the last object; 0 if there is none.
    number: u64,
    /// The term of the last writer.
    term: u64,
    /// The number of the next record.
    next: u64,
}

impl LogObjects {
    /// What is there, to be read while nobody writes; and the last record.
    ///
    /// # Errors
    /// XX001 if the last object does not read right; 58030 if the bucket fails.
    pub(in crate::log) fn to_read(bucket: Arc<Bucket>, id: u128) -> Result<(LogObjects, u64)> {
        let mut objects = LogObjects::of(bucket, id, 0)?;
        let end = objects.end()?;
        objects.end = end.number + 1;
        Ok((objects, end.next - 1))
    }

    /// Takes the log over from whoever has it; gives the last record, too.
    ///
    /// # Errors
    /// XX001 if the last object does not read right; 55006 if others take over all the time; 58030 if the bucket fails.
    pub(in crate::log) fn take_over(bucket: Arc<Bucket>, id: u128) -> Result<(LogObjects, u64)> {
        let writer = random_id().map_err(|e| io_error("read", "/dev/urandom", &e))?;
        let mut ahead = 1;
        for _ in 0..N_ATTEMPTS {
            // A writer may be faster than who reads what it writes: what there is by now is listed anew.
            let mut objects = LogObjects::of(Arc::clone(&bucket), id, writer)?;
            let end = objects.end()?;
            let fence =
                Header { n_records: 0, number: end.number + 1, first: end.next, term: end.term + 1, writer, id };
            if objects.create(fence)? {
                objects
                    .there
                    .get_mut()
                    .insert(fence.number, Object { n_bytes: HEADER_BYTES as u64, first: Some(end.next) });
                (objects.term, objects.end) = (fence.term, fence.number);
                *objects.next.get_mut() = fence.number + 1;
                return Ok((objects, end.next - 1));
            }
            tracing::info!(log = bucket.url(), ahead, "another process writes the log; its way is barred");
            objects.bar_way(fence.number, ahead)?;
            ahead = (2 * ahead).min(AHEAD_MAX);
        }
        Err(taken_over(bucket.url()))
    }

    /// Makes the first object of a log, whose first record will have a number.
    ///
    /// # Errors
    /// 58030 if the bucket fails, or there is a log.
    pub(crate) fn begin_at(bucket: Arc<Bucket>, id: u128, first: u64) -> Result<()> {
        let objects = LogObjects::new(bucket, id, 0, BTreeMap::new());
        let fence = Header { n_records: 0, number: 1, first, term: 1, writer: 0, id };
        if objects.create(fence)? { Ok(()) } else { Err(taken_over(objects.bucket.url())) }
    }

    fn of(bucket: Arc<Bucket>, id: u128, writer: u128) -> Result<LogObjects> {
        let listed = bucket.sizes(FOLDER)?.into_iter().filter_map(|(name, size)| {
            let number = (name.len() == 20).then(|| name.parse().ok()).flatten()?;
            Some((number, Object { n_bytes: size, first: None }))
        });
        let there: BTreeMap<u64, Object> = listed.collect();
        Ok(LogObjects::new(bucket, id, writer, there))
    }

    fn new(bucket: Arc<Bucket>, id: u128, writer: u128, there: BTreeMap<u64, Object>) -> LogObjects {
        LogObjects { bucket, id, writer, term: 0, end: 1, next: AtomicU64::new(1), there: Mutex::new(there) }
    }

    /// Where the log ends, as far as it is known.
    fn end(&self) -> Result<End> {
        loop {
            let numbers = self.unbroken();
            let last = numbers.last().copied().unwrap_or(0);
            for &number in numbers.iter().rev() {
                let header = self.header(number)?.ok_or_else(|| damaged(&path_of(number), 0, "it is not there"))?;
                if !header.is_bar() {
                    let next = header.first + u64::from(header.n_records);
                    return Ok(End { number: last, term: header.term, next });
                }
            }
            match numbers.first() {
                // A writer was barred before it wrote anything.
                None | Some(1) => return Ok(End { number: last, term: 0, next: 1 }),
                Some(&first) => self.close_gap_before(first)?,
            }
        }
    }

    /// Bars stand ahead with nothing before them: a process that took over was cut off before it had closed the gap.
    fn close_gap_before(&self, first: u64) -> Result<()> {
        if self.writer == 0 {
            // Who only reads does without them.
            self.there.lock().retain(|&number, _| number < first);
            return Ok(());
        }
        let last_before = self.there.lock().range(..first).next_back().map_or(0, |(&number, _)| number);
        for number in last_before + 1..first {
            self.create(self.bar(number))?;
            self.look_at(number)?;
        }
        Ok(())
    }

    /// Looks which object there is, and notes it.
    fn look_at(&self, number: u64) -> Result<()> {
        let path = path_of(number);
        let bytes = self.bucket.read(&path)?.ok_or_else(|| damaged(&path, 0, "it is not there"))?;
        let header = Header::decode(&bytes, &path, number, self.id)?;
        self.there.lock().insert(number, Object { n_bytes: bytes.len() as u64, first: Some(header.first) });
        Ok(())
    }

    /// Makes a bar some numbers behind one that is taken, and from there down to where something is.
    fn bar_way(&self, taken: u64, ahead: u64) -> Result<()> {
        for number in (taken + 1..=taken + ahead).rev() {
            if !self.create(self.bar(number))? {
                break;
            }
        }
        Ok(())
    }

    fn bar(&self, number: u64) -> Header {
        Header { n_records: 0, number, first: 0, term: 0, writer: self.writer, id: self.id }
    }

    /// Creates an object without records; whether it is there, or another one of its name.
    fn create(&self, header: Header) -> Result<bool> {
        let (path, bytes) = (path_of(header.number), Bytes::from(header.encode()));
        let mut unknown = Error::internal("it was never tried");
        for _ in 0..N_TRIES {
            match self.bucket.create(&path, &bytes) {
                Put::Done => return Ok(true),
                Put::Taken => return Ok(false),
                Put::Failed(error) => return Err(error),
                Put::Unknown(error) => unknown = error,
            }
            std::thread::sleep(TRIED_AFTER);
        }
        Err(unknown)
    }
}
