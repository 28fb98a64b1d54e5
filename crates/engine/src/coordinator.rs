//! The coordinator: one thread that orders all writes, closes epochs, and tells the workers.
//!
//! Epochs close on demand: as soon as a write or a source's rows are there. What arrives while one is being closed makes
//! up the next. A transaction is resolved at its turn, against the stores and the earlier transactions of its epoch, to
//! an exact delta or to an error that leaves nothing; workers check nothing.

mod checkpointing;
mod epochs;
mod flows;
mod order;
mod resolve;
mod restoring;
mod retention;
mod sources;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millstream_planner::RelationId;
use millstream_planner::catalog::CatalogChange;
use millstream_runtime::{Account, Command, EpochWork, Events, StoreRows, Workers};
use millstream_state::{Holds, LastClosed};
use millstream_storage::log::Reservation;
use millstream_types::{Delta, Epoch, EpochHeader, Error, Result};
use parking_lot::RwLock;
use tokio::sync::{Notify, oneshot};

use crate::checkpoints::Checkpointed;
use crate::epoch_history::EpochHistory;
use crate::journal::{EnteredEpoch, Journal, WhenClosed, encode_epoch};
use crate::live::LiveRelation;
use crate::retention::Kept;
use crate::transaction::Written;
pub use checkpointing::CheckpointWhen;
use checkpointing::Checkpointing;
pub(crate) use epochs::Answer;
use flows::Flow;
pub(crate) use flows::Start;
pub(crate) use order::OrderHold;
use order::WriteOrder;
pub(crate) use resolve::{Commit, Publication, Reads, WriteOp};
pub(crate) use restoring::RestoreProgress;
use restoring::{Restoring, ToStart};

/// Transactions that one epoch takes at most.
const EPOCH_WRITES_MAX: usize = 1 << 12;

/// After so long without an epoch nothing is going on.
const IDLE: Duration = Duration::from_millis(100);

/// What the coordinator shares with everybody.
pub(crate) struct Clock {
    last_closed: LastClosed,
    /// The last epoch that the coordinator has made, closed or not.
    last_made: AtomicU64,
    /// The last epoch of writes that were acknowledged before it was closed.
    acknowledged: AtomicU64,
    /// Told when epochs are closed.
    closed: Notify,
    /// Relations that run, by id.
    pub(crate) relations: RwLock<HashMap<RelationId, Arc<LiveRelation>>>,
    /// The last epochs that brought something.
    pub(crate) epochs: EpochHistory,
    /// The coordinator waits for workers and wants to be woken when one has completed something.
    waiting: AtomicBool,
    requests: Sender<Request>,
}

impl Clock {
    pub(crate) fn new(requests: Sender<Request>) -> Self {
        Clock {
            last_closed: LastClosed::default(),
            last_made: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            closed: Notify::new(),
            relations: RwLock::default(),
            epochs: EpochHistory::default(),
            waiting: AtomicBool::new(false),
            requests,
        }
    }

    /// The last epoch that was closed, which its record being durable belongs to. Every write acknowledged before now
    /// lies in it or an earlier one, but for those that were acknowledged without waiting for that.
    pub(crate) fn last_closed(&self) -> Epoch {
        self.last_closed.get()
    }

    /// Who needs a relation as of when; the last closed epoch is always needed.
    pub(crate) fn holds(&self) -> Holds {
        Holds::of_readers(self.last_closed.clone())
    }

    /// Epochs up to this one are closed: everybody may see them.
    pub(crate) fn close(&self, epoch: Epoch) {
        self.last_closed.advance(epoch);
        self.closed.notify_waiters();
    }

    /// Writes of an epoch are acknowledged although it is not closed.
    pub(crate) fn acknowledge(&self, epoch: Epoch) {
        self.acknowledged.fetch_max(epoch.0, Ordering::AcqRel);
    }

