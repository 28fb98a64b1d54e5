//! Which conditions an index serves, and what a point query gives.

use arrow::array::{Array, AsArray, Int64Array, StringViewArray};
use arrow::datatypes::Int64Type;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use millstream_expr::scalar::batch_of;
use millstream_types::SqlType;

use super::*;
use crate::ast::Statement;
use crate::catalog::Catalog;
use crate::parser::parse;
use crate::session_context::Purpose;
use crate::{bind_query, optimize};

/// `p` (a, b primary key, c, x double precision) and `q` (id primary key, name), each with an index.
fn catalog() -> Catalog {
    let mut catalog = Catalog::new();
    for sql in [
        "create table p (a bigint, b text, c int, x double precision, primary key (a, b))",
        "create table q (id bigint primary key, name text)",
        "create index p_c on p (c)",
        "create index p_x on p (x)",
        "create index q_name on q (name)",
    ] {
        match parse(sql).unwrap().remove(0).statement {
            Statement::CreateTable(c) => drop(catalog.create_table(&c).unwrap()),
            Statement::CreateIndex(c) => drop(catalog.create_index(&c).unwrap()),
            other => panic!("{other:?}"),
        }
    }
    catalog
}

fn optimized(sql: &str) -> (LogicalPlan, Vec<SqlType>) {
    let Statement::Query(query) = parse(sql).unwrap().remove(0).statement else { panic!("{sql}") };
    let bound = bind_query(&catalog(), &query, &[], Purpose::AdHoc).unwrap();
    (optimize(bound.plan, Purpose::AdHoc, None).unwrap(), bound.param_types)
}

/// The lookups of a query's scans, as `relation(columns) xkeys`.
fn lookups(sql: &str) -> Vec<String> {
    let mut found = Vec::new();
    optimized(sql)
        .0
        .apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                found.push(match KeyLookup::of_scan(scan).unwrap() {
                    Some(l) => format!("{}{:?} x{}", l.relation.name, l.columns, l.keys[0].len()),
                    None => "all".to_owned(),
                });
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
    found
}

#[test]
fn equalities_on_all_columns_of_a_key_are_looked_up() {
    assert_eq!(lookups("select * from p where a = 1 and b = 'x' and c > 3"), ["p[0, 1] x1"]);
    assert_eq!(lookups("select * from p where 'x' = b and a in (1, 2, 3)"), ["p[0, 1] x3"]);
    assert_eq!(lookups("select * from p where b in ('x', 'y') and (a = 1 or a = 2)"), ["p[0, 1] x4"]);
    assert_eq!(lookups("select name from q where id = 1 + 1"), ["q[0] x1"]);
    assert_eq!(lookups("select sum(c) from p where c = 7"), ["p[2] x1"]);
    assert_eq!(lookups("select * from q join p on q.id = p.a where q.id = 4 and p.c = 1"), ["q[0] x1", "p[2] x1"]);
    assert_eq!(lookups("select * from (select id as i, name from q) s where i = 1"), ["q[0] x1"]);
    assert_eq!(lookups("select * from q where name = 'n'"), ["q[1] x1"]);
}

#[test]
fn what_no_index_serves_reads_everything() {
    assert_eq!(lookups("select * from p where a = 1"), ["all"]);
    assert_eq!(lookups("select * from p where a = 1 or c = 2"), ["all"]);
    assert_eq!(lookups("select * from q where id <> 1"), ["all"]);
    assert_eq!(lookups("select * from q where id not in (1, 2)"), ["all"]);
    // 0 and -0 are equal and lie apart.
    assert_eq!(lookups("select * from p where x = 0"), ["all"]);
    assert_eq!(lookups("select * from q where id = 1.5"), ["all"]);
}

fn point(sql: &str) -> Option<PointQuery> {
    let (plan, param_types) = optimized(sql);
    PointQuery::of(&plan, &param_types).unwrap()
}

#[test]
fn a_filter_and_a_projection_over_keys_is_a_point_query() {
    for sql in [
        "select * from q where id = $1",
        "select name || '!', id + $2 from q where id = $1 and name like 'n%'",
        "select id from q where id in ($1, 5) and name = $2",
        "select name from q where id = 3 order by name limit 1",
        "select * from p where c = $1",
    ] {
        assert!(point(sql).is_some(), "{sql}");
    }
    for sql in [
        "select count(*) from q where id = $1",
        "select now(), name from q where id = 3",
        "select random() from q where id = 3",
        "select * from q where name = 'n' limit 1",
        "select * from p where c = $1 order by a",
        "select name, (select max(c) from p) from q where id = 3",
        "select name from q where id = 3 limit 0",
        "select name from q where id = 3 offset 1",
    ] {
        assert!(point(sql).is_none(), "{sql}");
    }
}

#[test]
fn a_point_query_computes_with_its_parameters() {
    let query = point("select name || $2, id * 10 from q where id in ($1, 5) and name <> $2").unwrap();
    let params: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![7])), Arc::new(StringViewArray::from(vec!["b"]))];
    let lookup = query.lookup(&params).unwrap();
    assert_eq!(lookup.keys[0].as_primitive::<Int64Type>().values(), &[7, 5]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![7, 5, 7, 6])),
        Arc::new(StringViewArray::from(vec![Some("a"), Some("b"), None, Some("c")])),
    ];
    let rows = batch_of(lookup.relation.full_schema(), columns, 4).unwrap();
    let result = query.evaluate(&rows, &params).unwrap();
    assert_eq!(result.num_rows(), 1, "neither another key nor another name");
    assert_eq!(result.column(0).as_string_view().value(0), "ab");
    assert_eq!(result.column(1).as_primitive::<Int64Type>().value(0), 70);
    assert_eq!(query.evaluate(&rows.slice(0, 0), &params).unwrap().num_rows(), 0);
}
