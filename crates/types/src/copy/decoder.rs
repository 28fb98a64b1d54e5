//! The lines of `COPY ... FROM`, in arbitrary pieces of bytes, to batches of columns.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef};

use super::fields::{csv_fields, text_fields};
use super::lines::LineSplitter;
use super::{CopyFormat, CopyHeader, CopyOptions};
use crate::pg::{FormatSettings, TextColumnBuilder};
use crate::{Error, Result, SqlState, SqlType};

/// Rows of a batch.
pub(super) const BATCH_ROWS: usize = 8192;
/// Bytes of lines after which a batch ends, however few its rows.
pub(super) const BATCH_BYTES: usize = 4 << 20;
/// Of a value or line that an error shows.
const SHOWN_CHARS: usize = 100;

/// Decodes the lines of a `COPY`. Memory is bounded by a batch and a line.
pub(super) struct LineDecoder {
    options: CopyOptions,
    relation: String,
    names: Vec<String>,
    schema: SchemaRef,
    // State
    splitter: LineSplitter,
    rows: Rows,
    /// Number of the line read last, from 1.
    line_no: u64,
    /// `\.` has come: what follows is ignored.
    ended: bool,
}

/// The batch that is being built.
struct Rows {
    builders: Vec<TextColumnBuilder>,
    n_rows: usize,
    n_bytes: usize,
}

impl LineDecoder {
    /// Expects lines with these columns of a relation, in order.
    pub(super) fn new(
        relation: &str,
        columns: &[(String, SqlType)],
        options: CopyOptions,
        settings: &FormatSettings,
    ) -> Self {
        let fields: Vec<_> = columns.iter().map(|(name, t)| Field::new(name, t.arrow_type(), true)).collect();
        let builders = columns.iter().map(|(_, t)| TextColumnBuilder::new(t, settings, 0)).collect();
        LineDecoder {
            relation: relation.to_owned(),
            names: columns.iter().map(|(name, _)| name.clone()).collect(),
            schema: Arc::new(Schema::new(fields)),
            splitter: LineSplitter::new(&options),
            options,
            rows: Rows { builders, n_rows: 0, n_bytes: 0 },
            line_no: 0,
            ended: false,
        }
    }

    /// Takes lines from `data` until a batch is full, which is given, or `data` is used up.
    ///
    /// # Errors
    /// 22P04 if a line does not fit the columns, or what Postgres says of a value; the context names the line. The
    /// decoder cannot go on after an error.
    pub(super) fn decode(&mut self, data: &mut &[u8]) -> Result<Option<RecordBatch>> {
        self.decode_lines(data).map_err(|error| self.in_relation(error))
    }

    fn decode_lines(&mut self, data: &mut &[u8]) -> Result<Option<RecordBatch>> {
        while !self.ended && !data.is_empty() {
            let LineDecoder { options, names, splitter, rows, line_no, ended, .. } = self;
            let appended = splitter.next(data, |line| {
                *line_no += 1;
                append_line(line, options, names, rows, *line_no).map(|end| *ended = end)
            })?;
            if let Some(outcome) = appended {
                outcome?;
                if self.rows.n_rows >= BATCH_ROWS || self.rows.n_bytes >= BATCH_BYTES {
                    return self.take_batch().map(Some);
                }
            }
        }
        if self.ended {
            *data = &[];
        }
        Ok(None)
    }

    /// The data has ended: gives the last batch.
    ///
    /// # Errors
    /// As [`LineDecoder::decode`].
    pub(super) fn finish(&mut self) -> Result<Option<RecordBatch>> {
        self.finish_lines().map_err(|error| self.in_relation(error))
    }

    /// The error with the relation's name before the place.
    fn in_relation(&self, error: Error) -> Error {
        match error.fields().context.clone() {
            Some(place) => error.with_context(format!("COPY {}, {place}", self.relation)),
            None => error,
        }
    }

    fn finish_lines(&mut self) -> Result<Option<RecordBatch>> {
        if self.splitter.in_quotes() && !self.ended {
            let error = Error::user(SqlState::BAD_COPY_FILE_FORMAT, "unterminated CSV quoted field");
            return Err(error.with_context(format!("line {}", self.line_no + 1)));
        }
        if let Some(line) = self.splitter.finish().filter(|_| !self.ended) {
            self.line_no += 1;
            self.ended = append_line(&line, &self.options, &self.names, &mut self.rows, self.line_no)?;
        }
        if self.rows.n_rows == 0 { Ok(None) } else { self.take_batch().map(Some) }
    }