    /// Waits until an epoch is closed.
    pub(crate) async fn until_closed(&self, epoch: Epoch) {
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.last_closed() >= epoch {
                return;
            }
            closed.await;
        }
    }

    /// Waits until every write that was acknowledged before now can be seen.
    pub(crate) async fn until_all_seen(&self) {
        self.until_closed(Epoch(self.acknowledged.load(Ordering::Acquire))).await;
    }

    /// Waits until all that has been written can be seen, acknowledged or not.
    pub(crate) async fn until_all_closed(&self) {
        self.until_closed(Epoch(self.last_made.load(Ordering::Acquire))).await;
    }

    /// Ready when epochs are closed after this was enabled.
    pub(crate) fn closed(&self) -> tokio::sync::futures::Notified<'_> {
        self.closed.notified()
    }

    pub(crate) fn relation(&self, id: RelationId) -> Option<Arc<LiveRelation>> {
        self.relations.read().get(&id).cloned()
    }

    /// Waits until relations are back that come back after a start.
    ///
    /// # Errors
    /// 55000 if one has failed, 42P01 if it was dropped.
    pub(crate) async fn until_back(&self, ids: &[RelationId]) -> Result<()> {
        for live in ids.iter().filter_map(|id| self.relation(*id)).filter(|live| live.is_coming_back()) {
            live.back().await?;
        }
        Ok(())
    }

    /// Hands the coordinator a request.
    ///
    /// # Errors
    /// 57P01 if the engine is shutting down.
    pub(crate) fn request(&self, request: Request) -> Result<()> {
        self.requests.send(request).map_err(|_| shutting_down())
    }

    /// Runs a closure on the coordinator's thread, between epochs, and gives its result.
    pub(crate) async fn between_epochs<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Coordinator) -> T + Send + 'static,
    ) -> Result<T> {
        let (send, receive) = oneshot::channel();
        let work = move |coordinator: &mut Coordinator| {
            // Whoever asked may be gone.
            let _ = send.send(work(coordinator));
        };
        self.request(Request::BetweenEpochs(Box::new(work)))?;
        receive.await.map_err(|_| shutting_down())
    }

    /// Waits for a checkpoint of all that was written so far.
    ///
    /// # Errors
    /// 53100 and 58030 if it cannot be written.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        let (reply, receive) = oneshot::channel();
        self.request(Request::Checkpoint(reply))?;
        receive.await.map_err(|_| shutting_down())?
    }

    /// Lets nothing be written any more, and waits for a checkpoint of all that was.
    ///
    /// # Errors
    /// 53100 and 58030 if it cannot be written.
    pub(crate) async fn last_checkpoint(&self) -> Result<()> {
        let (reply, receive) = oneshot::channel();
        self.request(Request::LastCheckpoint(reply))?;
        receive.await.map_err(|_| shutting_down())?
    }

    /// Writes a transaction and waits until it is acknowledged.
    pub(crate) async fn write(&self, commit: Commit) -> Result<Written> {
        let (reply, receive) = oneshot::channel();
        self.request(Request::Write(commit, reply))?;
        receive.await.map_err(|_| shutting_down())?
    }
}

fn shutting_down() -> Error {
    Error::new(
        millstream_types::ErrorKind::Resource,
        millstream_types::SqlState::ADMIN_SHUTDOWN,
        "the server is shutting down",
    )
}

impl Events for Clock {
    fn completed(&self, relation: RelationId, worker: usize, epoch: Epoch) {
        if let Some(live) = self.relation(relation) {
            live.seal(worker, epoch);
        }
        // Either the coordinator sees that this is complete when it has said that it waits, or this sees that it does.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Acquire) {
            // The coordinator may be gone already.
            let _ = self.requests.send(Request::Wake);
        }
    }

    fn restored(&self, dataflow: RelationId, _: usize) {
        // The coordinator may be gone already.
        let _ = self.requests.send(Request::Read(dataflow));
    }

    fn failed(&self, dataflow: RelationId, epoch: Epoch, error: Error) {
        tracing::error!(relation = %dataflow, %epoch, %error, "a dataflow has failed");
        // The coordinator may be gone already.
        let _ = self.requests.send(Request::Failed(dataflow, epoch, error));
    }

    fn memory_exceeded(&self, _: RelationId, epoch: Epoch) {
        let _ = self.requests.send(Request::MemoryExceeded(epoch));
    }

    fn worker_lost(&self, worker: usize, error: Error) {
        tracing::error!(worker, %error, "a worker has ended; nothing can be computed without it");
        std::process::abort();
    }
}

