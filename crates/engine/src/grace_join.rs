//! A hash join of more than memory holds: a grace hash join (Kitsuregawa, Tanaka and Moto-Oka 1983).
//!
//! Rows of both inputs go to files by a hash of their keys; those of two files that belong together are then joined as they
//! would be in memory, one pair after the other. Each row of a result comes of rows with equal keys, or of a row that has no
//! partner, so that this gives what joining all at once does, whatever the kind of join. Where the build side of a pair is
//! too large, as when many rows have one key, it is taken block by block.
//!
//! Costs: each row is written once and read once, those of the probe side once for each block of the build side.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{JoinType, Result, internal_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryConsumer};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SpillFile, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::joins::{HashJoinExec, HashJoinExecBuilder, PartitionMode};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, SpillMetrics};
use datafusion::physical_plan::stream::{EmptyRecordBatchStream, RecordBatchReceiverStream, RecordBatchStreamAdapter};
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SpillManager};
use futures::StreamExt;
use tokio::sync::mpsc::Sender;

use crate::own_rows::own_rows;
use crate::query_memory::{is_out_of_memory, reserve_share, task_context};

/// Files of each input: a build side of that many times the memory fits, pair by pair.
const N_PAIRS: usize = 64;
/// Rows are sent to files by other bits than a hash table takes.
const SEED: u64 = 0x6772_6163;
/// Batches between the join and who takes its rows.
const N_BATCHES_QUEUED: usize = 2;

/// A hash join of inputs of one partition each, in pairs on disk.
pub(crate) struct GraceJoin {
    /// What is done with each pair; its own inputs are not read.
    join: Arc<HashJoinExec>,
    /// Whether it is NOT IN: there are no rows if the right side has a null, and none with a null if it has anything.
    is_null_aware: bool,
    inputs: [Arc<dyn ExecutionPlan>; 2],
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl GraceJoin {
    /// The join that gives the rows of another one, in no order.
    ///
    /// # Errors
    /// None that a plan can cause.
    pub(crate) fn new(join: &HashJoinExec, inputs: [Arc<dyn ExecutionPlan>; 2]) -> Result<Self> {
        let inputs = inputs.map(own_rows);
        let builder = HashJoinExecBuilder::from(join).with_fetch(None).with_partition_mode(PartitionMode::CollectLeft);
        let of_pairs = builder.with_null_aware(false).reset_state().with_new_children(inputs.to_vec())?.build()?;
        Ok(GraceJoin::of(Arc::new(of_pairs), join.null_aware, inputs))
    }

    fn of(join: Arc<HashJoinExec>, is_null_aware: bool, inputs: [Arc<dyn ExecutionPlan>; 2]) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(join.schema()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        let metrics = ExecutionPlanMetricsSet::new();
        GraceJoin { join, is_null_aware, inputs, properties: Arc::new(properties), metrics }
    }
}

impl fmt::Debug for GraceJoin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraceJoin").field("join", &self.join).finish_non_exhaustive()
    }
}

impl DisplayAs for GraceJoin {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on: Vec<String> = self.join.on().iter().map(|(left, right)| format!("({left}, {right})")).collect();
        write!(f, "GraceJoinExec: join_type={:?}, on=[{}]", self.join.join_type(), on.join(", "))?;
        match self.join.filter() {
            Some(filter) => write!(f, ", filter={}", filter.expression()),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for GraceJoin {
    fn name(&self) -> &'static str {
        "GraceJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.join.apply_expressions(f)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 2]>::try_from(children) {
            Ok(inputs) => Ok(Arc::new(GraceJoin::of(Arc::clone(&self.join), self.is_null_aware, inputs))),
            Err(_) => internal_err!("a join of two inputs"),
        }
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        // Who shares the memory is known before anybody takes some.
        let memory = MemoryConsumer::new("GraceJoin").with_can_spill(true).register(context.memory_pool());
        let metrics = SpillMetrics::new(&self.metrics, partition);
        let side = |input: &Arc<dyn ExecutionPlan>| -> Result<_> {
            let spill = SpillManager::new(context.runtime_env(), metrics.clone(), input.schema());
            Ok((input.execute(partition, Arc::clone(&context))?, spill))
        };
        let [left, right] = &self.inputs;
        let (left, right) = (side(left)?, side(right)?);
        let (join, is_null_aware) = (Arc::clone(&self.join), self.is_null_aware);
        let n_rows = MetricBuilder::new(&self.metrics).output_rows(partition);
        let mut rows = RecordBatchReceiverStream::builder(self.schema(), N_BATCHES_QUEUED);
        let send = rows.tx();
        rows.spawn(async move {
            // A copy of what has been gathered is made when it is written, and when it is built of.
            let n_bytes_max = reserve_share(&memory, &**context.memory_pool())? / 2;
            let n_rows_max = context.session_config().batch_size();
            let (left_keys, right_keys) = join.on().iter().cloned().unzip();
            let mut left_rows = Gathered::new(left_keys);
            let mut right_rows = Gathered::new(right_keys);
            let right = divided(right.0, right.1, &mut right_rows, (n_bytes_max, n_rows_max)).await?;
            if is_null_aware && right_rows.n_rows > 0 {
                if right_rows.n_nulls > 0 {
                    // Of no value is it known that it is not in them.
                    return Ok(());
                }
                left_rows.are_nulls_left_out = true;
            }
            let left = divided(left.0, left.1, &mut left_rows, (n_bytes_max, n_rows_max)).await?;
            let pairs = Pairs { join, context: with_memory(&context, n_bytes_max), n_bytes_max, n_rows, send };
            for (left, right) in left.into_iter().zip(right) {
                if !pairs.join(&left, &right).await? {
                    break;
                }
            }
            Ok(())
        });
        Ok(rows.build())
    }
}

