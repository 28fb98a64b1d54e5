//! Streaming operators, one a file: the spec that says what, and the state machine that does it.
//!
//! Operators are synchronous and deterministic; they know nothing of threads, clocks or timely. [`Dataflow`] is the graph
//! of their specs, and [`step`] a plain driver that runs such a graph in tests.

pub mod aggregate;
mod batch_groups;
#[cfg(test)]
mod change_notation;
pub mod constant;
pub mod dataflow;
mod emitted_values;
pub mod encoded;
pub mod flat_map;
pub mod group_table;
pub mod hash_join;
pub mod map;
pub mod materialize;
pub mod operator;
mod partitioned_rows;
#[cfg(test)]
mod property;
pub mod recompute;
mod saving;
pub mod spilling;
pub mod step;
pub mod top_n;
pub mod union;
pub mod window;

pub use dataflow::{Dataflow, Edge, Exchange, Node, NodeFacts, NodeId, RelationId};
pub use operator::{BuildContext, Operator, OperatorSpec, Output, Port, Progress};