/// What the coordinator is asked.
pub(crate) enum Request {
    /// Write a transaction.
    Write(Commit, oneshot::Sender<Result<Written>>),
    /// Let one transaction alone write, for a while at most.
    HoldOrder {
        /// The hold's number.
        id: u64,
        /// How long it lasts.
        at_most: Duration,
        /// Told when it begins.
        granted: oneshot::Sender<()>,
    },
    /// The hold with this number is given back, or no longer wanted.
    ReleaseOrder(u64),
    /// Run a closure between epochs.
    BetweenEpochs(Box<dyn FnOnce(&mut Coordinator) + Send>),
    /// A worker has completed something.
    Wake,
    /// A worker has read the state of a dataflow that comes back.
    Read(RelationId),
    /// A dataflow has failed in an epoch.
    Failed(RelationId, Epoch, Error),
    /// All state together has passed its limit.
    MemoryExceeded(Epoch),
    /// Write a checkpoint now.
    Checkpoint(oneshot::Sender<Result<()>>),
    /// Write nothing any more, but for a checkpoint of all that was written.
    LastCheckpoint(oneshot::Sender<Result<()>>),
    /// A checkpoint is written, or could not be.
    Checkpointed(Box<Checkpointed>),
    /// Objects of a stream have become one.
    Stored(Arc<StoreRows>),
    /// End.
    Shutdown,
}

/// A record, and room for it in the log.
type RoomedRecord = (Reservation, Vec<u8>);

/// A base relation as the coordinator knows it.
struct Base {
    live: Arc<LiveRelation>,
    /// The next hidden row id.
    next_row_id: i64,
    source: Option<sources::SourceState>,
    /// The worker that gets the next small batch of a stream.
    next_worker: usize,
    /// When it was last written to, if anybody wanted to know.
    last_written: Instant,
    /// What it has kept, if it is a stream that does not keep all.
    kept: Option<Kept>,
}

/// The coordinator's own state; lives on its thread.
pub(crate) struct Coordinator {
    pub(crate) clock: Arc<Clock>,
    pub(crate) workers: Arc<Workers>,
    requests: Receiver<Request>,
    order: WriteOrder,
    last_now_us: i64,
    /// The last epoch number that was given out.
    last_epoch: Epoch,
    /// Checkpoints, where epochs are recorded; they end before the journal, which has the data directory.
    checkpointing: Option<Checkpointing>,
    /// Where epochs are recorded; nowhere if all data is in memory.
    journal: Option<Journal>,
    /// The last epoch after which workers have forgotten what nobody can ask for.
    forgotten: Epoch,
    /// When the last epoch was made.
    made_at: Instant,
    /// Until when what can wait waits, because the disk was full.
    put_off_until: Option<Instant>,
    bases: HashMap<RelationId, Base>,
    /// Tables and streams that could not be restored. While there are some nothing is cut from the log.
    damaged: HashSet<RelationId>,
    /// In the order in which they were installed.
    flows: Vec<Flow>,
    /// Until all are back that go on from saved state after a start.
    restoring: Option<Restoring>,
    /// Dataflows that are made when what they read is back.
    to_start: Vec<ToStart>,
    /// What ended relations are charged until the workers have freed them.
    freeing: Vec<Arc<Account>>,
    /// Writes that wait until a dataflow has less in flight, in order.
    waiting_writes: Vec<(Commit, epochs::Reply)>,
    /// What all state is charged to.
    memory: Arc<Account>,
    /// How long a dataflow may keep an epoch open after all others have completed it.
    max_stall: Duration,
    /// Offsets that a followed source may advance in one epoch, and about how many bytes.
    pub(crate) epoch_offsets_max: u64,
    epoch_bytes_max: u64,
    /// Rows of a batch sent to workers, at most; for tests of splitting.
    pub(crate) batch_rows_max: usize,
    /// What transactions have read is looked at again.
    validates: bool,
    /// Nothing is written any more: the engine is about to end.
    is_ending: bool,
}

impl Coordinator {
    pub(crate) fn new(
        clock: Arc<Clock>,
        workers: Arc<Workers>,
        requests: Receiver<Request>,
        memory: Arc<Account>,
        config: &crate::EngineConfig,
    ) -> Self {
        Coordinator {
            clock,
            workers,
            requests,
            order: WriteOrder::default(),
            last_now_us: 0,
            last_epoch: Epoch::ZERO,
            journal: None,
            checkpointing: None,
            forgotten: Epoch::ZERO,
            made_at: Instant::now(),
            put_off_until: None,
            bases: HashMap::new(),
            damaged: HashSet::new(),
            flows: Vec::new(),
            restoring: None,
            to_start: Vec::new(),
            freeing: Vec::new(),
            waiting_writes: Vec::new(),
            memory,
            max_stall: config.max_stall,
            epoch_offsets_max: config.epoch_offsets_max,
            epoch_bytes_max: (config.memory.in_flight / flows::IN_FLIGHT_MAX) as u64,
            batch_rows_max: config.batch_rows_max,
            validates: config.sabotage != Some(crate::engine::Sabotage::NoValidation),
            is_ending: false,
        }
    }

