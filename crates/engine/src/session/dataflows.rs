//! Materialized views and sinks: planned, started, waited for, rebuilt.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use millstream_connectors::SinkKind;
use millstream_operators::{Dataflow, Node};
use millstream_planner::ast::{self, CreateSink, CreateView, Refresh, RelationKind, SinkInput};
use millstream_planner::catalog::{Column, Created, Kind, NewRelation, Relation, View, plan_of};
use millstream_planner::streaming::{self, StreamingPlan};
use millstream_planner::{BoundQuery, Catalog, Purpose, RelationId, bind_query, optimize};
use millstream_runtime::{
    DataflowMetrics, InstallDataflow, Intake, Pressure, RelationShared, Root, RowErrorLog, Sink, SinkWriter,
};
use millstream_types::{Delta, Epoch, Error, Result, SqlState, SqlType};

use super::arranging::Arranging;
use super::ddl::named_columns;
use super::{Session, done};
use crate::api::Response;
use crate::checkpoints::Restored;
use crate::coordinator::{Coordinator, RestoreProgress, Start};
use crate::engine::EngineState;
use crate::live::{Body, LiveRelation};
use crate::memory::parse_bytes;
use crate::plans::StoredPlan;

/// Options of a materialized view.
pub(super) struct ViewOptions {
    memory_limit: Option<usize>,
    /// Whether the statement waits until the view follows its inputs.
    wait: bool,
}

impl ViewOptions {
    pub(super) fn of(options: &[(String, String)]) -> Result<Self> {
        let mut parsed = ViewOptions { memory_limit: None, wait: true };
        for (name, value) in options {
            match (name.as_str(), value.as_str()) {
                ("memory_limit", value) => parsed.memory_limit = Some(parse_bytes(value)?),
                ("wait", "true") => parsed.wait = true,
                ("wait", "false") => parsed.wait = false,
                ("wait", _) => {
                    let message = format!("invalid value for option \"wait\": \"{value}\"");
                    return Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, message));
                }
                _ => {
                    let message = format!("option \"{name}\" of a materialized view is not supported yet");
                    return Err(Error::not_supported(message));
                }
            }
        }
        Ok(parsed)
    }
}

impl Session {
    /// Makes a view and waits until it follows its inputs, without standing in anybody's way meanwhile.
    pub(super) async fn create_materialized_view(&mut self, create: &CreateView) -> Result<Response> {
        let engine = Arc::clone(&self.engine);
        let options = ViewOptions::of(&create.options)?;
        let mut arranging = Arranging::new(&engine);
        loop {
            let lock = self.lock_catalog().await;
            let mut catalog = self.catalog();
            let arrangements = engine.arrangements(&catalog);
            let planned = plan_view(&mut catalog, create, &arrangements)?;
            if matches!(planned.created, Created::New(_)) && self.waits_for_inputs(&planned.stored, lock.is_some()) {
                drop(lock);
                self.until_inputs_are_back(&planned.stored).await?;
                continue;
            }
            if options.wait && self.unpublished.is_none() && matches!(planned.created, Created::New(_)) {
                let started = arranging.start(&planned.stored.plan.copied, lock.as_ref()).await?;
                if !started.is_empty() {
                    drop(lock);
                    Arranging::wait(&started, &self.cancel).await?;
                    continue;
                }
            }
            let done = done("CREATE MATERIALIZED VIEW");
            let Some(relation) = self.made(planned.created) else { return Ok(done) };
            let live = self.install_view(relation, planned.stored, options.memory_limit).await?;
            self.publish(catalog, vec![], lock.as_ref()).await?;
            drop(lock);
            if let Some(unpublished) = &mut self.unpublished {
                unpublished.wait_later(options.wait.then_some(live));
            } else if options.wait {
                self.wait_or_drop(&live).await?;
            }
            return Ok(done);
        }
    }

