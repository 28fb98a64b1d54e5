//! Runs every `.slt` file of this directory: against Millstream in five modes, and in two more in which the server ends
//! in the middle and is started again; if it is plain Postgres SQL, against Postgres 15. Then the SQL blocks of README and docs against Millstream.
//!
//! `cargo test -p millstream-sql-tests -- joins` runs those with `joins` in their names;
//! `-- --bless-from-postgres joins` writes into these files what Postgres answered, and never anything else.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use millstream_sql_tests::bucket::{BucketServer, CLOUDS, Cloud};
use millstream_sql_tests::durable::{self, Durable, Place, RESTARTS, Restart};
use millstream_sql_tests::killing;
use millstream_sql_tests::millstream::{self, MODES, Options};
use millstream_sql_tests::postgres::Postgres;
use millstream_sql_tests::random_sql::{self, Compared};
use millstream_sql_tests::{reading_ahead, taking_over};
use millstream_testkit::docs;
use millstream_testkit::slt::{self, Engine, SltFile};
use millstream_types::deep_stack::THREAD_STACK_BYTES;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

/// A file that takes longer hangs.
const FILE_TIMEOUT: Duration = Duration::from_secs(120);
/// Seeds of random SQL in each mode, unless `MILLSTREAM_RANDOM_SQL` names others as `first..end`.
const RANDOM_SEEDS: Range<u64> = 1..9;
/// How often a server under load is killed.
const KILL_ROUNDS: usize = 10;
/// How often one that has its data in a bucket.
const BUCKET_KILL_ROUNDS: usize = 3;
/// How often one that has its data in a bucket of another cloud.
const OTHER_BUCKET_KILL_ROUNDS: usize = 1;
/// Files that run with a kill in the middle and data in a bucket as well.
const IN_BUCKET: [&str; 6] = [
    "joins/left_flip",
    "retractions/churn",
    "streams/nexmark",
    "transactions/ddl",
    "transactions/transfer",
    "types/all_types_pass_through",
];
/// The one of them that runs with a bucket of every cloud.
const IN_BUCKETS: &str = "transactions/transfer";
/// What the suite promises of itself.
const MIN_FILES: usize = 150;
/// What every file must have, so that it is a story and not a line.
const MIN_STATEMENTS: usize = 10;

/// What all tests share.
struct Suite {
    runtime: Runtime,
    /// Started by the first test that needs it.
    postgres: OnceCell<Result<Postgres, String>>,
    /// So are these, one for each cloud.
    buckets: [OnceLock<Result<BucketServer, String>>; CLOUDS.len()],
}

fn main() -> ExitCode {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).thread_stack_size(THREAD_STACK_BYTES).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no tokio runtime: {error}")),
    };
    let as_other = durable::to_serve().map(|(at, workers)| runtime.block_on(durable::serve(at, workers)));
    if let Some(outcome) = as_other.or_else(durable::run_restore) {
        return match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        };
    }
    let suite = Arc::new(Suite { runtime, postgres: OnceCell::new(), buckets: Default::default() });
    let files = match slt::find_files(Path::new(env!("CARGO_MANIFEST_DIR"))) {
        Ok(files) => files,
        Err(error) => return fail(&format!("cannot list the test files: {error}")),
    };
    let mut args: Vec<String> = std::env::args().collect();
    if let Some(position) = args.iter().position(|arg| arg == "--bless-from-postgres") {
        args.remove(position);
        let filter = args.get(1).cloned().unwrap_or_default();
        return bless(&suite, files.into_iter().filter(|(_, shown)| shown.contains(&filter)));
    }
    if let Err(reason) = Postgres::installed() {
        eprintln!("the tests against Postgres are skipped: {reason}");
    }
    for cloud in CLOUDS {
        if let Err(reason) = cloud.installed() {
            eprintln!("the tests with data in {}:// are skipped: {reason}", cloud.scheme());
        }
    }
    let mut trials = Vec::new();
    let mut sizes = Vec::new();
    for (path, shown) in files {
        match SltFile::read(&path, &shown) {
            Ok(file) => {
                sizes.push((shown.clone(), file.n_statements()));
                trials.extend(trials_of(&suite, Arc::new(file), &shown));
            }
            Err(error) => trials.push(Trial::test(format!("parse::{shown}"), move || Err(Failed::from(error)))),
        }
    }
    match docs::pages(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")) {
        Ok(pages) => trials.extend(pages.into_iter().map(|page| trial_of_page(&suite, page))),
        Err(error) => return fail(&format!("cannot list the documentation: {error}")),
    }
    match random_trials(&suite) {
        Ok(in_each_mode) => trials.extend(in_each_mode),
        Err(error) => return fail(&error),
    }
    trials.push(kill_trial(&suite));
    trials.push(full_disk_trial(&suite));
    trials.extend(CLOUDS.into_iter().flat_map(|cloud| bucket_trials(&suite, cloud)));
    trials.push(Trial::test("files::enough", move || check_sizes(&sizes)));
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    // The trials hold the suite no longer, so this stops the other servers.
    drop(suite);
    conclusion.exit_code()
}

fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}

/// The files that need what Millstream cannot do yet.
fn not_yet() -> impl Iterator<Item = &'static str> {
    include_str!("../not-yet.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty())
}

fn trials_of(suite: &Arc<Suite>, file: Arc<SltFile>, shown: &str) -> Vec<Trial> {
    let name = shown.trim_end_matches(".slt");
    let mut trials: Vec<Trial> = if not_yet().any(|listed| listed == name) {
        let (suite, file) = (suite.clone(), file.clone());
        let fails = move || suite.in_time(async move { fails_somewhere(&file).await });
        vec![Trial::test(format!("not-yet::{name}"), fails)]
    } else {
        let in_mode = |(mode, options)| {
            let (suite, file) = (suite.clone(), file.clone());
            Trial::test(format!("{mode}::{name}"), move || suite.in_time(run_on_millstream(&file, options)))
        };
        let with_restart = |(mode, restart)| {
            let (suite, file) = (suite.clone(), file.clone());
            let run = async move |file: &SltFile| run_with_restart(file, restart, Place::folder()?).await;
            Trial::test(format!("{mode}::{name}"), move || suite.in_time(run(&file)))
        };
        let restarts = RESTARTS.into_iter().filter(|_| file.header.restart);
        let is_in = |cloud: &Cloud| IN_BUCKET.contains(&name) && (*cloud == Cloud::Amazon || name == IN_BUCKETS);
        let in_bucket = |cloud| {
            let file = file.clone();
            bucket_trial(suite, cloud, name, async move |server| {
                run_with_restart(&file, Restart::Kill, Place::bucket(server)).await
            })
        };
        let in_buckets = CLOUDS.into_iter().filter(is_in).map(in_bucket);
        MODES.into_iter().map(in_mode).chain(restarts.map(with_restart)).chain(in_buckets).collect()
    };
    if file.header.postgres {
        let suite = suite.clone();
        trials.push(Trial::ignorable_test(format!("postgres::{name}"), move || {
            if let Err(reason) = Postgres::installed() {
                return Ok(Completion::ignored_with(reason));
            }
            suite.in_time(run_on_postgres(&suite, &file)).map(|()| Completion::Completed)
        }));
    }
    trials
}

/// The SQL of a page of the documentation works as it stands there.
fn trial_of_page(suite: &Arc<Suite>, page: PathBuf) -> Trial {
    let suite = suite.clone();
    let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Trial::test(format!("docs::{name}"), move || suite.in_time(run_page(&page)))
}

/// Random SQL in each mode.
fn random_trials(suite: &Arc<Suite>) -> Result<Vec<Trial>, String> {
    let seeds = match std::env::var("MILLSTREAM_RANDOM_SQL") {
        Ok(named) => seeds_of(&named).ok_or_else(|| format!("MILLSTREAM_RANDOM_SQL is no first..end: {named}"))?,
        Err(_) => RANDOM_SEEDS,
    };
    let in_mode = |(mode, options)| {
        let (suite, seeds) = (suite.clone(), seeds.clone());
        // Each case has a deadline of its own.
        let run = move || {
            let compared = suite.runtime.block_on(run_random_sql(&suite, options, seeds.clone()))?;
            println!("{mode}: seeds {seeds:?}: {compared:?}");
            Ok(())
        };
        Trial::test(format!("{mode}::random_sql"), run)
    };
    Ok(MODES.into_iter().map(in_mode).collect())
}

