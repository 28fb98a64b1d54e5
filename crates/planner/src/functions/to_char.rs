//! `to_char(timestamp | number, pattern)`: the patterns that people use.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringViewBuilder};
use arrow::datatypes::{DataType, Decimal128Type};
use chrono::{DateTime, Datelike, NaiveDateTime, Timelike};
use millstream_types::{Error, SqlState};

use super::builtin::Spec;
use super::temporal::us_of;
use crate::typing::types::TEXT;

/// The functions of this file.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: "to_char_time", returns: |_| TEXT, run: to_char_time, strict: true },
    Spec { name: "to_char_number", returns: |_| TEXT, run: to_char_number, strict: true },
];

/// Times often come in order, so a row mostly has the text of the one before: same pattern, same day or minute.
fn to_char_time(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let times = us_of(&args[0]);
    let patterns = args[1].as_string_view();
    let has_zone = matches!(args[0].data_type(), DataType::Timestamp(_, Some(_)));
    let mut out = StringViewBuilder::with_capacity(n_rows);
    let (mut pattern, mut unit_us) = ("", 1);
    // The units since 1970 that `text` is for; nothing for no text.
    let mut written = None;
    let mut text = String::new();
    for i in 0..n_rows {
        if times.is_null(i) || patterns.is_null(i) {
            out.append_null();
            continue;
        }
        if patterns.value(i) != pattern {
            pattern = patterns.value(i);
            unit_us = finest_unit_us(pattern);
            written = None;
        }
        let unit = times.value(i).div_euclid(unit_us);
        if written != Some(unit) {
            let time = DateTime::from_timestamp_micros(times.value(i))
                .ok_or_else(|| Error::user(SqlState::DATETIME_FIELD_OVERFLOW, "timestamp out of range"))?
                .naive_utc();
            text = format_time(&time, pattern, has_zone);
            written = Some(unit);
        }
        out.append_value(&text);
    }
    Ok(Arc::new(out.finish()))
}

/// A span of microseconds since 1970 within which the pattern gives one text.
fn finest_unit_us(pattern: &str) -> i64 {
    let upper = pattern.to_ascii_uppercase();
    let has_any = |fields: &[&str]| fields.iter().any(|f| upper.contains(f));
    if has_any(&["MS", "US", "FF"]) {
        1
    } else if has_any(&["SS"]) {
        1_000_000
    } else if has_any(&["HH", "MI", "AM", "PM", "A.M", "P.M"]) {
        60_000_000
    } else {
        86_400_000_000
    }
}

/// Patterns, longest first where one is the beginning of another.
pub(super) const PATTERNS: &[&str] = &[
    "HH24", "HH12", "HH", "MI", "SSSSS", "SSSS", "SS", "MS", "US", "FF1", "FF2", "FF3", "FF4", "FF5", "FF6", "AM",
    "PM", "A.M.", "P.M.", "am", "pm", "a.m.", "p.m.", "Y,YYY", "YYYY", "YYY", "YY", "Y", "IYYY", "IYY", "IY", "IDDD",
    "ID", "IW", "I", "BC", "AD", "MONTH", "Month", "month", "MON", "Mon", "mon", "MM", "DAY", "Day", "day", "DY", "Dy",
    "dy", "DDD", "DD", "D", "WW", "W", "CC", "J", "Q", "RM", "TZH", "TZM", "TZ", "tz", "OF",
];

fn format_time(time: &NaiveDateTime, pattern: &str, has_zone: bool) -> String {
    let mut out = String::new();
    let mut rest = pattern;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (text, after) = quoted.split_once('"').unwrap_or((quoted, ""));
            out.push_str(text);
            rest = after;
            continue;
        }
        let (fill, body) = match rest.strip_prefix("FM") {
            Some(body) => (false, body),
            None => (true, rest),
        };
        let found = PATTERNS.iter().find(|p| body.starts_with(**p)).or_else(|| {
            let upper = body.to_ascii_uppercase();
            PATTERNS.iter().find(|p| upper.starts_with(**p) && !p.bytes().any(|b| b.is_ascii_lowercase()))
        });
        let Some(found) = found else {
            let mut chars = rest.chars();
            out.extend(chars.next());
            rest = chars.as_str();
            continue;
        };
        rest = &body[found.len()..];
        let (value, number) = field(time, found, fill, has_zone);
        out.push_str(&value);
        if let Some(after) = rest.strip_prefix("TH").or_else(|| rest.strip_prefix("th"))
            && let Some(number) = number
        {
            let suffix = ordinal(number);
            out.push_str(&if rest.starts_with("TH") { suffix.to_uppercase() } else { suffix.to_string() });
            rest = after;
        }
    }
    out
}

fn ordinal(number: i64) -> &'static str {
    match (number % 100, number % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    }
}

pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A name in the pattern's case, padded to nine characters if it is a full one.
fn name(name: &str, pattern: &str, fill: bool) -> String {
    let name = if pattern.len() <= 3 && pattern.to_lowercase() != "day" { &name[..pattern.len()] } else { name };
    let is_lower = pattern.chars().all(|c| c.is_ascii_lowercase());
    let is_upper = pattern.chars().all(|c| c.is_ascii_uppercase());
    let cased = if is_lower {
        name.to_lowercase()
    } else if is_upper {
        name.to_uppercase()
    } else {
        name.to_string()
    };
    let full = matches!(pattern.to_lowercase().as_str(), "month" | "day");
    if fill && full { format!("{cased:<9}") } else { cased }
}

/// A field's text, and its number if it has one.
fn field(time: &NaiveDateTime, pattern: &str, fill: bool, has_zone: bool) -> (String, Option<i64>) {
    let padded = |n: i64, width: usize| {
        let text = if fill { format!("{n:0width$}") } else { n.to_string() };
        (text, Some(n))
    };
    let plain = |text: String| (text, None);
    let hour = i64::from(time.hour());
    let us = i64::from(time.nanosecond() / 1000);
    let last = |digits: u32, of: i64| of.rem_euclid(10i64.pow(digits));
    let (year, iso_year) = (i64::from(time.year()), i64::from(time.iso_week().year()));
    match pattern {
        "HH24" => padded(hour, 2),
        "HH12" | "HH" => padded((hour + 11) % 12 + 1, 2),
        "MI" => padded(i64::from(time.minute()), 2),
        "SS" => padded(i64::from(time.second()), 2),
        "SSSS" | "SSSSS" => padded(i64::from(time.num_seconds_from_midnight()), 1),
        "MS" => padded(us / 1000, 3),
        "US" | "FF6" => padded(us, 6),
        "FF1" | "FF2" | "FF3" | "FF4" | "FF5" => {
            let digits = pattern.as_bytes()[2] - b'0';
            padded(us / 10i64.pow(6 - u32::from(digits)), usize::from(digits))
        }
        "AM" | "PM" => plain(if hour < 12 { "AM" } else { "PM" }.to_string()),
        "am" | "pm" => plain(if hour < 12 { "am" } else { "pm" }.to_string()),
        "A.M." | "P.M." => plain(if hour < 12 { "A.M." } else { "P.M." }.to_string()),
        "a.m." | "p.m." => plain(if hour < 12 { "a.m." } else { "p.m." }.to_string()),
        "Y,YYY" => plain(format!("{},{:03}", year / 1000, last(3, year))),
        "YYYY" => padded(year, 4),
        "YYY" => padded(last(3, year), 3),
        "YY" => padded(last(2, year), 2),
        "Y" => padded(last(1, year), 1),
        "IYYY" => padded(iso_year, 4),
        "IYY" => padded(last(3, iso_year), 3),
        "IY" => padded(last(2, iso_year), 2),
        "I" => padded(last(1, iso_year), 1),
        "BC" | "AD" => plain(if year > 0 { "AD" } else { "BC" }.to_string()),
        "MONTH" | "Month" | "month" | "MON" | "Mon" | "mon" => {
            plain(name(MONTHS[time.month0() as usize], pattern, fill))
        }
        "MM" => padded(i64::from(time.month()), 2),
        "DAY" | "Day" | "day" => plain(name(DAYS[time.weekday().num_days_from_sunday() as usize], pattern, fill)),
        "DY" | "Dy" | "dy" => {
            let short = &DAYS[time.weekday().num_days_from_sunday() as usize][..3];
            plain(match pattern {
                "DY" => short.to_uppercase(),
                "dy" => short.to_lowercase(),
                _ => short.to_string(),
            })
        }
        "DDD" => padded(i64::from(time.ordinal()), 3),
        "DD" => padded(i64::from(time.day()), 2),
        "D" => padded(i64::from(time.weekday().number_from_sunday()), 1),
        "ID" => padded(i64::from(time.weekday().number_from_monday()), 1),
        "IDDD" => padded(i64::from(time.iso_week().week() - 1) * 7 + i64::from(time.weekday().number_from_monday()), 3),
        "IW" => padded(i64::from(time.iso_week().week()), 2),
        "WW" => padded(i64::from(time.ordinal0() / 7 + 1), 2),
        "W" => padded(i64::from((time.day() - 1) / 7 + 1), 1),
        "CC" => padded((year + 99).div_euclid(100), 2),
        "J" => padded(i64::from(time.num_days_from_ce()) + 1_721_425, 1),
        "Q" => padded(i64::from(time.month0() / 3 + 1), 1),
        "RM" => {
            const ROMAN: [&str; 12] = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"];
            let text = ROMAN[time.month0() as usize];
            plain(if fill { format!("{text:<4}") } else { text.to_string() })
        }
        "TZ" => plain(if has_zone { "UTC" } else { "" }.to_string()),
        "tz" => plain(if has_zone { "utc" } else { "" }.to_string()),
        "TZH" | "OF" => plain("+00".to_string()),
        "TZM" => plain("00".to_string()),
        other => plain(other.to_string()),
    }
}

