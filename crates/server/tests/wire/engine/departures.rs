//! Clients that are killed in the middle of something: their work stops, what they had begun is undone, others go on.

use super::{Real, fails, rows, run, wait_for};
use crate::raw::{Raw, message, query};
use tokio_postgres::Client;

/// Sessions of raw clients.
const DEPARTING: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'u'";
/// Runs for days.
const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b";
/// Has more rows than sockets hold.
const LARGE: &str = "SELECT a.id, b.id, 'some text, so that it is much' AS text FROM t a CROSS JOIN t b";

/// A server with a table of a thousand rows and a view, and a client that goes on.
async fn start() -> (Real, Client) {
    let real = Real::start().await;
    let other = real.connect().await;
    run(&other, "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)").await;
    run(&other, "INSERT INTO t SELECT * FROM generate_series(1, 1000)").await;
    run(&other, "CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM t").await;
    (real, other)
}

/// Another client writes and reads, on the only thread for queries.
async fn goes_on(other: &Client) {
    run(other, "INSERT INTO t VALUES (0)").await;
    assert_eq!(rows(other, "SELECT n FROM n").await, ["1001"]);
    run(other, "DELETE FROM t WHERE id = 0").await;
    assert_eq!(rows(other, "SELECT count(*) FROM t").await, ["1000"]);
}

/// Waits until no session of a raw client is left, and nothing that it has begun.
async fn nothing_is_left(other: &Client) {
    wait_for(other, DEPARTING, &["0"]).await;
    wait_for(other, "SELECT count(*) FROM millstream.jobs WHERE name <> 'n'", &["0"]).await;
    goes_on(other).await;
}

#[tokio::test]
async fn results_and_queries_of_clients_that_are_killed_stop() {
    let (real, other) = start().await;
    for (sql, first) in [
        (LARGE.to_owned(), Some('T')),
        (format!("COPY ({LARGE}) TO STDOUT"), Some('H')),
        (format!("BEGIN; DECLARE c CURSOR FOR {LARGE}; FETCH ALL c"), Some('C')),
        ("SUBSCRIBE TO n".to_owned(), Some('T')),
        ("SUBSCRIBE TO (SELECT id % 7 AS k, count(*) AS n FROM t GROUP BY 1)".to_owned(), Some('T')),
        ("COPY (SUBSCRIBE TO n) TO STDOUT".to_owned(), Some('H')),
        ("BEGIN; DECLARE c CURSOR FOR SUBSCRIBE TO n; FETCH 1 c; FETCH 1 c".to_owned(), Some('C')),
        (ENDLESS.to_owned(), None),
        (format!("INSERT INTO u {ENDLESS}"), None),
        (format!("UPDATE t SET id = id WHERE id < ({ENDLESS})"), None),
    ] {
        let mut client = Raw::connect_to(real.server.address).await;
        client.send(&query(&sql)).await;
        if let Some(first) = first {
            assert_eq!(client.next().await.expect("an answer").0, first, "{sql}");
        }
        wait_for(&other, &format!("{DEPARTING} AND query_start IS NOT NULL"), &["1"]).await;
        goes_on(&other).await;
        drop(client);
        nothing_is_left(&other).await;
    }
    real.stop().await;
}

#[tokio::test]
async fn what_a_killed_client_has_written_and_not_committed_is_gone() {
    let (real, other) = start().await;
    // In the middle of a line, of a COPY of its own and of one in a transaction.
    for begin in ["COPY u FROM STDIN", "BEGIN; INSERT INTO u VALUES (-1); COPY u FROM STDIN"] {
        let mut client = Raw::connect_to(real.server.address).await;
        client.send(&query(begin)).await;
        while client.next().await.expect("an answer").0 != 'G' {}
        let lines: String = (0..100_000).map(|i| format!("{i}\n")).collect();
        client.send(&message(b'd', lines.as_bytes())).await;
        client.send(&message(b'd', b"1000")).await;
        goes_on(&other).await;
        drop(client);
        nothing_is_left(&other).await;
        assert_eq!(rows(&other, "SELECT count(*) FROM u").await, ["0"], "{begin}");
    }
    // In a transaction that is idle: nobody waits for its keys.
    let mut client = Raw::connect_to(real.server.address).await;
    client.send(&query("BEGIN; INSERT INTO u VALUES (1), (2); DELETE FROM t WHERE id < 500")).await;
    client.until_ready().await;
    goes_on(&other).await;
    drop(client);
    nothing_is_left(&other).await;
    run(&other, "INSERT INTO u VALUES (1)").await;
    assert_eq!(fails(&other, "INSERT INTO u VALUES (1)").await, "23505");
    assert_eq!(rows(&other, "SELECT * FROM u").await, ["1"]);
    real.stop().await;
}

#[tokio::test]
async fn a_view_that_a_killed_client_was_making_is_dropped() {
    let (real, other) = start().await;
    let mut client = Raw::connect_to(real.server.address).await;
    let slow = "SELECT count(*) AS n FROM t a CROSS JOIN t b CROSS JOIN t c";
    client.send(&query(&format!("CREATE MATERIALIZED VIEW slow AS {slow}"))).await;
    wait_for(&other, "SELECT count(*) FROM millstream.jobs WHERE name = 'slow'", &["1"]).await;
    goes_on(&other).await;
    drop(client);
    nothing_is_left(&other).await;
    assert_eq!(fails(&other, "SELECT * FROM slow").await, "42P01");
    real.stop().await;
}
