//! What statements write, and what they refuse.

use arrow::array::{Array, ArrayRef};
use millstream_types::SqlState;
use millstream_types::pg::{FormatSettings, format_column};

use super::*;
use crate::ast::Statement;
use crate::binder::tests::catalog;
use crate::parser::parse;

fn insert(sql: &str) -> Result<BoundInsert> {
    let Statement::Insert(insert) = parse(sql)?.remove(0).statement else { panic!("{sql}") };
    bind_insert(&catalog(), &insert, &[], &FormatSettings::default())
}

fn error(sql: &str) -> (SqlState, String) {
    let e = match parse(sql).unwrap().remove(0).statement {
        Statement::Insert(i) => bind_insert(&catalog(), &i, &[], &FormatSettings::default()).map(drop),
        Statement::Update(u) => bind_update(&catalog(), &u, &[]).map(drop),
        Statement::Delete(d) => bind_delete(&catalog(), &d, &[]).map(drop),
        other => panic!("{other:?}"),
    };
    let e = e.expect_err(sql);
    (e.state(), e.message().to_string())
}

#[test]
fn errors_point_at_their_place() {
    let position = |sql: &str| insert(sql).expect_err(sql).fields().position;
    assert_eq!(position("insert into u values (1, 'x', 'y', 4)"), Some(36));
    assert_eq!(position("insert into u (id, name) values (1)"), Some(20));
    assert_eq!(position("insert into u values ('abc', 'x')"), Some(23));
}

#[test]
fn plain_values_never_meet_the_planner() {
    let bound = insert("insert into u values (1, 'Ann', 'NZ'), ('2', 5, null)").unwrap();
    let InsertRows::Batch(batch) = bound.rows else { panic!("constants") };
    let settings = FormatSettings::default();
    let names = format_column(batch.column(1).as_ref(), &SqlType::Text, &settings).unwrap();
    assert_eq!(format!("{names:?}").matches("\"5\"").count(), 1);
    assert_eq!(batch.num_rows(), 2);
    assert!(matches!(insert("insert into u (name, id) values ('x', -1)").unwrap().rows, InsertRows::Batch(_)));
}

#[test]
fn everything_else_is_a_plan_of_the_target_s_types() {
    for sql in [
        "insert into u values (1 + 1, upper('x'), default)",
        "insert into u select k, name from t",
        "insert into u select 3, 'x'",
        "insert into s (user_id, at) values (1.6, now())",
        "insert into t default values",
    ] {
        let bound = insert(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let InsertRows::Plan(plan) = bound.rows else { panic!("{sql}") };
        let types: Vec<_> = plan.schema().fields().iter().map(|f| f.data_type().clone()).collect();
        let wanted: Vec<_> = bound.relation.visible_columns().iter().map(|c| c.sql_type.arrow_type()).collect();
        assert_eq!(types, wanted, "{sql}");
    }
    let params = insert("insert into u (id, name) values ($1 + 1, $2)").unwrap().param_types;
    assert_eq!(params, [SqlType::Integer, SqlType::Text]);
}

#[test]
fn prepared_values_are_a_template() {
    let bound = insert("insert into u (id, name) values ($1, 'x'), (7, $2)").unwrap();
    assert_eq!(bound.param_types, [SqlType::BigInt, SqlType::Text]);
    let InsertRows::Template(template) = bound.rows else { panic!("constants and parameters") };
    let id: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![3]));
    let name: ArrayRef = Arc::new(arrow::array::StringViewArray::from(vec!["y"]));
    let batch = template.rows(&[id, name]).unwrap();
    let text = |i: usize| format!("{:?}", batch.column(i)).replace([' ', '\n'], "");
    assert!(text(0).contains("[3,7,]") && text(1).contains("[\"x\",\"y\",]"), "{} {}", text(0), text(1));
    assert_eq!(batch.column(2).null_count(), 2);
}

