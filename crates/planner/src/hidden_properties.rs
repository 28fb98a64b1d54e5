//! Keeps properties of rows that DataFusion takes over, though they are not so, from rules that rely on them.
//!
//! A column that has one value on the side of an outer join, such as the result of an aggregate without a key or one that a
//! filter compares with a literal, is null where a row has no partner. A key of `GROUPING SETS` is null in the sets that
//! leave it out: what is constant, equal, unique or in order below need not be so in the result. A node that says nothing
//! of these properties stands above such a side and such an aggregate.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Statistics};
use datafusion::config::ConfigOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateInputMode};
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
pub(crate) struct HideProperties;

impl PhysicalOptimizerRule for HideProperties {
    fn name(&self) -> &str {
        "hide_properties"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(hide_at).data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn hide_at(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        let has_sets =
            aggregate.group_expr().has_grouping_set() && aggregate.mode().input_mode() == AggregateInputMode::Raw;
        return Ok(if has_sets { Transformed::yes(Hidden::over(plan, false)) } else { Transformed::no(plan) });
    }
    let join_type = match (plan.downcast_ref::<HashJoinExec>(), plan.downcast_ref::<NestedLoopJoinExec>()) {
        (Some(hash), _) => *hash.join_type(),
        (_, Some(nested)) => *nested.join_type(),
        (None, None) => return Ok(Transformed::no(plan)),
    };
    let (left_is_extended, right_is_extended) = match join_type {
        JoinType::Left => (false, true),
        JoinType::Right => (true, false),
        JoinType::Full => (true, true),
        _ => return Ok(Transformed::no(plan)),
    };
    let children = plan.children();
    let sides = children.into_iter().zip([left_is_extended, right_is_extended]);
    let hidden = sides.map(|(side, is_extended)| if is_extended { hide_constants(side) } else { Arc::clone(side) });
    let hidden = hidden.collect();
    Ok(Transformed::yes(replace_children_if_necessary(plan, hidden)?))
}

fn hide_constants(side: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    if side.equivalence_properties().constants().is_empty() {
        return Arc::clone(side);
    }
    Hidden::over(Arc::clone(side), true)
}

/// The rows of its input, of whose columns none is known to be constant, equal to another or unique.
#[derive(Clone, Debug)]
struct Hidden {
    input: Arc<dyn ExecutionPlan>,
    /// Whether the order of the rows remains known.
    keeps_order: bool,
    properties: Arc<PlanProperties>,
}

impl Hidden {
    fn over(input: Arc<dyn ExecutionPlan>, keeps_order: bool) -> Arc<dyn ExecutionPlan> {
        let known = input.equivalence_properties();
        let orderings = known.oeq_class().iter().filter(|_| keeps_order).cloned();
        let kept = EquivalenceProperties::new_with_orderings(Arc::clone(known.schema()), orderings);
        let properties = Arc::new(PlanProperties::clone(input.properties()).with_eq_properties(kept));
        Arc::new(Hidden { input, keeps_order, properties })
    }
}

impl DisplayAs for Hidden {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}

impl ExecutionPlan for Hidden {
    fn name(&self) -> &'static str {
        "Hidden"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![self.keeps_order]
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
        Ok(Hidden::over(children.swap_remove(0), self.keeps_order))
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Hidden::over(children.swap_remove(0), self.keeps_order))
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
