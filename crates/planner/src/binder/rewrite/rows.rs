//! Comparisons of rows, column by column, and BETWEEN with its bounds in any order.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Query, SelectItem, SetExpr,
    TableFactor, UnaryOperator,
};

use super::{call, single_name};
use crate::functions::row::ROW;
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

/// `(a, b) [NOT] IN (SELECT c, d ...)`, and `x [NOT] IN (VALUES ...)`, whose columns belong to no relation until there is a
/// query around them; nothing of other kinds.
pub(super) fn in_subquery(expr: &Expr, subquery: &Query, negated: bool) -> Option<Expr> {
    let (left, rows) = match (with_rows(expr, subquery), subquery.body.as_ref()) {
        (Some(rows), _) => rows,
        (None, SetExpr::Values(_)) => (expr.clone(), over_rows("SELECT * FROM (SELECT 1) AS __values", subquery)?),
        (None, _) => return None,
    };
    Some(Expr::InSubquery { expr: Box::new(left), subquery: rows, negated })
}

/// `x op ANY (subquery)`, of which `= ANY` is IN.
pub(super) fn any_of_subquery(left: &Expr, op: &BinaryOperator, subquery: &Query) -> Expr {
    let (left, rows) = with_rows(left, subquery).unwrap_or_else(|| (left.clone(), Box::new(subquery.clone())));
    match op {
        BinaryOperator::Eq => Expr::InSubquery { expr: Box::new(left), subquery: rows, negated: false },
        _ => {
            let right = Box::new(Expr::Subquery(rows));
            Expr::AnyOp { left: Box::new(left), compare_op: op.clone(), right, is_some: false }
        }
    }
}

/// `x op ALL (subquery)`, of which `<> ALL` is NOT IN.
pub(super) fn all_of_subquery(left: &Expr, op: &BinaryOperator, subquery: &Query) -> Expr {
    let (left, rows) = with_rows(left, subquery).unwrap_or_else(|| (left.clone(), Box::new(subquery.clone())));
    match op {
        BinaryOperator::NotEq => Expr::InSubquery { expr: Box::new(left), subquery: rows, negated: true },
        _ => {
            let right = Box::new(Expr::Subquery(rows));
            Expr::AllOp { left: Box::new(left), compare_op: op.clone(), right }
        }
    }
}

/// A row, and a subquery that gives rows of its columns.
fn with_rows(left: &Expr, subquery: &Query) -> Option<(Expr, Box<Query>)> {
    let row = row(left)?;
    let columns: Vec<String> = (1..=row.len()).map(|i| format!("c{i}")).collect();
    let columns = columns.join(", ");
    let rows = over_rows(&format!("SELECT {ROW}({columns}) FROM (SELECT 1) AS __rows({columns})"), subquery)?;
    Some((call(ROW, row), rows))
}

/// A query over a subquery, which takes the place of the one in its FROM.
fn over_rows(text: &str, subquery: &Query) -> Option<Box<Query>> {
    let mut query = parse_query(text).ok()?;
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let TableFactor::Derived { subquery: of_from, .. } = &mut select.from.first_mut()?.relation else { return None };
    **of_from = subquery.clone();
    Some(query)
}

/// `(a, b) op (SELECT c, d ...)`: the comparison with the one row of the subquery, made within it.
fn row_with_subquery(row: &[Expr], op: &BinaryOperator, subquery: &Query) -> Option<Expr> {
    let names: Vec<Ident> = (1..=row.len()).map(|i| Ident::new(format!("__column{i}"))).collect();
    let columns = names.iter().map(|n| Expr::CompoundIdentifier(vec![Ident::new("__row"), n.clone()])).collect();
    let condition = compared(&Expr::Tuple(row.to_vec()), op, &Expr::Tuple(columns))?;
    let names: Vec<String> = names.iter().map(|n| n.value.clone()).collect();
    let mut query = over_rows(&format!("SELECT 1 FROM (SELECT 1) AS __row({})", names.join(", ")), subquery)?;
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
