//! What outlives the process: the log, and the disk under it. `docs/storage.md` describes the bytes.

pub mod disk;
pub mod log;
