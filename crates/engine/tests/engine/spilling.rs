//! State of several times the memory that it may take: right answers, within the limit, or a chunk more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use millstream_engine::{Engine, EngineConfig, MemoryLimits, Session};
use millstream_types::{Error, SqlState};

use super::common::{assert_is_its_query, config, number, run, session, start, until};

/// Bytes that state may take.
const LIMIT: usize = 16 << 20;

fn limited(workers: usize) -> EngineConfig {
    let mut config = config(workers);
    let (state, spill_from) = (LIMIT, LIMIT / 2);
    config.memory =
        MemoryLimits { state, spill_from, view: 1 << 40, queries: 1 << 30, in_flight: LIMIT / 8, spilled: 1 << 30 };
    config.epoch_offsets_max = 3_000;
    config
}

/// Looks at what all state takes, until it is dropped, and keeps the most.
struct Watch {
    done: Arc<AtomicBool>,
    bytes_max: Arc<AtomicI64>,
}

impl Watch {
    fn start(engine: &Engine) -> Watch {
        let watch = Watch { done: Arc::default(), bytes_max: Arc::default() };
        let (done, bytes_max, mut s) = (Arc::clone(&watch.done), Arc::clone(&watch.bytes_max), session(engine));
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let bytes = number(&mut s, "SELECT sum(state_bytes)::bigint FROM millstream.relations").await;
                bytes_max.fetch_max(bytes, Ordering::Relaxed);
            }
        });
        watch
    }

    fn bytes_max(&self) -> usize {
        self.bytes_max.load(Ordering::Relaxed) as usize
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

/// Waits until all that a source has is in a view.
async fn drained(s: &mut Session, source: &str, view: &str) {
    let at_end = format!("SELECT position = end_position FROM millstream.sources WHERE name = '{source}'");
    until(s, &at_end, |shown| shown.contains("true")).await;
    number(s, &format!("SELECT count(*) FROM {view}")).await;
}

/// Bytes of state that are on disk.
async fn spilled_bytes(s: &mut Session) -> usize {
    let spilled = "SELECT (SELECT sum(bytes_spilled) FROM millstream.arrangements)::bigint + \
                   (SELECT sum(spilled_bytes) FROM millstream.operators)::bigint AS n";
    number(s, spilled).await as usize
}

const EVENTS: &str = "CREATE STREAM events (k bigint, j bigint, v bigint, t text) WITH (connector = 'generator',
    rows = '60000', \"col.k\" = 'uniform(1, 40000)', \"col.j\" = 'sequence(1)', \"col.v\" = 'uniform(1, 1000000)',
    \"col.t\" = 'text(300, 340)')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_of_several_times_its_memory_gives_right_answers() {
    let queries = [
        ("groups", "SELECT k, count(*) AS n, min(t) AS t, max(t) AS u FROM events GROUP BY k"),
        ("pairs", "SELECT a.j, b.v, a.t FROM events a JOIN events b ON a.j = b.k"),
        (
            "firsts",
            "SELECT k, j, t FROM (SELECT k, j, t, row_number() OVER (PARTITION BY k ORDER BY v DESC, j) AS n \
                    FROM events) r WHERE n <= 2",
        ),
    ];
    for (workers, (view, query)) in [1, 2, 2].into_iter().zip(queries) {
        let engine = start(limited(workers));
        let mut s = session(&engine);
        run(&mut s, EVENTS).await;
        let watch = Watch::start(&engine);
        run(&mut s, &format!("CREATE MATERIALIZED VIEW {view} AS {query}")).await;
        drained(&mut s, "events", view).await;
        let bytes_max = watch.bytes_max();
        drop(watch);
        let spilled = spilled_bytes(&mut s).await;
        assert!(spilled > 2 * LIMIT, "{view}: {spilled} bytes are spilled");
        assert!(bytes_max <= LIMIT, "{view}: {bytes_max} bytes are in memory");
        assert_is_its_query(&mut s, view, query).await;
        run(&mut s, &format!("DROP MATERIALIZED VIEW {view}")).await;
        engine.shutdown().await;
    }
}

