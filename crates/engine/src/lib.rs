//! The API boundary: coordinator, sessions, transactions, reads at an epoch, subscriptions.
//!
//! An [`Engine`] runs in any process that has a tokio runtime. A [`Session`] takes SQL and gives [`Response`]s; the
//! Postgres front end is one of its users, tests and benchmarks are others.

pub mod api;
mod coordinator;
mod engine;
mod live;
mod read;
mod session;
mod subscribe;
mod system;

pub use api::{
    CancelHandle, CopyIn, CopyMessage, CopyRows, Notice, Response, ResultColumn, Rows, RowsTag, Severity,
    TransactionStatus,
};
pub use engine::{DATABASE, Engine, EngineConfig};
pub use session::{ParsedStatement, Prepared, Session};
