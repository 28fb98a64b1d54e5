//! Relations as the engine runs them: how far each is, who waits for it, and what became of it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use millstream_planner::RelationId;
use millstream_planner::catalog::{Kind, Relation};
use millstream_runtime::{DataflowMetrics, Intake, Pressure, RelationShared, RowErrorLog, Source};
use millstream_types::{Epoch, Error, ErrorKind, Result, SqlState};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::epoch_history::EpochEntry;

/// A relation that holds rows, or a sink.
pub(crate) struct LiveRelation {
    pub(crate) id: RelationId,
    /// As the catalog had it when it was made.
    pub(crate) relation: Arc<Relation>,
    pub(crate) shared: Arc<RelationShared>,
    pub(crate) body: Body,
    /// For each worker, the epoch up to which it is complete there.
    sealed: Vec<AtomicU64>,
    /// The last epoch that changes it, complete or not.
    last_touched: AtomicU64,
    /// Epochs that touch it and want to know when it has completed them, in order.
    awaited: Mutex<VecDeque<Arc<EpochEntry>>>,
    stage: AtomicU8,
    /// The epoch from which on it follows its inputs again: nothing before can be read.
    readable_from: AtomicU64,
    /// It does so for the first time after a start.
    came_back: AtomicBool,
    /// How many wait for something about it.
    n_waiting: AtomicUsize,
    failure: OnceLock<Failed>,
    dropped: AtomicBool,
    changed: Notify,
}

/// How far a dataflow is with its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// It takes them in for the first time.
    Hydrating,
    /// After a start: its state is read back.
    Restoring,
    /// It has its state, and takes in what came after that.
    Replaying,
    /// It has fallen behind and takes in what it has missed.
    CatchingUp,
    /// It follows them.
    Following,
}

/// How a relation came to an end.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    /// The epoch in which it failed.
    pub(crate) epoch: Epoch,
    /// Why.
    pub(crate) cause: Error,
    /// The view below that failed first, if it was not this one.
    pub(crate) origin: Option<Arc<Relation>>,
}

/// Where the rows come from.
pub(crate) enum Body {
    /// Written by clients.
    Stored,
    /// Read from a connector.
    Source {
        source: Arc<dyn Source>,
        /// The position at each epoch that advanced it and may still be asked for, ascending.
        positions: RwLock<Vec<(Epoch, u64)>>,
    },
    /// Kept up to date by a dataflow.
    Dataflow {
        metrics: DataflowMetrics,
        pressure: Arc<Pressure>,
        intake: Arc<Intake>,
        errors: Arc<RowErrorLog>,
        /// Tells its plan from others.
        plan_hash: u64,
        /// The columns whose hash says where its rows belong; none if they may be anywhere.
        place: Option<Vec<usize>>,
        /// The dataflow as EXPLAIN prints it.
        explain: Vec<String>,
        /// Its nodes' names and particulars, in order.
        operators: Vec<(String, String)>,
    },
}

