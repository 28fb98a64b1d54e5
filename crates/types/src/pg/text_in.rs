//! Columns from Postgres' text, value by value into Arrow builders.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::NullBufferBuilder;
use arrow::array::{
    Array, ArrayRef, BinaryViewBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
    Float64Builder, Int16Builder, Int32Builder, Int64Builder, IntervalMonthDayNanoBuilder, ListArray, StringViewArray,
    StringViewBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder, UInt32Builder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};

use super::FormatSettings;
use super::array_in::{Element, split_array};
use super::datetime_in::{parse_date, parse_time, parse_timestamp, parse_timestamptz};
use super::interval_in::parse_interval;
use super::numeric::NumericShape;
use crate::{Error, Result, SqlState, SqlType};

/// Builds a column from texts, one a row, by the input rules of its SQL type.
///
/// After an error in a row of an array type the builder's contents are undefined; for every other type the row was not
/// appended.
pub struct TextColumnBuilder {
    sql_type: SqlType,
    settings: FormatSettings,
    values: Values,
}

enum Values {
    Boolean(BooleanBuilder),
    SmallInt(Int16Builder),
    Integer(Int32Builder),
    BigInt(Int64Builder),
    Oid(UInt32Builder),
    Real(Float32Builder),
    Double(Float64Builder),
    Numeric(Decimal128Builder, NumericShape),
    Text(StringViewBuilder),
    Bytea(BinaryViewBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Timestamptz(TimestampMicrosecondBuilder),
    Interval(IntervalMonthDayNanoBuilder),
    Array { offsets: Vec<i32>, nulls: NullBufferBuilder, elements: Box<TextColumnBuilder> },
}

macro_rules! for_each_builder {
    ($values:expr, $builder:ident => $run:expr, array($offsets:ident, $nulls:ident, $elements:ident) => $array:expr) => {
        match $values {
            Values::Boolean($builder) => $run,
            Values::SmallInt($builder) => $run,
            Values::Integer($builder) => $run,
            Values::BigInt($builder) => $run,
            Values::Oid($builder) => $run,
            Values::Real($builder) => $run,
            Values::Double($builder) => $run,
            Values::Numeric($builder, _) => $run,
            Values::Text($builder) => $run,
            Values::Bytea($builder) => $run,
            Values::Date($builder) => $run,
            Values::Time($builder) => $run,
            Values::Timestamp($builder) => $run,
            Values::Timestamptz($builder) => $run,
            Values::Interval($builder) => $run,
            Values::Array { offsets: $offsets, nulls: $nulls, elements: $elements } => $array,
        }
    };
}

impl TextColumnBuilder {
    /// An empty column with room for `capacity` rows.
    pub fn new(sql_type: &SqlType, settings: &FormatSettings, capacity: usize) -> Self {
        let arrow = sql_type.arrow_type();
        let values = match sql_type {
            SqlType::Boolean => Values::Boolean(BooleanBuilder::with_capacity(capacity)),
            SqlType::SmallInt => Values::SmallInt(Int16Builder::with_capacity(capacity)),
            SqlType::Integer => Values::Integer(Int32Builder::with_capacity(capacity)),
            SqlType::BigInt => Values::BigInt(Int64Builder::with_capacity(capacity)),
            SqlType::Oid => Values::Oid(UInt32Builder::with_capacity(capacity)),
            SqlType::Real => Values::Real(Float32Builder::with_capacity(capacity)),
            SqlType::Double => Values::Double(Float64Builder::with_capacity(capacity)),
            SqlType::Numeric(declared) => Values::Numeric(
                Decimal128Builder::with_capacity(capacity).with_data_type(arrow),
                NumericShape::new(*declared),
            ),
            SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) => {
                Values::Text(StringViewBuilder::with_capacity(capacity))
            }
            SqlType::Bytea => Values::Bytea(BinaryViewBuilder::with_capacity(capacity)),
            SqlType::Date => Values::Date(Date32Builder::with_capacity(capacity)),
            SqlType::Time => Values::Time(Time64MicrosecondBuilder::with_capacity(capacity)),
            SqlType::Timestamp => Values::Timestamp(TimestampMicrosecondBuilder::with_capacity(capacity)),
            SqlType::Timestamptz => {
                Values::Timestamptz(TimestampMicrosecondBuilder::with_capacity(capacity).with_data_type(arrow))
            }
            SqlType::Interval => Values::Interval(IntervalMonthDayNanoBuilder::with_capacity(capacity)),
            SqlType::Array(element) => Values::Array {
                offsets: vec![0],
                nulls: NullBufferBuilder::new(capacity),
                elements: Box::new(TextColumnBuilder::new(element, settings, capacity)),
            },
        };
        TextColumnBuilder { sql_type: sql_type.clone(), settings: settings.clone(), values }
    }

