//! Nested loop joins that go on on disk only where that gives the right rows.
//!
//! DataFusion's, when its left rows do not fit, executes what they come from once more, for each partition of the right side.
//! An input that can be executed once only gives other rows then, or none; with several partitions a left row is without a
//! partner as soon as one of them has none for it; and right rows without a partner are left out (seen with 55.2). So such a
//! join fails for lack of memory, rather.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, Result, internal_err};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::joins::NestedLoopJoinExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

use crate::query_memory::task_context;

/// Nodes that give the same rows each time they are executed.
const REPEATABLE: [&str; 20] = [
    "AggregateExec",
    "BoundedWindowAggExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "DataSourceExec",
    "EmptyExec",
    "FilterExec",
    "GlobalLimitExec",
    "GraceJoinExec",
    "LocalLimitExec",
    "OwnRowsExec",
    "PlaceholderRowExec",
    "ProjectionExec",
    "SnapshotExec",
    "SortExec",
    "SortPreservingMergeExec",
    "StreamingTableExec",
    "UnionExec",
    "UnnestExec",
    "WindowAggExec",
];

/// A plan whose nested loop joins stay in memory, but for those that are right on disk, under the context in which it is
/// executed.
pub(crate) fn right_nested_loops(
    plan: Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let changed = plan.transform_up(|node| {
        match node.downcast_ref::<NestedLoopJoinExec>() {
            Some(join) if !is_right_on_disk(join)? => {}
            _ => return Ok(Transformed::no(node)),
        }
        let disk_manager = Arc::new(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled).build()?);
        let memory = RuntimeEnv { disk_manager, ..(*context.runtime_env()).clone() };
        let without_disk = Arc::new(task_context(context.session_config().clone(), Arc::new(memory)));
        let under = |plan, context| Arc::new(UnderContext { plan, context }) as Arc<dyn ExecutionPlan>;
        let inputs = node.children().into_iter().map(|input| under(Arc::clone(input), Arc::clone(context))).collect();
        Ok(Transformed::yes(under(replace_children_if_necessary(node, inputs)?, without_disk)))
    });
    changed.map(|changed| changed.data)
}

fn is_right_on_disk(join: &NestedLoopJoinExec) -> Result<bool> {
    use JoinType::{Inner, Left, LeftAnti, LeftMark, LeftSemi};
    let n_partitions = join.right().properties().output_partitioning().partition_count();
    if n_partitions > 1 || !matches!(join.join_type(), Inner | Left | LeftAnti | LeftMark | LeftSemi) {
        return Ok(false);
    }
    let once = join.left().exists(|node| Ok(!REPEATABLE.contains(&node.name())))?;
    Ok(!once)
}

/// A plan that is executed under a context of its own.
struct UnderContext {
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
}

impl fmt::Debug for UnderContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnderContext").finish_non_exhaustive()
    }
}

impl DisplayAs for UnderContext {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ExecutionPlan for UnderContext {
    fn name(&self) -> &'static str {
        "UnderContextExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.plan.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.plan]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.pop()) {
            (Some(plan), None) => Ok(Arc::new(UnderContext { plan, context: Arc::clone(&self.context) })),
            _ => internal_err!("one plan under a context"),
        }
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.plan.execute(partition, Arc::clone(&self.context))
    }
}
