//! Constants in `WITH RECURSIVE`, which need their types before DataFusion plans the recursion.
//!
//! It takes the types of the recursive relation's columns from its first part as they are planned, where a whole number
//! is a `bigint` and a text has no type yet; resolved later, the first part and the relation would differ.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    DataType, Expr, Query, Select, SelectItem, SetExpr, UnaryOperator, Value, Values, VisitorMut,
};

use super::cast;
use crate::sql_exprs::change;

/// Casts the plain constants that the queries of a `WITH RECURSIVE` select to what they will be.
pub(super) fn type_constants(query: &mut Query) {
    let Some(with) = query.with.as_mut().filter(|with| with.recursive) else { return };
    for cte in &mut with.cte_tables {
        change(&mut cte.query, &mut Constants);
    }
}

struct Constants;

impl VisitorMut for Constants {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        type_values(&mut query.body);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                type_constant(expr);
            }
        }
        ControlFlow::Continue(())
    }
}

fn type_values(body: &mut SetExpr) {
    match body {
        SetExpr::Values(Values { rows, .. }) => rows.iter_mut().flat_map(|row| row.iter_mut()).for_each(type_constant),
        SetExpr::SetOperation { left, right, .. } => {
            type_values(left);
            type_values(right);
        }
        _ => {}
    }
}

fn type_constant(expr: &mut Expr) {
    let number = match &*expr {
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => expr.as_ref(),
        expr => expr,
    };
    let Expr::Value(value) = number else { return };
    let data_type = match &value.value {
        Value::Number(digits, _) if digits.parse::<i32>().is_ok() => DataType::Int(None),
        Value::SingleQuotedString(_) => DataType::Text,
        _ => return,
    };
    *expr = cast(expr.clone(), data_type);
}
