//! The README's example, and what must hold of it.

use futures::StreamExt;
use millstream_engine::Response;

use super::common::{config, rows, session, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_over_a_join_follows_its_tables() {
    for workers in [1, 2, 4] {
        let engine = start(config(workers));
        let mut s = session(&engine);
        s.query(
            "CREATE STREAM clicks (user_id bigint, url text, at timestamptz);
             CREATE TABLE users (id bigint PRIMARY KEY, name text, country text);
             CREATE MATERIALIZED VIEW by_country AS
               SELECT u.country, count(*) AS clicks, count(DISTINCT c.user_id) AS users, max(c.at) AS latest
               FROM clicks c JOIN users u ON u.id = c.user_id GROUP BY u.country;
             INSERT INTO users VALUES (1, 'Ann', 'NZ'), (2, 'Bob', 'AU');
             INSERT INTO clicks VALUES (1, '/', '2024-01-01 00:00:00Z'), (1, '/a', '2024-01-02 00:00:00Z');
             INSERT INTO clicks VALUES (2, '/', '2024-01-03 00:00:00Z');",
        )
        .await
        .expect("the statements are right");
        let shown = rows(&mut s, "SELECT country, clicks, users, latest FROM by_country ORDER BY country").await;
        assert_eq!(
            shown,
            "\
+---------+--------+-------+----------------------+
| country | clicks | users | latest               |
+---------+--------+-------+----------------------+
| AU      | 1      | 1     | 2024-01-03T00:00:00Z |
| NZ      | 2      | 1     | 2024-01-02T00:00:00Z |
+---------+--------+-------+----------------------+"
        );
        s.query("INSERT INTO clicks VALUES (1, '/', now())").await.expect("now() is a value to write");
        let shown = rows(&mut s, "SELECT clicks FROM by_country WHERE country = 'NZ'").await;
        assert!(shown.contains("| 3 "), "a read sees the write before it: {shown}");
        s.query("UPDATE users SET country = 'AU' WHERE id = 1").await.expect("it is right");
        let shown = rows(&mut s, "SELECT country, clicks, users FROM by_country").await;
        assert!(shown.contains("| AU      | 4      | 2     |") && !shown.contains("NZ"), "it is retracted: {shown}");
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_pushes_changes() {
    let engine = start(config(2));
    let mut s = session(&engine);
    s.query(
        "CREATE TABLE t (k bigint PRIMARY KEY, v bigint);
         CREATE MATERIALIZED VIEW sums AS SELECT v % 2 AS odd, sum(k) AS s FROM t GROUP BY v % 2;
         INSERT INTO t VALUES (1, 1);",
    )
    .await
    .expect("the statements are right");
    let mut other = session(&engine);
    let statement = other.parse("SUBSCRIBE TO sums").expect("it parses").remove(0);
    let Response::Rows(mut changes) = other.run(&statement).await.expect("it runs") else { panic!("rows") };
    let first = changes.batches.next().await.expect("a snapshot").expect("no error");
    assert_eq!(first.num_rows(), 1);
    s.query("INSERT INTO t VALUES (3, 5), (2, 2)").await.expect("it is right");
    let mut n_rows = 0;
    while n_rows < 3 {
        n_rows += changes.batches.next().await.expect("it goes on").expect("no error").num_rows();
    }
    assert_eq!(n_rows, 3, "one sum is retracted and given anew, one is new");
    drop(changes);
    engine.shutdown().await;
}
