//! Window functions in change notation, and against their definition.

use arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use datafusion::functions_aggregate::array_agg::array_agg_udaf;
use datafusion::functions_window::lead_lag::lag_udwf;
use datafusion::functions_window::nth_value::first_value_udwf;
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits, WindowUDF};
use millstream_expr::AggregateFunction;
use millstream_expr::recomputed::{Argument, ForeignFunction};
use millstream_expr::window::{Frame, RowFunction};
use millstream_types::delta::schema_of;

use super::*;
use crate::change_notation::check;
use crate::property::{self, Expected, Input, Row, Rows};

fn input() -> SchemaRef {
    schema_of(&[("g", DataType::Utf8View), ("o", DataType::Int64), ("x", DataType::Int64)])
}

fn spec(function: AggregateFunction, frame: WindowFrame) -> WindowSpec {
    let input = input();
    let order_by = vec![OrderBy::ascending(1)];
    let frame = Frame { frame: Arc::new(frame), order_by: order_by.clone(), filter: None };
    let call = WindowCall::aggregate(function, Some(2), frame, &input).expect("over bigint");
    let mut fields = input.fields().to_vec();
    fields.push(Arc::new(Field::new("w", call.data_type().clone(), true)));
    WindowSpec {
        input,
        partition_by: vec![0],
        order_by,
        calls: vec![call],
        key: None,
        append_only: false,
        schema: Arc::new(Schema::new(fields)),
    }
}

fn rows(preceding: u64, following: u64) -> WindowFrame {
    let bound = |n| ScalarValue::UInt64(Some(n));
    WindowFrame::new_bounds(
        WindowFrameUnits::Rows,
        WindowFrameBound::Preceding(bound(preceding)),
        WindowFrameBound::Following(bound(following)),
    )
}

#[test]
fn only_rows_whose_frames_changed_are_emitted() {
    let spec = spec(AggregateFunction::Sum, rows(1, 1));
    let (operator, _) = check(
        &spec,
        &input(),
        &[
            (
                "+ a 1 10\n+ a 2 20\n+ a 3 30\n+ a 4 40\n+ b 1 1",
                &["+ a 1 10 30", "+ a 2 20 60", "+ a 3 30 90", "+ a 4 40 70", "+ b 1 1 1"],
            ),
            ("- a 1 10", &["- a 1 10 30", "- a 2 20 60", "+ a 2 20 50"]),
            ("- b 1 1\n+ a 9 NULL", &["- b 1 1 1", "+ a 9 NULL 40"]),
            (
                "- a 3 30\n+ a 3 31",
                &["- a 2 20 50", "+ a 2 20 51", "- a 3 30 90", "+ a 3 31 91", "- a 4 40 70", "+ a 4 40 71"],
            ),
            (
                "- a 2 20\n- a 3 31\n- a 4 40\n- a 9 NULL",
                &["- a 2 20 51", "- a 3 31 91", "- a 4 40 71", "- a 9 NULL 40"],
            ),
        ],
    );
    assert_eq!(operator.n_entries(), 0, "nothing is kept of partitions that are gone");
}

#[test]
fn equal_rows_are_rows_each() {
    let spec = spec(AggregateFunction::Count, WindowFrame::new(Some(false)));
    check(
        &spec,
        &input(),
        &[
            ("+2 a 1 5\n+ a 2 5", &["+2 a 1 5 2", "+ a 2 5 3"]),
            ("- a 1 5\n+ a 1 6", &["- a 1 5 2", "+ a 1 6 2"]),
            ("+ a 7 7\n- a 7 7", &[]),
            ("- a 1 5\n- a 1 6", &["- a 1 5 2", "- a 1 6 2", "- a 2 5 3", "+ a 2 5 1"]),
        ],
    );
}

#[test]
fn a_running_sum_without_partitions() {
    let mut spec = spec(AggregateFunction::Min, WindowFrame::new(Some(false)));
    spec.partition_by = vec![];
    check(
        &spec,
        &input(),
        &[
            ("+ a 1 5\n+ b 2 3\n+ a 2 4", &["+ a 1 5 5", "+ a 2 4 3", "+ b 2 3 3"]),
            ("- b 2 3", &["- b 2 3 3", "- a 2 4 3", "+ a 2 4 4"]),
        ],
    );
}

