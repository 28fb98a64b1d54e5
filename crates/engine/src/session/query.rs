//! `SELECT`, `SUBSCRIBE`, `EXPLAIN`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, RecordBatch, StringViewArray};
use datafusion::common::ScalarValue;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::logical_expr::LogicalPlan;
use futures::stream::BoxStream;
use millstream_planner::ast::{self, ExplainTarget, Query, Statement, SubscribeTarget};
use millstream_planner::catalog::Kind;
use millstream_planner::dml::{bind_delete, bind_insert, bind_update};
use millstream_planner::errors::from_datafusion;
use millstream_planner::parser::Parsed;
use millstream_planner::{BoundQuery, Purpose, bind_query, optimize, streaming};
use millstream_runtime::{DataflowMetrics, NodeMetrics};
use millstream_types::{Error, Result, SqlState, SqlType};

use super::{Session, rows_of};
use crate::api::{Response, ResultColumn, Rows, RowsTag};
use crate::live::Body;
use crate::read::{execute, execute_at, stored_relations};

impl Session {
    /// Types of parameters, and columns of the result if there is one.
    pub(super) fn describe(
        &self,
        parsed: &Parsed,
        param_types: &[Option<SqlType>],
    ) -> Result<(Vec<SqlType>, Option<Vec<ResultColumn>>)> {
        let fixed = || param_types.iter().map(|t| t.clone().unwrap_or(SqlType::Text)).collect();
        Ok(match &parsed.statement {
            Statement::Query(query) => {
                let bound = bind_query(&self.catalog(), query, param_types, Purpose::AdHoc)?;
                let columns = result_columns(&bound);
                (bound.param_types, Some(columns))
            }
            Statement::Explain(_) => (vec![], Some(vec![ResultColumn::computed("QUERY PLAN", SqlType::Text)])),
            Statement::Show(show) => (vec![], Some(self.show_columns(show)?)),
            Statement::Describe(name) => (vec![], Some(self.show_columns(&ast::Show::Columns(name.clone()))?)),
            Statement::Insert(insert) => {
                let bound = bind_insert(&self.catalog(), insert, param_types, &self.format_settings())?;
                (bound.param_types, bound.returning.map(|r| columns_of(&r.columns)))
            }
            Statement::Update(update) => {
                let bound = bind_update(&self.catalog(), update, param_types)?;
                (bound.param_types, bound.returning.map(|r| columns_of(&r.columns)))
            }
            Statement::Delete(delete) => {
                let bound = bind_delete(&self.catalog(), delete, param_types)?;
                (bound.param_types, bound.returning.map(|r| columns_of(&r.columns)))
            }
            _ => (fixed(), None),
        })
    }

    pub(super) async fn select(&mut self, query: &Query, params: &[ArrayRef]) -> Result<Response> {
        let bound = bind_query(&self.catalog(), query, &fixed_types(params), Purpose::AdHoc)?;
        let columns = result_columns(&bound);
        let plan = self.ready(bound.plan, params)?;
        let batches = self.read(plan).await?;
        Ok(Response::Rows(Rows { columns, batches, tag: RowsTag::Select, live: false }))
    }

