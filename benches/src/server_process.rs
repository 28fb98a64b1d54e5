//! A server in a process of its own, so that its CPU time and memory are told apart from the client's.
//!
//! It is the benchmark's program, run again: so it is always the code that was just built.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Args, Parser};
use millstream_server::cli::Cli;
use millstream_server::serve::{Service, runtime};
use millstream_types::{Error, Result};
use tempfile::TempDir;

use crate::figure::{Figure, rounded};
use crate::process::Process;
use crate::slow_disk::slow_disk;
use crate::wire_client::WireClient;

/// Asks this program to be the server.
const SERVE: &str = "--serve";

/// Where a benchmark's servers keep their data.
#[derive(Args, Clone, Debug, Default)]
pub struct DataArgs {
    /// Let each server keep its data in a new folder in this one, which is taken away in the end [default: in memory]
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// With --data-dir, seconds between two checkpoints
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub checkpoint_interval: f64,
}

impl DataArgs {
    /// Starts a server on a free port.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(&self, n_workers: usize) -> io::Result<ServerProcess> {
        self.start_on_slow_disk(n_workers, Duration::ZERO)
    }

    /// Starts a server whose disk takes so much longer to make something durable.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_on_slow_disk(&self, n_workers: usize, sync_delay: Duration) -> io::Result<ServerProcess> {
        let folder = self.data_dir.as_ref().map(tempfile::tempdir_in).transpose()?;
        let options = ServerOptions {
            n_workers,
            data_dir: folder.as_ref().map(|folder| folder.path().to_owned()),
            checkpoint_interval: self.checkpoint_interval,
            sync_delay,
        };
        let mut server = ServerProcess::start_with(&options)?;
        server._folder = folder;
        Ok(server)
    }
}

/// How a server is started.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Worker threads.
    pub n_workers: usize,
    /// Its data directory; none to keep all data in memory.
    pub data_dir: Option<PathBuf>,
    /// Seconds between two checkpoints.
    pub checkpoint_interval: f64,
    /// How much longer its disk takes to make something durable.
    pub sync_delay: Duration,
}

/// A running server. Dropping it kills its process.
pub struct ServerProcess {
    child: Child,
    address: SocketAddr,
    /// What its data is in, if it goes with it.
    _folder: Option<TempDir>,
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

/// Serves until standard input ends, as it does when the benchmark ends in whatever way. The first argument is the delay
/// of the disk, in microseconds.
fn serve(mut args: impl Iterator<Item = OsString>) -> Result<()> {
    let program = args.next();
    let delay = args.next().and_then(|delay| delay.to_str()?.parse().ok()).map(Duration::from_micros);
    let delay = delay.ok_or_else(|| Error::internal("no delay of the disk"))?;
    let args = Cli::parse_from(program.into_iter().chain(args)).serve;
    let mut config = args.engine_config();
    if delay > Duration::ZERO {
        config.disk = Some(slow_disk(delay));
    }
    let runtime = runtime()?;
    let service = runtime.block_on(Service::start_with(&args, config))?;
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
    pub fn start_with(options: &ServerOptions) -> io::Result<ServerProcess> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([SERVE, &options.sync_delay.as_micros().to_string()]);
        command.args(["--listen", "127.0.0.1:0", "--workers", &options.n_workers.to_string(), "--log", "warn"]);
        if options.data_dir.is_none() {
            command.arg("--in-memory");
        }
        if let Some(folder) = &options.data_dir {
            command.arg("--data-dir").arg(folder);
            command.args(["--checkpoint-interval", &options.checkpoint_interval.to_string()]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut said)?;
        }
        let address = said.trim().parse();
        let address =
            address.map_err(|_| io::Error::other(format!("the server says {said:?} instead of its address")))?;
        Ok(ServerProcess { child, address, _folder: None })
    }

    /// Lets it end in order, and waits for that.
    ///
    /// # Errors
    /// If it ends in another way.
    pub fn stop(mut self) -> io::Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("the server ended with {status}"))) }
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
    /// How long it took.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

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
