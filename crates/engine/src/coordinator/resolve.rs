//! Resolving writes: keys are looked up in bulk, conflicts decided in order, and out comes an exact delta.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::channel;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::concat_batches;
use arrow::row::{OwnedRow, RowConverter, SortField};
use millstream_planner::RelationId;
use millstream_planner::catalog::{Kind, Relation};
use millstream_runtime::{Command, Lookup};
use millstream_types::delta::take_batch;
use millstream_types::hash::{hash_columns, worker_of};
use millstream_types::{Delta, Error, Result, SqlState};

use super::{Coordinator, Transaction, Written};

/// One write of a transaction.
pub(crate) enum WriteOp {
    /// New rows, all visible columns.
    Insert { relation: RelationId, rows: RecordBatch, conflict: Conflict },
    /// Rows read before, all columns, and what takes their place, row by row; nothing if they are deleted.
    Change { relation: RelationId, old: RecordBatch, new: Option<RecordBatch> },
}

impl WriteOp {
    pub(crate) fn relation(&self) -> RelationId {
        match self {
            WriteOp::Insert { relation, .. } | WriteOp::Change { relation, .. } => *relation,
        }
    }
}

/// What becomes of a new row whose key exists.
#[derive(Clone)]
pub(crate) enum Conflict {
    /// The statement fails.
    Error,
    /// The new row is ignored.
    Ignore,
    /// The new row takes the old one's place.
    Overwrite,
    /// The new row's values that are not null do.
    UpdateIfNotNull,
    /// `DO UPDATE`: from (old row, new row), one row each, the row to keep, or nothing to leave the old one.
    Update(UpdateRow),
}

/// From a row that is there and a new one of the same key to the row to keep.
pub(crate) type UpdateRow = Arc<dyn Fn(&RecordBatch, &RecordBatch) -> Result<Option<RecordBatch>> + Send + Sync>;

/// The key of a row, comparable.
type Key = OwnedRow;

/// What is known of one table's keys: rows as of the closed epochs, and what this epoch has changed so far.
struct Keys {
    relation: Arc<Relation>,
    converter: RowConverter,
    rows: HashMap<Key, RecordBatch>,
}

/// Resolves the transactions of one epoch, in order.
pub(super) struct Resolver<'a> {
    coordinator: &'a mut Coordinator,
    keys: HashMap<RelationId, Keys>,
    deltas: HashMap<RelationId, Vec<Delta>>,
    changed: HashSet<RelationId>,
}

/// What a transaction has done so far; forgotten if it fails.
#[derive(Default)]
struct Draft {
    /// Keys with their rows as the transaction leaves them; `None` if there is none.
    rows: HashMap<(RelationId, Key), Option<RecordBatch>>,
    deltas: Vec<(RelationId, Delta)>,
    written: Written,
}

