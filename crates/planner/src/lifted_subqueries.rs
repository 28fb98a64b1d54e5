//! Subqueries in ORDER BY, aggregates, window functions, ON and LIMIT: later rules make joins of those in projections and
//! filters, so these become columns of a projection below, or conditions of a filter above.

mod joins;
mod limits;

use std::sync::Arc;

use datafusion::common::alias::AliasGenerator;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet, LogicalPlan, LogicalPlanBuilder, Sort, SortExpr, Window};
use datafusion::optimizer::AnalyzerRule;

use crate::typing::types::Result;

/// Leaves subqueries in projections and filters only. Runs when all types are known.
#[derive(Debug)]
pub(crate) struct LiftSubqueries;

impl AnalyzerRule for LiftSubqueries {
    fn name(&self) -> &str {
        "lift_subqueries"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan, DataFusionError> {
        let aliases = AliasGenerator::new();
        plan.transform_up_with_subqueries(|node| lift(node, &aliases)).data()
    }
}

fn lift(node: LogicalPlan, aliases: &AliasGenerator) -> Result<Transformed<LogicalPlan>> {
    if matches!(node, LogicalPlan::Projection(_) | LogicalPlan::Filter(_)) || !node_has_subquery(&node)? {
        return Ok(Transformed::no(node));
    }
    Ok(match node {
        LogicalPlan::Aggregate(aggregate) => Transformed::yes(lift_from_aggregate(aggregate, aliases)?),
        LogicalPlan::Window(window) => Transformed::yes(lift_from_window(window, aliases)?),
        LogicalPlan::Sort(sort) => Transformed::yes(lift_from_sort(sort, aliases)?),
        LogicalPlan::Join(join) => Transformed::yes(joins::lift_from_join(join, aliases)?),
        LogicalPlan::Limit(limit) => Transformed::yes(limits::lift_from_limit(limit, aliases)?),
        other => Transformed::no(other),
    })
}

fn node_has_subquery(node: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    node.apply_expressions(|expr| {
        found |= has_subquery(expr)?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn is_subquery(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_))
}

fn has_subquery(expr: &Expr) -> Result<bool> {
    expr.exists(|e| Ok(is_subquery(e)))
}

/// Subqueries as further columns of a plan.
struct Lifted<'a> {
    plan: LogicalPlan,
    aliases: &'a AliasGenerator,
    /// The subqueries, and the names of their columns.
    columns: Vec<(Expr, String)>,
}

impl<'a> Lifted<'a> {
    fn new(plan: &Arc<LogicalPlan>, aliases: &'a AliasGenerator) -> Self {
        Lifted { plan: plan.as_ref().clone(), aliases, columns: Vec::new() }
    }

    /// The expression with columns in place of its subqueries.
    fn without_subqueries(&mut self, expr: Expr) -> Result<Expr> {
        let column = |e: Expr| {
            if !is_subquery(&e) {
                return Ok(Transformed::no(e));
            }
            let column = Expr::Column(Column::new_unqualified(self.name_of(e)));
            // What is within the subquery has gone with it.
            Ok(Transformed::new(column, true, TreeNodeRecursion::Jump))
        };
        expr.transform_down(column).data()
    }

    /// As [`Lifted::without_subqueries`], under the name that the expression had.
    fn named_without_subqueries(&mut self, expr: &Expr) -> Result<Expr> {
        let (qualifier, name) = expr.qualified_name();
        let new = self.without_subqueries(expr.clone())?;
        Ok(if new == *expr { new } else { new.unalias().alias_qualified(qualifier, name) })
    }

    fn all_named(&mut self, exprs: &[Expr]) -> Result<Vec<Expr>> {
        exprs.iter().map(|e| self.named_without_subqueries(e)).collect()
    }

    fn name_of(&mut self, subquery: Expr) -> String {
        if let Some((_, name)) = self.columns.iter().find(|(e, _)| *e == subquery) {
            return name.clone();
        }
        let name = self.aliases.next("__lifted");
        self.columns.push((subquery, name.clone()));
        name
    }

    /// The plan with the columns.
    fn build(self) -> Result<LogicalPlan> {
        if self.columns.is_empty() {
            return Ok(self.plan);
        }
        let columns: Vec<Expr> = self.plan.schema().iter().map(Expr::from).collect();
        let lifted = self.columns.into_iter().map(|(subquery, name)| subquery.alias(name));
        LogicalPlanBuilder::from(self.plan).project(columns.into_iter().chain(lifted))?.build()
    }
}

fn lift_from_aggregate(aggregate: Aggregate, aliases: &AliasGenerator) -> Result<LogicalPlan> {
    let mut lifted = Lifted::new(&aggregate.input, aliases);
    let keys = match aggregate.group_expr.as_slice() {
        [Expr::GroupingSet(set)] => {
            let set = match set {
                GroupingSet::Rollup(exprs) => GroupingSet::Rollup(lifted.all_named(exprs)?),
                GroupingSet::Cube(exprs) => GroupingSet::Cube(lifted.all_named(exprs)?),
                GroupingSet::GroupingSets(sets) => {
                    let sets = sets.iter().map(|set| lifted.all_named(set));
                    GroupingSet::GroupingSets(sets.collect::<Result<Vec<_>>>()?)
                }
            };
            vec![Expr::GroupingSet(set)]
        }
        keys => lifted.all_named(keys)?,
    };
    let calls = lifted.all_named(&aggregate.aggr_expr)?;
    Ok(LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(lifted.build()?), keys, calls)?))
}

fn lift_from_window(window: Window, aliases: &AliasGenerator) -> Result<LogicalPlan> {
    let mut lifted = Lifted::new(&window.input, aliases);
    let calls = lifted.all_named(&window.window_expr)?;
    let plan = LogicalPlan::Window(Window::try_new(calls, Arc::new(lifted.build()?))?);
    with_columns(plan, &LogicalPlan::Window(window))
}

fn lift_from_sort(sort: Sort, aliases: &AliasGenerator) -> Result<LogicalPlan> {
    let mut lifted = Lifted::new(&sort.input, aliases);
    let key = |s: &SortExpr| Ok(s.with_expr(lifted.without_subqueries(s.expr.clone())?));
    let expr = sort.expr.iter().map(key).collect::<Result<Vec<_>>>()?;
    let plan = LogicalPlan::Sort(Sort { expr, input: Arc::new(lifted.build()?), fetch: sort.fetch });
    with_columns(plan, &sort.input)
}

/// The plan with no more columns than another has.
fn with_columns(plan: LogicalPlan, other: &LogicalPlan) -> Result<LogicalPlan> {
    let columns: Vec<Expr> = other.schema().iter().map(Expr::from).collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}