/// The same context, with so much memory of its own.
fn with_memory(context: &TaskContext, n_bytes: usize) -> Arc<TaskContext> {
    let pool = Arc::new(GreedyMemoryPool::new(n_bytes));
    let memory = RuntimeEnv { memory_pool: pool, ..(*context.runtime_env()).clone() };
    Arc::new(task_context(context.session_config().clone(), Arc::new(memory)))
}

/// Rows on disk, or none.
#[derive(Clone)]
struct SpilledRows {
    spill: SpillManager,
    file: Option<Arc<dyn SpillFile>>,
}

impl SpilledRows {
    fn read(&self) -> Result<SendableRecordBatchStream> {
        let schema = Arc::clone(self.spill.schema());
        let Some(file) = &self.file else { return Ok(Box::pin(EmptyRecordBatchStream::new(schema))) };
        let Some(path) = file.path() else {
            return self.spill.read_spill_as_stream_unbuffered(Arc::clone(file), None);
        };
        // Batches are small, and mostly in the system's cache: to have another thread read each takes longer than reading.
        let batches = StreamReader::try_new_buffered(File::open(path)?, None)?;
        let batches = futures::stream::iter(batches.map(|batch| batch.map_err(DataFusionError::from)));
        Ok(make_cooperative(Box::pin(RecordBatchStreamAdapter::new(schema, batches))))
    }

    fn source(&self) -> Result<Arc<dyn ExecutionPlan>> {
        let rows: Arc<dyn PartitionStream> = Arc::new(self.clone());
        let schema = Arc::clone(self.spill.schema());
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![rows], None, [], false, None)?))
    }
}

impl fmt::Debug for SpilledRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpilledRows")
    }
}

impl PartitionStream for SpilledRows {
    fn schema(&self) -> &SchemaRef {
        self.spill.schema()
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        self.read().unwrap_or_else(|error| {
            let error = futures::stream::iter([Err(error)]);
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(self.spill.schema()), error))
        })
    }
}

/// All rows of an input, in one file for each pair; so many bytes are gathered before they are written, in batches of so many
/// rows.
async fn divided(
    mut rows: SendableRecordBatchStream,
    spill: SpillManager,
    gathered: &mut Gathered,
    (n_bytes_max, n_rows_max): (usize, usize),
) -> Result<Vec<SpilledRows>> {
    let mut files: Vec<Option<_>> = (0..N_PAIRS).map(|_| None).collect();
    let mut is_at_end = false;
    while !is_at_end {
        match rows.next().await {
            Some(batch) => gathered.push(batch?)?,
            None => is_at_end = true,
        }
        if is_at_end || gathered.n_bytes >= n_bytes_max {
            for (pair, batch) in gathered.drain(n_rows_max) {
                let file = match &mut files[pair] {
                    Some(file) => file,
                    none => none.insert(spill.create_in_progress_file("a join")?),
                };
                file.append_batch(&batch?)?;
            }
        }
    }
    let finished = files.into_iter().map(|file| {
        let file = file.map(|mut file| file.finish()).transpose()?.flatten();
        Ok(SpilledRows { spill: spill.clone(), file })
    });
    finished.collect()
}

/// Rows that are on their way to files.
struct Gathered {
    keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Whether rows whose first key is null do not go anywhere.
    are_nulls_left_out: bool,
    /// Rows that came, and those of them whose first key is null.
    n_rows: usize,
    n_nulls: usize,
    batches: Vec<RecordBatch>,
    n_bytes: usize,
    /// For each pair its rows: of which batch, and which of its rows.
    places: Vec<Vec<(usize, usize)>>,
    hashes: Vec<u64>,
}

impl Gathered {
    fn new(keys: Vec<Arc<dyn PhysicalExpr>>) -> Self {
        let places = (0..N_PAIRS).map(|_| vec![]).collect();
        let (batches, hashes) = (vec![], vec![]);
        Gathered { keys, are_nulls_left_out: false, n_rows: 0, n_nulls: 0, batches, n_bytes: 0, places, hashes }
    }

