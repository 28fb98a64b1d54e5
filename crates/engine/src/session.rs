//! Sessions: what a front end calls, statement by statement.

mod arranging;
mod backup;
mod catalog_changes;
mod comment;
mod copy;
mod cursor;
mod dataflows;
mod ddl;
mod explain;
mod planned;
mod planning;
mod prepared;
mod query;
mod settings;
mod show;
mod template;
mod timeout;
mod transaction;
mod write;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;
use futures::{StreamExt, TryStreamExt};
use millstream_planner::ast::{self, Statement};
use millstream_planner::parser::{Parsed, parse};
use millstream_types::pg::FormatSettings;
use millstream_types::{Error, Result, SqlState, SqlType};

use crate::api::{CancelHandle, Notice, Response, ResultColumn, Rows, RowsTag, Severity, TransactionStatus};
use crate::engine::EngineState;
use crate::pg_catalog::{CatalogView, ConfigChanges, SessionEntry};
use catalog_changes::Unpublished;
pub(crate) use cursor::CursorInfo;
pub(crate) use dataflows::{BuildDataflow, install, stored_dataflow};
pub use planned::ParsedStatement;
use planning::Planning;
pub(crate) use prepared::{PreparedInfo, without_position};
pub(crate) use query::now_us;
use settings::Settings;
pub(crate) use settings::{PARAMETERS, Values, parameter, unknown as unknown_parameter};
use transaction::BlockState;

/// A client's session. Statements run one at a time.
pub struct Session {
    engine: Arc<EngineState>,
    id: u32,
    settings: Settings,
    cancel: CancelHandle,
    block: BlockState,
    /// The catalog while the changes of a transaction block are being made.
    unpublished: Option<Unpublished>,
    /// A write is on its way to the coordinator: what becomes of it must be known.
    committing: Arc<AtomicBool>,
    notices: Vec<Notice>,
    cursors: cursor::Cursors,
    prepared: HashMap<String, Option<Prepared>>,
    copying: Option<copy::Copying>,
    /// What `set_config` is to change once its statement has ended.
    config_changes: ConfigChanges,
    /// The session as others see it.
    entry: Arc<SessionEntry>,
}

/// A statement whose parameters and columns are known.
#[derive(Clone)]
pub struct Prepared(Arc<PreparedStatement>);

struct PreparedStatement {
    statement: ParsedStatement,
    param_types: Vec<SqlType>,
    columns: Option<Vec<ResultColumn>>,
    /// By `PREPARE`, not by the front end's protocol.
    from_sql: bool,
}

impl Prepared {
    /// The types of the parameters.
    pub fn param_types(&self) -> &[SqlType] {
        &self.0.param_types
    }

    /// The columns of the result; `None` if there is none.
    pub fn columns(&self) -> Option<&[ResultColumn]> {
        self.0.columns.as_deref()
    }

    /// What it gave, unless the catalog has changed so that a query gives other columns than its client was told.
    fn checked(&self, response: Response) -> Result<Response> {
        let is_query = matches!(self.0.statement.parsed().statement, Statement::Query(_));
        match &response {
            Response::Rows(rows) if is_query && self.columns() != Some(rows.columns.as_slice()) => {
                Err(Error::not_supported("cached plan must not change result type"))
            }
            _ => Ok(response),
        }
    }
}

impl Session {
    pub(crate) fn new(engine: Arc<EngineState>, id: u32, user: &str, params: &[(String, String)]) -> Self {
        let cancel = CancelHandle::default();
        let entry = engine.activity.enter(id, user, cancel.clone(), query::now_us());
        Session {
            engine,
            id,
            settings: Settings::new(user, params),
            cancel,
            block: BlockState::default(),
            unpublished: None,
            committing: Arc::default(),
            notices: Vec::new(),
            cursors: cursor::Cursors::default(),
            prepared: HashMap::new(),
            copying: None,
            config_changes: ConfigChanges::default(),
            entry,
        }
    }

    /// A number that no other session of this engine has.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether a transaction is open.
    pub fn transaction_status(&self) -> TransactionStatus {
        self.block.status()
    }

