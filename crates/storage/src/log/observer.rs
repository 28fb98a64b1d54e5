//! Looking at a log from outside, while it is written: how large it is, and where it begins.

use std::io;
use std::sync::Arc;

use millstream_types::Result;

use super::Medium;
use super::format::{HEAD_BYTES, HEADER_BYTES, payload_bytes};
use super::queue::Queue;
use super::recover::path_of;
use crate::disk::io_error;

/// Looks at a log. It does not keep it open.
#[derive(Clone)]
pub struct LogObserver {
    pub(super) queue: Arc<Queue>,
    pub(super) medium: Medium,
}

/// How large a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSize {
    /// Its files or objects.
    pub n_segments: usize,
    /// Bytes of all of them, with what is reserved.
    pub n_bytes: u64,
    /// The last record that was appended, written or not.
    pub last: u64,
}

/// Where a log begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldestRecord {
    /// Its number.
    pub sequence: u64,
    /// How its payload begins.
    pub payload_start: Vec<u8>,
}

impl LogObserver {
    /// How large it is now.
    ///
    /// # Errors
    /// 58030 if the disk or the bucket fails.
    pub fn size(&self) -> Result<LogSize> {
        let last = self.queue.last();
        let disk = match &self.medium {
            Medium::Segments { disk, .. } => disk,
            Medium::Objects(objects) => {
                let (n_segments, n_bytes) = objects.size();
                return Ok(LogSize { n_segments, n_bytes, last });
            }
        };
        let (mut n_segments, mut n_bytes) = (0, 0);
        for first in self.queue.segments() {
            if let Some(len) = of_segment(first, |path| disk.open(path)?.len())? {
                n_segments += 1;
                n_bytes += len;
            }
        }
        Ok(LogSize { n_segments, n_bytes, last })
    }

    /// The oldest record that is kept, with so many bytes of its payload, or as many as it has; `None` if there is none up
    /// to the one that is the last `durable`. Its checksum is not looked at.
    ///
    /// # Errors
    /// 58030 if the disk or the bucket fails.
    pub fn oldest(&self, n_bytes: usize, durable: u64) -> Result<Option<OldestRecord>> {
        let disk = match &self.medium {
            Medium::Segments { disk, .. } => disk,
            Medium::Objects(objects) => return objects.oldest(n_bytes, durable),
        };
        for sequence in self.queue.segments().into_iter().take_while(|first| *first <= durable) {
            let read = |path: &str| {
                let file = disk.open(path)?;
                let mut head = [0; HEAD_BYTES];
                file.read_at(&mut head, HEADER_BYTES as u64)?;
                let mut payload = vec![0; n_bytes.min(payload_bytes(&head))];
                let n_read = file.read_at(&mut payload, (HEADER_BYTES + HEAD_BYTES) as u64)?;
                payload.truncate(n_read);
                Ok(payload)
            };
            if let Some(payload_start) = of_segment(sequence, read)? {
                return Ok(Some(OldestRecord { sequence, payload_start }));
            }
        }
        Ok(None)
    }
}

/// Looks at a segment's file; `None` if it is gone because the log was cut meanwhile.
fn of_segment<T>(first: u64, look: impl FnOnce(&str) -> io::Result<T>) -> Result<Option<T>> {
    let path = path_of(first);
    match look(&path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", &path, &error)),
    }
}