    fn take_batch(&mut self) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows.n_rows));
        let columns = self.rows.builders.iter_mut().map(TextColumnBuilder::finish).collect();
        (self.rows.n_rows, self.rows.n_bytes) = (0, 0);
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}

/// Appends a row; `true` if the line is the end mark instead.
fn append_line(line: &[u8], options: &CopyOptions, names: &[String], rows: &mut Rows, line_no: u64) -> Result<bool> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line == b"\\." {
        return Ok(true);
    }
    match options.header {
        CopyHeader::Match if line_no == 1 => return check_header(line, options, names).map(|()| false),
        CopyHeader::Yes if line_no == 1 => return Ok(false),
        _ => {}
    }
    let builders = &mut rows.builders;
    if names.is_empty() && line.is_empty() {
        rows.n_rows += 1;
        return Ok(false);
    }
    let put = |index: usize, field: Option<Cow<'_, [u8]>>| {
        let Some(builder) = builders.get_mut(index) else {
            return Err(Error::user(SqlState::BAD_COPY_FILE_FORMAT, "extra data after last expected column"));
        };
        match forced(field, index, options) {
            None => builder.append_null(),
            Some(bytes) => {
                let appended = utf8(&bytes).and_then(|text| builder.append(text));
                appended.map_err(|error| in_column(error, line_no, &names[index], &bytes))?;
            }
        }
        Ok(())
    };
    let n_fields = fields(line, options, put).map_err(|error| in_line(error, line_no, line))?;
    if let Some(missing) = names.get(n_fields) {
        let message = format!("missing data for column \"{missing}\"");
        return Err(in_line(Error::user(SqlState::BAD_COPY_FILE_FORMAT, message), line_no, line));
    }
    rows.n_rows += 1;
    rows.n_bytes += line.len();
    Ok(false)
}

/// Hands each field of a line to `put`; gives their number.
fn fields<'a>(
    line: &'a [u8],
    options: &CopyOptions,
    put: impl FnMut(usize, Option<Cow<'a, [u8]>>) -> Result<()>,
) -> Result<usize> {
    match options.format {
        CopyFormat::Text => text_fields(line, options, put),
        // Binary data has no lines.
        CopyFormat::Csv | CopyFormat::Binary => csv_fields(line, options, put),
    }
}

/// A field under FORCE_NOT_NULL and FORCE_NULL, of which the former comes first.
fn forced<'a>(field: Option<Cow<'a, [u8]>>, index: usize, options: &'a CopyOptions) -> Option<Cow<'a, [u8]>> {
    let null = options.null.as_bytes();
    match field {
        None if options.force_not_null.contains(&index) => Some(Cow::Borrowed(null)),
        Some(bytes) if bytes.as_ref() == null && options.force_null.contains(&index) => None,
        field => field,
    }
}

/// `HEADER MATCH`: the first line has the columns' names, in their order.
fn check_header(line: &[u8], options: &CopyOptions, names: &[String]) -> Result<()> {
    let malformed = |message: String| in_line(Error::user(SqlState::BAD_COPY_FILE_FORMAT, message), 1, line);
    let mut found = Vec::new();
    fields(line, options, |_, field| {
        found.push(field.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
        Ok(())
    })?;
    if found.len() != names.len() {
        let (got, expected) = (found.len(), names.len());
        return Err(malformed(format!("wrong number of fields in header line: got {got}, expected {expected}")));
    }
    for (i, (found, name)) in (1..).zip(found.iter().zip(names)) {
        let got = match found {
            Some(found) if found == name => continue,
            Some(found) => format!("\"{found}\""),
            None => format!("null value (\"{}\")", options.null),
        };
        return Err(malformed(format!(
            "column name mismatch in header line field {i}: got {got}, expected \"{name}\""
        )));
    }
    Ok(())
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    let invalid = |byte: u8| {
        Error::user(
            SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            format!("invalid byte sequence for encoding \"UTF8\": 0x{byte:02x}"),
        )
    };
    let text = std::str::from_utf8(bytes).map_err(|e| invalid(bytes[e.valid_up_to()]))?;
    if bytes.contains(&0) { Err(invalid(0)) } else { Ok(text) }
}

/// Says where the error was, as Postgres does in its context.
fn in_column(error: Error, line_no: u64, name: &str, value: &[u8]) -> Error {
    error.with_context(format!("line {line_no}, column {name}: \"{}\"", shown(value)))
}

fn in_line(error: Error, line_no: u64, line: &[u8]) -> Error {
    if error.fields().context.is_some() {
        return error;
    }
    error.with_context(format!("line {line_no}: \"{}\"", shown(line)))
}

fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.into_owned(),
    }
}