/// Keys and rows of a kilobyte: a few thousand of them are much, wherever rows are taken by number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wide_rows_stay_within_the_memory_too() {
    const N: i64 = 24_000;
    let wide = |j: &str| format!("lpad(({j})::text, 12, '0') || repeat(md5(({j})::text), 32)");
    let stream = format!(
        "CREATE STREAM wide (j bigint, t text) WITH (connector = 'generator', rows = '{N}',
         \"col.j\" = 'sequence(1)', \"col.t\" = 'expr({})')",
        wide("j % 16000").replace('\'', "''")
    );
    let queries = [
        ("groups", "SELECT t, count(*) AS n, min(j) AS j FROM wide GROUP BY t".to_owned()),
        ("pairs", format!("SELECT a.j, a.t, b.t AS u FROM wide a JOIN wide b ON a.j = b.j * 7919 % {N} + 1")),
    ];
    for (view, query) in queries {
        let engine = start(limited(2));
        let mut s = session(&engine);
        run(&mut s, &stream).await;
        let watch = Watch::start(&engine);
        run(&mut s, &format!("CREATE MATERIALIZED VIEW {view} AS {query}")).await;
        drained(&mut s, "wide", view).await;
        let bytes_max = watch.bytes_max();
        drop(watch);
        assert!(bytes_max <= LIMIT, "{view}: {bytes_max} bytes are in memory");
        assert_is_its_query(&mut s, view, &query).await;
        engine.shutdown().await;
    }

    // What a checkpoint has, and is gone since, is known by such keys until the next one.
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = limited(2);
    config.data_dir = Some(folder.path().join("data").into());
    let engine = start(config);
    let mut s = session(&engine);
    run(&mut s, "CREATE TABLE t (k text PRIMARY KEY, j bigint); CREATE STREAM again (k text)").await;
    let groups = "SELECT k, count(*) AS n FROM (SELECT k FROM t UNION ALL SELECT k FROM again) u GROUP BY k";
    run(&mut s, &format!("CREATE MATERIALIZED VIEW v AS {groups}")).await;
    let watch = Watch::start(&engine);
    for from in (0..N).step_by(2000) {
        run(&mut s, &format!("INSERT INTO t SELECT {}, j FROM generate_series({from}, {from} + 1999) g(j)", wide("j")))
            .await;
    }
    run(&mut s, "CHECKPOINT").await;
    for from in (0..N).step_by(4000) {
        run(
            &mut s,
            &format!("INSERT INTO again SELECT {} FROM generate_series({from}, {from} + 3999) g(j)", wide("j")),
        )
        .await;
        run(&mut s, &format!("DELETE FROM t WHERE j BETWEEN {from} AND {from} + 999")).await;
    }
    let bytes_max = watch.bytes_max();
    drop(watch);
    assert!(bytes_max <= LIMIT, "{bytes_max} bytes are in memory");
    assert_is_its_query(&mut s, "v", groups).await;
    assert_eq!(number(&mut s, "SELECT count(*) FROM t WHERE left(k, 12)::bigint = j").await, N * 3 / 4);
    engine.shutdown().await;
    let mut config = limited(1);
    config.data_dir = Some(folder.path().join("data").into());
    let engine = start(config);
    assert_is_its_query(&mut session(&engine), "v", groups).await;
    engine.shutdown().await;
}

