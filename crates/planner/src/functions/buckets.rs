//! `width_bucket()`, over doubles and over exact numbers; counts of nulls among arguments.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, i256};
use millstream_types::{Error, SqlState};

use super::builtin::Spec;

/// The functions of this file.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: "width_bucket_double", returns: int, run: width_bucket_double, strict: true },
    Spec { name: "width_bucket_numeric", returns: int, run: width_bucket_numeric, strict: true },
    Spec { name: "num_nulls", returns: int, run: |a, n| Ok(count(a, n, true)), strict: false },
    Spec { name: "num_nonnulls", returns: int, run: |a, n| Ok(count(a, n, false)), strict: false },
];

fn int(_: &[DataType]) -> DataType {
    DataType::Int32
}

/// How many arguments of each row are null, or are not.
fn count(args: &[ArrayRef], n_rows: usize, nulls: bool) -> ArrayRef {
    let counts = (0..n_rows).map(|row| args.iter().filter(|a| a.is_null(row) == nulls).count() as i32);
    Arc::new(Int32Array::from_iter_values(counts))
}

fn invalid(message: &str) -> Error {
    Error::user(SqlState("2201G"), message)
}

/// One value for each row in which no argument is null. The last argument is the number of buckets.
fn buckets(
    args: &[ArrayRef],
    n_rows: usize,
    bucket: impl Fn(usize, i64) -> Result<i64, Error>,
) -> Result<ArrayRef, Error> {
    let counts = args[3].as_primitive::<Int64Type>();
    let mut out = Int32Array::builder(n_rows);
    for row in 0..n_rows {
        if args.iter().any(|a| a.is_null(row)) {
            out.append_null();
            continue;
        }
        if counts.value(row) <= 0 {
            return Err(invalid("count must be greater than zero"));
        }
        let number = i32::try_from(bucket(row, counts.value(row))?);
        let out_of_range = |_| Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "integer out of range");
        out.append_value(number.map_err(out_of_range)?);
    }
    Ok(Arc::new(out.finish()))
}

fn width_bucket_double(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let [x, low, high] = [0, 1, 2].map(|i| args[i].as_primitive::<Float64Type>());
    buckets(args, n_rows, |row, count| {
        let (x, low, high) = (x.value(row), low.value(row), high.value(row));
        if x.is_nan() || low.is_nan() || high.is_nan() {
            return Err(invalid("operand, lower bound, and upper bound cannot be NaN"));
        }
        if low.is_infinite() || high.is_infinite() {
            return Err(invalid("lower and upper bounds must be finite"));
        }
        if low == high {
            return Err(invalid("lower bound cannot equal upper bound"));
        }
        // Bounds in falling order number the buckets from the other end.
        let (from, to) = if low < high { (x - low, high - low) } else { (low - x, low - high) };
        Ok(match from {
            _ if from < 0.0 => 0,
            _ if from >= to => count + 1,
            _ => ((from / to * count as f64) as i64).min(count - 1) + 1,
        })
    })
}

fn width_bucket_numeric(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let columns = [0, 1, 2].map(|i| args[i].as_primitive::<Decimal128Type>());
    let scale = columns.iter().map(|c| c.scale()).max().unwrap_or(0);
    let at = |i: usize, row: usize| {
        let unit = i256::from_i128(10).wrapping_pow((scale - columns[i].scale()).max(0) as u32);
        i256::from_i128(columns[i].value(row)).wrapping_mul(unit)
    };
    buckets(args, n_rows, |row, count| {
        let (x, low, high) = (at(0, row), at(1, row), at(2, row));
        if low == high {
            return Err(invalid("lower bound cannot equal upper bound"));
        }
        let (from, to) = if low < high {
            (x.wrapping_sub(low), high.wrapping_sub(low))
        } else {
            (low.wrapping_sub(x), low.wrapping_sub(high))
        };
        if from < i256::ZERO {
            return Ok(0);
        }
        if from >= to {
            return Ok(count + 1);
        }
        let bucket = from.wrapping_mul(i256::from_i128(i128::from(count))).wrapping_div(to);
        Ok(bucket.to_i128().and_then(|b| i64::try_from(b).ok()).unwrap_or(count) + 1)
    })
}
