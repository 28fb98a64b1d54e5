//! Changes of the catalog within a transaction block: the transaction sees them at once, others when it commits.
//!
//! A statement is checked against the transaction's own version of the catalog and kept. At the commit, if nobody else
//! has changed the catalog meanwhile, the statements are run for real, still under names that only the transaction
//! knows; then its writes are committed, and with that the names are made known. Whatever fails takes all of it back.

use std::sync::Arc;

use millstream_planner::ast::{CreateRelation, RelationKind, Statement};
use millstream_planner::catalog::{Created, Relation};
use millstream_planner::{Catalog, Purpose, RelationId, bind_query};
use millstream_types::{Error, Result, SqlState};

use super::dataflows::{ViewOptions, check_replaced, plan_view};
use super::ddl::named_columns;
use super::{Session, ddl_of, done};
use crate::api::Response;
use crate::coordinator::{Coordinator, Publication, Request};
use crate::engine::EngineState;
use crate::live::LiveRelation;
use crate::publish::CatalogLock;
use crate::retention::Retention;
use crate::transaction::SharedTransaction;

/// What a transaction block has done to the catalog.
#[derive(Clone)]
pub(super) struct CatalogChanges {
    /// The version that it began with.
    base_version: u64,
    pub(super) catalog: Catalog,
    statements: Vec<Statement>,
}

/// The catalog while the statements of a transaction are run for real. Dropping it takes back what they have made,
/// unless it was handed over with the commit.
pub(super) struct Unpublished {
    engine: Arc<EngineState>,
    pub(super) catalog: Catalog,
    /// Relations that go once the catalog is made known.
    dropped: Vec<Arc<Relation>>,
    /// Views that the statements wait for, once they are known.
    hydrating: Vec<Arc<LiveRelation>>,
    is_handed_over: bool,
}

impl Unpublished {
    fn new(engine: &Arc<EngineState>) -> Self {
        let catalog = engine.catalog.read().clone();
        let (dropped, hydrating) = (Vec::new(), Vec::new());
        Unpublished { engine: Arc::clone(engine), catalog, dropped, hydrating, is_handed_over: false }
    }

    fn drop_later(&mut self, catalog: Catalog, gone: Vec<Arc<Relation>>) {
        self.catalog = catalog;
        self.dropped.extend(gone);
    }

    pub(super) fn wait_later(&mut self, view: Option<Arc<LiveRelation>>) {
        self.hydrating.extend(view);
    }

    /// What has to become of the catalog with the commit.
    fn hand_over(&mut self, lock: &CatalogLock) -> Box<Publication> {
        self.is_handed_over = true;
        self.engine.publication(&self.catalog, std::mem::take(&mut self.dropped), lock)
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        if self.is_handed_over {
            return;
        }
        let known = self.engine.catalog.read().clone();
        let made = self.catalog.relations().filter(|r| known.get(r.id).is_none());
        // Views go before what they are built on.
        let gone: Vec<Arc<Relation>> = made.cloned().collect::<Vec<_>>().into_iter().rev().collect();
        if gone.is_empty() {
            return;
        }
        let work = move |c: &mut Coordinator| c.drop_all(&gone, &known);
        // Without a coordinator there is nothing to take back.
        let _ = self.engine.clock.request(Request::BetweenEpochs(Box::new(work)));
    }
}

impl Session {
    /// Checks a statement that changes the catalog and keeps it for the commit.
    ///
    /// # Errors
    /// Those of the statement; 0A000 for what reaches beyond the engine.
    pub(super) async fn change_catalog(&mut self, statement: &Statement) -> Result<Response> {
        let base_version = match &self.block.changes {
            Some(changes) => changes.base_version,
            None => self.engine.catalog.read().version(),
        };
        let mut catalog = self.catalog();
        let made = match statement {
            Statement::CreateTable(create) => {
                check_no_options(create, "table")?;
                let created = catalog.create_table(create)?;
                self.made(created)
            }
            Statement::CreateStream(create) if !create.options.iter().any(|(name, _)| name == "connector") => {
                Retention::of(&create.options)?;
                let created = catalog.create_stream(create, None)?;
                self.made(created)
            }
            Statement::CreateView(create) => {
                let bound = bind_query(&catalog, &create.query, &[], Purpose::AdHoc)?;
                let columns = named_columns(&bound.columns, create)?;
                let created = catalog.create_view(create, RelationKind::View, columns, bound.relations)?;
                if let Created::Replaced(view) = &created {
                    check_replaced(&catalog, view, true)?;
                }
                self.made(created);
                None
            }
            Statement::CreateMaterializedView(create) => {
                ViewOptions::of(&create.options)?;
                let planned = plan_view(&mut catalog, create, &[])?;
                self.made(planned.created);
                None
            }
            Statement::CreateIndex(create) => {
                let created = catalog.create_index(create)?;
                self.made(created);
                None
            }
            Statement::Drop(drop) => {
                let dropped = catalog.drop(drop)?;
                dropped.notices.into_iter().for_each(|n| self.notice(n));
                let ids: Vec<RelationId> = dropped.relations.iter().map(|r| r.id).collect();
                if let Some(transaction) = self.open_transaction().await? {
                    transaction.lock().await.forget(&ids);
                }
                None
            }
            other => {
                let what = ddl_of(other).unwrap_or_default();
                return Err(Error::not_supported(format!("{what} in a transaction block is not supported"))
                    .with_hint("It reaches beyond what a transaction can take back: run it before BEGIN."));
            }
        };
        if let (Some(relation), Some(transaction)) = (made, self.open_transaction().await?) {
            transaction.lock().await.add_unborn(&relation);
        }
        let mut statements = self.block.changes.take().map(|c| c.statements).unwrap_or_default();
        statements.push(statement.clone());
        self.block.changes = Some(CatalogChanges { base_version, catalog, statements });
        Ok(done(&ddl_of(statement).unwrap_or_default()))
    }

