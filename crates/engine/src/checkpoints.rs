//! Checkpoints: what tables and streams hold is written to the data directory now and then, so that the log can be cut.
//!
//! Between two epochs the coordinator takes an [`Image`]: which relations and dataflows there are, as of which epoch, and
//! what of the log is in them; and asks the workers to hand over what has changed in each. A thread takes that, writes it,
//! commits it, and cuts the log. Nobody waits for it but who says `CHECKPOINT`. Another thread merges what was written.
//!
//! What was handed over and could not be written is kept for the next checkpoint. A dataflow that keeps its epoch open for
//! long is in the checkpoint as of an earlier epoch, and will be made anew if that is what a start goes on from.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use millstream_planner::catalog::{CatalogChange, Kind};
use millstream_planner::{Catalog, RelationId};
use millstream_runtime::{Command, HandedOver, RowErrorEntry, SaveRequest, SavedPart, SavedRowErrors, Workers};
use millstream_state::SavedState;
use millstream_storage::backup::{Copied, back_up};
use millstream_storage::bucket::is_taken_over;
use millstream_storage::checkpoint::{
    CheckpointStore, Commit, Manifest, ObjectWriter, Snapshot, TableId, WrittenObject,
};
use millstream_storage::data_directory::DataDirectory;
use millstream_storage::location::Location;
use millstream_storage::log::Log;
use millstream_types::hash::N_PARTITIONS;
use millstream_types::{Epoch, EpochHeader, Error, Result};
use parking_lot::Mutex;

use crate::coordinator::{Clock, Request};
use crate::journal::{Waiting, end_taken_over};
use crate::live::{Body, LiveRelation};
use crate::start_progress::StartProgress;

/// Under these keys a manifest has what a relation has beside its rows.
const NEXT_ROW_ID: &[u8] = b"next row id";
const POSITION: &[u8] = b"position";
/// Which relation a dataflow's state is of, of which of its plans, and as of which epoch.
const RELATION: &[u8] = b"relation";
const PLAN: &[u8] = b"plan";
const EPOCH: &[u8] = b"epoch";
/// Rows on which a dataflow's expressions fail.
const ROW_ERRORS: &[u8] = b"row errors";
/// As many checkpoints are remembered.
const REMEMBERED: usize = 100;
/// How often it is looked whether the log is so far.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What a checkpoint is to have.
pub(crate) struct Image {
    pub(crate) header: EpochHeader,
    /// The first record of the log that is not in it.
    pub(crate) log_sequence: u64,
    pub(crate) catalog: Catalog,
    pub(crate) bases: Vec<BaseImage>,
    pub(crate) dataflows: Vec<DataflowImage>,
}

/// A table or stream as of an image's epoch.
pub(crate) struct BaseImage {
    pub(crate) live: Arc<LiveRelation>,
    pub(crate) next_row_id: i64,
    /// How far it has been read, if it is a source.
    pub(crate) position: Option<u64>,
}

/// A dataflow, as of an image's epoch or an earlier one.
pub(crate) struct DataflowImage {
    pub(crate) live: Arc<LiveRelation>,
    pub(crate) owner: u64,
    /// It was asked to hand over what has changed up to the image's epoch.
    pub(crate) is_asked: bool,
}

/// What the writer of checkpoints is told.
pub(crate) enum Told {
    /// Write a checkpoint.
    Write(Image),
    /// A worker has handed over what has changed of a relation or dataflow.
    HandedOver(HandedOver),
    /// A dataflow keeps what it is working on open: nothing is to wait for it.
    Stalls(u64),
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
    /// XX001 if the newest manifest is damaged; 53100 and 58030 if the disk or the bucket fails.
    pub(crate) fn open(directory: &DataDirectory, log: &Log) -> Result<Self> {
        Ok(Checkpoints { store: Arc::new(directory.open_checkpoints(log)?) })
    }

    /// What recovery begins with.
    pub(crate) fn newest(&self) -> Snapshot {
        self.store.hold()
    }

    /// Copies the newest one to a folder or into a bucket.
    ///
    /// # Errors
    /// 55000 if there is something; 53100 and 58030 if the disk or the bucket fails.
    pub(crate) fn back_up(&self, to: &Location) -> Result<Copied> {
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
        n_workers: usize,
    ) -> Result<Checkpointer> {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, receive) = channel();
        let (committed, to_merge) = channel();
        let internal = |e: std::io::Error| Error::internal(format!("a thread did not start: {e}"));
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(internal)
        };
        let store = Arc::clone(&self.store);
        let (to_stop, unwritten) = (Arc::clone(&stop), HashMap::new());
        let writer =
            CheckpointWriter { store, clock, log, waiting, history, stop: to_stop, committed, n_workers, unwritten };
        let (store, stopped) = (self.store, Arc::clone(&stop));
        let threads = vec![
            spawn("checkpoint", Box::new(move || writer.run(&receive)))?,
            spawn("merge", Box::new(move || merge(&store, &to_merge, &stopped)))?,
        ];
        Ok(Checkpointer { told: Some(told), stop, threads })
    }
}

