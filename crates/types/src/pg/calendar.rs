//! The proleptic Gregorian calendar, and dates and times as ISO text.

use super::digits::{write_2, write_4, write_micros, write_u64};
use super::time_zone::write_offset;

pub(crate) const US_PER_SECOND: i64 = 1_000_000;
pub(crate) const US_PER_MINUTE: i64 = 60 * US_PER_SECOND;
pub(crate) const US_PER_HOUR: i64 = 60 * US_PER_MINUTE;
pub(crate) const US_PER_DAY: i64 = 24 * US_PER_HOUR;
/// Days from 1970-01-01 to 2000-01-01, from where Postgres counts in its binary forms.
pub(crate) const PG_EPOCH_DAYS: i32 = 10_957;
/// Microseconds from 1970-01-01 to 2000-01-01.
pub(crate) const PG_EPOCH_US: i64 = PG_EPOCH_DAYS as i64 * US_PER_DAY;
/// Julian day 0, 4714-11-24 BC, counted from 1970-01-01.
pub(crate) const JULIAN_EPOCH_DAYS: i64 = -2_440_588;
/// 4714-11-24 BC, the first day that Postgres admits.
pub(crate) const MIN_DAYS: i64 = JULIAN_EPOCH_DAYS;
/// 5874897-12-31, the last day that Postgres admits.
pub(crate) const MAX_DAYS: i64 = 2_147_483_493 + JULIAN_EPOCH_DAYS;

/// A day by year, month and day; year 0 is 1 BC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Civil {
    pub(crate) year: i64,
    pub(crate) month: u32,
    pub(crate) day: u32,
}

/// The date of a day counted from 1970-01-01 (H. Hinnant, `civil_from_days`).
#[inline]
pub(crate) fn civil_from_days(days: i64) -> Civil {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097) as u32;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = i64::from(year_of_era) + era * 400 + i64::from(month <= 2);
    Civil { year, month, day }
}

/// The day of a valid date, counted from 1970-01-01 (H. Hinnant, `days_from_civil`).
#[inline]
pub(crate) fn days_from_civil(date: Civil) -> i64 {
    let year = date.year - i64::from(date.month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = i64::from(if date.month > 2 { date.month - 3 } else { date.month + 9 });
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(date.day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The number of days of a month.
#[inline]
pub(crate) fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Appends `YYYY-MM-DD` without an era; the caller appends [`write_era`] at the end of the value.
#[inline]
fn write_civil(date: Civil, out: &mut Vec<u8>) {
    let year = if date.year > 0 { date.year } else { 1 - date.year } as u64;
    if year < 10_000 {
        write_4(year as u32, out);
    } else {
        write_u64(year, out);
    }
    out.push(b'-');
    write_2(date.month, out);
    out.push(b'-');
    write_2(date.day, out);
}

#[inline]
fn write_era(date: Civil, out: &mut Vec<u8>) {
    if date.year <= 0 {
        out.extend_from_slice(b" BC");
    }
}

/// Appends a date; the extreme values are the infinities.
#[inline]
pub(crate) fn write_date(days: i32, out: &mut Vec<u8>) {
    match days {
        i32::MAX => out.extend_from_slice(b"infinity"),
        i32::MIN => out.extend_from_slice(b"-infinity"),
        _ => {
            let date = civil_from_days(i64::from(days));
            write_civil(date, out);
            write_era(date, out);
        }
    }
}

/// Appends a time of day in microseconds, up to and including 24:00:00.
#[inline]
pub(crate) fn write_time(us: i64, out: &mut Vec<u8>) {
    let seconds = (us / US_PER_SECOND) as u32;
    write_2(seconds / 3600, out);
    out.push(b':');
    write_2(seconds / 60 % 60, out);
    out.push(b':');
    write_2(seconds % 60, out);
    write_micros((us % US_PER_SECOND) as u32, out);
}

/// Appends a timestamp in microseconds since 1970 local time; with an offset, that too.
#[inline]
pub(crate) fn write_timestamp(us: i64, offset_s: Option<i32>, out: &mut Vec<u8>) {
    let date = civil_from_days(us.div_euclid(US_PER_DAY));
    write_civil(date, out);
    out.push(b' ');
    write_time(us.rem_euclid(US_PER_DAY), out);
    if let Some(offset_s) = offset_s {
        write_offset(offset_s, out);
    }
    write_era(date, out);
}

/// Appends the text of an infinite timestamp, if it is one.
#[inline]
pub(crate) fn write_infinity(us: i64, out: &mut Vec<u8>) -> bool {
    match us {
        i64::MAX => out.extend_from_slice(b"infinity"),
        i64::MIN => out.extend_from_slice(b"-infinity"),
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_inverse() {
        for days in (MIN_DAYS..MAX_DAYS).step_by(99_991).chain(-1000..1000) {
            let date = civil_from_days(days);
            assert!((1..=12).contains(&date.month) && (1..=days_in_month(date.year, date.month)).contains(&date.day));
            assert_eq!(days_from_civil(date), days);
        }
        assert_eq!(civil_from_days(0), Civil { year: 1970, month: 1, day: 1 });
        assert_eq!(civil_from_days(MAX_DAYS), Civil { year: 5_874_897, month: 12, day: 31 });
    }
}
