//! Batches to the data of `COPY ... TO`.

use arrow::array::ArrayRef;

use super::{CopyFormat, CopyOptions, binary};
use crate::pg::{BinaryColumn, FormatSettings, TextColumn};
use crate::{Result, SqlType};

/// A batch whose rows are appended to a buffer, in the form that the options say.
pub struct CopyColumns<'a> {
    options: &'a CopyOptions,
    columns: Columns<'a>,
}

enum Columns<'a> {
    Text(Vec<TextColumn<'a>>),
    Binary(Vec<BinaryColumn<'a>>),
}

impl<'a> CopyColumns<'a> {
    /// Looks at the columns of a batch.
    ///
    /// # Errors
    /// Internal, if an array is not of the type that carries its SQL type.
    pub fn new<'t>(
        options: &'a CopyOptions,
        types: impl IntoIterator<Item = &'t SqlType>,
        arrays: &'a [ArrayRef],
        settings: &'a FormatSettings,
    ) -> Result<Self> {
        let pairs = types.into_iter().zip(arrays);
        let columns = match options.format {
            CopyFormat::Binary => {
                Columns::Binary(pairs.map(|(t, a)| BinaryColumn::new(a.as_ref(), t)).collect::<Result<_>>()?)
            }
            _ => Columns::Text(pairs.map(|(t, a)| TextColumn::new(a.as_ref(), t, settings)).collect::<Result<_>>()?),
        };
        Ok(CopyColumns { options, columns })
    }

    /// Appends a row, with its line break if it is a line.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn write_row(&self, row_idx: usize, out: &mut Vec<u8>) {
        match &self.columns {
            Columns::Text(columns) => write_line(columns, row_idx, self.options, out),
            Columns::Binary(columns) => write_values(columns, row_idx, out),
        }
    }
}

fn write_line(columns: &[TextColumn<'_>], row_idx: usize, options: &CopyOptions, out: &mut Vec<u8>) {
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(options.delimiter);
        }
        if column.is_null(row_idx) {
            out.extend_from_slice(options.null.as_bytes());
            continue;
        }
        let start = out.len();
        column.write(row_idx, out);
        if options.force_quote.contains(&i) {
            quote(start, options, out);
        } else {
            protect(start, columns.len() == 1, options, out);
        }
    }
    out.push(b'\n');
}

fn write_values(columns: &[BinaryColumn<'_>], row_idx: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(columns.len() as i16).to_be_bytes());
    for column in columns {
        if column.is_null(row_idx) {
            out.extend_from_slice(&(-1i32).to_be_bytes());
            continue;
        }
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        column.write(row_idx, out);
        let length = (out.len() - start - 4) as i32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

/// What stands before the first row; empty for lines.
pub fn copy_signature(options: &CopyOptions) -> &'static [u8] {
    if options.format == CopyFormat::Binary { binary::SIGNATURE } else { &[] }
}

/// What stands after the last row; empty for lines.
pub fn copy_end(options: &CopyOptions) -> &'static [u8] {
    if options.format == CopyFormat::Binary { binary::END } else { &[] }
}

/// Appends the names of columns as a line.
pub fn write_header(names: &[&str], options: &CopyOptions, out: &mut Vec<u8>) {
    for (i, name) in names.iter().enumerate() {
        if i > 0 {
            out.push(options.delimiter);
        }
        let start = out.len();
        out.extend_from_slice(name.as_bytes());
        protect(start, names.len() == 1, options, out);
    }
    out.push(b'\n');
}

/// Makes what stands in `out` from `start` on readable as one field.
fn protect(start: usize, alone: bool, options: &CopyOptions, out: &mut Vec<u8>) {
    let value = &out[start..];
    match options.format {
        CopyFormat::Text => {
            if value.iter().any(|b| text_escape(*b, options.delimiter).is_some()) {
                for byte in out.split_off(start) {
                    match text_escape(byte, options.delimiter) {
                        Some(letter) => out.extend_from_slice(&[b'\\', letter]),
                        None => out.push(byte),
                    }
                }
            }
        }
        // Binary data has no fields to protect.
        CopyFormat::Binary => {}
        CopyFormat::Csv => {
            let special = |b: &u8| *b == options.delimiter || *b == options.quote || matches!(b, b'\n' | b'\r');
            if value == options.null.as_bytes() || (alone && value == b"\\.") || value.iter().any(special) {
                quote(start, options, out);
            }
        }
    }
}

/// Puts what stands in `out` from `start` on in the quotes of csv.
fn quote(start: usize, options: &CopyOptions, out: &mut Vec<u8>) {
    let value = out.split_off(start);
    out.push(options.quote);
    for byte in value {
        if byte == options.quote || byte == options.escape {
            out.push(options.escape);
        }
        out.push(byte);
    }
    out.push(options.quote);
}

/// What stands after the backslash for a byte of text format that cannot stand for itself.
fn text_escape(byte: u8, delimiter: u8) -> Option<u8> {
    match byte {
        0x08 => Some(b'b'),
        0x0c => Some(b'f'),
        b'\n' => Some(b'n'),
        b'\r' => Some(b'r'),
        b'\t' => Some(b't'),
        0x0b => Some(b'v'),
        b'\\' => Some(b'\\'),
        _ if byte == delimiter => Some(byte),
        _ => None,
    }
}
