//! Checkpoints: what tables and streams hold is written to the data directory now and then, so that the log can be cut.
//!
//! Between two epochs the coordinator takes an [`Image`]: which relations there are, as of which epoch, and what of the
//! log is in them. A thread reads what has changed in each since the last checkpoint from the workers' arrangements,
//! which hold it until then, writes it, commits it, and cuts the log. Nobody waits for it but who says `CHECKPOINT`.
//! Another thread merges what was written.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use millstream_planner::catalog::{CatalogChange, Kind};
use millstream_planner::{Catalog, RelationId};
use millstream_state::Hold;
use millstream_storage::backup::{Copied, back_up};
use millstream_storage::checkpoint::{
    CheckpointOptions, CheckpointStore, Commit, FOLDERS, HashedRows, Manifest, Snapshot, TableId, TableShape,
    WrittenObject,
};
use millstream_storage::data_directory::DataDirectory;
use millstream_storage::log::Log;
use millstream_storage::object_store::DiskStore;
use millstream_types::hash::{hash_columns, mix};
use millstream_types::{Delta, Epoch, EpochHeader, Error, Result};
use parking_lot::Mutex;

use crate::coordinator::{Clock, Request};
use crate::journal::Waiting;
use crate::live::LiveRelation;

/// Under these keys a manifest has what a relation has beside its rows.
const NEXT_ROW_ID: &[u8] = b"next row id";
const POSITION: &[u8] = b"position";
/// As many checkpoints are remembered.
const REMEMBERED: usize = 100;
/// How often it is looked whether workers are so far.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What a checkpoint is to have.
pub(crate) struct Image {
    pub(crate) header: EpochHeader,
    /// The first record of the log that is not in it.
    pub(crate) log_sequence: u64,
    pub(crate) catalog: Catalog,
    pub(crate) bases: Vec<BaseImage>,
}

/// A table or stream as of an image's epoch.
pub(crate) struct BaseImage {
    pub(crate) live: Arc<LiveRelation>,
    /// It is held as of the last checkpoint; if that did not have it, from its beginning.
    pub(crate) since: Hold,
    pub(crate) next_row_id: i64,
    /// How far it has been read, if it is a source.
    pub(crate) position: Option<u64>,
}

/// A checkpoint that was written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) epoch: Epoch,
    pub(crate) took: Duration,
    /// Bytes of all objects that make up the state.
    pub(crate) n_bytes: u64,
    pub(crate) n_objects: usize,
    /// Bytes that this one has written.
    pub(crate) n_bytes_written: u64,
}

/// The checkpoints that were written, newest last.
pub(crate) type History = Arc<Mutex<VecDeque<Written>>>;

/// The checkpoints of a data directory.
#[derive(Clone)]
pub(crate) struct Checkpoints {
    store: Arc<CheckpointStore>,
}

impl Checkpoints {
    /// # Errors
    /// XX001 if the newest manifest is damaged; 53100 and 58030 if the disk fails.
    pub(crate) fn open(directory: &DataDirectory) -> Result<Self> {
        let store = DiskStore::new(directory.disk(), &FOLDERS)?;
        let options = CheckpointOptions { data_id: directory.id(), ..CheckpointOptions::default() };
        Ok(Checkpoints { store: Arc::new(CheckpointStore::open(Arc::new(store), options)?) })
    }

    /// What recovery begins with.
    pub(crate) fn newest(&self) -> Snapshot {
        self.store.hold()
    }

    /// Copies the newest one to a folder.
    ///
    /// # Errors
    /// 55000 if the folder is not empty; 53100 and 58030 if the disk fails.
    pub(crate) fn back_up(&self, to: &Path) -> Result<Copied> {
        back_up(&self.newest(), to)
    }

    /// Starts the threads that write and merge.
    ///
    /// # Errors
    /// Internal, if the system gives none.
    pub(crate) fn start(
        self,
        clock: Arc<Clock>,
        log: Arc<Log>,
        waiting: Arc<Waiting>,
        history: History,
    ) -> Result<Checkpointer> {
        let stop = Arc::new(AtomicBool::new(false));
        let (images, receive) = channel();
        let (committed, to_merge) = channel();
        let internal = |e: std::io::Error| Error::internal(format!("a thread did not start: {e}"));
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(internal)
        };
        let store = Arc::clone(&self.store);
        let writer = CheckpointWriter { store, clock, log, waiting, history, stop: Arc::clone(&stop), committed };
        let (store, stopped) = (self.store, Arc::clone(&stop));
        let threads = vec![
            spawn("checkpoint", Box::new(move || writer.run(&receive)))?,
            spawn("merge", Box::new(move || merge(&store, &to_merge, &stopped)))?,
        ];
        Ok(Checkpointer { images: Some(images), stop, threads })
    }
}

