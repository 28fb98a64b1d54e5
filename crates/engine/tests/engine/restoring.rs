//! After a start views come back one after the other: what is back answers and is written to while others are still read.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use millstream_engine::{CheckpointWhen, Engine, EngineConfig};
use millstream_storage::disk::{Disk, DiskFile};
use millstream_types::SqlState;

use super::common::{self, config, session};

/// Only checkpoints that are asked for.
const NEVER: Duration = Duration::from_secs(3600);

/// Files that are not read while they are held.
#[derive(Default)]
struct Held {
    names: Mutex<HashSet<String>>,
    released: Condvar,
}

impl Held {
    fn hold(&self, files: &[PathBuf]) {
        let names = files.iter().map(|file| file.file_name().expect("a name").to_string_lossy().into_owned());
        self.names.lock().expect("nobody panics").extend(names);
    }

    fn release_only(&self, files: &[PathBuf]) {
        let mut names = self.names.lock().expect("nobody panics");
        names.retain(|name| !files.iter().any(|file| file.ends_with(name)));
        self.released.notify_all();
    }

    fn release(&self) {
        self.names.lock().expect("nobody panics").clear();
        self.released.notify_all();
    }

    fn wait_for(&self, path: &str) {
        let name = path.rsplit('/').next().unwrap_or(path);
        let names = self.names.lock().expect("nobody panics");
        drop(self.released.wait_while(names, |names| names.contains(name)).expect("nobody panics"));
    }
}

/// A disk that waits until files may be read.
struct HeldDisk(Arc<dyn Disk>, Arc<Held>);

struct HeldFile(Arc<dyn DiskFile>, String, Arc<Held>);

impl Disk for HeldDisk {
    fn create_folder(&self, path: &str) -> io::Result<()> {
        self.0.create_folder(path)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.0.list(folder)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.0.create(path)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(HeldFile(self.0.open(path)?, path.to_owned(), Arc::clone(&self.1))))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.remove(path)
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        self.0.sync_folder(path)
    }
}

impl DiskFile for HeldFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.2.wait_for(&self.1);
        self.0.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

fn start(folder: &Path, workers: usize, held: &Arc<Held>) -> Engine {
    let checkpoints = CheckpointWhen { interval: NEVER, ..CheckpointWhen::default() };
    let held = Arc::clone(held);
    let disk = move |disk: Arc<dyn Disk>| Arc::new(HeldDisk(disk, Arc::clone(&held))) as Arc<dyn Disk>;
    let config = EngineConfig {
        data_dir: Some(folder.to_owned().into()),
        checkpoints,
        disk: Some(Arc::new(disk)),
        ..config(workers)
    };
    Engine::start(config).expect("it starts")
}

async fn run(engine: &Engine, sql: &str) {
    common::run(&mut session(engine), sql).await;
}

async fn number(engine: &Engine, sql: &str) -> i64 {
    common::number(&mut session(engine), sql).await
}

async fn until(engine: &Engine, sql: &str, wanted: impl Fn(&str) -> bool) {
    common::until(&mut session(engine), sql, wanted).await;
}

async fn is_its_query(engine: &Engine, view: &str) {
    let (_, query) = VIEWS.iter().find(|(name, _)| *name == view).expect("a view");
    common::assert_is_its_query(&mut session(engine), view, query).await;
}

fn objects(folder: &Path) -> HashSet<PathBuf> {
    let entries = fs::read_dir(folder.join("state")).expect("it is there");
    entries.map(|entry| entry.expect("it can be read").path()).collect()
}

const VIEWS: [(&str, &str); 4] = [
    ("quick", "SELECT g, count(*), max(v) FROM t GROUP BY g"),
    ("held", "SELECT t.k, t.g, u.w FROM t JOIN u ON t.v = u.k"),
    ("above", "SELECT g, sum(w) AS sum, string_agg(k::text, ',' ORDER BY k) AS list FROM held GROUP BY g"),
    ("beside", "SELECT t.g, u.g AS other FROM u LEFT JOIN t ON t.v = u.k"),
];

