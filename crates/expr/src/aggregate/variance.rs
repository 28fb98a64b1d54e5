//! `var_pop`, `var_samp`, `stddev_pop` and `stddev_samp`: doubles over floats, numerics over exact numbers.
//!
//! Decimals and bigints are added as whole numbers of their last digits, each in two doubles, which is exact up to 2^106.
//!
//! A state is the sum of the values and the sum of their squares, in three and four doubles, the squares multiplied exactly.
//! So what was taken back leaves no trace, were it 10^20 times what stays; states add up in any order; and the difference
//! in `sum(x²) - sum(x)²/n` is still exact to 1e-9 where the mean is 10^16 times the deviation. NaN and the infinities, whose
//! variance is NaN, are counted apart.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type};
use millstream_state::PagedVec;
use millstream_types::{Error, Result, SqlState};

use super::{GroupAccumulator, Input};

/// A double of twice the precision, as an unevaluated sum (T. J. Dekker, 1971).
#[derive(Clone, Copy, Debug, Default)]
struct Wide {
    high: f64,
    low: f64,
}

impl Wide {
    fn sum_of(a: f64, b: f64) -> Wide {
        let sum = a + b;
        let of_b = sum - a;
        Wide { high: sum, low: (a - (sum - of_b)) + (b - of_b) }
    }

    fn product_of(a: f64, b: f64) -> Wide {
        let product = a * b;
        Wide { high: product, low: a.mul_add(b, -product) }
    }

    fn plus(self, other: Wide) -> Wide {
        let high = Wide::sum_of(self.high, other.high);
        let low = Wide::sum_of(self.low, other.low);
        let middle = Wide::sum_of(high.high, high.low + low.high);
        Wide::sum_of(middle.high, middle.low + low.low)
    }

    fn times(self, other: Wide) -> Wide {
        let product = Wide::product_of(self.high, other.high);
        Wide::sum_of(product.high, product.low + (self.high * other.low + self.low * other.high))
    }

    fn scaled(self, by: f64) -> Wide {
        self.times(Wide { high: by, low: 0.0 })
    }

    fn over(self, divisor: f64) -> Wide {
        let first = self.high / divisor;
        let rest = self.plus(Wide::product_of(-first, divisor));
        Wide::sum_of(first, (rest.high + rest.low) / divisor)
    }

    fn value(self) -> f64 {
        self.high + self.low
    }

    /// The root, by one step of Newton's from that of the high part.
    fn root(self) -> Wide {
        let root = self.high.sqrt();
        if root == 0.0 {
            return Wide::default();
        }
        let rest = self.plus(Wide::product_of(-root, root)).value();
        Wide::sum_of(root, rest / (2.0 * root))
    }

    /// A whole number, to as many digits as there are.
    fn of_whole(value: i128) -> Wide {
        let high = value as f64;
        Wide { high, low: value.saturating_sub(high as i128) as f64 }
    }

    /// Over a power of ten.
    fn over_ten_to(self, exponent: u32) -> Wide {
        // Up to 10^22 such powers are doubles.
        (0..exponent).step_by(16).fold(self, |value, done| value.over(10f64.powi((exponent - done).min(16) as i32)))
    }

    /// As a numeric of a scale.
    fn to_numeric(self, scale: i8) -> Result<i128> {
        let scaled = self.scaled(10f64.powi(i32::from(scale)));
        if scaled.high.abs() >= 1e38 {
            return Err(Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value overflows numeric format"));
        }
        let whole = scaled.high.floor();
        Ok(whole as i128 + ((scaled.high - whole) + scaled.low + 0.5).floor() as i128)
    }
}

/// A sum in several doubles, largest first, exact to as many times a double's precision (T. Ogita, S. M. Rump and
/// S. Oishi, "Accurate sum and dot product", 2005).
#[derive(Clone, Copy, Debug)]
struct Sum<const N: usize>([f64; N]);

impl<const N: usize> Default for Sum<N> {
    fn default() -> Self {
        Sum([0.0; N])
    }
}

impl<const N: usize> Sum<N> {
    #[inline]
    fn add(&mut self, value: f64) {
        let mut rest = value;
        for part in &mut self.0 {
            let sum = Wide::sum_of(*part, rest);
            *part = sum.high;
            rest = sum.low;
        }
    }

    fn add_wide(&mut self, value: Wide) {
        self.add(value.high);
        self.add(value.low);
    }

    fn value(&self) -> Wide {
        // The parts may cancel one another, so what they come to is summed once more.
        let mut sum = Sum::<N>::default();
        self.0.iter().for_each(|&part| sum.add(part));
        sum.0.iter().rev().fold(Wide::default(), |all, &part| all.plus(Wide { high: part, low: 0.0 }))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    sum: Sum<3>,
    sum_of_squares: Sum<4>,
    n: i64,
    /// Values that are not finite.
    n_wild: i64,
}

impl State {
    fn add(&mut self, value: f64, weight: i64) {
        if value.is_finite() {
            self.add_wide(Wide { high: value, low: 0.0 }, weight);
        } else {
            self.n += weight;
            self.n_wild += weight;
        }
    }

