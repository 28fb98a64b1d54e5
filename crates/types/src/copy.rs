//! `COPY` in text and csv format: bytes to columns and columns to bytes, in pieces.

mod options;

pub use options::{CopyFormat, CopyOptions};
