//! Orders that SQL leaves open, completed for ad-hoc queries as operators of dataflows complete them: by the remaining
//! columns of the input, ascending, nulls last. So a query gives one result, in a view and out of it.
//!
//! Peers stay peers: `rank()` and frames of RANGE and GROUPS are told nothing that the query does not say.

use std::collections::BTreeSet;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Dependency};
use datafusion::logical_expr::expr::Sort as SortExpr;
use datafusion::logical_expr::{
    Distinct, DistinctOn, Expr, Limit, LogicalPlan, LogicalPlanBuilder, Projection, Sort, Window, WindowFrameUnits,
    WindowFunctionDefinition,
};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use std::sync::Arc;

use crate::typing::types::Result;

/// Completes the order of `DISTINCT ON`, before it becomes an aggregate.
#[derive(Debug)]
pub(crate) struct CompleteDistinctOn;

impl OptimizerRule for CompleteDistinctOn {
    fn name(&self) -> &str {
        "complete_distinct_on"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Distinct(Distinct::On(distinct)) = plan else { return Ok(Transformed::no(plan)) };
        let schema = distinct.input.schema();
        let sort = distinct.sort_expr.clone().unwrap_or_else(|| ascending(&distinct.on_expr));
        // Columns that the query does not mention play no part, in a dataflow as here.
        let sorted = sort.iter().map(|s| &s.expr);
        let mentioned: BTreeSet<usize> = distinct
            .on_expr
            .iter()
            .chain(&distinct.select_expr)
            .chain(sorted)
            .flat_map(|e| {
                e.column_refs().into_iter().filter_map(|c| schema.maybe_index_of_column(c)).collect::<Vec<_>>()
            })
            .collect();
        let Some(completed) = completed(&sort, schema, |i| mentioned.contains(&i)) else {
            return Ok(Transformed::no(LogicalPlan::Distinct(Distinct::On(distinct))));
        };
        let DistinctOn { on_expr, select_expr, input, .. } = distinct;
        let distinct = DistinctOn::try_new(on_expr, select_expr, Some(completed), input)?;
        Ok(Transformed::yes(LogicalPlan::Distinct(Distinct::On(distinct))))
    }
}

/// Completes the orders of limits and of window functions, when columns that nobody needs are gone.
#[derive(Debug)]
pub(crate) struct CompleteOrders;

impl OptimizerRule for CompleteOrders {
    fn name(&self) -> &str {
        "complete_orders"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        Ok(match plan {
            LogicalPlan::Sort(mut sort) if sort.fetch.is_some() => match of_sort(&sort) {
                Some(expr) => {
                    sort.expr = expr;
                    Transformed::yes(LogicalPlan::Sort(sort))
                }
                None => Transformed::no(LogicalPlan::Sort(sort)),
            },
            LogicalPlan::Limit(limit) => of_limit(limit),
            LogicalPlan::Window(window) => of_window(window)?,
            other => Transformed::no(other),
        })
    }
}

fn of_limit(mut limit: Limit) -> Transformed<LogicalPlan> {
    match sorted(&limit.input) {
        Some(input) => {
            limit.input = Arc::new(input);
            Transformed::yes(LogicalPlan::Limit(limit))
        }
        None => Transformed::no(LogicalPlan::Limit(limit)),
    }
}

/// The plan with its order completed, if it has one that is not.
fn sorted(plan: &LogicalPlan) -> Option<LogicalPlan> {
    match plan {
        LogicalPlan::Sort(sort) => Some(LogicalPlan::Sort(Sort { expr: of_sort(sort)?, ..sort.clone() })),
        LogicalPlan::Projection(projection) => {
            let input = Arc::new(sorted(&projection.input)?);
            let schema = Arc::clone(&projection.schema);
            let projection = Projection::try_new_with_schema(projection.expr.clone(), input, schema).ok()?;
            Some(LogicalPlan::Projection(projection))
        }
        _ => None,
    }
}

fn of_sort(sort: &Sort) -> Option<Vec<SortExpr>> {
    completed(&sort.expr, sort.input.schema(), |_| true)
}

