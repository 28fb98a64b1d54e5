//! How a plan of tables is executed: its physical plan, and the memory that it may take.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::prelude::SessionConfig;
use futures::StreamExt;
use millstream_planner::errors::{from_datafusion, from_physical_planning};
use millstream_planner::session_context;
use millstream_types::Result;

use crate::engine::EngineState;
use crate::frugal::frugal;
use crate::frugal_memory::SharedOut;
use crate::nested_loops::right_nested_loops;
use crate::own_rows::own_rows;
use crate::query_memory::{RowBytes, fitting, is_out_of_memory, reserve_for_query, task_context, until_let_go};

/// What queries may take.
pub(crate) struct QueryMemory {
    runtime: Arc<RuntimeEnv>,
    /// Whether queries are taken for such that need more from the start.
    is_short: bool,
}

impl QueryMemory {
    pub(crate) fn of(engine: &EngineState) -> Self {
        QueryMemory { runtime: Arc::clone(&engine.query_memory), is_short: engine.config.memory.spill_from == 0 }
    }
}

/// A plan that runs, and its rows.
type Started = (Arc<dyn ExecutionPlan>, SendableRecordBatchStream);

/// The physical plan of a plan of tables, and its rows. One that has not enough memory for its first row is run anew as one
/// that needs little.
pub(crate) async fn start(plan: LogicalPlan, memory: QueryMemory) -> Result<Started> {
    let QueryMemory { runtime, is_short } = memory;
    let can_spill = runtime.disk_manager.tmp_files_enabled();
    if !(is_short && can_spill) {
        let state = session_context::session_state_for(&plan)?;
        let config = fitting(state.config().clone(), &*runtime.memory_pool, RowBytes::Usual);
        let (physical, rows) = start_physical(physical_plan(&plan, state).await?, config, Arc::clone(&runtime))?;
        // Whoever takes what follows the first row asks once more after the end of no rows.
        let mut rows = rows.fuse();
        let mut first = rows.next().await;
        while matches!(&first, Some(Ok(batch)) if batch.num_rows() == 0) {
            first = rows.next().await;
        }
        if !matches!(&first, Some(Err(error)) if can_spill && is_out_of_memory(error)) {
            let rows = RecordBatchStreamAdapter::new(physical.schema(), futures::stream::iter(first).chain(rows));
            return Ok((physical, Box::pin(rows)));
        }
        drop(rows);
        until_let_go(&*runtime.memory_pool).await;
    }
    start_frugal(&plan, &runtime).await
}

async fn start_frugal(plan: &LogicalPlan, runtime: &RuntimeEnv) -> Result<Started> {
    let state = session_context::frugal_session_state();
    let physical = frugal(physical_plan(plan, state).await?).map_err(from_physical_planning)?;
    let memory = MemoryConsumer::new("query").register(&runtime.memory_pool);
    let n_bytes = reserve_for_query(&memory, &*runtime.memory_pool).await.map_err(from_datafusion)?;
    let pool = Arc::new(SharedOut::new(n_bytes));
    let config = fitting(state.config().clone(), &*pool, RowBytes::Many);
    let runtime = Arc::new(RuntimeEnv { memory_pool: pool, ..runtime.clone() });
    let (physical, rows) = start_physical(physical, config, runtime)?;
    let rows = rows.inspect(move |_| {
        let _held_as_long_as_the_rows = &memory;
    });
    let rows = RecordBatchStreamAdapter::new(physical.schema(), rows);
    Ok((physical, Box::pin(rows)))
}

async fn physical_plan(plan: &LogicalPlan, state: &SessionState) -> Result<Arc<dyn ExecutionPlan>> {
    state.query_planner().create_physical_plan(plan, state).await.map_err(from_physical_planning)
}

/// Starts a plan under the options that it was made for.
fn start_physical(plan: Arc<dyn ExecutionPlan>, config: SessionConfig, memory: Arc<RuntimeEnv>) -> Result<Started> {
    let context = Arc::new(task_context(config, memory));
    let plan = sorting_own_rows(cooperative(right_nested_loops(plan, &context).map_err(from_datafusion)?)?)?;
    let rows = datafusion::physical_plan::execute_stream(Arc::clone(&plan), context).map_err(from_datafusion)?;
    Ok((plan, rows))
}

/// A plan that lets other queries have its thread after some batches.
///
/// DataFusion's own plans do so when they take a batch from a table; what makes many rows of a few would not for long.
fn cooperative(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    const MULTIPLYING: [&str; 4] = ["CrossJoinExec", "NestedLoopJoinExec", "HashJoinExec", "UnnestExec"];
    let wrapped = plan.transform_up(|node| {
        if MULTIPLYING.contains(&node.name()) {
            return Ok(Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>));
        }
        Ok(Transformed::no(node))
    });
    wrapped.map(|wrapped| wrapped.data).map_err(from_datafusion)
}

/// A plan whose sorts take and give rows that keep nothing else in memory.
fn sorting_own_rows(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let changed = plan.transform_up(|node| {
        if node.name() != "SortExec" {
            return Ok(Transformed::no(node));
        }
        let inputs: Vec<_> = node.children().into_iter().map(|input| own_rows(Arc::clone(input))).collect();
        // What it gives has parts of all that it has in memory.
        Ok(Transformed::yes(own_rows(replace_children_if_necessary(node, inputs)?)))
    });
    changed.map(|changed| changed.data).map_err(from_datafusion)
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;

    use super::*;

    /// Two inputs that spill at once on the way to two outputs wait for nobody.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rows_that_are_repartitioned_on_disk_arrive() {
        use arrow::array::Int64Array;
        use datafusion::datasource::memory::MemorySourceConfig;
        use datafusion::execution::runtime_env::RuntimeEnvBuilder;
        use datafusion::physical_expr::Partitioning;
        use datafusion::physical_expr::expressions::col;
        use datafusion::physical_plan::repartition::RepartitionExec;
        use millstream_types::delta::schema_of;

        let schema = schema_of(&[("i", arrow::datatypes::DataType::Int64)]);
        let batch = |from: i64| {
            let values: Int64Array = (from..from + 500).map(Some).collect();
            RecordBatch::try_new(schema.clone(), vec![Arc::new(values)]).expect("one column")
        };
        let input: Vec<RecordBatch> = (0..200).map(|i| batch(i * 500)).collect();
        let source = MemorySourceConfig::try_new_exec(&[input.clone(), input], schema.clone(), None).expect("a source");
        let by = Partitioning::Hash(vec![col("i", &schema).expect("its column")], 2);
        for _ in 0..10 {
            let plan = Arc::new(RepartitionExec::try_new(source.clone(), by.clone()).expect("a plan"));
            let memory = RuntimeEnvBuilder::new().with_memory_limit(1, 1.0).build_arc().expect("little memory");
            let config = fitting(SessionConfig::new(), &*memory.memory_pool, RowBytes::Usual);
            let context = Arc::new(task_context(config, memory));
            let collected = datafusion::physical_plan::collect_partitioned(plan, context);
            let rows = tokio::time::timeout(std::time::Duration::from_secs(60), collected).await;
            let rows = rows.expect("it goes on").expect("there is room on disk");
            assert_eq!(rows.iter().flatten().map(RecordBatch::num_rows).sum::<usize>(), 200_000);
        }
    }
}
