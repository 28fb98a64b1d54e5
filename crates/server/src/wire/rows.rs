//! Results on their way out: pulled batch by batch, encoded row by row into the output, sent in pieces.

use std::task::Poll;

use arrow::array::RecordBatch;
use futures::{FutureExt, StreamExt};
use millstream_engine::{CancelHandle, ResultColumn, Rows, RowsTag};
use millstream_types::copy::{CopyColumns, CopyOptions, copy_signature};
use millstream_types::pg::{BinaryColumn, FormatSettings, TextColumn};
use millstream_types::{Error, Result, SqlState};

use super::connection::{Connection, Fault, PIECE_BYTES};
use super::params::format_code;

/// Between looks at whether the statement is cancelled.
const ROWS_PER_LOOK: usize = 256;

/// The message that a row becomes.
pub(crate) enum RowForm {
    /// DataRow, with a format code for each column.
    Data(Vec<i16>),
    /// CopyData, a line each.
    Copy(CopyOptions),
}

/// A result that is being sent, perhaps in several goes.
pub(crate) struct OpenRows {
    rows: Rows,
    form: RowForm,
    settings: FormatSettings,
    /// What the first row's message begins with, until it has been sent.
    prefix: &'static [u8],
    /// A batch and the first of its rows that has not been sent.
    rest: Option<(RecordBatch, usize)>,
    ended: bool,
}

/// How far sending came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// All there was.
    All(u64),
    /// As many as asked for; there may be more.
    Limit,
}

impl OpenRows {
    pub(crate) fn new(rows: Rows, form: RowForm, settings: FormatSettings) -> Self {
        let prefix = match &form {
            RowForm::Copy(options) => copy_signature(options),
            RowForm::Data(_) => &[],
        };
        OpenRows { rows, form, settings, prefix, rest: None, ended: false }
    }

    pub(crate) fn columns(&self) -> &[ResultColumn] {
        &self.rows.columns
    }

    pub(crate) fn tag(&self) -> RowsTag {
        self.rows.tag
    }

