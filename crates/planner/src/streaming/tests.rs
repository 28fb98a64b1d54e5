//! Which dataflow a query becomes: one text for each rule, as `EXPLAIN` prints it.

use std::sync::Arc;

use crate::ast::{RelationKind, Statement};
use crate::catalog::{Catalog, Column, Created, JoinSide, Relation, plan_of};
use crate::parser::parse;
use crate::session_context::Purpose;
use crate::streaming::StreamingPlan;
use crate::{bind_query, optimize};

/// Tables `t` with a key and `u` without, streams `s` and `r`, and a view `m` over groups of `s`.
fn catalog() -> Catalog {
    let mut catalog = Catalog::new();
    for sql in [
        "create table t (id bigint primary key, k bigint, v bigint)",
        "create table u (k bigint, name text)",
        "create stream s (k bigint, v bigint, at timestamp)",
        "create stream r (k bigint, w bigint)",
        "create materialized view m as select k, count(*) as n from s group by k",
    ] {
        match parse(sql).unwrap().remove(0).statement {
            Statement::CreateTable(c) => drop(catalog.create_table(&c).unwrap()),
            Statement::CreateStream(c) => drop(catalog.create_stream(&c, None).unwrap()),
            Statement::CreateMaterializedView(c) => drop(view(&mut catalog, &c, &[])),
            other => panic!("{other:?}"),
        }
    }
    catalog
}

/// Makes a view, as the engine does.
fn view(catalog: &mut Catalog, create: &crate::ast::CreateView, arrangements: &[Arc<Relation>]) -> StreamingPlan {
    let bound = bind_query(catalog, &create.query, &[], Purpose::View).unwrap();
    let columns: Vec<Column> = bound.columns.iter().map(|(n, t)| Column::new(n, t.clone())).collect();
    let plan = super::plan(&optimize(bound.plan, Purpose::View, None).unwrap(), &bound.columns, arrangements).unwrap();
    let created = catalog.create_view(create, RelationKind::MaterializedView, columns, bound.relations).unwrap();
    let Created::New(relation) = created else { panic!("it is there") };
    catalog.set_plan(relation.id, &plan);
    plan
}

fn planned(catalog: &Catalog, sql: &str, arrangements: &[Arc<Relation>]) -> StreamingPlan {
    let Statement::Query(query) = parse(sql).unwrap().remove(0).statement else { panic!("{sql}") };
    let bound = bind_query(catalog, &query, &[], Purpose::View).unwrap();
    super::plan(&optimize(bound.plan, Purpose::View, None).unwrap(), &bound.columns, arrangements).unwrap()
}

#[track_caller]
fn assert_plan(sql: &str, expected: &str) {
    let lines = planned(&catalog(), sql, &[]).dataflow.explain().join("\n");
    assert_eq!(lines.trim(), expected.trim(), "{sql}\n{lines}");
}

#[test]
fn filters_and_projections_fuse_and_compute_once() {
    assert_plan(
        "select id, v + 1 as a from t where k > 2 and v is not null",
        "
Map where k@1 > 2 AND v@2 IS NOT NULL (id, add(v@2, 1) as a) | changes, key (id)
  Import t (id, k, v) | changes, key (id)
",
    );
    assert_plan(
        "select k + 1 as a, (k + 1) * 2 as b from (select k from s where v > 3) x where k < 9",
        "
Map where v@1 > 3 AND k@0 < 9 (k) (add(k@0, 1) as __common_expr_1) (__common_expr_1@0 as a, multiply(__common_expr_1@0, 2) as b) | append-only
  Import s (k, v) | append-only
",
    );
}

