//! Subscriptions to queries, and what becomes of their dataflows.

use std::time::Duration;

use super::{Real, fails, rows, run};

/// Waits until a query gives these rows, for at most ten seconds.
async fn wait_for(client: &tokio_postgres::Client, sql: &str, expected: &[&str]) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let found = rows(client, sql).await;
        if found == expected {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{sql}: {found:?} instead of {expected:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const JOBS: &str = "SELECT count(*) FROM millstream.jobs WHERE name = 'subscription'";

fn without_epochs(rows: &[String]) -> Vec<String> {
    let mut rows: Vec<String> =
        rows.iter().filter_map(|r| r.split_once('|')).map(|(_, rest)| rest.to_owned()).collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn a_query_is_followed_by_a_dataflow_that_ends_with_its_subscription() {
    let real = Real::start().await;
    let (client, writer) = (real.connect().await, real.connect().await);
    run(&writer, "CREATE TABLE t (id int PRIMARY KEY, k int); INSERT INTO t VALUES (1, 1), (2, 1), (3, 2)").await;
    run(&client, "BEGIN; DECLARE c CURSOR FOR SUBSCRIBE TO (SELECT k, count(*) AS n FROM t GROUP BY k)").await;
    assert_eq!(without_epochs(&rows(&client, "FETCH ALL c").await), ["1|1|2", "1|2|1"]);
    wait_for(&writer, JOBS, &["1"]).await;
    run(&writer, "INSERT INTO t VALUES (4, 2)").await;
    assert_eq!(without_epochs(&rows(&client, "FETCH ALL c").await), ["-1|2|1", "1|2|2"]);
    run(&client, "COMMIT").await;
    wait_for(&writer, JOBS, &["0"]).await;
    // Without a snapshot only changes come.
    run(&client, "BEGIN; DECLARE c CURSOR FOR SUBSCRIBE TO (SELECT id FROM t) WITH (SNAPSHOT = false, PROGRESS)").await;
    run(&writer, "INSERT INTO t VALUES (5, 5)").await;
    let changes = loop {
        let fetched = without_epochs(&rows(&client, "FETCH ALL c").await);
        if fetched.iter().any(|row| row.starts_with('f')) {
            break fetched;
        }
    };
    assert!(changes.contains(&"f|1|5".to_owned()), "{changes:?}");
    // A killed client's dataflow goes.
    wait_for(&writer, JOBS, &["1"]).await;
    drop(client);
    wait_for(&writer, JOBS, &["0"]).await;
    real.stop().await;
}

#[tokio::test]
async fn what_keeps_no_rows_can_be_followed_too() {
    let real = Real::start().await;
    let (client, writer) = (real.connect().await, real.connect().await);
    run(&writer, "CREATE TABLE t (id int PRIMARY KEY); CREATE VIEW pv AS SELECT id * 10 AS x FROM t").await;
    run(&writer, "INSERT INTO t VALUES (1)").await;
    run(&client, "BEGIN; DECLARE c CURSOR FOR SUBSCRIBE TO pv").await;
    assert_eq!(without_epochs(&rows(&client, "FETCH ALL c").await), ["1|10"]);
    // Dropping what it reads ends it with an error.
    run(&writer, "DROP TABLE t CASCADE").await;
    assert_eq!(fails(&client, "FETCH ALL c").await, "42P01");
    run(&client, "ROLLBACK").await;
    run(&writer, "CREATE STREAM bid WITH (connector = 'nexmark', \"table\" = 'bid', rate = '1000')").await;
    run(&client, "BEGIN; DECLARE c CURSOR FOR SUBSCRIBE TO bid").await;
    assert!(!rows(&client, "FETCH ALL c").await.is_empty());
    assert_eq!(fails(&client, "SUBSCRIBE TO millstream.jobs").await, "42809");
    real.stop().await;
}

#[tokio::test]
async fn a_subscription_begins_as_of_an_epoch_that_is_still_held() {
    let real = Real::start().await;
    let (client, holder, writer) = (real.connect().await, real.connect().await, real.connect().await);
    run(&writer, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    // A transaction holds what it has read.
    run(&holder, "BEGIN; SELECT * FROM t").await;
    let epoch = rows(&writer, "SELECT txid_current()").await.remove(0);
    run(&writer, "INSERT INTO t VALUES (2); DELETE FROM t WHERE id = 1").await;
    run(&client, &format!("BEGIN; DECLARE c CURSOR FOR SUBSCRIBE TO t WITH (SNAPSHOT = false) AS OF {epoch}")).await;
    assert_eq!(without_epochs(&rows(&client, "FETCH ALL c").await), ["-1|1", "1|2"]);
    run(&client, "ROLLBACK").await;
    assert_eq!(fails(&client, "BEGIN; DECLARE c CURSOR FOR SUBSCRIBE TO t AS OF 1000000000").await, "22023");
    real.stop().await;
}