/// A server under load that is killed; `MILLSTREAM_KILLS` names a seed and a number of rounds, as `seed,rounds`.
fn kill_trial(suite: &Arc<Suite>) -> Trial {
    let suite = suite.clone();
    let run = move || {
        let (seed, n_rounds) = match std::env::var("MILLSTREAM_KILLS") {
            Ok(named) => kills_of(&named).ok_or_else(|| format!("MILLSTREAM_KILLS is no seed,rounds: {named}"))?,
            Err(_) => (std::process::id().into(), KILL_ROUNDS),
        };
        suite.runtime.block_on(killing::run(Place::folder()?, seed, n_rounds))?;
        println!("kill::under_load: seed {seed}: {n_rounds} rounds");
        Ok(())
    };
    Trial::test("kill::under_load", run)
}

/// A disk that is full, for a while.
fn full_disk_trial(suite: &Arc<Suite>) -> Trial {
    let suite = suite.clone();
    Trial::ignorable_test("kill::full_disk", move || {
        if std::process::Command::new("prlimit").output().is_err() {
            return Ok(Completion::ignored_with("there is no prlimit (package util-linux)"));
        }
        suite.in_time(killing::full_disk()).map(|()| Completion::Completed)
    })
}

/// Servers that have their data in a bucket: killed under load, overtaken by others, backed up, and without a bucket.
fn bucket_trials(suite: &Arc<Suite>, cloud: Cloud) -> Vec<Trial> {
    let kills = async move |server: &BucketServer| {
        let seed = std::process::id().into();
        let n_rounds = if cloud == Cloud::Amazon { BUCKET_KILL_ROUNDS } else { OTHER_BUCKET_KILL_ROUNDS };
        killing::run(Place::bucket(server), seed, n_rounds).await
    };
    let mut trials = vec![
        bucket_trial(suite, cloud, "under_load", kills),
        bucket_trial(suite, cloud, "taken_over", taking_over::taken_over),
        bucket_trial(suite, cloud, "backups", taking_over::backups),
        bucket_trial(suite, cloud, "unreachable", taking_over::unreachable),
    ];
    if cloud == Cloud::Amazon {
        trials.push(bucket_trial(suite, cloud, "read_ahead", reading_ahead::read_ahead));
    }
    trials
}

/// A test with a bucket; for all that speak Amazon's protocol it is in the mode `bucket`, for others in `bucket-gs` and so on.
fn bucket_trial<T>(suite: &Arc<Suite>, cloud: Cloud, name: &str, test: T) -> Trial
where
    T: AsyncFnOnce(&BucketServer) -> Result<(), String> + Send + 'static,
{
    let suite = suite.clone();
    let mode = if cloud == Cloud::Amazon { String::new() } else { format!("-{}", cloud.scheme()) };
    Trial::ignorable_test(format!("bucket{mode}::{name}"), move || {
        if let Err(reason) = cloud.installed() {
            return Ok(Completion::ignored_with(reason));
        }
        let server = suite.buckets[cloud as usize].get_or_init(|| BucketServer::start(cloud));
        let server = server.as_ref().map_err(Clone::clone)?;
        suite.in_time(test(server)).map(|()| Completion::Completed)
    })
}

fn kills_of(named: &str) -> Option<(u64, usize)> {
    let (seed, n_rounds) = named.split_once(',')?;
    Some((seed.parse().ok()?, n_rounds.parse().ok()?))
}

async fn run_random_sql(suite: &Suite, options: Options, seeds: Range<u64>) -> Result<Compared, String> {
    if Postgres::installed().is_err() {
        return random_sql::run_seeds(options, seeds, None).await;
    }
    let database = suite.postgres().await?.database().await.map_err(|error| error.to_string())?;
    let compared = random_sql::run_seeds(options, seeds, Some(&database)).await;
    database.drop().await.map_err(|error| error.to_string())?;
    compared
}

