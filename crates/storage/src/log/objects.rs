//! The log in a bucket: one sequence of objects for all writers, each created only if there is none of its name.
//!
//! What a writer has been told to be there stands before everything that comes later, by whomever: so who creates the next
//! object has the log, and who finds its next number taken has lost it.

mod format;
mod records;
mod take_over;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millstream_types::Result;
use parking_lot::Mutex;

use super::format::{HEAD_BYTES, payload_bytes};
use super::{FOLDER, OldestRecord};
use crate::bucket::{Bucket, taken_over};
use crate::errors::damaged;
use format::{HEADER_BYTES, Header};
use records::ObjectRecords;
pub(super) use writer::Writer;

/// So many of the newest objects without records are kept: a writer that has slept for that many starts finds the one
/// that stops it.
const N_FENCES_KEPT: usize = 1024;

/// The objects of a log.
pub(crate) struct LogObjects {
    bucket: Arc<Bucket>,
    /// The data directory.
    id: u128,
    /// The random number of this writer; 0 if it only reads.
    writer: u128,
    term: u64,
    /// The number after the last object that was there when it was opened.
    end: u64,
    /// The number of the next object that is created.
    next: AtomicU64,
    /// Those that are there, by number.
    there: Mutex<BTreeMap<u64, Object>>,
}

/// What is known of an object that is there.
#[derive(Clone, Copy, Debug)]
struct Object {
    /// Its length.
    n_bytes: u64,
    /// Its first record, if it was looked at.
    first: Option<u64>,
}

impl Object {
    /// Whether it has no records: a fence or a bar.
    fn is_empty(&self) -> bool {
        self.n_bytes == HEADER_BYTES as u64
    }
}

/// An object and its first record.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u64,
    first: u64,
}

/// What a search for a record came to.
enum Search {
    /// The object that has it, or has the last one before it.
    Found(Option<Place>),
    /// This object is no more.
    Gone(u64),
}

fn path_of(number: u64) -> String {
    format!("{FOLDER}/{number:020}")
}

impl LogObjects {
    /// The writer's term.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// Looks whether this writer's next number is free.
    ///
    /// # Errors
    /// 55006 if another process has taken over; 58030 if that cannot be told.
    pub(crate) fn check_not_taken_over(&self) -> Result<()> {
        let mut number = self.next.load(Ordering::Acquire);
        while let Some(header) = self.header(number)? {
            if header.writer != self.writer {
                return Err(taken_over(self.bucket.url()));
            }
            // It was on its way.
            number += 1;
        }
        Ok(())
    }

    /// The header of an object; `None` if it is not there.
    fn header(&self, number: u64) -> Result<Option<Header>> {
        let path = path_of(number);
        let Some(bytes) = self.bucket.read_head(&path, HEADER_BYTES)? else { return Ok(None) };
        Header::decode(&bytes, &path, number, self.id).map(Some)
    }