    /// Whether a dataflow reads something that comes back after a start, for which the catalog need not be locked.
    fn waits_for_inputs(&self, stored: &StoredPlan, is_locked: bool) -> bool {
        let is_coming_back = |id| self.engine.clock.relation(id).is_some_and(|live| live.is_coming_back());
        is_locked && stored.plan.dataflow.imports().any(|(_, id, _)| is_coming_back(id))
    }

    async fn until_inputs_are_back(&self, stored: &StoredPlan) -> Result<()> {
        let imports: Vec<RelationId> = stored.plan.dataflow.imports().map(|(_, id, _)| id).collect();
        self.engine.clock.until_back(&imports).await
    }

    async fn install_view(
        &self,
        relation: Arc<Relation>,
        stored: StoredPlan,
        memory_limit: Option<usize>,
    ) -> Result<Arc<LiveRelation>> {
        let (shared, root) = view_root(&self.engine, &stored.plan, memory_limit);
        self.install(relation, shared, stored, root).await
    }

    /// Waits until a new dataflow follows its inputs. If it fails, or the statement is cancelled or its client has gone,
    /// the dataflow is dropped.
    async fn wait_or_drop(&mut self, live: &Arc<LiveRelation>) -> Result<()> {
        let unfinished = Unfinished { engine: Arc::clone(&self.engine), live: Some(Arc::clone(live)) };
        let cancel = self.cancel.clone();
        let outcome = tokio::select! {
            outcome = live.follows() => outcome,
            () = cancel.cancelled() => Err(Error::cancelled()),
        };
        match outcome {
            Ok(()) => {
                unfinished.forget();
                Ok(())
            }
            Err(error) => {
                unfinished.drop_now().await;
                Err(live.failure().map_or(error, |failed| failed.cause.clone()))
            }
        }
    }

    pub(super) async fn create_sink(&mut self, create: &CreateSink) -> Result<Response> {
        let engine = Arc::clone(&self.engine);
        let mut arranging = Arranging::new(&engine);
        loop {
            let lock = self.lock_catalog().await;
            let mut catalog = self.catalog();
            let arrangements = engine.arrangements(&catalog);
            let (created, stored) = plan_sink(&mut catalog, create, &arrangements)?;
            if matches!(created, Created::New(_)) && self.waits_for_inputs(&stored, lock.is_some()) {
                drop(lock);
                self.until_inputs_are_back(&stored).await?;
                continue;
            }
            if self.unpublished.is_none() && matches!(created, Created::New(_)) {
                let started = arranging.start(&stored.plan.copied, lock.as_ref()).await?;
                if !started.is_empty() {
                    drop(lock);
                    Arranging::wait(&started, &self.cancel).await?;
                    continue;
                }
            }
            if let Some(relation) = self.made(created) {
                self.install_sink(relation, stored).await?;
                self.publish(catalog, vec![], lock.as_ref()).await?;
            }
            return Ok(done("CREATE SINK"));
        }
    }

    async fn install_sink(&self, relation: Arc<Relation>, stored: StoredPlan) -> Result<Arc<LiveRelation>> {
        let (shared, root) = sink_root(&self.engine);
        self.install(relation, shared, stored, root).await
    }

    /// Starts a dataflow on all workers.
    async fn install(
        &self,
        relation: Arc<Relation>,
        shared: Arc<RelationShared>,
        stored: StoredPlan,
        root: Root,
    ) -> Result<Arc<LiveRelation>> {
        install(&self.engine, relation, shared, stored, root, true).await
    }

