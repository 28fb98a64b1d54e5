//! Dates, times and timestamps from text: a fast path for ISO forms, and fields in any usual order for the rest.

use super::calendar::{
    Civil, JULIAN_EPOCH_DAYS, MAX_DAYS, MIN_DAYS, US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, US_PER_SECOND,
    civil_from_days, days_from_civil, days_in_month,
};
use super::datetime_tokens::{Token, month_by_name, tokenize};
use super::{DateOrder, FormatSettings, TimeZone};
use crate::{Error, Result, SqlState};

/// Offsets in a text may be below 16 hours, as in Postgres.
const MAX_OFFSET_S: i32 = 15 * 3600 + 59 * 60 + 59;

/// Why a text is refused.
pub(crate) enum Refusal {
    Syntax,
    /// A field is out of range; `order` if another order of day and month might help.
    Field {
        order: bool,
    },
    Displacement,
    UnknownZone(String),
    /// Depends on the time of reading where that is not admitted.
    Clock,
}

/// A `date`, in days since 1970.
pub(crate) fn parse_date(text: &str, settings: &FormatSettings) -> Result<i32> {
    if let Some((days, rest)) = iso_date(text.as_bytes())
        && rest.is_empty()
    {
        return Ok(days as i32);
    }
    let moment = read(Reader::default(), text, settings).map_err(|why| refuse(why, text, "date"))?;
    match moment {
        Moment::Infinity => Ok(i32::MAX),
        Moment::NegativeInfinity => Ok(i32::MIN),
        Moment::Fields(Fields { date: Some(date), .. }) => {
            let days = days_from_civil(date);
            if (MIN_DAYS..=MAX_DAYS).contains(&days) {
                return Ok(days as i32);
            }
            Err(Error::user(SqlState::DATETIME_FIELD_OVERFLOW, format!("date out of range: \"{text}\"")))
        }
        Moment::Fields(_) => Err(refuse(Refusal::Syntax, text, "date")),
    }
}

/// A `time`, in microseconds since midnight.
pub(crate) fn parse_time(text: &str, settings: &FormatSettings) -> Result<i64> {
    if let Some((us, rest)) = iso_time(text.as_bytes())
        && rest.is_empty()
    {
        return Ok(us);
    }
    let reader = Reader { time_only: true, ..Reader::default() };
    match read(reader, text, settings).map_err(|why| refuse(why, text, "time"))? {
        Moment::Fields(Fields { time_us: Some(us), .. }) => Ok(us),
        _ => Err(refuse(Refusal::Syntax, text, "time")),
    }
}

/// A `timestamp`, in microseconds since 1970; a zone in the text is ignored, as in Postgres.
pub(crate) fn parse_timestamp(text: &str, settings: &FormatSettings) -> Result<i64> {
    if let Some((us, b"")) = iso_timestamp(text.as_bytes()) {
        return Ok(us);
    }
    match read(Reader::default(), text, settings).map_err(|why| refuse(why, text, "timestamp"))? {
        Moment::Infinity => Ok(i64::MAX),
        Moment::NegativeInfinity => Ok(i64::MIN),
        Moment::Fields(fields) => {
            let date = fields.date.ok_or_else(|| refuse(Refusal::Syntax, text, "timestamp"))?;
            local_us(date, fields.time_us).ok_or_else(|| out_of_range(text))
        }
    }
}

/// A `timestamptz`, in microseconds since 1970 UTC; a text without zone is in the session's.
pub(crate) fn parse_timestamptz(text: &str, settings: &FormatSettings) -> Result<i64> {
    if let Some((us, rest)) = iso_timestamp(text.as_bytes()) {
        match rest {
            b"" if settings.time_zone == TimeZone::Utc => return Ok(us),
            b"" => return settings.time_zone.to_utc(us).ok_or_else(|| out_of_range(text)),
            _ => {
                if let Some(offset_s) = iso_offset(rest) {
                    return Ok(us - offset_s * US_PER_SECOND);
                }
            }
        }
    }
    const NAME: &str = "timestamp with time zone";
    match read(Reader::default(), text, settings).map_err(|why| refuse(why, text, NAME))? {
        Moment::Infinity => Ok(i64::MAX),
        Moment::NegativeInfinity => Ok(i64::MIN),
        Moment::Fields(fields) => {
            let date = fields.date.ok_or_else(|| refuse(Refusal::Syntax, text, NAME))?;
            let local = local_us(date, fields.time_us).ok_or_else(|| out_of_range(text))?;
            let utc = match &fields.zone {
                Some(zone) => zone.to_utc(local),
                None => settings.time_zone.to_utc(local),
            };
            utc.ok_or_else(|| out_of_range(text))
        }
    }
}