fn of_window(window: Window) -> Result<Transformed<LogicalPlan>> {
    let schema = window.input.schema();
    let mut is_changed = false;
    let mut complete = |expr: &Expr| {
        let (qualifier, name) = expr.qualified_name();
        let Expr::WindowFunction(mut function) = expr.clone().unalias() else { return expr.clone() };
        let looks_at_places = match &function.fun {
            WindowFunctionDefinition::WindowUDF(f) if is_told_by_place(f.name()) => true,
            WindowFunctionDefinition::WindowUDF(f) if is_told_by_peers(f.name()) => false,
            _ => {
                let frame = &function.params.window_frame;
                frame.units == WindowFrameUnits::Rows && !is_whole_partition(frame)
            }
        };
        if !looks_at_places {
            return expr.clone();
        }
        let partition = function.params.partition_by.clone();
        let is_open = |i: usize| !partition.contains(&Expr::from(schema.qualified_field(i)));
        match completed(&function.params.order_by, schema, is_open) {
            Some(order_by) => {
                is_changed = true;
                function.params.order_by = order_by;
                Expr::WindowFunction(function).alias_qualified(qualifier, name)
            }
            None => expr.clone(),
        }
    };
    let exprs: Vec<Expr> = window.window_expr.iter().map(&mut complete).collect();
    if !is_changed {
        return Ok(Transformed::no(LogicalPlan::Window(window)));
    }
    // One operator has one order.
    let (done, open): (Vec<_>, Vec<_>) = exprs.into_iter().zip(&window.window_expr).partition(|(new, old)| new != *old);
    let columns: Vec<Expr> = window.schema.iter().map(Expr::from).collect();
    let mut plan = LogicalPlan::Window(Window::try_new(done.into_iter().map(|(e, _)| e).collect(), window.input)?);
    if !open.is_empty() {
        let open = open.into_iter().map(|(e, _)| e).collect();
        plan = LogicalPlan::Window(Window::try_new(open, Arc::new(plan))?);
        plan = LogicalPlanBuilder::from(plan).project(columns)?.build()?;
    }
    Ok(Transformed::yes(plan))
}

/// Functions that say where a row stands, or look at rows by their places, whatever the frame.
fn is_told_by_place(name: &str) -> bool {
    matches!(name, "row_number" | "ntile" | "lag" | "lead")
}

/// Functions that say the same of all peers.
fn is_told_by_peers(name: &str) -> bool {
    matches!(name, "rank" | "dense_rank" | "percent_rank" | "cume_dist")
}

fn is_whole_partition(frame: &datafusion::logical_expr::WindowFrame) -> bool {
    frame.start_bound.is_unbounded() && frame.end_bound.is_unbounded()
}

fn ascending(exprs: &[Expr]) -> Vec<SortExpr> {
    exprs.iter().map(|e| SortExpr::new(e.clone(), true, false)).collect()
}

/// The order with the columns that it lacks, of those that may complete it; nothing if it lacks none.
fn completed(order: &[SortExpr], schema: &DFSchema, may_complete: impl Fn(usize) -> bool) -> Option<Vec<SortExpr>> {
    let columns =
        (0..schema.fields().len()).filter(|&i| may_complete(i)).map(|i| Expr::from(schema.qualified_field(i)));
    let missing: Vec<Expr> = columns.filter(|c| order.iter().all(|s| s.expr != *c)).collect();
    if missing.is_empty() || has_key(schema, order) {
        return None;
    }
    let mut completed = order.to_vec();
    for column in missing {
        // What comes after a key decides nothing any more.
        if has_key(schema, &completed) {
            break;
        }
        completed.push(SortExpr::new(column, true, false));
    }
    Some(completed)
}

/// Whether no two rows are equal in an order.
fn has_key(schema: &DFSchema, order: &[SortExpr]) -> bool {
    let is_ordered = |column: &usize| {
        let column = Expr::from(schema.qualified_field(*column));
        order.iter().any(|s| s.expr == column)
    };
    let keys = schema.functional_dependencies().iter();
    keys.filter(|d| d.mode == Dependency::Single && !d.nullable).any(|d| d.source_indices.iter().all(is_ordered))
}