/// Where images go. Dropping it ends the threads, whatever they are at.
pub(crate) struct Checkpointer {
    images: Option<Sender<Image>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Checkpointer {
    /// Has a checkpoint written. The coordinator is told when that is done, or has failed.
    pub(crate) fn write(&self, image: Image) {
        // Its panic, if it has ended, has been reported.
        let _ = self.images.as_ref().map(|images| images.send(image));
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.images = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn merge(store: &CheckpointStore, committed: &Receiver<()>, stop: &AtomicBool) {
    while committed.recv().is_ok() {
        while !stop.load(Ordering::Acquire) {
            match store.merge_once(stop) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "checkpoints could not be merged; it is tried again after the next");
                    break;
                }
            }
        }
    }
}

struct CheckpointWriter {
    store: Arc<CheckpointStore>,
    clock: Arc<Clock>,
    log: Arc<Log>,
    waiting: Arc<Waiting>,
    history: History,
    stop: Arc<AtomicBool>,
    /// Tells who merges.
    committed: Sender<()>,
}

impl CheckpointWriter {
    fn run(self, images: &Receiver<Image>) {
        while let Ok(image) = images.recv() {
            let epoch = image.header.epoch;
            let written = self.write(&image);
            drop(image);
            match &written {
                Ok(written) => tracing::debug!(?written, "a checkpoint is written"),
                Err(_) if self.stop.load(Ordering::Acquire) => return,
                Err(error) => {
                    tracing::error!(%error, %epoch, "a checkpoint could not be written; the next one has all of it")
                }
            }
            // The coordinator may have ended.
            let _ = self.clock.request(Request::Checkpointed(epoch, written.map(|_| ())));
        }
    }

    fn write(&self, image: &Image) -> Result<Written> {
        let began = Instant::now();
        let epoch = image.header.epoch;
        // What it goes on from in the log has to be there.
        self.wait_until(|| self.waiting.durable() >= image.log_sequence - 1)?;
        let checkpoint = self.store.begin();
        let n_workers = image.bases.first().map_or(0, |base| base.live.n_workers());
        let mut objects: Vec<WrittenObject> = Vec::new();
        for base in &image.bases {
            let needed = base.live.last_touched().min(epoch);
            self.wait_until(|| base.live.sealed() >= needed)?;
        }
        for worker in 0..n_workers {
            let mut object = checkpoint.object(worker as u32)?;
            for base in &image.bases {
                if self.stop.load(Ordering::Acquire) {
                    return Err(stopped());
                }
                if let Some(reader) = base.live.shared.readers().get(worker) {
                    let deltas = reader.changes(base.since.epoch(), epoch).deltas()?;
                    let shape = shape_of(&base.live);
                    let (gone, rows) = parts(&base.live, &shape, &deltas)?;
                    object.add(table_of(base.live.id), &shape, &gone, &rows)?;
                }
            }
            objects.extend(object.finish()?);
        }
        let n_bytes_written = objects.iter().map(WrittenObject::n_bytes).sum();
        let commit = commit_of(image)?;
        let manifest = self.store.commit(&checkpoint, commit, objects)?;
        self.log.truncate_before(self.store.log_needed_from())?;
        self.store.collect()?;
        // Who merges ends with this.
        let _ = self.committed.send(());
        let written = Written {
            epoch,
            took: began.elapsed(),
            n_bytes: manifest.n_bytes(),
            n_objects: manifest.n_objects(),
            n_bytes_written,
        };
        let mut history = self.history.lock();
        history.push_back(written.clone());
        if history.len() > REMEMBERED {
            history.pop_front();
        }
        Ok(written)
    }

