//! Postgres' types for every expression of a plan, as an analyzer rule.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

/// Gives every expression the type, operator and function that Postgres would.
#[derive(Debug)]
pub(crate) struct PostgresTypes;

impl AnalyzerRule for PostgresTypes {
    fn name(&self) -> &str {
        "postgres_types"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan, DataFusionError> {
        plan.transform_up_with_subqueries(resolve_node).data()
    }
}

fn resolve_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>, DataFusionError> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
    }
    let names = NamePreserver::new(&plan);
    plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let resolved = resolve(expr, &schema)?;
        Ok(Transformed::yes(name.restore(resolved)))
    })?
    .map_data(LogicalPlan::recompute_schema)
}

/// The expression with literals of Postgres' types.
pub(crate) fn resolve(expr: Expr, _schema: &DFSchema) -> Result<Expr, DataFusionError> {
    expr.transform_up(|expr| {
        Ok(match expr {
            Expr::Literal(ScalarValue::Utf8(s), metadata) => {
                Transformed::yes(Expr::Literal(ScalarValue::Utf8View(s), metadata))
            }
            Expr::Literal(ScalarValue::Int64(Some(n)), metadata) if i32::try_from(n).is_ok() => {
                Transformed::yes(Expr::Literal(ScalarValue::Int32(Some(n as i32)), metadata))
            }
            other => Transformed::no(other),
        })
    })
    .data()
}

/// Whether values of this type come to a client as they are.
pub(crate) fn is_canonical(data_type: &DataType) -> bool {
    millstream_types::SqlType::of_arrow(data_type).is_some_and(|t| t.arrow_type() == *data_type)
}
