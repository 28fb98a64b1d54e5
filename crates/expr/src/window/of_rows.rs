//! Window functions that number or look up rows, as DataFusion evaluates them.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::{WindowFrame, WindowFunctionDefinition, WindowUDF};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_expr_common::sort_expr::PhysicalSortExpr;
use datafusion::physical_plan::windows::create_window_expr;
use millstream_types::Result;

use crate::order::OrderBy;
use crate::recomputed::Argument;
use crate::scalar::error_of;

/// A function that numbers or looks up the rows of a partition.
#[derive(Clone, Debug)]
pub struct RowFunction {
    /// The function.
    pub function: Arc<WindowUDF>,
    /// Its arguments.
    pub arguments: Vec<Argument>,
    /// The columns of the partition, which all rows that it is given have in common.
    pub partition_by: Vec<usize>,
    /// The order within the partition.
    pub order_by: Vec<OrderBy>,
    /// Where frames start and end, for functions that look at one.
    pub frame: Arc<WindowFrame>,
    /// Nulls are passed over.
    pub ignore_nulls: bool,
    /// The call as EXPLAIN shows it.
    pub shown_as: String,
}

impl RowFunction {
    pub(super) fn bind(&self, input: &SchemaRef) -> Result<Arc<dyn WindowExpr>> {
        let column = |c: usize| Argument::Column(c).expr(input);
        let arguments: Vec<Arc<dyn PhysicalExpr>> = self.arguments.iter().map(|a| a.expr(input)).collect();
        let partition_by: Vec<Arc<dyn PhysicalExpr>> = self.partition_by.iter().map(|&c| column(c)).collect();
        let order_by = self.order_by.iter().map(|o| PhysicalSortExpr { expr: column(o.column), options: o.options() });
        create_window_expr(
            &WindowFunctionDefinition::WindowUDF(Arc::clone(&self.function)),
            self.shown_as.clone(),
            &arguments,
            &partition_by,
            &order_by.collect::<Vec<_>>(),
            Arc::clone(&self.frame),
            input.clone(),
            self.ignore_nulls,
            false,
            None,
        )
        .map_err(error_of)
    }
}
