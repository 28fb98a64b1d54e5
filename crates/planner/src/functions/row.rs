//! A row of values that is compared with the rows of a subquery: `(a, b) IN (SELECT x, y ...)` is planned as `__row(a, b) IN
//! (SELECT __row(x, y) ...)`. No plan that runs has one: rows are compared column by column.

use std::sync::Arc;

use arrow::array::{ArrayRef, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};
use millstream_types::Error;

use super::builtin;
use super::builtin::Spec;
use crate::typing::types::Result;

/// The function's name.
pub(crate) const ROW: &str = "__row";

/// The functions of this file.
pub(super) static SPECS: &[Spec] = &[Spec { name: ROW, returns: row_type, run: run_row, strict: false }];

fn fields(types: &[DataType]) -> Fields {
    types.iter().enumerate().map(|(i, t)| Field::new(format!("c{i}"), t.clone(), true)).collect()
}

fn row_type(types: &[DataType]) -> DataType {
    DataType::Struct(fields(types))
}

fn run_row(columns: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let types: Vec<DataType> = columns.iter().map(|c| c.data_type().clone()).collect();
    Ok(Arc::new(StructArray::try_new_with_length(fields(&types), columns.to_vec(), None, n_rows)?))
}

/// A row of values.
pub(crate) fn row(values: Vec<Expr>) -> Expr {
    builtin(ROW).call(values)
}

/// The values of a row; the expression itself if it is none.
pub(crate) fn values_of(expr: Expr) -> Vec<Expr> {
    match expr {
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == ROW => args,
        Expr::Alias(alias) if is_row(&alias.expr) => values_of(*alias.expr),
        // What was known of all of them has become a constant.
        Expr::Literal(ScalarValue::Struct(row), _) => {
            let value = |column: &ArrayRef| ScalarValue::try_from_array(column, 0);
            row.columns().iter().filter_map(|c| value(c).ok()).map(|v| Expr::Literal(v, None)).collect()
        }
        other => vec![other],
    }
}

/// Whether an expression is a row.
pub(crate) fn is_row(expr: &Expr) -> bool {
    match expr {
        Expr::ScalarFunction(function) => function.func.name() == ROW,
        Expr::Literal(ScalarValue::Struct(_), _) => true,
        Expr::Alias(alias) => is_row(&alias.expr),
        _ => false,
    }
}

/// The rows that a subquery gives, taken apart: what it takes their values from, and the values. Of a subquery that gives
/// no rows of this kind, its one column.
pub(crate) fn rows_of(plan: &Arc<LogicalPlan>) -> (Arc<LogicalPlan>, Vec<Expr>) {
    match plan.as_ref() {
        LogicalPlan::Projection(Projection { expr, input, .. }) if matches!(expr.as_slice(), [e] if is_row(e)) => {
            (Arc::clone(input), values_of(expr[0].clone()))
        }
        other => (Arc::clone(plan), vec![Expr::from(other.schema().qualified_field(0))]),
    }
}
