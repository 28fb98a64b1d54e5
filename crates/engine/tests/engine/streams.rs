//! Streams whose rows lie in objects of checkpoints: where they are, how they are read, and when they are forgotten.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream_engine::{CheckpointWhen, Engine, EngineConfig, MemoryLimits, Session};
use millstream_types::SqlState;

use super::common::{assert_is_its_query, config, number, rows, run, session, until};

/// Only checkpoints that are asked for.
const NEVER: Duration = Duration::from_secs(3600);
const STORED: &str = "SELECT sum(rows_stored)::bigint AS stored FROM millstream.arrangements WHERE relation = 's'";

fn start(folder: &Path, workers: usize) -> Engine {
    let checkpoints = CheckpointWhen { interval: NEVER, ..CheckpointWhen::default() };
    let config = EngineConfig { data_dir: Some(folder.to_owned().into()), checkpoints, ..config(workers) };
    Engine::start(config).expect("it starts")
}

fn objects(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("streams")).expect("the folder is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    files.sort();
    files
}

/// Writes rows from a number on; each hour has a thousand.
async fn insert(session: &mut Session, from: u64, n: u64) {
    let to = from + n;
    let sql = format!(
        "INSERT INTO s SELECT i, timestamp '2026-01-01' + i * interval '3.6 seconds', 'text ' || i
         FROM generate_series({from}, {to} - 1) i"
    );
    run(session, &sql).await;
}

async fn checkpoint(session: &mut Session) {
    let n_rows = number(session, "SELECT count(*) FROM s").await;
    run(session, "CHECKPOINT").await;
    until(session, STORED, |shown| shown.contains(&format!(" {n_rows} "))).await;
}

