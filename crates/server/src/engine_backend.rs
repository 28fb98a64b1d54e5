//! The engine as the backend of the wire protocol.

use std::collections::HashMap;

use arrow::array::{ArrayRef, RecordBatch};
use millstream_engine::{
    CancelHandle, Engine, Notice, ParsedStatement, Prepared, Response, ResultColumn, Session, TransactionStatus,
};
use millstream_types::pg::FormatSettings;
use millstream_types::{Result, SqlType};

use crate::{Backend, BackendSession};

impl Backend for Engine {
    type Session = Session;

    fn session(&self, user: &str, database: &str, params: &[(String, String)]) -> Result<Session> {
        Engine::session(self, user, database, params)
    }
}

impl BackendSession for Session {
    type Statement = ParsedStatement;
    type Prepared = Prepared;

    fn id(&self) -> u32 {
        Session::id(self)
    }

    fn transaction_status(&self) -> TransactionStatus {
        Session::transaction_status(self)
    }

    fn cancel_handle(&self) -> CancelHandle {
        Session::cancel_handle(self)
    }

    fn parse(&self, sql: &str) -> Result<Vec<ParsedStatement>> {
        Session::parse(self, sql)
    }

    async fn prepare(&mut self, statement: &ParsedStatement, param_types: &[Option<SqlType>]) -> Result<Prepared> {
        Session::prepare(self, statement, param_types).await
    }

    fn param_types(prepared: &Prepared) -> &[SqlType] {
        prepared.param_types()
    }

    fn columns(prepared: &Prepared) -> Option<&[ResultColumn]> {
        prepared.columns()
    }

    async fn execute(&mut self, prepared: &Prepared, params: &[ArrayRef]) -> Result<Response> {
        Session::execute(self, prepared, params).await
    }

    async fn run(&mut self, statement: &ParsedStatement) -> Result<Response> {
        Session::run(self, statement).await
    }

    fn statements(&mut self) -> &mut HashMap<String, Option<Prepared>> {
        Session::statements(self)
    }

    async fn copy_push(&mut self, rows: RecordBatch) -> Result<()> {
        Session::copy_push(self, rows).await
    }

    async fn copy_finish(&mut self) -> Result<String> {
        Session::copy_finish(self).await
    }

    fn copy_abort(&mut self) {
        Session::copy_abort(self);
    }

    async fn begin_implicit(&mut self) {
        Session::begin_implicit(self).await;
    }

    async fn end_implicit(&mut self, failed: bool) -> Result<()> {
        Session::end_implicit(self, failed).await
    }

    fn statement_failed(&mut self) {
        Session::statement_failed(self);
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        Session::take_notices(self)
    }

    fn take_parameter_changes(&mut self) -> Vec<(String, String)> {
        Session::take_parameter_changes(self)
    }

    fn reported_parameters(&self) -> Vec<(String, String)> {
        Session::reported_parameters(self)
    }

    fn close_cursor(&mut self, name: &str) -> bool {
        Session::close_cursor(self, name)
    }

    fn cursor_columns(&self, name: &str) -> Option<Vec<ResultColumn>> {
        Session::cursor_columns(self, name)
    }

    fn format_settings(&self) -> FormatSettings {
        Session::format_settings(self)
    }
}
