//! Rounding as Postgres does it: decimals half away from zero, floats half to even.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int32Array};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type};
use millstream_types::Error;

use super::builtin::Spec;
use super::numeric::rescale_decimal;
use crate::typing::types::decimal_parts;

/// The functions of this file.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: "min_scale", returns: |_| DataType::Int32, run: min_scale, strict: true },
    Spec {
        name: "round_float",
        returns: |_| DataType::Float64,
        run: |a, _| floats(a, f64::round_ties_even),
        strict: true,
    },
    Spec { name: "trunc_float", returns: |_| DataType::Float64, run: |a, _| floats(a, f64::trunc), strict: true },
    Spec { name: "round_numeric", returns: same, run: |a, n| decimals(a, n, Mode::Round), strict: true },
    Spec { name: "trunc_numeric", returns: same, run: |a, n| decimals(a, n, Mode::Truncate), strict: true },
    Spec { name: "ceil_numeric", returns: whole, run: |a, n| decimals(a, n, Mode::Up), strict: true },
    Spec { name: "floor_numeric", returns: whole, run: |a, n| decimals(a, n, Mode::Down), strict: true },
    Spec { name: "round_whole", returns: whole, run: |a, n| decimals(a, n, Mode::Round), strict: true },
    Spec { name: "trunc_whole", returns: whole, run: |a, n| decimals(a, n, Mode::Truncate), strict: true },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Round,
    Truncate,
    Up,
    Down,
}

fn scaled(scale: i8) -> DataType {
    DataType::Decimal128(38, scale)
}

fn same(args: &[DataType]) -> DataType {
    let (_, scale) = decimal_parts(&args[0]);
    DataType::Decimal128(38, scale)
}

fn whole(_: &[DataType]) -> DataType {
    scaled(0)
}

fn floats(args: &[ArrayRef], f: fn(f64) -> f64) -> Result<ArrayRef, Error> {
    let out: Float64Array = args[0].as_primitive::<Float64Type>().unary(f);
    Ok(Arc::new(out))
}

/// Rounds to a number of digits, given as second argument (0 without one).
fn decimals(args: &[ArrayRef], n_rows: usize, mode: Mode) -> Result<ArrayRef, Error> {
    let values = args[0].as_primitive::<Decimal128Type>();
    let digits = args.get(1).map(|a| a.as_primitive::<Int64Type>());
    let from = values.scale();
    // Without digits the result is whole; else it keeps the argument's scale, and the caller casts to constant digits.
    let to = match digits {
        None => 0,
        Some(_) => from,
    };
    let mut out = Decimal128Array::builder(n_rows);
    for i in 0..n_rows {
        if values.is_null(i) || digits.is_some_and(|d| d.is_null(i)) {
            out.append_null();
            continue;
        }
        let wanted = digits.map_or(0, |d| d.value(i)).clamp(-38, i64::from(from)) as i8;
        let rounded = rounded(values.value(i), from, wanted, mode)?;
        out.append_value(rescale_decimal(rounded, from, to)?);
    }
    Ok(Arc::new(out.finish().with_precision_and_scale(38, to)?))
}

/// The value at its own scale with the digits beyond `wanted` zero.
fn rounded(value: i128, scale: i8, wanted: i8, mode: Mode) -> Result<i128, Error> {
    let dropped = u32::try_from(scale - wanted).unwrap_or(0);
    if dropped == 0 {
        return Ok(value);
    }
    let Some(unit) = 10i128.checked_pow(dropped) else { return Ok(0) };
    let rest = value % unit;
    let down = value - rest;
    Ok(match mode {
        Mode::Truncate => down,
        Mode::Round if rest.abs() * 2 >= unit => down + unit * rest.signum(),
        Mode::Round => down,
        Mode::Up => down + if rest > 0 { unit } else { 0 },
        Mode::Down => down - if rest < 0 { unit } else { 0 },
    })
}

/// How many digits after the point a number needs.
fn min_scale(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    let numbers = args[0].as_primitive::<Decimal128Type>();
    let scale = i32::from(numbers.scale());
    let needed: Int32Array = numbers.unary(|mut value| {
        let mut needed = scale;
        while needed > 0 && value % 10 == 0 {
            (value, needed) = (value / 10, needed - 1);
        }
        needed
    });
    Ok(Arc::new(needed))
}
