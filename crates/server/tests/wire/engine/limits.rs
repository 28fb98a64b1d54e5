//! Many connections at once, and cancelling.

use super::{Real, rows, run, wait_for};

#[tokio::test]
async fn a_thousand_connections_at_once_are_served() {
    let real = Real::start().await;
    let other = real.connect().await;
    run(&other, "CREATE TABLE t (id int PRIMARY KEY); CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM t").await;
    let clients = futures::future::join_all((0..1000).map(|_| real.connect())).await;
    let write_and_read = async |(i, client)| {
        run(client, &format!("INSERT INTO t VALUES ({i})")).await;
        rows(client, &format!("SELECT id FROM t WHERE id = {i}")).await
    };
    let all = futures::future::join_all(clients.iter().enumerate().map(write_and_read));
    // One that was there before goes on meanwhile.
    let mut n_read = 0;
    let going_on = async {
        loop {
            assert_eq!(rows(&other, "SELECT n >= 0 FROM n").await, ["t"]);
            n_read += 1;
        }
    };
    let answers = tokio::select! {
        answers = all => answers,
        () = going_on => Vec::new(),
    };
    assert!(n_read > 0);
    let expected: Vec<_> = (0..1000).map(|i| vec![i.to_string()]).collect();
    assert_eq!(answers, expected);
    assert_eq!(rows(&other, "SELECT n FROM n").await, ["1000"]);
    assert_eq!(rows(&other, "SELECT count(*) FROM pg_stat_activity").await, ["1001"]);
    drop(clients);
    wait_for(&other, "SELECT count(*) FROM pg_stat_activity", &["1"]).await;
    real.stop().await;
}

#[tokio::test]
async fn a_statement_is_cancelled_by_another_session() {
    let real = Real::start().await;
    let (client, other) = (real.connect().await, real.connect().await);
    let pid = rows(&client, "SELECT pg_backend_pid()").await.remove(0);
    let endless = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b";
    let cancelling = async {
        loop {
            assert_eq!(rows(&other, &format!("SELECT pg_cancel_backend({pid})")).await, ["t"]);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        outcome = client.simple_query(endless) => {
            assert_eq!(crate::state_of(&outcome.expect_err("cancelled")), "57014");
        }
        () = cancelling => {}
    }
    assert_eq!(rows(&client, "SELECT 1").await, ["1"]);
    real.stop().await;
}
