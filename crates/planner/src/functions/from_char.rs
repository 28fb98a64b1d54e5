//! `to_date`, `to_timestamp` and `to_number` by a pattern: what `to_char` writes, read.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, PrimitiveArray};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, TimestampMicrosecondType};
use chrono::NaiveDate;
use millstream_types::sql_type::{NUMERIC_PRECISION, NUMERIC_SCALE};
use millstream_types::{Error, SqlState};

use super::builtin::Spec;
use super::calendar::days_of;
use super::temporal::us_of;
use super::to_char::{MONTHS, PATTERNS};
use crate::typing::types::{NUMERIC, TIMESTAMP, timestamptz};

const US_PER_DAY: i64 = 86_400_000_000;

/// The functions of this file.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: "to_date", returns: |_| DataType::Date32, run: to_date, strict: true },
    Spec { name: "to_local_timestamp", returns: |_| TIMESTAMP, run: to_local_timestamp, strict: true },
    Spec { name: "to_timestamp_by_pattern", returns: |_| timestamptz(), run: to_timestamp, strict: true },
    Spec { name: "to_number", returns: |_| NUMERIC, run: to_number, strict: true },
];

fn map<T: ArrowPrimitiveType>(
    args: &[ArrayRef],
    n_rows: usize,
    f: impl Fn(&str, &str) -> Result<T::Native, Error>,
) -> Result<PrimitiveArray<T>, Error> {
    let (texts, patterns) = (args[0].as_string_view(), args[1].as_string_view());
    let mut out = PrimitiveArray::<T>::builder(n_rows);
    for row in 0..n_rows {
        if texts.is_null(row) || patterns.is_null(row) {
            out.append_null();
        } else {
            out.append_value(f(texts.value(row), patterns.value(row))?);
        }
    }
    Ok(out.finish())
}

fn to_date(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let read = |text: &str, pattern: &str| Fields::read(text, pattern)?.date(text).map(days_of);
    Ok(Arc::new(map::<Date32Type>(args, n_rows, read)?))
}

fn to_timestamp(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let out = map::<TimestampMicrosecondType>(args, n_rows, |text, pattern| {
        let fields = Fields::read(text, pattern)?;
        Ok(i64::from(days_of(fields.date(text)?)) * US_PER_DAY + fields.time_us(text)?)
    })?;
    Ok(Arc::new(out.with_timezone("UTC")))
}

/// The time that a text shows, wherever that is.
fn to_local_timestamp(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    Ok(Arc::new(us_of(&to_timestamp(args, n_rows)?)))
}

/// The fields that a pattern finds in a text.
#[derive(Default)]
struct Fields {
    year: Option<i64>,
    month: Option<i64>,
    day: Option<i64>,
    day_of_year: Option<i64>,
    hour: i64,
    minute: i64,
    second: i64,
    us: i64,
    /// The hour is one of twelve, and in the afternoon or not.
    is_afternoon: Option<bool>,
}

fn is_separator(c: char) -> bool {
    !c.is_ascii_alphanumeric()
}

impl Fields {
    fn read(text: &str, pattern: &str) -> Result<Fields, Error> {
        let mut fields = Fields::default();
        let (mut rest, mut pattern) = (text, pattern);
        while let Some(first) = pattern.chars().next() {
            if let Some(after) = pattern.strip_prefix("FM").or_else(|| pattern.strip_prefix("FX")) {
                pattern = after;
                continue;
            }
            let upper = pattern.to_ascii_uppercase();
            let found = PATTERNS.iter().find(|p| upper.starts_with(p.to_ascii_uppercase().as_str()));
            let Some(found) = found else {
                pattern = &pattern[first.len_utf8()..];
                rest = rest.trim_start();
                // A separator stands for any, or none; a letter for any character.
                if let Some(next) = rest.chars().next()
                    && (!is_separator(first) || is_separator(next))
                {
                    rest = &rest[next.len_utf8()..];
                }
                continue;
            };
            pattern = &pattern[found.len()..];
            let followed_by_digits = PATTERNS.iter().any(|p| pattern.to_ascii_uppercase().starts_with(p));
            rest = fields.take(&found.to_ascii_uppercase(), rest.trim_start(), followed_by_digits)?;
        }
        Ok(fields)
    }

