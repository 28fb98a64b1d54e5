//! The API boundary: coordinator, sessions, transactions, reads at an epoch, subscriptions.
//!
//! An [`Engine`] runs in any process that has a tokio runtime. A [`Session`] takes SQL and gives [`Response`]s; the
//! Postgres front end is one of its users, tests and benchmarks are others.

pub mod api;
mod bases;
mod checkpoints;
mod coordinator;
mod engine;
mod epoch_history;
mod execution;
mod frugal;
mod frugal_memory;
mod grace_join;
mod journal;
mod live;
mod lookup;
mod memory;
mod nested_loops;
mod own_rows;
mod pg_catalog;
mod plans;
mod process_memory;
mod publish;
mod query_memory;
mod read;
mod reads;
mod recovery;
mod retention;
mod scan;
mod session;
mod staged;
mod start_progress;
mod statement_cache;
mod subscribe;
mod system;
mod transaction;

pub use api::{CancelHandle, CopyIn, Notice, Response, ResultColumn, Rows, RowsTag, Severity, TransactionStatus};
pub use coordinator::CheckpointWhen;
pub use engine::{DATABASE, Engine, EngineConfig};
#[doc(hidden)]
pub use engine::{DiskHook, Sabotage};
pub use memory::{MemoryLimits, parse_bytes};
pub use millstream_runtime::OperatorHook;
pub use millstream_storage::backup::{Copied, restore};
pub use millstream_storage::location::Location;
pub use session::{ParsedStatement, Prepared, Session};
pub use start_progress::StartProgress;