    /// Serves requests until told to end.
    pub(crate) fn run(mut self) {
        loop {
            let first = match self.next_request() {
                Some(Request::Shutdown) | None => return,
                Some(request) => request,
            };
            let mut writes = Vec::new();
            let mut request = Some(first);
            while let Some(next) = request {
                match next {
                    Request::Write(commit, reply) if self.order.is_holder(commit.order) => {
                        let id = commit.order;
                        writes.push((commit, reply));
                        self.make_epoch(std::mem::take(&mut writes));
                        id.into_iter().for_each(|id| self.order.release(id));
                    }
                    Request::Write(commit, reply) if commit.ops.is_empty() || self.order.admits(commit.order) => {
                        writes.push((commit, reply));
                    }
                    Request::HoldOrder { id, at_most, granted } if !self.order.is_held() => {
                        // What came before it belongs before it.
                        self.make_epoch(std::mem::take(&mut writes));
                        self.order.grant(id, at_most, granted);
                    }
                    Request::Write(..) | Request::HoldOrder { .. } => self.order.wait(next),
                    Request::ReleaseOrder(id) => self.order.release(id),
                    Request::BetweenEpochs(work) => {
                        // Writes that came before it belong before it.
                        self.make_epoch(std::mem::take(&mut writes));
                        work(&mut self);
                    }
                    Request::Wake => {}
                    Request::Read(id) => self.note_read(id),
                    Request::Failed(id, epoch, error) => self.fail_flow(id, epoch, &error),
                    Request::MemoryExceeded(epoch) => self.relieve_memory(epoch),
                    Request::Checkpoint(reply) => {
                        // What was written before it belongs into it.
                        self.make_epoch(std::mem::take(&mut writes));
                        self.want_checkpoint(reply);
                    }
                    Request::LastCheckpoint(reply) => {
                        self.make_epoch(std::mem::take(&mut writes));
                        self.is_ending = true;
                        self.want_checkpoint(reply);
                    }
                    Request::Checkpointed(checkpointed) => self.checkpointed(*checkpointed),
                    Request::Stored(store) => self.store(&store),
                    Request::Shutdown => return,
                }
                request = if writes.len() < EPOCH_WRITES_MAX { self.take_request() } else { None };
            }
            self.make_epoch(writes);
            self.forget_expired();
            self.forget_when_idle();
            self.checkpoint_if_due();
            self.drive_flows();
            self.set_stalled_aside();
        }
    }

