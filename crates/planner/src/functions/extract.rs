//! `extract(field FROM ...)` and `date_part('field', ...)`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array};
use arrow::datatypes::{DataType, IntervalMonthDayNanoType, Time64MicrosecondType};
use chrono::{DateTime, Datelike, NaiveDateTime};
use millstream_types::{Error, SqlState};

use super::builtin::Spec;
use super::temporal::us_of;
use crate::typing::types::{Class, type_name};

const US_PER_DAY: i64 = 86_400_000_000;

/// The functions of this file, one for each number of digits after the point; the first argument names the field.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: "extract_0", returns: |_| DataType::Decimal128(38, 0), run: |a, n| extract(a, n, 0), strict: true },
    Spec { name: "extract_3", returns: |_| DataType::Decimal128(38, 3), run: |a, n| extract(a, n, 3), strict: true },
    Spec { name: "extract_6", returns: |_| DataType::Decimal128(38, 6), run: |a, n| extract(a, n, 6), strict: true },
];

/// The function that prints a field of a type with as many digits as Postgres.
pub(super) fn function_of(field: &str) -> &'static str {
    match canonical_field(field) {
        "second" | "epoch" => "extract_6",
        "milliseconds" => "extract_3",
        _ => "extract_0",
    }
}

/// Fields under one name each; unknown ones as they are written.
fn canonical_field(field: &str) -> &str {
    match field {
        "years" | "yr" | "yrs" | "y" => "year",
        "months" | "mon" | "mons" => "month",
        "days" | "d" => "day",
        "hours" | "hr" | "hrs" | "h" => "hour",
        "minutes" | "min" | "mins" | "m" => "minute",
        "seconds" | "sec" | "secs" | "s" => "second",
        "millisecond" | "msec" | "msecs" | "ms" => "milliseconds",
        "microsecond" | "usec" | "usecs" | "us" => "microseconds",
        "weeks" | "w" => "week",
        "quarters" | "qtr" => "quarter",
        "decades" | "dec" | "decs" => "decade",
        "centuries" | "c" | "cent" => "century",
        "millenniums" | "millennia" | "mil" | "mils" => "millennium",
        other => other,
    }
}

/// A point in time, or a span, taken apart.
struct Parts {
    date: Option<NaiveDateTime>,
    /// months, days: of an interval
    span: Option<(i64, i64)>,
    /// Microseconds of the day, or of an interval's time.
    time_us: i64,
    /// Microseconds since 1970, or of the whole interval.
    epoch_us: i128,
}

fn extract(args: &[ArrayRef], n_rows: usize, scale: i8) -> Result<ArrayRef, Error> {
    let fields = args[0].as_string_view();
    let source = &args[1];
    let class = Class::of(source.data_type());
    let mut out = Decimal128Array::builder(n_rows);
    for i in 0..n_rows {
        if fields.is_null(i) || source.is_null(i) {
            out.append_null();
            continue;
        }
        let lower = fields.value(i).to_ascii_lowercase();
        let field = canonical_field(&lower);
        let parts = parts_of(source, class, i)?;
        let us = value_us(field, &parts, class).ok_or_else(|| unknown_field(&lower, source.data_type()))?;
        // `us` is the value times a million.
        let divisor = 10i128.pow(6 - scale as u32);
        out.append_value(us / divisor);
    }
    Ok(Arc::new(out.finish().with_precision_and_scale(38, scale)?))
}

fn unknown_field(field: &str, data_type: &DataType) -> Error {
    let known = ["year", "month", "day", "hour", "minute", "second", "dow", "doy", "isodow", "isoyear", "week"];
    let state =
        if known.contains(&field) { SqlState::FEATURE_NOT_SUPPORTED } else { SqlState::INVALID_PARAMETER_VALUE };
    let verdict = if known.contains(&field) { "not supported" } else { "not recognized" };
    Error::user(state, format!("unit \"{field}\" {verdict} for type {}", type_name(data_type)))
}

fn parts_of(source: &ArrayRef, class: Class, i: usize) -> Result<Parts, Error> {
    match class {
        Class::Interval => {
            let v = source.as_primitive::<IntervalMonthDayNanoType>().value(i);
            let us = v.nanoseconds / 1000;
            let (years, months) = (i128::from(v.months / 12), i128::from(v.months % 12));
            // A year is 365.25 days here, a month 30.
            let days_us = i128::from(US_PER_DAY);
            let epoch_us = years * 31_557_600_000_000 + (months * 30 + i128::from(v.days)) * days_us + i128::from(us);
            Ok(Parts { date: None, span: Some((i64::from(v.months), i64::from(v.days))), time_us: us, epoch_us })
        }
        Class::Time => {
            let us = source.as_primitive::<Time64MicrosecondType>().value(i);
            Ok(Parts { date: None, span: None, time_us: us, epoch_us: i128::from(us) })
        }
        _ => {
            let us = us_of(&source.slice(i, 1)).value(0);
            let date = DateTime::from_timestamp_micros(us)
                .ok_or_else(|| Error::user(SqlState::DATETIME_FIELD_OVERFLOW, "timestamp out of range"))?
                .naive_utc();
            let time_us = us.rem_euclid(US_PER_DAY);
            Ok(Parts { date: Some(date), span: None, time_us, epoch_us: i128::from(us) })
        }
    }
}

/// The field's value times a million; `None` if the type has no such field.
fn value_us(field: &str, parts: &Parts, class: Class) -> Option<i128> {
    const M: i128 = 1_000_000;
    let time = i128::from(parts.time_us);
    let of_time = match field {
        "epoch" => Some(parts.epoch_us),
        "hour" => Some(time / 3_600_000_000 * M),
        "minute" => Some(time / 60_000_000 % 60 * M),
        "second" => Some(time % 60_000_000),
        "milliseconds" => Some(time % 60_000_000 * 1000),
        "microseconds" => Some(time % 60_000_000 * M),
        _ => None,
    };
    if class == Class::Date && of_time.is_some() && field != "epoch" {
        return None;
    }
    if of_time.is_some() {
        return of_time;
    }
    if let Some((months, days)) = parts.span {
        let years = months / 12;
        return Some(
            M * i128::from(match field {
                "year" => years,
                "month" => months % 12,
                "day" => days,
                "quarter" => months % 12 / 3 + 1,
                "decade" => years / 10,
                "century" => years / 100,
                "millennium" => years / 1000,
                _ => return None,
            }),
        );
    }
    let date = parts.date?;
    let year = i64::from(date.year());
    let century = |of: i64| if year > 0 { (year + of - 1) / of } else { -((of - 1 - (year - 1)) / of) };
    Some(
        M * i128::from(match field {
            // There is no year 0: 1 BC is -1.
            "year" if year <= 0 => year - 1,
            "year" => year,
            "month" => i64::from(date.month()),
            "day" => i64::from(date.day()),
            "quarter" => i64::from(date.month0() / 3 + 1),
            "week" => i64::from(date.iso_week().week()),
            "dow" => i64::from(date.weekday().num_days_from_sunday()),
            "isodow" => i64::from(date.weekday().number_from_monday()),
            "doy" => i64::from(date.ordinal()),
            "isoyear" => i64::from(date.iso_week().year()),
            "decade" => year.div_euclid(10),
            "century" => century(100),
            "millennium" => century(1000),
            "julian" => 2_440_588 + (parts.epoch_us.div_euclid(i128::from(US_PER_DAY))) as i64,
            "timezone" | "timezone_hour" | "timezone_minute" if class == Class::Timestamptz => 0,
            _ => return None,
        }),
    )
}
