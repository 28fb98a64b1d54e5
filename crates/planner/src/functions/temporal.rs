//! Arithmetic of dates, times and intervals where Arrow has none, or another one.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, PrimitiveArray};
use arrow::compute::{binary, try_binary};
use arrow::datatypes::{
    DataType, Date32Type, Float64Type, Int32Type, IntervalMonthDayNano, IntervalMonthDayNanoType,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use millstream_types::pg::TimeZone;
use millstream_types::{Error, SqlState};

use super::builtin::Spec;
use crate::typing::types::{INTERVAL, Result, TIME, TIMESTAMP, timestamptz};

const US_PER_DAY: i64 = 86_400_000_000;
const NS_PER_DAY: i64 = US_PER_DAY * 1000;

type Interval = IntervalMonthDayNanoType;

/// The functions of this file.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: "interval_add", returns: |_| INTERVAL, run: |a, _| add(a, 1), strict: true },
    Spec { name: "interval_subtract", returns: |_| INTERVAL, run: |a, _| add(a, -1), strict: true },
    Spec { name: "interval_multiply", returns: |_| INTERVAL, run: |a, _| scale(a, Factor::Times), strict: true },
    Spec { name: "interval_divide", returns: |_| INTERVAL, run: |a, _| scale(a, Factor::Over), strict: true },
    Spec { name: "date_difference", returns: |_| DataType::Int32, run: date_difference, strict: true },
    Spec { name: "timestamp_difference", returns: |_| INTERVAL, run: timestamp_difference, strict: true },
    Spec { name: "date_at_time", returns: |_| TIMESTAMP, run: date_at_time, strict: true },
    Spec { name: "is_finite", returns: |_| DataType::Boolean, run: is_finite, strict: true },
    Spec { name: "time_plus", returns: |_| TIME, run: time_plus, strict: true },
    Spec { name: "time_difference", returns: |_| INTERVAL, run: time_difference, strict: true },
    Spec { name: "justify_hours", returns: |_| INTERVAL, run: |a, _| justify(a, false), strict: true },
    Spec { name: "justify_days", returns: |_| INTERVAL, run: |a, _| justify_days(a), strict: true },
    Spec { name: "justify_interval", returns: |_| INTERVAL, run: |a, _| justify(a, true), strict: true },
    Spec { name: "seconds_to_timestamp", returns: |_| timestamptz(), run: seconds_to_timestamp, strict: true },
    Spec { name: "date_bin", returns: |args| args[1].clone(), run: bin_timestamp, strict: true },
    Spec { name: "at_time_zone", returns: other_timestamp, run: at_time_zone, strict: true },
];

/// The interval a fraction of the way from one to another.
pub(super) fn interval_between(from: &ArrayRef, to: &ArrayRef, fraction: f64) -> Result<ArrayRef, Error> {
    let way = add(&[to.clone(), from.clone()], -1)?;
    let fractions: ArrayRef = Arc::new(Float64Array::from(vec![fraction; from.len()]));
    add(&[from.clone(), scale(&[way, fractions], Factor::Times)?], 1)
}

fn interval_overflow() -> Error {
    Error::user(SqlState::DATETIME_FIELD_OVERFLOW, "interval out of range")
}

fn add(args: &[ArrayRef], sign: i32) -> Result<ArrayRef, Error> {
    let (left, right) = (args[0].as_primitive::<Interval>(), args[1].as_primitive::<Interval>());
    let sum = |l: IntervalMonthDayNano, r: IntervalMonthDayNano| {
        let months = r.months.checked_mul(sign).and_then(|m| l.months.checked_add(m))?;
        let days = r.days.checked_mul(sign).and_then(|d| l.days.checked_add(d))?;
        let ns = r.nanoseconds.checked_mul(i64::from(sign)).and_then(|n| l.nanoseconds.checked_add(n))?;
        Some(IntervalMonthDayNano::new(months, days, ns))
    };
    let out: PrimitiveArray<Interval> = try_interval(left, right, sum)?;
    Ok(Arc::new(out))
}

