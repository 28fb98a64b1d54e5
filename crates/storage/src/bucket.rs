//! A bucket: objects by name, over a network, as the crate `object_store` has them.
//!
//! Callers are plain threads, which wait; requests run on threads of the bucket's own. Each call tries again for
//! `RETRIED_FOR` what failed for the moment; who calls decides what an error means after that.

mod errors;
mod objects;
#[cfg(test)]
pub(crate) mod sim;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use millstream_types::{Error, Result};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    BackoffConfig, Error as StoreError, ObjectStore as Store, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    RetryConfig,
};
use tokio::runtime::{self, Runtime};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::errors::damaged;
use crate::location::{BucketUrl, Cloud};
use crate::object_store::{BegunRead, Put};
pub use errors::is_taken_over;
pub(crate) use errors::taken_over;
use errors::{bucket_error, is_missing_bucket, unconditional};
pub(crate) use objects::BucketObjects;

/// For so long a request that failed for the moment is tried again before it is an error.
const RETRIED_FOR: Duration = Duration::from_secs(10);

/// Between attempts it waits, longer each time, up to this.
const WAITS_MAX: Duration = Duration::from_secs(2);

/// Threads that requests run on: they wait, sign and copy.
const N_THREADS: usize = 2;

/// All that is on its way to those who do not need it yet has no more bytes than this; a read counts for a piece at least.
const AHEAD_BYTES_MAX: usize = 16 << 20;
const AHEAD_PIECE_BYTES: u64 = 128 << 10;

/// The objects under a prefix of a bucket.
pub(crate) struct Bucket {
    store: Arc<dyn Store>,
    cloud: Cloud,
    /// As it is shown: `s3://bucket/prefix`.
    url: String,
    prefix: Path,
    threads: Option<Runtime>,
    /// What may still be read ahead, in pieces of [`AHEAD_PIECE_BYTES`].
    ahead: Arc<Semaphore>,
}

impl Bucket {
    /// Takes its configuration from the environment, as `object_store` does: `AWS_ACCESS_KEY_ID`, `AZURE_STORAGE_ENDPOINT` and so on;
    /// `docs/settings.md` lists what matters.
    ///
    /// # Errors
    /// 58030 if the configuration does not make sense. Nothing is asked of the bucket yet.
    pub(crate) fn open(url: &BucketUrl) -> Result<Bucket> {
        let backoff = BackoffConfig { max_backoff: WAITS_MAX, ..BackoffConfig::default() };
        let retry = RetryConfig { retry_timeout: RETRIED_FOR, backoff, ..RetryConfig::default() };
        let built: object_store::Result<Arc<dyn Store>> = match url.cloud {
            Cloud::S3 => {
                let builder = AmazonS3Builder::from_env().with_bucket_name(&url.bucket).with_retry(retry);
                builder.build().map(|store| Arc::new(store) as Arc<dyn Store>)
            }
            Cloud::Google => {
                let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(&url.bucket).with_retry(retry);
                builder.build().map(|store| Arc::new(store) as Arc<dyn Store>)
            }
            Cloud::Azure => {
                let builder = MicrosoftAzureBuilder::from_env().with_container_name(&url.bucket).with_retry(retry);
                builder.build().map(|store| Arc::new(store) as Arc<dyn Store>)
            }
        };
        let store = built.map_err(|e| bucket_error("set up", url.cloud, &url.to_string(), "", &e))?;
        Bucket::over(store, url)
    }

    /// The objects under a prefix of a store.
    pub(crate) fn over(store: Arc<dyn Store>, url: &BucketUrl) -> Result<Bucket> {
        let prefix =
            Path::parse(&url.prefix).map_err(|e| Error::internal(format!("a prefix that was looked at: {e}")))?;
        let threads = runtime::Builder::new_multi_thread()
            .worker_threads(N_THREADS)
            .thread_name("bucket")
            .enable_all()
            .build()
            .map_err(|e| Error::internal(format!("a thread did not start: {e}")))?;
        Ok(Bucket {
            store,
            cloud: url.cloud,
            url: url.to_string(),
            prefix,
            threads: Some(threads),
            ahead: Arc::new(Semaphore::new(AHEAD_BYTES_MAX / AHEAD_PIECE_BYTES as usize)),
        })
    }

