//! Logarithm, exponential and the quantiles of the normal distribution, with the same bits on every machine.
//!
//! The system's mathematical library may differ in the last bit from one release to the next, and a source must give
//! the same rows again. Here are sums, products, quotients and square roots alone, which IEEE 754 defines exactly.

use std::f64::consts::{LN_2, SQRT_2};

/// The natural logarithm of a positive, normal number, to about 1e-15 relative.
pub(super) fn ln(x: f64) -> f64 {
    debug_assert!(x >= f64::MIN_POSITIVE && x.is_finite());
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if mantissa > SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    // ln m = 2 artanh((m - 1) / (m + 1)), by its series.
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let square = z * z;
    let series = (0..12).rev().fold(0.0, |sum, k| sum * square + 1.0 / f64::from(2 * k + 1));
    2.0 * z * series + exponent as f64 * LN_2
}

/// The exponential function, to about 1e-15 relative; 0 and infinity beyond the range of normal numbers.
pub(super) fn exp(x: f64) -> f64 {
    if x < -708.0 {
        return 0.0;
    } else if x > 709.0 {
        return f64::INFINITY;
    }
    let k = (x / LN_2 + 0.5).floor();
    // ln 2 in two parts, so that the product with the first is exact.
    let (high, low) = (0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10);
    let rest = (x - k * high) - k * low;
    let series = (1..=14).rev().fold(1.0, |sum, n| 1.0 + sum * rest / f64::from(n));
    series * f64::from_bits(((k as i64 + 1023) as u64) << 52)
}

/// The value below which a standard normal variable is with probability `p`, `0 < p < 1`, to about 1e-9 relative.
///
/// The rational approximation of P. J. Acklam (2003).
pub(super) fn normal_quantile(p: f64) -> f64 {
    const CENTRAL: ([f64; 6], [f64; 6]) = (
        [
            -3.969683028665376e1,
            2.209460984245205e2,
            -2.759285104469687e2,
            1.38357751867269e2,
            -3.066479806614716e1,
            2.506628277459239,
        ],
        [
            -5.447609879822406e1,
            1.615858368580409e2,
            -1.556989798598866e2,
            6.680131188771972e1,
            -1.328068155288572e1,
            1.0,
        ],
    );
    const TAIL: ([f64; 6], [f64; 5]) = (
        [
            -7.784894002430293e-3,
            -3.223964580411365e-1,
            -2.400758277161838,
            -2.549732539343734,
            4.374664141464968,
            2.938163982698783,
        ],
        [7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416, 1.0],
    );
    const TAIL_STARTS: f64 = 0.02425;
    let polynomial = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, c| sum * x + c);
    let tail = |p: f64| {
        let q = (-2.0 * ln(p)).sqrt();
        polynomial(&TAIL.0, q) / polynomial(&TAIL.1, q)
    };
    if p < TAIL_STARTS {
        tail(p)
    } else if p > 1.0 - TAIL_STARTS {
        -tail(1.0 - p)
    } else {
        let q = p - 0.5;
        q * polynomial(&CENTRAL.0, q * q) / polynomial(&CENTRAL.1, q * q)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_agree_with_the_systems() {
        let mut x = 1e-300;
        while x < 1e300 {
            assert!((ln(x) - x.ln()).abs() <= 4e-15 * x.ln().abs().max(1e-1), "ln {x}");
            x *= 1.37;
        }
        let mut x = -700.0;
        while x < 700.0 {
            assert!((exp(x) / f64::exp(x) - 1.0).abs() < 4e-15, "exp {x}: {} {}", exp(x), f64::exp(x));
            x += 0.37;
        }
        assert_eq!((exp(0.0), exp(-1e9), exp(1e9)), (1.0, 0.0, f64::INFINITY));
    }

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (p, z) in
            [(0.5, 0.0), (0.975, 1.959963985), (0.99, 2.326347874), (1e-6, -4.753424309), (0.01, -2.326347874)]
        {
            assert!((normal_quantile(p) - z).abs() < 1e-7, "{p}: {}", normal_quantile(p));
        }
    }
}
