//! The engine as a whole: workers, coordinator, catalog.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use millstream_planner::Catalog;
use millstream_runtime::{Account, Events, InFlight, OperatorHook, Workers};
use millstream_state::ColdStore;
use millstream_storage::data_directory::DataDirectory;
use millstream_storage::disk::Disk;
use millstream_storage::location::Location;
use millstream_storage::log::{Log, LogOptions};
use millstream_storage::spill::SpillFolder;
use millstream_types::deep_stack::{THREAD_STACK_BYTES, on_own_stack};
use millstream_types::{Epoch, Error, Result, SqlState};
use parking_lot::{Mutex, RwLock};

use crate::checkpoints::{Checkpoints, History, Restored};
use crate::coordinator::{CheckpointWhen, Clock, Coordinator, Request};
use crate::journal::{Journal, JournalObserver, Waiting};
use crate::memory::MemoryLimits;
use crate::pg_catalog::Activity;
use crate::process_memory::ProcessMemory;
use crate::recovery::{self, Recovered};
use crate::session::Session;
use crate::start_progress::StartProgress;
use crate::statement_cache::StatementCache;
use crate::transaction::Transaction;

/// The only database there is.
pub const DATABASE: &str = "millstream";

/// How an engine runs.
#[derive(Clone)]
pub struct EngineConfig {
    /// The number of workers.
    pub workers: usize,
    /// Where data is kept, a folder or a bucket; in memory alone if nowhere.
    pub data_dir: Option<Location>,
    /// When checkpoints are written.
    pub checkpoints: CheckpointWhen,
    /// Threads on which ad-hoc queries run.
    pub query_threads: usize,
    /// Offsets that a followed source advances in one epoch at most.
    pub epoch_offsets_max: u64,
    /// Rows of a delta at most; more are split. Small values are for tests.
    pub batch_rows_max: usize,
    /// Bytes that state and queries may take.
    pub memory: MemoryLimits,
    /// Bytes that the process may take in all beside what it takes with nothing to do; if it is known, it is seen to.
    pub process_memory: Option<usize>,
    /// How long a dataflow may keep an epoch open after all others have completed it, before it is set aside.
    pub max_stall: Duration,
    /// Called with a dataflow's name and an operator's before each call of the operator; for tests, which may let it
    /// panic or take its time.
    pub operator_hook: Option<OperatorHook>,
    /// Puts another disk over that of the data directory; for tests and benchmarks.
    #[doc(hidden)]
    pub disk: Option<DiskHook>,
    /// Breaks the engine on purpose, to see that a test notices.
    #[doc(hidden)]
    pub sabotage: Option<Sabotage>,
}

/// Gives the disk that is used, which may use the one that it is given.
#[doc(hidden)]
pub type DiskHook = Arc<dyn Fn(Arc<dyn Disk>) -> Arc<dyn Disk> + Send + Sync>;

/// A way in which an engine is broken on purpose.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Statements outside of transaction blocks read at an epoch that is not the last one.
    StaleReads,
    /// What a transaction has read may change before it commits.
    NoValidation,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        EngineConfig {
            workers: cores,
            data_dir: None,
            checkpoints: CheckpointWhen::default(),
            query_threads: cores,
            epoch_offsets_max: 40_000,
            batch_rows_max: 1 << 16,
            memory: MemoryLimits::of_process(MemoryLimits::of_machine()),
            process_memory: None,
            max_stall: Duration::from_secs(10),
            operator_hook: None,
            disk: None,
            sabotage: None,
        }
    }
}

/// A running engine. Clones are handles to the same one; it ends with [`Engine::shutdown`] or its last handle.
#[derive(Clone)]
pub struct Engine(Arc<EngineState>);

pub(crate) struct EngineState {
    pub(crate) config: EngineConfig,
    pub(crate) clock: Arc<Clock>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) catalog: RwLock<Catalog>,
    /// The right to change the catalog.
    pub(crate) ddl: Arc<tokio::sync::Mutex<()>>,
    /// What stale reads are served from, and how often it was.
    pub(crate) stale: tokio::sync::Mutex<Option<(Transaction, usize)>>,
    pub(crate) queries: Option<tokio::runtime::Runtime>,
    /// Where queries take their memory from.
    pub(crate) query_memory: Arc<RuntimeEnv>,
    /// What all state is charged to.
    pub(crate) memory: Arc<Account>,
    /// What is on its way in all dataflows.
    pub(crate) in_flight: Arc<InFlight>,
    /// Sees to it that the process takes no more than it may.
    _process_memory: Option<ProcessMemory>,
    /// Queries that were sent as texts.
    pub(crate) statements: StatementCache,
    /// What statements have in common that look up rows by different constants.
    pub(crate) templates: StatementCache,
    /// Who is connected.
    pub(crate) activity: Activity,
    /// When the engine started, in microseconds since 1970 UTC.
    pub(crate) started_us: i64,
    /// What backups are made of, if there is a data directory.
    pub(crate) store: Mutex<Option<Checkpoints>>,
    /// How far this start is.
    pub(crate) start_progress: Arc<StartProgress>,
    /// What this start has gone on from.
    pub(crate) recovered: Mutex<Option<Recovered>>,
    /// What is known of the log, if there is a data directory.
    pub(crate) journal: OnceLock<JournalObserver>,
    /// The last checkpoints that were written.
    pub(crate) checkpoints: History,
    coordinator: Mutex<Option<JoinHandle<()>>>,
    next_session: AtomicU32,
}

