//! Scalar subqueries that may have more rows than one, which is an error (21000) where the value is needed.

use std::sync::Arc;

use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, Subquery};
use millstream_types::Error;

use super::types::Result;
use crate::binder::external;
use crate::functions::single_value::{ONLY_ELEMENT, UP_TO_TWO};
use crate::functions::{Registry, builtin};

/// The value of a subquery, with a check if it may have several rows.
pub(super) fn checked(subquery: Subquery) -> Result<Expr> {
    let plan = subquery.subquery.as_ref();
    if plan.max_rows().is_some_and(|n| n <= 1) {
        return Ok(Expr::ScalarSubquery(subquery));
    }
    let up_to_two = Registry::get().aggregate(UP_TO_TWO);
    let up_to_two = up_to_two.ok_or_else(|| external(Error::internal(format!("no aggregate {UP_TO_TWO}"))))?;
    let value = Expr::from(plan.schema().qualified_field(0));
    let values = AggregateFunction::new_udf(up_to_two, vec![value], false, None, Vec::new(), None);
    let plan = LogicalPlanBuilder::from(plan.clone())
        .aggregate(Vec::<Expr>::new(), vec![Expr::AggregateFunction(values)])?
        .build()?;
    Ok(builtin(ONLY_ELEMENT).call(vec![Expr::ScalarSubquery(subquery.with_plan(Arc::new(plan)))]))
}
