//! Keys that compare as SQL compares values: of intervals, floating-point numbers, and arrays of them, values may be equal
//! that are not the same, such as `1 mon` and `30 days`, or 0 and -0.
//!
//! Whatever groups, orders, partitions or joins by such values does so by their keys ([`is_loose`]), in ad-hoc queries and
//! in views. Of the equal values of a group the least that is there is shown, parts of intervals being compared after their
//! length: that depends on the rows alone, not on which came first. See `docs/decisions/equal-values.md`.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{AggregateFunction, Sort as SortExpr};
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{
    Aggregate, Case, Distinct, DistinctOn, Expr, ExprSchemable, GroupingSet, Join, LogicalPlan, LogicalPlanBuilder,
    Window, WindowFrameBound, WindowFrameUnits,
};
use datafusion::optimizer::AnalyzerRule;
use millstream_types::Error;

use crate::binder::external;
use crate::functions::equal_key::is_loose;
use crate::functions::{Registry, builtin};
use crate::typing::types::Result;

/// Puts keys in the place of values that may be equal without being the same. Comes when types are known.
#[derive(Debug)]
pub(crate) struct EqualKeys;

impl AnalyzerRule for EqualKeys {
    fn name(&self) -> &str {
        "equal_keys"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan, DataFusionError> {
        plan.transform_up_with_subqueries(keyed_node).map(|plan| plan.data)
    }
}

fn keyed_node(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match node {
        LogicalPlan::Aggregate(aggregate) => keyed_aggregate(aggregate),
        LogicalPlan::Distinct(Distinct::All(input)) => {
            if !input.schema().fields().iter().any(|f| is_loose(f.data_type())) {
                return Ok(Transformed::no(LogicalPlan::Distinct(Distinct::All(input))));
            }
            let columns: Vec<Expr> = input.schema().iter().map(Expr::from).collect();
            keyed_aggregate(Aggregate::try_new(input, columns, vec![])?)
        }
        LogicalPlan::Distinct(Distinct::On(distinct)) => keyed_distinct_on(distinct),
        LogicalPlan::Window(window) => keyed_window(window),
        LogicalPlan::Sort(mut sort) => {
            let changed = keyed_order(&mut sort.expr, sort.input.schema())?;
            Ok(Transformed::new_transformed(LogicalPlan::Sort(sort), changed))
        }
        LogicalPlan::Join(join) => keyed_join(join),
        other => Ok(Transformed::no(other)),
    }
}

/// The key of a value, if it needs one.
fn keyed(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if !is_loose(&expr.get_type(schema)?) {
        return Ok(Transformed::no(expr));
    }
    Ok(Transformed::yes(builtin("equal_key").call(vec![expr.unalias()])))
}

/// A value as comparisons take it: floating-point numbers compare as they are.
pub(crate) fn comparable(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    match expr.get_type(schema)? {
        DataType::Interval(_) | DataType::List(_) => Ok(keyed(expr, schema)?.data),
        _ => Ok(expr),
    }
}

/// Puts keys into an order; says whether there were any.
fn keyed_order(order: &mut [SortExpr], schema: &DFSchema) -> Result<bool> {
    let mut changed = false;
    for sort in order {
        let key = keyed(sort.expr.clone(), schema)?;
        changed |= key.transformed;
        sort.expr = key.data;
    }
    Ok(changed)
}

fn keyed_all(exprs: Vec<Expr>, schema: &DFSchema, changed: &mut bool) -> Result<Vec<Expr>> {
    let one = |expr: Expr| {
        let key = keyed(expr, schema)?;
        *changed |= key.transformed;
        Ok(key.data)
    };
    exprs.into_iter().map(one).collect()
}

fn keyed_aggregate(aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
    let schema = aggregate.input.schema();
    let mut changed = false;
    let calls = aggregate.aggr_expr.iter().map(|call| {
        let call = call.clone().transform_down(|e| keyed_call(e, schema))?;
        changed |= call.transformed;
        Ok(call.data)
    });
    let mut calls = calls.collect::<Result<Vec<_>>>()?;
    let mut keys_changed = false;
    let keys = match aggregate.group_expr.as_slice() {
        [Expr::GroupingSet(set)] => vec![Expr::GroupingSet(keyed_sets(set.clone(), schema, &mut keys_changed)?)],
        exprs => keyed_all(exprs.to_vec(), schema, &mut keys_changed)?,
    };
    if !changed && !keys_changed {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let has_sets = matches!(keys.as_slice(), [Expr::GroupingSet(_)]);
    let values = grouping_set_to_exprlist(&aggregate.group_expr)?;
    let mut least_of = Vec::new();
    for (i, value) in values.iter().enumerate() {
        if is_loose(&value.get_type(schema)?) {
            least_of.push(i);
            calls.push(least((*value).clone().unalias())?.alias(format!("__least_{i}")));
        }
    }
    let keyed = Aggregate::try_new(Arc::clone(&aggregate.input), keys, calls)?;
    let columns: Vec<Expr> = keyed.schema.iter().map(Expr::from).collect();
    let least = &columns[columns.len() - least_of.len()..];
    let output = aggregate.schema.iter().enumerate().map(|(i, (qualifier, field))| {
        let value = match least_of.iter().position(|&k| k == i) {
            // A key that is not in the set is null.
            Some(at) if has_sets => null_with(&columns[i], least[at].clone()),
            Some(at) => least[at].clone(),
            None => columns[i].clone(),
        };
        value.alias_qualified(qualifier.cloned(), field.name())
    });
    let output: Vec<Expr> = output.collect();
    let plan = LogicalPlanBuilder::from(LogicalPlan::Aggregate(keyed)).project(output)?.build()?;
    Ok(Transformed::yes(plan))
}

fn keyed_sets(set: GroupingSet, schema: &DFSchema, changed: &mut bool) -> Result<GroupingSet> {
    Ok(match set {
        GroupingSet::Rollup(exprs) => GroupingSet::Rollup(keyed_all(exprs, schema, changed)?),
        GroupingSet::Cube(exprs) => GroupingSet::Cube(keyed_all(exprs, schema, changed)?),
        GroupingSet::GroupingSets(sets) => {
            let sets = sets.into_iter().map(|exprs| keyed_all(exprs, schema, changed));
            GroupingSet::GroupingSets(sets.collect::<Result<_>>()?)
        }
    })
}

/// The least of equal values.
fn least(value: Expr) -> Result<Expr> {
    let min = Registry::get().aggregate("min").ok_or_else(|| external(Error::internal("no function min")))?;
    Ok(Expr::AggregateFunction(AggregateFunction::new_udf(min, vec![value], false, None, vec![], None)))
}

/// The value, or null where a key is null.
fn null_with(key: &Expr, value: Expr) -> Expr {
    let when_then_expr = vec![(Box::new(key.clone().is_not_null()), Box::new(value))];
    Expr::Case(Case { expr: None, when_then_expr, else_expr: None })
}

/// An aggregate with keys in its order, and as what it counts.
fn keyed_call(call: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::AggregateFunction(mut call) = call else { return Ok(Transformed::no(call)) };
    let mut changed = false;
    if call.params.distinct {
        // The order of distinct values is their own.
        if call.func.name() == "count" {
            call.params.args = keyed_all(call.params.args, schema, &mut changed)?;
        }
    } else if !call.func.supports_within_group_clause() {
        changed = keyed_order(&mut call.params.order_by, schema)?;
    }
    Ok(Transformed::new_transformed(Expr::AggregateFunction(call), changed))
}

fn keyed_distinct_on(distinct: DistinctOn) -> Result<Transformed<LogicalPlan>> {
    let schema = Arc::clone(distinct.input.schema());
    let DistinctOn { on_expr, select_expr, mut sort_expr, input, .. } = distinct;
    let mut changed = false;
    let on_expr = keyed_all(on_expr, &schema, &mut changed)?;
    if let Some(order) = &mut sort_expr {
        changed |= keyed_order(order, &schema)?;
    }
    let distinct = DistinctOn::try_new(on_expr, select_expr, sort_expr, input)?;
    Ok(Transformed::new_transformed(LogicalPlan::Distinct(Distinct::On(distinct)), changed))
}

fn keyed_window(window: Window) -> Result<Transformed<LogicalPlan>> {
    let schema = window.input.schema();
    let mut changed = false;
    let exprs = window.window_expr.iter().map(|expr| {
        let keyed = expr.clone().transform_down(|e| keyed_function(e, schema))?;
        changed |= keyed.transformed;
        Ok(keyed.data)
    });
    let exprs = exprs.collect::<Result<Vec<_>>>()?;
    if !changed {
        return Ok(Transformed::no(LogicalPlan::Window(window)));
    }
    let keyed = LogicalPlan::Window(Window::try_new(exprs, Arc::clone(&window.input))?);
    let columns = keyed.schema().iter().map(Expr::from);
    let names = window.schema.iter();
    let output = columns.zip(names).map(|(e, (qualifier, field))| e.alias_qualified(qualifier.cloned(), field.name()));
    let output: Vec<Expr> = output.collect();
    Ok(Transformed::yes(LogicalPlanBuilder::from(keyed).project(output)?.build()?))
}

/// A window function over keys. Where a frame adds to the value that orders rows, that stays what it is.
fn keyed_function(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::WindowFunction(mut function) = expr else { return Ok(Transformed::no(expr)) };
    let params = &mut function.params;
    let mut changed = false;
    params.partition_by = keyed_all(std::mem::take(&mut params.partition_by), schema, &mut changed)?;
    let frame = &params.window_frame;
    let is_fixed = |bound: &WindowFrameBound| bound.is_unbounded() || *bound == WindowFrameBound::CurrentRow;
    let has_offset =
        frame.units == WindowFrameUnits::Range && !(is_fixed(&frame.start_bound) && is_fixed(&frame.end_bound));
    if !has_offset {
        changed |= keyed_order(&mut params.order_by, schema)?;
    }
    Ok(Transformed::new_transformed(Expr::WindowFunction(function), changed))
}

fn keyed_join(mut join: Join) -> Result<Transformed<LogicalPlan>> {
    let mut changed = false;
    for (left, right) in &mut join.on {
        let keys = (keyed(left.clone(), join.left.schema())?, keyed(right.clone(), join.right.schema())?);
        changed |= keys.0.transformed;
        (*left, *right) = (keys.0.data, keys.1.data);
    }
    Ok(Transformed::new_transformed(LogicalPlan::Join(join), changed))
}
