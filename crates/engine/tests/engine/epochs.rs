//! What is told of epochs and of the log.

use super::common::{Gate, config, number, rows, run, session, start, until};

/// Whether something is so of the last epoch that was written to.
async fn of_last(s: &mut millstream_engine::Session, is_so: &str) -> bool {
    let last = "(SELECT max(epoch) FROM millstream.epochs WHERE rows > 0)";
    number(s, &format!("SELECT count(*) FROM millstream.epochs WHERE epoch = {last} AND {is_so}")).await == 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn epochs_tell_what_went_into_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for data_dir in [None, Some(folder.path().to_owned())] {
        let log =
            if data_dir.is_some() { "log_bytes > 30 AND log_us >= 0" } else { "log_bytes IS NULL AND log_us IS NULL" };
        let mut config = config(2);
        config.data_dir = data_dir.map(Into::into);
        let engine = start(config);
        let mut s = session(&engine);
        run(&mut s, "CREATE TABLE t (k int PRIMARY KEY, v int)").await;
        run(&mut s, "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)").await;
        assert!(of_last(&mut s, &format!("rows = 3 AND transactions = 1 AND {log}")).await);
        assert!(of_last(&mut s, "closed_at > now() - interval '1 hour' AND closed_at <= now()").await);
        run(&mut s, "BEGIN; DELETE FROM t WHERE k = 1; UPDATE t SET v = 9 WHERE k = 2; COMMIT").await;
        assert!(
            of_last(&mut s, &format!("rows = 3 AND transactions = 1 AND {log}")).await,
            "two rows as they were, one new"
        );
        run(&mut s, "SET synchronous_commit = off; INSERT INTO t VALUES (7, 7)").await;
        until(&mut s, "SELECT epoch FROM millstream.epochs WHERE log_us IS NULL AND log_bytes > 0", |epochs| {
            !epochs.contains(|c: char| c.is_ascii_digit())
        })
        .await;
        assert!(of_last(&mut s, &format!("rows = 1 AND {log}")).await);
        run(&mut s, "CREATE STREAM n WITH (connector = 'nexmark', \"table\" = 'bid', rate = '1000')").await;
        until(&mut s, "SELECT count(*) > 5 FROM millstream.epochs WHERE transactions = 0 AND rows > 0", |so| {
            so.contains("true")
        })
        .await;
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_is_computed_when_all_that_it_touches_has_it() {
    let mut config = config(2);
    let gate = Gate::new(&mut config, "v");
    let engine = start(config);
    let mut s = session(&engine);
    run(&mut s, "CREATE TABLE t (k int PRIMARY KEY)").await;
    run(&mut s, "CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM t").await;
    run(&mut s, "INSERT INTO t VALUES (1)").await;
    let computed = "SELECT compute_us IS NOT NULL FROM millstream.epochs WHERE rows > 0 ORDER BY epoch DESC LIMIT 1";
    until(&mut s, computed, |so| so.contains("true")).await;
    gate.close();
    run(&mut s, "INSERT INTO t VALUES (2)").await;
    assert!(rows(&mut s, computed).await.contains("false"), "the view waits");
    gate.open();
    until(&mut s, computed, |so| so.contains("true")).await;
    gate.close();
    run(&mut s, "INSERT INTO t VALUES (3)").await;
    assert!(rows(&mut s, computed).await.contains("false"), "the view waits");
    run(&mut s, "DROP MATERIALIZED VIEW v").await;
    until(&mut s, computed, |so| so.contains("true")).await;
    gate.open();
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_tells_its_size_and_age() {
    let engine = start(config(1));
    assert_eq!(number(&mut session(&engine), "SELECT count(*) FROM millstream.log").await, 0, "there is none");
    engine.shutdown().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    for n_starts in 1..3 {
        let mut config = config(2);
        config.data_dir = Some(folder.path().to_owned().into());
        let engine = start(config);
        let mut s = session(&engine);
        if n_starts == 1 {
            run(&mut s, "CREATE TABLE t (k int PRIMARY KEY)").await;
        }
        run(&mut s, &format!("INSERT INTO t VALUES ({n_starts})")).await;
        let is_so = "SELECT count(*) FROM millstream.log WHERE durable_sequence = last_sequence AND bytes > 100
            AND oldest_at > now() - interval '1 hour' AND oldest_at < now() AND oldest_epoch > 0 AND oldest_sequence = 1";
        let shown = rows(&mut s, "SELECT * FROM millstream.log").await;
        assert_eq!(number(&mut s, is_so).await, 1, "{shown}");
        assert_eq!(number(&mut s, "SELECT segments FROM millstream.log").await, n_starts, "{shown}");
        // The log begins where the last checkpoint but one goes on; so it takes two.
        for k in [10, 20] {
            run(&mut s, "CHECKPOINT").await;
            run(&mut s, &format!("INSERT INTO t VALUES ({})", k + n_starts)).await;
        }
        let shown = rows(&mut s, "SELECT * FROM millstream.log").await;
        assert_eq!(number(&mut s, "SELECT segments FROM millstream.log").await, 1, "{shown}");
        let oldest = number(&mut s, "SELECT oldest_sequence FROM millstream.log").await;
        assert_eq!(oldest > 1, n_starts > 1, "{shown}");
        engine.shutdown().await;
    }
}
