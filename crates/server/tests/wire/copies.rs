//! COPY in and out, in the simple and the extended protocol.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::{SinkExt, TryStreamExt};

use crate::raw::{Raw, field, message, query};
use crate::{Running, state_of};

#[tokio::test]
async fn rows_are_copied_in() {
    let running = Running::start().await;
    let client = running.connect().await;
    let sink = client.copy_in("copyin").await.expect("a copy");
    futures::pin_mut!(sink);
    let data: String = (0..100_000).map(|i| format!("{i}\t{}\n", i * 7)).collect();
    // Pieces end anywhere in a line.
    for piece in data.as_bytes().chunks(997) {
        sink.send(Bytes::copy_from_slice(piece)).await.expect("the server reads");
    }
    assert_eq!(sink.finish().await.expect("a tag"), 100_000);
    assert_eq!(running.fake.observed.n_copied.load(Ordering::SeqCst), 100_000);
    client.query_one("text fine", &[]).await.expect("a usable session");
}

#[tokio::test]
async fn data_that_does_not_fit_ends_the_copy() {
    let running = Running::start().await;
    let client = running.connect().await;
    for (sql, data, state) in [
        ("copyin", "1\t2\n3\tx\n", "22P02"),
        ("copyin", "1\n", "22P04"),
        ("copyin", "1\t2\t3\n", "22P04"),
        ("copyin csv", "1,\"2\n", "22P04"),
        ("copyin refuse", "1\t2\n", "23505"),
    ] {
        let sink = client.copy_in(sql).await.expect("a copy");
        futures::pin_mut!(sink);
        // The server may have answered before everything is sent.
        let _ = sink.send(Bytes::from_static(data.as_bytes())).await;
        let error = sink.finish().await.expect_err(data);
        assert_eq!(state_of(&error), state, "{data}");
        client.query_one("text fine", &[]).await.expect("a usable session");
    }
    assert_eq!(running.fake.observed.n_copied.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn copies_of_the_simple_protocol_end_in_every_way() {
    let running = Running::start().await;
    let mut raw = Raw::connect(&running).await;
    raw.send(&query("copyin; text after")).await;
    assert_eq!(raw.next().await.expect("an answer").0, 'G');
    raw.send(&message(b'd', b"1\t2\n\\N\t")).await;
    raw.send(&[message(b'd', b"4"), message(b'c', b"")].concat()).await;
    assert_eq!(raw.kinds_until_ready().await, "CTDCZI");
    assert_eq!(running.fake.observed.n_copied.load(Ordering::SeqCst), 2);
    raw.send(&query("copyin")).await;
    assert_eq!(raw.next().await.expect("an answer").0, 'G');
    raw.send(&message(b'f', b"changed my mind\0")).await;
    let error = &raw.until_ready().await[0];
    assert_eq!(field(error, 'C').as_deref(), Some("57014"));
    assert_eq!(field(error, 'M').as_deref(), Some("COPY from stdin failed: changed my mind"));
    // After a failure, what is still sent is ignored.
    raw.send(&query("copyin")).await;
    assert_eq!(raw.next().await.expect("an answer").0, 'G');
    raw.send(&[message(b'd', b"x\ty\n"), message(b'd', b"1\t2\n"), message(b'c', b"")].concat()).await;
    let error = &raw.until_ready().await[0];
    assert_eq!(field(error, 'W').as_deref(), Some("COPY pairs, line 1, column a: \"x\""));
    raw.send(&query("text fine")).await;
    assert_eq!(raw.kinds_until_ready().await, "TDCZI");
}

#[tokio::test]
async fn rows_are_copied_out() {
    let running = Running::start().await;
    let client = running.connect().await;
    let stream = client.copy_out("copyout 20000").await.expect("a copy");
    let pieces: Vec<Bytes> = stream.try_collect().await.expect("data");
    assert_eq!(pieces.len(), 20_000);
    assert_eq!(pieces[1], "1\t1000003\trow number         1\t2023-11-14 22:13:21.234567+00\n");
    let stream = client.copy_out("copyout 2 csv header").await.expect("a copy");
    let pieces: Vec<Bytes> = stream.try_collect().await.expect("data");
    assert_eq!(pieces[0], "a,b,c,d\n");
    assert_eq!(pieces[2], "1,1000003,row number         1,2023-11-14 22:13:21.234567+00\n");
}