    /// The number of rows so far.
    pub fn len(&self) -> usize {
        for_each_builder!(&self.values,
            builder => arrow::array::ArrayBuilder::len(builder),
            array(offsets, _nulls, _elements) => offsets.len() - 1)
    }

    /// Whether there are no rows yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a null.
    pub fn append_null(&mut self) {
        for_each_builder!(&mut self.values,
        builder => builder.append_null(),
        array(offsets, nulls, elements) => {
            offsets.push(elements.len() as i32);
            nulls.append_null();
        })
    }

    /// Appends the value of a text.
    ///
    /// # Errors
    /// What Postgres says to a text that is no value of the type: 22P02, 22003, 22007, 22008 and their like.
    #[inline]
    pub fn append(&mut self, text: &str) -> Result<()> {
        let (sql_type, settings) = (&self.sql_type, &self.settings);
        match &mut self.values {
            Values::Boolean(builder) => builder.append_value(parse_boolean(text)?),
            Values::SmallInt(builder) => builder.append_value(narrow(parse_integer(text), text, sql_type)?),
            Values::Integer(builder) => builder.append_value(narrow(parse_integer(text), text, sql_type)?),
            Values::BigInt(builder) => builder.append_value(narrow(parse_integer(text), text, sql_type)?),
            Values::Oid(builder) => builder.append_value(parse_oid(text, sql_type)?),
            Values::Real(builder) => builder.append_value(parse_float::<f32>(text, sql_type)?),
            Values::Double(builder) => builder.append_value(parse_float::<f64>(text, sql_type)?),
            Values::Numeric(builder, shape) => builder.append_value(shape.parse_text(text)?),
            Values::Text(builder) => builder.append_value(fit_length(text, sql_type)?),
            Values::Bytea(builder) => builder.append_value(parse_bytea(text)?),
            Values::Date(builder) => builder.append_value(parse_date(text, settings)?),
            Values::Time(builder) => builder.append_value(parse_time(text, settings)?),
            Values::Timestamp(builder) => builder.append_value(parse_timestamp(text, settings)?),
            Values::Timestamptz(builder) => builder.append_value(parse_timestamptz(text, settings)?),
            Values::Interval(builder) => builder.append_value(parse_interval(text)?),
            Values::Array { offsets, nulls, elements } => {
                append_elements(elements, text)?;
                offsets.push(elements.len() as i32);
                nulls.append_non_null();
            }
        }
        Ok(())
    }

    /// The column, of [`SqlType::arrow_type`]; the builder is empty afterwards.
    pub fn finish(&mut self) -> ArrayRef {
        for_each_builder!(&mut self.values,
        builder => Arc::new(builder.finish()),
        array(offsets, nulls, elements) => {
            let values = elements.finish();
            let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
            let offsets = std::mem::replace(offsets, vec![0]);
            Arc::new(ListArray::new(field, OffsetBuffer::new(offsets.into()), values, nulls.finish()))
        })
    }
}

/// An oid; a negative number is the one of the same four bytes, as in Postgres.
fn parse_oid(text: &str, sql_type: &SqlType) -> Result<u32> {
    let number: i64 = narrow(parse_integer(text), text, sql_type)?;
    let of_bytes = || i32::try_from(number).ok().map(|n| n as u32);
    u32::try_from(number).ok().or_else(of_bytes).ok_or_else(|| {
        Error::user(
            SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            format!("value \"{}\" is out of range for type oid", text.trim()),
        )
    })
}

