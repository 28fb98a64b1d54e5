//! Reading at one epoch: the relations of a plan as DataFusion tables, and the plan's execution.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::datasource::{MemTable, TableProvider, provider_as_source};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::StreamExt;
use futures::stream::BoxStream;
use hashbrown::HashMap;
use millstream_planner::access::KeyLookup;
use millstream_planner::catalog::{Kind, Relation};
use millstream_planner::dml::RowsSource;
use millstream_planner::errors::from_datafusion;
use millstream_planner::{RelationId, RelationSource};
use millstream_runtime::{Source, Workers};
use millstream_state::{Hold, Snapshot};
use millstream_types::{Epoch, Error, Result};

use crate::engine::{EngineState, Sabotage};
use crate::execution::{self, QueryMemory};
use crate::live::{Body, LiveRelation};
use crate::lookup::find;
use crate::scan::SnapshotTable;
use crate::staged::{KeyedRows, without};
use crate::transaction::Transaction;

/// Offsets of a source that are read at once.
const PIECE_OFFSETS: u64 = 1 << 13;
/// Batches between an executing query and whoever takes its rows.
const N_BATCHES_QUEUED: usize = 2;

/// Relations held as of one epoch, each complete.
pub(crate) struct ReadPoint {
    pub(crate) epoch: Epoch,
    relations: HashMap<RelationId, Arc<LiveRelation>>,
    holds: Vec<Hold>,
    /// What a transaction sees beside the rows of the epoch.
    own: HashMap<RelationId, OwnWrites>,
}

/// What a transaction has written to a relation and not committed.
pub(crate) struct OwnWrites {
    /// Rows of the epoch that it has taken away, indexed.
    pub(crate) removed: Arc<KeyedRows>,
    /// Rows that it has added, all columns.
    pub(crate) added: Vec<RecordBatch>,
}

impl ReadPoint {
    /// Takes the last closed epoch for the relations, and waits until they, and nothing else, have completed it.
    pub(crate) async fn now(engine: &EngineState, ids: &[RelationId]) -> Result<ReadPoint> {
        if engine.config.sabotage == Some(Sabotage::StaleReads) {
            return ReadPoint::stale(engine, ids).await;
        }
        engine.clock.until_all_seen().await;
        let mut point = ReadPoint::hold(engine, ids)?;
        while let Some(live) = point.relations.values().find(|live| live.is_coming_back()).cloned() {
            // It comes back as of a later epoch.
            drop(point);
            live.back().await?;
            point = ReadPoint::hold(engine, ids)?;
        }
        for live in point.relations.values() {
            live.completed(point.epoch).await?;
        }
        Ok(point)
    }

    /// Relations that are held as of an epoch and have completed it, with what a transaction has written to them.
    pub(crate) fn new(
        epoch: Epoch,
        relations: HashMap<RelationId, Arc<LiveRelation>>,
        holds: Vec<Hold>,
        own: HashMap<RelationId, OwnWrites>,
    ) -> Self {
        ReadPoint { epoch, relations, holds, own }
    }

    /// An epoch that was the last one some reads ago.
    async fn stale(engine: &EngineState, ids: &[RelationId]) -> Result<ReadPoint> {
        const READS_MAX: usize = 10;
        let mut stale = engine.stale.lock().await;
        if stale.as_ref().is_none_or(|(_, n_reads)| *n_reads == READS_MAX) {
            *stale = Some((Transaction::begin(engine, None)?, 0));
        }
        let Some((transaction, n_reads)) = stale.as_mut() else { return Err(Error::internal("just begun")) };
        *n_reads += 1;
        transaction.point(engine, ids).await
    }

    fn hold(engine: &EngineState, ids: &[RelationId]) -> Result<ReadPoint> {
        let mut relations = HashMap::new();
        for &id in ids {
            let live = engine.clock.relation(id);
            let dropped = || Error::user(millstream_types::SqlState::UNDEFINED_TABLE, "a relation was dropped");
            relations.insert(id, live.ok_or_else(dropped)?);
        }
        // Compaction may pass an epoch between reading the clock and holding; then a newer one will do as well.
        loop {
            let epoch = engine.clock.last_closed();
            let holds = relations.values().map(|live| live.shared.holds.acquire(epoch)).collect::<Result<Vec<_>, _>>();
            if let Ok(holds) = holds {
                return Ok(ReadPoint { epoch, relations, holds, own: HashMap::new() });
            }
        }
    }

