//! Names, types, errors and plans of queries. What Postgres says was checked against Postgres 15.

use millstream_types::SqlState;

use super::*;
use crate::ast::Statement;
use crate::parser::parse;

/// Tables `t` (k, a, b, name, price, at), `u` (id primary key, name), a stream `s` (user_id, url, at), views over them.
pub(crate) fn catalog() -> Catalog {
    let mut catalog = Catalog::new();
    for sql in [
        "create table t (k bigint, a int, b smallint, name text, price numeric(10,2), x double precision, \
         r real, at timestamptz, ts timestamp, d date, tod time, i interval, ok boolean, tags text[], n numeric)",
        "create table u (id bigint primary key, name text, country text)",
        "create stream s (user_id bigint, url text, at timestamptz)",
        "create view v as select k, count(*), sum(a) as total from t group by k",
    ] {
        create(&mut catalog, sql);
    }
    catalog
}

fn create(catalog: &mut Catalog, sql: &str) {
    match parse(sql).unwrap().remove(0).statement {
        Statement::CreateTable(c) => drop(catalog.create_table(&c).unwrap()),
        Statement::CreateStream(c) => drop(catalog.create_stream(&c, None).unwrap()),
        Statement::CreateView(c) => {
            let bound = bind_query(catalog, &c.query, &[], Purpose::AdHoc).unwrap();
            let columns = bound.columns.iter().map(|(n, t)| crate::catalog::Column::new(n, t.clone())).collect();
            let kind = crate::ast::RelationKind::View;
            drop(catalog.create_view(&c, kind, columns, bound.relations).unwrap());
        }
        other => panic!("{other:?}"),
    }
}

fn bind_sql(sql: &str, purpose: Purpose) -> Result<BoundQuery> {
    let Statement::Query(query) = parse(sql)?.remove(0).statement else { panic!("{sql}") };
    bind_query(&catalog(), &query, &[], purpose)
}

fn columns(sql: &str) -> String {
    let bound = bind_sql(sql, Purpose::AdHoc).unwrap_or_else(|e| panic!("{sql}: {e}"));
    for ((_, sql_type), field) in bound.columns.iter().zip(bound.plan.schema().fields()) {
        assert_eq!(sql_type.arrow_type(), *field.data_type(), "{sql}");
    }
    bound.columns.iter().map(|(name, sql_type)| format!("{name} {sql_type}")).collect::<Vec<_>>().join(", ")
}

fn error(sql: &str) -> (SqlState, String) {
    let e = bind_sql(sql, Purpose::AdHoc).and_then(|b| optimize(b.plan, Purpose::AdHoc, None)).expect_err(sql);
    (e.state(), e.message().to_string())
}

/// The value of a constant expression, as a client sees it.
fn value(sql: &str) -> String {
    let query = format!("select ({sql})::text");
    let result = bind_sql(&query, Purpose::AdHoc).and_then(|b| optimize(b.plan, Purpose::AdHoc, Some(0)));
    let plan = match result {
        Ok(plan) => plan,
        Err(e) => return format!("ERROR {} {}", e.state().0, e.message()),
    };
    let expr = plan.expressions().remove(0).unalias_nested().data;
    match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten().unwrap_or("NULL").to_string(),
        // An expression that fails stays as it is until it is executed.
        other => {
            let empty = datafusion::common::DFSchema::empty();
            let props = datafusion::logical_expr::execution_props::ExecutionProps::new();
            let batch = arrow::array::RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty()));
            let result = datafusion::physical_expr::create_physical_expr(&other, &empty, &props, &Default::default())
                .and_then(|e| e.evaluate(&batch));
            match result.map_err(from_datafusion) {
                Ok(_) => format!("not folded: {other}"),
                Err(e) => format!("ERROR {} {}", e.state().0, e.message()),
            }
        }
    }
}

/// What Postgres 15 says, from a file of `expression => value` lines.
#[test]
fn constants_have_postgres_values() {
    let mut wrong = 0;
    for line in include_str!("constants.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (sql, expected) = line.split_once(" => ").unwrap();
        let got = std::panic::catch_unwind(|| value(sql)).unwrap_or_else(|_| "panic".into());
        if got != expected {
            println!("{sql}\n  got      {got}\n  expected {expected}");
            wrong += 1;
        }
    }
    assert_eq!(wrong, 0);
}

