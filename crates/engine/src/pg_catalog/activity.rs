//! Who is connected and what runs: `pg_stat_activity`, and cancelling by number.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::CatalogView;
use super::cell::{Cell, int, text};
use super::objects::{DATABASE_OID, OWNER, OWNER_OID, USER_OID};
use super::tables::{Fill, Rows};
use crate::api::CancelHandle;
use crate::engine::DATABASE;

pub(super) const FILLS: &[(&str, Fill)] = &[
    ("pg_catalog.pg_stat_activity", pg_stat_activity),
    ("pg_catalog.pg_cursors", pg_cursors),
    ("pg_catalog.pg_prepared_statements", pg_prepared_statements),
];

/// The sessions of an engine.
#[derive(Default)]
pub(crate) struct Activity(Mutex<BTreeMap<u32, Arc<SessionEntry>>>);

/// A session as others see it.
pub(crate) struct SessionEntry {
    id: u32,
    user: String,
    started_us: i64,
    cancel: CancelHandle,
    now: Mutex<Now>,
}

/// What a session does.
#[derive(Clone, Default)]
struct Now {
    application: String,
    /// The running statement, or the last one.
    query: String,
    runs: bool,
    in_transaction: bool,
    query_started_us: Option<i64>,
    changed_us: Option<i64>,
}

impl Activity {
    /// Adds a session.
    pub(crate) fn enter(&self, id: u32, user: &str, cancel: CancelHandle, now_us: i64) -> Arc<SessionEntry> {
        let entry =
            SessionEntry { id, user: user.to_owned(), started_us: now_us, cancel, now: Mutex::new(Now::default()) };
        let entry = Arc::new(entry);
        self.0.lock().insert(id, Arc::clone(&entry));
        entry
    }

    /// Takes a session out.
    pub(crate) fn leave(&self, id: u32) {
        self.0.lock().remove(&id);
    }

    /// Cancels what a session runs; whether there is such a session.
    pub(crate) fn cancel(&self, id: u32) -> bool {
        let entry = self.0.lock().get(&id).cloned();
        entry.is_some_and(|entry| {
            entry.cancel.cancel();
            true
        })
    }
}

impl SessionEntry {
    /// A statement begins.
    pub(crate) fn begins(&self, query: &str, application: &str, now_us: i64) {
        let mut now = self.now.lock();
        now.query.clear();
        now.query.push_str(query);
        if now.application != application {
            application.clone_into(&mut now.application);
        }
        now.runs = true;
        now.query_started_us = Some(now_us);
        now.changed_us = Some(now_us);
    }

    /// The statement has been answered.
    pub(crate) fn ends(&self, in_transaction: bool, now_us: i64) {
        let mut now = self.now.lock();
        now.runs = false;
        now.in_transaction = in_transaction;
        now.changed_us = Some(now_us);
    }
}

fn pg_stat_activity(view: &CatalogView, rows: &mut Rows<'_>) {
    let entries: Vec<Arc<SessionEntry>> = view.engine.activity.0.lock().values().cloned().collect();
    for entry in entries {
        let now = entry.now.lock().clone();
        let state = match (now.runs, now.in_transaction) {
            (true, _) => "active",
            (false, true) => "idle in transaction",
            (false, false) => "idle",
        };
        let time = |us: Option<i64>| us.map_or(Cell::Null, Cell::Time);
        rows.push([
            ("datid", int(DATABASE_OID)),
            ("datname", text(DATABASE)),
            ("pid", int(entry.id)),
            ("leader_pid", Cell::Null),
            ("usesysid", int(if entry.user == OWNER { OWNER_OID } else { USER_OID })),
            ("usename", text(&entry.user)),
            ("application_name", text(&now.application)),
            ("client_port", int(-1)),
            ("backend_start", Cell::Time(entry.started_us)),
            ("query_start", time(now.query_started_us)),
            ("state_change", time(now.changed_us)),
            ("state", text(state)),
            ("query_id", Cell::Null),
            ("query", text(&now.query)),
            ("backend_type", text("client backend")),
        ]);
    }
}

fn pg_cursors(view: &CatalogView, rows: &mut Rows<'_>) {
    for cursor in &view.cursors {
        rows.push([
            ("name", text(&cursor.name)),
            ("statement", text(&cursor.statement)),
            ("is_holdable", Cell::Bool(cursor.hold)),
        ]);
    }
}

fn pg_prepared_statements(view: &CatalogView, rows: &mut Rows<'_>) {
    for prepared in &view.prepared {
        rows.push([
            ("name", text(&prepared.name)),
            ("statement", text(&prepared.statement)),
            ("parameter_types", Cell::Texts(prepared.param_types.clone())),
            ("from_sql", Cell::Bool(prepared.from_sql)),
        ]);
    }
}
