//! Prepared statements: `PREPARE`, `EXECUTE`, `DEALLOCATE`, `DISCARD`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use futures::StreamExt;
use millstream_planner::ast::{Discard, Execute, Prepare, Statement};
use millstream_planner::parser::{Parsed, parse_query};
use millstream_types::{Error, Result, SqlState, SqlType};

use super::{ParsedStatement, Prepared, PreparedStatement, Session, done};
use crate::api::{Response, ResultColumn};

/// A prepared statement as `pg_prepared_statements` shows it.
pub(crate) struct PreparedInfo {
    pub(crate) name: String,
    pub(crate) statement: String,
    pub(crate) param_types: Vec<String>,
    pub(crate) from_sql: bool,
}

impl Session {
    pub(super) fn prepared_infos(&self) -> Vec<PreparedInfo> {
        let info = |(name, prepared): (&String, &Option<Prepared>)| {
            let prepared = prepared.as_ref().filter(|_| !name.is_empty())?;
            Some(PreparedInfo {
                name: name.clone(),
                statement: prepared.0.statement.parsed().text.clone(),
                param_types: prepared.param_types().iter().map(SqlType::to_string).collect(),
                from_sql: prepared.0.from_sql,
            })
        };
        let mut infos: Vec<PreparedInfo> = self.prepared.iter().filter_map(info).collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        infos
    }

    /// Prepared statements by name, those of `PREPARE` and those of the front end's own protocol alike. `None` is what an
    /// empty query string leaves.
    pub fn statements(&mut self) -> &mut HashMap<String, Option<Prepared>> {
        &mut self.prepared
    }

    /// `text` is that of the whole `PREPARE`, which is what `pg_prepared_statements` shows.
    pub(super) fn prepare_named(&mut self, prepare: &Prepare, text: &str) -> Result<Response> {
        if self.prepared.contains_key(&prepare.name) {
            let message = format!("prepared statement \"{}\" already exists", prepare.name);
            return Err(Error::user(SqlState::DUPLICATE_PREPARED_STATEMENT, message));
        }
        if !is_preparable(&prepare.statement) {
            return Err(Error::user(SqlState::SYNTAX_ERROR, "this statement cannot be prepared")
                .with_hint("SELECT, INSERT, UPDATE, DELETE and VALUES can."));
        }
        let parsed = Parsed { statement: prepare.statement.as_ref().clone(), text: text.to_owned(), offset: 0 };
        let given: Vec<Option<SqlType>> = prepare.param_types.iter().cloned().map(Some).collect();
        let statement = ParsedStatement::new(parsed);
        let (param_types, columns) = self.describe(&statement, &given)?;
        let prepared = Prepared(Arc::new(PreparedStatement { statement, param_types, columns, from_sql: true }));
        self.prepared.insert(prepare.name.clone(), Some(prepared));
        Ok(done("PREPARE"))
    }

    /// The statement that an `EXECUTE` means.
    fn executed(&self, execute: &Execute) -> Result<Prepared> {
        let prepared = self.prepared.get(&execute.name).ok_or_else(|| no_statement(&execute.name))?;
        prepared.clone().ok_or_else(|| Error::user(SqlState::SYNTAX_ERROR, "an empty statement cannot be executed"))
    }

    pub(super) fn executed_columns(&self, execute: &Execute) -> Result<Option<Vec<ResultColumn>>> {
        Ok(self.executed(execute)?.0.columns.clone())
    }

    pub(super) async fn execute_named(&mut self, execute: &Execute, outer: &[ArrayRef]) -> Result<Response> {
        let prepared = self.executed(execute)?;
        let expected = prepared.param_types();
        if execute.params.len() != expected.len() {
            let message = format!("wrong number of parameters for prepared statement \"{}\"", execute.name);
            return Err(Error::user(SqlState::SYNTAX_ERROR, message).with_detail(format!(
                "Expected {} parameters but got {}.",
                expected.len(),
                execute.params.len()
            )));
        }
        let params = self.values_of(execute, expected, outer).await?;
        let statement = &prepared.0.statement;
        let response = match &statement.parsed().statement {
            Statement::Query(query) => self.select_planned(statement, query, &params).await,
            Statement::Insert(insert) => self.insert(insert, &params).await,
            Statement::Update(_) => self.update(statement, &params).await,
            Statement::Delete(_) => self.delete(statement, &params).await,
            _ => Err(Error::not_supported("EXECUTE of this statement is not supported")
                .with_hint("SELECT, INSERT, UPDATE, DELETE and VALUES can be executed.")),
        };
        // Positions point into the text of PREPARE, which the client does not see now.
        response.map_err(|e| without_position(&e)).and_then(|response| prepared.checked(response))
    }

    /// The values of an `EXECUTE`'s expressions, of the types that the statement wants.
    async fn values_of(&mut self, execute: &Execute, types: &[SqlType], outer: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        if types.is_empty() {
            return Ok(vec![]);
        }
        let casts = execute.params.iter().zip(types).map(|(value, t)| format!("CAST(({value}) AS {t})"));
        let query = parse_query(&format!("SELECT {}", casts.collect::<Vec<_>>().join(", ")))?;
        let Response::Rows(mut rows) = self.select(&query, outer).await.map_err(|e| without_position(&e))? else {
            return Err(Error::internal("a query without rows"));
        };
        match rows.batches.next().await {
            Some(batch) => Ok(batch?.columns().to_vec()),
            None => Err(Error::internal("a query of constants gave no row")),
        }
    }

    pub(super) fn deallocate(&mut self, name: Option<&str>) -> Result<Response> {
        match name {
            None => {
                self.prepared.clear();
                Ok(done("DEALLOCATE ALL"))
            }
            Some(name) => match self.prepared.remove(name) {
                Some(_) => Ok(done("DEALLOCATE")),
                None => Err(no_statement(name)),
            },
        }
    }

    pub(super) fn discard(&mut self, what: Discard) -> Result<Response> {
        match what {
            Discard::All => {
                if !self.is_outside_block() {
                    let message = "DISCARD ALL cannot run inside a transaction block";
                    return Err(Error::user(SqlState::ACTIVE_SQL_TRANSACTION, message));
                }
                self.cursors.clear();
                self.prepared.clear();
                self.settings.reset(None)?;
                Ok(done("DISCARD ALL"))
            }
            Discard::Plans => Ok(done("DISCARD PLANS")),
            Discard::Sequences => Ok(done("DISCARD SEQUENCES")),
            Discard::Temp => Ok(done("DISCARD TEMP")),
        }
    }
}

fn is_preparable(statement: &Statement) -> bool {
    matches!(statement, Statement::Query(_) | Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_))
}

fn no_statement(name: &str) -> Error {
    let message = format!("prepared statement \"{name}\" does not exist");
    Error::user(SqlState::INVALID_SQL_STATEMENT_NAME, message)
}

/// The error without a position, which would point into a text that the client does not see.
pub(crate) fn without_position(error: &Error) -> Error {
    let fields = error.fields();
    let mut plain = Error::new(fields.kind, fields.state, fields.message.clone());
    if let Some(detail) = &fields.detail {
        plain = plain.with_detail(detail.clone());
    }
    if let Some(hint) = &fields.hint {
        plain = plain.with_hint(hint.clone());
    }
    plain
}
