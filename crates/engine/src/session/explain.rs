//! `EXPLAIN`: of a view its dataflow; of a statement what it reads, and the dataflow that would keep a query up to date.
//! With `ANALYZE` a statement is executed, and shown is what that took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, StringViewArray};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{LogicalPlan, TableScan};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use futures::TryStreamExt;
use millstream_planner::access::KeyLookup;
use millstream_planner::ast::{self, Explain, ExplainTarget, Query, Statement};
use millstream_planner::dml::{InsertRows, bind_delete, bind_insert, bind_update};
use millstream_planner::errors::from_datafusion;
use millstream_planner::parser::Parsed;
use millstream_planner::{Catalog, Purpose, RelationSource, bind_query};
use millstream_runtime::{DataflowMetrics, NodeMetrics};
use millstream_types::{Error, ErrorKind, Result, SqlType};

use super::dataflows::kept_up_to_date;
use super::planned::ParsedStatement;
use super::{Session, rows_of};
use crate::api::{Response, ResultColumn, RowsTag};
use crate::live::Body;
use crate::scan::{CHUNKS_PRUNED, CHUNKS_READ};

impl Session {
    pub(super) async fn explain(&mut self, explain: &Explain, text: &str) -> Result<Response> {
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
            ExplainTarget::Statement(statement) => match statement.as_ref() {
                Statement::Query(query) if explain.analyze => self.analyze_query(&catalog, query).await?,
                Statement::Query(query) => self.explain_query(&catalog, query)?,
                statement => {
                    let mut lines = self.explain_write(&catalog, statement)?;
                    if explain.analyze {
                        lines.extend(self.analyze_write(statement, text).await?);
                    }
                    lines
                }
            },
        };
        let column = ResultColumn::computed("QUERY PLAN", SqlType::Text);
        let text: ArrayRef = Arc::new(lines.iter().map(|l| Some(l.as_str())).collect::<StringViewArray>());
        rows_of(RowsTag::Explain, vec![column], vec![text])
    }

    /// Executes a query, and drops its rows.
    async fn analyze_query(&mut self, catalog: &Catalog, query: &Query) -> Result<Vec<String>> {
        let begins = Instant::now();
        let once = bind_query(catalog, query, &[], Purpose::AdHoc)?;
        let plan = self.ready(once.plan, &[])?;
        let planned = Instant::now();
        let executed = self.analyze(plan.clone()).await?;
        let ended = Instant::now();
        let mut lines = Vec::new();
        node_lines(executed.as_ref(), 0, &mut lines);
        lines.extend(reads(&plan)?);
        lines.push(format!("Planning Time: {:.3} ms", milliseconds(planned - begins)));
        lines.push(format!("Execution Time: {:.3} ms", milliseconds(ended - planned)));
        Ok(lines)
    }

    /// Executes a statement that writes, as Postgres does.
    async fn analyze_write(&mut self, statement: &Statement, text: &str) -> Result<Vec<String>> {
        let begins = Instant::now();
        let parsed = Parsed { statement: statement.clone(), text: text.to_owned(), offset: 0 };
        let rows = match self.dispatch(&ParsedStatement::new(parsed), &[]).await? {
            Response::Rows(rows) => {
                let batches: Vec<RecordBatch> = rows.batches.try_collect().await?;
                batches.iter().map(RecordBatch::num_rows).sum()
            }
            Response::Done { tag } => tag.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0),
            _ => 0,
        };
        let time = milliseconds(begins.elapsed());
        Ok(vec![format!("Rows written: {rows}"), format!("Execution Time: {time:.3} ms")])
    }

    fn explain_query(&self, catalog: &Catalog, query: &Query) -> Result<Vec<String>> {
        let once = bind_query(catalog, query, &[], Purpose::AdHoc)?;
        let mut lines = match kept_up_to_date(catalog, query, &self.engine.arrangements(catalog)) {
            Ok((_, stored)) => stored.plan.dataflow.explain(),
            Err(error) if error.kind() == ErrorKind::NotSupported => {
                vec![format!("No dataflow: {}", error.fields().message)]
            }
            Err(error) => return Err(error),
        };
        lines.extend(reads(&self.ready(once.plan, &[])?)?);
        Ok(lines)
    }

    fn explain_write(&self, catalog: &Catalog, statement: &Statement) -> Result<Vec<String>> {
        let (verb, relation, plan) = match statement {
            Statement::Insert(insert) => {
                let bound = bind_insert(catalog, insert, &[], &self.format_settings())?;
                let plan = if let InsertRows::Plan(plan) = bound.rows { Some(plan) } else { None };
                ("Insert into", bound.relation, plan)
            }
            Statement::Update(update) => {
                let bound = bind_update(catalog, update, &[])?;
                ("Update", bound.relation, Some(bound.plan))
            }
            Statement::Delete(delete) => {
                let bound = bind_delete(catalog, delete, &[])?;
                ("Delete from", bound.relation, Some(bound.plan))
            }
            _ => return Err(Error::not_supported("EXPLAIN of this statement is not supported yet")),
        };
        let mut lines = vec![format!("{verb} {}", relation.name)];
        if let Some(plan) = plan {
            lines.extend(reads(&self.ready(plan, &[])?)?);
        }
        Ok(lines)
    }
}

