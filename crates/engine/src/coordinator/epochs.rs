//! Making an epoch: writes are resolved, sources' offsets bound, its record appended, workers told. Writers are answered when
//! it is closed.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_operators::dataflow::split_by_hash;
use millstream_planner::catalog::{CatalogChange, Kind, Relation};
use millstream_planner::{Catalog, RelationId};
use millstream_runtime::{Command, RelationInput, RelationSpec};
use millstream_types::{Delta, Epoch, EpochHeader, Error, Result};
use tokio::sync::oneshot;

use super::resolve::{Publication, Resolver};
use super::retention::Floors;
use super::{Base, Commit, Coordinator, WriteOp, Written, sources};
use crate::epoch_history::{Brought, EpochEntry};
use crate::journal::{EPOCHS_LEFT_OUT, EnteredEpoch};
use crate::live::{Body, Failed, LiveRelation};
use crate::retention::{Kept, Retention};

/// Rows of a stream from which on a batch is spread over the workers.
const SPREAD_ROWS_MIN: usize = 1 << 10;

pub(super) type Reply = oneshot::Sender<Result<Written>>;
/// What changes in each relation.
type Changes = HashMap<RelationId, Vec<Delta>>;
/// How far each source advances.
pub(super) type Offsets = Vec<(RelationId, Range<u64>)>;

/// What a writer is told when its epoch is closed.
pub(crate) struct Answer {
    reply: Reply,
    written: Result<Written>,
    /// Makes known what it has changed in the catalog.
    publish: Option<Box<dyn FnOnce() + Send>>,
}

impl Answer {
    /// Tells the writer.
    pub(crate) fn send(self) {
        if let Some(publish) = self.publish {
            publish();
        }
        // A writer that has gone does not want to know.
        drop(self.reply.send(self.written));
    }

    /// Tells the writer that nothing was written.
    pub(crate) fn fail(self, error: &Error) {
        drop(self.reply.send(Err(error.clone())));
    }
}

/// Transactions that are resolved.
#[derive(Default)]
struct Resolved {
    answers: Vec<Answer>,
    catalog: Vec<CatalogChange>,
    deltas: Changes,
    /// For each change of the catalog, how what was made for it is taken back.
    take_back: Vec<TakeBack>,
}

type TakeBack = Box<dyn FnOnce(&mut Coordinator) + Send>;

impl Coordinator {
    /// Makes an epoch of these writes and what sources have; nothing if there is neither. Writes that do not wait for the
    /// disk get one of their own.
    pub(super) fn make_epoch(&mut self, writes: Vec<(Commit, Reply)>) {
        let writes = self.admit(writes);
        let (asynchronous, synchronous): (Vec<_>, Vec<_>) = writes.into_iter().partition(|(c, _)| c.is_asynchronous);
        let offsets = self.due_offsets();
        self.make_epoch_of(synchronous, offsets, false);
        self.make_epoch_of(asynchronous, vec![], true);
    }

    fn make_epoch_of(&mut self, writes: Vec<(Commit, Reply)>, offsets: Offsets, is_asynchronous: bool) {
        if writes.is_empty() && offsets.is_empty() {
            return;
        }
        let resolved = self.resolve(writes);
        let Resolved { answers, catalog, deltas, take_back } = resolved;
        if deltas.is_empty() && offsets.is_empty() && catalog.is_empty() {
            self.answer_in_turn(answers);
            return;
        }
        let header = self.next_header();
        let record = match self.record(&header, &catalog, &deltas, &offsets, &[]) {
            Ok(record) => record,
            // Nothing was written, and everybody is told so.
            Err(error) => {
                answers.into_iter().for_each(|answer| answer.fail(&error));
                take_back.into_iter().for_each(|take_back| take_back(self));
                if !offsets.is_empty() {
                    self.put_off(&error);
                }
                return;
            }
        };
        self.make(&header);
        let n_transactions = answers.iter().filter(|answer| answer.written.is_ok()).count();
        let n_log_bytes = record.as_ref().map(|(_, record)| record.len());
        let brought = Brought { n_rows: n_rows(&deltas, &offsets), n_transactions, n_log_bytes };
        let entry = self.clock.epochs.add(&header, brought);
        self.note_touched(&header, &deltas, &offsets, Some(&entry));
        entry.note_complete();
        self.note_kept(&header, &deltas);
        self.note_catalog(catalog);
        self.enter(EnteredEpoch { epoch: header.epoch, is_asynchronous, answers, entry: Some(entry) }, record);
        self.send_changes(&header, deltas, offsets);
    }

