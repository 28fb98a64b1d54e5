//! Scans of what workers keep, as of an epoch: only the columns that are wanted, and of blocks that lie in objects only those
//! that may have rows that are wanted.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt64Array, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, DFSchema, Result as DataFusionResult, ScalarValue, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use millstream_state::{ChunksAhead, Hold, Snapshot};
use millstream_types::Result;
use millstream_types::delta::values_bytes;

use crate::query_memory::scanned_bytes;
use crate::read::external;
use crate::staged::{KeyedRows, without};

/// How many chunks a scan has read, and how many it has not since they have no rows that are wanted.
pub(crate) const CHUNKS_READ: &str = "chunks_read";
pub(crate) const CHUNKS_PRUNED: &str = "chunks_pruned";

/// A relation's rows as of an epoch, one snapshot a worker, with what a transaction has written to it.
pub(crate) struct SnapshotTable {
    /// The columns; rows may have hidden ones behind them.
    pub(crate) schema: SchemaRef,
    pub(crate) snapshots: Vec<Snapshot>,
    /// Rows that a transaction has taken away.
    pub(crate) removed: Option<Arc<KeyedRows>>,
    /// Rows that it has added.
    pub(crate) added: Vec<RecordBatch>,
    pub(crate) holds: Arc<Vec<Hold>>,
}

impl fmt::Debug for SnapshotTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotTable").finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for SnapshotTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let columns = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let schema = Arc::new(self.schema.project(&columns)?);
        let mut parts = Vec::new();
        for snapshot in &self.snapshots {
            let kept = wanted_chunks(session, &self.schema, snapshot, filters)?;
            let n_pruned = (0..snapshot.n_chunks()).filter(|&chunk| snapshot.has_chunk(chunk)).count() - kept.len();
            parts.push(Part::Snapshot { snapshot: snapshot.clone(), n_pruned, kept });
        }
        if !self.added.is_empty() {
            parts.push(Part::Rows(self.added.clone()));
        }
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(parts.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        let scan = Scan { schema, columns, removed: self.removed.clone(), limit, _holds: Arc::clone(&self.holds) };
        Ok(Arc::new(SnapshotExec {
            scan: Arc::new(scan),
            parts,
            properties: Arc::new(properties.with_scheduling_type(SchedulingType::Cooperative)),
            metrics: ExecutionPlanMetricsSet::new(),
        }))
    }
}

/// Rows in pieces of no more than so many rows, and bytes.
pub(crate) fn slices(rows: &RecordBatch, n_rows_max: usize, n_bytes_max: usize) -> Vec<RecordBatch> {
    let n_rows = rows.num_rows();
    let n_pieces = values_bytes(rows).div_ceil(n_bytes_max).max(n_rows.div_ceil(n_rows_max)).clamp(1, n_rows.max(1));
    let n_rows_max = n_rows.div_ceil(n_pieces).max(1);
    (0..n_rows).step_by(n_rows_max).map(|from| rows.slice(from, n_rows_max.min(n_rows - from))).collect()
}

/// The chunks of a snapshot that may have rows that satisfy all filters.
fn wanted_chunks(
    session: &dyn Session,
    schema: &SchemaRef,
    snapshot: &Snapshot,
    filters: &[Expr],
) -> DataFusionResult<Vec<usize>> {
    let all: Vec<usize> = (0..snapshot.n_chunks()).filter(|&chunk| snapshot.has_chunk(chunk)).collect();
    // Blocks come first.
    let n_blocks = all.iter().take_while(|&&chunk| snapshot.statistics(chunk).is_some()).count();
    let Some(filter) = conjunction(filters.iter().cloned()).filter(|_| n_blocks > 0) else { return Ok(all) };
    let filter = session.create_physical_expr(filter, &DFSchema::try_from(schema.clone())?)?;
    let builder = PruningPredicateBuilder::new().with_file_schema(schema.clone());
    let Some(predicate) = builder.build(filter) else { return Ok(all) };
    let may_have = predicate.prune(&Blocks { schema, snapshot, n_blocks })?;
    Ok(all.into_iter().filter(|&chunk| may_have.get(chunk).copied().unwrap_or(true)).collect())
}

/// The blocks of a snapshot, as far as they are known.
struct Blocks<'a> {
    schema: &'a SchemaRef,
    snapshot: &'a Snapshot,
    n_blocks: usize,
}

impl Blocks<'_> {
    /// For each block one value.
    fn gather<'a>(
        &'a self,
        column: &Column,
        of: impl Fn(&'a millstream_state::ColumnStatistics) -> Option<&'a dyn Array>,
        data_type: &DataType,
    ) -> Option<ArrayRef> {
        let column = self.schema.index_of(&column.name).ok()?;
        let unknown = new_null_array(data_type, 1);
        let mut arrays: Vec<&dyn Array> = vec![&*unknown];
        let mut places = Vec::with_capacity(self.n_blocks);
        for block in 0..self.n_blocks {
            let (statistics, place) = self.snapshot.statistics(block)?;
            let Some(values) = of(statistics.columns.get(column)?) else {
                places.push((0, 0));
                continue;
            };
            // Blocks of an object lie next to each other.
            if !arrays.last().is_some_and(|last| std::ptr::addr_eq(*last, values)) {
                arrays.push(values);
            }
            places.push((arrays.len() - 1, place));
        }
        interleave(&arrays, &places).ok()
    }

    fn data_type(&self, column: &Column) -> Option<&DataType> {
        Some(self.schema.field_with_name(&column.name).ok()?.data_type())
    }
}

