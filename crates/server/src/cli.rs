//! The command line of the `millstream` binary.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use millstream_engine::{CheckpointWhen, EngineConfig, Location, MemoryLimits, parse_bytes};
use millstream_types::{Error, Result, SqlState};

/// SQL views over streams, kept correct and fresh.
///
/// Without a command, serves, and keeps data in the folder "millstream" of the user's data directory.
#[derive(Debug, Parser)]
#[command(name = "millstream", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; serves if left out.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of serving.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What the binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve clients over the Postgres protocol
    Serve(ServeArgs),
    /// Serve with a live Nexmark stream and views over it
    Demo(DemoArgs),
    /// Make a data directory of a backup, and check all of it
    Restore(RestoreArgs),
}

/// Options of `restore`.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// The folder, or the url of a bucket, that BACKUP TO has made
    pub backup: Location,
    /// The data directory to be, a folder or the url of a bucket; it must be empty, or not there
    #[arg(long, value_name = "FOLDER|URL")]
    pub data_dir: Location,
}

/// Options of `serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The address to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:5433")]
    pub listen: SocketAddr,
    /// Worker threads [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: Option<u16>,
    /// Memory that the process may take beside what it takes with nothing to do, such as 8GB [default: 70 % of the machine
    /// or control group]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub memory_limit: Option<usize>,
    /// Keep all data in memory, where it is gone when the process ends; the demo always does
    #[arg(long)]
    pub in_memory: bool,
    /// Keep data in this folder, which is made if it is not there [default: $XDG_DATA_HOME/millstream, which is
    /// ~/.local/share/millstream if that is not set]. Or in a bucket, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or
    /// az://CONTAINER/PREFIX, with credentials from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT, ...); there a process
    /// that starts takes over from one that runs
    #[arg(long, value_name = "FOLDER|URL", conflicts_with = "in_memory")]
    pub data_dir: Option<Location>,
    /// Write a checkpoint after so many seconds, and as often as the log grows by 256 MB
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub checkpoint_interval: Duration,
    /// What is logged, as in RUST_LOG: a level, or target=level, separated by commas
    #[arg(long, value_name = "DIRECTIVES", default_value = "info")]
    pub log: String,
    /// Listen on an address that other machines reach, although there is no authentication yet
    #[arg(long)]
    pub insecure_no_auth: bool,
}

/// Options of `demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Run this long, print what the views hold, and exit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// Options of serving.
    #[command(flatten)]
    pub serve: ServeArgs,
}

fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "not a time".to_owned())
}

impl ServeArgs {
    /// The number of worker threads.
    pub fn n_workers(&self) -> usize {
        self.workers.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
    }

    /// Says where data is kept, if nobody has.
    ///
    /// # Errors
    /// 22023 if the user has no data directory.
    pub fn choose_data_dir(&mut self) -> Result<()> {
        if !self.in_memory && self.data_dir.is_none() {
            let folder = default_data_dir(std::env::var_os("XDG_DATA_HOME"), std::env::var_os("HOME"));
            let unknown = || {
                let message = "there is no folder to keep data in: neither XDG_DATA_HOME nor HOME is set";
                Error::user(SqlState::INVALID_PARAMETER_VALUE, message)
                    .with_hint("Name one with --data-dir FOLDER, or keep all data in memory with --in-memory.")
            };
            self.data_dir = Some(folder.ok_or_else(unknown)?.into());
        }
        Ok(())
    }

    /// What the process may take, beside what it takes with nothing to do.
    pub fn process_memory(&self) -> usize {
        self.memory_limit.unwrap_or_else(MemoryLimits::of_machine)
    }

    /// How the engine runs.
    pub fn engine_config(&self) -> EngineConfig {
        EngineConfig {
            workers: self.n_workers(),
            memory: MemoryLimits::of_process(self.process_memory()),
            process_memory: Some(self.process_memory()),
            data_dir: self.data_dir.clone(),
            checkpoints: CheckpointWhen { interval: self.checkpoint_interval, ..CheckpointWhen::default() },
            ..EngineConfig::default()
        }
    }

    /// Refuses to be reached from other machines unless told to.
    ///
    /// # Errors
    /// 28000 if the listen address is not loopback and `--insecure-no-auth` is not given.
    pub fn check_address(&self) -> Result<()> {
        if self.listen.ip().is_loopback() || self.insecure_no_auth {
            return Ok(());
        }
        Err(Error::user(
            SqlState::INVALID_AUTHORIZATION,
            format!("{} is reached from other machines, and there is no authentication yet", self.listen),
        )
        .with_hint("Listen on 127.0.0.1, or give --insecure-no-auth to let everybody in."))
    }
}