    /// The rows of a relation, one snapshot a worker.
    pub(crate) fn snapshots(&self, id: RelationId) -> Vec<Snapshot> {
        self.relations[&id].shared.readers().iter().map(|reader| reader.snapshot(self.epoch)).collect()
    }

    /// The rows that a lookup found, with what a transaction has written on top: all its new rows, whatever their keys.
    pub(crate) fn with_own(&self, id: RelationId, found: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let Some(own) = self.own.get(&id) else { return Ok(found) };
        let kept = found.iter().map(|batch| without(batch, &own.removed));
        kept.chain(own.added.iter().cloned().map(Ok)).collect()
    }

    /// The rows that a lookup asks for; `None` if they are better found by reading the relation.
    pub(crate) async fn find(&self, workers: &Workers, lookup: &KeyLookup) -> Result<Option<Vec<RecordBatch>>> {
        let id = lookup.relation.id;
        let Some(live) = self.relations.get(&id) else { return self.with_own(id, vec![]).map(Some) };
        // A relation that was dropped meanwhile says so itself.
        let found = find(workers, lookup, self.epoch).await.or_else(|error| live.check().and(Err(error)))?;
        found.map(|found| self.with_own(id, found)).transpose()
    }

    /// A table of a relation's rows under the schema of a scan.
    fn table(&self, id: RelationId, schema: &SchemaRef) -> Result<Arc<dyn TableProvider>> {
        let Some(live) = self.relations.get(&id) else {
            // A relation that the transaction itself makes has no rows but its own.
            return table_of(schema, self.with_own(id, vec![])?);
        };
        if let Body::Source { source, .. } = &live.body {
            let (source, offsets) = (Arc::clone(source), 0..live.position(self.epoch));
            let rows = Arc::new(SourceStream { schema: schema.clone(), source, offsets });
            return Ok(Arc::new(StreamingTable::try_new(schema.clone(), vec![rows]).map_err(from_datafusion)?));
        }
        let own = self.own.get(&id);
        Ok(Arc::new(SnapshotTable {
            schema: schema.clone(),
            snapshots: self.snapshots(id),
            removed: own.map(|own| Arc::clone(&own.removed)),
            added: own.map(|own| own.added.clone()).unwrap_or_default(),
            holds: Arc::new(self.holds.clone()),
        }))
    }
}

/// A table of batches of a relation.
fn table_of(schema: &SchemaRef, batches: Vec<RecordBatch>) -> Result<Arc<dyn TableProvider>> {
    let rows: Arc<dyn PartitionStream> = Arc::new(BatchStream { schema: schema.clone(), batches });
    Ok(Arc::new(StreamingTable::try_new(schema.clone(), vec![rows]).map_err(from_datafusion)?))
}

