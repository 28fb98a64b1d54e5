//! Takes names off what windows are partitioned and ordered by.
//!
//! [`CommonSubexprEliminate`](datafusion::optimizer::common_subexpr_eliminate::CommonSubexprEliminate) gives an expression
//! that it puts elsewhere its former name, in the second function of a window and not in the first. DataFusion's executor
//! then takes the two for different windows.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// Comes after expressions that occur twice have been put elsewhere.
#[derive(Debug)]
pub(crate) struct PlainWindowKeys;

impl OptimizerRule for PlainWindowKeys {
    fn name(&self) -> &str {
        "plain_window_keys"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        if !matches!(plan, LogicalPlan::Window(_)) {
            return Ok(Transformed::no(plan));
        }
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(expr.transform_down(with_plain_keys)?.update_data(|expr| name.restore(expr)))
        })
    }
}

fn with_plain_keys(expr: Expr) -> Result<Transformed<Expr>> {
    let Expr::WindowFunction(mut function) = expr else { return Ok(Transformed::no(expr)) };
    let params = &mut function.params;
    let keys = params.partition_by.iter_mut().chain(params.order_by.iter_mut().map(|sort| &mut sort.expr));
    let mut any = false;
    for key in keys.filter(|key| matches!(key, Expr::Alias(_))) {
        *key = std::mem::take(key).unalias();
        any = true;
    }
    Ok(Transformed::new_transformed(Expr::WindowFunction(function), any))
}