/// What an optimized plan that is executed once reads, a line for each scan.
fn reads(plan: &LogicalPlan) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            lines.extend(read(scan).map_err(|e| DataFusionError::External(Box::new(e)))?);
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(from_datafusion)?;
    Ok(lines)
}

fn read(scan: &TableScan) -> Result<Option<String>> {
    let Some(relation) = RelationSource::of(&scan.source).map(RelationSource::relation) else { return Ok(None) };
    let how = match KeyLookup::of_scan(scan)? {
        None => "by a scan".to_owned(),
        Some(lookup) => {
            let columns: Vec<&str> = lookup.columns.iter().map(|&c| relation.columns[c].name.as_str()).collect();
            let by = if lookup.is_unique { "key" } else { "index" };
            let n_keys = lookup.keys.first().map_or(0, |k| k.len());
            let plural = if n_keys == 1 { "" } else { "s" };
            format!("by {by} ({}), {n_keys} value{plural}", columns.join(", "))
        }
    };
    Ok(Some(format!("Read {} {how}", relation.name)))
}

/// A node of a plan that has run and the nodes below it, each with the rows that it gave and the time that it took itself.
fn node_lines(node: &dyn ExecutionPlan, depth: usize, lines: &mut Vec<String>) {
    // What only passes rows on says nothing.
    const SILENT: [&str; 5] =
        ["CooperativeExec", "CoalescePartitionsExec", "CoalesceBatchesExec", "OwnRowsExec", "UnderContextExec"];
    let is_shown = !SILENT.contains(&node.name());
    if is_shown {
        let arrow = if depth == 0 { String::new() } else { format!("{}->  ", "      ".repeat(depth - 1) + "  ") };
        let about = displayable(node).one_line().to_string();
        let figures = node.metrics().map(|metrics| {
            let rows = metrics.output_rows().map(|n| format!("rows={n}"));
            let time = metrics.elapsed_compute().map(|ns| format!("time={:.3} ms", ns as f64 / 1e6));
            let count = |name: &str| metrics.sum_by_name(name).map(|n| format!("{name}={}", n.as_usize()));
            let chunks = [CHUNKS_READ, CHUNKS_PRUNED].into_iter().filter_map(count);
            rows.into_iter().chain(time).chain(chunks).collect::<Vec<_>>().join(" ")
        });
        let figures = figures.filter(|f| !f.is_empty()).map_or_else(String::new, |f| format!(" (actual {f})"));
        lines.push(format!("{arrow}{}{figures}", about.trim_end()));
    }
    for child in node.children() {
        node_lines(child.as_ref(), depth + usize::from(is_shown), lines);
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
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
