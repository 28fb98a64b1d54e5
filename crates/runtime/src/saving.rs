//! Handing over what has changed since the last checkpoint, as of an epoch, without anybody waiting for it.
//!
//! A worker gets the request between two epochs. Stored relations are as of then. A dataflow may still be at work on what
//! it was sent before: each of its operators hands over its changes when it has completed that, before it begins with
//! anything later.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_operators::RelationId;
use millstream_state::{SavedState, StateChanges, UnsavedRows};
use millstream_types::{Epoch, Result};

use crate::memory::{Account, Charge};

/// Asks for what has changed in some relations and dataflows since it was last asked for; the first time, for all.
pub struct SaveRequest {
    /// Which, each with a number that comes back with what it hands over.
    pub of: Vec<(RelationId, u64)>,
    /// Takes what one of them hands over, once for each worker. Called on worker threads, so it must return at once.
    pub take: Box<dyn Fn(HandedOver) + Send + Sync>,
}

/// What a relation or dataflow hands over on one worker.
pub struct HandedOver {
    /// The number of the request.
    pub owner: u64,
    /// The worker.
    pub worker: usize,
    /// Its parts; nothing if it has ended before it could hand over all of them.
    pub parts: Option<Vec<SavedPart>>,
}

/// A part of what has changed.
pub enum SavedPart {
    /// Rows of a stored relation, or of a view, and what they take in memory beside those until they are written.
    Rows(UnsavedRows, Charge),
    /// State of the operator of a node, and what it takes in memory until it is written.
    State(u32, StateChanges, Charge),
    /// Of the end of a sink, which keeps nothing: what was given to it is as of the epoch.
    Nothing,
}

impl SavedPart {
    /// Rows that count in an account.
    pub(crate) fn rows(rows: UnsavedRows, account: &Arc<Account>) -> SavedPart {
        let mut charge = Charge::new(account);
        charge.set(rows.n_bytes());
        SavedPart::Rows(rows, charge)
    }
}

/// What a dataflow goes on from, instead of its inputs as of the start.
pub struct RestoredDataflow {
    /// Gives the state of the operator at a node; called on workers' threads.
    pub state: StateOfNode,
    /// Gives the rows of the view, of a range of partitions.
    pub rows: RowsOfPartitions,
    /// About what all that takes in memory.
    pub n_bytes: usize,
}

/// Gives rows of a range of partitions.
pub type RowsOfPartitions = Box<dyn Fn(&Range<usize>) -> Result<Vec<RecordBatch>> + Send + Sync>;

/// Gives the state of the operator at a node, of a range of partitions.
pub type StateOfNode = Box<dyn Fn(&Range<usize>, u32) -> Result<SavedState> + Send + Sync>;

/// A dataflow on this worker that is handing over what has changed in it.
pub(crate) struct Saving {
    /// All that it was sent up to this epoch is in what it hands over, and nothing later.
    pub(crate) upto: Epoch,
    /// How many operators, the root among them, have still to hand something over.
    n_missing: usize,
    handed_over: HandedOver,
    request: Arc<SaveRequest>,
}

impl Saving {
    pub(crate) fn new(upto: Epoch, n_parts: usize, owner: u64, worker: usize, request: &Arc<SaveRequest>) -> Self {
        let handed_over = HandedOver { owner, worker, parts: None };
        let mut saving = Saving { upto, n_missing: n_parts, handed_over, request: Arc::clone(request) };
        saving.handed_over.parts = Some(Vec::with_capacity(n_parts));
        saving
    }

    /// Takes a part; returns whether that was the last.
    pub(crate) fn take(&mut self, part: SavedPart) -> bool {
        if let Some(parts) = &mut self.handed_over.parts {
            parts.push(part);
        }
        self.n_missing -= 1;
        self.n_missing == 0
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        let HandedOver { owner, worker, parts } = &mut self.handed_over;
        let parts = parts.take().filter(|_| self.n_missing == 0);
        (self.request.take)(HandedOver { owner: *owner, worker: *worker, parts });
    }
}