    /// Rebuilds a view that has failed, and with `CASCADE` those built on it that have failed with it.
    pub(super) async fn refresh(&mut self, refresh: &Refresh) -> Result<Response> {
        let engine = Arc::clone(&self.engine);
        let catalog = self.catalog();
        let target = catalog.resolve_kind(&refresh.name, RelationKind::MaterializedView)?.clone();
        let mut targets = vec![Arc::clone(&target)];
        if refresh.cascade {
            targets.extend(dependent_views(&catalog, &target));
        }
        let mut n_rebuilt = 0;
        for relation in targets {
            let Some(failed) = engine.clock.relation(relation.id).filter(|live| live.failure().is_some()) else {
                continue;
            };
            self.rebuild(&relation, failed).await?;
            n_rebuilt += 1;
        }
        if n_rebuilt == 0 {
            self.notice_of(&format!("materialized view \"{}\" is up to date, nothing to refresh", target.name));
        }
        let waits = dependent_views(&catalog, &target);
        let waits = waits.iter().filter(|r| engine.clock.relation(r.id).is_some_and(|l| l.failure().is_some()));
        for relation in waits {
            let what = format!("{} \"{}\" has still to be refreshed", relation.kind.noun(), relation.name);
            self.notice_of(&what);
        }
        Ok(done("REFRESH MATERIALIZED VIEW"))
    }

    /// Builds anew what reads a view that was replaced, at any distance. If it is cancelled, what is left says that the view
    /// was replaced, and can be refreshed.
    pub(super) async fn rebuild_dependents(&mut self, view: &Relation) -> Result<()> {
        let engine = Arc::clone(&self.engine);
        let dependents = dependent_views(&self.catalog(), view);
        if dependents.is_empty() {
            return Ok(());
        }
        let ids: Vec<RelationId> = dependents.iter().map(|r| r.id).collect();
        let cause = format!("view \"{}\" was replaced", view.name);
        let cause = Error::user(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, cause);
        engine.clock.between_epochs(move |c| ids.into_iter().for_each(|id| c.make_stale(id, &cause))).await?;
        for relation in dependents {
            let failed = engine.clock.relation(relation.id).filter(|live| live.failure().is_some());
            if let Some(failed) = failed {
                self.rebuild(&relation, failed).await?;
            }
        }
        Ok(())
    }

    /// Builds a failed view anew, in the place of the old one; if that comes to nothing the failed one is put back.
    async fn rebuild(&mut self, relation: &Arc<Relation>, failed: Arc<LiveRelation>) -> Result<()> {
        let engine = Arc::clone(&self.engine);
        let below = inputs_of(&self.catalog(), relation);
        engine.clock.until_back(&below).await?;
        let lock = engine.lock_catalog().await;
        let mut catalog = self.catalog();
        let Some(relation) = catalog.get(relation.id).cloned() else { return Ok(()) };
        let stored = replan(&catalog, &relation, &engine.arrangements(&catalog))?;
        let unused = catalog.set_plan(relation.id, &stored.plan);
        catalog.store_plan(relation.id, Arc::clone(&stored.bytes));
        let limit = relation.option("memory_limit").map(parse_bytes).transpose()?;
        let is_sink = matches!(relation.kind, Kind::Sink(_));
        let live = if is_sink {
            self.install_sink(relation, stored).await?
        } else {
            let id = relation.id;
            let live = self.install_view(relation, stored, limit).await?;
            let indexed = catalog.clone();
            engine.clock.between_epochs(move |c| c.set_indexes(id, &indexed)).await?;
            live
        };
        let rebuilt = Arc::clone(&live);
        if let Err(error) = engine.publish(&catalog, unused, &lock).await {
            engine.clock.between_epochs(move |c| c.put_back(&rebuilt, failed)).await?;
            return Err(error);
        }
        drop(lock);
        let cancel = self.cancel.clone();
        let outcome = tokio::select! {
            outcome = live.follows() => outcome,
            () = cancel.cancelled() => Err(Error::cancelled()),
        };
        if outcome.is_err() && live.failure().is_none() {
            engine.clock.between_epochs(move |c| c.put_back(&rebuilt, failed)).await?;
        }
        outcome.map_err(|error| live.failure().map_or(error, |failed| failed.cause.clone()))
    }
}

/// Refuses to replace a view in a transaction block if something is kept up to date by what it says.
pub(super) fn check_replaced(catalog: &Catalog, view: &Relation, in_block: bool) -> Result<()> {
    match dependent_views(catalog, view).first().filter(|_| in_block) {
        None => Ok(()),
        Some(dependent) => {
            let what = format!("cannot replace view \"{}\" in a transaction block", view.name);
            let detail =
                format!("{} \"{}\" depends on it and has to be rebuilt", dependent.kind.noun(), dependent.name);
            Err(Error::not_supported(what).with_detail(detail).with_hint("Replace it before BEGIN."))
        }
    }
}

