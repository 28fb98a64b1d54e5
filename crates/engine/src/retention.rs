//! Retention: how long, and how much, a stream keeps.
//!
//! Rows are forgotten by *floors*: from an epoch on, all that were written in or before another one are gone. The epoch in
//! which that happens is recorded as a write is, so a reader that has seen rows go does not see them come back. Floors are
//! the ends of *spans*, stretches of what was written; where there is a data directory a span is what one checkpoint or
//! several have written, so objects go as a whole.

use std::collections::VecDeque;
use std::time::Duration;

use millstream_planner::catalog::{Kind, Relation};
use millstream_storage::checkpoint::StreamLimits;
use millstream_types::pg::parse_interval;
use millstream_types::{Epoch, Error, Result, SqlState};

use crate::memory::parse_bytes;

/// A span has at most this part of what is kept.
const PART_OF_KEPT: u64 = 64;
/// Objects are merged up to this part of what is kept.
const MERGED_PART_OF_KEPT: u64 = 8;
/// Objects of streams are merged up to so many bytes.
const MERGED_BYTES_MAX: u64 = 128 << 20;

/// What a stream keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Rows that were written so long ago may be forgotten, in microseconds.
    time_us: Option<i64>,
    /// Rows may be forgotten that were written before so many bytes.
    n_bytes: Option<u64>,
}

impl Retention {
    /// What the options of a stream without a connector say.
    ///
    /// # Errors
    /// 22023 for a value that is none; 0A000 for other options.
    pub(crate) fn of(options: &[(String, String)]) -> Result<Option<Retention>> {
        let mut retention = Retention { time_us: None, n_bytes: None };
        for (name, value) in options {
            match name.as_str() {
                "retention" => retention.time_us = Some(time_of(value)?),
                "retention_size" => retention.n_bytes = Some(parse_bytes(value)? as u64),
                _ => {
                    let message = format!("option \"{name}\" of a stream without a connector is not supported");
                    return Err(Error::not_supported(message)
                        .with_hint("Its options are \"retention\" and \"retention_size\"."));
                }
            }
        }
        Ok((!options.is_empty()).then_some(retention))
    }

    /// What a relation keeps, if it is a stream that keeps rows and not all of them.
    ///
    /// # Errors
    /// As [`Retention::of`].
    pub(crate) fn of_stream(relation: &Relation) -> Result<Option<Retention>> {
        match relation.kind {
            Kind::Stream if !relation.has_connector() => Retention::of(&relation.options),
            _ => Ok(None),
        }
    }

    /// Up to where objects are merged.
    pub(crate) fn limits(retention: Option<&Retention>) -> StreamLimits {
        let n_bytes = retention.and_then(|retention| retention.n_bytes);
        let time_us = retention.and_then(|retention| retention.time_us);
        StreamLimits {
            bytes_max: n_bytes.map_or(MERGED_BYTES_MAX, |n| MERGED_BYTES_MAX.min(n / MERGED_PART_OF_KEPT)),
            span_us_max: time_us.map_or(i64::MAX, |us| us / MERGED_PART_OF_KEPT as i64),
        }
    }
}

/// An interval that is longer than none, in microseconds; months have 30 days.
fn time_of(text: &str) -> Result<i64> {
    let interval = parse_interval(text)?;
    let days = i64::from(interval.months) * 30 + i64::from(interval.days);
    let us = days.checked_mul(86_400_000_000).and_then(|us| us.checked_add(interval.nanoseconds / 1000));
    us.filter(|&us| us > 0).ok_or_else(|| {
        let message = format!("invalid value for option \"retention\": \"{text}\"");
        Error::user(SqlState::INVALID_PARAMETER_VALUE, message).with_hint("It is an interval such as '7 days'.")
    })
}

/// What a stream has kept, span by span.
#[derive(Debug)]
pub(crate) struct Kept {
    retention: Retention,
    /// Oldest first.
    spans: VecDeque<Span>,
    /// Rows that were written in or before it are forgotten.
    floor: Epoch,
}

/// What was written one after the other.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// When the first of it was written, and the last, in microseconds since 1970-01-01 UTC.
    from_us: i64,
    to_us: i64,
    /// The epoch of the last.
    epoch: Epoch,
    n_bytes: u64,
}

impl Kept {
    pub(crate) fn new(retention: Retention) -> Self {
        Kept { retention, spans: VecDeque::new(), floor: Epoch::ZERO }
    }

    /// Rows that were written in or before this epoch are forgotten.
    pub(crate) fn floor(&self) -> Epoch {
        self.floor
    }

    /// Notes what was written in an epoch, or up to it; what was written shortly before is forgotten with it.
    pub(crate) fn note_written(&mut self, epoch: Epoch, now_us: i64, n_bytes: u64) {
        let Retention { time_us, n_bytes: kept } = self.retention;
        let is_full = |span: &Span| {
            time_us.is_some_and(|us| now_us - span.from_us > us / PART_OF_KEPT as i64)
                || kept.is_some_and(|kept| span.n_bytes >= kept / PART_OF_KEPT)
        };
        match self.spans.back_mut().filter(|span| !is_full(span)) {
            Some(span) => *span = Span { to_us: now_us, epoch, n_bytes: span.n_bytes + n_bytes, ..*span },
            None => self.note_span(epoch, now_us, n_bytes),
        }
    }

