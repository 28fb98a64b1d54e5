//! A small change of a large state is saved as a small change.

use arrow::datatypes::Field;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};
use millstream_expr::window::Frame;
use millstream_expr::{AggregateCall, AggregateFunction as F, OrderBy, RecomputedCall, WindowCall};
use millstream_state::changes::net;
use millstream_types::delta::schema_of;

use super::*;
use crate::aggregate::{AggregateInput, AggregateSpec, DistinctPartialSpec};
use crate::hash_join::{Alone, HashJoinSpec, JoinColumn, JoinInput, Side, Sides};
use crate::operator::{BuildContext, Operator, OperatorSpec};
use crate::property::{Changes, Emitted, delta_of, end_epoch, push_all};
use crate::recompute::RecomputeSpec;
use crate::top_n::TopNSpec;
use crate::window::WindowSpec;

const N_ROWS: i64 = 5_000;

/// Rows of numbers.
fn numbers(names: &[&str]) -> SchemaRef {
    schema_of(&names.iter().map(|name| (*name, DataType::Int64)).collect::<Vec<_>>())
}

/// Rows that come on a port.
fn came(port: usize, rows: impl IntoIterator<Item = Vec<i64>>) -> Changes {
    rows.into_iter().map(|row| (port, row.into_iter().map(Some).collect(), 1)).collect()
}

/// Rows that go.
fn went(port: usize, rows: impl IntoIterator<Item = Vec<i64>>) -> Changes {
    came(port, rows).into_iter().map(|(port, row, _)| (port, row, -1)).collect()
}

/// An operator whose inputs are partitioned by some columns.
struct Saved<'a> {
    operator: Box<dyn Operator>,
    inputs: &'a [(SchemaRef, Vec<usize>)],
    epoch: u64,
    /// What was saved so far.
    changes: Vec<StateChanges>,
}

impl Saved<'_> {
    fn epoch(&mut self, changes: &Changes) {
        let mut emitted = Emitted::default();
        for (port, (schema, _)) in self.inputs.iter().enumerate() {
            let of_port: Changes = changes.iter().filter(|c| c.0 == port).cloned().collect();
            if !of_port.is_empty() {
                let delta = delta_of(schema, &of_port);
                push_all(self.operator.as_mut(), vec![(port, delta)], &mut emitted).expect("takes rows");
            }
        }
        self.epoch += 1;
        end_epoch(self.operator.as_mut(), self.epoch, &mut emitted).expect("adds up");
    }

    /// How many rows came and went since the last time. All that came and went comes to as many rows as there are.
    fn n_changes(&mut self) -> usize {
        let by: Vec<Vec<usize>> = self.inputs.iter().map(|(_, by)| by.clone()).collect();
        let mut changes = StateChanges::default();
        // Little by little.
        let mut n_said = 0;
        while self.operator.save_changes(&by, &mut changes).expect("is tracked") == Progress::More {
            let n_more = changes.n_rows() - n_said;
            assert!(n_more <= 3 * SAVED_ROWS, "{n_more} rows at once");
            n_said += n_more;
        }
        let n_rows = changes.n_rows();
        self.changes.push(changes);
        let mut there = StateChanges::default();
        self.operator.save(&by, &mut there).expect("can be saved");
        let saved = net(&self.changes).expect("adds up");
        for table in 0..10 {
            let of_table = there.tables().filter(|(number, _)| *number == table).flat_map(|(_, change)| &change.rows);
            let n_there: usize = of_table.map(|rows| rows.hashes.len()).sum();
            let n_saved = saved.rows(table).expect("of one shape").map_or(0, |rows| rows.num_rows());
            assert_eq!(n_saved, n_there, "table {table}");
        }
        n_rows
    }
}

/// Many rows, and then a few changes, of which just so many rows of state go and come.
fn check(spec: &dyn OperatorSpec, inputs: &[(SchemaRef, Vec<usize>)], many: &Changes, few: &Changes, n_rows: usize) {
    for from_the_start in [true, false] {
        let operator = spec.build(BuildContext::alone()).expect("types can be kept");
        let mut saved = Saved { operator, inputs, epoch: 0, changes: Vec::new() };
        if from_the_start {
            saved.operator.track_changes();
            assert_eq!(saved.n_changes(), 0, "{}: nothing is there", spec.name());
        }
        saved.epoch(many);
        saved.operator.track_changes();
        assert!(saved.n_changes() >= 100, "{}: all there is", spec.name());
        saved.epoch(few);
        assert_eq!(saved.n_changes(), n_rows, "{}: what has changed", spec.name());
        assert_eq!(saved.n_changes(), 0, "{}: nothing since", spec.name());
    }
}

