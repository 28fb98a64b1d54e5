//! A dataflow that goes on from what was saved of it: a thread reads that, piece by piece, and its worker takes the pieces
//! over between its other work.
//!
//! ```text
//!   thread:   read ─▶ read ─▶ read ─▶ ...          one piece waits to be taken, another one is being read
//!   worker:        ╲ take ─ (others' turn) ─ take ─ ... ─ all that is there is sealed
//! ```
//!
//! Only then is the dataflow built within timely, on all workers in one order.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::Thread;

use arrow::array::RecordBatch;
use millstream_operators::NodeId;
use millstream_state::SavedState;
use millstream_types::hash::partitions_of;
use millstream_types::{Error, Result};

use crate::command::{InstallDataflow, Root};
use crate::dataflow::Parts;
use crate::failure::Failure;

/// Rows of a view that are inserted at once.
const INSERTED_ROWS: usize = 1 << 13;
/// Pieces in which state is read that is likely not to fit, or is large.
const N_PIECES: usize = 16;
/// Bytes in memory from which on it is large.
const LARGE_BYTES: usize = 64 << 20;

/// A piece of what was saved.
enum Place {
    /// Of the state of the operator at a node, one of the parts that it takes it in.
    State { node: NodeId, part: usize },
    /// Of the rows of the view.
    Rows,
}

/// What was read.
enum Piece {
    State {
        node: NodeId,
        part: usize,
        saved: SavedState,
    },
    Rows(Vec<RecordBatch>),
    /// That was all.
    End,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restored {
    /// Some of it; there may be more.
    Piece,
    /// Nothing is there to be taken.
    Nothing,
    /// All is taken.
    All,
    /// It has failed, which was told.
    Failed,
}

/// A dataflow on a worker that takes over what was saved of it.
pub(crate) struct Restoring {
    pub(crate) install: Arc<InstallDataflow>,
    pub(crate) parts: Parts,
    failure: Failure,
    pieces: Receiver<Result<Piece>>,
    /// Rows of the view that are still to be inserted.
    rows: VecDeque<RecordBatch>,
}

impl Restoring {
    /// Begins to read; the thread that calls this is woken whenever there is a piece.
    ///
    /// # Errors
    /// Internal, if the system gives no thread.
    pub(crate) fn begin(
        install: Arc<InstallDataflow>,
        parts: Parts,
        failure: Failure,
        worker: usize,
        n_workers: usize,
    ) -> Result<Self> {
        let places = places(&install, &parts, worker, n_workers);
        let (send, pieces) = sync_channel(1);
        let (of_thread, wake) = (Arc::clone(&install), Wake(std::thread::current()));
        let thread = std::thread::Builder::new().name(format!("restore-{worker}"));
        let read = move || read_all(&of_thread, places, &send, &wake);
        thread.spawn(read).map_err(|e| Error::internal(format!("a thread did not start: {e}")))?;
        Ok(Restoring { install, parts, failure, pieces, rows: VecDeque::new() })
    }

    /// Takes a piece over, if one is there.
    pub(crate) fn step(&mut self) -> Restored {
        let (epoch, failure) = (self.install.start.epoch, self.failure.clone());
        if let Some(rows) = self.rows.pop_front() {
            let inserted = failure.guard(epoch, || self.parts.insert_restored(&rows));
            return inserted.map_or(Restored::Failed, |()| Restored::Piece);
        }
        let piece = match self.pieces.try_recv() {
            Ok(piece) => piece,
            Err(TryRecvError::Empty) => return Restored::Nothing,
            Err(TryRecvError::Disconnected) => Err(Error::internal("who reads the state of a dataflow has ended")),
        };
        failure.guard(epoch, || self.take(piece?)).unwrap_or(Restored::Failed)
    }

    fn take(&mut self, piece: Piece) -> Result<Restored> {
        match piece {
            Piece::State { node, part, mut saved } => self.parts.restore(node, part, &mut saved)?,
            Piece::Rows(rows) => {
                let slices = rows.iter().flat_map(|rows| {
                    let n_rows = rows.num_rows();
                    let slice = move |from| rows.slice(from, INSERTED_ROWS.min(n_rows - from));
                    (0..n_rows).step_by(INSERTED_ROWS).map(slice)
                });
                self.rows.extend(slices);
            }
            Piece::End => {
                self.parts.end_restore(&self.install)?;
                return Ok(Restored::All);
            }
        }
        Ok(Restored::Piece)
    }
}

/// What a worker takes over, in order.
fn places(install: &InstallDataflow, parts: &Parts, worker: usize, n_workers: usize) -> Vec<(Place, Range<usize>)> {
    let n_bytes = install.restored.as_ref().map_or(0, |restored| restored.n_bytes);
    let n_pieces = if parts.starts_in_parts() || n_bytes > LARGE_BYTES { N_PIECES } else { 1 };
    let mut places = Vec::new();
    for (node, ranges) in parts.restored_parts(&partitions_of(worker, n_workers), n_pieces) {
        let of_node = ranges.into_iter().enumerate();
        places.extend(of_node.map(|(part, partitions)| (Place::State { node, part }, partitions)));
    }
    if let Root::Materialize { .. } = &install.root {
        let piece = |piece| partitions_of(worker * n_pieces + piece, n_workers * n_pieces);
        places.extend((0..n_pieces).map(|i| (Place::Rows, piece(i))).filter(|(_, partitions)| !partitions.is_empty()));
    }
    places
}

/// Reads all, for as long as somebody takes it.
fn read_all(
    install: &InstallDataflow,
    places: Vec<(Place, Range<usize>)>,
    send: &SyncSender<Result<Piece>>,
    wake: &Wake,
) {
    let Some(restored) = &install.restored else { return };
    for (place, partitions) in places {
        let piece = match place {
            Place::State { node, part } => {
                (restored.state)(&partitions, node as u32).map(|saved| Piece::State { node, part, saved })
            }
            Place::Rows => (restored.rows)(&partitions).map(Piece::Rows),
        };
        let is_last = piece.is_err();
        if send.send(piece).is_err() || is_last {
            return;
        }
        wake.0.unpark();
    }
    // Nobody may want it any more.
    let _ = send.send(Ok(Piece::End));
}

/// A worker that is to look again, also when who reads comes to an end.
struct Wake(Thread);

impl Drop for Wake {
    fn drop(&mut self) {
        self.0.unpark();
    }
}