/// Checkpoints are written one after the other: what they have still to write counts as well, or is spilled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_enough_while_checkpoints_are_written() {
    const N: i64 = 12_000;
    const N_ROUNDS: i64 = 8;
    let folder = tempfile::tempdir().expect("a folder");
    let config = |workers: usize| {
        let mut config = limited(workers);
        config.data_dir = Some(folder.path().join("data").into());
        config.checkpoints.interval = Duration::ZERO;
        config
    };
    let views = [
        ("groups", "SELECT g, count(*) AS n, min(t) AS t, max(t) AS u FROM r GROUP BY g"),
        ("pairs", "SELECT a.k, b.v, a.t FROM r a JOIN r b ON a.k = b.g"),
        (
            "firsts",
            "SELECT g, k, t FROM (SELECT g, k, t, row_number() OVER (PARTITION BY g / 2 ORDER BY v DESC, k) AS n \
             FROM r) s WHERE n <= 2",
        ),
    ];
    let engine = start(config(1));
    let mut s = session(&engine);
    run(&mut s, "CREATE TABLE r (k bigint PRIMARY KEY, g bigint, v bigint, t text)").await;
    for (view, query) in views {
        run(&mut s, &format!("CREATE MATERIALIZED VIEW {view} AS {query}")).await;
    }
    let watch = Watch::start(&engine);
    let mut newest = BTreeSet::new();
    for (i, from) in (0..).zip((0..N).step_by((N / N_ROUNDS) as usize)) {
        let columns = format!("k, k * 7919 % {N} / 4 * 3, k % 1009, repeat(md5(k::text), 18)");
        let to = from + N / N_ROUNDS - 1;
        run(&mut s, &format!("INSERT INTO r SELECT {columns} FROM generate_series({from}, {to}) s(k)")).await;
        run(&mut s, &format!("UPDATE r SET v = v + 1, t = '{i}' || t WHERE k % {N_ROUNDS} = {i}")).await;
        run(&mut s, &format!("DELETE FROM r WHERE k % 50 = {i}")).await;
        if spilled_bytes(&mut s).await > LIMIT {
            newest.insert(number(&mut s, "SELECT coalesce(max(epoch), 0) FROM millstream.checkpoints").await);
        }
    }
    for (view, query) in views {
        assert_is_its_query(&mut s, view, query).await;
    }
    let (bytes_max, spilled) = (watch.bytes_max(), spilled_bytes(&mut s).await);
    drop(watch);
    assert!(newest.len() > 1, "no checkpoint was written while state was spilled");
    assert!(spilled > 3 * LIMIT, "{spilled} bytes are spilled");
    assert!(bytes_max <= LIMIT, "{bytes_max} bytes are in memory");
    engine.shutdown().await;
    let engine = start(config(2));
    let mut s = session(&engine);
    for (view, query) in views {
        assert_is_its_query(&mut s, view, query).await;
    }
    engine.shutdown().await;
}

/// Rows that were spilled are changed, looked up, joined, and read by views that come later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_are_spilled_can_be_used() {
    let engine = start(limited(2));
    let mut s = session(&engine);
    run(&mut s, "CREATE TABLE t (k bigint PRIMARY KEY, g bigint, v text); CREATE INDEX ON t (g)").await;
    for i in 0..10 {
        let from = i * 5_000;
        let rows =
            format!("SELECT i, i % 1000, repeat('x', 500) || i FROM generate_series({from}, {from} + 4999) s(i)");
        run(&mut s, &format!("INSERT INTO t {rows}")).await;
    }
    let spilled = "SELECT sum(bytes_spilled)::bigint FROM millstream.arrangements WHERE relation = 't'";
    until(&mut s, spilled, |shown| !shown.contains(" 0 ")).await;
    assert_eq!(number(&mut s, "SELECT count(*) FROM t WHERE v = repeat('x', 500) || k").await, 50_000);
    assert_eq!(number(&mut s, "SELECT g FROM t WHERE k = 4321").await, 321);
    assert_eq!(number(&mut s, "SELECT count(*) FROM t WHERE g = 7").await, 50);
    run(&mut s, "CREATE MATERIALIZED VIEW n AS SELECT g, count(*) AS n, max(v) AS v FROM t GROUP BY g").await;
    run(&mut s, "CREATE TABLE u (k bigint PRIMARY KEY); INSERT INTO u SELECT i * 7 FROM generate_series(1, 1000) s(i)")
        .await;
    let joined = "SELECT u.k, t.g, t.v FROM u JOIN t ON u.k = t.k";
    run(&mut s, &format!("CREATE MATERIALIZED VIEW j AS {joined}")).await;
    run(&mut s, "UPDATE t SET v = 'changed ' || k WHERE k % 100 = 7; DELETE FROM t WHERE k % 100 = 8").await;
    run(&mut s, "INSERT INTO u VALUES (3), (107), (49999); DELETE FROM u WHERE k = 14").await;
    assert_is_its_query(&mut s, "n", "SELECT g, count(*) AS n, max(v) AS v FROM t GROUP BY g").await;
    assert_is_its_query(&mut s, "j", joined).await;
    assert_eq!(number(&mut s, "SELECT count(*) FROM t WHERE v LIKE 'changed%'").await, 500);
    engine.shutdown().await;
}

