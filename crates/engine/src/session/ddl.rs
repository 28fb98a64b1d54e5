//! `CREATE` and `DROP`.

use std::sync::Arc;

use millstream_connectors::{ColumnDeclaration, SinkKind, SourceOptions, create_source};
use millstream_operators::{Dataflow, Node};
use millstream_planner::ast::{self, CreateIndex, CreateRelation, CreateSink, CreateView, RelationKind, SinkInput};
use millstream_planner::catalog::{Column, Created, Kind, NewRelation, Relation, View};
use millstream_planner::streaming::{self, StreamingPlan};
use millstream_planner::{Catalog, Purpose, RelationId, bind_query, optimize};
use millstream_runtime::{
    Command, DataflowMetrics, Import, InstallDataflow, RelationShared, RelationSpec, Root, RowErrorLog, Sink,
    SinkWriter,
};
use millstream_state::ArrangementSpec;
use millstream_types::{Delta, Epoch, Error, Result, SqlState, SqlType};

use super::{Session, done};
use crate::api::Response;
use crate::live::{Body, LiveRelation};

impl Session {
    pub(super) async fn create_table(&mut self, create: &CreateRelation) -> Result<Response> {
        let engine = Arc::clone(&self.engine);
        let _ddl = engine.ddl.lock().await;
        if let Some((name, _)) = create.options.first() {
            return Err(Error::not_supported(format!("option \"{name}\" of a table is not supported yet")));
        }
        let mut catalog = self.catalog();
        let created = catalog.create_table(create)?;
        let Some(relation) = self.made(created) else { return Ok(done("CREATE TABLE")) };
        self.create_store(catalog, relation).await?;
        Ok(done("CREATE TABLE"))
    }

    pub(super) async fn create_stream(&mut self, create: &CreateRelation) -> Result<Response> {
        let engine = Arc::clone(&self.engine);
        let _ddl = engine.ddl.lock().await;
        if create.options.iter().any(|(name, _)| name == "connector") {
            return self.create_source(create).await;
        }
        if let Some((name, _)) = create.options.first() {
            return Err(Error::not_supported(format!("option \"{name}\" of a stream is not supported yet")));
        }
        let mut catalog = self.catalog();
        let created = catalog.create_stream(create, None)?;
        let Some(relation) = self.made(created) else { return Ok(done("CREATE STREAM")) };
        self.create_store(catalog, relation).await?;
        Ok(done("CREATE STREAM"))
    }

