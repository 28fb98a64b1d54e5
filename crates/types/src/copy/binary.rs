//! `COPY` in binary format: a signature, rows of values with their lengths, an end mark.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};

use super::decoder::{BATCH_BYTES, BATCH_ROWS};
use crate::pg::BinaryColumnBuilder;
use crate::{Error, Result, SqlState, SqlType};

/// What binary data begins with: a signature, flags, and the length of an extension.
pub(super) const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What stands for the number of a row's values after the last row.
pub(super) const END: &[u8] = &[0xff, 0xff];
/// Bytes of the signature without flags and extension.
const MAGIC_BYTES: usize = 11;
/// The longest value.
const VALUE_BYTES_MAX: usize = 256 << 20;

/// Decodes the binary data of a `COPY`. Memory is bounded by a batch and a row.
pub(super) struct BinaryDecoder {
    relation: String,
    names: Vec<String>,
    schema: SchemaRef,
    // State
    builders: Vec<BinaryColumnBuilder>,
    n_rows: usize,
    n_bytes: usize,
    /// Number of the row read last, from 1.
    row_no: u64,
    /// What has come, of which the first `taken` bytes have been decoded.
    pending: Vec<u8>,
    taken: usize,
    has_begun: bool,
    ended: bool,
}

impl BinaryDecoder {
    pub(super) fn new(relation: &str, columns: &[(String, SqlType)]) -> Self {
        let fields: Vec<_> = columns.iter().map(|(name, t)| Field::new(name, t.arrow_type(), true)).collect();
        BinaryDecoder {
            relation: relation.to_owned(),
            names: columns.iter().map(|(name, _)| name.clone()).collect(),
            schema: Arc::new(Schema::new(fields)),
            builders: columns.iter().map(|(_, t)| BinaryColumnBuilder::new(t, 0)).collect(),
            n_rows: 0,
            n_bytes: 0,
            row_no: 0,
            pending: Vec::new(),
            taken: 0,
            has_begun: false,
            ended: false,
        }
    }

    /// Takes rows from `data` until a batch is full, which is given, or `data` is used up.
    pub(super) fn decode(&mut self, data: &mut &[u8]) -> Result<Option<RecordBatch>> {
        if self.ended {
            *data = &[];
            return Ok(None);
        }
        if self.taken > 0 && !data.is_empty() {
            self.pending.drain(..self.taken);
            self.taken = 0;
        }
        self.pending.extend_from_slice(data);
        *data = &[];
        let pending = std::mem::take(&mut self.pending);
        let batch = self.decode_pending(&pending);
        self.pending = pending;
        batch
    }

    fn decode_pending(&mut self, pending: &[u8]) -> Result<Option<RecordBatch>> {
        if !self.has_begun {
            match begun(pending)? {
                Some(head) => (self.taken, self.has_begun) = (head, true),
                None => return Ok(None),
            }
        }
        while !self.ended {
            let rest = &pending[self.taken..];
            let Some(length) = row_length(rest, self.names.len())? else { break };
            self.append(&rest[..length])?;
            self.taken += length;
            if self.n_rows >= BATCH_ROWS || self.n_bytes >= BATCH_BYTES {
                return self.take_batch().map(Some);
            }
        }
        Ok(None)
    }

    /// The data has ended: gives the last batches, one a call.
    pub(super) fn finish(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(batch) = self.decode(&mut &[][..])? {
            return Ok(Some(batch));
        }
        if !self.ended && (!self.has_begun || self.taken < self.pending.len()) {
            return Err(malformed("unexpected EOF in COPY data"));
        }
        if self.n_rows == 0 { Ok(None) } else { self.take_batch().map(Some) }
    }

    /// Appends a whole row, or takes the end mark.
    fn append(&mut self, row: &[u8]) -> Result<()> {
        if row == END {
            self.ended = true;
            return Ok(());
        }
        self.row_no += 1;
        let mut at = 2;
        for (builder, name) in self.builders.iter_mut().zip(&self.names) {
            let length = i32::from_be_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
            at += 4;
            let Ok(length) = usize::try_from(length) else {
                builder.append_null();
                continue;
            };
            let appended = builder.append(&row[at..at + length]);
            appended
                .map_err(|e| e.with_context(format!("COPY {}, line {}, column {name}", self.relation, self.row_no)))?;
            at += length;
        }
        self.n_rows += 1;
        self.n_bytes += row.len();
        Ok(())
    }

    fn take_batch(&mut self) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(self.n_rows));
        let columns = self.builders.iter_mut().map(BinaryColumnBuilder::finish).collect();
        (self.n_rows, self.n_bytes) = (0, 0);
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}

fn malformed(message: &str) -> Error {
    Error::user(SqlState::BAD_COPY_FILE_FORMAT, message)
}

/// How long the head is, with its extension; `None` if it has not all come.
fn begun(data: &[u8]) -> Result<Option<usize>> {
    let n_compared = data.len().min(MAGIC_BYTES);
    if data[..n_compared] != SIGNATURE[..n_compared] {
        return Err(malformed("COPY file signature not recognized"));
    }
    let Some(head) = data.first_chunk::<19>() else { return Ok(None) };
    let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if word(11) >> 16 != 0 {
        return Err(malformed("unrecognized critical flags in COPY file header"));
    }
    let extension = word(15) as usize;
    if extension > VALUE_BYTES_MAX {
        return Err(malformed("invalid COPY file header (wrong length)"));
    }
    Ok((data.len() >= 19 + extension).then_some(19 + extension))
}

/// How long the first row is, the end mark included; `None` if it has not all come.
fn row_length(data: &[u8], n_columns: usize) -> Result<Option<usize>> {
    let Some(head) = data.first_chunk::<2>() else { return Ok(None) };
    let n_values = i16::from_be_bytes(*head);
    if n_values == -1 {
        return Ok(Some(2));
    }
    if usize::try_from(n_values).ok() != Some(n_columns) {
        return Err(malformed(&format!("row field count is {n_values}, expected {n_columns}")));
    }
    let mut at = 2;
    for _ in 0..n_columns {
        let Some(length) = data.get(at..).and_then(|rest| rest.first_chunk::<4>()) else { return Ok(None) };
        at += 4;
        match i32::from_be_bytes(*length) {
            -1 => {}
            length => match usize::try_from(length) {
                Ok(length) if length <= VALUE_BYTES_MAX => at += length,
                _ => return Err(malformed("invalid field size")),
            },
        }
    }
    Ok((at <= data.len()).then_some(at))
}
