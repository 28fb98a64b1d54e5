//! Top-n of rows that only come, and of rows that may be taken back, against sorting them all.

use arrow::datatypes::{DataType, Field};
use millstream_types::delta::schema_of;

use super::*;
use crate::property::{self, Input, Rows};

fn spec(partition_by: Vec<usize>, order_by: Vec<OrderBy>, bounds: (usize, Option<usize>), numbered: bool) -> TopNSpec {
    let input = schema_of(&[
        ("p", property::COLLIDING),
        ("o", DataType::Int64),
        ("t", DataType::Utf8View),
        ("i", property::LOOSE),
    ]);
    let mut fields: Vec<Field> = input.fields().iter().map(|f| f.as_ref().clone()).collect();
    if numbered {
        fields.push(Field::new("n", DataType::Int64, false));
    }
    TopNSpec {
        input,
        partition_by,
        order_by,
        offset: bounds.0,
        limit: bounds.1,
        with_row_number: numbered,
        append_only: false,
        schema: Arc::new(Schema::new(fields)),
    }
}

fn definition(spec: &TopNSpec, inputs: &[Rows]) -> Rows {
    let rest = (0..4).map(OrderBy::ascending);
    let order: Vec<OrderBy> = spec.order_by.iter().cloned().chain(rest).collect();
    let mut shown = Rows::new();
    for mut rows in property::groups_of(&inputs[0], &spec.partition_by).into_values() {
        rows.sort_by(|a, b| property::compare_rows(a, b, &order));
        let window = rows.iter().enumerate().skip(spec.offset).take(spec.limit.unwrap_or(usize::MAX));
        for (i, row) in window {
            let number = spec.with_row_number.then_some(Some(i as i64 + 1));
            *shown.entry(row.iter().copied().chain(number).collect()).or_default() += 1;
        }
    }
    shown
}

#[test]
fn the_first_rows_are_those_of_all_rows_in_order() {
    let by_o = |descending, nulls_first| OrderBy { column: 1, descending, nulls_first };
    for partition_by in [vec![0], vec![], vec![0, 2]] {
        for order_by in
            [vec![by_o(false, false)], vec![by_o(true, true), OrderBy::ascending(2)], vec![by_o(true, false)]]
        {
            for bounds in [(0, Some(1)), (0, Some(3)), (2, Some(2)), (1, None), (0, Some(0))] {
                for (numbered, append_only) in [(false, false), (true, false), (false, true), (true, true)] {
                    let spec = spec(partition_by.clone(), order_by.clone(), bounds, numbered);
                    let spec = TopNSpec { append_only, ..spec };
                    let inputs = [Input::of(spec.input.clone()).append_only(append_only)];
                    let name = format!("{spec:?}");
                    property::check(&name, &inputs, |_| property::operator(&spec), |i| definition(&spec, i));
                    let dataflow = property::exchanged(spec.clone(), &[(spec.input.clone(), partition_by.clone())]);
                    let on_workers = |seed| property::dataflow(&dataflow, property::n_workers(seed));
                    property::check(&name, &inputs, on_workers, |i| definition(&spec, i));
                }
            }
        }
    }
}