    /// A stream that reads from a connector.
    async fn create_source(&mut self, create: &CreateRelation) -> Result<Response> {
        let declared: Vec<ColumnDeclaration> = create
            .columns
            .iter()
            .map(|c| ColumnDeclaration { name: c.name.name.clone(), sql_type: c.sql_type.clone() })
            .collect();
        let options = SourceOptions::new(create.options.clone())?.with_columns(declared);
        let source = create_source(&options)?;
        let schema = source.schema();
        let columns = schema.fields().iter().map(|f| {
            let sql_type = SqlType::of_arrow(f.data_type());
            sql_type
                .map(|t| Column::new(f.name(), t))
                .ok_or_else(|| Error::internal("a connector's column has no SQL type"))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let mut catalog = self.catalog();
        let created = catalog.create_stream(create, Some(columns))?;
        let Some(relation) = self.made(created) else { return Ok(done("CREATE STREAM")) };
        let n_workers = self.engine.config.workers;
        let shared = Arc::new(RelationShared::new(n_workers));
        let spec = RelationSpec::Source { source: Arc::clone(&source), shared: Arc::clone(&shared) };
        shared.mark_unstored();
        let body = Body::Source { source, positions: parking_lot::RwLock::default() };
        let live = Arc::new(LiveRelation::new(relation, shared, body, n_workers));
        self.engine.clock.between_epochs(move |c| c.create_base(live, spec)).await?;
        *self.engine.catalog.write() = catalog;
        Ok(done("CREATE STREAM"))
    }

    /// A relation whose rows are kept.
    async fn create_store(&mut self, catalog: Catalog, relation: Arc<Relation>) -> Result<()> {
        let n_workers = self.engine.config.workers;
        let shared = Arc::new(RelationShared::new(n_workers));
        let identity = (relation.kind == Kind::Table).then(|| relation.primary_key.clone());
        let arrangement = ArrangementSpec { schema: relation.full_schema(), identity, indexes: vec![] };
        let spec = RelationSpec::Stored { arrangement, shared: Arc::clone(&shared) };
        let live = Arc::new(LiveRelation::new(relation, shared, Body::Stored, n_workers));
        let made = Arc::clone(&live);
        self.engine.clock.between_epochs(move |c| c.create_base(live, spec)).await?;
        wait_until_made(&made).await?;
        *self.engine.catalog.write() = catalog;
        Ok(())
    }

    pub(super) async fn create_view(&mut self, create: &CreateView) -> Result<Response> {
        let engine = Arc::clone(&self.engine);
        let _ddl = engine.ddl.lock().await;
        let mut catalog = self.catalog();
        let bound = bind_query(&catalog, &create.query, &[], Purpose::AdHoc)?;
        let columns = named_columns(&bound.columns, create)?;
        let created = catalog.create_view(create, RelationKind::View, columns, bound.relations)?;
        self.made(created);
        *self.engine.catalog.write() = catalog;
        Ok(done("CREATE VIEW"))
    }

    pub(super) async fn create_materialized_view(&mut self, create: &CreateView) -> Result<Response> {
        let engine = Arc::clone(&self.engine);
        let _ddl = engine.ddl.lock().await;
        if let Some((name, _)) = create.options.first() {
            return Err(Error::not_supported(format!("option \"{name}\" of a materialized view is not supported yet")));
        }
        let mut catalog = self.catalog();
        let bound = bind_query(&catalog, &create.query, &[], Purpose::View)?;
        let columns = named_columns(&bound.columns, create)?;
        let names = columns.iter().map(|c| (c.name.clone(), c.sql_type.clone())).collect::<Vec<_>>();
        let plan = streaming::plan(&optimize(bound.plan, Purpose::View, None)?, &names)?;
        let created = catalog.create_view(create, RelationKind::MaterializedView, columns, bound.relations)?;
        let Some(relation) = self.made(created) else { return Ok(done("CREATE MATERIALIZED VIEW")) };
        let shared = Arc::new(RelationShared::new(self.engine.config.workers));
        let result = plan.result.clone();
        let facts = (plan.result.append_only, plan.result.key.clone());
        let root = Root::Materialize { spec: result, shared: Arc::clone(&shared) };
        let live = self.install(relation, shared, plan, root).await?;
        if let Err(error) = live.completed(live.last_touched()).await {
            let id = live.id;
            self.engine.clock.between_epochs(move |c| c.drop_relation(id)).await?;
            return Err(live.failure().map_or(error, |(_, cause)| cause.clone()));
        }
        catalog.set_facts(live.id, facts.0, facts.1);
        *self.engine.catalog.write() = catalog;
        Ok(done("CREATE MATERIALIZED VIEW"))
    }

    pub(super) async fn create_sink(&mut self, create: &CreateSink) -> Result<Response> {
        let engine = Arc::clone(&self.engine);
        let _ddl = engine.ddl.lock().await;
        let connector = create.options.iter().find(|(name, _)| name == "connector").map(|(_, v)| v.as_str());
        let connector = connector
            .ok_or_else(|| Error::user(SqlState::INVALID_PARAMETER_VALUE, "a sink needs option \"connector\""))?;
        let SinkKind::Blackhole = SinkKind::of_connector(connector)?;
        let mut catalog = self.catalog();
        let (query, text) = match &create.input {
            SinkInput::Query(query, text) => (query.clone(), Some(text.clone())),
            SinkInput::Relation(name) => {
                catalog.resolve(name)?;
                (millstream_planner::parser::parse_query(&format!("SELECT * FROM {}", quoted(name)))?, None)
            }
        };
        let bound = bind_query(&catalog, &query, &[], Purpose::View)?;
        let plan = streaming::plan(&optimize(bound.plan, Purpose::View, None)?, &bound.columns)?;
        let columns = bound.columns.iter().map(|(name, t)| Column::new(name, t.clone())).collect();
        let new = NewRelation {
            options: create.options.clone(),
            depends_on: bound.relations,
            ..NewRelation::new(Kind::Sink(text.map(|text| View { text })), columns)
        };
        let created = catalog.create(&create.name, create.if_not_exists, new)?;
        let Some(relation) = self.made(created) else { return Ok(done("CREATE SINK")) };
        let shared = Arc::new(RelationShared::new(self.engine.config.workers));
        shared.mark_unstored();
        self.install(relation, shared, plan, Root::Sink(Arc::new(Blackhole))).await?;
        *self.engine.catalog.write() = catalog;
        Ok(done("CREATE SINK"))
    }

    /// Starts a dataflow on all workers.
    async fn install(
        &self,
        relation: Arc<Relation>,
        shared: Arc<RelationShared>,
        plan: StreamingPlan,
        root: Root,
    ) -> Result<Arc<LiveRelation>> {
        let n_workers = self.engine.config.workers;
        let StreamingPlan { dataflow, relations, .. } = plan;
        let metrics = DataflowMetrics::new(n_workers, dataflow.nodes.len());
        let errors = Arc::new(RowErrorLog::default());
        let body = Body::Dataflow {
            metrics: metrics.clone(),
            errors: Arc::clone(&errors),
            explain: dataflow.explain(),
            operators: operators_of(&dataflow),
        };
        let live = Arc::new(LiveRelation::new(Arc::clone(&relation), shared, body, n_workers));
        let imported: Vec<RelationId> = dataflow.imports().map(|(_, id, _)| id).collect();
        let started = Arc::clone(&live);
        let outcome = self.engine.clock.between_epochs(move |coordinator| -> Result<()> {
            let mut holds = Vec::new();
            let mut imports = Vec::new();
            for id in imported {
                let upstream = coordinator.clock.relation(id);
                let upstream =
                    upstream.ok_or_else(|| Error::user(SqlState::UNDEFINED_TABLE, "a relation was dropped"))?;
                upstream.check()?;
                let held = upstream.shared.holds.acquire(coordinator.clock.last_closed());
                holds.push(held.map_err(|_| Error::internal("the last closed epoch cannot be held"))?);
                imports.push(Import { relation: id, offsets: coordinator.source_position(id).map(|to| 0..to) });
            }
            coordinator.install(live, relations, |start| InstallDataflow {
                id: relation.id,
                name: relation.name.clone(),
                dataflow,
                root,
                start,
                imports,
                holds: parking_lot::Mutex::new(holds),
                metrics,
                errors,
            });
            Ok(())
        });
        outcome.await??;
        Ok(started)
    }

    pub(super) async fn create_index(&mut self, create: &CreateIndex) -> Result<Response> {
        let engine = Arc::clone(&self.engine);
        let _ddl = engine.ddl.lock().await;
        let mut catalog = self.catalog();
        let created = catalog.create_index(create)?;
        let Some(relation) = self.made(created) else { return Ok(done("CREATE INDEX")) };
        if let Kind::Index(index) = &relation.kind {
            let (id, columns) = (index.relation, index.columns.clone());
            let index = move |_| Command::CreateIndex(id, columns.clone());
            self.engine.clock.between_epochs(move |c| c.workers.send_all(index)).await?;
        }
        *self.engine.catalog.write() = catalog;
        Ok(done("CREATE INDEX"))
    }

    pub(super) async fn drop_relations(&mut self, drop: &ast::Drop) -> Result<Response> {
        let engine = Arc::clone(&self.engine);
        let _ddl = engine.ddl.lock().await;
        let mut catalog = self.catalog();
        let dropped = catalog.drop(drop)?;
        dropped.notices.into_iter().for_each(|n| self.notice(n));
        *self.engine.catalog.write() = catalog;
        let ids: Vec<RelationId> = dropped.relations.iter().map(|r| r.id).collect();
        let running = move |c: &mut crate::coordinator::Coordinator| {
            for id in ids {
                if c.clock.relation(id).is_some() {
                    c.drop_relation(id);
                }
            }
        };
        self.engine.clock.between_epochs(running).await?;
        Ok(Response::Done { tag: format!("DROP {}", drop.kind.keywords()) })
    }

    /// The relation, if one was made; tells the user if it was there already.
    fn made(&mut self, created: Created) -> Option<Arc<Relation>> {
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
        if let Some((_, error)) = live.failure() {
            return Err(error.clone());
        }
        tokio::time::sleep(std::time::Duration::from_micros(50)).await;
    }
    live.completed(Epoch::ZERO).await
}

/// The columns of a view, under the names that its statement gives.
fn named_columns(columns: &[(String, SqlType)], create: &CreateView) -> Result<Vec<Column>> {
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

fn quoted(name: &ast::Name) -> String {
    let quote = |part: &str| format!("\"{}\"", part.replace('"', "\"\""));
    match &name.schema {
        Some(schema) => format!("{}.{}", quote(schema), quote(&name.name)),
        None => quote(&name.name),
    }
}

fn operators_of(dataflow: &Dataflow) -> Vec<(String, String)> {
    let about = |node: &Node| match node {
        Node::Import { name, .. } => ("Import".to_owned(), name.clone()),
        Node::Operator { spec, .. } => (spec.name().to_owned(), spec.describe()),
    };
    dataflow.nodes.iter().map(about).collect()
}

/// Takes everything and keeps nothing.
struct Blackhole;

impl Sink for Blackhole {
    fn open(&self, _: usize) -> Result<Box<dyn SinkWriter>> {
        Ok(Box::new(BlackholeWriter))
    }
}

struct BlackholeWriter;

impl SinkWriter for BlackholeWriter {
    fn write(&mut self, _: Epoch, _: Vec<Delta>) -> Result<()> {
        Ok(())
    }
}
