//! `pg_class`, `pg_attribute` and what else says which relations there are.

use std::sync::Arc;

use millstream_planner::catalog::{Column, Kind, Relation};
use millstream_types::SqlType;
use millstream_types::pg::PgType;

use super::CatalogView;
use super::cell::{Cell, int, text};
use super::objects::{
    BTREE_OID, Class, DEFAULT_COLLATION_OID, HEAP_OID, OWNER, OWNER_OID, SINK_AM_OID, STREAM_AM_OID, classes, has_key,
    schema_oid,
};
use super::tables::{Fill, Rows};
use super::types::{alignment, is_by_value};

pub(super) const FILLS: &[(&str, Fill)] = &[
    ("pg_catalog.pg_class", pg_class),
    ("pg_catalog.pg_attribute", pg_attribute),
    ("pg_catalog.pg_attrdef", pg_attrdef),
    ("pg_catalog.pg_tables", pg_tables),
    ("pg_catalog.pg_views", pg_views),
    ("pg_catalog.pg_matviews", pg_matviews),
    ("pg_catalog.pg_foreign_table", pg_foreign_table),
    ("pg_catalog.pg_foreign_server", pg_foreign_server),
    ("pg_catalog.pg_foreign_data_wrapper", pg_foreign_data_wrapper),
    ("pg_catalog.pg_stat_user_tables", stat_user_tables),
    ("pg_catalog.pg_stat_all_tables", stat_user_tables),
];

fn pg_class(view: &CatalogView, rows: &mut Rows<'_>) {
    for class in classes(&view.catalog) {
        let relation = class.relation();
        let has_indexes = matches!(class, Class::Relation(_)) && has_index(view, relation);
        let n_columns = columns_of(class).count() as i64;
        let options = match class {
            Class::Relation(r) if !r.options.is_empty() => {
                Cell::Texts(r.options.iter().map(|(name, value)| format!("{name}={value}")).collect())
            }
            _ => Cell::Null,
        };
        rows.push([
            ("oid", int(class.oid())),
            ("relname", text(class.name())),
            ("relnamespace", int(schema_oid(&view.catalog, &relation.schema))),
            ("relowner", int(OWNER_OID)),
            ("relam", int(access_method(class))),
            ("relfilenode", int(class.oid())),
            ("reltuples", Cell::Float(-1.0)),
            ("relhasindex", Cell::Bool(has_indexes)),
            ("relpersistence", text("p")),
            ("relkind", text(class.relkind())),
            ("relnatts", int(n_columns)),
            ("relhasrules", Cell::Bool(matches!(class.relkind(), "v" | "m"))),
            ("relispopulated", Cell::Bool(true)),
            ("relreplident", text("d")),
            ("reloptions", options),
        ]);
    }
}

fn has_index(view: &CatalogView, relation: &Relation) -> bool {
    has_key(relation) || view.catalog.indexes_of(relation.id).next().is_some()
}

fn access_method(class: Class<'_>) -> i64 {
    match (class, &class.relation().kind) {
        (Class::Key(_), _) | (_, Kind::Index(_)) => BTREE_OID,
        (_, Kind::Stream) => STREAM_AM_OID,
        (_, Kind::Table | Kind::MaterializedView(_)) => HEAP_OID,
        (_, Kind::Sink(_)) => SINK_AM_OID,
        (_, Kind::System) if class.relkind() == "r" => HEAP_OID,
        _ => 0,
    }
}

/// The columns that a class has.
pub(super) fn columns_of(class: Class<'_>) -> impl Iterator<Item = &Column> {
    let (all, key): (&[Column], &[usize]) = match class {
        Class::Relation(relation) => (relation.visible_columns(), &[]),
        Class::Key(relation) => (&[], relation.declared_key().unwrap_or_default()),
    };
    let relation = class.relation();
    all.iter().chain(key.iter().map(move |&i| &relation.columns[i]))
}

fn pg_attribute(view: &CatalogView, rows: &mut Rows<'_>) {
    for class in classes(&view.catalog) {
        let of_index = class.relkind() == "i";
        for (i, column) in columns_of(class).enumerate() {
            let pg = PgType::of(&column.sql_type);
            rows.push([
                ("attrelid", int(class.oid())),
                ("attname", text(&column.name)),
                ("atttypid", int(pg.oid)),
                ("attstattarget", int(-1)),
                ("attlen", int(pg.size)),
                ("attnum", int(i as i64 + 1)),
                ("attndims", int(i64::from(matches!(column.sql_type, SqlType::Array(_))))),
                ("attcacheoff", int(-1)),
                ("atttypmod", int(pg.modifier)),
                ("attbyval", Cell::Bool(is_by_value(pg.oid))),
                ("attalign", text(alignment(pg.oid))),
                ("attstorage", text(storage(&column.sql_type))),
                ("attnotnull", Cell::Bool(column.not_null && !of_index)),
                ("atthasdef", Cell::Bool(column.default.is_some() && !of_index)),
                ("attislocal", Cell::Bool(true)),
                ("attcollation", int(collation(&column.sql_type))),
            ]);
        }
    }
}

