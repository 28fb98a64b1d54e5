//! The simple protocol: a string of statements, results in text.

use millstream_engine::Response;
use millstream_types::Result;
use millstream_types::copy::{CopyFormat, CopyHeader, CopyOptions};

use super::client::{Client, or_gone};
use super::connection::Fault;
use super::copy::{copy_in, copy_out};
use super::rows::{OpenRows, RowForm, Sent};
use crate::BackendSession;

impl<S: BackendSession> Client<S> {
    /// Runs all statements of a query string, up to the first that fails.
    pub(super) async fn query(&mut self, sql: &str) -> Result<(), Fault> {
        // Nothing unnamed outlives a simple query.
        self.portals.remove("");
        self.session.statements().remove("");
        let statements = self.session.parse(sql).inspect_err(|_| self.session.statement_failed())?;
        let Some((last, others)) = statements.split_last() else {
            self.connection.output.empty_query();
            return Ok(());
        };
        if others.is_empty() {
            let tag = self.run(last).await?;
            self.complete(tag.as_deref());
            return Ok(());
        }
        self.session.begin_implicit().await;
        let outcome = self.query_several(last, others).await;
        match outcome {
            Ok(tag) => {
                or_gone(&mut self.connection, self.session.end_implicit(false)).await?;
                self.complete(tag.as_deref());
                Ok(())
            }
            Err(fault) => {
                // The fault is what the client is told; what was done is undone in any case.
                if let Err(error) = self.session.end_implicit(true).await {
                    tracing::warn!(%error, "a failed query string could not be ended");
                }
                Err(fault)
            }
        }
    }

    /// All are run; the last one's command tag is left to be sent.
    async fn query_several(&mut self, last: &S::Statement, others: &[S::Statement]) -> Result<Option<String>, Fault> {
        for statement in others {
            let tag = self.run(statement).await?;
            self.complete(tag.as_deref());
            // The next statement may take long.
            self.connection.flush().await?;
        }
        self.run(last).await
    }

    async fn run(&mut self, statement: &S::Statement) -> Result<Option<String>, Fault> {
        let response = or_gone(&mut self.connection, self.session.run(statement)).await?;
        let sent = self.respond(response).await;
        if sent.is_err() {
            self.session.statement_failed();
        }
        sent
    }

    /// Sends a result, as it is in the simple protocol; gives the command tag.
    async fn respond(&mut self, response: Response) -> Result<Option<String>, Fault> {
        let settings = self.session.format_settings();
        match response {
            Response::Empty => Ok(None),
            Response::Done { tag } => Ok(Some(tag)),
            Response::Rows(rows) if rows.live && self.is_psql => {
                let options = CopyOptions { header: CopyHeader::Yes, ..CopyOptions::new(CopyFormat::Text) };
                self.copy(Response::CopyOut { options, rows }).await.map(Some)
            }
            Response::Rows(rows) => {
                let mut rows = OpenRows::new(rows, RowForm::Data(Vec::new()), settings);
                self.connection.output.row_description(rows.columns(), |_| 0);
                let sent = rows.send(&mut self.connection, &self.cancel, None).await?;
                let n_rows = if let Sent::All(n_rows) = sent { n_rows } else { 0 };
                Ok(Some(rows.tag().complete(n_rows)))
            }
            response => self.copy(response).await.map(Some),
        }
    }

    /// Runs the COPY sub-protocol that a response asks for; gives the command tag.
    pub(super) async fn copy(&mut self, response: Response) -> Result<String, Fault> {
        let settings = self.session.format_settings();
        match response {
            Response::CopyIn(copy) => {
                self.side_effects();
                let copied = copy_in(&mut self.connection, &mut self.session, &self.cancel, copy, &settings).await;
                if copied.is_err() {
                    self.session.copy_abort();
                }
                copied
            }
            Response::CopyOut { options, rows } => {
                let rows = OpenRows::new(rows, RowForm::Copy(options.clone()), settings);
                copy_out(&mut self.connection, &self.cancel, rows, &options).await
            }
            _ => Err(Fault::Statement(millstream_types::Error::internal("the response is no copy"))),
        }
    }
}
