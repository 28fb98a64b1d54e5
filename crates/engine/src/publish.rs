//! Making versions of the catalog known: in the order of everything that is written, once that is durable.

use std::sync::{Arc, Weak};

use millstream_planner::Catalog;
use millstream_planner::catalog::Relation;
use millstream_types::Result;
use millstream_types::pg::FormatSettings;
use tokio::sync::OwnedMutexGuard;

use crate::coordinator::{Commit, Coordinator, Publication, Request};
use crate::engine::EngineState;

/// The right to change the catalog, given back with its last clone.
pub(crate) type CatalogLock = Arc<OwnedMutexGuard<()>>;

impl EngineState {
    /// Waits for the right to change the catalog: it is held from reading it to having changed it.
    pub(crate) async fn lock_catalog(&self) -> CatalogLock {
        Arc::new(Arc::clone(&self.ddl).lock_owned().await)
    }

    /// Makes a version of the catalog the one that everybody sees, and lets go of relations that are not in it. If it
    /// comes to nothing, relations that are new in it go.
    ///
    /// Once this was polled it happens, or not, whatever becomes of who waits for it.
    ///
    /// # Errors
    /// 53100 if there is no room to note it.
    pub(crate) async fn publish(
        self: &Arc<Self>,
        catalog: &Catalog,
        gone: Vec<Arc<Relation>>,
        lock: &CatalogLock,
    ) -> Result<()> {
        let publication = Some(self.publication(catalog, gone, lock));
        self.clock.write(Commit { publication, ..Commit::default() }).await.map(|_| ())
    }

    /// As [`EngineState::publish`], as a part of a commit.
    pub(crate) fn publication(
        self: &Arc<Self>,
        catalog: &Catalog,
        gone: Vec<Arc<Relation>>,
        lock: &CatalogLock,
    ) -> Box<Publication> {
        // Settings are the session's.
        let catalog = catalog.clone().with_settings(FormatSettings::default());
        let known = self.catalog.read().clone();
        let change = catalog.change_since(&known);
        // Views go before what they are built on.
        let is_new = |r: &&Arc<Relation>| known.get(r.id).is_none() && known.arrangements().all(|a| a.id != r.id);
        let made = catalog.relations().chain(catalog.arrangements()).filter(is_new);
        let mut made: Vec<Arc<Relation>> = made.cloned().collect();
        made.sort_by_key(|r| std::cmp::Reverse(r.id));
        let (engine, lock) = (Arc::downgrade(self), Arc::clone(lock));
        Box::new(Publication {
            change,
            publish: Box::new(move || make_known(&engine, catalog, gone, lock)),
            take_back: Box::new(move |coordinator| coordinator.drop_all(&made, &known)),
        })
    }
}

fn make_known(engine: &Weak<EngineState>, catalog: Catalog, gone: Vec<Arc<Relation>>, lock: CatalogLock) {
    let Some(engine) = engine.upgrade() else { return };
    *engine.catalog.write() = catalog.clone();
    drop(lock);
    if !gone.is_empty() {
        let work = move |c: &mut Coordinator| c.drop_all(&gone, &catalog);
        // Without a coordinator everything is gone.
        let _ = engine.clock.request(Request::BetweenEpochs(Box::new(work)));
    }
}
