//! Applies rules to a plan: those of the analyzer once each, those of the optimizer until they change nothing more.
//!
//! DataFusion's drivers do the same, but check the subqueries of a subquery anew for each subquery that it is in, which takes
//! twice as long with each level.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion, TreeNodeRewriter};
use datafusion::common::{DFSchema, DataFusionError, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison};
use datafusion::logical_expr::logical_plan::{EmptyRelation, Subquery};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::{AnalyzerRule, ApplyOrder, OptimizerConfig, OptimizerRule};

use crate::interrupt;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// The plan after each of the rules, in order.
pub(crate) fn analyze(
    mut plan: LogicalPlan,
    rules: &[Arc<dyn AnalyzerRule + Send + Sync>],
    options: &ConfigOptions,
) -> Result<LogicalPlan> {
    plan.schema().check_names()?;
    for rule in rules {
        interrupt::check()?;
        plan = rule.analyze(plan, options)?;
    }
    check_executable(&plan)?;
    Ok(plan)
}

/// The plan after as many rounds of the rules as change something, within a bound.
pub(crate) fn optimize(
    mut plan: LogicalPlan,
    rules: &[Arc<dyn OptimizerRule + Send + Sync>],
    config: &dyn OptimizerConfig,
) -> Result<LogicalPlan> {
    let schema = Arc::clone(plan.schema());
    let mut seen = HashSet::from([hash_of(&plan)]);
    for _ in 0..config.options().optimizer.max_passes {
        let mut has_subqueries = has_subqueries(&plan)?;
        for rule in rules {
            interrupt::check()?;
            let applied = apply(plan, rule.as_ref(), config, has_subqueries)
                .map_err(|error| error.context(format!("optimizer rule '{}' failed", rule.name())))?;
            if applied.transformed && has_subqueries {
                has_subqueries = self::has_subqueries(&applied.data)?;
            }
            plan = applied.data;
            debug_assert!(is_same(&schema, plan.schema()), "{} changes what the plan gives", rule.name());
        }
        if !seen.insert(hash_of(&plan)) {
            break;
        }
    }
    if !is_same(&schema, plan.schema()) {
        return internal_err!("the optimizer has changed the schema {schema:?} to {:?}", plan.schema());
    }
    check_executable(&plan)?;
    Ok(plan)
}

fn is_same(before: &DFSchema, after: &DFSchema) -> bool {
    after.logically_equivalent_names_and_types(before)
}

fn hash_of(plan: &LogicalPlan) -> u64 {
    let mut hasher = DefaultHasher::new();
    plan.hash(&mut hasher);
    hasher.finish()
}

fn has_subqueries(plan: &LogicalPlan) -> Result<bool> {
    plan.exists(|node| {
        let mut found = false;
        node.apply_expressions(|expr| {
            found |= expr.exists(|e| Ok(subquery_of(e).is_some()))?;
            Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        Ok(found)
    })
}

fn subquery_of(expr: &Expr) -> Option<&Subquery> {
    match expr {
        Expr::Exists(Exists { subquery, .. })
        | Expr::InSubquery(InSubquery { subquery, .. })
        | Expr::SetComparison(SetComparison { subquery, .. })
        | Expr::ScalarSubquery(subquery) => Some(subquery),
        _ => None,
    }
}

/// Applies one rule to all nodes of a plan.
fn apply(
    plan: LogicalPlan,
    rule: &dyn OptimizerRule,
    config: &dyn OptimizerConfig,
    has_subqueries: bool,
) -> Result<Transformed<LogicalPlan>> {
    match rule.apply_order() {
        // It finds the nodes itself.
        None => rule.rewrite(plan, config),
        Some(order) if has_subqueries => plan.rewrite_with_subqueries(&mut Rewriter { order, rule, config }),
        Some(order) => Rewriter { order, rule, config }.rewrite_inputs_too(plan),
    }
}

/// A rule as it is applied to a node.
struct Rewriter<'a> {
    order: ApplyOrder,
    rule: &'a dyn OptimizerRule,
    config: &'a dyn OptimizerConfig,
}

impl TreeNodeRewriter for Rewriter<'_> {
    type Node = LogicalPlan;

    fn f_down(&mut self, node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        match self.order {
            ApplyOrder::TopDown => self.rule.rewrite(node, self.config),
            ApplyOrder::BottomUp => Ok(Transformed::no(node)),
        }
    }

    fn f_up(&mut self, node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        match self.order {
            ApplyOrder::TopDown => Ok(Transformed::no(node)),
            ApplyOrder::BottomUp => self.rule.rewrite(node, self.config),
        }
    }
}

impl Rewriter<'_> {
    /// Rewrites a plan without subqueries. A node whose inputs give something else now has its own schema made anew.
    fn rewrite_inputs_too(&mut self, plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        let down = self.f_down(plan)?;
        if down.tnr == TreeNodeRecursion::Stop {
            return Ok(down);
        }
        let mut is_other_schema = false;
        let inputs = down.data.map_children(|input| {
            let before = Arc::clone(input.schema());
            let mut rewritten = self.rewrite_inputs_too(input)?;
            is_other_schema |= rewritten.transformed && before.as_ref() != rewritten.data.schema().as_ref();
            rewritten.tnr = TreeNodeRecursion::Continue;
            Ok(rewritten)
        })?;
        let plan = if is_other_schema { inputs.data.recompute_schema()? } else { inputs.data };
        let up = self.f_up(plan)?;
        Ok(Transformed::new_transformed(up.data, down.transformed || inputs.transformed || up.transformed))
    }
}

/// What DataFusion demands of a plan that is to be executed: names are unique, and subqueries stand where they can.
fn check_executable(plan: &LogicalPlan) -> Result<()> {
    plan.schema().check_names()?;
    let check_nodes = |node: &LogicalPlan| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Some(subquery) = subquery_of(expr) {
                    interrupt::check()?;
                    check_subquery(node, &subquery.subquery, expr)?;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    };
    plan.apply_with_subqueries(check_nodes).map(|_| ())
}

/// Checks one subquery; those within it are checked by themselves.
fn check_subquery(outer: &LogicalPlan, inner: &LogicalPlan, expr: &Expr) -> Result<()> {
    let check = datafusion::logical_expr::logical_plan::check_subquery_expr;
    // With GROUP BY what is correlated in there counts too.
    if is_grouped(inner) { check(outer, inner, expr) } else { check(outer, &without_subqueries(inner)?, expr) }
}

fn is_grouped(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => is_grouped(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_grouped(&alias.input),
        LogicalPlan::Filter(filter) => is_grouped(&filter.input),
        LogicalPlan::Aggregate(aggregate) => !aggregate.group_expr.is_empty(),
        _ => false,
    }
}

/// The plan with something empty for each of its subqueries.
fn without_subqueries(plan: &LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.clone();
    if !has_subqueries(&plan)? {
        return Ok(plan);
    }
    plan.transform_down(|node| node.map_expressions(|expr| expr.transform_down(|e| Ok(with_empty_subquery(e))))).data()
}

fn with_empty_subquery(mut expr: Expr) -> Transformed<Expr> {
    let subquery = match &mut expr {
        Expr::Exists(Exists { subquery, .. })
        | Expr::InSubquery(InSubquery { subquery, .. })
        | Expr::SetComparison(SetComparison { subquery, .. })
        | Expr::ScalarSubquery(subquery) => subquery,
        _ => return Transformed::no(expr),
    };
    let schema = Arc::clone(subquery.subquery.schema());
    subquery.subquery = Arc::new(LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema }));
    Transformed::yes(expr)
}
