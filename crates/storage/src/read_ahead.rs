//! Reading many ranges of objects one after the other, with the next ones on their way.
//!
//! A request to a bucket takes tens of milliseconds, whatever it is for. So ranges that lie next to each other become one
//! request, and several requests are under way while what came before is worked on. On a disk a range is read when it is
//! asked for: the system reads ahead there.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use millstream_types::{Error, Result};

use crate::object_store::{BegunRead, ObjectStore};

/// So many bytes of neighbours are asked for at once, or one range.
const REQUEST_BYTES_MAX: u64 = 1 << 20;

/// Requests of one reader that are on their way at once, and bytes from which on it makes no more. What all readers together may
/// have on their way is for the store to say ([`ObjectStore::begin_read`]): a range that is needed and is not on its way is
/// read nevertheless.
const REQUESTS_MAX: usize = 16;
const BYTES_MAX: u64 = 8 << 20;

/// A range of an object that is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectRange {
    /// The name of the object.
    pub(crate) name: Arc<str>,
    pub(crate) range: Range<u64>,
}

/// Ranges of objects, read in their order. What is on its way when this is dropped is cancelled.
pub(crate) struct RangeReader {
    store: Arc<dyn ObjectStore>,
    /// Not yet asked for.
    left: VecDeque<ObjectRange>,
    /// Requests that were made, in order, each for ranges next to each other.
    requests: VecDeque<Request>,
    /// What they ask for.
    n_bytes: u64,
    /// The ranges of the last request that were not taken, and its answer from there on.
    answered: VecDeque<ObjectRange>,
    answer: Vec<u8>,
    n_taken: usize,
    /// Ranges of a request that failed, maybe because of one of them only. They come before all others.
    alone: VecDeque<ObjectRange>,
}

/// What was asked for at once.
struct Request {
    ranges: VecDeque<ObjectRange>,
    n_bytes: u64,
    begun: BegunRead,
}

impl RangeReader {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, ranges: impl IntoIterator<Item = ObjectRange>) -> RangeReader {
        RangeReader {
            store,
            left: ranges.into_iter().collect(),
            requests: VecDeque::new(),
            n_bytes: 0,
            answered: VecDeque::new(),
            answer: Vec::new(),
            n_taken: 0,
            alone: VecDeque::new(),
        }
    }

    /// The next range's bytes.
    ///
    /// # Errors
    /// As [`ObjectStore::read_range`]; those behind it may be read nevertheless. Internal, if there is none.
    pub(crate) fn read_next(&mut self) -> Result<Vec<u8>> {
        self.begin_requests();
        loop {
            if let Some(next) = self.answered.pop_front() {
                let start = self.n_taken;
                self.n_taken += n_bytes_of(&next.range) as usize;
                return Ok(self.answer[start..self.n_taken].to_vec());
            }
            if let Some(next) = self.alone.pop_front() {
                return self.store.read_range(&next.name, next.range);
            }
            let Some(Request { ranges, n_bytes, begun }) = self.requests.pop_front() else {
                let next = self.left.pop_front().ok_or_else(|| Error::internal("there is nothing more to be read"))?;
                return self.store.read_range(&next.name, next.range);
            };
            self.n_bytes -= n_bytes;
            match begun.wait() {
                answer if ranges.len() == 1 => return answer,
                Ok(answer) => (self.answered, self.answer, self.n_taken) = (ranges, answer, 0),
                Err(_) => self.alone = ranges,
            }
        }
    }

    /// Asks for what comes next.
    fn begin_requests(&mut self) {
        while self.requests.len() < REQUESTS_MAX && self.n_bytes < BYTES_MAX {
            let Some(first) = self.left.front() else { return };
            let (mut end, mut n_ranges) = (first.range.end, 1);
            for next in self.left.range(1..) {
                let is_neighbour = next.name == first.name && next.range.start == end;
                if !is_neighbour || next.range.end - first.range.start > REQUEST_BYTES_MAX {
                    break;
                }
                (end, n_ranges) = (next.range.end, n_ranges + 1);
            }
            let range = first.range.start..end;
            let n_bytes = n_bytes_of(&range);
            let Some(begun) = self.store.begin_read(&first.name, range) else { return };
            let ranges = self.left.drain(..n_ranges).collect();
            self.n_bytes += n_bytes;
            self.requests.push_back(Request { ranges, n_bytes, begun });
        }
    }
}

fn n_bytes_of(range: &Range<u64>) -> u64 {
    range.end - range.start
}

#[cfg(test)]
mod tests;
