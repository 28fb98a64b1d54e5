//! Distributions of numbers and of points in time: sequence, timestamp, uniform, zipf, normal.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Float64Array};
use millstream_types::{Error, Result, SqlState, SqlType};

use super::distribution::Distribution;
use super::line::Line;
use super::math::{exp, ln, normal_quantile};
use crate::random::{Key, below, unit};

/// What kind of number a column takes.
#[derive(Clone, Debug)]
pub(super) enum Number {
    /// Whole numbers of some unit.
    Line(Line),
    /// `real`
    Real,
    /// `double precision`
    Double,
}

impl Number {
    pub(super) fn of(sql_type: &SqlType) -> Option<Number> {
        match sql_type {
            SqlType::Real => Some(Number::Real),
            SqlType::Double => Some(Number::Double),
            other => Line::of(other).map(Number::Line),
        }
    }

    /// An array of the values, brought to the type's range.
    fn array(&self, values: impl Iterator<Item = f64>) -> ArrayRef {
        match self {
            Number::Real => Arc::new(Float32Array::from_iter_values(values.map(|v| v as f32))),
            Number::Double => Arc::new(Float64Array::from_iter_values(values)),
            Number::Line(line) => {
                let one = line.one() as f64;
                line.array(values.map(|v| ((v * one + 0.5).floor() as i128).clamp(line.min, line.max)))
            }
        }
    }
}

/// `start + step * position`, for whole numbers.
pub(super) struct Sequence {
    pub(super) line: Line,
    pub(super) start: i128,
    pub(super) step: i128,
    /// Positions are divided by this after the multiplication: dates step by parts of a day.
    pub(super) divisor: i128,
    /// Where a time of day starts anew.
    pub(super) modulus: Option<i128>,
}

impl Sequence {
    fn value(&self, position: u64) -> Option<i128> {
        let value = i128::from(position).checked_mul(self.step)?.div_euclid(self.divisor).checked_add(self.start)?;
        let value = self.modulus.map_or(value, |modulus| value.rem_euclid(modulus));
        (self.line.min..=self.line.max).contains(&value).then_some(value)
    }
}

impl Distribution for Sequence {
    fn generate(&self, positions: &[u64]) -> Result<ArrayRef> {
        let mut values = Vec::with_capacity(positions.len());
        for &position in positions {
            let value = self.value(position).ok_or_else(|| {
                Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, format!("sequence is out of range at row {position}"))
            })?;
            values.push(value);
        }
        Ok(self.line.array(values.into_iter()))
    }
}

/// `start + step * position`, for floats.
pub(super) struct FloatSequence {
    pub(super) number: Number,
    pub(super) start: f64,
    pub(super) step: f64,
}

impl Distribution for FloatSequence {
    fn generate(&self, positions: &[u64]) -> Result<ArrayRef> {
        Ok(self.number.array(positions.iter().map(|&p| self.start + self.step * p as f64)))
    }
}

/// Whole numbers from `least` on, in steps of `unit`, each of `n` as likely.
pub(super) struct Uniform {
    key: Key,
    line: Line,
    least: i128,
    unit: i128,
    n: u128,
}

impl Uniform {
    /// From `least` to `greatest`, both included; `unit` divides both.
    pub(super) fn new(key: Key, line: Line, least: i128, greatest: i128, unit: i128) -> Self {
        // The difference may need all 128 bits.
        let n = greatest.wrapping_sub(least).cast_unsigned() / unit.unsigned_abs() + 1;
        Uniform { key, line, least, unit, n }
    }
}

impl Distribution for Uniform {
    fn generate(&self, positions: &[u64]) -> Result<ArrayRef> {
        Ok(match u64::try_from(self.n) {
            Ok(n) => self
                .line
                .array(positions.iter().map(|&p| self.least + i128::from(below(self.key.word(p), n)) * self.unit)),
            Err(_) => self.line.array(positions.iter().map(|&p| {
                let key = self.key.at(p);
                let wide = u128::from(key.word(0)) << 64 | u128::from(key.word(1));
                self.least.wrapping_add((wide % self.n).cast_signed().wrapping_mul(self.unit))
            })),
        })
    }
}

