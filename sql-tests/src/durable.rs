//! Millstream with a data directory, which ends in the middle of a file and is started again.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use millstream_engine::{CheckpointWhen, DATABASE, Engine, EngineConfig};
use millstream_server::Server;
use millstream_server::serve::outlive_file_size_limit;
use millstream_testkit::slt::{Connection, Output, SqlError};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::millstream::{self, Handle, Options};
use crate::wire::WireConnection;

/// The argument that makes this very binary a server: then come a data directory and a number of workers.
const SERVE: &str = "--serve-millstream";
/// A recovered view that does not follow its inputs after so long hangs.
const HYDRATED_WITHIN: Duration = Duration::from_secs(60);

/// How a server ends in the middle.
#[derive(Clone, Copy, Debug)]
pub enum Restart {
    /// A process of its own is killed.
    Kill,
    /// It stops, and is started with four workers instead of two.
    MoreWorkers,
}

/// The modes in which files are run with a restart, with their names.
pub const RESTARTS: [(&str, Restart); 2] = [("kill", Restart::Kill), ("restart-2-4", Restart::MoreWorkers)];

/// A server with a data directory of its own.
pub struct Durable {
    restart: Restart,
    folder: TempDir,
    running: tokio::sync::Mutex<Option<Running>>,
}

enum Running {
    Child(KilledChild, SocketAddr),
    Here(Handle),
}

/// A process that is killed when this is dropped.
struct KilledChild(Child);

impl Drop for KilledChild {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn addr(&self) -> SocketAddr {
        match self {
            Running::Child(_, addr) => *addr,
            Running::Here(handle) => handle.addr(),
        }
    }
}

impl Durable {
    /// Starts a server on two workers.
    ///
    /// # Errors
    /// What the server or the system says.
    pub async fn start(restart: Restart) -> Result<Durable, String> {
        let folder = tempfile::tempdir().map_err(|e| format!("no temporary folder: {e}"))?;
        let running = run(restart, folder.path(), 2).await?;
        Ok(Durable { restart, folder, running: tokio::sync::Mutex::new(Some(running)) })
    }

    /// Ends the server.
    pub async fn kill(&self) {
        end(self.running.lock().await.take()).await;
    }

    /// Limits the size that the server's files may have, in bytes, or takes the limit back.
    ///
    /// # Errors
    /// If there is no `prlimit`, or no process of its own.
    pub async fn limit_files(&self, n_bytes: Option<u64>) -> Result<(), String> {
        let id = match &*self.running.lock().await {
            Some(Running::Child(child, _)) => child.0.id(),
            _ => return Err("the server is no process of its own".to_owned()),
        };
        let limit = n_bytes.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
        let mut command = Command::new("prlimit");
        command.args(["--pid", &id.to_string(), &format!("--fsize={limit}:")]);
        let status = spawn_blocking(move || command.status()).await.map_err(|e| e.to_string())?;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("prlimit: {status}")),
            Err(error) => Err(format!("prlimit does not run: {error}")),
        }
    }

    /// Ends the server if it runs, starts it again, and waits until all views follow their inputs.
    ///
    /// # Errors
    /// What the server or the system says.
    pub async fn restart(&self) -> Result<(), String> {
        let mut running = self.running.lock().await;
        end(running.take()).await;
        let workers = if matches!(self.restart, Restart::MoreWorkers) { 4 } else { 2 };
        *running = Some(run(self.restart, self.folder.path(), workers).await?);
        drop(running);
        let mut connection = self.connect().await.map_err(|e| e.to_string())?;
        let hydrated = tokio::time::timeout(HYDRATED_WITHIN, until_hydrated(&mut connection)).await;
        connection.close().await;
        hydrated.map_err(|_| "a view does not come back".to_owned())?
    }

    /// A new session.
    ///
    /// # Errors
    /// What the server says.
    pub async fn connect(&self) -> Result<WireConnection, SqlError> {
        let addr = self.running.lock().await.as_ref().map(Running::addr);
        let addr = addr.ok_or_else(|| SqlError { state: None, message: "the server has ended".into() })?;
        WireConnection::open(addr, "test", DATABASE).await
    }
}

async fn until_hydrated(connection: &mut WireConnection) -> Result<(), String> {
    loop {
        let sql = "SELECT name FROM millstream.jobs WHERE state NOT IN ('running', 'failed')";
        match connection.run(sql).await.map_err(|e| e.to_string())? {
            Output::Rows { rows, .. } if rows.is_empty() => return Ok(()),
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

async fn run(restart: Restart, folder: &Path, workers: usize) -> Result<Running, String> {
    if matches!(restart, Restart::MoreWorkers) {
        let options = Options { workers, tiny: false, spills: true };
        return millstream::start_in(options, Some(folder.to_owned())).await.map(Running::Here);
    }
    let folder = folder.to_owned();
    let started = spawn_blocking(move || spawn(&folder, workers)).await;
    started.map_err(|e| e.to_string())?.map(|(child, addr)| Running::Child(KilledChild(child), addr))
}

/// Starts this binary as a server.
fn spawn(folder: &Path, workers: usize) -> Result<(Child, SocketAddr), String> {
    let binary = std::env::current_exe().map_err(|e| format!("this binary is not known: {e}"))?;
    let mut command = Command::new(binary);
    command.arg(SERVE).arg(folder).arg(workers.to_string());
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| format!("the server does not start: {e}"))?;
    let stdout = child.stdout.take().ok_or("the server has no output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).map_err(|e| format!("the server says nothing: {e}"))?;
    let addr = line.trim().parse().map_err(|_| format!("the server does not say where it listens: {line}"))?;
    Ok((child, addr))
}

async fn end(running: Option<Running>) {
    match running {
        Some(Running::Child(child, _)) => drop(child),
        Some(Running::Here(handle)) => handle.stop().await,
        None => {}
    }
}

/// What this binary is to serve, if it was started as a server.
pub fn to_serve() -> Option<(PathBuf, usize)> {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(SERVE) {
        return None;
    }
    Some((args.next()?.into(), args.next()?.parse().ok()?))
}

/// Serves until killed, or until whoever started this has ended.
///
/// # Errors
/// What the engine or the socket says.
pub async fn serve(folder: PathBuf, workers: usize) -> Result<(), String> {
    // So often that most kills come while one is written.
    let checkpoints = CheckpointWhen { interval: Duration::from_millis(20), ..CheckpointWhen::default() };
    let config =
        EngineConfig { workers, query_threads: 1, data_dir: Some(folder), checkpoints, ..EngineConfig::default() };
    outlive_file_size_limit().map_err(|error| error.to_string())?;
    let engine = Engine::start(config).map_err(|error| format!("the engine does not start: {error}"))?;
    let no_server = |error: std::io::Error| format!("the server does not start: {error}");
    let server = Server::bind((Ipv4Addr::LOCALHOST, 0), engine).await.map_err(no_server)?;
    let handle = server.spawn().map_err(no_server)?;
    println!("{}", handle.address);
    // Nothing is ever sent: this ends with the other end.
    let ended = spawn_blocking(|| std::io::stdin().read(&mut [0]).map(|_| ())).await;
    ended.map_err(|e| e.to_string())?.map_err(|e| format!("nobody is at the other end: {e}"))
}
