//! `FROM t, unnest(t.tags) AS x`: each row of the left side with the elements of its own array.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{NullHandling, TableReference};
use datafusion::logical_expr::{Expr, Join, JoinType, LogicalPlan, LogicalPlanBuilder, lit};

use super::types::Result;

/// The join as an unnest above its left side, if its right side is nothing but arrays of that side taken apart; else the
/// join as it is.
pub(super) fn unnest_left_side(join: Join) -> Result<LogicalPlan> {
    let is_outer = join.join_type == JoinType::Left && join.filter.as_ref().is_none_or(|f| *f == lit(true));
    if !(join.join_type == JoinType::Inner || is_outer) || !join.on.is_empty() {
        return Ok(LogicalPlan::Join(join));
    }
    let (alias, subquery) = match join.right.as_ref() {
        LogicalPlan::SubqueryAlias(a) => (Some(a.alias.clone()), a.input.as_ref()),
        other => (None, other),
    };
    let LogicalPlan::Subquery(subquery) = subquery else { return Ok(LogicalPlan::Join(join)) };
    let left_columns: Vec<Expr> = join.left.schema().iter().map(Expr::from).collect();
    let Some(above) = above_left(&subquery.subquery, &join.left, &left_columns, is_outer)? else {
        return Ok(LogicalPlan::Join(join));
    };
    let own = join.right.schema().iter().zip(subquery.subquery.schema().iter());
    let own: Vec<Expr> = own
        .map(|((qualifier, field), inner)| {
            let qualifier: Option<TableReference> = alias.clone().or_else(|| qualifier.cloned());
            Expr::from(inner).alias_qualified(qualifier, field.name())
        })
        .collect();
    let plan = LogicalPlanBuilder::from(above).project(left_columns.into_iter().chain(own))?;
    match join.filter {
        Some(filter) if !is_outer => plan.filter(filter)?.build(),
        _ => plan.build(),
    }
}

/// A chain of projections and unnests over no relation, over the left side instead, whose columns pass through. An outer
/// one keeps rows of the left side for which there is nothing to take apart.
fn above_left(
    plan: &LogicalPlan,
    left: &Arc<LogicalPlan>,
    through: &[Expr],
    is_outer: bool,
) -> Result<Option<LogicalPlan>> {
    match plan {
        LogicalPlan::EmptyRelation(empty) if empty.produce_one_row => Ok(Some(left.as_ref().clone())),
        LogicalPlan::Projection(projection) => {
            let Some(input) = above_left(&projection.input, left, through, is_outer)? else { return Ok(None) };
            let exprs = projection.expr.iter().cloned().map(without_outer).collect::<Result<Vec<_>>>()?;
            let exprs = through.iter().cloned().chain(exprs);
            Ok(Some(LogicalPlanBuilder::from(input).project(exprs)?.build()?))
        }
        LogicalPlan::Unnest(unnest) => {
            let Some(input) = above_left(&unnest.input, left, through, is_outer)? else { return Ok(None) };
            let options = unnest.options.clone();
            let options =
                if is_outer { options.with_null_handling(NullHandling::PreserveAndExpandEmpty) } else { options };
            let plan =
                LogicalPlanBuilder::from(input).unnest_columns_with_options(unnest.exec_columns.clone(), options)?;
            Ok(Some(plan.build()?))
        }
        _ => Ok(None),
    }
}

/// References to the outer query are columns now. Names stay, for the nodes above refer to them.
fn without_outer(expr: Expr) -> Result<Expr> {
    let name = expr.qualified_name();
    let inner = expr
        .transform_up(|e| {
            Ok(match e {
                Expr::OuterReferenceColumn(_, column) => Transformed::yes(Expr::Column(column)),
                other => Transformed::no(other),
            })
        })
        .data()?;
    Ok(inner.unalias().alias_qualified(name.0, name.1))
}
