//! Checkpoints: durable images of all state as of an epoch, as objects of what has changed and a manifest that names
//! those which make up the state.
//!
//! [`CheckpointStore`] is where one begins: it opens what is there, takes what workers write through [`ObjectWriter`],
//! commits it, merges and deletes. [`Snapshot`] reads. `docs/storage.md` describes the bytes and the rules.

mod block;
mod format;
mod manifest;
mod merge;
mod net;
mod object_reader;
mod object_writer;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod tiers;

pub use format::{TableId, TableShape};
pub use manifest::Manifest;
pub use merge::Merged;
pub use object_reader::{Piece, Rows};
pub use object_writer::{HashedRows, ObjectWriter, WrittenObject};
pub use snapshot::{Snapshot, TableChanges};
pub use store::{Checkpoint, CheckpointOptions, CheckpointStore, Commit};

/// The folder of the objects.
const OBJECTS: &str = "state";

/// The folder of the manifests.
const MANIFESTS: &str = "manifests";

/// Rows of a block, at most.
const BLOCK_ROWS_MAX: usize = 1 << 16;

/// Bytes of a block, decoded, at most, unless one row has more.
const BLOCK_BYTES_MAX: usize = 1 << 20;
