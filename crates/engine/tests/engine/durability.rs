//! An engine with a data directory: what it finds there, and what it says of damage.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millstream_engine::{CheckpointWhen, Copied, Engine, EngineConfig};
use millstream_types::{Result, SqlState};

use super::common::{self, config, session};

/// Only checkpoints that are asked for.
const NEVER: Duration = Duration::from_secs(3600);

fn start(folder: &Path, workers: usize) -> Result<Engine> {
    let checkpoints = CheckpointWhen { interval: NEVER, ..CheckpointWhen::default() };
    Engine::start(EngineConfig { data_dir: Some(folder.to_owned().into()), checkpoints, ..config(workers) })
}

async fn run(engine: &Engine, sql: &str) {
    common::run(&mut session(engine), sql).await;
}

async fn number(engine: &Engine, sql: &str) -> i64 {
    common::number(&mut session(engine), sql).await
}

fn restore(from: &Path, to: &Path) -> Result<Copied> {
    millstream_engine::restore(&from.to_owned().into(), &to.to_owned().into())
}

/// The files of a folder of the data directory, in order.
fn files(folder: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join(name)).expect("it is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    files.sort();
    files
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("it can be read");
    bytes[at] ^= 0x40;
    fs::write(path, bytes).expect("it can be written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoints_and_the_log_together_are_what_was_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut n_rows = 0;
    for (round, workers) in [2, 1, 4, 3, 2].into_iter().enumerate() {
        let engine = start(folder.path(), workers).expect("it starts");
        if round == 0 {
            run(&engine, "CREATE TABLE t (k int PRIMARY KEY, v text); CREATE TABLE loose (a int)").await;
            run(&engine, "CREATE STREAM s (a int); CREATE MATERIALIZED VIEW v AS SELECT sum(a) AS sum FROM s").await;
        }
        assert_eq!(number(&engine, "SELECT count(*) FROM t").await, n_rows);
        assert_eq!(number(&engine, "SELECT count(*) FROM s").await, 100 * round as i64);
        assert_eq!(number(&engine, "SELECT count(*) FROM loose").await, round as i64);
        assert_eq!(number(&engine, "SELECT count(DISTINCT a) FROM loose").await, round as i64);
        let from = 1000 * round;
        run(&engine, &format!("INSERT INTO t SELECT i, 'new' FROM generate_series({from} + 1, {from} + 1000) i")).await;
        if round % 2 == 0 {
            run(&engine, "CHECKPOINT").await;
        }
        run(&engine, &format!("UPDATE t SET v = 'changed in {round}' WHERE k % 7 = {round}")).await;
        run(&engine, &format!("DELETE FROM t WHERE k > {from} AND k % 2 = 0")).await;
        run(&engine, &format!("INSERT INTO loose VALUES ({round})")).await;
        run(&engine, &format!("INSERT INTO s SELECT {round} FROM generate_series(1, 100)")).await;
        if round == 3 {
            run(&engine, "CHECKPOINT").await;
            run(&engine, "CHECKPOINT").await;
            assert_eq!(number(&engine, "SELECT count(*) FROM millstream.checkpoints").await, 1, "one was enough");
        }
        n_rows += 500;
        for earlier in 0..=round {
            let changed = format!("SELECT count(*) FROM t WHERE k % 7 = {earlier} AND v <> 'changed in {earlier}'");
            let of_later = (round - earlier) as i64;
            // Rows of later rounds came after the change.
            let n_new = number(&engine, &format!("{changed} AND v = 'new'")).await;
            assert_eq!(number(&engine, &changed).await, n_new);
            assert_eq!(n_new > 0, of_later > 0, "round {round}, changed in {earlier}");
        }
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_cut_at_checkpoints() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for round in 0..6 {
        // Each start begins a segment.
        let engine = start(folder.path(), 2).expect("it starts");
        if round == 0 {
            run(&engine, "CREATE TABLE t (k int PRIMARY KEY)").await;
        }
        assert_eq!(number(&engine, "SELECT count(*) FROM t").await, round);
        run(&engine, &format!("INSERT INTO t VALUES ({round})")).await;
        run(&engine, "CHECKPOINT").await;
        engine.shutdown().await;
    }
    assert!(files(folder.path(), "log").len() <= 3, "{:?}", files(folder.path(), "log"));
    assert_eq!(files(folder.path(), "manifests").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_stopped_leaves_nothing_to_do_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let n_to_do = "SELECT log_records FROM millstream.recoveries";
    for round in 0..4 {
        let engine = start(folder.path(), 2).expect("it starts");
        assert_eq!(number(&engine, n_to_do).await, 0);
        if round == 0 {
            run(&engine, "CREATE TABLE t (k int PRIMARY KEY)").await;
            run(&engine, "CREATE STREAM bids WITH (connector = 'nexmark', \"table\" = 'bid', rate = '100000')").await;
            run(&engine, "CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM bids").await;
        }
        assert_eq!(number(&engine, "SELECT count(*) FROM t").await, round);
        run(&engine, &format!("INSERT INTO t VALUES ({round})")).await;
        let mut late = session(&engine);
        engine.stop(common::DEADLINE).await;
        let error = late.query("INSERT INTO t VALUES (-1)").await.expect_err("the engine has ended");
        assert_eq!(error.state(), SqlState::ADMIN_SHUTDOWN);
    }
    let engine = start(folder.path(), 2).expect("it starts");
    assert_eq!(number(&engine, n_to_do).await, 0);
    let position = number(&engine, "SELECT position FROM millstream.sources").await;
    assert!(position > 0);
    run(&engine, "INSERT INTO t VALUES (100)").await;
    // There may be no time for a checkpoint.
    engine.stop(Duration::ZERO).await;
    let engine = start(folder.path(), 2).expect("it starts");
    assert_eq!(number(&engine, "SELECT count(*) FROM t").await, 5);
    assert!(number(&engine, "SELECT position FROM millstream.sources").await >= position);
    engine.shutdown().await;
}

/// Whether an engine is stopped each time or killed, its files do not become more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_again_and_again_leaves_few_files() {
    for is_stopped in [true, false] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for n_starts in 1..=36 {
            let engine = start(folder.path(), 1).expect("it starts");
            if n_starts == 1 {
                run(&engine, "CREATE TABLE t (k int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
                run(&engine, "CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM t").await;
            }
            if is_stopped {
                engine.stop(common::DEADLINE).await;
            } else {
                // From some number of segments on a start has a checkpoint written, and so the next start after it.
                if files(folder.path(), "log").len() > 17 {
                    common::until(&mut session(&engine), "SELECT epoch FROM millstream.checkpoints", |epochs| {
                        epochs.contains(|c: char| c.is_ascii_digit())
                    })
                    .await;
                }
                engine.shutdown().await;
            }
            let all = [files(folder.path(), "log"), files(folder.path(), "manifests"), files(folder.path(), "state")];
            // Whoever is shut down may leave what it was about to delete.
            assert!(all[0].len() <= 20 && all[1].len() <= 4 && all[2].len() <= 6, "start {n_starts}: {all:?}");
            let n_bytes = |path: &PathBuf| fs::metadata(path).map_or(0, |file| file.len());
            // The log's last file has room for more.
            let n_bytes: u64 = all[0].iter().rev().skip(1).chain(&all[1]).chain(&all[2]).map(n_bytes).sum();
            assert!(n_bytes < 1 << 17, "start {n_starts}: {n_bytes} bytes");
        }
        let engine = start(folder.path(), 1).expect("it starts");
        common::until(&mut session(&engine), "SHOW JOBS", |jobs| jobs.contains("running")).await;
        assert_eq!(number(&engine, "SELECT n FROM n").await, 1);
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_engine_has_a_data_directory() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = start(folder.path(), 1).expect("it starts");
    let error = start(folder.path(), 1).err().expect("it is refused");
    assert_eq!(error.state(), SqlState("55006"));
    engine.shutdown().await;
    start(folder.path(), 1).expect("it is free").shutdown().await;
    let other = tempfile::tempdir().expect("a temporary folder");
    fs::write(other.path().join("letter.txt"), "Dear").expect("it can be written");
    let error = start(other.path(), 1).err().expect("somebody else's");
    assert!(error.message().contains("letter.txt"), "{error}");
}

/// Views with every kind of state: names and queries.
pub(super) const VIEWS: [(&str, &str); 13] = [
    ("sums", "SELECT g, sum(v), count(DISTINCT v), min(v) FROM t GROUP BY g"),
    ("total", "SELECT count(*), sum(v) FROM t"),
    ("texts", "SELECT t.k / 2 * 2 AS even, 'g' || g AS name FROM t"),
    ("joined", "SELECT t.k, u.w FROM t JOIN u ON t.g = u.g AND t.k % 7 = u.w % 7"),
    ("shared", "SELECT t.g, u.w FROM t JOIN u ON t.v = u.k"),
    ("outer_join", "SELECT u.k, t.v FROM u LEFT JOIN t ON u.w = t.k"),
    ("without", "SELECT k FROM t WHERE g NOT IN (SELECT g FROM u WHERE w > 50 AND g < 3)"),
    ("best", "SELECT * FROM t ORDER BY v DESC, k LIMIT 5"),
    ("ranks", "SELECT k, row_number() OVER (PARTITION BY g ORDER BY v, k) AS n FROM t"),
    ("lists", "SELECT g, string_agg(v::text, ',' ORDER BY k) FROM t GROUP BY g"),
    ("read", "SELECT a % 3 AS third, count(*) FROM s GROUP BY a % 3"),
    ("all_of_s", "SELECT a, 2 * a AS twice FROM s"),
    ("above", "SELECT third, count FROM read WHERE third > 0"),
];

fn counting_calls(folder: &Path, workers: usize) -> (Engine, Arc<AtomicU64>) {
    let n_calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&n_calls);
    let checkpoints = CheckpointWhen { interval: NEVER, ..CheckpointWhen::default() };
    let operator_hook = Some(Arc::new(move |_: &str, _: &str| {
        counted.fetch_add(1, Ordering::Relaxed);
    }) as millstream_engine::OperatorHook);
    let config =
        EngineConfig { data_dir: Some(folder.to_owned().into()), checkpoints, operator_hook, ..config(workers) };
    (Engine::start(config).expect("it starts"), n_calls)
}

/// Views go on from their state, on any number of workers; what came after the checkpoint they take from the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_go_on_from_their_state() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (round, workers) in [2, 2, 3, 1, 4].into_iter().enumerate() {
        let (engine, n_calls) = counting_calls(folder.path(), workers);
        if round == 0 {
            run(&engine, "CREATE TABLE t (k int PRIMARY KEY, g int, v int); CREATE STREAM s (a int)").await;
            run(&engine, "CREATE TABLE u (k int PRIMARY KEY, g int, w int)").await;
            for (name, query) in VIEWS {
                run(&engine, &format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await;
            }
            run(&engine, "CREATE MATERIALIZED VIEW quotients AS SELECT k, 100 / (v % 10) AS q FROM t").await;
        } else if round % 2 == 1 {
            assert_eq!(n_calls.load(Ordering::Relaxed), 0, "round {round}: nothing was left to be done");
        }
        for (name, query) in VIEWS.iter().filter(|_| round > 0) {
            common::assert_is_its_query(&mut session(&engine), name, query).await;
        }
        let from = 100 * round;
        let errors = "SELECT coalesce(sum(count), 0)::bigint FROM millstream.row_errors";
        let zeros = "SELECT count(*) FROM t WHERE v % 10 = 0";
        assert_eq!(number(&engine, errors).await, number(&engine, zeros).await, "round {round}");
        for half in 0..2 {
            let from = from + 50 * half;
            let range = format!("generate_series({from} + 1, {from} + 50) i");
            run(&engine, &format!("INSERT INTO t SELECT i, i % 5, i * 37 % 101 FROM {range}")).await;
            run(&engine, &format!("INSERT INTO u SELECT i, i % 11, i * 13 % 97 FROM {range}")).await;
            run(&engine, &format!("INSERT INTO s SELECT i FROM {range}")).await;
            run(&engine, &format!("UPDATE t SET v = v + 1, g = (g + 1) % 5 WHERE k % 6 = {half}")).await;
            run(&engine, &format!("DELETE FROM t WHERE k % 9 = {round}; DELETE FROM u WHERE k % 8 = {round}")).await;
            // What came before it, or all of it, is in the checkpoint.
            if half == round % 2 || half == 1 && round % 2 == 0 {
                run(&engine, "CHECKPOINT").await;
            }
            if half == 0 {
                run(&engine, "INSERT INTO s VALUES (1000), (1000)").await;
            }
        }
        if round % 2 == 0 {
            run(&engine, "CHECKPOINT").await;
        }
        for (name, query) in VIEWS {
            common::assert_is_its_query(&mut session(&engine), name, query).await;
        }
        engine.shutdown().await;
    }
}

/// A checkpoint waits for no view that keeps an epoch open. When that has caught up it is in checkpoints again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_stalls_keeps_no_checkpoint_from_being_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let checkpoints = CheckpointWhen { interval: NEVER, ..CheckpointWhen::default() };
    let (data_dir, max_stall) = (Some(folder.path().to_owned().into()), Duration::from_millis(100));
    let mut config = EngineConfig { data_dir, checkpoints, max_stall, ..config(2) };
    let slow = common::Slow::new(&mut config, "slow", Duration::from_millis(700));
    slow.switch_off();
    let engine = Engine::start(config.clone()).expect("it starts");
    run(&engine, "CREATE TABLE t (k int PRIMARY KEY, v int); INSERT INTO t SELECT i, i FROM generate_series(1, 9) i")
        .await;
    run(&engine, "CREATE MATERIALIZED VIEW slow AS SELECT v % 3 AS third, sum(v) FROM t GROUP BY v % 3").await;
    run(&engine, "CREATE MATERIALIZED VIEW quick AS SELECT max(v) AS m FROM t").await;
    run(&engine, "CHECKPOINT").await;
    let is_right = async |engine: &Engine| {
        common::until_readable(&mut session(engine), "slow").await;
        let query = "SELECT v % 3, sum(v) FROM t GROUP BY v % 3";
        common::assert_is_its_query(&mut session(engine), "slow", query).await;
    };
    slow.switch_on();
    run(&engine, "INSERT INTO t VALUES (100, 100)").await;
    run(&engine, "CHECKPOINT").await;
    run(&engine, "INSERT INTO t VALUES (101, 101); CHECKPOINT").await;
    slow.switch_off();
    is_right(&engine).await;
    // The first asks for nothing that is still to come, the second for all of it.
    run(&engine, "INSERT INTO t VALUES (102, 102)").await;
    run(&engine, "CHECKPOINT").await;
    run(&engine, "UPDATE t SET v = v + 1").await;
    run(&engine, "CHECKPOINT").await;
    engine.shutdown().await;
    drop(engine);
    slow.switch_on();
    let n_calls = slow.n_calls.load(Ordering::Relaxed);
    let engine = Engine::start(config).expect("it starts");
    is_right(&engine).await;
    assert_eq!(slow.n_calls.load(Ordering::Relaxed), n_calls, "it goes on from its state");
    engine.shutdown().await;
}