fn optimized(sql: &str, purpose: Purpose) -> String {
    let bound = bind_sql(sql, purpose).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let plan = optimize(bound.plan, purpose, None).unwrap_or_else(|e| panic!("{sql}: {e}"));
    format!("{}", plan.display_indent())
}

#[test]
fn output_columns_have_postgres_names_and_types() {
    let mut wrong = 0;
    for (sql, expected) in [
        (
            "select 1, 'x', 1.5, true, null, 10000000000",
            "?column? integer, ?column? text, ?column? numeric(2,1), bool boolean, ?column? text, ?column? bigint",
        ),
        (
            "select count(*), sum(a), sum(k), avg(a), avg(x), max(name), min(at) from t",
            "count bigint, sum bigint, sum numeric(38,0), avg numeric, avg double precision, max text, min timestamp with time zone",
        ),
        ("select k, k from t", "k bigint, k bigint"),
        ("select *, user_id from s", "user_id bigint, url text, at timestamp with time zone, user_id bigint"),
        (
            "select case when ok then 1 else 2.5 end, coalesce(a, 0), nullif(name, '') from t",
            "case numeric(11,1), coalesce integer, nullif text",
        ),
        (
            "select a + 1, a + k, a / 2, b * b, a * 1.5, x + a, r + r, r + 1 from t",
            "?column? integer, ?column? bigint, ?column? integer, ?column? smallint, ?column? numeric(13,1), ?column? double precision, ?column? real, ?column? double precision",
        ),
        (
            "select price + 1, price * price, price / 3, n * n, n + price from t",
            "?column? numeric(13,2), ?column? numeric(21,4), ?column? numeric, ?column? numeric, ?column? numeric",
        ),
        (
            "select d + 1, d - d, at - at, ts + i, d + i, i * 2, tod + i, ts - '2024-01-01' from t",
            "?column? date, ?column? integer, ?column? interval, ?column? timestamp without time zone, ?column? timestamp without time zone, ?column? interval, ?column? time without time zone, ?column? interval",
        ),
        (
            "select '5'::int, a::text, '2024-01-01'::date, now(), name::varchar(3), current_date from t",
            "int4 integer, a text, date date, now timestamp with time zone, name text, current_date date",
        ),
        (
            "select extract(year from at), extract(epoch from at), date_part('hour', ts), date_trunc('day', at), date_trunc('day', ts) from t",
            "extract numeric(38,0), extract numeric(38,6), date_part double precision, date_trunc timestamp with time zone, date_trunc timestamp without time zone",
        ),
        (
            "select name || 'x', name || a, length(name), upper(name), substring(name from 1 for 2), position('a' in name) from t",
            "?column? text, ?column? text, length integer, upper text, substring text, position integer",
        ),
        ("select array[1,2], tags[1], tags || 'x'::text from t", "array integer[], tags text, ?column? text[]"),
        (
            "select row_number() over (order by k), rank() over (order by k), sum(a) over (), lag(a) over (order by k), avg(a) over () from t",
            "row_number bigint, rank bigint, sum bigint, lag integer, avg numeric",
        ),
        (
            "select round(price), round(price, 1), round(x), abs(a), ceil(price), floor(x), greatest(a, k), mod(a, 2) from t",
            "round numeric(38,0), round numeric(38,1), round double precision, abs integer, ceil numeric(38,0), floor double precision, greatest bigint, mod integer",
        ),
        (
            "select string_agg(name, ','), bool_and(ok), count(distinct a) from t",
            "string_agg text, bool_and boolean, count bigint",
        ),
        ("select a from t union all select 1.5", "a numeric(11,1)"),
        ("select 1 as x union all select 2", "x integer"),
        ("values (1, 'a'), (2.5, null)", "column1 numeric(21,1), column2 text"),
        (
            "select exists (select 1), (select max(a) from t), array(select a from t)",
            "exists boolean, max integer, array integer[]",
        ),
        ("select * from v", "k bigint, count bigint, total bigint"),
        (
            "select -a, +a, -price, not ok, a is null, a between 1 and 2 from t",
            "?column? integer, ?column? integer, ?column? numeric(10,2), ?column? boolean, ?column? boolean, ?column? boolean",
        ),
        (
            "select to_char(at, 'YYYY'), at at time zone 'UTC', interval '1 day', timestamp '2024-01-01' from t",
            "to_char text, timezone timestamp without time zone, interval interval, timestamp timestamp without time zone",
        ),
        ("select * from generate_series(1, 3) g", "g integer"),
        ("select a, k from t order by name limit 3", "a integer, k bigint"),
        ("select s.k, s.k from (select k, k from t) s(k, j)", "k bigint, k bigint"),
        (
            "select t.k, u.name from t left join u on u.id = t.k where t.a = '5' and t.at > '2024-01-01' and u.country in ('NZ', 'AU')",
            "k bigint, name text",
        ),
    ] {
        let got = std::panic::catch_unwind(|| columns(sql)).unwrap_or_else(|_| "panic".into());
        if got != expected {
            println!("{sql}\n  got      {got}\n  expected {expected}");
            wrong += 1;
        }
    }
    assert_eq!(wrong, 0);
}

