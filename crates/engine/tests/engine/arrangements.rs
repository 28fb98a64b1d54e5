//! Arrangements that views share: what harms whom, and when they come and go.

use std::sync::Arc;
use std::time::Duration;

use millstream_engine::{EngineConfig, Session};
use millstream_types::SqlState;
use parking_lot::Mutex;

use super::common::{Slow, Writer, assert_is_its_query, config, number, rows, run, session, start, until};

const ARRANGEMENTS: &str =
    "SELECT name, state_bytes > 0 AS has_rows FROM millstream.relations WHERE kind = 'arrangement'";

/// Lets operators of the named dataflow panic.
fn panicking(config: &mut EngineConfig) -> Arc<Mutex<Option<&'static str>>> {
    let name: Arc<Mutex<Option<&'static str>>> = Arc::default();
    let named = Arc::clone(&name);
    config.operator_hook = Some(Arc::new(move |dataflow: &str, _: &str| {
        assert!(*named.lock() != Some(dataflow), "a test");
    }));
    name
}

const PAIRS: &str = "SELECT s.v AS v, t.v AS w FROM s JOIN t ON s.k = t.k";
const SUMS: &str = "SELECT s.k AS k, sum(t.v) AS n FROM s JOIN t ON s.k = t.k GROUP BY s.k";
const ALONE: &str = "SELECT t.v AS v, s.v AS w FROM t LEFT JOIN s ON s.k = t.k AND s.v < t.v";