/// The folder in the user's data directory, by the XDG Base Directory Specification: paths that are not absolute count for
/// nothing.
fn default_data_dir(data_home: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |path: Option<OsString>| path.map(PathBuf::from).filter(|path| path.is_absolute());
    let of_home = || absolute(home).map(|home| home.join(".local").join("share"));
    Some(absolute(data_home).or_else(of_home)?.join("millstream"))
}

impl DemoArgs {
    /// How long the demo runs; without end if not given.
    pub fn time(&self) -> Option<Duration> {
        self.seconds.map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn serve(args: &[&str]) -> ServeArgs {
        match Cli::try_parse_from(args).expect("a command line") {
            Cli { command: None, serve } | Cli { command: Some(Command::Serve(serve)), .. } => serve,
            Cli { command: Some(Command::Demo(demo)), .. } => demo.serve,
            Cli { command: Some(Command::Restore(_)), serve } => serve,
        }
    }

    #[test]
    fn serving_is_the_default_command() {
        assert_eq!(serve(&["millstream"]).listen.port(), 5433);
        assert_eq!(serve(&["millstream", "--workers", "3"]).n_workers(), 3);
        assert_eq!(serve(&["millstream", "serve", "--listen", "127.0.0.1:1"]).listen.port(), 1);
        assert!(serve(&["millstream", "demo", "--seconds", "5", "--in-memory"]).in_memory);
        assert!(Cli::try_parse_from(["millstream", "--workers", "0"]).is_err());
        assert_eq!(serve(&["millstream", "--memory-limit", "3GB"]).process_memory(), 3 << 30);
        assert!(Cli::try_parse_from(["millstream", "--memory-limit", "much"]).is_err());
        let every = serve(&["millstream", "--data-dir", "d", "--checkpoint-interval", "0.5"]).checkpoint_interval;
        assert_eq!(every, Duration::from_millis(500));
        assert!(Cli::try_parse_from(["millstream", "--checkpoint-interval", "-1"]).is_err());
        assert!(Cli::try_parse_from(["millstream", "--data-dir", "d", "--in-memory"]).is_err());
        assert!(matches!(serve(&["millstream", "--data-dir", "s3://b/p"]).data_dir, Some(Location::Bucket(_))));
        assert!(Cli::try_parse_from(["millstream", "--data-dir", "http://b/p"]).is_err());
    }

    /// Every flag stands in `docs/settings.md` with its default, and no other.
    #[test]
    fn flags_are_documented() {
        let page = include_str!("../../../docs/settings.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `--")).collect();
        let command = Cli::command();
        let flags: Vec<&clap::Arg> = command.get_arguments().filter(|arg| arg.get_long().is_some()).collect();
        for flag in &flags {
            let name = flag.get_long().unwrap_or_default();
            let row = rows.iter().find(|row| row[4..].trim_start_matches('-').starts_with(name));
            let row = row.unwrap_or_else(|| panic!("--{name} is missing"));
            for value in flag.get_default_values() {
                let value = value.to_string_lossy();
                // What may be given or not has none that is worth a word.
                assert!(value == "false" || row.contains(&format!("| `{value}` |")), "--{name} is {value}: {row}");
            }
        }
        assert_eq!(rows.len(), flags.len(), "{rows:?}");
        for command in command.get_subcommands() {
            for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(page.contains(&format!("--{flag}")), "--{flag} of {} is missing", command.get_name());
            }
        }
    }

    #[test]
    fn data_is_kept_in_the_users_folder() {
        let folder = |data_home: Option<&str>, home: Option<&str>| {
            let found = default_data_dir(data_home.map(OsString::from), home.map(OsString::from));
            found.map(|path| path.to_string_lossy().into_owned())
        };
        assert_eq!(folder(Some("/data"), Some("/home/ann")).as_deref(), Some("/data/millstream"));
        assert_eq!(folder(None, Some("/home/ann")).as_deref(), Some("/home/ann/.local/share/millstream"));
        assert_eq!(folder(Some("data"), Some("/home/ann")).as_deref(), Some("/home/ann/.local/share/millstream"));
        assert_eq!(folder(Some(""), None), None);
        for (args, is_kept) in
            [(vec!["millstream", "--in-memory"], false), (vec!["millstream", "--data-dir", "d"], true)]
        {
            let mut args = serve(&args);
            args.choose_data_dir().expect("it was said");
            assert_eq!(args.data_dir.is_some(), is_kept);
        }
    }

    #[test]
    fn addresses_that_others_reach_need_consent() {
        assert!(serve(&["millstream"]).check_address().is_ok());
        assert!(serve(&["millstream", "--listen", "[::1]:5433"]).check_address().is_ok());
        assert!(serve(&["millstream", "--listen", "0.0.0.0:5433"]).check_address().is_err());
        assert!(serve(&["millstream", "--listen", "0.0.0.0:5433", "--insecure-no-auth"]).check_address().is_ok());
    }
}
