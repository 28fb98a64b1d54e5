//! Time zones by name, by offset and in POSIX form.

use std::fmt;

use chrono::{DateTime, NaiveDateTime, Offset, TimeZone as _};
use chrono_tz::{TZ_VARIANTS, Tz};

use super::calendar::{Civil, US_PER_DAY, US_PER_SECOND, civil_from_days, days_from_civil};
use super::digits::write_2;
use crate::{Error, Result, SqlState};

const US: i64 = US_PER_SECOND;
/// 2090-01-01: the database's tables reach about as far.
const TABLES_END_US: i64 = 43_829 * US_PER_DAY;
/// Offsets beyond this are refused, as in Postgres.
const MAX_OFFSET_S: i32 = 168 * 3600;

/// A session's time zone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TimeZone {
    /// `UTC`
    #[default]
    Utc,
    /// A constant offset, with the text by which `SHOW TimeZone` names it.
    Fixed {
        /// Seconds east of Greenwich.
        offset_s: i32,
        /// As shown.
        name: String,
    },
    /// A zone of the IANA database.
    Named(Tz),
}

impl TimeZone {
    /// Reads the value of `SET TimeZone`: an IANA name in any case, hours east of Greenwich (`5.5`), or a POSIX form
    /// whose sign means west (`UTC+5`, `<+05>-05`).
    ///
    /// # Errors
    /// 22023 if there is no such zone.
    pub fn parse(text: &str) -> Result<TimeZone> {
        let trimmed = text.trim();
        if let Some(hours) = parse_hours(trimmed) {
            return TimeZone::fixed((hours * 3600.0).round() as i32).ok_or_else(|| invalid(text));
        }
        TimeZone::by_name(trimmed).or_else(|| parse_posix(trimmed)).ok_or_else(|| invalid(text))
    }

    /// The zone with an IANA name, in any case.
    pub fn by_name(name: &str) -> Option<TimeZone> {
        if name.eq_ignore_ascii_case("utc") {
            return Some(TimeZone::Utc);
        }
        TZ_VARIANTS.iter().find(|tz| tz.name().eq_ignore_ascii_case(name)).map(|tz| TimeZone::Named(*tz))
    }

    /// A constant offset in seconds east of Greenwich, named as Postgres names it; `None` if out of range.
    pub fn fixed(offset_s: i32) -> Option<TimeZone> {
        if offset_s.abs() > MAX_OFFSET_S {
            return None;
        }
        let mut name = vec![b'<'];
        write_offset(offset_s, &mut name);
        name.push(b'>');
        write_offset(-offset_s, &mut name);
        let name = String::from_utf8(name).expect("offsets are ASCII");
        Some(TimeZone::Fixed { offset_s, name })
    }

    /// Seconds east of Greenwich at an instant, in microseconds since 1970 UTC.
    #[inline]
    pub fn offset_at(&self, utc_us: i64) -> i32 {
        match self {
            TimeZone::Utc => 0,
            TimeZone::Fixed { offset_s, .. } => *offset_s,
            TimeZone::Named(tz) => {
                let known_us = if utc_us < TABLES_END_US { utc_us } else { equivalent(utc_us) };
                tz.offset_from_utc_datetime(&naive(known_us)).fix().local_minus_utc()
            }
        }
    }

    /// The instant at which clocks of this zone show a local time. In a gap the offset before it holds, in an overlap
    /// the one after it, as in Postgres.
    pub fn to_utc(&self, local_us: i64) -> Option<i64> {
        let TimeZone::Named(_) = self else {
            return local_us.checked_sub(i64::from(self.offset_at(0)) * US);
        };
        let before = self.offset_at(local_us.saturating_sub(US_PER_DAY));
        let after = self.offset_at(local_us.saturating_add(US_PER_DAY));
        let with_before = local_us.checked_sub(i64::from(before) * US)?;
        let with_after = local_us.checked_sub(i64::from(after) * US)?;
        let after_holds = self.offset_at(with_after) == after;
        Some(if after_holds { with_after } else { with_before })
    }
}

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TimeZone::Utc => f.write_str("UTC"),
            TimeZone::Fixed { name, .. } => f.write_str(name),
            TimeZone::Named(tz) => f.write_str(tz.name()),
        }
    }
}

