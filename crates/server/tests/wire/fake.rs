//! A backend whose statements say what it is to answer, so that tests see the protocol alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, Int64Array, RecordBatch, StringViewArray, StringViewBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Schema};
use futures::stream::{self, BoxStream, StreamExt};
use millstream_engine::{
    CancelHandle, CopyIn, Notice, Response, ResultColumn, Rows, RowsTag, Severity, TransactionStatus,
};
use millstream_server::{Backend, BackendSession};
use millstream_types::copy::{CopyFormat, CopyHeader, CopyOptions};
use millstream_types::pg::{FormatSettings, TimeZone};
use millstream_types::{Error, Result, SqlState, SqlType};

/// What tests look at from outside.
#[derive(Default)]
pub(crate) struct Observed {
    /// Result streams that are alive.
    pub n_streams: AtomicU32,
    /// Statements that are being run.
    pub n_running: AtomicU32,
    /// Batches that were pulled out of result streams.
    pub n_batches: AtomicU64,
    /// Rows that copies brought.
    pub n_copied: AtomicU64,
}

#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub observed: Arc<Observed>,
    next_id: Arc<AtomicU32>,
}

pub(crate) struct FakeSession {
    id: u32,
    observed: Arc<Observed>,
    cancel: CancelHandle,
    status: TransactionStatus,
    settings: FormatSettings,
    notices: Vec<Notice>,
    changes: Vec<(String, String)>,
    implicit: bool,
    statements: HashMap<String, Option<FakePrepared>>,
    copy: Option<FakeCopy>,
}

/// A copy that goes on.
struct FakeCopy {
    refuse: bool,
    n_rows: u64,
}

#[derive(Clone)]
pub(crate) struct FakePrepared {
    words: Vec<String>,
    params: Vec<SqlType>,
    columns: Option<Vec<ResultColumn>>,
}

impl Backend for Fake {
    type Session = FakeSession;

    fn session(&self, user: &str, database: &str, _params: &[(String, String)]) -> Result<FakeSession> {
        if database != "millstream" {
            let message = format!("database \"{database}\" does not exist");
            return Err(Error::user(SqlState::INVALID_CATALOG_NAME, message));
        }
        assert!(!user.is_empty());
        Ok(FakeSession {
            id: self.next_id.fetch_add(1, Ordering::Relaxed) + 1,
            observed: self.observed.clone(),
            cancel: CancelHandle::default(),
            status: TransactionStatus::Idle,
            settings: FormatSettings::default(),
            notices: Vec::new(),
            changes: Vec::new(),
            implicit: false,
            statements: HashMap::new(),
            copy: None,
        })
    }
}

/// Counts something while it lives.
struct Alive(Arc<Observed>, fn(&Observed) -> &AtomicU32);

impl Alive {
    fn new(observed: &Arc<Observed>, counter: fn(&Observed) -> &AtomicU32) -> Self {
        counter(observed).fetch_add(1, Ordering::SeqCst);
        Alive(observed.clone(), counter)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.1(&self.0).fetch_sub(1, Ordering::SeqCst);
    }
}

fn sql_type(name: &str) -> SqlType {
    if let Some(element) = name.strip_suffix("[]") {
        return SqlType::Array(Box::new(sql_type(element)));
    }
    match name {
        "bool" => SqlType::Boolean,
        "int2" => SqlType::SmallInt,
        "int4" => SqlType::Integer,
        "int8" => SqlType::BigInt,
        "float4" => SqlType::Real,
        "float8" => SqlType::Double,
        "numeric" => SqlType::Numeric(None),
        "text" => SqlType::Text,
        "bytea" => SqlType::Bytea,
        "date" => SqlType::Date,
        "time" => SqlType::Time,
        "timestamp" => SqlType::Timestamp,
        "timestamptz" => SqlType::Timestamptz,
        "interval" => SqlType::Interval,
        other => panic!("no type {other}"),
    }
}

/// The columns of `rows n`: two bigint, a text of 20 characters, a timestamptz.
fn scan_columns() -> Vec<ResultColumn> {
    [("a", SqlType::BigInt), ("b", SqlType::BigInt), ("c", SqlType::Text), ("d", SqlType::Timestamptz)]
        .map(|(name, sql_type)| ResultColumn::computed(name, sql_type))
        .to_vec()
}

