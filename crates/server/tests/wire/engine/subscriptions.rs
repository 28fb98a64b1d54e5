//! Subscriptions to queries, and what becomes of their dataflows.

use super::{Real, fails, rows, run, wait_for};
use crate::raw::{Raw, field, query};

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

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_told_how_far_it_has_come() {
    const PIECE_ROWS: i32 = 100_000;
    let real = Real::start().await;
    let writer = real.connect().await;
    run(&writer, "CREATE STREAM s (v int); CREATE MATERIALIZED VIEW w AS SELECT v, v::text AS t FROM s").await;
    let mut subscriber = Raw::connect_to(real.server.address).await;
    subscriber.send(&query("SUBSCRIBE TO w")).await;
    assert_eq!(subscriber.next().await.expect("columns").0, 'T');
    // More than sockets and buffers hold. Nobody waits for it.
    for i in 0..15 {
        let (first, last) = (i * PIECE_ROWS + 1, (i + 1) * PIECE_ROWS);
        run(&writer, &format!("INSERT INTO s SELECT * FROM generate_series({first}, {last})")).await;
        assert_eq!(rows(&writer, "SELECT count(*) FROM w").await, [last.to_string()]);
    }
    let (mut n_rows, mut last_epoch) = (0, String::new());
    let error = loop {
        let answer = subscriber.next().await.expect("no end before the error");
        match answer.0 {
            'D' => {
                // The first value is the epoch.
                let length = i32::from_be_bytes(answer.1[2..6].try_into().expect("four bytes")) as usize;
                let epoch = String::from_utf8_lossy(&answer.1[6..6 + length]);
                if epoch != last_epoch {
                    last_epoch = epoch.into_owned();
                }
                n_rows += 1;
            }
            'E' => break answer,
            kind => panic!("a message {kind}"),
        }
    };
    assert_eq!(field(&error, 'C').as_deref(), Some("53400"));
    let detail = field(&error, 'D').expect("a detail");
    assert_eq!(detail, format!("The last complete epoch that was sent is {last_epoch}."));
    assert!(n_rows < 15 * PIECE_ROWS && n_rows % PIECE_ROWS == 0, "{n_rows} rows came");
    // Both sessions are as before.
    assert_eq!(subscriber.next().await.expect("an answer").0, 'Z');
    subscriber.send(&query("SELECT count(*) FROM w")).await;
    assert_eq!(subscriber.kinds_until_ready().await, "TDCZI");
    run(&writer, "INSERT INTO s VALUES (0)").await;
    assert_eq!(rows(&writer, "SELECT count(*) FROM w WHERE v = 0").await, ["1"]);
    real.stop().await;
}
