//! Where in a query an error belongs that DataFusion or a function found without a place: the constant, condition, operator
//! or column that its message names.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Distinct, Expr, OrderByKind, Query, Select, SetExpr, Spanned, Value, Visitor,
};
use millstream_types::{Error, SqlState};

use crate::sql_exprs::visit;

/// The character from 1 at which the error belongs, if the query has just one such place.
pub(super) fn position_in(error: &Error, query: &Query) -> Option<usize> {
    let message = error.message();
    match error.state() {
        SqlState::INVALID_TEXT_REPRESENTATION | SqlState::INVALID_DATETIME_FORMAT => {
            let text = message.split_once(": \"")?.1.strip_suffix('"')?;
            find(query, |expr| match expr {
                Expr::Value(value) if matches!(&value.value, Value::SingleQuotedString(s) if s == text) => start(value),
                _ => None,
            })
            .first()
            .copied()
        }
        SqlState::DATATYPE_MISMATCH if message.starts_with("argument of WHERE must") => {
            let mut conditions = Conditions::default();
            let _ = visit(query, &mut conditions);
            only(&conditions.0)
        }
        SqlState::UNDEFINED_FUNCTION => {
            let operator = message.strip_prefix("operator does not exist: ")?;
            only(&find(query, |expr| operator_at(expr, operator)))
        }
        SqlState::INVALID_COLUMN_REFERENCE => reference(message, query),
        _ => None,
    }
}

fn only(positions: &[usize]) -> Option<usize> {
    match positions {
        [position] => Some(*position),
        _ => None,
    }
}

fn start(tree: &impl Spanned) -> Option<usize> {
    Some(tree.span().start.column as usize).filter(|column| *column > 0)
}

/// Where expressions stand that are meant, in the order of the text.
fn find(query: &Query, mut place: impl FnMut(&Expr) -> Option<usize>) -> Vec<usize> {
    struct Places<'a>(&'a mut dyn FnMut(&Expr) -> Option<usize>, Vec<usize>);
    impl Visitor for Places<'_> {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            self.1.extend((self.0)(expr));
            ControlFlow::Continue(())
        }
    }
    let mut places = Places(&mut place, Vec::new());
    let _ = visit(query, &mut places);
    places.1
}

/// Where the operator of a message such as `text + integer` stands, if blanks leave no doubt.
fn operator_at(expr: &Expr, operands: &str) -> Option<usize> {
    let Expr::BinaryOp { left, op, right } = expr else { return None };
    let symbol = match op {
        BinaryOperator::PGLikeMatch => "~~".to_owned(),
        op => op.to_string(),
    };
    if !operands.contains(&format!(" {symbol} ")) {
        return None;
    }
    let (after_left, before_right) = (left.span().end.column as usize, right.span().start.column as usize);
    let gap = before_right.checked_sub(after_left).filter(|_| after_left > 0)?;
    match gap.checked_sub(symbol.chars().count())? {
        0 => Some(after_left),
        2 => Some(after_left + 1),
        _ => None,
    }
}

/// The columns of ORDER BY and DISTINCT ON that there are none of.
fn reference(message: &str, query: &Query) -> Option<usize> {
    if message.starts_with("SELECT DISTINCT ON") {
        let SetExpr::Select(select) = query.body.as_ref() else { return None };
        let Some(Distinct::On(exprs)) = &select.distinct else { return None };
        return exprs.first().and_then(start);
    }
    let OrderByKind::Expressions(exprs) = &query.order_by.as_ref()?.kind else { return None };
    if message.starts_with("for SELECT DISTINCT") {
        return match exprs.as_slice() {
            [only] => start(&only.expr),
            _ => None,
        };
    }
    let number = message.strip_prefix("ORDER BY position ")?.split(' ').next()?;
    exprs.iter().find(|e| e.expr.to_string() == number).and_then(|e| start(&e.expr))
}

/// The conditions of all WHERE clauses.
#[derive(Default)]
struct Conditions(Vec<usize>);

impl Visitor for Conditions {
    type Break = ();

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.0.extend(select.selection.as_ref().and_then(start));
        ControlFlow::Continue(())
    }
}