/// What is changed in the catalog after a checkpoint is as it was left: views that were made since are made anew, views
/// that were dropped stay so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_of_the_log_are_made_anew() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = start(folder.path(), 2).expect("it starts");
    run(&engine, "CREATE TABLE t (k int PRIMARY KEY, v int); CREATE VIEW plain AS SELECT k, v + 1 AS v FROM t").await;
    run(&engine, "INSERT INTO t SELECT i, i % 10 FROM generate_series(1, 100) i").await;
    run(&engine, "CREATE MATERIALIZED VIEW old AS SELECT v, count(*) FROM t GROUP BY v").await;
    run(&engine, "CREATE MATERIALIZED VIEW gone AS SELECT sum(v) AS sum FROM t").await;
    run(&engine, "CREATE MATERIALIZED VIEW over_plain AS SELECT sum(v) AS sum FROM plain").await;
    run(&engine, "CREATE MATERIALIZED VIEW above AS SELECT sum + 1 AS sum FROM over_plain").await;
    run(&engine, "CHECKPOINT").await;
    run(&engine, "DROP MATERIALIZED VIEW gone; CREATE MATERIALIZED VIEW gone AS SELECT max(v) AS m FROM t").await;
    run(&engine, "CREATE MATERIALIZED VIEW new AS SELECT count FROM old WHERE v > 4").await;
    run(&engine, "CREATE OR REPLACE VIEW plain AS SELECT k, v + 2 AS v FROM t").await;
    run(&engine, "CREATE INDEX old_by_count ON old (count)").await;
    run(&engine, "INSERT INTO t SELECT i, i % 10 FROM generate_series(101, 195) i").await;
    engine.shutdown().await;
    for (workers, n_restored) in [(2, 1), (3, 5)] {
        let engine = start(folder.path(), workers).expect("it starts");
        let of_start = |column: &str| format!("SELECT {column} FROM millstream.recoveries");
        common::until(&mut session(&engine), &of_start("views_to_come = 0"), |so| so.contains("true")).await;
        assert_eq!(number(&engine, &of_start("views_restored")).await, n_restored);
        assert_eq!(number(&engine, &of_start("views_rebuilt")).await, 5 - n_restored);
        assert!(number(&engine, &of_start("checkpoint_bytes")).await > 100);
        let is = |view: &'static str, query: &'static str| {
            let engine = engine.clone();
            async move {
                let mut session = session(&engine);
                common::until_readable(&mut session, view).await;
                common::assert_is_its_query(&mut session, view, query).await;
            }
        };
        is("old", "SELECT v, count(*) FROM t GROUP BY v").await;
        is("gone", "SELECT max(v) FROM t").await;
        is("new", "SELECT count(*) FROM t WHERE v > 4 GROUP BY v").await;
        is("over_plain", "SELECT sum(v + 2) FROM t").await;
        is("above", "SELECT sum(v + 2) + 1 FROM t").await;
        run(&engine, "INSERT INTO t VALUES (-1, 3); DELETE FROM t WHERE k = -1; CHECKPOINT").await;
        engine.shutdown().await;
    }
}

