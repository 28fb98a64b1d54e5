//! Resolving writes: keys are looked up in bulk, conflicts decided in order, and out comes an exact delta.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_planner::RelationId;
use millstream_planner::catalog::{CatalogChange, Kind, Relation};
use millstream_state::Hold;
use millstream_types::{Delta, Epoch, Error, Result, SqlState};

use super::Coordinator;
use crate::lookup::BulkLookup;
use crate::reads::ReadSet;
use crate::staged::{Clash, Conflict, KeyedRows, Known, Mark, Staged, duplicate_key, numbered};
use crate::transaction::Written;

/// What a transaction asks for: its writes, and what they rest on.
#[derive(Default)]
pub(crate) struct Commit {
    pub(crate) ops: Vec<WriteOp>,
    /// What was read: nothing of it may have changed since.
    pub(crate) reads: Option<Reads>,
    /// The hold on the write order that the transaction has.
    pub(crate) order: Option<u64>,
    /// The writer does not wait until it is durable.
    pub(crate) is_asynchronous: bool,
    /// What becomes of the catalog with it.
    pub(crate) publication: Option<Box<Publication>>,
}

/// A change of the catalog that is made known when its epoch is closed.
pub(crate) struct Publication {
    pub(crate) change: CatalogChange,
    /// Makes it known.
    pub(crate) publish: Box<dyn FnOnce() + Send>,
    /// Takes back what was made for it: it comes to nothing.
    pub(crate) take_back: Box<dyn FnOnce(&mut Coordinator) + Send>,
}

/// What a transaction has read, and as of when.
pub(crate) struct Reads {
    pub(crate) epoch: Epoch,
    pub(crate) set: ReadSet,
    /// Tables that were read by key can still be read as of the epoch.
    pub(crate) _holds: Vec<Hold>,
}

/// One write of a transaction.
pub(crate) enum WriteOp {
    /// New rows, all visible columns.
    Insert { relation: RelationId, rows: RecordBatch, conflict: Conflict },
    /// Rows that were read and go, and rows that come, all columns.
    Merge {
        relation: RelationId,
        removed: Vec<RecordBatch>,
        added: Vec<RecordBatch>,
        /// The epoch over which they were staged.
        seen_at: Epoch,
        /// More than plain inserts was decided by the keys that existed then.
        decided: bool,
    },
}

impl WriteOp {
    pub(crate) fn relation(&self) -> RelationId {
        match self {
            WriteOp::Insert { relation, .. } | WriteOp::Merge { relation, .. } => *relation,
        }
    }

    /// Whether there are more rows afterwards, as far as is known before it is resolved.
    pub(super) fn adds_rows(&self) -> bool {
        let n_rows = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        match self {
            WriteOp::Insert { .. } => true,
            WriteOp::Merge { removed, added, .. } => n_rows(added) > n_rows(removed),
        }
    }

    /// The rows whose keys matter.
    fn rows(&self) -> Vec<&RecordBatch> {
        match self {
            WriteOp::Insert { rows, .. } => vec![rows],
            WriteOp::Merge { removed, added, .. } => removed.iter().chain(added).collect(),
        }
    }
}

/// Resolves the transactions of one epoch, in order.
pub(super) struct Resolver<'a> {
    coordinator: &'a mut Coordinator,
    /// Rows of closed epochs by the keys that the transactions write or have read.
    found: HashMap<RelationId, KeyedRows>,
    /// Tables whose keys were not looked up, because nothing but the one transaction that writes them has touched them
    /// since that saw them.
    unchanged: HashSet<RelationId>,
    /// For each transaction, rows that it has read by key as they were then. Missing if nothing has changed since.
    seen: HashMap<(usize, RelationId), KeyedRows>,
    staged: HashMap<RelationId, Staged>,
}