/// Files go with the checkpoints that follow, when nobody reads them any more.
async fn until_no_objects(session: &mut Session, folder: &Path) {
    for k in 0.. {
        run(session, &format!("INSERT INTO t VALUES ({k})")).await;
        run(session, "CHECKPOINT").await;
        if objects(folder).is_empty() {
            return;
        }
        if k >= 100 {
            let kept = rows(session, "SELECT * FROM millstream.arrangements").await;
            panic!("{:?} are left:\n{kept}", objects(folder));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const STREAM: &str = "CREATE STREAM s (i bigint, at timestamp, t text)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_leave_memory_and_are_there() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let in_memory = "SELECT sum(bytes_in_memory)::bigint FROM millstream.arrangements WHERE relation = 's'";
    let all = "SELECT count(*)::text || ' ' || sum(i) || ' ' || sum(length(t)) || ' ' || max(at) AS all FROM s";
    let engine = start(folder.path(), 2);
    let mut s = session(&engine);
    run(&mut s, STREAM).await;
    run(&mut s, "CREATE MATERIALIZED VIEW early AS SELECT i % 10 AS k, count(*) AS n, max(t) AS t FROM s GROUP BY 1")
        .await;
    insert(&mut s, 0, 100_000).await;
    let before = rows(&mut s, all).await;
    let bytes_before = number(&mut s, in_memory).await;
    checkpoint(&mut s).await;
    assert!(number(&mut s, in_memory).await * 20 < bytes_before, "they leave memory");
    assert_eq!(rows(&mut s, all).await, before);
    let query = "SELECT i % 10 AS k, count(*) AS n, max(t) AS t FROM s GROUP BY 1";
    run(&mut s, &format!("CREATE MATERIALIZED VIEW late AS {query}")).await;
    insert(&mut s, 100_000, 50_000).await;
    assert_is_its_query(&mut s, "early", query).await;
    assert_is_its_query(&mut s, "late", query).await;
    checkpoint(&mut s).await;
    let before = rows(&mut s, all).await;
    // Some of it is in objects, some in the log.
    insert(&mut s, 150_000, 10).await;
    engine.shutdown().await;
    for workers in [4, 1, 3] {
        let engine = start(folder.path(), workers);
        let mut s = session(&engine);
        assert_eq!(number(&mut s, "SELECT count(*) FROM s").await, 150_010);
        assert_eq!(rows(&mut s, &format!("{all} WHERE i < 150000")).await, before);
        let workers_with_rows = "SELECT count(*) FROM millstream.arrangements WHERE relation = 's' AND rows_stored > 0";
        assert_eq!(number(&mut s, workers_with_rows).await, workers as i64, "each has its share");
        assert_is_its_query(&mut s, "late", query).await;
        engine.shutdown().await;
    }
    let engine = start(folder.path(), 2);
    let mut s = session(&engine);
    run(&mut s, "DROP STREAM s CASCADE").await;
    run(&mut s, "CREATE TABLE t (k int)").await;
    until_no_objects(&mut s, folder.path()).await;
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_read_the_blocks_that_may_have_rows() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = start(folder.path(), 2);
    let mut s = session(&engine);
    run(&mut s, STREAM).await;
    for round in 0..10 {
        insert(&mut s, round * 40_000, 40_000).await;
        checkpoint(&mut s).await;
    }
    // Chunks that were read, and those that were not.
    async fn chunks(s: &mut Session, condition: &str) -> (i64, i64) {
        let shown = rows(s, &format!("EXPLAIN ANALYZE SELECT count(*) FROM s WHERE {condition}")).await;
        let of = |name: &str| {
            let at = shown.find(name).unwrap_or_else(|| panic!("no {name} in\n{shown}"));
            let digits: String = shown[at + name.len()..].chars().take_while(char::is_ascii_digit).collect();
            digits.parse().unwrap_or_else(|_| panic!("no number behind {name} in\n{shown}"))
        };
        (of("chunks_read="), of("chunks_pruned="))
    }
    let (all, none) = chunks(&mut s, "t LIKE '%7'").await;
    assert!(all >= 20 && none == 0, "{all} {none}");
    for (condition, n_rows) in [
        ("i < 1000", 1000),
        ("i BETWEEN 250000 AND 250999", 1000),
        ("at >= timestamp '2026-01-01' + interval '399 hours'", 1000),
        ("at = timestamp '2026-01-05' AND t IS NOT NULL", 1),
        ("i IN (5, 399999)", 2),
    ] {
        let (read, pruned) = chunks(&mut s, condition).await;
        assert!(read * 4 <= all && read + pruned == all, "{condition}: {read} of {all} were read");
        assert_eq!(number(&mut s, &format!("SELECT count(*) FROM s WHERE {condition}")).await, n_rows, "{condition}");
    }
    let (read, _) = chunks(&mut s, "i < 0 OR t IS NULL").await;
    assert_eq!(read, 0);
    engine.shutdown().await;
}

/// What lies in objects is many times the memory that there is for state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_takes_in_more_than_memory_holds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let checkpoints = CheckpointWhen { interval: NEVER, ..CheckpointWhen::default() };
    // Nothing can be spilled.
    let limits = MemoryLimits::of_process(1 << 30);
    let memory = MemoryLimits { state: 8 << 20, spill_from: 8 << 20, view: 8 << 20, spilled: 0, ..limits };
    let data_dir = Some(folder.path().to_owned().into());
    let engine = Engine::start(EngineConfig { data_dir, checkpoints, memory, ..config(2) }).expect("it starts");
    let mut s = session(&engine);
    run(&mut s, STREAM).await;
    for round in 0..20 {
        insert(&mut s, round * 40_000, 40_000).await;
        checkpoint(&mut s).await;
    }
    run(&mut s, "CREATE MATERIALIZED VIEW v AS SELECT i % 10 AS k, count(*) AS n, max(t) AS t FROM s GROUP BY 1").await;
    assert_eq!(number(&mut s, "SELECT sum(n)::bigint FROM v").await, 800_000);
    assert_eq!(number(&mut s, "SELECT sum(length(t) + 24)::bigint FROM s").await / (8 << 20), 3, "times the memory");
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_objects_become_few() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = start(folder.path(), 2);
    let mut s = session(&engine);
    run(&mut s, STREAM).await;
    run(&mut s, "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(i) AS sum FROM s").await;
    for round in 0..100 {
        insert(&mut s, round * 10, 10).await;
        checkpoint(&mut s).await;
        if round % 10 == 0 {
            assert_is_its_query(&mut s, "v", "SELECT count(*) AS n, sum(i) AS sum FROM s").await;
        }
    }
    assert!(objects(folder.path()).len() < 70, "{} objects", objects(folder.path()).len());
    let all = "SELECT count(*) = 1000 AND sum(i) = 499500 AND count(DISTINCT t) = 1000 AS right FROM s";
    assert!(rows(&mut s, all).await.contains("true"));
    engine.shutdown().await;
    let engine = start(folder.path(), 3);
    assert!(rows(&mut session(&engine), all).await.contains("true"));
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_were_forgotten_do_not_come_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (count, counted) = ("SELECT count(*) AS n FROM s", "SELECT n FROM counted");
    let engine = start(folder.path(), 2);
    let mut s = session(&engine);
    run(&mut s, &format!("{STREAM} WITH (retention = '2 seconds')")).await;
    run(&mut s, "CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM s").await;
    insert(&mut s, 0, 20_000).await;
    // One that reads as of now goes on seeing them.
    let mut reader = session(&engine);
    run(&mut reader, "BEGIN").await;
    assert_eq!(number(&mut reader, count).await, 20_000);
    run(&mut s, "CHECKPOINT").await;
    until(&mut s, count, |shown| shown.contains(" 0 ")).await;
    assert_eq!(number(&mut reader, count).await, 20_000, "its epoch is an earlier one");
    run(&mut reader, "COMMIT").await;
    assert_eq!(number(&mut reader, count).await, 0);
    assert_eq!(number(&mut s, counted).await, 20_000, "a view keeps what it has counted");
    engine.shutdown().await;
    for workers in [2, 3] {
        // The checkpoint has the rows still; the log says that they are forgotten.
        let engine = start(folder.path(), workers);
        let mut s = session(&engine);
        assert_eq!((number(&mut s, count).await, number(&mut s, counted).await), (0, 20_000));
        engine.shutdown().await;
    }
    let engine = start(folder.path(), 2);
    let mut s = session(&engine);
    run(&mut s, "CREATE TABLE t (k int)").await;
    until_no_objects(&mut s, folder.path()).await;
    run(&mut s, "CREATE MATERIALIZED VIEW later AS SELECT count(*) AS n FROM s").await;
    assert_eq!(number(&mut s, "SELECT n FROM later").await, 0);
    insert(&mut s, 0, 5).await;
    assert_eq!(number(&mut s, counted).await, 20_005);
    engine.shutdown().await;
    let engine = start(folder.path(), 2);
    assert_eq!(number(&mut session(&engine), counted).await, 20_005);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_is_forgotten_oldest_first() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let oldest = "SELECT min(i) FROM s";
    let engine = start(folder.path(), 2);
    let mut s = session(&engine);
    run(&mut s, &format!("{STREAM} WITH (retention_size = '1MB')")).await;
    for round in 0..30 {
        insert(&mut s, round * 10_000, 10_000).await;
        run(&mut s, "CHECKPOINT").await;
        assert_eq!(number(&mut s, "SELECT max(i) FROM s").await, round as i64 * 10_000 + 9_999);
    }
    // Whole objects go; that is what a checkpoint has written at once.
    until(&mut s, "SELECT count(*) BETWEEN 10000 AND 150000 AS few FROM s", |shown| shown.contains("true")).await;
    let first = number(&mut s, oldest).await;
    assert!(first > 0 && first % 10_000 == 0, "{first}");
    // It goes on forgetting while it is looked at.
    assert_eq!(number(&mut s, "SELECT count(*) + min(i) FROM s").await, 300_000);
    run(&mut s, "CREATE TABLE t (k int); INSERT INTO t VALUES (1); CHECKPOINT").await;
    run(&mut s, "INSERT INTO t VALUES (2)").await;
    run(&mut s, "CHECKPOINT").await;
    let n_bytes: u64 = objects(folder.path()).iter().map(|path| fs::metadata(path).expect("it is there").len()).sum();
    assert!(n_bytes < 2 << 20, "{n_bytes} bytes");
    engine.shutdown().await;
    let engine = start(folder.path(), 4);
    assert!(number(&mut session(&engine), oldest).await >= first);
    engine.shutdown().await;
}

/// The log forgets rows that the checkpoint before it has, and an index has no births.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_indexed_stream_does_not_remember_what_it_has_forgotten() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = start(folder.path(), 2);
    let mut s = session(&engine);
    run(&mut s, &format!("{STREAM} WITH (retention_size = '200kB')")).await;
    run(&mut s, "CREATE INDEX by_i ON s (i)").await;
    for round in 0..10 {
        insert(&mut s, round * 10_000, 10_000).await;
        run(&mut s, "CHECKPOINT").await;
    }
    until(&mut s, "SELECT min(i) > 50000 AS fewer FROM s", |shown| shown.contains("true")).await;
    let (oldest, all) = ("SELECT min(i) FROM s", "SELECT count(*) + min(i) FROM s");
    assert_eq!(number(&mut s, all).await, 100_000);
    let before = number(&mut s, oldest).await;
    engine.shutdown().await;
    let engine = start(folder.path(), 3);
    let mut s = session(&engine);
    assert!(number(&mut s, oldest).await >= before);
    assert_eq!(number(&mut s, all).await, 100_000);
    assert_eq!(number(&mut s, "SELECT count(*) FROM s WHERE i IN (7, 99999)").await, 1);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_alone_forgets_as_well() {
    let engine = Engine::start(config(2)).expect("it starts");
    let mut s = session(&engine);
    run(&mut s, &format!("{STREAM} WITH (retention = '1 second', retention_size = '100MB')")).await;
    run(&mut s, "CREATE INDEX by_i ON s (i)").await;
    run(&mut s, "CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM s").await;
    insert(&mut s, 0, 50_000).await;
    assert_eq!(number(&mut s, "SELECT count(*) FROM s WHERE i = 77").await, 1);
    until(&mut s, "SELECT count(*) AS n FROM s", |shown| shown.contains(" 0 ")).await;
    assert_eq!(number(&mut s, "SELECT count(*) FROM s WHERE i = 77").await, 0);
    insert(&mut s, 0, 100).await;
    assert_eq!(number(&mut s, "SELECT count(*) FROM s WHERE i = 77").await, 1);
    assert_eq!(number(&mut s, "SELECT n FROM counted").await, 50_100);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_finds_rows_that_are_stored() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = start(folder.path(), 2);
    let mut s = session(&engine);
    run(&mut s, STREAM).await;
    run(&mut s, "CREATE INDEX by_i ON s (i)").await;
    insert(&mut s, 0, 30_000).await;
    run(&mut s, "CHECKPOINT").await;
    insert(&mut s, 30_000, 100).await;
    run(&mut s, "CHECKPOINT").await;
    assert_eq!(number(&mut s, "SELECT count(*) FROM s WHERE i IN (7, 30007)").await, 2);
    engine.shutdown().await;
    let engine = start(folder.path(), 3);
    let mut s = session(&engine);
    assert_eq!(number(&mut s, "SELECT count(*) FROM s WHERE i IN (7, 30007)").await, 2);
    insert(&mut s, 7, 1).await;
    run(&mut s, "CHECKPOINT").await;
    assert_eq!(number(&mut s, "SELECT count(*) FROM s WHERE i IN (7, 30007)").await, 3);
    assert_eq!(number(&mut s, "SELECT count(*) FROM s").await, 30_101);
    engine.shutdown().await;
    // Without the index they are read where they lie.
    let engine = start(folder.path(), 2);
    let mut s = session(&engine);
    run(&mut s, "DROP INDEX by_i").await;
    run(&mut s, "CHECKPOINT").await;
    engine.shutdown().await;
    let engine = start(folder.path(), 2);
    let mut s = session(&engine);
    assert_eq!(number(&mut s, "SELECT count(*) FROM s").await, 30_101);
    assert!(number(&mut s, STORED).await > 0);
    run(&mut s, "CREATE INDEX by_i ON s (i)").await;
    assert_eq!(number(&mut s, "SELECT count(*) FROM s WHERE i IN (7, 30007)").await, 3);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_harms_those_who_read_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = start(folder.path(), 2);
    let mut s = session(&engine);
    run(&mut s, STREAM).await;
    run(&mut s, "CREATE TABLE t (k int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    run(&mut s, "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM s").await;
    insert(&mut s, 0, 50_000).await;
    checkpoint(&mut s).await;
    let object = objects(folder.path()).remove(0);
    let whole = fs::read(&object).expect("it can be read");
    let mut bytes = whole.clone();
    // In a block.
    bytes[2000] ^= 1;
    fs::write(&object, &bytes).expect("it can be written");
    let name = object.file_name().expect("it has one").to_string_lossy().into_owned();
    let error = s.query("SELECT sum(i), max(at), max(t) FROM s").await.expect_err("it is damaged");
    assert_eq!(error.state(), SqlState::DATA_CORRUPTED);
    assert!(error.message().contains(&name), "{}", error.message());
    assert_eq!(number(&mut s, "SELECT n FROM v").await, 50_000, "it has counted them");
    let error = s.query("CREATE MATERIALIZED VIEW w AS SELECT max(i) AS i, max(at) AS at, max(t) AS t FROM s").await;
    assert_eq!(error.expect_err("it is damaged").state(), SqlState::DATA_CORRUPTED);
    insert(&mut s, 50_000, 10).await;
    run(&mut s, "INSERT INTO t VALUES (2)").await;
    run(&mut s, "CHECKPOINT").await;
    assert_eq!(number(&mut s, "SELECT n FROM v").await, 50_010);
    engine.shutdown().await;
    // Where its index is damaged the stream has no rows at all.
    let mut bytes = whole.clone();
    let at = bytes.len() - 60;
    bytes[at] ^= 1;
    fs::write(&object, &bytes).expect("it can be written");
    let engine = start(folder.path(), 2);
    let mut s = session(&engine);
    assert_eq!(number(&mut s, "SELECT count(*) FROM t").await, 2);
    let error = s.query("SELECT count(*) FROM s").await.expect_err("it is damaged");
    assert_eq!(error.state(), SqlState::DATA_CORRUPTED);
    engine.shutdown().await;
    fs::write(&object, &whole).expect("it can be written");
    let engine = start(folder.path(), 2);
    let mut s = session(&engine);
    assert_eq!(number(&mut s, "SELECT count(*) FROM s").await, 50_010);
    run(&mut s, "DROP STREAM s CASCADE; CHECKPOINT").await;
    engine.shutdown().await;
}
