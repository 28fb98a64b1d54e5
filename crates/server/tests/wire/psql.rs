//! psql as the client, where it is installed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering;

use crate::Running;
use crate::fake::wait_until;

/// Runs statements through psql; `None` if there is no psql.
async fn psql(running: &Running, args: &[&str]) -> Option<Output> {
    let port = running.server.address.port().to_string();
    let mut command = Command::new("psql");
    command.args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", "u", "-d", "millstream"]).args(args);
    tokio::task::spawn_blocking(move || command.output().ok()).await.expect("the thread ends")
}

#[tokio::test]
async fn psql_runs_statements_and_shows_errors() {
    let running = Running::start().await;
    let Some(output) = psql(&running, &["-At", "-c", "rows 2", "-c", "text a b; insert"]).await else {
        eprintln!("psql is not installed: skipped");
        return;
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        stdout,
        "0|0|row number         0|2023-11-14 22:13:20+00\n\
         1|1000003|row number         1|2023-11-14 22:13:21.234567+00\n\
         a b\nINSERT 0 1\n"
    );
    let output = psql(&running, &["-c", "fail it"]).await.expect("psql was there");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        stderr,
        "ERROR:  relation \"x\" does not exist\nLINE 1: fail it\n             ^\nDETAIL:  a detail\nHINT:  a hint\n"
    );
    let output = psql(&running, &["-c", "notice hello"]).await.expect("psql was there");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "WARNING:  hello\nHINT:  look\n");
}

#[tokio::test]
async fn psql_shows_a_live_result_as_it_comes() {
    let running = Running::start().await;
    let port = running.server.address.port().to_string();
    let mut command = Command::new("psql");
    command.args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", "u", "-d", "millstream", "-c", "ticks 5"]);
    let Ok(mut child) = command.stdout(Stdio::piped()).spawn() else {
        eprintln!("psql is not installed: skipped");
        return;
    };
    let lines = tokio::task::spawn_blocking(move || {
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let lines: Vec<String> = stdout.lines().take(3).map(|line| line.expect("text")).collect();
        child.kill().expect("it still runs");
        child.wait().expect("it has ended");
        lines
    });
    let expected = [
        "a\tb\tc\td",
        "0\t0\trow number         0\t2023-11-14 22:13:20+00",
        "1\t1000003\trow number         1\t2023-11-14 22:13:21.234567+00",
    ];
    assert_eq!(lines.await.expect("the thread ends"), expected);
    let observed = running.fake.observed.clone();
    wait_until("its work has stopped", || observed.n_streams.load(Ordering::SeqCst) == 0).await;
}
