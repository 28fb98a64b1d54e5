//! A session over the Postgres wire protocol, with the simple protocol only: every value is text.

use std::net::SocketAddr;

use millstream_testkit::slt::{Connection, Output, SqlError};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// A session with any server that speaks the protocol.
pub struct WireConnection {
    client: Option<Client>,
    /// Drives the socket; ends when the client is gone.
    driver: JoinHandle<()>,
}

impl WireConnection {
    /// Opens a session with a database.
    ///
    /// # Errors
    /// What the server or the socket says.
    pub async fn open(addr: SocketAddr, user: &str, database: &str) -> Result<WireConnection, SqlError> {
        let mut config = tokio_postgres::Config::new();
        config.host(addr.ip().to_string()).port(addr.port()).user(user).dbname(database);
        let (client, connection) = config.connect(NoTls).await.map_err(sql_error)?;
        // An error of the connection reaches the statement that runs, as one without a SQLSTATE.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(WireConnection { client: Some(client), driver })
    }
}

#[async_trait::async_trait]
impl Connection for WireConnection {
    async fn run(&mut self, sql: &str) -> Result<Output, SqlError> {
        let Some(client) = &self.client else {
            return Err(SqlError { state: None, message: "the session is closed".into() });
        };
        let mut columns = None;
        let mut rows = Vec::new();
        let mut n_affected = 0;
        for message in client.simple_query(sql).await.map_err(sql_error)? {
            match message {
                SimpleQueryMessage::RowDescription(described) => columns = Some(described.len()),
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|column_idx| row.get(column_idx).map(str::to_owned)).collect());
                }
                SimpleQueryMessage::CommandComplete(n) => n_affected = n,
                _ => {}
            }
        }
        Ok(match columns {
            Some(n_columns) => Output::Rows { n_columns, rows },
            None => Output::Complete(n_affected),
        })
    }

    async fn close(&mut self) {
        self.client = None;
        // The driver's own failure was already told, or nobody waits for it.
        drop((&mut self.driver).await);
    }
}

/// An error as the runner knows it.
fn sql_error(error: tokio_postgres::Error) -> SqlError {
    let Some(db) = error.as_db_error() else {
        return SqlError { state: None, message: format!("{error}: {:?}", std::error::Error::source(&error)) };
    };
    let mut message = db.message().to_owned();
    for (name, text) in [("detail", db.detail()), ("hint", db.hint())] {
        if let Some(text) = text {
            message.push_str(&format!("\n{name}: {text}"));
        }
    }
    SqlError { state: Some(db.code().code().to_owned()), message }
}