fn out_of_range(text: &str) -> Error {
    Error::user(SqlState::DATETIME_FIELD_OVERFLOW, format!("timestamp out of range: \"{text}\""))
}

pub(crate) fn refuse(why: Refusal, text: &str, type_name: &str) -> Error {
    match why {
        Refusal::Syntax => Error::user(
            SqlState::INVALID_DATETIME_FORMAT,
            format!("invalid input syntax for type {type_name}: \"{text}\""),
        ),
        Refusal::Field { order } => {
            let message = format!("date/time field value out of range: \"{text}\"");
            let error = Error::user(SqlState::DATETIME_FIELD_OVERFLOW, message);
            if order { error.with_hint("Perhaps you need a different \"datestyle\" setting.") } else { error }
        }
        Refusal::Displacement => Error::user(
            SqlState::INVALID_TIME_ZONE_DISPLACEMENT,
            format!("time zone displacement out of range: \"{text}\""),
        ),
        Refusal::UnknownZone(zone) => {
            Error::user(SqlState::INVALID_PARAMETER_VALUE, format!("time zone \"{zone}\" not recognized"))
        }
        Refusal::Clock => Error::not_supported(format!("\"{text}\" depends on the time at which it is read"))
            .with_hint("Use a literal time, or now()."),
    }
}

fn local_us(date: Civil, time_us: Option<i64>) -> Option<i64> {
    let days = days_from_civil(date);
    if days < MIN_DAYS {
        return None;
    }
    days.checked_mul(US_PER_DAY)?.checked_add(time_us.unwrap_or(0)).filter(|us| *us != i64::MAX && *us != i64::MIN)
}

#[inline]
fn two(bytes: &[u8]) -> Option<u32> {
    let (a, b) = (bytes[0].wrapping_sub(b'0'), bytes[1].wrapping_sub(b'0'));
    (a < 10 && b < 10).then(|| u32::from(a) * 10 + u32::from(b))
}

/// `YYYY-MM-DD`, if valid, in days since 1970, and what follows.
#[inline]
fn iso_date(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (date, rest) = bytes.split_at_checked(10)?;
    if date[4] != b'-' || date[7] != b'-' {
        return None;
    }
    let year = i64::from(two(&date[..2])? * 100 + two(&date[2..4])?);
    let (month, day) = (two(&date[5..7])?, two(&date[8..])?);
    let valid = year > 0 && (1..=12).contains(&month) && day >= 1 && day <= days_in_month(year, month);
    valid.then(|| (days_from_civil(Civil { year, month, day }), rest))
}

