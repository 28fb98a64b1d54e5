//! Debian's Postgres 15 as the oracle: one server for the whole test binary, a database for each file, and the few
//! translations that make a file mean the same there.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use millstream_testkit::slt::{Connection, Output, SqlError};

use crate::wire::WireConnection;

/// Where Debian keeps the server's programs; the environment variable `POSTGRES_15_BIN` names another place.
const BIN: &str = "/usr/lib/postgresql/15/bin";
/// How long a server may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes a cluster in a directory of its own and keeps a server on it until standard input ends: so the server stops
/// and the directory goes even when the test binary is killed. Repeatable read, because a transaction of Millstream
/// reads at one epoch.
const SUPERVISOR: &str = r#"
set -eu
bin=$1 port=$2
dir=$(mktemp -d)
cd "$dir"
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM
"$bin/initdb" -D data -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >log 2>&1 || { cat log; exit 1; }
"$bin/postgres" -D data -c listen_addresses=127.0.0.1 -c port="$port" -c unix_socket_directories="$dir" \
    -c fsync=off -c full_page_writes=off -c autovacuum=off -c max_connections=100 -c lock_timeout=10s \
    -c timezone=UTC -c datestyle=ISO,MDY -c intervalstyle=postgres -c extra_float_digits=1 \
    -c default_transaction_isolation='repeatable read' >log 2>&1 &
server=$!
echo started
cat >/dev/null
kill -INT "$server" || true
wait "$server" || true
"#;

/// Brings every materialized view up to date, each after those that it reads: a view's oid is greater than theirs.
const REFRESH: &str = "DO $$ DECLARE v regclass; BEGIN \
    FOR v IN SELECT oid::regclass FROM pg_catalog.pg_class WHERE relkind = 'm' ORDER BY oid \
    LOOP EXECUTE 'REFRESH MATERIALIZED VIEW ' || v; END LOOP; END $$";

/// A running server.
pub struct Postgres {
    supervisor: Child,
    addr: SocketAddr,
    n_databases: AtomicUsize,
}

impl Postgres {
    /// Whether the server's programs are installed; else why the tests that need them are skipped.
    ///
    /// # Errors
    /// The reason, for a person.
    pub fn installed() -> Result<(), String> {
        let postgres = bin().join("postgres");
        if postgres.exists() {
            Ok(())
        } else {
            Err(format!("Postgres 15 is not installed ({} does not exist)", postgres.display()))
        }
    }