    /// The records from one on, up to the last that was there when it was opened.
    ///
    /// # Errors
    /// XX001 if an object that has some of them is missing.
    pub(super) fn records(&self, from: u64, last: u64) -> Result<ObjectRecords<'_>> {
        if from > last {
            return Ok(ObjectRecords::new(self, 0..0, from));
        }
        let Some(start) = self.holder_of(from)? else {
            let first = self.unbroken().first().copied().unwrap_or(1);
            let why = format!("it is not there, and record {from} is in it or before it");
            return Err(damaged(&path_of(first.saturating_sub(1)), 0, &why));
        };
        Ok(ObjectRecords::new(self, start.number..self.end, from))
    }

    /// How many objects with records there were when it was opened.
    pub(super) fn n_with_records_found(&self) -> usize {
        let there = self.there.lock();
        there.range(..self.end).filter(|(_, object)| !object.is_empty()).count()
    }

    /// The bytes of those that have the records from one on.
    ///
    /// # Errors
    /// 58030 if the bucket fails.
    pub(super) fn n_bytes_found(&self, from: u64) -> Result<u64> {
        let first = self.holder_of(from)?.map_or(0, |holder| holder.number);
        let there = self.there.lock();
        Ok(there.range(first.min(self.end)..self.end).map(|(_, object)| object.n_bytes).sum())
    }

    /// How many objects there are, and how many bytes they have.
    pub(super) fn size(&self) -> (usize, u64) {
        let there = self.there.lock();
        (there.len(), there.values().map(|object| object.n_bytes).sum())
    }

    /// The oldest record up to one, and how its payload begins; `None` if there is none.
    ///
    /// # Errors
    /// 58030 if the bucket fails.
    pub(super) fn oldest(&self, n_bytes: usize, up_to: u64) -> Result<Option<OldestRecord>> {
        for number in self.unbroken() {
            if self.there.lock().get(&number).is_none_or(Object::is_empty) {
                continue;
            }
            let path = path_of(number);
            let start = HEADER_BYTES + HEAD_BYTES;
            // It may be gone because the log was cut meanwhile.
            let Some(bytes) = self.bucket.read_head(&path, start + n_bytes)? else { continue };
            let header = Header::decode(&bytes, &path, number, self.id)?;
            let Some(head) = bytes.get(HEADER_BYTES..).and_then(<[u8]>::first_chunk) else { continue };
            let end = bytes.len().min(start + payload_bytes(head));
            let oldest = OldestRecord { sequence: header.first, payload_start: bytes[start..end].to_vec() };
            return Ok((header.first <= up_to).then_some(oldest));
        }
        Ok(None)
    }

    /// The numbers behind the last gap.
    fn unbroken(&self) -> Vec<u64> {
        let there = self.there.lock();
        let mut numbers: Vec<u64> = Vec::new();
        for &number in there.keys().rev() {
            if numbers.last().is_some_and(|later| later - number > 1) {
                break;
            }
            numbers.push(number);
        }
        numbers.reverse();
        numbers
    }

    /// The last object behind the last gap whose first record is not after one.
    fn holder_of(&self, sequence: u64) -> Result<Option<Place>> {
        loop {
            match self.search(sequence)? {
                Search::Found(place) => return Ok(place),
                // The writer before may still be at deleting what its last checkpoint has: the oldest.
                Search::Gone(number) => self.there.lock().retain(|&other, _| other > number),
            }
        }
    }

    fn search(&self, sequence: u64) -> Result<Search> {
        let with_records: Vec<u64> = {
            let numbers = self.unbroken();
            let there = self.there.lock();
            numbers.into_iter().filter(|number| there.get(number).is_some_and(|object| !object.is_empty())).collect()
        };
        let mut found = None;
        let (mut low, mut high) = (0, with_records.len());
        while low < high {
            let middle = (low + high) / 2;
            let number = with_records[middle];
            let Some(first) = self.first_of(number)? else { return Ok(Search::Gone(number)) };
            if first <= sequence {
                found = Some(Place { number, first });
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(Search::Found(found))
    }

    /// The first record of an object that has some; `None` if it is gone.
    fn first_of(&self, number: u64) -> Result<Option<u64>> {
        if let Some(first) = self.there.lock().get(&number).and_then(|object| object.first) {
            return Ok(Some(first));
        }
        let Some(header) = self.header(number)? else { return Ok(None) };
        self.there.lock().entry(number).and_modify(|object| object.first = Some(header.first));
        Ok(Some(header.first))
    }

    /// Notes an object that was created.
    fn note(&self, number: u64, first: u64, n_bytes: u64) {
        self.there.lock().insert(number, Object { n_bytes, first: Some(first) });
        self.next.store(number + 1, Ordering::Release);
    }

    /// Deletes objects all of whose records are before one.
    ///
    /// # Errors
    /// 58030 if one cannot be deleted: it is tried again the next time. 55006 if another process has taken over.
    pub(super) fn truncate_before(&self, sequence: u64) -> Result<()> {
        let Some(holder) = self.holder_of(sequence)? else { return Ok(()) };
        debug_assert!(holder.first <= sequence);
        let gone: BTreeSet<u64> = {
            let there = self.there.lock();
            let before = there.range(..holder.number);
            let with_records = before.filter(|(_, object)| !object.is_empty()).map(|(&number, _)| number);
            let fences = there.iter().rev().filter(|(_, object)| object.is_empty());
            with_records.chain(fences.skip(N_FENCES_KEPT).map(|(&number, _)| number)).collect()
        };
        if gone.is_empty() {
            return Ok(());
        }
        self.check_not_taken_over()?;
        self.bucket.delete(&gone.iter().map(|&number| path_of(number)).collect::<Vec<_>>())?;
        let mut there = self.there.lock();
        there.retain(|number, _| !gone.contains(number));
        Ok(())
    }
}
