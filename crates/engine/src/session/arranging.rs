//! Arrangements that views share: made before the second view that wants the same rows, dropped with the last.
//!
//! A join keeps a copy of the rows of each side that nobody has arranged by its key. The first view over `s JOIN t ON
//! s.k = t.k` is fastest with copies of its own; when another view wants the rows of `s` by `k`, there will be an
//! arrangement of them, with a dataflow of its own, so that neither view's failure nor its end harms the other.

use std::sync::Arc;

use millstream_operators::RelationId;
use millstream_planner::Catalog;
use millstream_planner::catalog::{JoinSide, Relation, plan_of};
use millstream_types::{Error, Result};

use super::dataflows::{install, view_root};
use crate::api::CancelHandle;
use crate::engine::EngineState;
use crate::live::{LiveRelation, Stage};
use crate::plans::StoredPlan;
use crate::publish::CatalogLock;

impl EngineState {
    /// The arrangements that a dataflow which starts now may share.
    pub(super) fn arrangements(&self, catalog: &Catalog) -> Vec<Arc<Relation>> {
        let is_usable = |r: &&Arc<Relation>| {
            self.clock.relation(r.id).is_some_and(|live| live.failure().is_none() && live.stage() == Stage::Following)
        };
        catalog.arrangements().filter(is_usable).cloned().collect()
    }
}

/// The arrangements that a statement has made. Those that nothing uses in the end go with this.
pub(super) struct Arranging {
    engine: Arc<EngineState>,
    made: Vec<RelationId>,
    has_tried: bool,
}

impl Arranging {
    pub(super) fn new(engine: &Arc<EngineState>) -> Self {
        Arranging { engine: Arc::clone(engine), made: Vec::new(), has_tried: false }
    }

    /// Starts what is worth it for a view that would keep these copies. Returns what to wait for before the view is
    /// planned again; nothing the second time. Called with the lock on the catalog.
    ///
    /// # Errors
    /// If the engine has ended.
    pub(super) async fn start(
        &mut self,
        copied: &[JoinSide],
        lock: Option<&CatalogLock>,
    ) -> Result<Vec<Arc<LiveRelation>>> {
        let Some(lock) = lock.filter(|_| !std::mem::replace(&mut self.has_tried, true)) else { return Ok(vec![]) };
        let mut catalog = self.engine.catalog.read().clone();
        let mut started = Vec::new();
        for side in catalog.worth_arranging(copied) {
            let same = catalog.arrangements().find(|r| r.arranges().is_some_and(|a| a.serves(&side))).cloned();
            if let Some(same) = same {
                // Somebody else has made it, and it is not there yet; or it has failed, and is of no use.
                started.extend(self.engine.clock.relation(same.id).filter(|live| live.failure().is_none()));
                continue;
            }
            let base = catalog.get(side.relation).cloned();
            let Some((base, arrangement)) = base.and_then(|base| Some((base, catalog.create_arrangement(side)?)))
            else {
                continue;
            };
            self.made.push(arrangement.id);
            let stored = StoredPlan::new(plan_of(&arrangement, &base))?;
            catalog.store_plan(arrangement.id, Arc::clone(&stored.bytes));
            self.engine.publish(&catalog, vec![], lock).await?;
            let (shared, root) = view_root(&self.engine, &stored.plan, None);
            // What cannot be read now is said of the view that reads it.
            if let Ok(live) = install(&self.engine, arrangement, shared, stored, root, true).await {
                started.push(live);
            }
        }
        Ok(started)
    }

    /// Waits until dataflows follow their inputs, or have failed.
    ///
    /// # Errors
    /// 57014 if the statement is cancelled.
    pub(super) async fn wait(started: &[Arc<LiveRelation>], cancel: &CancelHandle) -> Result<()> {
        for live in started {
            tokio::select! {
                // A view that cannot share keeps copies.
                _ = live.follows() => {}
                () = cancel.cancelled() => return Err(Error::cancelled()),
            }
        }
        Ok(())
    }
}

impl Drop for Arranging {
    fn drop(&mut self) {
        let made = std::mem::take(&mut self.made);
        if made.is_empty() {
            return;
        }
        let engine = Arc::clone(&self.engine);
        self.engine.query_runtime().spawn(async move {
            let lock = engine.lock_catalog().await;
            let mut catalog = engine.catalog.read().clone();
            let unused = catalog.forget_unused(&made);
            if !unused.is_empty() {
                // The engine may be ending; then everything is dropped.
                let _ = engine.publish(&catalog, unused, &lock).await;
            }
        });
    }
}
