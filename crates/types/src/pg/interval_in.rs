//! Intervals from text: Postgres' own form, SQL's and ISO 8601's.

use arrow::datatypes::IntervalMonthDayNano;

use super::calendar::{US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, US_PER_SECOND};
use super::datetime_in::parse_fraction;
use super::datetime_tokens::{Token, tokenize};
use crate::{Error, Result, SqlState};

/// Reads an interval.
pub fn parse_interval(text: &str) -> Result<IntervalMonthDayNano> {
    let trimmed = text.trim();
    let sum = if trimmed.starts_with('P') { iso_8601(trimmed) } else { fields(trimmed) };
    let value = sum.and_then(|sum| sum.finish());
    value.map_err(|why| match why {
        Refusal::Syntax => Error::user(
            SqlState::INVALID_DATETIME_FORMAT,
            format!("invalid input syntax for type interval: \"{text}\""),
        ),
        Refusal::Range => {
            Error::user(SqlState::INTERVAL_FIELD_OVERFLOW, format!("interval field value out of range: \"{text}\""))
        }
    })
}

enum Refusal {
    Syntax,
    Range,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Microsecond,
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
    Decade,
    Century,
    Millennium,
}

impl Unit {
    fn by_name(name: &str) -> Option<Unit> {
        Some(match name.to_ascii_lowercase().as_str() {
            "us" | "usec" | "usecs" | "useconds" | "usecond" | "microsecond" | "microseconds" | "microsecon" => {
                Unit::Microsecond
            }
            "ms" | "msec" | "msecs" | "mseconds" | "millisecond" | "milliseconds" | "millisecon" => Unit::Millisecond,
            "s" | "sec" | "secs" | "second" | "seconds" => Unit::Second,
            "m" | "min" | "mins" | "minute" | "minutes" => Unit::Minute,
            "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Hour,
            "d" | "day" | "days" => Unit::Day,
            "w" | "week" | "weeks" => Unit::Week,
            "mon" | "mons" | "month" | "months" => Unit::Month,
            "y" | "yr" | "yrs" | "year" | "years" => Unit::Year,
            "dec" | "decs" | "decade" | "decades" => Unit::Decade,
            "c" | "cent" | "century" | "centuries" => Unit::Century,
            "mil" | "mils" | "millennia" | "millennium" => Unit::Millennium,
            _ => return None,
        })
    }
}

const SECONDS: [Unit; 3] = [Unit::Microsecond, Unit::Millisecond, Unit::Second];

/// An integer and a fraction of the same sign.
#[derive(Clone, Copy)]
struct Quantity {
    whole: i64,
    fraction: f64,
    /// Microseconds of the fraction, read as decimal digits where the unit is a second.
    micros: i64,
}

impl Quantity {
    fn parse(text: &str) -> Result<Quantity, Refusal> {
        let negative = text.starts_with('-');
        let digits = text.trim_start_matches(['+', '-']).trim_start();
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || !whole.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Refusal::Syntax);
        }
        let sign = if negative { -1 } else { 1 };
        let whole = if whole.is_empty() { 0 } else { whole.parse::<i64>().map_err(|_| Refusal::Range)? };
        let micros = parse_fraction(fraction).ok_or(Refusal::Syntax)?;
        let fraction = if fraction.is_empty() {
            0.0
        } else {
            format!("0.{fraction}").parse::<f64>().map_err(|_| Refusal::Syntax)?
        };
        Ok(Quantity { whole: whole * sign, fraction: fraction * sign as f64, micros: micros * sign })
    }
}

/// What has been added up.
#[derive(Default)]
struct Sum {
    months: i64,
    days: i64,
    us: i64,
    /// Which units have been given; each may be given once, but for ISO 8601.
    seen: u16,
    may_repeat: bool,
}

impl Sum {
    fn mark(&mut self, units: &[Unit]) -> Result<(), Refusal> {
        let mask = units.iter().fold(0, |mask, unit| mask | 1u16 << (*unit as u16));
        if self.seen & mask != 0 && !self.may_repeat {
            return Err(Refusal::Syntax);
        }
        self.seen |= mask;
        Ok(())
    }

    fn add_months(&mut self, count: i64, each: i64) -> Result<(), Refusal> {
        let months = count.checked_mul(each).and_then(|m| self.months.checked_add(m));
        self.months = months.ok_or(Refusal::Range)?;
        Ok(())
    }

    fn add_days(&mut self, count: i64, each: i64) -> Result<(), Refusal> {
        let days = count.checked_mul(each).and_then(|d| self.days.checked_add(d));
        self.days = days.ok_or(Refusal::Range)?;
        Ok(())
    }

