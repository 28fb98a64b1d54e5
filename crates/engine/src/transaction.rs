//! Transactions of sessions: an epoch at which everything is read, and writes that are staged until the commit.
//!
//! A transaction reads at the epoch that was the last closed one when its first statement began. Tables and streams show
//! its own writes on top of that. At the commit its writes and what it has read go to the coordinator, which takes them
//! over if nothing that was read has changed since; a transaction that wrote nothing needs no commit. Everything is held
//! as of the epoch until the transaction ends.

use std::sync::Arc;

use arrow::array::RecordBatch;
use hashbrown::{HashMap, HashSet};
use millstream_planner::RelationId;
use millstream_planner::catalog::{Kind, Relation};
use millstream_state::Hold;
use millstream_types::{Epoch, Error, Result, SqlState};

use crate::coordinator::{Commit, OrderHold, Publication, Reads, WriteOp};
use crate::engine::EngineState;
use crate::live::LiveRelation;
use crate::lookup::look_up;
use crate::memory::UncommittedMemory;
use crate::read::{OwnWrites, ReadPoint};
use crate::reads::ReadSet;
use crate::staged::{Conflict, KeyedRows, Known, Mark, NotInserted, Staged, without};

/// A transaction that a session, and a `COPY` into it, may write to.
pub(crate) type SharedTransaction = Arc<tokio::sync::Mutex<Transaction>>;

/// An open transaction.
pub(crate) struct Transaction {
    epoch: Epoch,
    held: HashMap<RelationId, (Arc<LiveRelation>, Hold)>,
    pub(crate) reads: ReadSet,
    staged: HashMap<RelationId, Staged>,
    /// Relations into which rows were put other than by a plain `INSERT`: there a taken key means that another decision
    /// would be made now.
    decided: HashSet<RelationId>,
    /// Relations that it makes when it commits: they have no rows but its own.
    unborn: HashSet<RelationId>,
    order: Option<OrderHold>,
    /// Of all that was staged.
    memory: UncommittedMemory,
}

/// A point within a transaction to go back to: writes after it are forgotten, reads are not.
#[derive(Clone)]
pub(crate) struct SavePoint {
    marks: HashMap<RelationId, Mark>,
    /// That were in use.
    n_bytes: usize,
}

/// What a statement wrote.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// The rows: inserted or updated as they are now, deleted as they were.
    pub(crate) rows: Vec<RecordBatch>,
}

impl Written {
    pub(crate) fn n_rows(&self) -> usize {
        self.rows.iter().map(RecordBatch::num_rows).sum()
    }
}

impl Transaction {
    /// Begins at the last closed epoch, holding every relation.
    pub(crate) fn begin(engine: &EngineState, order: Option<OrderHold>) -> Result<Self> {
        let relations: Vec<Arc<LiveRelation>> = engine.clock.relations.read().values().cloned().collect();
        Self::over(engine, relations, order)
    }

    /// As [`Transaction::begin`], for a statement that reads and writes these relations alone.
    pub(crate) fn begin_on(engine: &EngineState, ids: &[RelationId], order: Option<OrderHold>) -> Result<Self> {
        let relations = ids.iter().map(|id| engine.clock.relation(*id).ok_or_else(dropped));
        Self::over(engine, relations.collect::<Result<_>>()?, order)
    }

    fn over(engine: &EngineState, relations: Vec<Arc<LiveRelation>>, order: Option<OrderHold>) -> Result<Self> {
        // Compaction may pass an epoch between reading the clock and holding; then a newer one will do as well.
        let (epoch, holds) = loop {
            let epoch = engine.clock.last_closed();
            let holds = relations.iter().map(|live| live.shared.holds.acquire(epoch)).collect::<Result<Vec<_>, _>>();
            if let Ok(holds) = holds {
                break (epoch, holds);
            }
        };
        let held = relations.into_iter().zip(holds).map(|(live, hold)| (live.id, (live, hold))).collect();
        let (reads, staged, decided, unborn) = Default::default();
        let memory = UncommittedMemory::new(&engine.query_memory);
        Ok(Transaction { epoch, held, reads, staged, decided, unborn, order, memory })
    }

    /// Whether nothing is staged.
    pub(crate) fn is_read_only(&self) -> bool {
        self.staged.values().all(Staged::is_empty)
    }

