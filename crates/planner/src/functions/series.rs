//! `generate_series` of numerics and of times, as an array.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, ListArray, TimestampMicrosecondArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{Decimal128Type, Field, IntervalMonthDayNano, IntervalMonthDayNanoType};
use millstream_types::pg::TimeZone;
use millstream_types::{Error, SqlState};

use super::builtin::Spec;
use super::temporal::us_of;
use super::zoned::{settings_of, sum};
use crate::typing::types::{NUMERIC, array_of};

/// Elements that the series of one call may have.
const MAX_ELEMENTS: i128 = 10_000_000;
/// As [`MAX_ELEMENTS`], of a call that is folded into a constant.
const FOLDED_ELEMENTS_MAX: i128 = 1_000;
const NS_PER_DAY: i64 = 86_400_000_000_000;

pub(super) static SPECS: &[Spec] = &[
    Spec { name: "numeric_series", returns: |_| array_of(&NUMERIC), run: numeric_series, strict: true },
    Spec { name: "time_series", returns: |args| array_of(&args[1]), run: time_series, strict: true },
];

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
            return Err(zero_step());
        }
        let n = if to != from && (to < from) != (step < 0) { 0 } else { (to - from) / step + 1 };
        if n > elements_max() - values.len() as i128 {
            return Err(too_long());
        }
        values.extend((0..n).map(|i| from + i * step));
        lens.push(n as usize);
    }
    let field = Arc::new(Field::new_list_field(NUMERIC, true));
    let values: ArrayRef = Arc::new(Decimal128Array::from(values).with_data_type(NUMERIC));
    let nulls = NullBuffer::from(is_valid);
    Ok(Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lens), values, Some(nulls))))
}

fn zero_step() -> Error {
    Error::user(SqlState::INVALID_PARAMETER_VALUE, "step size cannot equal zero")
}

fn elements_max() -> i128 {
    if crate::reading::folds() { FOLDED_ELEMENTS_MAX } else { MAX_ELEMENTS }
}

fn too_long() -> Error {
    Error::user(SqlState::PROGRAM_LIMIT_EXCEEDED, format!("series have more than {MAX_ELEMENTS} elements"))
}

/// `time_series(zone, from, to, step)`: each time is the one before it plus the step, by the calendar of the zone.
fn time_series(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let zone = settings_of(&args[0])?.time_zone;
    let (from, to) = (us_of(&args[1]), us_of(&args[2]));
    let steps = args[3].as_primitive::<IntervalMonthDayNanoType>();
    let mut values: Vec<i64> = Vec::new();
    let mut lens = Vec::with_capacity(n_rows);
    let mut is_valid = Vec::with_capacity(n_rows);
    for row in 0..n_rows {
        let valid = from.is_valid(row) && to.is_valid(row) && steps.is_valid(row);
        is_valid.push(valid);
        let n_before = values.len();
        if valid {
            extend_series(&mut values, (from.value(row), to.value(row)), steps.value(row), &zone)?;
        }
        lens.push(values.len() - n_before);
    }
    let data_type = args[1].data_type().clone();
    let field = Arc::new(Field::new_list_field(data_type.clone(), true));
    let values: ArrayRef = Arc::new(TimestampMicrosecondArray::from(values).with_data_type(data_type));
    let nulls = NullBuffer::from(is_valid);
    Ok(Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lens), values, Some(nulls))))
}

fn extend_series(
    values: &mut Vec<i64>,
    (from, to): (i64, i64),
    step: IntervalMonthDayNano,
    zone: &TimeZone,
) -> Result<(), Error> {
    // A month has 30 days where intervals are compared.
    let days = i128::from(step.months) * 30 + i128::from(step.days);
    let length = days * i128::from(NS_PER_DAY) + i128::from(step.nanoseconds);
    if length == 0 {
        return Err(zero_step());
    }
    let mut time = from;
    while if length > 0 { time <= to } else { time >= to } {
        if values.len() as i128 == elements_max() {
            return Err(too_long());
        }
        values.push(time);
        time = sum(time, step, 1, zone)?;
    }
    Ok(())
}
