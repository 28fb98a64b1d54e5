//! Keys, indexes, what depends on what, and comments.

use millstream_planner::catalog::{Commented, Kind, Relation};

use super::CatalogView;
use super::cell::{Cell, int, text};
use super::objects::{
    Class, DATABASE_OID, class_named, classes, constraint_oid, has_key, key_name, key_numbers, quote_ident, rule_oid,
    schema_oid,
};
use super::relations::columns_of;
use super::tables::{Fill, Rows};

pub(super) const FILLS: &[(&str, Fill)] = &[
    ("pg_catalog.pg_index", pg_index),
    ("pg_catalog.pg_indexes", pg_indexes),
    ("pg_catalog.pg_constraint", pg_constraint),
    ("pg_catalog.pg_depend", pg_depend),
    ("pg_catalog.pg_rewrite", pg_rewrite),
    ("pg_catalog.pg_description", pg_description),
    ("pg_catalog.pg_shdescription", pg_shdescription),
];

/// The relation that an index is over, and the numbers of its columns from 1.
pub(super) fn indexed<'a>(view: &'a CatalogView, class: Class<'a>) -> Option<(&'a Relation, Vec<i64>)> {
    match class {
        Class::Key(relation) => Some((relation, key_numbers(relation))),
        Class::Relation(relation) => match &relation.kind {
            Kind::Index(index) => {
                let over = view.catalog.get(index.relation)?;
                Some((over, index.columns.iter().map(|&i| i as i64 + 1).collect()))
            }
            _ => None,
        },
    }
}

fn pg_index(view: &CatalogView, rows: &mut Rows<'_>) {
    for class in classes(&view.catalog) {
        let Some((over, numbers)) = indexed(view, class) else { continue };
        let is_key = matches!(class, Class::Key(_));
        let none = vec![0; numbers.len()];
        rows.push([
            ("indexrelid", int(class.oid())),
            ("indrelid", int(over.oid)),
            ("indnatts", int(numbers.len() as i64)),
            ("indnkeyatts", int(numbers.len() as i64)),
            ("indisunique", Cell::Bool(is_key)),
            ("indisprimary", Cell::Bool(is_key)),
            ("indimmediate", Cell::Bool(true)),
            ("indisvalid", Cell::Bool(true)),
            ("indisready", Cell::Bool(true)),
            ("indislive", Cell::Bool(true)),
            ("indkey", Cell::Ints(numbers)),
            ("indcollation", Cell::Ints(none.clone())),
            ("indclass", Cell::Ints(none.clone())),
            ("indoption", Cell::Ints(none)),
        ]);
    }
}

/// `CREATE INDEX ...`, as Postgres writes it.
pub(super) fn index_definition(view: &CatalogView, class: Class<'_>) -> Option<String> {
    let (over, _) = indexed(view, class)?;
    let columns: Vec<String> = columns_of(class).map(|c| quote_ident(&c.name)).collect();
    let unique = if matches!(class, Class::Key(_)) { "UNIQUE " } else { "" };
    Some(format!(
        "CREATE {unique}INDEX {} ON {}.{} USING btree ({})",
        quote_ident(&class.name()),
        quote_ident(&over.schema),
        quote_ident(&over.name),
        columns.join(", ")
    ))
}

/// `PRIMARY KEY (a, b)`
pub(super) fn key_definition(relation: &Relation) -> String {
    let key = relation.declared_key().unwrap_or_default();
    let names: Vec<String> = key.iter().map(|&i| quote_ident(&relation.columns[i].name)).collect();
    format!("PRIMARY KEY ({})", names.join(", "))
}

fn pg_indexes(view: &CatalogView, rows: &mut Rows<'_>) {
    for class in classes(&view.catalog) {
        let Some((over, _)) = indexed(view, class) else { continue };
        rows.push([
            ("schemaname", text(&over.schema)),
            ("tablename", text(&over.name)),
            ("indexname", text(class.name())),
            ("indexdef", index_definition(view, class).into()),
        ]);
    }
}