/// Appends an offset as Postgres prints it: `+02`, `-03:30`, `+00:53:28`.
#[inline]
pub(crate) fn write_offset(offset_s: i32, out: &mut Vec<u8>) {
    out.push(if offset_s < 0 { b'-' } else { b'+' });
    let seconds = offset_s.unsigned_abs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours < 100 {
        write_2(hours, out);
    } else {
        out.extend_from_slice(hours.to_string().as_bytes());
    }
    if minutes != 0 || seconds != 0 {
        out.push(b':');
        write_2(minutes, out);
    }
    if seconds != 0 {
        out.push(b':');
        write_2(seconds, out);
    }
}

/// The same time of a year that the database's tables reach, with the same weekdays: rules for summer time go by them.
fn equivalent(utc_us: i64) -> i64 {
    let year = civil_from_days(utc_us.div_euclid(US_PER_DAY)).year;
    let start = |year: i64| days_from_civil(Civil { year, month: 1, day: 1 });
    let n_days = |year: i64| start(year + 1) - start(year);
    // Within 28 years before 2100 every kind of year occurs.
    let alike = |candidate: &i64| (start(*candidate) - start(year)) % 7 == 0 && n_days(*candidate) == n_days(year);
    let known = (2060..2088).find(alike).unwrap_or(2060);
    utc_us - (start(year) - start(known)) * US_PER_DAY
}

/// The zone database ends where chrono's calendar does; beyond, its last offset holds.
fn naive(utc_us: i64) -> NaiveDateTime {
    let seconds = utc_us.div_euclid(US);
    DateTime::from_timestamp(seconds, 0).map_or_else(
        || if seconds < 0 { NaiveDateTime::MIN } else { NaiveDateTime::MAX },
        |instant| instant.naive_utc(),
    )
}

fn invalid(text: &str) -> Error {
    Error::user(SqlState::INVALID_PARAMETER_VALUE, format!("invalid value for parameter \"TimeZone\": \"{text}\""))
}

fn parse_hours(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.'));
    plain.then(|| text.parse::<f64>().ok()).flatten()
}

/// `[name]offset`, the offset counted westward; a name of other than letters stands in angle brackets.
fn parse_posix(text: &str) -> Option<TimeZone> {
    let rest = match text.strip_prefix('<') {
        Some(bracketed) => bracketed.split_once('>')?.1,
        None => text.trim_start_matches(|c: char| c.is_ascii_alphabetic()),
    };
    let (sign, digits) = match rest.as_bytes().first()? {
        b'-' => (1, &rest[1..]),
        b'+' => (-1, &rest[1..]),
        _ => (-1, rest),
    };
    let mut offset_s = 0;
    let mut unit = 3600;
    for part in digits.split(':') {
        if unit == 0 || part.is_empty() || part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        offset_s += part.parse::<i32>().ok()? * unit;
        unit /= 60;
    }
    (offset_s <= MAX_OFFSET_S).then(|| TimeZone::Fixed { offset_s: sign * offset_s, name: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(text: &str) -> i32 {
        TimeZone::parse(text).expect("a zone").offset_at(0)
    }

    #[test]
    fn zones_are_read_and_named_as_postgres_does() {
        assert_eq!(offset("5.5"), 19_800);
        assert_eq!(TimeZone::parse("5.5").expect("a zone").to_string(), "<+05:30>-05:30");
        assert_eq!(TimeZone::parse("-08").expect("a zone").to_string(), "<-08>+08");
        assert_eq!(offset("+05:30"), -19_800);
        assert_eq!(offset("UTC+5"), -18_000);
        assert_eq!(offset("<+05>-05"), 18_000);
        assert_eq!(TimeZone::parse("europe/berlin").expect("a zone").to_string(), "Europe/Berlin");
        assert_eq!(TimeZone::parse("utc").expect("a zone"), TimeZone::Utc);
        for wrong in ["foo/bar", "Z", "interval", "", "UTC+x"] {
            assert!(TimeZone::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn gaps_take_the_offset_before_and_overlaps_the_one_after() {
        let berlin = TimeZone::parse("Europe/Berlin").expect("a zone");
        let local = |s: i64| s * US;
        // 2024-03-31 02:30 does not exist; 01:30 UTC is what the offset +01 gives.
        assert_eq!(berlin.to_utc(local(1_711_852_200)), Some(local(1_711_848_600)));
        // 2024-10-27 02:30 exists twice; +01 is the later.
        assert_eq!(berlin.to_utc(local(1_729_996_200)), Some(local(1_729_992_600)));
        // 2024-07-01 12:00 in summer.
        assert_eq!(berlin.to_utc(local(1_719_835_200)), Some(local(1_719_828_000)));
    }
}
