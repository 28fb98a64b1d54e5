//! Postgres' types for every expression of a plan, as an analyzer rule.
//!
//! Bottom up: a node's expressions are resolved over the final types of its inputs, then its schema is made anew, so each
//! node sees final types. Every expression comes out with a type that [`millstream_types::SqlType`] has.

pub(crate) mod calls;
pub(crate) mod cast;
pub(crate) mod deferred;
pub(crate) mod exprs;
mod input_order;
mod lateral;
mod multiset;
mod nodes;
pub(crate) mod planner;
pub(crate) mod types;
pub(crate) mod with_ties;

use datafusion::common::DataFusionError;
use datafusion::common::tree_node::TransformedResult;
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::AnalyzerRule;

/// Gives every expression the type, operator and function that Postgres would.
#[derive(Debug)]
pub(crate) struct PostgresTypes;

impl AnalyzerRule for PostgresTypes {
    fn name(&self) -> &str {
        "postgres_types"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan, DataFusionError> {
        plan.transform_up_with_subqueries(nodes::resolve_node).data()
    }
}
