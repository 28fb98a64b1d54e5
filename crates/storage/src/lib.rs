//! What outlives the process: the log, checkpoints, and the disk under them. `docs/storage.md` describes the bytes.

pub mod backup;
pub mod bucket;
pub mod checkpoint;
pub mod data_directory;
pub mod disk;
mod encoding;
mod errors;
pub mod location;
pub mod log;
pub mod object_store;
#[cfg(test)]
mod random;
mod read_ahead;
pub mod spill;
