//! AND and OR of many conditions, which are read as a tree that is as deep as they are many.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr};

/// So many conditions stay as they are.
const MANY: usize = 16;

/// Makes a long chain of AND, or of OR, a balanced tree: so what goes through all levels for each condition stays cheap.
/// Both are associative, and the conditions keep their order.
pub(super) fn balance(expr: &mut Expr) {
    let Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } = &*expr else { return };
    let op = op.clone();
    if !is_long(expr, &op) {
        return;
    }
    let mut conditions = Vec::new();
    let mut rest = std::mem::replace(expr, Expr::Tuple(vec![]));
    loop {
        match rest {
            Expr::BinaryOp { left, op: inner, right } if inner == op => {
                conditions.push(*right);
                rest = *left;
            }
            first => {
                conditions.push(first);
                break;
            }
        }
    }
    conditions.reverse();
    if let Some(tree) = balanced(conditions, &op) {
        *expr = tree;
    }
}

fn is_long(mut expr: &Expr, op: &BinaryOperator) -> bool {
    for _ in 0..MANY {
        expr = match expr {
            Expr::BinaryOp { left, op: inner, .. } if inner == op => left,
            _ => return false,
        };
    }
    true
}

/// Neighbours are joined, then neighbouring pairs, and so on; `None` of nothing.
fn balanced(mut level: Vec<Expr>, op: &BinaryOperator) -> Option<Expr> {
    while level.len() > 1 {
        let mut next = Vec::with_capacity(level.len().div_ceil(2));
        let mut conditions = level.into_iter();
        while let Some(left) = conditions.next() {
            next.push(match conditions.next() {
                Some(right) => Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) },
                None => left,
            });
        }
        level = next;
    }
    level.pop()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::parse_expr;

    fn depth(expr: &Expr) -> usize {
        match expr {
            Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
                1 + depth(left).max(depth(right))
            }
            _ => 0,
        }
    }

    #[test]
    fn many_conditions_are_not_deep() {
        for n in [2usize, 17, 18, 100, 1000] {
            let text = (0..n).map(|i| format!("a = {i}")).collect::<Vec<_>>().join(" OR ");
            let mut expr = parse_expr(&text).expect("an expression");
            balance(&mut expr);
            assert_eq!(expr.to_string(), text);
            assert!(depth(&expr) <= MANY.max(n.ilog2() as usize + 1), "{n} conditions are {} deep", depth(&expr));
        }
    }
}