    fn wait_until(&self, is_so: impl Fn() -> bool) -> Result<()> {
        while !is_so() {
            if self.stop.load(Ordering::Acquire) {
                return Err(stopped());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

fn stopped() -> Error {
    Error::internal("the engine has ended before the checkpoint was written")
}

fn commit_of(image: &Image) -> Result<Commit> {
    let mut commit = Commit {
        epoch: image.header.epoch.0,
        now_us: image.header.now_us,
        log_sequence: image.log_sequence,
        catalog: image.catalog.change_since(&Catalog::new()).encode()?,
        ..Commit::default()
    };
    for base in &image.bases {
        let owner = base.live.id.0;
        commit.owners.insert(owner);
        let row_id = base.next_row_id.to_le_bytes().to_vec();
        commit.values.insert((owner, NEXT_ROW_ID.to_vec()), Some(row_id));
        if let Some(position) = base.position {
            commit.values.insert((owner, POSITION.to_vec()), Some(position.to_le_bytes().to_vec()));
        }
    }
    Ok(commit)
}

fn table_of(relation: RelationId) -> TableId {
    TableId { owner: relation.0, node: 0, table: 0 }
}

/// Rows of a table are known by its key; streams never lose one.
fn shape_of(live: &LiveRelation) -> TableShape {
    let schema = live.relation.full_schema();
    match live.relation.kind {
        Kind::Table => TableShape::keyed(schema, live.relation.primary_key.clone()),
        _ => TableShape::multiset(schema),
    }
}

/// What is gone, by identity, and what came.
fn parts(live: &LiveRelation, shape: &TableShape, deltas: &[Delta]) -> Result<(Vec<HashedRows>, Vec<HashedRows>)> {
    let (mut gone, mut rows) = (Vec::new(), Vec::new());
    let mut n_rows = 0;
    for delta in deltas {
        let of_sign = |is_wanted: fn(i64) -> bool| -> Result<RecordBatch> {
            let Some(weights) = delta.weights() else { return Ok(delta.batch().clone()) };
            let mask: BooleanArray = weights.iter().map(|&w| Some(is_wanted(w))).collect();
            Ok(filter_record_batch(delta.batch(), &mask)?)
        };
        let came = of_sign(|w| w > 0)?;
        let hashes = hashes_of(live, &came, &shape.identity, n_rows)?;
        n_rows += came.num_rows() as u64;
        rows.push(HashedRows { batch: came, hashes });
        if delta.weights().is_some() {
            let went = of_sign(|w| w < 0)?;
            let hashes = hashes_of(live, &went, &shape.identity, n_rows)?;
            gone.push(HashedRows { batch: went.project(&shape.identity)?, hashes });
        }
    }
    Ok((gone, rows))
}

/// Where rows belong: rows of a table where its key says, rows of a stream anywhere.
fn hashes_of(live: &LiveRelation, rows: &RecordBatch, key: &[usize], n_before: u64) -> Result<Vec<u64>> {
    let n_rows = rows.num_rows();
    if live.relation.kind != Kind::Table {
        return Ok((n_before..n_before + n_rows as u64).map(mix).collect());
    }
    let mut hashes = Vec::new();
    hash_columns(rows.project(key)?.columns(), n_rows, &mut hashes);
    Ok(hashes)
}

/// What a checkpoint says, to those who go on from it.
pub(crate) struct Restored {
    snapshot: Snapshot,
}

impl Restored {
    /// `None` if there is no checkpoint.
    pub(crate) fn of(snapshot: Snapshot) -> Option<Arc<Self>> {
        (snapshot.manifest().epoch > 0).then(|| Arc::new(Restored { snapshot }))
    }

    fn manifest(&self) -> &Manifest {
        self.snapshot.manifest()
    }

    pub(crate) fn header(&self) -> EpochHeader {
        EpochHeader { epoch: Epoch(self.manifest().epoch), now_us: self.manifest().now_us }
    }

    /// The first record of the log that is not in it.
    pub(crate) fn log_sequence(&self) -> u64 {
        self.manifest().log_sequence
    }

    /// # Errors
    /// Internal, if this release cannot read it.
    pub(crate) fn catalog(&self) -> Result<CatalogChange> {
        CatalogChange::decode(&self.manifest().catalog)
    }

    pub(crate) fn next_row_id(&self, relation: RelationId) -> Option<i64> {
        self.number(relation, NEXT_ROW_ID).map(i64::from_le_bytes)
    }

    pub(crate) fn position(&self, relation: RelationId) -> Option<u64> {
        self.number(relation, POSITION).map(u64::from_le_bytes)
    }

    /// Bytes of a relation's rows on the disk.
    pub(crate) fn n_bytes_of(&self, relation: RelationId) -> u64 {
        self.manifest().n_bytes_of(relation.0)
    }

    fn number(&self, relation: RelationId, key: &[u8]) -> Option<[u8; 8]> {
        self.manifest().values.get(&(relation.0, key.to_vec()))?.as_slice().try_into().ok()
    }

    /// The rows of a table or stream, of a range of partitions.
    ///
    /// # Errors
    /// XX001, naming the object, if one does not read right.
    pub(crate) fn rows(&self, relation: RelationId, partitions: &Range<usize>) -> Result<Vec<RecordBatch>> {
        self.snapshot.net_rows(table_of(relation), partitions)
    }
}
