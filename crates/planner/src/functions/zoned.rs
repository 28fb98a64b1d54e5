//! Functions that take the session's time zone as their first argument.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::datatypes::{IntervalMonthDayNano, IntervalMonthDayNanoType, TimestampMicrosecondType};
use chrono::{DateTime, Months};
use millstream_types::pg::{FormatSettings, TimeZone, format_column, parse_column};
use millstream_types::{Error, SqlState, SqlType};

use super::builtin::Spec;
use super::temporal::us_of;
use crate::typing::types::{TEXT, timestamptz};

const US_PER_DAY: i64 = 86_400_000_000;

/// The functions of this file.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: "text_of_timestamptz", returns: |_| TEXT, run: text_of_timestamptz, strict: true },
    Spec { name: "timestamptz_of_text", returns: |_| timestamptz(), run: timestamptz_of_text, strict: true },
    Spec { name: "timestamptz_plus", returns: |_| timestamptz(), run: |a, n| plus(a, n, 1), strict: true },
    Spec { name: "timestamptz_minus", returns: |_| timestamptz(), run: |a, n| plus(a, n, -1), strict: true },
];

/// The settings with the zone that the first row names: it is a constant.
pub(super) fn settings_of(zones: &ArrayRef) -> Result<FormatSettings, Error> {
    let zones = zones.as_string_view();
    let zone = if zones.is_empty() || zones.is_null(0) { TimeZone::Utc } else { TimeZone::parse(zones.value(0))? };
    Ok(FormatSettings { time_zone: zone, ..FormatSettings::default() })
}

/// `text_of_timestamptz(zone, timestamp)`
fn text_of_timestamptz(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    format_column(&args[1], &SqlType::Timestamptz, &settings_of(&args[0])?)
}

/// `timestamptz_of_text(zone, text)`
fn timestamptz_of_text(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    parse_column(args[1].as_string_view(), &SqlType::Timestamptz, &settings_of(&args[0])?)
}

/// `timestamptz_plus(zone, timestamp, interval)`: months and days by the calendar of the zone, then the time.
fn plus(args: &[ArrayRef], n_rows: usize, sign: i32) -> Result<ArrayRef, Error> {
    let zone = settings_of(&args[0])?.time_zone;
    let (times, intervals) = (us_of(&args[1]), args[2].as_primitive::<IntervalMonthDayNanoType>());
    let mut out = PrimitiveArray::<TimestampMicrosecondType>::builder(n_rows);
    for i in 0..n_rows {
        if times.is_null(i) || intervals.is_null(i) {
            out.append_null();
            continue;
        }
        out.append_value(sum(times.value(i), intervals.value(i), sign, &zone)?);
    }
    Ok(Arc::new(out.finish().with_timezone("UTC")))
}

/// A time and an interval, times a sign, added up by the calendar of a zone.
///
/// # Errors
/// 22008 if there is no such time.
pub(super) fn sum(us: i64, interval: IntervalMonthDayNano, sign: i32, zone: &TimeZone) -> Result<i64, Error> {
    let days = i64::from(interval.days) * i64::from(sign);
    let on_day = if interval.months == 0 && days == 0 {
        Some(us)
    } else {
        let local = us + i64::from(zone.offset_at(us)) * 1_000_000;
        plus_months(local, i64::from(interval.months) * i64::from(sign))
            .and_then(|local| zone.to_utc(local.checked_add(days.checked_mul(US_PER_DAY)?)?))
    };
    let sum = on_day.and_then(|us| us.checked_add(interval.nanoseconds / 1000 * i64::from(sign)));
    sum.ok_or_else(|| Error::user(SqlState::DATETIME_FIELD_OVERFLOW, "timestamp out of range"))
}

/// The same day of another month, or its last one.
fn plus_months(us: i64, months: i64) -> Option<i64> {
    if months == 0 {
        return Some(us);
    }
    let (time, n) = (DateTime::from_timestamp_micros(us)?, Months::new(u32::try_from(months.unsigned_abs()).ok()?));
    let moved = if months > 0 { time.checked_add_months(n) } else { time.checked_sub_months(n) };
    moved.map(|t| t.timestamp_micros())
}
