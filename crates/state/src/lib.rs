//! State: rows in columns, hash indexes, arrangements with births and deaths, snapshots and holds.
//!
//! Everything here is synchronous and belongs to one worker, except the readers' ends: snapshots are immutable and may
//! be read from any thread.

pub mod allocator;
pub mod arrangement;
pub mod buffer;
pub mod changes;
mod chunk_columns;
mod chunked_rows;
pub mod codec;
pub mod cold;
pub mod column;
pub mod hash_index;
pub mod holds;
mod number_set;
pub mod paged;
mod prefetch;
pub mod reading;
mod row_sizes;
mod row_store;
pub mod saved;
pub mod snapshot;
pub mod spilled;
pub mod stored;
mod strings;
pub mod unsaved;

pub use arrangement::{Arrangement, ArrangementSpec, Matches, ProbePosition};
pub use changes::{ChangePart, ChangeSink, HashedRows, StateChanges, TableChange, TableShape};
pub use cold::{ColdChunk, ColdMemory, ColdStore, ReadAhead};
pub use column::{Equality, Rows};
pub use hash_index::{HashIndex, NO_ROW};
pub use holds::{Hold, Holds, LastClosed};
pub use number_set::NumberSet;
pub use paged::PagedVec;
pub use reading::{ChunksAhead, read_blocks, rows_after};
pub use row_store::RowStore;
pub use saved::SavedState;
pub use snapshot::{ArrangementReader, Changes, Snapshot};
pub use spilled::SpilledChanges;
pub use stored::{ColumnStatistics, Statistics, StoredBlock};
pub use unsaved::UnsavedRows;