fn batch_of(columns: &[ResultColumn], arrays: Vec<ArrayRef>) -> RecordBatch {
    let fields: Vec<_> = columns.iter().map(|c| Field::new(&c.name, c.sql_type.arrow_type(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).expect("columns fit")
}

fn scan_batch(rows: std::ops::Range<u64>) -> RecordBatch {
    let mut text = StringViewBuilder::new();
    rows.clone().for_each(|i| text.append_value(format!("row number {i:>9}")));
    let numbers = |factor: u64| Int64Array::from_iter_values(rows.clone().map(|i| (i * factor) as i64));
    let times =
        TimestampMicrosecondArray::from_iter_values(rows.clone().map(|i| 1_700_000_000_000_000 + i as i64 * 1_234_567));
    batch_of(
        &scan_columns(),
        vec![
            Arc::new(numbers(1)),
            Arc::new(numbers(1_000_003)),
            Arc::new(text.finish()),
            Arc::new(times.with_timezone("UTC")),
        ],
    )
}

impl FakeSession {
    fn rows(&self, columns: Vec<ResultColumn>, batches: BoxStream<'static, Result<RecordBatch>>, live: bool) -> Rows {
        let alive = Alive::new(&self.observed, |o| &o.n_streams);
        let batches = batches
            .inspect(move |_| {
                alive.0.n_batches.fetch_add(1, Ordering::SeqCst);
            })
            .boxed();
        Rows { columns, batches, tag: RowsTag::Select, live }
    }

    fn scan(&self, n_rows: u64) -> Rows {
        const BATCH: u64 = 8192;
        let starts = (0..n_rows).step_by(BATCH as usize);
        let batches = stream::iter(starts.map(move |from| Ok(scan_batch(from..n_rows.min(from + BATCH)))));
        self.rows(scan_columns(), batches.boxed(), false)
    }

    fn stream(&self, kind: &str, number: u64) -> Rows {
        match kind {
            // A batch now, and another each time after some milliseconds, without end.
            "ticks" => {
                let wait = Duration::from_millis(number);
                let ticks = stream::unfold(0u64, move |i| async move {
                    if i > 0 {
                        tokio::time::sleep(wait).await;
                    }
                    Some((Ok(scan_batch(i..i + 1)), i + 1))
                });
                self.rows(scan_columns(), ticks.boxed(), true)
            }
            "forever" => {
                let batches = stream::iter((0u64..).map(|i| Ok(scan_batch(i..i + 1000))));
                self.rows(scan_columns(), batches.boxed(), false)
            }
            // Batches without rows, without end.
            "nothing" => {
                let batches = stream::iter((0u64..).map(|_| Ok(scan_batch(0..0))));
                self.rows(scan_columns(), batches.boxed(), false)
            }
            _ => {
                let broken = Error::user(SqlState::DIVISION_BY_ZERO, "division by zero");
                let batches = stream::iter([Ok(scan_batch(0..number)), Err(broken)]);
                self.rows(scan_columns(), batches.boxed(), false)
            }
        }
    }

    fn one_text(&self, text: &str) -> Response {
        let columns = vec![ResultColumn::computed("text", SqlType::Text)];
        let batch = batch_of(&columns, vec![Arc::new(StringViewArray::from(vec![text]))]);
        Response::Rows(self.rows(columns, stream::iter([Ok(batch)]).boxed(), false))
    }

    fn copy_options(words: &[String]) -> CopyOptions {
        let format = if words.iter().any(|w| w == "csv") { CopyFormat::Csv } else { CopyFormat::Text };
        let header = if words.iter().any(|w| w == "header") { CopyHeader::Yes } else { CopyHeader::No };
        CopyOptions { header, ..CopyOptions::new(format) }
    }

    /// Two bigint columns in.
    fn copy_in(&mut self, words: &[String]) -> Response {
        let columns = vec![ResultColumn::computed("a", SqlType::BigInt), ResultColumn::computed("b", SqlType::BigInt)];
        self.copy = Some(FakeCopy { refuse: words.iter().any(|w| w == "refuse"), n_rows: 0 });
        Response::CopyIn(CopyIn { relation: "pairs".to_owned(), columns, options: Self::copy_options(words) })
    }

    async fn answer(&mut self, words: &[String], params: &[ArrayRef]) -> Result<Response> {
        self.cancel.clear();
        let _running = Alive::new(&self.observed, |o| &o.n_running);
        if self.status == TransactionStatus::Failed && words[0] != "rollback" {
            let message = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(Error::user(SqlState::IN_FAILED_SQL_TRANSACTION, message));
        }
        let outcome = self.answer_words(words, params).await;
        if outcome.is_err() {
            self.statement_failed();
        }
        outcome
    }

    async fn answer_words(&mut self, words: &[String], params: &[ArrayRef]) -> Result<Response> {
        let number = |i: usize| words.get(i).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
        let done = |tag: &str| Ok(Response::Done { tag: tag.to_owned() });
        match words[0].as_str() {
            "rows" => Ok(Response::Rows(self.scan(number(1)))),
            "text" => Ok(self.one_text(&words[1..].join(" "))),
            "echo" => {
                let columns = echo_columns(words);
                let batch = batch_of(&columns, params.to_vec());
                Ok(Response::Rows(self.rows(columns, stream::iter([Ok(batch)]).boxed(), false)))
            }
            "ticks" | "forever" | "breaks" | "nothing" => Ok(Response::Rows(self.stream(&words[0], number(1)))),
            "sleep" => {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(number(1))) => done("SLEEP"),
                    () = self.cancel.cancelled() => Err(Error::cancelled()),
                }
            }
            "fail" => Err(Error::user(SqlState::UNDEFINED_TABLE, "relation \"x\" does not exist")
                .with_detail("a detail")
                .with_hint("a hint")
                .with_position(6)),
            "panic" => panic!("as the test wants it"),
            "notice" => {
                self.notices.push(Notice {
                    severity: Severity::Warning,
                    state: SqlState("01000"),
                    message: words[1..].join(" "),
                    detail: None,
                    hint: Some("look".to_owned()),
                });
                done("NOTICE")
            }
            "zone" => {
                self.settings.time_zone = TimeZone::parse(&words[1])?;
                self.changes.push(("TimeZone".to_owned(), self.settings.time_zone.to_string()));
                done("SET")
            }
            "begin" | "START" => {
                self.status = TransactionStatus::InTransaction;
                done("BEGIN")
            }
            "rollback" | "commit" | "COMMIT" | "ROLLBACK" => {
                self.status = TransactionStatus::Idle;
                done(&words[0].to_uppercase())
            }
            "implicit" => Ok(self.one_text(if self.implicit { "yes" } else { "no" })),
            "insert" => done("INSERT 0 1"),
            "copyin" => Ok(self.copy_in(words)),
            "copyout" => Ok(Response::CopyOut { options: Self::copy_options(words), rows: self.scan(number(1)) }),
            other => Err(Error::user(SqlState::SYNTAX_ERROR, format!("syntax error at or near \"{other}\""))),
        }
    }
}