impl<'a> Resolver<'a> {
    /// Looks up all keys that the transactions write or have read, at once.
    pub(super) fn new<'t>(
        coordinator: &'a mut Coordinator,
        commits: impl Iterator<Item = &'t Commit> + Clone,
    ) -> Result<Self> {
        let mut n_writers: HashMap<RelationId, usize> = HashMap::new();
        for commit in commits.clone() {
            let written: HashSet<RelationId> = commit.ops.iter().map(WriteOp::relation).collect();
            written.into_iter().for_each(|id| *n_writers.entry(id).or_default() += 1);
        }
        let mut found: HashMap<RelationId, BulkLookup> = HashMap::new();
        let mut seen: HashMap<(usize, RelationId), BulkLookup> = HashMap::new();
        let mut unchanged = HashSet::new();
        let workers = Arc::clone(&coordinator.workers);
        for (i, commit) in commits.enumerate() {
            for op in &commit.ops {
                let Some(relation) = keyed_table(coordinator, op.relation()) else { continue };
                let is_unchanged = matches!(op, WriteOp::Merge { seen_at, .. }
                    if n_writers[&relation.id] == 1 && !is_touched_after(coordinator, relation.id, *seen_at));
                if is_unchanged {
                    unchanged.insert(relation.id);
                    continue;
                }
                let lookup = found.entry(relation.id).or_insert_with(|| BulkLookup::new(&relation, None));
                for rows in op.rows() {
                    lookup.add(relation.primary_key.iter().map(|&c| rows.column(c).clone()).collect());
                }
            }
            let Some(reads) = &commit.reads else { continue };
            for (id, keys) in reads.set.keys() {
                let Some(relation) = keyed_table(coordinator, id) else { continue };
                let is_writer = commit.ops.iter().any(|op| op.relation() == id);
                let n_others = n_writers.get(&id).map_or(0, |n| n - usize::from(is_writer));
                if n_others == 0 && !is_touched_after(coordinator, id, reads.epoch) {
                    continue;
                }
                let now = found.entry(id).or_insert_with(|| BulkLookup::new(&relation, None));
                let at = Some(reads.epoch);
                let then = seen.entry((i, id)).or_insert_with(|| BulkLookup::new(&relation, at));
                for keys in keys {
                    now.add(keys.clone());
                    then.add(keys.clone());
                }
            }
        }
        found.values_mut().chain(seen.values_mut()).try_for_each(|lookup| lookup.ask(&workers))?;
        let found = found.into_iter().map(|(id, lookup)| Ok((id, lookup.found()?))).collect::<Result<_>>()?;
        let seen = seen.into_iter().map(|(at, lookup)| Ok((at, lookup.found()?))).collect::<Result<_>>()?;
        Ok(Resolver { coordinator, found, unchanged, seen, staged: HashMap::new() })
    }

    /// What changes in each relation.
    pub(super) fn into_deltas(self) -> Result<HashMap<RelationId, Vec<Delta>>> {
        let changed = self.staged.into_iter().filter(|(_, staged)| !staged.is_empty());
        changed.map(|(id, staged)| Ok((id, staged.into_deltas()?))).collect()
    }

    /// Resolves one transaction, the `commit_idx`-th of the epoch; an error leaves nothing behind.
    pub(super) fn resolve(&mut self, commit_idx: usize, commit: Commit) -> Result<Written> {
        if let Some(reads) = &commit.reads
            && self.coordinator.validates
            && !self.is_as_read(commit_idx, reads)?
        {
            return Err(not_serializable());
        }
        let marks: Vec<(RelationId, Mark)> = commit
            .ops
            .iter()
            .map(|op| op.relation())
            .map(|id| (id, self.staged.get(&id).map_or_else(Mark::default, Staged::mark)))
            .collect();
        let mut written = Written::default();
        for op in commit.ops {
            match self.op(op) {
                Ok(rows) => written.rows.extend(rows),
                Err(error) => {
                    // The first mark of a relation is from before all of its writes.
                    for (id, mark) in marks.into_iter().rev() {
                        if let Some(staged) = self.staged.get_mut(&id) {
                            staged.rollback_to(mark);
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(written)
    }

    /// Whether a transaction would read now what it has read.
    fn is_as_read(&mut self, commit_idx: usize, reads: &Reads) -> Result<bool> {
        if reads.set.relations().any(|id| self.is_changed_since(id, reads.epoch)) {
            return Ok(false);
        }
        for (id, keys) in reads.set.keys() {
            if !self.is_changed_since(id, reads.epoch) {
                continue;
            }
            let (Some(seen), Some(found)) = (self.seen.get(&(commit_idx, id)), self.found.get(&id)) else {
                return Ok(false);
            };
            let Some(base) = self.coordinator.base(id) else { return Ok(false) };
            let staged = self.staged.entry(id).or_insert_with(|| Staged::new(&base.live.relation));
            for keys in keys {
                if !staged.is_as_seen(keys, seen, found)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Whether a relation, or what it is computed from, has changed in an epoch after the given one or in this one so far.
    fn is_changed_since(&self, id: RelationId, epoch: Epoch) -> bool {
        if is_touched_after(self.coordinator, id, epoch) || self.staged.get(&id).is_some_and(|s| !s.is_empty()) {
            return true;
        }
        let flow = self.coordinator.flows.iter().find(|f| f.live.id == id);
        flow.is_some_and(|f| f.imports.iter().any(|&import| self.is_changed_since(import, epoch)))
    }

    fn op(&mut self, op: WriteOp) -> Result<Option<RecordBatch>> {
        let id = op.relation();
        let base = self.coordinator.bases.get_mut(&id);
        let base = base.ok_or_else(|| Error::user(SqlState::UNDEFINED_TABLE, "the relation was dropped"))?;
        let relation = Arc::clone(&base.live.relation);
        let staged = self.staged.entry(id).or_insert_with(|| Staged::new(&relation));
        let is_keyless = relation.kind == Kind::Table && relation.declared_key().is_none();
        match op {
            WriteOp::Insert { rows, .. } if is_keyless => {
                let first = base.next_row_id;
                base.next_row_id += rows.num_rows() as i64;
                staged.append(&numbered(&relation, &rows, first)?).map(Some)
            }
            WriteOp::Insert { rows, .. } if relation.kind != Kind::Table => staged.append(&rows).map(Some),
            WriteOp::Insert { rows, conflict, .. } => {
                let found = self.found.get(&id).ok_or_else(|| Error::internal("keys were not looked up"))?;
                let since = staged.n_added();
                let inserted = staged.insert(&rows, &conflict, Known { found, moved: None }, since);
                inserted.map(Some).map_err(Error::from)
            }
            WriteOp::Merge { removed, mut added, decided, .. } => {
                if is_keyless {
                    for rows in &mut added {
                        let first = base.next_row_id;
                        base.next_row_id += rows.num_rows() as i64;
                        *rows = numbered(&relation, rows, first)?;
                    }
                }
                let found = self.found.get(&id).filter(|_| !self.unchanged.contains(&id));
                let merged = staged.merge(&removed, &added, found);
                merged.map(|()| None).map_err(|clash| match clash {
                    Clash::Failed(error) => error,
                    Clash::Taken(rows, at) if !decided => duplicate_key(&relation, &rows, at),
                    Clash::Taken(..) | Clash::Changed => not_serializable(),
                })
            }
        }
    }
}

/// A table with a declared key.
fn keyed_table(coordinator: &Coordinator, id: RelationId) -> Option<Arc<Relation>> {
    let relation = &coordinator.base(id)?.live.relation;
    (relation.kind == Kind::Table && relation.declared_key().is_some()).then(|| Arc::clone(relation))
}

/// Whether an epoch after the given one has changed a relation; one that is gone has changed.
fn is_touched_after(coordinator: &Coordinator, id: RelationId, epoch: Epoch) -> bool {
    coordinator.clock.relation(id).is_none_or(|live| live.last_touched() > epoch)
}

/// 40001
fn not_serializable() -> Error {
    Error::user(SqlState::SERIALIZATION_FAILURE, "could not serialize access due to concurrent update")
        .with_hint("The transaction might succeed if retried.")
}
