//! `sum` and `avg`: exact over integers and numerics, compensated over floats.
//!
//! Float sums keep an unevaluated pair of doubles (T. J. Dekker, "A floating-point technique for extending the available
//! precision", 1971), so that taking back what was added leaves next to nothing; NaN and the infinities, which could
//! not be taken back, are counted apart.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float32Array, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type};
use millstream_state::PagedVec;
use millstream_types::sql_type::NUMERIC_PRECISION;
use millstream_types::{Error, Result, SqlState};

use super::{GroupAccumulator, Input};

/// Of parts of sums, which may have more digits.
const SUM_TYPE: DataType = DataType::Decimal128(NUMERIC_PRECISION, 0);

pub(super) fn accumulator(is_avg: bool, argument: &DataType, result: &DataType) -> Box<dyn GroupAccumulator> {
    match argument {
        DataType::Float32 | DataType::Float64 => {
            Box::new(FloatSum { is_avg, result: result.clone(), states: PagedVec::new(FloatState::default()) })
        }
        _ => Box::new(ExactSum::new(is_avg, argument, result)),
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct ExactState {
    /// Of numerics, the sum of the lower 64 bits, which are not negative.
    sum: i128,
    n: i64,
}

/// Sums of integers and numerics, as multiples of 10^-scale.
///
/// The sum of numerics is kept in two parts, so that it does not overflow before any number of rows that can come: what
/// it is now may fit again when rows are taken back.
struct ExactSum {
    is_avg: bool,
    scale: i8,
    result: DataType,
    states: PagedVec<ExactState>,
    /// For numerics, the sum of the upper 64 bits, in units of 2^64.
    upper: Option<PagedVec<i128>>,
}

/// The magnitude of a sum: `upper * 2^64 + lower`.
#[derive(Clone, Copy, Debug)]
struct Magnitude {
    is_negative: bool,
    upper: u128,
    lower: u64,
}

impl Magnitude {
    fn of(upper: i128, lower: i128) -> Self {
        let (upper, lower) = (upper + (lower >> 64), lower as u64);
        if upper >= 0 {
            return Magnitude { is_negative: false, upper: upper as u128, lower };
        }
        let (lower, borrows) = 0u64.overflowing_sub(lower);
        Magnitude { is_negative: true, upper: (-upper) as u128 - u128::from(borrows), lower }
    }

    /// The whole part of the quotient, and what is left.
    fn over(self, divisor: u128) -> Result<(i128, i128)> {
        let rest = ((self.upper % divisor) << 64) | u128::from(self.lower);
        let upper = u64::try_from(self.upper / divisor).map_err(|_| out_of_range())?;
        let quotient = (u128::from(upper) << 64) | (rest / divisor);
        Ok((i128::try_from(quotient).map_err(|_| out_of_range())?, (rest % divisor) as i128))
    }

    fn signed(self, magnitude: i128) -> Result<i128> {
        let fits = magnitude < 10i128.pow(NUMERIC_PRECISION.into());
        let value = if self.is_negative { -magnitude } else { magnitude };
        if fits { Ok(value) } else { Err(out_of_range()) }
    }
}

impl ExactSum {
    fn new(is_avg: bool, argument: &DataType, result: &DataType) -> Self {
        let (scale, upper) = match argument {
            DataType::Decimal128(_, scale) => (*scale, Some(PagedVec::new(0))),
            _ => (0, None),
        };
        ExactSum { is_avg, scale, result: result.clone(), states: PagedVec::new(ExactState::default()), upper }
    }

    fn magnitude(&self, group: u32) -> Magnitude {
        Magnitude::of(self.upper.as_ref().map_or(0, |u| u.get(group)), self.states.get(group).sum)
    }

    /// The average, rounded half away from zero as Postgres does.
    fn average(&self, sum: Magnitude, n: i64, result_scale: i8) -> Result<i128> {
        let shift = i32::from(result_scale) - i32::from(self.scale);
        let factor = 10i128.checked_pow(shift.unsigned_abs()).ok_or_else(out_of_range)?;
        let (n, (whole, rest)) = (i128::from(n), sum.over(n as u128)?);
        let (average, dropped, unit) = if shift >= 0 {
            let rest = rest.checked_mul(factor).ok_or_else(out_of_range)?;
            let average = whole.checked_mul(factor).and_then(|whole| whole.checked_add(rest / n));
            (average.ok_or_else(out_of_range)?, rest % n, n)
        } else {
            (whole / factor, whole % factor, factor)
        };
        sum.signed(average + i128::from(dropped >= unit - dropped))
    }

    fn value(&self, group: u32, scale: i8) -> Result<i128> {
        let sum = self.magnitude(group);
        if self.is_avg { self.average(sum, self.states.get(group).n, scale) } else { sum.signed(sum.over(1)?.0) }
    }
}

fn out_of_range() -> Error {
    Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value overflows numeric format")
}

impl GroupAccumulator for ExactSum {
    fn update(&mut self, input: Input<'_>) -> Result<()> {
        let argument = input.argument.expect("sum and avg have an argument");
        macro_rules! add {
            ($t:ty) => {{
                let values = argument.as_primitive::<$t>().values();
                input.for_each(|i, group, weight| {
                    let state = self.states.get_mut(group);
                    state.sum += i128::from(values[i]) * i128::from(weight);
                    state.n += weight;
                });
            }};
        }
        match (argument.data_type(), &mut self.upper) {
            (DataType::Int16, _) => add!(Int16Type),
            (DataType::Int32, _) => add!(Int32Type),
            (DataType::Int64, _) => add!(Int64Type),
            (DataType::Decimal128(_, _), Some(upper)) => {
                let values = argument.as_primitive::<Decimal128Type>().values();
                input.for_each(|i, group, weight| {
                    let state = self.states.get_mut(group);
                    state.sum += i128::from(values[i] as u64) * i128::from(weight);
                    state.n += weight;
                    *upper.get_mut(group) += (values[i] >> 64) * i128::from(weight);
                });
            }
            (other, _) => return Err(Error::internal(format!("sum over {other}"))),
        }
        Ok(())
    }

    fn merge(&mut self, groups: &[u32], partial: &[ArrayRef]) -> Result<()> {
        let counts = partial[0].as_primitive::<Int64Type>().values();
        let sums = partial[1].as_primitive::<Decimal128Type>().values();
        for ((&group, sum), n) in groups.iter().zip(sums).zip(counts) {
            let state = self.states.get_mut(group);
            state.sum += *sum;
            state.n += n;
        }
        if let Some(upper) = &mut self.upper {
            let sums = partial[2].as_primitive::<Decimal128Type>().values();
            groups.iter().zip(sums).for_each(|(&group, sum)| *upper.get_mut(group) += *sum);
        }
        Ok(())
    }

    fn partial_types(&self) -> Vec<DataType> {
        let sums = if self.upper.is_some() { 2 } else { 1 };
        [vec![DataType::Int64], vec![SUM_TYPE; sums]].concat()
    }

    fn partial(&self, groups: &[u32]) -> Vec<ArrayRef> {
        let sums = |sum: &dyn Fn(u32) -> i128| -> ArrayRef {
            let sums = Decimal128Array::from_iter_values(groups.iter().map(|&g| sum(g)));
            Arc::new(sums.with_data_type(SUM_TYPE))
        };
        let counts = Int64Array::from_iter_values(groups.iter().map(|&g| self.states.get(g).n));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(counts), sums(&|g| self.states.get(g).sum)];
        columns.extend(self.upper.as_ref().map(|upper| sums(&|g| upper.get(g))));
        columns
    }

    fn finish(&self, groups: &[u32]) -> Result<ArrayRef> {
        let has_rows = |g: u32| self.states.get(g).n > 0;
        Ok(match &self.result {
            DataType::Int64 => {
                let out_of_range = |_| Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "bigint out of range");
                let narrow = |g: u32| i64::try_from(self.states.get(g).sum).map_err(out_of_range);
                let values = groups.iter().map(|&g| has_rows(g).then(|| narrow(g)).transpose());
                Arc::new(values.collect::<Result<Int64Array>>()?)
            }
            DataType::Decimal128(_, scale) => {
                let values = groups.iter().map(|&g| has_rows(g).then(|| self.value(g, *scale)).transpose());
                Arc::new(values.collect::<Result<Decimal128Array>>()?.with_data_type(self.result.clone()))
            }
            other => return Err(Error::internal(format!("an exact sum has no result of type {other}"))),
        })
    }

    fn reset(&mut self, group: u32) {
        self.states.set(group, ExactState::default());
        if let Some(upper) = &mut self.upper {
            upper.set(group, 0);
        }
    }

    fn n_bytes(&self) -> usize {
        self.states.n_bytes() + self.upper.as_ref().map_or(0, PagedVec::n_bytes)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct FloatState {
    high: f64,
    low: f64,
    n: i64,
    n_nan: i64,
    n_inf: [i64; 2],
}

impl FloatState {
    #[inline]
    fn add(&mut self, value: f64, weight: i64) {
        self.n += weight;
        if value.is_finite() {
            // For weights beyond 2^53 the product would round; a row does not come that often.
            self.add_finite(value * weight as f64);
        } else if value.is_nan() {
            self.n_nan += weight;
        } else {
            self.n_inf[usize::from(value > 0.0)] += weight;
        }
    }

    /// Knuth's exact sum of two doubles, the error carried into the low part.
    #[inline]
    fn add_finite(&mut self, value: f64) {
        let sum = self.high + value;
        let from_value = sum - self.high;
        let error = (self.high - (sum - from_value)) + (value - from_value);
        self.high = sum;
        self.low += error;
    }

    /// Whether some value is not finite.
    fn is_wild(&self) -> bool {
        self.n_nan > 0 || self.n_inf[0] > 0 || self.n_inf[1] > 0
    }

    fn sum(&self) -> f64 {
        match (self.n_nan > 0, self.n_inf[0] > 0, self.n_inf[1] > 0) {
            (true, _, _) | (_, true, true) => f64::NAN,
            (_, true, _) => f64::NEG_INFINITY,
            (_, _, true) => f64::INFINITY,
            _ => self.high + self.low,
        }
    }
}

/// Sums of floats.
struct FloatSum {
    is_avg: bool,
    result: DataType,
    states: PagedVec<FloatState>,
}

impl GroupAccumulator for FloatSum {
    fn update(&mut self, input: Input<'_>) -> Result<()> {
        let argument = input.argument.expect("sum and avg have an argument");
        match argument.data_type() {
            DataType::Float32 => {
                let values = argument.as_primitive::<Float32Type>().values();
                input.for_each(|i, group, weight| self.states.get_mut(group).add(values[i].into(), weight));
            }
            _ => {
                let values = argument.as_primitive::<Float64Type>().values();
                input.for_each(|i, group, weight| self.states.get_mut(group).add(values[i], weight));
            }
        }
        Ok(())
    }

    fn merge(&mut self, groups: &[u32], partial: &[ArrayRef]) -> Result<()> {
        let floats = |i: usize| partial[i].as_primitive::<Float64Type>().values();
        let counts = |i: usize| partial[i].as_primitive::<Int64Type>().values();
        let (high, low) = (floats(0), floats(1));
        let (n, n_nan, n_neg, n_pos) = (counts(2), counts(3), counts(4), counts(5));
        for (i, &group) in groups.iter().enumerate() {
            let state = self.states.get_mut(group);
            state.add_finite(high[i]);
            state.add_finite(low[i]);
            state.n += n[i];
            state.n_nan += n_nan[i];
            state.n_inf[0] += n_neg[i];
            state.n_inf[1] += n_pos[i];
        }
        Ok(())
    }

    fn partial_types(&self) -> Vec<DataType> {
        let mut types = vec![DataType::Float64; 2];
        types.extend(vec![DataType::Int64; 4]);
        types
    }

    fn partial(&self, groups: &[u32]) -> Vec<ArrayRef> {
        let floats = |f: fn(FloatState) -> f64| -> ArrayRef {
            Arc::new(Float64Array::from_iter_values(groups.iter().map(|&g| f(self.states.get(g)))))
        };
        let counts = |f: fn(FloatState) -> i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(groups.iter().map(|&g| f(self.states.get(g)))))
        };
        vec![
            floats(|s| s.high),
            floats(|s| s.low),
            counts(|s| s.n),
            counts(|s| s.n_nan),
            counts(|s| s.n_inf[0]),
            counts(|s| s.n_inf[1]),
        ]
    }

    fn finish(&self, groups: &[u32]) -> Result<ArrayRef> {
        let value = |group: u32| {
            let state = self.states.get(group);
            let sum = state.sum();
            let value = if self.is_avg { sum / state.n as f64 } else { sum };
            (state.n > 0).then_some((value, state.is_wild()))
        };
        // What is not finite although all values are does not fit.
        let overflow = || Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: overflow");
        Ok(match self.result {
            DataType::Float32 => {
                let real = |(v, is_wild): (f64, bool)| {
                    let real = v as f32;
                    if real.is_finite() || is_wild { Ok(real) } else { Err(overflow()) }
                };
                let values = groups.iter().map(|&g| value(g).map(real).transpose());
                Arc::new(values.collect::<Result<Float32Array>>()?)
            }
            _ => {
                let double = |(v, is_wild): (f64, bool)| if v.is_finite() || is_wild { Ok(v) } else { Err(overflow()) };
                let values = groups.iter().map(|&g| value(g).map(double).transpose());
                Arc::new(values.collect::<Result<Float64Array>>()?)
            }
        })
    }

    fn reset(&mut self, group: u32) {
        self.states.set(group, FloatState::default());
    }

    fn n_bytes(&self) -> usize {
        self.states.n_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float_sums_leave_no_trace_of_what_was_taken_back() {
        let mut state = FloatState::default();
        let values: Vec<f64> = (0..1000).map(|i| (f64::from(i) * 0.7).exp2() / 3.0).filter(|v| v.is_finite()).collect();
        state.add(0.1, 1);
        values.iter().for_each(|&v| state.add(v, 1));
        state.add(f64::INFINITY, 1);
        state.add(f64::NAN, 1);
        assert!(state.sum().is_nan());
        state.add(f64::NAN, -1);
        assert_eq!(state.sum(), f64::INFINITY);
        state.add(f64::INFINITY, -1);
        let moderate: Vec<f64> = values.iter().copied().filter(|v| *v < 1e9).collect();
        let mut state = FloatState::default();
        state.add(0.1, 1);
        moderate.iter().for_each(|&v| state.add(v, 1));
        moderate.iter().rev().for_each(|&v| state.add(v, -1));
        assert!((state.sum() - 0.1).abs() < 1e-15);
    }

    #[test]
    fn averages_round_half_away_from_zero() {
        let sum = ExactSum::new(true, &DataType::Int64, &DataType::Decimal128(38, 16));
        let average = |of: i128, n, scale| sum.average(Magnitude::of(0, of), n, scale).expect("in range");
        assert_eq!(average(1, 2, 0), 1);
        assert_eq!(average(-1, 2, 0), -1);
        assert_eq!(average(1, 3, 4), 3333);
        assert_eq!(average(2, 3, 4), 6667);
        // The microseconds of an epoch, of ten million rows: the sum with 17 digits more would not fit.
        assert_eq!(average(17_000_000_000_000_000 * 10_000_000, 10_000_000, 16), 17 * 10i128.pow(31));
    }

    /// Sums of numerics are what they are over integers without a bound; those with more than 38 digits are errors, not
    /// something else, and are right again once they fit.
    #[test]
    fn sums_of_numerics_do_not_wrap() {
        let numeric = DataType::Decimal128(38, 0);
        let largest = 10i128.pow(38) - 1;
        let rounded = |times: i128, n: i128| largest / n * times + (largest % n * times + n / 2) / n;
        let mut sum = accumulator(false, &numeric, &numeric);
        let mut average = accumulator(true, &numeric, &numeric);
        let mut add = |value: i128, weight: i64| {
            let argument: ArrayRef = Arc::new(Decimal128Array::from(vec![value]).with_data_type(numeric.clone()));
            let weights = [weight];
            let input = Input { groups: &[0], argument: Some(&argument), filter: None, weights: Some(&weights) };
            let mut values = Vec::new();
            for accumulator in [&mut sum, &mut average] {
                accumulator.update(input).expect("a numeric");
                // What goes through a state and back is the same.
                let mut merged = super::accumulator(values.len() == 1, &numeric, &numeric);
                merged.merge(&[0], &accumulator.partial(&[0])).expect("its own state");
                values.push(merged.finish(&[0]).ok().map(|v| v.as_primitive::<Decimal128Type>().value(0)));
            }
            (values[0], values[1])
        };
        assert_eq!(add(largest, 1), (Some(largest), Some(largest)));
        assert_eq!(add(largest, 1_000_000), (None, Some(largest)));
        assert_eq!(add(-largest, 1_000_000), (Some(largest), Some(rounded(1, 2_000_001))));
        assert_eq!(add(largest, -1), (Some(0), Some(0)));
        assert_eq!(add(-largest, 3), (None, Some(-rounded(3, 2_000_003))));
        assert_eq!(add(-7, 1).0, None);
        assert_eq!(add(-largest, -3), (Some(-7), Some(0)));
    }
}
