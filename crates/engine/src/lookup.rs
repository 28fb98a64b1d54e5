//! Rows by key, asked of the workers that keep them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::concat;
use millstream_planner::access::KeyLookup;
use millstream_planner::catalog::Relation;
use millstream_runtime::{Command, Lookup, LookupReply, Workers};
use millstream_types::hash::{hash_columns, worker_of};
use millstream_types::{Epoch, Error, Result};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::staged::{KeyedRows, under};

/// Keys in one message: more would keep a worker from its other work for too long.
const KEYS_MAX: usize = 1 << 12;

/// Rows in one answer of a worker: for more of them a query reads the relation itself.
const ROWS_MAX: usize = 1 << 14;

/// A lookup of many keys of one table, for a thread that may wait for it.
pub(crate) struct BulkLookup {
    relation: Arc<Relation>,
    /// An epoch that the table has completed and that is held; else its rows as its workers have them when they are asked.
    at: Option<Epoch>,
    keys: Vec<Vec<ArrayRef>>,
    send: Sender<Result<Option<RecordBatch>>>,
    receive: Receiver<Result<Option<RecordBatch>>>,
    n_asked: usize,
}

impl BulkLookup {
    pub(crate) fn new(relation: &Arc<Relation>, at: Option<Epoch>) -> Self {
        let (send, receive) = channel();
        BulkLookup { relation: Arc::clone(relation), at, keys: Vec::new(), send, receive, n_asked: 0 }
    }

    /// Adds keys that are to be looked up.
    pub(crate) fn add(&mut self, keys: Vec<ArrayRef>) {
        self.keys.push(keys);
    }

    /// Asks the workers for all keys at once.
    pub(crate) fn ask(&mut self, workers: &Workers) -> Result<()> {
        let keys = match self.keys.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            [first, ..] => {
                let column = |c: usize| self.keys.iter().map(|k| k[c].as_ref()).collect::<Vec<_>>();
                (0..first.len()).map(|c| concat(&column(c))).collect::<Result<_, _>>()?
            }
        };
        self.n_asked += ask(workers, &by_primary_key(&self.relation, keys), self.at, usize::MAX, || {
            let send = self.send.clone();
            // Whoever asked may have given up.
            Box::new(move |found| drop(send.send(found)))
        })?;
        Ok(())
    }

    /// Waits for all answers; blocks the thread.
    pub(crate) fn found(self) -> Result<KeyedRows> {
        let mut rows = KeyedRows::empty_of(&self.relation);
        drop(self.send);
        for _ in 0..self.n_asked {
            // A worker that cannot answer ends the process, unless the engine is ending.
            let found = self.receive.recv().map_err(|_| Error::internal("a worker has gone"))??;
            push(&mut rows, &self.relation, found)?;
        }
        rows.index();
        Ok(rows)
    }
}

/// The rows of a table with these primary keys as of an epoch that it has completed and that is held.
pub(crate) async fn look_up(
    workers: &Workers,
    relation: &Arc<Relation>,
    keys: &[ArrayRef],
    epoch: Epoch,
) -> Result<KeyedRows> {
    let mut receive = ask_all(workers, &by_primary_key(relation, keys.to_vec()), epoch, usize::MAX)?;
    let mut rows = KeyedRows::empty_of(relation);
    while let Some(found) = receive.recv().await {
        push(&mut rows, relation, found?)?;
    }
    rows.index();
    Ok(rows)
}

/// The rows that a query asks for, all columns, as of an epoch that their relation has completed and that is held; `None`
/// if they are better found by reading the relation.
pub(crate) async fn find(workers: &Workers, lookup: &KeyLookup, epoch: Epoch) -> Result<Option<Vec<RecordBatch>>> {
    let mut receive = ask_all(workers, lookup, epoch, ROWS_MAX)?;
    let mut rows = Vec::new();
    while let Some(found) = receive.recv().await {
        let Some(found) = found? else { return Ok(None) };
        if found.num_rows() > 0 {
            rows.push(under(&lookup.relation, found.columns().to_vec(), found.num_rows())?);
        }
    }
    Ok(Some(rows))
}

fn by_primary_key(relation: &Arc<Relation>, keys: Vec<ArrayRef>) -> KeyLookup {
    let (relation, columns) = (Arc::clone(relation), relation.primary_key.clone());
    KeyLookup { relation, columns, is_unique: true, keys }
}

fn push(rows: &mut KeyedRows, relation: &Relation, found: Option<RecordBatch>) -> Result<()> {
    let found = found.ok_or_else(|| Error::internal("a table without an index over its primary key"))?;
    rows.push(under(relation, found.columns().to_vec(), found.num_rows())?)
}

/// Asks the workers for all keys at once; the answers end when all have come.
fn ask_all(
    workers: &Workers,
    lookup: &KeyLookup,
    epoch: Epoch,
    rows_max: usize,
) -> Result<UnboundedReceiver<Result<Option<RecordBatch>>>> {
    let (send, receive) = tokio::sync::mpsc::unbounded_channel();
    ask(workers, lookup, Some(epoch), rows_max, || {
        let send = send.clone();
        Box::new(move |found| drop(send.send(found)))
    })?;
    Ok(receive)
}

/// Sends each worker the keys whose rows it may keep; gives the number of answers to come.
fn ask(
    workers: &Workers,
    lookup: &KeyLookup,
    at: Option<Epoch>,
    rows_max: usize,
    mut reply: impl FnMut() -> LookupReply,
) -> Result<usize> {
    let n_workers = workers.len();
    let mut send = |worker: usize, keys: Vec<ArrayRef>| {
        let (relation, columns) = (lookup.relation.id, lookup.columns.clone());
        workers.send(worker, Command::Lookup(Lookup { relation, columns, keys, at, rows_max, reply: reply() }));
    };
    let Some(hashes) = partition_hashes(lookup) else {
        (0..n_workers).for_each(|worker| send(worker, lookup.keys.clone()));
        return Ok(n_workers);
    };
    if let [hash] = hashes.as_slice() {
        send(worker_of(*hash, n_workers), lookup.keys.clone());
        return Ok(1);
    }
    let mut n_asked = 0;
    for worker in 0..n_workers {
        let is_mine = |i: &u32| worker_of(hashes[*i as usize], n_workers) == worker;
        let mine: Vec<u32> = (0..hashes.len() as u32).filter(is_mine).collect();
        for some in mine.chunks(KEYS_MAX) {
            let some = UInt32Array::from(some.to_vec());
            let keys = lookup.keys.iter().map(|k| arrow::compute::take(k, &some, None));
            send(worker, keys.collect::<Result<Vec<_>, _>>()?);
            n_asked += 1;
        }
    }
    Ok(n_asked)
}

/// For each key the hash that says which worker keeps its rows; `None` if any may.
fn partition_hashes(lookup: &KeyLookup) -> Option<Vec<u64>> {
    let columns = lookup.relation.partitioned_by()?;
    let key = |c: &usize| lookup.columns.iter().position(|k| k == c).map(|at| Arc::clone(&lookup.keys[at]));
    let keys: Vec<ArrayRef> = columns.iter().map(key).collect::<Option<_>>()?;
    let mut hashes = Vec::new();
    hash_columns(&keys, lookup.keys.first().map_or(0, |k| k.len()), &mut hashes);
    Some(hashes)
}
