//! Subqueries in ON.
//!
//! Of an inner join they are conditions on its rows. Of an outer join one that is about one side is a column of that side.
//! One that is about both makes the join a lateral one: its other side is a subquery with the condition in its WHERE.

use std::sync::Arc;

use datafusion::common::alias::AliasGenerator;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, ExprSchema, JoinType, NullEquality, ScalarValue, Spans};
use datafusion::logical_expr::expr::Exists;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, Join, JoinConstraint, LogicalPlan, LogicalPlanBuilder, Subquery, Union, cast, lit,
};

use super::{Lifted, has_subquery, is_subquery, with_columns};
use crate::dependent_join::{add_outer_columns, lateral_plan, outer_columns};
use crate::typing::types::Result;

/// The sides of a join that something is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sides {
    None,
    Left,
    Right,
    Both,
}

pub(super) fn lift_from_join(mut join: Join, aliases: &AliasGenerator) -> Result<LogicalPlan> {
    match join.join_type {
        JoinType::Inner => filter_above(join),
        JoinType::Left | JoinType::Right | JoinType::Full => {
            filter_below(&mut join)?;
            match is_about_both(&join)? {
                true => lateral(join),
                false => lift_to_sides(join, aliases),
            }
        }
        _ => Ok(LogicalPlan::Join(join)),
    }
}

fn conjuncts(join: &mut Join) -> Vec<Expr> {
    join.filter.take().map_or_else(Vec::new, split_conjunction_owned)
}

fn filter_above(mut join: Join) -> Result<LogicalPlan> {
    let (mut above, mut own) = (Vec::new(), Vec::new());
    for conjunct in conjuncts(&mut join) {
        if has_subquery(&conjunct)? { above.push(conjunct) } else { own.push(conjunct) }
    }
    join.filter = conjunction(own);
    let condition = conjunction(above).unwrap_or_else(|| lit(true));
    LogicalPlanBuilder::from(LogicalPlan::Join(join)).filter(condition)?.build()
}

/// Rows of the side that need not be kept, and that no condition about them alone lets meet a row, do not take part.
fn filter_below(join: &mut Join) -> Result<()> {
    let side = match join.join_type {
        JoinType::Left if lateral_plan(&join.right)?.is_none() => Sides::Right,
        JoinType::Right => Sides::Left,
        _ => return Ok(()),
    };
    let (mut below, mut own) = (Vec::new(), Vec::new());
    for conjunct in conjuncts(join) {
        let is_about_side = has_subquery(&conjunct)? && sides_of(&conjunct, join)? == side;
        if is_about_side { below.push(conjunct) } else { own.push(conjunct) }
    }
    join.filter = conjunction(own);
    if let Some(condition) = conjunction(below) {
        let input = if side == Sides::Right { &mut join.right } else { &mut join.left };
        let filtered = LogicalPlanBuilder::from(input.as_ref().clone()).filter(condition)?.build()?;
        *input = Arc::new(filtered);
    }
    Ok(())
}

/// The sides of a join whose columns an expression over it mentions, in its subqueries too.
fn sides_of(expr: &Expr, join: &Join) -> Result<Sides> {
    let mut columns: Vec<Column> = expr.column_refs().into_iter().cloned().collect();
    add_outer_columns(expr, &DFSchema::empty(), &mut columns)?;
    let any_of = |schema: &DFSchema| columns.iter().any(|c| schema.has_column(c));
    Ok(match (any_of(join.left.schema()), any_of(join.right.schema())) {
        (false, false) => Sides::None,
        (true, false) => Sides::Left,
        (false, true) => Sides::Right,
        (true, true) => Sides::Both,
    })
}

/// Whether some subquery in ON is about both sides, or about a lateral subquery.
fn is_about_both(join: &Join) -> Result<bool> {
    let is_lateral = lateral_plan(&join.right)?.is_some();
    let Some(filter) = &join.filter else { return Ok(false) };
    filter.exists(|e| {
        let is_hard = |sides: Sides| sides == Sides::Both || (is_lateral && sides != Sides::Left);
        Ok(is_subquery(e) && is_hard(sides_of(e, join)?))
    })
}

