//! The wire protocol over a backend made for tests, spoken to by real clients and by bytes.

#[path = "wire/command_line.rs"]
mod command_line;
#[path = "wire/copies.rs"]
mod copies;
#[path = "wire/engine.rs"]
mod engine;
#[path = "wire/fake.rs"]
mod fake;
#[path = "wire/lifetimes.rs"]
mod lifetimes;
#[path = "wire/memory.rs"]
mod memory;
#[path = "wire/psql.rs"]
mod psql;
#[path = "wire/queries.rs"]
mod queries;
#[path = "wire/raw.rs"]
mod raw;
#[path = "wire/start_ups.rs"]
mod start_ups;

use fake::Fake;
use millstream_server::{Server, ServerHandle};
use tokio_postgres::{Client, NoTls};

/// A server on a free port, and what its backend observes.
struct Running {
    server: ServerHandle,
    fake: Fake,
}

impl Running {
    async fn start() -> Running {
        let fake = Fake::default();
        let server = Server::bind("127.0.0.1:0", fake.clone()).await.expect("a free port");
        Running { server: server.spawn().expect("an address"), fake }
    }

    /// A client, and a task that speaks for it.
    async fn connect(&self) -> Client {
        let (client, connection) = self.connect_for_messages().await;
        tokio::spawn(connection);
        client
    }

    async fn connect_for_messages(
        &self,
    ) -> (Client, tokio_postgres::Connection<tokio_postgres::Socket, tokio_postgres::tls::NoTlsStream>) {
        let config = format!("host=127.0.0.1 port={} user=u dbname=millstream", self.server.address.port());
        tokio_postgres::connect(&config, NoTls).await.expect("a connection")
    }
}

/// The SQLSTATE of an error that the server sent.
fn state_of(error: &tokio_postgres::Error) -> &str {
    error.code().unwrap_or_else(|| panic!("an error of the server: {error}")).code()
}
