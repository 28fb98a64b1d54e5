//! `SELECT`, `SUBSCRIBE`, `EXPLAIN`.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use datafusion::common::ScalarValue;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use futures::stream::BoxStream;
use millstream_planner::access::PointQuery;
use millstream_planner::ast::{self, Query, Statement, SubscribeTarget};
use millstream_planner::catalog::{Kind, Relation};
use millstream_planner::dml::bind_insert;
use millstream_planner::errors::from_datafusion;
use millstream_planner::parser::{Parsed, parse_query};
use millstream_planner::{Catalog, Purpose, RelationId, bind_query, optimize};
use millstream_types::{Epoch, Error, Result, SqlState, SqlType};

use super::Session;
use super::dataflows::kept_up_to_date;
use super::planned::{ParsedStatement, PlannedQuery, PlannedWrite, Seen};
use crate::api::{Response, ResultColumn, Rows, RowsTag};
use crate::read::{ReadPoint, analyze_at, execute, execute_at, scanned, stored_relations};
use crate::subscribe::Wanted;

impl Session {
    /// Types of parameters, and columns of the result if there is one.
    pub(super) fn describe(
        &self,
        statement: &ParsedStatement,
        param_types: &[Option<SqlType>],
    ) -> Result<(Vec<SqlType>, Option<Vec<ResultColumn>>)> {
        let fixed = || param_types.iter().map(|t| t.clone().unwrap_or(SqlType::Text)).collect();
        Ok(match &statement.parsed().statement {
            Statement::Query(query) => {
                if param_types.is_empty()
                    && let Some((planned, _)) = self.planned_lookup(statement)
                {
                    return Ok((vec![], Some(planned.columns.clone())));
                }
                let planned = self.planned(statement, query, param_types)?;
                (planned.param_types().to_vec(), Some(planned.columns.clone()))
            }
            Statement::Explain(_) => (vec![], Some(vec![ResultColumn::computed("QUERY PLAN", SqlType::Text)])),
            Statement::Show(show) => (vec![], Some(self.show_columns(show)?)),
            Statement::Describe(name) => (vec![], Some(self.show_columns(&ast::Show::Columns(name.clone()))?)),
            Statement::Insert(insert) => {
                let bound = bind_insert(&self.catalog(), insert, param_types, &self.format_settings())?;
                (bound.param_types, bound.returning.map(|r| columns_of(&r.columns)))
            }
            Statement::Update(_) | Statement::Delete(_) => {
                let planned = self.planned_write(statement, param_types)?;
                (planned.param_types().to_vec(), planned.returning.as_ref().map(|r| columns_of(&r.columns)))
            }
            Statement::DeclareCursor(declare) => match declare.statement.as_ref() {
                Statement::Query(query) => {
                    (bind_query(&self.catalog(), query, param_types, Purpose::AdHoc)?.param_types, None)
                }
                _ => (fixed(), None),
            },
            Statement::CopyTo(ast::CopyTo { source: ast::CopySource::Query(query), .. }) => {
                (bind_query(&self.catalog(), query, param_types, Purpose::AdHoc)?.param_types, None)
            }
            Statement::CopyTo(ast::CopyTo { source: ast::CopySource::Write(write), .. }) => {
                let parsed = Parsed { statement: write.as_ref().clone(), text: String::new(), offset: 0 };
                (self.describe(&ParsedStatement::new(parsed), param_types)?.0, None)
            }
            Statement::Subscribe(subscribe) => (vec![], Some(self.subscribe_columns(subscribe)?)),
            Statement::Fetch(fetch) => (vec![], self.fetch_columns(fetch)?),
            Statement::Execute(execute) => (fixed(), self.executed_columns(execute)?),
            _ => (fixed(), None),
        })
    }

    /// The plan of a statement's query, kept with it unless this session alone sees the catalog so.
    fn planned(
        &self,
        statement: &ParsedStatement,
        query: &Query,
        param_types: &[Option<SqlType>],
    ) -> Result<Arc<PlannedQuery>> {
        let seen = Seen { catalog: &self.catalog(), param_types };
        statement.query(query, seen, self.sees_published_catalog())
    }

