//! Which output columns are `char(n)`, that is, padded where they are written out.
//!
//! Inside, a `char(n)` is a text without the blanks at its end: so it compares, concatenates and has its length as in
//! Postgres. Plans know it as a text; its own type is found where the column comes from.

use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};
use millstream_types::SqlType;

use super::RelationSource;

/// The type of an output column that is a column of a relation, as it is, of type `char(n)`.
pub(super) fn char_type(plan: &LogicalPlan, column: usize) -> Option<SqlType> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let source = column_of(&projection.expr[column])?;
            let at = projection.input.schema().maybe_index_of_column(source)?;
            char_type(&projection.input, at)
        }
        LogicalPlan::Filter(filter) => char_type(&filter.input, column),
        LogicalPlan::Sort(sort) => char_type(&sort.input, column),
        LogicalPlan::Limit(limit) => char_type(&limit.input, column),
        LogicalPlan::SubqueryAlias(alias) => char_type(&alias.input, column),
        LogicalPlan::Distinct(Distinct::All(input)) => char_type(input, column),
        LogicalPlan::Aggregate(aggregate) => {
            let source = column_of(aggregate.group_expr.get(column)?)?;
            let at = aggregate.input.schema().maybe_index_of_column(source)?;
            char_type(&aggregate.input, at)
        }
        LogicalPlan::Join(join) => {
            let n_left = join.left.schema().fields().len();
            if column < n_left { char_type(&join.left, column) } else { char_type(&join.right, column - n_left) }
        }
        LogicalPlan::TableScan(scan) => {
            let source = RelationSource::of(&scan.source)?;
            let at = scan.projection.as_ref().map_or(Some(column), |p| p.get(column).copied())?;
            let sql_type = &source.relation().columns.get(at)?.sql_type;
            matches!(sql_type, SqlType::Char(_)).then(|| sql_type.clone())
        }
        _ => None,
    }
}

fn column_of(expr: &Expr) -> Option<&datafusion::common::Column> {
    match expr {
        Expr::Column(column) => Some(column),
        Expr::Alias(alias) => column_of(&alias.expr),
        _ => None,
    }
}