    fn push(&mut self, batch: RecordBatch) -> Result<()> {
        let n_rows = batch.num_rows();
        let keys = self.keys.iter().map(|key| key.evaluate(&batch)?.into_array(n_rows)).collect::<Result<Vec<_>>>()?;
        self.hashes.clear();
        self.hashes.resize(n_rows, 0);
        create_hashes(&keys, &RandomState::with_seed(SEED), &mut self.hashes)?;
        let nulls = keys.first().and_then(|key| key.logical_nulls());
        self.n_rows += n_rows;
        self.n_nulls += nulls.as_ref().map_or(0, |nulls| nulls.null_count());
        let left_out = nulls.filter(|_| self.are_nulls_left_out);
        for (row, hash) in self.hashes.iter().enumerate() {
            if left_out.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            self.places[*hash as usize % N_PAIRS].push((self.batches.len(), row));
        }
        self.n_bytes += batch.get_array_memory_size() + n_rows * size_of::<(usize, usize)>();
        self.batches.push(batch);
        Ok(())
    }

    /// All rows, with the pair that they belong to, in batches of so many.
    fn drain(&mut self, n_rows_max: usize) -> impl Iterator<Item = (usize, Result<RecordBatch>)> {
        let batches = std::mem::take(&mut self.batches);
        self.n_bytes = 0;
        let places = self.places.iter_mut().map(std::mem::take).enumerate();
        places.flat_map(move |(pair, places)| {
            let of_pair = |places: &[(usize, usize)]| {
                let batches: Vec<&RecordBatch> = batches.iter().collect();
                (pair, interleave_record_batch(&batches, places).map_err(DataFusionError::from))
            };
            places.chunks(n_rows_max).map(of_pair).collect::<Vec<_>>()
        })
    }
}

/// Joins what belongs together.
struct Pairs {
    join: Arc<HashJoinExec>,
    context: Arc<TaskContext>,
    /// Memory that a build side may take.
    n_bytes_max: usize,
    /// Rows that were given.
    n_rows: Count,
    send: Sender<Result<RecordBatch>>,
}

impl Pairs {
    /// Gives the rows of a pair; false if nobody wants more.
    async fn join(&self, left: &SpilledRows, right: &SpilledRows) -> Result<bool> {
        if left.file.is_none() && right.file.is_none() {
            return Ok(true);
        }
        let mut rows = self.of(left.source()?, right.source()?)?.execute(0, Arc::clone(&self.context))?;
        match rows.next().await {
            // A build side comes before all rows.
            Some(Err(error)) if is_out_of_memory(&error) => {
                drop(rows);
                self.join_in_blocks(left, right, error).await
            }
            None => Ok(true),
            Some(first) => Ok(self.give(first?).await && self.pass_on(rows).await?),
        }
    }

    fn of(&self, left: Arc<dyn ExecutionPlan>, right: Arc<dyn ExecutionPlan>) -> Result<HashJoinExec> {
        HashJoinExecBuilder::from(&*self.join).reset_state().with_new_children(vec![left, right])?.build()
    }

    async fn pass_on(&self, mut rows: SendableRecordBatchStream) -> Result<bool> {
        while let Some(batch) = rows.next().await {
            if !self.give(batch?).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether more are wanted.
    async fn give(&self, rows: RecordBatch) -> bool {
        self.n_rows.add(rows.num_rows());
        self.send.send(Ok(rows)).await.is_ok()
    }

    /// As [`Pairs::join`], for a build side of which no more than a block is in memory at a time: that of which each row's
    /// part of the result follows from the row and the whole other side.
    async fn join_in_blocks(&self, left: &SpilledRows, right: &SpilledRows, error: DataFusionError) -> Result<bool> {
        let (build, probe, is_swapped) = match self.join.join_type() {
            JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {
                (left, right, false)
            }
            JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => (right, left, true),
            // Each side's rows have to be known to be without a partner.
            JoinType::Full => return Err(error),
        };
        let mut rows = build.read()?;
        let mut block = Block::default();
        let mut is_at_end = false;
        while !is_at_end {
            match rows.next().await {
                Some(batch) => block.push(batch?),
                None => is_at_end = true,
            }
            if !block.batches.is_empty() && (is_at_end || block.n_bytes >= self.n_bytes_max / 4) {
                let batches = std::mem::take(&mut block).batches;
                let build = MemorySourceConfig::try_new_exec(&[batches], Arc::clone(build.spill.schema()), None)?;
                let plan: Arc<dyn ExecutionPlan> = if is_swapped {
                    self.of(probe.source()?, build)?.swap_inputs(PartitionMode::CollectLeft)?
                } else {
                    Arc::new(self.of(build, probe.source()?)?)
                };
                if !self.pass_on(plan.execute(0, Arc::clone(&self.context))?).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// Rows of a build side.
#[derive(Default)]
struct Block {
    batches: Vec<RecordBatch>,
    n_bytes: usize,
}

impl Block {
    fn push(&mut self, batch: RecordBatch) {
        self.n_bytes += batch.get_array_memory_size();
        self.batches.push(batch);
    }
}
