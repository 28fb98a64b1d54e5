//! The API boundary: coordinator, sessions, transactions, reads at an epoch, subscriptions.

pub mod api;

pub use api::{
    CancelHandle, CopyIn, CopyMessage, CopyRows, Notice, Response, ResultColumn, Rows, RowsTag, Severity,
    TransactionStatus,
};
