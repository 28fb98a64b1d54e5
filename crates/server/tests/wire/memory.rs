//! What a process takes that has state of several times its memory, while checkpoints are written too.
#![cfg(target_os = "linux")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::path::Path;
use std::process::{Child, ChildStderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_postgres::Client;

use crate::command_line::{connect, serve_with};

/// What the process may take, beside what it takes with nothing to do.
const LIMIT: u64 = 128 << 20;
/// That is, as `docs/settings.md` says, so much for one worker, and so much for each further one.
const IDLE: u64 = 32 << 20;
const IDLE_WORKER: u64 = 4 << 20;
/// Of the limit, what state may take in memory.
const STATE: u64 = LIMIT / 100 * 60;

/// Rows of the stream, and the length of each one's text: half of the state, which is four times the limit.
const N: i64 = 2 * LIMIT as i64 / TEXT;
const TEXT: i64 = 12 + N_REPEATED * 32;
const N_REPEATED: i64 = 12;

/// A process of its own.
struct Server {
    child: Child,
    port: u16,
    /// Lets it say what it wants to.
    _said: BufReader<ChildStderr>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Writes checkpoints into a folder, if there is one.
    fn start(folder: Option<&Path>) -> Server {
        let limit = LIMIT.to_string();
        let mut args = vec!["--workers", "2", "--memory-limit", &limit];
        match folder.map(|folder| folder.to_str().expect("a path that is text")) {
            Some(folder) => args.extend(["--data-dir", folder, "--checkpoint-interval", "0"]),
            None => args.push("--in-memory"),
        }
        let (child, port, _said) = serve_with(&args);
        Server { child, port, _said }
    }
}

/// What a process has in memory that is in no file.
fn anonymous_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// The most that a process has taken, and that was accounted for.
#[derive(Default)]
struct Peak {
    done: AtomicBool,
    process: AtomicU64,
    state: AtomicU64,
    /// Epochs of checkpoints that were the newest while much was on disk.
    checkpoints: Mutex<BTreeSet<i64>>,
}

impl Peak {
    fn watch(server: &Server, client: Client) -> Arc<Peak> {
        let peak = Arc::new(Peak::default());
        let (process, of_process, of_state) = (server.child.id(), Arc::clone(&peak), Arc::clone(&peak));
        std::thread::spawn(move || {
            while !of_process.done.load(Relaxed) {
                of_process.process.fetch_max(anonymous_bytes(process), Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        tokio::spawn(async move {
            while !of_state.done.load(Relaxed) {
                let sums = "SELECT coalesce(sum(state_bytes), 0)::bigint,
                    (SELECT coalesce(sum(spilled_bytes), 0) FROM millstream.operators)::bigint,
                    (SELECT coalesce(max(epoch), 0) FROM millstream.checkpoints) FROM millstream.relations";
                let Ok(row) = client.query_one(sums, &[]).await else { return };
                of_state.state.fetch_max(row.get::<_, i64>(0) as u64, Relaxed);
                if row.get::<_, i64>(1) as u64 > LIMIT {
                    of_state.checkpoints.lock().insert(row.get(2));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        peak
    }
}

/// Row `j`, from 1 on, of the stream: everything follows from that, and the text begins with it.
struct Row {
    k: i64,
    g: i64,
    v: i64,
}

/// Some groups have two rows, far from each other.
const N_GROUPS: i64 = N / 5 * 4;

fn row(j: i64) -> Row {
    Row { k: (j * 7919) % N + 1, g: j % N_GROUPS, v: (j * 17) % 1009 }
}

fn stream() -> String {
    format!(
        "CREATE STREAM s (j bigint, k bigint, g bigint, v bigint, t text) WITH (connector = 'generator', rows = '{N}',
         \"col.j\" = 'sequence(1)', \"col.k\" = 'expr((j * 7919) % {N} + 1)', \"col.g\" = 'expr(j % {N_GROUPS})',
         \"col.v\" = 'expr((j * 17) % 1009)',
         \"col.t\" = 'expr(lpad(j::text, 12, ''0'') || repeat(md5(j::text), {N_REPEATED}))')"
    )
}

/// The text of a row, in SQL.
fn text_of(j: &str) -> String {
    format!("lpad({j}::text, 12, '0') || repeat(md5({j}::text), {N_REPEATED})")
}

/// A view of all rows, a query that gives its rows as numbers, and those.
struct Case {
    /// Checkpoints are written one after the other.
    has_checkpoints: bool,
    view: &'static str,
    shown: String,
    expected: Vec<Vec<i64>>,
}

fn group_by() -> Case {
    let mut groups: BTreeMap<i64, (i64, i64, i64)> = BTreeMap::new();
    for j in 1..=N {
        let group = groups.entry(row(j).g).or_insert((0, j, j));
        *group = (group.0 + 1, group.1.min(j), group.2.max(j));
    }
    let (first, last) = ("left(lo, 12)::bigint", "left(hi, 12)::bigint");
    Case {
        // Two texts a group, and what no checkpoint has yet of them, are more than may be on disk.
        has_checkpoints: false,
        view: "SELECT g, count(*) AS n, min(t) AS lo, max(t) AS hi FROM s GROUP BY g",
        shown: format!(
            "SELECT g, n, CASE WHEN lo = {} THEN {first} END, CASE WHEN hi = {} THEN {last} END FROM v",
            text_of(first),
            text_of(last)
        ),
        expected: groups.into_iter().map(|(g, (n, lo, hi))| vec![g, n, lo, hi]).collect(),
    }
}

fn join() -> Case {
    let mut expected: Vec<Vec<i64>> = (1..=N).map(|j| vec![row(j).k, row(j).v, row(j).k]).collect();
    expected.sort_unstable();
    Case {
        has_checkpoints: true,
        view: "SELECT a.j, b.v, a.t FROM s a JOIN s b ON a.j = b.k",
        shown: format!("SELECT j, v, CASE WHEN t = {} THEN left(t, 12)::bigint END FROM v", text_of("j")),
        expected,
    }
}

fn top_n() -> Case {
    let mut groups: BTreeMap<i64, Vec<(i64, i64)>> = BTreeMap::new();
    (1..=N).for_each(|j| groups.entry(row(j).g / 2).or_default().push((-row(j).v, j)));
    let first = |(g, mut rows): (i64, Vec<(i64, i64)>)| {
        rows.sort_unstable();
        rows.into_iter().take(3).map(move |(_, j)| vec![g, j, j])
    };
    let mut expected: Vec<Vec<i64>> = groups.into_iter().flat_map(first).collect();
    expected.sort_unstable();
    Case {
        has_checkpoints: true,
        view: "SELECT h, j, t FROM (SELECT g / 2 AS h, j, t, \
               row_number() OVER (PARTITION BY g / 2 ORDER BY v DESC, j) AS n FROM s) r WHERE n <= 3",
        shown: format!("SELECT h, j, CASE WHEN t = {} THEN left(t, 12)::bigint END FROM v", text_of("j")),
        expected,
    }
}

/// Waits until all rows are in the view, as long as it takes in more.
async fn filled(client: &Client) {
    let (mut seen, mut since) = (-1, Instant::now());
    loop {
        let row = client.query_one("SELECT position, end_position FROM millstream.sources", &[]).await.expect("a row");
        let (position, end) = (row.get::<_, i64>(0), row.get::<_, i64>(1));
        if position == end {
            break;
        }
        if position > seen {
            (seen, since) = (position, Instant::now());
        }
        let job = "SELECT state, error, queued_rows, state_bytes FROM millstream.jobs";
        let job = client.query_one(job, &[]).await.expect("a row");
        let (state, error) = (job.get::<_, String>(0), job.get::<_, Option<String>>(1));
        let said =
            || format!("{state}, {error:?}, {:?} rows wait, at {position} of {end}", job.get::<_, Option<i64>>(2));
        assert!(error.is_none(), "{}", said());
        assert!(since.elapsed() < Duration::from_secs(300), "it does not go on: {}", said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.query_one("SELECT count(*) FROM v", &[]).await.expect("it can be read");
}

async fn numbers(client: &Client, query: &str) -> Vec<Vec<i64>> {
    let rows = client.query(query, &[]).await.expect("rows");
    let number = |row: &tokio_postgres::Row, i: usize| row.get::<_, Option<i64>>(i).unwrap_or(-1);
    let mut rows: Vec<Vec<i64>> = rows.iter().map(|row| (0..row.len()).map(|i| number(row, i)).collect()).collect();
    rows.sort_unstable();
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_of_four_times_the_limit_stays_within_it() {
    for Case { has_checkpoints, view, shown, expected } in [group_by(), join(), top_n()] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = Server::start(has_checkpoints.then_some(folder.path()));
        let client = connect(server.port).await;
        let peak = Peak::watch(&server, connect(server.port).await);
        client.batch_execute(&stream()).await.expect("a stream");
        client.batch_execute(&format!("CREATE MATERIALIZED VIEW v AS {view}")).await.expect("a view");
        filled(&client).await;
        peak.done.store(true, Relaxed);
        let (state, process) = (peak.state.load(Relaxed), peak.process.load(Relaxed));
        let found = numbers(&client, &shown).await;
        assert!(found == expected, "{view}: {} rows, and {} are right", found.len(), expected.len());
        let n_checkpoints = peak.checkpoints.lock().len();
        assert!(!has_checkpoints || n_checkpoints > 1, "{view}: no checkpoint was written while state was spilled");
        assert!(state <= STATE, "{view}: {state} bytes of state are in memory, and {STATE} may be");
        let may_take = LIMIT + IDLE + IDLE_WORKER;
        assert!(process <= may_take, "{view}: the process takes {process} bytes, and may take {may_take}");
    }
}
