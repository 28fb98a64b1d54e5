//! Subqueries that no other rule turns into joins: those with LIMIT, with correlation beyond equality, in SELECT lists, and
//! lateral ones of any form.
//!
//! After T. Neumann and A. Kemper, "Unnesting arbitrary queries" (BTW 2015): the distinct values of the outer columns that a
//! subquery uses are joined into it as low as possible, its operators are told apart by them on the way up, and its result
//! is joined to the outer rows on those values. Later rules make ordinary joins of the products and filters that arise.

mod membership;
mod outer_columns;
mod push;

use std::sync::Arc;

use datafusion::common::alias::AliasGenerator;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, NullEquality, TableReference};
use datafusion::logical_expr::expr::Exists;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Join, JoinConstraint, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, lit};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use crate::typing::types::Result;
pub(crate) use outer_columns::{add_outer_columns, outer_columns};
use push::{Pusher, column_name};

/// Makes joins of subqueries.
#[derive(Debug)]
pub(crate) enum DependentJoins {
    /// Of correlated ones that DataFusion's rules are not made for.
    Hard,
    /// Of those that its rules have left.
    Left,
}

impl OptimizerRule for DependentJoins {
    fn name(&self) -> &str {
        match self {
            DependentJoins::Hard => "hard_dependent_joins",
            DependentJoins::Left => "dependent_joins",
        }
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let aliases = config.alias_generator();
        plan.transform_up_with_subqueries(|node| self.rewrite_node(node, aliases))
    }
}

impl DependentJoins {
    fn rewrite_node(&self, node: LogicalPlan, aliases: &AliasGenerator) -> Result<Transformed<LogicalPlan>> {
        match node {
            LogicalPlan::Join(join) => match lateral(&join, aliases, self)? {
                Some(plan) => Ok(Transformed::yes(plan)),
                None => Ok(Transformed::no(LogicalPlan::Join(join))),
            },
            LogicalPlan::Filter(mut filter) => {
                let mut above = Above::new(&filter.input, aliases, self);
                let predicate = match self {
                    DependentJoins::Hard => above.decided_filter(filter.predicate.clone())?,
                    DependentJoins::Left => above.without_subqueries(filter.predicate.clone())?,
                };
                if !above.is_changed {
                    return Ok(Transformed::no(LogicalPlan::Filter(filter)));
                }
                let columns: Vec<Expr> = filter.input.schema().iter().map(Expr::from).collect();
                filter.input = Arc::new(above.plan);
                let plan = LogicalPlanBuilder::from(filter.input.as_ref().clone()).filter(predicate)?;
                Ok(Transformed::yes(plan.project(columns)?.build()?))
            }
            LogicalPlan::Projection(projection) => {
                let mut above = Above::new(&projection.input, aliases, self);
                let exprs = projection.expr.iter().map(|e| {
                    let (qualifier, name) = e.qualified_name();
                    let expr = above.without_subqueries(e.clone())?;
                    Ok(if expr == *e { expr } else { expr.unalias().alias_qualified(qualifier, name) })
                });
                let exprs = exprs.collect::<Result<Vec<Expr>>>()?;
                if !above.is_changed {
                    return Ok(Transformed::no(LogicalPlan::Projection(projection)));
                }
                Ok(Transformed::yes(LogicalPlanBuilder::from(above.plan).project(exprs)?.build()?))
            }
            other => Ok(Transformed::no(other)),
        }
    }

    /// Whether a subquery is this rule's.
    fn takes(&self, plan: &LogicalPlan, use_of: Use) -> Result<bool> {
        Ok(match self {
            DependentJoins::Left => true,
            DependentJoins::Hard => mentions_outer(plan, &|_| true)? && !is_simple(plan, use_of)?,
        })
    }
}

/// What a subquery is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Scalar,
    /// `IN` and `EXISTS`
    Condition,
    Lateral,
}

/// Whether a correlated subquery has a form in which DataFusion's rules are known to be right: equal columns in a filter,
/// below projections and, for a scalar, one aggregate.
fn is_simple(plan: &LogicalPlan, use_of: Use) -> Result<bool> {
    let has_outer = |expr: &Expr| expr.exists(|e| Ok(matches!(e, Expr::OuterReferenceColumn(..))));
    match plan {
        LogicalPlan::Projection(projection) => {
            for expr in &projection.expr {
                if has_outer(expr)? {
                    return Ok(false);
                }
            }
            is_simple(&projection.input, use_of)
        }
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => is_simple(&sort.input, use_of),
        LogicalPlan::Aggregate(aggregate) if use_of == Use::Scalar && aggregate.group_expr.is_empty() => {
            for expr in &aggregate.aggr_expr {
                if has_outer(expr)? {
                    return Ok(false);
                }
            }
            is_simple(&aggregate.input, Use::Condition)
        }
        LogicalPlan::Filter(filter) => {
            for conjunct in split_conjunction(&filter.predicate) {
                let is_equality = match conjunct {
                    Expr::BinaryExpr(b) if b.op == Operator::Eq => {
                        has_outer(b.left.as_ref())? != has_outer(b.right.as_ref())?
                    }
                    _ => false,
                };
                if has_outer(conjunct)? && !is_equality {
                    return Ok(false);
                }
            }
            Ok(!mentions_outer(&filter.input, &|_| true)?)
        }
        other => Ok(!mentions_outer(other, &|_| true)?),
    }
}