/// An engine that has ended; the objects that have the state of `held`, which is in no other.
async fn written(folder: &Path, workers: usize) -> Vec<PathBuf> {
    let engine = start(folder, workers, &Arc::default());
    run(&engine, "CREATE TABLE t (k int PRIMARY KEY, g int, v int); CREATE TABLE u (k int PRIMARY KEY, g int, w int)")
        .await;
    run(&engine, "INSERT INTO t SELECT i, i % 7, i % 31 FROM generate_series(1, 500) i").await;
    run(&engine, "INSERT INTO u SELECT i, i % 5, i * 13 % 97 FROM generate_series(1, 40) i").await;
    let mut of_held = vec![];
    for (name, query) in VIEWS {
        let before = objects(folder);
        run(&engine, &format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await;
        run(&engine, "CHECKPOINT").await;
        if name == "held" {
            of_held = objects(folder).difference(&before).cloned().collect();
        }
    }
    assert!(!of_held.is_empty());
    // What comes after the checkpoint is done again.
    run(&engine, "CREATE INDEX held_by_g ON held (g)").await;
    run(&engine, "UPDATE t SET v = v + 1 WHERE k % 3 = 0; DELETE FROM u WHERE k = 7; INSERT INTO t VALUES (0, 1, 3)")
        .await;
    engine.shutdown().await;
    of_held
}

/// Writes that every view takes in; more epochs than a view that is back has in flight.
async fn write_some(engine: &Engine, round: i32) {
    for i in 0..8 {
        let k = 1000 + 100 * round + i;
        run(engine, &format!("INSERT INTO t VALUES ({k}, {i} % 3, {i} + 10)")).await;
        run(engine, &format!("UPDATE u SET w = w + 1 WHERE k = {i} + 11")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_view_answers_when_it_is_back() {
    for workers in [1, 2] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let of_held = written(folder.path(), 2).await;
        let held = Arc::<Held>::default();
        held.hold(&of_held);
        let engine = start(folder.path(), workers, &held);
        // Nobody else waits for it.
        is_its_query(&engine, "quick").await;
        write_some(&engine, 0).await;
        is_its_query(&engine, "quick").await;
        let jobs = common::rows(&mut session(&engine), "SHOW JOBS").await;
        let of = |name: &str| jobs.lines().find(|line| line.contains(name)).expect("it is listed").to_owned();
        assert!(of("| quick").contains("running"), "{jobs}");
        assert!(of("| held").contains("restoring") && of("| held").contains(" bytes ("), "{jobs}");
        assert!(of("| above").contains("restoring") && of("| above").contains("| 0 of "), "{jobs}");
        let recoveries = "SELECT state, views_restored >= 1, views_to_come >= 2, views_us IS NULL, bytes_restored < \
                          checkpoint_bytes FROM millstream.recoveries";
        until(&engine, recoveries, |row| row.contains("restoring") && row.matches("true").count() == 4).await;
        // Who reads it waits, for as long as they like.
        let mut impatient = session(&engine);
        common::run(&mut impatient, "SET statement_timeout = '30ms'").await;
        let error = impatient.query("SELECT count(*) FROM held").await.expect_err("it is not back");
        assert_eq!(error.state(), SqlState::QUERY_CANCELED, "{error}");
        let mut asked = session(&engine);
        let cancel = asked.cancel_handle();
        let read = tokio::spawn(async move { asked.query("SELECT count(*) FROM above").await });
        while !read.is_finished() {
            cancel.cancel();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let error = read.await.expect("it ends").expect_err("it was cancelled");
        assert_eq!(error.state(), SqlState::QUERY_CANCELED, "{error}");
        let waits = |sql: &'static str| {
            let mut session = session(&engine);
            tokio::spawn(async move { session.query(sql).await.map(|_| ()) })
        };
        let waiting = [
            waits("SELECT count(*) FROM above"),
            waits("SELECT * FROM held WHERE g = 3"),
            waits("BEGIN; SELECT count(*) FROM held; SELECT count(*) FROM t; COMMIT"),
            waits("CREATE MATERIALIZED VIEW late AS SELECT count(*) AS n FROM held"),
            waits("INSERT INTO t SELECT 5000, max(g), 1 FROM held"),
            waits("CREATE INDEX held_by_w ON held (w)"),
            waits("CHECKPOINT"),
        ];
        // A transaction that has begun before cannot read it as of then.
        let mut early = session(&engine);
        common::run(&mut early, "BEGIN; SELECT count(*) FROM t").await;
        write_some(&engine, 1).await;
        is_its_query(&engine, "quick").await;
        assert_eq!(number(&engine, "SELECT count(*) FROM millstream.checkpoints").await, 0);
        for task in waiting.iter().filter(|task| task.is_finished()) {
            // Making an index waits for nothing.
            assert_eq!(task.id(), waiting[5].id());
        }
        held.release();
        for task in waiting {
            task.await.expect("it ends").expect("it is back");
        }
        let error = early.query("SELECT count(*) FROM held").await.expect_err("it is of another time");
        assert_eq!(error.state(), SqlState::SERIALIZATION_FAILURE, "{error}");
        for (view, _) in VIEWS {
            is_its_query(&engine, view).await;
        }
        assert_eq!(number(&engine, "SELECT n - (SELECT count(*) FROM held) FROM late").await, 0);
        let recoveries = "SELECT state, views_to_come = 0, views_us > 0, bytes_restored FROM millstream.recoveries";
        until(&engine, recoveries, |row| row.contains("complete") && row.matches("true").count() == 2).await;
        write_some(&engine, 2).await;
        run(&engine, "CHECKPOINT").await;
        for (view, _) in VIEWS {
            is_its_query(&engine, view).await;
        }
        engine.shutdown().await;
        let engine = start(folder.path(), 2, &Arc::default());
        for (view, _) in VIEWS {
            is_its_query(&engine, view).await;
        }
        assert_eq!(number(&engine, "SELECT views_rebuilt FROM millstream.recoveries").await, 0);
        engine.shutdown().await;
    }
}

/// What somebody waits for comes back before what is smaller, with what it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_comes_first() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = start(folder.path(), 2, &Arc::default());
    run(&engine, "CREATE TABLE t (k int PRIMARY KEY, g int)").await;
    run(&engine, "INSERT INTO t SELECT i, i % 7 FROM generate_series(1, 500) i").await;
    run(&engine, "CHECKPOINT").await;
    let mut files = vec![];
    for view in [
        "first AS SELECT count(*) AS n FROM t",
        "small AS SELECT g, count(*) AS n FROM t GROUP BY g",
        "large AS SELECT k, g + 1 AS g FROM t",
        "above AS SELECT g, count(*) AS n FROM large GROUP BY g",
    ] {
        let before = objects(folder.path());
        run(&engine, &format!("CREATE MATERIALIZED VIEW {view}")).await;
        run(&engine, "CHECKPOINT").await;
        files.push(objects(folder.path()).difference(&before).cloned().collect::<Vec<_>>());
    }
    engine.shutdown().await;
    let held = Arc::<Held>::default();
    held.hold(&files[0]);
    held.hold(&files[1]);
    let engine = start(folder.path(), 2, &held);
    let mut reader = session(&engine);
    let read = tokio::spawn(async move { common::number(&mut reader, "SELECT sum(n) FROM above").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    held.release_only(&files[0]);
    let read = tokio::time::timeout(Duration::from_secs(60), read).await;
    assert_eq!(read.expect("it does not wait for others").expect("it is back"), 500);
    let jobs = common::rows(&mut session(&engine), "SHOW JOBS").await;
    let small = jobs.lines().find(|line| line.contains("| small")).expect("it is listed");
    assert!(small.contains("restoring"), "{jobs}");
    held.release();
    assert_eq!(number(&engine, "SELECT sum(n) FROM small").await, 500);
    engine.shutdown().await;
}

/// An engine that is killed, or stopped, while views come back leaves what it has found, and all that was written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_cut_short_is_done_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let of_held = written(folder.path(), 2).await;
    for round in 0..3 {
        let held = Arc::<Held>::default();
        held.hold(&of_held);
        let engine = start(folder.path(), 1 + round as usize, &held);
        write_some(&engine, round).await;
        is_its_query(&engine, "quick").await;
        if round == 1 {
            // There can be no checkpoint in time.
            engine.stop(Duration::from_millis(50)).await;
        } else {
            engine.shutdown().await;
        }
        held.release();
    }
    let engine = start(folder.path(), 2, &Arc::default());
    for (view, _) in VIEWS {
        is_its_query(&engine, view).await;
    }
    assert_eq!(number(&engine, "SELECT count(*) FROM t WHERE k >= 1000").await, 24);
    let row = "SELECT views_restored >= 4 AND views_rebuilt = 0 FROM millstream.recoveries";
    until(&engine, row, |row| row.contains("true")).await;
    engine.shutdown().await;
}

/// What turns out damaged while views come back harms that view and what reads it; and what is coming back can be dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_and_drops_while_views_come_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let of_held = written(folder.path(), 1).await;
    let flip = || {
        let mut bytes = fs::read(&of_held[0]).expect("it can be read");
        bytes[60] ^= 0x40;
        fs::write(&of_held[0], bytes).expect("it can be written");
    };
    flip();
    let held = Arc::<Held>::default();
    held.hold(&of_held);
    let engine = start(folder.path(), 2, &held);
    is_its_query(&engine, "quick").await;
    let mut reader = session(&engine);
    let read = tokio::spawn(async move { reader.query("SELECT * FROM above").await });
    held.release();
    let error = read.await.expect("it ends").expect_err("what it reads is damaged");
    let name = of_held[0].file_name().expect("a name").to_string_lossy().into_owned();
    assert!(error.message().contains(&name), "{error}");
    assert!(session(&engine).query("SELECT * FROM held").await.expect_err("it is damaged").message().contains(&name));
    is_its_query(&engine, "quick").await;
    is_its_query(&engine, "beside").await;
    let row = "SELECT state, views_to_come FROM millstream.recoveries";
    until(&engine, row, |row| row.contains("complete") && row.contains("| 0 ")).await;
    engine.shutdown().await;

    // The same again, refreshed.
    let engine = start(folder.path(), 2, &Arc::default());
    until(&engine, row, |row| row.contains("complete")).await;
    run(&engine, "REFRESH MATERIALIZED VIEW held CASCADE").await;
    for (view, _) in VIEWS {
        is_its_query(&engine, view).await;
    }
    engine.shutdown().await;

    flip();
    held.hold(&of_held);
    let engine = start(folder.path(), 2, &held);
    let mut reader = session(&engine);
    let read = tokio::spawn(async move { reader.query("SELECT * FROM held").await });
    run(&engine, "DROP MATERIALIZED VIEW above").await;
    let error = session(&engine).query("SELECT * FROM above").await.expect_err("it is gone");
    assert_eq!(error.state(), SqlState::UNDEFINED_TABLE);
    run(&engine, "DROP TABLE u CASCADE").await;
    read.await.expect("it ends").expect_err("it was dropped");
    is_its_query(&engine, "quick").await;
    until(&engine, row, |row| row.contains("complete")).await;
    run(&engine, "CHECKPOINT").await;
    held.release();
    run(&engine, "INSERT INTO t VALUES (-1, 2, 3)").await;
    is_its_query(&engine, "quick").await;
    engine.shutdown().await;
    let engine = start(folder.path(), 1, &Arc::default());
    is_its_query(&engine, "quick").await;
    engine.shutdown().await;
}

/// What a start makes anew waits for what comes back, and neither keeps the rest from being read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_anew_waits_for_what_comes_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let of_held = written(folder.path(), 2).await;
    let engine = start(folder.path(), 2, &Arc::default());
    run(&engine, "CREATE MATERIALIZED VIEW of_held AS SELECT w, count(*) AS n FROM held GROUP BY w").await;
    run(&engine, "CREATE MATERIALIZED VIEW of_quick AS SELECT sum(count)::bigint AS n FROM quick").await;
    run(&engine, "CREATE INDEX of_held_by_w ON of_held (w)").await;
    engine.shutdown().await;
    let held = Arc::<Held>::default();
    held.hold(&of_held);
    let engine = start(folder.path(), 2, &held);
    let mut client = session(&engine);
    common::until_readable(&mut client, "of_quick").await;
    assert_eq!(number(&engine, "SELECT n - (SELECT count(*) FROM t) FROM of_quick").await, 0);
    let error = client.query("SELECT * FROM of_held").await.expect_err("it is built when what it reads is back");
    assert_eq!(error.state(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    held.release();
    common::until_readable(&mut client, "of_held").await;
    common::assert_is_its_query(&mut client, "of_held", "SELECT w, count(*) FROM held GROUP BY w").await;
    engine.shutdown().await;
}

/// A sink goes on from where it was, and takes in nothing of its source twice but what came after the checkpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sinks_go_on_from_their_state() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = start(folder.path(), 2, &Arc::default());
    run(&engine, "CREATE STREAM s (a int); INSERT INTO s SELECT i FROM generate_series(1, 1000) i").await;
    run(
        &engine,
        "CREATE SINK out AS SELECT a % 10 AS d, count(*) AS n FROM s GROUP BY a % 10 WITH (connector = 'blackhole')",
    )
    .await;
    run(&engine, "CREATE SINK copy FROM s WITH (connector = 'blackhole')").await;
    let taken = |name: &str, operator: &str| {
        format!(
            "SELECT coalesce(sum(rows_in), 0)::bigint FROM millstream.operators WHERE relation = '{name}' AND operator = '{operator}'"
        )
    };
    until(&engine, &taken("out", "Sink"), |rows| rows.contains(" 10 ")).await;
    run(&engine, "CHECKPOINT").await;
    run(&engine, "INSERT INTO s VALUES (7)").await;
    engine.shutdown().await;
    for workers in [2, 3] {
        let engine = start(folder.path(), workers, &Arc::default());
        until(&engine, "SELECT state FROM millstream.recoveries", |row| row.contains("complete")).await;
        assert_eq!(number(&engine, "SELECT views_restored FROM millstream.recoveries").await, 2);
        // A count goes, another one comes.
        until(&engine, &taken("out", "Sink"), |rows| rows.contains(" 2 ")).await;
        until(&engine, &taken("copy", "Sink"), |rows| rows.contains(" 1 ")).await;
        run(&engine, "INSERT INTO s VALUES (8)").await;
        until(&engine, &taken("out", "Sink"), |rows| rows.contains(" 4 ")).await;
        until(&engine, &taken("copy", "Sink"), |rows| rows.contains(" 2 ")).await;
        run(&engine, "CHECKPOINT; INSERT INTO s VALUES (9)").await;
        engine.shutdown().await;
    }
}