/// What is damaged of a view's state harms that view and what reads it, until it is built anew; what is damaged of a
/// table harms that table and what reads it, until the file is put back, or the table is dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_harms_what_needs_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = start(folder.path(), 1).expect("it starts");
    let state = || files(folder.path(), "state");
    run(&engine, "CREATE TABLE sound (k int PRIMARY KEY); INSERT INTO sound VALUES (1), (2)").await;
    run(&engine, "CREATE MATERIALIZED VIEW of_sound AS SELECT count(*) AS n FROM sound").await;
    run(&engine, "CREATE TABLE t (k int PRIMARY KEY, v text)").await;
    run(&engine, "CHECKPOINT").await;
    let before = state();
    run(&engine, "INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 2000) i").await;
    run(&engine, "CHECKPOINT").await;
    let of_table = state().into_iter().find(|path| !before.contains(path)).expect("an object");
    let before = state();
    run(&engine, "CREATE MATERIALIZED VIEW v AS SELECT max(v) AS last FROM t").await;
    run(&engine, "CREATE MATERIALIZED VIEW above AS SELECT last || '!' AS last FROM v").await;
    run(&engine, "CHECKPOINT").await;
    let of_views = state().into_iter().find(|path| !before.contains(path)).expect("an object");
    run(&engine, "INSERT INTO t VALUES (3000, 'zzz'); INSERT INTO sound VALUES (3)").await;
    engine.shutdown().await;

    flip(&of_views, 60);
    let engine = start(folder.path(), 1).expect("it starts");
    let mut client = session(&engine);
    for view in ["v", "above"] {
        let error = client.query(&format!("SELECT * FROM {view}")).await.expect_err("its state is damaged");
        let name = of_views.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(error.message().contains(&name), "{error}");
    }
    assert_eq!(number(&engine, "SELECT n FROM of_sound").await, 3);
    assert_eq!(number(&engine, "SELECT count(*) FROM t").await, 2001);
    run(&engine, "REFRESH MATERIALIZED VIEW v CASCADE").await;
    assert_eq!(number(&engine, "SELECT count(*) FROM above WHERE last = 'zzz!'").await, 1);
    run(&engine, "CHECKPOINT").await;
    engine.shutdown().await;

    flip(&of_table, 60);
    let engine = start(folder.path(), 1).expect("it starts");
    let mut client = session(&engine);
    for refused in ["SELECT * FROM t", "INSERT INTO t VALUES (1)", "DELETE FROM t", "CHECKPOINT", "SELECT * FROM above"]
    {
        client.query(refused).await.err().unwrap_or_else(|| panic!("{refused}: the table is damaged"));
    }
    let error = client.query("SELECT * FROM t").await.expect_err("the table is damaged");
    let name = of_table.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(error.message().contains(&name) && error.state() == SqlState::DATA_CORRUPTED, "{error}");
    run(&engine, "INSERT INTO sound VALUES (4)").await;
    assert_eq!(number(&engine, "SELECT n FROM of_sound").await, 4);
    engine.shutdown().await;
    flip(&of_table, 60);
    let engine = start(folder.path(), 1).expect("it starts");
    assert_eq!(number(&engine, "SELECT count(*) FROM t").await, 2001);
    assert_eq!(number(&engine, "SELECT count(*) FROM above WHERE last = 'zzz!'").await, 1);
    engine.shutdown().await;
    flip(&of_table, 60);
    let engine = start(folder.path(), 1).expect("it starts");
    run(&engine, "DROP TABLE t CASCADE; CHECKPOINT").await;
    assert_eq!(number(&engine, "SELECT n FROM of_sound").await, 4);
    engine.shutdown().await;
}

