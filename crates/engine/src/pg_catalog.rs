//! `pg_catalog` and `information_schema`: what Postgres' clients ask about a database, answered from the live catalog.
//!
//! Every relation has the columns that it has in Postgres 15 (`pg_catalog/relations.txt`), so that whatever a client
//! selects is there; those that stand for what this engine does not have are empty. Rows and functions are computed from
//! a [`CatalogView`]: one version of the catalog, and what the asking session is. A bound plan knows nothing of it, so it
//! may be shared between sessions; [`attach`] puts a session's view into a plan that is about to run.

mod access;
mod activity;
mod cell;
mod constraints;
mod definitions;
mod function;
mod functions;
mod information_schema;
mod objects;
mod procs;
mod relations;
mod server;
mod tables;
mod types;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, ScalarValue};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{EmptyRelation, Expr, LogicalPlan, ScalarUDF, TableScan};
use millstream_planner::catalog::{Column, Kind};
use millstream_planner::errors::from_datafusion;
use millstream_planner::{Catalog, RelationSource};
use millstream_types::{Error, Result};
use parking_lot::Mutex;

use crate::engine::EngineState;
use crate::session::{CursorInfo, PreparedInfo};
pub(crate) use activity::{Activity, SessionEntry};
pub(crate) use definitions::definition;
use tables::Table;

/// A session's parameters that `set_config` is to change: name, value, whether for the transaction only.
pub(crate) type ConfigChanges = Arc<Mutex<Vec<(String, String, bool)>>>;

/// What a session sees of the database and of itself, at one moment.
pub(crate) struct CatalogView {
    pub(crate) catalog: Catalog,
    pub(crate) engine: Arc<EngineState>,
    pub(crate) user: String,
    pub(crate) session_id: u32,
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) cursors: Vec<CursorInfo>,
    pub(crate) prepared: Vec<PreparedInfo>,
    pub(crate) config_changes: ConfigChanges,
}

/// Makes the relations and functions known to a new catalog.
pub(crate) fn register(catalog: &mut Catalog) -> Result<()> {
    for table in tables::all() {
        let columns = table.columns.iter().map(|(name, kind)| Column::new(name, kind.sql_type())).collect();
        catalog.create_system(&table.schema, &table.name, columns)?;
    }
    for function in functions::all() {
        catalog.register_function(function);
    }
    Ok(())
}

/// The catalog function of a name, as plans of views have it.
pub(crate) fn find_function(name: &str) -> Option<Arc<ScalarUDF>> {
    functions::find(name)
}

/// The plan with its catalog relations filled and its catalog functions bound to what a session sees. `view` is made
/// only if the plan has any.
pub(crate) fn attach(plan: LogicalPlan, view: impl FnOnce() -> CatalogView) -> Result<LogicalPlan> {
    if !needs_view(&plan)? {
        return Ok(plan);
    }
    let view = Arc::new(view());
    let attached = plan.transform_up_with_subqueries(|node| {
        let node = node.map_expressions(|expr| expr.transform_up(|expr| bound(expr, &view)))?;
        node.transform_data(|node| filled(node, &view))
    });
    attached.map(|t| t.data).map_err(from_datafusion)
}

/// Whether a plan reads what a session sees of the catalog and of itself.
pub(crate) fn needs_view(plan: &LogicalPlan) -> Result<bool> {
    let mut needs = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && RelationSource::of(&scan.source).is_some_and(|s| is_ours(&s.relation().schema))
        {
            needs = true;
        }
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                needs = needs || matches!(expr, Expr::ScalarFunction(f) if function::CatalogFunction::of(f).is_some());
                Ok(if needs { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })
        })?;
        Ok(if needs { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })
    .map_err(from_datafusion)?;
    Ok(needs)
}