/// Two tables with rows of equal keys, and three views: the first keeps copies, the others share.
async fn make_views(s: &mut Session) {
    run(
        s,
        "CREATE TABLE s (k bigint, v bigint); CREATE TABLE t (k bigint, v bigint);
         INSERT INTO s SELECT i % 100, i FROM generate_series(1, 500) AS x(i);
         INSERT INTO t SELECT i % 150, i FROM generate_series(1, 300) AS x(i)",
    )
    .await;
    for (name, query) in [("pairs", PAIRS), ("sums", SUMS), ("alone", ALONE)] {
        run(s, &format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await;
    }
    assert_eq!(number(s, "SELECT count(*) FROM millstream.relations WHERE kind = 'arrangement'").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_fails_leaves_what_it_shares() {
    for workers in [1, 2] {
        let mut config = config(workers);
        let panics = panicking(&mut config);
        let engine = start(config);
        let mut s = session(&engine);
        make_views(&mut s).await;
        *panics.lock() = Some("sums");
        run(&mut s, "INSERT INTO t VALUES (1, 1000), (2, NULL)").await;
        s.query("SELECT * FROM sums").await.expect_err("it has failed");
        *panics.lock() = None;
        run(&mut s, "UPDATE s SET k = k + 1 WHERE v < 50; DELETE FROM t WHERE v % 7 = 0").await;
        assert_is_its_query(&mut s, "pairs", PAIRS).await;
        assert_is_its_query(&mut s, "alone", ALONE).await;
        run(&mut s, "REFRESH MATERIALIZED VIEW sums; INSERT INTO s VALUES (3, 3)").await;
        assert_is_its_query(&mut s, "sums", SUMS).await;
        assert_is_its_query(&mut s, "alone", ALONE).await;
        run(&mut s, "DROP MATERIALIZED VIEW pairs, alone; DELETE FROM s WHERE k < 20").await;
        assert_is_its_query(&mut s, "sums", SUMS).await;
        run(&mut s, "DROP MATERIALIZED VIEW sums").await;
        assert!(!rows(&mut s, ARRANGEMENTS).await.contains("by k"));
        let dataflows = "SELECT count(*) FROM millstream.operators";
        assert_eq!(number(&mut s, dataflows).await, 0);
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_arrangement_that_fails_takes_its_users_along_until_they_are_refreshed() {
    let mut config = config(2);
    let panics = panicking(&mut config);
    let engine = start(config);
    let mut s = session(&engine);
    make_views(&mut s).await;
    *panics.lock() = Some("s by k");
    run(&mut s, "INSERT INTO s VALUES (1, 1000)").await;
    for view in ["sums", "alone"] {
        let error = s.query(&format!("SELECT * FROM {view}")).await.expect_err("what it shares has failed");
        assert_eq!(error.state(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "{error}");
        assert!(error.message().contains("arrangement \"s by k\""), "{error}");
        let hint = error.fields().hint.clone().unwrap_or_default();
        assert_eq!(hint, format!("REFRESH MATERIALIZED VIEW {view} rebuilds it."));
    }
    assert_is_its_query(&mut s, "pairs", PAIRS).await;
    // One that is rebuilt keeps copies; the arrangement goes when nothing waits for it any more.
    run(&mut s, "REFRESH MATERIALIZED VIEW sums").await;
    assert!(rows(&mut s, ARRANGEMENTS).await.contains("s by k"));
    run(&mut s, "REFRESH MATERIALIZED VIEW alone; INSERT INTO s VALUES (2, 1001); DELETE FROM t WHERE k = 3").await;
    assert!(!rows(&mut s, ARRANGEMENTS).await.contains("s by k"));
    for (view, query) in [("pairs", PAIRS), ("sums", SUMS), ("alone", ALONE)] {
        assert_is_its_query(&mut s, view, query).await;
    }
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_arrangement_that_nobody_waits_for_goes() {
    let mut config = config(2);
    let slow = Slow::new(&mut config, "s by k", Duration::from_millis(20));
    slow.switch_off();
    let engine = start(config);
    let (mut s, mut other) = (session(&engine), session(&engine));
    run(
        &mut s,
        "CREATE TABLE s (k bigint, v bigint); CREATE TABLE t (k bigint, v bigint);
         INSERT INTO s SELECT i, i FROM generate_series(1, 100000) AS x(i);
         INSERT INTO t SELECT i, i FROM generate_series(1, 100) AS x(i)",
    )
    .await;
    run(&mut s, &format!("CREATE MATERIALIZED VIEW pairs AS {PAIRS}")).await;
    slow.switch_on();
    let cancel = other.cancel_handle();
    let making = tokio::spawn(async move { other.query(&format!("CREATE MATERIALIZED VIEW sums AS {SUMS}")).await });
    until(&mut s, ARRANGEMENTS, |shown| shown.contains("s by k")).await;
    cancel.cancel();
    making.await.expect("no panic").expect_err("it was cancelled");
    until(&mut s, ARRANGEMENTS, |shown| !shown.contains("by k")).await;
    slow.switch_off();
    // A name that is taken is said before anything is made.
    let error = s.query(&format!("CREATE MATERIALIZED VIEW pairs AS {SUMS}")).await.expect_err("it is taken");
    assert_eq!(error.state(), SqlState::DUPLICATE_TABLE);
    assert!(!rows(&mut s, ARRANGEMENTS).await.contains("by k"));
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_that_are_made_at_once_share_what_changes_meanwhile() {
    for workers in [2, 4] {
        let engine = start(config(workers));
        let mut s = session(&engine);
        make_views(&mut s).await;
        run(&mut s, "INSERT INTO s SELECT i % 900, i FROM generate_series(1000, 6000) AS x(i)").await;
        let writer = Writer::start(&engine, |i| match i % 4 {
            0 => format!("UPDATE s SET k = k + 1 WHERE v = {}", i % 500),
            1 => format!("DELETE FROM t WHERE v = {}", i % 300),
            2 => format!("INSERT INTO t VALUES ({}, {})", i % 150, i % 300),
            _ => format!("BEGIN; INSERT INTO s VALUES ({0}, {0}); DELETE FROM t WHERE v = 7; COMMIT", i % 150),
        });
        let makers = (0..3).map(|i| {
            let mut s = session(&engine);
            tokio::spawn(async move {
                let (sums, both) = (format!("m{i}"), format!("n{i}"));
                run(&mut s, &format!("CREATE MATERIALIZED VIEW {sums} AS {SUMS}")).await;
                let query =
                    "SELECT a.v AS v, b.v AS w FROM s a JOIN s b ON a.k = b.k JOIN t ON t.k = b.k WHERE a.v < 50";
                run(&mut s, &format!("CREATE MATERIALIZED VIEW {both} AS {query}")).await;
                assert_is_its_query(&mut s, &sums, SUMS).await;
                assert_is_its_query(&mut s, &both, query).await;
            })
        });
        for maker in makers.collect::<Vec<_>>() {
            maker.await.expect("no panic");
        }
        assert!(writer.stop().await > 0);
        assert_is_its_query(&mut s, "alone", ALONE).await;
        run(&mut s, "DROP TABLE s, t CASCADE").await;
        assert!(!rows(&mut s, ARRANGEMENTS).await.contains("by k"));
        engine.shutdown().await;
    }
}

/// All rows have one key: a row meets so many that a join has to pause, while the arrangement goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_key_of_an_arrangement_is_met_in_pieces() {
    let engine = start(config(2));
    let mut s = session(&engine);
    make_views(&mut s).await;
    run(&mut s, "DELETE FROM s; DELETE FROM t; INSERT INTO t SELECT 7, i FROM generate_series(1, 1500) AS x(i)").await;
    let counts = "SELECT count(*) AS n, sum(s.v * t.v)::bigint AS p FROM s JOIN t ON s.k = t.k";
    run(&mut s, &format!("CREATE MATERIALIZED VIEW counts AS {counts}")).await;
    assert!(rows(&mut s, "EXPLAIN MATERIALIZED VIEW counts").await.contains("shared"));
    run(&mut s, "DROP MATERIALIZED VIEW pairs, sums, alone").await;
    for round in 0..4 {
        run(&mut s, "INSERT INTO s SELECT 7, i FROM generate_series(1, 300) AS x(i)").await;
        run(&mut s, &format!("DELETE FROM t WHERE v % 5 = {round}")).await;
        run(&mut s, &format!("DELETE FROM s WHERE v % 3 = {round}")).await;
        assert_is_its_query(&mut s, "counts", counts).await;
    }
    engine.shutdown().await;
}

/// A view has not yet done what was written before a join over it is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_over_a_view_that_is_behind_begins_with_all_that_was_written() {
    let mut config = config(2);
    let slow = Slow::new(&mut config, "below", Duration::from_millis(30));
    slow.switch_off();
    let engine = start(config);
    let mut s = session(&engine);
    run(
        &mut s,
        "CREATE TABLE t (k bigint, v bigint); CREATE TABLE d (k bigint);
         INSERT INTO d SELECT i FROM generate_series(1, 100) AS x(i);
         CREATE MATERIALIZED VIEW below AS SELECT k, count(*) AS n FROM t GROUP BY k",
    )
    .await;
    slow.switch_on();
    run(&mut s, "INSERT INTO t SELECT i % 50, i FROM generate_series(1, 1000) AS x(i)").await;
    let query = "SELECT d.k AS k, b.n AS n FROM d JOIN below b ON b.k = d.k";
    run(&mut s, &format!("CREATE MATERIALIZED VIEW above AS {query}")).await;
    slow.switch_off();
    assert!(rows(&mut s, "EXPLAIN MATERIALIZED VIEW above").await.contains("shared"));
    run(&mut s, "INSERT INTO t VALUES (1, 1); DELETE FROM t WHERE k = 2").await;
    assert_is_its_query(&mut s, "above", query).await;
    engine.shutdown().await;
}