    /// As [`Session::planned`], of an `UPDATE` or `DELETE`.
    pub(super) fn planned_write(
        &self,
        statement: &ParsedStatement,
        param_types: &[Option<SqlType>],
    ) -> Result<Arc<PlannedWrite>> {
        let seen = Seen { catalog: &self.catalog(), param_types };
        match &statement.parsed().statement {
            Statement::Update(update) => statement.update(update, seen, self.sees_published_catalog()),
            Statement::Delete(delete) => statement.delete(delete, seen, self.sees_published_catalog()),
            _ => Err(Error::internal("a statement that changes no rows")),
        }
    }

    /// Runs a query that is part of a statement.
    pub(super) async fn select(&mut self, query: &Query, params: &[ArrayRef]) -> Result<Response> {
        let planned = PlannedQuery::new(query, Seen { catalog: &self.catalog(), param_types: &fixed_types(params) })?;
        self.run_planned(&planned, params).await
    }

    /// Runs a statement that is a query.
    pub(super) async fn select_planned(
        &mut self,
        statement: &ParsedStatement,
        query: &Query,
        params: &[ArrayRef],
    ) -> Result<Response> {
        if params.is_empty()
            && let Some((planned, constants)) = self.planned_lookup(statement)
        {
            return self.run_planned(&planned, &constants).await;
        }
        let planned = self.planned(statement, query, &fixed_types(params))?;
        self.run_planned(&planned, params).await
    }

    /// The plan of a query that looks rows up by constants, with these as parameters; it serves all that look up others.
    fn planned_lookup(&self, statement: &ParsedStatement) -> Option<(Arc<PlannedQuery>, Vec<ArrayRef>)> {
        if !self.sees_published_catalog() {
            return None;
        }
        let template = statement.template(&self.engine.templates)?;
        template.query(Seen { catalog: &self.catalog(), param_types: &[] })
    }

    /// As [`Session::planned_lookup`], of an `UPDATE` or `DELETE`.
    pub(super) fn planned_write_lookup(
        &self,
        statement: &ParsedStatement,
    ) -> Option<(Arc<PlannedWrite>, Vec<ArrayRef>)> {
        if !self.sees_published_catalog() {
            return None;
        }
        let template = statement.template(&self.engine.templates)?;
        template.write(Seen { catalog: &self.catalog(), param_types: &[] })
    }

    async fn run_planned(&mut self, planned: &PlannedQuery, params: &[ArrayRef]) -> Result<Response> {
        let looked_up = match planned.point(params) {
            Some(point) => {
                let rows = self.read_point(point, params).await?;
                if rows.is_some() {
                    self.warn_of_row_errors(&[point.lookup(params)?.relation]);
                }
                rows
            }
            None => None,
        };
        let batches = match looked_up {
            Some(batches) => batches,
            None => {
                let plan = match &planned.optimized {
                    Some(plan) if params.is_empty() => plan.clone(),
                    _ => self.ready(planned.plan.clone(), params)?,
                };
                let read = scanned(&plan)?;
                let batches = self.read(plan).await?;
                self.warn_of_row_errors(&read);
                batches
            }
        };
        let columns = planned.columns.clone();
        Ok(Response::Rows(Rows { columns, batches, tag: RowsTag::Select, live: false }))
    }

