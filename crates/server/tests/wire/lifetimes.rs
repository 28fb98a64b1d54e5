//! Cancelling, clients that go, results without end, and the server's own end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::TryStreamExt;
use tokio_postgres::NoTls;

use crate::fake::wait_until;
use crate::raw::{Raw, field, query};
use crate::{Running, state_of};

#[tokio::test]
async fn a_live_result_is_sent_at_once_and_cancelled() {
    let running = Running::start().await;
    let client = running.connect().await;
    let rows = client.query_raw("ticks 10", Vec::<i32>::new()).await.expect("rows");
    futures::pin_mut!(rows);
    for i in 0..5i64 {
        let row = rows.try_next().await.expect("a row").expect("no end");
        assert_eq!(row.get::<_, i64>(0), i);
    }
    client.cancel_token().cancel_query(NoTls).await.expect("a request");
    let error = loop {
        match rows.try_next().await {
            Ok(row) => assert!(row.is_some(), "a cancelled result does not end well"),
            Err(error) => break error,
        }
    };
    assert_eq!(state_of(&error), "57014");
    client.query_one("text fine", &[]).await.expect("a usable session");
    assert_eq!(running.fake.observed.n_streams.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_busy_result_and_a_statement_are_cancelled() {
    let running = Running::start().await;
    let client = running.connect().await;
    for sql in ["forever", "nothing", "sleep 60000"] {
        let token = client.cancel_token();
        let cancel = async {
            wait_until("it runs", || {
                let observed = &running.fake.observed;
                observed.n_streams.load(Ordering::SeqCst) + observed.n_running.load(Ordering::SeqCst) > 0
            })
            .await;
            token.cancel_query(NoTls).await.expect("a request");
        };
        // The client drops rows as they come, so that only the server's work goes on.
        let run = async {
            let rows = client.query_raw(sql, Vec::<i32>::new()).await?;
            rows.try_for_each(|_| async { Ok(()) }).await
        };
        let (outcome, ()) = tokio::join!(run, cancel);
        assert_eq!(state_of(&outcome.expect_err("cancelled")), "57014", "{sql}");
    }
}

#[tokio::test]
async fn a_wrong_secret_cancels_nothing() {
    let running = Running::start().await;
    let mut victim = Raw::connect(&running).await;
    victim.send(&query("sleep 300")).await;
    let mut other = Raw::open(&running).await;
    let numbers = [16i32, 80_877_102, victim.pid, victim.secret.wrapping_add(1)];
    other.send(&numbers.map(i32::to_be_bytes).concat()).await;
    assert_eq!(other.next().await, None);
    assert_eq!(victim.kinds_until_ready().await, "CZI");
}

#[tokio::test]
async fn a_cancellation_between_statements_does_nothing() {
    let running = Running::start().await;
    let client = running.connect().await;
    client.cancel_token().cancel_query(NoTls).await.expect("a request");
    client.query_one("text fine", &[]).await.expect("not cancelled");
}

#[tokio::test]
async fn work_for_a_client_that_has_gone_stops() {
    let running = Running::start().await;
    let observed = &running.fake.observed;
    for sql in ["ticks 5", "forever", "nothing", "sleep 60000", "ticks 60000"] {
        let mut raw = Raw::connect(&running).await;
        raw.send(&query(sql)).await;
        let alive = || observed.n_streams.load(Ordering::SeqCst) + observed.n_running.load(Ordering::SeqCst);
        wait_until("it runs", || alive() > 0).await;
        drop(raw);
        wait_until("nothing runs", || alive() == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_no_more_than_the_sockets() {
    let running = Running::start().await;
    let mut raw = Raw::connect(&running).await;
    raw.send(&query("forever")).await;
    let observed = &running.fake.observed;
    let n_batches = || observed.n_batches.load(Ordering::SeqCst);
    let mut last = u64::MAX;
    wait_until("the server waits for the client", || {
        std::thread::sleep(Duration::from_millis(30));
        std::mem::replace(&mut last, n_batches()) == n_batches() && n_batches() > 0
    })
    .await;
    // A batch has some 60 kB; the kernel's buffers hold a few megabytes.
    assert!(n_batches() < 400, "{} batches were pulled", n_batches());
}

#[tokio::test]
async fn a_panic_ends_one_connection_only() {
    let running = Running::start().await;
    let client = running.connect().await;
    let mut raw = Raw::connect(&running).await;
    raw.send(&query("panic")).await;
    assert_eq!(raw.next().await, None);
    client.query_one("text fine", &[]).await.expect("another session goes on");
}

#[tokio::test]
async fn a_server_that_stops_tells_its_clients() {
    let running = Running::start().await;
    let mut idle = Raw::connect(&running).await;
    let mut busy = Raw::connect(&running).await;
    busy.send(&query("sleep 60000")).await;
    let observed = running.fake.observed.clone();
    wait_until("it runs", || observed.n_running.load(Ordering::SeqCst) == 1).await;
    running.server.stop().await;
    let error = idle.next().await.expect("an error");
    assert_eq!((field(&error, 'S').as_deref(), field(&error, 'C').as_deref()), (Some("FATAL"), Some("57P01")));
    assert_eq!(idle.next().await, None);
    let error = busy.next().await.expect("an error");
    assert_eq!(field(&error, 'C').as_deref(), Some("57014"));
}
