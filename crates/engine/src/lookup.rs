//! Rows by primary key, asked of the workers that keep them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::concat;
use millstream_planner::catalog::Relation;
use millstream_runtime::{Command, Lookup, LookupReply, Workers};
use millstream_types::hash::{hash_columns, worker_of};
use millstream_types::{Epoch, Error, Result};

use crate::staged::{KeyedRows, under};

/// Keys in one message: more would keep a worker from its other work for too long.
const KEYS_MAX: usize = 1 << 12;

/// A lookup of many keys of one table, for a thread that may wait for it.
pub(crate) struct BulkLookup {
    relation: Arc<Relation>,
    /// An epoch that the table has completed and that is held; else its rows as its workers have them when they are asked.
    at: Option<Epoch>,
    keys: Vec<Vec<ArrayRef>>,
    send: Sender<Result<LookupReply>>,
    receive: Receiver<Result<LookupReply>>,
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
        self.n_asked += ask(workers, &self.relation, &keys, self.at, || {
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
            rows.push(under(&self.relation, found.rows.columns().to_vec(), found.rows.num_rows())?)?;
        }
        rows.index();
        Ok(rows)
    }
}

/// The rows of a table with these keys as of an epoch that it has completed and that is held.
pub(crate) async fn look_up(
    workers: &Workers,
    relation: &Arc<Relation>,
    keys: &[ArrayRef],
    epoch: Epoch,
) -> Result<KeyedRows> {
    let (send, mut receive) = tokio::sync::mpsc::unbounded_channel();
    ask(workers, relation, keys, Some(epoch), || {
        let send = send.clone();
        Box::new(move |found| drop(send.send(found)))
    })?;
    drop(send);
    let mut rows = KeyedRows::empty_of(relation);
    while let Some(found) = receive.recv().await {
        let found = found?.rows;
        rows.push(under(relation, found.columns().to_vec(), found.num_rows())?)?;
    }
    rows.index();
    Ok(rows)
}

type Reply = Box<dyn FnOnce(Result<LookupReply>) + Send>;

/// Sends each worker the keys whose rows it keeps; gives the number of answers to come.
fn ask(
    workers: &Workers,
    relation: &Relation,
    keys: &[ArrayRef],
    at: Option<Epoch>,
    mut reply: impl FnMut() -> Reply,
) -> Result<usize> {
    let (n_rows, n_workers) = (keys.first().map_or(0, |k| k.len()), workers.len());
    let mut hashes = Vec::new();
    hash_columns(keys, n_rows, &mut hashes);
    let mut n_asked = 0;
    for worker in 0..n_workers {
        let is_mine = |i: &u32| worker_of(hashes[*i as usize], n_workers) == worker;
        let mine: Vec<u32> = (0..n_rows as u32).filter(is_mine).collect();
        for some in mine.chunks(KEYS_MAX) {
            let some = UInt32Array::from(some.to_vec());
            let keys = keys.iter().map(|k| arrow::compute::take(k, &some, None)).collect::<Result<Vec<_>, _>>()?;
            let columns = relation.primary_key.clone();
            let lookup = Lookup { relation: relation.id, columns, keys, at, reply: reply() };
            workers.send(worker, Command::Lookup(lookup));
            n_asked += 1;
        }
    }
    Ok(n_asked)
}
