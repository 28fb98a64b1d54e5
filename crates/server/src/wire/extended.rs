//! The extended protocol: statements are parsed, bound to parameters, described and executed in steps.

use millstream_engine::Response;
use millstream_types::pg::PgType;
use millstream_types::{Error, Result, SqlState, SqlType};

use super::client::{Client, or_gone};
use super::connection::Fault;
use super::frontend::{Bind, Target};
use super::params::{check_formats, format_code, read_params};
use super::portal::{Portal, PortalState};
use super::rows::{OpenRows, RowForm, Sent};
use crate::BackendSession;

/// The type of a parameter that the client leaves open.
const UNSPECIFIED: u32 = 0;
/// `unknown`, which leaves it open as well.
const UNKNOWN: u32 = 705;

impl<S: BackendSession> Client<S> {
    pub(super) async fn parse(&mut self, name: String, sql: &str, param_oids: &[u32]) -> Result<(), Fault> {
        if !name.is_empty() && self.session.statements().contains_key(&name) {
            return Err(Fault::Statement(Error::user(
                SqlState::DUPLICATE_PREPARED_STATEMENT,
                format!("prepared statement \"{name}\" already exists"),
            )));
        }
        // A failed Parse leaves no unnamed statement behind.
        self.session.statements().remove(&name);
        let mut parsed = self.session.parse(sql).inspect_err(|_| self.session.statement_failed())?;
        if parsed.len() > 1 {
            return Err(Fault::Statement(Error::user(
                SqlState::SYNTAX_ERROR,
                "cannot insert multiple commands into a prepared statement",
            )));
        }
        let types = param_oids.iter().map(|oid| param_type(*oid)).collect::<Result<Vec<_>>>()?;
        let prepared = match parsed.pop() {
            None => None,
            Some(statement) => Some(or_gone(&mut self.connection, self.session.prepare(&statement, &types)).await?),
        };
        self.session.statements().insert(name, prepared);
        self.connection.output.parse_complete();
        Ok(())
    }

    pub(super) fn bind(&mut self, bind: Bind) -> Result<(), Fault> {
        let prepared = self.statement(&bind.statement)?;
        if !bind.portal.is_empty() && self.portals.contains_key(&bind.portal) {
            return Err(Fault::Statement(Error::user(
                SqlState::DUPLICATE_CURSOR,
                format!("cursor \"{}\" already exists", bind.portal),
            )));
        }
        let types = prepared.as_ref().map_or(&[][..], S::param_types);
        let params = read_params(&bind, types, &self.session.format_settings())?;
        let n_columns = prepared.as_ref().and_then(S::columns).map_or(0, <[_]>::len);
        check_formats(&bind.result_formats, n_columns, || {
            format!("bind message has {} result formats but query has {n_columns} columns", bind.result_formats.len())
        })?;
        let portal = Portal { prepared, params, result_formats: bind.result_formats, state: PortalState::New };
        self.portals.insert(bind.portal, portal);
        self.connection.output.bind_complete();
        Ok(())
    }

    pub(super) fn describe(&mut self, target: &Target) -> Result<(), Fault> {
        match target {
            Target::Statement(name) => {
                let prepared = self.statement(name)?;
                let output = &mut self.connection.output;
                output.parameter_description(prepared.as_ref().map_or(&[], S::param_types));
                match prepared.as_ref().and_then(S::columns) {
                    Some(columns) => output.row_description(columns, |_| 0),
                    None => output.no_data(),
                }
            }
            Target::Portal(name) => {
                let Some(portal) = self.portals.get(name) else {
                    let columns = self.session.cursor_columns(name).ok_or_else(|| no_portal(name))?;
                    self.connection.output.row_description(&columns, |_| 0);
                    return Ok(());
                };
                match portal.prepared.as_ref().and_then(S::columns) {
                    Some(columns) => {
                        let format = |i| format_code(&portal.result_formats, i);
                        self.connection.output.row_description(columns, format);
                    }
                    None => self.connection.output.no_data(),
                }
            }
        }
        Ok(())
    }

