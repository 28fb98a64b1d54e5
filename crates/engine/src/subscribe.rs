//! Subscriptions: the changes of a relation or of a query, epoch by epoch, as soon as all workers have completed the
//! epoch. A relation that keeps its rows is followed where it is; a query, and what keeps no rows, gets a dataflow of its
//! own, which lives as long as the subscription.

mod buffer;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, new_null_array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use futures::StreamExt;
use futures::stream::BoxStream;
use millstream_operators::materialize::consolidate;
use millstream_planner::RelationId;
use millstream_planner::catalog::{Column, Kind, Relation};
use millstream_runtime::{Command, RelationShared, Root, Tap};
use millstream_types::{Delta, Epoch, Error, ErrorKind, Result, SqlState, SqlType};

use crate::api::{ResultColumn, Rows, RowsTag};
use crate::coordinator::{Clock, Request};
use crate::engine::EngineState;
use crate::live::{Failed, LiveRelation};
use crate::plans::StoredPlan;
use buffer::{Listener, SubscriptionSink, Teller, Told, buffer};

/// Ids of the dataflows of subscriptions begin here: no catalog has so many relations.
const FIRST_HIDDEN_ID: u64 = 1 << 48;

/// Whether a relation is the dataflow of a subscription, and in no catalog.
pub(crate) fn is_hidden(id: RelationId) -> bool {
    id.0 >= FIRST_HIDDEN_ID
}

/// What a subscription is to give.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// The rows as they are now, first.
    pub(crate) snapshot: bool,
    /// A row at the end of each epoch.
    pub(crate) progress: bool,
    /// What changed after this epoch, not after the last closed one.
    pub(crate) as_of: Option<Epoch>,
}

/// Follows a relation that keeps its rows.
pub(crate) async fn subscribe(engine: &Arc<EngineState>, live: Arc<LiveRelation>, wanted: Wanted) -> Result<Rows> {
    live.back().await?;
    live.completed(engine.clock.last_closed()).await?;
    let (teller, listener) = buffer();
    let followed = Arc::clone(&live);
    // Between epochs all workers begin to follow after the same epoch.
    let begun = engine.clock.between_epochs(move |coordinator| {
        let start = coordinator.last_made();
        let from = wanted.as_of.unwrap_or(start);
        if from > start {
            let message = format!("epoch {from} is yet to come");
            return Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, message)
                .with_detail(format!("The last epoch is {start}.")));
        }
        let hold =
            followed.shared.holds.acquire(from).map_err(|since| no_longer_held(&followed.relation, from, since))?;
        coordinator.workers.send_all(|_| Command::Tap(followed.id, tap(&teller)));
        Ok((start, from, hold))
    });
    let (start, from, hold) = begun.await??;
    engine.clock.until_closed(start).await;
    live.completed(start).await?;
    let mut first = Vec::new();
    for reader in live.shared.readers() {
        if wanted.snapshot {
            let batches = reader.snapshot(from).batches()?;
            first.extend(batches.into_iter().map(|batch| (from, Delta::inserts(batch))));
        }
        if from < start {
            first.extend(reader.changes(from, start).deltas()?.into_iter().map(|delta| (start, delta)));
        }
    }
    drop(hold);
    let subscription = Subscription::new(engine, live, wanted.progress, start, listener);
    let subscription = Subscription { begins_with: VecDeque::from(first), ..subscription };
    Ok(subscription.into_rows())
}

fn no_longer_held(relation: &Relation, epoch: Epoch, since: Epoch) -> Error {
    let message = format!("{} \"{}\" is no longer held as of epoch {epoch}", relation.kind.noun(), relation.name);
    Error::user(SqlState::INVALID_PARAMETER_VALUE, message)
        .with_detail(format!("The oldest epoch that can be read is {since}."))
        .with_hint("Subscribe without AS OF, with a snapshot.")
}

fn tap(teller: &Teller) -> Tap {
    static NEXT_ID: AtomicU64 = AtomicU64::new(0);
    let teller = teller.clone();
    let follow = move |_worker: usize, epoch: Epoch, changes: &[Delta]| teller.tell(epoch, changes);
    Tap { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), follow: Arc::new(follow) }
}