    /// Warns of rows that are left out of the views that a query has read, and of those that these are built on, because an
    /// expression fails on them.
    fn warn_of_row_errors(&mut self, read: &[Arc<Relation>]) {
        if read.iter().all(|relation| !matches!(relation.kind, Kind::MaterializedView(_))) {
            return;
        }
        let catalog = self.catalog();
        let mut relations: Vec<RelationId> = read.iter().map(|relation| relation.id).collect();
        let mut next = 0;
        while let Some(&id) = relations.get(next) {
            next += 1;
            let Some(relation) = catalog.get(id) else { continue };
            let below: Vec<_> =
                relation.depends_on.iter().filter(|input| !relations.contains(input)).copied().collect();
            relations.extend(below);
            let n_rows = self.engine.clock.relation(id).map_or(0, |live| live.n_row_errors());
            if n_rows > 0 {
                let rows = if n_rows == 1 { "1 row is".to_owned() } else { format!("{n_rows} rows are") };
                self.warn_of_rows(format!("{rows} left out of {} \"{}\"", relation.kind.noun(), relation.name));
            }
        }
    }

    /// What a point query gives at the epoch of the open transaction, or now; `None` if its rows are better found by
    /// reading the relation.
    async fn read_point(
        &mut self,
        query: &Arc<PointQuery>,
        params: &[ArrayRef],
    ) -> Result<Option<BoxStream<'static, Result<RecordBatch>>>> {
        let lookup = query.lookup(params)?;
        let ids = [lookup.relation.id];
        self.until_back(&ids).await?;
        let rows = match self.open_transaction().await? {
            None => ReadPoint::now(&self.engine, &ids).await?.find(&self.engine.workers, &lookup).await?,
            Some(transaction) => {
                let mut transaction = transaction.lock().await;
                transaction.reads.add_lookup(&lookup);
                transaction.point(&self.engine, &ids).await?.find(&self.engine.workers, &lookup).await?
            }
        };
        let Some(rows) = rows else { return Ok(None) };
        let (query, params) = (Arc::clone(query), params.to_vec());
        let batches = rows.into_iter().map(move |rows| query.evaluate(&rows, &params));
        Ok(Some(futures::stream::iter(batches).boxed()))
    }

    /// Runs an optimized plan at the epoch of the open transaction, or now.
    pub(super) async fn read(&mut self, plan: LogicalPlan) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        self.until_back(&stored_relations(&plan)?).await?;
        let Some(transaction) = self.open_transaction().await? else {
            return execute(&self.engine, plan).await.map(|(_, batches)| batches);
        };
        let mut transaction = transaction.lock().await;
        transaction.reads.add_plan(&plan)?;
        let point = transaction.point(&self.engine, &stored_relations(&plan)?).await?;
        execute_at(&self.engine, plan, &point).await
    }

    /// Runs an optimized plan as [`Session::read`] does, for what it costs.
    pub(super) async fn analyze(&mut self, plan: LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        self.until_back(&stored_relations(&plan)?).await?;
        let Some(transaction) = self.open_transaction().await? else {
            let point = ReadPoint::now(&self.engine, &stored_relations(&plan)?).await?;
            return analyze_at(&self.engine, plan, &point).await;
        };
        let mut transaction = transaction.lock().await;
        transaction.reads.add_plan(&plan)?;
        let point = transaction.point(&self.engine, &stored_relations(&plan)?).await?;
        analyze_at(&self.engine, plan, &point).await
    }

    /// A bound plan with its parameters' values, optimized for this moment, and with what this session sees of the catalog.
    /// So whatever keeps plans for later must keep them from before this.
    pub(super) fn ready(&self, plan: LogicalPlan, params: &[ArrayRef]) -> Result<LogicalPlan> {
        let plan = crate::pg_catalog::without_empty(self.with_params(plan, params)?)?;
        let plan = optimize(plan, Purpose::AdHoc, Some(now_us()))?;
        crate::pg_catalog::attach(plan, || self.view())
    }

    /// A bound plan with its parameters' values.
    pub(super) fn with_params(&self, plan: LogicalPlan, params: &[ArrayRef]) -> Result<LogicalPlan> {
        if params.is_empty() {
            return Ok(plan);
        }
        let values = params.iter().map(|p| ScalarValue::try_from_array(p, 0).map(ScalarAndMetadata::from));
        let values = values.collect::<Result<Vec<_>, _>>().map_err(from_datafusion)?;
        plan.with_param_values(datafusion::common::ParamValues::List(values)).map_err(from_datafusion)
    }

    pub(super) async fn subscribe(&mut self, subscribe: &ast::Subscribe) -> Result<Rows> {
        let catalog = self.catalog();
        let wanted = |snapshot| Wanted {
            snapshot: subscribe.snapshot.unwrap_or(snapshot),
            progress: subscribe.progress,
            as_of: subscribe.as_of.map(Epoch),
        };
        match subscribed(&catalog, &subscribe.target)? {
            Subscribed::Kept(relation) => {
                let live = self.engine.clock.relation(relation.id);
                let live = live.ok_or_else(|| Error::internal("a relation that keeps rows and does not run"))?;
                crate::subscribe::subscribe(&self.engine, live, wanted(true)).await
            }
            Subscribed::Computed { query, is_stream } => {
                // A stream's history is asked for; the result of a query is what a subscription to it is about.
                let wanted = wanted(!is_stream);
                let (bound, stored) = kept_up_to_date(&catalog, &query, &[])?;
                let history = wanted.snapshot || !is_stream;
                crate::subscribe::subscribe_to_plan(&self.engine, stored, bound.columns, wanted, history).await
            }
        }
    }

    /// The columns that a subscription gives.
    fn subscribe_columns(&self, subscribe: &ast::Subscribe) -> Result<Vec<ResultColumn>> {
        let catalog = self.catalog();
        let followed = match subscribed(&catalog, &subscribe.target)? {
            Subscribed::Kept(relation) => {
                relation.visible_columns().iter().map(|c| (c.name.clone(), c.sql_type.clone())).collect()
            }
            Subscribed::Computed { query, .. } => bind_query(&catalog, &query, &[], Purpose::View)?.columns,
        };
        Ok(crate::subscribe::columns(subscribe.progress, &followed))
    }
}

