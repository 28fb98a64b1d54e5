//! Feeding dataflows: each import gets its epochs in order, each as soon as it can be had.
//!
//! What is large comes in pieces: a piece when the dataflow can take one, and after about a millisecond others get their
//! turn.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use millstream_operators::RelationId;
use millstream_state::ChunksAhead;
use millstream_types::{Delta, Epoch, Result};

use super::state::{ImportState, Installed, WorkerState};
use crate::chunk::Chunk;
use crate::metrics::NodeMetrics;
use crate::pressure::Load;
use crate::relation::{Arriving, Part, Relation};

/// Offsets of a source that are read at once, at most; fewer if the rows are large.
const PIECE_OFFSETS: u64 = 1 << 14;
/// Offsets that are read at once at least, however large the rows.
const PIECE_OFFSETS_MIN: u64 = 1 << 5;
/// Chunks of a snapshot or difference that are fed at once.
const PIECE_CHUNKS: usize = 2;
/// Feeding after which operators and commands get their turn.
const TURN: Duration = Duration::from_millis(1);

/// Dataflows to feed, in turn, each once.
#[derive(Default)]
pub(super) struct FeedQueue {
    order: VecDeque<RelationId>,
    members: HashSet<RelationId>,
}

impl FeedQueue {
    pub(super) fn push(&mut self, id: RelationId) {
        if self.members.insert(id) {
            self.order.push_back(id);
        }
    }

    fn pop(&mut self) -> Option<RelationId> {
        let id = self.order.pop_front()?;
        self.members.remove(&id);
        Some(id)
    }

    fn len(&self) -> usize {
        self.order.len()
    }
}

/// What feeding came to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fed {
    /// All that can be had now was fed.
    All,
    /// There is more, when the dataflow can take it.
    BackedUp,
    /// There is more.
    More,
}

/// What one attempt to feed an import came to.
enum Step {
    /// The epoch is fed whole.
    Epoch,
    /// Some of it; there is more.
    Piece,
    /// There is more, when the dataflow can take it.
    BackedUp,
    /// Nothing can be fed now.
    Nothing,
}

impl WorkerState {
    /// Feeds what can be fed, for about a millisecond.
    pub(super) fn feed_all(&mut self) -> Fed {
        let mut fed = Fed::All;
        let start = Instant::now();
        for _ in 0..self.to_feed.len() {
            let Some(id) = self.to_feed.pop() else { break };
            let Some(mut installed) = self.dataflows.remove(&id) else { continue };
            let one = self.feed(&mut installed, start);
            self.dataflows.insert(id, installed);
            if one > Fed::All {
                self.to_feed.push(id);
                fed = fed.max(one);
            }
            if start.elapsed() >= TURN {
                return if self.to_feed.len() > 0 { Fed::More } else { Fed::All };
            }
        }
        fed
    }

    fn feed(&self, installed: &mut Installed, start: Instant) -> Fed {
        let mut fed = Fed::All;
        for i in 0..installed.imports.len() {
            while let Some(&(epoch, _)) = installed.imports[i].arrivals.front() {
                if epoch > installed.round && installed.sealed < installed.round {
                    break;
                }
                let failure = installed.built.context.failure.clone();
                if failure.has_failed() {
                    break;
                }
                if epoch == installed.round {
                    // A round may be large: what other imports bring of it need not wait for this one.
                    installed.built.inputs[i].advance_to(epoch.0);
                }
                match failure.guard(epoch, || self.feed_import(installed, i)) {
                    Some(Step::Epoch) => {
                        installed.imports[i].arrivals.pop_front();
                        installed.built.inputs[i].advance_to(epoch.next().0);
                    }
                    Some(Step::Piece) if start.elapsed() < TURN => {}
                    Some(Step::Piece) => {
                        fed = Fed::More;
                        break;
                    }
                    Some(Step::BackedUp) => {
                        fed = fed.max(Fed::BackedUp);
                        break;
                    }
                    Some(Step::Nothing) | None => break,
                }
            }
        }
        fed
    }

