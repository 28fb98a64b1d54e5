//! Writing checkpoints, once all that they ask for has been handed over.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use millstream_planner::catalog::Kind;
use millstream_planner::{Catalog, RelationId};
use millstream_runtime::{HandedOver, SavedPart, StoreRows};
use millstream_storage::bucket::is_taken_over;
use millstream_storage::checkpoint::{
    Checkpoint, CheckpointStore, Commit, ObjectWriter, StreamLimits, StreamObjectWriter, TableId, WrittenObject,
    WrittenStreamObject,
};
use millstream_storage::log::Log;
use millstream_types::hash::partitions_of;
use millstream_types::{Epoch, Error, Result, SqlState};

use super::{
    Checkpointed, DataflowImage, EPOCH, History, IN_OBJECTS, Image, Limits, NEXT_ROW_ID, PLAN, POSITION, RELATION,
    ROW_ERRORS, Told, Written, by_worker, encode_errors, table_of_rows,
};
use crate::coordinator::{Clock, Request};
use crate::journal::{Waiting, end_taken_over};
use crate::live::{Body, LiveRelation};
use crate::retention::Retention;

/// As many checkpoints are remembered.
const REMEMBERED: usize = 100;
/// Into how many partitions of its own a worker puts the rows of a stream, so that more workers may share them later.
const N_SLOTS: usize = 8;
/// Chunks of rows that go to one of them, one after the other.
const SLOT_CHUNKS: usize = 2;
/// How often it is looked whether the log is so far.
const LOOK_EVERY: Duration = Duration::from_millis(1);

pub(super) struct CheckpointWriter {
    pub(super) store: Arc<CheckpointStore>,
    pub(super) clock: Arc<Clock>,
    pub(super) log: Arc<Log>,
    pub(super) waiting: Arc<Waiting>,
    pub(super) history: History,
    pub(super) stop: Arc<AtomicBool>,
    /// Tells who merges.
    pub(super) committed: Sender<()>,
    pub(super) limits: Limits,
    pub(super) n_workers: usize,
    pub(super) piece_bytes: usize,
    /// How many checkpoints were begun.
    pub(super) n_written: usize,
    /// What was handed over and is in no checkpoint yet, by owner.
    pub(super) unwritten: HashMap<u64, Unwritten>,
}

/// What an owner has handed over that is in no checkpoint yet.
#[derive(Default)]
pub(super) struct Unwritten {
    /// Oldest first, what all workers have handed over at once: the parts of each.
    complete: Vec<Vec<Vec<SavedPart>>>,
    /// What was asked for last: each worker's parts.
    arriving: HashMap<usize, Vec<SavedPart>>,
    /// It has ended, or will have.
    has_ended: bool,
    /// Nobody waits for it.
    stalls: bool,
}

impl Unwritten {
    fn take(&mut self, handed_over: HandedOver, n_workers: usize) {
        match handed_over.parts {
            Some(parts) => drop(self.arriving.insert(handed_over.worker, parts)),
            None => self.has_ended = true,
        }
        if self.arriving.len() == n_workers {
            let mut arrived: Vec<_> = std::mem::take(&mut self.arriving).into_iter().collect();
            arrived.sort_unstable_by_key(|(worker, _)| *worker);
            self.complete.push(arrived.into_iter().map(|(_, parts)| parts).collect());
            self.stalls = false;
        }
    }
}

impl CheckpointWriter {
    pub(super) fn run(mut self, told: &Receiver<Told>) {
        let mut image: Option<Image> = None;
        // Of the image, what has still to hand something over.
        let mut missing: HashSet<u64> = HashSet::new();
        while let Ok(told) = told.recv() {
            match told {
                Told::Write(wanted) => {
                    missing = owners_of(&wanted, |dataflow| dataflow.is_asked);
                    let all = owners_of(&wanted, |_| true);
                    self.unwritten.retain(|owner, _| all.contains(owner));
                    image = Some(wanted);
                }
                Told::HandedOver(handed_over) => {
                    let owner = handed_over.owner;
                    let unwritten = self.unwritten.entry(owner).or_default();
                    let n_complete = unwritten.complete.len();
                    unwritten.take(handed_over, self.n_workers);
                    if unwritten.has_ended || unwritten.complete.len() > n_complete {
                        missing.remove(&owner);
                    }
                }
                Told::Stalls(owner) => {
                    if missing.remove(&owner) {
                        self.unwritten.entry(owner).or_default().stalls = true;
                    }
                }
            }
            let Some(image) = image.take_if(|_| missing.is_empty()) else { continue };
            let epoch = image.header.epoch;
            let written = self.write(&image);
            match &written {
                Ok((written, _)) => tracing::debug!(?written, "a checkpoint is written"),
                Err(_) if self.stop.load(Ordering::Acquire) => return,
                Err(error) if is_taken_over(error) => end_taken_over(error),
                Err(error) => {
                    tracing::error!(%error, %epoch, "a checkpoint could not be written; the next one has all of it")
                }
            }
            let behind = self.unwritten.iter().filter(|(_, unwritten)| unwritten.stalls).map(|(&owner, _)| owner);
            let behind = behind.collect();
            let (outcome, stored) = match written {
                Ok((_, stored)) => (Ok(()), stored),
                Err(error) => (Err(error), vec![]),
            };
            let has_written = outcome.is_ok();
            let checkpointed = Checkpointed { header: image.header.clone(), outcome, behind, stored };
            // The coordinator may have ended.
            let _ = self.clock.request(Request::Checkpointed(Box::new(checkpointed)));
            // What is merged takes the place of what the coordinator has been told of.
            if has_written {
                // Who merges ends with this.
                let _ = self.committed.send(());
            }
        }
    }