/// Floats from `least` up to, and not including, `greatest`.
pub(super) struct FloatUniform {
    pub(super) key: Key,
    pub(super) number: Number,
    pub(super) least: f64,
    pub(super) greatest: f64,
}

impl Distribution for FloatUniform {
    fn generate(&self, positions: &[u64]) -> Result<ArrayRef> {
        let width = self.greatest - self.least;
        Ok(self.number.array(positions.iter().map(|&p| self.least + width * unit(self.key.word(p)))))
    }
}

/// The normal distribution.
pub(super) struct Normal {
    pub(super) key: Key,
    pub(super) number: Number,
    pub(super) mean: f64,
    pub(super) deviation: f64,
}

impl Distribution for Normal {
    fn generate(&self, positions: &[u64]) -> Result<ArrayRef> {
        let value = |&p: &u64| {
            // The upper 52 bits and a half: never 0, never 1.
            let probability = ((self.key.word(p) >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
            self.mean + self.deviation * normal_quantile(probability)
        };
        Ok(self.number.array(positions.iter().map(value)))
    }
}

/// Whole numbers k of `1..=n` with probability proportional to `k^-exponent`.
///
/// Rejection-inversion (W. Hörmann, G. Derflinger, 1996): a few random words a value, whatever `n`.
pub(super) struct Zipf {
    key: Key,
    number: Number,
    n: f64,
    exponent: f64,
    /// The integral of the hat over the first value, and up to the last.
    first: f64,
    last: f64,
    /// Values that lie at most so far below their rounding are accepted at once.
    accept: f64,
}

impl Zipf {
    /// `n >= 1`, `exponent > 0`.
    pub(super) fn new(key: Key, number: Number, n: u64, exponent: f64) -> Self {
        let mut zipf = Zipf { key, number, n: n as f64, exponent, first: 0.0, last: 0.0, accept: 0.0 };
        zipf.first = zipf.integral(1.5) - 1.0;
        zipf.last = zipf.integral(zipf.n + 0.5);
        zipf.accept = 2.0 - zipf.integral_inverse(zipf.integral(2.5) - zipf.hat(2.0));
        zipf
    }

    fn sample(&self, key: Key) -> f64 {
        for attempt in 0..64 {
            let u = self.last + unit(key.word(attempt)) * (self.first - self.last);
            let x = self.integral_inverse(u);
            let k = (x + 0.5).floor().clamp(1.0, self.n);
            if k - x <= self.accept || u >= self.integral(k + 0.5) - self.hat(k) {
                return k;
            }
        }
        1.0
    }

    /// `x^-exponent`
    fn hat(&self, x: f64) -> f64 {
        exp(-self.exponent * ln(x))
    }

    /// The integral of [`Self::hat`]: `(x^(1 - exponent) - 1) / (1 - exponent)`, or `ln x` in the limit.
    fn integral(&self, x: f64) -> f64 {
        let log = ln(x);
        let t = (1.0 - self.exponent) * log;
        // The series avoids a difference of nearly equal numbers.
        let expm1_over_t = if t.abs() < 1e-5 { 1.0 + t / 2.0 * (1.0 + t / 3.0) } else { (exp(t) - 1.0) / t };
        log * expm1_over_t
    }

    fn integral_inverse(&self, y: f64) -> f64 {
        let t = (y * (1.0 - self.exponent)).max(-1.0 + f64::EPSILON);
        let ln1p_over_t = if t.abs() < 1e-5 { 1.0 - t / 2.0 * (1.0 - 2.0 * t / 3.0) } else { ln(1.0 + t) / t };
        exp(y * ln1p_over_t)
    }
}

impl Distribution for Zipf {
    fn generate(&self, positions: &[u64]) -> Result<ArrayRef> {
        Ok(self.number.array(positions.iter().map(|&p| self.sample(self.key.at(p)))))
    }
}