    /// By which another task cancels the statement that runs now.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// Splits and parses a query string.
    ///
    /// # Errors
    /// 42601 with a position in the whole string; 0A000 for what is known and cannot be done; 57014 if it was cancelled.
    pub fn parse(&self, sql: &str) -> Result<Vec<ParsedStatement>> {
        if let Some(statement) = self.engine.statements.get(sql) {
            return Ok(vec![statement]);
        }
        self.cancel.clear();
        let planning = Planning::new(sql, &self.cancel, self.deadline());
        let statements: Vec<ParsedStatement> =
            planning.work(|| parse(sql))?.into_iter().map(ParsedStatement::new).collect();
        if let [statement] = statements.as_slice()
            && matches!(statement.parsed().statement, Statement::Query(_))
        {
            self.engine.statements.put(sql, statement.clone());
        }
        Ok(statements)
    }

    /// Analyzes a statement. `param_types` are what the client fixed.
    ///
    /// # Errors
    /// What is wrong with the statement, with positions in the whole query string.
    pub async fn prepare(&mut self, statement: &ParsedStatement, param_types: &[Option<SqlType>]) -> Result<Prepared> {
        self.check_not_failed(&statement.parsed().statement)?;
        let offset = statement.parsed().offset;
        self.cancel.clear();
        let planning = Planning::new(&statement.parsed().text, &self.cancel, self.deadline());
        let described = planning.work(|| self.describe(statement, param_types)).map_err(|e| shifted(e, offset));
        let (param_types, columns) = described.inspect_err(|_| self.statement_failed())?;
        let statement = statement.clone();
        Ok(Prepared(Arc::new(PreparedStatement { statement, param_types, columns, from_sql: false })))
    }

    /// Runs a prepared statement with one array of length 1 for each parameter.
    ///
    /// # Errors
    /// The statement's; an open transaction has then failed.
    pub async fn execute(&mut self, prepared: &Prepared, params: &[ArrayRef]) -> Result<Response> {
        let response = self.run_with(&prepared.0.statement, params).await?;
        prepared.checked(response).inspect_err(|_| self.statement_failed())
    }

    /// Runs a statement without parameters.
    ///
    /// # Errors
    /// As [`Session::execute`].
    pub async fn run(&mut self, statement: &ParsedStatement) -> Result<Response> {
        self.run_with(statement, &[]).await
    }

