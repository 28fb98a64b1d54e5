//! A bucket in memory for tests: requests fail where they are told to, happen although they fail, or happen late; and
//! something can happen before a request.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};

use super::Bucket;
use crate::location::{BucketUrl, Cloud};

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing happens.
    Fails,
    /// It happens, and the answer is lost.
    AnswerLost,
    /// The answer is lost, and a put happens after two more requests.
    Late,
    /// Nothing works any more from here on.
    Off,
}

/// All faults but the last.
pub(crate) const PASSING: [Fault; 3] = [Fault::Fails, Fault::AnswerLost, Fault::Late];

/// A bucket as one process reaches it; [`SimBucket::of_another`] is the same bucket for another process.
#[derive(Clone, Default)]
pub(crate) struct SimBucket {
    memory: Arc<InMemory>,
    process: Arc<Process>,
}

#[derive(Default)]
struct Process {
    requests: Mutex<Requests>,
    /// Puts whatever is there already.
    is_careless: AtomicBool,
    /// Reads that were asked for and are not answered.
    n_reading: AtomicUsize,
    /// Nothing is read while somebody has this.
    reads: Arc<RwLock<()>>,
}

/// A read that is not answered.
struct Reading<'a>(&'a AtomicUsize);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

type Before = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Requests {
    n_requests: u64,
    faults: BTreeMap<u64, Fault>,
    /// What happens before a request.
    before: BTreeMap<u64, Before>,
    /// Puts that happen later, before the request with this number.
    late: Vec<(u64, Path, PutPayload, PutOptions)>,
    is_off: bool,
}

impl SimBucket {
    /// The same objects, as another process reaches them.
    pub(crate) fn of_another(&self) -> SimBucket {
        SimBucket { memory: Arc::clone(&self.memory), process: Arc::default() }
    }

    /// As what is tested takes it.
    pub(crate) fn bucket(&self) -> Arc<Bucket> {
        let url = BucketUrl { cloud: Cloud::S3, bucket: "test".to_owned(), prefix: "data".to_owned() };
        Arc::new(Bucket::over(Arc::new(self.clone()), &url).expect("threads start"))
    }

    /// Lets the request with this number, from 0, fail.
    pub(crate) fn fail_at(&self, request: u64, fault: Fault) {
        self.process.requests.lock().faults.insert(request, fault);
    }

    /// Has something happen before the request with this number, from 0.
    pub(crate) fn before(&self, request: u64, happens: impl FnOnce() + Send + 'static) {
        self.process.requests.lock().before.insert(request, Box::new(happens));
    }

    /// Has all reads wait until this is dropped.
    pub(crate) fn hold_reads(&self) -> OwnedRwLockWriteGuard<()> {
        futures::executor::block_on(Arc::clone(&self.process.reads).write_owned())
    }

    /// Reads that were asked for and are not answered.
    pub(crate) fn n_reading(&self) -> usize {
        self.process.n_reading.load(Ordering::SeqCst)
    }

    /// Requests so far.
    pub(crate) fn n_requests(&self) -> u64 {
        self.process.requests.lock().n_requests
    }

    /// Whether nothing works any more.
    pub(crate) fn is_off(&self) -> bool {
        self.process.requests.lock().is_off
    }

    /// Puts whatever is there already, from now on.
    pub(crate) fn be_careless(&self) {
        self.process.is_careless.store(true, Ordering::Relaxed);
    }

    /// The names under the prefix, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let listed: Vec<_> = futures::executor::block_on(self.memory.list(None).collect());
        let path = |meta: Result<ObjectMeta>| meta.expect("it is in memory").location.to_string();
        listed.into_iter().map(|meta| path(meta).trim_start_matches("data/").to_owned()).collect()
    }

    /// Changes the bytes of an object; `None` deletes it.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
        let at = Path::from(format!("data/{name}"));
        futures::executor::block_on(async {
            let bytes = self.memory.get(&at).await.expect("it is there").bytes().await.expect("it is in memory");
            match change(bytes.to_vec()) {
                Some(bytes) => self.memory.put(&at, Bytes::from(bytes).into()).await.map(drop),
                None => self.memory.delete(&at).await,
            }
        })
        .expect("it is in memory");
    }

    /// Counts a request; the fault that it meets, if any.
    async fn request(&self) -> Result<Option<Fault>> {
        let (before, late, fault) = {
            let mut requests = self.process.requests.lock();
            let number = requests.n_requests;
            requests.n_requests += 1;
            let fault = requests.faults.get(&number).copied();
            requests.is_off |= fault == Some(Fault::Off);
            let (late, later) = std::mem::take(&mut requests.late).into_iter().partition(|(at, ..)| *at <= number);
            requests.late = later;
            let before = requests.before.remove(&number);
            (before, late, if requests.is_off { Some(Fault::Off) } else { fault })
        };
        let late: Vec<(u64, Path, PutPayload, PutOptions)> = late;
        for (_, at, payload, options) in late {
            // Nobody hears what is answered.
            let _ = self.memory.put_opts(&at, payload, options).await;
        }
        if let Some(before) = before {
            before();
        }
        match fault {
            Some(Fault::Fails | Fault::Off) => Err(broken()),
            fault => Ok(fault),
        }
    }
}

fn broken() -> Error {
    Error::Generic { store: "sim", source: "the network is broken".into() }
}

fn answer<T>(fault: Option<Fault>, answer: Result<T>) -> Result<T> {
    if fault.is_some() { Err(broken()) } else { answer }
}

impl fmt::Debug for SimBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimBucket")
    }
}

impl fmt::Display for SimBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimBucket")
    }
}

#[async_trait]
impl ObjectStore for SimBucket {
    async fn put_opts(&self, at: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let fault = self.request().await?;
        if self.process.is_careless.load(Ordering::Relaxed) {
            options.mode = PutMode::Overwrite;
        }
        if fault == Some(Fault::Late) {
            let mut requests = self.process.requests.lock();
            let happens_at = requests.n_requests + 2;
            requests.late.push((happens_at, at.clone(), payload, options));
            return Err(broken());
        }
        answer(fault, self.memory.put_opts(at, payload, options).await)
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let fault = self.request().await?;
        answer(fault, self.memory.put_multipart_opts(at, options).await)
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.process.n_reading.fetch_add(1, Ordering::SeqCst);
        let _reading = Reading(&self.process.n_reading);
        drop(self.process.reads.read().await);
        let fault = self.request().await?;
        answer(fault, self.memory.get_opts(at, options).await)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let bucket = self.clone();
        let delete = move |path: Result<Path>| {
            let bucket = bucket.clone();
            async move {
                let (fault, path) = (bucket.request().await?, path?);
                answer(fault, bucket.memory.delete(&path).await.map(|()| path))
            }
        };
        paths.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.memory.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let fault = self.request().await?;
        answer(fault, self.memory.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.memory.copy_opts(from, to, options).await
    }
}