/// Tells the writer. Dropping it ends the threads, whatever they are at.
pub(crate) struct Checkpointer {
    told: Option<Sender<Told>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Checkpointer {
    /// Has a checkpoint written once all that it asks for has been handed over. The coordinator is told when that is done,
    /// or has failed.
    pub(crate) fn write(&self, image: Image, workers: &Workers) {
        let of_bases = image.bases.iter().map(|base| (base.live.id, base.live.id.0));
        let asked = image.dataflows.iter().filter(|dataflow| dataflow.is_asked);
        let of = of_bases.chain(asked.map(|dataflow| (dataflow.live.id, dataflow.owner))).collect();
        let Some(told) = self.told.clone() else { return };
        self.tell(Told::Write(image));
        let take = move |handed_over| {
            // Who wrote may have ended.
            let _ = told.send(Told::HandedOver(handed_over));
        };
        let request = Arc::new(SaveRequest { of, take: Box::new(take) });
        workers.send_all(|_| Command::Save(Arc::clone(&request)));
    }

    /// A dataflow keeps what it is working on open.
    pub(crate) fn stalls(&self, owner: u64) {
        self.tell(Told::Stalls(owner));
    }

    fn tell(&self, what: Told) {
        if let Some(told) = &self.told {
            // Its panic, if it has ended, has been reported.
            let _ = told.send(what);
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.told = None;
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
                Err(error) if is_taken_over(&error) => end_taken_over(&error),
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
    n_workers: usize,
    /// What was handed over and is in no checkpoint yet, by owner.
    unwritten: HashMap<u64, Unwritten>,
}

/// What an owner has handed over that is in no checkpoint yet.
#[derive(Default)]
struct Unwritten {
    /// Oldest first, what all workers have handed over at once: the parts of each.
    complete: Vec<Vec<Vec<SavedPart>>>,
    /// What was asked for last: each worker's parts.
    arriving: HashMap<usize, Vec<SavedPart>>,
    /// It has ended, or will have.
    has_ended: bool,
    /// Nobody waits for it.
    stalls: bool,
}

impl Unwritten {
    fn take(&mut self, handed_over: HandedOver, n_workers: usize) {
        match handed_over.parts {
            Some(parts) => drop(self.arriving.insert(handed_over.worker, parts)),
            None => self.has_ended = true,
        }
        if self.arriving.len() == n_workers {
            let mut arrived: Vec<_> = std::mem::take(&mut self.arriving).into_iter().collect();
            arrived.sort_unstable_by_key(|(worker, _)| *worker);
            self.complete.push(arrived.into_iter().map(|(_, parts)| parts).collect());
            self.stalls = false;
        }
    }
}

impl CheckpointWriter {
    fn run(mut self, told: &Receiver<Told>) {
        let mut image: Option<Image> = None;
        // Of the image, what has still to hand something over.
        let mut missing: HashSet<u64> = HashSet::new();
        while let Ok(told) = told.recv() {
            match told {
                Told::Write(wanted) => {
                    missing = owners_of(&wanted, |dataflow| dataflow.is_asked);
                    let all = owners_of(&wanted, |_| true);
                    self.unwritten.retain(|owner, _| all.contains(owner));
                    image = Some(wanted);
                }
                Told::HandedOver(handed_over) => {
                    let owner = handed_over.owner;
                    let unwritten = self.unwritten.entry(owner).or_default();
                    let n_complete = unwritten.complete.len();
                    unwritten.take(handed_over, self.n_workers);
                    if unwritten.has_ended || unwritten.complete.len() > n_complete {
                        missing.remove(&owner);
                    }
                }
                Told::Stalls(owner) => {
                    if missing.remove(&owner) {
                        self.unwritten.entry(owner).or_default().stalls = true;
                    }
                }
            }
            let Some(image) = image.take_if(|_| missing.is_empty()) else { continue };
            let epoch = image.header.epoch;
            let written = self.write(&image);
            match &written {
                Ok(written) => tracing::debug!(?written, "a checkpoint is written"),
                Err(_) if self.stop.load(Ordering::Acquire) => return,
                Err(error) if is_taken_over(error) => end_taken_over(error),
                Err(error) => {
                    tracing::error!(%error, %epoch, "a checkpoint could not be written; the next one has all of it")
                }
            }
            let behind = self.unwritten.iter().filter(|(_, unwritten)| unwritten.stalls).map(|(&owner, _)| owner);
            let behind = behind.collect();
            // The coordinator may have ended.
            let _ = self.clock.request(Request::Checkpointed(epoch, written.map(|_| ()), behind));
        }
    }

    fn write(&mut self, image: &Image) -> Result<Written> {
        let began = Instant::now();
        let epoch = image.header.epoch;
        // What it goes on from in the log has to be there.
        while self.waiting.durable() < image.log_sequence - 1 {
            if self.stop.load(Ordering::Acquire) {
                return Err(stopped());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let checkpoint = self.store.begin();
        let mut objects: Vec<WrittenObject> = Vec::new();
        for worker in 0..self.n_workers {
            let mut object = checkpoint.object(worker as u32)?;
            let bases = image.bases.iter().map(|base| (base.live.id.0, &base.live));
            let dataflows = image.dataflows.iter().map(|dataflow| (dataflow.owner, &dataflow.live));
            for (owner, live) in bases.chain(dataflows) {
                let Some(unwritten) = self.unwritten.get(&owner) else { continue };
                for part in unwritten.complete.iter().flat_map(|workers| &workers[worker]) {
                    if self.stop.load(Ordering::Acquire) {
                        return Err(stopped());
                    }
                    add(&mut object, owner, live, part)?;
                }
            }
            objects.extend(object.finish()?);
        }
        let n_bytes_written = objects.iter().map(WrittenObject::n_bytes).sum();
        let commit = self.commit_of(image)?;
        let (manifest, _) = self.store.commit(&checkpoint, commit, objects, vec![])?;
        self.unwritten.values_mut().for_each(|unwritten| unwritten.complete.clear());
        // It is written now; what it makes needless is forgotten after the next one otherwise.
        match self.log.truncate_before(self.store.log_needed_from()).and_then(|()| self.store.collect()) {
            Err(error) if is_taken_over(&error) => return Err(error),
            Err(error) => tracing::warn!(%error, "what a checkpoint makes needless could not be deleted"),
            Ok(()) => {}
        }
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

    fn commit_of(&self, image: &Image) -> Result<Commit> {
        let epoch = image.header.epoch;
        let mut commit = Commit {
            epoch: epoch.0,
            now_us: image.header.now_us,
            log_sequence: image.log_sequence,
            catalog: image.catalog.change_since(&Catalog::new()).encode()?,
            ..Commit::default()
        };
        let mut set = |owner: u64, key: &[u8], value: Vec<u8>| {
            commit.owners.insert(owner);
            commit.values.insert((owner, key.to_vec()), Some(value));
        };
        for base in &image.bases {
            let owner = base.live.id.0;
            set(owner, NEXT_ROW_ID, base.next_row_id.to_le_bytes().to_vec());
            if let Some(position) = base.position {
                set(owner, POSITION, position.to_le_bytes().to_vec());
            }
        }
        for DataflowImage { live, owner, is_asked } in &image.dataflows {
            let unwritten = self.unwritten.get(owner);
            if unwritten.is_some_and(|unwritten| unwritten.has_ended) {
                continue;
            }
            set(*owner, RELATION, live.id.0.to_le_bytes().to_vec());
            if let Some(plan_hash) = live.plan_hash() {
                set(*owner, PLAN, plan_hash.to_le_bytes().to_vec());
            }
            if *is_asked && unwritten.is_some_and(|unwritten| !unwritten.stalls) {
                set(*owner, EPOCH, epoch.0.to_le_bytes().to_vec());
                if let Body::Dataflow { errors, .. } = &live.body {
                    set(*owner, ROW_ERRORS, encode_errors(&errors.at_mark())?);
                }
            }
        }
        Ok(commit)
    }
}

fn owners_of(image: &Image, is_meant: impl Fn(&DataflowImage) -> bool) -> HashSet<u64> {
    let bases = image.bases.iter().map(|base| base.live.id.0);
    let dataflows = image.dataflows.iter().filter(|dataflow| is_meant(dataflow));
    bases.chain(dataflows.map(|dataflow| dataflow.owner)).collect()
}

fn stopped() -> Error {
    Error::internal("the engine has ended before the checkpoint was written")
}

/// Adds a part of what an owner has handed over to an object.
fn add(object: &mut ObjectWriter, owner: u64, live: &LiveRelation, part: &SavedPart) -> Result<()> {
    match part {
        SavedPart::Rows(unsaved) => {
            let (gone, rows) = unsaved.parts(place_of_rows(live))?;
            object.add(table_of_rows(owner), unsaved.shape(), &gone, &rows)
        }
        SavedPart::State(node, changes) => changes.tables().try_for_each(|(table, change)| {
            object.add(TableId { owner, node: *node, table }, &change.shape, &change.gone, &change.rows)
        }),
    }
}

/// The columns whose hash says where rows belong; none if they may be anywhere.
fn place_of_rows(live: &LiveRelation) -> Option<&[usize]> {
    match &live.body {
        Body::Dataflow { place, .. } => place.as_deref(),
        _ => (live.relation.kind == Kind::Table).then_some(&live.relation.primary_key),
    }
}

/// The rows of a relation; nodes of dataflows have other numbers.
fn table_of_rows(owner: u64) -> TableId {
    TableId { owner, node: u32::MAX, table: 0 }
}

/// Failed rows as a manifest has them: epoch, SQLSTATE, message, row and count of each; and how many are not listed.
type RowErrors = (Vec<(u64, String, String, String, i64)>, i64);

fn encode_errors(errors: &SavedRowErrors) -> Result<Vec<u8>> {
    let listed = errors.entries.iter().cloned().map(|e| (e.epoch.0, e.sqlstate, e.message, e.row, e.count)).collect();
    let errors: RowErrors = (listed, errors.n_others);
    serde_json::to_vec(&errors).map_err(|e| Error::internal(format!("failed rows cannot be saved: {e}")))
}

fn decode_errors(bytes: &[u8]) -> Result<SavedRowErrors> {
    let wrong = |e| Error::internal(format!("failed rows in a checkpoint do not read right: {e}"));
    let (listed, n_others): RowErrors = serde_json::from_slice(bytes).map_err(wrong)?;
    let entry = |(epoch, sqlstate, message, row, count)| {
        let epoch = Epoch(epoch);
        RowErrorEntry { epoch, sqlstate, message, row, count }
    };
    Ok(SavedRowErrors { entries: listed.into_iter().map(entry).collect(), n_others })
}

/// What a checkpoint says, to those who go on from it.
pub(crate) struct Restored {
    snapshot: Snapshot,
    /// Told of what is read.
    progress: Arc<StartProgress>,
}

impl Restored {
    /// `None` if there is no checkpoint.
    pub(crate) fn of(snapshot: Snapshot, progress: Arc<StartProgress>) -> Option<Arc<Self>> {
        (snapshot.manifest().epoch > 0).then(|| Arc::new(Restored { snapshot, progress }))
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
        self.number(relation.0, NEXT_ROW_ID).map(i64::from_le_bytes)
    }

    pub(crate) fn position(&self, relation: RelationId) -> Option<u64> {
        self.number(relation.0, POSITION).map(u64::from_le_bytes)
    }

    /// Bytes of an owner's tables on the disk.
    pub(crate) fn n_bytes_of(&self, owner: u64) -> u64 {
        self.manifest().n_bytes_of(owner)
    }

    /// The dataflows whose state it has: the hash of each one's plan, and its owner.
    pub(crate) fn dataflows(&self) -> HashMap<RelationId, (u64, u64)> {
        let number = |owner: u64, key| self.number(owner, key).map(u64::from_le_bytes);
        let is_whole = |owner: &u64| number(*owner, EPOCH) == Some(self.manifest().epoch);
        let owners = self.manifest().owners.iter().copied().filter(is_whole);
        let dataflow = |owner| Some((RelationId(number(owner, RELATION)?), (number(owner, PLAN)?, owner)));
        owners.filter_map(dataflow).collect()
    }

    /// The rows on which a dataflow's expressions fail.
    ///
    /// # Errors
    /// Internal, if they do not read right.
    pub(crate) fn row_errors(&self, owner: u64) -> Result<SavedRowErrors> {
        let bytes = self.manifest().values.get(&(owner, ROW_ERRORS.to_vec()));
        bytes.map_or_else(|| Ok(SavedRowErrors::default()), |bytes| decode_errors(bytes))
    }

    fn number(&self, owner: u64, key: &[u8]) -> Option<[u8; 8]> {
        self.manifest().values.get(&(owner, key.to_vec()))?.as_slice().try_into().ok()
    }

    /// The rows of a relation, of a range of partitions.
    ///
    /// # Errors
    /// XX001, naming the object, if one does not read right.
    pub(crate) fn rows(&self, owner: u64, partitions: &Range<usize>) -> Result<Vec<RecordBatch>> {
        let rows = self.snapshot.net_rows(table_of_rows(owner), partitions);
        // Whoever has rows is done with all else by then.
        self.progress.advance(self.n_bytes_of(owner) * partitions.len() as u64 / N_PARTITIONS as u64);
        rows
    }

    /// The state of a node of a dataflow, of a range of partitions.
    ///
    /// # Errors
    /// XX001, naming the object, if one does not read right.
    pub(crate) fn state(&self, owner: u64, node: u32, partitions: &Range<usize>) -> Result<SavedState> {
        let mut state = SavedState::default();
        for table in self.snapshot.tables(owner)?.into_keys().filter(|table| table.node == node) {
            for rows in self.snapshot.net_rows(table, partitions)? {
                state.add_own(table.table, rows);
            }
        }
        Ok(state)
    }
}