    /// Makes the changes of a transaction block, and commits what it has written, or neither.
    ///
    /// # Errors
    /// 40001 if somebody else has changed the catalog meanwhile; those of the statements and of the commit.
    pub(super) async fn commit_changes(
        &mut self,
        changes: CatalogChanges,
        transaction: Option<SharedTransaction>,
    ) -> Result<()> {
        for view in self.make_and_publish(&changes, transaction).await? {
            // The transaction has committed: a view that fails says so whenever it is read.
            if let Err(error) = view.follows().await {
                self.warn(error.state(), &error.fields().message.clone());
            }
        }
        Ok(())
    }

    /// Gives the views that are still to take in what there is.
    async fn make_and_publish(
        &mut self,
        changes: &CatalogChanges,
        transaction: Option<SharedTransaction>,
    ) -> Result<Vec<Arc<LiveRelation>>> {
        let engine = Arc::clone(&self.engine);
        let lock = engine.lock_catalog().await;
        if engine.catalog.read().version() != changes.base_version {
            let message = "could not serialize access due to a concurrent change of the catalog";
            return Err(Error::user(SqlState::SERIALIZATION_FAILURE, message)
                .with_hint("The transaction might succeed if retried."));
        }
        self.unpublished = Some(Unpublished::new(&engine));
        let outcome = self.make_and_write(changes, transaction, &lock).await;
        let unpublished = self.unpublished.take();
        outcome?;
        let mut unpublished = unpublished.ok_or_else(|| Error::internal("the catalog's new version is gone"))?;
        Ok(std::mem::take(&mut unpublished.hydrating))
    }

    async fn make_and_write(
        &mut self,
        changes: &CatalogChanges,
        transaction: Option<SharedTransaction>,
        lock: &CatalogLock,
    ) -> Result<()> {
        let n_notices = self.notices.len();
        for statement in &changes.statements {
            match statement {
                Statement::CreateTable(create) => self.create_table(create).await?,
                Statement::CreateStream(create) => self.create_stream(create).await?,
                Statement::CreateView(create) => self.create_view(create).await?,
                Statement::CreateMaterializedView(create) => self.create_materialized_view(create).await?,
                Statement::CreateIndex(create) => self.create_index(create).await?,
                Statement::Drop(drop) => self.drop_relations(drop).await?,
                _ => return Err(Error::internal("a statement that is not deferred")),
            };
        }
        // They were told when the statements were given.
        self.notices.truncate(n_notices);
        let publication = self.unpublished.as_mut().map(|unpublished| unpublished.hand_over(lock));
        self.commit_staged(transaction, publication).await
    }

    /// The catalog that statements plan against.
    pub(super) fn catalog(&self) -> Catalog {
        let catalog = match (&self.unpublished, &self.block.changes) {
            (Some(unpublished), _) => unpublished.catalog.clone(),
            (None, Some(changes)) => changes.catalog.clone(),
            (None, None) => self.engine.catalog.read().clone(),
        };
        catalog.with_settings(self.format_settings())
    }

    /// Whether all sessions see the catalog as this one does.
    pub(super) fn sees_published_catalog(&self) -> bool {
        self.unpublished.is_none() && self.block.changes.is_none()
    }

    /// The right to change the catalog; `None` if this session has it already.
    pub(super) async fn lock_catalog(&self) -> Option<CatalogLock> {
        if self.unpublished.is_some() { None } else { Some(self.engine.lock_catalog().await) }
    }

    /// Makes a version of the catalog known, without relations that are gone, or keeps it until the transaction has
    /// committed.
    pub(super) async fn publish(
        &mut self,
        catalog: Catalog,
        gone: Vec<Arc<Relation>>,
        lock: Option<&CatalogLock>,
    ) -> Result<()> {
        match (&mut self.unpublished, lock) {
            (Some(unpublished), _) => unpublished.drop_later(catalog, gone),
            (None, Some(lock)) => self.engine.publish(&catalog, gone, lock).await?,
            (None, None) => return Err(Error::internal("the catalog is changed without the right to")),
        }
        Ok(())
    }
}

fn check_no_options(create: &CreateRelation, what: &str) -> Result<()> {
    match create.options.first() {
        Some((name, _)) => Err(Error::not_supported(format!("option \"{name}\" of a {what} is not supported yet"))),
        None => Ok(()),
    }
}
