//! What the coordinator tells workers, and what they tell it.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use millstream_operators::materialize::MaterializeSpec;
use millstream_operators::{Dataflow, RelationId};
use millstream_state::{ArrangementSpec, StoredBlock};
use millstream_types::{Delta, Epoch, EpochHeader, Error, Result};

use crate::memory::Account;
use crate::metrics::{DataflowMetrics, Intake};
use crate::pressure::Pressure;
use crate::relation::RelationShared;
use crate::row_errors::RowErrorLog;
use crate::saving::{RestoredDataflow, SaveRequest};
use crate::sink::Sink;
use crate::source::Source;

/// What workers report. Called on worker threads, so it must return at once.
pub trait Events: Send + Sync {
    /// All of a relation's rows on this worker are as of the epoch.
    fn completed(&self, relation: RelationId, worker: usize, epoch: Epoch);
    /// A dataflow has on this worker what was saved of it: it can be installed when all have.
    fn restored(&self, dataflow: RelationId, worker: usize);
    /// A dataflow has failed: it does nothing any more, and is to be dropped, which frees its state.
    fn failed(&self, dataflow: RelationId, epoch: Epoch, error: Error);
    /// All state together has passed its limit, as a dataflow found that was adding to its own.
    fn memory_exceeded(&self, dataflow: RelationId, epoch: Epoch);
    /// A worker thread has ended for a reason that is not its end of duty; nothing can be relied on any more.
    fn worker_lost(&self, worker: usize, error: Error);
}

/// A command; all workers get the same commands in the same order, except for the rows in them.
pub enum Command {
    /// Makes a table's or stream's store, or a source's place.
    CreateRelation(RelationId, Arc<RelationSpec>),
    /// Forgets a relation; nothing imports it any more.
    DropRelation(RelationId),
    /// Says which secondary indexes a relation's rows have: those that are new are built, others forgotten.
    SetIndexes(RelationId, Vec<Vec<usize>>),
    /// Reads what was saved of a dataflow, beside other work, so that it can be installed. What its operators read of other
    /// dataflows is installed.
    Restore(Arc<InstallDataflow>),
    /// Builds a view's or sink's dataflow, which takes its inputs as of its start, or has been restored as of it, and then
    /// waits for a round.
    Install(Arc<InstallDataflow>),
    /// Gives a dataflow that does not follow its inputs what has changed in them.
    Round(Arc<Round>),
    /// From now on a dataflow gets the epochs that touch its inputs.
    Follow(RelationId),
    /// From now on a dataflow gets nothing but rounds; what it was sent stays.
    SetAside(RelationId),
    /// Forgets a dataflow, its state and its relation.
    Drop(RelationId),
    /// Works on an epoch.
    Epoch(EpochWork),
    /// Looks keys up.
    Lookup(Lookup),
    /// Follows a relation's changes.
    Tap(RelationId, Tap),
    /// Fills a stored relation that nobody has written to yet.
    Load(Arc<LoadRows>),
    /// Hands over what has changed since the last checkpoint.
    Save(Arc<SaveRequest>),
    /// Blocks take the place of rows of a stream.
    Store(Arc<StoreRows>),
    /// Forgets what nobody can ask for any more: this epoch is closed, and nothing has been sent after it.
    Forget(Epoch),
    /// Runs a closure on the worker's thread, between quanta; for tests.
    Run(Box<dyn FnOnce() + Send>),
    /// Ends the worker.
    Shutdown,
}

/// Where a relation's rows come from.
pub enum RelationSpec {
    /// Rows are kept: a table, or a stream without a connector.
    Stored {
        /// How they are kept.
        arrangement: ArrangementSpec,
        /// What the workers share of it.
        shared: Arc<RelationShared>,
    },
    /// Rows are read from a replayable source whenever they are wanted.
    Source {
        /// The source.
        source: Arc<dyn Source>,
        /// What the workers share of it.
        shared: Arc<RelationShared>,
    },
}

/// A dataflow to build.
pub struct InstallDataflow {
    /// The view or sink.
    pub id: RelationId,
    /// Its name, for people.
    pub name: String,
    /// Its graph.
    pub dataflow: Dataflow,
    /// What becomes of the result.
    pub root: Root,
    /// The epoch it starts at: it takes its inputs as they are then. A new number, used by no write, whose header is
    /// given. The coordinator holds the inputs at it or before.
    pub start: EpochHeader,
    /// For each import, in the order of [`Dataflow::imports`], the offsets that it starts from if it is a source.
    pub offsets: Vec<Option<Range<u64>>>,
    /// What it goes on from: it has seen its inputs as of the start.
    pub restored: Option<RestoredDataflow>,
    /// What changes in it is noted, since it will be saved.
    pub keeps: bool,
    /// Counters.
    pub metrics: DataflowMetrics,
    /// Rows on their way in it.
    pub pressure: Arc<Pressure>,
    /// How far it is with its inputs.
    pub intake: Arc<Intake>,
    /// What its state is charged to.
    pub account: Arc<Account>,
    /// Rows that failed.
    pub errors: Arc<RowErrorLog>,
    /// Called before each call of an operator, in tests.
    pub hook: Option<OperatorHook>,
}

