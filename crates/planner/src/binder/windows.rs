//! `TUMBLE` and `HOP` in FROM.

use datafusion::common::DataFusionError;
use datafusion::logical_expr::planner::{RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::sql::sqlparser::ast::TableFactor;

/// Plans time windows as projections over their relation.
#[derive(Debug)]
pub(super) struct WindowTables;

impl RelationPlanner for WindowTables {
    fn plan_relation(
        &self,
        relation: TableFactor,
        _context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning, DataFusionError> {
        Ok(RelationPlanning::Original(Box::new(relation)))
    }
}