fn aggregate_of(calls: Vec<AggregateCall>, append_only: bool) -> AggregateSpec {
    let results = calls.iter().map(|c| c.function.result_type(Some(&DataType::Int64)).expect("over bigint"));
    let key = Field::new("g", DataType::Int64, true);
    let fields: Vec<Field> = [key].into_iter().chain(results.map(|t| Field::new("c", t, true))).collect();
    AggregateSpec {
        input: numbers(&["g", "x"]),
        calls,
        ports: vec![AggregateInput::Rows { group_by: vec![0] }],
        n_keys: 1,
        append_only,
        schema: Arc::new(Schema::new(fields)),
    }
}

fn call(function: F, distinct: bool) -> AggregateCall {
    AggregateCall { function, argument: Some(1), distinct, filter: None }
}

#[test]
fn a_group_with_many_values() {
    let inputs = [(numbers(&["g", "x"]), vec![0])];
    let many = came(0, (0..N_ROWS).map(|i| vec![i % 2, i]));
    let few = [went(0, [vec![1, 1]]), came(0, [vec![1, 1_000_001]])].concat();
    // The group, and two values of each table.
    let calls = vec![call(F::Sum, false), call(F::Min, false), call(F::Count, true)];
    check(&aggregate_of(calls, false), &inputs, &many, &few, 2 + 2 + 2);
    let calls = vec![call(F::Min, false), call(F::Count, true)];
    check(&aggregate_of(calls, true), &inputs, &many, &came(0, [vec![1, 1], vec![1, -1]]), 2 + 1);
}

#[test]
fn groups_that_go() {
    let inputs = [(numbers(&["g", "x"]), vec![0])];
    let many = came(0, (0..N_ROWS).map(|i| vec![i, i]));
    let calls = vec![call(F::Max, false), call(F::Sum, true)];
    // One group goes, and with it its value; of another one the value goes, and another comes.
    let few = [went(0, [vec![7, 7], vec![8, 8]]), came(0, [vec![8, 9]])].concat();
    check(&aggregate_of(calls, false), &inputs, &many, &few, 3 + 3 + 3);
}

#[test]
fn distinct_values() {
    let input = numbers(&["g", "x"]);
    let reduced = [(numbers(&["g", "x", "n"]), vec![0, 1])];
    let many = came(0, (0..N_ROWS).map(|i| vec![i % 2, i, 1]));
    let spec = |append_only| DistinctPartialSpec {
        input: input.clone(),
        group_by: vec![0],
        calls: vec![call(F::Count, true)],
        append_only,
    };
    // One value goes, one has another row, one is new.
    check(&spec(false), &reduced, &many, &came(0, [vec![0, 0, -1], vec![0, 2, 1], vec![0, -1, 2]]), 1 + 2 + 1);
    check(&spec(true), &reduced, &many, &came(0, [vec![0, 2, 1], vec![0, -1, 1]]), 1);
}

#[test]
fn sides_of_joins() {
    let schema = numbers(&["k", "v"]);
    let input =
        |append_only| JoinInput { schema: schema.clone(), keys: vec![0], append_only, unique: false, shared: None };
    let spec = |left: Alone, append_only| HashJoinSpec {
        inputs: Sides { left: input(append_only), right: input(append_only) },
        emits_pairs: true,
        alone: Sides { left, right: Alone::Nothing },
        null_equals_null: vec![false],
        residual: None,
        output: vec![JoinColumn::Of(Side::Left, 0), JoinColumn::Of(Side::Right, 1)],
        schema: numbers(&["k", "v"]),
    };
    let inputs = [(schema.clone(), vec![0]), (schema.clone(), vec![0])];
    let many = [came(0, (0..N_ROWS).map(|i| vec![i, 0])), came(1, (0..N_ROWS / 2).map(|i| vec![i, 1]))].concat();
    let few = [went(1, [vec![3, 1]]), came(1, [vec![4, 2]]), came(0, [vec![5, 0]])].concat();
    check(&spec(Alone::Nothing, false), &inputs, &many, &few, 3);
    // Two rows of the left side have another number of partners.
    check(&spec(Alone::NullExtended, false), &inputs, &many, &few, 3 + 2 * 2);
    let few = [came(1, [vec![4, 2]]), came(0, [vec![5, 0]])].concat();
    check(&spec(Alone::Nothing, true), &inputs, &many, &few, 2);
    check(&spec(Alone::NullExtended, true), &inputs, &many, &few, 2 + 2);
}