/// A node's input, with the results of subqueries joined to it.
struct Above<'a> {
    plan: LogicalPlan,
    aliases: &'a AliasGenerator,
    rule: &'a DependentJoins,
    is_changed: bool,
}

impl<'a> Above<'a> {
    fn new(input: &Arc<LogicalPlan>, aliases: &'a AliasGenerator, rule: &'a DependentJoins) -> Self {
        Above { plan: input.as_ref().clone(), aliases, rule, is_changed: false }
    }

    /// The expression with columns of the plan in place of its subqueries, those that this rule takes, and of each `IN`.
    fn without_subqueries(&mut self, expr: Expr) -> Result<Expr> {
        let expr = expr.transform_down(|e| {
            Ok(match e {
                Expr::InSubquery(inner) => Transformed::yes(self.in_value(inner)?),
                Expr::SetComparison(inner) => Transformed::yes(self.comparison_value(inner)?),
                Expr::Exists(exists) if self.takes_exists(&exists)? => Transformed::yes(self.join_exists(&exists)?),
                Expr::ScalarSubquery(subquery)
                    if !outer_columns(&subquery.subquery)?.is_empty()
                        && self.takes(&subquery.subquery, Use::Scalar)? =>
                {
                    Transformed::yes(self.join_scalar(&subquery)?)
                }
                other => Transformed::no(other),
            })
        })?;
        self.is_changed |= expr.transformed;
        Ok(expr.data)
    }

    fn takes_exists(&self, exists: &Exists) -> Result<bool> {
        self.takes_condition(&exists.subquery)
    }

    fn takes_condition(&self, subquery: &Subquery) -> Result<bool> {
        self.takes(&subquery.subquery, Use::Condition)
    }

    /// Whether a subquery is the rule's. One that takes columns from further out than the plan becomes a join in any case:
    /// what these come from is joined to a join later, but not to an expression.
    fn takes(&self, subquery: &LogicalPlan, use_of: Use) -> Result<bool> {
        let is_of_plan = |c: &Column| self.plan.schema().has_column(c);
        Ok(self.rule.takes(subquery, use_of)? || !outer_columns(subquery)?.iter().all(is_of_plan))
    }

    /// The expression as a column of the plan.
    fn as_column(&mut self, expr: Expr) -> Result<Expr> {
        if matches!(expr, Expr::Column(_)) {
            return Ok(expr);
        }
        let name = self.aliases.next("__operand");
        let exprs: Vec<Expr> = self.plan.schema().iter().map(Expr::from).chain([expr.alias(&name)]).collect();
        self.plan = LogicalPlanBuilder::from(self.plan.clone()).project(exprs)?.build()?;
        Ok(Expr::Column(Column::new_unqualified(name)))
    }

    /// Joins the one value of a subquery to the plan.
    fn join_scalar(&mut self, subquery: &Subquery) -> Result<Expr> {
        let pusher = Pusher::new(&self.plan, &subquery.subquery, self.aliases)?;
        let value = Expr::from(subquery.subquery.schema().qualified_field(0));
        if pusher.columns.is_empty() {
            return self.join(subquery.subquery.as_ref().clone(), &[], &[], value);
        }
        let (inner, outer) = pusher.push(&subquery.subquery)?;
        self.join(inner, &pusher.columns, &outer, value)
    }

    /// Joins the fact that a subquery has rows to the plan.
    fn join_exists(&mut self, exists: &Exists) -> Result<Expr> {
        let subquery = &exists.subquery.subquery;
        let pusher = Pusher::new(&self.plan, subquery, self.aliases)?;
        let flag = if pusher.columns.is_empty() {
            self.join(first_row(subquery)?, &[], &[], lit(true))?
        } else {
            let (inner, outer) = pusher.push(subquery)?;
            let distinct = LogicalPlanBuilder::from(inner).project(outer.iter().cloned().map(Expr::Column))?;
            self.join(distinct.distinct()?.build()?, &pusher.columns, &outer, lit(true))?
        };
        Ok(if exists.negated { flag.is_null() } else { flag.is_not_null() })
    }

