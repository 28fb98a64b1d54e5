//! Runs dataflows on timely: adapter, workers, exchange, metrics; the traits of sources and sinks.
//!
//! Each view or sink is a timely dataflow of its own, installed and dropped on all workers in the same order. A worker
//! keeps the relations' partitions that it owns, takes commands in one order, and tells what it has completed through
//! [`Events`]. Only dataflows that an epoch touches are ticked.

mod adapter;
mod chunk;
mod command;
mod dataflow;
mod failure;
mod memory;
mod metrics;
mod pressure;
mod quanta;
mod relation;
mod restoring;
mod root;
mod row_errors;
mod saving;
pub mod sink;
pub mod source;
mod worker;

pub use command::{
    Command, EpochWork, Events, Follow, InstallDataflow, LoadRows, Lookup, LookupReply, OperatorHook, RelationInput,
    RelationSpec, Root, Round, RowsOfWorker, RowsToLoad, StoreRows, Tap,
};
pub use memory::{Account, Charge};
pub use metrics::{DataflowMetrics, Intake, NodeMetrics};
pub use pressure::{InFlight, Load, Pressure};
pub use relation::RelationShared;
pub use row_errors::{RowErrorEntry, RowErrorLog, SavedRowErrors};
pub use saving::{HandedOver, RestoredDataflow, RowsOfPartitions, SaveRequest, SavedPart, StateOfNode};
pub use sink::{Sink, SinkWriter};
pub use source::Source;
pub use worker::{Workers, start};
