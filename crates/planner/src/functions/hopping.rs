//! The windows of `HOP` that a row falls into, as an array.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, PrimitiveArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, TimestampMicrosecondType};
use millstream_types::{Error, SqlState};

use super::builtin::Spec;
use super::temporal::us_of;
use crate::typing::types::array_of;

pub(super) static SPECS: &[Spec] =
    &[Spec { name: WINDOW_STARTS, returns: |args| array_of(&args[0]), run: window_starts, strict: true }];

/// `window_starts(last, slide_us, n)`: the starts of the `n` windows of which the last one starts at `last`, ascending.
/// The slide, in microseconds, and the number are the same for all rows.
pub(crate) const WINDOW_STARTS: &str = "window_starts";

fn window_starts(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let lasts = us_of(&args[0]);
    let (slide_us, n) = (constant(&args[1])?, constant(&args[2])?);
    let out_of_range = || Error::user(SqlState::DATETIME_FIELD_OVERFLOW, "timestamp out of range");
    let first = |last: i64| last.checked_sub(slide_us.checked_mul(n - 1)?);
    let mut starts: Vec<i64> = Vec::with_capacity(n_rows * n as usize);
    for row in 0..n_rows {
        // What stands under a null is never looked at, but has to be there: all arrays are of one length.
        let last = if lasts.is_valid(row) { lasts.value(row) } else { 0 };
        let first = first(last).ok_or_else(out_of_range)?;
        starts.extend((0..n).map(|i| first + i * slide_us));
    }
    let starts = PrimitiveArray::<TimestampMicrosecondType>::new(starts.into(), None);
    let starts: ArrayRef = match args[0].data_type() {
        DataType::Timestamp(_, Some(zone)) => Arc::new(starts.with_timezone(zone.clone())),
        _ => Arc::new(starts),
    };
    let field = Arc::new(Field::new_list_field(starts.data_type().clone(), true));
    let offsets = OffsetBuffer::from_repeated_length(n as usize, n_rows);
    Ok(Arc::new(ListArray::new(field, offsets, starts, lasts.nulls().cloned())))
}

/// The first value of a column of integers of any width.
fn constant(arg: &ArrayRef) -> Result<i64, Error> {
    let values = cast(&arg.slice(0, arg.len().min(1)), &DataType::Int64)?;
    Ok(values.as_primitive::<Int64Type>().iter().next().flatten().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, TimestampMicrosecondArray};

    #[test]
    fn windows_end_with_the_last_and_nulls_have_none() {
        let lasts: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![Some(100), None, Some(7)]));
        let constant = |value: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![value; 3])) };
        let out = window_starts(&[lasts, constant(10), constant(3)], 3).expect("in range");
        let lists = out.as_list::<i32>();
        let starts = |row: usize| lists.value(row).as_primitive::<TimestampMicrosecondType>().values().to_vec();
        assert_eq!((starts(0), starts(2)), (vec![80, 90, 100], vec![-13, -3, 7]));
        assert!(lists.is_null(1));
        let least: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![i64::MIN]));
        assert!(window_starts(&[least, constant(10), constant(3)], 1).is_err());
    }
}
