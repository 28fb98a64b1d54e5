//! `information_schema`, as far as it has something to say. Unlike in Postgres, materialized views are among the tables
//! and have columns: here they are what a database is for.

use std::sync::Arc;

use millstream_planner::catalog::{Column, Kind, Relation};
use millstream_types::SqlType;
use millstream_types::pg::PgType;

use super::CatalogView;
use super::access::role_names;
use super::cell::{Cell, int, text};
use super::objects::{Class, OWNER, has_key, key_name};
use super::tables::{Fill, Rows};
use super::types;
use crate::engine::DATABASE;

pub(super) const FILLS: &[(&str, Fill)] = &[
    ("information_schema.tables", tables),
    ("information_schema.columns", columns),
    ("information_schema.views", views),
    ("information_schema.schemata", schemata),
    ("information_schema.table_constraints", table_constraints),
    ("information_schema.key_column_usage", key_columns),
    ("information_schema.constraint_column_usage", key_columns),
    ("information_schema.constraint_table_usage", constraint_tables),
    ("information_schema.view_table_usage", view_tables),
    ("information_schema.element_types", element_types),
    ("information_schema.table_privileges", table_privileges),
    ("information_schema.role_table_grants", table_privileges),
    ("information_schema.enabled_roles", enabled_roles),
    ("information_schema.information_schema_catalog_name", catalog_name),
    ("information_schema.character_sets", character_sets),
];

fn yes_or_no(yes: bool) -> Cell {
    text(if yes { "YES" } else { "NO" })
}

/// Whatever has columns that a query can read, and sinks.
fn listed(view: &CatalogView) -> impl Iterator<Item = &Arc<Relation>> {
    view.catalog.relations().filter(|r| !matches!(r.kind, Kind::Index(_)))
}

fn tables(view: &CatalogView, rows: &mut Rows<'_>) {
    for relation in listed(view) {
        let table_type = match Class::Relation(relation).relkind() {
            "v" => "VIEW",
            "m" => "MATERIALIZED VIEW",
            "f" => "FOREIGN",
            _ => "BASE TABLE",
        };
        rows.push([
            ("table_catalog", text(DATABASE)),
            ("table_schema", text(&relation.schema)),
            ("table_name", text(&relation.name)),
            ("table_type", text(table_type)),
            ("is_insertable_into", yes_or_no(is_insertable(relation))),
            ("is_typed", text("NO")),
        ]);
    }
}

fn is_insertable(relation: &Relation) -> bool {
    matches!(relation.kind, Kind::Table | Kind::Stream) && !relation.has_connector()
}

fn columns(view: &CatalogView, rows: &mut Rows<'_>) {
    for relation in listed(view) {
        for (i, column) in relation.visible_columns().iter().enumerate() {
            let mut row = vec![
                ("table_catalog", text(DATABASE)),
                ("table_schema", text(&relation.schema)),
                ("table_name", text(&relation.name)),
                ("column_name", text(&column.name)),
                ("ordinal_position", int(i as i64 + 1)),
                ("column_default", column.default.clone().into()),
                ("is_nullable", yes_or_no(!column.not_null)),
                ("is_self_referencing", text("NO")),
                ("is_identity", text("NO")),
                ("identity_cycle", text("NO")),
                ("is_generated", text("NEVER")),
                ("is_updatable", yes_or_no(relation.kind == Kind::Table && !relation.append_only)),
            ];
            row.extend(type_cells(column, i));
            rows.push(row);
        }
    }
}

/// What says of which type a column is.
fn type_cells(column: &Column, index: usize) -> Vec<(&'static str, Cell)> {
    let pg = PgType::of(&column.sql_type);
    let name = types::by_oid(i64::from(pg.oid)).map_or("", |t| t.name);
    let data_type = match &column.sql_type {
        SqlType::Array(_) => "ARRAY".to_owned(),
        _ => types::format_type(i64::from(pg.oid), None),
    };
    let mut cells = vec![
        ("data_type", text(data_type)),
        ("udt_catalog", text(DATABASE)),
        ("udt_schema", text("pg_catalog")),
        ("udt_name", text(name)),
        ("dtd_identifier", text((index + 1).to_string())),
    ];
    let binary = |bits: i64| [("numeric_precision", int(bits)), ("numeric_precision_radix", int(2))];
    match &column.sql_type {
        SqlType::SmallInt => cells.extend(binary(16).into_iter().chain([("numeric_scale", int(0))])),
        SqlType::Integer => cells.extend(binary(32).into_iter().chain([("numeric_scale", int(0))])),
        SqlType::BigInt => cells.extend(binary(64).into_iter().chain([("numeric_scale", int(0))])),
        SqlType::Real => cells.extend(binary(24)),
        SqlType::Double => cells.extend(binary(53)),
        SqlType::Numeric(None) => cells.push(("numeric_precision_radix", int(10))),
        SqlType::Numeric(Some((precision, scale))) => cells.extend([
            ("numeric_precision", int(*precision)),
            ("numeric_precision_radix", int(10)),
            ("numeric_scale", int(*scale)),
        ]),
        SqlType::Varchar(None) | SqlType::Text => cells.push(("character_octet_length", int(1 << 30))),
        SqlType::Varchar(Some(n)) | SqlType::Char(n) => cells.extend([
            ("character_maximum_length", int(*n)),
            ("character_octet_length", int((i64::from(*n) * 4).min(1 << 30))),
        ]),
        SqlType::Date => cells.push(("datetime_precision", int(0))),
        SqlType::Time | SqlType::Timestamp | SqlType::Timestamptz | SqlType::Interval => {
            cells.push(("datetime_precision", int(6)));
        }
        SqlType::Boolean | SqlType::Oid | SqlType::Bytea | SqlType::Array(_) => {}
    }
    cells
}