/// Plans what reads a replaced view, so that it is known to have a dataflow before anything changes, and notes what the
/// catalog says of its rows.
pub(super) fn plan_dependents(catalog: &mut Catalog, view: &Relation) -> Result<()> {
    for dependent in dependent_views(catalog, view) {
        let stored = replan(catalog, &dependent, &[])?;
        catalog.set_facts(dependent.id, &stored.plan.result);
    }
    Ok(())
}

/// A view in the catalog that is not made yet.
pub(super) struct PlannedView {
    pub(super) created: Created,
    stored: StoredPlan,
}

/// Plans a view, and puts it into the catalog.
pub(super) fn plan_view(
    catalog: &mut Catalog,
    create: &CreateView,
    arrangements: &[Arc<Relation>],
) -> Result<PlannedView> {
    let bound = bind_query(catalog, &create.query, &[], Purpose::View)?;
    let columns = named_columns(&bound.columns, create)?;
    let names: Vec<_> = columns.iter().map(|c| (c.name.clone(), c.sql_type.clone())).collect();
    let plan = streaming::plan(&optimize(bound.plan, Purpose::View, None)?, &names, arrangements)?;
    let stored = StoredPlan::new(plan)?;
    let created = catalog.create_view(create, RelationKind::MaterializedView, columns, bound.relations)?;
    if let Created::New(relation) = &created {
        catalog.set_plan(relation.id, &stored.plan);
        catalog.store_plan(relation.id, Arc::clone(&stored.bytes));
    }
    Ok(PlannedView { created, stored })
}

/// Plans a sink, and puts it into the catalog.
fn plan_sink(
    catalog: &mut Catalog,
    create: &CreateSink,
    arrangements: &[Arc<Relation>],
) -> Result<(Created, StoredPlan)> {
    let connector = create.options.iter().find(|(name, _)| name == "connector").map(|(_, v)| v.as_str());
    let connector =
        connector.ok_or_else(|| Error::user(SqlState::INVALID_PARAMETER_VALUE, "a sink needs option \"connector\""))?;
    let SinkKind::Blackhole = SinkKind::of_connector(connector)?;
    let (query, text) = match &create.input {
        SinkInput::Query(query, text) => (query.clone(), Some(text.clone())),
        SinkInput::Relation(name) => (all_of(catalog.resolve(name)?)?, None),
    };
    let (bound, stored) = kept_up_to_date(catalog, &query, arrangements)?;
    let columns = bound.columns.iter().map(|(name, t)| Column::new(name, t.clone())).collect();
    let new = NewRelation {
        options: create.options.clone(),
        depends_on: bound.relations,
        ..NewRelation::new(Kind::Sink(text.map(|text| View { text })), columns)
    };
    let created = catalog.create(&create.name, create.if_not_exists, new)?;
    if let Created::New(relation) = &created {
        catalog.set_plan(relation.id, &stored.plan);
        catalog.store_plan(relation.id, Arc::clone(&stored.bytes));
    }
    Ok((created, stored))
}

/// A query that is kept up to date: what it was bound to, and its dataflow, which shares some of these arrangements.
pub(super) fn kept_up_to_date(
    catalog: &Catalog,
    query: &ast::Query,
    arrangements: &[Arc<Relation>],
) -> Result<(BoundQuery, StoredPlan)> {
    let bound = bind_query(catalog, query, &[], Purpose::View)?;
    let plan = streaming::plan(&optimize(bound.plan.clone(), Purpose::View, None)?, &bound.columns, arrangements)?;
    Ok((bound, StoredPlan::new(plan)?))
}

