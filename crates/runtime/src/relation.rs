//! A relation as its worker keeps it, and what others may know of it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use millstream_operators::RelationId;
use millstream_state::{Arrangement, ArrangementReader, Changes, ChunksAhead, Holds, Snapshot};
use millstream_types::{Delta, Epoch, Result};
use parking_lot::Mutex;

use crate::command::Tap;
use crate::memory::{Account, Charge};
use crate::pressure::Load;
use crate::saving::SavedPart;
use crate::source::Source;

/// What all threads may know of a relation.
pub struct RelationShared {
    /// It keeps no rows: a source or a sink.
    unstored: std::sync::atomic::AtomicBool,
    /// Who still needs it as of when.
    pub holds: Holds,
    /// The readers' end of each worker's part, set when the worker has made it.
    readers: Mutex<Vec<Option<ArrangementReader>>>,
    /// For each worker, what its part takes.
    sizes: Vec<PartSize>,
    /// What its rows are charged to.
    pub account: Arc<Account>,
    /// What a row of a source took when some were last read; 0 before.
    offset_bytes: AtomicU64,
}

/// What a row of a source is taken to need before one was read: much, so that the first epochs are small.
const UNKNOWN_OFFSET_BYTES: u64 = 1 << 16;

impl RelationShared {
    /// For a relation that no worker has made yet.
    pub fn new(n_workers: usize, account: Arc<Account>, holds: Holds) -> Self {
        let readers = Mutex::new(vec![None; n_workers]);
        let sizes = (0..n_workers).map(|_| PartSize::default()).collect();
        let offset_bytes = AtomicU64::new(0);
        RelationShared { unstored: false.into(), holds, readers, sizes, account, offset_bytes }
    }

    pub(crate) fn set_reader(&self, worker: usize, reader: ArrangementReader) {
        self.readers.lock()[worker] = Some(reader);
    }

    /// The readers' ends of all workers' parts; those of workers that have not made it yet are missing.
    pub fn readers(&self) -> Vec<ArrangementReader> {
        self.readers.lock().iter().flatten().cloned().collect()
    }

    /// Bytes that a worker's part takes in memory, and on disk, as they were measured last.
    pub fn n_bytes(&self, worker: usize) -> (u64, u64) {
        let size = &self.sizes[worker];
        (size.in_memory.load(Relaxed), size.spilled.load(Relaxed))
    }

    /// Notes what a worker's part takes.
    pub(crate) fn note_size(&self, worker: usize, in_memory: usize, spilled: usize) {
        let size = &self.sizes[worker];
        size.in_memory.store(in_memory as u64, Relaxed);
        size.spilled.store(spilled as u64, Relaxed);
    }

    /// Rows and bytes that a worker's part has in objects of checkpoints, as they were measured last.
    pub fn stored(&self, worker: usize) -> (u64, u64) {
        let size = &self.sizes[worker];
        (size.stored_rows.load(Relaxed), size.stored.load(Relaxed))
    }

    pub(crate) fn note_stored(&self, worker: usize, n_rows: usize, n_bytes: usize) {
        let size = &self.sizes[worker];
        size.stored_rows.store(n_rows as u64, Relaxed);
        size.stored.store(n_bytes as u64, Relaxed);
    }

    /// What a row of a source takes, or may take if none was read.
    pub fn offset_bytes(&self) -> u64 {
        self.known_offset_bytes().unwrap_or(UNKNOWN_OFFSET_BYTES)
    }

    /// What a row of a source takes; nothing if none was read.
    pub(crate) fn known_offset_bytes(&self) -> Option<u64> {
        Some(self.offset_bytes.load(Relaxed)).filter(|&n_bytes| n_bytes > 0)
    }

    /// Notes what rows of a source took that were read. Some read fewer columns than others, so that it falls slowly.
    pub(crate) fn note_offsets(&self, load: Load) {
        if load.rows > 0 {
            let n_bytes = (load.bytes / load.rows).max(1) as u64;
            self.offset_bytes.store(n_bytes.max(self.known_offset_bytes().unwrap_or(0) / 8 * 7), Relaxed);
        }
    }

    /// Lets go of the rows: nobody may read them any more.
    pub fn forget_readers(&self) {
        self.readers.lock().fill(None);
    }

    /// Says that no worker will make a part that can be read.
    pub fn mark_unstored(&self) {
        self.unstored.store(true, std::sync::atomic::Ordering::Release);
    }