/// One among those who do something, until it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Counted(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl LiveRelation {
    pub(crate) fn new(relation: Arc<Relation>, shared: Arc<RelationShared>, body: Body, n_workers: usize) -> Self {
        let stage = if matches!(body, Body::Dataflow { .. }) { Stage::Hydrating } else { Stage::Following };
        LiveRelation {
            id: relation.id,
            relation,
            shared,
            body,
            sealed: (0..n_workers).map(|_| AtomicU64::new(0)).collect(),
            last_touched: AtomicU64::new(0),
            awaited: Mutex::default(),
            stage: AtomicU8::new(stage as u8),
            readable_from: AtomicU64::new(0),
            came_back: AtomicBool::new(false),
            n_waiting: AtomicUsize::new(0),
            failure: OnceLock::new(),
            dropped: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    pub(crate) fn last_touched(&self) -> Epoch {
        Epoch(self.last_touched.load(Ordering::Acquire))
    }

    /// The first epoch at which it can be read, once it follows its inputs.
    pub(crate) fn started(&self) -> Epoch {
        Epoch(self.readable_from.load(Ordering::Acquire))
    }

    /// The coordinator alone calls this, before it makes the epoch known.
    pub(crate) fn touch(&self, epoch: Epoch) {
        self.last_touched.store(epoch.0, Ordering::Release);
    }

    /// An epoch that touches it is told when it has completed it. The coordinator alone calls this, before it sends the
    /// epoch to workers.
    pub(crate) fn tell(&self, entry: &Arc<EpochEntry>) {
        entry.await_one();
        self.awaited.lock().push_back(Arc::clone(entry));
    }

    pub(crate) fn seal(&self, worker: usize, epoch: Epoch) {
        self.sealed[worker].fetch_max(epoch.0, Ordering::AcqRel);
        self.tell_up_to(|| self.sealed());
        self.changed.notify_waiters();
    }

    /// Tells epochs that wait for it, up to one. Of several workers who seal it, the last sees what all have sealed.
    fn tell_up_to(&self, last: impl FnOnce() -> Epoch) {
        let mut awaited = self.awaited.lock();
        if awaited.is_empty() {
            return;
        }
        let last = last();
        while awaited.front().is_some_and(|entry| entry.epoch <= last) {
            awaited.pop_front().inspect(|entry| entry.note_complete());
        }
    }

    /// The epoch up to which all workers have completed it.
    pub(crate) fn sealed(&self) -> Epoch {
        Epoch(self.sealed.iter().map(|s| s.load(Ordering::Acquire)).min().unwrap_or(0))
    }

    /// The epoch up to which it is complete, at most one that was closed before this is called: that one, if nothing has
    /// touched it since.
    pub(crate) fn complete_to(&self, last_closed: Epoch) -> Epoch {
        let is_done = self.sealed() >= self.last_touched().min(last_closed);
        let follows = self.stage() == Stage::Following && self.failure().is_none();
        if follows && is_done { last_closed } else { self.sealed().min(last_closed) }
    }

    pub(crate) fn fail(&self, failed: Failed) {
        // Only the first failure counts.
        let _ = self.failure.set(failed);
        self.tell_up_to(|| Epoch::MAX);
        self.changed.notify_waiters();
    }

    /// Rows that are left out because an expression fails on them.
    pub(crate) fn n_row_errors(&self) -> usize {
        match &self.body {
            Body::Dataflow { errors, .. } => errors.len(),
            _ => 0,
        }
    }

    /// Tells a dataflow's plan from others.
    pub(crate) fn plan_hash(&self) -> Option<u64> {
        match &self.body {
            Body::Dataflow { plan_hash, .. } => Some(*plan_hash),
            _ => None,
        }
    }

    /// From now on rows that fail are known as of an epoch, too.
    pub(crate) fn mark_row_errors(&self, epoch: Epoch) {
        if let Body::Dataflow { errors, .. } = &self.body {
            errors.mark(epoch);
        }
    }

    pub(crate) fn failure(&self) -> Option<&Failed> {
        self.failure.get()
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            s if s == Stage::Hydrating as u8 => Stage::Hydrating,
            s if s == Stage::Restoring as u8 => Stage::Restoring,
            s if s == Stage::Replaying as u8 => Stage::Replaying,
            s if s == Stage::CatchingUp as u8 => Stage::CatchingUp,
            _ => Stage::Following,
        }
    }

    /// Whether it comes back after a start: who wants to read it waits.
    pub(crate) fn is_coming_back(&self) -> bool {
        matches!(self.stage(), Stage::Restoring | Stage::Replaying) && self.failure().is_none()
    }

    /// The coordinator alone calls this: it does not follow its inputs, or not yet.
    pub(crate) fn set_stage(&self, stage: Stage) {
        let comes_back = matches!(stage, Stage::Restoring | Stage::Replaying);
        self.came_back.store(comes_back, Ordering::Release);
        self.stage.store(stage as u8, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// The coordinator alone calls this: it has taken in all up to an epoch, and follows from there.
    pub(crate) fn follow_from(&self, epoch: Epoch) {
        self.readable_from.store(epoch.0, Ordering::Release);
        self.stage.store(Stage::Following as u8, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(crate) fn drop_it(&self) {
        self.dropped.store(true, Ordering::Release);
        self.tell_up_to(|| Epoch::MAX);
        self.changed.notify_waiters();
    }

    /// Waits until the relation's rows as of an epoch can be read. One that comes back is waited for.
    ///
    /// # Errors
    /// 55000 if its dataflow has failed or does not follow its inputs yet, 42P01 if it was dropped meanwhile; 40001 if it
    /// has come back as of a later epoch.
    pub(crate) async fn completed(&self, epoch: Epoch) -> Result<()> {
        self.until(|| {
            self.check()?;
            if self.is_coming_back() {
                return Ok(false);
            }
            if epoch < self.started() && self.came_back.load(Ordering::Acquire) {
                let message = format!("could not serialize access: {} was not back yet", self.described());
                return Err(Error::user(SqlState::SERIALIZATION_FAILURE, message)
                    .with_hint("The transaction might succeed if retried."));
            }
            if self.stage() != Stage::Following || epoch < self.started() {
                return Err(self.not_readable());
            }
            let needed = self.last_touched();
            // A relation that nothing has touched since is complete.
            Ok(self.sealed() >= needed.min(epoch) && self.shared.is_ready())
        })
        .await
    }

    /// Waits until it is back, if it comes back after a start. What is read then is read as of a later epoch.
    ///
    /// # Errors
    /// As [`LiveRelation::check`].
    pub(crate) async fn back(&self) -> Result<()> {
        self.until(|| self.check().map(|()| !self.is_coming_back())).await
    }

    /// Waits until its dataflow follows its inputs.
    ///
    /// # Errors
    /// 55000 if it has failed, 42P01 if it was dropped meanwhile.
    pub(crate) async fn follows(&self) -> Result<()> {
        self.until(|| self.check().map(|()| self.stage() == Stage::Following)).await
    }

    /// Whether somebody waits for something about it.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.n_waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits until something is so.
    async fn until(&self, is_so: impl Fn() -> Result<bool>) -> Result<()> {
        let mut waiting = None;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if is_so()? {
                return Ok(());
            }
            waiting.get_or_insert_with(|| Counted::new(&self.n_waiting));
            changed.await;
        }
    }

    /// Ready when something about the relation changes after this was enabled.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// The kind and name, for messages.
    pub(crate) fn described(&self) -> String {
        format!("{} \"{}\"", self.relation.kind.noun(), self.relation.name)
    }

    /// # Errors
    /// 55000 if the relation has failed, 42P01 if it was dropped.
    pub(crate) fn check(&self) -> Result<()> {
        if self.dropped.load(Ordering::Acquire) {
            return Err(Error::user(SqlState::UNDEFINED_TABLE, format!("{} was dropped", self.described())));
        }
        let Some(Failed { epoch, cause, origin }) = self.failure() else { return Ok(()) };
        let fields = cause.fields();
        if matches!(self.relation.kind, Kind::Table | Kind::Stream) {
            let message = format!("{} is damaged: {}", self.described(), fields.message);
            return Err(Error::new(ErrorKind::External, fields.state, message).with_hint(format!(
                "Stop the server, put the file back from a copy and start again; or drop the {}. Nothing of it is lost \
                 until then, and no checkpoint is written.",
                self.relation.kind.noun()
            )));
        }
        let mut detail = format!("It failed in epoch {epoch} with SQLSTATE {}.", fields.state.0);
        if let Some(cause) = &fields.detail {
            detail = format!("{detail} {cause}");
        }
        let (message, hint) = match origin {
            None => (
                format!("{} has failed: {}", self.described(), fields.message),
                format!("REFRESH MATERIALIZED VIEW {} rebuilds it.", self.relation.name),
            ),
            Some(origin) => (
                format!(
                    "{} has failed with {} \"{}\", which it is built on: {}",
                    self.described(),
                    origin.kind.noun(),
                    origin.name,
                    fields.message
                ),
                match origin.arranges() {
                    Some(_) => format!("REFRESH MATERIALIZED VIEW {} rebuilds it.", self.relation.name),
                    None => format!("REFRESH MATERIALIZED VIEW {} CASCADE rebuilds both.", origin.name),
                },
            ),
        };
        Err(Error::user(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message).with_detail(detail).with_hint(hint))
    }

    /// The error for who wants to read it before it follows its inputs.
    pub(crate) fn not_readable(&self) -> Error {
        let doing = match self.stage() {
            Stage::Hydrating => "is still being built",
            Stage::Restoring | Stage::Replaying => "is not back yet",
            Stage::CatchingUp | Stage::Following => "has fallen behind and is catching up",
        };
        let message = format!("{} {doing}", self.described());
        Error::user(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message).with_hint("SHOW JOBS tells how far it is.")
    }

    /// The position of a source as of an epoch; 0 for other relations.
    pub(crate) fn position(&self, epoch: Epoch) -> u64 {
        match &self.body {
            Body::Source { positions, .. } => {
                let positions = positions.read();
                let after = positions.partition_point(|(e, _)| *e <= epoch);
                after.checked_sub(1).map_or(0, |i| positions[i].1)
            }
            _ => 0,
        }
    }

    /// Notes a source's position, and forgets those that nobody can ask for.
    pub(crate) fn advance(&self, epoch: Epoch, position: u64) {
        if let Body::Source { positions, .. } = &self.body {
            let since = self.shared.holds.advance(epoch);
            let mut positions = positions.write();
            positions.push((epoch, position));
            let after = positions.partition_point(|(e, _)| *e <= since);
            positions.drain(..after.saturating_sub(1));
        }
    }
}
