//! `COPY` into relations and out of relations, queries and subscriptions.

use bytes::Bytes;
use futures::{SinkExt, StreamExt, TryStreamExt};
use tokio_postgres::Client;

use super::{Real, fails, rows, run};

/// Copies data in pieces of `n_bytes`; gives the number of rows.
async fn copy_in(client: &Client, sql: &str, data: &[u8], n_bytes: usize) -> Result<u64, tokio_postgres::Error> {
    let sink = client.copy_in(sql).await?;
    futures::pin_mut!(sink);
    for piece in data.chunks(n_bytes) {
        sink.send(Bytes::copy_from_slice(piece)).await?;
    }
    sink.finish().await
}

async fn copy_out(client: &Client, sql: &str) -> Vec<u8> {
    let stream = client.copy_out(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    pieces.concat()
}

#[tokio::test]
async fn rows_come_in_with_defaults_and_go_out_as_they_came() {
    let real = Real::start().await;
    let client = real.connect().await;
    run(&client, "CREATE TABLE t (id bigint PRIMARY KEY, name text DEFAULT 'none', price numeric(10,2))").await;
    run(&client, "CREATE MATERIALIZED VIEW v AS SELECT name, count(*) AS n FROM t GROUP BY name").await;
    let data: String = (0..30_000).map(|i| format!("{i}\t{}.50\n", i % 7)).collect();
    assert_eq!(copy_in(&client, "COPY t (id, price) FROM STDIN", data.as_bytes(), 1013).await.expect("rows"), 30_000);
    assert_eq!(rows(&client, "SELECT * FROM v").await, ["none|30000"]);
    let csv = "id,name\n40000,\"a, b\"\n40001,\n";
    let n_rows = copy_in(&client, "COPY t (id, name) FROM STDIN WITH (FORMAT csv, HEADER)", csv.as_bytes(), 5).await;
    assert_eq!(n_rows.expect("rows"), 2);
    let out = copy_out(&client, "COPY (SELECT id, name, price FROM t WHERE id >= 40000 ORDER BY id) TO STDOUT").await;
    assert_eq!(String::from_utf8_lossy(&out), "40000\ta, b\t\\N\n40001\t\\N\t\\N\n");
    let out = copy_out(&client, "COPY (SELECT id, name FROM t WHERE id = 40000) TO STDOUT WITH CSV HEADER").await;
    assert_eq!(String::from_utf8_lossy(&out), "id,name\n40000,\"a, b\"\n");
    // Everything out and in again, in binary.
    let out = copy_out(&client, "COPY t TO STDOUT (FORMAT binary)").await;
    run(&client, "CREATE TABLE u (id bigint PRIMARY KEY, name text, price numeric(10,2))").await;
    assert_eq!(copy_in(&client, "COPY u FROM STDIN (FORMAT binary)", &out, 4099).await.expect("rows"), 30_002);
    assert!(rows(&client, "SELECT * FROM t EXCEPT SELECT * FROM u").await.is_empty());
    real.stop().await;
}

#[tokio::test]
async fn a_copy_that_fails_leaves_nothing_and_says_where() {
    let real = Real::start().await;
    let client = real.connect().await;
    run(&client, "CREATE TABLE clicks (id int PRIMARY KEY, at timestamp NOT NULL, code varchar(3))").await;
    run(&client, "INSERT INTO clicks VALUES (7, '2024-01-01', 'a')").await;
    let cases = [
        ("1\t2024-01-01\ta\n2\tx\tb\n", "22007", "COPY clicks, line 2, column at: \"x\""),
        ("1\t2024-01-01\ta\n2\t2024-01-01\n", "22P04", "COPY clicks, line 2: \"2\t2024-01-01\""),
        ("1\t2024-01-01\ta\n2\t\\N\tb\n", "23502", "COPY clicks, line 2"),
        ("1\t2024-01-01\tabcd\n", "22001", "COPY clicks, line 1"),
        ("1\t2024-01-01\ta\n1\t2024-01-01\ta\n", "23505", ""),
        ("1\t2024-01-01\ta\n7\t2024-01-01\ta\n", "23505", ""),
    ];
    for (data, state, context) in cases {
        let error = copy_in(&client, "COPY clicks FROM STDIN", data.as_bytes(), 1000).await.expect_err(data);
        let error = error.as_db_error().expect("the server's");
        assert_eq!(error.code().code(), state, "{data}");
        assert!(error.where_().unwrap_or_default().starts_with(context), "{data}: {:?}", error.where_());
        assert_eq!(rows(&client, "SELECT id FROM clicks").await, ["7"], "{data}");
    }
    run(&client, "CREATE VIEW pv AS SELECT 1 AS a").await;
    assert_eq!(fails(&client, "COPY pv FROM STDIN").await, "42809");
    assert_eq!(fails(&client, "COPY clicks (id, nothing) FROM STDIN").await, "42703");
    assert_eq!(fails(&client, "COPY nothing TO STDOUT").await, "42P01");
    assert_eq!(fails(&client, "COPY clicks FROM STDIN WITH (DELIMITER 'a')").await, "22023");
    real.stop().await;
}

#[tokio::test]
async fn options_name_columns_and_rows() {
    let real = Real::start().await;
    let client = real.connect().await;
    run(&client, "CREATE TABLE t (a int PRIMARY KEY, b text DEFAULT 'dflt', d text)").await;
    let copies = [
        ("COPY t FROM STDIN (FORMAT csv, FORCE_NOT_NULL (b), FORCE_NULL (d))", "1,,\"\"\n2,\"x\",\n3,\"\",y\n", 3),
        (
            "COPY t (a, b) FROM STDIN CSV HEADER FORCE NOT NULL b WHERE a > 11 AND b <> 'z'",
            "a,b\n10,q\n11,\n12,\n13,z\n14,u\n",
            2,
        ),
        // The condition sees defaults, and columns that the data lacks.
        ("COPY t (a) FROM STDIN (HEADER match) WHERE t.b = 'dflt' AND d IS NULL", "a\n20\n", 1),
    ];
    for (sql, data, n_rows) in copies {
        assert_eq!(copy_in(&client, sql, data.as_bytes(), 7).await.expect(sql), n_rows, "{sql}");
    }
    let out = async |sql: &str| String::from_utf8_lossy(&copy_out(&client, sql).await).into_owned();
    assert_eq!(
        out("COPY (SELECT a, b, d FROM t ORDER BY a) TO STDOUT (FORMAT csv, FORCE_QUOTE *)").await,
        "\"1\",\"\",\n\"2\",\"x\",\n\"3\",\"\",\"y\"\n\"12\",\"\",\n\"14\",\"u\",\n\"20\",\"dflt\",\n"
    );
    assert_eq!(
        out("COPY (SELECT * FROM t WHERE a < 3 ORDER BY a) TO STDOUT CSV FORCE QUOTE a, d").await,
        "\"1\",\"\",\n\"2\",x,\n"
    );
    assert_eq!(out("COPY (INSERT INTO t VALUES (200, 'i') RETURNING a, b) TO STDOUT").await, "200\ti\n");
    assert_eq!(out("COPY (UPDATE t SET b = 'u' WHERE a = 200 RETURNING b) TO STDOUT CSV HEADER").await, "b\nu\n");
    assert_eq!(out("COPY (DELETE FROM t WHERE a > 19 AND a < 21 RETURNING *) TO STDOUT").await, "20\tdflt\t\\N\n");
    let mismatches = [
        ("(HEADER match)", "a\tc\n", "column name mismatch in header line field 2: got \"c\", expected \"b\""),
        ("(HEADER match)", "a\n", "wrong number of fields in header line: got 1, expected 2"),
        (
            "(FORMAT csv, HEADER match)",
            "a,\n",
            "column name mismatch in header line field 2: got null value (\"\"), expected \"b\"",
        ),
    ];
    for (options, data, message) in mismatches {
        let sql = format!("COPY t (a, b) FROM STDIN {options}");
        let error = copy_in(&client, &sql, data.as_bytes(), 7).await.expect_err(&sql);
        let error = error.as_db_error().expect("the server's");
        assert_eq!((error.code().code(), error.message()), ("22P04", message));
    }
    real.stop().await;
}

#[tokio::test]
async fn options_that_do_not_go_together_are_refused() {
    let real = Real::start().await;
    let client = real.connect().await;
    run(&client, "CREATE TABLE t (a int, b text)").await;
    for (rest, state) in [
        ("TO STDOUT (HEADER match)", "0A000"),
        ("TO STDOUT (HEADER maybe)", "42601"),
        ("TO STDOUT (FORMAT csv, FORCE_NULL (a))", "0A000"),
        ("TO STDOUT (FORCE_QUOTE *)", "0A000"),
        ("TO STDOUT (FORMAT csv, FORMAT csv)", "42601"),
        ("TO STDOUT (ENCODING 'latin1')", "0A000"),
        ("FROM STDIN (FORMAT csv, FORCE_QUOTE *)", "0A000"),
        ("FROM STDIN (FORMAT csv, FORCE_NULL *)", "22023"),
        ("FROM STDIN WHERE sum(a) > 1", "42803"),
        ("FROM STDIN WHERE a IN (SELECT 1)", "0A000"),
        ("FROM STDIN WHERE a", "42804"),
        ("FROM STDIN WHERE nothing > 1", "42703"),
    ] {
        assert_eq!(fails(&client, &format!("COPY t {rest}")).await, state, "{rest}");
    }
    assert_eq!(fails(&client, "COPY t (a) FROM STDIN (FORMAT csv, FORCE_NULL (b))").await, "42P10");
    assert_eq!(fails(&client, "COPY (DELETE FROM t) TO STDOUT").await, "0A000");
    real.stop().await;
}

#[tokio::test]
async fn arrays_of_varchar_go_out_and_in_again_in_binary() {
    let real = Real::start().await;
    let client = real.connect().await;
    run(&client, "CREATE TABLE t (a int, c varchar(5)[])").await;
    run(&client, "INSERT INTO t VALUES (1, '{ab,NULL,c}'), (2, NULL), (3, '{}')").await;
    let relation = copy_out(&client, "COPY t TO STDOUT (FORMAT binary)").await;
    // Postgres takes the elements of such a column for varchar (1043).
    assert!(relation.windows(4).any(|bytes| bytes == 1043i32.to_be_bytes()));
    let query = copy_out(&client, "COPY (SELECT a + 10, c FROM t) TO STDOUT (FORMAT binary)").await;
    for data in [relation, query] {
        run(&client, "CREATE TABLE u (a int, c varchar(5)[])").await;
        assert_eq!(copy_in(&client, "COPY u FROM STDIN (FORMAT binary)", &data, 11).await.expect("rows"), 3);
        assert_eq!(rows(&client, "SELECT c::text FROM u ORDER BY a").await, ["{ab,NULL,c}", "NULL", "{}"]);
        run(&client, "DROP TABLE u").await;
    }
    real.stop().await;
}

#[tokio::test]
async fn a_subscription_is_copied_out_until_it_is_cancelled() {
    let real = Real::start().await;
    let (client, writer) = (real.connect().await, real.connect().await);
    run(&writer, "CREATE STREAM s (a int); INSERT INTO s VALUES (1)").await;
    let cancel = client.cancel_token();
    let stream = client.copy_out("COPY (SUBSCRIBE TO s) TO STDOUT").await.expect("a copy");
    futures::pin_mut!(stream);
    let mut next = async || {
        let piece = stream.next().await.expect("more").map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        piece.map(|line| line.split_once('\t').map(|(_, rest)| rest.to_owned()).unwrap_or_default())
    };
    assert_eq!(next().await.expect("a line"), "1\t1\n");
    run(&writer, "INSERT INTO s VALUES (2)").await;
    assert_eq!(next().await.expect("a line"), "1\t2\n");
    cancel.cancel_query(tokio_postgres::NoTls).await.expect("a request");
    assert_eq!(crate::state_of(&next().await.expect_err("the end")), "57014");
    assert_eq!(rows(&client, "SELECT count(*) FROM s").await, ["2"]);
    real.stop().await;
}
