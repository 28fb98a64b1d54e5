//! Checkpoints: what tables and streams hold is written to the data directory now and then, so that the log can be cut.
//!
//! Between two epochs the coordinator takes an [`Image`]: which relations and dataflows there are, as of which epoch, and
//! what of the log is in them; and asks the workers to hand over what has changed in each. A thread takes that, writes it,
//! commits it, and cuts the log. Nobody waits for it but who says `CHECKPOINT`. Another thread merges what was written.
//!
//! What was handed over and could not be written is kept for the next checkpoint. A dataflow that keeps its epoch open for
//! long is in the checkpoint as of an earlier epoch, and will be made anew if that is what a start goes on from.

mod merger;
mod restored;
mod writer;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use millstream_planner::Catalog;
use millstream_planner::catalog::Kind;
use millstream_runtime::{Command, HandedOver, RowErrorEntry, SaveRequest, SavedRowErrors, StoreRows, Workers};
use millstream_state::StoredBlock;
use millstream_storage::backup::{Copied, back_up};
use millstream_storage::checkpoint::{CheckpointStore, Snapshot, StreamLimits, TableId};
use millstream_storage::data_directory::DataDirectory;
use millstream_storage::location::Location;
use millstream_storage::log::Log;
use millstream_types::hash::partitions_of;
use millstream_types::{Epoch, EpochHeader, Error, Result};
use parking_lot::Mutex;

use self::merger::Merger;
pub(crate) use self::restored::Restored;
use self::writer::CheckpointWriter;
use crate::coordinator::Clock;
use crate::journal::Waiting;
use crate::live::LiveRelation;

/// Under these keys a manifest has what a relation has beside its rows.
const NEXT_ROW_ID: &[u8] = b"next row id";
const POSITION: &[u8] = b"position";
/// A stream's rows are in objects of their own, and not among the state, where the first releases had them.
const IN_OBJECTS: &[u8] = b"in objects";
/// Which relation a dataflow's state is of, of which of its plans, and as of which epoch.
const RELATION: &[u8] = b"relation";
const PLAN: &[u8] = b"plan";
const EPOCH: &[u8] = b"epoch";
/// Rows on which a dataflow's expressions fail.
const ROW_ERRORS: &[u8] = b"row errors";
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
    /// Rows that were written in or before this epoch are forgotten.
    pub(crate) floor: Epoch,
}

impl BaseImage {
    /// Its rows go to objects of its own.
    fn is_stored_stream(&self) -> bool {
        self.live.relation.kind == Kind::Stream && self.position.is_none()
    }
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

/// What the coordinator is told of a checkpoint.
pub(crate) struct Checkpointed {
    pub(crate) header: EpochHeader,
    pub(crate) outcome: Result<()>,
    /// Owners that have still to hand over what it asked for.
    pub(crate) behind: HashSet<u64>,
    /// Rows of streams that lie in objects now, and the bytes of each object.
    pub(crate) stored: Vec<(StoreRows, u64)>,
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
    /// Rows that are not in memory are read about so many bytes at a time.
    piece_bytes: usize,
}

impl Checkpoints {
    /// # Errors
    /// XX001 if the newest manifest is damaged; 53100 and 58030 if the disk or the bucket fails.
    pub(crate) fn open(directory: &DataDirectory, log: &Log, piece_bytes: usize) -> Result<Self> {
        Ok(Checkpoints { store: Arc::new(directory.open_checkpoints(log)?), piece_bytes })
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
        let limits = Arc::new(Mutex::default());
        let merger = Merger {
            store: Arc::clone(&self.store),
            clock: Arc::clone(&clock),
            limits: Arc::clone(&limits),
            stop: Arc::clone(&stop),
            n_workers,
        };
        let writer = CheckpointWriter {
            store: self.store,
            clock,
            log,
            waiting,
            history,
            stop: Arc::clone(&stop),
            committed,
            limits,
            n_workers,
            piece_bytes: self.piece_bytes,
            n_written: 0,
            unwritten: HashMap::new(),
        };
        let threads = vec![
            spawn("checkpoint", Box::new(move || writer.run(&receive)))?,
            spawn("merge", Box::new(move || merger.run(&to_merge)))?,
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

/// Up to where the objects of each stream are merged.
type Limits = Arc<Mutex<HashMap<u64, StreamLimits>>>;

/// Each worker's blocks.
fn by_worker(blocks: Vec<(u8, StoredBlock)>, n_workers: usize) -> Vec<Vec<StoredBlock>> {
    let mut of_workers = vec![Vec::new(); n_workers];
    for (slot, block) in blocks {
        let worker = (0..n_workers).find(|worker| partitions_of(*worker, n_workers).contains(&usize::from(slot)));
        of_workers[worker.expect("each partition is a worker's")].push(block);
    }
    of_workers
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
