//! Recomputed aggregates in change notation, and against their definition.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field};
use datafusion::functions_aggregate::array_agg::array_agg_udaf;
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::logical_expr::AggregateUDF;
use millstream_expr::recomputed::{Argument, ForeignFunction};
use millstream_expr::{AggregateCall, AggregateFunction, OrderBy};
use millstream_types::delta::schema_of;

use super::*;
use crate::change_notation::check;
use crate::property::{self, Expected, Input, Row, Rows};

fn input() -> SchemaRef {
    schema_of(&[("g", DataType::Utf8View), ("x", DataType::Int64), ("o", DataType::Int64)])
}

/// `array_agg([DISTINCT] x ORDER BY o DESC)` and `count(*)`, by `g` or over all rows.
fn spec(group_by: Vec<usize>, distinct: bool) -> RecomputeSpec {
    let input = input();
    let function = ForeignFunction {
        function: array_agg_udaf(),
        arguments: vec![Argument::Column(1)],
        within_group: vec![],
        ignore_nulls: false,
    };
    let by_o = OrderBy { column: 2, descending: true, nulls_first: false };
    let order = if distinct { vec![] } else { vec![by_o] };
    let array = RecomputedCall::foreign(&function, order, distinct, None, &input).expect("over bigint");
    let count = AggregateCall { function: AggregateFunction::Count, argument: None, distinct: false, filter: None };
    let count = RecomputedCall::ours(&count, &input).expect("of rows");
    let key = group_by.iter().map(|&c| input.field(c).clone());
    let calls = [&array, &count].into_iter().map(|c| Field::new("c", c.data_type().clone(), true));
    let schema = Arc::new(Schema::new(key.chain(calls).collect::<Vec<_>>()));
    RecomputeSpec { input, group_by, calls: vec![array, count], append_only: false, schema }
}

#[test]
fn only_groups_whose_results_differ_are_emitted() {
    let (operator, _) = check(
        &spec(vec![0], false),
        &input(),
        &[
            ("+ a 1 1\n+ a 2 2\n+ b 7 1\n+ a NULL 1", &["+ a |2,1,NULL| 3", "+ b |7| 1"]),
            ("+ a 9 9\n- b 7 1\n- a 2 2", &["- a |2,1,NULL| 3", "+ a |9,1,NULL| 3", "- b |7| 1"]),
            ("- a 9 9\n+ a 9 8\n+ c 1 1\n- c 1 1", &[]),
            ("- a 9 8\n- a 1 1\n- a NULL 1", &["- a |9,1,NULL| 3"]),
        ],
    );
    assert_eq!(operator.n_entries(), 0, "nothing is kept of groups that are gone");
}

#[test]
fn distinct_values_stand_once() {
    check(
        &spec(vec![0], true),
        &input(),
        &[
            ("+3 a 2 1\n+ a 1 1\n+ a 2 2", &["+ a |1,2| 5"]),
            ("-3 a 2 1", &["- a |1,2| 5", "+ a |1,2| 2"]),
            ("- a 2 2", &["- a |1,2| 2", "+ a |1| 1"]),
        ],
    );
}

#[test]
fn without_a_key_there_is_always_a_group() {
    check(
        &spec(vec![], false),
        &input(),
        &[("", &["+ NULL 0"]), ("+ a 1 1", &["- NULL 0", "+ |1| 1"]), ("- a 1 1", &["- |1| 1", "+ NULL 0"])],
    );
}

const G: usize = 0;
const X: usize = 1;
const O: usize = 2;
const B: usize = 3;

/// Rows of which each property takes what it needs.
fn columns() -> SchemaRef {
    schema_of(&[("g", property::COLLIDING), ("x", DataType::Int64), ("o", DataType::Int64), ("b", DataType::Boolean)])
}

/// The value of a call over the rows of a group, each copy by itself.
type Definition = Box<dyn Fn(&[Row]) -> Option<i64>>;

struct Case {
    call: RecomputedCall,
    definition: Definition,
}

/// A function of DataFusion's over `x`.
fn foreign(
    function: Arc<AggregateUDF>,
    order_by: Vec<OrderBy>,
    distinct: bool,
    filter: Option<usize>,
    of_values: fn(&[Option<i64>]) -> Option<i64>,
) -> Case {
    let function =
        ForeignFunction { function, arguments: vec![Argument::Column(X)], within_group: vec![], ignore_nulls: false };
    let call = RecomputedCall::foreign(&function, order_by.clone(), distinct, filter, &columns());
    let order = [order_by, vec![OrderBy::ascending(X)]].concat();
    let definition = move |rows: &[Row]| {
        let mut rows: Vec<&Row> = rows.iter().filter(|r| filter.is_none_or(|f| r[f] == Some(1))).collect();
        rows.sort_by(|a, b| property::compare_rows(a, b, &order));
        let mut values: Vec<Option<i64>> = rows.into_iter().map(|r| r[X]).collect();
        if distinct {
            values.dedup();
        }
        of_values(&values)
    };
    Case { call: call.expect("over bigint"), definition: Box::new(definition) }
}

