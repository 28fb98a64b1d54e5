//! What the runner needs of a connection, and how it presents one to the sqllogictest crate.

use std::fmt;

use async_trait::async_trait;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType};

use super::run::Engine;

/// What a statement answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Rows in the text format; `None` is NULL. Every row has `n_columns` values.
    Rows {
        /// Number of columns, known even without rows.
        n_columns: usize,
        /// The rows, in the order in which they came.
        rows: Vec<Vec<Option<String>>>,
    },
    /// The number of rows that a command without rows names in its tag.
    Complete(u64),
}

/// An error that the server sent, or that the connection met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    /// The SQLSTATE; `None` if the error is not the server's.
    pub state: Option<String>,
    /// The message, with detail and hint on lines of their own.
    pub message: String,
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            Some(state) => write!(f, "{state}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for SqlError {}

/// A session with a server.
#[async_trait]
pub trait Connection: Send {
    /// Runs one statement with the simple protocol. An error leaves the connection usable, as in Postgres.
    async fn run(&mut self, sql: &str) -> Result<Output, SqlError>;

    /// Ends the session and waits until it has ended.
    async fn close(&mut self);
}

/// A connection in the shape that the sqllogictest crate asks for.
pub(super) struct Session<C> {
    pub(super) connection: C,
    pub(super) engine: Engine,
}

#[async_trait]
impl<C: Connection> AsyncDB for Session<C> {
    type Error = SqlError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, SqlError> {
        Ok(match self.connection.run(sql).await? {
            Output::Complete(n_rows) => DBOutput::StatementComplete(n_rows),
            Output::Rows { n_columns, rows } => DBOutput::Rows {
                types: vec![DefaultColumnType::Any; n_columns],
                rows: rows.into_iter().map(|row| row.into_iter().map(printed).collect()).collect(),
            },
        })
    }

    async fn shutdown(&mut self) {
        self.connection.close().await;
    }

    fn engine_name(&self) -> &str {
        self.engine.label()
    }

    fn error_sql_state(error: &SqlError) -> Option<String> {
        error.state.clone()
    }
}

/// A value as it stands in a file.
fn printed(value: Option<String>) -> String {
    match value {
        None => "NULL".to_owned(),
        Some(text) if text.is_empty() => "(empty)".to_owned(),
        Some(text) => text.replace('\n', "\\n").replace('\t', "\\t"),
    }
}
