//! Data directories that releases have left: every later one opens them and goes on from what is in them.
//!
//! Under `crates/engine/tests/data-directories` 1 is of the first release that keeps data, and has the rows of streams among the
//! state; in 2 they are in objects of their own. Each was written with
//! `MILLSTREAM_DATA_DIRECTORY=crates/engine/tests/data-directories/1 cargo test -p millstream-engine -- --ignored`.
//! A release that changes a format adds another one, and reads all that there are.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream_engine::{CheckpointWhen, Engine, EngineConfig};

use super::common::{assert_is_its_query, config, number, run, session, until, until_readable};
use super::durability::VIEWS;

/// What each has beside the views with every kind of state.
const DECLARED: [&str; 15] = [
    "CREATE TABLE t (k int PRIMARY KEY, g int, v int)",
    "CREATE TABLE u (k int PRIMARY KEY, g int, w int)",
    "CREATE STREAM s (a int)",
    "CREATE TABLE loose (a int, b text[])",
    "CREATE TABLE of_types (id int PRIMARY KEY, b boolean, i smallint, r real, d double precision, n numeric(20, 3), t text,
       c char(4), v varchar(9), x bytea, day date, at timestamp, atz timestamptz, span interval, a int[] DEFAULT '{1}')",
    "CREATE STREAM made (n bigint) WITH (connector = 'generator', rows = '50', col.n = 'sequence(0, 2)')",
    "CREATE VIEW plain AS SELECT k, v * 2 AS twice FROM t",
    "CREATE MATERIALIZED VIEW of_plain AS SELECT sum(twice) AS sum FROM plain",
    "CREATE MATERIALIZED VIEW quotients AS SELECT k, 100 / (v % 10) AS q FROM t",
    "CREATE MATERIALIZED VIEW of_loose AS SELECT a, b FROM loose",
    "CREATE MATERIALIZED VIEW of_made AS SELECT sum(n)::bigint AS sum FROM made",
    "CREATE MATERIALIZED VIEW all_types AS SELECT * FROM of_types",
    "CREATE INDEX t_by_g ON t (g)",
    "CREATE INDEX sums_by_sum ON sums (sum)",
    "COMMENT ON TABLE t IS 'numbers'",
];

/// What was written, and left in two checkpoints and in the log behind them.
const WRITTEN: [[&str; 5]; 3] = [
    [
        "INSERT INTO t SELECT i, i % 5, i * 37 % 101 FROM generate_series(1, 300) i",
        "INSERT INTO u SELECT i, i % 11, i * 13 % 97 FROM generate_series(1, 200) i",
        "INSERT INTO s SELECT i FROM generate_series(1, 100) i",
        "INSERT INTO loose VALUES (1, '{x, y}'), (1, '{x, y}'), (2, NULL)",
        "INSERT INTO of_types VALUES (1, true, 2, 1.5, -0.0, 12.345, 'text', 'ab', 'cd', '\\x00ff', '2026-02-28', '2026-02-28 12:00',
           '2026-02-28 12:00+01', '1 month 2 days 3 hours', '{1, NULL, 3}'); INSERT INTO of_types (id) VALUES (2)",
    ],
    [
        "UPDATE t SET v = v + 1, g = (g + 1) % 5 WHERE k % 6 = 1",
        "DELETE FROM t WHERE k % 9 = 4; DELETE FROM u WHERE k % 8 = 3",
        "INSERT INTO s VALUES (1000), (1000)",
        "DELETE FROM loose WHERE a = 2",
        "UPDATE of_types SET n = 0.001, d = 'NaN', r = 'infinity' WHERE id = 2",
    ],
    [
        "INSERT INTO t SELECT i, i % 5, i FROM generate_series(1001, 1050) i",
        "BEGIN; UPDATE u SET w = w + 1 WHERE k < 20; INSERT INTO s VALUES (7); COMMIT",
        "DROP MATERIALIZED VIEW of_loose; CREATE MATERIALIZED VIEW of_loose AS SELECT a FROM loose",
        "INSERT INTO loose VALUES (3, '{}')",
        "CREATE OR REPLACE VIEW plain AS SELECT k, v * 3 AS twice FROM t",
    ],
];

