//! `numeric` as text and as base-10000 digits; values are 128-bit integers with a decimal scale.

use super::digits::{write_padded, write_u128};
use crate::sql_type::{NUMERIC_PRECISION, NUMERIC_SCALE};
use crate::{Error, Result, SqlState};

/// How many digits a `numeric` keeps, and how it is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NumericShape {
    precision: u8,
    scale: i8,
    /// Declared without a precision: printed without trailing zeros.
    unconstrained: bool,
}

/// 2^127 has 39 digits; 10^38 is the largest power of ten that fits.
const MAX_POWER: u32 = 38;

impl NumericShape {
    pub(crate) fn new(declared: Option<(u8, i8)>) -> Self {
        let (precision, scale) = declared.unwrap_or((NUMERIC_PRECISION, NUMERIC_SCALE));
        NumericShape { precision, scale, unconstrained: declared.is_none() }
    }

    /// The unscaled value's digits after the point that are shown, and the value cut down to them.
    fn shown(self, value: i128) -> (u128, u32) {
        let mut magnitude = value.unsigned_abs();
        let Ok(mut scale) = u32::try_from(self.scale) else {
            return (magnitude * 10u128.pow(u32::from(self.scale.unsigned_abs()).min(MAX_POWER)), 0);
        };
        if self.unconstrained {
            while scale > 0 && magnitude.is_multiple_of(10) {
                magnitude /= 10;
                scale -= 1;
            }
        }
        (magnitude, scale)
    }

    /// Appends the text form.
    pub(crate) fn write_text(self, value: i128, out: &mut Vec<u8>) {
        if value < 0 {
            out.push(b'-');
        }
        let (magnitude, scale) = self.shown(value);
        if scale == 0 {
            return write_u128(magnitude, out);
        }
        let (whole, fraction) = match (u64::try_from(magnitude), scale <= 19) {
            (Ok(small), true) => {
                let unit = 10u64.pow(scale);
                (u128::from(small / unit), u128::from(small % unit))
            }
            _ => {
                let unit = 10u128.pow(scale);
                (magnitude / unit, magnitude % unit)
            }
        };
        write_u128(whole, out);
        out.push(b'.');
        write_fraction(fraction, scale as usize, out);
    }

    /// Appends the binary form: counts, weight, sign, display scale, and digits to the base 10,000.
    pub(crate) fn write_binary(self, value: i128, out: &mut Vec<u8>) {
        let (magnitude, scale) = self.shown(value);
        // Digits after the point come in groups of four.
        let padding = (4 - scale % 4) % 4;
        let mut groups = [0u16; 12];
        let mut n_groups = 0;
        let mut rest = magnitude;
        // The lowest group takes fewer digits of the value when the scale is no multiple of four.
        if padding > 0 {
            let unit = 10u128.pow(4 - padding);
            groups[0] = (rest % unit) as u16 * 10u16.pow(padding);
            rest /= unit;
            n_groups = 1;
        }
        while rest > 0 {
            groups[n_groups] = (rest % 10_000) as u16;
            rest /= 10_000;
            n_groups += 1;
        }
        let n_fraction = scale.div_ceil(4) as i16;
        let skipped = groups[..n_groups].iter().take_while(|&&g| g == 0).count();
        let n_digits = n_groups - skipped;
        let weight = if n_digits == 0 { 0 } else { n_groups as i16 - n_fraction - 1 };
        out.extend_from_slice(&(n_digits as i16).to_be_bytes());
        out.extend_from_slice(&weight.to_be_bytes());
        out.extend_from_slice(&(if value < 0 { 0x4000u16 } else { 0 }).to_be_bytes());
        out.extend_from_slice(&(scale as u16).to_be_bytes());
        for group in groups[skipped..skipped + n_digits].iter().rev() {
            out.extend_from_slice(&group.to_be_bytes());
        }
    }

    /// Reads the text form, rounding half away from zero.
    pub(crate) fn parse_text(self, text: &str) -> Result<i128> {
        let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
        let number = parse_number(trimmed).ok_or_else(|| {
            let special = trimmed.trim_start_matches(['+', '-']);
            if ["nan", "infinity", "inf"].iter().any(|s| special.eq_ignore_ascii_case(s)) {
                return Error::not_supported(format!("numeric value \"{trimmed}\" is not supported"));
            }
            Error::user(
                SqlState::INVALID_TEXT_REPRESENTATION,
                format!("invalid input syntax for type numeric: \"{text}\""),
            )
        })?;
        self.round(number)
    }

