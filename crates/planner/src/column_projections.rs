//! DataFusion's rule that moves projections towards scans, for those that compute nothing.
//!
//! It would compute `a / b` below a filter that lets only some rows through, if that makes rows narrower; Postgres
//! computes what is selected of the rows that are selected.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, remove_unnecessary_projections};

use crate::typing::types::Result;

/// The name of DataFusion's rule.
pub(crate) const REPLACED: &str = "ProjectionPushdown";

#[derive(Debug)]
pub(crate) struct PushDownColumns;

impl PhysicalOptimizerRule for PushDownColumns {
    fn name(&self) -> &str {
        "push_down_columns"
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let push = |node: Arc<dyn ExecutionPlan>| match node.downcast_ref::<ProjectionExec>() {
            Some(projection) if is_of_columns(projection) => remove_unnecessary_projections(node),
            _ => Ok(Transformed::no(node)),
        };
        plan.transform_down(push).data()
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn is_of_columns(projection: &ProjectionExec) -> bool {
    projection.expr().iter().all(|e| e.expr.downcast_ref::<Column>().is_some())
}