    fn add_us(&mut self, count: i64, each: i64) -> Result<(), Refusal> {
        let us = count.checked_mul(each).and_then(|u| self.us.checked_add(u));
        self.us = us.ok_or(Refusal::Range)?;
        Ok(())
    }

    /// A fraction of a day, as time.
    fn add_day_fraction(&mut self, fraction: f64) {
        self.us += (fraction * US_PER_DAY as f64).round_ties_even() as i64;
    }

    /// A fraction of a unit of several days: whole days first, the rest as time.
    fn add_days_fraction(&mut self, fraction: f64, each: f64) {
        let days = fraction * each;
        self.days += days.trunc() as i64;
        self.add_day_fraction(days - days.trunc());
    }

    fn add(&mut self, quantity: Quantity, unit: Unit) -> Result<(), Refusal> {
        let Quantity { whole, fraction, micros } = quantity;
        match unit {
            // A fraction of a second is milliseconds and microseconds too.
            Unit::Second if fraction != 0.0 => self.mark(&SECONDS)?,
            _ => self.mark(&[unit])?,
        }
        let years = |n: i64| (n * 12, fraction * n as f64 * 12.0);
        match unit {
            Unit::Microsecond => self.add_us(whole, 1).map(|()| self.us += fraction.round_ties_even() as i64),
            Unit::Millisecond => self.add_us(whole, 1000).map(|()| self.us += (fraction * 1e3).round() as i64),
            Unit::Second => self.add_us(whole, US_PER_SECOND).map(|()| self.us += micros),
            Unit::Minute => self.add_time(whole, fraction, US_PER_MINUTE),
            Unit::Hour => self.add_time(whole, fraction, US_PER_HOUR),
            Unit::Day => self.add_days(whole, 1).map(|()| self.add_day_fraction(fraction)),
            Unit::Week => self.add_days(whole, 7).map(|()| self.add_days_fraction(fraction, 7.0)),
            Unit::Month => self.add_months(whole, 1).map(|()| self.add_days_fraction(fraction, 30.0)),
            Unit::Year | Unit::Decade | Unit::Century | Unit::Millennium => {
                let (each, months) = years(match unit {
                    Unit::Year => 1,
                    Unit::Decade => 10,
                    Unit::Century => 100,
                    _ => 1000,
                });
                self.add_months(whole, each)?;
                self.add_months(months.round_ties_even() as i64, 1)
            }
        }
    }

    fn add_time(&mut self, whole: i64, fraction: f64, each: i64) -> Result<(), Refusal> {
        self.add_us(whole, each)?;
        self.us += (fraction * each as f64).round_ties_even() as i64;
        Ok(())
    }

    /// `[sign] HH:MM[:SS[.f]]`, or `MM:SS.f`
    fn add_clock(&mut self, text: &str) -> Result<(), Refusal> {
        let sign = if text.starts_with('-') { -1 } else { 1 };
        let (clock, fraction) =
            text.trim_start_matches(['+', '-']).split_once('.').unwrap_or((text.trim_start_matches(['+', '-']), ""));
        let mut parts = Vec::with_capacity(3);
        for part in clock.trim_start().split(':') {
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(Refusal::Syntax);
            }
            parts.push(part.parse::<i64>().map_err(|_| Refusal::Range)?);
        }
        let has_fraction = text.contains('.');
        let (hours, minutes, seconds) = match *parts.as_slice() {
            [minutes, seconds] if has_fraction => (0, minutes, seconds),
            [hours, minutes] => (hours, minutes, 0),
            [hours, minutes, seconds] => (hours, minutes, seconds),
            _ => return Err(Refusal::Syntax),
        };
        if minutes > 59 || seconds > 60 {
            return Err(Refusal::Range);
        }
        let micros = parse_fraction(fraction).ok_or(Refusal::Syntax)?;
        self.mark(&[Unit::Hour, Unit::Minute])?;
        self.mark(&SECONDS)?;
        self.add_us(hours * sign, US_PER_HOUR)?;
        self.add_us((minutes * 60 + seconds) * sign, US_PER_SECOND)?;
        self.add_us(micros * sign, 1)
    }

    fn finish(self) -> Result<IntervalMonthDayNano, Refusal> {
        let months = i32::try_from(self.months).map_err(|_| Refusal::Range)?;
        let days = i32::try_from(self.days).map_err(|_| Refusal::Range)?;
        let nanoseconds = self.us.checked_mul(1000).ok_or(Refusal::Range)?;
        Ok(IntervalMonthDayNano { months, days, nanoseconds })
    }
}

