//! The thread of a log on a disk: writes groups to segments and makes them durable, one after the other.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use millstream_types::{Error, Result};

use super::format::{HEADER_BYTES, Header, encode_record};
use super::queue::{GROUP_BYTES_MAX, Pace, Queue, Queued, Work};
use super::recover::path_of;
use super::{FOLDER, LogEvents, LogOptions};
use crate::disk::{Disk, DiskFile, io_error};

/// How long it waits before it writes again what could not be written, at first and at most.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Why the queue of this thread has space.
const ON_DISK: &str = "a log on a disk has segments";

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
    queue: Arc<Queue>,
    disk: Arc<dyn Disk>,
    options: LogOptions,
    events: Arc<dyn LogEvents>,
    /// The last record that is durable.
    durable: u64,
    /// Where the next group goes in the segment's file.
    offset: u64,
    pace: Pace,
    buffer: Vec<u8>,
}

impl Writer {
    pub(super) fn new(
        queue: Arc<Queue>,
        disk: Arc<dyn Disk>,
        options: LogOptions,
        events: Arc<dyn LogEvents>,
        durable: u64,
    ) -> Self {
        let (offset, pace) = (HEADER_BYTES as u64, Pace::default());
        Writer { queue, disk, options, events, durable, offset, pace, buffer: Vec::new() }
    }

    /// Writes groups until the log is closed, or lost.
    pub(super) fn run(mut self) {
        while let Work::Group(group) = self.queue.gather(&mut self.pace, self.options.gather_max, None) {
            let last = self.durable + group.len() as u64;
            if let Err(error) = self.write(group) {
                self.queue.lose(error.clone());
                self.events.lost(error);
                return;
            }
            self.durable = last;
            self.events.durable(last);
            self.end_segment_if_full();
        }
    }

    /// Writes a group behind the last one and makes it durable.
    fn write(&mut self, group: Vec<Queued>) -> Result<()> {
        self.buffer.clear();
        for (sequence, queued) in (self.durable + 1..).zip(&group) {
            encode_record(&mut self.buffer, queued.kind, sequence, self.durable, &queued.payload);
        }
        let (file, path) = {
            let state = self.queue.lock();
            let space = state.space.as_ref().expect(ON_DISK);
            (Arc::clone(&space.file), space.path.clone())
        };
        self.write_until_it_is(&*file, &path);
        let start = Instant::now();
        file.sync().map_err(|e| io_error("make durable", &path, &e))?;
        self.pace.synced_in = start.elapsed();
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
        let promised = self.queue.lock().space.as_ref().expect(ON_DISK).promised - self.offset;
        let made = create_segment(&*self.disk, &self.options, self.durable + 1, promised + self.options.step_bytes);
        let Ok(segment) = made.inspect_err(|error: &Error| tracing::warn!(%error, "the log stays in a full segment"))
        else {
            return;
        };
        let mut state = self.queue.lock();
        let space = state.space.as_mut().expect(ON_DISK);
        let promised = HEADER_BYTES as u64 + space.promised - self.offset;
        // More may have been promised meanwhile than the new file has room for.
        if promised > segment.allocated && segment.file.allocate(promised).is_err() {
            drop(state);
            // It has no records, and so may be made again.
            let _ = self.disk.remove(&segment.path);
            return;
        }
        space.allocated = segment.allocated.max(promised);
        space.promised = promised;
        space.file = segment.file;
        space.path = segment.path;
        space.segments.push(self.durable + 1);
        self.offset = HEADER_BYTES as u64;
    }
}
