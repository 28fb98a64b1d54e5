//! The thread of a log in a bucket: creates an object for each group, one after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_types::Error;

use super::format::{Header, encode_object};
use super::{LogObjects, path_of};
use crate::bucket::{is_taken_over, taken_over};
use crate::log::queue::{Pace, Queue, Queued, Work};
use crate::log::{LogEvents, LogOptions};
use crate::object_store::Put;

/// How long it waits before it creates an object again of which it is not known whether it is there, at first and at most.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What the thread has for itself.
pub(in crate::log) struct Writer {
    queue: Arc<Queue>,
    objects: Arc<LogObjects>,
    options: LogOptions,
    events: Arc<dyn LogEvents>,
    /// The last record that is durable.
    durable: u64,
    pace: Pace,
}

/// What became of a group.
enum Written {
    Durable,
    TakenOver(Error),
    /// The log was closed before it was known.
    Closed,
}

impl Writer {
    pub(in crate::log) fn new(
        queue: Arc<Queue>,
        objects: Arc<LogObjects>,
        options: LogOptions,
        events: Arc<dyn LogEvents>,
        durable: u64,
    ) -> Self {
        Writer { queue, objects, options, events, durable, pace: Pace::default() }
    }

    /// Writes groups until the log is closed, or another process has taken over.
    pub(in crate::log) fn run(mut self) {
        let (gather_max, look_after) = (self.options.gather_max, Some(self.options.look_after));
        loop {
            match self.queue.gather(&mut self.pace, gather_max, look_after) {
                Work::Closed => return,
                Work::Nothing => match self.objects.check_not_taken_over() {
                    Err(error) if is_taken_over(&error) => return self.lose(error),
                    Err(error) => tracing::warn!(%error, "it cannot be told whether another process has taken over"),
                    Ok(()) => {}
                },
                Work::Group(group) => match self.write(&group) {
                    Written::Durable => self.events.durable(self.durable),
                    Written::TakenOver(error) => return self.lose(error),
                    Written::Closed => return,
                },
            }
        }
    }

    fn lose(&self, error: Error) {
        self.queue.lose(error.clone());
        self.events.taken_over(error);
    }

    /// Creates the object of a group, and does not go on before it is known what stands under its name.
    fn write(&mut self, group: &[Queued]) -> Written {
        let number = self.objects.next.load(Ordering::Acquire);
        let LogObjects { term, writer, id, .. } = *self.objects;
        let header = Header { n_records: 0, number, first: self.durable + 1, term, writer, id };
        let (path, bytes) = (path_of(number), Bytes::from(encode_object(header, group)));
        let (mut after, at_most) = RETRY_AFTER;
        let start = Instant::now();
        loop {
            let error = match self.objects.bucket.create(&path, &bytes) {
                Put::Done => break,
                Put::Taken => return Written::TakenOver(taken_over(self.objects.bucket.url())),
                Put::Failed(error) | Put::Unknown(error) => error,
            };
            tracing::warn!(%error, "the log could not be written; trying again, and all writers wait");
            if self.queue.pause(after) {
                return Written::Closed;
            }
            after = (2 * after).min(at_most);
        }
        self.pace.synced_in = start.elapsed();
        self.objects.note(number, self.durable + 1, bytes.len() as u64);
        self.durable += group.len() as u64;
        Written::Durable
    }
}
