//! The order that a subquery gives its rows, for the aggregates above it: `array_agg(x)` over `(SELECT ... ORDER BY y)`.
//!
//! SQL does not promise it, Postgres keeps it, and people rely on it.

use datafusion::common::Column;
use datafusion::logical_expr::expr::{AggregateFunction, Sort};
use datafusion::logical_expr::{Expr, LogicalPlan};

/// Aggregates whose results depend on the order of their rows.
pub(crate) fn is_order_sensitive(name: &str) -> bool {
    matches!(name, "array_agg" | "string_agg" | "first_value" | "last_value" | "nth_value")
}

/// The order of an aggregate's input, in its columns.
pub(super) fn order_below(plan: &LogicalPlan) -> Vec<Sort> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => order_of(&aggregate.input),
        _ => vec![],
    }
}

/// The expression with this order, if it is an aggregate that depends on one and was given none.
pub(super) fn with_order(expr: Expr, order: &[Sort]) -> Expr {
    match expr {
        Expr::Alias(mut alias) => {
            alias.expr = Box::new(with_order(*alias.expr, order));
            Expr::Alias(alias)
        }
        Expr::AggregateFunction(AggregateFunction { func, mut params })
            if is_order_sensitive(func.name()) && params.order_by.is_empty() && !params.distinct =>
        {
            params.order_by = order.to_vec();
            Expr::AggregateFunction(AggregateFunction { func, params })
        }
        other => other,
    }
}

fn order_of(plan: &LogicalPlan) -> Vec<Sort> {
    match plan {
        LogicalPlan::Sort(sort) => sort.expr.clone(),
        LogicalPlan::Limit(limit) => order_of(&limit.input),
        LogicalPlan::SubqueryAlias(alias) => {
            let renamed = |column: &Column| {
                alias.input.schema().maybe_index_of_column(column).map(|i| Expr::from(alias.schema.qualified_field(i)))
            };
            known(order_of(&alias.input), |e| match e {
                Expr::Column(column) => renamed(column),
                _ => None,
            })
        }
        LogicalPlan::Projection(projection) => known(order_of(&projection.input), |e| {
            let at = projection.expr.iter().position(|p| p.clone().unalias() == *e)?;
            Some(Expr::from(projection.schema.qualified_field(at)))
        }),
        _ => vec![],
    }
}

/// An order in other columns, up to the first that is not among them.
fn known(order: Vec<Sort>, column: impl Fn(&Expr) -> Option<Expr>) -> Vec<Sort> {
    let sort = |s: Sort| column(&s.expr).map(|e| Sort::new(e, s.asc, s.nulls_first));
    order.into_iter().map_while(sort).collect()
}