fn ours(call: AggregateCall, definition: fn(&[Row]) -> Option<i64>) -> Case {
    let call = RecomputedCall::ours(&call, &columns()).expect("over bigint");
    Case { call, definition: Box::new(definition) }
}

fn cases() -> Vec<Case> {
    let array = |values: &[Option<i64>]| (!values.is_empty()).then(|| property::list_code(values.iter().copied()));
    let by_o = |descending, nulls_first| vec![OrderBy { column: O, descending, nulls_first }];
    let call = |function, argument, distinct, filter| AggregateCall { function, argument, distinct, filter };
    vec![
        foreign(array_agg_udaf(), by_o(true, false), false, None, array),
        foreign(array_agg_udaf(), vec![], true, None, array),
        foreign(array_agg_udaf(), by_o(false, true), false, Some(B), array),
        foreign(first_value_udaf(), by_o(false, false), false, None, |values| values.first().copied().flatten()),
        ours(call(AggregateFunction::Count, None, false, None), |rows| Some(rows.len() as i64)),
        ours(call(AggregateFunction::Max, Some(G), false, None), |rows| rows.iter().filter_map(|r| r[G]).max()),
        ours(call(AggregateFunction::Sum, Some(X), true, Some(B)), |rows| {
            let mut values: Vec<i64> = rows.iter().filter(|r| r[B] == Some(1)).filter_map(|r| r[X]).collect();
            values.sort_unstable();
            values.dedup();
            values.into_iter().reduce(|a, b| a + b)
        }),
    ]
}

/// Each group, all of whose rows there are, even if there are none of a group without a key.
fn groups(group_by: &[usize], rows: &Rows) -> BTreeMap<Row, Vec<Row>> {
    let mut groups = property::groups_of(rows, group_by);
    if group_by.is_empty() {
        groups.entry(vec![]).or_default();
    }
    groups
}

fn spec_of(input: SchemaRef, group_by: &[usize], calls: Vec<RecomputedCall>, append_only: bool) -> RecomputeSpec {
    let key = group_by.iter().map(|&c| input.field(c).clone());
    let results = calls.iter().map(|c| Field::new("c", c.data_type().clone(), true));
    let schema = Arc::new(Schema::new(key.chain(results).collect::<Vec<_>>()));
    RecomputeSpec { input, group_by: group_by.to_vec(), calls, append_only, schema }
}

#[test]
fn recomputed_aggregates_are_their_definition() {
    let cases = cases();
    let calls: Vec<RecomputedCall> = cases.iter().map(|c| c.call.clone()).collect();
    for group_by in [vec![G], vec![], vec![G, B]] {
        for append_only in [false, true] {
            let spec = spec_of(columns(), &group_by, calls.clone(), append_only);
            let inputs = [Input::of(columns()).append_only(append_only)];
            let definition = |inputs: &[Rows]| {
                let result = |(key, rows): (Row, Vec<Row>)| {
                    (key.into_iter().chain(cases.iter().map(|c| (c.definition)(&rows))).collect(), 1)
                };
                groups(&group_by, &inputs[0]).into_iter().map(result).collect::<Rows>()
            };
            let name = format!("{group_by:?} append-only {append_only}");
            let alone = |_| property::consolidated(property::operator(&spec));
            property::check(&name, &inputs, alone, definition);
            let dataflow = property::exchanged(spec.clone(), &[(columns(), group_by.clone())]);
            let on_workers = |seed| property::consolidated(property::dataflow(&dataflow, property::n_workers(seed)));
            property::check(&name, &inputs, on_workers, definition);
        }
    }
}

/// A group whose sum does not fit is an error for as long as it does not.
#[test]
fn groups_that_fail_are_errors_while_they_do() {
    let input = schema_of(&[("g", DataType::Int64), ("n", DataType::Decimal128(38, 0))]);
    let call = |function| AggregateCall { function, argument: Some(1), distinct: false, filter: None };
    let calls = [AggregateFunction::Count, AggregateFunction::Sum].map(|f| RecomputedCall::ours(&call(f), &input));
    let calls: Vec<RecomputedCall> = calls.into_iter().map(|c| c.expect("over numeric")).collect();
    for group_by in [vec![0], vec![]] {
        let spec = spec_of(input.clone(), &group_by, calls.clone(), false);
        let definition = |inputs: &[Rows]| {
            let mut expected = Expected::default();
            for (key, rows) in groups(&group_by, &inputs[0]) {
                let values: Vec<i64> = rows.iter().filter_map(|r| r[1]).collect();
                let sum = values.iter().copied().reduce(|a, b| a + b);
                if sum.is_some_and(|sum| sum > 3) {
                    let text = property::row_text(&input, &key);
                    expected.errors.insert(format!("value overflows numeric format: {text}"), 1);
                } else {
                    expected.rows.insert([key, vec![Some(values.len() as i64), sum]].concat(), 1);
                }
            }
            expected
        };
        let dataflow = property::exchanged(spec.clone(), &[(input.clone(), group_by.clone())]);
        let on_workers = |seed| property::consolidated(property::dataflow(&dataflow, property::n_workers(seed)));
        property::check(&format!("{group_by:?}"), &[Input::of(input.clone())], on_workers, definition);
    }
}
