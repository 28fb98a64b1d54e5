//! Start-up: encryption, versions, databases, limits.

use millstream_engine::{Engine, EngineConfig};
use millstream_server::{Server, StartingEngine};
use tokio_postgres::NoTls;

use crate::raw::{Raw, field, message, query, start_up};
use crate::{Running, state_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_while_the_engine_starts_is_told_so() {
    let starting = StartingEngine::default();
    let server = Server::bind("127.0.0.1:0", starting.clone()).await.expect("a free port");
    let server = server.spawn().expect("an address");
    let config = format!("host=127.0.0.1 port={} user=u dbname=millstream", server.address.port());
    let error = tokio_postgres::connect(&config, NoTls).await.err().expect("it is starting");
    assert_eq!(state_of(&error), "57P03");
    let detail = error.as_db_error().and_then(|error| error.detail());
    assert!(detail.is_some_and(|detail| detail.contains("looks at what is on the disk")), "{detail:?}");
    let engine = Engine::start(EngineConfig { workers: 1, query_threads: 1, ..EngineConfig::default() });
    let engine = engine.expect("an engine");
    starting.has_started(engine.clone());
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client.batch_execute("SELECT 1").await.expect("it runs");
    drop(client);
    server.stop().await;
    engine.shutdown().await;
}

#[tokio::test]
async fn encryption_is_refused_and_the_session_goes_on_without() {
    let running = Running::start().await;
    let mut raw = Raw::open(&running).await;
    for code in [80_877_104i32, 80_877_103] {
        raw.send(&[&8i32.to_be_bytes()[..], &code.to_be_bytes()[..]].concat()).await;
        assert_eq!(raw.byte().await, b'N');
    }
    raw.send(&start_up(196_608, &[("user", "u"), ("database", "millstream")])).await;
    assert_eq!(raw.kinds_until_ready().await, "RSKZI");
}

#[tokio::test]
async fn a_newer_minor_version_is_negotiated_down() {
    let running = Running::start().await;
    let mut raw = Raw::open(&running).await;
    let params = [("user", "u"), ("database", "millstream"), ("_pq_.option", "x")];
    raw.send(&start_up(196_610, &params)).await;
    let negotiated = raw.next().await.expect("an answer");
    assert_eq!(negotiated.0, 'v');
    assert!(negotiated.1.ends_with(b"_pq_.option\0"));
    assert_eq!(raw.kinds_until_ready().await, "RSKZI");
}

#[tokio::test]
async fn wrong_start_ups_are_fatal() {
    let running = Running::start().await;
    let cases: [(Vec<u8>, &str); 5] = [
        (start_up(196_608, &[("user", "u"), ("database", "other")]), "3D000"),
        (start_up(196_608, &[("database", "millstream")]), "28000"),
        (start_up(131_072, &[("user", "u")]), "0A000"),
        (start_up(196_608, &[("user", "u"), ("database", "millstream"), ("client_encoding", "LATIN1")]), "0A000"),
        (vec![0x7f, 0, 0, 0, 0, 0, 0, 0], "08P01"),
    ];
    for (bytes, state) in cases {
        let mut raw = Raw::open(&running).await;
        raw.send(&bytes).await;
        let error = raw.next().await.expect("an error");
        assert_eq!((field(&error, 'S').as_deref(), field(&error, 'C').as_deref()), (Some("FATAL"), Some(state)));
        assert_eq!(raw.next().await, None, "the connection is closed");
    }
}

#[tokio::test]
async fn lengths_beyond_the_limits_end_the_connection() {
    let running = Running::start().await;
    for bytes in [vec![b'Q', 0x7f, 0, 0, 0], vec![b'?', 0, 0, 0, 4], vec![b'S', 0, 0, 0, 1]] {
        let mut raw = Raw::connect(&running).await;
        raw.send(&bytes).await;
        let error = raw.next().await.expect("an error");
        assert_eq!((error.0, field(&error, 'S').as_deref()), ('E', Some("FATAL")));
        assert_eq!(raw.next().await, None);
    }
    // The limit is 64 MiB, and what is below arrives.
    let mut raw = Raw::connect(&running).await;
    let long = "x".repeat(20 << 20);
    raw.send(&query(&format!("text {long}"))).await;
    let answers = raw.until_ready().await;
    assert!(answers.iter().any(|(kind, body)| *kind == 'D' && body.len() == long.len() + 6));
}

#[tokio::test]
async fn malformed_messages_leave_the_session_usable() {
    let running = Running::start().await;
    let mut raw = Raw::connect(&running).await;
    raw.send(&message(b'Q', b"no zero byte")).await;
    assert_eq!(raw.kinds_until_ready().await, "EZI");
    raw.send(&message(b'Q', b"text \xff\0")).await;
    assert_eq!(raw.kinds_until_ready().await, "EZI");
    raw.send(&message(b'B', b"\0\0\0\x05")).await;
    raw.send(&message(b'S', b"")).await;
    assert_eq!(raw.kinds_until_ready().await, "EZI");
    raw.send(&query("text fine")).await;
    assert_eq!(raw.kinds_until_ready().await, "TDCZI");
}

#[tokio::test]
async fn a_thousand_connections_are_served() {
    let running = Running::start().await;
    let mut open = Vec::new();
    for _ in 0..1000 {
        open.push(Raw::connect(&running).await);
    }
    for raw in &mut open {
        raw.send(&query("text here")).await;
    }
    for raw in &mut open {
        assert_eq!(raw.kinds_until_ready().await, "TDCZI");
    }
}