fn echo_columns(words: &[String]) -> Vec<ResultColumn> {
    words[1..].iter().map(|name| ResultColumn::computed(name, sql_type(name))).collect()
}

impl BackendSession for FakeSession {
    type Statement = Vec<String>;
    type Prepared = FakePrepared;

    fn id(&self) -> u32 {
        self.id
    }

    fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    fn parse(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        Ok(sql.split(';').map(words).filter(|words| !words.is_empty()).collect())
    }

    async fn prepare(&mut self, statement: &Vec<String>, param_types: &[Option<SqlType>]) -> Result<FakePrepared> {
        let (mut params, columns) = match statement[0].as_str() {
            "echo" => {
                let columns = echo_columns(statement);
                (columns.iter().map(|c| c.sql_type.clone()).collect(), Some(columns))
            }
            "rows" | "ticks" | "forever" | "breaks" | "nothing" => (vec![], Some(scan_columns())),
            "text" => (vec![], Some(vec![ResultColumn::computed("text", SqlType::Text)])),
            "fail" => return Err(Error::user(SqlState::UNDEFINED_TABLE, "relation \"x\" does not exist")),
            _ => (vec![], None),
        };
        params.iter_mut().zip(param_types).for_each(|(own, given)| {
            if let Some(given) = given {
                *own = given.clone();
            }
        });
        Ok(FakePrepared { words: statement.clone(), params, columns })
    }

    fn param_types(prepared: &FakePrepared) -> &[SqlType] {
        &prepared.params
    }

    fn columns(prepared: &FakePrepared) -> Option<&[ResultColumn]> {
        prepared.columns.as_deref()
    }

    async fn execute(&mut self, prepared: &FakePrepared, params: &[ArrayRef]) -> Result<Response> {
        assert!(params.iter().all(|param| param.len() == 1));
        self.answer(&prepared.words, params).await
    }

    async fn run(&mut self, statement: &Vec<String>) -> Result<Response> {
        self.answer(statement, &[]).await
    }

    fn statements(&mut self) -> &mut HashMap<String, Option<FakePrepared>> {
        &mut self.statements
    }

    async fn copy_push(&mut self, rows: RecordBatch) -> Result<()> {
        let copy = self.copy.as_mut().expect("a copy goes on");
        if copy.refuse {
            return Err(Error::user(SqlState::UNIQUE_VIOLATION, "refused"));
        }
        copy.n_rows += rows.num_rows() as u64;
        Ok(())
    }

    async fn copy_finish(&mut self) -> Result<String> {
        let copy = self.copy.take().expect("a copy goes on");
        self.observed.n_copied.fetch_add(copy.n_rows, Ordering::SeqCst);
        Ok(format!("COPY {}", copy.n_rows))
    }

    fn copy_abort(&mut self) {
        self.copy = None;
    }

    async fn begin_implicit(&mut self) {
        self.implicit = true;
    }

    async fn end_implicit(&mut self, _failed: bool) -> Result<()> {
        self.implicit = false;
        Ok(())
    }

    fn statement_failed(&mut self) {
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.changes)
    }

    fn reported_parameters(&self) -> Vec<(String, String)> {
        [("server_version", "15.0"), ("client_encoding", "UTF8"), ("server_encoding", "UTF8"), ("TimeZone", "UTC")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    fn close_cursor(&mut self, _name: &str) -> bool {
        false
    }

    fn cursor_columns(&self, name: &str) -> Option<Vec<ResultColumn>> {
        (name == "cursor").then(scan_columns)
    }

    fn format_settings(&self) -> FormatSettings {
        self.settings.clone()
    }
}

/// Waits until something holds, for at most ten seconds.
pub(crate) async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
