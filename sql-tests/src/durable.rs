//! Millstream with a data directory, which ends in the middle of a file and is started again.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_engine::{CheckpointWhen, DATABASE, Engine, EngineConfig, Location};
use millstream_server::Server;
use millstream_server::serve::outlive_file_size_limit;
use millstream_testkit::slt::{Connection, Output, SqlError};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::bucket::BucketServer;
use crate::millstream::{self, Handle, Options};
use crate::wire::WireConnection;

/// The argument that makes this very binary a server: then come a place for its data and a number of workers.
const SERVE: &str = "--serve-millstream";
/// A recovered view that does not follow its inputs after so long hangs.
const HYDRATED_WITHIN: Duration = Duration::from_secs(60);

/// The argument that makes this very binary restore a backup: then come its place and that of the data directory.
const RESTORE: &str = "--restore-millstream";
/// A process that has to end and does not after so long hangs.
const ENDED_WITHIN: Duration = Duration::from_secs(60);

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
    place: Place,
    running: tokio::sync::Mutex<Option<Running>>,
}

/// Where a server has its data.
#[derive(Clone)]
pub struct Place {
    /// Where.
    pub at: Location,
    /// What its process has to have in its environment.
    environment: Vec<(&'static str, String)>,
    /// It is deleted with the last of those who know it.
    _folder: Option<Arc<TempDir>>,
}

impl Place {
    /// A folder.
    ///
    /// # Errors
    /// What the system says.
    pub fn folder() -> Result<Place, String> {
        let folder = tempfile::tempdir().map_err(|e| format!("no temporary folder: {e}"))?;
        let at = folder.path().to_owned().into();
        Ok(Place { at, environment: vec![], _folder: Some(Arc::new(folder)) })
    }

    /// A prefix of a bucket.
    pub fn bucket(server: &BucketServer) -> Place {
        Place { at: server.prefix(), environment: server.environment(), _folder: None }
    }

    /// A prefix of a bucket that cannot be reached.
    pub fn nowhere(server: &BucketServer) -> Place {
        let mut place = Place::bucket(server);
        place.environment.push(server.cloud().endpoint(1));
        place
    }

    /// A prefix of a bucket that is not there.
    pub fn no_bucket(server: &BucketServer) -> Place {
        Place { at: server.prefix_of("not-there"), ..Place::bucket(server) }
    }

    /// A prefix of a bucket, and credentials to which the server says no, with a part of them that nobody may be told;
    /// nothing if it does not look at them.
    pub fn forbidden(server: &BucketServer) -> Option<(Place, &'static str)> {
        let (wrong, secret) = server.wrong_credentials()?;
        let mut place = Place::bucket(server);
        place.environment.push(wrong);
        Some((place, secret))
    }
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
        Durable::start_at(restart, Place::folder()?).await
    }

    /// Starts a server on two workers, with its data at a place.
    ///
    /// # Errors
    /// What the server or the system says.
    pub async fn start_at(restart: Restart, place: Place) -> Result<Durable, String> {
        let running = run(restart, &place, 2).await?;
        Ok(Durable { restart, place, running: tokio::sync::Mutex::new(Some(running)) })
    }

    /// Waits until the server's process ends by itself; its exit code.
    ///
    /// # Errors
    /// If it does not end, or is no process of its own.
    pub async fn exit_code(&self) -> Result<Option<i32>, String> {
        let deadline = Instant::now() + ENDED_WITHIN;
        loop {
            match &mut *self.running.lock().await {
                Some(Running::Child(child, _)) => {
                    if let Some(status) = child.0.try_wait().map_err(|e| e.to_string())? {
                        return Ok(status.code());
                    }
                }
                _ => return Err("the server is no process of its own".to_owned()),
            }
            if Instant::now() > deadline {
                return Err("the server does not end".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
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
        *running = Some(run(self.restart, &self.place, workers).await?);
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

async fn run(restart: Restart, place: &Place, workers: usize) -> Result<Running, String> {
    if matches!(restart, Restart::MoreWorkers) {
        let options = Options { workers, tiny: false, spills: true };
        return millstream::start_in(options, Some(place.at.clone())).await.map(Running::Here);
    }
    let place = place.clone();
    let started = spawn_blocking(move || spawn(&place, workers)).await;
    started.map_err(|e| e.to_string())?.map(|(child, addr)| Running::Child(KilledChild(child), addr))
}

/// Starts this binary as a server.
fn spawn(place: &Place, workers: usize) -> Result<(Child, SocketAddr), String> {
    let mut command = this_binary(place)?;
    command.args([SERVE, &place.at.to_string(), &workers.to_string()]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| format!("the server does not start: {e}"))?;
    let stdout = child.stdout.take().ok_or("the server has no output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).map_err(|e| format!("the server says nothing: {e}"))?;
    let addr = line.trim().parse().map_err(|_| format!("the server does not say where it listens: {line}"))?;
    Ok((child, addr))
}

/// This binary, to be run where a place is known.
fn this_binary(place: &Place) -> Result<Command, String> {
    let binary = std::env::current_exe().map_err(|e| format!("this binary is not known: {e}"))?;
    let mut command = Command::new(binary);
    command.envs(place.environment.iter().cloned());
    Ok(command)
}

/// Restores a backup, in a process of its own.
///
/// # Errors
/// What it says.
pub async fn restore(from: &Place, to: &Place) -> Result<(), String> {
    let place = if from.environment.is_empty() { to } else { from };
    let mut command = this_binary(place)?;
    command.args([RESTORE, &from.at.to_string(), &to.at.to_string()]);
    let output = spawn_blocking(move || command.output()).await.map_err(|e| e.to_string())?;
    let output = output.map_err(|e| format!("it does not start: {e}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Does what this binary was started for by [`restore`], if it was.
pub fn run_restore() -> Option<Result<(), String>> {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(RESTORE) {
        return None;
    }
    let places = [args.next()?.parse::<Location>(), args.next()?.parse()];
    let [Ok(from), Ok(to)] = places else { return Some(Err(format!("{places:?}"))) };
    Some(millstream_engine::restore(&from, &to).map(drop).map_err(|e| format!("{e:?}")))
}

async fn end(running: Option<Running>) {
    match running {
        Some(Running::Child(child, _)) => drop(child),
        Some(Running::Here(handle)) => handle.stop().await,
        None => {}
    }
}

/// What this binary is to serve, if it was started as a server.
pub fn to_serve() -> Option<(Location, usize)> {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(SERVE) {
        return None;
    }
    Some((args.next()?.parse().ok()?, args.next()?.parse().ok()?))
}

/// Serves until killed, or until whoever started this has ended.
///
/// # Errors
/// What the engine or the socket says.
pub async fn serve(at: Location, workers: usize) -> Result<(), String> {
    // So often that most kills come while one is written.
    let checkpoints = CheckpointWhen { interval: Duration::from_millis(20), ..CheckpointWhen::default() };
    let config = EngineConfig { workers, query_threads: 1, data_dir: Some(at), checkpoints, ..EngineConfig::default() };
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
