//! The coordinator: one thread that orders all writes, closes epochs, and tells the workers.
//!
//! Epochs close on demand: as soon as a write or a source's rows are there. What arrives while one is being closed makes
//! up the next. A transaction is resolved at its turn, against the stores and the earlier transactions of its epoch, to
//! an exact delta or to an error that leaves nothing; workers check nothing.

mod epochs;
mod flows;
mod order;
mod resolve;
mod sources;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millstream_planner::RelationId;
use millstream_runtime::{Account, Command, EpochWork, Events, Workers};
use millstream_types::{Epoch, EpochHeader, Error, Result};
use parking_lot::RwLock;
use tokio::sync::oneshot;

use crate::live::LiveRelation;
use crate::transaction::Written;
use flows::Flow;
pub(crate) use order::OrderHold;
use order::WriteOrder;
pub(crate) use resolve::{Commit, Reads, WriteOp};

/// Transactions that one epoch takes at most.
const EPOCH_WRITES_MAX: usize = 1 << 12;

/// What the coordinator shares with everybody.
pub(crate) struct Clock {
    last_closed: AtomicU64,
    /// Relations that run, by id.
    pub(crate) relations: RwLock<HashMap<RelationId, Arc<LiveRelation>>>,
    /// The coordinator waits for workers and wants to be woken when one has completed something.
    waiting: AtomicBool,
    requests: Sender<Request>,
}

impl Clock {
    pub(crate) fn new(requests: Sender<Request>) -> Self {
        Clock {
            last_closed: AtomicU64::new(0),
            relations: RwLock::default(),
            waiting: AtomicBool::new(false),
            requests,
        }
    }

    /// The last epoch that was closed: every write acknowledged before now lies in it or an earlier one.
    pub(crate) fn last_closed(&self) -> Epoch {
        Epoch(self.last_closed.load(Ordering::Acquire))
    }

    pub(crate) fn relation(&self, id: RelationId) -> Option<Arc<LiveRelation>> {
        self.relations.read().get(&id).cloned()
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
        if self.waiting.load(Ordering::Acquire) {
            // The coordinator may be gone already.
            let _ = self.requests.send(Request::Wake);
        }
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
    /// A dataflow has failed in an epoch.
    Failed(RelationId, Epoch, Error),
    /// All state together has passed its limit.
    MemoryExceeded(Epoch),
    /// End.
    Shutdown,
}

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
    bases: HashMap<RelationId, Base>,
    /// In the order in which they were installed.
    flows: Vec<Flow>,
    /// What ended relations are charged until the workers have freed them.
    freeing: Vec<Arc<Account>>,
    /// Writes that wait until a dataflow has less in flight, in order.
    waiting_writes: Vec<(Commit, epochs::Reply)>,
    /// What all state is charged to.
    memory: Arc<Account>,
    /// How long a dataflow may keep an epoch open after all others have completed it.
    max_stall: Duration,
    /// Offsets that a followed source may advance in one epoch.
    pub(crate) epoch_offsets_max: u64,
    /// Rows of a batch sent to workers, at most; for tests of splitting.
    pub(crate) batch_rows_max: usize,
    /// What transactions have read is looked at again.
    validates: bool,
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
            bases: HashMap::new(),
            flows: Vec::new(),
            freeing: Vec::new(),
            waiting_writes: Vec::new(),
            memory,
            max_stall: config.max_stall,
            epoch_offsets_max: config.epoch_offsets_max,
            batch_rows_max: config.batch_rows_max,
            validates: config.sabotage != Some(crate::engine::Sabotage::NoValidation),
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
                        self.close_epoch(std::mem::take(&mut writes));
                        id.into_iter().for_each(|id| self.order.release(id));
                    }
                    Request::Write(commit, reply) if self.order.admits(commit.order) => writes.push((commit, reply)),
                    Request::HoldOrder { id, at_most, granted } if !self.order.is_held() => {
                        // What came before it belongs before it.
                        self.close_epoch(std::mem::take(&mut writes));
                        self.order.grant(id, at_most, granted);
                    }
                    Request::Write(..) | Request::HoldOrder { .. } => self.order.wait(next),
                    Request::ReleaseOrder(id) => self.order.release(id),
                    Request::BetweenEpochs(work) => {
                        // Writes that came before it belong before it.
                        self.close_epoch(std::mem::take(&mut writes));
                        work(&mut self);
                    }
                    Request::Wake => {}
                    Request::Failed(id, epoch, error) => self.fail_flow(id, epoch, &error),
                    Request::MemoryExceeded(epoch) => self.relieve_memory(epoch),
                    Request::Shutdown => return,
                }
                request = if writes.len() < EPOCH_WRITES_MAX { self.take_request() } else { None };
            }
            self.close_epoch(writes);
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

    /// How long until there is something to do without a request. While the write order is `held`, sources wait.
    fn until_due(&mut self, held: Option<Duration>) -> Option<Duration> {
        let stall = self.has_epochs_in_flight().then(|| (self.max_stall / 8).max(Duration::from_millis(1)));
        let now = self.has_write_to_admit().then_some(Duration::ZERO);
        [held.or_else(|| self.until_sources_are_due()), self.until_writes_are_due(), stall, now]
            .into_iter()
            .flatten()
            .min()
    }

    /// A header with the next epoch's number.
    pub(crate) fn next_header(&mut self) -> EpochHeader {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64);
        self.last_now_us = self.last_now_us.max(now);
        self.last_epoch = self.last_epoch.next();
        EpochHeader { epoch: self.last_epoch, now_us: self.last_now_us }
    }

    /// Makes an epoch known as closed.
    pub(crate) fn publish(&self, epoch: Epoch) {
        self.clock.last_closed.store(epoch.0, Ordering::Release);
    }

    /// Sends each worker its part of an epoch.
    fn send_epoch(&self, header: &EpochHeader, parts: Vec<Vec<(RelationId, millstream_runtime::RelationInput)>>) {
        for (worker, inputs) in parts.into_iter().enumerate() {
            self.workers.send(worker, Command::Epoch(EpochWork { header: header.clone(), inputs }));
        }
    }
}
