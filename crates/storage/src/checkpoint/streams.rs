//! Rows of streams in objects of columns: blocks in the order in which the rows came, and what is known of each.
//!
//! ```text
//!   Checkpoint::stream_object ─ push ─ finish ─ CheckpointStore::commit ─┐
//!   Snapshot::stream_blocks ─────────────────────────────────────────────┼─ StoredBlock ─ read
//!   CheckpointStore::merge_streams_once ─────────────────────────────────┘
//! ```
//!
//! Who has a block can read it, whatever becomes of manifests meanwhile: an object that is read from is not deleted.

mod entry;
mod format;
mod merge;
mod object_reader;
mod object_writer;
mod readers;
mod statistics;
mod tiers;

pub use entry::StreamObjectEntry;
pub use merge::MergedStream;
pub use object_reader::StreamBlocks;
pub(super) use object_reader::StreamObject;
pub use object_writer::{StreamObjectWriter, WrittenStreamObject};
pub(super) use readers::Readers;
pub use tiers::StreamLimits;

/// Rows of a block, at most.
const BLOCK_ROWS_MAX: usize = 1 << 14;
