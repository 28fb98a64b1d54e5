//! What there is once in a server: databases, schemas, tablespaces, parameters, collations.

use super::CatalogView;
use super::cell::{Cell, int, text};
use super::objects::{DATABASE_OID, DEFAULT_COLLATION_OID, OWNER_OID, PG_CATALOG_OID, schema_oid};
use super::tables::{Fill, Rows};
use crate::engine::DATABASE;
use crate::session::{PARAMETERS, Values};

pub(super) const FILLS: &[(&str, Fill)] = &[
    ("pg_catalog.pg_database", pg_database),
    ("pg_catalog.pg_namespace", pg_namespace),
    ("pg_catalog.pg_tablespace", pg_tablespace),
    ("pg_catalog.pg_settings", pg_settings),
    ("pg_catalog.pg_collation", pg_collation),
    ("pg_catalog.pg_language", pg_language),
    ("pg_catalog.pg_timezone_names", pg_timezone_names),
];

fn pg_database(_: &CatalogView, rows: &mut Rows<'_>) {
    rows.push([
        ("oid", int(DATABASE_OID)),
        ("datname", text(DATABASE)),
        ("datdba", int(OWNER_OID)),
        ("encoding", int(6)),
        ("datlocprovider", text("c")),
        ("datallowconn", Cell::Bool(true)),
        ("datconnlimit", int(-1)),
        ("dattablespace", int(1663)),
        ("datcollate", text("C")),
        ("datctype", text("C.UTF-8")),
    ]);
}

fn pg_namespace(view: &CatalogView, rows: &mut Rows<'_>) {
    for schema in view.catalog.schemas() {
        rows.push([
            ("oid", int(schema_oid(&view.catalog, schema))),
            ("nspname", text(schema)),
            ("nspowner", int(OWNER_OID)),
        ]);
    }
}

fn pg_tablespace(_: &CatalogView, rows: &mut Rows<'_>) {
    for (oid, name) in [(1663, "pg_default"), (1664, "pg_global")] {
        rows.push([("oid", int(oid)), ("spcname", text(name)), ("spcowner", int(OWNER_OID))]);
    }
}

fn pg_settings(view: &CatalogView, rows: &mut Rows<'_>) {
    for parameter in PARAMETERS {
        let setting = view.settings.get(parameter.name).map_or(parameter.default, String::as_str);
        let range = if let Values::Int(min, max) = parameter.values { Some((min, max)) } else { None };
        let words = match parameter.values {
            Values::Word(words) => Cell::Texts(words.iter().map(|w| (*w).to_owned()).collect()),
            _ => Cell::Null,
        };
        let is_fixed = matches!(parameter.values, Values::Fixed);
        rows.push([
            ("name", text(parameter.shown_name())),
            ("setting", text(setting)),
            ("category", text("Client Connection Defaults")),
            ("short_desc", text("")),
            ("context", text(if is_fixed { "internal" } else { "user" })),
            ("vartype", text(parameter.type_name())),
            ("source", text(if setting == parameter.default { "default" } else { "session" })),
            ("min_val", range.map(|(min, _)| min.to_string()).into()),
            ("max_val", range.map(|(_, max)| max.to_string()).into()),
            ("enumvals", words),
            ("boot_val", text(parameter.default)),
            ("reset_val", text(parameter.default)),
        ]);
    }
}

fn pg_collation(_: &CatalogView, rows: &mut Rows<'_>) {
    for (oid, name, provider) in [(DEFAULT_COLLATION_OID, "default", "d"), (950, "C", "c"), (951, "POSIX", "c")] {
        rows.push([
            ("oid", int(oid)),
            ("collname", text(name)),
            ("collnamespace", int(PG_CATALOG_OID)),
            ("collowner", int(OWNER_OID)),
            ("collprovider", text(provider)),
            ("collisdeterministic", Cell::Bool(true)),
            ("collencoding", int(-1)),
            ("collcollate", text("C")),
            ("collctype", text("C")),
        ]);
    }
}

fn pg_language(_: &CatalogView, rows: &mut Rows<'_>) {
    for (oid, name) in [(12, "internal"), (14, "sql")] {
        rows.push([("oid", int(oid)), ("lanname", text(name)), ("lanowner", int(OWNER_OID))]);
    }
}

fn pg_timezone_names(_: &CatalogView, rows: &mut Rows<'_>) {
    rows.push([("name", text("UTC")), ("abbrev", text("UTC"))]);
}