/// While nothing can be spilled, writes that need that are refused, and nothing else is; afterwards they go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_of_no_use_for_a_while_is_used_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = limited(2);
    config.data_dir = Some(folder.path().to_owned().into());
    let engine = start(config);
    let mut s = session(&engine);
    run(&mut s, "CREATE TABLE t (k bigint PRIMARY KEY, v text)").await;
    let (spill, aside) = (folder.path().join("spill"), folder.path().join("aside"));
    std::fs::rename(&spill, &aside).expect("it is there");
    std::fs::write(&spill, "in the way").expect("there is room");

    let insert = |from: i64| {
        format!("INSERT INTO t SELECT i, repeat('x', 500) || i FROM generate_series({from}, {from} + 1999) s(i)")
    };
    let (mut n_rows, mut refused) = (0, None);
    while refused.is_none() && n_rows < 200_000 {
        match s.query(&insert(n_rows)).await {
            Ok(_) => n_rows += 2000,
            Err(error) => refused = Some(error),
        }
    }
    assert_eq!(refused.expect("memory has an end").state(), SqlState::OUT_OF_MEMORY);
    assert_eq!(number(&mut s, "SELECT count(*) FROM t").await, n_rows);
    std::fs::remove_file(&spill).expect("it is there");
    std::fs::rename(&aside, &spill).expect("it is there");
    let spilled = "SELECT sum(bytes_spilled)::bigint FROM millstream.arrangements WHERE relation = 't'";
    until(&mut s, spilled, |shown| !shown.contains(" 0 ")).await;
    run(&mut s, &insert(n_rows)).await;
    assert_eq!(number(&mut s, "SELECT count(*) FROM t").await, n_rows + 2000);
    engine.shutdown().await;
}

/// What was spilled is in checkpoints like what is in memory: views go on from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spilled_state_outlives_the_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = |workers: usize| {
        let mut config = limited(workers);
        config.memory.spill_from = 0;
        config.data_dir = Some(folder.path().join("data").into());
        config
    };
    let groups = "SELECT g, count(*) AS n, min(v) AS v FROM t GROUP BY g";
    let joined = "SELECT a.k, b.v FROM t a JOIN t b ON a.g = b.k";
    let firsts = "SELECT k, g FROM (SELECT k, g, row_number() OVER (PARTITION BY g ORDER BY v, k) AS n FROM t) r \
                  WHERE n <= 2";
    let views = [("groups", groups), ("joined", joined), ("firsts", firsts)];
    for (round, workers) in [2, 3, 1].into_iter().enumerate() {
        let engine = start(config(workers));
        let mut s = session(&engine);
        if round == 0 {
            run(&mut s, "CREATE TABLE t (k bigint PRIMARY KEY, g bigint, v text)").await;
            for (view, query) in views {
                run(&mut s, &format!("CREATE MATERIALIZED VIEW {view} AS {query}")).await;
            }
        } else {
            for (view, query) in views {
                assert_is_its_query(&mut s, view, query).await;
            }
        }
        for i in 0..2 {
            let from = (round * 2 + i) * 1_000;
            let rows = format!("SELECT i, i * 7 % 997, i % 100 || 'x' FROM generate_series({from}, {from} + 999) s(i)");
            run(&mut s, &format!("INSERT INTO t {rows}")).await;
            run(&mut s, &format!("DELETE FROM t WHERE k % 10 = {i}; UPDATE t SET g = g + 1 WHERE k % 13 = {i}")).await;
            if i == 0 {
                run(&mut s, "CHECKPOINT").await;
            }
        }
        for (view, query) in views {
            assert_is_its_query(&mut s, view, query).await;
        }
        engine.shutdown().await;
    }
}

/// Where there is no room on disk either, the view fails that has the most, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_fails_when_the_disk_is_full_as_well() {
    let mut config = limited(2);
    config.memory.spilled = 1 << 20;
    let engine = start(config);
    let mut s = session(&engine);
    run(&mut s, EVENTS).await;
    run(&mut s, "CREATE MATERIALIZED VIEW few AS SELECT count(*) AS n FROM events WHERE k <= 10").await;
    let large = "CREATE MATERIALIZED VIEW large AS SELECT k, j, t FROM events";
    let created = s.query(large).await;
    let error = match created {
        Err(error) => error,
        Ok(_) => {
            until(&mut s, "SELECT state FROM millstream.jobs WHERE name = 'large'", |shown| shown.contains("failed"))
                .await;
            s.query("SELECT * FROM large").await.expect_err("it has failed")
        }
    };
    assert!(is_because_of(&error, SqlState::OUT_OF_MEMORY, "53200"), "{error}");
    assert!(number(&mut s, "SELECT n FROM few").await > 0);
    engine.shutdown().await;
}