    pub(super) async fn execute(&mut self, name: &str, max_rows: u32) -> Result<(), Fault> {
        // Taken out while it runs, and put back if it can go on: a portal that failed is not run again.
        let mut portal = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
        let max_rows = (max_rows > 0).then_some(u64::from(max_rows));
        let outcome = self.run_portal(name, &mut portal, max_rows).await;
        match outcome {
            Ok(()) => {
                self.portals.insert(name.to_owned(), portal);
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    async fn run_portal(
        &mut self,
        name: &str,
        portal: &mut Portal<S::Prepared>,
        max_rows: Option<u64>,
    ) -> Result<(), Fault> {
        let Some(prepared) = portal.prepared.as_ref() else {
            self.complete(None);
            return Ok(());
        };
        match std::mem::replace(&mut portal.state, PortalState::Done) {
            PortalState::New => {
                let work = self.session.execute(prepared, &portal.params);
                match or_gone(&mut self.connection, work).await? {
                    Response::Empty => self.complete(None),
                    Response::Done { tag } => self.complete(Some(&tag)),
                    Response::Rows(rows) => {
                        let form = RowForm::Data(portal.result_formats.clone());
                        let rows = OpenRows::new(rows, form, self.session.format_settings());
                        portal.state = self.send_rows(rows, max_rows).await?;
                    }
                    response => {
                        let copied = self.copy(response).await;
                        let tag = copied.inspect_err(|_| self.session.statement_failed())?;
                        self.complete(Some(&tag));
                    }
                }
            }
            PortalState::Suspended(rows) => {
                self.cancel.clear();
                portal.state = self.send_rows(*rows, max_rows).await?;
            }
            PortalState::Exhausted(tag) => {
                self.complete(Some(&tag.complete(0)));
                portal.state = PortalState::Exhausted(tag);
            }
            PortalState::Done => {
                return Err(Fault::Statement(Error::user(
                    SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("portal \"{name}\" cannot be run"),
                )));
            }
        }
        Ok(())
    }

    async fn send_rows(&mut self, mut rows: OpenRows, max_rows: Option<u64>) -> Result<PortalState, Fault> {
        match rows.send(&mut self.connection, &self.cancel, max_rows).await {
            Ok(Sent::All(n_rows)) => {
                self.complete(Some(&rows.tag().complete(n_rows)));
                Ok(PortalState::Exhausted(rows.tag()))
            }
            Ok(Sent::Limit) => {
                self.side_effects();
                self.connection.output.portal_suspended();
                Ok(PortalState::Suspended(Box::new(rows)))
            }
            Err(fault) => {
                self.session.statement_failed();
                Err(fault)
            }
        }
    }

    /// Closing what does not exist is no error.
    pub(super) fn close(&mut self, target: Target) {
        match target {
            Target::Statement(name) => drop(self.session.statements().remove(&name)),
            Target::Portal(name) => {
                if self.portals.remove(&name).is_none() {
                    self.session.close_cursor(&name);
                }
            }
        }
        self.connection.output.close_complete();
    }

    fn statement(&mut self, name: &str) -> Result<Option<S::Prepared>> {
        self.session.statements().get(name).cloned().ok_or_else(|| {
            let message = match name {
                "" => "unnamed prepared statement does not exist".to_owned(),
                _ => format!("prepared statement \"{name}\" does not exist"),
            };
            Error::user(SqlState::INVALID_SQL_STATEMENT_NAME, message)
        })
    }
}

fn no_portal(name: &str) -> Error {
    Error::user(SqlState::INVALID_CURSOR_NAME, format!("portal \"{name}\" does not exist"))
}

fn param_type(oid: u32) -> Result<Option<SqlType>> {
    if matches!(oid, UNSPECIFIED | UNKNOWN) {
        return Ok(None);
    }
    match PgType::sql_type(oid, -1) {
        Some(sql_type) => Ok(Some(sql_type)),
        None => Err(Error::not_supported(format!("parameters of the type with OID {oid} are not supported"))),
    }
}
