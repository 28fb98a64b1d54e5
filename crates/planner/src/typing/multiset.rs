//! `EXCEPT ALL` and `INTERSECT ALL`, which DataFusion plans as if each row counted once.

use std::sync::Arc;

use datafusion::common::{Column, NullEquality};
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{Expr, Join, JoinType, LogicalPlan, LogicalPlanBuilder, WindowFunctionDefinition};
use millstream_types::Error;

use super::types::Result;
use crate::binder::external;
use crate::functions::Registry;

/// Whether a join stands for `EXCEPT` or `INTERSECT`: only set operations take nulls for equal at this stage.
pub(super) fn is_set_operation(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftAnti | JoinType::LeftSemi)
        && join.null_equality == NullEquality::NullEqualsNull
}

/// Whether a join stands for `EXCEPT ALL` or `INTERSECT ALL`: without ALL the left side is distinct.
pub(super) fn is_multiset_operation(join: &Join) -> bool {
    is_set_operation(join) && !matches!(join.left.as_ref(), LogicalPlan::Distinct(_))
}

/// Numbers equal rows on both sides and joins on the number too: the n-th of a row on the left meets the n-th on the
/// right.
pub(super) fn count_occurrences(mut join: Join) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = join.left.schema().iter().map(Expr::from).collect();
    let (left, left_number) = numbered(Arc::unwrap_or_clone(join.left), "__left_occurrence")?;
    let (right, right_number) = numbered(Arc::unwrap_or_clone(join.right), "__right_occurrence")?;
    join.on.push((Expr::Column(left_number), Expr::Column(right_number)));
    let joined = Join::try_new(
        Arc::new(left),
        Arc::new(right),
        join.on,
        join.filter,
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?;
    LogicalPlanBuilder::from(LogicalPlan::Join(joined)).project(columns)?.build()
}

/// The plan with one more column that numbers equal rows from 1, and that column.
fn numbered(plan: LogicalPlan, name: &str) -> Result<(LogicalPlan, Column)> {
    let row_number =
        Registry::get().window("row_number").ok_or_else(|| external(Error::internal("no function row_number")))?;
    let mut function = WindowFunction::new(WindowFunctionDefinition::WindowUDF(row_number), Vec::new());
    function.params.partition_by = plan.schema().iter().map(Expr::from).collect();
    let number = Expr::WindowFunction(Box::new(function)).alias(name);
    let plan = LogicalPlanBuilder::from(plan).window(vec![number])?.build()?;
    let last = plan.schema().fields().len() - 1;
    let column = Column::from(plan.schema().qualified_field(last));
    Ok((plan, column))
}