fn to_char_number(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let values = args[0].as_primitive::<Decimal128Type>();
    let patterns = args[1].as_string_view();
    let scale = u32::try_from(values.scale()).unwrap_or(0);
    let mut out = StringViewBuilder::with_capacity(n_rows);
    for i in 0..n_rows {
        if values.is_null(i) || patterns.is_null(i) {
            out.append_null();
            continue;
        }
        out.append_value(format_number(values.value(i), scale, patterns.value(i))?);
    }
    Ok(Arc::new(out.finish()))
}

/// Digits, `9 0 . , D G FM S MI`, and literal text.
fn format_number(value: i128, scale: u32, pattern: &str) -> Result<String, Error> {
    let (fill, body) = match pattern.strip_prefix("FM") {
        Some(body) => (false, body),
        None => (true, pattern),
    };
    let body = body.replace('D', ".").replace('G', ",");
    let upper = body.to_ascii_uppercase();
    if upper.contains("EEEE") || upper.contains('V') || upper.contains("RN") || upper.contains("PR") {
        return Err(Error::not_supported(format!("to_char pattern \"{pattern}\" is not supported yet")));
    }
    let (int_pattern, fraction_pattern) = body.split_once('.').unwrap_or((&body, ""));
    let n_fraction = fraction_pattern.chars().filter(|c| matches!(c, '9' | '0')).count() as u32;
    let n_int = int_pattern.chars().filter(|c| matches!(c, '9' | '0')).count();
    let rounded = super::numeric::rescale_decimal(value, scale as i8, n_fraction as i8)?;
    let (negative, magnitude) = (rounded < 0, rounded.unsigned_abs());
    let unit = 10u128.pow(n_fraction);
    let int_digits = (magnitude / unit).to_string();
    let int_digits = if int_digits == "0" { String::new() } else { int_digits };
    let overflow = int_digits.len() > n_int;
    let mut out = String::new();
    let explicit_sign = body.contains('S') || upper.contains("MI");
    let mut missing = n_int.saturating_sub(int_digits.len());
    let mut digits = int_digits.chars();
    let mut started = false;
    for c in int_pattern.chars() {
        match c {
            '9' | '0' if overflow => out.push('#'),
            '9' | '0' if missing > 0 => {
                missing -= 1;
                let is_lone_zero = missing == 0 && int_digits.is_empty() && n_fraction == 0;
                if c == '0' || started || is_lone_zero {
                    started = true;
                    out.push('0');
                } else if fill {
                    out.push(' ');
                }
            }
            '9' | '0' => {
                started = true;
                out.extend(digits.next());
            }
            ',' if started || overflow => out.push(','),
            ',' if fill => out.push(' '),
            ',' | 'S' | 'M' | 'I' => {}
            other => out.push(other),
        }
    }
    if body.contains('.') {
        out.push('.');
        let fraction = format!("{:0width$}", magnitude % unit, width = n_fraction as usize);
        if overflow {
            out.push_str(&"#".repeat(n_fraction as usize));
        } else if n_fraction > 0 {
            let keep = fraction_pattern.chars().filter(|c| matches!(c, '9' | '0')).collect::<String>();
            let needed = keep.rfind('0').map_or(0, |at| at + 1);
            let trimmed = if fill { fraction.as_str() } else { fraction.trim_end_matches('0') };
            let shown = if trimmed.len() < needed { &fraction[..needed] } else { trimmed };
            out.push_str(shown);
        }
    }
    let mut result = String::new();
    let first = out.find(|c: char| c != ' ').unwrap_or(out.len());
    let sign = if negative {
        "-"
    } else if body.contains('S') {
        "+"
    } else if fill {
        " "
    } else {
        ""
    };
    if upper.contains("MI") {
        let _ = write!(
            result,
            "{out}{}",
            if negative {
                "-"
            } else if fill {
                " "
            } else {
                ""
            }
        );
    } else if body.ends_with('S') && explicit_sign {
        let _ = write!(result, "{out}{sign}");
    } else {
        let _ = write!(result, "{}{sign}{}", &out[..first], &out[first..]);
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{StringViewArray, TimestampMicrosecondArray};

    #[test]
    fn a_text_is_used_again_only_within_its_unit() {
        let times: Vec<i64> = [0, 1, 999, 1_000, 1_000_000, 60_000_000, 3_600_000_000, 43_200_000_000, 86_400_000_000]
            .into_iter()
            .flat_map(|t| [t - 1, t, t + 1, -t])
            .collect();
        for pattern in PATTERNS {
            let all: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.clone()));
            let patterns: ArrayRef = Arc::new(StringViewArray::from(vec![*pattern; times.len()]));
            let together = to_char_time(&[all.clone(), patterns.clone()], times.len()).expect("times are in range");
            for (i, time) in times.iter().enumerate() {
                let alone = to_char_time(&[all.slice(i, 1), patterns.slice(i, 1)], 1).expect("times are in range");
                assert_eq!(together.slice(i, 1).as_string_view(), alone.as_string_view(), "{pattern} {time}");
            }
        }
    }
}
