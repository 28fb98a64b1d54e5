//! Who may hold back whom: hydration, slow, failing and exploding views, memory limits, back pressure.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use millstream_engine::{MemoryLimits, Response};
use millstream_types::SqlState;

use super::common::*;

/// Nothing is spilled.
const IN_MEMORY: MemoryLimits =
    MemoryLimits { state: 0, spill_from: usize::MAX, view: 0, queries: 0, in_flight: 1 << 40, spilled: 0 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_made_during_writes_is_right() {
    for workers in [1, 2] {
        let engine = start(config(workers));
        let mut s = session(&engine);
        run(
            &mut s,
            "CREATE TABLE t (k bigint PRIMARY KEY, g bigint, v bigint); CREATE TABLE d (g bigint PRIMARY KEY, name text);
             CREATE STREAM log (g bigint);
             INSERT INTO t SELECT i, i % 97, i FROM generate_series(1, 60000) AS s(i);
             INSERT INTO d SELECT i, 'g' || i FROM generate_series(0, 96) AS s(i);
             INSERT INTO log SELECT i % 7 FROM generate_series(1, 30000) AS s(i);
             CREATE MATERIALIZED VIEW below AS SELECT k, g, v FROM t WHERE v % 3 <> 0",
        )
        .await;
        let writer = Writer::start(&engine, |i| {
            let k = i * 31 % 60_000 + 1;
            match i % 5 {
                0 => format!("UPDATE t SET g = (g + 1) % 97, v = v + 1 WHERE k = {k}"),
                1 => format!("DELETE FROM t WHERE k = {k}"),
                2 => format!("INSERT INTO t VALUES ({}, {}, {i})", 100_000 + i, i % 97),
                3 => format!("INSERT INTO log VALUES ({})", i % 11),
                _ => format!("UPDATE d SET name = name || 'x' WHERE g = {}", i % 97),
            }
        });
        let views = [
            ("sums", "SELECT d.name, count(*) AS n, sum(t.v) AS s FROM t JOIN d ON d.g = t.g GROUP BY d.name"),
            ("upper", "SELECT b.g, max(b.v) AS m, count(*) AS n FROM below b GROUP BY b.g"),
            ("mixed", "SELECT l.g, count(*) AS n FROM log l JOIN d ON d.g = l.g GROUP BY l.g"),
            ("top", "SELECT k, v FROM t ORDER BY v DESC, k LIMIT 20"),
        ];
        for (name, query) in views {
            run(&mut s, &format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await;
            assert_is_its_query(&mut s, name, query).await;
        }
        assert!(writer.stop().await > 0);
        for (name, query) in views {
            assert_is_its_query(&mut s, name, query).await;
        }
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_is_made_blocks_nobody_and_can_be_cancelled_and_dropped() {
    let mut config = config(2);
    config.batch_rows_max = 256;
    let slow = Slow::new(&mut config, "slow", Duration::from_millis(20));
    let engine = start(config);
    let mut s = session(&engine);
    run(&mut s, "CREATE TABLE t (k bigint PRIMARY KEY, v bigint); INSERT INTO t SELECT i, i FROM generate_series(1, 400000) AS s(i)")
        .await;
    for how in ["cancel", "gone", "drop"] {
        let mut maker = session(&engine);
        let cancel = maker.cancel_handle();
        let task = tokio::spawn(async move {
            maker
                .query("CREATE MATERIALIZED VIEW slow AS SELECT v % 10 AS g, count(*) AS n FROM t GROUP BY v % 10")
                .await
        });
        until(&mut s, "SHOW MATERIALIZED VIEWS", |views| views.contains("slow")).await;
        until(&mut s, "SHOW JOBS", |jobs| jobs.contains("slow") && jobs.contains("hydrating")).await;
        let error = s.query("SELECT * FROM slow").await.expect_err("it is being built");
        assert_eq!(error.state(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{error}");
        assert!(error.fields().hint.as_deref().is_some_and(|h| h.contains("SHOW JOBS")), "{error}");
        let error = s.query("CREATE MATERIALIZED VIEW over AS SELECT n FROM slow").await.expect_err("not yet");
        assert_eq!(error.state(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{error}");
        // Reads, writes and DDL of others go on.
        run(
            &mut s,
            "UPDATE t SET v = v + 1 WHERE k = 1; CREATE MATERIALIZED VIEW quick AS SELECT count(*) AS n FROM t",
        )
        .await;
        assert_eq!(number(&mut s, "SELECT n FROM quick").await, 400_000);
        run(&mut s, "DROP MATERIALIZED VIEW quick").await;
        assert!(rows(&mut s, "SHOW JOBS").await.contains("hydrating"), "it was not waited for");
        match how {
            "cancel" => {
                cancel.cancel();
                let error = task.await.expect("no panic").expect_err("it was cancelled");
                assert_eq!(error.state(), SqlState::QUERY_CANCELED);
                let error = s.query("SELECT * FROM slow").await.expect_err("it is gone");
                assert_eq!(error.state(), SqlState::UNDEFINED_TABLE);
            }
            "gone" => {
                task.abort();
                until(&mut s, "SHOW JOBS", |jobs| !jobs.contains("slow")).await;
            }
            _ => {
                run(&mut s, "DROP MATERIALIZED VIEW slow").await;
                let error = task.await.expect("no panic").expect_err("it was dropped");
                assert_eq!(error.state(), SqlState::UNDEFINED_TABLE);
            }
        }
        assert_eq!(number(&mut s, "SELECT count(*) FROM millstream.operators WHERE relation = 'slow'").await, 0);
    }
    slow.switch_off();
    let query = "SELECT v % 10 AS g, count(*) AS n FROM t GROUP BY v % 10";
    run(&mut s, &format!("CREATE MATERIALIZED VIEW slow AS {query}")).await;
    assert_is_its_query(&mut s, "slow", query).await;
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_panics_harms_only_what_is_built_on_it() {
    let panics = Arc::new(AtomicBool::new(false));
    let hook_panics = Arc::clone(&panics);
    let mut config = config(2);
    config.operator_hook = Some(Arc::new(move |dataflow: &str, operator: &str| {
        assert!(!(dataflow == "bad" && operator == "Aggregate" && hook_panics.load(Ordering::Relaxed)), "a test");
    }));
    let engine = start(config);
    let mut s = session(&engine);
    run(
        &mut s,
        "CREATE TABLE t (k bigint PRIMARY KEY, v bigint);
         INSERT INTO t SELECT i, i FROM generate_series(1, 20000) AS s(i);
         CREATE MATERIALIZED VIEW bad AS SELECT v, count(*) AS n FROM t GROUP BY v;
         CREATE MATERIALIZED VIEW above AS SELECT n, count(*) AS m FROM bad GROUP BY n;
         CREATE MATERIALIZED VIEW good AS SELECT count(*) AS n FROM t",
    )
    .await;
    panics.store(true, Ordering::Relaxed);
    run(&mut s, "INSERT INTO t VALUES (0, 7)").await;
    assert_eq!(number(&mut s, "SELECT n FROM good").await, 20_001);
    let error = s.query("SELECT * FROM bad").await.expect_err("it has failed");
    assert_eq!(error.state(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{error}");
    assert!(error.message().contains("panicked: a test"), "{error}");
    assert!(error.fields().hint.as_deref().is_some_and(|h| h.contains("REFRESH MATERIALIZED VIEW bad")), "{error}");
    let error = s.query("SELECT * FROM above").await.expect_err("it is built on one that has failed");
    assert!(error.message().contains("panicked: a test") && error.message().contains("\"bad\""), "{error}");
    assert!(error.fields().hint.as_deref().is_some_and(|h| h.contains("bad CASCADE")), "{error}");
    assert!(rows(&mut s, "SHOW JOBS").await.contains("failed"));
    // Its state is freed at once.
    let bytes = "SELECT sum(state_bytes)::bigint FROM millstream.relations WHERE name IN ('bad', 'above')";
    until(&mut s, bytes, |shown| shown.contains("| 0 ")).await;
    let error = s.query("REFRESH MATERIALIZED VIEW bad").await.expect_err("it panics again");
    assert!(error.message().contains("panicked: a test"), "{error}");
    panics.store(false, Ordering::Relaxed);
    run(&mut s, "REFRESH MATERIALIZED VIEW bad").await;
    assert_is_its_query(&mut s, "bad", "SELECT v, count(*) AS n FROM t GROUP BY v").await;
    s.query("SELECT * FROM above").await.expect_err("it was not refreshed with it");
    run(&mut s, "REFRESH MATERIALIZED VIEW bad CASCADE; INSERT INTO t VALUES (-1, 8)").await;
    assert_is_its_query(
        &mut s,
        "above",
        "SELECT n, count(*) AS m FROM (SELECT v, count(*) AS n FROM t GROUP BY v) b GROUP BY n",
    )
    .await;
    s.take_notices();
    run(&mut s, "REFRESH MATERIALIZED VIEW bad").await;
    assert!(s.take_notices().iter().any(|n| n.message.contains("nothing to refresh")));
    panics.store(true, Ordering::Relaxed);
    run(&mut s, "INSERT INTO t VALUES (-2, 9); DROP MATERIALIZED VIEW bad CASCADE").await;
    s.query("SELECT * FROM above").await.expect_err("it was dropped as well");
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_explodes_fails_at_its_limit() {
    let mut config = config(2);
    config.memory = MemoryLimits { state: 256 << 20, view: 24 << 20, queries: 16 << 20, ..IN_MEMORY };
    let engine = start(config);
    let mut s = session(&engine);
    run(
        &mut s,
        "CREATE TABLE t (k bigint PRIMARY KEY, v bigint);
         INSERT INTO t SELECT i, i FROM generate_series(1, 30000) AS s(i);
         CREATE MATERIALIZED VIEW small AS SELECT count(*) AS n FROM t",
    )
    .await;
    let cross = "SELECT a.k AS x, b.k AS y FROM t a CROSS JOIN t b";
    match s.query(&format!("CREATE MATERIALIZED VIEW large AS {cross}")).await {
        Ok(_) => {
            let seen = "SELECT (SELECT count(*) FROM t) AS t, (SELECT n FROM small) AS small, \
                        (SELECT string_agg(name || ' ' || state, ', ') FROM millstream.jobs) AS jobs, \
                        (SELECT count(*) FROM large) AS large";
            panic!("it fits: {:?}", s.query(seen).await);
        }
        Err(error) => assert_eq!(error.state(), SqlState::OUT_OF_MEMORY, "{error}"),
    }
    s.query("SELECT * FROM large").await.expect_err("it was dropped");
    let limited = "CREATE MATERIALIZED VIEW limited WITH (memory_limit = '1MB') AS SELECT k, v FROM t";
    assert_eq!(s.query(limited).await.expect_err("it does not fit").state(), SqlState::OUT_OF_MEMORY);
    // One that fits at first.
    run(&mut s, "CREATE TABLE u (k bigint PRIMARY KEY); INSERT INTO u VALUES (1)").await;
    run(&mut s, "CREATE MATERIALIZED VIEW grows AS SELECT a.k AS x, u.k AS y FROM t a JOIN u ON a.v + u.k > 0").await;
    run(&mut s, "INSERT INTO u SELECT i FROM generate_series(2, 30000) AS s(i)").await;
    let error = s.query("SELECT count(*) FROM grows").await.expect_err("it has failed");
    assert!(error.message().contains("memory limit"), "{error}");
    assert!(error.fields().detail.as_deref().is_some_and(|d| d.contains("53200")), "{error}");
    run(&mut s, "INSERT INTO t VALUES (0, 0)").await;
    assert_eq!(number(&mut s, "SELECT n FROM small").await, 30_001);
    run(&mut s, "DROP MATERIALIZED VIEW grows").await;
    // A query has a limit of its own.
    let error = s.query("SELECT count(*) FROM (SELECT DISTINCT a.k, b.k AS l FROM t a CROSS JOIN t b) d").await;
    assert_eq!(error.expect_err("it does not fit").state(), SqlState::OUT_OF_MEMORY);
    assert_eq!(number(&mut s, "SELECT count(*) FROM t").await, 30_001);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_warns_of_rows_that_its_views_leave_out() {
    let engine = start(config(2));
    let mut s = session(&engine);
    run(
        &mut s,
        "CREATE TABLE t (k bigint PRIMARY KEY, d bigint);
         CREATE MATERIALIZED VIEW low AS SELECT k, 10 / d AS q FROM t;
         CREATE MATERIALIZED VIEW high AS SELECT k, q FROM low WHERE q > 0;
         INSERT INTO t VALUES (1, 1), (2, 0), (3, 0)",
    )
    .await;
    let mut warnings = async |sql: &str| {
        run(&mut s, sql).await;
        s.take_notices().into_iter().map(|notice| notice.message).collect::<Vec<_>>()
    };
    let left_out = "2 rows are left out of materialized view \"low\"";
    assert_eq!(warnings("SELECT k FROM low").await, [left_out]);
    assert_eq!(warnings("SELECT h.k FROM high h JOIN low l ON h.k = l.k JOIN high g ON g.k = h.k").await, [left_out]);
    assert_eq!(warnings("SELECT * FROM t").await, [""; 0]);
    assert_eq!(warnings("UPDATE t SET d = 5 WHERE k = 2").await, [""; 0]);
    assert_eq!(warnings("SELECT q FROM low WHERE k = 1").await, ["1 row is left out of materialized view \"low\""]);
    assert_eq!(warnings("DELETE FROM t WHERE k = 3").await, [""; 0]);
    assert_eq!(warnings("SELECT k FROM high").await, [""; 0]);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_far_over_its_limit_fails_in_its_first_epoch() {
    for workers in [1, 2, 4] {
        let mut config = config(workers);
        config.memory.spilled = 0;
        let engine = start(config);
        let mut s = session(&engine);
        run(
            &mut s,
            "CREATE TABLE t (k bigint PRIMARY KEY, v text);
             INSERT INTO t SELECT i, repeat('x', 100) || i FROM generate_series(1, 20000) AS s(i)",
        )
        .await;
        for limit in ["2MB", "1MB", "500kB", "200kB", "100kB"] {
            let create = format!("CREATE MATERIALIZED VIEW v WITH (memory_limit = '{limit}') AS SELECT * FROM t");
            let created = tokio::time::timeout(Duration::from_secs(60), s.query(&create)).await;
            let error = created.expect("it ends").expect_err("it does not fit");
            assert_eq!(error.state(), SqlState::OUT_OF_MEMORY, "{limit} on {workers} workers: {error}");
        }
        run(&mut s, "CREATE MATERIALIZED VIEW v WITH (memory_limit = '100MB') AS SELECT * FROM t").await;
        assert_eq!(number(&mut s, "SELECT count(*) FROM v").await, 20_000);
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_explodes_fails_before_it_is_written() {
    let mut config = config(2);
    config.memory = MemoryLimits { state: 256 << 20, view: 256 << 20, queries: 16 << 20, ..IN_MEMORY };
    let engine = start(config);
    let (mut s, mut other) = (session(&engine), session(&engine));
    run(
        &mut s,
        "CREATE TABLE t (k bigint PRIMARY KEY, v text); CREATE STREAM log (v bigint);
         INSERT INTO t SELECT i, 'a' FROM generate_series(1, 1000) AS s(i);
         CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM t",
    )
    .await;
    let many = "generate_series(1, 100000) AS a(i), generate_series(1, 100000) AS b(j)";
    for sql in [
        format!("INSERT INTO log SELECT j FROM {many}"),
        format!("INSERT INTO t SELECT i * 100000 + j, 'b' FROM {many}"),
        format!("INSERT INTO log SELECT k FROM t, {many}"),
        format!("BEGIN; INSERT INTO t SELECT i * 100000 + j, 'b' FROM {many}"),
        "UPDATE t SET v = repeat('x', 50000)".to_owned(),
    ] {
        let error = s.query(&sql).await.expect_err("it does not fit");
        assert_eq!(error.state(), SqlState::OUT_OF_MEMORY, "{sql}: {error}");
        run(&mut s, "ROLLBACK").await;
        assert_eq!(number(&mut other, "SELECT n FROM n").await, 1000);
        assert_eq!(number(&mut other, "SELECT count(*) FROM log").await, 0);
    }
    // Nothing of that is left to stand in the way, nor what is taken back to a savepoint.
    run(&mut s, "BEGIN").await;
    for _ in 0..20 {
        run(&mut s, "SAVEPOINT p; INSERT INTO log SELECT i FROM generate_series(1, 200000) AS s(i); ROLLBACK TO p")
            .await;
    }
    run(&mut s, "COMMIT").await;
    let copy = s.parse("COPY log FROM STDIN").expect("it parses").remove(0);
    let Response::CopyIn(_) = s.run(&copy).await.expect("it runs") else { panic!("a copy") };
    let column: arrow::array::ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![7; 100_000]));
    let rows = arrow::array::RecordBatch::try_from_iter([("v", column)]).expect("a batch");
    let mut n_taken = 0;
    let error = loop {
        match s.copy_push(rows.clone()).await {
            Ok(()) => n_taken += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((error.state(), n_taken), (SqlState::OUT_OF_MEMORY, (16 << 20) / 800_000));
    run(&mut s, "INSERT INTO log SELECT i FROM generate_series(1, 200000) AS s(i)").await;
    assert_eq!(number(&mut other, "SELECT count(*) FROM log").await, 200_000);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_state_together_has_a_limit() {
    let mut config = config(2);
    config.memory = MemoryLimits { state: 48 << 20, view: 1 << 40, queries: 64 << 20, ..IN_MEMORY };
    let engine = start(config);
    let mut s = session(&engine);
    run(
        &mut s,
        "CREATE TABLE t (k bigint PRIMARY KEY, v bigint);
         INSERT INTO t SELECT i, i FROM generate_series(1, 20000) AS s(i);
         CREATE MATERIALIZED VIEW small AS SELECT count(*) AS n FROM t",
    )
    .await;
    let cross = "CREATE MATERIALIZED VIEW large AS SELECT a.k AS x, b.k AS y FROM t a CROSS JOIN t b";
    let error = s.query(cross).await.expect_err("it does not fit");
    assert_eq!(error.state(), SqlState::OUT_OF_MEMORY, "{error}");
    assert_eq!(number(&mut s, "SELECT n FROM small").await, 20_000);
    // A table that does not fit refuses rows; what is deleted makes room.
    let mut refused = None;
    for i in 1..200 {
        let from = 20_000 * i;
        let insert = format!("INSERT INTO t SELECT i, i FROM generate_series({}, {}) AS s(i)", from + 1, from + 20_000);
        if let Err(error) = s.query(&insert).await {
            refused = Some(error);
            break;
        }
    }
    assert_eq!(refused.expect("it is full at some time").state(), SqlState::OUT_OF_MEMORY);
    run(&mut s, "DELETE FROM t WHERE k > 10").await;
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_stalls_is_set_aside_and_comes_back() {
    let mut config = config(2);
    config.batch_rows_max = 512;
    config.max_stall = Duration::from_secs(1);
    let slow = Slow::new(&mut config, "slow", Duration::from_millis(15));
    let engine = start(config);
    let mut s = session(&engine);
    let (query, above) =
        ("SELECT v % 10 AS g, count(*) AS n, sum(v) AS s FROM t GROUP BY v % 10", "SELECT sum(n) AS n FROM slow");
    run(
        &mut s,
        &format!(
            "CREATE TABLE t (k bigint PRIMARY KEY, v bigint); INSERT INTO t VALUES (0, 0);
             CREATE MATERIALIZED VIEW slow AS {query}; CREATE MATERIALIZED VIEW above AS {above};
             CREATE MATERIALIZED VIEW quick AS SELECT count(*) AS n FROM t"
        ),
    )
    .await;
    run(&mut s, "INSERT INTO t SELECT i, i FROM generate_series(1, 300000) AS s(i)").await;
    until(&mut s, "SHOW JOBS", |jobs| jobs.matches("catching up").count() == 2).await;
    let error = s.query("SELECT * FROM slow").await.expect_err("it was set aside");
    assert_eq!(error.state(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{error}");
    assert!(error.fields().hint.as_deref().is_some_and(|h| h.contains("SHOW JOBS")), "{error}");
    s.query("SELECT * FROM above").await.expect_err("it was set aside with it");
    // The rest goes on.
    for i in 1..20 {
        run(&mut s, &format!("DELETE FROM t WHERE k = {i}; UPDATE t SET v = v + 1 WHERE k = {}", i + 100)).await;
        assert_eq!(number(&mut s, "SELECT n FROM quick").await, 300_001 - i);
    }
    slow.switch_off();
    until(&mut s, "SHOW JOBS", |jobs| !jobs.contains("catching up")).await;
    assert_is_its_query(&mut s, "slow", query).await;
    assert_is_its_query(&mut s, "above", above).await;
    run(&mut s, "DELETE FROM t WHERE k < 200").await;
    assert_is_its_query(&mut s, "slow", query).await;
    assert_is_its_query(&mut s, "above", above).await;
    engine.shutdown().await;
}

const SLOW_OVER_SOURCE: &str = "CREATE STREAM bid WITH (connector = 'nexmark', \"table\" = 'bid');
    CREATE MATERIALIZED VIEW slow AS SELECT auction, count(*) AS n FROM bid GROUP BY auction";

/// A source that is read for a view alone waits for it, however long that takes, and so does whoever reads the view.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_keeps_nobody_waiting_is_not_set_aside() {
    let mut config = config(2);
    (config.epoch_offsets_max, config.max_stall) = (1000, Duration::from_millis(200));
    let slow = Slow::new(&mut config, "slow", Duration::from_millis(80));
    slow.switch_off();
    let engine = start(config);
    let mut s = session(&engine);
    run(&mut s, SLOW_OVER_SOURCE).await;
    slow.switch_on();
    let mut last = 0;
    for _ in 0..3 {
        let n = number(&mut s, "SELECT sum(n)::bigint FROM slow").await;
        assert!(n >= last, "{n} rows after {last}");
        last = n;
        assert!(!rows(&mut s, "SHOW JOBS").await.contains("catching up"));
    }
    // Another reader of the source is not to wait.
    slow.switch_off();
    run(&mut s, "CREATE MATERIALIZED VIEW quick AS SELECT count(*) AS n FROM bid").await;
    slow.switch_on();
    until(&mut s, "SHOW JOBS", |jobs| jobs.contains("catching up")).await;
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_view_slows_its_source() {
    let mut config = config(2);
    config.epoch_offsets_max = 1000;
    let slow = Slow::new(&mut config, "slow", Duration::from_millis(1));
    let engine = start(config);
    let mut s = session(&engine);
    run(&mut s, SLOW_OVER_SOURCE).await;
    let position = "SELECT position FROM millstream.sources";
    until(&mut s, position, |shown| !shown.contains("| 0 ")).await;
    for _ in 0..20 {
        let (position, rows) =
            (number(&mut s, position).await, number(&mut s, "SELECT sum(n)::bigint FROM slow").await);
        assert!(rows > 0 && position > 0);
        // In flight are at most three epochs, of a thousand offsets each, and what was closed while we looked.
        let queued = number(&mut s, "SELECT queued_rows FROM millstream.jobs").await;
        assert!(queued <= 6000, "{queued} rows wait");
    }
    assert!(slow.n_calls.load(Ordering::Relaxed) > 0);
    run(&mut s, "DROP MATERIALIZED VIEW slow").await;
    // Nobody follows it any more.
    let before = number(&mut s, position).await;
    run(&mut s, "CREATE TABLE t (k bigint); INSERT INTO t VALUES (1)").await;
    assert_eq!(number(&mut s, position).await, before);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_on_their_way_are_bounded() {
    let mut config = config(2);
    config.operator_hook = Some(Arc::new(|dataflow: &str, operator: &str| {
        if dataflow == "fan" && operator == "Aggregate" {
            std::thread::sleep(Duration::from_millis(2));
        }
    }));
    let engine = start(config);
    let mut s = session(&engine);
    run(&mut s, "CREATE TABLE t (k bigint PRIMARY KEY, v bigint); INSERT INTO t SELECT i, i FROM generate_series(1, 3000) AS s(i)")
        .await;
    let mut maker = session(&engine);
    let task = tokio::spawn(async move {
        maker
            .query("CREATE MATERIALIZED VIEW fan AS SELECT (a.v * b.v) % 1000 AS g, count(*) AS n FROM t a CROSS JOIN t b GROUP BY (a.v * b.v) % 1000")
            .await
    });
    let mut most = 0;
    while !task.is_finished() {
        let queued = number(&mut s, "SELECT coalesce(max(queued_rows), 0)::bigint FROM millstream.jobs").await;
        most = most.max(queued);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    task.await.expect("no panic").expect("the view is made");
    assert!(most > 0 && most < 2_000_000, "{most} rows of nine million waited");
    assert_eq!(number(&mut s, "SELECT sum(n)::bigint FROM fan").await, 9_000_000);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_views_follow_one_table() {
    let engine = start(config(2));
    let mut s = session(&engine);
    run(&mut s, "CREATE TABLE t (k bigint PRIMARY KEY, v bigint); INSERT INTO t SELECT i, i FROM generate_series(1, 1000) AS s(i)")
        .await;
    for i in 0..200 {
        run(
            &mut s,
            &format!("CREATE MATERIALIZED VIEW v{i} AS SELECT count(*) AS n, sum(v) AS s FROM t WHERE v % 200 <> {i}"),
        )
        .await;
    }
    run(&mut s, "UPDATE t SET v = v + 1; DELETE FROM t WHERE k <= 100; INSERT INTO t VALUES (-1, -1)").await;
    let mut seen = HashSet::new();
    for i in 0..200 {
        let (view, query) = (
            format!("SELECT n, s FROM v{i}"),
            format!("SELECT count(*) AS n, sum(v) AS s FROM t WHERE v % 200 <> {i}"),
        );
        let shown = rows(&mut s, &view).await;
        assert_eq!(shown, rows(&mut s, &query).await, "v{i}");
        seen.insert(shown);
    }
    assert!(seen.len() > 100, "they differ");
    for i in 0..200 {
        run(&mut s, &format!("DROP MATERIALIZED VIEW v{i}")).await;
    }
    run(&mut s, "INSERT INTO t VALUES (-2, -2)").await;
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_does_not_read_holds_nobody_back() {
    let engine = start(config(2));
    let mut s = session(&engine);
    run(&mut s, "CREATE STREAM t (v bigint); CREATE MATERIALIZED VIEW w AS SELECT v FROM t WHERE v > 0").await;
    let mut reader = session(&engine);
    let statement = reader.parse("SUBSCRIBE TO w").expect("it parses").remove(0);
    let Response::Rows(mut changes) = reader.run(&statement).await.expect("it runs") else { panic!("rows") };
    for i in 0..12 {
        run(
            &mut s,
            &format!("INSERT INTO t SELECT i FROM generate_series({}, {}) AS s(i)", i * 100_000 + 1, (i + 1) * 100_000),
        )
        .await;
        assert_eq!(number(&mut s, "SELECT count(*) FROM w").await, (i + 1) * 100_000);
    }
    let mut error = None;
    while let Some(batch) = changes.batches.next().await {
        if let Err(e) = batch {
            error = Some(e);
        }
    }
    let error = error.expect("it has fallen behind");
    assert!(error.fields().detail.as_deref().is_some_and(|d| d.contains("last complete epoch")), "{error}");
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_explained_with_what_it_has_done() {
    let engine = start(config(2));
    let mut s = session(&engine);
    run(
        &mut s,
        "CREATE TABLE t (k bigint PRIMARY KEY, v bigint); INSERT INTO t SELECT i, i % 7 FROM generate_series(1, 700) AS s(i);
         CREATE MATERIALIZED VIEW g AS SELECT v, count(*) AS n FROM t GROUP BY v",
    )
    .await;
    let shown = rows(&mut s, "EXPLAIN ANALYZE MATERIALIZED VIEW g").await;
    assert!(shown.contains("Aggregate") && shown.contains("Materialize [rows in 7,"), "{shown}");
    for (statement, read) in [
        ("SELECT n FROM g WHERE v IN (1, 2)", "Read g by key (v), 2 values"),
        ("SELECT now(), n FROM g", "Read g by a scan"),
        ("UPDATE t SET v = 0 WHERE k = 1 + 1", "Read t by key (k), 1 value"),
        ("DELETE FROM t WHERE k > 2", "Read t by a scan"),
    ] {
        let shown = rows(&mut s, &format!("EXPLAIN {statement}")).await;
        assert!(shown.contains(read), "{statement}: {shown}");
    }
    assert_eq!(number(&mut s, "SELECT sum(rows)::bigint FROM millstream.arrangements WHERE relation = 't'").await, 700);
    assert_eq!(number(&mut s, "SELECT rows FROM millstream.relations WHERE name = 'g'").await, 7);
    engine.shutdown().await;
}