/// Whether that is the error, or what a view that has failed says of its cause.
fn is_because_of(error: &Error, state: SqlState, code: &str) -> bool {
    error.state() == state || error.fields().detail.as_deref().is_some_and(|detail| detail.contains(code))
}

/// Spilled state that is damaged fails the view that it is of, when it is read, and `REFRESH` mends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_of_spilled_state_fails_its_view_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = limited(2);
    config.data_dir = Some(folder.path().join("data").into());
    let engine = start(config);
    let mut s = session(&engine);
    run(&mut s, EVENTS).await;
    run(&mut s, "CREATE STREAM more (k bigint, t text)").await;
    let large = "SELECT k, count(*) AS n, min(t) AS t FROM (SELECT k, t FROM events UNION ALL SELECT k, t FROM more) u \
                 GROUP BY k";
    let few = "SELECT count(*) AS n FROM more";
    run(&mut s, &format!("CREATE MATERIALIZED VIEW few AS {few}")).await;
    run(&mut s, &format!("CREATE MATERIALIZED VIEW large AS {large}")).await;
    drained(&mut s, "events", "large").await;
    let spilled = "SELECT sum(spilled_bytes)::bigint FROM millstream.operators";
    assert!(number(&mut s, spilled).await > 0);
    for file in std::fs::read_dir(folder.path().join("data/spill")).expect("the folder of spilled state") {
        let path = file.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "rows") {
            // One that is of no more use is gone.
            let Ok(file) = std::fs::metadata(&path) else { continue };
            std::fs::write(&path, vec![0; file.len() as usize]).expect("it can be damaged");
        }
    }
    run(&mut s, "INSERT INTO more SELECT i, 'a' FROM generate_series(1, 40000) g(i)").await;
    let error = loop {
        if let Err(error) = s.query("SELECT count(*) FROM large WHERE t = 'a'").await {
            break error;
        }
    };
    assert!(is_because_of(&error, SqlState::DATA_CORRUPTED, "XX001"), "{error}: {:?}", error.fields().detail);
    until(&mut s, "SELECT state FROM millstream.jobs WHERE name = 'large'", |shown| shown.contains("failed")).await;
    run(&mut s, "INSERT INTO more VALUES (1, 'b')").await;
    assert_eq!(number(&mut s, "SELECT n FROM few").await, 40_001);
    run(&mut s, "REFRESH MATERIALIZED VIEW large").await;
    assert_is_its_query(&mut s, "large", large).await;
    // Nothing of the damage is left for checkpoints either.
    run(&mut s, "CHECKPOINT").await;
    engine.shutdown().await;
}

/// How many rows a table for queries has.
const N: i64 = 60_000;

/// A table of 24 MB whose order by `k` is not that by `i`.
async fn fill_with_keys(s: &mut Session) {
    run(s, "CREATE TABLE t (i bigint PRIMARY KEY, k text)").await;
    for from in (1..=N).step_by(10_000) {
        let keys =
            format!("lpad((i * 7919 % 100003)::text, 400, '0') FROM generate_series({from}, {from} + 9999) g(i)");
        run(s, &format!("INSERT INTO t SELECT i, {keys}")).await;
    }
}

/// Sorts, groups and windows of several times what queries may take, several of them in one query, and on several threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_that_sort_several_times_spill() {
    let mut config = config(2);
    config.memory = MemoryLimits { queries: 12 << 20, ..config.memory };
    let engine = start(config);
    let mut s = session(&engine);
    fill_with_keys(&mut s).await;
    for (query, result) in [
        (
            "SELECT count(*) FROM (SELECT i, rank() OVER (ORDER BY k), rank() OVER (ORDER BY k DESC) AS n FROM t) r WHERE n > 5",
            N - 5,
        ),
        ("SELECT sum(n)::bigint FROM (SELECT row_number() OVER (PARTITION BY i % 3 ORDER BY k) AS n FROM t) r", {
            let each = N / 3;
            3 * (each * (each + 1) / 2)
        }),
        ("SELECT count(*) FROM (SELECT DISTINCT k FROM t UNION SELECT DISTINCT ON (i % 20000) k FROM t) r", N),
        ("SELECT sum(n)::bigint FROM (SELECT k, count(*) AS n FROM t GROUP BY k) r", N),
        ("SELECT count(*) FROM (SELECT k, max(i) AS last FROM t GROUP BY k ORDER BY max(i), k) r", N),
    ] {
        assert_eq!(number(&mut s, query).await, result, "{query}");
    }
    engine.shutdown().await;
}