    /// Relations as they are at its epoch, with its own writes. Waits until they have completed the epoch.
    pub(crate) async fn point(&mut self, engine: &EngineState, ids: &[RelationId]) -> Result<ReadPoint> {
        let mut relations = HashMap::new();
        let mut holds = Vec::new();
        let mut own = HashMap::new();
        for &id in ids {
            if !self.unborn.contains(&id) {
                let (live, hold) = self.held(engine, id)?;
                live.completed(self.epoch).await?;
                relations.insert(id, live);
                holds.push(hold);
            }
            if let Some(staged) = self.staged.get_mut(&id).filter(|s| !s.is_empty()) {
                let (removed, added) = staged.parts()?;
                own.insert(id, OwnWrites { removed, added });
            }
        }
        Ok(ReadPoint::new(self.epoch, relations, holds, own))
    }

    /// A relation and its hold; one that was made after the transaction began is held from now on.
    fn held(&mut self, engine: &EngineState, id: RelationId) -> Result<(Arc<LiveRelation>, Hold)> {
        if let Some((live, hold)) = self.held.get(&id) {
            live.check()?;
            return Ok((Arc::clone(live), hold.clone()));
        }
        let live = engine.clock.relation(id).ok_or_else(|| {
            let message = "a materialized view cannot be read before the transaction that makes it has committed";
            Error::user(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
        })?;
        let hold = live.shared.holds.acquire(self.epoch).ok().filter(|_| live.started() <= self.epoch);
        let hold = hold.ok_or_else(|| {
            let what = format!("{} \"{}\"", live.relation.kind.noun(), live.relation.name);
            Error::user(SqlState::SERIALIZATION_FAILURE, format!("{what} was made after this transaction began"))
                .with_hint("The transaction might succeed if retried.")
        })?;
        self.held.insert(id, (Arc::clone(&live), hold.clone()));
        Ok((live, hold))
    }

    fn staged(&mut self, relation: &Arc<Relation>) -> &mut Staged {
        self.staged.entry(relation.id).or_insert_with(|| Staged::new(relation))
    }

    /// The point from which on what is staged for a relation is a new statement's.
    pub(crate) fn statement(&mut self, relation: &Arc<Relation>) -> usize {
        self.staged(relation).n_added()
    }

    /// Stages new rows of a relation, all visible columns; `since` is where the statement began.
    ///
    /// # Errors
    /// 23505 and the like, as far as they can be known at the transaction's epoch; 53200.
    pub(crate) async fn insert(
        &mut self,
        engine: &EngineState,
        relation: &Arc<Relation>,
        rows: &RecordBatch,
        conflict: &Conflict,
        since: usize,
    ) -> Result<Written> {
        self.memory.add(rows)?;
        let rows = if relation.kind != Kind::Table {
            self.staged(relation).append(rows)?
        } else if relation.declared_key().is_none() {
            self.staged(relation).append_unnumbered(rows)?
        } else {
            self.insert_keyed(engine, relation, rows, conflict, since).await?
        };
        Ok(Written { rows: vec![rows] })
    }

    /// Stages new rows of a table with a key. Where updates give rows keys that nobody has asked for, the base is asked and
    /// the rows are staged again; a round for each row is enough, unless the keys are others each time.
    async fn insert_keyed(
        &mut self,
        engine: &EngineState,
        relation: &Arc<Relation>,
        rows: &RecordBatch,
        conflict: &Conflict,
        since: usize,
    ) -> Result<RecordBatch> {
        if !matches!(conflict, Conflict::Error) {
            self.decided.insert(relation.id);
        }
        let mut found = self.base_rows(engine, relation, rows).await?;
        let mut moved = KeyedRows::empty_of(relation);
        for _ in 0..=rows.num_rows() {
            if conflict.observes() {
                for batch in found.batches() {
                    self.reads.add_keys(relation.id, found.keys_of(batch));
                }
            }
            let staged = self.staged(relation);
            let mark = staged.mark();
            let known = Known { found: &found, moved: Some(&moved) };
            let more = match staged.insert(rows, conflict, known, since) {
                Ok(written) => return Ok(written),
                Err(NotInserted::Failed(error)) => return Err(error),
                Err(NotInserted::Moved(more)) => more,
            };
            staged.rollback_to(mark);
            let keys = self.base_rows(engine, relation, &more).await?;
            for batch in keys.batches() {
                let new = without(batch, &found)?;
                if new.num_rows() > 0 {
                    found.push(new)?;
                }
            }
            found.index();
            moved.push(more)?;
            moved.index();
        }
        Err(Error::not_supported("ON CONFLICT DO UPDATE gives a row another key each time it is evaluated"))
    }

    /// Stages what takes the place of rows that this transaction has read, all columns; nothing if they are deleted.
    /// `keys_change` if a new row may have another key than the old one.
    ///
    /// # Errors
    /// 23505, 53200
    pub(crate) async fn change(
        &mut self,
        engine: &EngineState,
        relation: &Arc<Relation>,
        old: &RecordBatch,
        new: Option<&RecordBatch>,
        keys_change: bool,
    ) -> Result<Written> {
        [Some(old), new].into_iter().flatten().try_for_each(|rows| self.memory.add(rows))?;
        let found = match new.filter(|_| keys_change && relation.declared_key().is_some()) {
            Some(new) => self.base_rows(engine, relation, new).await?,
            None => KeyedRows::empty_of(relation),
        };
        let rows = self.staged(relation).change(old, new, &found)?;
        Ok(Written { rows: vec![rows] })
    }

    /// The rows of a table's base whose keys are among those of some rows.
    async fn base_rows(
        &mut self,
        engine: &EngineState,
        relation: &Arc<Relation>,
        rows: &RecordBatch,
    ) -> Result<KeyedRows> {
        if self.unborn.contains(&relation.id) {
            return Ok(KeyedRows::empty_of(relation));
        }
        let (live, _) = self.held(engine, relation.id)?;
        live.completed(self.epoch).await?;
        let empty = KeyedRows::empty_of(relation);
        let found = look_up(&engine.workers, relation, &empty.keys_of(rows), self.epoch).await;
        // A relation that was dropped meanwhile says so itself.
        found.or_else(|error| live.check().and(Err(error)))
    }

    /// A relation is made by this very transaction.
    pub(crate) fn add_unborn(&mut self, relation: &Relation) {
        self.unborn.insert(relation.id);
    }

    /// Relations are dropped by this very transaction: what it wrote to them, and read of them, is nobody's concern.
    pub(crate) fn forget(&mut self, ids: &[RelationId]) {
        for id in ids {
            self.unborn.remove(id);
            self.staged.remove(id);
        }
    }

    pub(crate) fn save_point(&self) -> SavePoint {
        let marks = self.staged.iter().map(|(id, staged)| (*id, staged.mark())).collect();
        SavePoint { marks, n_bytes: self.memory.n_bytes() }
    }

    pub(crate) fn rollback_to(&mut self, point: &SavePoint) {
        for (id, staged) in &mut self.staged {
            staged.rollback_to(point.marks.get(id).copied().unwrap_or_default());
        }
        self.memory.shrink_to(point.n_bytes);
    }

    /// Has the coordinator take the writes over, with what becomes of the catalog.
    ///
    /// # Errors
    /// 40001 if what was read has changed, 23505 if a new row's key was taken meanwhile.
    pub(crate) async fn commit(
        &mut self,
        engine: &EngineState,
        is_asynchronous: bool,
        publication: Option<Box<Publication>>,
    ) -> Result<()> {
        if self.is_read_only() && publication.is_none() {
            return Ok(());
        }
        let validates = !self.is_read_only();
        let mut ops = Vec::new();
        for (id, mut staged) in std::mem::take(&mut self.staged) {
            if staged.is_empty() {
                continue;
            }
            let (removed, added) = staged.parts()?;
            let (seen_at, decided) = (self.epoch, self.decided.contains(&id));
            ops.push(WriteOp::Merge { relation: id, removed: removed.batches().to_vec(), added, seen_at, decided });
        }
        let set = std::mem::take(&mut self.reads);
        let _holds = set.keys().filter_map(|(id, _)| self.held.get(&id).map(|(_, hold)| hold.clone())).collect();
        let reads = (validates && !set.is_empty()).then_some(Reads { epoch: self.epoch, set, _holds });
        let order = self.order.as_ref().map(OrderHold::id);
        // A catalog that others know is durable.
        let is_asynchronous = is_asynchronous && publication.is_none();
        engine.clock.write(Commit { ops, reads, order, is_asynchronous, publication }).await.map(|_| ())
    }
}

fn dropped() -> Error {
    Error::user(SqlState::UNDEFINED_TABLE, "a relation was dropped")
}
