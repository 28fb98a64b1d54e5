//! Cursors over queries and subscriptions.

use super::{Real, fails, rows, run};

#[tokio::test]
async fn a_cursor_gives_its_rows_in_pieces() {
    let real = Real::start().await;
    let client = real.connect().await;
    run(&client, "CREATE TABLE t (id int PRIMARY KEY)").await;
    run(&client, "INSERT INTO t SELECT * FROM generate_series(1, 100)").await;
    assert_eq!(fails(&client, "DECLARE c CURSOR FOR SELECT 1").await, "25P01");
    run(&client, "BEGIN; DECLARE c NO SCROLL CURSOR FOR SELECT id FROM t ORDER BY id").await;
    // What is written afterwards is not seen.
    let other = real.connect().await;
    run(&other, "DELETE FROM t WHERE id > 5").await;
    assert_eq!(rows(&client, "FETCH 2 FROM c").await, ["1", "2"]);
    assert_eq!(rows(&client, "FETCH c").await, ["3"]);
    assert_eq!(rows(&client, "MOVE FORWARD 90 IN c; FETCH NEXT FROM \"c\"").await, ["94"]);
    assert_eq!(rows(&client, "SELECT name, is_holdable FROM pg_cursors").await, ["c|f"]);
    assert_eq!(rows(&client, "FETCH ALL FROM c").await.len(), 6);
    assert!(rows(&client, "FETCH ALL FROM c").await.is_empty());
    run(&client, "COMMIT").await;
    assert_eq!(fails(&client, "FETCH c").await, "34000");
    run(&client, "DECLARE h CURSOR WITH HOLD FOR SELECT id FROM t ORDER BY id").await;
    assert_eq!(rows(&client, "FETCH 2 FROM h").await, ["1", "2"]);
    assert_eq!(fails(&client, "DECLARE h CURSOR WITH HOLD FOR SELECT 1").await, "42P03");
    run(&client, "CLOSE h").await;
    assert_eq!(fails(&client, "CLOSE h").await, "34000");
    real.stop().await;
}

#[tokio::test]
async fn a_cursor_over_a_subscription_waits_for_one_row_and_takes_what_is_there() {
    let real = Real::start().await;
    let (client, writer) = (real.connect().await, real.connect().await);
    run(&writer, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)").await;
    run(&client, "BEGIN; DECLARE c CURSOR FOR SUBSCRIBE TO t").await;
    let strip = |rows: Vec<String>| {
        let mut rows: Vec<String> = rows.iter().filter_map(|r| r.split_once('|')).map(|(_, r)| r.to_owned()).collect();
        rows.sort();
        rows
    };
    assert_eq!(strip(rows(&client, "FETCH ALL c").await), ["1|1", "1|2"]);
    assert!(rows(&client, "FETCH ALL c WITH (timeout = '10ms')").await.is_empty());
    let (fetched, ()) = tokio::join!(rows(&client, "FETCH 10 c"), run(&writer, "DELETE FROM t WHERE id = 1"));
    assert_eq!(strip(fetched), ["-1|1"]);
    // A waiting FETCH is cancelled at once.
    let cancel = client.cancel_token();
    let waiting = client.batch_execute("FETCH 1 c");
    let cancelling = async {
        loop {
            let state =
                rows(&writer, "SELECT count(*) FROM pg_stat_activity WHERE query = 'FETCH 1 c' AND state = 'active'");
            let _ = state.await;
            if cancel.cancel_query(tokio_postgres::NoTls).await.is_err() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        outcome = waiting => assert_eq!(crate::state_of(&outcome.expect_err("cancelled")), "57014"),
        () = cancelling => panic!("cancelling failed"),
    }
    run(&client, "ROLLBACK").await;
    assert!(rows(&client, "SELECT name FROM pg_cursors").await.is_empty());
    real.stop().await;
}
