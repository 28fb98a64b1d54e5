//! Runs a file's records and says which did not do as expected; or writes what Postgres answered into the file.

use std::collections::HashSet;
use std::fmt::Write;

use sqllogictest::{
    DefaultColumnType, ExpectedError, QueryExpect, Record, RecordOutput, Runner, StatementExpect, default_normalizer,
    update_record_with_output,
};

use super::connection::{Connection, Session, SqlError};
use super::diff::diff;
use super::file::SltFile;

/// Failures after this many in a file are not looked for: most follow from the first.
const MAX_FAILURES: usize = 5;

/// The kind of server that a file runs against, as `onlyif` and `skipif` name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Millstream.
    Millstream,
    /// Postgres, the oracle.
    Postgres,
}

impl Engine {
    /// Its name in files.
    pub fn label(self) -> &'static str {
        match self {
            Engine::Millstream => "millstream",
            Engine::Postgres => "postgres",
        }
    }
}

/// Runs a file. `connect` is called once for each `connection` the file names, the unnamed one included.
///
/// # Errors
/// The failures, up to five, each with file and line, the SQL, and a diff of the rows.
pub async fn run<C, F>(file: &SltFile, engine: Engine, connect: F) -> Result<(), String>
where
    C: Connection,
    F: AsyncFn() -> Result<C, SqlError>,
{
    run_with_restart(file, engine, connect, None::<fn() -> std::future::Ready<_>>).await
}