    /// Starts a server on a free port, in a temporary directory, as user postgres if this process is root.
    ///
    /// # Errors
    /// What went wrong, with the server's own words.
    pub async fn start() -> Result<Postgres, String> {
        let port = free_port().map_err(|error| format!("no free port: {error}"))?;
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        let mut supervisor = command
            .args(["-c", SUPERVISOR, "sh"])
            .args([bin().as_os_str(), port.to_string().as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("the supervisor of Postgres does not start: {error}"))?;
        let mut said = BufReader::new(supervisor.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        if said.read_line(&mut line).is_err() || line.trim() != "started" {
            // The supervisor has ended, so this ends too; what cannot be read is only missing from the message.
            drop(said.read_to_string(&mut line));
            drop(supervisor.wait());
            return Err(format!("initdb failed: {line}"));
        }
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let server = Postgres { supervisor, addr, n_databases: AtomicUsize::new(0) };
        server.wait_until_ready().await?;
        Ok(server)
    }

    async fn wait_until_ready(&self) -> Result<(), String> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match WireConnection::open(self.addr, "postgres", "postgres").await {
                Ok(mut connection) => {
                    connection.close().await;
                    return Ok(());
                }
                Err(error) if Instant::now() > deadline => return Err(format!("Postgres does not answer: {error}")),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// A fresh database.
    ///
    /// # Errors
    /// What the server says.
    pub async fn database(&self) -> Result<Database, SqlError> {
        let name = format!("file_{}", self.n_databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = WireConnection::open(self.addr, "postgres", "postgres").await?;
        let created = connection.run(&format!("CREATE DATABASE {name} TEMPLATE template0")).await;
        connection.close().await;
        created?;
        Ok(Database { addr: self.addr, name, views_are_stale: Arc::default() })
    }

    /// Stops the server and removes its directory.
    pub fn stop(&mut self) {
        drop(self.supervisor.stdin.take());
        // There is nobody left to tell.
        drop(self.supervisor.wait());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A file's database.
pub struct Database {
    addr: SocketAddr,
    name: String,
    /// Something may have changed since the views were last refreshed. Shared by the file's sessions.
    views_are_stale: Arc<AtomicBool>,
}

impl Database {
    /// A new session.
    ///
    /// # Errors
    /// What the server says.
    pub async fn connect(&self) -> Result<PostgresConnection, SqlError> {
        let wire = WireConnection::open(self.addr, "postgres", &self.name).await?;
        Ok(PostgresConnection { wire, in_transaction: false, views_are_stale: self.views_are_stale.clone() })
    }

    /// Drops the database; its sessions must be closed.
    ///
    /// # Errors
    /// What the server says.
    pub async fn drop(self) -> Result<(), SqlError> {
        let mut connection = WireConnection::open(self.addr, "postgres", "postgres").await?;
        let dropped = connection.run(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
        connection.close().await;
        dropped.map(drop)
    }
}

/// A session in which materialized views look live.
///
/// Before each statement outside of a transaction all of them are refreshed, if anything may have changed. Within one
/// they stay as they were at its beginning, as in Millstream, where a view does not show a transaction's own writes.
pub struct PostgresConnection {
    wire: WireConnection,
    in_transaction: bool,
    views_are_stale: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl Connection for PostgresConnection {
    async fn run(&mut self, sql: &str) -> Result<Output, SqlError> {
        let Some(sql) = translate(sql) else { return Ok(Output::Complete(0)) };
        if !self.in_transaction
            && self.views_are_stale.swap(false, Ordering::SeqCst)
            && let Err(mut error) = self.wire.run(REFRESH).await
        {
            self.views_are_stale.store(true, Ordering::SeqCst);
            error.message.insert_str(0, "while the materialized views were refreshed: ");
            return Err(error);
        }
        let outcome = self.wire.run(&sql).await;
        let first = first_words(&sql, 1);
        match first.as_str() {
            "BEGIN" | "START" => self.in_transaction = true,
            "COMMIT" | "ROLLBACK" | "END" | "ABORT" => self.in_transaction = false,
            _ => {}
        }
        if first != "SELECT" {
            self.views_are_stale.store(true, Ordering::SeqCst);
        }
        outcome
    }

    async fn close(&mut self) {
        self.wire.close().await;
    }
}

/// A statement in Postgres' words; `None` if it has no meaning there.
fn translate(sql: &str) -> Option<String> {
    let words = first_words(sql, 2);
    match words.as_str() {
        "FLUSH" => None,
        "CREATE STREAM" | "DROP STREAM" => {
            let start = sql.to_ascii_uppercase().find("STREAM").expect("the second word is STREAM");
            Some(format!("{}TABLE{}", &sql[..start], &sql[start + "STREAM".len()..]))
        }
        _ => Some(sql.to_owned()),
    }
}

/// The first words, in capitals, with one blank between them. Files have no comments within SQL.
fn first_words(sql: &str, n_words: usize) -> String {
    let words: Vec<String> = sql
        .split(|c: char| c.is_whitespace() || c == ';' || c == '(')
        .filter(|word| !word.is_empty())
        .take(n_words)
        .map(str::to_ascii_uppercase)
        .collect();
    words.join(" ")
}

fn bin() -> PathBuf {
    std::env::var_os("POSTGRES_15_BIN").map_or_else(|| Path::new(BIN).to_owned(), PathBuf::from)
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
