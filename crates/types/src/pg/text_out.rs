//! Columns as Postgres' text: one look at the type, then bytes appended value by value.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryViewArray, BooleanArray, StringViewArray, StringViewBuilder,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNano,
    IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType, UInt32Type,
};

use super::calendar::{
    US_PER_HOUR, US_PER_MINUTE, US_PER_SECOND, write_date, write_infinity, write_time, write_timestamp,
};
use super::digits::{write_2, write_i64, write_micros, write_u64};
use super::float_out::{write_f32, write_f64};
use super::numeric::NumericShape;
use super::{FormatSettings, TimeZone};
use crate::{Error, Result, SqlType};

/// A column whose values are appended to a buffer as text, in any order.
pub struct TextColumn<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Boolean(&'a BooleanArray),
    SmallInt(&'a [i16]),
    Integer(&'a [i32]),
    BigInt(&'a [i64]),
    Oid(&'a [u32]),
    Real(&'a [f32]),
    Double(&'a [f64]),
    Numeric(&'a [i128], NumericShape),
    Text(&'a StringViewArray),
    /// `char(n)`: texts without the blanks at their ends.
    Padded(&'a StringViewArray, usize),
    Bytea(&'a BinaryViewArray),
    Date(&'a [i32]),
    Time(&'a [i64]),
    Timestamp(&'a [i64]),
    Timestamptz(&'a [i64], &'a TimeZone),
    Interval(&'a [IntervalMonthDayNano]),
    Array {
        offsets: &'a [i32],
        elements: Box<TextColumn<'a>>,
    },
}

impl<'a> TextColumn<'a> {
    /// Looks at a column.
    ///
    /// # Errors
    /// Internal, if the array is not of the type that carries `sql_type`.
    pub fn new(array: &'a dyn Array, sql_type: &SqlType, settings: &'a FormatSettings) -> Result<Self> {
        let values = match sql_type {
            SqlType::Boolean => Values::Boolean(carried(array.as_boolean_opt(), array, sql_type)?),
            SqlType::SmallInt => Values::SmallInt(primitive::<Int16Type>(array, sql_type)?),
            SqlType::Integer => Values::Integer(primitive::<Int32Type>(array, sql_type)?),
            SqlType::BigInt => Values::BigInt(primitive::<Int64Type>(array, sql_type)?),
            SqlType::Oid => Values::Oid(primitive::<UInt32Type>(array, sql_type)?),
            SqlType::Real => Values::Real(primitive::<Float32Type>(array, sql_type)?),
            SqlType::Double => Values::Double(primitive::<Float64Type>(array, sql_type)?),
            SqlType::Numeric(declared) => {
                Values::Numeric(primitive::<Decimal128Type>(array, sql_type)?, NumericShape::new(*declared))
            }
            SqlType::Text | SqlType::Varchar(_) => Values::Text(carried(array.as_string_view_opt(), array, sql_type)?),
            SqlType::Char(n) => Values::Padded(carried(array.as_string_view_opt(), array, sql_type)?, *n as usize),
            SqlType::Bytea => Values::Bytea(carried(array.as_binary_view_opt(), array, sql_type)?),
            SqlType::Date => Values::Date(primitive::<Date32Type>(array, sql_type)?),
            SqlType::Time => Values::Time(primitive::<Time64MicrosecondType>(array, sql_type)?),
            SqlType::Timestamp => Values::Timestamp(primitive::<TimestampMicrosecondType>(array, sql_type)?),
            SqlType::Timestamptz => {
                Values::Timestamptz(primitive::<TimestampMicrosecondType>(array, sql_type)?, &settings.time_zone)
            }
            SqlType::Interval => Values::Interval(primitive::<IntervalMonthDayNanoType>(array, sql_type)?),
            SqlType::Array(element) => {
                let list = carried(array.as_list_opt::<i32>(), array, sql_type)?;
                let elements = Box::new(TextColumn::new(list.values().as_ref(), element, settings)?);
                Values::Array { offsets: list.value_offsets(), elements }
            }
        };
        Ok(TextColumn { nulls: array.nulls().filter(|n| n.null_count() > 0), values })
    }

    /// Whether a row is null.
    #[inline]
    pub fn is_null(&self, row_idx: usize) -> bool {
        self.nulls.is_some_and(|nulls| nulls.is_null(row_idx))
    }

    /// Appends the text of a row that is not null.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline]
    pub fn write(&self, row_idx: usize, out: &mut Vec<u8>) {
        match &self.values {
            Values::Boolean(values) => out.push(if values.value(row_idx) { b't' } else { b'f' }),
            Values::SmallInt(values) => write_i64(i64::from(values[row_idx]), out),
            Values::Integer(values) => write_i64(i64::from(values[row_idx]), out),
            Values::BigInt(values) => write_i64(values[row_idx], out),
            Values::Oid(values) => write_i64(i64::from(values[row_idx]), out),
            Values::Real(values) => write_f32(values[row_idx], out),
            Values::Double(values) => write_f64(values[row_idx], out),
            Values::Numeric(values, shape) => shape.write_text(values[row_idx], out),
            Values::Text(values) => out.extend_from_slice(values.value(row_idx).as_bytes()),
            Values::Padded(values, n) => write_padded(values.value(row_idx), *n, out),
            Values::Bytea(values) => write_hex(values.value(row_idx), out),
            Values::Date(values) => write_date(values[row_idx], out),
            Values::Time(values) => write_time(values[row_idx], out),
            Values::Timestamp(values) => {
                if !write_infinity(values[row_idx], out) {
                    write_timestamp(values[row_idx], None, out);
                }
            }
            Values::Timestamptz(values, zone) => write_timestamptz(values[row_idx], zone, out),
            Values::Interval(values) => write_interval(values[row_idx], out),
            Values::Array { offsets, elements } => {
                elements.write_array(offsets[row_idx] as usize..offsets[row_idx + 1] as usize, out);
            }
        }
    }

    fn write_array(&self, rows: std::ops::Range<usize>, out: &mut Vec<u8>) {
        let nested = matches!(self.values, Values::Array { .. });
        out.push(b'{');
        for row_idx in rows.clone() {
            if row_idx > rows.start {
                out.push(b',');
            }
            if self.is_null(row_idx) {
                out.extend_from_slice(b"NULL");
                continue;
            }
            let start = out.len();
            self.write(row_idx, out);
            if !nested && needs_quotes(&out[start..]) {
                quote(start, out);
            }
        }
        out.push(b'}');
    }
}

/// A text with blanks up to `n` characters.
pub(super) fn write_padded(text: &str, n: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(text.as_bytes());
    out.resize(out.len() + n.saturating_sub(text.chars().count()), b' ');
}

fn carried<'a, T>(downcast: Option<&'a T>, array: &dyn Array, sql_type: &SqlType) -> Result<&'a T> {
    downcast.ok_or_else(|| mismatch(array, sql_type))
}

pub(super) fn mismatch(array: &dyn Array, sql_type: &SqlType) -> Error {
    Error::internal(format!("a column of type {sql_type} is carried by {}", array.data_type()))
}

pub(super) fn primitive<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    sql_type: &SqlType,
) -> Result<&'a [T::Native]> {
    Ok(carried(array.as_primitive_opt::<T>(), array, sql_type)?.values())
}

/// A whole column as text, nulls kept; what a cast to `text` gives, where the text of a `boolean` is spelt out.
///
/// # Errors
/// Internal, if the array is not of the type that carries `sql_type`.
pub fn format_column(array: &dyn Array, sql_type: &SqlType, settings: &FormatSettings) -> Result<ArrayRef> {
    let column = TextColumn::new(array, sql_type, settings)?;
    let mut builder = StringViewBuilder::with_capacity(array.len());
    let mut scratch = Vec::new();
    for row_idx in 0..array.len() {
        if column.is_null(row_idx) {
            builder.append_null();
            continue;
        }
        if let Values::Boolean(values) = column.values {
            builder.append_value(if values.value(row_idx) { "true" } else { "false" });
            continue;
        }
        scratch.clear();
        column.write(row_idx, &mut scratch);
        builder.append_value(std::str::from_utf8(&scratch).expect("values print as UTF-8"));
    }
    Ok(Arc::new(builder.finish()))
}

fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(2 + bytes.len() * 2);
    out.extend_from_slice(b"\\x");
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

#[inline]
fn write_timestamptz(utc_us: i64, zone: &TimeZone, out: &mut Vec<u8>) {
    if write_infinity(utc_us, out) {
        return;
    }
    let offset_s = zone.offset_at(utc_us);
    write_timestamp(utc_us.saturating_add(i64::from(offset_s) * US_PER_SECOND), Some(offset_s), out);
}

/// `1 year 2 mons -3 days +04:05:06.7`: units that are zero are left out, and a sign follows a negative unit.
fn write_interval(value: IntervalMonthDayNano, out: &mut Vec<u8>) {
    let start = out.len();
    let mut after_negative = false;
    let parts = [(value.months / 12, "year"), (value.months % 12, "mon"), (value.days, "day")];
    for (count, unit) in parts {
        if count == 0 {
            continue;
        }
        if out.len() > start {
            out.push(b' ');
        }
        if after_negative && count > 0 {
            out.push(b'+');
        }
        write_i64(i64::from(count), out);
        out.push(b' ');
        out.extend_from_slice(unit.as_bytes());
        if count != 1 {
            out.push(b's');
        }
        after_negative = count < 0;
    }
    let us = value.nanoseconds / 1000;
    if us == 0 && out.len() > start {
        return;
    }
    if out.len() > start {
        out.push(b' ');
    }
    if us < 0 {
        out.push(b'-');
    } else if after_negative {
        out.push(b'+');
    }
    write_hours(us.unsigned_abs(), out);
}

/// Hours, which may be more than two digits, minutes and seconds.
fn write_hours(us: u64, out: &mut Vec<u8>) {
    let hours = us / US_PER_HOUR as u64;
    if hours < 100 {
        write_2(hours as u32, out);
    } else {
        write_u64(hours, out);
    }
    out.push(b':');
    write_2((us / US_PER_MINUTE as u64 % 60) as u32, out);
    out.push(b':');
    write_2((us / US_PER_SECOND as u64 % 60) as u32, out);
    write_micros((us % US_PER_SECOND as u64) as u32, out);
}

/// Whether an array element would be misread bare.
fn needs_quotes(text: &[u8]) -> bool {
    text.is_empty()
        || text.eq_ignore_ascii_case(b"null")
        || text
            .iter()
            .any(|b| matches!(b, b'"' | b'\\' | b'{' | b'}' | b',' | b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c))
}

/// Puts what stands in `out` from `start` on into double quotes.
fn quote(start: usize, out: &mut Vec<u8>) {
    let text = out.split_off(start);
    out.push(b'"');
    for byte in text {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}