/// `HH:MM:SS[.ffffff]`, if valid and below 24 hours, and what follows.
#[inline]
fn iso_time(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (time, rest) = bytes.split_at_checked(8)?;
    if time[2] != b':' || time[5] != b':' {
        return None;
    }
    let (hour, minute, second) = (two(&time[..2])?, two(&time[3..5])?, two(&time[6..])?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let us = i64::from(hour * 3600 + minute * 60 + second) * US_PER_SECOND;
    let Some((b'.', fraction)) = rest.split_first() else {
        return Some((us, rest));
    };
    let n_digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
    if n_digits == 0 || n_digits > 6 {
        return None;
    }
    let digits = fraction[..n_digits].iter().fold(0i64, |n, b| n * 10 + i64::from(b - b'0'));
    Some((us + digits * 10i64.pow(6 - n_digits as u32), &fraction[n_digits..]))
}

#[inline]
fn iso_timestamp(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (days, rest) = iso_date(bytes)?;
    let (us, rest) = match rest.split_first() {
        None => (0, rest),
        Some((b' ' | b'T', time)) => iso_time(time)?,
        Some(_) => return None,
    };
    Some((days * US_PER_DAY + us, rest))
}

/// `Z`, `+HH` or `+HH:MM`, if valid, in seconds.
#[inline]
fn iso_offset(bytes: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match bytes {
        b"Z" => return Some(0),
        [sign @ (b'+' | b'-'), hours @ ..] if hours.len() == 2 => (sign, two(hours)?, 0),
        [sign @ (b'+' | b'-'), rest @ ..] if rest.len() == 5 && rest[2] == b':' => {
            (sign, two(&rest[..2])?, two(&rest[3..])?)
        }
        _ => return None,
    };
    let offset_s = i64::from(hours * 3600 + minutes * 60);
    (hours <= 15 && minutes <= 59).then_some(if *sign == b'-' { -offset_s } else { offset_s })
}

enum Moment {
    Infinity,
    NegativeInfinity,
    Fields(Fields),
}

struct Fields {
    date: Option<Civil>,
    time_us: Option<i64>,
    zone: Option<TimeZone>,
}

/// What has been read so far.
#[derive(Default)]
struct Reader {
    /// The text is a `time`, so bare digits are one.
    time_only: bool,
    year: Option<(i64, usize)>,
    month: Option<u32>,
    /// The month was a name, so the first number beside it is the day or the year.
    month_is_name: bool,
    day: Option<u32>,
    whole_date: Option<Civil>,
    time_us: Option<i64>,
    /// `T` stood before this field, so it is a time.
    time_follows: bool,
    /// `J` stood before this field, so it is a day number.
    julian_follows: bool,
    afternoon: Option<bool>,
    before_christ: bool,
    zone: Option<TimeZone>,
    /// A word stood for a time that is not known. What is left may still be wrong.
    needs_clock: bool,
}

fn read(mut reader: Reader, text: &str, settings: &FormatSettings) -> Result<Moment, Refusal> {
    let tokens = tokenize(text).ok_or(Refusal::Syntax)?;
    match tokens.as_slice() {
        [] => return Err(Refusal::Syntax),
        [Token::Word(word)] if word.eq_ignore_ascii_case("infinity") => return Ok(Moment::Infinity),
        [Token::Signed(word)] if word.eq_ignore_ascii_case("-infinity") => return Ok(Moment::NegativeInfinity),
        [Token::Signed(word)] if word.eq_ignore_ascii_case("+infinity") => return Ok(Moment::Infinity),
        _ => {}
    }
    for token in tokens {
        match token {
            Token::Word(word) => reader.word(word, settings)?,
            Token::Number(number) => reader.number(number, settings)?,
            Token::Time(time) => reader.time(time)?,
            Token::Joined(joined) => reader.joined(joined, settings)?,
            Token::Signed(signed) => reader.offset(signed)?,
        }
    }
    let needs_clock = reader.needs_clock;
    let fields = reader.finish()?;
    if needs_clock { Err(Refusal::Clock) } else { Ok(Moment::Fields(fields)) }
}

impl Reader {
    fn word(&mut self, word: &str, settings: &FormatSettings) -> Result<(), Refusal> {
        let lower = word.to_ascii_lowercase();
        if let Some(month) = month_by_name(&lower) {
            // A number read as the month before was the day.
            if let (Some(day), false) = (self.month, self.month_is_name) {
                self.day = Some(day);
            }
            (self.month, self.month_is_name) = (Some(month), true);
            return Ok(());
        }
        match lower.as_str() {
            "t" => self.time_follows = true,
            "j" | "jd" | "julian" => self.julian_follows = true,
            "am" => self.afternoon = Some(false),
            "pm" => self.afternoon = Some(true),
            "bc" => self.before_christ = true,
            "ad" | "at" | "on" => {}
            "allballs" => self.time_us = Some(0),
            "epoch" if self.time_us.is_some() || self.zone.is_some() => return Err(Refusal::Syntax),
            "epoch" => {
                (self.whole_date, self.time_us) = (Some(civil_from_days(0)), Some(0));
                self.zone = Some(TimeZone::Utc);
            }
            "now" | "today" | "tomorrow" | "yesterday" => self.clock(&lower, settings),
            _ if is_weekday(&lower) => {}
            _ => {
                let zone = abbreviation(&lower).or_else(|| TimeZone::by_name(&lower));
                if self.zone.is_some() || zone.is_none() {
                    return Err(Refusal::Syntax);
                }
                self.zone = zone;
            }
        }
        Ok(())
    }

    fn clock(&mut self, word: &str, settings: &FormatSettings) {
        let now_us = settings.now_us.unwrap_or(0);
        self.needs_clock |= settings.now_us.is_none();
        let local_us = now_us + i64::from(settings.time_zone.offset_at(now_us)) * US_PER_SECOND;
        let shift = match word {
            "tomorrow" => 1,
            "yesterday" => -1,
            _ => 0,
        };
        self.whole_date = Some(civil_from_days(local_us.div_euclid(US_PER_DAY) + shift));
        if word == "now" {
            self.time_us = Some(local_us.rem_euclid(US_PER_DAY));
        }
    }

    fn has_date(&self) -> bool {
        self.whole_date.is_some() || (self.year.is_some() && self.month.is_some() && self.day.is_some())
    }

    fn number(&mut self, number: &str, settings: &FormatSettings) -> Result<(), Refusal> {
        if std::mem::take(&mut self.julian_follows) {
            return self.julian_day(number);
        }
        let whole = number.split('.').next().unwrap_or(number);
        let may_be_time = self.time_us.is_none() && (self.has_date() || self.time_only);
        if std::mem::take(&mut self.time_follows) || (may_be_time && whole.len() == 6) {
            return self.digits_as_time(number);
        }
        if number.contains('.') {
            return Err(Refusal::Syntax);
        }
        if whole.len() >= 6 && !self.has_date() && self.month.is_none() {
            let (year, rest) = whole.split_at(whole.len() - 4);
            self.set_year(year)?;
            self.month = Some(parse_part(&rest[..2])?);
            self.day = Some(parse_part(&rest[2..])?);
            return Ok(());
        }
        self.date_part(number, settings.date_order)
    }

    /// One number of a date, whose meaning follows from what is known and from the session's order.
    fn date_part(&mut self, number: &str, order: DateOrder) -> Result<(), Refusal> {
        let looks_like_year = number.len() >= 3 || (order == DateOrder::Ymd && number.len() <= 2);
        match (self.year.is_some(), self.month.is_some(), self.day.is_some()) {
            (false, false, false) if looks_like_year => self.set_year(number),
            (false, false, false) if order == DateOrder::Dmy => self.set_day(number),
            (true, false, _) | (false, false, _) => {
                self.month = Some(parse_part(number)?);
                Ok(())
            }
            (false, true, false) if self.month_is_name && looks_like_year => self.set_year(number),
            (true, true, false) if self.month_is_name && number.len() >= 3 => self.year_was_day(number),
            (_, true, false) => self.set_day(number),
            (false, true, true) => self.set_year(number),
            (true, true, true) => Err(Refusal::Syntax),
        }
    }

    fn set_day(&mut self, number: &str) -> Result<(), Refusal> {
        self.day = Some(parse_part(number)?);
        Ok(())
    }

    /// In year-month-day order the first number beside a month's name is a year, unless the other cannot be a day.
    fn year_was_day(&mut self, number: &str) -> Result<(), Refusal> {
        match self.year {
            Some((day, 0..=2)) => {
                self.day = u32::try_from(day).ok();
                self.set_year(number)
            }
            _ => self.set_day(number),
        }
    }

    fn set_year(&mut self, number: &str) -> Result<(), Refusal> {
        let year: i64 = number.parse().map_err(|_| Refusal::Syntax)?;
        self.year = Some((year, number.len()));
        Ok(())
    }

    fn julian_day(&mut self, number: &str) -> Result<(), Refusal> {
        let days = number.parse::<i64>().map_err(|_| Refusal::Syntax)? + JULIAN_EPOCH_DAYS;
        if !(MIN_DAYS..=MAX_DAYS).contains(&days) {
            return Err(Refusal::Field { order: false });
        }
        self.whole_date = Some(civil_from_days(days));
        Ok(())
    }

    /// `2024-01-02`, `8-jan-1999`, `1/2/2003`, a zone's name, or a time and an offset as `030405-08`.
    fn joined(&mut self, joined: &str, settings: &FormatSettings) -> Result<(), Refusal> {
        let lower = joined.to_ascii_lowercase();
        if lower.as_bytes()[0].is_ascii_alphabetic() && (self.has_date() || self.time_us.is_some()) {
            let zone = TimeZone::parse(joined).map_err(|_| Refusal::UnknownZone(lower))?;
            self.zone = Some(zone);
            return Ok(());
        }
        if self.has_date() {
            // A run of digits as time, with an offset.
            let (digits, _) = lower.split_once('-').ok_or(Refusal::Syntax)?;
            self.time_follows = false;
            self.digits_as_time(digits)?;
            return self.offset(&lower[digits.len()..]);
        }
        let parts: Vec<&str> = lower.split(['-', '/', '.']).collect();
        if parts.len() > 3 || parts.iter().any(|p| p.is_empty()) {
            return Err(Refusal::Syntax);
        }
        for part in &parts {
            if let Some(month) = month_by_name(part) {
                (self.month, self.month_is_name) = (Some(month), true);
            }
        }
        for part in parts {
            if month_by_name(part).is_none() {
                if !part.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(Refusal::Syntax);
                }
                self.date_part(part, settings.date_order)?;
            }
        }
        Ok(())
    }

    /// `HH:MM[:SS[.f]]`
    fn time(&mut self, time: &str) -> Result<(), Refusal> {
        if self.time_us.is_some() {
            return Err(Refusal::Syntax);
        }
        self.time_follows = false;
        let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
        let parts: Vec<&str> = clock.split(':').collect();
        if parts.len() > 3 || (parts.len() == 2 && !fraction.is_empty()) {
            return Err(Refusal::Syntax);
        }
        let second = parts.get(2).filter(|s| !s.is_empty()).map_or(Ok(0), |s| parse_part(s))?;
        self.set_time(parse_part(parts[0])?, parse_part(parts[1])?, second, fraction)
    }

    /// `HHMM[SS[.f]]`
    fn digits_as_time(&mut self, number: &str) -> Result<(), Refusal> {
        if self.time_us.is_some() {
            return Err(Refusal::Syntax);
        }
        let (clock, fraction) = number.split_once('.').unwrap_or((number, ""));
        match clock.len() {
            2 => self.set_time(parse_part(clock)?, 0, 0, ""),
            4 => self.set_time(parse_part(&clock[..2])?, parse_part(&clock[2..])?, 0, fraction),
            6 => {
                let (hour, minute) = (parse_part(&clock[..2])?, parse_part(&clock[2..4])?);
                self.set_time(hour, minute, parse_part(&clock[4..])?, fraction)
            }
            _ => Err(Refusal::Syntax),
        }
    }

    fn set_time(&mut self, hour: u32, minute: u32, second: u32, fraction: &str) -> Result<(), Refusal> {
        let micros = parse_fraction(fraction).ok_or(Refusal::Syntax)?;
        let us = i64::from(hour) * US_PER_HOUR
            + i64::from(minute) * US_PER_MINUTE
            + i64::from(second) * US_PER_SECOND
            + micros;
        if hour > 24 || minute > 59 || second > 60 || us > US_PER_DAY {
            return Err(Refusal::Field { order: false });
        }
        self.time_us = Some(us);
        Ok(())
    }

    /// `+HH[:MM[:SS]]`, `+HHMM`
    fn offset(&mut self, signed: &str) -> Result<(), Refusal> {
        if self.zone.is_some() || (self.time_us.is_none() && !self.has_date()) {
            return Err(Refusal::Syntax);
        }
        let digits = signed[1..].trim_start();
        let parts: Vec<&str> = match digits.split(':').collect::<Vec<_>>() {
            whole if whole.len() == 1 && digits.len() > 2 => {
                let (hours, minutes) = digits.split_at(digits.len() - 2);
                vec![hours, minutes]
            }
            parts => parts,
        };
        let mut offset_s = 0i32;
        let mut unit = 3600;
        for part in &parts {
            let value: u32 = part.parse().map_err(|_| Refusal::Syntax)?;
            if unit == 0 {
                return Err(Refusal::Syntax);
            }
            if (unit == 3600 && value > 15) || (unit < 3600 && value > 59) {
                return Err(Refusal::Displacement);
            }
            offset_s += value as i32 * unit;
            unit /= 60;
        }
        if offset_s > MAX_OFFSET_S {
            return Err(Refusal::Displacement);
        }
        self.zone = TimeZone::fixed(if signed.starts_with('-') { -offset_s } else { offset_s });
        Ok(())
    }

    fn finish(self) -> Result<Fields, Refusal> {
        let mut time_us = self.time_us;
        if let Some(afternoon) = self.afternoon {
            let us = time_us.ok_or(Refusal::Syntax)?;
            let hour = us / US_PER_HOUR;
            if hour > 12 {
                return Err(Refusal::Field { order: false });
            }
            let half_day = 12 * US_PER_HOUR;
            time_us = Some(us - if hour == 12 { half_day } else { 0 } + if afternoon { half_day } else { 0 });
        }
        let date = match (self.whole_date, self.year, self.month, self.day) {
            (Some(date), ..) => Some(date),
            (None, Some((year, n_digits)), Some(month), Some(day)) => {
                Some(check_date(adjust_year(year, n_digits, self.before_christ)?, month, day)?)
            }
            (None, None, None, None) => None,
            _ => return Err(Refusal::Syntax),
        };
        Ok(Fields { date, time_us, zone: self.zone })
    }
}

