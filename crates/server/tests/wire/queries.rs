//! Statements and results in the simple and the extended protocol.

use futures::StreamExt;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::Type;

use crate::raw::{Raw, bind, execute, field, message, parse, query, sync};
use crate::{Running, state_of};

#[tokio::test]
async fn simple_queries_answer_statement_by_statement() {
    let running = Running::start().await;
    let mut raw = Raw::connect(&running).await;
    let cases = [
        ("", "IZI"),
        (" ; ; ", "IZI"),
        ("text a", "TDCZI"),
        ("insert; text b; notice c", "CTDCNCZI"),
        ("text a; fail; text b", "TDCEZI"),
        ("begin", "CZT"),
        ("fail", "EZE"),
        ("text a", "EZE"),
        ("rollback", "CZI"),
        ("rows 0", "TCZI"),
        ("zone Europe/Berlin", "SCZI"),
        ("implicit; text x", "TDCTDCZI"),
    ];
    for (sql, kinds) in cases {
        raw.send(&query(sql)).await;
        assert_eq!(raw.kinds_until_ready().await, kinds, "{sql}");
    }
}

#[tokio::test]
async fn only_several_statements_share_an_implicit_transaction() {
    let running = Running::start().await;
    let client = running.connect().await;
    let text = async |sql: &str| match client.simple_query(sql).await.expect("a result").into_iter().nth(1) {
        Some(SimpleQueryMessage::Row(row)) => row.get(0).map(str::to_owned),
        other => panic!("a row instead of {other:?}"),
    };
    assert_eq!(text("implicit").await.as_deref(), Some("no"));
    assert_eq!(text("implicit; insert").await.as_deref(), Some("yes"));
    assert_eq!(text("implicit").await.as_deref(), Some("no"));
}