/// A whole column of texts as values of a type, nulls kept: what a cast from `text` gives.
///
/// # Errors
/// That of the first text that is no value of the type.
pub fn parse_column(texts: &StringViewArray, sql_type: &SqlType, settings: &FormatSettings) -> Result<ArrayRef> {
    let mut builder = TextColumnBuilder::new(sql_type, settings, texts.len());
    for text in texts {
        match text {
            Some(text) => builder.append(text)?,
            None => builder.append_null(),
        }
    }
    let array = builder.finish();
    debug_assert_eq!(array.data_type(), &sql_type.arrow_type() as &DataType);
    Ok(array)
}

fn append_elements(elements: &mut TextColumnBuilder, text: &str) -> Result<()> {
    let nested = matches!(elements.sql_type, SqlType::Array(_));
    for element in split_array(text)? {
        match element {
            Element::Null => elements.append_null(),
            Element::Text(value) if !nested => elements.append(&value)?,
            Element::Nested(inner) if nested => elements.append(inner)?,
            Element::Nested(_) => {
                return Err(Error::not_supported("multidimensional arrays are not supported for this type"));
            }
            Element::Text(_) => {
                let message = format!("malformed array literal: \"{text}\"");
                return Err(Error::user(SqlState::INVALID_TEXT_REPRESENTATION, message)
                    .with_detail("Multidimensional arrays must have sub-arrays with matching dimensions."));
            }
        }
    }
    Ok(())
}

/// What Postgres' `isspace` skips around values.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b')
}

fn invalid(sql_type: &SqlType, text: &str) -> Error {
    Error::user(SqlState::INVALID_TEXT_REPRESENTATION, format!("invalid input syntax for type {sql_type}: \"{text}\""))
}

enum IntegerFault {
    Syntax,
    Range,
}

#[inline]
fn parse_integer(text: &str) -> Result<i64, IntegerFault> {
    let bytes = text.as_bytes();
    let (negative, digits) = match bytes.first() {
        Some(b'0'..=b'9') => (false, bytes),
        Some(b'-') => (true, &bytes[1..]),
        Some(b'+') => (false, &bytes[1..]),
        Some(_) if trim(text).len() < text.len() => return parse_integer(trim(text)),
        _ => return Err(IntegerFault::Syntax),
    };
    // 18 digits cannot overflow.
    if digits.is_empty() || digits.len() > 18 {
        return parse_long_integer(text, negative, digits);
    }
    let mut value = 0i64;
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return parse_long_integer(text, negative, digits);
        }
        value = value * 10 + i64::from(digit);
    }
    Ok(if negative { -value } else { value })
}

#[cold]
fn parse_long_integer(text: &str, negative: bool, digits: &[u8]) -> Result<i64, IntegerFault> {
    let trimmed = trim(text);
    if trimmed.len() < text.len() {
        return parse_integer(trimmed);
    }
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(IntegerFault::Syntax);
    }
    let mut value = 0i64;
    for byte in digits {
        let digit = i64::from(byte - b'0');
        let digit = if negative { -digit } else { digit };
        value = value.checked_mul(10).and_then(|v| v.checked_add(digit)).ok_or(IntegerFault::Range)?;
    }
    Ok(value)
}

#[inline]
fn narrow<T: TryFrom<i64>>(parsed: Result<i64, IntegerFault>, text: &str, sql_type: &SqlType) -> Result<T> {
    match parsed.map(T::try_from) {
        Ok(Ok(value)) => Ok(value),
        Err(IntegerFault::Syntax) => Err(invalid(sql_type, text)),
        Ok(Err(_)) | Err(IntegerFault::Range) => Err(Error::user(
            SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            format!("value \"{text}\" is out of range for type {sql_type}"),
        )),
    }
}

trait Float: std::str::FromStr + PartialEq + Default {
    fn is_infinite(&self) -> bool;
}

impl Float for f32 {
    fn is_infinite(&self) -> bool {
        f32::is_infinite(*self)
    }
}

impl Float for f64 {
    fn is_infinite(&self) -> bool {
        f64::is_infinite(*self)
    }
}

