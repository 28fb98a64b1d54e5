//! The listener: accepts connections, opens their sessions, and stops them all in the end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use millstream_types::{Error, SqlState};
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::cancel::CancelRegistry;
use super::client::Client;
use super::connection::{Connection, Fault};
use super::start_up::{Opening, read_opening};
use crate::{Backend, BackendSession};

/// Within this time a client has to have sent its start-up message.
const START_UP_TIME: Duration = Duration::from_secs(10);
/// Sessions have this long to end their statements when the server stops.
const STOP_TIME: Duration = Duration::from_secs(3);
/// After accepting has failed (no file descriptors, say), before it is tried again.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A server that is bound to its address and does not accept yet.
pub struct Server<B> {
    listener: TcpListener,
    backend: Arc<B>,
}

/// A server that runs as a task of its own.
pub struct ServerHandle {
    /// Where it listens.
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl<B: Backend> Server<B> {
    /// Binds to an address; port 0 takes a free one.
    ///
    /// # Errors
    /// If the address is taken or not to be had.
    pub async fn bind(address: impl ToSocketAddrs, backend: B) -> io::Result<Self> {
        Ok(Server { listener: TcpListener::bind(address).await?, backend: Arc::new(backend) })
    }

    /// Where the server listens.
    ///
    /// # Errors
    /// If the operating system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Runs as a task.
    ///
    /// # Errors
    /// If the operating system does not say where it listens.
    pub fn spawn(self) -> io::Result<ServerHandle> {
        let address = self.address()?;
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(self.run(async move {
            // A handle that is dropped stops its server too.
            let _ = stopped.wait_for(|stop| *stop).await;
        }));
        Ok(ServerHandle { address, stop, task })
    }

    /// Serves until `stop` is there, then tells all clients and waits for their sessions to end.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let (shutdown, stopping) = watch::channel(false);
        let cancels = CancelRegistry::default();
        let mut tasks = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(ended) = tasks.join_next() => log_panic(ended),
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let connection = Connection::new(stream, stopping.clone());
                        tasks.spawn(serve(connection, peer, self.backend.clone(), cancels.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
            }
        }
        drop(self.listener);
        shutdown.send_replace(true);
        cancels.cancel_all();
        let all_ended = async {
            while let Some(ended) = tasks.join_next().await {
                log_panic(ended);
            }
        };
        if tokio::time::timeout(STOP_TIME, all_ended).await.is_err() {
            tracing::warn!("sessions that did not end in time are dropped");
            tasks.shutdown().await;
        }
    }
}

impl ServerHandle {
    /// Stops the server and waits until all sessions have ended.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the server's task failed");
        }
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked");
    }
}

async fn serve<B: Backend>(mut connection: Connection, peer: SocketAddr, backend: Arc<B>, cancels: CancelRegistry) {
    let opening = match tokio::time::timeout(START_UP_TIME, read_opening(&mut connection)).await {
        Ok(Ok(opening)) => opening,
        Ok(Err(Fault::Fatal(error) | Fault::Statement(error))) => return connection.fail(&error).await,
        Ok(Err(Fault::Gone)) => return,
        Err(_) => {
            tracing::debug!(%peer, "no start-up message in time");
            return;
        }
    };
    match opening {
        Opening::Cancel { pid, secret } => cancels.cancel(pid, secret),
        Opening::Session { user, database, params } => {
            let session = match check_encoding(&params).and_then(|()| backend.session(&user, &database, &params)) {
                Ok(session) => session,
                Err(error) => return connection.fail(&error).await,
            };
            tracing::debug!(%peer, user, session = session.id(), "a client has connected");
            let registration = cancels.register(session.id(), session.cancel_handle());
            connection.output.authentication_ok();
            for (name, value) in session.reported_parameters() {
                connection.output.parameter_status(name, &value);
            }
            connection.output.backend_key(registration.pid, registration.secret);
            let is_psql = params.iter().any(|(name, value)| name == "application_name" && value == "psql");
            let mut client = Client::new(connection, session, is_psql);
            client.ready();
            client.serve().await;
        }
    }
}

/// Text is UTF-8 on every connection.
fn check_encoding(params: &[(String, String)]) -> Result<(), Error> {
    let encoding = params.iter().find(|(name, _)| name.eq_ignore_ascii_case("client_encoding"));
    let Some((_, value)) = encoding else {
        return Ok(());
    };
    let plain: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
    if ["utf8", "unicode", "sqlascii", "auto"].iter().any(|known| plain.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    Err(Error::user(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("client_encoding \"{value}\" is not supported, only UTF8 is"),
    ))
}
