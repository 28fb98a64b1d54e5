//! Millstream in this process: an engine and a server for each file, on a free port.

use std::net::{Ipv4Addr, SocketAddr};

use millstream_engine::{DATABASE, Engine, EngineConfig, Location};
use millstream_server::{Server, ServerHandle};
use millstream_testkit::slt::SqlError;

use crate::wire::WireConnection;

/// How an engine is set up for a run of a file.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Number of worker threads.
    pub workers: usize,
    /// Cut all input into batches of one row. Each statement has an epoch of its own in any mode: a file's next
    /// statement is sent when the one before has been answered.
    pub tiny: bool,
    /// State is spilled as soon as there is any.
    pub spills: bool,
}

/// The modes in which every file runs, with their names.
pub const MODES: [(&str, Options); 5] = [
    ("workers-1", Options { workers: 1, tiny: false, spills: false }),
    ("workers-2", Options { workers: 2, tiny: false, spills: false }),
    ("workers-4", Options { workers: 4, tiny: false, spills: false }),
    ("tiny", Options { workers: 2, tiny: true, spills: false }),
    ("spilled", Options { workers: 2, tiny: false, spills: true }),
];

/// A running server and the engine behind it.
pub struct Handle {
    server: ServerHandle,
    engine: Engine,
}

/// Starts an engine and a server on a free port.
///
/// # Errors
/// What the engine or the socket says.
pub async fn start(options: Options) -> Result<Handle, String> {
    start_in(options, None).await
}

/// Starts an engine with a data directory and a server on a free port.
///
/// # Errors
/// What the engine or the socket says.
pub async fn start_in(options: Options, data_dir: Option<Location>) -> Result<Handle, String> {
    let mut config = EngineConfig { workers: options.workers, query_threads: 1, data_dir, ..EngineConfig::default() };
    if options.tiny {
        config.batch_rows_max = 1;
    }
    if options.spills {
        config.memory.spill_from = 0;
    }
    let engine = Engine::start(config).map_err(|error| format!("the engine does not start: {error}"))?;
    let no_server = |error: std::io::Error| format!("the server does not start: {error}");
    let server = Server::bind((Ipv4Addr::LOCALHOST, 0), engine.clone()).await.map_err(no_server)?;
    Ok(Handle { server: server.spawn().map_err(no_server)?, engine })
}

impl Handle {
    /// Where the server listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.address
    }

    /// A new session.
    ///
    /// # Errors
    /// What the server says.
    pub async fn connect(&self) -> Result<WireConnection, SqlError> {
        WireConnection::open(self.addr(), "test", DATABASE).await
    }

    /// Stops the server, then the engine.
    pub async fn stop(self) {
        self.server.stop().await;
        self.engine.shutdown().await;
    }
}
