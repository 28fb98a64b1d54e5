//! Checkpoints: durable images of all state as of an epoch, as objects of what has changed and a manifest that names
//! those which make up the state. `docs/storage.md` describes the bytes and the rules.
//!
//! ```text
//!   CheckpointStore::open       what is there; deletes what writers have left that are no more
//!
//!   begin ─ Checkpoint::object ─ ObjectWriter::add, finish ─┐     a checkpoint: objects by workers, at once,
//!                 (one a worker, on any thread)             ├─ commit     then the manifest, which is the atomic point
//!         ─ Checkpoint::stream_object ─ push, finish ───────┘     and those of streams
//!                 (one a stream, on any thread)
//!
//!   hold ─ Snapshot::changes ─ TableChanges::read_all             recovery: pieces, on any threads
//!        ─ Snapshot::stream_blocks ─ StoredBlock                  rows of streams, read by whoever has a block
//!
//!   merge_once, merge_streams_once, then collect                                      a thread of its own, beside all of that
//! ```
//!
//! Invariants: what a manifest names was durable before it; objects never change; a manifest under its name is whole; the
//! objects of the two newest manifests and of those that are held are there. Of all calls only those of
//! [`CheckpointStore`] that commit take the store's lock while the disk is written, for as long as a manifest takes.

pub(crate) mod block;
mod format;
mod found;
mod manifest;
mod merge;
mod net;
mod object_file;
mod object_reader;
mod object_writer;
mod snapshot;
mod store;
mod streams;
#[cfg(test)]
mod tests;
mod tiers;

pub use format::{Part, TableId};
pub use manifest::Manifest;
pub use merge::Merged;
pub use millstream_state::{HashedRows, TableShape};
pub use object_reader::Piece;
pub use object_writer::{ObjectWriter, WrittenObject};
pub use snapshot::{Snapshot, TableChanges};
pub use store::{Checkpoint, CheckpointOptions, CheckpointStore, Commit};
pub use streams::{
    MergedStream, StreamBlocks, StreamLimits, StreamObjectEntry, StreamObjectWriter, WrittenStreamObject,
};

/// The folders that checkpoints have.
pub const FOLDERS: [&str; 3] = [OBJECTS, STREAMS, MANIFESTS];

/// The folder of the objects of changes.
const OBJECTS: &str = "state";

/// The folder of the objects of streams.
const STREAMS: &str = "streams";

/// The folder of the manifests.
pub(crate) const MANIFESTS: &str = "manifests";

/// Rows of a block, at most.
const BLOCK_ROWS_MAX: usize = 1 << 16;
