//! Keeps conditions above aggregates without a key.
//!
//! Such an aggregate has a row even of nothing. DataFusion pushes a condition that reads no column, which only one with an
//! uncorrelated subquery is by then, below it, as it may below one with a key: then the row is there whatever the
//! condition says. A limit of one row, which changes nothing, stands in the way.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Limit, LogicalPlan, lit};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// Comes before filters are pushed down.
#[derive(Debug)]
pub(crate) struct GuardGlobalAggregates;

impl OptimizerRule for GuardGlobalAggregates {
    fn name(&self) -> &str {
        "guard_global_aggregates"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let condition = match &plan {
            LogicalPlan::Filter(filter) => Some(&filter.predicate),
            LogicalPlan::Join(join) => join.filter.as_ref(),
            _ => None,
        };
        let reads_nothing = |e: &&Expr| !matches!(e, Expr::Literal(..)) && e.column_refs().is_empty();
        if !condition.is_some_and(|c| split_conjunction(c).iter().any(reads_nothing)) {
            return Ok(Transformed::no(plan));
        }
        plan.map_children(|input| input.transform_down(guarded))
    }
}

fn guarded(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    Ok(match plan {
        LogicalPlan::Limit(_) => Transformed::new(plan, false, TreeNodeRecursion::Jump),
        LogicalPlan::Aggregate(aggregate) if aggregate.group_expr.is_empty() => {
            let input = Arc::new(LogicalPlan::Aggregate(aggregate));
            let limit = LogicalPlan::Limit(Limit { skip: None, fetch: Some(Box::new(lit(1i64))), input });
            Transformed::new(limit, true, TreeNodeRecursion::Jump)
        }
        plan => Transformed::no(plan),
    })
}