    fn add_wide(&mut self, value: Wide, weight: i64) {
        self.n += weight;
        let weight = weight as f64;
        self.sum.add_wide(Wide::product_of(value.high, weight));
        let squares: &[(f64, f64)] = match value.low {
            0.0 => &[(value.high, value.high)],
            low => &[(value.high, value.high), (2.0 * value.high, low), (low, low)],
        };
        if value.low != 0.0 {
            self.sum.add_wide(Wide::product_of(value.low, weight));
        }
        for (a, b) in squares {
            let product = Wide::product_of(*a, *b);
            self.sum_of_squares.add_wide(Wide::product_of(product.high, weight));
            self.sum_of_squares.add_wide(Wide::product_of(product.low, weight));
        }
    }
}

/// The doubles of a state.
const N_PARTS: usize = 7;

/// Variances of groups, or their square roots.
pub(super) struct Variance {
    is_sample: bool,
    is_root: bool,
    result: DataType,
    /// Digits of the argument after the point.
    scale: u32,
    states: PagedVec<State>,
}

impl Variance {
    pub(super) fn new(is_sample: bool, is_root: bool, argument: &DataType, result: DataType) -> Self {
        let scale = match argument {
            DataType::Decimal128(_, scale) => u32::try_from(*scale).unwrap_or(0),
            _ => 0,
        };
        Variance { is_sample, is_root, result, scale, states: PagedVec::new(State::default()) }
    }

    fn result(&self, state: State) -> Option<Wide> {
        let divisor = state.n - i64::from(self.is_sample);
        if divisor <= 0 {
            return None;
        }
        if state.n_wild > 0 {
            return Some(Wide { high: f64::NAN, low: 0.0 });
        }
        // `n sum(x²) - sum(x)²`, product by product, so that nothing is lost where the two are nearly equal.
        let n = state.n as f64;
        let mut spread = Sum::<6>::default();
        state.sum_of_squares.0.iter().for_each(|&part| spread.add_wide(Wide::product_of(part, n)));
        for &a in &state.sum.0 {
            state.sum.0.iter().for_each(|&b| spread.add_wide(Wide::product_of(-a, b)));
        }
        let spread = spread.value();
        // What is below the precision of the sums is nothing.
        let noise = state.sum_of_squares.value().value() * n * 1e-40;
        let is_noise = spread.value() <= noise;
        let variance = if is_noise { Wide::default() } else { spread.over(n).over(divisor as f64) };
        // Decimals were added as the whole numbers of their last digits.
        Some(match self.is_root {
            true => variance.root().over_ten_to(self.scale),
            false => variance.over_ten_to(2 * self.scale),
        })
    }
}

impl GroupAccumulator for Variance {
    fn update(&mut self, input: Input<'_>) -> Result<()> {
        let argument = input.argument.expect("variances have an argument");
        let whole = match argument.data_type() {
            DataType::Decimal128(..) => Some(Arc::clone(argument)),
            DataType::Int64 => Some(cast(argument, &DataType::Decimal128(19, 0))?),
            _ => None,
        };
        if let Some(whole) = whole {
            let values = whole.as_primitive::<Decimal128Type>().values();
            input.for_each(|i, group, weight| self.states.get_mut(group).add_wide(Wide::of_whole(values[i]), weight));
            return Ok(());
        }
        let values = cast(argument, &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>().values();
        input.for_each(|i, group, weight| self.states.get_mut(group).add(values[i], weight));
        Ok(())
    }

    fn merge(&mut self, groups: &[u32], partial: &[ArrayRef]) -> Result<()> {
        let floats = |i: usize| partial[i].as_primitive::<Float64Type>().values();
        let counts = |i: usize| partial[i].as_primitive::<Int64Type>().values();
        let sums: Vec<_> = (0..N_PARTS).map(floats).collect();
        let (n, n_wild) = (counts(N_PARTS), counts(N_PARTS + 1));
        for (i, &group) in groups.iter().enumerate() {
            let state = self.states.get_mut(group);
            sums[..3].iter().for_each(|part| state.sum.add(part[i]));
            sums[3..].iter().for_each(|part| state.sum_of_squares.add(part[i]));
            state.n += n[i];
            state.n_wild += n_wild[i];
        }
        Ok(())
    }

    fn partial_types(&self) -> Vec<DataType> {
        let mut types = vec![DataType::Float64; N_PARTS];
        types.extend(vec![DataType::Int64; 2]);
        types
    }

    fn partial(&self, groups: &[u32]) -> Vec<ArrayRef> {
        let part = |i: usize| -> ArrayRef {
            let part = |s: State| if i < 3 { s.sum.0[i] } else { s.sum_of_squares.0[i - 3] };
            Arc::new(Float64Array::from_iter_values(groups.iter().map(|&g| part(self.states.get(g)))))
        };
        let counts = |f: fn(State) -> i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(groups.iter().map(|&g| f(self.states.get(g)))))
        };
        (0..N_PARTS).map(part).chain([counts(|s| s.n), counts(|s| s.n_wild)]).collect()
    }

