//! Dates, times and intervals made of their fields, and cut to one of them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::try_binary;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Float64Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Timelike};
use millstream_types::{Error, SqlState};

use super::builtin::Spec;
use super::temporal::us_of;
use crate::typing::types::{INTERVAL, Result, TIME, TIMESTAMP};

type Interval = IntervalMonthDayNanoType;

const US_PER_SECOND: i64 = 1_000_000;
const US_PER_MINUTE: i64 = 60 * US_PER_SECOND;
const US_PER_HOUR: i64 = 60 * US_PER_MINUTE;
const US_PER_DAY: i64 = 24 * US_PER_HOUR;

/// The functions of this file.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: "age", returns: |_| INTERVAL, run: age, strict: true },
    Spec { name: "make_date", returns: |_| DataType::Date32, run: make_date, strict: true },
    Spec { name: "make_time", returns: |_| TIME, run: make_time, strict: true },
    Spec { name: "make_timestamp", returns: |_| TIMESTAMP, run: make_timestamp, strict: true },
    Spec { name: "make_interval", returns: |_| INTERVAL, run: make_interval, strict: true },
    Spec { name: "trunc_interval", returns: |_| INTERVAL, run: trunc_interval, strict: true },
];

fn out_of_range(what: &str) -> Error {
    Error::user(SqlState::DATETIME_FIELD_OVERFLOW, format!("{what} out of range"))
}

/// One value for each row in which no argument is null.
fn rows<T: ArrowPrimitiveType>(
    args: &[ArrayRef],
    n_rows: usize,
    value: impl Fn(usize) -> Result<T::Native, Error>,
) -> Result<ArrayRef, Error> {
    let mut out = PrimitiveArray::<T>::builder(n_rows);
    for row in 0..n_rows {
        if args.iter().any(|a| a.is_null(row)) {
            out.append_null();
        } else {
            out.append_value(value(row)?);
        }
    }
    Ok(Arc::new(out.finish()))
}

/// The integer argument `i` of a row.
fn int(args: &[ArrayRef], i: usize, row: usize) -> i64 {
    args[i].as_primitive::<Int64Type>().value(row)
}

fn date_of(year: i64, month: i64, day: i64) -> Result<NaiveDate, Error> {
    // There is no year 0: -1 is 1 BC.
    let astronomical = if year < 0 { year + 1 } else { year };
    let date = match (i32::try_from(astronomical), u32::try_from(month), u32::try_from(day)) {
        (Ok(y), Ok(m), Ok(d)) if year != 0 => NaiveDate::from_ymd_opt(y, m, d),
        _ => None,
    };
    let message = || format!("date field value out of range: {year}-{month:02}-{day:02}");
    date.ok_or_else(|| Error::user(SqlState::DATETIME_FIELD_OVERFLOW, message()))
}

/// Microseconds since midnight.
fn time_of(hour: i64, minute: i64, second: f64) -> Result<i64, Error> {
    let us = (second * 1e6).round_ties_even();
    let in_range = (0..=23).contains(&hour) && (0..=59).contains(&minute) && (0.0..=60e6).contains(&us);
    if in_range {
        return Ok(hour * US_PER_HOUR + minute * US_PER_MINUTE + us as i64);
    }
    let message = format!("time field value out of range: {hour}:{minute:02}:{second:02}");
    Err(Error::user(SqlState::DATETIME_FIELD_OVERFLOW, message))
}

/// Days since 1970.
pub(super) fn days_of(date: NaiveDate) -> i32 {
    date.signed_duration_since(NaiveDate::default()).num_days() as i32
}

/// `make_date(year, month, day)`
fn make_date(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    rows::<Date32Type>(args, n_rows, |row| {
        date_of(int(args, 0, row), int(args, 1, row), int(args, 2, row)).map(days_of)
    })
}

/// `make_time(hour, min, sec)`
fn make_time(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let seconds = args[2].as_primitive::<Float64Type>();
    rows::<Time64MicrosecondType>(args, n_rows, |row| time_of(int(args, 0, row), int(args, 1, row), seconds.value(row)))
}

/// `make_timestamp(year, month, mday, hour, min, sec)`
fn make_timestamp(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let seconds = args[5].as_primitive::<Float64Type>();
    rows::<TimestampMicrosecondType>(args, n_rows, |row| {
        let date = date_of(int(args, 0, row), int(args, 1, row), int(args, 2, row))?;
        let time = time_of(int(args, 3, row), int(args, 4, row), seconds.value(row))?;
        Ok(i64::from(days_of(date)) * US_PER_DAY + time)
    })
}

