//! The `millstream` binary: reads the command line, sets up logging and a runtime, and runs a command.

use std::process::ExitCode;

use clap::Parser;
use millstream_server::cli::{Cli, Command, ServeArgs};
use millstream_server::demo::demo;
use millstream_server::serve::{restore, runtime, serve};
use millstream_types::{Error, Result, SqlState};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millstream: {}", error.message());
            for line in error.fields().detail.iter().chain(&error.fields().hint) {
                eprintln!("{line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let mut command = cli.command.unwrap_or(Command::Serve(cli.serve));
    if let Command::Serve(args) = &mut command {
        args.choose_data_dir()?;
    }
    let args = match &command {
        Command::Serve(args) => args,
        Command::Demo(args) => &args.serve,
        Command::Restore(args) => return restore(args),
    };
    // Before threads have taken any.
    millstream_state::allocator::keep_freed_memory_within(args.process_memory());
    start_logging(args)?;
    runtime()?.block_on(async {
        match &command {
            Command::Serve(args) => serve(args).await,
            Command::Demo(args) => demo(args).await,
            Command::Restore(args) => restore(args),
        }
    })
}

fn start_logging(args: &ServeArgs) -> Result<()> {
    let filter = EnvFilter::try_new(&args.log).map_err(|e| {
        Error::user(SqlState::INVALID_PARAMETER_VALUE, format!("invalid value \"{}\" of --log: {e}", args.log))
    })?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}
