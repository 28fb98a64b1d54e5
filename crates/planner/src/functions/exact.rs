//! `sqrt`, `exp`, `ln`, `log`, `power`, `factorial`, `gcd` and `lcm` over numerics, to as many digits as Postgres gives, of
//! which 16 after the point are kept.
//!
//! Values are whole numbers of some power of ten ([`Fixed`]), with digits to spare; a result is rounded twice, so that one
//! that is exact, or lies half way, is rounded as such. How many digits a result has after the point is Postgres' rule
//! (`src/backend/utils/adt/numeric.c`): 16 significant ones, and no fewer after the point than the arguments have.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type};
use millstream_types::sql_type::{NUMERIC_PRECISION, NUMERIC_SCALE};
use millstream_types::{Error, Result, SqlState};
use num_bigint::BigInt;

use super::builtin::Spec;
use super::numeric::out_of_range;
use super::transcendental::{INVALID_ARGUMENT_FOR_LOG, INVALID_ARGUMENT_FOR_POWER};
use crate::typing::types::{NUMERIC, common_number};

/// The functions of this file, over decimals of any scale.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: "sqrt_numeric", returns: numeric, run: |a, _| map(a, sqrt), strict: true },
    Spec { name: "exp_numeric", returns: numeric, run: |a, _| map(a, exp), strict: true },
    Spec { name: "ln_numeric", returns: numeric, run: |a, _| map(a, ln), strict: true },
    Spec { name: "log10_numeric", returns: numeric, run: |a, _| map(a, |x| log(&Number::of(10, 0), x)), strict: true },
    Spec { name: "log_numeric", returns: numeric, run: |a, _| map2(a, log), strict: true },
    Spec { name: "power_numeric", returns: numeric, run: |a, _| map2(a, power), strict: true },
    Spec { name: "factorial_numeric", returns: |_| WHOLE, run: |a, _| factorial(&a[0]), strict: true },
    Spec { name: "gcd_numeric", returns: common, run: |a, _| of_divisors(a, |gcd, _, _| Some(gcd)), strict: true },
    Spec { name: "lcm_numeric", returns: common, run: |a, _| of_divisors(a, multiple), strict: true },
];

/// A numeric without digits after the point.
const WHOLE: DataType = DataType::Decimal128(NUMERIC_PRECISION, 0);
/// Digits that are computed beyond those that are wanted.
const N_SPARE: u32 = 16;
/// Significant digits of a result.
const N_SIGNIFICANT: i64 = 16;

fn numeric(_: &[DataType]) -> DataType {
    NUMERIC
}

fn common(args: &[DataType]) -> DataType {
    common_number(&args[0], &args[1]).unwrap_or(NUMERIC)
}

/// A numeric argument.
struct Number {
    digits: i128,
    /// Digits after the point: as declared, or as many as it needs.
    scale: u32,
}

impl Number {
    fn of(digits: i128, scale: u32) -> Self {
        Number { digits, scale }
    }

    /// A value of a column; without a declared scale zeros at the end are no digits.
    fn new(digits: i128, precision: u8, scale: i8) -> Self {
        let (mut digits, mut scale) = (digits, scale.max(0) as u32);
        if precision == NUMERIC_PRECISION && scale == NUMERIC_SCALE as u32 {
            while scale > 0 && digits % 10 == 0 {
                (digits, scale) = (digits / 10, scale - 1);
            }
        }
        Number { digits, scale }
    }

    fn value(&self) -> f64 {
        self.digits as f64 / 10f64.powi(self.scale as i32)
    }

    /// The whole number that it is, if it is one that fits.
    fn whole(&self) -> Option<i128> {
        let unit = 10i128.checked_pow(self.scale)?;
        (self.digits % unit == 0).then_some(self.digits / unit)
    }

    fn fixed(&self, n_digits: u32) -> Fixed {
        let digits = BigInt::from(self.digits);
        let value = if n_digits >= self.scale {
            digits * ten_to(n_digits - self.scale)
        } else {
            digits / ten_to(self.scale - n_digits)
        };
        Fixed { value, n_digits }
    }
}

fn ten_to(exponent: u32) -> BigInt {
    BigInt::from(10).pow(exponent)
}

/// A number with a fixed number of digits after the point.
#[derive(Clone)]
struct Fixed {
    value: BigInt,
    n_digits: u32,
}

impl Fixed {
    fn whole(value: i64, n_digits: u32) -> Fixed {
        Fixed { value: BigInt::from(value) * ten_to(n_digits), n_digits }
    }

    fn with(&self, value: BigInt) -> Fixed {
        Fixed { value, n_digits: self.n_digits }
    }

    fn plus(&self, other: &Fixed) -> Fixed {
        self.with(&self.value + &other.value)
    }

