//! Aggregates over frames that leave rows behind, for those that cannot take rows back: what a frame holds is aggregated
//! anew. DataFusion refuses them. In views our own operator does this, so it is for queries that run once.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::{Expr, LogicalPlan, Window, WindowFunctionDefinition};

use crate::functions::excluding::{Excluding, Exclusion};
use crate::typing::types::Result;

/// Aggregates that take rows back.
const RETRACTABLE: [&str; 6] = ["count", "sum", "avg", "min", "max", "array_agg"];

/// The plan with such aggregates over whole frames.
pub(crate) fn recompute_frames(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Window(window) if window.window_expr.iter().any(is_refused) => {
            let names = window.schema.fields().iter().skip(window.input.schema().fields().len());
            let exprs = window.window_expr.iter().zip(names);
            let exprs = exprs.map(|(expr, field)| recomputed(expr.clone(), field.name())).collect();
            Window::try_new(exprs, Arc::clone(&window.input)).map(|w| Transformed::yes(LogicalPlan::Window(w)))
        }
        other => Ok(Transformed::no(other)),
    })
    .data()
}

fn is_refused(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_refused(&alias.expr),
        Expr::WindowFunction(function) => {
            let WindowFunctionDefinition::AggregateUDF(udaf) = &function.fun else { return false };
            let slides = !function.params.window_frame.start_bound.is_unbounded();
            slides && !function.params.distinct && !RETRACTABLE.contains(&udaf.name())
        }
        _ => false,
    }
}

/// The function under the name by which the plan above knows it.
fn recomputed(expr: Expr, name: &str) -> Expr {
    if !is_refused(&expr) {
        return expr;
    }
    match expr {
        Expr::Alias(alias) => recomputed(*alias.expr, name),
        Expr::WindowFunction(function) => {
            let WindowFunction { fun, params } = *function;
            let (fun, params) = match fun {
                WindowFunctionDefinition::AggregateUDF(udaf) => {
                    let WindowFunctionParams { args, filter, .. } = params;
                    let (fun, args) = Excluding::call(udaf, Exclusion::Nothing, args, &[], filter.map(|f| *f));
                    (fun, WindowFunctionParams { args, filter: None, ..params })
                }
                other => (other, params),
            };
            Expr::WindowFunction(Box::new(WindowFunction { fun, params })).alias(name)
        }
        other => other,
    }
}