/// Joins of every kind, and limits, of several times what queries may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_of_all_kinds_spill() {
    let mut config = config(2);
    config.memory = MemoryLimits { queries: 12 << 20, ..config.memory };
    let engine = start(config);
    let mut s = session(&engine);
    fill_with_keys(&mut s).await;
    let mut by_key: Vec<i64> = (1..=N).collect();
    by_key.sort_unstable_by_key(|i| i * 7919 % 100_003);
    let squares = |step: i64| (1..=N / step).map(|i| (i * step) * (i * step)).sum::<i64>();
    let (a_third, a_fifth) = (squares(3), squares(5));
    for (query, result) in [
        ("SELECT sum(a.i * b.i) FROM t a JOIN t b ON a.k = b.k", squares(1)),
        ("SELECT sum(a.i * coalesce(b.i, 0)) FROM t a LEFT JOIN t b ON a.k = b.k AND b.i % 3 = 0", a_third),
        ("SELECT sum(b.i * coalesce(a.i, 0)) FROM t a RIGHT JOIN t b ON a.k = b.k AND a.i % 3 = 0", a_third),
        (
            "SELECT sum(coalesce(a.i, b.i) * coalesce(b.i, a.i)) FROM (SELECT * FROM t WHERE i % 4 <> 0) a \
             FULL JOIN (SELECT * FROM t WHERE i % 4 <> 1) b ON a.k = b.k",
            squares(1),
        ),
        ("SELECT sum(i * i) FROM t a WHERE EXISTS (SELECT FROM t b WHERE a.k = b.k AND b.i % 5 = 0)", a_fifth),
        ("SELECT sum(i * i) FROM t a WHERE NOT EXISTS (SELECT FROM t b WHERE a.k = b.k AND b.i % 5 <> 0)", a_fifth),
        (
            "SELECT sum(i * i) FROM t a WHERE i % 5 = 0 OR EXISTS (SELECT FROM t b WHERE a.k = b.k AND b.i % 10 = 0)",
            a_fifth,
        ),
        ("SELECT sum(i * i) FROM t a WHERE k IN (SELECT k FROM t b WHERE b.i % 5 = 0)", a_fifth),
        ("SELECT sum(i * i) FROM t a WHERE k NOT IN (SELECT k FROM t b WHERE b.i % 5 <> 0)", a_fifth),
        ("SELECT count(*) FROM t a WHERE k NOT IN (SELECT nullif(k, a.k) FROM t a WHERE i % 5 = 0)", 0),
        (
            "SELECT sum(i * i) FROM (SELECT i, CASE WHEN i % 2 = 0 THEN k END AS k FROM t) a \
             WHERE k NOT IN (SELECT k FROM t b WHERE b.i % 10 <> 0)",
            squares(10),
        ),
        (
            "SELECT sum(i * i) FROM (SELECT i, CASE WHEN i % 2 = 0 THEN k END AS k FROM t) a \
             WHERE k NOT IN (SELECT k FROM t b WHERE k < '')",
            squares(1),
        ),
        // All rows of one side, whichever it is, have one key.
        ("SELECT sum(a.i) FROM t a JOIN t b ON a.i = length(b.k) / 80 WHERE a.k > '' AND b.k > ''", 5 * N),
        ("SELECT count(*) FROM t b LEFT JOIN t a ON a.i = length(b.k) / 80 AND a.k > b.k", N),
        (
            "SELECT count(*) FROM t b WHERE NOT EXISTS (SELECT FROM t a WHERE a.i = length(b.k) / 80 AND a.k < b.k)",
            (1..=N).filter(|i| i * 7919 % 100_003 <= 5 * 7919).count() as i64,
        ),
        ("SELECT sum(b.i) FROM t a CROSS JOIN (SELECT * FROM t WHERE i <= 2) b WHERE a.k > '' AND b.k > ''", 3 * N),
        (
            "SELECT sum(i) FROM (SELECT i FROM t ORDER BY k OFFSET 20000 LIMIT 30000) r",
            by_key[20_000..50_000].iter().sum(),
        ),
        (
            "SELECT sum(last) FROM (SELECT a.k, max(c.i) AS last FROM (SELECT * FROM t WHERE i <= 20000) a \
             JOIN t b ON a.k = b.k JOIN t c ON b.k = c.k GROUP BY a.k ORDER BY max(c.i) DESC, a.k LIMIT 15000) r",
            (5_001..=20_000).sum(),
        ),
    ] {
        let query = format!("SELECT n::bigint FROM ({query}) q(n)");
        assert_eq!(number(&mut s, &query).await, result, "{query}");
    }
    engine.shutdown().await;
}

