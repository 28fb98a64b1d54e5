//! `COPY` in text and csv format: bytes to columns and columns to bytes, in pieces.

mod decoder;
mod encoder;
mod fields;
mod lines;
mod options;

#[cfg(test)]
mod tests;

pub use decoder::CopyDecoder;
pub use encoder::{CopyColumns, write_header};
pub use options::{CopyFormat, CopyOptions};
