//! Subscriptions: a relation's changes, epoch by epoch, as soon as all workers have completed the epoch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use futures::StreamExt;
use futures::stream::BoxStream;
use millstream_operators::materialize::consolidate;
use millstream_runtime::{Command, Tap};
use millstream_types::{Delta, Epoch, Error, ErrorKind, Result, SqlState, SqlType};
use tokio::sync::mpsc;

use crate::api::{ResultColumn, Rows, RowsTag};
use crate::engine::EngineState;
use crate::live::LiveRelation;

/// Rows that may wait for a subscriber before its subscription ends.
const WAITING_ROWS_MAX: usize = 1 << 20;

/// What a worker tells a subscription: its changes of an epoch.
struct Told {
    epoch: Epoch,
    changes: Vec<Delta>,
}

/// Follows a relation, from its rows as they are now if `snapshot`.
pub(crate) async fn subscribe(
    engine: &Arc<EngineState>,
    live: Arc<LiveRelation>,
    snapshot: bool,
    progress: bool,
) -> Result<Rows> {
    live.completed(engine.clock.last_closed()).await?;
    let (send, receive) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let alive = Arc::new(AtomicBool::new(true));
    let tap = tap(send, Arc::clone(&waiting), Arc::clone(&alive));
    let followed = Arc::clone(&live);
    // Between epochs all workers begin to follow after the same epoch.
    let (start, hold) = engine
        .clock
        .between_epochs(move |coordinator| {
            let start = coordinator.clock.last_closed();
            let hold = followed.shared.holds.acquire(start);
            coordinator.workers.send_all(|_| Command::Tap(followed.id, tap.clone()));
            (start, hold)
        })
        .await?;
    let hold = hold.map_err(|since| Error::internal(format!("the last closed epoch is before {since}")))?;
    live.completed(start).await?;
    let first = if snapshot {
        let mut first = Vec::new();
        for reader in live.shared.readers() {
            first.extend(reader.snapshot(start).batches()?.into_iter().map(Delta::inserts));
        }
        first
    } else {
        vec![]
    };
    drop(hold);
    let subscription = Subscription::new(live, start, first, progress, receive, waiting, alive);
    let columns = subscription.columns.clone();
    let batches = futures::stream::unfold(subscription, |mut s| async move { s.next().await.map(|b| (b, s)) });
    Ok(Rows { columns, batches: ended_by_error(batches.boxed()), tag: RowsTag::Subscribe, live: true })
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

fn tap(send: mpsc::UnboundedSender<Told>, waiting: Arc<AtomicUsize>, alive: Arc<AtomicBool>) -> Tap {
    static NEXT_ID: AtomicU64 = AtomicU64::new(0);
    let follow = move |_worker: usize, epoch: Epoch, changes: &[Delta]| {
        let n_rows: usize = changes.iter().map(Delta::n_rows).sum();
        if !alive.load(Ordering::Acquire) || waiting.fetch_add(n_rows, Ordering::AcqRel) + n_rows > WAITING_ROWS_MAX {
            // The channel closes with its last sender; the subscriber finds out when it has read what is there.
            alive.store(false, Ordering::Release);
            return false;
        }
        send.send(Told { epoch, changes: changes.to_vec() }).is_ok()
    };
    Tap { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), follow: Arc::new(follow) }
}

struct Subscription {
    live: Arc<LiveRelation>,
    columns: Vec<ResultColumn>,
    schema: SchemaRef,
    progress: bool,
    receive: mpsc::UnboundedReceiver<Told>,
    waiting: Arc<AtomicUsize>,
    alive: Arc<AtomicBool>,
    start: Epoch,
    /// What to send before anything that is told; in reverse.
    ready: Vec<RecordBatch>,
    /// Changes of epochs that not all workers have completed.
    open: BTreeMap<Epoch, Vec<Delta>>,
    last_sent: Epoch,
}