#[test]
fn writes_that_are_refused() {
    for (sql, state, message) in [
        ("insert into v values (1)", "55000", "cannot insert into view \"v\""),
        ("insert into u (zz) values (1)", "42703", "column \"zz\" of relation \"u\" does not exist"),
        ("insert into u (id, id) values (1, 2)", "42701", "column \"id\" specified more than once"),
        ("insert into u values (1, 2, 3, 4)", "42601", "INSERT has more expressions than target columns"),
        ("insert into u (id, name) values (1)", "42601", "INSERT has more target columns than expressions"),
        ("insert into u values ('x')", "22P02", "invalid input syntax for type bigint: \"x\""),
        (
            "insert into u select name, name from t",
            "42804",
            "column \"id\" is of type bigint but expression is of type text",
        ),
        (
            "insert into u values (1) on conflict (name) do nothing",
            "42P10",
            "there is no unique or exclusion constraint matching the ON CONFLICT specification",
        ),
        ("update s set url = 'x'", "42809", "cannot update stream \"s\""),
        ("update u set zz = 1", "42703", "column \"zz\" of relation \"u\" does not exist"),
        ("update u set name = 'a', name = 'b'", "42601", "multiple assignments to same column \"name\""),
        ("update u set id = name", "42804", "column \"id\" is of type bigint but expression is of type text"),
        ("delete from v", "55000", "cannot delete from view \"v\""),
        ("delete from nowhere", "42P01", "relation \"nowhere\" does not exist"),
    ] {
        let (got, text) = error(sql);
        assert_eq!((got.0, text.as_str()), (state, message), "{sql}");
    }
}

#[test]
fn updates_give_old_and_new_rows() {
    let Statement::Update(update) =
        parse("update t set a = a + 1, name = '5' from u where t.k = u.id and u.name = 'x' returning k")
            .unwrap()
            .remove(0)
            .statement
    else {
        panic!()
    };
    let bound = bind_update(&catalog(), &update, &[]).unwrap();
    let n = bound.relation.columns.len();
    assert_eq!(bound.plan.schema().fields().len(), 2 * n);
    for (i, column) in bound.relation.columns.iter().enumerate() {
        for at in [i, n + i] {
            assert_eq!(*bound.plan.schema().field(at).data_type(), column.sql_type.arrow_type());
        }
    }
    assert_eq!(bound.set_columns, [1, 3]);
    assert_eq!(bound.returning.unwrap().columns, [("k".to_string(), SqlType::BigInt)]);
    assert_eq!(bound.relations.len(), 2);
}

#[test]
fn conflicts_see_both_rows() {
    let sql = "insert into u as x values (1, 'a') on conflict (id) do update set name = excluded.name || x.name where x.country is null";
    let BoundConflict::Update(update) = insert(sql).unwrap().conflict else { panic!() };
    let names: Vec<_> = update.plan.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["__matches", "new.id", "new.name", "new.country"]);
}

#[test]
fn lengths_and_nulls_are_checked() {
    let mut catalog = catalog();
    let Statement::CreateTable(create) =
        parse("create table c (a varchar(3), b char(3), n int not null default 7)").unwrap().remove(0).statement
    else {
        panic!()
    };
    drop(catalog.create_table(&create).unwrap());
    let rows = |sql: &str| {
        let Statement::Insert(i) = parse(sql).unwrap().remove(0).statement else { panic!() };
        let bound = bind_insert(&catalog, &i, &[], &FormatSettings::default()).unwrap();
        let InsertRows::Batch(batch) = bound.rows else { panic!() };
        check_constraints(&bound.relation, &batch)
    };
    let batch = rows("insert into c values ('ab   ', 'x')").unwrap();
    let text = |i: usize| format!("{:?}", batch.column(i));
    assert!(text(0).contains("\"ab \"") && text(1).contains("\"x\"") && text(2).contains('7'));
    assert_eq!(
        rows("insert into c values ('abcd')").unwrap_err().message(),
        "value too long for type character varying(3)"
    );
    let null = rows("insert into c values ('a', 'b', null)").unwrap_err();
    assert_eq!(null.message(), "null value in column \"n\" of relation \"c\" violates not-null constraint");
    assert_eq!(null.fields().detail.as_deref(), Some("Failing row contains (a, b  , null)."));
}
