//! Comparisons with the rows of a subquery, `IN`, `op ANY` and `op ALL`, in three-valued logic: unknown where no row decides,
//! but one is neither true nor false.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{
    BinaryExpr, Case, Expr, ExprSchemable, Like, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, lit,
};

use super::{Above, first_row, mentions_outer};
use crate::functions::row;
use crate::typing::calls::binary;
use crate::typing::types::Result;

/// A comparison of a value, or of a row of values, with the rows of a subquery.
struct Membership {
    /// Columns of the plan around the subquery.
    operands: Vec<Expr>,
    /// Whether any of them may be null.
    may_be_null: bool,
    op: Operator,
    quantifier: SetQuantifier,
    subquery: Subquery,
    /// What each operand is compared with, of a row of the subquery.
    values: Vec<Expr>,
}

/// Whether a null-aware anti join would be wrong. Of a value that reads no column it has the comparison as a condition on the
/// subquery's rows, where rules leave out those that are null.
fn is_three_valued(inner: &InSubquery) -> Result<bool> {
    Ok(row::is_row(&inner.expr)
        || inner.expr.column_refs().is_empty()
        || mentions_outer(&inner.subquery.subquery, &|_| true)?)
}

impl Above<'_> {
    /// A filter's condition with nothing left of comparisons with subqueries but what DataFusion's rules are right for: semi
    /// and mark joins where unknown may be false, and null-aware anti joins of uncorrelated subqueries.
    pub(super) fn decided_filter(&mut self, predicate: Expr) -> Result<Expr> {
        let mut conjuncts = Vec::new();
        for conjunct in split_conjunction_owned(predicate) {
            let is_anti_join = match &conjunct {
                Expr::InSubquery(inner) => inner.negated && !is_three_valued(inner)?,
                _ => false,
            };
            conjuncts.push(if is_anti_join { conjunct } else { self.decided(conjunct)? });
        }
        Ok(conjuncts.into_iter().reduce(Expr::and).unwrap_or_else(|| lit(true)))
    }

    /// A condition that is true of the same rows. It need not tell unknown from false.
    fn decided(&mut self, condition: Expr) -> Result<Expr> {
        match condition {
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
                let (left, right) = (self.decided(*left)?, self.decided(*right)?);
                Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
            }
            Expr::InSubquery(inner) if !inner.negated && !row::is_row(&inner.expr) => {
                if self.takes_condition(&inner.subquery)? {
                    let exists = self.membership(inner)?.is_true()?;
                    return self.without_subqueries(exists);
                }
                Ok(Expr::InSubquery(inner))
            }
            Expr::InSubquery(inner) if is_three_valued(&inner)? => {
                let is_hard = self.takes_condition(&inner.subquery)?;
                let negated = inner.negated;
                let membership = self.membership(inner)?;
                let exists = if negated { membership.is_false()? } else { membership.is_true()? };
                // The condition on the tested column is one that an anti join may have beside its keys.
                if is_hard { self.without_subqueries(exists) } else { Ok(exists) }
            }
            Expr::SetComparison(inner) => {
                let is_hard = self.takes_condition(&inner.subquery)?;
                let exists = self.comparison(inner)?.is_true()?;
                if is_hard { self.without_subqueries(exists) } else { Ok(exists) }
            }
            other => self.without_subqueries(other),
        }
    }

    /// `x IN (subquery)` with all three of its values.
    pub(super) fn in_value(&mut self, inner: InSubquery) -> Result<Expr> {
        let negated = inner.negated;
        let is_in = self.membership(inner)?.value()?;
        Ok(if negated { Expr::Not(Box::new(is_in)) } else { is_in })
    }

    /// `x op ANY (subquery)` or `x op ALL (subquery)` with all three of its values.
    pub(super) fn comparison_value(&mut self, inner: SetComparison) -> Result<Expr> {
        self.comparison(inner)?.value()
    }

    /// `x IN (subquery)`, whether it is negated or not.
    fn membership(&mut self, inner: InSubquery) -> Result<Membership> {
        self.compared(*inner.expr, Operator::Eq, SetQuantifier::Any, inner.subquery)
    }

    fn comparison(&mut self, inner: SetComparison) -> Result<Membership> {
        self.compared(*inner.expr, inner.op, inner.quantifier, inner.subquery)
    }

    fn compared(
        &mut self,
        expr: Expr,
        op: Operator,
        quantifier: SetQuantifier,
        subquery: Subquery,
    ) -> Result<Membership> {
        self.is_changed = true;
        let operands = row::values_of(expr).into_iter().map(|e| self.as_column(e)).collect::<Result<Vec<_>>>()?;
        let may_be_null = any_nullable(&operands, self.plan.schema())?;
        let (input, values) = row::rows_of(&subquery.subquery);
        let subquery = subquery.with_plan(input);
        Ok(Membership { operands, may_be_null, op, quantifier, subquery, values })
    }
}

impl Membership {
    /// `EXISTS` or `NOT EXISTS` that is true where the comparison is.
    fn is_true(&self) -> Result<Expr> {
        match self.quantifier {
            SetQuantifier::Any => self.exists(self.holds()?, false),
            SetQuantifier::All if self.may_be_unknown()? => self.exists(Expr::IsNotTrue(Box::new(self.holds()?)), true),
            SetQuantifier::All => self.exists(Expr::Not(Box::new(self.holds()?)), true),
        }
    }