/// The relations that a plan scans, subqueries included, each once.
pub(crate) fn scanned(plan: &LogicalPlan) -> Result<Vec<Arc<Relation>>> {
    let mut relations: Vec<Arc<Relation>> = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(source) = RelationSource::of(&scan.source)
            && relations.iter().all(|r| r.id != source.id())
        {
            relations.push(Arc::clone(source.relation()));
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(from_datafusion)?;
    Ok(relations)
}

/// Runs an optimized plan at one epoch, on the query threads.
pub(crate) async fn execute(
    engine: &Arc<EngineState>,
    plan: LogicalPlan,
) -> Result<(Epoch, BoxStream<'static, Result<RecordBatch>>)> {
    let point = ReadPoint::now(engine, &stored_relations(&plan)?).await?;
    let epoch = point.epoch;
    Ok((epoch, execute_at(engine, plan, &point).await?))
}

/// As [`execute`], at a point that the caller has taken.
pub(crate) async fn execute_at(
    engine: &Arc<EngineState>,
    plan: LogicalPlan,
    point: &ReadPoint,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    settled(engine, &plan).await?;
    let found = find_by_key(engine, &plan, point).await?;
    Ok(run_plan(engine, with_tables(engine, plan, point, &found, None)?))
}

/// Lookups with what they found.
type Found = Vec<(KeyLookup, Vec<RecordBatch>)>;

/// Waits, if a plan reads which rows have failed, until all that was written before has gone through the dataflows that
/// follow their inputs.
async fn settled(engine: &EngineState, plan: &LogicalPlan) -> Result<()> {
    if !scanned(plan)?.iter().any(|r| r.kind == Kind::System && r.name == "row_errors") {
        return Ok(());
    }
    let epoch = engine.clock.last_closed();
    let relations: Vec<Arc<LiveRelation>> = engine.clock.relations.read().values().cloned().collect();
    let says_more = |live: &&Arc<LiveRelation>| matches!(live.body, Body::Dataflow { .. }) && !live.is_coming_back();
    for live in relations.iter().filter(says_more) {
        // One that has failed, or catches up, says what it knows.
        let _ = live.completed(epoch).await;
    }
    Ok(())
}

/// Looks up what a plan's scans need not read a whole relation for.
async fn find_by_key(engine: &Arc<EngineState>, plan: &LogicalPlan, point: &ReadPoint) -> Result<Found> {
    let mut lookups: Vec<KeyLookup> = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(lookup) = KeyLookup::of_scan(scan).map_err(external)?
            && !lookups.contains(&lookup)
        {
            lookups.push(lookup);
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(from_datafusion)?;
    let mut found = Found::new();
    for lookup in lookups {
        if let Some(rows) = point.find(&engine.workers, &lookup).await? {
            found.push((lookup, rows));
        }
    }
    Ok(found)
}

pub(crate) fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Rows that a plan scans in place of a relation.
pub(crate) struct RowsAtHand(pub(crate) RecordBatch);

/// Runs an optimized plan over rows at hand, and any relations at a point.
pub(crate) fn execute_over(
    engine: &Arc<EngineState>,
    plan: LogicalPlan,
    rows: &RowsAtHand,
    point: &ReadPoint,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    Ok(run_plan(engine, with_tables(engine, plan, point, &vec![], Some(rows))?))
}

/// The relations that a plan scans whose rows are not the engine's own state.
pub(crate) fn stored_relations(plan: &LogicalPlan) -> Result<Vec<RelationId>> {
    Ok(scanned(plan)?.iter().filter(|r| r.kind != Kind::System).map(|r| r.id).collect())
}

/// Starts a plan of tables on the query threads.
fn run_plan(engine: &Arc<EngineState>, plan: LogicalPlan) -> BoxStream<'static, Result<RecordBatch>> {
    let (send, receive) = tokio::sync::mpsc::channel(N_BATCHES_QUEUED);
    let memory = QueryMemory::of(engine);
    let task = engine.query_runtime().spawn(async move {
        let outcome = run(plan, memory, &send).await;
        if let Err(error) = outcome {
            // Whoever wanted the rows may be gone.
            let _ = send.send(Err(error)).await;
        }
    });
    Running { receive, task: Some(AbortOnDrop(task)) }.batches()
}

/// A plan that runs.
struct Running {
    receive: tokio::sync::mpsc::Receiver<Result<RecordBatch>>,
    /// Until it has ended.
    task: Option<AbortOnDrop<()>>,
}

impl Running {
    fn batches(self) -> BoxStream<'static, Result<RecordBatch>> {
        futures::stream::unfold(self, |mut running| async move { running.next().await.map(|batch| (batch, running)) })
            .boxed()
    }

    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        if let Some(batch) = self.receive.recv().await {
            return Some(batch);
        }
        // A panic ends the rows as their end does.
        let mut task = self.task.take()?;
        (&mut task.0).await.err().map(|error| Err(panicked(error)))
    }
}

/// What a query says whose task ended without a word.
fn panicked(error: tokio::task::JoinError) -> Error {
    let error = match error.try_into_panic() {
        Ok(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Error::internal(format!("a query has panicked: {text}"))
        }
        Err(error) => Error::internal(format!("a query was cut off: {error}")),
    };
    tracing::error!(%error, "a query has failed");
    error
}