    /// Runs an optimized plan at the epoch of the open transaction, or now.
    pub(super) async fn read(&mut self, plan: LogicalPlan) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let Some(transaction) = self.open_transaction().await? else {
            return execute(&self.engine, plan).await.map(|(_, batches)| batches);
        };
        let mut transaction = transaction.lock().await;
        transaction.reads.add_plan(&plan)?;
        let point = transaction.point(&self.engine, &stored_relations(&plan)?).await?;
        execute_at(&self.engine, plan, &point)
    }

    /// A bound plan with its parameters' values, optimized for this moment.
    pub(super) fn ready(&self, plan: LogicalPlan, params: &[ArrayRef]) -> Result<LogicalPlan> {
        optimize(self.with_params(plan, params)?, Purpose::AdHoc, Some(now_us()))
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
        let SubscribeTarget::Relation(name) = &subscribe.target else {
            return Err(Error::not_supported("SUBSCRIBE to a query is not supported yet")
                .with_hint("Create a materialized view of the query and subscribe to that."));
        };
        if subscribe.as_of.is_some() {
            return Err(Error::not_supported("SUBSCRIBE AS OF is not supported yet").with_hint("It is planned."));
        }
        let relation = self.catalog().resolve(name)?.clone();
        let live = self.engine.clock.relation(relation.id).ok_or_else(|| {
            let what = format!("{} \"{}\" cannot be subscribed to", relation.kind.noun(), relation.name);
            Error::user(SqlState::WRONG_OBJECT_TYPE, what)
        })?;
        if matches!(live.body, Body::Source { .. }) || matches!(relation.kind, Kind::Sink(_)) {
            let what = format!("{} \"{}\" cannot be subscribed to yet", relation.kind.noun(), relation.name);
            return Err(Error::not_supported(what).with_hint("Create a materialized view of it and subscribe to that."));
        }
        crate::subscribe::subscribe(&self.engine, live, subscribe.snapshot.unwrap_or(true), subscribe.progress).await
    }

    pub(super) fn explain(&mut self, explain: &ast::Explain) -> Result<Response> {
        let catalog = self.catalog();
        let lines = match &explain.target {
            ExplainTarget::MaterializedView(name) => {
                let relation = catalog.resolve_kind(name, ast::RelationKind::MaterializedView)?;
                match self.engine.clock.relation(relation.id).as_deref().map(|l| &l.body) {
                    Some(Body::Dataflow { operators, metrics, .. }) if explain.analyze => analyzed(operators, metrics),
                    Some(Body::Dataflow { explain, .. }) => explain.clone(),
                    _ => return Err(Error::internal("a materialized view without a dataflow")),
                }
            }
            ExplainTarget::Statement(_) if explain.analyze => {
                return Err(Error::not_supported("EXPLAIN ANALYZE of a statement is not supported yet")
                    .with_hint("EXPLAIN ANALYZE MATERIALIZED VIEW shows the live figures of a view."));
            }
            ExplainTarget::Statement(statement) => match statement.as_ref() {
                Statement::Query(query) => {
                    let bound = bind_query(&catalog, query, &[], Purpose::View)?;
                    let columns = bound.columns;
                    let plan = optimize(bound.plan, Purpose::View, None)?;
                    streaming::plan(&plan, &columns)?.dataflow.explain()
                }
                _ => return Err(Error::not_supported("EXPLAIN of this statement is not supported yet")),
            },
        };
        let column = ResultColumn::computed("QUERY PLAN", SqlType::Text);
        let text: ArrayRef = Arc::new(lines.iter().map(|l| Some(l.as_str())).collect::<StringViewArray>());
        rows_of(RowsTag::Explain, vec![column], vec![text])
    }
}

/// A dataflow's operators with what they have done on all workers, the root first.
fn analyzed(operators: &[(String, String)], metrics: &DataflowMetrics) -> Vec<String> {
    let line = |node: usize, (name, about): &(String, String)| {
        let sum = |of: fn(&NodeMetrics) -> &AtomicU64| -> u64 {
            metrics.workers.iter().map(|nodes| of(&nodes[node]).load(Ordering::Relaxed)).sum()
        };
        let space = if about.is_empty() { "" } else { " " };
        format!(
            "#{node} {name}{space}{about} [rows in {}, out {}; batches in {}, out {}; busy {:.3} ms; state {} bytes, {} entries]",
            sum(|m| &m.rows_in),
            sum(|m| &m.rows_out),
            sum(|m| &m.batches_in),
            sum(|m| &m.batches_out),
            sum(|m| &m.busy_ns) as f64 / 1e6,
            sum(|m| &m.state_bytes),
            sum(|m| &m.state_entries),
        )
    };
    operators.iter().enumerate().rev().map(|(node, operator)| line(node, operator)).collect()
}

fn result_columns(bound: &BoundQuery) -> Vec<ResultColumn> {
    columns_of(&bound.columns)
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
pub(super) fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_micros() as i64)
}
