//! Postgres' types for every expression of a plan, as an analyzer rule.
//!
//! Bottom up: a node's subqueries and expressions are resolved over the final types of its inputs, then its schema is made
//! anew, so each node sees final types. Every expression comes out with a type that [`millstream_types::SqlType`] has.

mod averages;
pub(crate) mod calls;
pub(crate) mod cast;
pub(crate) mod chains;
pub(crate) mod deferred;
pub(crate) mod exprs;
pub(crate) mod input_order;
mod lateral;
mod multiset;
mod nodes;
mod outer_references;
pub(crate) mod planner;
mod single_row;
pub(crate) mod types;
pub(crate) mod with_ties;
pub(crate) mod zoned;

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::optimizer::AnalyzerRule;

/// Gives every expression the type, operator and function that Postgres would.
#[derive(Debug)]
pub(crate) struct PostgresTypes;

impl AnalyzerRule for PostgresTypes {
    fn name(&self) -> &str {
        "postgres_types"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan, DataFusionError> {
        resolve_plan(plan)
    }
}

fn resolve_plan(plan: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    let resolve = |node: LogicalPlan| {
        let outer = merge_schema(&node.inputs());
        let subqueries = |subquery: LogicalPlan| {
            Ok(Transformed::yes(resolve_plan(outer_references::with_types_of(subquery, &outer)?)?))
        };
        node.map_subqueries(subqueries)?.transform_data(nodes::resolve_node)
    };
    plan.transform_down_up(resolve_lateral_join, resolve).data()
}

/// A lateral subquery sees the final types of the left side, which is resolved before it.
fn resolve_lateral_join(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    match plan {
        LogicalPlan::Join(mut join) if is_lateral(&join.right) => {
            let left = resolve_plan(Arc::unwrap_or_clone(join.left))?;
            let right = outer_references::with_types_of(Arc::unwrap_or_clone(join.right), left.schema())?;
            join.left = Arc::new(left);
            join.right = Arc::new(resolve_plan(right)?);
            // What is below is done.
            Ok(Transformed::new(LogicalPlan::Join(join), true, TreeNodeRecursion::Jump))
        }
        other => Ok(Transformed::no(other)),
    }
}

fn is_lateral(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => is_lateral(&alias.input),
        LogicalPlan::Subquery(_) => true,
        _ => false,
    }
}
