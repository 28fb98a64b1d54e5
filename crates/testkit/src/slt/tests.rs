//! Tests of the runner, over a connection that answers from a script.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::*;

/// Answers in the given order, and notes what it was asked.
#[derive(Clone)]
struct Scripted {
    answers: Arc<Mutex<VecDeque<Result<Output, SqlError>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Connection for Scripted {
    async fn run(&mut self, sql: &str) -> Result<Output, SqlError> {
        self.asked.lock().unwrap().push(sql.to_owned());
        self.answers.lock().unwrap().pop_front().expect("an answer for each record")
    }

    async fn close(&mut self) {}
}

const HEAD: &str = "# A test\n# postgres: yes\n\n";

fn parse(body: &str) -> Result<SltFile, String> {
    SltFile::parse(&format!("{HEAD}{body}"), Path::new("a.slt"), "a.slt")
}

fn rows(rows: &[&[Option<&str>]]) -> Result<Output, SqlError> {
    let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().map(|v| v.map(str::to_owned)).collect()).collect();
    Ok(Output::Rows { n_columns: rows.first().map_or(1, Vec::len), rows })
}

fn failed(state: &str) -> Result<Output, SqlError> {
    Err(SqlError { state: Some(state.to_owned()), message: "no".to_owned() })
}

/// Runs `body` against the given answers; gives the outcome and what was asked.
fn run_scripted(body: &str, answers: Vec<Result<Output, SqlError>>) -> (Result<(), String>, Vec<String>) {
    let connection =
        Scripted { answers: Arc::new(Mutex::new(answers.into())), asked: Arc::new(Mutex::new(Vec::new())) };
    let file = parse(body).unwrap();
    let outcome = futures::executor::block_on(run(&file, Engine::Millstream, async || Ok(connection.clone())));
    (outcome, connection.asked.lock().unwrap().clone())
}

#[test]
fn prints_null_empty_and_line_breaks() {
    let body = "query TTT\nselect 1\n----\nNULL\t(empty)\ta\\nb\n";
    let (outcome, asked) = run_scripted(body, vec![rows(&[&[None, Some(""), Some("a\nb")]])]);
    assert_eq!((outcome, asked), (Ok(()), vec!["select 1".to_owned()]));
}

#[test]
fn a_tab_separates_columns_and_blanks_do_not() {
    let (outcome, _) = run_scripted("query TT\nselect\n----\na b\tc\n", vec![rows(&[&[Some("a"), Some("b c")]])]);
    let message = outcome.unwrap_err();
    assert!(message.contains("a.slt:4") && message.contains("  - a b\tc\n  + a\tb c"), "{message}");
}

#[test]
fn rowsort_sorts_what_came() {
    let came = rows(&[&[Some("2")], &[Some("10")], &[Some("1")]]);
    let (outcome, _) = run_scripted("query I rowsort\nselect\n----\n1\n10\n2\n", vec![came]);
    assert_eq!(outcome, Ok(()));
}

#[test]
fn the_number_of_columns_counts_even_without_rows() {
    let (outcome, _) = run_scripted("query II\nselect\n----\n", vec![rows(&[])]);
    assert!(outcome.unwrap_err().contains("expected 2 columns, and 1 came"));
}

#[test]
fn an_error_is_told_by_its_state_or_by_its_text() {
    let body = "statement error 23505\na\n\nstatement error ^2350.: n[o]$\nb\n\nstatement error 23502\nc\n";
    let (outcome, _) = run_scripted(body, vec![failed("23505"), failed("23505"), failed("23505")]);
    let message = outcome.unwrap_err();
    assert!(message.starts_with("a.slt:10: expected an error"), "{message}");
}

#[test]
fn a_statement_that_should_fail_must_fail() {
    let (outcome, _) = run_scripted("statement error 23505\na\n", vec![Ok(Output::Complete(1))]);
    assert!(outcome.unwrap_err().contains("and it succeeded"));
}

#[test]
fn counts_and_conditions_and_halt() {
    let body = "statement count 2\na\n\nskipif millstream\nstatement ok\nb\n\nonlyif millstream\nstatement ok\nc\n\nhalt\n\nstatement ok\nd\n";
    let (outcome, asked) = run_scripted(body, vec![Ok(Output::Complete(2)), Ok(Output::Complete(0))]);
    assert_eq!((outcome, asked), (Ok(()), vec!["a".to_owned(), "c".to_owned()]));
}

#[test]
fn a_lost_connection_is_never_an_expected_error() {
    let lost = Err(SqlError { state: None, message: "closed".into() });
    let (outcome, _) = run_scripted("statement error\na\n", vec![lost]);
    assert!(outcome.unwrap_err().contains("the connection failed: closed"));
}

#[test]
fn gives_up_after_five_failures() {
    let body = "statement ok\na\n\n".repeat(9);
    let (outcome, asked) = run_scripted(&body, (0..9).map(|_| failed("XX000")).collect());
    assert_eq!(asked.len(), 5);
    assert!(outcome.unwrap_err().ends_with("(gave up after 5 failures)"));
}

#[test]
fn refuses_what_depends_on_time_or_is_misspelt() {
    for (body, message) in [
        ("sleep 1s\n", "`sleep` is not allowed"),
        ("system ok\nls\n", "`system` is not allowed"),
        ("onlyif milstream\nstatement ok\na\n", "no engine is called `milstream`"),
        ("statement ok retry 3 backoff 1s\na\n", "`retry` is not allowed"),
    ] {
        let error = parse(body).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn the_header_must_be_complete() {
    let read = |text: &str| SltFile::parse(text, Path::new("a.slt"), "a.slt").map(|file| file.header);
    assert_eq!(read("# Why\n# postgres: no\n"), Ok(Header { purpose: "Why".into(), postgres: false, restart: true }));
    let restart = read("# Why\n# postgres: no\n# restart: no, because\n").map(|header| header.restart);
    assert_eq!(restart, Ok(false));
    assert!(read("# Why\n# postgres: no\n# restart: no\n").is_err_and(|e| e.contains("and why")));
    assert!(read("# postgres: no\n").unwrap_err().contains("what the file is for"));
    assert!(read("# Why\n\n# postgres: no\n").unwrap_err().contains("`# postgres: yes`"));
}

#[test]
fn bless_writes_rows_and_keeps_the_rest() {
    let body = "statement ok\na\n\nonlyif postgres\nquery IT rowsort\nb\n----\n9\n\n# end\n";
    let connection = Scripted {
        answers: Arc::new(Mutex::new(
            vec![Ok(Output::Complete(0)), rows(&[&[Some("2"), None], &[Some("1"), Some("x")]])].into(),
        )),
        asked: Arc::default(),
    };
    let blessed =
        futures::executor::block_on(bless(&parse(body).unwrap(), Engine::Postgres, async || Ok(connection.clone())));
    assert_eq!(blessed.unwrap(), format!("{HEAD}{}", body.replace("9\n", "1\tx\n2\tNULL\n")));
}
