//! Rows on their way within a dataflow, counted over all workers, so that whoever makes more of them can wait.
//!
//! Each node has a count of the rows that were sent to it and that it can take in now, and of their bytes. A node whose
//! consumer has more than [`QUEUED_ROWS_MAX`] of them, or more than a quarter of the bytes that may be in flight, puts off
//! its work, and an import its next piece. Rows of an epoch whose turn has not come are not counted: the node that they
//! wait at cannot take them in before those upstream have gone on. So whoever waits, waits for a node that can work, and
//! the last of them, the root, never waits.
//!
//! Imports wait as well while all nodes of their dataflow together have as many bytes as may be in flight, or those of all
//! dataflows have and theirs a sixteenth: a dataflow that does not get on leaves some to the others.

use std::ops::{AddAssign, Neg};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

use millstream_operators::{Dataflow, Node, NodeId};
use millstream_types::Delta;

/// Rows that may wait at one node before those that feed it wait.
pub(crate) const QUEUED_ROWS_MAX: i64 = 1 << 17;
/// The part of the bytes in flight that may wait at one node.
const NODE_SHARE: i64 = 4;
/// The part of them that each dataflow may have, whatever the others have.
const DATAFLOW_SHARE: i64 = 16;
/// A delta should have no more than this part of them on each worker, and no more than so many bytes.
const PIECE_SHARE: usize = 8;
const PIECE_BYTES: std::ops::RangeInclusive<usize> = 1 << 16..=1 << 22;

/// An operator in parts may have this part of them in memory until its epoch ends, and no fewer nor more than so many bytes.
const QUEUE_SHARE: i64 = 8;
const QUEUE_BYTES: std::ops::RangeInclusive<i64> = 1 << 20..=1 << 24;

/// Bytes of rows that are on their way in all dataflows, and how many may be.
#[derive(Debug)]
pub struct InFlight {
    n_bytes: AtomicI64,
    n_bytes_max: i64,
    piece_bytes: usize,
}

impl InFlight {
    /// Nothing yet, of so many bytes at most.
    pub fn new(n_bytes_max: usize, n_workers: usize) -> Arc<Self> {
        let piece_bytes =
            (n_bytes_max / PIECE_SHARE / n_workers.max(1)).clamp(*PIECE_BYTES.start(), *PIECE_BYTES.end());
        let n_bytes_max = i64::try_from(n_bytes_max).unwrap_or(i64::MAX);
        Arc::new(InFlight { n_bytes: AtomicI64::new(0), n_bytes_max, piece_bytes })
    }

    /// Bytes on their way.
    pub fn n_bytes(&self) -> usize {
        usize::try_from(self.n_bytes.load(Relaxed)).unwrap_or(0)
    }
}

/// Rows, by number and by what they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// The number of rows.
    pub rows: i64,
    /// Their bytes, as they were measured when they were sent.
    pub bytes: i64,
}

impl Load {
    /// That of a delta.
    pub(crate) fn of(delta: &Delta) -> Load {
        Load { rows: delta.n_rows() as i64, bytes: delta.values_bytes() as i64 }
    }

    /// Takes so many of the rows away, with their part of the bytes.
    pub(crate) fn take_part(&mut self, n_rows: usize) -> Load {
        let rows = n_rows as i64;
        let bytes = if rows >= self.rows { self.bytes } else { self.bytes / self.rows * rows };
        *self += -Load { rows, bytes };
        Load { rows, bytes }
    }
}

impl Neg for Load {
    type Output = Load;