/// Starts a dataflow on all workers. Sources are read from their beginning if `history`, else from now on.
pub(crate) async fn install(
    engine: &Arc<EngineState>,
    relation: Arc<Relation>,
    shared: Arc<RelationShared>,
    stored: StoredPlan,
    root: Root,
    history: bool,
) -> Result<Arc<LiveRelation>> {
    let installation = Installation::new(engine, relation, shared, stored, root, history);
    let live = Arc::clone(&installation.live);
    engine.clock.until_back(&installation.imports).await?;
    let install = move |coordinator: &mut Coordinator| {
        coordinator.check_imports(&installation.imports)?;
        installation.start(coordinator)
    };
    engine.clock.between_epochs(install).await??;
    Ok(live)
}

/// Where a view's rows go.
pub(super) fn view_root(
    engine: &EngineState,
    plan: &StreamingPlan,
    memory_limit: Option<usize>,
) -> (Arc<RelationShared>, Root) {
    let account = engine.memory.part(Some(memory_limit.unwrap_or(engine.config.memory.view)));
    let shared = Arc::new(RelationShared::new(engine.config.workers, account, engine.clock.holds()));
    let root = Root::Materialize { spec: plan.result.clone(), shared: Arc::clone(&shared) };
    (shared, root)
}

/// Where a sink's changes go.
fn sink_root(engine: &EngineState) -> (Arc<RelationShared>, Root) {
    let account = engine.memory.part(Some(engine.config.memory.view));
    let shared = Arc::new(RelationShared::new(engine.config.workers, account, engine.clock.holds()));
    shared.mark_unstored();
    (shared, Root::Sink(Arc::new(Blackhole)))
}

/// The dataflow of a view, sink or arrangement of the catalog: the stored one, if this release can run it.
///
/// # Errors
/// If there is none, and the query cannot be planned.
pub(crate) fn stored_dataflow(
    engine: &EngineState,
    catalog: &Catalog,
    relation: &Arc<Relation>,
) -> Result<Installation> {
    let stored = match catalog.stored_plan(relation.id).map(StoredPlan::read).transpose() {
        Ok(Some(stored)) => stored,
        Ok(None) => plan_of_stored(catalog, relation)?,
        Err(error) => {
            tracing::warn!(relation = %relation.name, %error, "a plan is made anew, since this release cannot run the stored one");
            plan_of_stored(catalog, relation)?
        }
    };
    let (shared, root) = match relation.kind {
        Kind::Sink(_) => sink_root(engine),
        _ => view_root(engine, &stored.plan, relation.option("memory_limit").map(parse_bytes).transpose()?),
    };
    Ok(Installation::new(engine, Arc::clone(relation), shared, stored, root, true))
}

fn plan_of_stored(catalog: &Catalog, relation: &Relation) -> Result<StoredPlan> {
    if let Some(arranged) = relation.arranges() {
        let base = catalog.get(arranged.side.relation);
        let base = base.ok_or_else(|| Error::internal("an arrangement without its relation"))?;
        return StoredPlan::new(plan_of(relation, base));
    }
    let used: Vec<Arc<Relation>> =
        catalog.arrangements().filter(|a| relation.depends_on.contains(&a.id)).cloned().collect();
    replan(catalog, relation, &used)
}

/// Makes a dataflow of what it starts from.
pub(crate) type BuildDataflow = Box<dyn FnOnce(Start) -> InstallDataflow + Send>;

/// A dataflow that is to be started.
pub(crate) struct Installation {
    pub(crate) live: Arc<LiveRelation>,
    /// The relations that it reads.
    pub(crate) imports: Vec<RelationId>,
    build: BuildDataflow,
}

