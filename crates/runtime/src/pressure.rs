//! Rows on their way within a dataflow, counted over all workers, so that whoever makes more of them can wait.
//!
//! Each node has a count of the rows that were sent to it and that it can take in now. A node whose consumer has more
//! than [`QUEUED_ROWS_MAX`] of them puts off its work, and an import its next piece. Rows of an epoch whose turn has not
//! come are not counted: the node that they wait at cannot take them in before those upstream have gone on. So whoever
//! waits, waits for a node that can work, and the last of them, the root, never waits.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use millstream_operators::{Dataflow, Node, NodeId};

/// Rows that may wait at one node before those that feed it wait.
pub(crate) const QUEUED_ROWS_MAX: i64 = 1 << 17;

/// The counts of one dataflow, shared by all workers; the root is a node after the last.
#[derive(Debug)]
pub struct Pressure {
    n_nodes: usize,
    /// By worker, then by node; each is written by its worker alone. Rows that change workers count up on one and down on
    /// the other, so only sums mean something.
    counts: Vec<AtomicI64>,
    /// For each node, the nodes that take in its output.
    consumers: Vec<Vec<NodeId>>,
}

impl Pressure {
    /// Counts at zero.
    pub fn new(dataflow: &Dataflow, n_workers: usize) -> Self {
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
        let counts = (0..n_workers * n_nodes).map(|_| AtomicI64::new(0)).collect();
        Pressure { n_nodes, counts, consumers }
    }

    /// The number of the root.
    pub(crate) fn root(&self) -> NodeId {
        self.n_nodes - 1
    }

    /// A node's output goes to its consumers.
    pub(crate) fn sent(&self, worker: usize, node: NodeId, n_rows: usize) {
        for &consumer in &self.consumers[node] {
            self.change(worker, consumer, n_rows as i64);
        }
    }

    /// More, or fewer, rows wait at a node.
    pub(crate) fn change(&self, worker: usize, node: NodeId, by: i64) {
        let count = &self.counts[worker * self.n_nodes + node];
        count.store(count.load(Relaxed) + by, Relaxed);
    }

    /// Rows that wait at a node, on all workers.
    pub fn queued(&self, node: NodeId) -> i64 {
        self.counts.iter().skip(node).step_by(self.n_nodes).map(|c| c.load(Relaxed)).sum()
    }

    /// Whether a node should wait before it emits more.
    pub(crate) fn is_backed_up(&self, node: NodeId) -> bool {
        self.consumers[node].iter().any(|&c| self.queued(c) > QUEUED_ROWS_MAX)
    }

    /// The rows that wait, at all nodes, on all workers.
    pub fn queued_rows(&self) -> i64 {
        self.counts.iter().map(|c| c.load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use millstream_operators::RelationId;

    use super::*;

    #[test]
    fn rows_that_change_workers_are_counted_once() {
        let mut dataflow = Dataflow::default();
        let schema = std::sync::Arc::new(arrow::datatypes::Schema::empty());
        dataflow.add(Node::Import {
            relation: RelationId(1),
            name: "t".to_owned(),
            projection: vec![],
            schema,
            changes_only: false,
        });
        let pressure = Pressure::new(&dataflow, 2);
        let root = pressure.root();
        pressure.sent(0, 0, 100);
        pressure.sent(1, 0, QUEUED_ROWS_MAX as usize);
        assert_eq!(pressure.queued(root), QUEUED_ROWS_MAX + 100);
        assert!(pressure.is_backed_up(0) && !pressure.is_backed_up(root));
        // They were sent by one worker and taken in by the other.
        pressure.change(1, root, -QUEUED_ROWS_MAX - 50);
        assert_eq!((pressure.queued(root), pressure.queued_rows()), (50, 50));
        assert!(!pressure.is_backed_up(0));
    }
}
