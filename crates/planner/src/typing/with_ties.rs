//! `FETCH FIRST n ROWS WITH TIES`: the rows whose rank is among the first n, as a filter over `rank()`.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::Column;
use datafusion::logical_expr::expr::{Sort as SortExpr, WindowFunction};
use datafusion::logical_expr::{
    Expr, Limit, LogicalPlan, LogicalPlanBuilder, Operator, Projection, WindowFunctionDefinition, cast,
};
use millstream_types::{Error, SqlState};

use super::types::{Result, user_error};
use crate::binder::external;
use crate::functions::Registry;

/// The function by which the limit of `WITH TIES` reaches the plan: `LIMIT __with_ties(n)`.
pub(crate) const WITH_TIES: &str = "__with_ties";

/// The number in a limit with ties.
fn wanted(limit: &Limit) -> Option<Expr> {
    match limit.fetch.as_deref() {
        Some(Expr::ScalarFunction(function)) if function.func.name() == WITH_TIES => function.args.first().cloned(),
        _ => None,
    }
}

/// The plan of a limit with ties; nothing if the limit has none.
pub(super) fn rank_rows(limit: &Limit) -> Result<Option<LogicalPlan>> {
    let Some(n) = wanted(limit) else { return Ok(None) };
    ranked(&limit.input, &n, limit.skip.as_deref()).map(Some)
}

fn ranked(input: &LogicalPlan, n: &Expr, skip: Option<&Expr>) -> Result<LogicalPlan> {
    match input {
        // Columns that are only ordered by are dropped above the sort.
        LogicalPlan::Projection(projection) => {
            let below = ranked(&projection.input, n, skip)?;
            Ok(LogicalPlan::Projection(Projection::try_new(projection.expr.clone(), Arc::new(below))?))
        }
        LogicalPlan::Sort(sort) => {
            let columns: Vec<Expr> = sort.input.schema().iter().map(Expr::from).collect();
            let (mut plan, rank) = numbered(sort.input.as_ref().clone(), "rank", &sort.expr)?;
            let n = cast(n.clone(), DataType::Int64);
            let last = match skip {
                None => n,
                Some(skip) => {
                    let skip = cast(skip.clone(), DataType::Int64);
                    let (with_number, number) = numbered(plan, "row_number", &sort.expr)?;
                    let after = binary(Expr::Column(number), Operator::Gt, skip.clone());
                    plan = LogicalPlanBuilder::from(with_number).filter(after)?.build()?;
                    binary(n, Operator::Plus, skip)
                }
            };
            let is_wanted = binary(Expr::Column(rank), Operator::LtEq, last);
            let plan = LogicalPlanBuilder::from(plan).filter(is_wanted)?.project(columns)?;
            plan.sort(sort.expr.clone())?.build()
        }
        _ => user_error(SqlState::SYNTAX_ERROR, "WITH TIES cannot be specified without ORDER BY clause"),
    }
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    super::calls::binary(left, op, right)
}

/// The plan with one more column: a function that numbers its rows in an order.
fn numbered(plan: LogicalPlan, function: &str, order: &[SortExpr]) -> Result<(LogicalPlan, Column)> {
    let udwf = Registry::get().window(function);
    let udwf = udwf.ok_or_else(|| external(Error::internal(format!("no function {function}"))))?;
    let mut call = WindowFunction::new(WindowFunctionDefinition::WindowUDF(udwf), Vec::new());
    call.params.order_by = order.to_vec();
    call.params.window_frame = datafusion::logical_expr::WindowFrame::new(Some(false));
    let number = Expr::WindowFunction(Box::new(call)).alias(format!("__{function}"));
    let plan = LogicalPlanBuilder::from(plan).window(vec![number])?.build()?;
    let last = plan.schema().fields().len() - 1;
    let column = Column::from(plan.schema().qualified_field(last));
    Ok((plan, column))
}
