//! The COPY sub-protocols: data of the client into the engine, and the engine's rows out.

use millstream_engine::{CancelHandle, CopyIn};
use millstream_types::copy::{CopyDecoder, CopyHeader, CopyOptions, copy_end, write_header};
use millstream_types::pg::FormatSettings;
use millstream_types::{Error, Result, SqlState};

use super::client::or_gone;
use super::connection::{Connection, Fault};
use super::frontend::Message;
use super::rows::{OpenRows, Sent};
use crate::BackendSession;

/// Takes a client's data until it is all there, and gives the command tag.
pub(crate) async fn copy_in<S: BackendSession>(
    connection: &mut Connection,
    session: &mut S,
    cancel: &CancelHandle,
    copy: CopyIn,
    settings: &FormatSettings,
) -> Result<String, Fault> {
    let columns: Vec<_> = copy.columns.iter().map(|c| (c.name.clone(), c.sql_type.clone())).collect();
    let mut decoder = CopyDecoder::new(&copy.relation, &columns, copy.options.clone(), settings);
    connection.output.copy_in_response(columns.len(), copy.options.format);
    connection.flush().await?;
    loop {
        let message = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Fault::Statement(Error::cancelled())),
            message = connection.read_message() => message?,
        };
        match message {
            Message::CopyData(data) => {
                let mut rest = &data[..];
                while let Some(batch) = decoder.decode(&mut rest)? {
                    or_gone(connection, session.copy_push(batch)).await?;
                }
            }
            Message::CopyDone => break,
            Message::CopyFail(reason) => {
                let message = format!("COPY from stdin failed: {reason}");
                return Err(Fault::Statement(Error::user(SqlState::QUERY_CANCELED, message)));
            }
            // Sent ahead by clients that pipeline; the Sync that counts comes after the data.
            Message::Flush | Message::Sync => {}
            Message::Terminate => return Err(Fault::Gone),
            _ => {
                let message = "unexpected message type during COPY from stdin";
                return Err(Fault::Statement(Error::user(SqlState::PROTOCOL_VIOLATION, message)));
            }
        }
    }
    while let Some(batch) = decoder.finish()? {
        or_gone(connection, session.copy_push(batch)).await?;
    }
    or_gone(connection, session.copy_finish()).await
}

/// Sends rows as lines, and gives the command tag.
pub(crate) async fn copy_out(
    connection: &mut Connection,
    cancel: &CancelHandle,
    mut rows: OpenRows,
    options: &CopyOptions,
) -> Result<String, Fault> {
    connection.output.copy_out_response(rows.columns().len(), options.format);
    if options.header != CopyHeader::No {
        let names: Vec<&str> = rows.columns().iter().map(|column| column.name.as_str()).collect();
        let mut line = Vec::new();
        write_header(&names, options, &mut line);
        connection.output.copy_data(&line);
    }
    let sent = rows.send(connection, cancel, None).await?;
    let end = [rows.take_prefix(), copy_end(options)].concat();
    if !end.is_empty() {
        connection.output.copy_data(&end);
    }
    connection.output.copy_done();
    match sent {
        Sent::All(n_rows) => Ok(format!("COPY {n_rows}")),
        Sent::Limit => Err(Fault::Statement(Error::internal("a copy without a limit stopped at one"))),
    }
}
