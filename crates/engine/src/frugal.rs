//! Plans for queries that need more memory than they may take: everything that would be in memory whole is on disk.
//!
//! They are slower: no two threads, rows of a join are written before they are joined, and a limit is applied to all rows,
//! sorted.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{JoinType, Result};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;

use crate::grace_join::GraceJoin;
use crate::own_rows::own_rows;

/// A plan with the same rows that has little in memory.
pub(crate) fn frugal(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let changed = plan.transform_up(|node| {
        if let Some(sort) = node.downcast_ref::<SortExec>()
            && let Some(fetch) = sort.fetch()
        {
            // The first rows are in memory; all of them can be elsewhere.
            let all = Arc::new(sort.with_fetch(None));
            return Ok(Transformed::yes(Arc::new(LocalLimitExec::new(all, fetch)) as _));
        }
        if node.children().is_empty() {
            return Ok(Transformed::yes(single(node)));
        }
        if node.is::<AggregateExec>() {
            // It spills what it has before it takes a batch, and then has to have room for that.
            let inputs = node.children().into_iter().map(|input| own_rows(Arc::clone(input))).collect();
            return replace_children_if_necessary(node, inputs).map(Transformed::yes);
        }
        if let Some(join) = node.downcast_ref::<CrossJoinExec>() {
            let (left, right) = (Arc::clone(join.left()), Arc::clone(join.right()));
            let join = NestedLoopJoinExec::try_new(left, right, None, &JoinType::Inner, None)?;
            return Ok(Transformed::yes(Arc::new(join) as _));
        }
        if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
            use JoinType::{Right, RightAnti, RightMark, RightSemi};
            let is_about_right = matches!(join.join_type(), Right | RightSemi | RightAnti | RightMark);
            // Where left rows are taken in parts, it is right only about them.
            let is_swapped = is_about_right && n_partitions(join.right()) == 1;
            return Ok(if is_swapped { Transformed::yes(join.swap_inputs()?) } else { Transformed::no(node) });
        }
        match node.downcast_ref::<HashJoinExec>() {
            Some(join) => Ok(grace_join(join)?.map_or_else(|| Transformed::no(Arc::clone(&node)), Transformed::yes)),
            None => Ok(Transformed::no(node)),
        }
    });
    changed.map(|changed| changed.data)
}

/// A join with the same rows, in the same order if they have one; `None` if there is no such.
fn grace_join(join: &HashJoinExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let properties = join.properties().equivalence_properties();
    // Whoever counts on one of several orders may do so on each, and on what is the same in all rows of a partition.
    let is_ordered_otherwise = properties.oeq_class().len() > 1
        || (join.properties().output_partitioning().partition_count() > 1 && !properties.constants().is_empty());
    // With a condition beside it is not every null that NOT IN has no rows for.
    if (join.null_aware && join.filter().is_some()) || is_ordered_otherwise {
        return Ok(None);
    }
    let inputs = [join.left(), join.right()].map(|input| single(Arc::clone(input)));
    let mut plan: Arc<dyn ExecutionPlan> = Arc::new(GraceJoin::new(join, inputs)?);
    if let Some(order) = join.properties().output_ordering() {
        plan = Arc::new(SortExec::new(order.clone(), plan));
    }
    if let Some(fetch) = join.fetch() {
        plan = Arc::new(LocalLimitExec::new(plan, fetch));
    }
    Ok(Some(plan))
}

/// All rows of a plan in one partition.
fn single(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    if n_partitions(&plan) == 1 {
        return plan;
    }
    Arc::new(CoalescePartitionsExec::new(plan))
}

fn n_partitions(plan: &Arc<dyn ExecutionPlan>) -> usize {
    plan.properties().output_partitioning().partition_count()
}