    /// Reads one field and gives what is left of the text.
    fn take<'t>(&mut self, field: &str, text: &'t str, followed_by_digits: bool) -> Result<&'t str, Error> {
        let width = match field {
            "YYYY" | "MS" | "US" | "DDD" if !followed_by_digits => usize::MAX,
            "YYYY" => 4,
            "US" => 6,
            "YYY" | "DDD" | "MS" => 3,
            "Y" | "D" | "Q" => 1,
            _ => 2,
        };
        let number = |text: &'t str| number_at(text, width, field);
        match field {
            "YYYY" | "YYY" | "YY" | "Y" => {
                let (year, digits, rest) = number(text)?;
                self.year = Some(if digits < 4 && field != "YYYY" { whole_year(year) } else { year });
                Ok(rest)
            }
            "MM" => number(text).map(|(n, _, rest)| (self.month = Some(n), rest).1),
            "DD" => number(text).map(|(n, _, rest)| (self.day = Some(n), rest).1),
            "DDD" => number(text).map(|(n, _, rest)| (self.day_of_year = Some(n), rest).1),
            "HH24" | "HH12" | "HH" => number(text).map(|(n, _, rest)| (self.hour = n, rest).1),
            "MI" => number(text).map(|(n, _, rest)| (self.minute = n, rest).1),
            "SS" => number(text).map(|(n, _, rest)| (self.second = n, rest).1),
            "MS" | "US" => {
                let (n, digits, rest) = number(text)?;
                self.us = (0..6 - digits.min(6)).fold(n, |n, _| n * 10);
                Ok(rest)
            }
            "MONTH" | "MON" => {
                let (month, rest) = month_at(text, field)?;
                self.month = Some(month);
                Ok(rest)
            }
            "DAY" | "DY" => Ok(text.trim_start_matches(|c: char| c.is_alphabetic())),
            "D" | "Q" => number(text).map(|(_, _, rest)| rest),
            "AM" | "PM" | "A.M." | "P.M." => {
                let upper = text.to_ascii_uppercase();
                self.is_afternoon = Some(upper.starts_with('P'));
                Ok(text.get(field.len()..).unwrap_or(""))
            }
            _ => Err(Error::not_supported(format!("pattern \"{field}\" cannot be read yet"))),
        }
    }

    fn date(&self, text: &str) -> Result<NaiveDate, Error> {
        let year = i32::try_from(self.year.unwrap_or(0)).map_err(|_| out_of_range(text))?;
        let part = |n: Option<i64>| u32::try_from(n.unwrap_or(1)).map_err(|_| out_of_range(text));
        let date = match self.day_of_year {
            Some(_) => NaiveDate::from_yo_opt(year, part(self.day_of_year)?),
            None => NaiveDate::from_ymd_opt(year, part(self.month)?, part(self.day)?),
        };
        date.ok_or_else(|| out_of_range(text))
    }

    fn time_us(&self, text: &str) -> Result<i64, Error> {
        let hour = match self.is_afternoon {
            None => self.hour,
            Some(_) if !(1..=12).contains(&self.hour) => {
                let message = format!("hour \"{}\" is invalid for the 12-hour clock", self.hour);
                return Err(Error::user(SqlState::INVALID_DATETIME_FORMAT, message)
                    .with_hint("Use the 24-hour clock, or give an hour between 1 and 12."));
            }
            Some(is_afternoon) => self.hour % 12 + if is_afternoon { 12 } else { 0 },
        };
        let in_range = (0..24).contains(&hour) && (0..60).contains(&self.minute) && (0..60).contains(&self.second);
        if !in_range {
            return Err(out_of_range(text));
        }
        Ok(((hour * 60 + self.minute) * 60 + self.second) * 1_000_000 + self.us)
    }
}

fn out_of_range(text: &str) -> Error {
    let message = format!("date/time field value out of range: \"{text}\"");
    Error::user(SqlState::DATETIME_FIELD_OVERFLOW, message)
}

/// A number of at most so many digits: its value, how many there were, and the rest of the text.
fn number_at<'t>(text: &'t str, width: usize, field: &str) -> Result<(i64, usize, &'t str), Error> {
    let n_digits = text.bytes().take(width.min(18)).take_while(u8::is_ascii_digit).count();
    match text[..n_digits].parse() {
        Ok(number) => Ok((number, n_digits, &text[n_digits..])),
        Err(_) => {
            let shown: String = text.chars().take(width.min(4)).collect();
            let message = format!("invalid value \"{shown}\" for \"{field}\"");
            Err(Error::user(SqlState::INVALID_DATETIME_FORMAT, message).with_detail("Value must be an integer."))
        }
    }
}