    fn minus(&self, other: &Fixed) -> Fixed {
        self.with(&self.value - &other.value)
    }

    fn times(&self, other: &Fixed) -> Fixed {
        self.with(&self.value * &other.value / ten_to(self.n_digits))
    }

    fn over(&self, other: &Fixed) -> Fixed {
        self.with(&self.value * ten_to(self.n_digits) / &other.value)
    }

    fn is_zero(&self) -> bool {
        self.value == BigInt::ZERO
    }

    fn to_f64(&self) -> f64 {
        self.value.to_string().parse::<f64>().unwrap_or(f64::INFINITY) / 10f64.powi(self.n_digits as i32)
    }

    /// `2 * artanh(x)`, for small x, by its series.
    fn twice_artanh(&self) -> Fixed {
        let square = self.times(self);
        let (mut power, mut sum) = (self.clone(), self.clone());
        for n in (3..).step_by(2) {
            power = power.times(&square);
            if power.is_zero() {
                break;
            }
            sum = sum.with(&sum.value + &power.value / n);
        }
        sum.with(sum.value.clone() * 2)
    }

    /// The natural logarithm of a number above zero: `k ln 2 + ln m`, with m between 2/3 and 4/3.
    fn ln(&self) -> Fixed {
        let one = Fixed::whole(1, self.n_digits);
        let (low, high) = (&one.value * 2 / 3, &one.value * 4 / 3);
        let (mut m, mut k) = (self.clone(), 0i64);
        while m.value > high {
            (m.value, k) = (m.value / 2, k + 1);
        }
        while m.value < low {
            (m.value, k) = (m.value * 2, k - 1);
        }
        let of_m = m.minus(&one).over(&m.plus(&one)).twice_artanh();
        of_m.with(of_m.value.clone() + ln_2(self.n_digits).value * k)
    }

    /// `e` to the power of it: `2^k` times the power of what is left, the series of which is squared a few times.
    fn exp(&self) -> Fixed {
        const N_SQUARINGS: u32 = 8;
        let ln_2 = ln_2(self.n_digits);
        let k = &self.value / &ln_2.value;
        let rest = self.with((&self.value - &k * &ln_2.value) >> N_SQUARINGS);
        let one = Fixed::whole(1, self.n_digits);
        let (mut term, mut sum) = (one.clone(), one);
        for n in 1.. {
            term = term.times(&rest);
            term.value /= n;
            if term.is_zero() {
                break;
            }
            sum = sum.plus(&term);
        }
        for _ in 0..N_SQUARINGS {
            sum = sum.times(&sum);
        }
        let k = i64::try_from(k).unwrap_or(0);
        sum.with(if k >= 0 { sum.value.clone() << k } else { sum.value.clone() >> -k })
    }

    /// The numeric with so many digits after the point, of which 16 are kept.
    fn to_numeric(&self, scale: i64) -> Result<i128> {
        let wanted = scale.clamp(0, i64::from(NUMERIC_SCALE)) as u32;
        let nearly = rounded(&self.value, self.n_digits, self.n_digits.min(wanted + N_SPARE / 2));
        let value = rounded(&nearly, self.n_digits.min(wanted + N_SPARE / 2), wanted);
        let value = value * ten_to(NUMERIC_SCALE as u32 - wanted);
        match i128::try_from(value) {
            Ok(value) if value.abs() < 10i128.pow(u32::from(NUMERIC_PRECISION)) => Ok(value),
            _ => Err(out_of_range(&NUMERIC)),
        }
    }
}

/// A number at a smaller scale, rounded half away from zero.
fn rounded(value: &BigInt, from: u32, to: u32) -> BigInt {
    let unit = ten_to(from.saturating_sub(to));
    let half = &unit / 2;
    if *value < BigInt::ZERO { (value - half) / unit } else { (value + half) / unit }
}

/// The natural logarithm of 2.
fn ln_2(n_digits: u32) -> Fixed {
    const N_DIGITS: u32 = 150;
    static LN_2: LazyLock<Fixed> = LazyLock::new(|| {
        let n_digits = N_DIGITS + 5;
        let third = Fixed { value: ten_to(n_digits) / 3, n_digits };
        third.twice_artanh()
    });
    debug_assert!(n_digits <= N_DIGITS);
    Fixed { value: &LN_2.value / ten_to(LN_2.n_digits - n_digits), n_digits }
}

fn map(args: &[ArrayRef], f: fn(&Number) -> Result<i128>) -> Result<ArrayRef> {
    let (values, data_type) = numbers(&args[0]);
    let of_row = |v: Option<i128>| v.map(|v| f(&number(v, &data_type))).transpose();
    finished(values.iter().map(of_row).collect::<Result<_>>()?, &NUMERIC)
}

