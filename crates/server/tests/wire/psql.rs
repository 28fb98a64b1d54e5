//! psql as the client, where it is installed.

use std::process::{Command, Output};

use crate::Running;

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
