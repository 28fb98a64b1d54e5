//! `sum` and `avg`: exact over integers and numerics, compensated over floats.
//!
//! Float sums keep an unevaluated pair of doubles (T. J. Dekker, "A floating-point technique for extending the available
//! precision", 1971), so that taking back what was added leaves next to nothing; NaN and the infinities, which could
//! not be taken back, are counted apart.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float32Array, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type};
use millstream_state::PagedVec;
use millstream_types::{Error, Result, SqlState};

use super::{GroupAccumulator, Input};

pub(super) fn accumulator(is_avg: bool, argument: &DataType, result: &DataType) -> Box<dyn GroupAccumulator> {
    match argument {
        DataType::Float32 | DataType::Float64 => {
            Box::new(FloatSum { is_avg, result: result.clone(), states: PagedVec::new(FloatState::default()) })
        }
        _ => {
            let scale = if let DataType::Decimal128(_, s) = argument { *s } else { 0 };
            Box::new(ExactSum { is_avg, scale, result: result.clone(), states: PagedVec::new(ExactState::default()) })
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct ExactState {
    sum: i128,
    n: i64,
}

/// Sums of integers and numerics, as multiples of 10^-scale.
struct ExactSum {
    is_avg: bool,
    scale: i8,
    result: DataType,
    states: PagedVec<ExactState>,
}

impl ExactSum {
    fn average(&self, state: ExactState, result_scale: i8) -> Result<i128> {
        // One digit more than wanted, to round half away from zero as Postgres does.
        let shift = i32::from(result_scale) - i32::from(self.scale) + 1;
        let factor = 10i128.checked_pow(shift.unsigned_abs()).ok_or_else(out_of_range)?;
        let scaled = if shift >= 0 {
            state.sum.checked_mul(factor).ok_or_else(out_of_range)? / i128::from(state.n)
        } else {
            state.sum / i128::from(state.n) / factor
        };
        Ok((scaled + scaled.signum() * 5) / 10)
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
                    state.sum = state.sum.wrapping_add(i128::from(values[i]) * i128::from(weight));
                    state.n += weight;
                });
            }};
        }
        match argument.data_type() {
            DataType::Int16 => add!(Int16Type),
            DataType::Int32 => add!(Int32Type),
            DataType::Int64 => add!(Int64Type),
            DataType::Decimal128(_, _) => add!(Decimal128Type),
            other => return Err(Error::internal(format!("sum over {other}"))),
        }
        Ok(())
    }

    fn merge(&mut self, groups: &[u32], partial: &[ArrayRef]) -> Result<()> {
        let sums = partial[0].as_primitive::<Decimal128Type>().values();
        let counts = partial[1].as_primitive::<Int64Type>().values();
        for ((&group, sum), n) in groups.iter().zip(sums).zip(counts) {
            let state = self.states.get_mut(group);
            state.sum = state.sum.wrapping_add(*sum);
            state.n += n;
        }
        Ok(())
    }

    fn partial_types(&self) -> Vec<DataType> {
        vec![DataType::Decimal128(38, 0), DataType::Int64]
    }

    fn partial(&self, groups: &[u32]) -> Vec<ArrayRef> {
        let sums = Decimal128Array::from_iter_values(groups.iter().map(|&g| self.states.get(g).sum));
        let counts = Int64Array::from_iter_values(groups.iter().map(|&g| self.states.get(g).n));
        vec![Arc::new(sums.with_data_type(DataType::Decimal128(38, 0))), Arc::new(counts)]
    }

    fn finish(&self, groups: &[u32]) -> Result<ArrayRef> {
        let states = groups.iter().map(|&g| Some(self.states.get(g)).filter(|s| s.n > 0));
        Ok(match &self.result {
            DataType::Int64 => {
                let narrow = |s: ExactState| {
                    i64::try_from(s.sum)
                        .map_err(|_| Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "bigint out of range"))
                };
                Arc::new(states.map(|s| s.map(narrow).transpose()).collect::<Result<Int64Array>>()?)
            }
            DataType::Decimal128(_, scale) => {
                let value = |s: ExactState| if self.is_avg { self.average(s, *scale) } else { Ok(s.sum) };
                let values = states.map(|s| s.map(value).transpose()).collect::<Result<Decimal128Array>>()?;
                Arc::new(values.with_data_type(self.result.clone()))
            }
            other => return Err(Error::internal(format!("an exact sum has no result of type {other}"))),
        })
    }

    fn reset(&mut self, group: u32) {
        self.states.set(group, ExactState::default());
    }

    fn n_bytes(&self) -> usize {
        self.states.n_bytes()
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
            (state.n > 0).then_some(if self.is_avg { sum / state.n as f64 } else { sum })
        };
        Ok(match self.result {
            DataType::Float32 => Arc::new(groups.iter().map(|&g| value(g).map(|v| v as f32)).collect::<Float32Array>()),
            _ => Arc::new(groups.iter().map(|&g| value(g)).collect::<Float64Array>()),
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
        let sum = ExactSum {
            is_avg: true,
            scale: 0,
            result: DataType::Decimal128(38, 16),
            states: PagedVec::new(ExactState::default()),
        };
        let at_scale = |sum_of: i128, n, scale| sum.average(ExactState { sum: sum_of, n }, scale).expect("in range");
        assert_eq!(at_scale(1, 2, 0), 1);
        assert_eq!(at_scale(-1, 2, 0), -1);
        assert_eq!(at_scale(1, 3, 4), 3333);
        assert_eq!(at_scale(2, 3, 4), 6667);
    }
}
