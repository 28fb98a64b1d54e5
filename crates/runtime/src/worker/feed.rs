//! Feeding dataflows: each import gets its epochs in order, each as soon as it can be had.

use std::ops::Range;

use arrow::array::RecordBatch;
use millstream_operators::RelationId;
use millstream_types::{Delta, Epoch, Result};

use super::{Installed, WorkerState, project};
use crate::chunk::Chunk;
use crate::relation::{Arriving, Part, Relation};

/// Offsets of a source that are read at once.
const PIECE_OFFSETS: u64 = 1 << 14;
/// Chunks of a snapshot that are fed at once.
const PIECE_CHUNKS: usize = 2;

/// What one attempt to feed an import came to.
enum Fed {
    /// The epoch is fed whole.
    Epoch,
    /// Some of it; there is more.
    Piece,
    /// Nothing can be fed now.
    Nothing,
}

impl WorkerState<'_> {
    /// Feeds what can be fed, at most a piece of a large epoch to each import; returns whether there is more.
    pub(super) fn feed_all(&mut self) -> bool {
        if self.to_feed.is_empty() {
            return false;
        }
        let dataflows: Vec<RelationId> = self.to_feed.drain().collect();
        for id in dataflows {
            let Some(mut installed) = self.dataflows.remove(&id) else { continue };
            if self.feed(&mut installed) {
                self.to_feed.insert(id);
            }
            self.dataflows.insert(id, installed);
        }
        !self.to_feed.is_empty()
    }

    fn feed(&mut self, installed: &mut Installed) -> bool {
        let mut goes_on = false;
        for i in 0..installed.imports.len() {
            loop {
                let failure = installed.built.context.failure.clone();
                let epoch = installed.imports[i].arrivals.front().map_or(Epoch::ZERO, |(epoch, _)| *epoch);
                match failure.guard(epoch, || self.feed_import(installed, i)) {
                    Some(Fed::Epoch) => {
                        installed.imports[i].arrivals.pop_front();
                        installed.built.inputs[i].advance_to(epoch.next().0);
                    }
                    Some(Fed::Piece) => {
                        goes_on = true;
                        break;
                    }
                    Some(Fed::Nothing) | None => break,
                }
            }
        }
        goes_on
    }

    fn feed_import(&self, installed: &mut Installed, i: usize) -> Result<Fed> {
        let import = &mut installed.imports[i];
        let input = &mut installed.built.inputs[i];
        let Some((epoch, arriving)) = import.arrivals.pop_front() else { return Ok(Fed::Nothing) };
        let mut send = |delta: Delta| {
            if !delta.is_empty() {
                // Each import's input stands at the epoch that it gets next.
                input.advance_to(epoch.0);
                input.send_batch(&mut Chunk(Some(delta)));
            }
        };
        let relation = self.relations.get(&import.relation);
        let (fed, rest) = match arriving {
            Arriving::Awaited => (Fed::Nothing, Arriving::Awaited),
            Arriving::Ready(deltas) => {
                for delta in deltas {
                    send(project(&delta, import)?);
                }
                (Fed::Epoch, Arriving::Ready(vec![]))
            }
            Arriving::Offsets(mut offsets) => {
                if let Some(batch) = read_piece(relation, &mut offsets, &import.projection)? {
                    let columns = batch.columns().to_vec();
                    send(Delta::inserts(batch).with_columns(import.schema.clone(), columns)?);
                }
                (if offsets.is_empty() { Fed::Epoch } else { Fed::Piece }, Arriving::Offsets(offsets))
            }
            Arriving::Snapshot { needs, mut snapshot, mut next_chunk } => {
                // What the relation's own dataflow was sent before must be in it.
                let is_there = self.dataflows.get(&import.relation).is_none_or(|d| d.sealed >= needs);
                let arrangement = relation.and_then(Relation::arrangement);
                let mut fed = Fed::Nothing;
                if let Some(arrangement) = arrangement.filter(|_| is_there) {
                    let rows = snapshot.get_or_insert_with(|| arrangement.borrow().reader().snapshot(epoch));
                    let to = rows.n_chunks().min(next_chunk + PIECE_CHUNKS);
                    for chunk in next_chunk..to {
                        if let Some(batch) = rows.chunk(chunk, Some(&import.projection))? {
                            let columns = batch.columns().to_vec();
                            send(Delta::inserts(batch).with_columns(import.schema.clone(), columns)?);
                        }
                    }
                    next_chunk = to;
                    fed = if to == rows.n_chunks() { Fed::Epoch } else { Fed::Piece };
                }
                (fed, Arriving::Snapshot { needs, snapshot, next_chunk })
            }
        };
        import.arrivals.push_front((epoch, rest));
        Ok(fed)
    }
}

fn read_piece(
    relation: Option<&Relation>,
    offsets: &mut Range<u64>,
    projection: &[usize],
) -> Result<Option<RecordBatch>> {
    let piece = offsets.start..offsets.end.min(offsets.start + PIECE_OFFSETS);
    offsets.start = piece.end;
    match relation.map(|r| &r.part) {
        Some(Part::Source(source)) if !piece.is_empty() => Ok(Some(source.read(piece, projection)?)),
        _ => Ok(None),
    }
}
