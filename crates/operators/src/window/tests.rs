//! Window functions in change notation.

use arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};
use millstream_expr::AggregateFunction;
use millstream_expr::window::Frame;
use millstream_types::delta::schema_of;

use super::*;
use crate::change_notation::{check, check_against_definition};

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

#[test]
fn what_is_emitted_adds_up_to_the_definition() {
    for (seed, function) in
        [AggregateFunction::Sum, AggregateFunction::Min, AggregateFunction::Count].into_iter().enumerate()
    {
        for (i, frame) in
            [rows(2, 0), rows(1, 1), WindowFrame::new(Some(false)), WindowFrame::new(None)].into_iter().enumerate()
        {
            check_against_definition(&spec(function, frame), &input(), (seed * 10 + i) as u64);
        }
    }
}
