//! Relations as the engine runs them: how far each is, who waits for it, and what became of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use millstream_planner::RelationId;
use millstream_planner::catalog::Relation;
use millstream_runtime::{DataflowMetrics, RelationShared, RowErrorLog, Source};
use millstream_types::{Epoch, Error, Result, SqlState};
use parking_lot::RwLock;
use tokio::sync::Notify;

/// A relation that holds rows, or a sink.
pub(crate) struct LiveRelation {
    pub(crate) id: RelationId,
    /// As the catalog had it when it was made.
    pub(crate) relation: Arc<Relation>,
    pub(crate) shared: Arc<RelationShared>,
    pub(crate) body: Body,
    /// For each worker, the epoch up to which it is complete there.
    sealed: Vec<AtomicU64>,
    /// A view's first epoch: before it there is nothing to be read.
    started: AtomicU64,
    /// The last epoch that changes it, complete or not.
    last_touched: AtomicU64,
    failure: OnceLock<(Epoch, Error)>,
    dropped: AtomicBool,
    changed: Notify,
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
        errors: Arc<RowErrorLog>,
        /// The dataflow as EXPLAIN prints it.
        explain: Vec<String>,
        /// Its nodes' names and particulars, in order.
        operators: Vec<(String, String)>,
    },
}

impl LiveRelation {
    pub(crate) fn new(relation: Arc<Relation>, shared: Arc<RelationShared>, body: Body, n_workers: usize) -> Self {
        LiveRelation {
            id: relation.id,
            relation,
            shared,
            body,
            sealed: (0..n_workers).map(|_| AtomicU64::new(0)).collect(),
            started: AtomicU64::new(0),
            last_touched: AtomicU64::new(0),
            failure: OnceLock::new(),
            dropped: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    pub(crate) fn last_touched(&self) -> Epoch {
        Epoch(self.last_touched.load(Ordering::Acquire))
    }

    /// The first epoch at which it can be read.
    pub(crate) fn started(&self) -> Epoch {
        Epoch(self.started.load(Ordering::Acquire))
    }

    /// The coordinator alone calls this, before it makes the epoch known.
    pub(crate) fn start(&self, epoch: Epoch) {
        self.started.store(epoch.0, Ordering::Release);
        self.touch(epoch);
    }

    /// The coordinator alone calls this, before it makes the epoch known.
    pub(crate) fn touch(&self, epoch: Epoch) {
        self.last_touched.store(epoch.0, Ordering::Release);
    }

    pub(crate) fn seal(&self, worker: usize, epoch: Epoch) {
        self.sealed[worker].fetch_max(epoch.0, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// The epoch up to which all workers have completed it.
    pub(crate) fn sealed(&self) -> Epoch {
        Epoch(self.sealed.iter().map(|s| s.load(Ordering::Acquire)).min().unwrap_or(0))
    }

    pub(crate) fn fail(&self, epoch: Epoch, error: Error) {
        // Only the first failure counts.
        let _ = self.failure.set((epoch, error));
        self.changed.notify_waiters();
    }

    pub(crate) fn failure(&self) -> Option<&(Epoch, Error)> {
        self.failure.get()
    }

    pub(crate) fn drop_it(&self) {
        self.dropped.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// Waits until the relation's rows as of an epoch can be read.
    ///
    /// # Errors
    /// 55000 if its dataflow has failed, 42P01 if it was dropped meanwhile.
    pub(crate) async fn completed(&self, epoch: Epoch) -> Result<()> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.check()?;
            let needed = self.last_touched();
            // A relation that nothing has touched since is complete.
            if self.sealed() >= needed.min(epoch) && self.shared.is_ready() {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Ready when something about the relation changes after this was enabled.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// # Errors
    /// As for [`LiveRelation::completed`].
    pub(crate) fn check(&self) -> Result<()> {
        let what = || format!("{} \"{}\"", self.relation.kind.noun(), self.relation.name);
        if let Some((epoch, cause)) = self.failure() {
            let fields = cause.fields();
            let message = format!("{} has failed: {}", what(), fields.message);
            let detail = format!("It failed in epoch {epoch} with SQLSTATE {}.", fields.state.0);
            let hint = format!("REFRESH MATERIALIZED VIEW {} rebuilds it.", self.relation.name);
            return Err(Error::user(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .with_detail(detail)
                .with_hint(hint));
        }
        if self.dropped.load(Ordering::Acquire) {
            return Err(Error::user(SqlState::UNDEFINED_TABLE, format!("{} was dropped", what())));
        }
        Ok(())
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