/// What is true of it.
const EXPECTED: [(&str, i64); 11] = [
    ("SELECT count(*) FROM t", 300 - 33 + 50),
    ("SELECT count(*) FROM u", 200 - 25),
    ("SELECT sum(a) FROM s", 5050 + 2000 + 7),
    ("SELECT sum(a) FROM loose", 5),
    ("SELECT sum(n) FROM made", 49 * 50),
    ("SELECT sum FROM of_made", 49 * 50),
    ("SELECT count(*) FROM of_types WHERE n = 0.001 AND d = 'NaN' AND r = 'infinity' AND a = '{1}'", 1),
    ("SELECT count(*) FROM all_types WHERE span = '1 month 2 days 3 hours' AND x = '\\x00ff' AND c = 'ab'", 1),
    ("SELECT (sum - (SELECT 3 * sum(v) FROM t))::bigint FROM of_plain", 0),
    ("SELECT count(*) - (SELECT count(*) FROM t WHERE v % 10 <> 0) FROM quotients", 0),
    ("SELECT count(*) FROM pg_description WHERE description = 'numbers'", 1),
];

fn start(folder: &Path, workers: usize) -> Engine {
    let interval = Duration::from_secs(3600);
    let checkpoints = CheckpointWhen { interval, ..CheckpointWhen::default() };
    let config = EngineConfig { data_dir: Some(folder.to_owned().into()), checkpoints, ..config(workers) };
    Engine::start(config).expect("it starts")
}

/// Copies a data directory that nobody writes to at the moment; of the log without the room that is reserved in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("it can be made");
    for entry in fs::read_dir(from).expect("it is there") {
        let path = entry.expect("it can be read").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else if path.file_name().is_some_and(|name| name != "LOCK") {
            let mut bytes = fs::read(&path).expect("it can be read");
            if path.extension().is_some_and(|e| e == "log") {
                bytes.truncate(bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1));
            }
            fs::write(to, bytes).expect("it can be written");
        }
    }
}

fn all() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data-directories");
    let entries = fs::read_dir(folder).expect("they are there");
    entries.map(|entry| entry.expect("it can be read").path()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes a data directory for later releases"]
async fn a_data_directory_is_left_for_later_releases() {
    let to = std::env::var_os("MILLSTREAM_DATA_DIRECTORY").expect("MILLSTREAM_DATA_DIRECTORY says where");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = start(folder.path(), 2);
    let mut session = session(&engine);
    for statement in &DECLARED[..6] {
        run(&mut session, statement).await;
    }
    for (name, query) in VIEWS {
        run(&mut session, &format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await;
    }
    for statement in &DECLARED[6..] {
        run(&mut session, statement).await;
    }
    until(&mut session, "SELECT sum FROM of_made", |shown| shown.contains("2450")).await;
    for (i, statements) in WRITTEN.iter().enumerate() {
        for statement in statements {
            run(&mut session, statement).await;
        }
        if i < 2 {
            run(&mut session, "CHECKPOINT").await;
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    copy(folder.path(), &root.join(to));
    engine.shutdown().await;
}

/// Whatever release has left it, and on any number of workers, all of it is there, and things go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_directories_of_all_releases_can_be_gone_on_from() {
    assert!(!all().is_empty());
    for (from, workers) in all().iter().flat_map(|from| [(from, 1), (from, 3)]) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(from, folder.path());
        for round in 0..2 {
            let engine = start(folder.path(), workers);
            let mut session = session(&engine);
            for view in ["of_plain", "quotients", "all_types", "of_loose", "of_made"] {
                until_readable(&mut session, view).await;
            }
            for (query, expected) in EXPECTED {
                assert_eq!(number(&mut session, query).await, expected, "{from:?}, round {round}: {query}");
            }
            for (name, query) in VIEWS {
                until_readable(&mut session, name).await;
                assert_is_its_query(&mut session, name, query).await;
            }
            if round == 0 {
                run(&mut session, "UPDATE t SET v = v + 10; DELETE FROM u WHERE k % 5 = 0; INSERT INTO u VALUES (0)")
                    .await;
                run(&mut session, "INSERT INTO u SELECT i, 1, 1 FROM generate_series(5, 200, 5) i WHERE i % 8 <> 3")
                    .await;
                run(&mut session, "DELETE FROM u WHERE k = 0; CHECKPOINT").await;
            }
            engine.shutdown().await;
        }
    }
}