/// Stops a query when nobody wants its rows any more.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run(
    plan: LogicalPlan,
    memory: QueryMemory,
    send: &tokio::sync::mpsc::Sender<Result<RecordBatch>>,
) -> Result<()> {
    let (_, mut rows) = execution::start(plan, memory).await?;
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(from_datafusion)?;
        if batch.num_rows() > 0 && send.send(Ok(batch)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// What an optimized plan did that was run to its end at a point: its physical plan, whose nodes have their figures.
pub(crate) async fn analyze_at(
    engine: &Arc<EngineState>,
    plan: LogicalPlan,
    point: &ReadPoint,
) -> Result<Arc<dyn ExecutionPlan>> {
    settled(engine, &plan).await?;
    let found = find_by_key(engine, &plan, point).await?;
    let plan = with_tables(engine, plan, point, &found, None)?;
    let memory = QueryMemory::of(engine);
    let task = engine.query_runtime().spawn(async move {
        let (physical, mut rows) = execution::start(plan, memory).await?;
        while let Some(batch) = rows.next().await {
            batch.map_err(from_datafusion)?;
        }
        Ok(physical)
    });
    let mut task = AbortOnDrop(task);
    (&mut task.0).await.map_err(panicked)?
}

/// The plan with its relations as tables of rows.
fn with_tables(
    engine: &Arc<EngineState>,
    plan: LogicalPlan,
    point: &ReadPoint,
    found: &Found,
    rows: Option<&RowsAtHand>,
) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
        if let (Some(_), Some(RowsAtHand(rows))) = (RowsSource::of(&scan.source), rows) {
            scan.source = provider_as_source(Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows.clone()]])?));
            return Ok(Transformed::yes(LogicalPlan::TableScan(scan)));
        }
        let Some(source) = RelationSource::of(&scan.source) else {
            return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
        };
        let schema = datafusion::logical_expr::TableSource::schema(source);
        let table: Arc<dyn TableProvider> = if source.relation().kind == Kind::System {
            let batch = crate::system::rows(engine, source.relation()).map_err(external)?;
            Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?)
        } else {
            let lookup = if found.is_empty() { None } else { KeyLookup::of_scan(&scan).map_err(external)? };
            let rows = found.iter().find(|(l, _)| lookup.as_ref() == Some(l)).map(|(_, rows)| rows);
            match rows {
                Some(rows) => table_of(&schema, rows.clone()),
                None => point.table(source.id(), &schema),
            }
            .map_err(external)?
        };
        scan.source = provider_as_source(table);
        Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
    });
    plan.map(|t| t.data).map_err(from_datafusion)
}

/// A batch's first columns under a scan's schema, which lacks hidden columns at its end.
fn under(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns()[..schema.fields().len()].to_vec();
    millstream_expr::scalar::batch_of(schema.clone(), columns, batch.num_rows())
}

/// Rows at hand.
struct BatchStream {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl fmt::Debug for BatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BatchStream")
    }
}

impl PartitionStream for BatchStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = self.schema.clone();
        let batches = self.batches.clone().into_iter();
        let batches = batches.map(move |b| under(&schema, &b).map_err(|e| DataFusionError::External(Box::new(e))));
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter(batches)))
    }
}

/// A source's rows up to a position, read as they are wanted.
struct SourceStream {
    schema: SchemaRef,
    source: Arc<dyn Source>,
    offsets: Range<u64>,
}

impl fmt::Debug for SourceStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceStream({:?})", self.offsets)
    }
}

impl PartitionStream for SourceStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (schema, source, end) = (self.schema.clone(), Arc::clone(&self.source), self.offsets.end);
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let pieces = self.offsets.clone().step_by(PIECE_OFFSETS as usize).map(move |from| {
            let batch = source.read(from..end.min(from + PIECE_OFFSETS), &all).and_then(|b| under(&schema, &b));
            batch.map_err(|e| DataFusionError::External(Box::new(e)))
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), futures::stream::iter(pieces)))
    }
}

#[cfg(test)]
mod tests {
    use millstream_types::SqlState;

    use super::*;

    /// What ends rows is their end, or an error of the statement.
    #[tokio::test]
    async fn a_panic_is_an_error_after_the_rows_before_it() {
        let (send, receive) = tokio::sync::mpsc::channel(N_BATCHES_QUEUED);
        let task = tokio::spawn(async move {
            let batch = RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty()));
            send.send(Ok(batch)).await.unwrap();
            panic!("as intended");
        });
        let running = Running { receive, task: Some(AbortOnDrop(task)) };
        let batches: Vec<_> = running.batches().collect().await;
        let [Ok(_), Err(error)] = batches.as_slice() else { panic!("{batches:?}") };
        assert_eq!(error.fields().state, SqlState::INTERNAL_ERROR);
        assert_eq!(error.message(), "a query has panicked: as intended");
    }
}
