//! Functions about the session and the server.

use millstream_types::{Error, Result, SqlState};

use crate::engine::DATABASE;
use crate::pg_catalog::CatalogView;
use crate::pg_catalog::cell::CellType::{BigInt, Bool, Integer, Oid, Text, Texts, Timestamptz};
use crate::pg_catalog::cell::{Cell, int, text};
use crate::pg_catalog::function::Run::{Catalog, Pure};
use crate::pg_catalog::function::Spec;
use crate::session::{parameter, unknown_parameter};

pub(super) const SPECS: &[Spec] = &[
    Spec::total("version", Text, Pure(version)),
    Spec::total("current_database", Text, Pure(current_database)),
    Spec::total("current_catalog", Text, Pure(current_database)),
    Spec::total("current_schema", Text, Pure(current_schema)),
    Spec::strict("current_schemas", Texts, Pure(current_schemas)),
    Spec::total("current_user", Text, Catalog(user)),
    Spec::total("session_user", Text, Catalog(user)),
    Spec::total("current_role", Text, Catalog(user)),
    Spec::total("user", Text, Catalog(user)),
    Spec::strict("current_setting", Text, Catalog(current_setting)),
    Spec::total("set_config", Text, Catalog(set_config)),
    Spec::total("pg_backend_pid", Integer, Catalog(pg_backend_pid)),
    Spec::strict("pg_cancel_backend", Bool, Catalog(pg_cancel_backend)),
    Spec::total("pg_advisory_unlock_all", Text, Pure(nothing)),
    Spec::total("pg_is_in_recovery", Bool, Pure(no)),
    Spec::total("pg_is_wal_replay_paused", Bool, Pure(no)),
    Spec::total("pg_jit_available", Bool, Pure(no)),
    Spec::total("pg_postmaster_start_time", Timestamptz, Catalog(start_time)),
    Spec::total("pg_conf_load_time", Timestamptz, Catalog(start_time)),
    Spec::total("pg_my_temp_schema", Oid, Pure(zero)),
    Spec::total("inet_server_addr", Text, Pure(null)),
    Spec::total("inet_server_port", Integer, Pure(null)),
    Spec::total("inet_client_addr", Text, Pure(null)),
    Spec::total("inet_client_port", Integer, Pure(null)),
    Spec::total("txid_current", BigInt, Catalog(txid_current)),
];

fn version(_: &[Cell]) -> Result<Cell> {
    Ok(text(format!(
        "PostgreSQL 15.0 (Millstream {}) on {}-{}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS
    )))
}

/// What a function of type `void` gives.
fn nothing(_: &[Cell]) -> Result<Cell> {
    Ok(text(""))
}

fn current_database(_: &[Cell]) -> Result<Cell> {
    Ok(text(DATABASE))
}

fn current_schema(_: &[Cell]) -> Result<Cell> {
    Ok(text("public"))
}

fn current_schemas(args: &[Cell]) -> Result<Cell> {
    let implicit = args.first().and_then(Cell::as_bool).unwrap_or(false);
    let path = if implicit { vec!["pg_catalog", "public"] } else { vec!["public"] };
    Ok(Cell::Texts(path.into_iter().map(ToOwned::to_owned).collect()))
}

fn user(view: &CatalogView, _: &[Cell]) -> Result<Cell> {
    Ok(text(&view.user))
}

fn current_setting(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    let name = args.first().and_then(Cell::as_text).unwrap_or_default();
    let missing_ok = args.get(1).and_then(Cell::as_bool).unwrap_or(false);
    match view.settings.get(&name.to_lowercase()) {
        Some(value) => Ok(text(value)),
        None if missing_ok => Ok(Cell::Null),
        None => Err(unknown_parameter(name)),
    }
}

/// The session makes the change once the statement has ended.
fn set_config(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    let name = args.first().and_then(Cell::as_text);
    let name = name.ok_or_else(|| Error::user(SqlState("22004"), "SET requires parameter name"))?.to_lowercase();
    let value = args.get(1).and_then(Cell::as_text).unwrap_or_default();
    let value = match parameter(&name) {
        Some(parameter) => parameter.normalized(value)?,
        None if name.contains('.') => value.to_owned(),
        None => return Err(unknown_parameter(&name)),
    };
    let local = args.get(2).and_then(Cell::as_bool).unwrap_or(false);
    view.config_changes.lock().push((name, value.clone(), local));
    Ok(text(value))
}

fn pg_backend_pid(view: &CatalogView, _: &[Cell]) -> Result<Cell> {
    Ok(int(view.session_id))
}

fn pg_cancel_backend(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    let id = args.first().and_then(Cell::as_int).and_then(|id| u32::try_from(id).ok());
    Ok(Cell::Bool(id.is_some_and(|id| view.engine.activity.cancel(id))))
}

fn start_time(view: &CatalogView, _: &[Cell]) -> Result<Cell> {
    Ok(Cell::Time(view.engine.started_us))
}

fn txid_current(view: &CatalogView, _: &[Cell]) -> Result<Cell> {
    Ok(int(view.engine.clock.last_closed().0 as i64))
}

fn no(_: &[Cell]) -> Result<Cell> {
    Ok(Cell::Bool(false))
}

fn zero(_: &[Cell]) -> Result<Cell> {
    Ok(int(0))
}

fn null(_: &[Cell]) -> Result<Cell> {
    Ok(Cell::Null)
}