fn views(view: &CatalogView, rows: &mut Rows<'_>) {
    for relation in view.catalog.relations().filter(|r| matches!(r.kind, Kind::View(_) | Kind::MaterializedView(_))) {
        rows.push([
            ("table_catalog", text(DATABASE)),
            ("table_schema", text(&relation.schema)),
            ("table_name", text(&relation.name)),
            ("view_definition", super::relations::view_definition(relation)),
            ("check_option", text("NONE")),
            ("is_updatable", text("NO")),
            ("is_insertable_into", text("NO")),
            ("is_trigger_updatable", text("NO")),
            ("is_trigger_deletable", text("NO")),
            ("is_trigger_insertable_into", text("NO")),
        ]);
    }
}

fn schemata(view: &CatalogView, rows: &mut Rows<'_>) {
    for schema in view.catalog.schemas() {
        rows.push([("catalog_name", text(DATABASE)), ("schema_name", text(schema)), ("schema_owner", text(OWNER))]);
    }
}

fn keyed(view: &CatalogView) -> impl Iterator<Item = &Arc<Relation>> {
    view.catalog.relations().filter(|r| has_key(r))
}

/// Where a key's constraint is, and where its table.
fn constraint_cells(relation: &Relation) -> Vec<(&'static str, Cell)> {
    vec![
        ("constraint_catalog", text(DATABASE)),
        ("constraint_schema", text(&relation.schema)),
        ("constraint_name", text(key_name(relation))),
        ("table_catalog", text(DATABASE)),
        ("table_schema", text(&relation.schema)),
        ("table_name", text(&relation.name)),
    ]
}

fn table_constraints(view: &CatalogView, rows: &mut Rows<'_>) {
    for relation in keyed(view) {
        let mut row = constraint_cells(relation);
        row.extend([
            ("constraint_type", text("PRIMARY KEY")),
            ("is_deferrable", text("NO")),
            ("initially_deferred", text("NO")),
            ("enforced", text("YES")),
        ]);
        rows.push(row);
    }
}

fn key_columns(view: &CatalogView, rows: &mut Rows<'_>) {
    for relation in keyed(view) {
        for (i, &position) in relation.declared_key().unwrap_or_default().iter().enumerate() {
            let mut row = constraint_cells(relation);
            row.push(("column_name", text(&relation.columns[position].name)));
            if rows.has_column("ordinal_position") {
                row.push(("ordinal_position", int(i as i64 + 1)));
            }
            rows.push(row);
        }
    }
}

fn constraint_tables(view: &CatalogView, rows: &mut Rows<'_>) {
    keyed(view).for_each(|relation| rows.push(constraint_cells(relation)));
}

fn view_tables(view: &CatalogView, rows: &mut Rows<'_>) {
    for relation in view.catalog.relations().filter(|r| matches!(r.kind, Kind::View(_) | Kind::MaterializedView(_))) {
        for table in relation.depends_on.iter().filter_map(|id| view.catalog.get(*id)) {
            rows.push([
                ("view_catalog", text(DATABASE)),
                ("view_schema", text(&relation.schema)),
                ("view_name", text(&relation.name)),
                ("table_catalog", text(DATABASE)),
                ("table_schema", text(&table.schema)),
                ("table_name", text(&table.name)),
            ]);
        }
    }
}

fn element_types(view: &CatalogView, rows: &mut Rows<'_>) {
    for relation in listed(view) {
        for (i, column) in relation.visible_columns().iter().enumerate() {
            let SqlType::Array(element) = &column.sql_type else { continue };
            let oid = i64::from(PgType::of(element).oid);
            rows.push([
                ("object_catalog", text(DATABASE)),
                ("object_schema", text(&relation.schema)),
                ("object_name", text(&relation.name)),
                ("object_type", text("TABLE")),
                ("collection_type_identifier", text((i + 1).to_string())),
                ("data_type", text(types::format_type(oid, None))),
                ("udt_catalog", text(DATABASE)),
                ("udt_schema", text("pg_catalog")),
                ("udt_name", text(types::by_oid(oid).map_or("", |t| t.name))),
            ]);
        }
    }
}

fn table_privileges(view: &CatalogView, rows: &mut Rows<'_>) {
    for relation in listed(view) {
        for privilege in ["INSERT", "SELECT", "UPDATE", "DELETE", "TRUNCATE"] {
            rows.push([
                ("grantor", text(OWNER)),
                ("grantee", text(&view.user)),
                ("table_catalog", text(DATABASE)),
                ("table_schema", text(&relation.schema)),
                ("table_name", text(&relation.name)),
                ("privilege_type", text(privilege)),
                ("is_grantable", text("YES")),
                ("with_hierarchy", yes_or_no(privilege == "SELECT")),
            ]);
        }
    }
}

fn enabled_roles(view: &CatalogView, rows: &mut Rows<'_>) {
    role_names(view).into_iter().for_each(|(_, name)| rows.push([("role_name", text(name))]));
}

fn catalog_name(_: &CatalogView, rows: &mut Rows<'_>) {
    rows.push([("catalog_name", text(DATABASE))]);
}

fn character_sets(_: &CatalogView, rows: &mut Rows<'_>) {
    rows.push([
        ("character_set_name", text("UTF8")),
        ("character_repertoire", text("UCS")),
        ("form_of_use", text("UTF8")),
        ("default_collate_catalog", text(DATABASE)),
        ("default_collate_schema", text("pg_catalog")),
        ("default_collate_name", text("default")),
    ]);
}