/// The same on conditions that are no equality, where one side is read again for each part of the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_on_inequalities_spill() {
    const N_WIDE: i64 = 1_500;
    let mut config = config(2);
    config.memory = MemoryLimits { queries: 9 << 20, ..config.memory };
    let engine = start(config);
    let mut s = session(&engine);
    let wide = "lpad((i * 7919 % 100003)::text, 16, '0') || repeat('x', 8000)";
    run(&mut s, "CREATE TABLE w (i bigint PRIMARY KEY, k text)").await;
    for from in (1..=N_WIDE).step_by(250) {
        run(&mut s, &format!("INSERT INTO w SELECT i, {wide} FROM generate_series({from}, {from} + 249) g(i)")).await;
    }
    let is_pair = |a: i64, b: i64| a * 7919 % 100_003 < b * 7919 % 100_003 && (a + b) % 50 == 0;
    let all = 1..=N_WIDE;
    let n_pairs = all.clone().map(|a| all.clone().filter(|&b| is_pair(a, b)).count() as i64).sum::<i64>();
    let sum = |of: &dyn Fn(i64) -> bool| all.clone().filter(|&i| of(i)).sum::<i64>();
    let left_alone = sum(&|a| !all.clone().any(|b| is_pair(a, b)));
    let right_alone = sum(&|b| !all.clone().any(|a| is_pair(a, b)));
    assert!(left_alone > 0 && right_alone > 0, "some are without a partner");
    let on = "a.k < b.k AND (a.i + b.i) % 50 = 0";
    let of_join =
        "1000000 * count(a.i + b.i) + sum(CASE WHEN a.i IS NULL THEN b.i WHEN b.i IS NULL THEN a.i ELSE 0 END)";
    let pairs = n_pairs * 1_000_000;
    for (query, result) in [
        (format!("{of_join} FROM w a JOIN w b ON {on}"), pairs),
        (format!("{of_join} FROM w a LEFT JOIN w b ON {on}"), pairs + left_alone),
        (format!("{of_join} FROM w a RIGHT JOIN w b ON {on}"), pairs + right_alone),
    ] {
        assert_eq!(number(&mut s, &format!("SELECT n::bigint FROM (SELECT {query}) q(n)")).await, result, "{query}");
    }
    // Not every kind does, and then there are no rows rather than others.
    let error = s.query(&format!("SELECT count(*) FROM w a FULL JOIN w b ON {on}")).await.expect_err("no memory");
    assert_eq!(error.state(), SqlState::OUT_OF_MEMORY, "{error}");
    engine.shutdown().await;
}

/// A sort that needs more memory than it may have goes on on disk, or fails where there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_spill_as_well() {
    let mut keys: Vec<(i64, i64)> = (1..=N).map(|i| (i * 7919 % 100_003, i)).collect();
    keys.sort_unstable();
    let ranks: i64 = (1..).zip(keys).map(|(rank, (_, i))| rank * i).sum();
    for spilled in [1 << 30, 0] {
        let mut config = config(1);
        config.memory = MemoryLimits { queries: 12 << 20, spilled, ..config.memory };
        let engine = start(config);
        let mut s = session(&engine);
        fill_with_keys(&mut s).await;
        let sorted = "SELECT sum(i * n)::bigint FROM (SELECT i, row_number() OVER (ORDER BY k) AS n FROM t) r";
        if spilled > 0 {
            assert_eq!(number(&mut s, sorted).await, ranks);
        } else {
            let error = s.query(sorted).await.expect_err("there is no memory for it");
            assert_eq!(error.state(), SqlState::OUT_OF_MEMORY, "{error}");
        }
        assert_eq!(number(&mut s, "SELECT count(*) FROM t").await, N);
        engine.shutdown().await;
    }
}