    /// What was to come before the first row and has not, because there was none.
    pub(crate) fn take_prefix(&mut self) -> &'static [u8] {
        std::mem::take(&mut self.prefix)
    }

    /// Sends up to `max_rows` more rows. The last piece stays in the connection's output.
    pub(crate) async fn send(
        &mut self,
        connection: &mut Connection,
        cancel: &CancelHandle,
        max_rows: Option<u64>,
    ) -> Result<Sent, Fault> {
        let mut n_rows = 0;
        loop {
            let left = max_rows.map_or(u64::MAX, |max| max - n_rows);
            if left == 0 {
                return Ok(Sent::Limit);
            }
            let (batch, from) = match self.rest.take() {
                Some(rest) => rest,
                None => match self.next_batch(connection, cancel).await? {
                    Some(batch) if batch.num_rows() == 0 => {
                        pause(connection, cancel).await?;
                        continue;
                    }
                    Some(batch) => (batch, 0),
                    None => return Ok(Sent::All(n_rows)),
                },
            };
            let until = batch.num_rows().min(from.saturating_add(usize::try_from(left).unwrap_or(usize::MAX)));
            self.send_batch(connection, cancel, &batch, from..until).await?;
            n_rows += (until - from) as u64;
            if until < batch.num_rows() {
                self.rest = Some((batch, until));
            }
        }
    }

    /// The next batch. Before waiting for it, rows that nobody knows to be followed soon are sent.
    async fn next_batch(
        &mut self,
        connection: &mut Connection,
        cancel: &CancelHandle,
    ) -> Result<Option<RecordBatch>, Fault> {
        if self.ended {
            return Ok(None);
        }
        let mut next = self.rows.batches.next();
        let batch = match futures::poll!(&mut next) {
            Poll::Ready(batch) => batch,
            Poll::Pending => {
                if self.rows.live || connection.output.has_rows() {
                    connection.flush().await?;
                }
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return Err(Fault::Statement(Error::cancelled())),
                    batch = next => batch,
                    () = connection.closed() => return Err(Fault::Gone),
                }
            }
        };
        self.ended = !matches!(batch, Some(Ok(_)));
        Ok(batch.transpose()?)
    }

    async fn send_batch(
        &mut self,
        connection: &mut Connection,
        cancel: &CancelHandle,
        batch: &RecordBatch,
        rows: std::ops::Range<usize>,
    ) -> Result<(), Fault> {
        let encoder = RowEncoder::new(&self.form, &self.rows.columns, batch, &self.settings)?;
        let mut row_idx = rows.start;
        while row_idx < rows.end {
            let until = rows.end.min(row_idx + ROWS_PER_LOOK);
            let prefix = std::mem::take(&mut self.prefix);
            row_idx = encoder.encode(row_idx..until, prefix, connection.output.rows_mut())?;
            if cancel.is_cancelled() {
                return Err(Fault::Statement(Error::cancelled()));
            }
            if connection.output.len() >= PIECE_BYTES {
                connection.flush().await?;
                // Sending to a fast reader never waits, and other connections want their turn.
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

/// Lets others work after a batch without rows. Sending notices a client that has gone; here nothing is sent.
async fn pause(connection: &mut Connection, cancel: &CancelHandle) -> Result<(), Fault> {
    tokio::task::yield_now().await;
    if cancel.is_cancelled() {
        return Err(Fault::Statement(Error::cancelled()));
    }
    match connection.closed().now_or_never() {
        Some(()) => Err(Fault::Gone),
        None => Ok(()),
    }
}

/// A batch in the form in which its rows go out.
enum RowEncoder<'a> {
    Data(Vec<ColumnEncoder<'a>>),
    Copy(CopyColumns<'a>),
}

enum ColumnEncoder<'a> {
    Text(TextColumn<'a>),
    Binary(BinaryColumn<'a>),
}

impl<'a> RowEncoder<'a> {
    fn new(
        form: &'a RowForm,
        columns: &[ResultColumn],
        batch: &'a RecordBatch,
        settings: &'a FormatSettings,
    ) -> Result<Self> {
        if columns.len() != batch.num_columns() {
            let message = format!("a batch has {} columns instead of {}", batch.num_columns(), columns.len());
            return Err(Error::internal(message));
        }
        let pairs = columns.iter().zip(batch.columns());
        match form {
            RowForm::Data(codes) => {
                let column = |(i, (column, array)): (usize, (&ResultColumn, &'a arrow::array::ArrayRef))| {
                    Ok(match format_code(codes, i) {
                        0 => ColumnEncoder::Text(TextColumn::new(array.as_ref(), &column.sql_type, settings)?),
                        _ => ColumnEncoder::Binary(BinaryColumn::new(array.as_ref(), &column.sql_type)?),
                    })
                };
                Ok(RowEncoder::Data(pairs.enumerate().map(column).collect::<Result<_>>()?))
            }
            RowForm::Copy(options) => {
                let types = columns.iter().map(|column| &column.sql_type);
                Ok(RowEncoder::Copy(CopyColumns::new(options, types, batch.columns(), settings)?))
            }
        }
    }

    /// Appends messages for rows until they are done or a piece is full, and gives the row to go on with.
    fn encode(&self, rows: std::ops::Range<usize>, mut prefix: &[u8], out: &mut Vec<u8>) -> Result<usize> {
        for row_idx in rows.clone() {
            let start = out.len();
            match self {
                RowEncoder::Data(columns) => {
                    out.extend_from_slice(&[b'D', 0, 0, 0, 0]);
                    out.extend_from_slice(&(columns.len() as i16).to_be_bytes());
                    columns.iter().for_each(|column| column.write(row_idx, out));
                }
                RowEncoder::Copy(columns) => {
                    out.extend_from_slice(&[b'd', 0, 0, 0, 0]);
                    out.extend_from_slice(std::mem::take(&mut prefix));
                    columns.write_row(row_idx, out);
                }
            }
            let length = i32::try_from(out.len() - start - 1).map_err(|_| {
                Error::user(SqlState::PROGRAM_LIMIT_EXCEEDED, "a row is too long for a message of the protocol")
            })?;
            out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
            if out.len() >= 2 * PIECE_BYTES {
                return Ok(row_idx + 1);
            }
        }
        Ok(rows.end)
    }
}

impl ColumnEncoder<'_> {
    /// Appends a value with its length, which is -1 for null.
    #[inline]
    fn write(&self, row_idx: usize, out: &mut Vec<u8>) {
        let is_null = match self {
            ColumnEncoder::Text(column) => column.is_null(row_idx),
            ColumnEncoder::Binary(column) => column.is_null(row_idx),
        };
        if is_null {
            return out.extend_from_slice(&(-1i32).to_be_bytes());
        }
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        match self {
            ColumnEncoder::Text(column) => column.write(row_idx, out),
            ColumnEncoder::Binary(column) => column.write(row_idx, out),
        }
        let length = (out.len() - start - 4) as i32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}
