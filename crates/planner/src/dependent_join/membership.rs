//! `IN (subquery)` in three-valued logic: unknown where nothing is equal, but a null is in the way.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{BinaryExpr, Case, Expr, ExprSchemable, LogicalPlanBuilder, Operator, Subquery, lit};

use super::{Above, Use, first_row, mentions_outer};
use crate::typing::types::Result;

impl Above<'_> {
    /// A filter's condition with nothing left of `IN` but what DataFusion's rules are right for: semi and mark joins where
    /// unknown may be false, and null-aware anti joins of uncorrelated subqueries.
    pub(super) fn decided_filter(&mut self, predicate: Expr) -> Result<Expr> {
        let mut conjuncts = Vec::new();
        for conjunct in split_conjunction_owned(predicate) {
            let is_anti_join = match &conjunct {
                Expr::InSubquery(inner) => inner.negated && !mentions_outer(&inner.subquery.subquery, &|_| true)?,
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
            Expr::InSubquery(inner) if !inner.negated => {
                if self.rule.takes(&inner.subquery.subquery, Use::Condition)? {
                    let exists = self.exists_equal(inner)?;
                    return self.without_subqueries(exists);
                }
                Ok(Expr::InSubquery(inner))
            }
            Expr::InSubquery(inner) if mentions_outer(&inner.subquery.subquery, &|_| true)? => {
                let is_hard = self.rule.takes(&inner.subquery.subquery, Use::Condition)?;
                let exists = self.exists_equal(inner)?;
                // The condition on the tested column is one that an anti join may have beside its keys.
                if is_hard { self.without_subqueries(exists) } else { Ok(exists) }
            }
            other => self.without_subqueries(other),
        }
    }

    /// `x IN (subquery)` as `EXISTS`: some row is equal; `x NOT IN (subquery)` as `NOT EXISTS`: none is, or may be.
    fn exists_equal(&mut self, inner: InSubquery) -> Result<Expr> {
        self.is_changed = true;
        let operand = self.as_column(*inner.expr)?;
        let schema = inner.subquery.subquery.schema();
        let value = Expr::from(schema.qualified_field(0));
        let may_be_unknown = operand.nullable(self.plan.schema())? || value.nullable(schema)?;
        let is_equal = value.eq(outer_reference(operand, &inner.subquery)?);
        let filter = if inner.negated && may_be_unknown { Expr::IsNotFalse(Box::new(is_equal)) } else { is_equal };
        Ok(Expr::Exists(Exists { subquery: filtered(&inner.subquery, filter)?, negated: inner.negated }))
    }
}

/// `x IN (subquery)` with all three of its values: true if some row equals x, null if none does but a null is in the way.
pub(super) fn is_in(operand: Expr, may_be_null: bool, subquery: &Subquery) -> Result<Expr> {
    let exists = |subquery: Subquery| Expr::Exists(Exists { subquery, negated: false });
    let schema = subquery.subquery.schema();
    let value = Expr::from(schema.qualified_field(0));
    let is_equal = exists(filtered(subquery, value.clone().eq(outer_reference(operand.clone(), subquery)?))?);
    let mut is_unknown = Vec::new();
    if value.nullable(schema)? {
        is_unknown.push(exists(any_row(filtered(subquery, value.is_null())?)?));
    }
    if may_be_null {
        is_unknown.push(operand.is_null().and(exists(any_row(subquery.clone())?)));
    }
    let null = lit(ScalarValue::Boolean(None));
    let mut when_then_expr = vec![(Box::new(is_equal), Box::new(lit(true)))];
    when_then_expr.extend(is_unknown.into_iter().reduce(Expr::or).map(|e| (Box::new(e), Box::new(null))));
    Ok(Expr::Case(Case { expr: None, when_then_expr, else_expr: Some(Box::new(lit(false))) }))
}

/// A column of the plan as a subquery sees it, of the type of the subquery's value.
fn outer_reference(operand: Expr, subquery: &Subquery) -> Result<Expr> {
    let Expr::Column(column) = operand else { unreachable!("the operand was made a column") };
    let schema = subquery.subquery.schema();
    let data_type = Expr::from(schema.qualified_field(0)).get_type(schema)?;
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
    Ok(subquery.with_plan(Arc::new(first_row(&subquery.subquery)?)))
}