    /// Runs a query string and collects the rows of its last statement; for embedding and tests.
    ///
    /// # Errors
    /// That of the first statement that fails.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<RecordBatch>> {
        let statements = self.parse(sql).inspect_err(|_| self.statement_failed())?;
        if let [statement] = statements.as_slice() {
            return self.collect(statement).await;
        }
        self.begin_implicit().await;
        let mut batches = Ok(Vec::new());
        for statement in &statements {
            batches = self.collect(statement).await;
            if batches.is_err() {
                break;
            }
        }
        let ended = self.end_implicit(batches.is_err()).await;
        batches.and_then(|batches| ended.map(|()| batches))
    }

    async fn collect(&mut self, statement: &ParsedStatement) -> Result<Vec<RecordBatch>> {
        let Response::Rows(rows) = self.run(statement).await? else { return Ok(vec![]) };
        let batches = rows.batches.try_collect().await;
        batches.inspect_err(|_| self.statement_failed())
    }

    async fn run_with(&mut self, statement: &ParsedStatement, params: &[ArrayRef]) -> Result<Response> {
        let parsed = statement.parsed();
        self.cancel.clear();
        // Such a statement puts everything back when it is cancelled.
        let ends_itself = matches!(parsed.statement, Statement::CreateMaterializedView(_) | Statement::Refresh(_));
        self.apply_config_changes();
        self.entry.begins(&parsed.text, self.settings.application(), query::now_us());
        let deadline = self.deadline();
        let planning = Planning::new(&parsed.text, &self.cancel, deadline);
        let (cancel, committing) = (self.cancel.clone(), Arc::clone(&self.committing));
        let outcome = {
            let mut dispatch = std::pin::pin!(self.dispatch(statement, params));
            let mut work = std::future::poll_fn(|context| planning.work(|| dispatch.as_mut().poll(context)));
            let stopped = tokio::select! {
                biased;
                outcome = &mut work => Ok(outcome),
                () = cancel.cancelled() => Err(Error::cancelled()),
                () = timeout::passed(deadline) => Err(timeout::error()),
            };
            match stopped {
                Ok(outcome) => outcome,
                Err(_) if ends_itself || committing.load(Ordering::Acquire) => work.await,
                Err(error) => Err(error),
            }
        };
        // What a cancelled commit has left is taken back.
        self.unpublished = None;
        let outcome = outcome.map_err(|e| shifted(e, parsed.offset)).inspect_err(|_| self.statement_failed());
        self.entry.ends(self.block.status() != TransactionStatus::Idle, query::now_us());
        Ok(timeout::limited(outcome?, deadline))
    }

    /// When a statement that begins now has to be done.
    fn deadline(&self) -> Option<tokio::time::Instant> {
        self.settings.statement_timeout().map(|time| tokio::time::Instant::now() + time)
    }

    /// Makes the changes that the last statement's `set_config` asked for.
    fn apply_config_changes(&mut self) {
        let changes = std::mem::take(&mut *self.config_changes.lock());
        let outside = self.is_outside_block();
        for (name, value, local) in changes.into_iter().filter(|(_, _, local)| !(*local && outside)) {
            let set = self.set(&ast::Set { name, local, value: Some(vec![value]) });
            debug_assert!(set.is_ok(), "the value was checked when set_config ran");
        }
    }

    /// What the session sees of the catalog and of itself.
    fn view(&self) -> CatalogView {
        CatalogView {
            catalog: self.catalog(),
            engine: Arc::clone(&self.engine),
            user: self.settings.user().to_owned(),
            session_id: self.id,
            settings: self.settings.all().clone(),
            cursors: self.cursors.infos(),
            prepared: self.prepared_infos(),
            config_changes: Arc::clone(&self.config_changes),
        }
    }

    async fn dispatch(&mut self, statement: &ParsedStatement, params: &[ArrayRef]) -> Result<Response> {
        let parsed = statement.parsed();
        self.check_not_failed(&parsed.statement)?;
        if let Some(what) = ddl_of(&parsed.statement) {
            if self.is_in_block() {
                self.check_writable(&what)?;
                return self.change_catalog(&parsed.statement).await;
            }
            self.before_ddl(&what).await?;
        }
        if let Some(response) = self.dispatch_client(parsed, params).await? {
            return Ok(response);
        }
        match &parsed.statement {
            Statement::Query(query) => self.select_planned(statement, query, params).await,
            Statement::Insert(insert) => self.insert(insert, params).await,
            Statement::Update(_) => self.update(statement, params).await,
            Statement::Delete(_) => self.delete(statement, params).await,
            Statement::Truncate(truncate) => self.truncate(truncate).await,
            Statement::CreateTable(create) => self.create_table(create).await,
            Statement::CreateStream(create) => self.create_stream(create).await,
            Statement::CreateView(create) => self.create_view(create).await,
            Statement::CreateMaterializedView(create) => self.create_materialized_view(create).await,
            Statement::CreateIndex(create) => self.create_index(create).await,
            Statement::CreateSink(create) => self.create_sink(create).await,
            Statement::Refresh(refresh) => self.refresh(refresh).await,
            Statement::Drop(drop) => self.drop_relations(drop).await,
            Statement::Subscribe(subscribe) => self.subscribe(subscribe).await.map(Response::Rows),
            Statement::Explain(explain) => Box::pin(self.explain(explain, &parsed.text)).await,
            Statement::Flush => {
                self.engine.clock.until_all_closed().await;
                Ok(done("FLUSH"))
            }
            Statement::Checkpoint => {
                self.engine.clock.checkpoint().await?;
                Ok(done("CHECKPOINT"))
            }
            Statement::Backup(path) => self.back_up(path).await,
            Statement::Unlisten => Ok(done("UNLISTEN")),
            Statement::Begin(modes) => Ok(self.begin(modes)),
            Statement::Commit => self.commit(false).await,
            Statement::CommitAndChain => self.commit(true).await,
            Statement::Rollback => self.rollback(false),
            Statement::RollbackAndChain => self.rollback(true),
            Statement::SavePoint(name) => self.save_point(name).await,
            Statement::RollbackTo(name) => self.rollback_to(name).await,
            Statement::Release(name) => self.release(name),
            _ => Err(Error::not_supported("this statement is not supported yet")
                .with_hint("It is planned for a coming version.")),
        }
    }

    /// Statements about the session, its copies, cursors and prepared statements; `None` for others.
    async fn dispatch_client(&mut self, parsed: &Parsed, params: &[ArrayRef]) -> Result<Option<Response>> {
        let response = match &parsed.statement {
            Statement::CopyFrom(copy) => self.copy_from(copy)?,
            Statement::CopyTo(copy) => self.copy_to(copy, params).await?,
            Statement::DeclareCursor(declare) => self.declare(declare, &parsed.text, params).await?,
            Statement::Fetch(fetch) => self.fetch(fetch).await?,
            Statement::Close(name) => self.close(name.as_deref())?,
            Statement::Prepare(prepare) => self.prepare_named(prepare, &parsed.text)?,
            Statement::Execute(execute) => self.execute_named(execute, params).await?,
            Statement::Deallocate(name) => self.deallocate(name.as_deref())?,
            Statement::Discard(what) => self.discard(*what)?,
            Statement::Comment(comment) => self.comment(comment).await?,
            Statement::Show(show) => self.show(show)?,
            Statement::Describe(name) => self.show(&ast::Show::Columns(name.clone()))?,
            Statement::Set(set) => self.set(set)?,
            Statement::Reset(name) => self.settings.reset(name.as_deref()).map(|()| done("RESET"))?,
            _ => return Ok(None),
        };
        Ok(Some(response))
    }

    /// Notices since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Reported parameters that have changed since the last call.
    pub fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        self.apply_config_changes();
        self.settings.take_changes()
    }

    /// Parameters that a client is told of at start-up.
    pub fn reported_parameters(&self) -> Vec<(String, String)> {
        self.settings.reported()
    }

    /// How values are written and read now.
    pub fn format_settings(&self) -> FormatSettings {
        self.settings.format()
    }

    fn warn(&mut self, state: SqlState, message: &str) {
        let message = message.to_owned();
        self.notices.push(Notice { severity: Severity::Warning, state, message, detail: None, hint: None });
    }

    /// Warns of rows on which an expression has failed.
    fn warn_of_rows(&mut self, message: String) {
        let detail = Some("An expression fails on them.".to_owned());
        let hint = Some("SELECT * FROM millstream.row_errors shows them.".to_owned());
        self.notices.push(Notice { severity: Severity::Warning, state: SqlState("01000"), message, detail, hint });
    }

    /// Tells the user something.
    fn notice_of(&mut self, message: &str) {
        let (state, message) = (SqlState("00000"), message.to_owned());
        self.notices.push(Notice { severity: Severity::Notice, state, message, detail: None, hint: None });
    }

    fn notice(&mut self, notice: millstream_planner::catalog::Notice) {
        let millstream_planner::catalog::Notice { state, message, detail } = notice;
        self.notices.push(Notice { severity: Severity::Notice, state, message, detail, hint: None });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.engine.activity.leave(self.id);
    }
}