/// Follows a query by a dataflow of its own. `history` says whether streams that are read from a connector are read from
/// their beginning, as the query's result needs, or only from now on.
pub(crate) async fn subscribe_to_plan(
    engine: &Arc<EngineState>,
    stored: StoredPlan,
    columns: Vec<(String, SqlType)>,
    wanted: Wanted,
    history: bool,
) -> Result<Rows> {
    if wanted.as_of.is_some() {
        return Err(Error::not_supported("SUBSCRIBE AS OF needs a relation that keeps its rows")
            .with_hint("Create a materialized view of the query and subscribe to that."));
    }
    static NEXT_ID: AtomicU64 = AtomicU64::new(FIRST_HIDDEN_ID);
    let relation = Arc::new(hidden_relation(RelationId(NEXT_ID.fetch_add(1, Ordering::Relaxed)), columns));
    let account = engine.memory.part(Some(engine.config.memory.view));
    let shared = Arc::new(RelationShared::new(engine.config.workers, account, engine.clock.holds()));
    shared.mark_unstored();
    let (teller, listener) = buffer();
    let sink = SubscriptionSink { teller, snapshot: wanted.snapshot };
    let dataflow = HiddenDataflow { engine: Arc::clone(engine), id: relation.id };
    let live = crate::session::install(engine, relation, shared, stored, Root::Sink(Arc::new(sink)), history).await?;
    // The result as of the first epoch is told as that epoch's changes, so everything that is told is wanted.
    let subscription = Subscription::new(engine, live, wanted.progress, Epoch::ZERO, listener);
    Ok(Subscription { dataflow: Some(dataflow), ..subscription }.into_rows())
}

/// A relation that is in no catalog.
fn hidden_relation(id: RelationId, columns: Vec<(String, SqlType)>) -> Relation {
    Relation {
        id,
        oid: 0,
        schema: "millstream".to_owned(),
        name: "subscription".to_owned(),
        kind: Kind::Sink(None),
        columns: columns.into_iter().map(|(name, t)| Column::new(name, t)).collect(),
        primary_key: vec![],
        on_conflict: millstream_planner::ast::OnKeyConflict::Error,
        partitioned_by: None,
        append_only: false,
        options: vec![],
        depends_on: vec![],
    }
}

/// The columns of a subscription to something with these columns.
pub(crate) fn columns(progress: bool, followed: &[(String, SqlType)]) -> Vec<ResultColumn> {
    let mut columns = vec![ResultColumn::computed("ms_epoch", SqlType::BigInt)];
    if progress {
        columns.push(ResultColumn::computed("ms_progressed", SqlType::Boolean));
    }
    columns.push(ResultColumn::computed("ms_diff", SqlType::BigInt));
    columns.extend(followed.iter().map(|(name, t)| ResultColumn::computed(name.clone(), t.clone())));
    columns
}

/// The dataflow of a subscription, dropped with it.
struct HiddenDataflow {
    engine: Arc<EngineState>,
    id: RelationId,
}

impl Drop for HiddenDataflow {
    fn drop(&mut self) {
        let id = self.id;
        // If the engine is shutting down, everything goes.
        let _ = self.engine.clock.request(Request::BetweenEpochs(Box::new(move |c| c.drop_if_running(id))));
    }
}

struct Subscription {
    // Spec
    clock: Arc<Clock>,
    live: Arc<LiveRelation>,
    columns: Vec<ResultColumn>,
    schema: SchemaRef,
    progress: bool,
    /// Its own, if it follows a query.
    dataflow: Option<HiddenDataflow>,
    // State
    listener: Listener,
    /// Changes of this epoch and earlier ones are part of what it begins with.
    start: Epoch,
    begins_with: VecDeque<(Epoch, Delta)>,
    has_begun: bool,
    /// What to send before anything that is told.
    ready: VecDeque<RecordBatch>,
    /// Changes of epochs that not all workers have completed.
    open: BTreeMap<Epoch, Vec<Delta>>,
    last_sent: Epoch,
}

impl Subscription {
    fn new(engine: &EngineState, live: Arc<LiveRelation>, progress: bool, start: Epoch, listener: Listener) -> Self {
        let visible = live.relation.visible_columns();
        let followed: Vec<_> = visible.iter().map(|c| (c.name.clone(), c.sql_type.clone())).collect();
        let columns = columns(progress, &followed);
        let fields: Vec<Field> = columns.iter().map(|c| Field::new(&c.name, c.sql_type.arrow_type(), true)).collect();
        Subscription {
            clock: Arc::clone(&engine.clock),
            live,
            columns,
            schema: Arc::new(Schema::new(fields)),
            progress,
            dataflow: None,
            listener,
            start,
            begins_with: VecDeque::new(),
            has_begun: false,
            ready: VecDeque::new(),
            open: BTreeMap::new(),
            last_sent: start,
        }
    }

