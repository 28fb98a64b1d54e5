//! A client's socket with its buffers.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use millstream_types::{Error, SqlState};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::frontend::{Message, frame_length, take_message};
use super::output::Output;

/// What is asked of the socket at once: little at first, more while it gives as much.
const READ_BYTES: std::ops::RangeInclusive<usize> = (8 << 10)..=(128 << 10);
/// How far messages are read ahead while a statement runs.
const READ_AHEAD_BYTES: usize = 64 << 10;
/// How often a socket that must not be read is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// A client that is silent for so long is asked, by the kernel, whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// How long an answer may take before it is asked again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How often it is asked before the connection counts as broken.
const KEEPALIVE_PROBES: u32 = 3;
/// Output is sent in pieces of this size.
pub(crate) const PIECE_BYTES: usize = 32 << 10;

/// Why a message was not handled to its end.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The statement failed; the session goes on.
    Statement(Error),
    /// The client is told and dropped.
    Fatal(Error),
    /// The client has gone.
    Gone,
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Statement(error)
    }
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Fault::Gone
    }
}

/// A socket, what has been read of it and not been handled, and what is to be written.
pub(crate) struct Connection {
    stream: TcpStream,
    input: BytesMut,
    read_bytes: usize,
    pub(crate) output: Output,
    shutdown: watch::Receiver<bool>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, shutdown: watch::Receiver<bool>) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        // A client that has vanished without a word, with its machine or the network, is noticed in a minute and a half.
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
        if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES)) {
            tracing::debug!(%error, "TCP keepalive could not be set");
        }
        let output = Output::default();
        Connection { stream, input: BytesMut::new(), read_bytes: *READ_BYTES.start(), output, shutdown }
    }

    /// The next message. What is to be written is sent before waiting.
    pub(crate) async fn read_message(&mut self) -> Result<Message, Fault> {
        loop {
            if let Some(message) = take_message(&mut self.input).map_err(Fault::Fatal)? {
                return Ok(message);
            }
            self.flush().await?;
            if self.input.is_empty() {
                self.rest().await?;
            }
            self.fill().await?;
        }
    }

    /// Whether the next message has arrived and is a Sync.
    pub(crate) fn is_sync_next(&self) -> bool {
        self.input.first() == Some(&b'S')
    }

    /// Takes `n_bytes` of what comes before messages have types.
    pub(crate) async fn read_raw(&mut self, n_bytes: usize) -> Result<BytesMut, Fault> {
        while self.input.len() < n_bytes {
            self.flush().await?;
            self.fill().await?;
        }
        Ok(self.input.split_to(n_bytes))
    }

    /// Waits for the client with next to no memory, or for the server to stop.
    async fn rest(&mut self) -> Result<(), Fault> {
        self.output.shrink();
        if self.input.capacity() > *READ_BYTES.start() {
            self.input = BytesMut::new();
        }
        if *self.shutdown.borrow() {
            return Err(Fault::Fatal(stopping()));
        }
        tokio::select! {
            biased;
            ready = self.stream.readable() => Ok(ready?),
            _ = self.shutdown.changed() => Err(Fault::Fatal(stopping())),
        }
    }

    async fn fill(&mut self) -> Result<(), Fault> {
        if self.input.capacity() - self.input.len() < self.read_bytes / 2 {
            let missing = frame_length(&self.input).ok().flatten().map_or(0, |n| n.saturating_sub(self.input.len()));
            self.input.reserve(self.read_bytes.max(missing.min(*READ_BYTES.end())));
        }
        let room = self.input.capacity() - self.input.len();
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(Fault::Gone),
            n_bytes => {
                let next = if n_bytes == room { self.read_bytes * 2 } else { self.read_bytes.min(n_bytes.max(1) * 2) };
                self.read_bytes = next.clamp(*READ_BYTES.start(), *READ_BYTES.end());
                Ok(())
            }
        }
    }

    /// Sends all that is to be written.
    pub(crate) async fn flush(&mut self) -> Result<(), Fault> {
        if !self.output.is_empty() {
            self.stream.write_all(self.output.bytes()).await?;
            self.output.clear();
        }
        Ok(())
    }

    /// Waits until the client has closed its side, reading ahead what it sends meanwhile, up to a bound.
    pub(crate) async fn closed(&mut self) {
        loop {
            if self.input.len() >= READ_AHEAD_BYTES {
                tokio::time::sleep(LOOK_INTERVAL).await;
                match self.stream.ready(Interest::READABLE).await {
                    Ok(ready) if !ready.is_read_closed() => continue,
                    _ => return,
                }
            }
            if self.stream.readable().await.is_err() {
                return;
            }
            if self.input.capacity() == self.input.len() {
                self.input.reserve(*READ_BYTES.start());
            }
            match self.stream.try_read_buf(&mut self.input) {
                Ok(0) => return,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    /// Tells the client why it is dropped.
    pub(crate) async fn fail(mut self, error: &Error) {
        self.output.error("FATAL", error);
        // It may be gone already, or not read.
        let _ = tokio::time::timeout(Duration::from_secs(1), async {
            self.flush().await?;
            self.stream.shutdown().await?;
            Ok::<(), Fault>(())
        })
        .await;
    }
}

pub(crate) fn stopping() -> Error {
    Error::new(
        millstream_types::ErrorKind::Resource,
        SqlState::ADMIN_SHUTDOWN,
        "terminating connection due to administrator command",
    )
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_client_that_says_nothing_is_asked_whether_it_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let _client = client.expect("somebody listens");
        let (_stop, shutdown) = watch::channel(false);
        let connection = Connection::new(accepted.expect("somebody has called").0, shutdown);
        let socket = SockRef::from(&connection.stream);
        assert!(socket.keepalive().expect("a socket's option"));
        assert_eq!(socket.tcp_keepalive_time().expect("a socket's option"), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_retries().expect("a socket's option"), KEEPALIVE_PROBES);
    }
}
