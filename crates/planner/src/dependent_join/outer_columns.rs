//! The columns that a subquery takes from around it.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, LogicalPlan, Subquery};

use super::lateral_plan;
use crate::typing::types::Result;

/// The columns of no relation in the plan, those apart that a subquery within it takes from the plan.
pub(crate) fn outer_columns(plan: &LogicalPlan) -> Result<Vec<Column>> {
    let mut columns = Vec::new();
    collect(plan, &mut columns)?;
    Ok(columns)
}

/// Adds the outer columns of an expression over rows of the schema.
pub(crate) fn add_outer_columns(expr: &Expr, schema: &DFSchema, columns: &mut Vec<Column>) -> Result<()> {
    expr.apply(|e| {
        match e {
            Expr::OuterReferenceColumn(_, column) => add(column, columns),
            Expr::ScalarSubquery(subquery)
            | Expr::Exists(Exists { subquery, .. })
            | Expr::InSubquery(InSubquery { subquery, .. })
            | Expr::SetComparison(SetComparison { subquery, .. }) => further(subquery, schema, columns)?,
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

fn add(column: &Column, columns: &mut Vec<Column>) {
    if !columns.contains(column) {
        columns.push(column.clone());
    }
}

/// Adds the columns that a subquery over rows of the schema takes from further out.
fn further(subquery: &Subquery, schema: &DFSchema, columns: &mut Vec<Column>) -> Result<()> {
    for column in outer_columns(&subquery.subquery)? {
        if !schema.has_column(&column) {
            add(&column, columns);
        }
    }
    Ok(())
}

fn collect(plan: &LogicalPlan, columns: &mut Vec<Column>) -> Result<()> {
    let schema = merge_schema(&plan.inputs());
    plan.apply_expressions(|expr| {
        add_outer_columns(expr, &schema, columns)?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    if let LogicalPlan::Join(join) = plan
        && let Some(lateral) = lateral_plan(&join.right)?
    {
        collect(&join.left, columns)?;
        for column in outer_columns(&lateral)? {
            if !join.left.schema().has_column(&column) {
                add(&column, columns);
            }
        }
        return Ok(());
    }
    plan.inputs().into_iter().try_for_each(|input| collect(input, columns))
}
