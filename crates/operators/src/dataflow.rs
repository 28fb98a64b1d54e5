//! The graph of operator specs that a query is planned to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_types::hash::hash_columns;
use millstream_types::{Delta, Result};
use serde::{Deserialize, Serialize};

use crate::operator::OperatorSpec;

/// The number of a relation, unique over the life of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RelationId(pub u64);

impl fmt::Display for RelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The index of a node in its dataflow.
pub type NodeId = usize;

/// How rows change workers on an edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exchange {
    /// They stay.
    Local,
    /// They stay, because they are where the hash of these columns says.
    Partitioned(Vec<usize>),
    /// To the worker that owns the hash of these columns. Without columns all go to one worker.
    Hash(Vec<usize>),
}

impl Exchange {
    /// The columns whose hash says on which worker rows arrive; none if it does not matter.
    pub fn partitioned_by(&self) -> &[usize] {
        match self {
            Exchange::Local => &[],
            Exchange::Partitioned(columns) | Exchange::Hash(columns) => columns,
        }
    }
}

/// An input of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Edge {
    /// The node it comes from.
    pub from: NodeId,
    /// How rows change workers.
    pub exchange: Exchange,
}

/// A node of a dataflow.
#[derive(Clone, Debug)]
pub enum Node {
    /// Rows of a relation, as they change.
    Import {
        /// The relation.
        relation: RelationId,
        /// Its name, for people.
        name: String,
        /// The columns that are wanted, in this order.
        projection: Vec<usize>,
        /// Their schema.
        schema: SchemaRef,
        /// The rows as of the start are not wanted: whoever uses this reads them elsewhere.
        changes_only: bool,
    },
    /// An operator over other nodes.
    Operator {
        /// What it does.
        spec: Arc<dyn OperatorSpec>,
        /// Its inputs, by port.
        inputs: Vec<Edge>,
    },
}

/// What planning has found out about a node's output, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// No row is ever taken back.
    pub append_only: bool,
    /// Columns whose values no two rows share, if known.
    pub key: Option<Vec<usize>>,
}

/// A graph of operator specs, in topological order; the last node's output is the query's result.
#[derive(Clone, Debug, Default)]
pub struct Dataflow {
    /// The nodes; inputs come before their users.
    pub nodes: Vec<Node>,
    /// What is known of the nodes' outputs; nothing of those that are not here.
    pub facts: BTreeMap<NodeId, NodeFacts>,
}

impl Dataflow {
    /// Adds a node.
    ///
    /// # Panics
    /// If an input is not there yet.
    pub fn add(&mut self, node: Node) -> NodeId {
        if let Node::Operator { inputs, .. } = &node {
            assert!(inputs.iter().all(|e| e.from < self.nodes.len()), "inputs come before their users");
        }
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// The schema of a node's output.
    pub fn schema(&self, node: NodeId) -> SchemaRef {
        match &self.nodes[node] {
            Node::Import { schema, .. } => schema.clone(),
            Node::Operator { spec, .. } => spec.schema(),
        }
    }

    /// The last node.
    ///
    /// # Panics
    /// If there are no nodes.
    pub fn root(&self) -> NodeId {
        self.nodes.len().checked_sub(1).expect("a dataflow has nodes")
    }

    /// The relations it reads, each once, with the columns that are wanted of each by node.
    pub fn imports(&self) -> impl Iterator<Item = (NodeId, RelationId, &[usize])> {
        self.nodes.iter().enumerate().filter_map(|(id, node)| match node {
            Node::Import { relation, projection, .. } => Some((id, *relation, projection.as_slice())),
            Node::Operator { .. } => None,
        })
    }

    /// Whether a node is an import whose rows as of the start are not wanted.
    pub fn is_changes_only(&self, node: NodeId) -> bool {
        matches!(self.nodes[node], Node::Import { changes_only: true, .. })
    }

    /// The relations whose arrangements operators read themselves, once for each operator.
    pub fn shared_relations(&self) -> impl Iterator<Item = RelationId> {
        self.nodes.iter().flat_map(|node| match node {
            Node::Import { .. } => vec![],
            Node::Operator { spec, .. } => spec.shared_relations(),
        })
    }

    /// The graph as indented lines, the root first: of each node what it does, how its rows change workers, whether any
    /// are taken back, their key, and what its state grows with.
    pub fn explain(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.nodes.is_empty() {
            self.explain_node(self.root(), &Exchange::Local, 0, &mut lines);
        }
        lines
    }

    /// The changelog mode and the key of a node's output.
    fn told(&self, id: NodeId, facts: &NodeFacts) -> String {
        let schema = self.schema(id);
        let mode = if facts.append_only { "append-only" } else { "changes" };
        match facts.key.as_deref() {
            None => format!(" | {mode}"),
            Some([]) => format!(" | {mode}, one row"),
            Some(key) => {
                let names: Vec<&str> = key.iter().map(|&c| schema.field(c).name().as_str()).collect();
                format!(" | {mode}, key ({})", names.join(", "))
            }
        }
    }

    fn explain_node(&self, id: NodeId, exchange: &Exchange, depth: usize, lines: &mut Vec<String>) {
        let indent = "  ".repeat(depth);
        let exchange = match exchange {
            Exchange::Local | Exchange::Partitioned(_) => String::new(),
            Exchange::Hash(columns) if columns.is_empty() => " [to one worker]".to_owned(),
            Exchange::Hash(columns) => {
                let schema = self.schema(id);
                let names: Vec<&str> = columns.iter().map(|&c| schema.field(c).name().as_str()).collect();
                format!(" [by {}]", names.join(", "))
            }
        };
        let facts = self.facts.get(&id).map_or(String::new(), |facts| self.told(id, facts));
        match &self.nodes[id] {
            Node::Import { name, schema, changes_only, .. } => {
                let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                let what = if *changes_only { " changes only" } else { "" };
                lines.push(format!("{indent}Import {name} ({}){what}{exchange}{facts}", names.join(", ")));
            }
            Node::Operator { spec, inputs } => {
                let about = spec.describe();
                let space = if about.is_empty() { "" } else { " " };
                let keeps = spec.keeps();
                let keeps = if keeps.is_empty() { String::new() } else { format!(" | keeps {keeps}") };
                lines.push(format!("{indent}{}{space}{about}{exchange}{facts}{keeps}", spec.name()));
                for edge in inputs {
                    self.explain_node(edge.from, &edge.exchange, depth + 1, lines);
                }
            }
        }
    }
}

/// Splits a delta into one piece for each worker, by the hash of columns; pieces may be empty.
///
/// # Errors
/// If a column's type has no take kernel.
pub fn split_by_hash(delta: &Delta, columns: &[usize], n_workers: usize) -> Result<Vec<Delta>> {
    if n_workers == 1 {
        return Ok(vec![delta.clone()]);
    }
    let keys: Vec<_> = columns.iter().map(|&c| delta.columns()[c].clone()).collect();
    let mut hashes = Vec::new();
    hash_columns(&keys, delta.n_rows(), &mut hashes);
    let mut rows: Vec<Vec<u32>> = vec![Vec::with_capacity(delta.n_rows() / n_workers + 16); n_workers];
    for (i, &hash) in hashes.iter().enumerate() {
        rows[millstream_types::hash::worker_of(hash, n_workers)].push(i as u32);
    }
    rows.into_iter()
        .map(|rows| match rows.len() {
            0 => Ok(Delta::empty(delta.schema())),
            n if n == delta.n_rows() => Ok(delta.clone()),
            _ => delta.take(&rows.into()),
        })
        .collect()
}