impl Installation {
    /// Sources are read from their beginning if `history`, else from now on.
    pub(crate) fn new(
        engine: &EngineState,
        relation: Arc<Relation>,
        shared: Arc<RelationShared>,
        stored: StoredPlan,
        root: Root,
        history: bool,
    ) -> Self {
        let n_workers = engine.config.workers;
        let place = stored.plan.result.place().ok().flatten().map(<[usize]>::to_vec);
        let plan_hash = stored.hash();
        let dataflow = stored.plan.dataflow;
        let metrics = DataflowMetrics::new(n_workers, dataflow.nodes.len());
        let errors = Arc::new(RowErrorLog::default());
        let pressure = Arc::new(Pressure::new(&dataflow, n_workers, &engine.in_flight));
        let intake = Arc::new(Intake::default());
        let account = Arc::clone(&shared.account);
        let body = Body::Dataflow {
            metrics: metrics.clone(),
            pressure: Arc::clone(&pressure),
            intake: Arc::clone(&intake),
            errors: Arc::clone(&errors),
            plan_hash,
            place,
            explain: dataflow.explain(),
            operators: operators_of(&dataflow, &root),
        };
        let hook = engine.config.operator_hook.clone();
        let live = Arc::new(LiveRelation::new(Arc::clone(&relation), shared, body, n_workers));
        let imports: Vec<RelationId> = dataflow.imports().map(|(_, id, _)| id).collect();
        let keeps = engine.config.data_dir.is_some() && !crate::subscribe::is_hidden(relation.id);
        let build = move |Start { header, offsets, restored }: Start| InstallDataflow {
            id: relation.id,
            name: relation.name.clone(),
            dataflow,
            root,
            start: header,
            offsets: if history { offsets } else { ends(offsets) },
            restored,
            keeps,
            metrics,
            pressure,
            intake,
            account,
            errors,
            hook,
        };
        Installation { live, imports, build: Box::new(build) }
    }

    /// Starts it on all workers.
    ///
    /// # Errors
    /// 53100 if there is no room for its epoch's record.
    pub(crate) fn start(self, coordinator: &mut Coordinator) -> Result<()> {
        coordinator.install(self.live, self.imports, self.build)
    }

    /// Starts it on all workers once what it reads is back after a start.
    pub(crate) fn start_when_back(self, coordinator: &mut Coordinator) {
        coordinator.start_when_back(self.live, self.imports, self.build);
    }

    /// Has it go on from a checkpoint's state on all workers, when its turn comes.
    ///
    /// # Errors
    /// Internal, if what it had cannot be told.
    pub(crate) fn restore(
        self,
        coordinator: &mut Coordinator,
        restored: &Arc<Restored>,
        owner: u64,
        progress: &Arc<RestoreProgress>,
    ) -> Result<()> {
        if let Body::Dataflow { errors, .. } = &self.live.body {
            errors.restore(restored.row_errors(owner)?);
        }
        coordinator.restore_dataflow(self.live, self.imports, self.build, restored, owner, progress)
    }
}

/// Where ranges of offsets end, as ranges of nothing.
fn ends(offsets: Vec<Option<Range<u64>>>) -> Vec<Option<Range<u64>>> {
    offsets.into_iter().map(|range| range.map(|r| r.end..r.end)).collect()
}

/// What a relation reads, through views that keep no rows.
fn inputs_of(catalog: &Catalog, relation: &Relation) -> Vec<RelationId> {
    let mut inputs = relation.depends_on.clone();
    let mut next = 0;
    while let Some(&id) = inputs.get(next) {
        next += 1;
        if let Some(view) = catalog.get(id).filter(|input| matches!(input.kind, Kind::View(_))) {
            let new: Vec<RelationId> = view.depends_on.iter().filter(|id| !inputs.contains(id)).copied().collect();
            inputs.extend(new);
        }
    }
    inputs
}

/// The views built on a view, each after those that it is built on.
fn dependent_views(catalog: &Catalog, view: &Relation) -> Vec<Arc<Relation>> {
    let mut above: HashSet<RelationId> = HashSet::from([view.id]);
    let mut pending = vec![view.id];
    while let Some(id) = pending.pop() {
        let dependents = catalog.relations().filter(|r| r.depends_on.contains(&id)).map(|r| r.id);
        pending.extend(dependents.filter(|id| above.insert(*id)).collect::<Vec<_>>());
    }
    // A view may have been replaced by one that reads younger ones, so their age says nothing of their order.
    let mut placed: HashSet<RelationId> = HashSet::from([view.id]);
    let mut views = Vec::new();
    while placed.len() < above.len() {
        let is_next = |r: &&Arc<Relation>| {
            let rests_on_placed = r.depends_on.iter().all(|id| placed.contains(id) || !above.contains(id));
            above.contains(&r.id) && !placed.contains(&r.id) && rests_on_placed
        };
        let next: Vec<Arc<Relation>> = catalog.relations().filter(is_next).cloned().collect();
        if next.is_empty() {
            break;
        }
        placed.extend(next.iter().map(|r| r.id));
        views.extend(next.into_iter().filter(|r| matches!(r.kind, Kind::MaterializedView(_) | Kind::Sink(_))));
    }
    views
}