fn fields(text: &str) -> Result<Sum, Refusal> {
    let tokens = tokenize(text).ok_or(Refusal::Syntax)?;
    let mut sum = Sum::default();
    let mut at = 0;
    // Wherever it stands, all fields are meant.
    let mut ago = false;
    while at < tokens.len() {
        match tokens[at] {
            Token::Time(clock) => sum.add_clock(clock)?,
            Token::Signed(clock) if clock.contains(':') => sum.add_clock(clock)?,
            Token::Signed(joined) if joined[1..].contains('-') => add_years_months(&mut sum, joined)?,
            Token::Number(number) | Token::Signed(number) => {
                let quantity = Quantity::parse(number)?;
                match tokens.get(at + 1) {
                    Some(Token::Word(word)) => {
                        at += 1;
                        sum.add(quantity, Unit::by_name(word).ok_or(Refusal::Syntax)?)?;
                    }
                    // A bare number before a clock is days, else seconds.
                    Some(Token::Time(_)) => sum.add(quantity, Unit::Day)?,
                    Some(Token::Signed(next)) if next.contains(':') => sum.add(quantity, Unit::Day)?,
                    None => sum.add(quantity, Unit::Second)?,
                    Some(_) => return Err(Refusal::Syntax),
                }
            }
            Token::Joined(years_months) => add_years_months(&mut sum, years_months)?,
            Token::Word(word) if word.eq_ignore_ascii_case("ago") => ago = true,
            Token::Word(_) => return Err(Refusal::Syntax),
        }
        at += 1;
    }
    if ago {
        (sum.months, sum.days, sum.us) = (-sum.months, -sum.days, -sum.us);
    }
    if sum.seen == 0 { Err(Refusal::Syntax) } else { Ok(sum) }
}

/// SQL's `years-months`.
fn add_years_months(sum: &mut Sum, text: &str) -> Result<(), Refusal> {
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let (years, months) = text.trim_start_matches(['+', '-']).split_once('-').ok_or(Refusal::Syntax)?;
    let number = |part: &str| part.parse::<i64>().map_err(|_| Refusal::Syntax);
    let months = number(months)?;
    if months >= 12 {
        return Err(Refusal::Range);
    }
    sum.mark(&[Unit::Month])?;
    sum.add_months(number(years)? * sign, 12)?;
    sum.add_months(months * sign, 1)
}

/// `P1Y2M3W4DT5H6M7.8S`, or the alternative form `P0001-02-03T04:05:06`.
fn iso_8601(text: &str) -> Result<Sum, Refusal> {
    let mut sum = Sum { may_repeat: true, ..Sum::default() };
    let body = text.strip_prefix('P').filter(|body| !body.contains('+')).ok_or(Refusal::Syntax)?;
    let (dates, times) = match body.split_once('T') {
        Some((dates, times)) => (dates, Some(times)),
        None => (body, None),
    };
    if dates.is_empty() && times.is_none() {
        return Err(Refusal::Syntax);
    }
    let alternative = !dates.is_empty() && !dates.contains(|c: char| c.is_ascii_alphabetic());
    if alternative {
        add_iso_date(&mut sum, dates)?;
    } else {
        add_designated(&mut sum, dates, |designator| {
            Some(match designator {
                b'Y' => Unit::Year,
                b'M' => Unit::Month,
                b'W' => Unit::Week,
                b'D' => Unit::Day,
                _ => return None,
            })
        })?;
    }
    match times {
        Some(times) if times.contains(':') => sum.add_clock(times)?,
        Some(times) => add_designated(&mut sum, times, |designator| {
            Some(match designator {
                b'H' => Unit::Hour,
                b'M' => Unit::Minute,
                b'S' => Unit::Second,
                _ => return None,
            })
        })?,
        None => {}
    }
    Ok(sum)
}

fn add_iso_date(sum: &mut Sum, dates: &str) -> Result<(), Refusal> {
    let units = [Unit::Year, Unit::Month, Unit::Day];
    let parts: Vec<&str> = dates.split('-').collect();
    if parts.len() > units.len() {
        return Err(Refusal::Syntax);
    }
    parts.iter().zip(units).try_for_each(|(part, unit)| sum.add(Quantity::parse(part)?, unit))
}

fn add_designated(sum: &mut Sum, mut text: &str, unit: impl Fn(u8) -> Option<Unit>) -> Result<(), Refusal> {
    while !text.is_empty() {
        let end = text.find(|c: char| c.is_ascii_alphabetic()).ok_or(Refusal::Syntax)?;
        let unit = unit(text.as_bytes()[end]).ok_or(Refusal::Syntax)?;
        sum.add(Quantity::parse(&text[..end])?, unit)?;
        text = &text[end + 1..];
    }
    Ok(())
}