    fn finish(&self, groups: &[u32]) -> Result<ArrayRef> {
        let results = groups.iter().map(|&g| self.result(self.states.get(g)));
        Ok(match self.result {
            DataType::Decimal128(_, scale) => {
                let numeric = |r: Option<Wide>| r.map(|r| r.to_numeric(scale)).transpose();
                let values = results.map(numeric).collect::<Result<Decimal128Array>>()?;
                Arc::new(values.with_data_type(self.result.clone()))
            }
            _ => Arc::new(results.map(|r| r.map(Wide::value)).collect::<Float64Array>()),
        })
    }

    fn reset(&mut self, group: u32) {
        self.states.set(group, State::default());
    }

    fn n_bytes(&self) -> usize {
        self.states.n_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variance(values: &[(f64, i64)]) -> Option<f64> {
        let mut state = State::default();
        values.iter().for_each(|&(v, w)| state.add(v, w));
        Variance::new(true, false, &DataType::Float64, DataType::Float64).result(state).map(Wide::value)
    }

    #[test]
    fn what_was_taken_back_leaves_no_trace() {
        let noise: Vec<f64> = (0..1000).map(|i| (f64::from(i) - 300.0).exp2().min(1e18) * 0.7).collect();
        let mut state = State::default();
        [0.1, 0.2, 0.4].iter().for_each(|&v| state.add(v, 1));
        noise.iter().for_each(|&v| state.add(v, 1));
        state.add(f64::NAN, 1);
        let variance_of =
            |state| Variance::new(true, false, &DataType::Float64, DataType::Float64).result(state).map(Wide::value);
        assert!(variance_of(state).is_some_and(f64::is_nan));
        noise.iter().rev().for_each(|&v| state.add(v, -1));
        state.add(f64::NAN, -1);
        let expected = variance(&[(0.1, 1), (0.2, 1), (0.4, 1)]).expect("three values");
        let found = variance_of(state).expect("three values");
        assert!((found / expected - 1.0).abs() < 1e-12, "{found} {expected}");
        assert!((expected - 0.023_333_333_333_333_334).abs() < 1e-16);
    }

    #[test]
    fn exact_numbers_have_numerics_as_variance() {
        let mut state = State::default();
        [1.0, 2.0, 4.0, 5.0].iter().for_each(|&v| state.add(v, 1));
        let result = |is_sample, is_root| {
            let variance =
                Variance::new(is_sample, is_root, &DataType::Int32, DataType::Decimal128(38, 16)).result(state);
            variance.expect("four values").to_numeric(16).expect("in range")
        };
        assert_eq!(result(true, false), 33_333_333_333_333_333);
        assert_eq!(result(false, false), 25_000_000_000_000_000);
        assert_eq!(result(true, true), 18_257_418_583_505_537);
        assert_eq!(result(false, true), 15_811_388_300_841_897);
    }

    #[test]
    fn decimals_are_added_digit_by_digit() {
        let variance = |digits: &[i128], scale: i8| {
            let mut state = State::default();
            digits.iter().for_each(|&v| state.add_wide(Wide::of_whole(v), 1));
            let argument = DataType::Decimal128(38, scale);
            let result = Variance::new(true, false, &argument, DataType::Decimal128(38, 16)).result(state);
            result.expect("several values").to_numeric(16).expect("in range")
        };
        assert_eq!(variance(&[1, 2, 4], 1), 233_333_333_333_333);
        assert_eq!(variance(&[10i128.pow(17) + 1, 10i128.pow(17) + 2, 10i128.pow(17) + 4], 1), 233_333_333_333_333);
        assert_eq!(variance(&[10i128.pow(36), 2 * 10i128.pow(36)], 30), 5 * 10i128.pow(27));
    }

    #[test]
    fn a_mean_far_from_zero_costs_no_precision() {
        let values = [(1e9 + 4.0, 1), (1e9 + 7.0, 1), (1e9 + 13.0, 1), (1e9 + 16.0, 1)];
        assert_eq!(variance(&values), Some(30.0));
        assert_eq!(variance(&[(0.1, 3)]), Some(0.0));
        assert_eq!(variance(&[(0.1, 1)]), None);
    }
}