    fn neg(self) -> Load {
        Load { rows: -self.rows, bytes: -self.bytes }
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Load) {
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

#[derive(Debug, Default)]
struct Count {
    rows: AtomicI64,
    bytes: AtomicI64,
}

/// The counts of one dataflow, shared by all workers; the root is a node after the last.
#[derive(Debug)]
pub struct Pressure {
    n_nodes: usize,
    /// By worker, then by node; each is written by its worker alone. Rows that change workers count up on one and down on
    /// the other, so only sums mean something.
    counts: Vec<Count>,
    /// For each node, the nodes that take in its output.
    consumers: Vec<Vec<NodeId>>,
    /// The sum of all bytes, which is part of what is in flight in all dataflows.
    n_bytes: AtomicI64,
    in_flight: Arc<InFlight>,
    /// It has failed: what it has on its way is gone.
    is_closed: AtomicBool,
}

impl Pressure {
    /// Counts at zero.
    pub fn new(dataflow: &Dataflow, n_workers: usize, in_flight: &Arc<InFlight>) -> Self {
        let n_nodes = dataflow.nodes.len() + 1;
        let mut consumers = vec![Vec::new(); n_nodes];
        for (id, node) in dataflow.nodes.iter().enumerate() {
            if let Node::Operator { inputs, .. } = node {
                inputs.iter().for_each(|edge| consumers[edge.from].push(id));
            }
        }
        if let Some(last) = dataflow.nodes.len().checked_sub(1) {
            consumers[last].push(n_nodes - 1);
        }
        let counts = (0..n_workers * n_nodes).map(|_| Count::default()).collect();
        let (n_bytes, in_flight, is_closed) = (AtomicI64::new(0), Arc::clone(in_flight), AtomicBool::new(false));
        Pressure { n_nodes, counts, consumers, n_bytes, in_flight, is_closed }
    }

    /// The number of the root.
    pub(crate) fn root(&self) -> NodeId {
        self.n_nodes - 1
    }

    /// Bytes that a delta should not exceed.
    pub(crate) fn piece_bytes(&self) -> usize {
        self.in_flight.piece_bytes
    }

    /// Bytes of rows that an operator on a worker may have waiting in memory for the end of the epoch.
    pub(crate) fn queue_bytes(&self) -> usize {
        (self.in_flight.n_bytes_max / QUEUE_SHARE).clamp(*QUEUE_BYTES.start(), *QUEUE_BYTES.end()) as usize
    }

    /// Whether there is so little memory that rows should not keep alive what else lies in their buffers.
    pub(crate) fn is_tight(&self) -> bool {
        self.in_flight.piece_bytes < *PIECE_BYTES.end()
    }

    /// A node's output goes to its consumers.
    pub(crate) fn sent(&self, worker: usize, node: NodeId, load: Load) {
        for &consumer in &self.consumers[node] {
            self.change(worker, consumer, load);
        }
    }

    /// More, or fewer, rows wait at a node.
    pub(crate) fn change(&self, worker: usize, node: NodeId, by: Load) {
        let count = &self.counts[worker * self.n_nodes + node];
        count.rows.store(count.rows.load(Relaxed) + by.rows, Relaxed);
        count.bytes.store(count.bytes.load(Relaxed) + by.bytes, Relaxed);
        if !self.is_closed.load(Relaxed) {
            self.n_bytes.fetch_add(by.bytes, Relaxed);
            self.in_flight.n_bytes.fetch_add(by.bytes, Relaxed);
        }
    }

    /// The dataflow has failed: nobody waits for its rows any more. Called by each worker.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Relaxed);
        // What a worker still adds at this moment is taken away by the next call, or with this.
        let n_bytes = self.n_bytes.swap(0, Relaxed);
        self.in_flight.n_bytes.fetch_sub(n_bytes, Relaxed);
    }

    /// Rows that wait at a node, on all workers.
    pub fn queued(&self, node: NodeId) -> i64 {
        self.counts.iter().skip(node).step_by(self.n_nodes).map(|c| c.rows.load(Relaxed)).sum()
    }

    fn queued_bytes(&self, node: NodeId) -> i64 {
        self.counts.iter().skip(node).step_by(self.n_nodes).map(|c| c.bytes.load(Relaxed)).sum()
    }

    /// Whether a node should wait before it emits more.
    pub(crate) fn is_backed_up(&self, node: NodeId) -> bool {
        let n_bytes_max = self.in_flight.n_bytes_max / NODE_SHARE;
        self.consumers[node].iter().any(|&c| self.queued(c) > QUEUED_ROWS_MAX || self.queued_bytes(c) > n_bytes_max)
    }

    /// Whether an import should wait before it brings more.
    pub(crate) fn is_import_backed_up(&self, node: NodeId) -> bool {
        let (own, max) = (self.n_bytes.load(Relaxed), self.in_flight.n_bytes_max);
        let is_share_used = || self.in_flight.n_bytes.load(Relaxed) > max && own > max / DATAFLOW_SHARE;
        self.is_backed_up(node) || own > max || is_share_used()
    }

    /// The rows that wait, at all nodes, on all workers.
    pub fn queued_rows(&self) -> i64 {
        self.counts.iter().map(|c| c.rows.load(Relaxed)).sum()
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use millstream_operators::RelationId;

    use super::*;

    fn pressure(in_flight: &Arc<InFlight>) -> Pressure {
        let mut dataflow = Dataflow::default();
        let schema = std::sync::Arc::new(arrow::datatypes::Schema::empty());
        dataflow.add(Node::Import {
            relation: RelationId(1),
            name: "t".to_owned(),
            projection: vec![],
            schema,
            changes_only: false,
        });
        Pressure::new(&dataflow, 2, in_flight)
    }

    fn load(rows: i64, bytes: i64) -> Load {
        Load { rows, bytes }
    }

    #[test]
    fn rows_that_change_workers_are_counted_once() {
        let pressure = pressure(&InFlight::new(1 << 40, 2));
        let root = pressure.root();
        pressure.sent(0, 0, load(100, 0));
        pressure.sent(1, 0, load(QUEUED_ROWS_MAX, 0));
        assert_eq!(pressure.queued(root), QUEUED_ROWS_MAX + 100);
        assert!(pressure.is_backed_up(0) && !pressure.is_backed_up(root));
        // They were sent by one worker and taken in by the other.
        pressure.change(1, root, load(-QUEUED_ROWS_MAX - 50, 0));
        assert_eq!((pressure.queued(root), pressure.queued_rows()), (50, 50));
        assert!(!pressure.is_backed_up(0));
    }

    #[test]
    fn bytes_count_at_a_node_in_a_dataflow_and_in_all() {
        let in_flight = InFlight::new(1600, 2);
        let (a, b) = (pressure(&in_flight), pressure(&in_flight));
        a.sent(0, 0, load(1, 401));
        assert!(a.is_backed_up(0) && !b.is_import_backed_up(0));
        b.sent(1, 0, load(1, 50));
        b.change(1, 0, load(1, 1250));
        // What waits at other nodes than the next one counts for imports alone.
        assert!(!b.is_backed_up(0) && b.is_import_backed_up(0));
        b.change(0, 0, load(-1, -1220));
        assert!(!b.is_import_backed_up(0), "it has less than its share of too much");
        a.close();
        a.change(0, a.root(), load(-1, -401));
        b.change(0, 0, load(1, 1219));
        assert!(!b.is_import_backed_up(0) && in_flight.n_bytes() == 1299, "what has failed leaves room");
        drop(b);
        assert_eq!(in_flight.n_bytes(), 0);
    }

    #[test]
    fn parts_are_the_whole() {
        let mut whole = load(10, 1003);
        let parts = [whole.take_part(3), whole.take_part(2), whole.take_part(5)];
        assert_eq!(parts, [load(3, 300), load(2, 200), load(5, 503)]);
        assert_eq!(whole, Load::default());
    }
}