fn map2(args: &[ArrayRef], f: fn(&Number, &Number) -> Result<i128>) -> Result<ArrayRef> {
    let ((left, lt), (right, rt)) = (numbers(&args[0]), numbers(&args[1]));
    let of_row =
        |(l, r): (Option<i128>, Option<i128>)| l.zip(r).map(|(l, r)| f(&number(l, &lt), &number(r, &rt))).transpose();
    finished(left.iter().zip(right).map(of_row).collect::<Result<_>>()?, &NUMERIC)
}

fn numbers(array: &ArrayRef) -> (&Decimal128Array, DataType) {
    (array.as_primitive::<Decimal128Type>(), array.data_type().clone())
}

fn number(value: i128, data_type: &DataType) -> Number {
    match data_type {
        DataType::Decimal128(precision, scale) => Number::new(value, *precision, *scale),
        _ => Number::of(value, 0),
    }
}

fn finished(values: Decimal128Array, data_type: &DataType) -> Result<ArrayRef> {
    Ok(Arc::new(values.with_data_type(data_type.clone())))
}

fn sqrt(x: &Number) -> Result<i128> {
    if x.digits < 0 {
        return Err(Error::user(INVALID_ARGUMENT_FOR_POWER, "cannot take square root of a negative number"));
    }
    // Postgres counts digits in groups of four.
    let weight = if x.digits == 0 { 0 } else { (decimal_weight(x)).div_euclid(4) };
    let scale = (N_SIGNIFICANT - ((weight + 1) * 4 / 2 - 1)).max(i64::from(x.scale)).max(0);
    let n_digits = NUMERIC_SCALE as u32 + N_SPARE;
    let root = (x.fixed(n_digits).value * ten_to(n_digits)).sqrt();
    Fixed { value: root, n_digits }.to_numeric(scale)
}

/// The place of the first digit: 0 for 1 to 9, -1 for 0.1 to 0.9.
fn decimal_weight(x: &Number) -> i64 {
    x.digits.unsigned_abs().checked_ilog10().map_or(0, |log| i64::from(log) - i64::from(x.scale))
}

/// Digits after the point of a result whose first digit is at a place, over arguments of these scales.
fn scale_at(place: i64, scales: &[u32]) -> i64 {
    scales.iter().map(|s| i64::from(*s)).fold(N_SIGNIFICANT - place, i64::max).max(0)
}

fn exp(x: &Number) -> Result<i128> {
    let place = x.value() * std::f64::consts::LOG10_E;
    power_of_e(place, |n_digits| x.fixed(n_digits), &[x.scale])
}

/// `e` to a power that can be had to any number of digits; `place` is about the logarithm to base 10 of the result.
fn power_of_e(place: f64, exponent: impl Fn(u32) -> Fixed, scales: &[u32]) -> Result<i128> {
    if place > f64::from(NUMERIC_PRECISION) {
        return Err(out_of_range(&NUMERIC));
    }
    let scale = scale_at(place as i64, scales);
    if place < -f64::from(NUMERIC_SCALE as u8) - 2.0 {
        return Ok(0);
    }
    let n_digits = NUMERIC_SCALE as u32 + N_SPARE + place.max(0.0) as u32;
    exponent(n_digits).exp().to_numeric(scale)
}

fn above_zero(x: &Number) -> Result<()> {
    let what = match x.digits {
        0 => "zero",
        ..0 => "a negative number",
        _ => return Ok(()),
    };
    Err(Error::user(INVALID_ARGUMENT_FOR_LOG, format!("cannot take logarithm of {what}")))
}

/// The place of the first digit of a number's natural logarithm.
fn place_of_ln(x: &Number) -> i64 {
    let ln = if (0.9..=1.1).contains(&x.value()) { x.fixed(40).ln().to_f64() } else { x.value().ln() };
    if ln == 0.0 {
        return 0;
    }
    let place = ln.abs().log10();
    // Postgres counts the digits of what is near 0 from the first, and cuts the others.
    if (0.9..=1.1).contains(&x.value()) { place.floor() as i64 } else { place as i64 }
}

fn ln(x: &Number) -> Result<i128> {
    above_zero(x)?;
    let scale = scale_at(place_of_ln(x), &[x.scale]);
    x.fixed(NUMERIC_SCALE as u32 + N_SPARE + 2 * x.scale).ln().to_numeric(scale)
}

fn log(base: &Number, x: &Number) -> Result<i128> {
    above_zero(base)?;
    above_zero(x)?;
    let n_digits = NUMERIC_SCALE as u32 + N_SPARE + 2 * (base.scale + x.scale);
    let divisor = base.fixed(n_digits).ln();
    if divisor.is_zero() {
        return Err(Error::user(SqlState::DIVISION_BY_ZERO, "division by zero"));
    }
    let scale = scale_at(place_of_ln(x) - place_of_ln(base), &[base.scale, x.scale]);
    x.fixed(n_digits).ln().over(&divisor).to_numeric(scale)
}

