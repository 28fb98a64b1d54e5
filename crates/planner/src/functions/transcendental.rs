//! Roots, logarithms and powers: outside of their domains they are errors, not NaN.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::datatypes::{DataType, Float64Type};
use millstream_types::{Error, SqlState};

use super::builtin::Spec;
use super::not_a_number::one_nan;

/// `2201E`
pub(super) const INVALID_ARGUMENT_FOR_LOG: SqlState = SqlState("2201E");
/// `2201F`
pub(super) const INVALID_ARGUMENT_FOR_POWER: SqlState = SqlState("2201F");

/// The functions of this file. Each has the name by which Postgres knows it.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: "sqrt", returns: double, run: |a, _| map(a, sqrt), strict: true },
    Spec { name: "ln", returns: double, run: |a, _| map(a, |x| log(x, f64::ln)), strict: true },
    Spec { name: "log10", returns: double, run: |a, _| map(a, |x| log(x, f64::log10)), strict: true },
    Spec { name: "exp", returns: double, run: |a, _| map(a, exp), strict: true },
    Spec { name: "power", returns: double, run: |a, _| map2(a, power), strict: true },
    Spec { name: "asin", returns: double, run: |a, _| map(a, |x| within_one(x, f64::asin)), strict: true },
    Spec { name: "acos", returns: double, run: |a, _| map(a, |x| within_one(x, f64::acos)), strict: true },
    Spec { name: "sin", returns: double, run: |a, _| map(a, |x| of_angle(x, f64::sin)), strict: true },
    Spec { name: "cos", returns: double, run: |a, _| map(a, |x| of_angle(x, f64::cos)), strict: true },
    Spec { name: "tan", returns: double, run: |a, _| map(a, |x| of_angle(x, f64::tan)), strict: true },
];

fn double(_: &[DataType]) -> DataType {
    DataType::Float64
}

fn map(args: &[ArrayRef], f: fn(f64) -> Result<f64, Error>) -> Result<ArrayRef, Error> {
    let out: Float64Array = args[0].as_primitive::<Float64Type>().try_unary::<_, Float64Type, Error>(f)?;
    Ok(one_nan(Arc::new(out)))
}

fn map2(args: &[ArrayRef], f: fn(f64, f64) -> Result<f64, Error>) -> Result<ArrayRef, Error> {
    let (left, right) = (args[0].as_primitive::<Float64Type>(), args[1].as_primitive::<Float64Type>());
    let pairs = left.iter().zip(right);
    let out: Float64Array = pairs.map(|(l, r)| l.zip(r).map(|(l, r)| f(l, r)).transpose()).collect::<Result<_, _>>()?;
    Ok(one_nan(Arc::new(out)))
}

fn sqrt(x: f64) -> Result<f64, Error> {
    if x < 0.0 {
        return Err(Error::user(INVALID_ARGUMENT_FOR_POWER, "cannot take square root of a negative number"));
    }
    Ok(x.sqrt())
}

fn log(x: f64, f: fn(f64) -> f64) -> Result<f64, Error> {
    if x == 0.0 {
        return Err(Error::user(INVALID_ARGUMENT_FOR_LOG, "cannot take logarithm of zero"));
    }
    if x < 0.0 {
        return Err(Error::user(INVALID_ARGUMENT_FOR_LOG, "cannot take logarithm of a negative number"));
    }
    Ok(f(x))
}

/// The result, unless it has become infinite or zero of finite numbers.
fn in_range(result: f64, is_finite: bool, may_be_zero: bool) -> Result<f64, Error> {
    let error = |what: &str| Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, format!("value out of range: {what}"));
    if result.is_infinite() && is_finite {
        return Err(error("overflow"));
    }
    if result == 0.0 && is_finite && !may_be_zero {
        return Err(error("underflow"));
    }
    Ok(result)
}

fn exp(x: f64) -> Result<f64, Error> {
    in_range(x.exp(), x.is_finite(), false)
}

fn power(x: f64, y: f64) -> Result<f64, Error> {
    if x == 0.0 && y < 0.0 {
        let message = "zero raised to a negative power is undefined";
        return Err(Error::user(INVALID_ARGUMENT_FOR_POWER, message));
    }
    if x < 0.0 && y.is_finite() && y.fract() != 0.0 && x.is_finite() {
        let message = "a negative number raised to a non-integer power yields a complex result";
        return Err(Error::user(INVALID_ARGUMENT_FOR_POWER, message));
    }
    in_range(x.powf(y), x.is_finite() && y.is_finite(), x == 0.0)
}

fn of_angle(x: f64, f: fn(f64) -> f64) -> Result<f64, Error> {
    if x.is_infinite() {
        return Err(Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "input is out of range"));
    }
    Ok(f(x))
}

fn within_one(x: f64, f: fn(f64) -> f64) -> Result<f64, Error> {
    if x.abs() > 1.0 {
        return Err(Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "input is out of range"));
    }
    Ok(f(x))
}
