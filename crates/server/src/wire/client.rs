//! A connection with an open session: one message after the other.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;

use millstream_engine::{CancelHandle, TransactionStatus};
use millstream_types::{Error, Result};

use super::connection::{Connection, Fault};
use super::frontend::Message;
use super::portal::Portal;
use crate::BackendSession;

/// A client and its session.
pub(crate) struct Client<S: BackendSession> {
    pub(super) connection: Connection,
    pub(super) session: S,
    pub(super) cancel: CancelHandle,
    pub(super) portals: HashMap<String, Portal<S::Prepared>>,
    /// The client is psql, which shows no row of a result before its end, but data of a copy at once.
    pub(super) is_psql: bool,
    /// An extended-protocol message failed; what comes before the next Sync is ignored.
    skipping: bool,
    /// Executes since the last Sync share a transaction.
    in_pipeline: bool,
}

impl<S: BackendSession> Client<S> {
    pub(crate) fn new(connection: Connection, session: S, is_psql: bool) -> Self {
        let cancel = session.cancel_handle();
        Client { connection, session, cancel, portals: HashMap::new(), is_psql, skipping: false, in_pipeline: false }
    }

    /// Serves until the client leaves.
    pub(crate) async fn serve(mut self) {
        let fault = loop {
            match self.step().await {
                Ok(()) => {}
                Err(fault) => break fault,
            }
        };
        if let Fault::Fatal(error) = fault {
            let Client { connection, session, portals, .. } = self;
            drop((session, portals));
            connection.fail(&error).await;
        }
    }

    /// Handles one message.
    async fn step(&mut self) -> Result<(), Fault> {
        let message = self.connection.read_message().await?;
        if self.skipping && !matches!(message, Message::Sync | Message::Terminate) {
            return Ok(());
        }
        let extended = message.is_extended();
        match self.handle(message).await {
            Err(Fault::Statement(error)) => {
                self.session.statement_failed();
                self.report(&error);
                if extended {
                    self.skipping = true;
                    self.connection.flush().await
                } else {
                    self.ready();
                    Ok(())
                }
            }
            outcome => outcome,
        }
    }

    async fn handle(&mut self, message: Message) -> Result<(), Fault> {
        match message {
            Message::Query(sql) => {
                self.end_pipeline(false).await?;
                self.query(&sql).await?;
                self.ready();
                Ok(())
            }
            Message::Parse { name, sql, param_oids } => self.parse(name, &sql, &param_oids).await,
            Message::Bind(bind) => self.bind(bind),
            Message::Describe(target) => self.describe(&target),
            Message::Execute { portal, max_rows } => {
                // One statement before a Sync is a transaction of its own and need not be told that more may follow.
                if !self.in_pipeline && !self.connection.is_sync_next() {
                    self.in_pipeline = true;
                    self.session.begin_implicit().await;
                }
                self.execute(&portal, max_rows).await
            }
            Message::Close(target) => {
                self.close(target);
                Ok(())
            }
            Message::Flush => self.connection.flush().await,
            Message::Sync => {
                let failed = std::mem::take(&mut self.skipping);
                match self.end_pipeline(failed).await {
                    Err(Fault::Statement(error)) => self.report(&error),
                    ended => ended?,
                }
                self.ready();
                Ok(())
            }
            // What a client still sends after its copy has failed.
            Message::CopyData(_) | Message::CopyDone | Message::CopyFail(_) => Ok(()),
            Message::Terminate => Err(Fault::Gone),
            Message::Malformed { error, .. } => Err(Fault::Statement(error)),
        }
    }

    /// Ends the transaction that the Executes since the last Sync share.
    async fn end_pipeline(&mut self, failed: bool) -> Result<(), Fault> {
        if !std::mem::take(&mut self.in_pipeline) {
            return Ok(());
        }
        or_gone(&mut self.connection, self.session.end_implicit(failed)).await
    }

    /// Ends a query or a run of extended-protocol messages.
    pub(super) fn ready(&mut self) {
        let status = self.session.transaction_status();
        if status == TransactionStatus::Idle {
            // Portals live as long as their transaction.
            self.portals.clear();
        }
        self.side_effects();
        self.connection.output.ready_for_query(status);
    }

    fn report(&mut self, error: &Error) {
        self.side_effects();
        if error.kind() == millstream_types::ErrorKind::Internal {
            tracing::error!(session = self.session.id(), %error, "a statement failed for an internal reason");
        }
        self.connection.output.error("ERROR", error);
    }

    /// Tells the client what a statement said and set beside its result.
    pub(super) fn side_effects(&mut self) {
        for notice in self.session.take_notices() {
            self.connection.output.notice(&notice);
        }
        for (name, value) in self.session.take_parameter_changes() {
            self.connection.output.parameter_status(name, &value);
        }
    }

    /// Ends a statement with its command tag.
    pub(super) fn complete(&mut self, tag: Option<&str>) {
        self.side_effects();
        match tag {
            Some(tag) => self.connection.output.command_complete(tag),
            None => self.connection.output.empty_query(),
        }
    }
}

/// Does the engine's work, unless the client goes before it is done.
pub(crate) async fn or_gone<T>(connection: &mut Connection, work: impl Future<Output = Result<T>>) -> Result<T, Fault> {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        outcome = &mut work => outcome.map_err(Fault::Statement),
        () = connection.closed() => Err(Fault::Gone),
    }
}
