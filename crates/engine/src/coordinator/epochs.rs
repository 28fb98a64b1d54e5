//! Closing an epoch: writes are resolved, sources' offsets bound, workers told, writers answered.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use millstream_operators::dataflow::split_by_hash;
use millstream_planner::RelationId;
use millstream_planner::catalog::Kind;
use millstream_runtime::{Command, InstallDataflow, RelationInput, RelationSpec};
use millstream_types::{Delta, Epoch, Result};
use tokio::sync::oneshot;

use super::resolve::Resolver;
use super::{Base, Commit, Coordinator, Flow, Written, sources};
use crate::live::{Body, LiveRelation};

/// Epochs that a dataflow may have in flight before its sources wait.
pub(super) const IN_FLIGHT_MAX: usize = 3;
/// Rows of a stream from which on a batch is spread over the workers.
const SPREAD_ROWS_MIN: usize = 1 << 10;

type Reply = oneshot::Sender<Result<Written>>;
type Answer = (Reply, Result<Written>);
/// What changes in each relation.
type Changes = HashMap<RelationId, Vec<Delta>>;

impl Coordinator {
    /// Closes an epoch with these writes and what sources have; does nothing if there is neither.
    pub(super) fn close_epoch(&mut self, writes: Vec<(Commit, Reply)>) {
        let offsets = if self.order.is_held() { vec![] } else { self.due_offsets() };
        if writes.is_empty() && offsets.is_empty() {
            return;
        }
        let (answers, deltas) = self.resolve(writes);
        if deltas.is_empty() && offsets.is_empty() {
            answers.into_iter().for_each(|(reply, written)| drop(reply.send(written)));
            return;
        }
        let header = self.next_header();
        let n_workers = self.workers.len();
        let mut parts: Vec<Vec<(RelationId, RelationInput)>> = (0..n_workers).map(|_| Vec::new()).collect();
        let mut touched = HashSet::new();
        for (id, deltas) in deltas {
            touched.insert(id);
            for (worker, deltas) in self.route(id, deltas).into_iter().enumerate() {
                parts[worker].push((id, RelationInput::Deltas(deltas)));
            }
        }
        for (id, range) in offsets {
            touched.insert(id);
            self.bases[&id].live.advance(header.epoch, range.end);
            let len = range.end - range.start;
            for (worker, part) in parts.iter_mut().enumerate() {
                let at = |w: usize| range.start + len * w as u64 / n_workers as u64;
                part.push((id, RelationInput::Offsets(at(worker)..at(worker + 1))));
            }
        }
        self.touch(touched, header.epoch);
        self.send_epoch(&header, parts);
        self.publish(header.epoch);
        // A writer that has gone does not want to know.
        answers.into_iter().for_each(|(reply, written)| drop(reply.send(written)));
    }

    /// Notes which relations an epoch changes, views on them included.
    fn touch(&mut self, mut touched: HashSet<RelationId>, epoch: Epoch) {
        for id in &touched {
            self.bases[id].live.touch(epoch);
        }
        for flow in &mut self.flows {
            if flow.imports.iter().any(|i| touched.contains(i)) {
                touched.insert(flow.live.id);
                flow.live.touch(epoch);
                flow.in_flight.push_back(epoch);
            }
        }
    }

    /// Resolves transactions in order; gives each its answer, and for each relation what changes.
    fn resolve(&mut self, writes: Vec<(Commit, Reply)>) -> (Vec<Answer>, Changes) {
        let (commits, replies): (Vec<Commit>, Vec<Reply>) = writes.into_iter().unzip();
        match self.resolve_all(commits) {
            Ok((written, deltas)) => (replies.into_iter().zip(written).collect(), deltas),
            // Nothing was written, and everybody is told so.
            Err(error) => (replies.into_iter().map(|reply| (reply, Err(error.clone()))).collect(), HashMap::new()),
        }
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

    /// Makes a base relation.
    pub(crate) fn create_base(&mut self, live: Arc<LiveRelation>, spec: RelationSpec) {
        let id = live.id;
        self.clock.relations.write().insert(id, Arc::clone(&live));
        let source = match &live.body {
            Body::Source { source, .. } => Some(sources::SourceState::new(Arc::clone(source))),
            _ => None,
        };
        self.bases.insert(id, Base { live, next_row_id: 1, source, next_worker: 0 });
        let spec = Arc::new(spec);
        self.workers.send_all(|_| Command::CreateRelation(id, Arc::clone(&spec)));
    }

    /// Starts a dataflow at an epoch of its own. `build` makes it from the epoch's header, once its inputs are held.
    pub(crate) fn install(
        &mut self,
        live: Arc<LiveRelation>,
        imports: Vec<RelationId>,
        build: impl FnOnce(millstream_types::EpochHeader) -> InstallDataflow,
    ) {
        let header = self.next_header();
        let epoch = header.epoch;
        let install = Arc::new(build(header));
        self.clock.relations.write().insert(live.id, Arc::clone(&live));
        live.start(epoch);
        self.flows.push(Flow { live, imports, in_flight: [epoch].into() });
        self.workers.send_all(|_| Command::Install(Arc::clone(&install)));
        self.publish(epoch);
    }

    /// Forgets a relation. Whatever is built on it has been dropped before.
    pub(crate) fn drop_relation(&mut self, id: RelationId) {
        if let Some(live) = self.clock.relations.write().remove(&id) {
            live.drop_it();
        }
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

fn pieces(delta: Delta, n_rows_max: usize) -> Vec<Delta> {
    if delta.n_rows() <= n_rows_max {
        return vec![delta];
    }
    let n_rows = delta.n_rows();
    (0..n_rows).step_by(n_rows_max).map(|from| delta.slice(from, n_rows_max.min(n_rows - from))).collect()
}
