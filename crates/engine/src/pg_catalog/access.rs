//! Roles and access methods.

use super::CatalogView;
use super::cell::{Cell, int, text};
use super::objects::{BTREE_OID, HEAP_OID, OWNER, OWNER_OID, SINK_AM_OID, STREAM_AM_OID, USER_OID};
use super::tables::{Fill, Rows};

pub(super) const FILLS: &[(&str, Fill)] = &[
    ("pg_catalog.pg_roles", roles),
    ("pg_catalog.pg_authid", roles),
    ("pg_catalog.pg_user", users),
    ("pg_catalog.pg_shadow", users),
    ("pg_catalog.pg_am", pg_am),
];

/// The roles with their identifiers: the owner of everything, and the session's user.
pub(super) fn role_names(view: &CatalogView) -> Vec<(i64, &str)> {
    let user = (view.user != OWNER).then_some((USER_OID, view.user.as_str()));
    std::iter::once((OWNER_OID, OWNER)).chain(user).collect()
}

/// The role of an identifier.
pub(super) fn role_name(view: &CatalogView, oid: i64) -> Option<&str> {
    role_names(view).into_iter().find(|(o, _)| *o == oid).map(|(_, name)| name)
}

fn roles(view: &CatalogView, rows: &mut Rows<'_>) {
    for (oid, name) in role_names(view) {
        rows.push([
            ("oid", int(oid)),
            ("rolname", text(name)),
            ("rolsuper", Cell::Bool(true)),
            ("rolinherit", Cell::Bool(true)),
            ("rolcreaterole", Cell::Bool(true)),
            ("rolcreatedb", Cell::Bool(true)),
            ("rolcanlogin", Cell::Bool(true)),
            ("rolconnlimit", int(-1)),
        ]);
    }
}

fn users(view: &CatalogView, rows: &mut Rows<'_>) {
    for (oid, name) in role_names(view) {
        rows.push([
            ("usename", text(name)),
            ("usesysid", int(oid)),
            ("usecreatedb", Cell::Bool(true)),
            ("usesuper", Cell::Bool(true)),
        ]);
    }
}

fn pg_am(_: &CatalogView, rows: &mut Rows<'_>) {
    let methods = [
        (HEAP_OID, "heap", "heap_tableam_handler", "t"),
        (BTREE_OID, "btree", "bthandler", "i"),
        (STREAM_AM_OID, "stream", "stream_tableam_handler", "t"),
        (SINK_AM_OID, "sink", "sink_tableam_handler", "t"),
    ];
    for (oid, name, handler, kind) in methods {
        rows.push([("oid", int(oid)), ("amname", text(name)), ("amhandler", text(handler)), ("amtype", text(kind))]);
    }
}