    /// Notes what an epoch changes, before anybody may see the epoch. Its entry, if it is remembered, is told of each
    /// relation that has completed it.
    pub(super) fn note_touched(
        &mut self,
        header: &EpochHeader,
        deltas: &Changes,
        offsets: &Offsets,
        entry: Option<&Arc<EpochEntry>>,
    ) {
        self.note_advance(offsets);
        for (id, range) in offsets {
            self.bases[id].live.advance(header.epoch, range.end);
        }
        let touched: HashSet<RelationId> = deltas.keys().copied().chain(offsets.iter().map(|(id, _)| *id)).collect();
        if !touched.is_empty() {
            self.touch(touched, header.epoch, entry);
        }
    }

    /// Sends workers their parts of an epoch.
    pub(super) fn send_changes(&mut self, header: &EpochHeader, deltas: Changes, offsets: Offsets) {
        let n_workers = self.workers.len();
        let mut parts: Vec<Vec<(RelationId, RelationInput)>> = (0..n_workers).map(|_| Vec::new()).collect();
        for (id, deltas) in deltas {
            for (worker, deltas) in self.route(id, deltas).into_iter().enumerate() {
                parts[worker].push((id, RelationInput::Deltas(deltas)));
            }
        }
        for (id, range) in offsets {
            let len = range.end - range.start;
            for (worker, part) in parts.iter_mut().enumerate() {
                let at = |w: usize| range.start + len * w as u64 / n_workers as u64;
                part.push((id, RelationInput::Offsets(at(worker)..at(worker + 1))));
            }
        }
        if parts.iter().any(|part| !part.is_empty()) {
            self.send_epoch(header, parts);
        }
    }

    /// Of these writes and those that wait, the ones whose turn it is. A write waits while a dataflow over its relation
    /// has as much in flight as it may, or does not catch up otherwise.
    /// While one transaction has the write order, it alone may write.
    fn admit(&mut self, writes: Vec<(Commit, Reply)>) -> Vec<(Commit, Reply)> {
        let mut waiting = std::mem::take(&mut self.waiting_writes);
        waiting.extend(writes);
        if waiting.is_empty() {
            return vec![];
        }
        let throttled = self.throttled();
        let paces = self.paces();
        let is_full = self.memory.is_over();
        let mut admitted = Vec::new();
        // What waits keeps its place before later writes to the same relation.
        let mut behind: HashSet<RelationId> = HashSet::new();
        for (commit, reply) in waiting {
            if self.is_ending && !commit.ops.is_empty() {
                // A writer that has gone does not want to know.
                drop(reply.send(Err(super::shutting_down())));
                continue;
            }
            if is_full && commit.ops.iter().any(WriteOp::adds_rows) {
                // A writer that has gone does not want to know.
                drop(reply.send(Err(Error::out_of_memory("the memory limit of the server was reached"))));
                continue;
            }
            let waits = |id: RelationId| {
                throttled.contains(&id) || behind.contains(&id) || self.is_paced(id, paces.get(&id).copied())
            };
            let has_order = self.order.is_holder(commit.order);
            let is_shut_out = self.order.is_held() && !has_order && !commit.ops.is_empty();
            if is_shut_out || !has_order && commit.ops.iter().map(WriteOp::relation).any(waits) {
                behind.extend(commit.ops.iter().map(WriteOp::relation));
                self.waiting_writes.push((commit, reply));
            } else {
                admitted.push((commit, reply));
            }
        }
        if !paces.is_empty() {
            for id in admitted.iter().flat_map(|(commit, _)| commit.ops.iter().map(WriteOp::relation)) {
                if let Some(base) = self.bases.get_mut(&id) {
                    base.last_written = Instant::now();
                }
            }
        }
        admitted
    }

    /// Whether a relation was written to too recently, for one that is slowed.
    fn is_paced(&self, id: RelationId, pace: Option<u32>) -> bool {
        pace.is_some_and(|pace| self.bases.get(&id).is_some_and(|b| b.last_written.elapsed() < interval(pace)))
    }

    /// Whether the first write that waits need not any more.
    pub(super) fn has_write_to_admit(&mut self) -> bool {
        let Some((first, _)) = self.waiting_writes.first().filter(|_| !self.order.is_held()) else { return false };
        let relations: Vec<RelationId> = first.ops.iter().map(WriteOp::relation).collect();
        let throttled = self.throttled();
        let paces = self.paces();
        !relations.iter().any(|id| throttled.contains(id) || self.is_paced(*id, paces.get(id).copied()))
    }

    /// When a write that waits should be looked at again; `None` if only something that is completed can let it go on.
    pub(super) fn until_writes_are_due(&self) -> Option<Duration> {
        if self.waiting_writes.is_empty() {
            return None;
        }
        self.paces().into_values().min().map(interval)
    }

