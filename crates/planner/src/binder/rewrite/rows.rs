//! Comparisons of rows, column by column, and BETWEEN with its bounds in any order.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Query, SelectItem, SetExpr,
    UnaryOperator,
};

use super::{call, single_name};
use crate::parser::{SYMMETRIC, parse_query};

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

fn nested(expr: Expr) -> Expr {
    Expr::Nested(Box::new(expr))
}

fn not(expr: Expr) -> Expr {
    Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(nested(expr)) }
}

/// The columns of `(a, b)` or `ROW(a, b)`.
fn row(expr: &Expr) -> Option<Vec<Expr>> {
    match expr {
        Expr::Tuple(columns) => Some(columns.clone()),
        Expr::Nested(inner) => row(inner),
        Expr::Function(f) if f.over.is_none() && single_name(&f.name).as_deref() == Some("row") => match &f.args {
            FunctionArguments::List(list) => list
                .args
                .iter()
                .map(|arg| match arg {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(column)) => Some(column.clone()),
                    _ => None,
                })
                .collect(),
            _ => None,
        },
        _ => None,
    }
}

fn rows(left: &Expr, right: &Expr) -> Option<(Vec<Expr>, Vec<Expr>)> {
    let (left, right) = (row(left)?, row(right)?);
    (left.len() == right.len() && !left.is_empty()).then_some((left, right))
}

/// `(a, b) op (c, d)`: all columns are equal, some differ, or the first that differ are in order.
pub(super) fn compared(left: &Expr, op: &BinaryOperator, right: &Expr) -> Option<Expr> {
    use BinaryOperator as B;
    if let (Expr::Subquery(query), Some(row)) = (right, row(left)) {
        return row_with_subquery(&row, op, query);
    }
    match op {
        B::Overlaps => {
            let (left, right) = rows(left, right).filter(|(left, _)| left.len() == 2)?;
            Some(call("overlaps", [left, right].concat()))
        }
        B::Eq => {
            let (left, right) = rows(left, right)?;
            let pairs = left.into_iter().zip(right);
            pairs.map(|(l, r)| binary(l, B::Eq, r)).reduce(|a, b| binary(a, B::And, b)).map(nested)
        }
        B::NotEq => {
            let (left, right) = rows(left, right)?;
            let pairs = left.into_iter().zip(right);
            pairs.map(|(l, r)| binary(l, B::NotEq, r)).reduce(|a, b| binary(a, B::Or, b)).map(nested)
        }
        B::Lt | B::LtEq | B::Gt | B::GtEq => {
            let (left, right) = rows(left, right)?;
            let strict = if matches!(op, B::Lt | B::LtEq) { B::Lt } else { B::Gt };
            let mut pairs = left.into_iter().zip(right).rev();
            let (l, r) = pairs.next()?;
            let last = binary(l, op.clone(), r);
            let all = pairs.fold(last, |rest, (l, r)| {
                let decided = binary(l.clone(), strict.clone(), r.clone());
                let tied = binary(binary(l, B::Eq, r), B::And, nested(rest));
                binary(decided, B::Or, tied)
            });
            Some(nested(all))
        }
        _ => None,
    }
}

/// `(a, b) op (SELECT c, d ...)`: the comparison with the one row of the subquery, made within it.
fn row_with_subquery(row: &[Expr], op: &BinaryOperator, subquery: &Query) -> Option<Expr> {
    let names: Vec<Ident> = (1..=row.len()).map(|i| Ident::new(format!("__column{i}"))).collect();
    let columns = names.iter().map(|n| Expr::CompoundIdentifier(vec![Ident::new("__row"), n.clone()])).collect();
    let condition = compared(&Expr::Tuple(row.to_vec()), op, &Expr::Tuple(columns))?;
    let names: Vec<String> = names.iter().map(|n| n.value.clone()).collect();
    let mut query = parse_query(&format!("SELECT 1 FROM ({subquery}) AS __row({})", names.join(", "))).ok()?;
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    select.projection = vec![SelectItem::UnnamedExpr(condition)];
    Some(Expr::Subquery(query))
}

/// `(a, b) IS [NOT] DISTINCT FROM (c, d)`
pub(super) fn distinct(left: &Expr, right: &Expr, negated: bool) -> Option<Expr> {
    let (left, right) = rows(left, right)?;
    let pairs = left.into_iter().zip(right);
    let differs = pairs.map(|(l, r)| Expr::IsDistinctFrom(Box::new(l), Box::new(r)));
    let any = differs.reduce(|a, b| binary(nested(a), BinaryOperator::Or, nested(b)))?;
    Some(if negated { not(any) } else { nested(any) })
}

/// `(a, b) [NOT] IN ((c, d), ...)`
pub(super) fn in_list(expr: &Expr, list: &[Expr], negated: bool) -> Option<Expr> {
    row(expr)?;
    let equal = list.iter().map(|item| compared(expr, &BinaryOperator::Eq, item)).collect::<Option<Vec<_>>>()?;
    let any = equal.into_iter().reduce(|a, b| binary(a, BinaryOperator::Or, b))?;
    Some(if negated { not(any) } else { nested(any) })
}

/// `x [NOT] BETWEEN SYMMETRIC low AND high`: between them in one order or in the other.
pub(super) fn between(expr: &Expr, negated: bool, low: &Expr, high: &Expr) -> Option<Expr> {
    let Expr::Function(function) = low else { return None };
    if single_name(&function.name).as_deref() != Some(SYMMETRIC) {
        return None;
    }
    let FunctionArguments::List(list) = &function.args else { return None };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(low))] = list.args.as_slice() else { return None };
    let of = |low: &Expr, high: &Expr| Expr::Between {
        expr: Box::new(expr.clone()),
        negated: false,
        low: Box::new(low.clone()),
        high: Box::new(high.clone()),
    };
    let either = binary(nested(of(low, high)), BinaryOperator::Or, nested(of(high, low)));
    Some(if negated { not(either) } else { nested(either) })
}