#[test]
fn first_rows() {
    let input = numbers(&["p", "o"]);
    let spec = |append_only| TopNSpec {
        input: input.clone(),
        partition_by: vec![0],
        order_by: vec![OrderBy::ascending(1)],
        offset: 0,
        limit: Some(3),
        with_row_number: false,
        append_only,
        schema: input.clone(),
    };
    let inputs = [(input.clone(), vec![0])];
    let many = came(0, (0..N_ROWS).map(|i| vec![i % 50, i]));
    // One goes, one comes, and one comes twice more.
    let few = [went(0, [vec![1, 1]]), came(0, [vec![2, -1], vec![3, 3], vec![3, 3]])].concat();
    check(&spec(false), &inputs, &many, &few, 1 + 1 + 2);
    check(&spec(true), &inputs, &many, &came(0, [vec![2, -1], vec![3, 1_000_000]]), 2);
}

/// The sum of the second column over a row and its neighbours in that order, by the first.
fn window_over(input: &SchemaRef) -> WindowSpec {
    let order_by = vec![OrderBy::ascending(1)];
    let bound = |n| ScalarValue::UInt64(Some(n));
    let frame = WindowFrame::new_bounds(
        WindowFrameUnits::Rows,
        WindowFrameBound::Preceding(bound(1)),
        WindowFrameBound::Following(bound(1)),
    );
    let frame = Frame { frame: Arc::new(frame), order_by: order_by.clone(), filter: None };
    let call = WindowCall::aggregate(F::Sum, Some(1), frame, input).expect("over numbers");
    let result = Arc::new(Field::new("w", call.data_type().clone(), true));
    let fields: Vec<Arc<Field>> = input.fields().iter().cloned().chain([result]).collect();
    WindowSpec {
        input: input.clone(),
        partition_by: vec![0],
        order_by,
        calls: vec![call],
        key: None,
        append_only: false,
        schema: Arc::new(Schema::new(fields)),
    }
}

/// Rows of a partition that fails are in another table, until it does not fail any more.
#[test]
fn windows_that_fail() {
    let input = schema_of(&[("p", DataType::Int64), ("n", DataType::Decimal128(38, 0))]);
    let inputs = [(input.clone(), vec![0])];
    let operator = window_over(&input).build(BuildContext::alone()).expect("types can be kept");
    let mut saved = Saved { operator, inputs: &inputs, epoch: 0, changes: Vec::new() };
    saved.operator.track_changes();
    saved.epoch(&came(0, (0..100).map(|p| vec![p, 2])));
    assert_eq!(saved.n_changes(), 100);
    // The sums of 2 and 2 do not fit.
    saved.epoch(&came(0, [vec![1, 2], vec![3, 2]]));
    assert_eq!(saved.n_changes(), 2 * (1 + 2));
    saved.epoch(&came(0, [vec![1, 0]]));
    assert_eq!(saved.n_changes(), 1, "what fails as before is not said again");
    saved.epoch(&went(0, [vec![1, 2], vec![3, 2]]));
    assert_eq!(saved.n_changes(), (3 + 2) + (2 + 1));
    saved.epoch(&came(0, [vec![3, 2]]));
    saved.epoch(&went(0, [vec![3, 2]]));
    assert_eq!(saved.n_changes(), 2, "it failed and recovered in between");
}

#[test]
fn rows_of_windows() {
    let input = numbers(&["p", "o"]);
    let spec = |key| WindowSpec { key, ..window_over(&input) };
    let inputs = [(input.clone(), vec![0])];
    let many = came(0, (0..N_ROWS).map(|i| vec![i % 2, 2 * i]));
    // Two rows see the new one, and two no longer the one that went.
    let few = [came(0, [vec![1, 1003]]), went(0, [vec![0, 2000]])].concat();
    for key in [None, Some(vec![1])] {
        check(&spec(key), &inputs, &many, &few, (1 + 2 * 2) + (1 + 2 * 2));
    }
}

#[test]
fn rows_of_recomputed_groups() {
    let input = numbers(&["g", "x"]);
    let call = RecomputedCall::ours(&call(F::Count, true), &input).expect("over bigint");
    let schema = numbers(&["g", "n"]);
    let spec = RecomputeSpec { input: input.clone(), group_by: vec![0], calls: vec![call], append_only: false, schema };
    let many = came(0, (0..N_ROWS).map(|i| vec![i % 50, i]));
    // A row and the result of its group; a row that changes no result.
    let few = came(0, [vec![1, -1], vec![2, 2]]);
    check(&spec, &[(input, vec![0])], &many, &few, (1 + 2) + 1);
}