    /// Resolves transactions in order; gives each its answer, and what changes.
    fn resolve(&mut self, writes: Vec<(Commit, Reply)>) -> Resolved {
        let (mut commits, replies): (Vec<Commit>, Vec<Reply>) = writes.into_iter().unzip();
        let publications: Vec<_> = commits.iter_mut().map(|commit| commit.publication.take()).collect();
        let (written, deltas) = match self.resolve_all(commits) {
            Ok(resolved) => resolved,
            // Nothing was written, and everybody is told so.
            Err(error) => (replies.iter().map(|_| Err(error.clone())).collect(), HashMap::new()),
        };
        let mut resolved = Resolved { deltas, ..Resolved::default() };
        for ((reply, written), publication) in replies.into_iter().zip(written).zip(publications) {
            let mut publish_it = None;
            if let Some(publication) = publication {
                let Publication { change, publish, take_back } = *publication;
                if written.is_ok() {
                    resolved.catalog.push(change);
                    resolved.take_back.push(take_back);
                    publish_it = Some(publish);
                } else {
                    take_back(self);
                }
            }
            resolved.answers.push(Answer { reply, written, publish: publish_it });
        }
        resolved
    }

    fn resolve_all(&mut self, commits: Vec<Commit>) -> Result<(Vec<Result<Written>>, Changes)> {
        let mut resolver = Resolver::new(self, commits.iter())?;
        let written = commits.into_iter().enumerate().map(|(i, commit)| resolver.resolve(i, commit)).collect();
        Ok((written, resolver.into_deltas()?))
    }

    /// Each worker's part of a stored relation's changes.
    fn route(&mut self, id: RelationId, deltas: Vec<Delta>) -> Vec<Vec<Delta>> {
        let n_workers = self.workers.len();
        let base = self.bases.get_mut(&id).expect("a base relation");
        let relation = Arc::clone(&base.live.relation);
        let mut parts: Vec<Vec<Delta>> = vec![Vec::new(); n_workers];
        for delta in deltas {
            for delta in pieces(delta, self.batch_rows_max) {
                if relation.kind == Kind::Table {
                    let split = split_by_hash(&delta, &relation.primary_key, n_workers);
                    let split = split.expect("columns of relations can be taken");
                    split.into_iter().zip(&mut parts).filter(|(d, _)| !d.is_empty()).for_each(|(d, p)| p.push(d));
                } else if delta.n_rows() < SPREAD_ROWS_MIN {
                    base.next_worker = (base.next_worker + 1) % n_workers;
                    parts[base.next_worker].push(delta);
                } else {
                    let at = |w: usize| delta.n_rows() * w / n_workers;
                    (0..n_workers).for_each(|w| parts[w].push(delta.slice(at(w), at(w + 1) - at(w))));
                }
            }
        }
        parts
    }

    /// An epoch is as a checkpoint has it.
    pub(crate) fn restored(&mut self, header: &EpochHeader) {
        self.make(header);
        self.clock.close(header.epoch);
    }

    /// Does an epoch again.
    pub(crate) fn replay(&mut self, header: &EpochHeader, deltas: Changes, offsets: Offsets, floors: Floors) {
        self.make(header);
        self.note_touched(header, &deltas, &offsets, None);
        self.note_floors(header, &floors);
        self.clock.close(header.epoch);
        self.send_changes(header, deltas, offsets);
        self.send_floors(header, floors);
    }

    /// Nothing is left to be done again: sources go on from where they are.
    pub(crate) fn replayed(&mut self) {
        self.bases.values_mut().filter_map(|base| base.source.as_mut()).for_each(sources::SourceState::restart);
    }

    /// Begins with an epoch that no earlier process can have shown to anybody; returns it, to be waited for.
    ///
    /// # Errors
    /// 53100 if there is no room for its record.
    pub(crate) fn begin_after_restart(&mut self) -> Result<Epoch> {
        if self.last_epoch > Epoch::ZERO {
            self.last_epoch = Epoch(self.last_epoch.0 + EPOCHS_LEFT_OUT);
            self.make_empty()?;
        }
        Ok(self.last_epoch)
    }

    /// A hidden row id is taken.
    pub(crate) fn note_row_id(&mut self, id: RelationId, row_id: i64) {
        if let Some(base) = self.bases.get_mut(&id) {
            base.next_row_id = base.next_row_id.max(row_id + 1);
        }
    }

    /// All tables and streams.
    pub(crate) fn base_relations(&self) -> Vec<RelationId> {
        self.bases.keys().copied().collect()
    }

    /// A table or stream that runs.
    pub(crate) fn base_relation(&self, id: RelationId) -> Option<Arc<Relation>> {
        self.base(id).map(|base| Arc::clone(&base.live.relation))
    }

