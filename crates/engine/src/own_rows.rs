//! Rows that keep nothing in memory but what they are, in batches of no more than is wanted, for operators that gather many.
//!
//! A batch of a table, or of an operator, may be a part of a larger one, and shares the memory in which all of that lies. Whoever
//! takes it in reserves all that it keeps alive, and once more for each batch that shares the same: a sort does so for those that
//! it cuts one into.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericByteViewArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{ByteViewType, DataType};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;

use crate::query_memory::scanned_bytes;
use crate::scan::slices;

/// A plan whose batches share nothing.
pub(crate) fn own_rows(input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    Arc::new(OwnRows { input })
}

/// Bytes that are not worth a copy.
const SHARED_BYTES_MIN: usize = 1 << 10;

fn owning(rows: &RecordBatch) -> Result<RecordBatch> {
    let columns = rows.columns().iter().map(|column| -> Result<ArrayRef> {
        Ok(match column.data_type() {
            DataType::Utf8View if shares_texts(column.as_string_view()) => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView if shares_texts(column.as_binary_view()) => Arc::new(column.as_binary_view().gc()),
            DataType::Utf8View | DataType::BinaryView => Arc::clone(column),
            _ if shares_values(column) => take(column, &UInt32Array::from_iter_values(0..column.len() as u32), None)?,
            _ => Arc::clone(column),
        })
    });
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(rows.schema(), columns.collect::<Result<_>>()?, &options)?)
}

/// Whether a column keeps more alive than it has, counted as who reserves memory for it does: each buffer as all of that
/// which it is a part of.
fn shares_texts<T: ByteViewType>(views: &GenericByteViewArray<T>) -> bool {
    let texts: usize = views.data_buffers().iter().map(|buffer| buffer.capacity()).sum();
    let kept = texts + views.views().inner().capacity();
    let has = views.total_buffer_bytes_used() + views.len() * size_of::<u128>();
    kept > has / 2 * 3 + SHARED_BYTES_MIN
}

fn shares_values(column: &ArrayRef) -> bool {
    let has = column.to_data().get_slice_memory_size().unwrap_or(usize::MAX);
    column.get_buffer_memory_size() > has.saturating_mul(2).saturating_add(SHARED_BYTES_MIN)
}

/// The rows of its input, in batches that share nothing.
struct OwnRows {
    input: Arc<dyn ExecutionPlan>,
}

impl fmt::Debug for OwnRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnRows").finish_non_exhaustive()
    }
}

impl DisplayAs for OwnRows {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnRowsExec")
    }
}

impl ExecutionPlan for OwnRows {
    fn name(&self) -> &'static str {
        "OwnRowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
            (Some(input), None) => Ok(Arc::new(OwnRows { input })),
            _ => internal_err!("rows of one input"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (n_rows_max, n_bytes_max) =
            (context.session_config().batch_size(), scanned_bytes(&**context.memory_pool()));
        let rows = self.input.execute(partition, context)?;
        let schema = rows.schema();
        let owning = move |rows: Result<RecordBatch>| {
            futures::stream::iter(match rows {
                Ok(rows) => slices(&rows, n_rows_max, n_bytes_max).iter().map(owning).collect(),
                Err(error) => vec![Err(error)],
            })
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows.flat_map(owning))))
    }
}
