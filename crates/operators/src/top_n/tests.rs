//! Top-n of rows that only come, and of rows that may be taken back, against sorting them all.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field};
use millstream_types::delta::schema_of;

use super::*;
use crate::property::{self, Inputs, Row, Rows};

fn spec(partition_by: Vec<usize>, order_by: Vec<OrderBy>, bounds: (usize, Option<usize>), numbered: bool) -> TopNSpec {
    let input = schema_of(&[("p", DataType::Int64), ("o", DataType::Int64), ("t", DataType::Utf8View)]);
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

fn compare(a: Option<i64>, b: Option<i64>, order: &OrderBy) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) if order.descending => b.cmp(&a),
        (Some(a), Some(b)) => a.cmp(&b),
        _ if order.nulls_first => b.is_none().cmp(&a.is_none()),
        _ => a.is_none().cmp(&b.is_none()),
    }
}

fn definition(spec: &TopNSpec, inputs: &[Rows]) -> Rows {
    let mut partitions: BTreeMap<Row, Vec<&Row>> = BTreeMap::new();
    for (row, weight) in &inputs[0] {
        let rows = partitions.entry(spec.partition_by.iter().map(|&c| row[c]).collect()).or_default();
        rows.extend(std::iter::repeat_n(row, *weight as usize));
    }
    let rest = (0..3).map(OrderBy::ascending);
    let order: Vec<OrderBy> = spec.order_by.iter().cloned().chain(rest).collect();
    let mut shown = Rows::new();
    for mut rows in partitions.into_values() {
        rows.sort_by(|a, b| {
            order.iter().fold(Ordering::Equal, |so_far, o| so_far.then(compare(a[o.column], b[o.column], o)))
        });
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
                    let inputs = Inputs { schemas: vec![spec.input.clone()], append_only };
                    let name = format!("{spec:?}");
                    property::check(&name, &inputs, |_| property::operator(&spec), |i| definition(&spec, i));
                }
            }
        }
    }
}
