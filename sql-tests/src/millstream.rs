//! Millstream in this process: an engine and a server for each file, on a free port.

use std::net::SocketAddr;

use millstream_testkit::slt::SqlError;

use crate::wire::WireConnection;

/// How an engine is set up for a run of a file.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Number of worker threads.
    pub workers: usize,
    /// Cut all input into batches of one row, and give each statement an epoch of its own.
    pub tiny: bool,
}

/// The modes in which every file runs, with their names.
pub const MODES: [(&str, Options); 4] = [
    ("workers-1", Options { workers: 1, tiny: false }),
    ("workers-2", Options { workers: 2, tiny: false }),
    ("workers-4", Options { workers: 4, tiny: false }),
    ("tiny", Options { workers: 2, tiny: true }),
];

/// A running server.
pub struct Handle {
    addr: SocketAddr,
}

/// Why the modes of Millstream cannot run yet, if so.
///
/// # Errors
/// The reason, for a person.
pub fn available() -> Result<(), String> {
    Err("the server has no interface yet through which tests start it".into())
}

/// Starts an engine and a server on a free port.
///
/// # Errors
/// What the engine or the socket says.
pub async fn start(options: Options) -> Result<Handle, String> {
    Err(format!("cannot start with {options:?}: {}", available().err().unwrap_or_default()))
}

impl Handle {
    /// Where the server listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A new session.
    ///
    /// # Errors
    /// What the server says.
    pub async fn connect(&self) -> Result<WireConnection, SqlError> {
        WireConnection::open(self.addr, "test", "millstream").await
    }

    /// Stops the server and its engine.
    pub async fn stop(self) {}
}