pub(super) fn storage(sql_type: &SqlType) -> &'static str {
    match sql_type {
        SqlType::Numeric(_) => "m",
        sql_type if PgType::of(sql_type).size < 0 => "x",
        _ => "p",
    }
}

fn collation(sql_type: &SqlType) -> i64 {
    match sql_type {
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) => DEFAULT_COLLATION_OID,
        SqlType::Array(element) => collation(element),
        _ => 0,
    }
}

fn pg_attrdef(view: &CatalogView, rows: &mut Rows<'_>) {
    let mut oid = 1i64 << 31;
    for relation in view.catalog.relations() {
        for (i, column) in relation.visible_columns().iter().enumerate() {
            let Some(default) = &column.default else { continue };
            oid += 1;
            rows.push([
                ("oid", int(oid)),
                ("adrelid", int(relation.oid)),
                ("adnum", int(i as i64 + 1)),
                ("adbin", text(default)),
            ]);
        }
    }
}

/// The relations of some kinds, by `relkind`.
pub(super) fn of_kinds<'a>(view: &'a CatalogView, kinds: &'a [&str]) -> impl Iterator<Item = &'a Arc<Relation>> {
    view.catalog.relations().filter(|r| kinds.contains(&Class::Relation(r).relkind()))
}

fn pg_tables(view: &CatalogView, rows: &mut Rows<'_>) {
    for relation in of_kinds(view, &["r"]) {
        rows.push([
            ("schemaname", text(&relation.schema)),
            ("tablename", text(&relation.name)),
            ("tableowner", text(OWNER)),
            ("hasindexes", Cell::Bool(has_index(view, relation))),
        ]);
    }
}

/// A view's definition as Postgres gives it: with a semicolon.
pub(super) fn view_definition(relation: &Relation) -> Cell {
    relation.query_text().map(|query| format!(" {};", query.trim())).into()
}

fn pg_views(view: &CatalogView, rows: &mut Rows<'_>) {
    for relation in of_kinds(view, &["v"]) {
        rows.push([
            ("schemaname", text(&relation.schema)),
            ("viewname", text(&relation.name)),
            ("viewowner", text(OWNER)),
            ("definition", view_definition(relation)),
        ]);
    }
}

fn pg_matviews(view: &CatalogView, rows: &mut Rows<'_>) {
    for relation in of_kinds(view, &["m"]) {
        rows.push([
            ("schemaname", text(&relation.schema)),
            ("matviewname", text(&relation.name)),
            ("matviewowner", text(OWNER)),
            ("hasindexes", Cell::Bool(has_index(view, relation))),
            ("ispopulated", Cell::Bool(true)),
            ("definition", view_definition(relation)),
        ]);
    }
}

/// The identifier of a connector, which stands as a foreign server.
fn connector_oid(index: usize) -> i64 {
    15_000 + index as i64
}

fn connectors(view: &CatalogView) -> Vec<String> {
    let mut names: Vec<String> =
        of_kinds(view, &["f"]).filter_map(|r| r.option("connector").map(ToOwned::to_owned)).collect();
    names.sort();
    names.dedup();
    names
}

fn pg_foreign_table(view: &CatalogView, rows: &mut Rows<'_>) {
    let connectors = connectors(view);
    for relation in of_kinds(view, &["f"]) {
        let server = relation.option("connector").and_then(|name| connectors.iter().position(|c| c == name));
        let options = relation.options.iter().filter(|(name, _)| name != "connector");
        rows.push([
            ("ftrelid", int(relation.oid)),
            ("ftserver", int(server.map_or(0, connector_oid))),
            ("ftoptions", Cell::Texts(options.map(|(name, value)| format!("{name}={value}")).collect())),
        ]);
    }
}

fn pg_foreign_server(view: &CatalogView, rows: &mut Rows<'_>) {
    for (i, name) in connectors(view).into_iter().enumerate() {
        rows.push([
            ("oid", int(connector_oid(i))),
            ("srvname", text(name)),
            ("srvowner", int(OWNER_OID)),
            ("srvfdw", int(14_999)),
        ]);
    }
}

fn pg_foreign_data_wrapper(_: &CatalogView, rows: &mut Rows<'_>) {
    rows.push([("oid", int(14_999)), ("fdwname", text("connector")), ("fdwowner", int(OWNER_OID))]);
}

fn stat_user_tables(view: &CatalogView, rows: &mut Rows<'_>) {
    for relation in of_kinds(view, &["r", "m"]).filter(|r| r.kind != Kind::System) {
        rows.push([
            ("relid", int(relation.oid)),
            ("schemaname", text(&relation.schema)),
            ("relname", text(&relation.name)),
        ]);
    }
}