    fn feed_import(&self, installed: &mut Installed, i: usize) -> Result<Step> {
        let node = installed.imports[i].node;
        let Some((epoch, arriving)) = installed.imports[i].arrivals.pop_front() else { return Ok(Step::Nothing) };
        let is_large = !matches!(arriving, Arriving::Awaited | Arriving::Ready(_));
        let (step, rest) = if is_large && installed.built.context.pressure.is_import_backed_up(node) {
            (Step::BackedUp, arriving)
        } else {
            self.feed_piece(installed, i, epoch, arriving)?
        };
        installed.imports[i].arrivals.push_front((epoch, rest));
        Ok(step)
    }

    /// Feeds a piece of what arrives in an epoch; gives what is left of it.
    fn feed_piece(
        &self,
        installed: &mut Installed,
        i: usize,
        epoch: Epoch,
        arriving: Arriving,
    ) -> Result<(Step, Arriving)> {
        let relation = self.relations.get(&installed.imports[i].relation);
        // What the relation's own dataflow was sent before must be in it.
        let upstream = self.dataflows.get(&installed.imports[i].relation);
        let has_sealed = |needs: Epoch| upstream.is_none_or(|d| d.sealed >= needs);
        let reader = || relation.and_then(Relation::arrangement).map(|a| a.borrow().reader());
        let mut feeder = Feeder { worker: self.index, epoch, i, installed };
        Ok(match arriving {
            Arriving::Awaited => (Step::Nothing, Arriving::Awaited),
            Arriving::Ready(deltas) => {
                for delta in deltas {
                    let columns = feeder.import().projection.iter().map(|&c| delta.columns()[c].clone()).collect();
                    feeder.send(&delta, columns)?;
                }
                (Step::Epoch, Arriving::Ready(vec![]))
            }
            Arriving::Offsets(mut offsets) => {
                let (from, n_offsets_max) = (offsets.start, feeder.piece_offsets(relation));
                if let Some(batch) = read_piece(relation, &mut offsets, n_offsets_max, &feeder.import().projection)? {
                    let columns = batch.columns().to_vec();
                    let load = feeder.send(&Delta::inserts(batch), columns)?;
                    relation.into_iter().for_each(|relation| relation.shared.note_offsets(load));
                }
                feeder.took(offsets.start - from);
                (if offsets.is_empty() { Step::Epoch } else { Step::Piece }, Arriving::Offsets(offsets))
            }
            Arriving::Snapshot { needs, mut snapshot, mut next_chunk } => {
                let mut step = Step::Nothing;
                if let Some(reader) = reader().filter(|_| has_sealed(needs)) {
                    let (rows, ahead) = snapshot.get_or_insert_with(|| {
                        let rows = reader.snapshot(epoch);
                        feeder.installed.install.intake.expect(rows.n_rows() as u64);
                        (rows, ChunksAhead::default())
                    });
                    let n_chunks = rows.n_chunks();
                    next_chunk = feeder.send_chunks(next_chunk, n_chunks, |chunk, projection| {
                        let rows = rows.chunk_before(chunk, chunk + 1..n_chunks, Some(projection), ahead)?;
                        Ok(rows.map(Delta::inserts))
                    })?;
                    step = if next_chunk == n_chunks { Step::Epoch } else { Step::Piece };
                }
                (step, Arriving::Snapshot { needs, snapshot, next_chunk })
            }
            Arriving::Changes { needs, from, mut changes, mut next_chunk } => {
                let mut step = Step::Nothing;
                if let Some(reader) = reader().filter(|_| has_sealed(needs)) {
                    let (rows, ahead) = changes.get_or_insert_with(|| {
                        let rows = reader.changes(from, epoch);
                        feeder.installed.install.intake.expect(rows.n_rows_max() as u64);
                        (rows, ChunksAhead::default())
                    });
                    let n_chunks = rows.n_chunks();
                    next_chunk = feeder.send_chunks(next_chunk, n_chunks, |chunk, projection| {
                        rows.chunk_before(chunk, chunk + 1..n_chunks, Some(projection), ahead)
                    })?;
                    step = if next_chunk == n_chunks { Step::Epoch } else { Step::Piece };
                }
                (step, Arriving::Changes { needs, from, changes, next_chunk })
            }
        })
    }
}