/// The plan without the catalog relations that never have rows. Clients ask them by subqueries that no plan can join; over
/// nothing, nothing of those is left.
pub(crate) fn without_empty(plan: LogicalPlan) -> Result<LogicalPlan> {
    let is_empty = |scan: &TableScan| {
        let relation = RelationSource::of(&scan.source).map(RelationSource::relation);
        relation
            .filter(|r| is_ours(&r.schema))
            .and_then(|r| tables::find(&r.schema, &r.name))
            .is_some_and(Table::is_empty)
    };
    let mut any = false;
    plan.apply_with_subqueries(|node| {
        any = any || matches!(node, LogicalPlan::TableScan(scan) if is_empty(scan));
        Ok(if any { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })
    .map_err(from_datafusion)?;
    if !any {
        return Ok(plan);
    }
    let emptied = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::TableScan(scan) if is_empty(&scan) => {
            let empty = EmptyRelation { produce_one_row: false, schema: scan.projected_schema };
            Ok(Transformed::yes(LogicalPlan::EmptyRelation(empty)))
        }
        // Nothing is made of nothing, whatever subqueries a projection of it has.
        node if has_no_row(&node) => {
            let empty = EmptyRelation { produce_one_row: false, schema: Arc::clone(node.schema()) };
            Ok(Transformed::yes(LogicalPlan::EmptyRelation(empty)))
        }
        node => {
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                Ok(expr.transform_up(without_null_subquery)?.update_data(|expr| name.restore(expr)))
            })
        }
    });
    emptied.map(|t| t.data).map_err(from_datafusion)
}

/// A null in place of a scalar subquery that has no row.
fn without_null_subquery(expr: Expr) -> Result<Transformed<Expr>, DataFusionError> {
    match &expr {
        Expr::ScalarSubquery(subquery) if gives_null(&subquery.subquery) => {
            let data_type = subquery.subquery.schema().field(0).data_type();
            Ok(Transformed::yes(Expr::Literal(ScalarValue::try_from(data_type)?, None)))
        }
        _ => Ok(Transformed::no(expr)),
    }
}

/// Whether a scalar subquery is null: it has no row, or it is the first value of no rows.
fn gives_null(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => {
            let is_first = |e: &Expr| matches!(e, Expr::AggregateFunction(f) if f.func.name() == "first_value");
            aggregate.group_expr.is_empty() && aggregate.aggr_expr.iter().all(is_first) && has_no_row(&aggregate.input)
        }
        LogicalPlan::Projection(projection) => {
            let is_column = |e: &Expr| matches!(e.clone().unalias(), Expr::Column(_) | Expr::Cast(_));
            has_no_row(plan) || projection.expr.iter().all(is_column) && gives_null(&projection.input)
        }
        LogicalPlan::SubqueryAlias(alias) => gives_null(&alias.input),
        plan => has_no_row(plan),
    }
}

fn has_no_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::EmptyRelation(empty) => !empty.produce_one_row,
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Distinct(_) => plan.inputs().into_iter().all(has_no_row),
        LogicalPlan::Join(join) if join.join_type == JoinType::Inner => {
            has_no_row(&join.left) || has_no_row(&join.right)
        }
        _ => false,
    }
}

fn is_ours(schema: &str) -> bool {
    matches!(schema, "pg_catalog" | "information_schema")
}

fn bound(expr: Expr, view: &Arc<CatalogView>) -> Result<Transformed<Expr>, DataFusionError> {
    let Expr::ScalarFunction(mut call) = expr else { return Ok(Transformed::no(expr)) };
    let Some(function) = function::CatalogFunction::of(&call) else {
        return Ok(Transformed::no(Expr::ScalarFunction(call)));
    };
    call.func = function.bound(view);
    Ok(Transformed::yes(Expr::ScalarFunction(call)))
}

fn filled(node: LogicalPlan, view: &Arc<CatalogView>) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
    let relation = match RelationSource::of(&scan.source) {
        Some(source) if source.relation().kind == Kind::System && is_ours(&source.relation().schema) => {
            Arc::clone(source.relation())
        }
        _ => return Ok(Transformed::no(LogicalPlan::TableScan(scan))),
    };
    let external = |e: Error| DataFusionError::External(Box::new(e));
    let table = tables::find(&relation.schema, &relation.name)
        .ok_or_else(|| external(Error::internal(format!("\"{}\" has no columns", relation.name))))?;
    let batch = table.batch(view, relation.visible_schema()).map_err(external)?;
    scan.source = provider_as_source(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?));
    Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
}