/// The year near 2020 that ends in these digits.
fn whole_year(year: i64) -> i64 {
    year + match year {
        ..70 => 2000,
        70..100 => 1900,
        100..520 => 2000,
        _ => 1000,
    }
}

fn month_at<'t>(text: &'t str, field: &str) -> Result<(i64, &'t str), Error> {
    for (name, number) in MONTHS.iter().zip(1..) {
        let name = if field == "MON" { &name[..3] } else { name };
        if text.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)) {
            return Ok((number, &text[name.len()..]));
        }
    }
    let shown: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
    let message = format!("invalid value \"{shown}\" for \"{field}\"");
    Err(Error::user(SqlState::INVALID_DATETIME_FORMAT, message)
        .with_detail("The given value did not match any of the allowed values for this field."))
}

fn to_number(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let out: Decimal128Array = map::<Decimal128Type>(args, n_rows, number_by_pattern)?;
    Ok(Arc::new(out.with_precision_and_scale(NUMERIC_PRECISION, NUMERIC_SCALE)?))
}

/// Digits where the pattern has some, a sign anywhere; separators are passed over.
fn number_by_pattern(text: &str, pattern: &str) -> Result<i128, Error> {
    let upper = pattern.to_ascii_uppercase();
    if upper.contains("RN") || upper.contains("EEEE") || upper.contains('V') {
        return Err(Error::not_supported(format!("to_number pattern \"{pattern}\" is not supported yet")));
    }
    let (whole_pattern, fraction_pattern) = upper.split_once(['.', 'D']).unwrap_or((&upper, ""));
    let n_digits = |pattern: &str| pattern.chars().filter(|c| matches!(c, '9' | '0')).count();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str, n: usize| text.chars().filter(char::is_ascii_digit).take(n).collect::<String>();
    let whole = digits(whole, n_digits(whole_pattern));
    let mut fraction = digits(fraction, n_digits(fraction_pattern).min(NUMERIC_SCALE as usize));
    if whole.is_empty() && fraction.is_empty() {
        let message = format!("invalid input syntax for type numeric: \"{text}\"");
        return Err(Error::user(SqlState::INVALID_TEXT_REPRESENTATION, message));
    }
    fraction.extend(std::iter::repeat_n('0', NUMERIC_SCALE as usize - fraction.len()));
    let value: i128 = format!("{whole}{fraction}").parse().map_err(|_| super::numeric::out_of_range(&NUMERIC))?;
    let is_negative = text.contains('-') || (upper.contains("PR") && text.contains('<'));
    Ok(if is_negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str, pattern: &str) -> String {
        Fields::read(text, pattern).and_then(|f| f.date(text)).map_or_else(|e| e.to_string(), |d| d.to_string())
    }

    #[test]
    fn dates_are_read_by_their_patterns() {
        assert_eq!(date("2024-02-03", "YYYY-MM-DD"), "2024-02-03");
        assert_eq!(date("20240203", "YYYYMMDD"), "2024-02-03");
        assert_eq!(date("3 feb 24", "DD Mon YY"), "2024-02-03");
        assert_eq!(date("03/February/1999", "DD/Month/YYYY"), "1999-02-03");
        assert_eq!(date("2024 060", "YYYY DDD"), "2024-02-29");
        assert!(date("2024-13-01", "YYYY-MM-DD").contains("22008"));
        assert!(date("2024-xx-01", "YYYY-MM-DD").contains("22007"));
    }

    #[test]
    fn times_are_read_by_their_patterns() {
        let us = |text: &str, pattern: &str| Fields::read(text, pattern).and_then(|f| f.time_us(text));
        assert_eq!(us("23:04:05", "HH24:MI:SS"), Ok(83_045_000_000));
        assert_eq!(us("11:04 PM", "HH12:MI AM"), Ok(83_040_000_000));
        assert_eq!(us("00:00:00.25", "HH24:MI:SS.MS"), Ok(250_000));
    }

    #[test]
    fn numbers_are_read_by_their_patterns() {
        let number = |text: &str, pattern: &str| number_by_pattern(text, pattern).map(|n| n / 10i128.pow(15));
        assert_eq!(number("12,454.8-", "99G999D9S"), Ok(-124_548));
        assert_eq!(number("$1,234", "L9,999"), Ok(12_340));
    }
}
