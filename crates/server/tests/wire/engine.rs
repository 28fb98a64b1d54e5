//! The engine behind the protocol: what clients do around queries, end to end.

#[path = "engine/catalog.rs"]
mod catalog;
#[path = "engine/copies.rs"]
mod copies;
#[path = "engine/cursors.rs"]
mod cursors;
#[path = "engine/departures.rs"]
mod departures;
#[path = "engine/limits.rs"]
mod limits;
#[path = "engine/subscriptions.rs"]
mod subscriptions;

use std::process::{Command, Output};
use std::time::Duration;

use millstream_engine::{Engine, EngineConfig};
use millstream_server::{Server, ServerHandle};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// A server over an engine with two workers, on a free port.
struct Real {
    server: ServerHandle,
    engine: Engine,
}

impl Real {
    async fn start() -> Real {
        let config = EngineConfig { workers: 2, query_threads: 1, ..EngineConfig::default() };
        let engine = Engine::start(config).expect("an engine");
        let server = Server::bind("127.0.0.1:0", engine.clone()).await.expect("a free port");
        Real { server: server.spawn().expect("an address"), engine }
    }

    async fn connect(&self) -> Client {
        let port = self.server.address.port();
        let config = format!("host=127.0.0.1 port={port} user=ann dbname=millstream");
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("a connection");
        tokio::spawn(connection);
        client
    }

    /// Runs psql with these arguments; `None` if it is not installed.
    async fn psql(&self, args: &[&str]) -> Option<Output> {
        let port = self.server.address.port().to_string();
        let mut command = Command::new("psql");
        command.env("LC_ALL", "C.UTF-8").env("PSQL_PAGER", "");
        command.args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", "ann", "-d", "millstream"]).args(args);
        let output = tokio::task::spawn_blocking(move || command.output().ok()).await.expect("the thread ends");
        if output.is_none() {
            eprintln!("psql is not installed: skipped");
        }
        output
    }

    async fn stop(self) {
        self.server.stop().await;
        self.engine.shutdown().await;
    }
}

/// The rows of a query as texts, columns apart by `|`.
async fn rows(client: &Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            let values = (0..row.len()).map(|i| row.get(i).unwrap_or("NULL"));
            Some(values.collect::<Vec<_>>().join("|"))
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
}

/// Waits until a query gives these rows, for at most a minute.
async fn wait_for(client: &Client, sql: &str, expected: &[&str]) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let found = rows(client, sql).await;
        if found == expected {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{sql}: {found:?} instead of {expected:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The SQLSTATE with which a statement fails.
async fn fails(client: &Client, sql: &str) -> String {
    let error = client.batch_execute(sql).await.expect_err(sql);
    crate::state_of(&error).to_owned()
}

#[tokio::test]
async fn prepared_statements_of_sql_and_of_the_protocol_are_the_same() {
    let real = Real::start().await;
    let client = real.connect().await;
    run(&client, "CREATE TABLE t (id int PRIMARY KEY, name text)").await;
    run(&client, "PREPARE ins (int, text) AS INSERT INTO t VALUES ($1, $2)").await;
    run(&client, "EXECUTE ins (1, 'one'); EXECUTE ins (1 + 1, upper('two'))").await;
    run(&client, "PREPARE by_id AS SELECT name FROM t WHERE id = $1").await;
    assert_eq!(rows(&client, "EXECUTE by_id (2)").await, ["TWO"]);
    assert_eq!(rows(&client, "SELECT name, statement, from_sql FROM pg_prepared_statements ORDER BY 1").await.len(), 2);
    assert_eq!(fails(&client, "EXECUTE by_id").await, "42601");
    assert_eq!(fails(&client, "EXECUTE nothing (1)").await, "26000");
    assert_eq!(fails(&client, "PREPARE by_id AS SELECT 1").await, "42P05");
    let statement = client.prepare("SELECT id FROM t WHERE name = $1").await.expect("a statement");
    assert_eq!(client.query_one(&statement, &[&"one"]).await.expect("a row").get::<_, i32>(0), 1);
    run(&client, "DEALLOCATE by_id").await;
    assert_eq!(fails(&client, "EXECUTE by_id (1)").await, "26000");
    run(&client, "DISCARD ALL").await;
    let error = client.query_one(&statement, &[&"one"]).await.expect_err("it was discarded");
    assert_eq!(crate::state_of(&error), "26000");
    real.stop().await;
}

#[tokio::test]
async fn parameters_are_set_for_a_session_and_for_a_transaction() {
    let real = Real::start().await;
    let client = real.connect().await;
    run(&client, "SET application_name = 'outer'; BEGIN; SET LOCAL application_name = 'inner'").await;
    assert_eq!(rows(&client, "SHOW application_name").await, ["inner"]);
    run(&client, "COMMIT").await;
    assert_eq!(rows(&client, "SHOW application_name").await, ["outer"]);
    run(&client, "BEGIN; SET timezone = 'Asia/Tokyo'; ROLLBACK").await;
    assert_eq!(rows(&client, "SHOW timezone").await, ["UTC"]);
    assert_eq!(rows(&client, "SELECT set_config('search_path', 'public', false)").await, ["public"]);
    assert_eq!(rows(&client, "SELECT current_setting('search_path')").await, ["public"]);
    assert_eq!(fails(&client, "SET no_such_parameter = 1").await, "42704");
    assert_eq!(fails(&client, "SELECT current_setting('no_such_parameter')").await, "42704");
    assert_eq!(fails(&client, "SET extra_float_digits = 99").await, "22023");
    assert_eq!(rows(&client, "SELECT current_user, session_user, current_database()").await, ["ann|ann|millstream"]);
    run(&client, "SET statement_timeout = '50ms'").await;
    assert_eq!(
        fails(&client, "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b").await,
        "57014"
    );
    run(&client, "RESET ALL").await;
    assert_eq!(rows(&client, "SHOW statement_timeout").await, ["0"]);
    real.stop().await;
}