impl<'a> Resolver<'a> {
    /// Looks up all keys that the transactions' rows have, at once.
    pub(super) fn new<'t>(
        coordinator: &'a mut Coordinator,
        transactions: impl Iterator<Item = &'t Transaction>,
    ) -> Self {
        let mut wanted: HashMap<RelationId, Vec<&RecordBatch>> = HashMap::new();
        for op in transactions.flat_map(|t| &t.ops) {
            let id = op.relation();
            let Some(base) = coordinator.base(id) else { continue };
            if base.live.relation.declared_key().is_none() {
                continue;
            }
            match op {
                WriteOp::Insert { rows, .. } => wanted.entry(id).or_default().push(rows),
                WriteOp::Change { old, new, .. } => {
                    let wanted = wanted.entry(id).or_default();
                    wanted.push(old);
                    wanted.extend(new);
                }
            }
        }
        let keys = wanted.into_iter().map(|(id, rows)| (id, look_up(coordinator, id, &rows))).collect();
        Resolver { coordinator, keys, deltas: HashMap::new(), changed: HashSet::new() }
    }

    /// What changes in each relation.
    pub(super) fn into_deltas(self) -> HashMap<RelationId, Vec<Delta>> {
        self.deltas
    }

    /// Resolves one transaction; an error leaves nothing behind.
    pub(super) fn resolve(&mut self, transaction: Transaction) -> Result<Written> {
        if let Some((epoch, reads)) = &transaction.reads {
            let is_stale = |id: &RelationId| {
                let live = self.coordinator.clock.relation(*id);
                self.changed.contains(id) || live.is_none_or(|l| l.last_touched() > *epoch)
            };
            if reads.iter().any(is_stale) {
                return Err(Error::user(
                    SqlState::SERIALIZATION_FAILURE,
                    "could not serialize access due to concurrent update",
                ));
            }
        }
        let mut draft = Draft::default();
        for op in transaction.ops {
            self.op(op, &mut draft)?;
        }
        for ((id, key), row) in draft.rows {
            let rows = &mut self.keys.get_mut(&id).expect("keys were looked up").rows;
            match row {
                Some(row) => rows.insert(key, row),
                None => rows.remove(&key),
            };
        }
        for (id, delta) in draft.deltas {
            self.changed.insert(id);
            self.deltas.entry(id).or_default().push(delta);
        }
        Ok(draft.written)
    }

    fn op(&mut self, op: WriteOp, draft: &mut Draft) -> Result<()> {
        let id = op.relation();
        let base = self.coordinator.bases.get_mut(&id);
        let base = base.ok_or_else(|| Error::user(SqlState::UNDEFINED_TABLE, "the relation was dropped"))?;
        let relation = Arc::clone(&base.live.relation);
        match op {
            WriteOp::Insert { rows, conflict, .. } => {
                if relation.kind == Kind::Table && relation.declared_key().is_some() {
                    return self.insert_keyed(&relation, &rows, &conflict, draft);
                }
                let rows = if relation.kind == Kind::Table {
                    let first = base.next_row_id;
                    base.next_row_id += rows.num_rows() as i64;
                    with_row_ids(&relation, rows, first)?
                } else {
                    under(&relation, rows.columns().to_vec(), rows.num_rows())?
                };
                draft.written.rows.push(rows.clone());
                if rows.num_rows() > 0 {
                    draft.deltas.push((id, Delta::inserts(rows)));
                }
                Ok(())
            }
            WriteOp::Change { old, new, .. } => self.change(&relation, &old, new, draft),
        }
    }

    fn insert_keyed(
        &mut self,
        relation: &Arc<Relation>,
        rows: &RecordBatch,
        conflict: &Conflict,
        draft: &mut Draft,
    ) -> Result<()> {
        let keys = self.keys.get(&relation.id).ok_or_else(|| Error::internal("keys were not looked up"))?;
        let encoded = keys.encode(rows)?;
        let mut kept: Vec<u32> = Vec::new();
        let mut replaced: Vec<RecordBatch> = Vec::new();
        let mut replacing: Vec<RecordBatch> = Vec::new();
        let mut in_statement: HashSet<Key> = HashSet::new();
        for (i, key) in encoded.into_iter().enumerate() {
            let at = (relation.id, key.clone());
            let existing = match draft.rows.get(&at) {
                Some(row) => row.clone(),
                None => keys.rows.get(&key).cloned(),
            };
            let row = || under(relation, rows.slice(i, 1).columns().to_vec(), 1);
            let Some(old) = existing else {
                kept.push(i as u32);
                draft.rows.insert(at, Some(row()?));
                in_statement.insert(key);
                continue;
            };
            let new = match conflict {
                Conflict::Error => return Err(duplicate_key(relation, rows, i)),
                Conflict::Ignore => None,
                Conflict::Overwrite => Some(row()?),
                Conflict::UpdateIfNotNull => Some(merge_not_null(&old, &row()?)?),
                Conflict::Update(update) => {
                    if in_statement.contains(&key) {
                        return Err(Error::user(
                            SqlState::CARDINALITY_VIOLATION,
                            "ON CONFLICT DO UPDATE command cannot affect row a second time",
                        )
                        .with_hint("Ensure that no rows proposed for insertion within the same command have duplicate constrained values."));
                    }
                    update(&old, &row()?)?
                }
            };
            if let Some(new) = new {
                let [new_key] = <[Key; 1]>::try_from(keys.encode(&new)?).expect("one row has one key");
                if new_key != key {
                    return Err(Error::not_supported("ON CONFLICT DO UPDATE cannot change the primary key"));
                }
                draft.rows.insert(at, Some(new.clone()));
                in_statement.insert(key);
                replaced.push(old);
                replacing.push(new);
            }
        }
        let schema = relation.full_schema();
        let inserted =
            take_batch(&under(relation, rows.columns().to_vec(), rows.num_rows())?, &UInt32Array::from(kept))?;
        let old = concat_batches(&schema, &replaced)?;
        let new = concat_batches(&schema, &replacing)?;
        draft.written.rows.push(concat_batches(&schema, [&inserted, &new])?);
        let weights = std::iter::repeat_n(1i64, inserted.num_rows())
            .chain(std::iter::repeat_n(-1, old.num_rows()))
            .chain(std::iter::repeat_n(1, new.num_rows()));
        let weights: Vec<i64> = weights.collect();
        if !weights.is_empty() {
            let all = concat_batches(&schema, [&inserted, &old, &new])?;
            let weights = (old.num_rows() > 0).then(|| weights.into());
            draft.deltas.push((relation.id, Delta::new(all, weights)));
        }
        Ok(())
    }

    fn change(
        &mut self,
        relation: &Arc<Relation>,
        old: &RecordBatch,
        new: Option<RecordBatch>,
        draft: &mut Draft,
    ) -> Result<()> {
        let schema = relation.full_schema();
        if let Some(keys) = self.keys.get(&relation.id) {
            for key in keys.encode(old)? {
                draft.rows.insert((relation.id, key), None);
            }
            for (i, key) in
                new.iter().map(|n| keys.encode(n)).collect::<Result<Vec<_>>>()?.into_iter().flatten().enumerate()
            {
                let new = new.as_ref().expect("it has keys");
                let at = (relation.id, key.clone());
                let exists = match draft.rows.get(&at) {
                    Some(row) => row.is_some(),
                    None => keys.rows.contains_key(&key),
                };
                if exists {
                    return Err(duplicate_key(relation, new, i));
                }
                draft.rows.insert(at, Some(new.slice(i, 1)));
            }
        }
        draft.written.rows.push(new.clone().unwrap_or_else(|| old.clone()));
        if old.num_rows() == 0 {
            return Ok(());
        }
        let n_new = new.as_ref().map_or(0, RecordBatch::num_rows);
        let weights: Vec<i64> = std::iter::repeat_n(-1, old.num_rows()).chain(std::iter::repeat_n(1, n_new)).collect();
        let all = match &new {
            Some(new) => concat_batches(&schema, [old, new])?,
            None => under(relation, old.columns().to_vec(), old.num_rows())?,
        };
        draft.deltas.push((relation.id, Delta::new(all, Some(weights.into()))));
        Ok(())
    }
}

