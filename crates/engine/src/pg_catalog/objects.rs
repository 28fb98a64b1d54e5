//! The identifiers of what the catalog has: schemas, relations, the indexes behind primary keys, constraints.

use std::sync::Arc;

use millstream_planner::Catalog;
use millstream_planner::catalog::{Kind, Relation};

use super::tables;

/// The owner of everything.
pub(super) const OWNER_OID: i64 = 10;
/// The owner's name.
pub(super) const OWNER: &str = "millstream";
/// The role of a session's user, if it is not the owner.
pub(super) const USER_OID: i64 = 16_383;
/// The one database.
pub(super) const DATABASE_OID: i64 = 5;
/// The schema `pg_catalog`.
pub(super) const PG_CATALOG_OID: i64 = 11;
/// Collation `default`.
pub(super) const DEFAULT_COLLATION_OID: i64 = 100;
/// Access method `heap`.
pub(super) const HEAP_OID: i64 = 2;
/// Access method `btree`.
pub(super) const BTREE_OID: i64 = 403;
/// Access methods that Postgres has not.
pub(super) const STREAM_AM_OID: i64 = 16_001;
pub(super) const SINK_AM_OID: i64 = 16_002;
/// Identifiers of what belongs to a relation are the relation's with a bit set.
const KEY_BIT: i64 = 1 << 30;
const CONSTRAINT_BIT: i64 = 1 << 29;
const RULE_BIT: i64 = 1 << 28;

/// What `pg_class` has a row for.
#[derive(Clone, Copy)]
pub(super) enum Class<'a> {
    Relation(&'a Arc<Relation>),
    /// The index behind a table's primary key.
    Key(&'a Arc<Relation>),
}

/// Everything in `pg_class`.
pub(super) fn classes(catalog: &Catalog) -> impl Iterator<Item = Class<'_>> {
    catalog.relations().flat_map(|relation| {
        let key = has_key(relation).then_some(Class::Key(relation));
        std::iter::once(Class::Relation(relation)).chain(key)
    })
}

/// The class with an identifier.
pub(super) fn class_of(catalog: &Catalog, oid: i64) -> Option<Class<'_>> {
    classes(catalog).find(|class| class.oid() == oid)
}

/// The class of a name; an unqualified one is looked for along the search path.
pub(super) fn class_named<'a>(catalog: &'a Catalog, schema: Option<&str>, name: &str) -> Option<Class<'a>> {
    if let Some(relation) = catalog.find(schema, name) {
        return Some(Class::Relation(relation));
    }
    let table = catalog.find(schema, name.strip_suffix("_pkey")?)?;
    has_key(table).then_some(Class::Key(table))
}

/// Whether a relation has a primary key that its user knows of.
pub(super) fn has_key(relation: &Relation) -> bool {
    relation.kind == Kind::Table && relation.declared_key().is_some()
}

pub(super) fn constraint_oid(relation: &Relation) -> i64 {
    i64::from(relation.oid) | CONSTRAINT_BIT
}

/// The constraint's table, if there is such a constraint.
pub(super) fn constraint_of(catalog: &Catalog, oid: i64) -> Option<&Arc<Relation>> {
    catalog.relations().find(|r| has_key(r) && constraint_oid(r) == oid)
}

pub(super) fn rule_oid(relation: &Relation) -> i64 {
    i64::from(relation.oid) | RULE_BIT
}

pub(super) fn key_name(relation: &Relation) -> String {
    format!("{}_pkey", relation.name)
}

/// The numbers of a key's columns, from 1.
pub(super) fn key_numbers(relation: &Relation) -> Vec<i64> {
    relation.declared_key().unwrap_or_default().iter().map(|&i| i as i64 + 1).collect()
}

impl<'a> Class<'a> {
    pub(super) fn relation(self) -> &'a Arc<Relation> {
        match self {
            Class::Relation(relation) | Class::Key(relation) => relation,
        }
    }

    pub(super) fn oid(self) -> i64 {
        match self {
            Class::Relation(relation) => i64::from(relation.oid),
            Class::Key(relation) => i64::from(relation.oid) | KEY_BIT,
        }
    }

    pub(super) fn name(self) -> String {
        match self {
            Class::Relation(relation) => relation.name.clone(),
            Class::Key(relation) => key_name(relation),
        }
    }

    pub(super) fn relkind(self) -> &'static str {
        match self {
            Class::Key(_) => "i",
            Class::Relation(relation) => match &relation.kind {
                Kind::Stream | Kind::Table => "r",
                Kind::View(_) => "v",
                Kind::MaterializedView(_) => "m",
                Kind::Index(_) | Kind::Arrangement(_) => "i",
                Kind::Sink(_) => "f",
                Kind::System => match tables::find(&relation.schema, &relation.name) {
                    Some(table) if table.relkind == "r" => "r",
                    _ => "v",
                },
            },
        }
    }
}

/// The identifier of a schema.
pub(super) fn schema_oid(catalog: &Catalog, schema: &str) -> i64 {
    match schema {
        "pg_catalog" => PG_CATALOG_OID,
        "public" => 2200,
        "information_schema" => 13_000,
        "millstream" => 13_001,
        other => 13_002 + catalog.schemas().position(|s| s == other).map_or(0, |i| i as i64),
    }
}

/// Whether a relation is found without its schema.
pub(super) fn is_visible(catalog: &Catalog, class: Class<'_>) -> bool {
    let found = class_named(catalog, None, &class.name());
    found.is_some_and(|found| found.oid() == class.oid())
}

/// An identifier as it must be written in SQL.
pub(super) fn quote_ident(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain && !is_reserved(name) { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Postgres' keywords that are no names everywhere unless quoted, a line each, in alphabetical order.
const KEYWORDS: &str = include_str!("keywords.txt");

fn is_reserved(name: &str) -> bool {
    KEYWORDS.lines().any(|word| word == name)
}

/// A class' name as `regclass` prints it: with its schema unless it is found without.
pub(super) fn shown_name(catalog: &Catalog, class: Class<'_>) -> String {
    let name = quote_ident(&class.name());
    if is_visible(catalog, class) { name } else { format!("{}.{name}", quote_ident(&class.relation().schema)) }
}

/// Splits a possibly qualified name as it is written in SQL, folding what is not quoted.
pub(super) fn split_name(text: &str) -> (Option<String>, String) {
    let mut parts = vec![String::new()];
    let mut chars = text.trim().chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        let last = parts.len() - 1;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                parts[last].push('"');
            }
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            c if quoted => parts[last].push(c),
            c => parts[last].extend(c.to_lowercase()),
        }
    }
    let name = parts.pop().unwrap_or_default();
    (parts.pop(), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_and_quoted_as_in_sql() {
        assert_eq!(split_name("Public.T"), (Some("public".to_owned()), "t".to_owned()));
        assert_eq!(split_name("\"a.\"\"b\".c"), (Some("a.\"b".to_owned()), "c".to_owned()));
        assert_eq!(quote_ident("a_1"), "a_1");
        assert_eq!(quote_ident("User"), "\"User\"");
        assert_eq!(quote_ident("user"), "\"user\"");
        assert_eq!(quote_ident("a\"b"), "\"a\"\"b\"");
    }
}
