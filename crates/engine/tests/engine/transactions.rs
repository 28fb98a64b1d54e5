//! Transactions of one or two sessions, step by step.

use arrow::util::display::array_value_to_string;
use millstream_engine::{Engine, Session, TransactionStatus};
use millstream_types::{Error, SqlState};

use super::common::{config, run, session, start};

/// The rows as `a b, c d`, in order.
async fn rows(session: &mut Session, sql: &str) -> String {
    let mut rows = Vec::new();
    for batch in session.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}")) {
        for i in 0..batch.num_rows() {
            let text = |c: &arrow::array::ArrayRef| array_value_to_string(c, i).expect("it can be shown");
            rows.push(batch.columns().iter().map(text).collect::<Vec<_>>().join(" "));
        }
    }
    rows.sort();
    rows.join(", ")
}

async fn state(session: &mut Session, sql: &str) -> &'static str {
    session.query(sql).await.map_or_else(|e: Error| e.state().0, |_| "00000")
}

async fn two_tables(engine: &Engine) -> (Session, Session) {
    let mut s = session(engine);
    run(&mut s, "CREATE TABLE t (id int PRIMARY KEY, x int NOT NULL); CREATE TABLE u (a int, b int)").await;
    run(&mut s, "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(x) AS s FROM t").await;
    run(&mut s, "INSERT INTO t VALUES (1, 10), (2, 20), (3, 30); INSERT INTO u VALUES (1, 1), (2, 2)").await;
    (s, session(engine))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_by_key_conflict_only_where_keys_do() {
    let engine = start(config(2));
    let (mut a, mut b) = two_tables(&engine).await;
    run(&mut a, "BEGIN; UPDATE t SET x = x + 1 WHERE id = 1").await;
    run(&mut b, "BEGIN; UPDATE t SET x = x + 2 WHERE id = 2; COMMIT").await;
    run(&mut a, "COMMIT").await;
    assert_eq!(rows(&mut a, "SELECT id, x FROM t").await, "1 11, 2 22, 3 30");
    run(&mut a, "BEGIN; UPDATE t SET x = x + 1 WHERE id = 1").await;
    run(&mut b, "UPDATE t SET x = 0 WHERE id = 1").await;
    assert_eq!(state(&mut a, "COMMIT").await, "40001");
    assert_eq!(a.transaction_status(), TransactionStatus::Idle);
    assert_eq!(rows(&mut a, "SELECT x FROM t WHERE id = 1").await, "0");
    // The key that was read has no row, and gets one.
    run(&mut a, "BEGIN; INSERT INTO u SELECT id, x FROM t WHERE id = 9").await;
    assert_eq!(state(&mut a, "INSERT INTO u VALUES (7, 7)").await, "00000");
    run(&mut b, "INSERT INTO t VALUES (9, 9)").await;
    assert_eq!(state(&mut a, "COMMIT").await, "40001");
    // A read of the whole table conflicts with any change.
    run(&mut a, "BEGIN; INSERT INTO u SELECT 5, CAST(sum(x) AS int) FROM t").await;
    run(&mut b, "UPDATE t SET x = 1 WHERE id = 3").await;
    assert_eq!(state(&mut a, "COMMIT").await, "40001");
    // What was only read needs no validation.
    run(&mut a, "BEGIN").await;
    let before = rows(&mut a, "SELECT * FROM v").await;
    run(&mut b, "DELETE FROM t").await;
    assert_eq!(rows(&mut a, "SELECT count(*), sum(x) FROM t").await, before);
    run(&mut a, "COMMIT").await;
    assert_eq!(rows(&mut a, "SELECT n FROM v").await, "0");
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_taken_meanwhile_are_found_at_the_turn() {
    let engine = start(config(2));
    let (mut a, mut b) = two_tables(&engine).await;
    run(&mut a, "BEGIN; INSERT INTO t VALUES (4, 40), (5, 50)").await;
    run(&mut b, "INSERT INTO t VALUES (5, 55)").await;
    assert_eq!(state(&mut a, "COMMIT").await, "23505");
    run(&mut a, "BEGIN; INSERT INTO t VALUES (6, 60) ON CONFLICT DO NOTHING").await;
    run(&mut b, "INSERT INTO t VALUES (6, 66)").await;
    assert_eq!(state(&mut a, "COMMIT").await, "40001");
    // A row that was left as it is may not change either.
    run(&mut a, "BEGIN; INSERT INTO t VALUES (6, 0) ON CONFLICT DO NOTHING; INSERT INTO u VALUES (6, 6)").await;
    run(&mut b, "DELETE FROM t WHERE id = 6").await;
    assert_eq!(state(&mut a, "COMMIT").await, "40001");
    assert_eq!(rows(&mut a, "SELECT id FROM t").await, "1, 2, 3, 5");
    assert_eq!(rows(&mut a, "SELECT a FROM u").await, "1, 2");
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_without_a_key_are_changed_within_a_transaction() {
    let engine = start(config(2));
    let (mut a, mut b) = two_tables(&engine).await;
    run(&mut a, "BEGIN; INSERT INTO u VALUES (3, 3), (3, 3), (4, 4)").await;
    run(&mut a, "UPDATE u SET b = b + 10 WHERE a >= 2; DELETE FROM u WHERE a = 4").await;
    assert_eq!(rows(&mut a, "SELECT a, b FROM u").await, "1 1, 2 12, 3 13, 3 13");
    assert_eq!(rows(&mut b, "SELECT a, b FROM u").await, "1 1, 2 2");
    run(&mut a, "COMMIT; DELETE FROM u WHERE a < 3").await;
    run(&mut b, "UPDATE u SET b = 0").await;
    assert_eq!(rows(&mut b, "SELECT a, b FROM u").await, "3 0, 3 0");
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn savepoints_take_back_what_came_after_them() {
    let engine = start(config(2));
    let (mut a, _) = two_tables(&engine).await;
    run(&mut a, "BEGIN; UPDATE t SET x = 11 WHERE id = 1; SAVEPOINT one").await;
    run(&mut a, "UPDATE t SET x = 12 WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (4, 4)").await;
    run(&mut a, "SAVEPOINT two; INSERT INTO u VALUES (9, 9)").await;
    assert_eq!(state(&mut a, "INSERT INTO t VALUES (4, 44)").await, "23505");
    assert_eq!(state(&mut a, "SELECT 1").await, "25P02");
    run(&mut a, "ROLLBACK TO two").await;
    assert_eq!(rows(&mut a, "SELECT id, x FROM t").await, "1 12, 3 30, 4 4");
    assert_eq!(rows(&mut a, "SELECT a FROM u").await, "1, 2");
    run(&mut a, "ROLLBACK TO SAVEPOINT one; INSERT INTO t VALUES (4, 5)").await;
    assert_eq!(state(&mut a, "ROLLBACK TO two").await, "3B001");
    run(&mut a, "ROLLBACK TO one; INSERT INTO t VALUES (7, 7); RELEASE one; COMMIT").await;
    assert_eq!(rows(&mut a, "SELECT id, x FROM t").await, "1 11, 2 20, 3 30, 7 7");
    assert_eq!(state(&mut a, "SAVEPOINT x").await, "25P01");
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_of_one_message_share_a_transaction() {
    let engine = start(config(2));
    let (mut a, mut b) = two_tables(&engine).await;
    assert_eq!(state(&mut a, "INSERT INTO t VALUES (4, 4); INSERT INTO t VALUES (4, 5)").await, "23505");
    assert_eq!(rows(&mut b, "SELECT id FROM t").await, "1, 2, 3");
    assert_eq!(a.transaction_status(), TransactionStatus::Idle);
    // What BEGIN follows belongs to its transaction, what follows COMMIT is another one.
    run(&mut a, "INSERT INTO t VALUES (4, 4); BEGIN; INSERT INTO t VALUES (5, 5)").await;
    assert_eq!(a.transaction_status(), TransactionStatus::InTransaction);
    assert_eq!(rows(&mut b, "SELECT id FROM t").await, "1, 2, 3");
    let sql = "INSERT INTO t VALUES (6, 6); COMMIT; INSERT INTO t VALUES (7, 7); INSERT INTO t VALUES (7, 8)";
    assert_eq!(state(&mut a, sql).await, "23505");
    assert_eq!(rows(&mut b, "SELECT id FROM t").await, "1, 2, 3, 4, 5, 6");
    // A statement that changes the catalog ends the transaction before it.
    run(&mut a, "INSERT INTO t VALUES (8, 8); CREATE TABLE w (x int); INSERT INTO w SELECT id FROM t WHERE id > 7")
        .await;
    assert_eq!(rows(&mut b, "SELECT x FROM w").await, "8");
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn modes_and_chains() {
    let engine = start(config(1));
    let (mut a, _) = two_tables(&engine).await;
    run(&mut a, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await;
    assert_eq!(rows(&mut a, "SELECT n FROM v").await, "3");
    assert_eq!(state(&mut a, "DELETE FROM t").await, "25006");
    run(&mut a, "COMMIT AND CHAIN").await;
    assert_eq!(state(&mut a, "SELECT 1").await, "00000");
    assert_eq!(a.transaction_status(), TransactionStatus::InTransaction);
    run(&mut a, "ROLLBACK; SET default_transaction_read_only = on").await;
    assert_eq!(state(&mut a, "DELETE FROM t").await, "25006");
    run(&mut a, "START TRANSACTION READ WRITE; DELETE FROM t; ROLLBACK AND CHAIN").await;
    assert_eq!(a.transaction_status(), TransactionStatus::InTransaction);
    run(&mut a, "END; SET default_transaction_read_only = off").await;
    a.take_notices();
    run(&mut a, "COMMIT").await;
    run(&mut a, "BEGIN; BEGIN; ROLLBACK").await;
    let states: Vec<&str> = a.take_notices().iter().map(|n| n.state.0).collect();
    assert_eq!(states, ["25P01", "25001"]);
    assert_eq!(state(&mut a, "COMMIT AND CHAIN").await, "25P01");
    run(&mut a, "BEGIN; SELECT 1").await;
    assert_eq!(state(&mut a, "SELECT 1 / 0").await, "22012");
    assert_eq!(a.transaction_status(), TransactionStatus::Failed);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_starves() {
    let engine = start(config(2));
    let (mut a, _) = two_tables(&engine).await;
    let mut busy = session(&engine);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = std::sync::Arc::clone(&stop);
    let writer = tokio::spawn(async move {
        let mut n = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            run(&mut busy, "UPDATE t SET x = x + 1 WHERE id = 1").await;
            n += 1;
        }
        n
    });
    // A statement that takes its time gets through, and so does a transaction at its third attempt.
    run(&mut a, "UPDATE t SET x = x + (SELECT count(*) FROM generate_series(1, 100000)) WHERE x >= 0").await;
    let mut n_conflicts = 0;
    loop {
        run(&mut a, "BEGIN; UPDATE t SET x = (SELECT CAST(sum(x) AS int) FROM t) WHERE id = 2").await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        match state(&mut a, "COMMIT").await {
            "40001" => n_conflicts += 1,
            committed => break assert_eq!(committed, "00000"),
        }
    }
    assert!(n_conflicts <= 2, "the third transaction has the write order: {n_conflicts}");
    // A transaction that keeps the write order for too long loses it.
    run(&mut a, "BEGIN").await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(writer.await.expect("it does not panic") > 0);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflicting_row_of_each_kind_is_resolved_in_order() {
    let engine = start(config(2));
    let mut s = session(&engine);
    run(&mut s, "CREATE TABLE o (k text PRIMARY KEY, a int, b int) ON CONFLICT OVERWRITE").await;
    run(&mut s, "CREATE TABLE n (k text PRIMARY KEY, a int, b int) ON CONFLICT DO UPDATE IF NOT NULL").await;
    run(&mut s, "CREATE TABLE i (k text PRIMARY KEY, a int, b int) ON CONFLICT IGNORE").await;
    for begin in ["", "BEGIN; "] {
        let end = if begin.is_empty() { "" } else { "; COMMIT" };
        for table in ["o", "n", "i"] {
            run(&mut s, &format!("DELETE FROM {table}; INSERT INTO {table} VALUES ('x', 1, 1)")).await;
            let values = "('x', 2, NULL), ('y', 1, 1), ('y', NULL, 5), ('x', NULL, 7), ('z', 0, 0)";
            run(&mut s, &format!("{begin}INSERT INTO {table} VALUES {values}{end}")).await;
        }
        assert_eq!(rows(&mut s, "SELECT k, a, b FROM o").await, "x  7, y  5, z 0 0");
        assert_eq!(rows(&mut s, "SELECT k, a, b FROM n").await, "x 2 7, y 1 5, z 0 0");
        assert_eq!(rows(&mut s, "SELECT k, a, b FROM i").await, "x 1 1, y 1 1, z 0 0");
        let upsert = "INSERT INTO i VALUES ('x', 5, 5), ('y', 6, 6), ('w', 7, 7)
                      ON CONFLICT (k) DO UPDATE SET a = excluded.a WHERE i.k <> 'y'";
        run(&mut s, &format!("{begin}{upsert}{end}")).await;
        assert_eq!(rows(&mut s, "SELECT k, a, b FROM i").await, "w 7 7, x 5 1, y 1 1, z 0 0");
        let twice = "INSERT INTO i VALUES ('v', 1, 1), ('v', 2, 2) ON CONFLICT (k) DO UPDATE SET a = 0";
        assert_eq!(state(&mut s, &format!("{begin}{twice}")).await, SqlState::CARDINALITY_VIOLATION.0);
        run(&mut s, "ROLLBACK").await;
    }
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_catalog_changes_with_the_transaction_or_not_at_all() {
    let engine = start(config(2));
    let (mut a, mut b) = two_tables(&engine).await;
    // What fails at the end takes the relations with it.
    run(&mut a, "BEGIN").await;
    run(&mut a, "CREATE TABLE w (id int PRIMARY KEY)").await;
    run(&mut a, "CREATE MATERIALIZED VIEW ids AS SELECT w.id, t.x FROM w JOIN t ON t.id = w.id").await;
    run(&mut a, "INSERT INTO w SELECT id FROM t").await;
    assert_eq!(state(&mut a, "SELECT * FROM ids").await, "55000");
    run(&mut a, "ROLLBACK; BEGIN; CREATE TABLE w (id int PRIMARY KEY)").await;
    run(&mut a, "CREATE MATERIALIZED VIEW ids AS SELECT w.id, t.x FROM w JOIN t ON t.id = w.id").await;
    run(&mut a, "INSERT INTO w SELECT id FROM t").await;
    run(&mut b, "INSERT INTO t VALUES (4, 40)").await;
    assert_eq!(state(&mut a, "COMMIT").await, "40001");
    assert_eq!(state(&mut a, "SELECT * FROM w").await, "42P01");
    // Somebody else changes the catalog first.
    run(&mut a, "BEGIN; CREATE TABLE w (id int)").await;
    run(&mut b, "CREATE TABLE w (other int)").await;
    assert_eq!(state(&mut a, "COMMIT").await, "40001");
    run(&mut b, "DROP TABLE w").await;
    run(&mut a, "BEGIN; CREATE TABLE w (id int PRIMARY KEY); INSERT INTO w SELECT id FROM t").await;
    run(&mut a, "CREATE MATERIALIZED VIEW ids AS SELECT w.id, t.x FROM w JOIN t ON t.id = w.id; COMMIT").await;
    assert_eq!(rows(&mut b, "SELECT * FROM ids").await, "1 10, 2 20, 3 30, 4 40");
    run(&mut b, "BEGIN; DROP MATERIALIZED VIEW ids; DELETE FROM w; COMMIT").await;
    assert_eq!(rows(&mut a, "SELECT * FROM w").await, "");
    assert_eq!(state(&mut a, "SELECT * FROM ids").await, "42P01");
    assert_eq!(state(&mut a, "BEGIN; CREATE SINK s FROM t WITH (connector = 'blackhole')").await, "0A000");
    engine.shutdown().await;
}