/// What a subscription follows.
enum Subscribed {
    /// A relation that keeps its rows.
    Kept(Arc<Relation>),
    /// A query, or a relation that keeps no rows as one.
    Computed { query: Box<Query>, is_stream: bool },
}

fn subscribed(catalog: &Catalog, target: &SubscribeTarget) -> Result<Subscribed> {
    let name = match target {
        SubscribeTarget::Query(query, _) => return Ok(Subscribed::Computed { query: query.clone(), is_stream: false }),
        SubscribeTarget::Relation(name) => name,
    };
    let relation = catalog.resolve(name)?;
    match &relation.kind {
        Kind::Stream if relation.has_connector() => {
            Ok(Subscribed::Computed { query: parse_query(&select_all(relation))?, is_stream: true })
        }
        Kind::View(_) => Ok(Subscribed::Computed { query: parse_query(&select_all(relation))?, is_stream: false }),
        Kind::Stream | Kind::Table | Kind::MaterializedView(_) => Ok(Subscribed::Kept(relation.clone())),
        Kind::Index(_) | Kind::Sink(_) | Kind::Arrangement(_) | Kind::System => {
            let what = format!("{} \"{}\" cannot be subscribed to", relation.kind.noun(), relation.name);
            Err(Error::user(SqlState::WRONG_OBJECT_TYPE, what).with_position(name.position.max(1)))
        }
    }
}

fn select_all(relation: &Relation) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    format!("SELECT * FROM {}.{}", quoted(&relation.schema), quoted(&relation.name))
}

/// The types that given parameters fix.
pub(super) fn fixed_types(params: &[ArrayRef]) -> Vec<Option<SqlType>> {
    params.iter().map(|p| SqlType::of_arrow(p.data_type())).collect()
}

/// Columns that are computed.
pub(super) fn columns_of(columns: &[(String, SqlType)]) -> Vec<ResultColumn> {
    columns.iter().map(|(name, t)| ResultColumn::computed(name.clone(), t.clone())).collect()
}

/// Microseconds since 1970 UTC.
pub(crate) fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_micros() as i64)
}