fn adjust_year(year: i64, n_digits: usize, before_christ: bool) -> Result<i64, Refusal> {
    if before_christ {
        return if year > 0 { Ok(1 - year) } else { Err(Refusal::Field { order: false }) };
    }
    match year {
        0..70 if n_digits <= 2 => Ok(year + 2000),
        70..100 if n_digits <= 2 => Ok(year + 1900),
        0 => Err(Refusal::Field { order: false }),
        _ => Ok(year),
    }
}

fn check_date(year: i64, month: u32, day: u32) -> Result<Civil, Refusal> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err(Refusal::Field { order: true });
    }
    if day > days_in_month(year, month) || year > 6_000_000 {
        return Err(Refusal::Field { order: false });
    }
    Ok(Civil { year, month, day })
}

fn parse_part(digits: &str) -> Result<u32, Refusal> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::Syntax);
    }
    digits.parse().map_err(|_| Refusal::Field { order: false })
}

/// Microseconds of the digits after the point, rounded half to even.
pub(crate) fn parse_fraction(digits: &str) -> Option<i64> {
    if digits.is_empty() {
        return Some(0);
    }
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    if digits.len() <= 6 {
        return Some(digits.parse::<i64>().ok()? * 10i64.pow(6 - digits.len() as u32));
    }
    let fraction: f64 = format!("0.{digits}").parse().ok()?;
    Some((fraction * 1e6).round_ties_even() as i64)
}

