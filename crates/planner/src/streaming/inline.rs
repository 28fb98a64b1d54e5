//! Expressions seen through the projections that they stand on.

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::{Expr, LogicalPlan};
use millstream_types::Result;

use crate::errors::from_datafusion;

/// The expressions over the first plan, going down from `plan`, that is no projection; and that plan.
pub(super) fn below_projections(mut exprs: Vec<Expr>, mut plan: &LogicalPlan) -> Result<(Vec<Expr>, &LogicalPlan)> {
    loop {
        match plan {
            LogicalPlan::Projection(projection) => {
                exprs = substitute(exprs, &projection.schema, |i| projection.expr[i].clone())?;
                plan = &projection.input;
            }
            LogicalPlan::SubqueryAlias(alias) => {
                exprs = substitute(exprs, &alias.schema, |i| column(alias.input.schema(), i))?;
                plan = &alias.input;
            }
            _ => return Ok((exprs, plan)),
        }
    }
}

/// The expressions with the columns of a schema replaced, by position.
pub(super) fn substitute(exprs: Vec<Expr>, schema: &DFSchema, by: impl Fn(usize) -> Expr) -> Result<Vec<Expr>> {
    let replace = |e: Expr| {
        let Expr::Column(column) = &e else { return Ok(Transformed::no(e)) };
        Ok(Transformed::yes(by(schema.index_of_column(column)?).unalias()))
    };
    exprs.into_iter().map(|e| e.transform_up(replace).data().map_err(from_datafusion)).collect()
}

/// A column of a schema.
pub(super) fn column(schema: &DFSchema, i: usize) -> Expr {
    Expr::Column(Column::from(schema.qualified_field(i)))
}