    /// Whether it keeps no rows.
    pub fn is_unstored(&self) -> bool {
        self.unstored.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Whether all workers have made their parts, if there are to be any.
    pub fn is_ready(&self) -> bool {
        self.is_unstored() || self.readers.lock().iter().all(Option::is_some)
    }
}

#[derive(Default)]
struct PartSize {
    in_memory: AtomicU64,
    spilled: AtomicU64,
    stored_rows: AtomicU64,
    stored: AtomicU64,
}

/// Where the rows of a worker's part come from.
pub(crate) enum Part {
    Stored(Rc<RefCell<Arrangement>>),
    Source(Arc<dyn Source>),
    /// A view's, filled by its dataflow.
    View(Rc<RefCell<Arrangement>>),
}

/// A worker's part of a relation.
pub(crate) struct Relation {
    pub(crate) part: Part,
    pub(crate) shared: Arc<RelationShared>,
    /// Imports that follow it: dataflow and index among its imports.
    pub(crate) importers: Vec<(RelationId, usize)>,
    pub(crate) taps: Vec<Tap>,
    /// What its rows have in use, if this worker applies them itself.
    pub(crate) charge: Option<Charge>,
    /// Rows applied since that was last looked at.
    pub(crate) n_uncharged: usize,
}

impl Relation {
    /// Reports what the rows have in use, if this worker applies them itself.
    pub(crate) fn measure(&mut self, worker: usize) {
        let (Part::Stored(arrangement), Some(charge)) = (&self.part, &mut self.charge) else { return };
        let arrangement = arrangement.borrow();
        let (in_memory, spilled) = (arrangement.n_bytes(), arrangement.n_bytes_spilled());
        charge.set_all(in_memory, arrangement.n_bytes_spillable(), spilled);
        self.shared.note_size(worker, in_memory, spilled);
        self.shared.note_stored(worker, arrangement.n_rows_stored(), arrangement.n_bytes_stored());
        self.n_uncharged = 0;
    }

    /// What no checkpoint has yet.
    pub(crate) fn take_unsaved(&self) -> Option<SavedPart> {
        let unsaved = match &self.part {
            Part::Stored(rows) if rows.borrow().can_be_stored() => {
                let mut rows = rows.borrow_mut();
                // What is forgotten leaves the disk with the checkpoint that does not have it any more.
                let since = self.shared.holds.advance(rows.reader().sealed());
                if let Err(error) = rows.forget(since) {
                    tracing::error!(%error, "rows of a stream stay where they are");
                }
                rows.take_to_store()
            }
            Part::Stored(rows) | Part::View(rows) => rows.borrow_mut().take_unsaved(),
            Part::Source(_) => return None,
        };
        Some(SavedPart::rows(unsaved, &self.shared.account))
    }

    /// From an epoch on, rows that were born at or before another are forgotten.
    ///
    /// # Errors
    /// If rows are not in memory and cannot be read.
    pub(crate) fn set_floor(&mut self, worker: usize, epoch: Epoch, floor: Epoch) -> Result<()> {
        let Part::Stored(arrangement) = &self.part else { return Ok(()) };
        arrangement.borrow_mut().set_floor(epoch, floor);
        arrangement.borrow_mut().seal(epoch, self.shared.holds.advance(epoch))?;
        self.measure(worker);
        Ok(())
    }

    pub(crate) fn arrangement(&self) -> Option<&Rc<RefCell<Arrangement>>> {
        match &self.part {
            Part::Stored(a) | Part::View(a) => Some(a),
            Part::Source(_) => None,
        }
    }
}

/// What an import gets in an epoch.
pub(crate) enum Arriving {
    /// Nothing yet: its relation has not completed the epoch.
    Awaited,
    /// Deltas, whole rows of the relation.
    Ready(Vec<Delta>),
    /// The relation's rows as of the epoch, chunk by chunk.
    Snapshot {
        /// The epoch that the relation has to complete first.
        needs: Epoch,
        /// Taken when that is so.
        snapshot: Option<(Snapshot, ChunksAhead)>,
        /// The chunk that comes next.
        next_chunk: usize,
    },
    /// What has changed in the relation after an epoch, chunk by chunk.
    Changes {
        /// The epoch that the relation has to complete first.
        needs: Epoch,
        /// The epoch after which changes are wanted.
        from: Epoch,
        /// Taken when the relation is so far.
        changes: Option<(Changes, ChunksAhead)>,
        /// The chunk that comes next.
        next_chunk: usize,
    },
    /// Rows of a source, read piece by piece.
    Offsets(Range<u64>),
}

/// Epochs that an import has still to get, in order.
pub(crate) type Arrivals = VecDeque<(Epoch, Arriving)>;