    /// Joins a plan to the left, where its columns equal those of the left, and gives the column that a value of it becomes.
    fn join(&mut self, inner: LogicalPlan, columns: &[Column], inner_columns: &[Column], value: Expr) -> Result<Expr> {
        let alias = TableReference::bare(self.aliases.next("__subquery"));
        let name = |i: usize| column_name(&alias, i);
        let keys = inner_columns.iter().enumerate();
        let keys = keys.map(|(i, c)| Expr::Column(c.clone()).alias_qualified(Some(alias.clone()), name(i)));
        let value_name = name(columns.len());
        let exprs = keys.chain([value.unalias().alias_qualified(Some(alias.clone()), &value_name)]);
        let right = LogicalPlanBuilder::from(inner).project(exprs.collect::<Vec<_>>())?.build()?;
        let right_keys = (0..columns.len()).map(|i| Column::new(Some(alias.clone()), name(i)));
        let on = columns.iter().cloned().map(Expr::Column).zip(right_keys.map(Expr::Column)).collect();
        self.plan = joined(self.plan.clone(), right, on, None, JoinType::Left)?;
        Ok(Expr::Column(Column::new(Some(alias), value_name)))
    }
}

/// The first row of a plan, whichever it is.
fn first_row(plan: &Arc<LogicalPlan>) -> Result<LogicalPlan> {
    match plan.as_ref() {
        LogicalPlan::Limit(limit) if limit.skip.is_none() && limit.fetch.as_deref() == Some(&lit(1i64)) => {
            Ok(plan.as_ref().clone())
        }
        plan => LogicalPlanBuilder::from(plan.clone()).limit(0, Some(1))?.build(),
    }
}

/// A join on columns in which nulls are equal.
fn joined(
    left: LogicalPlan,
    right: LogicalPlan,
    on: Vec<(Expr, Expr)>,
    filter: Option<Expr>,
    join_type: JoinType,
) -> Result<LogicalPlan> {
    let (left, right) = (Arc::new(left), Arc::new(right));
    let equality = if on.is_empty() { NullEquality::NullEqualsNothing } else { NullEquality::NullEqualsNull };
    Ok(LogicalPlan::Join(Join::try_new(left, right, on, filter, join_type, JoinConstraint::On, equality, false)?))
}

/// The join of a lateral subquery; nothing if the join has none.
fn lateral(join: &Join, aliases: &AliasGenerator, rule: &DependentJoins) -> Result<Option<LogicalPlan>> {
    let Some(subquery) = lateral_plan(&join.right)? else { return Ok(None) };
    let inner = if let LogicalPlan::SubqueryAlias(alias) = &subquery { alias.input.as_ref() } else { &subquery };
    if !rule.takes(inner, Use::Lateral)? {
        return Ok(None);
    }
    if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
        return Ok(None);
    }
    let pusher = Pusher::new(&join.left, &subquery, aliases)?;
    if pusher.columns.is_empty() {
        let mut plain = join.clone();
        plain.right = Arc::new(subquery);
        return Ok(Some(LogicalPlan::Join(plain)));
    }
    let (inner, outer) = pusher.push(&subquery)?;
    let on = pusher.columns.iter().cloned().map(Expr::Column).zip(outer.into_iter().map(Expr::Column)).collect();
    let keys = join.on.iter().map(|(l, r)| l.clone().eq(r.clone()));
    let filter = keys.chain(join.filter.clone()).reduce(Expr::and);
    let plan = joined(join.left.as_ref().clone(), inner, on, filter, join.join_type)?;
    let columns: Vec<Expr> = join.schema.iter().map(Expr::from).collect();
    Ok(Some(LogicalPlanBuilder::from(plan).project(columns)?.build()?))
}

/// The plan with the lateral subquery in it as a plain one.
pub(crate) fn lateral_plan(plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
    match plan {
        LogicalPlan::Subquery(subquery) => Ok(Some(subquery.subquery.as_ref().clone())),
        LogicalPlan::SubqueryAlias(alias) => match lateral_plan(&alias.input)? {
            Some(inner) => Ok(Some(LogicalPlanBuilder::from(inner).alias(alias.alias.clone())?.build()?)),
            None => Ok(None),
        },
        _ => Ok(None),
    }
}

/// Whether a plan mentions an outer column that `is_ours`.
fn mentions_outer(plan: &LogicalPlan, is_ours: &dyn Fn(&Column) -> bool) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found |= expr.exists(|e| Ok(matches!(e, Expr::OuterReferenceColumn(_, c) if is_ours(c))))?;
            Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    })?;
    Ok(found)
}

/// Whether an aggregate of no rows is zero, not null.
fn is_count(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_count(&alias.expr),
        Expr::AggregateFunction(f) => matches!(f.func.name(), "count" | "regr_count" | "approx_distinct"),
        _ => false,
    }
}