/// The end of an import at which rows are put in.
struct Feeder<'a> {
    worker: usize,
    epoch: Epoch,
    i: usize,
    installed: &'a mut Installed,
}

impl Feeder<'_> {
    fn import(&self) -> &ImportState {
        &self.installed.imports[self.i]
    }

    /// Counts rows or offsets as taken in, if they belong to a round.
    fn took(&self, n: u64) {
        if self.epoch == self.installed.round {
            self.installed.install.intake.took(n);
        }
    }

    /// How many offsets of a source to read at once.
    fn piece_offsets(&self, relation: Option<&Relation>) -> u64 {
        let offset_bytes = relation.map_or(0, |relation| relation.shared.offset_bytes()).max(1);
        let n_bytes_max = self.installed.built.context.pressure.piece_bytes() as u64;
        (n_bytes_max / offset_bytes).clamp(PIECE_OFFSETS_MIN, PIECE_OFFSETS)
    }

    /// Sends some chunks of a round, from the given one on; returns which is next.
    fn send_chunks(
        &mut self,
        from: usize,
        n_chunks: usize,
        mut read: impl FnMut(usize, &[usize]) -> Result<Option<Delta>>,
    ) -> Result<usize> {
        let (to, mut n_bytes) = (n_chunks.min(from + PIECE_CHUNKS), 0);
        for chunk in from..to {
            if let Some(delta) = read(chunk, &self.import().projection)? {
                self.took(delta.n_rows() as u64);
                let columns = delta.columns().to_vec();
                n_bytes += self.send(&delta, columns)?.bytes as usize;
            }
            if n_bytes >= self.installed.built.context.pressure.piece_bytes() {
                return Ok(chunk + 1);
            }
        }
        Ok(to)
    }

    /// Sends rows under the import's schema; returns what they take.
    fn send(&mut self, delta: &Delta, columns: Vec<arrow::array::ArrayRef>) -> Result<Load> {
        if delta.is_empty() {
            return Ok(Load::default());
        }
        let delta = delta.with_columns(self.import().schema.clone(), columns)?;
        let node = self.import().node;
        let metrics = &self.installed.install.metrics.workers[self.worker][node];
        NodeMetrics::add(&metrics.rows_out, delta.n_rows());
        NodeMetrics::add(&metrics.batches_out, 1);
        let mut chunk = Chunk::from(delta);
        let load = chunk.load;
        self.installed.built.context.pressure.sent(self.worker, node, load);
        let input = &mut self.installed.built.inputs[self.i];
        // Each import's input stands at the epoch that it gets next.
        input.advance_to(self.epoch.0);
        input.send_batch(&mut chunk);
        Ok(load)
    }
}

fn read_piece(
    relation: Option<&Relation>,
    offsets: &mut Range<u64>,
    n_offsets_max: u64,
    projection: &[usize],
) -> Result<Option<RecordBatch>> {
    // In even pieces: a small last one would cost as many calls as a large one.
    let len = offsets.end - offsets.start;
    let n_pieces = len.div_ceil(n_offsets_max).max(1);
    let piece = offsets.start..offsets.start + len.div_ceil(n_pieces);
    offsets.start = piece.end;
    match relation.map(|r| &r.part) {
        Some(Part::Source(source)) if !piece.is_empty() => Ok(Some(source.read(piece, projection)?)),
        _ => Ok(None),
    }
}