impl Keys {
    fn encode(&self, rows: &RecordBatch) -> Result<Vec<Key>> {
        let columns: Vec<ArrayRef> = self.relation.primary_key.iter().map(|&c| rows.column(c).clone()).collect();
        Ok(self.converter.convert_columns(&columns)?.iter().map(|row| row.owned()).collect())
    }
}

/// The rows of a table that have the keys of any of `rows`, in all closed epochs.
fn look_up(coordinator: &Coordinator, id: RelationId, rows: &[&RecordBatch]) -> Keys {
    let relation = Arc::clone(&coordinator.bases[&id].live.relation);
    let types = relation.primary_key.iter().map(|&c| relation.columns[c].sql_type.arrow_type());
    let converter = RowConverter::new(types.map(SortField::new).collect()).expect("a key's types can be compared");
    let mut keys = Keys { relation: Arc::clone(&relation), converter, rows: HashMap::new() };
    let n_workers = coordinator.workers.len();
    let (send, receive) = channel();
    let mut n_asked = 0;
    for batch in rows {
        let columns: Vec<ArrayRef> = relation.primary_key.iter().map(|&c| batch.column(c).clone()).collect();
        let mut hashes = Vec::new();
        hash_columns(&columns, batch.num_rows(), &mut hashes);
        for worker in 0..n_workers {
            let mine = hashes.iter().enumerate().filter(|(_, h)| worker_of(**h, n_workers) == worker);
            let mine: UInt32Array = mine.map(|(i, _)| i as u32).collect();
            if mine.is_empty() {
                continue;
            }
            let mine = columns.iter().map(|c| arrow::compute::take(c, &mine, None));
            let mine = mine.collect::<Result<Vec<_>, _>>().expect("columns of relations can be taken");
            let send = send.clone();
            let reply = Box::new(move |found| drop(send.send(found)));
            let columns = relation.primary_key.clone();
            coordinator
                .workers
                .send(worker, Command::Lookup(Lookup { relation: id, columns, keys: mine, at: None, reply }));
            n_asked += 1;
        }
    }
    for _ in 0..n_asked {
        // A worker that cannot answer ends the process.
        let Ok(Ok(found)) = receive.recv() else { continue };
        let found = under(&relation, found.rows.columns().to_vec(), found.rows.num_rows()).expect("rows of the table");
        for (i, key) in keys.encode(&found).expect("keys of the table").into_iter().enumerate() {
            keys.rows.insert(key, found.slice(i, 1));
        }
    }
    keys
}

/// Columns as a batch of the relation.
fn under(relation: &Relation, columns: Vec<ArrayRef>, n_rows: usize) -> Result<RecordBatch> {
    millstream_expr::scalar::batch_of(relation.full_schema(), columns, n_rows)
}

fn with_row_ids(relation: &Relation, rows: RecordBatch, first: i64) -> Result<RecordBatch> {
    let n_rows = rows.num_rows();
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_iter_values(first..first + n_rows as i64)));
    under(relation, columns, n_rows)
}

/// The new row, with the old one's values where it has none.
fn merge_not_null(old: &RecordBatch, new: &RecordBatch) -> Result<RecordBatch> {
    let columns = old.columns().iter().zip(new.columns());
    let columns = columns.map(|(o, n)| if n.is_null(0) { o.clone() } else { n.clone() }).collect();
    millstream_expr::scalar::batch_of(old.schema(), columns, 1)
}

fn duplicate_key(relation: &Relation, rows: &RecordBatch, row_idx: usize) -> Error {
    let names: Vec<&str> = relation.primary_key.iter().map(|&c| relation.columns[c].name.as_str()).collect();
    let key = rows.project(&relation.primary_key).expect("the key's columns");
    let text = millstream_expr::row_errors::values_text(&key, row_idx);
    Error::user(
        SqlState::UNIQUE_VIOLATION,
        format!("duplicate key value violates unique constraint \"{}_pkey\"", relation.name),
    )
    .with_detail(format!("Key ({})=({}) already exists.", names.join(", "), text.join(", ")))
}
