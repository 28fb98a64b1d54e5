//! The log's thread: gathers, writes and makes durable, one group after the other.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use millstream_types::{Error, Result};

use super::format::{HEADER_BYTES, Header, encode_record};
use super::recover::path_of;
use super::{FOLDER, LogEvents, LogOptions, Queued, Shared};
use crate::disk::{Disk, DiskFile, io_error};

/// Bytes of payload that one group takes, unless its first record has more.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// How long it waits before it writes again what could not be written, at first and at most.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A segment that was just made.
pub(super) struct NewSegment {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) path: String,
    pub(super) allocated: u64,
}

/// Makes a segment that begins with a record, with room for so many bytes behind its header, and makes it durable that
/// it is there.
pub(super) fn create_segment(disk: &dyn Disk, options: &LogOptions, first: u64, n_bytes: u64) -> Result<NewSegment> {
    let path = path_of(first);
    let header = Header { first, term: options.term, id: options.id }.encode();
    let allocated = HEADER_BYTES as u64 + n_bytes;
    let create = || {
        let file = disk.create(&path)?;
        file.allocate(allocated)?;
        file.write_at(&header, 0)?;
        file.sync()?;
        disk.sync_folder(FOLDER)?;
        Ok(file)
    };
    match create() {
        Ok(file) => Ok(NewSegment { file, path, allocated }),
        Err(error) => {
            // What is left of it is in the way of the next attempt; it may not be there at all.
            let _ = disk.remove(&path);
            Err(io_error("make", &path, &error))
        }
    }
}

/// What the thread has for itself.
pub(super) struct Writer {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    options: LogOptions,
    events: Arc<dyn LogEvents>,
    /// The last record that is durable.
    durable: u64,
    /// Where the next group goes in the segment's file.
    offset: u64,
    /// Those who waited for the last group.
    n_waited: usize,
    /// How long the last group took to become durable.
    synced_in: Duration,
    buffer: Vec<u8>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        disk: Arc<dyn Disk>,
        options: LogOptions,
        events: Arc<dyn LogEvents>,
        durable: u64,
    ) -> Self {
        let (offset, n_waited, synced_in) = (HEADER_BYTES as u64, 0, Duration::ZERO);
        Writer { shared, disk, options, events, durable, offset, n_waited, synced_in, buffer: Vec::new() }
    }

    /// Writes groups until the log is closed, or lost.
    pub(super) fn run(mut self) {
        while let Some(group) = self.gather() {
            let last = self.durable + group.len() as u64;
            if let Err(error) = self.write(group) {
                self.shared.state.lock().lost = Some(error.clone());
                self.events.lost(error);
                return;
            }
            self.durable = last;
            self.events.durable(last);
            self.end_segment_if_full();
        }
    }

    /// Waits for records, and for those who were in the last group, who are likely to come again; `None` if the log was
    /// closed and nothing is left to write.
    fn gather(&mut self) -> Option<Vec<Queued>> {
        let mut state = self.shared.state.lock();
        while state.queue.is_empty() {
            if state.is_closing {
                return None;
            }
            self.shared.work.wait(&mut state);
        }
        // Waiting longer than half of what the disk takes would cost more than it saves.
        let until = Instant::now() + self.options.gather_max.min(self.synced_in / 2);
        while state.n_waiting < self.n_waited && !state.is_closing {
            if self.shared.work.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        let mut n_bytes = 0;
        let fits = |queued: &&Queued| {
            n_bytes += queued.payload.len();
            n_bytes <= GROUP_BYTES_MAX
        };
        let n_taken = state.queue.iter().take_while(fits).count().max(1);
        let group = state.queue.drain(..n_taken).collect();
        self.n_waited = std::mem::take(&mut state.n_waiting);
        Some(group)
    }

    /// Writes a group behind the last one and makes it durable.
    fn write(&mut self, group: Vec<Queued>) -> Result<()> {
        self.buffer.clear();
        for (sequence, queued) in (self.durable + 1..).zip(&group) {
            encode_record(&mut self.buffer, queued.kind, sequence, self.durable, &queued.payload);
        }
        let (file, path) = {
            let state = self.shared.state.lock();
            (Arc::clone(&state.file), state.path.clone())
        };
        self.write_until_it_is(&*file, &path);
        let start = Instant::now();
        file.sync().map_err(|e| io_error("make durable", &path, &e))?;
        self.synced_in = start.elapsed();
        self.offset += self.buffer.len() as u64;
        // What a large group needed is not kept.
        self.buffer.shrink_to(2 * GROUP_BYTES_MAX);
        Ok(())
    }

    fn write_until_it_is(&self, file: &dyn DiskFile, path: &str) {
        let (mut after, at_most) = RETRY_AFTER;
        while let Err(error) = file.write_at(&self.buffer, self.offset) {
            tracing::error!(path, %error, "the log could not be written; trying again");
            thread::sleep(after);
            after = (2 * after).min(at_most);
        }
    }

    /// Goes on in a new segment if this one has its size; if there is no room for one, later.
    fn end_segment_if_full(&mut self) {
        if self.offset < self.options.segment_bytes {
            return;
        }
        let promised = {
            let state = self.shared.state.lock();
            state.promised - self.offset
        };
        let made = create_segment(&*self.disk, &self.options, self.durable + 1, promised + self.options.step_bytes);
        let Ok(segment) = made.inspect_err(|error: &Error| tracing::warn!(%error, "the log stays in a full segment"))
        else {
            return;
        };
        let mut state = self.shared.state.lock();
        let promised = HEADER_BYTES as u64 + state.promised - self.offset;
        // More may have been promised meanwhile than the new file has room for.
        if promised > segment.allocated && segment.file.allocate(promised).is_err() {
            drop(state);
            // It has no records, and so may be made again.
            let _ = self.disk.remove(&segment.path);
            return;
        }
        state.allocated = segment.allocated.max(promised);
        state.promised = promised;
        state.file = segment.file;
        state.path = segment.path;
        state.segments.push(self.durable + 1);
        self.offset = HEADER_BYTES as u64;
    }
}