    /// Waits for a request, until a source has rows or something else is due, or until the write order is free again.
    fn next_request(&mut self) -> Option<Request> {
        let held = self.order.remaining();
        if let Some(request) = self.take_request() {
            return Some(request);
        }
        self.clock.waiting.store(true, Ordering::Release);
        // What was completed before that would wake nobody.
        fence(Ordering::SeqCst);
        let wait = if self.has_flow_to_drive() { Some(Duration::ZERO) } else { self.until_due(held) };
        let wants_completions =
            self.has_flow_behind() || !self.waiting_writes.is_empty() || self.has_throttled_source();
        self.clock.waiting.store(wants_completions, Ordering::Release);
        let request = match wait {
            Some(Duration::ZERO) => Some(self.requests.try_recv().unwrap_or(Request::Wake)),
            Some(wait) => match self.requests.recv_timeout(wait) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => Some(Request::Wake),
                Err(RecvTimeoutError::Disconnected) => None,
            },
            None => self.requests.recv().ok(),
        };
        self.clock.waiting.store(false, Ordering::Release);
        request
    }

    /// Lets workers forget what the last epochs have left behind, once those are closed and nothing has come for a while.
    /// While epochs come, each lets them forget what those before it have left.
    fn forget_when_idle(&mut self) {
        if self.journal.is_none() || self.forgotten == self.last_epoch {
            return;
        }
        if self.made_at.elapsed() >= IDLE && self.clock.last_closed() == self.last_epoch {
            self.forgotten = self.last_epoch;
            self.workers.send_all(|_| Command::Forget(self.last_epoch));
        }
    }

    /// How long until there is something to do without a request. While the write order is `held`, sources wait.
    fn until_due(&mut self, held: Option<Duration>) -> Option<Duration> {
        let stall = self.has_epochs_in_flight().then(|| (self.max_stall / 8).max(Duration::from_millis(1)));
        let now = self.has_write_to_admit().then_some(Duration::ZERO);
        let put_off = (self.has_flow_behind() && self.is_put_off()).then_some(sources::TICK);
        let forget = (self.journal.is_some() && self.forgotten < self.last_epoch).then_some(IDLE);
        [
            self.until_checkpoint_is_due(),
            self.until_expired(),
            put_off,
            forget,
            held.or_else(|| self.until_sources_are_due()),
            self.until_writes_are_due(),
            stall,
            now,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The last epoch that there is, closed or not.
    pub(crate) fn last_made(&self) -> Epoch {
        self.last_epoch
    }

    /// A header with the next epoch's number. It is not taken before it is [made](Self::make).
    fn next_header(&self) -> EpochHeader {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
        EpochHeader { epoch: self.last_epoch.next(), now_us: self.last_now_us.max(now) }
    }

    /// Takes an epoch's number.
    fn make(&mut self, header: &EpochHeader) {
        self.last_now_us = header.now_us;
        self.last_epoch = header.epoch;
        self.made_at = Instant::now();
        self.put_off_until = None;
        self.clock.last_made.store(header.epoch.0, Ordering::Release);
    }

    /// Makes an epoch in which nothing is written.
    ///
    /// # Errors
    /// 53100 if there is no room for its record.
    pub(super) fn make_empty(&mut self) -> Result<EpochHeader> {
        let header = self.next_header();
        let record = self.record(&header, &[], &HashMap::new(), &[], &[])?;
        self.make(&header);
        let epoch = EnteredEpoch { epoch: header.epoch, is_asynchronous: false, answers: vec![], entry: None };
        self.enter(epoch, record);
        Ok(header)
    }

    /// An epoch's record and room for it, where epochs are recorded.
    fn record(
        &self,
        header: &EpochHeader,
        catalog: &[CatalogChange],
        deltas: &HashMap<RelationId, Vec<Delta>>,
        offsets: &[(RelationId, Range<u64>)],
        floors: &[(RelationId, Epoch)],
    ) -> Result<Option<RoomedRecord>> {
        let Some(journal) = &self.journal else { return Ok(None) };
        let record = encode_epoch(header, catalog, deltas, offsets, floors)?;
        Ok(Some((journal.reserve(&record)?, record)))
    }

    /// Answers writers that have changed nothing when all that they may have seen is closed.
    fn answer_in_turn(&self, answers: Vec<Answer>) {
        match &self.journal {
            Some(journal) => journal.answer_in_turn(answers),
            None => answers.into_iter().for_each(Answer::send),
        }
    }

    /// Does something when all epochs that there are now are closed.
    fn when_closed(&self, then: WhenClosed) {
        match &self.journal {
            Some(journal) => journal.when_closed(then),
            None => then(),
        }
    }

    /// Closes an epoch once it is durable, and answers its writers then, or at once if they do not wait for that.
    fn enter(&mut self, epoch: EnteredEpoch, record: Option<RoomedRecord>) {
        match (&self.journal, record) {
            (Some(journal), Some((room, record))) => {
                let n_bytes = record.len();
                let sequence = journal.append(room, record, epoch);
                self.note_record(sequence, n_bytes);
            }
            _ => {
                epoch.note_closed();
                self.clock.close(epoch.epoch);
                epoch.answers.into_iter().for_each(Answer::send);
            }
        }
    }

    /// Sends each worker its part of an epoch.
    fn send_epoch(&self, header: &EpochHeader, parts: Vec<Vec<(RelationId, millstream_runtime::RelationInput)>>) {
        for (worker, inputs) in parts.into_iter().enumerate() {
            self.workers.send(worker, Command::Epoch(EpochWork { header: header.clone(), inputs }));
        }
    }
}