    /// How it is shown.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    fn threads(&self) -> &Runtime {
        self.threads.as_ref().expect("they are there until it is dropped")
    }

    /// Runs requests, and waits. Callers may be threads of another runtime, where that one's own ways to wait are not admitted.
    fn wait<T: Send + 'static>(&self, requests: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (send, receive) = channel();
        self.threads().spawn(async move {
            // Whoever waited may have given up.
            let _ = send.send(requests.await);
        });
        receive.recv().map_err(|_| Error::internal("a request to a bucket panicked"))
    }

    fn at(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn error(&self, action: &str, name: &str, error: &StoreError) -> Error {
        bucket_error(action, self.cloud, &self.url, name, error)
    }

    /// Asks for an object to be created, and says what was answered.
    fn ask_to_create(&self, name: &str, bytes: &Bytes) -> Result<object_store::Result<()>> {
        let (store, at, payload) = (Arc::clone(&self.store), self.at(name), PutPayload::from(bytes.clone()));
        self.wait(async move {
            let options = PutOptions::from(PutMode::Create);
            store.put_opts(&at, payload, options).await.map(drop)
        })
    }

    /// Creates an object, unless there is one of that name with other bytes.
    ///
    /// [`Put::Unknown`] says that it may be there, or come to be there: then it may be created again, with the same bytes.
    pub(crate) fn create(&self, name: &str, bytes: &Bytes) -> Put {
        let error = match self.ask_to_create(name, bytes) {
            Ok(Ok(())) => return Put::Done,
            Ok(Err(error)) => error,
            Err(error) => return Put::Unknown(error),
        };
        if matches!(error, StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) {
            return Put::Failed(unconditional(&self.url));
        }
        // An attempt that failed, this one or one that was made within it, may have come through.
        match self.read(name) {
            Ok(Some(found)) if found == *bytes => Put::Done,
            Ok(Some(_)) => Put::Taken,
            Ok(None) | Err(_) => Put::Unknown(self.error("create", name, &error)),
        }
    }

    /// Checks that an object which is there, with these bytes, is not created again.
    ///
    /// # Errors
    /// 58030 if it is: then writers cannot be kept from each other.
    pub(crate) fn check_conditions(&self, name: &str, bytes: &Bytes) -> Result<()> {
        match self.ask_to_create(name, bytes)? {
            Ok(()) => Err(unconditional(&self.url)),
            Err(StoreError::AlreadyExists { .. }) => Ok(()),
            Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => Err(unconditional(&self.url)),
            Err(error) => Err(self.error("create", name, &error)),
        }
    }

    /// Reads an object; `None` if it is not there.
    ///
    /// # Errors
    /// 58030 if it cannot be read.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Bytes>> {
        self.read_all(vec![name.to_owned()])?.pop().unwrap_or(Ok(None))
    }

    /// Reads objects at the same time, each as [`Bucket::read`] does.
    pub(crate) fn read_all(&self, names: Vec<String>) -> Result<Vec<Result<Option<Bytes>>>> {
        let reads = names.iter().map(|name| {
            let (store, at) = (Arc::clone(&self.store), self.at(name));
            async move { store.get(&at).await?.bytes().await }
        });
        let found = self.wait(join_all(reads.collect::<Vec<_>>()))?;
        let found = found.into_iter().zip(names);
        Ok(found.map(|(read, name)| self.if_there(&name, read)).collect())
    }

    /// Reads the first bytes of an object that has as many; `None` if it is not there.
    ///
    /// # Errors
    /// 58030 if it cannot be read.
    pub(crate) fn read_head(&self, name: &str, n_bytes: usize) -> Result<Option<Bytes>> {
        let (store, at) = (Arc::clone(&self.store), self.at(name));
        let read = self.wait(async move { store.get_range(&at, 0..n_bytes as u64).await })?;
        self.if_there(name, read)
    }

    /// Reads a range of an object.
    ///
    /// # Errors
    /// XX001 if the object is not there, or ends before the range does. 58030 if it cannot be read.
    pub(crate) fn read_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        if range.is_empty() {
            return Ok(vec![]);
        }
        let (store, at, asked) = (Arc::clone(&self.store), self.at(name), range.clone());
        let read = self.wait(async move { store.get_range(&at, asked).await })?;
        self.of_range(name, &range, read)
    }

    /// Begins to read a range of an object, unless as much is on its way as may be.
    pub(crate) fn begin_read(self: &Arc<Self>, name: &str, range: Range<u64>) -> Option<BegunRead> {
        let n_pieces = range.end.saturating_sub(range.start).div_ceil(AHEAD_PIECE_BYTES);
        let room = Arc::clone(&self.ahead).try_acquire_many_owned(u32::try_from(n_pieces).ok()?).ok()?;
        if range.is_empty() {
            return None;
        }
        let (bucket, name, asked) = (Arc::clone(self), name.to_owned(), range.clone());
        let (store, at) = (Arc::clone(&self.store), self.at(&name));
        let (send, receive) = channel();
        let task = self.threads().spawn(async move {
            // Whoever waited may have given up.
            let _ = send.send(store.get_range(&at, asked).await);
        });
        let cancelled = CancelledWhenDropped(task.abort_handle());
        Some(BegunRead::new(move || {
            let read = receive.recv().map_err(|_| Error::internal("a request to a bucket panicked"))?;
            drop((cancelled, room));
            bucket.of_range(&name, &range, read)
        }))
    }

    /// What was answered when a range was asked for.
    fn of_range(&self, name: &str, range: &Range<u64>, read: object_store::Result<Bytes>) -> Result<Vec<u8>> {
        let start = range.start as usize;
        let bytes = match self.if_there(name, read) {
            // A range that begins behind the end is refused in many ways.
            Err(error) if self.len(name)? > range.start => return Err(error),
            Err(_) => return Err(damaged(name, start, "it ends before that")),
            Ok(read) => read.ok_or_else(|| damaged(name, 0, "it is not there"))?,
        };
        if (bytes.len() as u64) < range.end - range.start {
            return Err(damaged(name, start + bytes.len(), "it ends there"));
        }
        Ok(bytes.into())
    }

    /// The length of an object in bytes.
    ///
    /// # Errors
    /// XX001 if the object is not there. 58030 if it cannot be asked for.
    pub(crate) fn len(&self, name: &str) -> Result<u64> {
        let (store, at) = (Arc::clone(&self.store), self.at(name));
        match self.wait(async move { store.head(&at).await })? {
            Ok(meta) => Ok(meta.size),
            Err(error @ StoreError::NotFound { .. }) if !is_missing_bucket(&error) => {
                Err(damaged(name, 0, "it is not there"))
            }
            Err(error) => Err(self.error("read", name, &error)),
        }
    }

    fn if_there(&self, name: &str, read: object_store::Result<Bytes>) -> Result<Option<Bytes>> {
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error @ StoreError::NotFound { .. }) if !is_missing_bucket(&error) => Ok(None),
            Err(error) => Err(self.error("read", name, &error)),
        }
    }

    /// The names of objects in a folder, without it, and their lengths in bytes.
    ///
    /// # Errors
    /// 58030 if they cannot be listed.
    pub(crate) fn sizes(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let (store, at) = (Arc::clone(&self.store), self.at(folder));
        let listed = self.wait(async move { store.list_with_delimiter(Some(&at)).await })?;
        let listed = listed.map_err(|e| self.error("list", folder, &e))?;
        let name = |at: &Path| at.filename().unwrap_or_default().to_owned();
        Ok(listed.objects.iter().map(|object| (name(&object.location), object.size)).collect())
    }

    /// Deletes objects; those that are not there are no error.
    ///
    /// # Errors
    /// 58030 if one cannot be deleted; some of them may be gone.
    pub(crate) fn delete(&self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let paths: Vec<object_store::Result<Path>> = names.iter().map(|name| Ok(self.at(name))).collect();
        let store = Arc::clone(&self.store);
        let deleted = self.wait(async move {
            let deleted = store.delete_stream(futures::stream::iter(paths).boxed());
            deleted.collect::<Vec<_>>().await
        })?;
        let mut failed = deleted.into_iter().filter_map(|deleted| deleted.err());
        match failed.find(|e| !matches!(e, StoreError::NotFound { .. }) || is_missing_bucket(e)) {
            Some(error) => Err(self.error("delete", &names[0], &error)),
            None => Ok(()),
        }
    }

    /// The name of some object or folder under the prefix, if there is any.
    ///
    /// # Errors
    /// 58030 if they cannot be listed.
    pub(crate) fn any_name(&self) -> Result<Option<String>> {
        let (store, at) = (Arc::clone(&self.store), self.prefix.clone());
        let listed = self.wait(async move { store.list_with_delimiter(Some(&at)).await })?;
        let listed = listed.map_err(|e| self.error("list", "", &e))?;
        let names = listed.objects.iter().map(|object| &object.location).chain(&listed.common_prefixes);
        Ok(names.filter_map(Path::filename).map(str::to_owned).next())
    }
}

/// A request that ends with who wanted it.
struct CancelledWhenDropped(AbortHandle);

impl Drop for CancelledWhenDropped {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.url)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // By whoever it is dropped: nothing may be waited for in a thread of another runtime.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}