impl Engine {
    /// Starts workers and coordinator, and goes on from what is in the data directory. Tables and streams are as they were
    /// when this returns; views come back one after the other, and who reads one that is not back waits for it.
    ///
    /// # Errors
    /// Internal, if threads cannot be started; XX001 if the data directory is damaged, 53100 and 58030 if the disk or the
    /// bucket fails.
    pub fn start(config: EngineConfig) -> Result<Engine> {
        Self::start_telling(config, Arc::default())
    }

    /// As [`Engine::start`], and tells meanwhile how far it is.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_telling(config: EngineConfig, progress: Arc<StartProgress>) -> Result<Engine> {
        let (send, receive) = channel();
        let clock = Arc::new(Clock::new(send));
        let log = config.data_dir.as_ref().map(|at| OpenLog::open(at, &config, &clock)).transpose()?;
        let spill = Spill::open(&config, log.as_ref().map(|log| &log.directory))?;
        let events = Arc::clone(&clock) as Arc<dyn Events>;
        let workers: Arc<Workers> = Arc::new(millstream_runtime::start(config.workers, events, spill.state)?);
        let memory = Account::root(config.memory.state, config.memory.spill_from);
        let in_flight = InFlight::new(config.memory.in_flight, config.workers);
        let watch = |limit| ProcessMemory::watch(limit, config.workers, Arc::clone(&memory));
        let process_memory = config.process_memory.map(watch).transpose()?;
        let internal = |e: std::io::Error| Error::internal(format!("a thread did not start: {e}"));
        let query_memory = RuntimeEnvBuilder::new()
            .with_memory_pool(crate::query_memory::pool(config.memory.queries))
            .with_disk_manager_builder(spill.queries)
            .build_arc()
            .map_err(|e| Error::internal(format!("the memory pool of queries cannot be made: {e}")))?;
        let mut catalog = Catalog::new();
        crate::system::register(&mut catalog)?;
        crate::pg_catalog::register(&mut catalog)?;
        // A runtime must not be dropped by itself in another one: what fails from here on fails with the engine.
        let queries = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.query_threads)
            .thread_name("query")
            .thread_stack_size(2 * THREAD_STACK_BYTES)
            .enable_time()
            .build()
            .map_err(internal)?;
        let mut coordinator =
            Coordinator::new(Arc::clone(&clock), Arc::clone(&workers), receive, Arc::clone(&memory), &config);
        let engine = Arc::new(EngineState {
            config,
            clock,
            workers,
            catalog: RwLock::new(catalog),
            ddl: Arc::default(),
            stale: tokio::sync::Mutex::default(),
            queries: Some(queries),
            query_memory,
            memory,
            in_flight,
            _process_memory: process_memory,
            statements: StatementCache::default(),
            templates: StatementCache::default(),
            activity: Activity::default(),
            started_us: crate::session::now_us(),
            store: Mutex::default(),
            start_progress: progress,
            recovered: Mutex::default(),
            journal: OnceLock::new(),
            checkpoints: History::default(),
            coordinator: Mutex::default(),
            next_session: AtomicU32::new(1),
        });
        if let Some(OpenLog { log, directory, waiting, checkpoints }) = log {
            let restored = Restored::of(checkpoints.newest(), Arc::clone(&engine.start_progress));
            // Plans are read, however deep they are.
            let mut recovered = on_own_stack(|| recovery::replay(&engine, &mut coordinator, restored.as_ref(), &log))?;
            let last = restored.map_or(Epoch::ZERO, |restored| restored.header().epoch);
            *engine.store.lock() = Some(checkpoints.clone());
            let history = Arc::clone(&engine.checkpoints);
            let (clock, n_workers) = (Arc::clone(&engine.clock), engine.config.workers);
            let checkpointer = checkpoints.start(clock, Arc::clone(&log), Arc::clone(&waiting), history, n_workers)?;
            engine.journal.get_or_init(|| JournalObserver::new(&log, Arc::clone(&waiting)));
            let (journal, catalog) = (Journal::new(log, directory, waiting), engine.catalog.read().clone());
            coordinator.record_in(journal, checkpointer, engine.config.checkpoints, catalog, last);
            let first = coordinator.begin_after_restart()?;
            while engine.clock.last_closed() < first {
                std::thread::sleep(Duration::from_micros(100));
            }
            // Queries are planned, however deep they are.
            recovered.rebuilt = on_own_stack(|| recovery::start_dataflows(&engine, &mut coordinator));
            *engine.recovered.lock() = Some(recovered);
        }
        let thread = std::thread::Builder::new().name("coordinator".to_owned());
        *engine.coordinator.lock() = Some(thread.spawn(move || coordinator.run()).map_err(internal)?);
        Ok(Engine(engine))
    }

    /// Opens a session. `params` are the start-up parameters that the client sent.
    ///
    /// # Errors
    /// 3D000 for any database but [`DATABASE`].
    pub fn session(&self, user: &str, database: &str, params: &[(String, String)]) -> Result<Session> {
        if database != DATABASE {
            return Err(Error::user(SqlState::INVALID_CATALOG_NAME, format!("database \"{database}\" does not exist")));
        }
        let id = self.0.next_session.fetch_add(1, Ordering::Relaxed);
        Ok(Session::new(Arc::clone(&self.0), id, user, params))
    }

    /// Ends the engine after a last checkpoint, so that the next start has nothing of the log to do again. Nothing is
    /// written any more from here on. If the checkpoint takes longer than `at_most`, or fails, the engine ends without:
    /// all that is acknowledged is in the log.
    pub async fn stop(&self, at_most: Duration) {
        match tokio::time::timeout(at_most, self.0.clock.last_checkpoint()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the last checkpoint could not be written: the next start takes longer")
            }
            Err(_) => {
                tracing::warn!(?at_most, "the last checkpoint is not written in time: the next start takes longer")
            }
        }
        self.shutdown().await;
    }

    /// Ends the engine: what is acknowledged has been done, what runs is cut off.
    pub async fn shutdown(&self) {
        let engine = Arc::clone(&self.0);
        // Joining threads blocks.
        let ended = tokio::task::spawn_blocking(move || engine.end()).await;
        debug_assert!(ended.is_ok(), "ending does not panic");
    }
}