/// Partitions, order, values; each property takes what it needs.
fn columns() -> SchemaRef {
    schema_of(&[
        ("g", property::COLLIDING),
        ("o", DataType::Int64),
        ("x", DataType::Int64),
        ("b", DataType::Boolean),
        ("i", property::LOOSE),
    ])
}

const O: usize = 1;
const X: usize = 2;
const B: usize = 3;

/// Rows from so many before to so many after, in some unit; `None` is without a bound.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    units: WindowFrameUnits,
    from: Option<i64>,
    to: Option<i64>,
}

impl Bounds {
    fn frame(&self) -> WindowFrame {
        let value = |n: i64| match self.units {
            WindowFrameUnits::Range => ScalarValue::Int64(Some(n)),
            _ => ScalarValue::UInt64(Some(n as u64)),
        };
        let none = || ScalarValue::UInt64(None);
        let bound = |at: i64| match at {
            0 => WindowFrameBound::CurrentRow,
            n if n < 0 => WindowFrameBound::Preceding(value(-n)),
            n => WindowFrameBound::Following(value(n)),
        };
        let from = self.from.map_or_else(|| WindowFrameBound::Preceding(none()), bound);
        let to = self.to.map_or_else(|| WindowFrameBound::Following(none()), bound);
        WindowFrame::new_bounds(self.units, from, to)
    }

    /// The rows of the frame of row `at`, of a partition in order.
    fn rows<'a>(&self, rows: &'a [Row], at: usize, order: &[OrderBy]) -> Vec<&'a Row> {
        let is_in = |i: usize| {
            // Nulls are peers of nulls alone, whatever the numbers are.
            let of_both = |c: usize| [&rows[i], &rows[at]].map(|row| row[c]);
            if self.units == WindowFrameUnits::Range && order.len() == 1 && of_both(order[0].column) == [None, None] {
                return true;
            }
            let place = match self.units {
                WindowFrameUnits::Rows => Some(i as i64 - at as i64),
                WindowFrameUnits::Groups => Some(group_number(rows, i, order) - group_number(rows, at, order)),
                WindowFrameUnits::Range => distance(&rows[at], &rows[i], order),
            };
            match place {
                Some(n) => self.from.is_none_or(|from| n >= from) && self.to.is_none_or(|to| n <= to),
                // On the side of the nulls: as far away as can be.
                None => {
                    let is_before = property::compare_rows(&rows[i], &rows[at], order).is_lt();
                    if is_before { self.from.is_none() } else { self.to.is_none() }
                }
            }
        };
        rows.iter().enumerate().filter(|(i, _)| is_in(*i)).map(|(_, row)| row).collect()
    }
}

/// How many groups of peers stand before the row's.
fn group_number(rows: &[Row], at: usize, order: &[OrderBy]) -> i64 {
    (1..=at).filter(|&i| property::compare_rows(&rows[i - 1], &rows[i], order).is_ne()).count() as i64
}

/// How far a row stands behind another in the order's first column; nothing if one of them is null.
fn distance(from: &Row, to: &Row, order: &[OrderBy]) -> Option<i64> {
    let Some(first) = order.first() else { return Some(0) };
    if property::compare_rows(from, to, order).is_eq() {
        return Some(0);
    }
    let distance = to[first.column].zip(from[first.column]).map(|(to, from)| to - from);
    // Rows that a further column tells apart are peers of none; only bounds without numbers are used with such orders.
    let distance = distance.filter(|d| *d != 0 || order.len() == 1);
    distance.map(|d| if first.descending { -d } else { d })
}

/// A call, and its value for a row whose frame and place in its partition are given.
struct Case {
    call: WindowCall,
    definition: fn(&[&Row], &[Row], usize) -> Option<i64>,
}