#[test]
fn errors_are_postgres() {
    let mut wrong = 0;
    for (sql, state, message) in [
        ("select * from nowhere", SqlState::UNDEFINED_TABLE, "relation \"nowhere\" does not exist"),
        ("select * from x.t", SqlState::UNDEFINED_TABLE, "relation \"x.t\" does not exist"),
        ("select z from t", SqlState::UNDEFINED_COLUMN, "column \"z\" does not exist"),
        ("select t.z from t", SqlState::UNDEFINED_COLUMN, "column t.z does not exist"),
        ("select q.z from t", SqlState::UNDEFINED_TABLE, "missing FROM-clause entry for table \"q\""),
        ("select name from t, u", SqlState::AMBIGUOUS_COLUMN, "column reference \"name\" is ambiguous"),
        (
            "select a, count(*) from t",
            SqlState::GROUPING_ERROR,
            "column \"t.a\" must appear in the GROUP BY clause or be used in an aggregate function",
        ),
        ("select foo(a, name) from t", SqlState::UNDEFINED_FUNCTION, "function foo(integer, text) does not exist"),
        ("select name + a from t", SqlState::UNDEFINED_FUNCTION, "operator does not exist: text + integer"),
        ("select name = a from t", SqlState::UNDEFINED_FUNCTION, "operator does not exist: text = integer"),
        (
            "select a from t where a",
            SqlState::DATATYPE_MISMATCH,
            "argument of WHERE must be type boolean, not type integer",
        ),
        (
            "select case when ok then 1 else d end from t",
            SqlState::DATATYPE_MISMATCH,
            "CASE types integer and date cannot be matched",
        ),
        ("select 'x'::int", SqlState::INVALID_TEXT_REPRESENTATION, "invalid input syntax for type integer: \"x\""),
        (
            "select a = 'x' from t",
            SqlState::INVALID_TEXT_REPRESENTATION,
            "invalid input syntax for type integer: \"x\"",
        ),
        ("select d::int from t", SqlState::CANNOT_COERCE, "cannot cast type date to integer"),
        ("select upper(a) from t", SqlState::UNDEFINED_FUNCTION, "function upper(integer) does not exist"),
        ("select sum(name) from t", SqlState::UNDEFINED_FUNCTION, "function sum(text) does not exist"),
        ("select 1::foo", SqlState::UNDEFINED_OBJECT, "type \"foo\" does not exist"),
    ] {
        let got = std::panic::catch_unwind(|| error(sql)).unwrap_or((SqlState("?"), "panic".into()));
        if got != (state, message.to_string()) {
            println!("{sql}\n  {got:?}");
            wrong += 1;
        }
    }
    assert_eq!(wrong, 0);
}