impl Subscription {
    fn new(
        live: Arc<LiveRelation>,
        start: Epoch,
        first: Vec<Delta>,
        progress: bool,
        receive: mpsc::UnboundedReceiver<Told>,
        waiting: Arc<AtomicUsize>,
        alive: Arc<AtomicBool>,
    ) -> Self {
        let visible = live.relation.visible_columns();
        let mut columns = vec![ResultColumn::computed("ms_epoch", SqlType::BigInt)];
        if progress {
            columns.push(ResultColumn::computed("ms_progressed", SqlType::Boolean));
        }
        columns.push(ResultColumn::computed("ms_diff", SqlType::BigInt));
        columns.extend(visible.iter().map(|c| ResultColumn::computed(c.name.clone(), c.sql_type.clone())));
        let fields: Vec<Field> = columns.iter().map(|c| Field::new(&c.name, c.sql_type.arrow_type(), true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let mut subscription = Subscription {
            live,
            columns,
            schema,
            progress,
            receive,
            waiting,
            alive,
            start,
            ready: Vec::new(),
            open: BTreeMap::new(),
            last_sent: start,
        };
        let batches = first.iter().map(|d| subscription.batch(start, d));
        let mut ready: Vec<RecordBatch> = batches.collect::<Result<_>>().expect("rows of the relation");
        if progress {
            ready.push(subscription.progress_row(start));
        }
        ready.reverse();
        subscription.ready = ready;
        subscription
    }

    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        let live = Arc::clone(&self.live);
        loop {
            if let Some(batch) = self.ready.pop() {
                return Some(Ok(batch));
            }
            let changed = live.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            while let Ok(told) = self.receive.try_recv() {
                self.note(told);
            }
            if let Err(error) = live.check().and_then(|()| self.close_epochs()) {
                return Some(Err(error));
            }
            if !self.ready.is_empty() {
                continue;
            }
            tokio::select! {
                told = self.receive.recv() => match told {
                    Some(told) => self.note(told),
                    None => return Some(Err(self.fell_behind())),
                },
                () = changed => {}
            }
        }
    }

    fn fell_behind(&self) -> Error {
        Error::new(
            ErrorKind::Resource,
            SqlState::CONFIGURATION_LIMIT_EXCEEDED,
            format!("the subscription to \"{}\" fell behind and was ended", self.live.relation.name),
        )
        .with_detail(format!("The last complete epoch that was sent is {}.", self.last_sent))
        .with_hint("Subscribe again, with a snapshot.")
    }

    fn note(&mut self, told: Told) {
        self.waiting.fetch_sub(told.changes.iter().map(Delta::n_rows).sum(), Ordering::AcqRel);
        if told.epoch > self.start {
            self.open.entry(told.epoch).or_default().extend(told.changes);
        }
    }

    /// Makes ready what all workers have completed.
    fn close_epochs(&mut self) -> Result<()> {
        let sealed = self.live.sealed();
        while let Some(entry) = self.open.first_entry().filter(|e| *e.key() <= sealed) {
            let (epoch, changes) = entry.remove_entry();
            let changes: Vec<Delta> = changes.into_iter().filter(|d| !d.is_empty()).collect();
            if let Some(first) = changes.first() {
                let all = consolidate(&Delta::concat(&first.schema(), &changes)?)?;
                if !all.is_empty() {
                    self.ready.insert(0, self.batch(epoch, &all)?);
                }
            }
            if self.progress {
                self.ready.insert(0, self.progress_row(epoch));
            }
            self.last_sent = epoch;
        }
        Ok(())
    }

    fn batch(&self, epoch: Epoch, delta: &Delta) -> Result<RecordBatch> {
        let n_rows = delta.n_rows();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![epoch.0 as i64; n_rows]))];
        if self.progress {
            columns.push(Arc::new(arrow::array::BooleanArray::from(vec![false; n_rows])));
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
                "ms_progressed" => Arc::new(arrow::array::BooleanArray::from(vec![true])),
                _ => arrow::array::new_null_array(field.data_type(), 1),
            }
        };
        let columns = self.schema.fields().iter().map(column).collect();
        RecordBatch::try_new(self.schema.clone(), columns).expect("columns of this schema")
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::Release);
    }
}
