//! What the wire protocol needs of the engine.

use std::collections::HashMap;
use std::future::Future;

use arrow::array::{ArrayRef, RecordBatch};
use millstream_engine::{CancelHandle, Notice, Response, ResultColumn, TransactionStatus};
use millstream_types::pg::FormatSettings;
use millstream_types::{Result, SqlType};

/// Something that gives sessions to clients.
pub trait Backend: Send + Sync + 'static {
    /// A session of one client.
    type Session: BackendSession;

    /// Opens a session. `params` are the start-up parameters that the client sent, user and database left out.
    ///
    /// # Errors
    /// 3D000 if there is no such database; a client is told of it and dropped.
    fn session(&self, user: &str, database: &str, params: &[(String, String)]) -> Result<Self::Session>;
}

/// One client's session. The wire protocol runs one statement at a time, and drops the future of a statement whose
/// client has gone.
pub trait BackendSession: Send + 'static {
    /// A statement that has been parsed.
    type Statement: Send + Sync + 'static;
    /// A statement whose parameters and columns are known.
    type Prepared: Clone + Send + Sync + 'static;

    /// A number that no other session has; the client knows it as the server's process.
    fn id(&self) -> u32;

    /// Whether a transaction is open.
    fn transaction_status(&self) -> TransactionStatus;

    /// By which another connection cancels what runs here.
    fn cancel_handle(&self) -> CancelHandle;

    /// Splits and parses a query string.
    ///
    /// # Errors
    /// 42601, with a position that counts characters of the whole string.
    fn parse(&self, sql: &str) -> Result<Vec<Self::Statement>>;

    /// Analyzes a statement. `param_types` are what the client fixed, in order; the rest is inferred.
    fn prepare(
        &mut self,
        statement: &Self::Statement,
        param_types: &[Option<SqlType>],
    ) -> impl Future<Output = Result<Self::Prepared>> + Send;

    /// The types of a prepared statement's parameters.
    fn param_types(prepared: &Self::Prepared) -> &[SqlType];

    /// The columns of a prepared statement's result; `None` if it has none.
    fn columns(prepared: &Self::Prepared) -> Option<&[ResultColumn]>;

    /// Runs a prepared statement with one array of length 1 for each parameter.
    fn execute(
        &mut self,
        prepared: &Self::Prepared,
        params: &[ArrayRef],
    ) -> impl Future<Output = Result<Response>> + Send;

    /// Runs a statement without parameters.
    fn run(&mut self, statement: &Self::Statement) -> impl Future<Output = Result<Response>> + Send;

    /// Prepared statements by name, the client's and those of `PREPARE` alike; an empty query string has nothing to
    /// prepare. They live until the session ends or they are deallocated.
    fn statements(&mut self) -> &mut HashMap<String, Option<Self::Prepared>>;

    /// Takes rows of the copy that the last statement asked for; waits while the engine is behind.
    fn copy_push(&mut self, rows: RecordBatch) -> impl Future<Output = Result<()>> + Send;

    /// All rows of the copy are there: writes them and gives the command tag.
    fn copy_finish(&mut self) -> impl Future<Output = Result<String>> + Send;

    /// The copy came to nothing: its rows are forgotten.
    fn copy_abort(&mut self);

    /// Statements follow that share a transaction: those of one query string, or those before a Sync.
    fn begin_implicit(&mut self) -> impl Future<Output = ()> + Send;

    /// The last of them is done; `failed` if one was not.
    fn end_implicit(&mut self, failed: bool) -> impl Future<Output = Result<()>> + Send;

    /// A result could not be sent to its end.
    fn statement_failed(&mut self);

    /// Notices since the last call.
    fn take_notices(&mut self) -> Vec<Notice>;

    /// Reported parameters that have changed since the last call.
    fn take_parameter_changes(&mut self) -> Vec<(String, String)>;

    /// Parameters that a client is told of at start-up.
    fn reported_parameters(&self) -> Vec<(String, String)>;

    /// Closes a cursor that `DECLARE` opened; `false` if there is none of that name.
    fn close_cursor(&mut self, name: &str) -> bool;

    /// The columns of a cursor that `DECLARE` opened. Clients describe it by its name, as if it were a portal; psycopg
    /// does so before its first `FETCH`.
    fn cursor_columns(&self, name: &str) -> Option<Vec<ResultColumn>>;

    /// How values are written and read now.
    fn format_settings(&self) -> FormatSettings;
}
