//! Floats in the shortest form that reads back the same, laid out as Postgres does.

use super::digits::write_padded;

/// What differs between `real` and `double precision`.
struct Layout {
    /// Values of this decimal exponent and above are printed with an exponent.
    exponent_min: i32,
    /// Bits of the significand, the hidden one included.
    significand_bits: i32,
}

const REAL: Layout = Layout { exponent_min: 6, significand_bits: 24 };
const DOUBLE: Layout = Layout { exponent_min: 15, significand_bits: 53 };

/// A positive finite number as `digits` times ten to the `exponent`.
#[derive(Clone, Copy)]
struct Decimal {
    digits: u64,
    exponent: i32,
}

/// Appends a `double precision`.
pub(crate) fn write_f64(value: f64, out: &mut Vec<u8>) {
    if write_special(value, out) {
        return;
    }
    let mut buffer = ryu::Buffer::new();
    let shortest = parse_shortest(buffer.format_finite(value.abs()));
    let bits = value.abs().to_bits();
    let decimal = if on_midpoint(shortest, bits & ((1 << 52) - 1), (bits >> 52) as i32, &DOUBLE) {
        strictly_inside(
            value.abs(),
            |text| text.parse() == Ok(value.abs()),
            |d| on_midpoint(d, bits & ((1 << 52) - 1), (bits >> 52) as i32, &DOUBLE),
        )
    } else {
        shortest
    };
    write_decimal(value.is_sign_negative(), decimal, &DOUBLE, out);
}

/// Appends a `real`.
pub(crate) fn write_f32(value: f32, out: &mut Vec<u8>) {
    if write_special(f64::from(value), out) {
        return;
    }
    let mut buffer = ryu::Buffer::new();
    let shortest = parse_shortest(buffer.format_finite(value.abs()));
    let bits = value.abs().to_bits();
    let (fraction, exponent) = (u64::from(bits & ((1 << 23) - 1)), (bits >> 23) as i32);
    let decimal = if on_midpoint(shortest, fraction, exponent, &REAL) {
        let reads_back = |text: &str| text.parse::<f32>() == Ok(value.abs());
        strictly_inside(f64::from(value.abs()), reads_back, |d| on_midpoint(d, fraction, exponent, &REAL))
    } else {
        shortest
    };
    write_decimal(value.is_sign_negative(), decimal, &REAL, out);
}

fn write_special(value: f64, out: &mut Vec<u8>) -> bool {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if value == f64::INFINITY {
        out.extend_from_slice(b"Infinity");
    } else if value == f64::NEG_INFINITY {
        out.extend_from_slice(b"-Infinity");
    } else if value == 0.0 {
        out.extend_from_slice(if value.is_sign_negative() { b"-0" } else { b"0" });
    } else {
        return false;
    }
    true
}

/// Reads digits, point and exponent; trailing zeros go into the exponent.
fn parse_shortest(text: &str) -> Decimal {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let mut exponent = exponent.parse::<i32>().expect("an exponent is an integer");
    let (mut digits, mut after_point) = (0u64, false);
    for byte in mantissa.bytes() {
        if byte == b'.' {
            after_point = true;
            continue;
        }
        digits = digits * 10 + u64::from(byte - b'0');
        exponent -= i32::from(after_point);
    }
    trim(digits, exponent)
}

fn trim(mut digits: u64, mut exponent: i32) -> Decimal {
    while digits != 0 && digits.is_multiple_of(10) {
        digits /= 10;
        exponent += 1;
    }
    Decimal { digits, exponent }
}

/// Whether a decimal lies halfway between the float and its neighbour. It then reads back as the float only by the
/// round-half-even rule, on which Postgres does not rely (`1e23` prints as `9.999999999999999e+22`).
fn on_midpoint(decimal: Decimal, fraction: u64, biased_exponent: i32, layout: &Layout) -> bool {
    if fraction & 1 == 1 {
        // The neighbours win ties, so a decimal that reads back is inside.
        return false;
    }
    let hidden = if biased_exponent == 0 { 0 } else { 1u64 << (layout.significand_bits - 1) };
    let significand = fraction | hidden;
    // decimal = digits * 5^e * 2^e; a midpoint is an odd number of half units: compare the odd parts.
    let power = decimal.exponent.unsigned_abs();
    if power > 27 {
        return false;
    }
    let five = 5u128.pow(power);
    let (odd_digits, twos) =
        (decimal.digits >> decimal.digits.trailing_zeros(), decimal.digits.trailing_zeros() as i32);
    let unit = biased_exponent.max(1) - (1 << (if layout.significand_bits == 53 { 10 } else { 7 })) + 2
        - layout.significand_bits;
    [significand * 2 - 1, significand * 2 + 1].into_iter().any(|half_units| {
        let equal = if decimal.exponent >= 0 {
            u128::from(odd_digits) * five == u128::from(half_units)
        } else {
            u128::from(half_units).checked_mul(five) == Some(u128::from(odd_digits))
        };
        equal && twos + decimal.exponent == unit - 1
    })
}

/// The shortest decimal, closest to the value, that reads back and is no midpoint. Rare, so it may be slow.
fn strictly_inside(value: f64, reads_back: impl Fn(&str) -> bool, on_midpoint: impl Fn(Decimal) -> bool) -> Decimal {
    for precision in 0..17 {
        let text = format!("{value:.precision$e}");
        let decimal = parse_shortest(&text);
        if reads_back(&text) && !on_midpoint(decimal) {
            return decimal;
        }
    }
    parse_shortest(&format!("{value:.16e}"))
}

fn write_decimal(negative: bool, decimal: Decimal, layout: &Layout, out: &mut Vec<u8>) {
    if negative {
        out.push(b'-');
    }
    let n_digits = decimal.digits.ilog10() as i32 + 1;
    let scientific = n_digits - 1 + decimal.exponent;
    if scientific < -4 || scientific >= layout.exponent_min {
        return write_scientific(decimal.digits, n_digits, scientific, out);
    }
    if decimal.exponent >= 0 {
        write_padded(decimal.digits, 1, out);
        out.extend(std::iter::repeat_n(b'0', decimal.exponent as usize));
    } else if scientific < 0 {
        out.extend_from_slice(b"0.");
        write_padded(decimal.digits, (-decimal.exponent) as usize, out);
    } else {
        let split = 10u64.pow(decimal.exponent.unsigned_abs());
        write_padded(decimal.digits / split, 1, out);
        out.push(b'.');
        write_padded(decimal.digits % split, decimal.exponent.unsigned_abs() as usize, out);
    }
}

fn write_scientific(digits: u64, n_digits: i32, exponent: i32, out: &mut Vec<u8>) {
    let split = 10u64.pow((n_digits - 1) as u32);
    write_padded(digits / split, 1, out);
    if n_digits > 1 {
        out.push(b'.');
        write_padded(digits % split, (n_digits - 1) as usize, out);
    }
    out.push(b'e');
    out.push(if exponent < 0 { b'-' } else { b'+' });
    write_padded(u64::from(exponent.unsigned_abs()), 2, out);
}