/// A log with its data directory, and who is told of it.
struct OpenLog {
    log: Arc<Log>,
    directory: DataDirectory,
    waiting: Arc<Waiting>,
    checkpoints: Checkpoints,
}

impl OpenLog {
    fn open(at: &Location, config: &EngineConfig, clock: &Arc<Clock>) -> Result<Self> {
        let waiting = Waiting::new(Arc::clone(clock));
        let events = Arc::clone(&waiting);
        let mut directory = DataDirectory::open(at)?;
        config.disk.iter().for_each(|hook| directory.put_disk(&**hook));
        let log = Arc::new(directory.open_log(LogOptions::default(), events)?);
        let checkpoints = Checkpoints::open(&directory, &log, config.memory.in_flight)?;
        waiting.note_found(log.last_found());
        Ok(OpenLog { log, directory, waiting, checkpoints })
    }
}

/// Where state and queries go that memory has no room for: in the data directory if it is a folder, else among temporary
/// files.
struct Spill {
    state: Option<Arc<dyn ColdStore>>,
    queries: DiskManagerBuilder,
}

impl Spill {
    fn open(config: &EngineConfig, directory: Option<&DataDirectory>) -> Result<Self> {
        let n_bytes_max = config.memory.spilled;
        let queries = DiskManagerBuilder::default().with_max_temp_directory_size(n_bytes_max);
        if n_bytes_max == 0 {
            return Ok(Spill { state: None, queries: queries.with_mode(DiskManagerMode::Disabled) });
        }
        let in_folder = match &config.data_dir {
            Some(Location::Folder(folder)) => directory.and_then(DataDirectory::disk).map(|disk| (disk, folder)),
            _ => None,
        };
        let Some((disk, folder)) = in_folder else {
            let state = Arc::new(SpillFolder::temporary(n_bytes_max));
            return Ok(Spill { state: Some(state), queries: queries.with_mode(DiskManagerMode::OsTmpDirectory) });
        };
        let state = Arc::new(SpillFolder::of_data_directory(disk, n_bytes_max)?);
        let mode = DiskManagerMode::Directories(vec![SpillFolder::of_queries(folder)?]);
        Ok(Spill { state: Some(state), queries: queries.with_mode(mode) })
    }
}

impl EngineState {
    fn end(&self) {
        let coordinator = self.coordinator.lock().take();
        if let Some(thread) = coordinator {
            // It may have ended by itself.
            let _ = self.clock.request(Request::Shutdown);
            let _ = thread.join();
            self.workers.shutdown();
        }
    }

    pub(crate) fn query_runtime(&self) -> &tokio::runtime::Handle {
        self.queries.as_ref().expect("it lives as long as the engine").handle()
    }
}

impl Drop for EngineState {
    fn drop(&mut self) {
        self.end();
        if let Some(queries) = self.queries.take() {
            queries.shutdown_background();
        }
    }
}
