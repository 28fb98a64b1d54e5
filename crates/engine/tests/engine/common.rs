//! What tests of several kinds do with an engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::util::pretty::pretty_format_batches;
use millstream_engine::{Engine, EngineConfig, Session};
use tokio::task::JoinHandle;

pub(super) const DEADLINE: Duration = Duration::from_secs(60);

pub(super) fn config(workers: usize) -> EngineConfig {
    EngineConfig { workers, query_threads: 2, ..EngineConfig::default() }
}

pub(super) fn start(config: EngineConfig) -> Engine {
    Engine::start(config).expect("an engine starts")
}

pub(super) fn session(engine: &Engine) -> Session {
    engine.session("tester", "millstream", &[]).expect("the database exists")
}

pub(super) async fn run(session: &mut Session, sql: &str) {
    session.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

pub(super) async fn rows(session: &mut Session, sql: &str) -> String {
    let batches = session.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    pretty_format_batches(&batches).expect("rows can be shown").to_string()
}

/// One number.
pub(super) async fn number(session: &mut Session, sql: &str) -> i64 {
    let batches = session.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let batch = batches.iter().find(|b| b.num_rows() > 0).unwrap_or_else(|| panic!("{sql}: no rows"));
    let text = arrow::util::display::array_value_to_string(batch.column(0), 0).expect("it can be shown");
    text.parse().unwrap_or_else(|_| panic!("{sql}: {text} is no number"))
}

/// Waits until a query gives a text that is wanted.
pub(super) async fn until(session: &mut Session, sql: &str, wanted: impl Fn(&str) -> bool) {
    let start = Instant::now();
    loop {
        let shown = rows(session, sql).await;
        if wanted(&shown) {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "{sql} still gives\n{shown}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a view can be read.
pub(super) async fn until_readable(session: &mut Session, view: &str) {
    let start = Instant::now();
    while let Err(error) = session.query(&format!("SELECT count(*) FROM {view}")).await {
        assert!(start.elapsed() < DEADLINE, "{view}: {error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A view holds what its query gives.
pub(super) async fn assert_is_its_query(session: &mut Session, view: &str, query: &str) {
    let differences = format!(
        "WITH q AS ({query}) SELECT count(*) FROM
         ((SELECT * FROM {view} EXCEPT ALL SELECT * FROM q) UNION ALL (SELECT * FROM q EXCEPT ALL SELECT * FROM {view})) d"
    );
    assert_eq!(number(session, &differences).await, 0, "{view} is not {query}");
    assert!(number(session, &format!("SELECT count(*) FROM {view}")).await > 0, "{view} is empty");
}

/// A session that writes one statement after the other until it is stopped.
pub(super) struct Writer {
    done: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Writer {
    /// Begins with `statement(1)`.
    pub(super) fn start(engine: &Engine, statement: impl Fn(u64) -> String + Send + 'static) -> Writer {
        let done = Arc::new(AtomicBool::new(false));
        let (mut s, told) = (session(engine), Arc::clone(&done));
        let task = tokio::spawn(async move {
            let mut i = 0;
            while !told.load(Ordering::Relaxed) {
                i += 1;
                run(&mut s, &statement(i)).await;
            }
            i
        });
        Writer { done, task }
    }

    /// How many statements it has written.
    pub(super) async fn stop(self) -> u64 {
        self.done.store(true, Ordering::Relaxed);
        self.task.await.expect("the writer ends")
    }
}

/// A hook under which operators of the named dataflow wait, while it is closed.
pub(super) struct Gate {
    is_closed: Arc<AtomicBool>,
}

impl Gate {
    /// An open one.
    pub(super) fn new(config: &mut EngineConfig, name: &'static str) -> Gate {
        let gate = Gate { is_closed: Arc::default() };
        let is_closed = Arc::clone(&gate.is_closed);
        config.operator_hook = Some(Arc::new(move |dataflow: &str, _: &str| {
            while dataflow == name && is_closed.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }));
        gate
    }

    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    pub(super) fn open(&self) {
        self.is_closed.store(false, Ordering::Relaxed);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// A hook under which operators of the named dataflow take some time for each call, while it is switched on.
pub(super) struct Slow {
    is_on: Arc<AtomicBool>,
    pub(super) n_calls: Arc<AtomicU64>,
}

impl Slow {
    pub(super) fn new(config: &mut EngineConfig, name: &'static str, pause: Duration) -> Slow {
        let slow = Slow { is_on: Arc::new(AtomicBool::new(true)), n_calls: Arc::default() };
        let (is_on, n_calls) = (Arc::clone(&slow.is_on), Arc::clone(&slow.n_calls));
        config.operator_hook = Some(Arc::new(move |dataflow: &str, _: &str| {
            if dataflow == name && is_on.load(Ordering::Relaxed) {
                n_calls.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(pause);
            }
        }));
        slow
    }

    pub(super) fn switch_off(&self) {
        self.is_on.store(false, Ordering::Relaxed);
    }

    pub(super) fn switch_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }
}