impl PruningStatistics for Blocks<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.gather(column, |statistics| Some(&*statistics.bounds.as_ref()?.0), self.data_type(column)?)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.gather(column, |statistics| Some(&*statistics.bounds.as_ref()?.1), self.data_type(column)?)
    }

    fn num_containers(&self) -> usize {
        self.n_blocks
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        self.gather(column, |statistics| Some(&statistics.n_nulls), &DataType::UInt64)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let n_rows = (0..self.n_blocks).map(|block| self.snapshot.n_rows_stored(block).map(|n| n as u64));
        Some(Arc::new(n_rows.collect::<UInt64Array>()))
    }

    fn contained(&self, _: &Column, _: &std::collections::HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

/// A scan of a table.
struct SnapshotExec {
    scan: Arc<Scan>,
    parts: Vec<Part>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

/// What is wanted of it.
struct Scan {
    schema: SchemaRef,
    /// The columns.
    columns: Vec<usize>,
    removed: Option<Arc<KeyedRows>>,
    limit: Option<usize>,
    _holds: Arc<Vec<Hold>>,
}

/// A part of the rows.
#[derive(Clone)]
enum Part {
    Snapshot {
        snapshot: Snapshot,
        n_pruned: usize,
        /// The chunks that are read.
        kept: Vec<usize>,
    },
    Rows(Vec<RecordBatch>),
}

impl Scan {
    /// The wanted columns of the first of some chunks.
    fn chunk(&self, snapshot: &Snapshot, chunks: &[usize], ahead: &mut ChunksAhead) -> Result<Option<RecordBatch>> {
        let [chunk, next @ ..] = chunks else { return Ok(None) };
        let next = next.iter().copied();
        let Some(removed) = &self.removed else {
            let rows = snapshot.chunk_before(*chunk, next, Some(&self.columns), ahead)?;
            return rows.map(|rows| self.named(rows.columns().to_vec(), rows.num_rows())).transpose();
        };
        // What tells rows apart need not be among what is wanted.
        let Some(rows) = snapshot.chunk_before(*chunk, next, None, ahead)? else { return Ok(None) };
        self.project(&without(&rows, removed)?).map(Some)
    }

    fn project(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.columns.iter().map(|&column| rows.column(column).clone()).collect();
        self.named(columns, rows.num_rows())
    }

    fn named(&self, columns: Vec<ArrayRef>, n_rows: usize) -> Result<RecordBatch> {
        millstream_expr::scalar::batch_of(self.schema.clone(), columns, n_rows)
    }
}

impl fmt::Debug for SnapshotExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotExec").finish_non_exhaustive()
    }
}

impl DisplayAs for SnapshotExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.scan.schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(f, "SnapshotExec: partitions={}, columns=[{}]", self.parts.len(), names.join(", "))?;
        self.scan.limit.map_or(Ok(()), |limit| write!(f, ", fetch={limit}"))
    }
}

impl ExecutionPlan for SnapshotExec {
    fn name(&self) -> &'static str {
        "SnapshotExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("a scan has no inputs") }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let counter = |name: &'static str| MetricBuilder::new(&self.metrics).counter(name, partition);
        let n_rows: Count = MetricBuilder::new(&self.metrics).output_rows(partition);
        let scan = Arc::clone(&self.scan);
        let schema = scan.schema.clone();
        let batches: Box<dyn Iterator<Item = Result<RecordBatch>> + Send> = match self.parts[partition].clone() {
            Part::Rows(rows) => Box::new(rows.into_iter().map(move |rows| scan.project(&rows))),
            Part::Snapshot { snapshot, n_pruned, kept } => {
                counter(CHUNKS_PRUNED).add(n_pruned);
                let n_read = counter(CHUNKS_READ);
                let mut ahead = ChunksAhead::default();
                Box::new((0..kept.len()).filter_map(move |i| {
                    n_read.add(1);
                    scan.chunk(&snapshot, &kept[i..], &mut ahead).transpose()
                }))
            }
        };
        let (n_rows_max, n_bytes_max) =
            (context.session_config().batch_size(), scanned_bytes(&**context.memory_pool()));
        let batches = batches.flat_map(move |rows| match rows {
            Ok(rows) => slices(&rows, n_rows_max, n_bytes_max).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        });
        let mut left = self.scan.limit.unwrap_or(usize::MAX);
        let batches = batches.map_while(move |rows| {
            if left == 0 {
                return None;
            }
            let rows = rows.map(|rows| rows.slice(0, rows.num_rows().min(left)));
            let n = rows.as_ref().map_or(0, RecordBatch::num_rows);
            n_rows.add(n);
            left -= n;
            Some(rows.map_err(external))
        });
        let stream = RecordBatchStreamAdapter::new(schema, futures::stream::iter(batches));
        Ok(make_cooperative(Box::pin(stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