#[test]
fn few_groups_are_reduced_before_the_exchange() {
    assert_plan(
        "select k, count(*) as n, sum(v) as v from s group by k",
        "
Aggregate by (k) [count(*), sum(#1)] append-only | changes, key (k) | keeps a group for each key
  PartialAggregate by (k) [count(*), sum(#1)] append-only [by k]
    Import s (k, v) | append-only
",
    );
    assert_plan(
        "select count(*) as n from s",
        "
Aggregate by () [count(*)] append-only | changes, one row | keeps one group
  PartialAggregate by () [count(*)] append-only [to one worker]
    Import s () | append-only
",
    );
    assert_plan(
        "select v % 5 as g, max(v) as m from t group by v % 5",
        "
Aggregate by (%(t.v,Int64(5))) [max(#1)] | changes, key (%(t.v,Int64(5))) | keeps a group for each key
  Map (modulo(v@0, 5) as %(t.v,Int64(5)), v@0 as t.v) [by %(t.v,Int64(5))] | changes
    Import t (v) | changes
",
    );
}

#[test]
fn distinct_values_are_reduced_where_they_come_and_counted_where_their_group_is() {
    assert_plan(
        "select k, count(distinct v) as n, count(distinct v) filter (where v > 1) as p from s group by k",
        "
Aggregate by (k) [count(distinct #1), count(distinct #1) filter #2] append-only | changes, key (k) | keeps a group for each key
  PartialAggregate by (s.k) [] append-only [by s.k]
    Map (k@0 as s.k, v@1 as s.v, v@1 > 1 as s.v > Int64(1)) | append-only
      Import s (k, v) | append-only
  DistinctPartial by (s.k) [count(distinct #1), count(distinct #1) filter #2] append-only [by s.k] | keeps the values of each group
    DistinctReduce by (s.k) [count(distinct #1), count(distinct #1) filter #2] append-only [by s.k, s.v]
      Map (k@0 as s.k, v@1 as s.v, v@1 > 1 as s.v > Int64(1)) | append-only
        Import s (k, v) | append-only
",
    );
}

#[test]
fn rows_that_are_where_they_should_be_stay() {
    assert_plan(
        "select k, n + 1 as n from m where n > 1",
        "
Map where n@1 > 1 (k, add(n@1, 1) as n) | changes, key (k)
  Import m (k, n) | changes, key (k)
",
    );
    assert_plan(
        "select n, count(*) as c from m group by n",
        "
Aggregate by (n) [count(*)] | changes, key (n) | keeps a group for each key
  PartialAggregate by (n) [count(*)] [by n]
    Import m (n) | changes
",
    );
    assert_plan(
        "select k, sum(n) as n from m group by k",
        "
Aggregate by (k) [sum(#1)] | changes, key (k) | keeps a group for each key
  Import m (k, n) | changes, key (k)
",
    );
}

#[test]
fn a_join_reads_what_is_arranged_by_its_key() {
    assert_plan(
        "select s.k, t.v from s join t on t.id = s.k",
        "
HashJoin inner on k = id left append-only right shared | changes | keeps the rows of the left side
  Import s (k) [by k] | append-only
  Import t (id, v) changes only | changes, key (id)
",
    );
    assert_plan(
        "select s.k, m.n from s join m on m.k = s.k",
        "
HashJoin inner on k = k left append-only right shared | changes | keeps the rows of the left side
  Import s (k) [by k] | append-only
  Import m (k, n) changes only | changes, key (k)
",
    );
}

#[test]
fn a_join_without_that_keeps_its_sides() {
    assert_plan(
        "select s.k, r.w from s join r on r.k = s.k where s.v > 1",
        "
HashJoin inner on k = k left append-only right append-only | append-only | keeps the rows of both sides
  Map where v@1 > 1 (k) [by k] | append-only
    Import s (k, v) | append-only
  Import r (k, w) [by k] | append-only
",
    );
    assert_plan(
        "select s.k, r.w from s left join r on r.k = s.k and r.w < s.v",
        "
HashJoin left on k = k where w@1 < v@0 left append-only right append-only | changes | keeps the rows of both sides
  Import s (k, v) [by k] | append-only
  Import r (k, w) [by k] | append-only
",
    );
    assert_plan(
        "select s.k from s, r where s.v < r.w",
        "
NestedLoopJoin inner on  where v@0 < w@1 left append-only right append-only | append-only | keeps the rows of both sides
  Import s (k, v) [to one worker] | append-only
  Import r (w) [to one worker] | append-only
",
    );
}

#[test]
fn what_only_comes_stays_while_its_partner_does() {
    assert_plan(
        "select k from s where exists (select 1 from r where r.k = s.k)",
        "
HashJoin left semi on k = k left append-only right append-only | append-only | keeps the rows of both sides
  Import s (k) [by k] | append-only
  Import r (k) [by k] | append-only
",
    );
}

#[test]
fn distinct_rows_are_groups() {
    assert_plan(
        "select distinct k from s",
        "
Aggregate by (k) [] append-only | append-only, key (k) | keeps a group for each key
  PartialAggregate by (k) [] append-only [by k]
    Import s (k) | append-only
",
    );
    assert_plan(
        "select distinct k from t",
        "
Aggregate by (k) [] | changes, key (k) | keeps a group for each key
  PartialAggregate by (k) [] [by k]
    Import t (k) | changes
",
    );
}

#[test]
fn the_first_rows_are_all_that_is_kept_of_what_only_comes() {
    assert_plan(
        "select k, v from s order by v desc limit 3",
        "
TopN order by (v desc) limit 3 append-only | changes | keeps 3 rows
  Import s (k, v) [to one worker] | append-only
",
    );
    assert_plan(
        "select id, v from t order by v desc limit 3 offset 1",
        "
TopN order by (v desc) limit 3 offset 1 | changes, key (id) | keeps all rows
  Import t (id, v) [to one worker] | changes, key (id)
",
    );
    assert_plan(
        "select k, v from (select k, v, row_number() over (partition by k order by v) as n from s) x where n <= 2",
        "
Map where row_number() PARTITION BY [s.k] ORDER BY [s.v ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW@2 <= 2 (k, v) | changes
  TopN partition by (k) order by (v) limit 2 append-only | changes, key (k, row_number() PARTITION BY [s.k] ORDER BY [s.v ASC NULLS LAST] RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) | keeps 2 rows of each partition
    Import s (k, v) [by k] | append-only
",
    );
}

#[test]
fn windows_keep_their_partitions() {
    assert_plan(
        "select id, sum(v) over (partition by k order by id) as n from t",
        "
Map | changes, key (id)
  Map (c0@0 as id, c1@1 as k, c2@2 as v, c3@3 as sum(t.v) PARTITION BY [t.k] ORDER BY [t.id ASC NULLS LAST] ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) (id, sum(t.v) PARTITION BY [t.k] ORDER BY [t.id ASC NULLS LAST] ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW@3 as n) [by id] | changes, key (id)
    Window partition by (k) order by (id) [sum(#2) ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW] | keeps all rows
      Import t (id, k, v) [by k] | changes, key (id)
",
    );
}

#[test]
fn unions_keep_what_is_known() {
    assert_plan(
        "select k from s union all select k from r",
        "
Union | append-only
  Import s (k) | append-only
  Import r (k) | append-only
",
    );
    assert_plan(
        "select k from s union select id from t",
        "
Aggregate by (k) [] | changes, key (k) | keeps a group for each key
  PartialAggregate by (k) [] [by k]
    Union | changes
      Import s (k) | append-only
      Import t (id) | changes, key (id)
",
    );
}

#[test]
fn windows_of_time_are_columns() {
    assert_plan(
        "select window_start, count(*) as n from tumble(s, at, interval '1 minute') group by window_start",
        "
Aggregate by (window_start) [count(*)] append-only | changes, key (window_start) | keeps a group for each key
  PartialAggregate by (window_start) [count(*)] append-only [by window_start]
    Map (date_bin(IntervalMonthDayNano { months: 0, days: 0, nanoseconds: 60000000000 }, at@0, 0) as window_start) | append-only
      Import s (at) | append-only
",
    );
}

#[test]
fn other_aggregates_are_recomputed() {
    assert_plan(
        "select k, array_agg(v) as a from s group by k",
        "
Recompute by (k) [array_agg(#1 order by #1)] append-only | changes, key (k) | keeps all rows
  Import s (k, v) [by k] | append-only
",
    );
}

#[test]
fn elements_are_rows() {
    assert_plan(
        "select x from (select array[k, v] as a from s) y, unnest(y.a) as z(x)",
        "
FlatMap (elements of #0 as __unnest_placeholder(outer_ref(y.a),depth=1)) | append-only
  Map (make_array(k@0, v@1) as a) | append-only
    Import s (k, v) | append-only
",
    );
}

#[test]
fn sides_that_a_view_before_has_copied_are_shared() {
    let mut catalog = catalog();
    let sql = "create materialized view pairs as select s.v, u.name from s join u on u.k = s.k";
    let Statement::CreateMaterializedView(create) = parse(sql).unwrap().remove(0).statement else { panic!("{sql}") };
    let first = view(&mut catalog, &create, &[]);
    assert_eq!(first.copied.len(), 2);
    let second = "select u.k, s.at from u left join s on s.k = u.k";
    // The left side counts partners, so it is its own; the right one has columns of both views.
    let copied = planned(&catalog, second, &[]).copied;
    let worth = catalog.worth_arranging(&copied);
    let s_id = catalog.find(None, "s").unwrap().id;
    assert_eq!(worth, [JoinSide::new(s_id, [0], [0, 1, 2])]);
    let arrangement = catalog.create_arrangement(worth[0].clone()).unwrap();
    let plan = planned(&catalog, second, &[Arc::clone(&arrangement)]);
    assert_eq!(
        plan.dataflow.explain().join("\n"),
        "HashJoin left on k = k right shared | changes | keeps the rows of the left side\n  \
         Import u (k) [by k] | changes\n  Import s by k (k, at) changes only | append-only"
    );
    assert_eq!((plan.copied.len(), plan.relations.contains(&arrangement.id)), (0, true));
    // What keeps it.
    let base = catalog.get(s_id).unwrap();
    let kept = plan_of(&arrangement, base);
    assert_eq!(kept.dataflow.explain(), ["Map", "  Import s (k, v, at) [by k]"]);
    assert_eq!((kept.result.append_only, kept.result.indexes), (true, vec![vec![0]]));
}
