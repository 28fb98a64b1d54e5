//! `EXPLAIN`: of a view its dataflow; of a statement what it reads, and the dataflow that would keep a query up to date.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, StringViewArray};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{LogicalPlan, TableScan};
use millstream_planner::access::KeyLookup;
use millstream_planner::ast::{self, Explain, ExplainTarget, Query, Statement};
use millstream_planner::dml::{InsertRows, bind_delete, bind_insert, bind_update};
use millstream_planner::errors::from_datafusion;
use millstream_planner::{Catalog, Purpose, RelationSource, bind_query};
use millstream_runtime::{DataflowMetrics, NodeMetrics};
use millstream_types::{Error, ErrorKind, Result, SqlType};

use super::dataflows::kept_up_to_date;
use super::{Session, rows_of};
use crate::api::{Response, ResultColumn, RowsTag};
use crate::live::Body;

impl Session {
    pub(super) fn explain(&mut self, explain: &Explain) -> Result<Response> {
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
                Statement::Query(query) => self.explain_query(&catalog, query)?,
                statement => self.explain_write(&catalog, statement)?,
            },
        };
        let column = ResultColumn::computed("QUERY PLAN", SqlType::Text);
        let text: ArrayRef = Arc::new(lines.iter().map(|l| Some(l.as_str())).collect::<StringViewArray>());
        rows_of(RowsTag::Explain, vec![column], vec![text])
    }

    fn explain_query(&self, catalog: &Catalog, query: &Query) -> Result<Vec<String>> {
        let once = bind_query(catalog, query, &[], Purpose::AdHoc)?;
        let mut lines = match kept_up_to_date(catalog, query) {
            Ok((_, plan)) => plan.dataflow.explain(),
            Err(error) if error.kind() == ErrorKind::NotSupported => {
                vec![format!("No dataflow: {}", error.fields().message)]
            }
            Err(error) => return Err(error),
        };
        lines.extend(self.reads(once.plan)?);
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
            lines.extend(self.reads(plan)?);
        }
        Ok(lines)
    }

    /// What a plan that is executed once reads, a line for each scan.
    fn reads(&self, plan: LogicalPlan) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        self.ready(plan, &[])?
            .apply_with_subqueries(|node| {
                if let LogicalPlan::TableScan(scan) = node {
                    lines.extend(read(scan).map_err(|e| DataFusionError::External(Box::new(e)))?);
                }
                Ok(TreeNodeRecursion::Continue)
            })
            .map_err(from_datafusion)?;
        Ok(lines)
    }
}

fn read(scan: &TableScan) -> Result<Option<String>> {
    let Some(relation) = RelationSource::of(&scan.source).map(RelationSource::relation) else { return Ok(None) };
    let how = match KeyLookup::of_scan(scan)? {
        None => "as a whole".to_owned(),
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
