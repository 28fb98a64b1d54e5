//! A server in a process of its own, so that its CPU time and memory are told apart from the client's.
//!
//! It is the benchmark's program, run again: so it is always the code that was just built.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use clap::Parser;
use millstream_server::cli::Cli;
use millstream_server::serve::{Service, runtime};
use millstream_types::Result;

use crate::figure::{Figure, rounded};
use crate::process::Process;
use crate::wire_client::WireClient;

/// Asks this program to be the server.
const SERVE: &str = "--serve";

/// A running server. Dropping it ends its process.
pub struct ServerProcess {
    child: Child,
    address: SocketAddr,
}

/// What a piece of work took.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// What was done, in the unit of the work.
    n_done: u64,
    seconds: f64,
    /// Of the server.
    cpu_seconds: Option<f64>,
    client_cpu_seconds: Option<f64>,
    rss_growth_mb: Option<f64>,
}

/// Is the server, and ends with it, if that is what the program was started for. Called first of all by each benchmark
/// that starts servers.
pub fn serve_if_asked() -> Option<ExitCode> {
    let mut args = std::env::args_os();
    let program = args.next()?;
    if args.next()? != SERVE {
        return None;
    }
    let outcome = serve(std::iter::once(program).chain(args));
    Some(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("server: error: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Serves until standard input ends, as it does when the benchmark ends in whatever way.
fn serve(args: impl Iterator<Item = OsString>) -> Result<()> {
    let args = Cli::parse_from(args).serve;
    let runtime = runtime()?;
    let service = runtime.block_on(Service::start(&args))?;
    println!("{}", service.address());
    // What comes is of no interest, nor is why it ends.
    let _ = io::stdin().read_to_end(&mut Vec::new());
    runtime.block_on(service.stop());
    Ok(())
}

impl ServerProcess {
    /// Starts a server on a free port.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(n_workers: usize) -> io::Result<ServerProcess> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([SERVE, "--listen", "127.0.0.1:0", "--workers", &n_workers.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut said)?;
        }
        let address = said.trim().parse();
        let address =
            address.map_err(|_| io::Error::other(format!("the server says {said:?} instead of its address")))?;
        Ok(ServerProcess { child, address })
    }

    /// A new session.
    ///
    /// # Errors
    /// What the server or the socket says.
    pub fn connect(&self) -> io::Result<WireClient> {
        WireClient::open(self.address)
    }

    /// Does work, which says how much was done, and measures what it takes.
    ///
    /// # Errors
    /// If the work fails.
    pub fn measure(&self, work: impl FnOnce() -> io::Result<u64>) -> io::Result<Spent> {
        let (server, client) = (Process::with_id(self.child.id()), Process::this());
        let cpu_seconds = |process: &Process| process.cpu_seconds().map(|cpu| cpu.sum());
        let since = |before: Option<f64>, now: Option<f64>| Some(now? - before?);
        server.forget_rss_peak();
        let (rss, cpu, client_cpu) = (server.rss_mb(), cpu_seconds(&server), cpu_seconds(&client));
        let started = Instant::now();
        let n_done = work()?;
        Ok(Spent {
            n_done,
            seconds: started.elapsed().as_secs_f64(),
            cpu_seconds: since(cpu, cpu_seconds(&server)),
            client_cpu_seconds: since(client_cpu, cpu_seconds(&client)),
            rss_growth_mb: since(rss, server.rss_peak_mb()),
        })
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Nothing that it has is kept; it may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Spent {
    /// A figure about the work, whose units are `unit`.
    pub fn figure(&self, name: &str, unit: &str) -> Figure {
        let rate = |seconds: f64| (self.n_done as f64 / seconds).round();
        Figure::new("figure", name)
            .with(unit, self.n_done)
            .with(&format!("{unit}_per_second"), rate(self.seconds))
            .with(&format!("{unit}_per_server_cpu_second"), self.cpu_seconds.map(rate))
            .with("server_cpus", self.cpus(self.cpu_seconds))
            .with("client_cpus", self.cpus(self.client_cpu_seconds))
            .with("server_rss_growth_mb", self.rss_growth_mb.map(f64::round))
    }

    /// How much of a CPU the server used, in percent.
    pub fn server_cpu_percent(&self) -> Option<f64> {
        self.cpu_seconds.map(|cpu| rounded(cpu / self.seconds * 100.0, 2))
    }

    fn cpus(&self, cpu_seconds: Option<f64>) -> Option<f64> {
        cpu_seconds.map(|cpu| rounded(cpu / self.seconds, 2))
    }
}
