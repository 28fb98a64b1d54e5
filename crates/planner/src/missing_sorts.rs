//! Sorts what is not known to be sorted where it has to be.
//!
//! DataFusion moves sorts below joins, and leaves expressions out of them that follow from others there: constants, and what
//! is equal to what comes before. Above a join it does not always see that they still do, and then finds its own plan wrong.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use crate::typing::types::Result;

/// The name of DataFusion's rule that finds its plan wrong.
pub(crate) const BEFORE: &str = "SanityCheckPlan";

/// Comes when nothing moves any more.
#[derive(Debug)]
pub(crate) struct AddMissingSorts;

impl PhysicalOptimizerRule for AddMissingSorts {
    fn name(&self) -> &str {
        "add_missing_sorts"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(sort_children).data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn sort_children(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let mut is_changed = false;
    let mut children: Vec<Arc<dyn ExecutionPlan>> = node.children().into_iter().cloned().collect();
    for (child, required) in children.iter_mut().zip(node.required_input_ordering()) {
        let Some(required) = required.map(|required| required.into_single()) else { continue };
        if child.equivalence_properties().ordering_satisfy_requirement(required.clone())? {
            continue;
        }
        let Some(order) = LexOrdering::new(required.into_iter().map(PhysicalSortExpr::from)) else { continue };
        let is_split = child.output_partitioning().partition_count() > 1;
        *child = Arc::new(SortExec::new(order, Arc::clone(child)).with_preserve_partitioning(is_split));
        is_changed = true;
    }
    if !is_changed {
        return Ok(Transformed::no(node));
    }
    Ok(Transformed::yes(replace_children_if_necessary(node, children)?))
}