/// The plan of a view or sink that exists.
fn replan(catalog: &Catalog, relation: &Relation, arrangements: &[Arc<Relation>]) -> Result<StoredPlan> {
    let query = match (relation.query_text(), relation.depends_on.first().and_then(|id| catalog.get(*id))) {
        (Some(text), _) => millstream_planner::parser::parse_query(text)?,
        (None, Some(input)) => all_of(input)?,
        (None, None) => return Err(Error::internal("a dataflow without a query")),
    };
    let bound = bind_query(catalog, &query, &[], Purpose::View)?;
    let names: Vec<(String, SqlType)> =
        relation.visible_columns().iter().map(|c| (c.name.clone(), c.sql_type.clone())).collect();
    StoredPlan::new(streaming::plan(&optimize(bound.plan, Purpose::View, None)?, &names, arrangements)?)
}

/// The query for all rows of a relation.
fn all_of(relation: &Relation) -> Result<Box<ast::Query>> {
    let quoted = |part: &str| format!("\"{}\"", part.replace('"', "\"\""));
    let text = format!("SELECT * FROM {}.{}", quoted(&relation.schema), quoted(&relation.name));
    millstream_planner::parser::parse_query(&text)
}

/// A dataflow that somebody waits for; dropped with the wait, unless it came to an end.
struct Unfinished {
    engine: Arc<EngineState>,
    live: Option<Arc<LiveRelation>>,
}

impl Unfinished {
    fn forget(mut self) {
        self.live = None;
    }

    async fn drop_now(mut self) {
        if let Some(live) = self.live.take() {
            drop_unfinished(&self.engine, &live).await;
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(live) = self.live.take() {
            let engine = Arc::clone(&self.engine);
            // The client has gone; nobody waits for this.
            self.engine.query_runtime().spawn(async move { drop_unfinished(&engine, &live).await });
        }
    }
}

/// Drops a dataflow with what has been built on it meanwhile.
async fn drop_unfinished(engine: &Arc<EngineState>, live: &LiveRelation) {
    let lock = engine.lock_catalog().await;
    let mut catalog = engine.catalog.read().clone();
    let Some(relation) = catalog.get(live.id).cloned() else { return };
    let name = ast::Name { schema: Some(relation.schema.clone()), name: relation.name.clone(), position: 0 };
    let (kind, behavior) = (RelationKind::MaterializedView, ast::DropBehavior::Cascade);
    let drop = ast::Drop { kind, names: vec![name], if_exists: true, behavior };
    let Ok(dropped) = catalog.drop(&drop) else { return };
    if let Err(error) = engine.publish(&catalog, dropped.relations, &lock).await {
        tracing::warn!(%error, relation = %live.relation.name, "a view that nobody waits for any more was not dropped");
    }
}

/// Names and particulars of a dataflow's nodes, the root last.
fn operators_of(dataflow: &Dataflow, root: &Root) -> Vec<(String, String)> {
    let about = |node: &Node| match node {
        Node::Import { name, .. } => ("Import".to_owned(), name.clone()),
        Node::Operator { spec, .. } => (spec.name().to_owned(), spec.describe()),
    };
    let root = match root {
        Root::Materialize { .. } => "Materialize",
        Root::Sink(_) => "Sink",
    };
    dataflow.nodes.iter().map(about).chain([(root.to_owned(), String::new())]).collect()
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
