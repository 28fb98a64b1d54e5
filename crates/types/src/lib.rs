//! The vocabulary of Millstream: deltas, epochs, SQL types, hash partitions and error kinds.
//!
//! Everything here is plain data. No crate of the workspace stands below this one.

pub mod copy;
pub mod deep_stack;
pub mod delta;
pub mod epoch;
pub mod error;
pub mod hash;
pub mod pg;
pub mod sql_type;

pub use delta::{Delta, Weights};
pub use epoch::{Epoch, EpochHeader};
pub use error::{Error, ErrorKind, Result, SqlState};
pub use hash::{HASH_VERSION, N_PARTITIONS, hash_columns, partition_of};
pub use sql_type::SqlType;