/// What a statement that changes the catalog is called; `None` for others.
fn ddl_of(statement: &Statement) -> Option<String> {
    Some(match statement {
        Statement::CreateTable(_) => "CREATE TABLE".to_owned(),
        Statement::CreateStream(_) => "CREATE STREAM".to_owned(),
        Statement::CreateView(_) => "CREATE VIEW".to_owned(),
        Statement::CreateMaterializedView(_) => "CREATE MATERIALIZED VIEW".to_owned(),
        Statement::CreateIndex(_) => "CREATE INDEX".to_owned(),
        Statement::CreateSink(_) => "CREATE SINK".to_owned(),
        Statement::Drop(drop) => format!("DROP {}", drop.kind.keywords()),
        Statement::Refresh(_) => "REFRESH MATERIALIZED VIEW".to_owned(),
        Statement::Comment(_) => "COMMENT".to_owned(),
        _ => return None,
    })
}

fn done(tag: &str) -> Response {
    Response::Done { tag: tag.to_owned() }
}

/// The error with its position in the whole query string.
fn shifted(error: Error, offset: usize) -> Error {
    match error.fields().position {
        Some(position) => error.with_position(position + offset),
        None => error,
    }
}

/// A result that is there already.
fn rows_of(tag: RowsTag, columns: Vec<ResultColumn>, arrays: Vec<ArrayRef>) -> Result<Response> {
    let fields = columns.iter().map(|c| arrow::datatypes::Field::new(&c.name, c.sql_type.arrow_type(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let batch = RecordBatch::try_new(schema, arrays)?;
    let batches = futures::stream::iter([Ok(batch)]).boxed();
    Ok(Response::Rows(Rows { columns, batches, tag, live: false }))
}