/// Runs a file, and calls `restart` in the middle, between transactions, if there is one. Then sessions begin anew, with the
/// settings and prepared statements that they had.
///
/// # Errors
/// As [`run`], and what `restart` says.
pub async fn run_with_restart<C, F, R>(
    file: &SltFile,
    engine: Engine,
    connect: F,
    restart: Option<R>,
) -> Result<(), String>
where
    C: Connection,
    F: AsyncFn() -> Result<C, SqlError>,
    R: AsyncFnOnce() -> Result<(), String>,
{
    let connect = &connect;
    let new_runner = || Runner::new(move || async move { Ok(Session { connection: connect().await?, engine }) });
    let mut runner = new_runner();
    let mut failures = Vec::new();
    let mut restart = restart;
    let mut sessions = SessionState::default();
    for (i, record) in file.records.iter().enumerate() {
        if matches!(record, Record::Halt { .. }) {
            break;
        }
        if i >= file.records.len() / 2
            && sessions.in_transaction.is_empty()
            && let Some(restart) = restart.take()
        {
            runner.shutdown_async().await;
            restart().await?;
            runner = new_runner();
            for record in &sessions.settings {
                runner.apply_record(record.clone()).await;
            }
        }
        sessions.note(record);
        let output = runner.apply_record(record.clone()).await;
        if let Some(failure) = judge(record, &output) {
            failures.push(failure);
            if failures.len() == MAX_FAILURES {
                failures.push(format!("(gave up after {MAX_FAILURES} failures)"));
                break;
            }
        }
    }
    runner.shutdown_async().await;
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// What sessions have that goes with them.
#[derive(Default)]
struct SessionState {
    in_transaction: HashSet<sqllogictest::Connection>,
    /// Statements to which they owe what they are.
    settings: Vec<Record<DefaultColumnType>>,
}

impl SessionState {
    fn note(&mut self, record: &Record<DefaultColumnType>) {
        let (Record::Statement { connection, sql, .. } | Record::Query { connection, sql, .. }) = record else {
            return;
        };
        let word = sql.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        match word.trim_end_matches(';') {
            "BEGIN" | "START" => drop(self.in_transaction.insert(connection.clone())),
            "COMMIT" | "END" | "ROLLBACK" | "ABORT" if !sql.to_ascii_uppercase().contains(" TO ") => {
                self.in_transaction.remove(connection);
            }
            "SET" | "RESET" | "PREPARE" | "DEALLOCATE" | "DISCARD" => self.settings.push(record.clone()),
            _ => {}
        }
    }
}

/// Runs a file and gives its text with the rows of every query replaced by those that came. Expected errors are judged
/// and never written.
///
/// # Errors
/// As [`run`], for statements that failed.
pub async fn bless<C, F>(file: &SltFile, engine: Engine, connect: F) -> Result<String, String>
where
    C: Connection,
    F: AsyncFn() -> Result<C, SqlError>,
{
    let connect = &connect;
    let mut runner = Runner::new(move || async move { Ok(Session { connection: connect().await?, engine }) });
    let mut text = String::new();
    for record in &file.records {
        let output = runner.apply_record(record.clone()).await;
        let rows_came = matches!(output, RecordOutput::Query { error: None, .. });
        let is_query = matches!(record, Record::Query { expected: QueryExpect::Results { .. }, .. });
        let updated = if rows_came && is_query {
            update_record_with_output(record, &output, "\t", rows_match, default_normalizer, same_width)
        } else {
            match judge(record, &output) {
                None => None,
                Some(failure) => return Err(failure),
            }
        };
        let _infallible = writeln!(text, "{}", updated.as_ref().unwrap_or(record));
    }
    runner.shutdown_async().await;
    Ok(format!("{}\n", text.trim_end()))
}

#[expect(clippy::ptr_arg, reason = "the signature is sqllogictest's")]
fn same_width(actual: &Vec<DefaultColumnType>, expected: &Vec<DefaultColumnType>) -> bool {
    actual.len() == expected.len()
}

fn rows_match(_normalizer: sqllogictest::Normalizer, actual: &[Vec<String>], expected: &[String]) -> bool {
    lines(actual) == expected
}

fn lines(rows: &[Vec<String>]) -> Vec<String> {
    rows.iter().map(|row| row.join("\t")).collect()
}

/// What is wrong with a record's output, if anything.
fn judge(record: &Record<DefaultColumnType>, output: &RecordOutput<DefaultColumnType>) -> Option<String> {
    let (loc, sql) = match record {
        Record::Statement { loc, sql, .. } | Record::Query { loc, sql, .. } => (loc, sql),
        _ => return None,
    };
    let problem = match (record, output) {
        (_, RecordOutput::Nothing) => None,
        (Record::Statement { expected, .. }, output) => judge_statement(expected, output),
        (Record::Query { expected, .. }, output) => judge_query(expected, output),
        _ => None,
    };
    problem.map(|Problem { what, rows }| format!("{loc}: {what}\n{}{rows}", indented(sql)))
}

/// What is wrong, and the rows that show it.
struct Problem {
    what: String,
    /// A diff, or nothing.
    rows: String,
}

impl From<String> for Problem {
    fn from(what: String) -> Self {
        Problem { what, rows: String::new() }
    }
}

impl From<&str> for Problem {
    fn from(what: &str) -> Self {
        what.to_owned().into()
    }
}

fn judge_statement(expected: &StatementExpect, output: &RecordOutput<DefaultColumnType>) -> Option<Problem> {
    let (n_rows, error) = match output {
        RecordOutput::Statement { count, error } => (*count, error.as_deref()),
        RecordOutput::Query { rows, error, .. } => (rows.len() as u64, error.as_deref()),
        _ => return None,
    };
    match (expected, error) {
        (StatementExpect::Error(expected), error) => judge_error(expected, error),
        (_, Some(error)) => Some(format!("the statement failed: {error}").into()),
        (StatementExpect::Count(n), None) if *n != n_rows => {
            Some(format!("expected {n} rows to be affected, and {n_rows} were").into())
        }
        (_, None) => None,
    }
}

fn judge_query(expected: &QueryExpect<DefaultColumnType>, output: &RecordOutput<DefaultColumnType>) -> Option<Problem> {
    match (expected, output) {
        (QueryExpect::Error(expected), RecordOutput::Query { error, .. } | RecordOutput::Statement { error, .. }) => {
            judge_error(expected, error.as_deref())
        }
        (_, RecordOutput::Query { error: Some(error), .. } | RecordOutput::Statement { error: Some(error), .. }) => {
            Some(format!("the query failed: {error}").into())
        }
        (QueryExpect::Results { types: expected_types, results, .. }, RecordOutput::Query { types, rows, .. }) => {
            if !same_width(types, expected_types) {
                return Some(format!("expected {} columns, and {} came", expected_types.len(), types.len()).into());
            }
            let actual = lines(rows);
            (actual != *results)
                .then(|| Problem { what: "other rows (- expected, + came)".into(), rows: diff(results, &actual) })
        }
        (_, RecordOutput::Statement { .. }) => Some("the query gave no rows, not even their columns".into()),
        _ => None,
    }
}

fn judge_error(
    expected: &ExpectedError,
    error: Option<&(dyn std::error::Error + Send + Sync + 'static)>,
) -> Option<Problem> {
    let Some(error) = error else {
        return Some(format!("expected an error {expected}, and it succeeded").into());
    };
    let state = error.downcast_ref::<SqlError>().and_then(|error| error.state.as_deref());
    if state.is_none() {
        return Some(format!("the connection failed: {error}").into());
    }
    let matches = match expected {
        // Five capitals or digits are a SQLSTATE; anything else is a regular expression over the whole text.
        ExpectedError::Inline(regex) if is_sql_state(regex.as_str()) => state == Some(regex.as_str()),
        _ => expected.is_match(&error.to_string(), state),
    };
    (!matches).then(|| format!("expected an error {expected}, and it was {error}").into())
}

fn is_sql_state(text: &str) -> bool {
    text.len() == 5 && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

fn indented(sql: &str) -> String {
    let mut text = String::new();
    for line in sql.lines() {
        let _infallible = writeln!(text, "    {line}");
    }
    text
}