#[tokio::test]
async fn statements_before_a_sync_share_an_implicit_transaction() {
    let running = Running::start().await;
    let mut raw = Raw::connect(&running).await;
    raw.send(&[parse("s", "implicit"), sync()].concat()).await;
    raw.until_ready().await;
    let once = [bind("", "s"), execute("", 0)].concat();
    for (messages, expected) in [
        (vec![once.clone(), sync()], vec!["no"]),
        (vec![once.clone(), once.clone(), sync()], vec!["yes", "yes"]),
        (vec![once.clone(), sync()], vec!["no"]),
    ] {
        raw.send(&messages.concat()).await;
        let answers = raw.until_ready().await;
        // A count of columns and a length come before the value.
        let texts =
            answers.iter().filter(|(kind, _)| *kind == 'D').map(|(_, body)| String::from_utf8_lossy(&body[6..]));
        assert_eq!(texts.collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn errors_carry_all_their_fields() {
    let running = Running::start().await;
    let mut raw = Raw::connect(&running).await;
    raw.send(&query("fail")).await;
    let error = &raw.until_ready().await[0];
    let expected = [
        ('S', "ERROR"),
        ('V', "ERROR"),
        ('C', "42P01"),
        ('M', "relation \"x\" does not exist"),
        ('D', "a detail"),
        ('H', "a hint"),
        ('P', "6"),
    ];
    for (code, value) in expected {
        assert_eq!(field(error, code).as_deref(), Some(value));
    }
}

#[tokio::test]
async fn large_results_arrive_whole_in_both_formats() {
    const N_ROWS: usize = 30_000;
    let running = Running::start().await;
    let client = running.connect().await;
    let text = client.simple_query(&format!("rows {N_ROWS}")).await.expect("rows");
    let rows: Vec<_> =
        text.iter().filter_map(|m| if let SimpleQueryMessage::Row(row) = m { Some(row) } else { None }).collect();
    assert_eq!(rows.len(), N_ROWS);
    assert_eq!(rows[12_345].get(1), Some("12345037035"));
    assert_eq!(rows[1].get(3), Some("2023-11-14 22:13:21.234567+00"));
    // tokio-postgres asks for binary.
    let rows = client.query(&format!("rows {N_ROWS}"), &[]).await.expect("rows");
    assert_eq!(rows.len(), N_ROWS);
    let (a, b, c): (i64, i64, &str) = (rows[12_345].get(0), rows[12_345].get(1), rows[12_345].get(2));
    assert_eq!((a, b, c), (12_345, 12_345_037_035, "row number     12345"));
}

#[tokio::test]
async fn parameters_travel_in_binary() {
    let running = Running::start().await;
    let client = running.connect().await;
    let statement = client.prepare("echo int2 int4 int8 float4 float8 bool text bytea int4[] text[]").await;
    let statement = statement.expect("a statement");
    assert_eq!(statement.params()[3], Type::FLOAT4);
    assert_eq!(statement.columns()[8].type_(), &Type::INT4_ARRAY);
    let row = client
        .query_one(
            &statement,
            &[
                &-2i16,
                &7i32,
                &i64::MIN,
                &1.5f32,
                &f64::NAN,
                &true,
                &"\u{e4} text",
                &vec![0u8, 255],
                &vec![Some(1i32), None],
                &vec!["a", "b c"],
            ],
        )
        .await
        .expect("a row");
    assert_eq!((row.get::<_, i16>(0), row.get::<_, i32>(1), row.get::<_, i64>(2)), (-2, 7, i64::MIN));
    assert!(row.get::<_, f64>(4).is_nan() && row.get::<_, bool>(5));
    assert_eq!((row.get::<_, &str>(6), row.get::<_, Vec<u8>>(7)), ("\u{e4} text", vec![0, 255]));
    assert_eq!(row.get::<_, Vec<Option<i32>>>(8), vec![Some(1), None]);
    assert_eq!(row.get::<_, Vec<String>>(9), vec!["a", "b c"]);
    let nulls = client.query_one("echo int8 text", &[&None::<i64>, &None::<&str>]).await.expect("a row");
    assert_eq!((nulls.get::<_, Option<i64>>(0), nulls.get::<_, Option<&str>>(1)), (None, None));
}

#[tokio::test]
async fn parameters_travel_in_text() {
    let running = Running::start().await;
    let mut raw = Raw::connect(&running).await;
    raw.send(&parse("", "echo numeric timestamptz interval")).await;
    let mut body = b"\0\0\0\0\0\x03".to_vec();
    for value in ["12.50", "2024-01-02 03:04:05+02", "1 day 2 hours"] {
        body.extend_from_slice(&(value.len() as i32).to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    body.extend_from_slice(b"\0\0");
    raw.send(&message(b'B', &body)).await;
    raw.send(&[execute("", 0), sync()].concat()).await;
    let answers = raw.until_ready().await;
    let row = &answers.iter().find(|(kind, _)| *kind == 'D').expect("a row").1;
    let text = String::from_utf8_lossy(row);
    for value in ["12.5", "2024-01-02 01:04:05+00", "1 day 02:00:00"] {
        assert!(text.contains(value), "{value} in {text}");
    }
}

#[tokio::test]
async fn wrong_parameters_are_refused() {
    let running = Running::start().await;
    let mut raw = Raw::connect(&running).await;
    let bind_one = |value: &[u8], format: u8| {
        let mut body = vec![0, 0, 0, 1, 0, format, 0, 1];
        body.extend_from_slice(&(value.len() as i32).to_be_bytes());
        body.extend_from_slice(value);
        body.extend_from_slice(b"\0\0");
        message(b'B', &body)
    };
    let cases = [
        (bind_one(b"x", 0), "22P02"),
        (bind_one(b"99999999999", 0), "22003"),
        (bind_one(b"\xff", 0), "22021"),
        (bind_one(b"abc", 1), "22P03"),
        (bind_one(b"1", 7), "22023"),
        (bind("", ""), "08P01"),
        (bind("", "nobody"), "26000"),
        (execute("nobody", 0), "34000"),
        (message(b'D', b"Snobody\0"), "26000"),
        (message(b'D', b"Pnobody\0"), "34000"),
        (parse("", "text a; text b"), "42601"),
        (parse("", "fail"), "42P01"),
    ];
    for (wrong, state) in cases {
        raw.send(&[parse("", "echo int4"), wrong, parse("", "skipped"), sync()].concat()).await;
        let answers = raw.until_ready().await;
        let errors: Vec<_> = answers.iter().filter(|(kind, _)| *kind == 'E').collect();
        assert_eq!(errors.len(), 1);
        assert_eq!(field(errors[0], 'C').as_deref(), Some(state));
    }
}

#[tokio::test]
async fn describe_tells_parameters_columns_and_their_absence() {
    let running = Running::start().await;
    let mut raw = Raw::connect(&running).await;
    raw.send(&[parse("s", "insert"), message(b'D', b"Ss\0"), sync()].concat()).await;
    assert_eq!(raw.kinds_until_ready().await, "1tnZI");
    raw.send(&[bind("p", "s"), message(b'D', b"Pp\0"), execute("p", 0), sync()].concat()).await;
    assert_eq!(raw.kinds_until_ready().await, "2nCZI");
    raw.send(&[parse("r", "rows 1"), message(b'D', b"Sr\0"), sync()].concat()).await;
    assert_eq!(raw.kinds_until_ready().await, "1tTZI");
    raw.send(&[parse("e", ""), bind("", "e"), message(b'D', b"P\0"), execute("", 0), sync()].concat()).await;
    assert_eq!(raw.kinds_until_ready().await, "12nIZI");
    raw.send(&[message(b'D', b"Pcursor\0"), sync()].concat()).await;
    assert_eq!(raw.kinds_until_ready().await, "TZI");
    raw.send(&[parse("s", "insert"), sync()].concat()).await;
    let error = &raw.until_ready().await[0];
    assert_eq!(field(error, 'C').as_deref(), Some("42P05"));
    raw.send(&[message(b'C', b"Ss\0"), message(b'C', b"Ss\0"), parse("s", "insert"), sync()].concat()).await;
    assert_eq!(raw.kinds_until_ready().await, "31ZI");
}

#[tokio::test]
async fn portals_give_their_rows_in_pieces() {
    let running = Running::start().await;
    let mut client = running.connect().await;
    let transaction = client.transaction().await.expect("a transaction");
    let portal = transaction.bind("rows 20000", &[]).await.expect("a portal");
    let mut n_rows = 0;
    loop {
        let rows = transaction.query_portal(&portal, 777).await.expect("rows");
        for row in &rows {
            assert_eq!(row.get::<_, i64>(0), n_rows);
            n_rows += 1;
        }
        if rows.is_empty() {
            break;
        }
    }
    assert_eq!(n_rows, 20_000);
    assert!(transaction.query_portal(&portal, 5).await.expect("an end stays an end").is_empty());
}

#[tokio::test]
async fn portals_end_with_their_transaction() {
    let running = Running::start().await;
    let mut raw = Raw::connect(&running).await;
    raw.send(&[parse("", "rows 10"), bind("p", ""), execute("p", 3), sync()].concat()).await;
    assert_eq!(raw.kinds_until_ready().await, "12DsZI");
    raw.send(&[execute("p", 3), sync()].concat()).await;
    assert_eq!(raw.kinds_until_ready().await, "EZI");
    raw.send(&query("begin")).await;
    raw.until_ready().await;
    raw.send(&[parse("", "rows 7"), bind("p", ""), execute("p", 3), sync()].concat()).await;
    assert_eq!(raw.kinds_until_ready().await, "12DsZT");
    raw.send(&[execute("p", 3), execute("p", 3), execute("p", 3), sync()].concat()).await;
    assert_eq!(raw.kinds_until_ready().await, "DsDCZT");
    raw.send(&[parse("", "insert"), bind("i", ""), execute("i", 0), execute("i", 0), sync()].concat()).await;
    let answers = raw.until_ready().await;
    let error = answers.iter().find(|(kind, _)| *kind == 'E').expect("an error");
    assert_eq!(field(error, 'C').as_deref(), Some("55000"));
    raw.send(&query("rollback")).await;
    raw.until_ready().await;
    assert_eq!(running.fake.observed.n_streams.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_result_that_breaks_ends_in_an_error() {
    let running = Running::start().await;
    let client = running.connect().await;
    let error = client.query("breaks 1000", &[]).await.expect_err("an error");
    assert_eq!(state_of(&error), "22012");
    client.batch_execute("begin").await.expect("begin");
    let error = client.simple_query("breaks 10").await.expect_err("an error");
    assert_eq!(state_of(&error), "22012");
    let error = client.simple_query("text a").await.expect_err("the transaction has failed");
    assert_eq!(state_of(&error), "25P02");
    client.batch_execute("rollback").await.expect("rollback");
    client.query_one("text fine", &[]).await.expect("a usable session");
}

#[tokio::test]
async fn notices_and_parameter_changes_reach_the_client() {
    let running = Running::start().await;
    let (client, mut connection) = running.connect_for_messages().await;
    let (sender, mut notices) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = futures::stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(Ok(message)) = messages.next().await {
            if let tokio_postgres::AsyncMessage::Notice(notice) = message {
                let _ = sender.send((notice.severity().to_owned(), notice.message().to_owned()));
            }
        }
    });
    client.batch_execute("notice careful").await.expect("done");
    assert_eq!(notices.recv().await, Some(("WARNING".to_owned(), "careful".to_owned())));
    let mut raw = Raw::connect(&running).await;
    raw.send(&query("zone +3")).await;
    let answers = raw.until_ready().await;
    assert_eq!(answers[0], ('S', b"TimeZone\0<+03>-03\0".to_vec()));
    raw.send(&query("rows 1")).await;
    let row = raw.until_ready().await.into_iter().find(|(kind, _)| *kind == 'D').expect("a row").1;
    assert!(row.ends_with(b"2023-11-15 01:13:20+03"));
}

#[tokio::test]
async fn pipelined_statements_answer_in_order() {
    let running = Running::start().await;
    let client = running.connect().await;
    let statement = client.prepare("echo int4").await.expect("a statement");
    let answers = futures::future::join_all((0..200i32).map(|i| {
        let (client, statement) = (&client, &statement);
        async move { client.query_one(statement, &[&i]).await.expect("a row").get::<_, i32>(0) }
    }))
    .await;
    assert_eq!(answers, (0..200).collect::<Vec<_>>());
}