#[test]
fn errors_point_at_their_place() {
    let position = |sql: &str| bind_sql(sql, Purpose::AdHoc).expect_err(sql).fields().position;
    assert_eq!(position("select a, zz from t"), Some(11));
    assert_eq!(position("select a from t where zz = 1"), Some(23));
    assert_eq!(position("select a from nowhere"), Some(15));
    assert_eq!(position("select foo(a) from t"), Some(8));
    assert_eq!(position("select 'abc'::int"), Some(8));
    assert_eq!(position("select a from t where ts > 'never'"), Some(28));
    assert_eq!(position("select a from t where a"), Some(23));
    assert_eq!(position("select a from t where name = 1"), Some(28));
    assert_eq!(position("select name + 1 from t"), Some(13));
    assert_eq!(position("select a from t order by 5"), Some(26));
    assert_eq!(position("select distinct a from t order by name"), Some(35));
    assert_eq!(position("select distinct on (a) a, name from t order by name"), Some(21));
    // Which of the two is meant, the message does not say.
    assert_eq!(position("select a from t where name = 1 or name = 2"), None);
}

#[test]
fn views_keep_out_what_changes_by_itself() {
    for sql in [
        "select random()",
        "select now()",
        "select a from t where at > now() - interval '1 day'",
        "select current_date",
    ] {
        let error = bind_sql(sql, Purpose::View).expect_err(sql);
        assert_eq!(error.state(), SqlState::FEATURE_NOT_SUPPORTED, "{sql}");
        assert!(error.fields().hint.is_some(), "{sql}");
    }
}

/// Columns anywhere in a plan whose types flow nowhere in the engine; two that aggregates give are known, and cast above
/// them.
fn odd_columns(plan: &LogicalPlan) -> Vec<String> {
    use datafusion::common::tree_node::TreeNodeRecursion;
    let mut odd = Vec::new();
    plan.apply_with_subqueries(|node| {
        for field in node.schema().fields() {
            let known = field.name() == "__grouping_id" || field.name().starts_with("string_agg");
            if crate::typing::types::canonical(field.data_type()) != *field.data_type() && !known {
                odd.push(format!("{} {} in {}", field.name(), field.data_type(), node.display()));
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .unwrap();
    odd
}

#[test]
fn queries_of_every_kind_are_planned() {
    let mut wrong = 0;
    for sql in include_str!("queries.sql").split(";\n").map(str::trim).filter(|q| !q.is_empty()) {
        for purpose in [Purpose::AdHoc, Purpose::View] {
            let result = std::panic::catch_unwind(|| {
                let plan = bind_sql(sql, purpose).and_then(|b| optimize(b.plan, purpose, None))?;
                assert_eq!(odd_columns(&plan), Vec::<String>::new(), "{sql}");
                Ok::<_, Error>(plan)
            });
            let error = match result {
                Ok(Ok(_)) => continue,
                Ok(Err(e)) => e.to_string(),
                Err(_) => "panic".to_string(),
            };
            println!("{sql}\n  {purpose:?}: {error}");
            wrong += 1;
        }
    }
    assert_eq!(wrong, 0);
}

#[test]
fn what_cannot_be_decorrelated_is_said_so() {
    let sql = "select u.id, (select count(*) from t full join s on t.k = s.user_id and t.a = u.id) from u";
    assert_eq!(error(sql).0, SqlState::FEATURE_NOT_SUPPORTED, "{sql}");
}

/// Optimized plans, as `-- purpose` and a query, then the plan. `UPDATE_GOLDENS=1` writes the file anew.
#[test]
fn optimized_plans_are_as_recorded() {
    let recorded = include_str!("plans.txt");
    let mut out = String::new();
    for block in recorded.split("-- ").filter(|b| !b.trim().is_empty()) {
        let (purpose, rest) = block.split_once('\n').unwrap();
        let (sql, _) = rest.split_once(";\n").unwrap();
        let parsed = if purpose == "view" { Purpose::View } else { Purpose::AdHoc };
        out.push_str(&format!("-- {purpose}\n{sql};\n{}\n\n", optimized(sql, parsed)));
    }
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/binder/plans.txt");
        std::fs::write(path, out.trim_end().to_string() + "\n").unwrap();
        return;
    }
    assert_eq!(out.trim_end(), recorded.trim_end());
}