fn try_interval<T: arrow::datatypes::ArrowPrimitiveType>(
    left: &PrimitiveArray<Interval>,
    right: &PrimitiveArray<T>,
    f: impl Fn(IntervalMonthDayNano, T::Native) -> Option<IntervalMonthDayNano>,
) -> Result<PrimitiveArray<Interval>, Error> {
    let overflow = || arrow::error::ArrowError::ExternalError(Box::new(interval_overflow()));
    try_binary(left, right, |l, r| f(l, r).ok_or_else(overflow)).map_err(|_| interval_overflow())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Factor {
    Times,
    Over,
}

/// Fractions of months go to days, fractions of days to time, rounded where Postgres does.
fn scale(args: &[ArrayRef], how: Factor) -> Result<ArrayRef, Error> {
    let intervals = args[0].as_primitive::<Interval>();
    let factors = args[1].as_primitive::<Float64Type>();
    // A null is not divided by anything: the average of no rows is null.
    let is_zero = |(i, f): (Option<_>, Option<f64>)| i.is_some() && f == Some(0.0);
    if how == Factor::Over && intervals.iter().zip(factors).any(is_zero) {
        return Err(Error::user(SqlState::DIVISION_BY_ZERO, "division by zero"));
    }
    Ok(Arc::new(try_interval(intervals, factors, |i, f| {
        scaled(i, |v| if how == Factor::Times { v * f } else { v / f })
    })?))
}

/// The parts of an interval, each scaled; nothing if they do not fit.
fn scaled(i: IntervalMonthDayNano, apply: impl Fn(f64) -> f64) -> Option<IntervalMonthDayNano> {
    const S_PER_DAY: f64 = 86_400.0;
    let (months, days) = (apply(f64::from(i.months)), apply(f64::from(i.days)));
    let month_days = round_us((months - months.trunc()) * 30.0);
    let mut rest_s = round_us((days - days.trunc() + month_days - month_days.trunc()) * S_PER_DAY);
    let rest_days = (rest_s / S_PER_DAY).trunc();
    rest_s -= rest_days * S_PER_DAY;
    let us = (apply(i.nanoseconds as f64 / 1000.0) + rest_s * 1e6).round_ties_even();
    let days = days.trunc() + rest_days + month_days.trunc();
    let fits = |v: f64| v.abs() <= f64::from(i32::MAX);
    let is_in_range = fits(months) && fits(days) && us.abs() <= 9.2e15;
    is_in_range.then(|| IntervalMonthDayNano::new(months.trunc() as i32, days as i32, us as i64 * 1000))
}

/// Seconds, or days, rounded to their millionths.
fn round_us(value: f64) -> f64 {
    (value * 1e6).round_ties_even() / 1e6
}

/// Whether a date or a time is not `infinity` or `-infinity`; an interval never is.
fn is_finite(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    let finite = match args[0].data_type() {
        DataType::Interval(_) => BooleanArray::from_unary(args[0].as_primitive::<Interval>(), |_| true),
        _ => BooleanArray::from_unary(&us_of(&args[0]), |us| us != i64::MAX && us != i64::MIN),
    };
    Ok(Arc::new(finite))
}

/// Days between two dates.
fn date_difference(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    let (left, right) = (args[0].as_primitive::<Date32Type>(), args[1].as_primitive::<Date32Type>());
    let is_infinite = |d: i32| d == i32::MAX || d == i32::MIN;
    if [left, right].iter().any(|dates| dates.iter().flatten().any(is_infinite)) {
        return Err(Error::user(SqlState::DATETIME_FIELD_OVERFLOW, "cannot subtract infinite dates"));
    }
    let days: PrimitiveArray<Int32Type> = binary(left, right, i32::wrapping_sub)?;
    Ok(Arc::new(days))
}

/// Whole days and the time that is left; never months.
fn timestamp_difference(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    let (left, right) = (us_of(&args[0]), us_of(&args[1]));
    let is_infinite = |us: i64| us == i64::MAX || us == i64::MIN;
    if [&left, &right].iter().any(|times| times.iter().flatten().any(is_infinite)) {
        return Err(Error::user(SqlState::DATETIME_FIELD_OVERFLOW, "cannot subtract infinite timestamps"));
    }
    let out: PrimitiveArray<Interval> = try_binary(&left, &right, |l, r| {
        let overflow = || arrow::error::ArrowError::ArithmeticOverflow(String::new());
        let us = l.checked_sub(r).ok_or_else(overflow)?;
        let days = i32::try_from(us / US_PER_DAY).map_err(|_| overflow())?;
        Ok::<_, arrow::error::ArrowError>(IntervalMonthDayNano::new(0, days, us % US_PER_DAY * 1000))
    })
    .map_err(|_| interval_overflow())?;
    Ok(Arc::new(out))
}

/// Microseconds since 1970 of a timestamp with or without zone, or of a date.
pub(super) fn us_of(array: &ArrayRef) -> PrimitiveArray<TimestampMicrosecondType> {
    match array.data_type() {
        DataType::Date32 => array.as_primitive::<Date32Type>().unary(|d| match d {
            i32::MAX => i64::MAX,
            i32::MIN => i64::MIN,
            // Dates reach further than timestamps do.
            d => i64::from(d).saturating_mul(US_PER_DAY),
        }),
        _ => {
            let plain = array.as_primitive::<TimestampMicrosecondType>();
            PrimitiveArray::new(plain.values().clone(), plain.nulls().cloned())
        }
    }
}

fn date_at_time(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    let (dates, times) = (args[0].as_primitive::<Date32Type>(), args[1].as_primitive::<Time64MicrosecondType>());
    let out: PrimitiveArray<TimestampMicrosecondType> = binary(dates, times, |d, t| i64::from(d) * US_PER_DAY + t)?;
    Ok(Arc::new(out))
}

fn time_plus(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    let (times, intervals) = (args[0].as_primitive::<Time64MicrosecondType>(), args[1].as_primitive::<Interval>());
    let out: PrimitiveArray<Time64MicrosecondType> =
        binary(times, intervals, |t, i| (t + i.nanoseconds / 1000).rem_euclid(US_PER_DAY))?;
    Ok(Arc::new(out))
}

fn time_difference(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    let (l, r) = (args[0].as_primitive::<Time64MicrosecondType>(), args[1].as_primitive::<Time64MicrosecondType>());
    let out: PrimitiveArray<Interval> = binary(l, r, |l, r| IntervalMonthDayNano::new(0, 0, (l - r) * 1000))?;
    Ok(Arc::new(out))
}

fn justify(args: &[ArrayRef], with_months: bool) -> Result<ArrayRef, Error> {
    let out: PrimitiveArray<Interval> = args[0].as_primitive::<Interval>().unary(|i| {
        let mut days = i64::from(i.days) + i.nanoseconds / NS_PER_DAY;
        let mut ns = i.nanoseconds % NS_PER_DAY;
        let mut months = i64::from(i.months);
        if with_months {
            months += days / 30;
            days %= 30;
            if months > 0 && (days < 0 || (days == 0 && ns < 0)) {
                days += 30;
                months -= 1;
            } else if months < 0 && (days > 0 || (days == 0 && ns > 0)) {
                days -= 30;
                months += 1;
            }
        }
        if days > 0 && ns < 0 {
            ns += NS_PER_DAY;
            days -= 1;
        } else if days < 0 && ns > 0 {
            ns -= NS_PER_DAY;
            days += 1;
        }
        IntervalMonthDayNano::new(months as i32, days as i32, ns)
    });
    Ok(Arc::new(out))
}

fn justify_days(args: &[ArrayRef]) -> Result<ArrayRef, Error> {
    let out: PrimitiveArray<Interval> = args[0].as_primitive::<Interval>().unary(|i| {
        let (mut months, mut days) = (i.months + i.days / 30, i.days % 30);
        if months > 0 && days < 0 {
            days += 30;
            months -= 1;
        } else if months < 0 && days > 0 {
            days -= 30;
            months += 1;
        }
        IntervalMonthDayNano::new(months, days, i.nanoseconds)
    });
    Ok(Arc::new(out))
}

fn seconds_to_timestamp(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    let out: PrimitiveArray<TimestampMicrosecondType> =
        args[0].as_primitive::<Float64Type>().try_unary::<_, TimestampMicrosecondType, Error>(|seconds| {
            let us = (seconds * 1e6).round_ties_even();
            if us.is_nan() || us.abs() > 9.2e18 {
                return Err(Error::user(SqlState::DATETIME_FIELD_OVERFLOW, "timestamp out of range"));
            }
            Ok(us as i64)
        })?;
    Ok(Arc::new(out.with_timezone("UTC")))
}

/// `date_bin(stride, timestamp, origin)`: the beginning of the stride that the timestamp lies in.
fn bin_timestamp(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let strides = args[0].as_primitive::<Interval>();
    let (times, origins) = (us_of(&args[1]), us_of(&args[2]));
    let mut out = PrimitiveArray::<TimestampMicrosecondType>::builder(n_rows);
    for i in 0..n_rows {
        if strides.is_null(i) || times.is_null(i) || origins.is_null(i) {
            out.append_null();
            continue;
        }
        let stride = strides.value(i);
        let stride_us = i64::from(stride.days) * US_PER_DAY + stride.nanoseconds / 1000;
        if stride.months != 0 {
            let message = "timestamps cannot be binned into intervals containing months or years";
            return Err(Error::user(SqlState::FEATURE_NOT_SUPPORTED, message));
        }
        if stride_us <= 0 {
            let message = "stride must be greater than zero";
            return Err(Error::user(SqlState::DATETIME_FIELD_OVERFLOW, message));
        }
        out.append_value(times.value(i) - (times.value(i) - origins.value(i)).rem_euclid(stride_us));
    }
    let out = out.finish();
    match args[1].data_type() {
        DataType::Timestamp(_, Some(zone)) => Ok(Arc::new(out.with_timezone(zone.clone()))),
        _ => Ok(Arc::new(out)),
    }
}

fn other_timestamp(args: &[DataType]) -> DataType {
    match args.get(1) {
        Some(DataType::Timestamp(_, Some(_))) => TIMESTAMP,
        _ => timestamptz(),
    }
}

/// `timezone(zone, timestamp)`: a local time as an instant, or an instant as the local time there.
fn at_time_zone(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let zones = args[0].as_string_view();
    let to_local = matches!(args[1].data_type(), DataType::Timestamp(_, Some(_)));
    let times = us_of(&args[1]);
    let mut known: Option<(String, TimeZone)> = None;
    let mut out = PrimitiveArray::<TimestampMicrosecondType>::builder(n_rows);
    for i in 0..n_rows {
        if zones.is_null(i) || times.is_null(i) {
            out.append_null();
            continue;
        }
        let name = zones.value(i);
        if known.as_ref().is_none_or(|(n, _)| n != name) {
            known = Some((name.to_string(), TimeZone::parse(name)?));
        }
        let zone = &known.as_ref().expect("set above").1;
        let us = times.value(i);
        let shifted = if to_local { Some(us + i64::from(zone.offset_at(us)) * 1_000_000) } else { zone.to_utc(us) };
        let out_of_range = || Error::user(SqlState::DATETIME_FIELD_OVERFLOW, "timestamp out of range");
        out.append_value(shifted.ok_or_else(out_of_range)?);
    }
    let out = out.finish();
    Ok(if to_local { Arc::new(out) } else { Arc::new(out.with_timezone("UTC")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intervals(values: &[(i32, i32, i64)]) -> ArrayRef {
        let values = values.iter().map(|(m, d, us)| IntervalMonthDayNano::new(*m, *d, us * 1000));
        Arc::new(PrimitiveArray::<Interval>::from_iter_values(values))
    }

    #[test]
    fn fractions_of_months_become_days() {
        let half: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![0.5]));
        let out = scale(&[intervals(&[(1, 1, 0)]), half], Factor::Times).unwrap();
        assert_eq!(&out, &intervals(&[(0, 15, 12 * 3_600_000_000)]));
    }
}