    /// Notes what was written up to an epoch and a time as a span of its own.
    fn note_span(&mut self, epoch: Epoch, now_us: i64, n_bytes: u64) {
        self.spans.push_back(Span { from_us: now_us, to_us: now_us, epoch, n_bytes });
    }

    /// The last epoch whose rows may be forgotten now, if any may be that are still there; not later than `since`.
    pub(crate) fn expired(&self, now_us: i64, since: Epoch) -> Option<Epoch> {
        let is_old = |span: &Span| self.retention.time_us.is_some_and(|us| span.to_us <= now_us.saturating_sub(us));
        let mut n_bytes: u64 = self.spans.iter().map(|span| span.n_bytes).sum();
        let mut expired = None;
        for span in self.spans.iter().take_while(|span| span.epoch <= since) {
            // The last one is kept, however large it is.
            let is_too_much = self.retention.n_bytes.is_some_and(|kept| n_bytes > kept && n_bytes > span.n_bytes);
            if !is_old(span) && !is_too_much {
                break;
            }
            n_bytes -= span.n_bytes;
            expired = Some(span.epoch);
        }
        expired.filter(|epoch| *epoch > self.floor)
    }

    /// How long until something may be forgotten because of its age.
    pub(crate) fn until_expired(&self, now_us: i64) -> Option<Duration> {
        let (span, us) = self.spans.front().zip(self.retention.time_us)?;
        Some(Duration::from_micros(span.to_us.saturating_add(us).saturating_sub(now_us).max(0) as u64))
    }

    /// Rows that were written in or before an epoch are forgotten.
    pub(crate) fn forget(&mut self, floor: Epoch) {
        self.floor = self.floor.max(floor);
        self.spans.retain(|span| span.epoch > floor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(options: &[(&str, &str)]) -> Kept {
        let options: Vec<_> = options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Kept::new(Retention::of(&options).expect("right").expect("some"))
    }

    #[test]
    fn options_are_an_interval_and_an_amount() {
        let of = |name: &str, value: &str| Retention::of(&[(name.to_string(), value.to_string())]);
        assert_eq!(Retention::of(&[]), Ok(None));
        assert_eq!(of("retention", "7 days").unwrap().unwrap().time_us, Some(7 * 86_400_000_000));
        assert_eq!(of("retention", "1 month 2 hours").unwrap().unwrap().time_us, Some((30 * 24 + 2) * 3_600_000_000));
        assert_eq!(of("retention_size", "10 GB").unwrap().unwrap().n_bytes, Some(10 << 30));
        for (name, value) in [("retention", "-1 day"), ("retention", "0"), ("retention", "x"), ("retention_size", "x")]
        {
            assert!(of(name, value).is_err(), "{name} = {value}");
        }
        assert_eq!(of("format", "json").unwrap_err().state(), SqlState::FEATURE_NOT_SUPPORTED);
    }

    #[test]
    fn rows_go_by_age() {
        let mut kept = kept(&[("retention", "64 seconds")]);
        let second = 1_000_000;
        for i in 0..100i64 {
            kept.note_written(Epoch(i as u64 + 1), i * second / 2, 10);
        }
        let all = Epoch(u64::MAX);
        assert_eq!(kept.until_expired(0), Some(Duration::from_secs(65)), "the first span has a second");
        assert_eq!(kept.expired(64 * second, all), None);
        assert_eq!(kept.expired(65 * second, all), Some(Epoch(3)));
        assert_eq!(kept.expired(65 * second, Epoch(2)), None, "somebody needs what is older");
        kept.forget(Epoch(3));
        assert_eq!((kept.expired(65 * second, all), kept.floor()), (None, Epoch(3)));
        assert_eq!(kept.expired(1000 * second, all), Some(Epoch(100)), "the last one too");
        kept.forget(Epoch(100));
        assert_eq!((kept.expired(2000 * second, all), kept.until_expired(0)), (None, None));
    }

    #[test]
    fn rows_go_by_size() {
        let mut kept = kept(&[("retention_size", "1000B")]);
        for i in 1..=10 {
            kept.note_span(Epoch(i), 0, 300);
        }
        assert_eq!(kept.expired(0, Epoch(u64::MAX)), Some(Epoch(7)), "three are below the limit");
        kept.forget(Epoch(7));
        assert_eq!(kept.expired(0, Epoch(u64::MAX)), None);
        kept.note_span(Epoch(11), 0, 5000);
        assert_eq!(kept.expired(0, Epoch(u64::MAX)), Some(Epoch(10)), "the last one stays");
        assert_eq!(kept.until_expired(0), None);
    }
}