    /// Reads the binary form.
    pub(crate) fn parse_binary(self, bytes: &[u8]) -> Result<i128> {
        let wrong = || Error::user(SqlState::INVALID_BINARY_REPRESENTATION, "invalid external \"numeric\" value");
        if bytes.len() < 8 {
            return Err(wrong());
        }
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (n_digits, weight, sign) = (usize::from(word(0)), i32::from(word(2) as i16), word(4));
        if bytes.len() != 8 + n_digits * 2 {
            return Err(wrong());
        }
        if sign != 0 && sign != 0x4000 {
            return Err(Error::not_supported("numeric values NaN and Infinity are not supported"));
        }
        let exponent = (weight + 1 - n_digits as i32) * 4;
        let mut number = Number { negative: sign == 0x4000, magnitude: 0, exponent, n_dropped: 0 };
        for i in 0..n_digits {
            let digit = word(8 + i * 2);
            if digit >= 10_000 {
                return Err(wrong());
            }
            for unit in [1000, 100, 10, 1] {
                number.push((digit / unit % 10) as u8);
            }
        }
        self.round(number)
    }

    /// Brings a number to this scale and checks the precision.
    fn round(self, number: Number) -> Result<i128> {
        let shift = number.exponent + i32::from(self.scale);
        let magnitude = if number.magnitude == 0 {
            0
        } else if shift >= 0 {
            let unit = 10u128.checked_pow(shift.unsigned_abs()).ok_or_else(|| self.overflow())?;
            number.magnitude.checked_mul(unit).ok_or_else(|| self.overflow())?
        } else {
            match 10u128.checked_pow(shift.unsigned_abs()) {
                Some(unit) => number.magnitude / unit + u128::from(number.magnitude % unit >= unit.div_ceil(2)),
                None => 0,
            }
        };
        if magnitude >= 10u128.pow(u32::from(self.precision)) {
            return Err(self.overflow());
        }
        let value = magnitude as i128;
        Ok(if number.negative { -value } else { value })
    }

    fn overflow(self) -> Error {
        if self.unconstrained {
            return Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value overflows numeric format");
        }
        let (precision, scale) = (self.precision, self.scale);
        let n_whole = i32::from(precision) - i32::from(scale);
        let bound = if n_whole == 0 { "1".to_owned() } else { format!("10^{n_whole}") };
        Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "numeric field overflow").with_detail(format!(
            "A field with precision {precision}, scale {scale} must round to an absolute value less than {bound}."
        ))
    }
}

fn write_fraction(fraction: u128, scale: usize, out: &mut Vec<u8>) {
    const LOW: u128 = 10_000_000_000_000_000_000;
    if scale <= 19 {
        return write_padded(fraction as u64, scale, out);
    }
    write_padded((fraction / LOW) as u64, scale - 19, out);
    write_padded((fraction % LOW) as u64, 19, out);
}

/// A number as read: `magnitude` times ten to the `exponent`.
struct Number {
    negative: bool,
    magnitude: u128,
    exponent: i32,
    /// Digits that did not fit; they are below `magnitude`'s last.
    n_dropped: u32,
}

impl Number {
    /// Appends a decimal digit, or drops it where there is no room; the exponent then says that there was one.
    fn push(&mut self, digit: u8) {
        let longer = self.magnitude.checked_mul(10).and_then(|m| m.checked_add(u128::from(digit)));
        match longer.filter(|_| self.n_dropped == 0) {
            Some(magnitude) => self.magnitude = magnitude,
            None => {
                self.n_dropped += 1;
                self.exponent += 1;
            }
        }
    }
}

/// `[sign] digits [. digits] [e [sign] digits]`
fn parse_number(text: &str) -> Option<Number> {
    let bytes = text.as_bytes();
    let negative = bytes.first() == Some(&b'-');
    let mut at = usize::from(negative || bytes.first() == Some(&b'+'));
    let mut number = Number { negative, magnitude: 0, exponent: 0, n_dropped: 0 };
    let (mut n_digits, mut after_point) = (0usize, false);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'0'..=b'9' => {
                n_digits += 1;
                number.push(byte - b'0');
                number.exponent -= i32::from(after_point);
            }
            b'.' if !after_point => after_point = true,
            _ => break,
        }
        at += 1;
    }
    if n_digits == 0 {
        return None;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let exponent = text[at + 1..].strip_prefix('+').unwrap_or(&text[at + 1..]);
        let plain = exponent.strip_prefix('-').unwrap_or(exponent);
        if plain.is_empty() || plain.len() > 6 || !plain.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        number.exponent += exponent.parse::<i32>().ok()?;
        at = bytes.len();
    }
    (at == bytes.len()).then_some(number)
}