/// Whatever else is damaged of what was durable, the engine does not start without it, and names the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = start(folder.path(), 2).expect("it starts");
    run(&engine, "CREATE TABLE t (k int PRIMARY KEY, v text)").await;
    run(&engine, "INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 5000) i").await;
    run(&engine, "CHECKPOINT").await;
    run(&engine, "INSERT INTO t VALUES (0, 'after')").await;
    run(&engine, "INSERT INTO t VALUES (-1, 'after')").await;
    engine.shutdown().await;
    let manifest = files(folder.path(), "manifests").pop().expect("a manifest");
    let log = files(folder.path(), "log").swap_remove(0);
    for (path, at) in [(&manifest, 60), (&log, 100)] {
        flip(path, at);
        let error = start(folder.path(), 2).err().unwrap_or_else(|| panic!("{path:?} is damaged"));
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(error.message().contains(&name), "{name}, byte {at}: {error}");
        assert_eq!(error.state(), SqlState::DATA_CORRUPTED, "{name}, byte {at}: {error}");
        flip(path, at);
    }
    let away = folder.path().join("away");
    fs::rename(folder.path().join("log"), &away).expect("it can be renamed");
    let error = start(folder.path(), 2).err().expect("the log is missing");
    assert!(error.message().contains("log"), "{error}");
    fs::remove_dir_all(folder.path().join("log")).expect("a new one was made");
    fs::rename(&away, folder.path().join("log")).expect("it can be renamed");
    let engine = start(folder.path(), 2).expect("nothing is damaged any more");
    assert_eq!(number(&engine, "SELECT count(*) FROM t").await, 5002);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_what_was_there_when_it_was_made() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let engine = start(&at("data"), 2).expect("it starts");
    run(&engine, "CREATE TABLE t (k int PRIMARY KEY, v text); CREATE STREAM s (a int)").await;
    run(&engine, "CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM t").await;
    run(&engine, "INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 3000) i").await;
    run(&engine, "CHECKPOINT").await;
    run(&engine, "DELETE FROM t WHERE k % 3 = 0; INSERT INTO s VALUES (1), (2)").await;
    run(&engine, &format!("BACKUP TO '{}'", at("backup").display())).await;
    run(&engine, "INSERT INTO s VALUES (3)").await;
    for refused in [at("backup").display().to_string(), "relative".to_owned()] {
        session(&engine).query(&format!("BACKUP TO '{refused}'")).await.expect_err("it is refused");
    }
    engine.shutdown().await;
    let copied = restore(&at("backup"), &at("restored")).expect("it is restored");
    assert!(copied.n_bytes > 3000 && copied.n_objects > 1, "{copied:?}");
    // The backup may be used as it is, too; then it is none any more.
    for (name, workers) in [("restored", 3), ("backup", 1), ("restored", 1)] {
        let engine = start(&at(name), workers).expect("it starts");
        assert_eq!(number(&engine, "SELECT count(*) + 100000 * sum(k) FROM t").await, 2000 + 100_000 * 3_000_000);
        assert_eq!(number(&engine, "SELECT sum(a) FROM s").await, 3);
        run(&engine, "INSERT INTO s VALUES (4); DELETE FROM t WHERE k = 1; INSERT INTO t VALUES (1)").await;
        run(&engine, "INSERT INTO s VALUES (-4)").await;
        engine.shutdown().await;
    }
    let object = files(&at("backup"), "state").swap_remove(0);
    flip(&object, 60);
    let error = restore(&at("backup"), &at("again")).expect_err("it is damaged");
    let name = object.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(error.message().contains(&name), "{error}");
    restore(&at("again"), &at("once more")).expect_err("it is none");
}
