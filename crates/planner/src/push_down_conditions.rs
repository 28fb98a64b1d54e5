//! Conditions go towards the scans, as far as they may.
//!
//! DataFusion's rule says how, but goes too far in three places, where conditions stop here:
//!
//! - An aggregate without a key, or with grouping sets, of which one may be empty, has a row even of nothing. A condition
//!   that reads no column, such as one with an uncorrelated subquery, would go below it, as it may below one with a key.
//! - `DISTINCT ON` picks rows before it is asked for them; only conditions on what it is on may go first.
//! - Neither may any condition before the rows of a sort that ends after some.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Aggregate, Distinct, DistinctOn, Expr, Filter, LogicalPlan};
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// DataFusion's rule of the same name, where it is right.
#[derive(Debug, Default)]
pub(crate) struct PushDownConditions(PushDownFilter);

impl OptimizerRule for PushDownConditions {
    fn name(&self) -> &str {
        "push_down_conditions"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Filter(filter) = plan else { return self.0.rewrite(plan, config) };
        match below_filters(&filter.input) {
            LogicalPlan::Aggregate(aggregate) if !has_plain_key(aggregate) => {
                Ok(Transformed::no(LogicalPlan::Filter(filter)))
            }
            LogicalPlan::Sort(sort) if sort.fetch.is_some() => Ok(Transformed::no(LogicalPlan::Filter(filter))),
            LogicalPlan::Distinct(Distinct::On(distinct)) => {
                let pushed = below_distinct_on(&filter, distinct)?;
                Ok(pushed.map_or_else(|| Transformed::no(LogicalPlan::Filter(filter)), Transformed::yes))
            }
            _ => self.0.rewrite(LogicalPlan::Filter(filter), config),
        }
    }
}

/// Whether every row of an aggregate comes from a row of its input.
fn has_plain_key(aggregate: &Aggregate) -> bool {
    !aggregate.group_expr.is_empty() && !matches!(aggregate.group_expr[..], [Expr::GroupingSet(_)])
}

/// What DataFusion's rule would push a condition below, since it merges filters that follow one another.
fn below_filters(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::Filter(filter) => below_filters(&filter.input),
        plan => plan,
    }
}

/// The conditions of a filter and of those below it, in the order in which they are looked at.
fn conditions(filter: &Filter) -> Vec<Expr> {
    let mut conditions = match filter.input.as_ref() {
        LogicalPlan::Filter(below) => conditions(below),
        _ => vec![],
    };
    conditions.extend(split_conjunction_owned(filter.predicate.clone()));
    conditions
}

/// Pushes those conditions of a filter, and of filters below it, down that read nothing but what the rows are distinct
/// on; `None` if there are none.
fn below_distinct_on(filter: &Filter, distinct: &DistinctOn) -> Result<Option<LogicalPlan>> {
    let keys: HashMap<Column, Expr> = distinct
        .schema
        .iter()
        .zip(&distinct.select_expr)
        .map(|(field, selected)| (Column::from(field), selected.clone().unalias()))
        .filter(|(_, selected)| distinct.on_expr.contains(selected))
        .collect();
    let reads_keys = |condition: &Expr| {
        let columns = condition.column_refs();
        !columns.is_empty() && !condition.is_volatile() && columns.iter().all(|column| keys.contains_key(column))
    };
    let (pushed, kept): (Vec<Expr>, Vec<Expr>) = conditions(filter).into_iter().partition(reads_keys);
    let Some(pushed) = conjunction(pushed) else { return Ok(None) };
    let pushed = pushed.transform_up(|expr| {
        let key = if let Expr::Column(column) = &expr { keys.get(column).cloned() } else { None };
        Ok(key.map_or_else(|| Transformed::no(expr), Transformed::yes))
    })?;
    let input = Arc::new(LogicalPlan::Filter(Filter::try_new(pushed.data, Arc::clone(&distinct.input))?));
    let distinct = LogicalPlan::Distinct(Distinct::On(DistinctOn { input, ..distinct.clone() }));
    Ok(Some(match conjunction(kept) {
        Some(kept) => LogicalPlan::Filter(Filter::try_new(kept, Arc::new(distinct))?),
        None => distinct,
    }))
}