fn sum_of<'a>(rows: impl Iterator<Item = &'a Row>) -> Option<i64> {
    rows.filter_map(|r| r[X]).reduce(|a, b| a + b)
}

fn cases(bounds: Bounds, order_by: &[OrderBy]) -> Vec<Case> {
    let frame = |filter| Frame { frame: Arc::new(bounds.frame()), order_by: order_by.to_vec(), filter };
    let ours = |function, argument, filter| WindowCall::aggregate(function, argument, frame(filter), &columns());
    let array = ForeignFunction {
        function: array_agg_udaf(),
        arguments: vec![Argument::Column(X)],
        within_group: vec![],
        ignore_nulls: false,
    };
    let of_rows = |function: Arc<WindowUDF>, arguments: &[usize]| {
        let of_rows = RowFunction {
            function,
            arguments: arguments.iter().map(|&c| Argument::Column(c)).collect(),
            partition_by: vec![],
            order_by: order_by.to_vec(),
            frame: Arc::new(bounds.frame()),
            ignore_nulls: false,
            shown_as: "f".to_owned(),
        };
        WindowCall::of_rows(of_rows, &columns())
    };
    let case = |call: Result<WindowCall>, definition| Case { call: call.expect("over bigint"), definition };
    vec![
        case(ours(AggregateFunction::Sum, Some(X), None), |frame, _, _| sum_of(frame.iter().copied())),
        case(ours(AggregateFunction::Min, Some(X), None), |frame, _, _| frame.iter().filter_map(|r| r[X]).min()),
        case(ours(AggregateFunction::Count, Some(X), Some(B)), |frame, _, _| {
            Some(frame.iter().filter(|r| r[B] == Some(1) && r[X].is_some()).count() as i64)
        }),
        case(WindowCall::foreign(&array, frame(None), &columns()), |frame, _, _| {
            (!frame.is_empty()).then(|| property::list_code(frame.iter().map(|r| r[X])))
        }),
        case(of_rows(row_number_udwf(), &[]), |_, _, at| Some(at as i64 + 1)),
        case(of_rows(lag_udwf(), &[X]), |_, rows, at| at.checked_sub(1).and_then(|before| rows[before][X])),
        case(of_rows(first_value_udwf(), &[X]), |frame, _, _| frame.first().and_then(|r| r[X])),
    ]
}

fn spec_of(input: SchemaRef, order_by: Vec<OrderBy>, calls: Vec<WindowCall>) -> WindowSpec {
    let values = calls.iter().map(|c| Field::new("w", c.data_type().clone(), true));
    let fields: Vec<Field> = input.fields().iter().map(|f| f.as_ref().clone()).chain(values).collect();
    let schema = Arc::new(Schema::new(fields));
    WindowSpec { input, partition_by: vec![0], order_by, calls, key: None, append_only: false, schema }
}

/// Each row with its values.
fn definition(spec: &WindowSpec, cases: &[Case], bounds: Bounds, rows: &Rows) -> Rows {
    let rest = (0..5).map(OrderBy::ascending);
    let order: Vec<OrderBy> = spec.order_by.iter().cloned().chain(rest).collect();
    let mut result = Rows::new();
    for mut rows in property::groups_of(rows, &spec.partition_by).into_values() {
        rows.sort_by(|a, b| property::compare_rows(a, b, &order));
        for (at, row) in rows.iter().enumerate() {
            let frame = bounds.rows(&rows, at, &spec.order_by);
            let values = cases.iter().map(|c| (c.definition)(&frame, &rows, at));
            *result.entry(row.iter().copied().chain(values).collect()).or_default() += 1;
        }
    }
    result
}