fn is_weekday(lower: &str) -> bool {
    const DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
    DAYS.iter().any(|day| *day == lower || (lower.len() >= 3 && lower.len() <= 5 && day.starts_with(lower)))
}

/// The usual abbreviations of zones, as Postgres reads them by default.
fn abbreviation(lower: &str) -> Option<TimeZone> {
    let quarters = match lower {
        "utc" | "ut" | "gmt" | "z" | "zulu" | "wet" => 0,
        "bst" | "cet" | "met" | "wat" => 4,
        "cest" | "eet" | "mest" | "ist" | "sast" => 8,
        "eest" | "msk" | "idt" | "eat" => 12,
        "awst" | "hkt" => 32,
        "jst" | "kst" => 36,
        "acst" => 38,
        "aest" => 40,
        "acdt" => 42,
        "aedt" => 44,
        "nzst" => 48,
        "nzdt" => 52,
        "nst" => -14,
        "ndt" => -10,
        "adt" => -12,
        "ast" | "edt" => -16,
        "est" | "cdt" => -20,
        "cst" | "mdt" => -24,
        "mst" | "pdt" => -28,
        "pst" | "akdt" => -32,
        "akst" => -36,
        "hst" => -40,
        _ => return None,
    };
    TimeZone::fixed(quarters * 900)
}
