//! Keeps what is constant on the side of an outer join from passing for constant in its result.
//!
//! DataFusion takes over that a column has one value, such as the result of an aggregate without a key or one that a
//! filter compares with a literal, and so finds rows in order that are not: where a row has no partner the column is null.
//! A node that says nothing of constants stands between such a side and the join.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Statistics};
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ReplaceChildrenOptions, replace_children_if_necessary,
};
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec};

use datafusion::physical_plan::{
    ChildStats, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, StatisticsArgs,
};

use crate::typing::types::Result;

/// Comes before all rules that look at the order of rows.
#[derive(Debug)]
pub(crate) struct HideConstants;

impl PhysicalOptimizerRule for HideConstants {
    fn name(&self) -> &str {
        "hide_constants"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(hide_below).data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn hide_below(join: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let join_type = match (join.downcast_ref::<HashJoinExec>(), join.downcast_ref::<NestedLoopJoinExec>()) {
        (Some(hash), _) => *hash.join_type(),
        (_, Some(nested)) => *nested.join_type(),
        (None, None) => return Ok(Transformed::no(join)),
    };
    let (left_is_extended, right_is_extended) = match join_type {
        JoinType::Left => (false, true),
        JoinType::Right => (true, false),
        JoinType::Full => (true, true),
        _ => return Ok(Transformed::no(join)),
    };
    let children = join.children();
    let sides = children.into_iter().zip([left_is_extended, right_is_extended]);
    let hidden = sides.map(|(side, is_extended)| if is_extended { hide(side) } else { Arc::clone(side) }).collect();
    Ok(Transformed::yes(replace_children_if_necessary(join, hidden)?))
}

fn hide(side: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    if side.equivalence_properties().constants().is_empty() {
        return Arc::clone(side);
    }
    Arc::new(NothingConstant::new(Arc::clone(side)))
}

/// The rows of its input, of whose columns none is known to be constant.
#[derive(Clone, Debug)]
struct NothingConstant {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl NothingConstant {
    fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let known = input.equivalence_properties();
        let orderings = known.oeq_class().iter().cloned();
        let kept = EquivalenceProperties::new_with_orderings(Arc::clone(known.schema()), orderings);
        let properties = PlanProperties::clone(input.properties()).with_eq_properties(kept);
        NothingConstant { input, properties: Arc::new(properties) }
    }
}

impl DisplayAs for NothingConstant {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NothingConstant")
    }
}

impl ExecutionPlan for NothingConstant {
    fn name(&self) -> &'static str {
        "NothingConstant"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(NothingConstant::new(children.swap_remove(0))))
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(NothingConstant::new(children.swap_remove(0))))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::clone(&inputs[0]))
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }
}