/// `make_interval(years, months, weeks, days, hours, mins, secs)`
fn make_interval(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let seconds = args[6].as_primitive::<Float64Type>();
    rows::<Interval>(args, n_rows, |row| {
        let at = |i: usize| int(args, i, row);
        let months = at(0).checked_mul(12).and_then(|m| m.checked_add(at(1))).and_then(|m| i32::try_from(m).ok());
        let days = at(2).checked_mul(7).and_then(|d| d.checked_add(at(3))).and_then(|d| i32::try_from(d).ok());
        let us = (seconds.value(row) * 1e6).round_ties_even();
        let ns = at(4)
            .checked_mul(US_PER_HOUR)
            .and_then(|t| at(5).checked_mul(US_PER_MINUTE).and_then(|m| t.checked_add(m)))
            .filter(|_| us.abs() < 9e18)
            .and_then(|t| t.checked_add(us as i64))
            .and_then(|t| t.checked_mul(1000));
        match (months, days, ns) {
            (Some(months), Some(days), Some(ns)) => Ok(IntervalMonthDayNano::new(months, days, ns)),
            _ => Err(out_of_range("interval")),
        }
    })
}

/// `age(later, earlier)`: years, months and days by the calendar, not a number of days.
fn age(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    let (later, earlier) = (us_of(&args[0]), us_of(&args[1]));
    let time = |us: i64| DateTime::from_timestamp_micros(us).map(|t| t.naive_utc());
    let out: PrimitiveArray<Interval> = try_binary(&later, &earlier, |l, e| match (time(l), time(e)) {
        (Some(l), Some(e)) => Ok(calendar_difference(l, e)),
        _ => Err(arrow::error::ArrowError::ArithmeticOverflow(String::new())),
    })
    .map_err(|_| out_of_range("timestamp"))?;
    Ok(Arc::new(out))
}

/// Field by field; what is negative borrows from the next field, days from the month in which the earlier time lies.
fn calendar_difference(a: NaiveDateTime, b: NaiveDateTime) -> IntervalMonthDayNano {
    let (later, earlier, sign) = if a < b { (b, a, -1) } else { (a, b, 1) };
    let us_of_day =
        |t: NaiveDateTime| i64::from(t.num_seconds_from_midnight()) * US_PER_SECOND + i64::from(t.nanosecond() / 1000);
    let mut us = us_of_day(later) - us_of_day(earlier);
    let mut days = later.day() as i32 - earlier.day() as i32;
    let months = (later.year() - earlier.year()) * 12 + later.month() as i32 - earlier.month() as i32;
    let mut borrowed = 0;
    if us < 0 {
        us += US_PER_DAY;
        days -= 1;
    }
    if days < 0 {
        days += days_in_month(earlier.year(), earlier.month());
        borrowed = 1;
    }
    IntervalMonthDayNano::new(sign * (months - borrowed), sign * days, i64::from(sign) * us * 1000)
}

fn days_in_month(year: i32, month: u32) -> i32 {
    let (next_year, next) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    let first = NaiveDate::from_ymd_opt(next_year, next, 1);
    first.and_then(|d| d.pred_opt()).map_or(31, |last| last.day() as i32)
}

/// `date_trunc(field, interval)`
fn trunc_interval(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let fields = args[0].as_string_view();
    let intervals = args[1].as_primitive::<Interval>();
    rows::<Interval>(args, n_rows, |row| truncated(fields.value(row), intervals.value(row)))
}

fn truncated(field: &str, i: IntervalMonthDayNano) -> Result<IntervalMonthDayNano, Error> {
    let months = |n: i32| IntervalMonthDayNano::new(i.months - i.months % n, 0, 0);
    let time = |us: i64| {
        let ns = us * 1000;
        IntervalMonthDayNano::new(i.months, i.days, i.nanoseconds - i.nanoseconds % ns)
    };
    let lower = field.to_ascii_lowercase();
    Ok(match lower.strip_suffix('s').unwrap_or(&lower) {
        "millennium" | "millennia" => months(12_000),
        "century" | "centurie" => months(1200),
        "decade" => months(120),
        "year" => months(12),
        "quarter" => months(3),
        "month" => months(1),
        "day" => IntervalMonthDayNano::new(i.months, i.days, 0),
        "hour" => time(US_PER_HOUR),
        "minute" => time(US_PER_MINUTE),
        "second" => time(US_PER_SECOND),
        "millisecond" => time(1000),
        "microsecond" => time(1),
        "week" => {
            let message = format!("unit \"{field}\" not supported for type interval");
            return Err(Error::user(SqlState::FEATURE_NOT_SUPPORTED, message)
                .with_detail("Months usually have fractional weeks."));
        }
        _ => {
            let message = format!("unit \"{field}\" not recognized for type interval");
            return Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, message));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> NaiveDateTime {
        text.parse().expect("a time")
    }

    #[test]
    fn ages_go_by_the_calendar() {
        let between = |a: &str, b: &str| {
            let i = calendar_difference(time(a), time(b));
            (i.months, i.days, i.nanoseconds / 1_000_000_000)
        };
        assert_eq!(between("2024-03-01T00:00:00", "2023-01-31T00:00:00"), (13, 1, 0));
        assert_eq!(between("2023-01-31T00:00:00", "2024-03-01T00:00:00"), (-13, -1, 0));
        assert_eq!(between("2024-03-01T00:00:00", "2024-02-29T12:00:00"), (0, 0, 43_200));
        assert_eq!(between("2024-03-31T00:00:00", "2024-02-29T00:00:00"), (1, 2, 0));
    }
}
