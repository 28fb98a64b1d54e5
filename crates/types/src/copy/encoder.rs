//! Batches to the lines of `COPY ... TO`.

use arrow::array::ArrayRef;

use super::{CopyFormat, CopyOptions};
use crate::pg::{FormatSettings, TextColumn};
use crate::{Result, SqlType};

/// A batch whose rows are appended to a buffer as lines.
pub struct CopyColumns<'a> {
    options: &'a CopyOptions,
    columns: Vec<TextColumn<'a>>,
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
        let column = |(sql_type, array): (&SqlType, &'a ArrayRef)| TextColumn::new(array.as_ref(), sql_type, settings);
        Ok(CopyColumns { options, columns: types.into_iter().zip(arrays).map(column).collect::<Result<_>>()? })
    }

    /// Appends a row with its line break.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn write_row(&self, row_idx: usize, out: &mut Vec<u8>) {
        for (i, column) in self.columns.iter().enumerate() {
            if i > 0 {
                out.push(self.options.delimiter);
            }
            if column.is_null(row_idx) {
                out.extend_from_slice(self.options.null.as_bytes());
                continue;
            }
            let start = out.len();
            column.write(row_idx, out);
            protect(start, self.columns.len() == 1, self.options, out);
        }
        out.push(b'\n');
    }
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
        CopyFormat::Csv => {
            let special = |b: &u8| *b == options.delimiter || *b == options.quote || matches!(b, b'\n' | b'\r');
            if value == options.null.as_bytes() || (alone && value == b"\\.") || value.iter().any(special) {
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
        }
    }
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
