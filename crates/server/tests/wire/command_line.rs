//! The binary as a person starts it.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

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
    for part in ["serve", "demo", "--listen", "--workers", "--in-memory", "--log", "gone when the process ends"] {
        assert!(help.contains(part), "{part}: {help}");
    }
    let version = text(&millstream(&["--version"]).stdout);
    assert_eq!(version, format!("millstream {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_hinders_a_start_is_said() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let in_use = millstream(&["--listen", &address]);
    assert!(!in_use.status.success());
    assert!(text(&in_use.stderr).contains("is in use by another process"), "{}", text(&in_use.stderr));
    let open = millstream(&["--listen", "0.0.0.0:0"]);
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
fn the_demo_runs_for_its_time_and_shows_its_views() {
    let demo = millstream(&["demo", "--seconds", "2", "--listen", "127.0.0.1:0", "--workers", "2"]);
    assert!(demo.status.success(), "{}", text(&demo.stderr));
    let shown = text(&demo.stdout);
    for part in ["bids_by_minute", "highest_bids", "people_by_state", "psql -h 127.0.0.1 -p "] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}
