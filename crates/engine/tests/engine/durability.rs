//! An engine with a data directory: what it finds there, and what it says of damage.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream_engine::{CheckpointWhen, Engine, EngineConfig};
use millstream_types::{Result, SqlState};

use super::common::{self, config, session};

/// Only checkpoints that are asked for.
const NEVER: Duration = Duration::from_secs(3600);

fn start(folder: &Path, workers: usize) -> Result<Engine> {
    let checkpoints = CheckpointWhen { interval: NEVER, ..CheckpointWhen::default() };
    Engine::start(EngineConfig { data_dir: Some(folder.to_owned()), checkpoints, ..config(workers) })
}

async fn run(engine: &Engine, sql: &str) {
    common::run(&mut session(engine), sql).await;
}

async fn number(engine: &Engine, sql: &str) -> i64 {
    common::number(&mut session(engine), sql).await
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
    // There is no time for a checkpoint.
    engine.stop(Duration::ZERO).await;
    let engine = start(folder.path(), 2).expect("it starts");
    assert!(number(&engine, n_to_do).await > 0);
    assert_eq!(number(&engine, "SELECT count(*) FROM t").await, 5);
    assert!(number(&engine, "SELECT position FROM millstream.sources").await >= position);
    engine.shutdown().await;
}

/// Whether an engine is stopped each time or killed, its files do not become more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_again_and_again_leaves_few_files() {
    for is_stopped in [true, false] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut n_bytes_early = 0;
        for n_starts in 1..=36 {
            let engine = start(folder.path(), 1).expect("it starts");
            if n_starts == 1 {
                run(&engine, "CREATE TABLE t (k int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
                run(&engine, "CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM t").await;
            }
            let all = [files(folder.path(), "log"), files(folder.path(), "manifests"), files(folder.path(), "state")];
            assert!(all[0].len() <= 20 && all[1].len() <= 2 && all[2].len() <= 4, "start {n_starts}: {all:?}");
            let n_bytes = |path: &PathBuf| fs::metadata(path).map_or(0, |file| file.len());
            // The log's last file has room for more.
            let n_bytes: u64 = all[0].iter().rev().skip(1).chain(&all[1]).chain(&all[2]).map(n_bytes).sum();
            if n_starts == 24 {
                n_bytes_early = n_bytes;
            }
            assert!(n_starts < 24 || n_bytes < 2 * n_bytes_early, "start {n_starts}: {n_bytes} after {n_bytes_early}");
            if is_stopped {
                engine.stop(common::DEADLINE).await;
                continue;
            }
            if all[0].len() > 17 {
                common::until(&mut session(&engine), "SELECT epoch FROM millstream.checkpoints", |epochs| {
                    epochs.contains(|c: char| c.is_ascii_digit())
                })
                .await;
            }
            engine.shutdown().await;
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

/// Whatever is damaged of what was durable, the engine does not start without it, and names the file.
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
    let object = files(folder.path(), "state").swap_remove(0);
    for (path, at) in [(&manifest, 60), (&object, 50), (&object, 3), (&log, 100)] {
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
    let copied = millstream_engine::restore(&at("backup"), &at("restored")).expect("it is restored");
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
    let error = millstream_engine::restore(&at("backup"), &at("again")).expect_err("it is damaged");
    let name = object.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(error.message().contains(&name), "{error}");
    millstream_engine::restore(&at("again"), &at("once more")).expect_err("it is none");
}
