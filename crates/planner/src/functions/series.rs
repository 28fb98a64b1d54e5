//! `generate_series` of numerics, as an array.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, ListArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{Decimal128Type, Field};
use millstream_types::{Error, SqlState};

use super::builtin::Spec;
use crate::typing::types::{NUMERIC, array_of};

/// Elements that the series of one call may have.
const MAX_ELEMENTS: i128 = 10_000_000;

pub(super) const SPECS: &[Spec] =
    &[Spec { name: "numeric_series", returns: |_| array_of(&NUMERIC), run: numeric_series, strict: true }];

/// The numerics from the first to the second argument, by steps of the third.
fn numeric_series(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let [from, to, step] = [0, 1, 2].map(|i| args[i].as_primitive::<Decimal128Type>());
    let mut values: Vec<i128> = Vec::new();
    let mut lens = Vec::with_capacity(n_rows);
    let mut is_valid = Vec::with_capacity(n_rows);
    for row in 0..n_rows {
        let valid = from.is_valid(row) && to.is_valid(row) && step.is_valid(row);
        is_valid.push(valid);
        if !valid {
            lens.push(0);
            continue;
        }
        let (from, to, step) = (from.value(row), to.value(row), step.value(row));
        if step == 0 {
            return Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, "step size cannot equal zero"));
        }
        let n = if to != from && (to < from) != (step < 0) { 0 } else { (to - from) / step + 1 };
        if n > MAX_ELEMENTS - values.len() as i128 {
            let message = format!("series have more than {MAX_ELEMENTS} elements");
            return Err(Error::user(SqlState::PROGRAM_LIMIT_EXCEEDED, message));
        }
        values.extend((0..n).map(|i| from + i * step));
        lens.push(n as usize);
    }
    let field = Arc::new(Field::new_list_field(NUMERIC, true));
    let values: ArrayRef = Arc::new(Decimal128Array::from(values).with_data_type(NUMERIC));
    let nulls = NullBuffer::from(is_valid);
    Ok(Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lens), values, Some(nulls))))
}