/// Called with the dataflow's name and the operator's before each call of an operator: may take its time, or panic.
pub type OperatorHook = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// What has changed in the inputs of a dataflow that does not follow them, as one epoch of its own.
pub struct Round {
    /// The view or sink.
    pub id: RelationId,
    /// The epoch up to which it is brought: a new number, used by no write.
    pub header: EpochHeader,
    /// The epoch at which its inputs were taken last, and at which they are held.
    pub from: Epoch,
    /// For each import, the offsets that it gets if it is a source.
    pub offsets: Vec<Option<Range<u64>>>,
    /// Whether it follows its inputs from here on.
    pub follows: bool,
}

/// What becomes of a dataflow's result.
pub enum Root {
    /// A view's rows.
    Materialize {
        /// How they are kept.
        spec: MaterializeSpec,
        /// What the workers share of it.
        shared: Arc<RelationShared>,
    },
    /// A sink.
    Sink(Arc<dyn Sink>),
}

/// A worker's part of an epoch.
pub struct EpochWork {
    /// The epoch.
    pub header: EpochHeader,
    /// The base relations that it touches, each once; the same on all workers.
    pub inputs: Vec<(RelationId, RelationInput)>,
}

/// What an epoch brings to a base relation, on one worker.
pub enum RelationInput {
    /// Changes of a stored relation, of rows that this worker owns.
    Deltas(Vec<Delta>),
    /// Offsets of a source, this worker's share.
    Offsets(Range<u64>),
    /// Rows of a stream that were born at or before this epoch are forgotten. Nothing that is built on it is told.
    Floor(Epoch),
}

/// The rows that a stored relation has to begin with.
pub struct LoadRows {
    /// The relation.
    pub relation: RelationId,
    /// As of which epoch they are.
    pub epoch: Epoch,
    /// Gives a worker those that it is to keep; called on its thread.
    pub rows: Box<dyn Fn(usize) -> Result<RowsToLoad> + Send + Sync>,
    /// Told by each worker when it has them.
    pub loaded: Box<dyn Fn(Result<()>) + Send + Sync>,
}

/// What a worker has to begin with of a stored relation.
#[derive(Default)]
pub struct RowsToLoad {
    /// Rows that go to memory, all columns.
    pub rows: Vec<RecordBatch>,
    /// The next checkpoint is to have the rows, as if they had just come.
    pub are_new: bool,
    /// Rows that are read where they lie.
    pub stored: Vec<StoredBlock>,
    /// Rows that were born at or before it are forgotten.
    pub floor: Epoch,
}

/// Rows of a stream that lie elsewhere from now on.
pub struct StoreRows {
    /// The stream.
    pub relation: RelationId,
    /// No row of them was born later.
    pub up_to: Epoch,
    /// The objects whose blocks they take the place of; if there are none, that of the rows that were handed over.
    pub replaced: Vec<u64>,
    /// Those of each worker.
    pub blocks: Vec<Vec<StoredBlock>>,
}

/// Gives the rows of a worker, all columns.
pub type RowsOfWorker = Box<dyn Fn(usize) -> Result<Vec<RecordBatch>> + Send + Sync>;

/// A lookup of keys in a stored relation or a view.
pub struct Lookup {
    /// The relation.
    pub relation: RelationId,
    /// The columns of the key, which an index is over.
    pub columns: Vec<usize>,
    /// The keys, one array a column.
    pub keys: Vec<ArrayRef>,
    /// As of which epoch; `None` is what this worker has applied so far. The worker must have completed the epoch.
    pub at: Option<Epoch>,
    /// More rows are not given: that would keep the worker from its other work.
    pub rows_max: usize,
    /// Takes the answer.
    pub reply: LookupReply,
}

/// Takes the rows that were found, each once; `None` if there are too many, or no index over the columns.
pub type LookupReply = Box<dyn FnOnce(Result<Option<RecordBatch>>) + Send>;

/// Takes `(worker, epoch, changes)`; returns whether to go on.
pub type Follow = Arc<dyn Fn(usize, Epoch, &[Delta]) -> bool + Send + Sync>;

/// A follower of a relation's changes: called on each worker with each touching epoch's changes there.
#[derive(Clone)]
pub struct Tap {
    /// Tells taps apart.
    pub id: u64,
    /// Called with the changes.
    pub follow: Follow,
}

impl RelationSpec {
    /// What the workers share of the relation.
    pub fn shared(&self) -> &Arc<RelationShared> {
        match self {
            RelationSpec::Stored { shared, .. } | RelationSpec::Source { shared, .. } => shared,
        }
    }
}