fn parse_float<T: Float>(text: &str, sql_type: &SqlType) -> Result<T> {
    let trimmed = trim(text);
    let value: T = trimmed.parse().map_err(|_| invalid(sql_type, text))?;
    let unsigned = trimmed.trim_start_matches(['+', '-']);
    let spelt_out = unsigned.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
    let mantissa = unsigned.split(['e', 'E']).next().unwrap_or(unsigned);
    let underflow = value == T::default() && mantissa.bytes().any(|b| (b'1'..=b'9').contains(&b));
    if !spelt_out && (value.is_infinite() || underflow) {
        return Err(Error::user(
            SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            format!("\"{trimmed}\" is out of range for type {sql_type}"),
        ));
    }
    Ok(value)
}

/// Unambiguous beginnings of true, false, yes, no; on, off; 1, 0.
fn parse_boolean(text: &str) -> Result<bool> {
    let trimmed = trim(text);
    let begins = |word: &str| {
        !trimmed.is_empty() && trimmed.len() <= word.len() && word[..trimmed.len()].eq_ignore_ascii_case(trimmed)
    };
    if trimmed == "1" || begins("true") || begins("yes") || trimmed.eq_ignore_ascii_case("on") {
        Ok(true)
    } else if trimmed == "0" || begins("false") || begins("no") || (trimmed.len() > 1 && begins("off")) {
        Ok(false)
    } else {
        Err(invalid(&SqlType::Boolean, text))
    }
}

/// A text within the length of its type. Blanks at the end of a `char(n)` mean nothing, and are not kept: it is padded
/// where it is written out.
#[inline]
pub(super) fn fit_length<'a>(text: &'a str, sql_type: &SqlType) -> Result<Cow<'a, str>> {
    match sql_type {
        SqlType::Varchar(Some(n)) => Ok(Cow::Borrowed(limit(text, *n, sql_type)?)),
        SqlType::Char(n) => {
            let kept = limit(text, *n, sql_type)?;
            Ok(Cow::Borrowed(kept.trim_end_matches(' ')))
        }
        _ => Ok(Cow::Borrowed(text)),
    }
}

/// Excess characters are cut off if they are blanks, and refused otherwise.
fn limit<'a>(text: &'a str, max: u32, sql_type: &SqlType) -> Result<&'a str> {
    if text.len() <= max as usize {
        return Ok(text);
    }
    match text.char_indices().nth(max as usize) {
        None => Ok(text),
        Some((at, _)) if text[at..].bytes().all(|b| b == b' ') => Ok(&text[..at]),
        Some(_) => {
            let message = format!("value too long for type {sql_type}");
            Err(Error::user(SqlState::STRING_DATA_RIGHT_TRUNCATION, message))
        }
    }
}

fn parse_bytea(text: &str) -> Result<Vec<u8>> {
    match text.strip_prefix("\\x") {
        Some(hex) => parse_hex(hex),
        None => parse_escaped(text),
    }
}

fn parse_hex(hex: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(hex.len() / 2);
    let mut high = None;
    for c in hex.chars() {
        if high.is_none() && matches!(c, ' ' | '\n' | '\t' | '\r') {
            continue;
        }
        let digit = c.to_digit(16).ok_or_else(|| {
            Error::user(SqlState::INVALID_PARAMETER_VALUE, format!("invalid hexadecimal digit: \"{c}\""))
        })? as u8;
        match high.take() {
            None => high = Some(digit),
            Some(high) => bytes.push(high << 4 | digit),
        }
    }
    if high.is_some() {
        return Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, "invalid hexadecimal data: odd number of digits"));
    }
    Ok(bytes)
}

/// The older form: `\\` is a backslash, `\` and three octal digits a byte.
fn parse_escaped(text: &str) -> Result<Vec<u8>> {
    let wrong = || Error::user(SqlState::INVALID_TEXT_REPRESENTATION, "invalid input syntax for type bytea");
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        match bytes.get(at + 1..) {
            Some([b'\\', ..]) => {
                out.push(b'\\');
                at += 2;
            }
            Some([a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                at += 4;
            }
            _ => return Err(wrong()),
        }
    }
    Ok(out)
}