fn check_frames(units: WindowFrameUnits, frames: &[(Option<i64>, Option<i64>)], orders: &[Vec<OrderBy>]) {
    for &(from, to) in frames {
        for order_by in orders {
            let bounds = Bounds { units, from, to };
            let cases = cases(bounds, order_by);
            let calls = cases.iter().map(|c| c.call.clone()).collect();
            let spec = spec_of(columns(), order_by.clone(), calls);
            for (partition_by, append_only, key) in
                [(vec![0], false, None), (vec![], false, Some(vec![1, 2])), (vec![0, 3], true, None)]
            {
                let spec = WindowSpec { partition_by, append_only, key, ..spec.clone() };
                let inputs = [Input::of(columns()).append_only(append_only).keyed(spec.key.clone())];
                let name = format!("{bounds:?} {order_by:?} by {:?}", spec.partition_by);
                let definition = |inputs: &[Rows]| definition(&spec, &cases, bounds, &inputs[0]);
                let dataflow = property::exchanged(spec.clone(), &[(columns(), spec.partition_by.clone())]);
                let on_workers = |seed| property::dataflow(&dataflow, property::n_workers(seed));
                property::check(&name, &inputs, on_workers, definition);
            }
        }
    }
}

fn by_o(descending: bool, nulls_first: bool) -> OrderBy {
    OrderBy { column: O, descending, nulls_first }
}

#[test]
fn frames_of_rows_are_their_definition() {
    let frames = [(Some(-2), Some(0)), (Some(-1), Some(1)), (Some(1), Some(2)), (None, Some(-1)), (Some(0), None)];
    check_frames(WindowFrameUnits::Rows, &frames, &[vec![by_o(false, false)], vec![by_o(true, true)], vec![]]);
}

#[test]
fn frames_of_ranges_are_their_definition() {
    let orders = [vec![by_o(false, false)], vec![by_o(true, true)], vec![by_o(false, true)]];
    check_frames(WindowFrameUnits::Range, &[(Some(-1), Some(1)), (Some(-2), Some(-1)), (Some(0), Some(2))], &orders);
    let several = [vec![by_o(true, false), OrderBy::ascending(X)], vec![by_o(false, true)]];
    check_frames(WindowFrameUnits::Range, &[(None, Some(0)), (Some(0), None), (None, None)], &several);
}

#[test]
fn frames_of_groups_are_their_definition() {
    let orders = [vec![by_o(false, false)], vec![by_o(true, true), OrderBy::ascending(X)]];
    check_frames(WindowFrameUnits::Groups, &[(Some(-1), Some(0)), (Some(0), Some(1)), (None, Some(0))], &orders);
}

/// A partition with a sum that does not fit is an error for as long as it has one, and shows no rows.
#[test]
fn partitions_that_fail_are_errors_while_they_do() {
    let input = schema_of(&[("g", DataType::Int64), ("n", DataType::Decimal128(38, 0))]);
    let frame = Frame { frame: Arc::new(rows(1, 0)), order_by: vec![OrderBy::ascending(1)], filter: None };
    let call = WindowCall::aggregate(AggregateFunction::Sum, Some(1), frame, &input).expect("over numeric");
    let spec = spec_of(input.clone(), vec![OrderBy::ascending(1)], vec![call]);
    let definition = |inputs: &[Rows]| {
        let mut expected = Expected::default();
        for (key, mut rows) in property::groups_of(&inputs[0], &[0]) {
            rows.sort_by(|a, b| property::compare_rows(a, b, &spec.order_by));
            let of_frame = |at: usize| rows[at.saturating_sub(1)..=at].iter().filter_map(|r| r[1]);
            let sums: Vec<Option<i64>> = (0..rows.len()).map(|at| of_frame(at).reduce(|a, b| a + b)).collect();
            if sums.iter().flatten().any(|&sum| sum > 3) {
                let text = property::row_text(&input, &key);
                expected.errors.insert(format!("value overflows numeric format: {text}"), 1);
                continue;
            }
            for (row, sum) in rows.iter().zip(sums) {
                *expected.rows.entry([row.as_slice(), &[sum]].concat()).or_default() += 1;
            }
        }
        expected
    };
    let dataflow = property::exchanged(spec.clone(), &[(input.clone(), vec![0])]);
    let on_workers = |seed| property::dataflow(&dataflow, property::n_workers(seed));
    property::check("failing partitions", &[Input::of(input.clone())], on_workers, definition);
}
