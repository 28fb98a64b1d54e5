//! Records that wait to be written, and who waits for them: what those who append share with the log's thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_types::{Error, Result};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::format::RECORD_BYTES;
use crate::disk::{DiskFile, io_error};

/// Bytes of payload that one group takes, unless its first record has more.
pub(super) const GROUP_BYTES_MAX: usize = 8 << 20;

/// What the log's thread shares with those who append.
pub(super) struct Queue {
    state: Mutex<State>,
    /// There is something to do for the thread.
    work: Condvar,
}

pub(super) struct State {
    /// Records that wait to be written.
    records: Vec<Queued>,
    /// Those who wait for them.
    n_waiting: usize,
    /// The number of the next record.
    next: u64,
    is_closing: bool,
    /// Why nothing more can be appended.
    lost: Option<Error>,
    /// Room on the disk; `None` where there is always room.
    pub(super) space: Option<Space>,
}

/// A record that waits to be written.
pub(super) struct Queued {
    pub(super) kind: u8,
    pub(super) payload: Vec<u8>,
}

/// The segment that is written, and the room in it.
pub(super) struct Space {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) path: String,
    /// The bytes that the segment's file has.
    pub(super) allocated: u64,
    /// The bytes of it that are written, queued or reserved.
    pub(super) promised: u64,
    /// How much longer the file is made at once.
    pub(super) step_bytes: u64,
    /// First records of all segments, oldest first.
    pub(super) segments: Vec<u64>,
}

/// What there is to do for the log's thread.
pub(super) enum Work {
    /// Records to be written at once.
    Group(Vec<Queued>),
    /// Nothing has come for so long as was said.
    Nothing,
    /// The log was closed, and all is written.
    Closed,
}

/// For whom a group waits, and how long.
#[derive(Default)]
pub(super) struct Pace {
    /// Those who waited for the last group.
    n_waited: usize,
    /// How long the last group took to become durable.
    pub(super) synced_in: Duration,
}

/// Room for one record. Dropping it gives it back.
#[must_use]
pub struct Reservation {
    queue: Arc<Queue>,
    n_bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(space) = &mut self.queue.lock().space {
            space.promised -= self.n_bytes;
        }
    }
}

impl Queue {
    /// An empty one, whose first record will have a number.
    pub(super) fn new(next: u64, space: Option<Space>) -> Arc<Queue> {
        let state = State { records: Vec::new(), n_waiting: 0, next, is_closing: false, lost: None, space };
        Arc::new(Queue { state: Mutex::new(state), work: Condvar::new() })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Reserves room for a record of so many bytes.
    pub(super) fn reserve(queue: &Arc<Queue>, n_bytes: u64) -> Result<Reservation> {
        if let Some(space) = &mut queue.lock().space {
            space.make_room(n_bytes)?;
            space.promised += n_bytes;
        }
        Ok(Reservation { queue: Arc::clone(queue), n_bytes })
    }

    /// Adds a record in the room reserved for it; gives its number.
    pub(super) fn append(&self, mut room: Reservation, kind: u8, payload: Vec<u8>, n_waiting: usize) -> Result<u64> {
        let n_bytes = (RECORD_BYTES + payload.len()) as u64;
        let mut state = self.lock();
        if let Some(error) = &state.lost {
            return Err(error.clone());
        }
        if let Some(space) = &mut state.space {
            if n_bytes > room.n_bytes {
                space.make_room(n_bytes - room.n_bytes)?;
            }
            space.promised = space.promised - room.n_bytes + n_bytes;
        }
        room.n_bytes = 0;
        let sequence = state.next;
        state.next += 1;
        state.n_waiting += n_waiting;
        state.records.push(Queued { kind, payload });
        drop(state);
        self.work.notify_one();
        Ok(sequence)
    }

    /// Waits for records, and for those who were in the last group, who are likely to come again, but no longer than
    /// `gather_max`; gives up after `idle_max` without any.
    pub(super) fn gather(&self, pace: &mut Pace, gather_max: Duration, idle_max: Option<Duration>) -> Work {
        let mut state = self.lock();
        while state.records.is_empty() {
            if state.is_closing {
                return Work::Closed;
            }
            match idle_max {
                None => self.work.wait(&mut state),
                Some(idle_max) if self.work.wait_for(&mut state, idle_max).timed_out() && state.records.is_empty() => {
                    return Work::Nothing;
                }
                Some(_) => {}
            }
        }
        // Waiting longer than half of what it takes to become durable would cost more than it saves.
        let until = Instant::now() + gather_max.min(pace.synced_in / 2);
        while state.n_waiting < pace.n_waited && !state.is_closing {
            if self.work.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        let mut n_bytes = 0;
        let fits = |queued: &&Queued| {
            n_bytes += queued.payload.len();
            n_bytes <= GROUP_BYTES_MAX
        };
        let n_taken = state.records.iter().take_while(fits).count().max(1);
        let group = state.records.drain(..n_taken).collect();
        pace.n_waited = std::mem::take(&mut state.n_waiting);
        Work::Group(group)
    }

    /// Waits for a time, or until the log is closed; whether it was.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut state = self.lock();
        while !state.is_closing {
            if self.work.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.is_closing
    }

    /// Nothing more can be appended.
    pub(super) fn lose(&self, error: Error) {
        self.lock().lost = Some(error);
    }

    /// The thread ends when all is written.
    pub(super) fn close(&self) {
        self.lock().is_closing = true;
        self.work.notify_one();
    }

    /// The segments all of whose records are before one, oldest first.
    pub(super) fn segments_before(&self, sequence: u64) -> Vec<u64> {
        let state = self.lock();
        let segments = state.space.as_ref().map_or(&[][..], |space| &space.segments);
        let gone = segments.iter().zip(segments.iter().skip(1)).filter(|(_, next)| **next <= sequence);
        gone.map(|(&first, _)| first).collect()
    }

    /// The first records of the segments, oldest first.
    pub(super) fn segments(&self) -> Vec<u64> {
        self.lock().space.as_ref().map_or_else(Vec::new, |space| space.segments.clone())
    }

    /// The last record that was appended.
    pub(super) fn last(&self) -> u64 {
        self.lock().next - 1
    }

    /// A segment is no more.
    pub(super) fn forget_segment(&self, first: u64) {
        if let Some(space) = &mut self.lock().space {
            space.segments.retain(|&segment| segment != first);
        }
    }
}

impl Space {
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
