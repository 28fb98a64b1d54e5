//! Recomputed aggregates in change notation.

use arrow::datatypes::{DataType, Field};
use datafusion::functions_aggregate::array_agg::array_agg_udaf;
use millstream_expr::recomputed::{Argument, ForeignFunction};
use millstream_expr::{AggregateCall, AggregateFunction, OrderBy};
use millstream_types::delta::schema_of;

use super::*;
use crate::change_notation::{check, check_against_definition};

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

#[test]
fn what_is_emitted_adds_up_to_the_definition() {
    for seed in 0..4 {
        check_against_definition(&spec(vec![0], seed % 2 == 0), &input(), seed);
        check_against_definition(&spec(vec![], seed % 2 == 0), &input(), 100 + seed);
    }
}
