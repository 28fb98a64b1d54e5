//! An engine and its server as one thing that starts and stops.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use millstream_engine::{Engine, EngineConfig};
use millstream_types::deep_stack::THREAD_STACK_BYTES;
use millstream_types::{Error, ErrorKind, Result, SqlState};
use tokio::runtime::{self, Runtime};

use crate::cli::{RestoreArgs, ServeArgs};
use crate::{Server, ServerHandle, StartingEngine};

/// When the process is asked to stop, it takes so long at most to write a checkpoint.
const LAST_CHECKPOINT_TIME: Duration = Duration::from_secs(20);

/// The code with which a process ends that was asked to stop twice.
const STOPPED_AT_ONCE_EXIT_CODE: i32 = 130;

/// The runtime that serves connections. Its threads have stacks on which most statements are planned without another one.
///
/// # Errors
/// If the system gives no threads.
pub fn runtime() -> Result<Runtime> {
    runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("front-end")
        .thread_stack_size(THREAD_STACK_BYTES)
        .build()
        .map_err(|e| Error::internal(format!("the runtime did not start: {e}")))
}

/// A running engine that clients reach.
pub struct Service {
    /// The engine behind the server.
    pub engine: Engine,
    server: ServerHandle,
}

impl Service {
    /// Starts an engine and listens.
    ///
    /// # Errors
    /// 28000 if the address needs `--insecure-no-auth`, 58030 if it is not to be had.
    pub async fn start(args: &ServeArgs) -> Result<Service> {
        Self::start_with(args, args.engine_config()).await
    }

    /// Starts an engine that runs in this way, and listens.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub async fn start_with(args: &ServeArgs, config: EngineConfig) -> Result<Service> {
        Listening::open(args).await?.start(config).await
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Ends all sessions, then the engine, after a last checkpoint.
    pub async fn stop(self) {
        self.server.stop().await;
        self.engine.stop(LAST_CHECKPOINT_TIME).await;
    }
}

/// A server that listens, and has no engine yet: clients are told that it is starting, and how far it is.
pub struct Listening {
    engine: StartingEngine,
    server: ServerHandle,
}

impl Listening {
    /// Listens.
    ///
    /// # Errors
    /// 28000 if the address needs `--insecure-no-auth`, 58030 if it is not to be had.
    pub async fn open(args: &ServeArgs) -> Result<Listening> {
        args.check_address()?;
        outlive_file_size_limit()?;
        if !args.listen.ip().is_loopback() {
            tracing::warn!(listen = %args.listen, "there is no authentication: everybody who reaches this address is let in");
        }
        let not_bound = |e: std::io::Error| not_bound(args.listen, &e);
        let engine = StartingEngine::default();
        let server = Server::bind(args.listen, engine.clone()).await.map_err(not_bound)?;
        Ok(Listening { engine, server: server.spawn().map_err(not_bound)? })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Starts the engine, and lets clients in.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub async fn start(self, config: EngineConfig) -> Result<Service> {
        let progress = self.engine.progress();
        // Reading what is on the disk blocks.
        let started = tokio::task::spawn_blocking(move || Engine::start_telling(config, progress)).await;
        match started.map_err(|e| Error::internal(format!("the start ended: {e}"))).flatten() {
            Ok(engine) => {
                self.engine.has_started(engine.clone());
                Ok(Service { engine, server: self.server })
            }
            Err(error) => {
                self.server.stop().await;
                Err(error)
            }
        }
    }
}

/// Why a server does not listen, and what to do about it.
fn not_bound(address: SocketAddr, error: &std::io::Error) -> Error {
    let failure = |message| Error::new(ErrorKind::External, SqlState::IO_ERROR, message);
    match error.kind() {
        std::io::ErrorKind::AddrInUse => failure(format!("port {} is in use by another process", address.port()))
            .with_hint("Stop that process, or choose another port: --listen 127.0.0.1:PORT; port 0 takes a free one."),
        std::io::ErrorKind::PermissionDenied => failure(format!("not permitted to listen on {address}"))
            .with_hint("Ports below 1024 are the system's. Choose another one: --listen 127.0.0.1:PORT"),
        std::io::ErrorKind::AddrNotAvailable => failure(format!("{} is not an address of this machine", address.ip())),
        _ => failure(format!("could not listen on {address}: {error}")),
    }
}

/// Serves until the process is asked to stop; when it is asked again, it ends at once.
///
/// # Errors
/// As [`Service::start`].
pub async fn serve(args: &ServeArgs) -> Result<()> {
    let mut signals = StopSignals::new()?;
    let listening = Listening::open(args).await?;
    let address = listening.address();
    say(&format!("Millstream {} listens on {address}.", env!("CARGO_PKG_VERSION")));
    say(&format!("Connect with: psql -h {} -p {} millstream", address.ip(), address.port()));
    match &args.data_dir {
        None => say("All data is in memory and is gone when this process ends."),
        Some(at) => say(&format!("Data is kept in {at}.")),
    }
    let service = tokio::select! {
        started = listening.start(args.engine_config()) => started?,
        () = signals.next() => {
            // Nobody has written anything, and what is on the disk stays as it is.
            say("Stopping before the start was done.");
            std::process::exit(0);
        }
    };
    signals.next().await;
    say("Stopping.");
    tokio::select! {
        () = service.stop() => Ok(()),
        () = signals.next() => {
            say("Stopping at once.");
            std::process::exit(STOPPED_AT_ONCE_EXIT_CODE);
        }
    }
}

/// Tells whoever started the process. A terminal that has gone away is no reason to end in another way.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Makes a data directory of a backup.
///
/// # Errors
/// 55000 if there is no backup, or the folder is not empty; XX001 if something is damaged; 53100 and 58030.
pub fn restore(args: &RestoreArgs) -> Result<()> {
    let copied = millstream_engine::restore(&args.backup, &args.data_dir)?;
    eprintln!("{} bytes as of epoch {} are restored and read right.", copied.n_bytes, copied.epoch);
    eprintln!("Start with: millstream serve --data-dir {}", args.data_dir);
    Ok(())
}

/// Lets a write beyond the limit of the size of files fail, as on a full disk, instead of ending the process (SIGXFSZ).
///
/// # Errors
/// If the system does not allow it.
pub fn outlive_file_size_limit() -> Result<()> {
    #[cfg(unix)]
    {
        /// Its number on Linux, macOS and the BSDs.
        const SIGXFSZ: i32 = 25;
        let kind = tokio::signal::unix::SignalKind::from_raw(SIGXFSZ);
        // The handler stays for as long as the process.
        let handled = tokio::signal::unix::signal(kind).map(drop);
        handled.map_err(|e| Error::internal(format!("a signal cannot be handled: {e}")))?;
    }
    Ok(())
}

/// Ctrl-C and SIGTERM, each time that they come.
pub struct StopSignals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl StopSignals {
    /// From now on they do not end the process by themselves.
    ///
    /// # Errors
    /// If the system does not allow it.
    #[cfg(unix)]
    pub fn new() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let handled = |kind| signal(kind).map_err(|e| Error::internal(format!("a signal cannot be handled: {e}")));
        Ok(StopSignals { interrupt: handled(SignalKind::interrupt())?, terminate: handled(SignalKind::terminate())? })
    }

    /// From now on it does not end the process by itself.
    ///
    /// # Errors
    /// None.
    #[cfg(not(unix))]
    pub fn new() -> Result<Self> {
        Ok(StopSignals {})
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        #[cfg(not(unix))]
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "Ctrl-C is not noticed");
            std::future::pending::<()>().await;
        }
    }
}
