//! `CREATE` and `DROP` of what is not a dataflow of its own.

use std::sync::Arc;

use millstream_connectors::ColumnDeclaration;
use millstream_planner::ast::{self, CreateIndex, CreateRelation, CreateView, RelationKind};
use millstream_planner::catalog::{Column, Created, Kind, Relation};
use millstream_planner::dml::settle_defaults;
use millstream_planner::{Catalog, Purpose, bind_query};
use millstream_types::{Epoch, Error, Result, SqlState, SqlType};

use super::dataflows::{check_replaced, plan_dependents};
use super::{Session, done};
use crate::api::Response;
use crate::bases::source_of;
use crate::live::LiveRelation;
use crate::publish::CatalogLock;
use crate::retention::Retention;

impl Session {
    pub(super) async fn create_table(&mut self, create: &CreateRelation) -> Result<Response> {
        let lock = self.lock_catalog().await;
        if let Some((name, _)) = create.options.first() {
            return Err(Error::not_supported(format!("option \"{name}\" of a table is not supported yet")));
        }
        let mut catalog = self.catalog();
        let mut create = create.clone();
        settle_defaults(&catalog, &mut create)?;
        let created = catalog.create_table(&create)?;
        let Some(relation) = self.made(created) else { return Ok(done("CREATE TABLE")) };
        self.create_store(catalog, relation, lock.as_ref()).await?;
        Ok(done("CREATE TABLE"))
    }

    pub(super) async fn create_stream(&mut self, create: &CreateRelation) -> Result<Response> {
        let lock = self.lock_catalog().await;
        if create.options.iter().any(|(name, _)| name == "connector") {
            return self.create_source(create, lock.as_ref()).await;
        }
        Retention::of(&create.options)?;
        let mut catalog = self.catalog();
        let mut create = create.clone();
        settle_defaults(&catalog, &mut create)?;
        let created = catalog.create_stream(&create, None)?;
        let Some(relation) = self.made(created) else { return Ok(done("CREATE STREAM")) };
        self.create_store(catalog, relation, lock.as_ref()).await?;
        Ok(done("CREATE STREAM"))
    }

    /// A stream that reads from a connector.
    async fn create_source(&mut self, create: &CreateRelation, lock: Option<&CatalogLock>) -> Result<Response> {
        let declared: Vec<ColumnDeclaration> = create
            .columns
            .iter()
            .map(|c| ColumnDeclaration { name: c.name.name.clone(), sql_type: c.sql_type.clone() })
            .collect();
        let mut catalog = self.catalog();
        let source = source_of(&catalog, create.options.clone(), declared.clone())?;
        let schema = source.schema();
        let columns = schema.fields().iter().map(|f| {
            // Arrow does not know how long a varchar may be.
            let is_it = |d: &&ColumnDeclaration| d.name == *f.name() && d.sql_type.arrow_type() == *f.data_type();
            let sql_type = declared.iter().find(is_it).map(|d| d.sql_type.clone());
            sql_type
                .or_else(|| SqlType::of_arrow(f.data_type()))
                .map(|t| Column::new(f.name(), t))
                .ok_or_else(|| Error::internal("a connector's column has no SQL type"))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let created = catalog.create_stream(create, Some(columns))?;
        let Some(relation) = self.made(created) else { return Ok(done("CREATE STREAM")) };
        let (live, spec) = self.engine.sourced(relation, source);
        self.engine.clock.between_epochs(move |c| c.create_base(live, spec)).await?;
        self.publish(catalog, vec![], lock).await?;
        Ok(done("CREATE STREAM"))
    }

    /// A relation whose rows are kept.
    async fn create_store(
        &mut self,
        catalog: Catalog,
        relation: Arc<Relation>,
        lock: Option<&CatalogLock>,
    ) -> Result<()> {
        let (live, spec) = self.engine.stored(relation);
        let made = Arc::clone(&live);
        self.engine.clock.between_epochs(move |c| c.create_base(live, spec)).await?;
        wait_until_made(&made).await?;
        self.publish(catalog, vec![], lock).await?;
        Ok(())
    }

    /// Makes or replaces a view. What reads it is built anew if it now says something else.
    pub(super) async fn create_view(&mut self, create: &CreateView) -> Result<Response> {
        let lock = self.lock_catalog().await;
        let mut catalog = self.catalog();
        let bound = bind_query(&catalog, &create.query, &[], Purpose::AdHoc)?;
        let columns = named_columns(&bound.columns, create)?;
        let created = catalog.create_view(create, RelationKind::View, columns, bound.relations)?;
        let replaced = match &created {
            Created::Replaced(view) => Some(Arc::clone(view)),
            _ => None,
        };
        if let Some(view) = &replaced {
            check_replaced(&catalog, view, self.unpublished.is_some())?;
            plan_dependents(&mut catalog, view)?;
        }
        self.made(created);
        self.publish(catalog, vec![], lock.as_ref()).await?;
        drop(lock);
        if let Some(view) = replaced {
            self.rebuild_dependents(&view).await?;
        }
        Ok(done("CREATE VIEW"))
    }

    pub(super) async fn create_index(&mut self, create: &CreateIndex) -> Result<Response> {
        let lock = self.lock_catalog().await;
        let mut catalog = self.catalog();
        let created = catalog.create_index(create)?;
        let Some(relation) = self.made(created) else { return Ok(done("CREATE INDEX")) };
        if let Kind::Index(index) = &relation.kind {
            let (id, catalog) = (index.relation, catalog.clone());
            self.engine.clock.between_epochs(move |c| c.set_indexes(id, &catalog)).await?;
        }
        self.publish(catalog, vec![], lock.as_ref()).await?;
        Ok(done("CREATE INDEX"))
    }

    pub(super) async fn drop_relations(&mut self, drop: &ast::Drop) -> Result<Response> {
        let lock = self.lock_catalog().await;
        let mut catalog = self.catalog();
        let dropped = catalog.drop(drop)?;
        dropped.notices.into_iter().for_each(|n| self.notice(n));
        let gone = dropped.relations;
        self.publish(catalog, gone, lock.as_ref()).await?;
        Ok(Response::Done { tag: format!("DROP {}", drop.kind.keywords()) })
    }

    /// The relation, if one was made; tells the user if it was there already.
    pub(super) fn made(&mut self, created: Created) -> Option<Arc<Relation>> {
        match created {
            Created::New(relation) | Created::Replaced(relation) => Some(relation),
            Created::Exists(notice) => {
                self.notice(notice);
                None
            }
        }
    }
}

/// Waits until all workers have made their parts of a store.
async fn wait_until_made(live: &LiveRelation) -> Result<()> {
    while !live.shared.is_ready() {
        if let Some(failed) = live.failure() {
            return Err(failed.cause.clone());
        }
        tokio::time::sleep(std::time::Duration::from_micros(50)).await;
    }
    live.completed(Epoch::ZERO).await
}

/// The columns of a view, under the names that its statement gives.
pub(super) fn named_columns(columns: &[(String, SqlType)], create: &CreateView) -> Result<Vec<Column>> {
    if create.columns.len() > columns.len() {
        return Err(Error::user(SqlState::SYNTAX_ERROR, "CREATE VIEW specifies more column names than columns"));
    }
    let names = create.columns.iter().map(|c| Some(c.name.clone())).chain(std::iter::repeat(None));
    let columns = columns
        .iter()
        .zip(names)
        .map(|((name, t), given)| Column::new(given.unwrap_or_else(|| name.clone()), t.clone()));
    Ok(columns.collect())
}
