//! The order of peers, for window functions that look at rows by their places in frames that do not: `first_value(x)` over
//! a frame of RANGE or GROUPS takes the first of the rows that are equal in the order.
//!
//! SQL leaves open which one that is. As in a dataflow, the remaining columns of the input decide, ascending, nulls last:
//! the input is sorted by them too, of which the frames know nothing. Where functions look at nothing but places, the
//! logical plan says so (`completed_order.rs`).

use std::sync::Arc;

use arrow::compute::SortOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::window::{
    PlainAggregateWindowExpr, SlidingAggregateWindowExpr, StandardWindowExpr, WindowExpr,
};
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec, WindowUDFExpr};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use crate::typing::input_order::is_order_sensitive;
use crate::typing::types::Result;

/// Comes when nothing moves any more.
#[derive(Debug)]
pub(crate) struct CompletePeers;

impl PhysicalOptimizerRule for CompletePeers {
    fn name(&self) -> &str {
        "complete_peers"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(complete).data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn complete(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let functions = match (node.downcast_ref::<BoundedWindowAggExec>(), node.downcast_ref::<WindowAggExec>()) {
        (Some(window), _) => window.window_expr(),
        (_, Some(window)) => window.window_expr(),
        (None, None) => return Ok(Transformed::no(node)),
    };
    if !functions.iter().any(looks_at_places) {
        return Ok(Transformed::no(node));
    }
    let required = node.required_input_ordering().swap_remove(0).map(|required| required.into_single());
    let partition = functions[0].partition_by().to_vec();
    let input = Arc::clone(node.children()[0]);
    let order = completed(required.into_iter().flatten().map(PhysicalSortExpr::from).collect(), &partition, &*input);
    let Some(order) = LexOrdering::new(order) else { return Ok(Transformed::no(node)) };
    if input.equivalence_properties().ordering_satisfy(order.clone())? {
        return Ok(Transformed::no(node));
    }
    let is_split = input.output_partitioning().partition_count() > 1;
    let unsorted = match input.downcast_ref::<SortExec>() {
        Some(sort) if sort.fetch().is_none() && sort.preserve_partitioning() == is_split => Arc::clone(sort.input()),
        _ => input,
    };
    let sorted = Arc::new(SortExec::new(order, unsorted).with_preserve_partitioning(is_split));
    Ok(Transformed::yes(replace_children_if_necessary(node, vec![sorted])?))
}

/// The order with the columns that it lacks.
fn completed(
    mut order: Vec<PhysicalSortExpr>,
    partition: &[Arc<dyn PhysicalExpr>],
    input: &dyn ExecutionPlan,
) -> Vec<PhysicalSortExpr> {
    for (i, field) in input.schema().fields().iter().enumerate() {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), i));
        if !partition.contains(&column) && order.iter().all(|sort| !sort.expr.eq(&column)) {
            order.push(PhysicalSortExpr::new(column, SortOptions { descending: false, nulls_first: false }));
        }
    }
    order
}

/// Whether a function's result depends on the order of peers.
fn looks_at_places(function: &Arc<dyn WindowExpr>) -> bool {
    let function = function.as_any();
    if let Some(plain) = function.downcast_ref::<PlainAggregateWindowExpr>() {
        return is_by_place(plain.get_aggregate_expr().fun().name());
    }
    if let Some(sliding) = function.downcast_ref::<SlidingAggregateWindowExpr>() {
        return is_by_place(sliding.get_aggregate_expr().fun().name());
    }
    let standard = function.downcast_ref::<StandardWindowExpr>();
    let udf = standard.and_then(|standard| standard.get_standard_func_expr().as_any().downcast_ref::<WindowUDFExpr>());
    udf.is_some_and(|udf| is_by_place(udf.fun().name()))
}

/// Of those that leave rows out, the names say so at their ends.
fn is_by_place(name: &str) -> bool {
    is_order_sensitive(name) || name.rsplit_once('_').is_some_and(|(name, _)| is_order_sensitive(name))
}