    /// Writes a checkpoint; gives what it has stored of streams, too.
    fn write(&mut self, image: &Image) -> Result<(Written, Vec<(StoreRows, u64)>)> {
        let began = Instant::now();
        let epoch = image.header.epoch;
        // What it goes on from in the log has to be there.
        while self.waiting.durable() < image.log_sequence - 1 {
            if self.stop.load(Ordering::Acquire) {
                return Err(stopped());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let checkpoint = self.store.begin();
        self.n_written += 1;
        let (streams, others): (Vec<_>, Vec<_>) = image.bases.iter().partition(|base| base.is_stored_stream());
        let of_streams = streams.iter().map(|base| self.write_stream(&checkpoint, &base.live));
        let of_streams: Vec<WrittenStreamObject> = of_streams.filter_map(Result::transpose).collect::<Result<_>>()?;
        let mut objects: Vec<WrittenObject> = Vec::new();
        for worker in 0..self.n_workers {
            let mut object = checkpoint.object(worker as u32)?;
            let bases = others.iter().map(|base| (base.live.id.0, &base.live));
            let dataflows = image.dataflows.iter().map(|dataflow| (dataflow.owner, &dataflow.live));
            for (owner, live) in bases.chain(dataflows) {
                let Some(unwritten) = self.unwritten.get(&owner) else { continue };
                for part in unwritten.complete.iter().flat_map(|workers| &workers[worker]) {
                    if self.stop.load(Ordering::Acquire) {
                        return Err(stopped());
                    }
                    if let Err(error) = add(&mut object, owner, live, part, self.piece_bytes) {
                        self.fail_damaged(live, epoch, &error);
                        return Err(error);
                    }
                }
            }
            objects.extend(object.finish()?);
        }
        let n_bytes_written = objects.iter().map(WrittenObject::n_bytes).sum::<u64>()
            + of_streams.iter().map(WrittenStreamObject::n_bytes).sum::<u64>();
        let commit = self.commit_of(image)?;
        let (manifest, stored) = self.store.commit(&checkpoint, commit, objects, of_streams)?;
        let stored = stored.into_iter().map(|stored| {
            let blocks = by_worker(stored.blocks, self.n_workers);
            let rows = StoreRows { relation: RelationId(stored.stream), up_to: epoch, replaced: vec![], blocks };
            let object = manifest.objects_of_stream(stored.stream).last();
            (rows, object.map_or(0, |object| object.len))
        });
        let stored = stored.collect();
        *self.limits.lock() = streams.iter().map(|base| (base.live.id.0, limits_of(&base.live))).collect();
        self.unwritten.values_mut().for_each(|unwritten| unwritten.complete.clear());
        // It is written now; what it makes needless is forgotten after the next one otherwise.
        match self.log.truncate_before(self.store.log_needed_from()).and_then(|()| self.store.collect()) {
            Err(error) if is_taken_over(&error) => return Err(error),
            Err(error) => tracing::warn!(%error, "what a checkpoint makes needless could not be deleted"),
            Ok(()) => {}
        }
        let written = Written {
            epoch,
            took: began.elapsed(),
            n_bytes: manifest.n_bytes(),
            n_objects: manifest.n_objects(),
            n_bytes_written,
        };
        let mut history = self.history.lock();
        history.push_back(written.clone());
        if history.len() > REMEMBERED {
            history.pop_front();
        }
        Ok((written, stored))
    }

    /// Writes what a stream has handed over, in the order in which it came.
    fn write_stream(&self, checkpoint: &Checkpoint, live: &LiveRelation) -> Result<Option<WrittenStreamObject>> {
        let Some(unwritten) = self.unwritten.get(&live.id.0) else { return Ok(None) };
        let mut object: Option<StreamObjectWriter> = None;
        for (worker, parts) in unwritten.complete.iter().flat_map(|workers| workers.iter().enumerate()) {
            let rows = parts.iter().filter_map(|part| match part {
                SavedPart::Rows(rows, _) => Some(rows),
                SavedPart::State(..) | SavedPart::Nothing => None,
            });
            let partitions = partitions_of(worker, self.n_workers);
            let n_slots = N_SLOTS.min(partitions.len());
            for (rows, i) in rows.flat_map(|rows| rows.in_order()).zip(0..) {
                if self.stop.load(Ordering::Acquire) {
                    return Err(stopped());
                }
                let (rows, births) = rows?;
                let object = match &mut object {
                    Some(object) => object,
                    None => object.insert(checkpoint.stream_object(live.id.0, &rows.schema())?),
                };
                let slot = (self.n_written + i / SLOT_CHUNKS) % n_slots * partitions.len() / n_slots;
                object.push((partitions.start + slot) as u8, &births, &rows)?;
            }
        }
        object.map_or(Ok(None), StreamObjectWriter::finish)
    }

    /// A dataflow whose spilled state is damaged is in no checkpoint any more.
    fn fail_damaged(&self, live: &LiveRelation, epoch: Epoch, error: &Error) {
        if error.state() == SqlState::DATA_CORRUPTED && matches!(live.body, Body::Dataflow { .. }) {
            // The coordinator may have ended.
            let _ = self.clock.request(Request::Failed(live.id, epoch, error.clone()));
        }
    }

    fn commit_of(&self, image: &Image) -> Result<Commit> {
        let epoch = image.header.epoch;
        let mut commit = Commit {
            epoch: epoch.0,
            now_us: image.header.now_us,
            log_sequence: image.log_sequence,
            catalog: image.catalog.change_since(&Catalog::new()).encode()?,
            ..Commit::default()
        };
        let mut set = |owner: u64, key: &[u8], value: Vec<u8>| {
            commit.owners.insert(owner);
            commit.values.insert((owner, key.to_vec()), Some(value));
        };
        for base in &image.bases {
            let owner = base.live.id.0;
            set(owner, NEXT_ROW_ID, base.next_row_id.to_le_bytes().to_vec());
            if let Some(position) = base.position {
                set(owner, POSITION, position.to_le_bytes().to_vec());
            }
            if base.is_stored_stream() {
                set(owner, IN_OBJECTS, vec![]);
            }
        }
        let streams = image.bases.iter().filter(|base| base.is_stored_stream());
        let stream_floors = streams.map(|base| (base.live.id.0, base.floor.0)).collect();
        for DataflowImage { live, owner, is_asked } in &image.dataflows {
            let unwritten = self.unwritten.get(owner);
            if unwritten.is_some_and(|unwritten| unwritten.has_ended) {
                continue;
            }
            set(*owner, RELATION, live.id.0.to_le_bytes().to_vec());
            if let Some(plan_hash) = live.plan_hash() {
                set(*owner, PLAN, plan_hash.to_le_bytes().to_vec());
            }
            if *is_asked && unwritten.is_some_and(|unwritten| !unwritten.stalls) {
                set(*owner, EPOCH, epoch.0.to_le_bytes().to_vec());
                if let Body::Dataflow { errors, .. } = &live.body {
                    set(*owner, ROW_ERRORS, encode_errors(&errors.at_mark())?);
                }
            }
        }
        commit.stream_floors = stream_floors;
        Ok(commit)
    }
}

fn limits_of(live: &LiveRelation) -> StreamLimits {
    // It was looked at when the stream was made.
    Retention::limits(Retention::of_stream(&live.relation).ok().flatten().as_ref())
}

fn owners_of(image: &Image, is_meant: impl Fn(&DataflowImage) -> bool) -> HashSet<u64> {
    let bases = image.bases.iter().map(|base| base.live.id.0);
    let dataflows = image.dataflows.iter().filter(|dataflow| is_meant(dataflow));
    bases.chain(dataflows.map(|dataflow| dataflow.owner)).collect()
}

fn stopped() -> Error {
    Error::internal("the engine has ended before the checkpoint was written")
}

/// Adds a part of what an owner has handed over to an object.
fn add(object: &mut ObjectWriter, owner: u64, live: &LiveRelation, part: &SavedPart, piece_bytes: usize) -> Result<()> {
    match part {
        SavedPart::Rows(unsaved, _) => {
            let add = |gone: &[_], rows: &[_]| object.add(table_of_rows(owner), unsaved.shape(), gone, rows);
            unsaved.hand_out(place_of_rows(live), piece_bytes, add)
        }
        SavedPart::Nothing => Ok(()),
        SavedPart::State(node, changes, _) => changes.pieces().try_for_each(|piece| {
            piece?.tables().try_for_each(|(table, change)| {
                object.add(TableId { owner, node: *node, table }, &change.shape, &change.gone, &change.rows)
            })
        }),
    }
}

/// The columns whose hash says where rows belong; none if they may be anywhere.
fn place_of_rows(live: &LiveRelation) -> Option<&[usize]> {
    match &live.body {
        Body::Dataflow { place, .. } => place.as_deref(),
        _ => (live.relation.kind == Kind::Table).then_some(&live.relation.primary_key),
    }
}