    /// Makes a base relation.
    pub(crate) fn create_base(&mut self, live: Arc<LiveRelation>, spec: RelationSpec) {
        let id = live.id;
        self.clock.relations.write().insert(id, Arc::clone(&live));
        let source = match &live.body {
            Body::Source { source, .. } => Some(sources::SourceState::new(Arc::clone(source))),
            _ => None,
        };
        let last_written = Instant::now();
        // It was looked at when the stream was made.
        let retention = Retention::of_stream(&live.relation).ok().flatten();
        let kept = retention.map(Kept::new);
        self.bases.insert(id, Base { live, next_row_id: 1, source, next_worker: 0, last_written, kept });
        let spec = Arc::new(spec);
        self.workers.send_all(|_| Command::CreateRelation(id, Arc::clone(&spec)));
    }

    /// A table or stream could not be restored: it can be dropped, and nothing else. What the log has of it stays there.
    pub(crate) fn fail_base(&mut self, id: RelationId, cause: Error) {
        let Some(base) = self.bases.remove(&id) else { return };
        tracing::error!(relation = %base.live.relation.name, error = %cause, "a relation is damaged");
        base.live.fail(Failed { epoch: self.last_epoch, cause, origin: None });
        self.workers.send_all(|_| Command::DropRelation(id));
        self.damaged.insert(id);
    }

    /// Forgets a relation if it has rows or a dataflow. Whatever is built on it has been dropped before.
    pub(crate) fn drop_if_running(&mut self, id: RelationId) {
        if self.clock.relation(id).is_some() {
            self.drop_relation(id);
        }
    }

    /// Forgets what the catalog has no more.
    pub(crate) fn drop_all(&mut self, gone: &[Arc<Relation>], catalog: &Catalog) {
        for relation in gone {
            match &relation.kind {
                Kind::Index(index) => self.set_indexes(index.relation, catalog),
                _ => self.drop_if_running(relation.id),
            }
        }
    }

    /// Lets a relation have the indexes that the catalog says.
    pub(crate) fn set_indexes(&mut self, id: RelationId, catalog: &Catalog) {
        let columns: Vec<Vec<usize>> = catalog.indexed_columns(id).collect();
        if let Some(later) = self.later_indexes(id) {
            *later = Some(columns);
            return;
        }
        self.workers.send_all(|_| Command::SetIndexes(id, columns.clone()));
    }

    /// Forgets a dataflow that was to take a failed one's place.
    pub(crate) fn put_back(&mut self, rebuilt: &LiveRelation, failed: Arc<LiveRelation>) {
        if self.clock.relation(rebuilt.id).is_some_and(|live| std::ptr::eq(&*live, rebuilt)) {
            self.drop_relation(rebuilt.id);
            self.clock.relations.write().insert(failed.id, failed);
        }
    }

    fn drop_relation(&mut self, id: RelationId) {
        // What the catalog has on it has been dropped before; subscriptions to it end now.
        let follows = |f: &&super::flows::Flow| f.imports.contains(&id) && crate::subscribe::is_hidden(f.live.id);
        let followers: Vec<RelationId> = self.flows.iter().filter(follows).map(|f| f.live.id).collect();
        followers.into_iter().for_each(|follower| self.drop_relation(follower));
        let removed = self.clock.relations.write().remove(&id);
        if let Some(live) = removed {
            live.drop_it();
            self.will_be_freed(&live);
        }
        self.damaged.remove(&id);
        self.forget_to_start(id);
        if self.bases.remove(&id).is_some() {
            self.workers.send_all(|_| Command::DropRelation(id));
        } else {
            self.flows.retain(|f| f.live.id != id);
            self.workers.send_all(|_| Command::Drop(id));
        }
    }

    pub(super) fn base(&self, id: RelationId) -> Option<&Base> {
        self.bases.get(&id)
    }
}

/// Rows that come or go, and offsets.
fn n_rows(deltas: &Changes, offsets: &Offsets) -> u64 {
    let n_rows: usize = deltas.values().flatten().map(Delta::n_rows).sum();
    n_rows as u64 + offsets.iter().map(|(_, range)| range.end - range.start).sum::<u64>()
}

fn pieces(delta: Delta, n_rows_max: usize) -> Vec<Delta> {
    if delta.n_rows() <= n_rows_max {
        return vec![delta];
    }
    let n_rows = delta.n_rows();
    (0..n_rows).step_by(n_rows_max).map(|from| delta.slice(from, n_rows_max.min(n_rows - from))).collect()
}

/// The time between two epochs of a relation that is slowed by a power of two.
pub(super) fn interval(pace: u32) -> Duration {
    sources::TICK * (1 << pace)
}
