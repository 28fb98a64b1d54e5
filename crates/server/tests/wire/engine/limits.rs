//! Many connections, cancelling, and clients that go away in the middle.

use super::{Real, rows, run};

#[tokio::test]
async fn a_thousand_connections_at_once_are_served() {
    let real = Real::start().await;
    let writer = real.connect().await;
    run(&writer, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let clients = futures::future::join_all((0..1000).map(|_| real.connect())).await;
    let answers = futures::future::join_all(clients.iter().map(|client| rows(client, "SELECT id FROM t"))).await;
    assert!(answers.iter().all(|answer| answer == &["1"]));
    assert_eq!(rows(&writer, "SELECT count(*) FROM pg_stat_activity").await, ["1001"]);
    drop(clients);
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while rows(&writer, "SELECT count(*) FROM pg_stat_activity").await != ["1"] {
        assert!(tokio::time::Instant::now() < deadline, "sessions of clients that have gone are still there");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
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
