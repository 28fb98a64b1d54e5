//! AND and OR that evaluate their right side only where the left one leaves the answer open.
//!
//! DataFusion evaluates both sides over a whole batch, so `b <> 0 AND a / b > 4` fails on rows that the left side has
//! ruled out. CASE evaluates each branch on its own rows only. This runs after all optimizer rules, for they read AND and
//! OR, and not CASE. A view needs none of it: rows that fail in a batch are evaluated by themselves.

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{split_binary_owned, split_conjunction_owned};
use datafusion::logical_expr::{BinaryExpr, Case, Expr, LogicalPlan, Operator, lit};

use crate::typing::calls::binary;
use crate::typing::types::Result;

/// The plan with lazy conditions.
pub(crate) fn make_lazy(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Filter(mut filter) => {
            let is_changed = may_fail(&filter.predicate);
            filter.predicate = condition(filter.predicate)?;
            Ok(Transformed::new_transformed(LogicalPlan::Filter(filter), is_changed))
        }
        LogicalPlan::Join(mut join) => {
            let is_changed = join.filter.as_ref().is_some_and(may_fail);
            join.filter = join.filter.map(condition).transpose()?;
            Ok(Transformed::new_transformed(LogicalPlan::Join(join), is_changed))
        }
        // The filters of a scan are hints.
        node @ LogicalPlan::TableScan(_) => Ok(Transformed::no(node)),
        other => {
            let names = NamePreserver::new(&other);
            other.map_expressions(|expr| {
                if !may_fail(&expr) {
                    return Ok(Transformed::no(expr));
                }
                let name = names.save(&expr);
                Ok(Transformed::yes(name.restore(value(expr)?)))
            })
        }
    })
    .data()
}

/// A condition of which only truth counts. What cannot fail goes first, which nobody can tell but by its errors.
fn condition(predicate: Expr) -> Result<Expr> {
    if !may_fail(&predicate) {
        return Ok(predicate);
    }
    let (failing, safe): (Vec<Expr>, Vec<Expr>) = split_conjunction_owned(predicate).into_iter().partition(may_fail);
    let safe = safe.into_iter().reduce(Expr::and);
    let failing = failing.into_iter().map(value).collect::<Result<Vec<_>>>()?;
    let all = safe.into_iter().chain(failing).reduce(|first, then| {
        Expr::Case(Case {
            expr: None,
            when_then_expr: vec![(Box::new(first), Box::new(then))],
            else_expr: Some(Box::new(lit(false))),
        })
    });
    Ok(all.unwrap_or_else(|| lit(true)))
}

/// The expression with every AND and OR lazy whose right side may fail.
fn value(expr: Expr) -> Result<Expr> {
    expr.transform_down(|expr| Ok(in_written_order(expr)))
        .data()?
        .transform_up(|expr| match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right })
                if may_fail(&right) =>
            {
                Ok(Transformed::yes(lazy(*left, op, *right)))
            }
            other => Ok(Transformed::no(other)),
        })
        .data()
}

/// `a OR (b OR c)` as `(a OR b) OR c`: what is on the right is written twice below.
fn in_written_order(expr: Expr) -> Transformed<Expr> {
    let is_of = |e: &Expr, op: Operator| matches!(e, Expr::BinaryExpr(b) if b.op == op);
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right })
            if is_of(&right, op) && may_fail(&right) =>
        {
            let all = split_binary_owned(binary(*left, op, *right), op).into_iter();
            let chain = all.reduce(|left, right| binary(left, op, right));
            Transformed::yes(chain.unwrap_or_else(|| lit(true)))
        }
        other => Transformed::no(other),
    }
}

/// `CASE left WHEN decisive THEN decisive WHEN NOT decisive THEN right ELSE NULL op right END`
fn lazy(left: Expr, op: Operator, right: Expr) -> Expr {
    let decisive = op == Operator::Or;
    let boxed = |value: bool| Box::new(lit(value));
    let unknown = binary(lit(ScalarValue::Boolean(None)), op, right.clone());
    Expr::Case(Case {
        expr: Some(Box::new(left)),
        when_then_expr: vec![(boxed(decisive), boxed(decisive)), (boxed(!decisive), Box::new(right))],
        else_expr: Some(Box::new(unknown)),
    })
}

/// Whether the expression may fail on some row, as far as can be told from its form.
fn may_fail(expr: &Expr) -> bool {
    let fails = |expr: &Expr| {
        Ok(match expr {
            Expr::ScalarFunction(_) | Expr::Cast(_) | Expr::Negative(_) => true,
            Expr::BinaryExpr(b) => !is_safe(b.op),
            _ => false,
        })
    };
    expr.exists(fails).unwrap_or(true)
}

fn is_safe(op: Operator) -> bool {
    matches!(
        op,
        Operator::And
            | Operator::Or
            | Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
            | Operator::StringConcat
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::logical_expr::col;

    fn quotient() -> Expr {
        binary(binary(col("a"), Operator::Divide, col("b")), Operator::Gt, lit(4))
    }

    #[test]
    fn what_cannot_fail_goes_first() {
        let written = quotient().and(binary(col("b"), Operator::NotEq, lit(0)));
        let lazy = condition(written).expect("a condition").to_string();
        assert_eq!(lazy, "CASE WHEN b != Int32(0) THEN a / b > Int32(4) ELSE Boolean(false) END");
    }

    #[test]
    fn values_have_three_truths() {
        let lazy = value(col("x").or(quotient())).expect("a value").to_string();
        let wanted = "CASE x WHEN Boolean(true) THEN Boolean(true) WHEN Boolean(false) THEN a / b > Int32(4) \
                      ELSE Boolean(NULL) OR a / b > Int32(4) END";
        assert_eq!(lazy, wanted);
        let safe = col("x").or(binary(col("b"), Operator::NotEq, lit(0)));
        assert_eq!(value(safe.clone()).expect("a value"), safe);
    }
}
