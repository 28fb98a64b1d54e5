//! Statements that nest deeply, or take long to plan.

use std::time::Duration;

use millstream_types::SqlState;

use super::common::*;

/// `n` terms between operators.
fn chain(term: impl Fn(usize) -> String, operator: &str, n: usize) -> String {
    (0..n).map(term).collect::<Vec<_>>().join(operator)
}

fn nested(open: &str, inner: &str, close: &str, n: usize) -> String {
    format!("{}{inner}{}", open.repeat(n), close.repeat(n))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_statements_work_up_to_a_limit() {
    let engine = start(config(2));
    let mut s = session(&engine);
    run(&mut s, "CREATE TABLE t (g bigint PRIMARY KEY); INSERT INTO t VALUES (1), (2), (500000)").await;
    let equal = |i: usize| format!("g = {i}");
    let unequal = |i: usize| format!("g <> {i}");
    let one = |i: usize| format!("SELECT {i}::bigint AS g");
    let letter = |_: usize| "'a'".to_owned();
    let conditions = [
        (chain(equal, " OR ", 1_000), 2),
        (chain(unequal, " AND ", 1_000), 1),
        (format!("g IN ({})", chain(|i| i.to_string(), ", ", 10_000)), 2),
        (nested("(", "g = 1", ")", 1_000), 1),
        (format!("{} = 2", nested("abs(", "g", ")", 100)), 1),
        (format!("{} = 7", nested("CASE WHEN g = 1 THEN 7 ELSE ", "0", " END", 200)), 1),
        (nested("NOT ", "g = 1", "", 500), 1),
        (format!("g = length({})", chain(letter, " || ", 300)), 0),
        (format!("{} = 3000", chain(|_| "g".to_owned(), " + ", 3_000)), 1),
    ];
    for (i, (condition, expected)) in conditions.iter().enumerate() {
        let begin: String = condition.chars().take(40).collect();
        let counted = format!("SELECT count(*) AS n FROM t WHERE {condition}");
        assert_eq!(number(&mut s, &counted).await, *expected, "{begin}");
        run(&mut s, &format!("CREATE MATERIALIZED VIEW v{i} AS {counted}")).await;
        assert_eq!(number(&mut s, &format!("SELECT n FROM v{i}")).await, *expected, "{begin}");
    }
    let union = chain(one, " UNION ALL ", 500);
    assert_eq!(number(&mut s, &format!("SELECT count(*) FROM ({union}) u")).await, 500);
    run(&mut s, &format!("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM ({union}) u")).await;
    assert_eq!(number(&mut s, "SELECT n FROM v").await, 500);
    for far_too_deep in [
        chain(equal, " OR ", 100_000),
        nested("(", "g = 1", ")", 100_000),
        nested("NOT ", "g = 1", "", 100_000),
        format!("{} = 2", nested("abs(", "g", ")", 100_000)),
        format!("{} = 7", nested("CASE WHEN g = 1 THEN 7 ELSE ", "0", " END", 100_000)),
        format!("g IN ({})", chain(one, " UNION ", 100_000)),
    ] {
        let error = s.query(&format!("SELECT count(*) FROM t WHERE {far_too_deep}")).await.expect_err("too deep");
        assert_eq!(error.state(), SqlState::STATEMENT_TOO_COMPLEX, "{error}");
    }
    assert_eq!(number(&mut s, "SELECT count(*) FROM t").await, 3);
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_is_stopped_while_it_is_planned() {
    let engine = start(config(1));
    let (mut s, mut other) = (session(&engine), session(&engine));
    // Planning what nests to the right takes time in proportion to the cube of its depth, or more.
    let endless = format!("SELECT {}", nested("1 + (", "1", ")", 700));
    run(&mut s, "SET statement_timeout = '100ms'").await;
    let error = s.query(&endless).await.expect_err("it is stopped");
    assert_eq!(error.state(), SqlState::QUERY_CANCELED, "{error}");
    run(&mut s, "SET statement_timeout = 0").await;
    let cancel = s.cancel_handle();
    let planned = tokio::spawn(async move { s.query(&endless).await.map(|_| ()) });
    for _ in 0..10 {
        assert_eq!(number(&mut other, "SELECT 1::bigint").await, 1);
    }
    // It forgets what it was told before it began.
    let mut planned = std::pin::pin!(planned);
    let ended = loop {
        cancel.cancel();
        if let Ok(ended) = tokio::time::timeout(Duration::from_millis(10), &mut planned).await {
            break ended;
        }
    };
    let error = ended.expect("it does not panic").expect_err("it is stopped");
    assert_eq!(error.state(), SqlState::QUERY_CANCELED, "{error}");
    engine.shutdown().await;
}