    /// `EXISTS` or `NOT EXISTS` that is true where the comparison is false.
    fn is_false(&self) -> Result<Expr> {
        match self.quantifier {
            SetQuantifier::Any if self.may_be_unknown()? => {
                self.exists(Expr::IsNotFalse(Box::new(self.holds()?)), true)
            }
            SetQuantifier::Any => self.exists(self.holds()?, true),
            SetQuantifier::All => self.exists(Expr::Not(Box::new(self.holds()?)), false),
        }
    }

    /// The comparison with all three of its values: a row decides, or else null if there is one that is unknown.
    fn value(&self) -> Result<Expr> {
        let decides = match self.quantifier {
            SetQuantifier::Any => self.is_true()?,
            SetQuantifier::All => self.is_false()?,
        };
        let decision = self.quantifier == SetQuantifier::Any;
        let null = lit(ScalarValue::Boolean(None));
        let mut when_then_expr = vec![(Box::new(decides), Box::new(lit(decision)))];
        when_then_expr.extend(self.is_unknown()?.map(|e| (Box::new(e), Box::new(null))));
        Ok(Expr::Case(Case { expr: None, when_then_expr, else_expr: Some(Box::new(lit(!decision))) }))
    }

    /// Whether the comparison with some row is unknown, where it can be.
    fn is_unknown(&self) -> Result<Option<Expr>> {
        let ([operand], [value]) = (self.operands.as_slice(), self.values.as_slice()) else {
            return match self.may_be_unknown()? {
                true => Ok(Some(self.exists(self.holds()?.is_null(), false)?)),
                false => Ok(None),
            };
        };
        // A null is in the way whatever it is compared with.
        let mut is_unknown = Vec::new();
        if value.nullable(self.subquery.subquery.schema())? {
            let nulls = filtered(&self.subquery, value.clone().is_null())?;
            is_unknown.push(Expr::Exists(Exists { subquery: any_row(nulls)?, negated: false }));
        }
        if self.may_be_null {
            let any = Expr::Exists(Exists { subquery: any_row(self.subquery.clone())?, negated: false });
            is_unknown.push(operand.clone().is_null().and(any));
        }
        Ok(is_unknown.into_iter().reduce(Expr::or))
    }

    fn may_be_unknown(&self) -> Result<bool> {
        Ok(self.may_be_null || any_nullable(&self.values, self.subquery.subquery.schema())?)
    }

    /// Whether the comparison holds with a row of the subquery, as the subquery sees it.
    fn holds(&self) -> Result<Expr> {
        let schema = self.subquery.subquery.schema();
        let pairs = self
            .operands
            .iter()
            .zip(&self.values)
            .map(|(operand, value)| Ok((outer_reference(operand.clone(), value, schema)?, value.clone())));
        Ok(compared(self.op, pairs.collect::<Result<Vec<_>>>()?))
    }

    fn exists(&self, condition: Expr, negated: bool) -> Result<Expr> {
        Ok(Expr::Exists(Exists { subquery: filtered(&self.subquery, condition)?, negated }))
    }
}

/// `(l, ...) op (r, ...)`: all columns are equal, some differ, or the first that differ are in order.
fn compared(op: Operator, mut pairs: Vec<(Expr, Expr)>) -> Expr {
    let Some((left, right)) = pairs.pop() else { return lit(true) };
    let last = one(op, left, right);
    let strict = match op {
        Operator::LtEq => Operator::Lt,
        Operator::GtEq => Operator::Gt,
        other => other,
    };
    pairs.into_iter().rev().fold(last, |rest, (left, right)| match op {
        Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => {
            let decided = one(strict, left.clone(), right.clone());
            decided.or(one(Operator::Eq, left, right).and(rest))
        }
        Operator::NotEq => one(op, left, right).or(rest),
        _ => one(op, left, right).and(rest),
    })
}

fn one(op: Operator, left: Expr, right: Expr) -> Expr {
    let (negated, ignores_case) = match op {
        Operator::LikeMatch => (false, false),
        Operator::ILikeMatch => (false, true),
        Operator::NotLikeMatch => (true, false),
        Operator::NotILikeMatch => (true, true),
        _ => return binary(left, op, right),
    };
    Expr::Like(Like::new(negated, Box::new(left), Box::new(right), None, ignores_case))
}

fn any_nullable(exprs: &[Expr], schema: &DFSchema) -> Result<bool> {
    for expr in exprs {
        if expr.nullable(schema)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A column of the plan as a subquery sees it, of the type of the value that it is compared with.
fn outer_reference(operand: Expr, value: &Expr, schema: &DFSchema) -> Result<Expr> {
    let Expr::Column(column) = operand else { unreachable!("the operand was made a column") };
    let data_type = value.get_type(schema)?;
    Ok(Expr::OuterReferenceColumn(Arc::new(Field::new(&column.name, data_type, true)), column))
}

fn filtered(subquery: &Subquery, condition: Expr) -> Result<Subquery> {
    let plan = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone()).filter(condition)?.build()?;
    Ok(subquery.with_plan(Arc::new(plan)))
}

/// The subquery, of which it matters whether it has rows: all rows of the outer plan meet each of one that is not correlated.
fn any_row(subquery: Subquery) -> Result<Subquery> {
    if mentions_outer(&subquery.subquery, &|_| true)? {
        return Ok(subquery);
    }
    let first: LogicalPlan = first_row(&subquery.subquery)?;
    Ok(subquery.with_plan(Arc::new(first)))
}
