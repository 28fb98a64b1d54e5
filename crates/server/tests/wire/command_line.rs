//! The binary as a person starts it.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::Duration;

use futures::StreamExt;

fn millstream(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millstream")).args(args).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_and_version_are_there() {
    let help = millstream(&["--help"]);
    assert!(help.status.success());
    let help = text(&help.stdout);
    for part in
        ["serve", "demo", "--listen", "--workers", "--in-memory", "--data-dir", "--log", "gone when the process ends"]
    {
        assert!(help.contains(part), "{part}: {help}");
    }
    let version = text(&millstream(&["--version"]).stdout);
    assert_eq!(version, format!("millstream {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_hinders_a_start_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let in_use = millstream(&["--in-memory", "--listen", &address]);
    assert!(!in_use.status.success());
    assert!(text(&in_use.stderr).contains("is in use by another process"), "{}", text(&in_use.stderr));
    let open = millstream(&["--in-memory", "--listen", "0.0.0.0:0"]);
    assert!(!open.status.success());
    assert!(text(&open.stderr).contains("--insecure-no-auth"), "{}", text(&open.stderr));
    assert!(!millstream(&["--log", "no such=directive=x"]).status.success());
    assert!(!millstream(&["--workers", "0"]).status.success());
}

#[test]
fn a_start_says_how_to_connect_and_that_data_is_not_kept() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(["--listen", "127.0.0.1:0", "--in-memory", "--workers", "1"]).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
    let lines: Vec<String> =
        stderr.lines().map(|line| line.expect("text")).filter(|line| !line.contains("INFO")).take(3).collect();
    child.kill().expect("it runs");
    child.wait().expect("it has ended");
    assert!(lines[0].contains("listens on 127.0.0.1:"), "{lines:?}");
    assert!(lines[1].starts_with("Connect with: psql -h 127.0.0.1 -p "), "{lines:?}");
    assert!(lines[2].contains("gone when this process ends"), "{lines:?}");
}

#[test]
fn data_is_kept_in_the_users_folder_unless_told_otherwise() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let start = |listen: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(["--listen", listen, "--workers", "1", "--log", "error"]);
        command.env_remove("XDG_DATA_HOME").env("HOME", home.path()).stderr(Stdio::piped());
        command.spawn().expect("the binary runs")
    };
    let mut child = start("127.0.0.1:0");
    let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
    let lines: Vec<String> = stderr.lines().map(|line| line.expect("text")).take(3).collect();
    let folder = home.path().join(".local/share/millstream");
    assert_eq!(lines[2], format!("Data is kept in {}.", folder.display()));
    while !folder.join("LOCK").exists() || !folder.join("data.id").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let second = start("127.0.0.1:0").wait_with_output().expect("it has ended");
    assert!(!second.status.success());
    let refused = text(&second.stderr);
    assert!(refused.contains("in use by another process") && refused.contains("--in-memory"), "{refused}");
    child.kill().expect("it runs");
    child.wait().expect("it has ended");
}

/// Starts the binary on a data directory; gives the port on which it listens, and what it says from then on.
fn serve(folder: &std::path::Path) -> (Child, u16, BufReader<ChildStderr>) {
    let folder = folder.to_str().expect("a path that is text");
    serve_with(&["--workers", "1", "--data-dir", folder])
}

/// The same, with these arguments.
pub(crate) fn serve_with(args: &[&str]) -> (Child, u16, BufReader<ChildStderr>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(["--listen", "127.0.0.1:0", "--log", "warn"]).args(args);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut line = String::new();
    let mut said = BufReader::new(child.stderr.take().expect("it is piped"));
    said.read_line(&mut line).expect("text");
    let port = line.trim_end().trim_end_matches('.').rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    (child, port.unwrap_or_else(|| panic!("no port in {line}")), said)
}

/// Connects, once the server lets somebody in.
pub(crate) async fn connect(port: u16) -> tokio_postgres::Client {
    let config = format!("host=127.0.0.1 port={port} user=ann dbname=millstream");
    loop {
        match tokio_postgres::connect(&config, tokio_postgres::NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) if error.code().is_some_and(|code| code.code() == "57P03") => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("no connection: {error}"),
        }
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_stopped_has_nothing_to_do_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for n_starts in 1..=2 {
        let (mut child, port, _) = serve(folder.path());
        let client = connect(port).await;
        if n_starts == 1 {
            client
                .batch_execute("CREATE TABLE t (k int PRIMARY KEY); INSERT INTO t VALUES (1), (2)")
                .await
                .expect("done");
        }
        let row = client.query_one("SELECT log_records FROM millstream.recoveries", &[]).await.expect("a row");
        assert_eq!(row.get::<_, i64>(0), 0);
        let row = client.query_one("SELECT sum(k) FROM t", &[]).await.expect("a row");
        assert_eq!(row.get::<_, i64>(0), 3);
        ask_to_stop(&child);
        let status = tokio::task::spawn_blocking(move || child.wait()).await.expect("no panic").expect("it ends");
        assert!(status.success(), "{status}");
    }
}

#[cfg(unix)]
fn ask_to_stop(child: &Child) {
    let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
    assert!(told.success());
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_asked_twice_ends_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut child, port, said) = serve(folder.path());
    let client = connect(port).await;
    // Its session does not end by itself: it has more to say than anybody reads.
    let rows = client.query_raw("SELECT repeat('x', 1000) FROM generate_series(1, 10000000)", &[] as &[i32; 0]).await;
    let mut rows = Box::pin(rows.expect("it runs"));
    // Between two messages of a client its session would end.
    assert!(rows.next().await.is_some_and(|row| row.is_ok()), "it has begun");
    ask_to_stop(&child);
    let mut lines = said.lines().map(|line| line.expect("text"));
    assert!(lines.any(|line| line == "Stopping."));
    ask_to_stop(&child);
    let status = tokio::task::spawn_blocking(move || child.wait()).await.expect("no panic").expect("it ends");
    assert_eq!(status.code(), Some(130));
    drop(rows);
}

#[test]
fn the_demo_runs_for_its_time_and_shows_its_views() {
    let demo = millstream(&["demo", "--seconds", "2", "--listen", "127.0.0.1:0", "--workers", "2"]);
    assert!(demo.status.success(), "{}", text(&demo.stderr));
    let shown = text(&demo.stdout);
    for part in ["bids_by_minute", "highest_bids", "people_by_state", "psql -h 127.0.0.1 -p "] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}