    fn into_rows(self) -> Rows {
        let columns = self.columns.clone();
        let batches = futures::stream::unfold(self, |mut s| async move { s.next().await.map(|b| (b, s)) });
        Rows { columns, batches: ended_by_error(batches.boxed()), tag: RowsTag::Subscribe, live: true }
    }

    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        let (live, clock) = (Arc::clone(&self.live), Arc::clone(&self.clock));
        loop {
            if let Some((epoch, delta)) = self.begins_with.pop_front() {
                return Some(self.batch(epoch, &delta));
            }
            // The rows of a query's first epoch are told as changes, and so is their end.
            if !std::mem::replace(&mut self.has_begun, true) && self.progress && self.dataflow.is_none() {
                return Some(Ok(self.progress_row(self.start)));
            }
            if let Some(batch) = self.ready.pop_front() {
                return Some(Ok(batch));
            }
            let (changed, closed) = (live.changed(), clock.closed());
            tokio::pin!(changed, closed);
            changed.as_mut().enable();
            closed.as_mut().enable();
            // First, so that all that was told of these epochs is there afterwards.
            let sealed = live.sealed().min(clock.last_closed());
            while let Some(told) = self.listener.try_next() {
                self.note(told);
            }
            if let Err(error) = self.check().and_then(|()| self.close_epochs(sealed)) {
                return Some(Err(error));
            }
            if !self.ready.is_empty() {
                continue;
            }
            tokio::select! {
                told = self.listener.next() => match told {
                    Some(told) => self.note(told),
                    // The workers' end is also gone once what is followed has been dropped.
                    None => return Some(Err(self.check().err().unwrap_or_else(|| self.fell_behind()))),
                },
                () = changed => {}
                () = closed, if !self.open.is_empty() => {}
            }
        }
    }

    /// Whether what is followed is still there and well.
    fn check(&self) -> Result<()> {
        let error = match self.live.check() {
            Ok(()) => return Ok(()),
            Err(error) if self.dataflow.is_none() => error,
            Err(error) => match self.live.failure() {
                Some(Failed { epoch, cause, .. }) => {
                    let message = format!("the subscription's query has failed: {}", cause.message());
                    Error::user(error.state(), message)
                        .with_detail(format!("It failed in epoch {epoch} with SQLSTATE {}.", cause.state().0))
                }
                None => Error::user(error.state(), "a relation that the subscription reads was dropped"),
            },
        };
        Err(error)
    }

    fn fell_behind(&self) -> Error {
        let what = match &self.dataflow {
            None => format!("the subscription to \"{}\"", self.live.relation.name),
            Some(_) => "the subscription".to_owned(),
        };
        let message = format!("{what} fell behind and was ended");
        Error::new(ErrorKind::Resource, SqlState::CONFIGURATION_LIMIT_EXCEEDED, message)
            .with_detail(format!("The last complete epoch that was sent is {}.", self.last_sent))
            .with_hint("Subscribe again, with a snapshot.")
    }

    fn note(&mut self, told: Told) {
        if told.epoch > self.start {
            self.open.entry(told.epoch).or_default().extend(told.changes);
        }
    }

    /// Makes ready what all workers had completed before the changes were noted that are open now.
    fn close_epochs(&mut self, sealed: Epoch) -> Result<()> {
        let first_missing = self.listener.first_missing();
        while let Some(entry) = self.open.first_entry().filter(|e| *e.key() <= sealed && *e.key() < first_missing) {
            let (epoch, changes) = entry.remove_entry();
            let changes: Vec<Delta> = changes.into_iter().filter(|d| !d.is_empty()).collect();
            if let Some(first) = changes.first() {
                let all = consolidate(&Delta::concat(&first.schema(), &changes)?)?;
                if !all.is_empty() {
                    self.ready.push_back(self.batch(epoch, &all)?);
                }
            }
            if self.progress {
                self.ready.push_back(self.progress_row(epoch));
            }
            self.last_sent = epoch;
        }
        Ok(())
    }

    fn batch(&self, epoch: Epoch, delta: &Delta) -> Result<RecordBatch> {
        let n_rows = delta.n_rows();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![epoch.0 as i64; n_rows]))];
        if self.progress {
            columns.push(Arc::new(BooleanArray::from(vec![false; n_rows])));
        }
        columns.push(Arc::new(Int64Array::from_iter_values((0..n_rows).map(|i| delta.weight(i)))));
        let n_visible = self.live.relation.visible_columns().len();
        columns.extend(delta.columns()[..n_visible].iter().cloned());
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    fn progress_row(&self, epoch: Epoch) -> RecordBatch {
        let column = |field: &Arc<Field>| -> ArrayRef {
            match field.name().as_str() {
                "ms_epoch" => Arc::new(Int64Array::from(vec![epoch.0 as i64])),
                "ms_progressed" => Arc::new(BooleanArray::from(vec![true])),
                _ => new_null_array(field.data_type(), 1),
            }
        };
        let columns = self.schema.fields().iter().map(column).collect();
        RecordBatch::try_new(self.schema.clone(), columns).expect("columns of this schema")
    }
}

/// The stream up to and including its first error.
fn ended_by_error(batches: BoxStream<'static, Result<RecordBatch>>) -> BoxStream<'static, Result<RecordBatch>> {
    let state = (batches, false);
    futures::stream::unfold(state, |(mut batches, failed)| async move {
        if failed {
            return None;
        }
        let batch = batches.next().await?;
        let failed = batch.is_err();
        Some((batch, (batches, failed)))
    })
    .boxed()
}