fn power(base: &Number, exponent: &Number) -> Result<i128> {
    let one = || Fixed::whole(1, NUMERIC_SCALE as u32).to_numeric(N_SIGNIFICANT);
    let whole = exponent.whole();
    match (base.digits.signum(), exponent.digits.signum()) {
        (0, -1) => {
            let message = "zero raised to a negative power is undefined";
            return Err(Error::user(INVALID_ARGUMENT_FOR_POWER, message));
        }
        (_, 0) => return one(),
        (0, _) => return Ok(0),
        (-1, _) if whole.is_none() => {
            let message = "a negative number raised to a non-integer power yields a complex result";
            return Err(Error::user(INVALID_ARGUMENT_FOR_POWER, message));
        }
        _ => {}
    }
    let positive = Number::of(base.digits.abs(), base.scale);
    let place = positive.value().log10() * exponent.value();
    // Whole exponents have 16 digits after the point in Postgres 15, others 16 significant ones.
    let scales = match whole.filter(|e| i32::try_from(*e).is_ok()) {
        Some(_) => vec![NUMERIC_SCALE as u32],
        None => vec![base.scale, exponent.scale],
    };
    // The logarithm is multiplied by the exponent, and so is its error.
    let of_exponent = exponent.value().abs().log10().max(0.0) as u32;
    let logarithm = |n_digits: u32| {
        let n_more = n_digits + of_exponent + 5 + 2 * base.scale;
        let product = positive.fixed(n_more).ln().times(&exponent.fixed(n_more));
        Fixed { value: product.value / ten_to(n_more - n_digits), n_digits }
    };
    let result = power_of_e(place, logarithm, &scales)?;
    Ok(if base.digits < 0 && whole.is_some_and(|e| e % 2 != 0) { -result } else { result })
}

fn factorial(numbers: &ArrayRef) -> Result<ArrayRef> {
    let of_row = |n: i64| {
        if n < 0 {
            let message = "factorial of a negative number is undefined";
            return Err(Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, message));
        }
        // 34! has more than 38 digits.
        if n > 33 { Err(out_of_range(&NUMERIC)) } else { Ok((1..=i128::from(n)).product()) }
    };
    let numbers = numbers.as_primitive::<Int64Type>();
    finished(numbers.try_unary::<_, Decimal128Type, Error>(of_row)?, &WHOLE)
}

/// What comes of two decimals of one scale and their greatest common divisor; nothing if it does not fit.
fn of_divisors(args: &[ArrayRef], f: fn(i128, i128, i128) -> Option<i128>) -> Result<ArrayRef> {
    let ((left, data_type), (right, _)) = (numbers(&args[0]), numbers(&args[1]));
    let of_row = |(l, r): (Option<i128>, Option<i128>)| {
        let (Some(l), Some(r)) = (l, r) else { return Ok(None) };
        let value = f(greatest_divisor(l, r), l, r).filter(|v| *v < 10i128.pow(u32::from(NUMERIC_PRECISION)));
        value.map(Some).ok_or_else(|| out_of_range(&data_type))
    };
    finished(left.iter().zip(right).map(of_row).collect::<Result<_>>()?, &data_type)
}

fn greatest_divisor(a: i128, b: i128) -> i128 {
    let (mut a, mut b) = (a.abs(), b.abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn multiple(divisor: i128, a: i128, b: i128) -> Option<i128> {
    if divisor == 0 { Some(0) } else { (a / divisor).checked_mul(b).map(i128::abs) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        let scale = text.split_once('.').map_or(0, |(_, f)| f.len() as u32);
        Number::of(text.replace('.', "").parse().expect("a number"), scale)
    }

    #[test]
    fn digits_are_those_of_postgres() {
        let shown = |r: Result<i128>| r.map(|v| v.to_string()).unwrap_or_else(|e| e.message().to_owned());
        assert_eq!(shown(sqrt(&number("2"))), "14142135623730950");
        assert_eq!(shown(exp(&number("1.0"))), "27182818284590452");
        assert_eq!(shown(ln(&number("2.0"))), "6931471805599453");
        assert_eq!(shown(log(&number("2"), &number("8"))), "30000000000000000");
        assert_eq!(shown(power(&number("2"), &number("0.5"))), "14142135623730950");
        assert_eq!(shown(power(&number("-2.5"), &number("3"))), "-156250000000000000");
        assert_eq!(shown(power(&number("10"), &number("22"))), "value out of range: overflow");
    }
}