fn seeds_of(named: &str) -> Option<Range<u64>> {
    let (first, end) = named.split_once("..")?;
    Some(first.parse().ok()?..end.parse().ok()?)
}

async fn run_page(page: &Path) -> Result<(), String> {
    let server = millstream::start(MODES[1].1).await?;
    let outcome = match server.connect().await {
        Ok(mut connection) => docs::run(page, &mut connection).await,
        Err(error) => Err(error.to_string()),
    };
    server.stop().await;
    outcome
}

impl Suite {
    /// Runs a test to its end, or to the deadline.
    fn in_time(&self, test: impl Future<Output = Result<(), String>>) -> Result<(), Failed> {
        let outcome = self.runtime.block_on(async { tokio::time::timeout(FILE_TIMEOUT, test).await });
        match outcome {
            Ok(outcome) => outcome.map_err(Failed::from),
            Err(_elapsed) => Err(format!("not done after {} seconds", FILE_TIMEOUT.as_secs()).into()),
        }
    }

    async fn postgres(&self) -> Result<&Postgres, String> {
        self.postgres.get_or_init(Postgres::start).await.as_ref().map_err(Clone::clone)
    }
}

async fn run_on_millstream(file: &SltFile, options: Options) -> Result<(), String> {
    let server = millstream::start(options).await?;
    let outcome = slt::run(file, Engine::Millstream, async || server.connect().await).await;
    server.stop().await;
    outcome
}

async fn run_with_restart(file: &SltFile, restart: Restart, place: Place) -> Result<(), String> {
    let server = Durable::start_at(restart, place).await?;
    let connect = async || server.connect().await;
    let outcome = slt::run_with_restart(file, Engine::Millstream, connect, Some(async || server.restart().await)).await;
    server.kill().await;
    outcome
}

/// A file of the list fails in some mode: else it has to leave the list.
async fn fails_somewhere(file: &SltFile) -> Result<(), String> {
    for (_, options) in MODES {
        if run_on_millstream(file, options).await.is_err() {
            return Ok(());
        }
    }
    Err("passes now: take it off sql-tests/not-yet.txt".to_owned())
}

async fn run_on_postgres(suite: &Suite, file: &SltFile) -> Result<(), String> {
    let postgres = suite.postgres().await?;
    let database = postgres.database().await.map_err(|error| error.to_string())?;
    let outcome = slt::run(file, Engine::Postgres, async || database.connect().await).await;
    database.drop().await.map_err(|error| error.to_string())?;
    outcome
}

fn check_sizes(sizes: &[(String, usize)]) -> Result<(), Failed> {
    let small: Vec<&str> = sizes.iter().filter(|(_, n)| *n < MIN_STATEMENTS).map(|(file, _)| file.as_str()).collect();
    if !small.is_empty() {
        return Err(format!("fewer than {MIN_STATEMENTS} statements: {}", small.join(", ")).into());
    }
    if sizes.len() < MIN_FILES {
        return Err(format!("{} files, and {MIN_FILES} are promised", sizes.len()).into());
    }
    Ok(())
}

/// Writes what Postgres answered into the files that are plain Postgres SQL.
fn bless(suite: &Suite, files: impl Iterator<Item = (std::path::PathBuf, String)>) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (path, shown) in files {
        let outcome = SltFile::read(&path, &shown).and_then(|file| {
            if !file.header.postgres {
                return Ok(());
            }
            let text = suite.runtime.block_on(answers_of_postgres(suite, &file))?;
            std::fs::write(&path, text).map_err(|error| format!("{shown}: {error}"))
        });
        if let Err(error) = outcome {
            code = fail(&error);
        }
    }
    code
}

async fn answers_of_postgres(suite: &Suite, file: &SltFile) -> Result<String, String> {
    let postgres = suite.postgres().await?;
    let database = postgres.database().await.map_err(|error| error.to_string())?;
    let outcome = slt::bless(file, Engine::Postgres, async || database.connect().await).await;
    database.drop().await.map_err(|error| error.to_string())?;
    outcome
}