/// Makes columns of subqueries, each of the side that it is about.
fn lift_to_sides(mut join: Join, aliases: &AliasGenerator) -> Result<LogicalPlan> {
    let original = LogicalPlan::Join(join.clone());
    let Some(filter) = join.filter.take() else { return Ok(original) };
    let mut left = Lifted::new(&join.left, aliases);
    let mut right = Lifted::new(&join.right, aliases);
    let column = |e: Expr| {
        if !is_subquery(&e) {
            return Ok(Transformed::no(e));
        }
        let side = if sides_of(&e, &join)? == Sides::Left { &mut left } else { &mut right };
        Ok(Transformed::yes(side.without_subqueries(e)?))
    };
    let filter = filter.transform_down(column).data()?;
    let plan = LogicalPlan::Join(Join::try_new(
        Arc::new(left.build()?),
        Arc::new(right.build()?),
        join.on.clone(),
        Some(filter),
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?);
    with_columns(plan, &original)
}

/// The join as one with a lateral subquery, which may be about both sides.
fn lateral(join: Join) -> Result<LogicalPlan> {
    let original = LogicalPlan::Join(join.clone());
    let keys = join.on.iter().map(|(l, r)| l.clone().eq(r.clone()));
    let condition = conjunction(keys.chain(join.filter.clone())).unwrap_or_else(|| lit(true));
    let (left, right) = (join.left.as_ref(), join.right.as_ref());
    match join.join_type {
        JoinType::Right => with_columns(left_join(right, left, &condition)?, &original),
        JoinType::Left => left_join(left, right, &condition),
        _ => {
            let matched = columns_of(left_join(left, right, &condition)?, &original)?;
            let alone = without_match(left, right, &condition)?;
            let all = Union::try_new(vec![Arc::new(matched), Arc::new(columns_of(alone, &original)?)])?;
            // A union has no qualifiers of its own.
            columns_of(LogicalPlan::Union(all), &original)
        }
    }
}

/// Each row of the left with those of the right for which the condition holds.
fn left_join(left: &LogicalPlan, right: &LogicalPlan, condition: &Expr) -> Result<LogicalPlan> {
    let right = lateral_plan(right)?.unwrap_or_else(|| right.clone());
    let subquery = LogicalPlan::Subquery(seen_from(left.schema(), right, condition)?);
    let (left, right) = (Arc::new(left.clone()), Arc::new(subquery));
    let (constraint, equality) = (JoinConstraint::On, NullEquality::NullEqualsNothing);
    let join = Join::try_new(left, right, Vec::new(), None, JoinType::Left, constraint, equality, false)?;
    Ok(LogicalPlan::Join(join))
}

/// The rows of the right that have no match, with nulls for columns of the left.
fn without_match(left: &LogicalPlan, right: &LogicalPlan, condition: &Expr) -> Result<LogicalPlan> {
    let subquery = seen_from(right.schema(), left.clone(), condition)?;
    let none = Expr::Exists(Exists { subquery, negated: true });
    let nulls = left.schema().iter().map(|(qualifier, field)| {
        let null = cast(lit(ScalarValue::Null), field.data_type().clone());
        null.alias_qualified(qualifier.cloned(), field.name())
    });
    let columns: Vec<Expr> = nulls.chain(right.schema().iter().map(Expr::from)).collect();
    LogicalPlanBuilder::from(right.clone()).filter(none)?.project(columns)?.build()
}

/// The rows of a plan for which a condition holds, as a subquery of rows of the schema.
fn seen_from(schema: &DFSchema, plan: LogicalPlan, condition: &Expr) -> Result<Subquery> {
    let condition = condition.clone().transform_up(|e| match e {
        Expr::Column(column) if schema.has_column(&column) => {
            let field = Arc::clone(schema.field_from_column(&column)?);
            Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
        }
        other => Ok(Transformed::no(other)),
    });
    let plan = LogicalPlanBuilder::from(plan).filter(condition.data()?)?.build()?;
    let reference = |c: Column| -> Result<Expr> {
        let field = schema.field_from_column(&c)?;
        Ok(Expr::OuterReferenceColumn(Arc::clone(field), c))
    };
    let outer = outer_columns(&plan)?.into_iter().filter(|c| schema.has_column(c));
    let outer_ref_columns = outer.map(reference).collect::<Result<Vec<_>>>()?;
    Ok(Subquery { subquery: Arc::new(plan), outer_ref_columns, spans: Spans::new() })
}

/// The plan's columns by position under the names of those of another.
fn columns_of(plan: LogicalPlan, other: &LogicalPlan) -> Result<LogicalPlan> {
    let columns = plan
        .schema()
        .iter()
        .zip(other.schema().iter())
        .map(|(have, (qualifier, field))| Expr::from(have).alias_qualified(qualifier.cloned(), field.name()));
    let columns: Vec<Expr> = columns.collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}
