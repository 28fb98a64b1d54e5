//! The types of columns that a subquery takes from around it.
//!
//! Such a column carries the type that was guessed for it when the query was read; by now its own is known.

use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::types::Result;

/// The subquery with the outer columns that are in a schema of the types they have there.
pub(super) fn with_types_of(subquery: LogicalPlan, outer: &DFSchema) -> Result<LogicalPlan> {
    let typed = |expr: Expr| match expr {
        Expr::OuterReferenceColumn(field, column) => Ok(match outer.qualified_field_from_column(&column) {
            Ok((_, known)) if known.data_type() != field.data_type() => {
                let field = field.as_ref().clone().with_data_type(known.data_type().clone());
                Transformed::yes(Expr::OuterReferenceColumn(field.into(), column))
            }
            _ => Transformed::no(Expr::OuterReferenceColumn(field, column)),
        }),
        other => Ok(Transformed::no(other)),
    };
    let node = |node: LogicalPlan| node.map_expressions(|expr| expr.transform_up(typed));
    subquery.transform_up_with_subqueries(node).data()
}
