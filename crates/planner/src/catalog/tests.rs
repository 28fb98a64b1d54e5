//! CREATE and DROP against Postgres' rules.

use super::*;
use crate::ast::Statement;
use crate::parser::parse;

fn statement(sql: &str) -> Statement {
    parse(sql).unwrap().remove(0).statement
}

/// Runs DDL; views take one column `a` and depend on the relations listed.
fn run(catalog: &mut Catalog, sql: &str, reads: &[&str]) -> Result<Vec<Notice>> {
    let depends_on: Vec<_> = reads.iter().map(|name| catalog.find(None, name).unwrap().id).collect();
    let column = || vec![Column::new("a", millstream_types::SqlType::Integer)];
    let created = match statement(sql) {
        Statement::CreateTable(c) => catalog.create_table(&c)?,
        Statement::CreateStream(c) => catalog.create_stream(&c, None)?,
        Statement::CreateView(c) => catalog.create_view(&c, RelationKind::View, column(), depends_on)?,
        Statement::CreateMaterializedView(c) => {
            catalog.create_view(&c, RelationKind::MaterializedView, column(), depends_on)?
        }
        Statement::CreateIndex(c) => catalog.create_index(&c)?,
        Statement::Drop(d) => return catalog.drop(&d).map(|d| d.notices),
        other => panic!("{other:?}"),
    };
    Ok(match created {
        Created::Exists(notice) => vec![notice],
        _ => Vec::new(),
    })
}

fn error(catalog: &mut Catalog, sql: &str, reads: &[&str]) -> (SqlState, String) {
    let e = run(catalog, sql, reads).expect_err(sql);
    (e.state(), e.message().to_string())
}

fn catalog() -> Catalog {
    let mut catalog = Catalog::new();
    run(&mut catalog, "create table t (a int, b text)", &[]).unwrap();
    run(&mut catalog, "create table u (id int primary key, a int)", &[]).unwrap();
    run(&mut catalog, "create stream s (a int)", &[]).unwrap();
    run(&mut catalog, "create materialized view m as select a from t", &["t"]).unwrap();
    run(&mut catalog, "create view v as select a from m", &["m"]).unwrap();
    catalog
}

#[test]
fn a_table_without_a_key_gets_a_hidden_one() {
    let catalog = catalog();
    let t = catalog.find(None, "t").unwrap();
    assert_eq!((t.columns.len(), t.visible_columns().len(), t.primary_key.as_slice()), (3, 2, &[2usize][..]));
    assert_eq!(t.declared_key(), None);
    assert!(t.column_index(ROW_ID_COLUMN).is_none());
    let u = catalog.find(Some("public"), "u").unwrap();
    assert_eq!(u.declared_key(), Some(&[0usize][..]));
    assert!(u.columns[0].not_null);
}

#[test]
fn a_clone_is_a_version_of_its_own() {
    let mut catalog = catalog();
    let before = catalog.clone();
    run(&mut catalog, "drop view v", &[]).unwrap();
    assert!(before.find(None, "v").is_some() && catalog.find(None, "v").is_none());
    assert!(catalog.version() > before.version());
}

#[test]
fn create_checks_names_and_columns() {
    let c = &mut catalog();
    for (sql, state, message) in [
        ("create table t (a int)", "42P07", "relation \"t\" already exists"),
        ("create table x (a int, a text)", "42701", "column \"a\" specified more than once"),
        ("create table nope.x (a int)", "3F000", "schema \"nope\" does not exist"),
        ("create table pg_catalog.x (a int)", "42501", "permission denied to create \"pg_catalog.x\""),
        ("create table x (a int, primary key (b))", "42703", "column \"b\" named in key does not exist"),
        ("create table x (a int, primary key (a, a))", "42701", "column \"a\" appears twice in primary key constraint"),
        ("create index i on v (a)", "42809", "cannot create index on view \"v\""),
        ("create index i on t (z)", "42703", "column \"z\" does not exist"),
        ("create table x (a int) on conflict ignore", "42P16", "ON CONFLICT needs a primary key"),
    ] {
        let (got, text) = error(c, sql, &[]);
        assert_eq!((got.0, text.as_str()), (state, message), "{sql}");
    }
    let notices = run(c, "create table if not exists t (z int)", &[]).unwrap();
    assert_eq!(notices[0].message, "relation \"t\" already exists, skipping");
}

#[test]
fn indexes_name_themselves() {
    let c = &mut catalog();
    run(c, "create index on t (b, a)", &[]).unwrap();
    run(c, "create index on t (b, a)", &[]).unwrap();
    assert!(c.find(None, "t_b_a_idx").is_some() && c.find(None, "t_b_a_idx1").is_some());
    let t = c.find(None, "t").unwrap().id;
    assert_eq!(c.indexes_of(t).count(), 2);
}

#[test]
fn views_are_replaced_in_place() {
    let c = &mut catalog();
    let id = c.find(None, "v").unwrap().id;
    run(c, "create or replace view v as select a from u", &["u"]).unwrap();
    let v = c.find(None, "v").unwrap();
    assert_eq!((v.id, v.query_text()), (id, Some("select a from u")));
    assert_eq!(error(c, "create or replace view t as select 1 as a", &[]).1, "\"t\" is not a view");
    let recursion = error(c, "create or replace view v as select a from v", &["v"]);
    assert_eq!(recursion.1, "infinite recursion detected in rules for relation \"v\"");
}

#[test]
fn drop_names_what_is_in_the_way() {
    let c = &mut catalog();
    let e = run(c, "drop table t", &[]).unwrap_err();
    assert_eq!(e.state(), SqlState::DEPENDENT_OBJECTS_STILL_EXIST);
    assert_eq!(e.message(), "cannot drop table t because other objects depend on it");
    let detail = "materialized view m depends on table t\nview v depends on materialized view m";
    assert_eq!(e.fields().detail.as_deref(), Some(detail));
    let notices = run(c, "drop table t cascade", &[]).unwrap();
    assert_eq!(notices[0].message, "drop cascades to 2 other objects");
    assert!(c.find(None, "m").is_none() && c.find(None, "v").is_none());
}

#[test]
fn drop_takes_indexes_along() {
    let c = &mut catalog();
    run(c, "create index i on u (a)", &[]).unwrap();
    let dropped = match statement("drop table u") {
        Statement::Drop(d) => c.drop(&d).unwrap(),
        _ => panic!(),
    };
    let names: Vec<_> = dropped.relations.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["i", "u"]);
    assert!(dropped.notices.is_empty());
}

#[test]
fn drop_wants_the_right_kind() {
    let c = &mut catalog();
    let e = run(c, "drop table v", &[]).unwrap_err();
    assert_eq!((e.state(), e.message()), (SqlState::WRONG_OBJECT_TYPE, "\"v\" is not a table"));
    assert_eq!(e.fields().hint.as_deref(), Some("Use DROP VIEW to remove a view."));
    assert_eq!(error(c, "drop table x", &[]), (SqlState::UNDEFINED_TABLE, "table \"x\" does not exist".into()));
    assert_eq!(error(c, "drop index x", &[]), (SqlState::UNDEFINED_OBJECT, "index \"x\" does not exist".into()));
    let notices = run(c, "drop view if exists x, v", &[]).unwrap();
    assert_eq!(notices[0].message, "view \"x\" does not exist, skipping");
    assert!(c.find(None, "v").is_none());
}