fn pg_constraint(view: &CatalogView, rows: &mut Rows<'_>) {
    for relation in view.catalog.relations().filter(|r| has_key(r)) {
        rows.push([
            ("oid", int(constraint_oid(relation))),
            ("conname", text(key_name(relation))),
            ("connamespace", int(schema_oid(&view.catalog, &relation.schema))),
            ("contype", text("p")),
            ("convalidated", Cell::Bool(true)),
            ("conrelid", int(relation.oid)),
            ("conindid", int(Class::Key(relation).oid())),
            ("confupdtype", text(" ")),
            ("confdeltype", text(" ")),
            ("confmatchtype", text(" ")),
            ("conislocal", Cell::Bool(true)),
            ("connoinherit", Cell::Bool(true)),
            ("conkey", Cell::Ints(key_numbers(relation))),
        ]);
    }
}

/// The identifier of a catalog relation.
fn catalog_oid(view: &CatalogView, name: &str) -> Cell {
    int(class_named(&view.catalog, Some("pg_catalog"), name).map_or(0, Class::oid))
}

/// A view depends on what it reads through its rule; an index directly.
fn pg_depend(view: &CatalogView, rows: &mut Rows<'_>) {
    let (pg_class, pg_rewrite) = (catalog_oid(view, "pg_class"), catalog_oid(view, "pg_rewrite"));
    for relation in view.catalog.relations() {
        let reads = matches!(relation.kind, Kind::View(_) | Kind::MaterializedView(_));
        let (classid, objid) =
            if reads { (&pg_rewrite, rule_oid(relation)) } else { (&pg_class, i64::from(relation.oid)) };
        let on = relation.depends_on.iter().filter_map(|id| view.catalog.get(*id)).map(|r| (r.oid, "n"));
        for (oid, kind) in on.chain(reads.then_some((relation.oid, "i"))) {
            rows.push([
                ("classid", classid.clone()),
                ("objid", int(objid)),
                ("refclassid", pg_class.clone()),
                ("refobjid", int(oid)),
                ("deptype", text(kind)),
            ]);
        }
    }
}

fn pg_rewrite(view: &CatalogView, rows: &mut Rows<'_>) {
    let views = view.catalog.relations().filter(|r| matches!(r.kind, Kind::View(_) | Kind::MaterializedView(_)));
    for relation in views {
        rows.push([
            ("oid", int(rule_oid(relation))),
            ("rulename", text("_RETURN")),
            ("ev_class", int(relation.oid)),
            ("ev_type", text("1")),
            ("ev_enabled", text("O")),
            ("is_instead", Cell::Bool(true)),
        ]);
    }
}

fn pg_description(view: &CatalogView, rows: &mut Rows<'_>) {
    for (about, description) in view.catalog.comments() {
        let (class, oid, number) = match about {
            Commented::Relation(id, number) => {
                let Some(relation) = view.catalog.get(*id) else { continue };
                ("pg_class", i64::from(relation.oid), *number)
            }
            Commented::Schema(schema) => ("pg_namespace", schema_oid(&view.catalog, schema), 0),
            Commented::Database => continue,
        };
        rows.push([
            ("objoid", int(oid)),
            ("classoid", catalog_oid(view, class)),
            ("objsubid", int(number)),
            ("description", text(description)),
        ]);
    }
}

fn pg_shdescription(view: &CatalogView, rows: &mut Rows<'_>) {
    for (_, description) in view.catalog.comments().filter(|(about, _)| **about == Commented::Database) {
        rows.push([
            ("objoid", int(DATABASE_OID)),
            ("classoid", catalog_oid(view, "pg_database")),
            ("description", text(description)),
        ]);
    }
}

/// The comment about a relation or its column; 0 is the relation itself.
pub(super) fn comment(view: &CatalogView, about: &Commented) -> Cell {
    let mut comments = view.catalog.comments();
    comments.find(|(a, _)| *a == about).map(|(_, text)| text.to_owned()).into()
}
