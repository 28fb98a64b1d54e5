//! The objects of checkpoints, in a bucket.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use millstream_types::{Error, Result};
use object_store::buffered::BufWriter;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;

use super::Bucket;
use crate::log::LogObjects;
use crate::object_store::{BegunRead, ObjectSink, ObjectStore, Put};

/// So many bytes of an object are sent at once.
const PART_BYTES: usize = 8 << 20;

/// Parts of an object that are on their way at once.
const N_PARTS_MAX: usize = 4;

/// Objects under the prefix of a bucket.
pub(crate) struct BucketObjects {
    bucket: Arc<Bucket>,
    /// Tells whether another process has taken over; `None` if nobody else knows the prefix yet.
    log: Option<Arc<LogObjects>>,
    /// An object of which it is not known whether it is there: it has to be, before another one is put if it is absent.
    unsettled: Mutex<Option<(String, Bytes)>>,
}

impl BucketObjects {
    /// Objects of which nothing is deleted once another process has taken over.
    pub(crate) fn owned(bucket: Arc<Bucket>, log: Arc<LogObjects>) -> Self {
        BucketObjects { bucket, log: Some(log), unsettled: Mutex::default() }
    }

    /// Objects that nobody else writes.
    pub(crate) fn new(bucket: Arc<Bucket>) -> Self {
        BucketObjects { bucket, log: None, unsettled: Mutex::default() }
    }
}

impl ObjectStore for BucketObjects {
    fn put(&self, name: &str) -> Result<Box<dyn ObjectSink>> {
        let bucket = Arc::clone(&self.bucket);
        let writer = BufWriter::with_capacity(Arc::clone(&bucket.store), bucket.at(name), PART_BYTES);
        let writer = Some(writer.with_max_concurrency(N_PARTS_MAX));
        Ok(Box::new(BucketSink { bucket, name: name.to_owned(), writer }))
    }

    /// After [`Put::Unknown`] the next call begins by creating the same object again: what numbers objects by this leaves
    /// no number out.
    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Put {
        let mut unsettled = self.unsettled.lock();
        if let Some((name, bytes)) = &*unsettled {
            match self.bucket.create(name, bytes) {
                Put::Done => *unsettled = None,
                Put::Taken => return Put::Taken,
                Put::Failed(error) | Put::Unknown(error) => return Put::Failed(error),
            }
        }
        let bytes = Bytes::copy_from_slice(bytes);
        let put = self.bucket.create(name, &bytes);
        if matches!(put, Put::Unknown(_)) {
            *unsettled = Some((name.to_owned(), bytes));
        }
        put
    }

    fn read_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.bucket.read_range(name, range)
    }

    fn begin_read(&self, name: &str, range: Range<u64>) -> Option<BegunRead> {
        self.bucket.begin_read(name, range)
    }

    fn len(&self, name: &str) -> Result<u64> {
        self.bucket.len(name)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        Ok(self.bucket.sizes(folder)?.into_iter().map(|(name, _)| name).collect())
    }

    fn delete(&self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        if let Some(log) = &self.log {
            log.check_not_taken_over()?;
        }
        self.bucket.delete(names)
    }
}

/// An object that is being written: at once if it is small, else in parts.
struct BucketSink {
    bucket: Arc<Bucket>,
    name: String,
    /// `None` once it has failed or is finished.
    writer: Option<BufWriter>,
}

impl BucketSink {
    fn take_writer(&mut self) -> Result<BufWriter> {
        self.writer.take().ok_or_else(|| Error::internal("an object that could not be written goes on"))
    }
}

impl ObjectSink for BucketSink {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let (mut writer, bytes) = (self.take_writer()?, Bytes::copy_from_slice(bytes));
        let (writer, written) = self.bucket.wait(async move {
            let written = writer.put(bytes).await;
            (writer, written)
        })?;
        self.writer = Some(writer);
        written.map_err(|e| self.bucket.error("write", &self.name, &e))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let mut writer = self.take_writer()?;
        let finished = self.bucket.wait(async move { writer.shutdown().await })?;
        finished.map_err(|e| {
            let error = object_store::Error::Generic { store: "bucket", source: Box::new(e) };
            self.bucket.error("write", &self.name, &error)
        })
    }
}

impl Drop for BucketSink {
    fn drop(&mut self) {
        if let Some(mut writer) = self.writer.take() {
            // Parts that stay are the bucket's to forget (a lifecycle rule); they are in nobody's way.
            let _ = self.bucket.wait(async move { writer.abort().await });
        }
    }
}
