//! LIMIT and OFFSET that a query computes, as a filter over the numbers of the rows.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::alias::AliasGenerator;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{
    Expr, Limit, LogicalPlan, LogicalPlanBuilder, Operator, Projection, SortExpr, WindowFrame,
    WindowFunctionDefinition, lit,
};
use millstream_types::Error;

use super::with_columns;
use crate::binder::external;
use crate::functions::numeric::Arithmetic;
use crate::functions::overloads::datafusion_function;
use crate::functions::row_counts::{LIMIT_COUNT, OFFSET_COUNT};
use crate::functions::{Registry, builtin};
use crate::typing::types::Result;

pub(super) fn lift_from_limit(limit: Limit, aliases: &AliasGenerator) -> Result<LogicalPlan> {
    // A projection works row by row, so the limit may as well stand below it, where the order is.
    if let LogicalPlan::Projection(projection) = limit.input.as_ref() {
        let below = lift_from_limit(Limit { input: Arc::clone(&projection.input), ..limit.clone() }, aliases)?;
        return Ok(LogicalPlan::Projection(Projection::try_new(projection.expr.clone(), Arc::new(below))?));
    }
    let (input, order): (&LogicalPlan, &[SortExpr]) = match limit.input.as_ref() {
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => (&sort.input, &sort.expr),
        other => (other, &[]),
    };
    let name = aliases.next("__row");
    let numbered = LogicalPlanBuilder::from(input.clone()).window(vec![row_number(order)?.alias(&name)])?;
    let number = Expr::Column(Column::new_unqualified(&name));
    // NULL is no limit, and no offset.
    let skip = limit.skip.map(|skip| or_else(builtin(OFFSET_COUNT).call(vec![*skip]), 0)).transpose()?;
    let fetch = limit.fetch.map(|fetch| or_else(builtin(LIMIT_COUNT).call(vec![*fetch]), i64::MAX)).transpose()?;
    let after = skip.clone().map(|skip| number.clone().gt(skip));
    let place = match skip {
        Some(skip) => Arithmetic::of(Operator::Minus).call(vec![number, skip]),
        None => number,
    };
    let upto = fetch.map(|fetch| place.lt_eq(fetch));
    let wanted = after.into_iter().chain(upto).reduce(Expr::and).unwrap_or_else(|| lit(true));
    let plan = with_columns(numbered.filter(wanted)?.build()?, input)?;
    if order.is_empty() { Ok(plan) } else { LogicalPlanBuilder::from(plan).sort(order.to_vec())?.build() }
}

fn or_else(count: Expr, default: i64) -> Result<Expr> {
    Ok(datafusion_function("coalesce")?.call(vec![count, lit(default)]))
}

fn row_number(order: &[SortExpr]) -> Result<Expr> {
    let row_number = Registry::get().window("row_number");
    let row_number = row_number.ok_or_else(|| external(Error::internal("no function row_number")))?;
    let mut call = WindowFunction::new(WindowFunctionDefinition::WindowUDF(row_number), Vec::new());
    call.params.order_by = order.to_vec();
    call.params.window_frame = WindowFrame::new((!order.is_empty()).then_some(false));
    Ok(Expr::WindowFunction(Box::new(call)))
}
