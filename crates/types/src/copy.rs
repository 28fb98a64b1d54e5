//! `COPY` in text, csv and binary format: bytes to columns and columns to bytes, in pieces.

mod binary;
mod decoder;
mod encoder;
mod fields;
mod lines;
mod options;

#[cfg(test)]
mod tests;

use arrow::array::RecordBatch;

use crate::pg::FormatSettings;
use crate::{Result, SqlType};
use binary::BinaryDecoder;
use decoder::LineDecoder;
pub use encoder::{CopyColumns, copy_end, copy_signature, write_header};
pub use options::{CopyFormat, CopyHeader, CopyOptions};

/// Decodes the data of a `COPY ... FROM`. Memory is bounded by a batch and a row.
pub struct CopyDecoder(Form);

enum Form {
    Lines(Box<LineDecoder>),
    Binary(Box<BinaryDecoder>),
}

impl CopyDecoder {
    /// Expects rows with these columns of a relation, in order.
    pub fn new(relation: &str, columns: &[(String, SqlType)], options: CopyOptions, settings: &FormatSettings) -> Self {
        CopyDecoder(match options.format {
            CopyFormat::Binary => Form::Binary(Box::new(BinaryDecoder::new(relation, columns))),
            _ => Form::Lines(Box::new(LineDecoder::new(relation, columns, options, settings))),
        })
    }

    /// Takes rows from `data` until a batch is full, which is given, or `data` is used up.
    ///
    /// # Errors
    /// 22P04 if the data does not fit the columns, or what Postgres says of a value; the context names the line. The
    /// decoder cannot go on after an error.
    pub fn decode(&mut self, data: &mut &[u8]) -> Result<Option<RecordBatch>> {
        match &mut self.0 {
            Form::Lines(decoder) => decoder.decode(data),
            Form::Binary(decoder) => decoder.decode(data),
        }
    }

    /// The data has ended: gives the rows that are left, a batch a call, until there are none.
    ///
    /// # Errors
    /// As [`CopyDecoder::decode`].
    pub fn finish(&mut self) -> Result<Option<RecordBatch>> {
        match &mut self.0 {
            Form::Lines(decoder) => decoder.finish(),
            Form::Binary(decoder) => decoder.finish(),
        }
    }
}
