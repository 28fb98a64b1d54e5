//! Columns from Postgres' binary form, value by value into Arrow builders.

use std::sync::Arc;

use arrow::array::Array;
use arrow::array::NullBufferBuilder;
use arrow::array::{
    ArrayRef, BinaryViewBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
    Int16Builder, Int32Builder, Int64Builder, IntervalMonthDayNanoBuilder, ListArray, StringViewBuilder,
    Time64MicrosecondBuilder, TimestampMicrosecondBuilder, UInt32Builder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Field, IntervalMonthDayNano};

use super::calendar::{PG_EPOCH_DAYS, PG_EPOCH_US, US_PER_DAY};
use super::numeric::NumericShape;
use super::oid::PgType;
use super::text_in::fit_length;
use crate::{Error, Result, SqlState, SqlType};

/// Builds a column from values in Postgres' binary form, one a row.
///
/// After an error in a row of an array type the builder's contents are undefined; for every other type the row was not
/// appended.
pub struct BinaryColumnBuilder {
    sql_type: SqlType,
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
    Interval(IntervalMonthDayNanoBuilder),
    Array { offsets: Vec<i32>, nulls: NullBufferBuilder, elements: Box<BinaryColumnBuilder> },
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
            Values::Interval($builder) => $run,
            Values::Array { offsets: $offsets, nulls: $nulls, elements: $elements } => $array,
        }
    };
}

impl BinaryColumnBuilder {
    /// An empty column with room for `capacity` rows.
    pub fn new(sql_type: &SqlType, capacity: usize) -> Self {
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
            SqlType::Timestamp | SqlType::Timestamptz => {
                Values::Timestamp(TimestampMicrosecondBuilder::with_capacity(capacity).with_data_type(arrow))
            }
            SqlType::Interval => Values::Interval(IntervalMonthDayNanoBuilder::with_capacity(capacity)),
            SqlType::Array(element) => Values::Array {
                offsets: vec![0],
                nulls: NullBufferBuilder::new(capacity),
                elements: Box::new(BinaryColumnBuilder::new(element, capacity)),
            },
        };
        BinaryColumnBuilder { sql_type: sql_type.clone(), values }
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

    /// Appends a value.
    ///
    /// # Errors
    /// 22P03 if the bytes are no value of the type, 22021 if a text is not UTF-8, 22008 if a time is out of range.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let sql_type = &self.sql_type;
        match &mut self.values {
            Values::Boolean(builder) => builder.append_value(fixed::<1>(bytes, sql_type)?[0] != 0),
            Values::SmallInt(builder) => builder.append_value(i16::from_be_bytes(fixed(bytes, sql_type)?)),
            Values::Integer(builder) => builder.append_value(i32::from_be_bytes(fixed(bytes, sql_type)?)),
            Values::BigInt(builder) => builder.append_value(i64::from_be_bytes(fixed(bytes, sql_type)?)),
            Values::Oid(builder) => builder.append_value(u32::from_be_bytes(fixed(bytes, sql_type)?)),
            // There is one NaN.
            Values::Real(builder) => {
                let value = f32::from_be_bytes(fixed(bytes, sql_type)?);
                builder.append_value(if value.is_nan() { f32::NAN } else { value });
            }
            Values::Double(builder) => {
                let value = f64::from_be_bytes(fixed(bytes, sql_type)?);
                builder.append_value(if value.is_nan() { f64::NAN } else { value });
            }
            Values::Numeric(builder, shape) => builder.append_value(shape.parse_binary(bytes)?),
            Values::Text(builder) => builder.append_value(fit_length(utf8(bytes)?, sql_type)?),
            Values::Bytea(builder) => builder.append_value(bytes),
            Values::Date(builder) => builder.append_value(date_from_2000(i32::from_be_bytes(fixed(bytes, sql_type)?))?),
            Values::Time(builder) => {
                let us = i64::from_be_bytes(fixed(bytes, sql_type)?);
                if !(0..=US_PER_DAY).contains(&us) {
                    return Err(Error::user(SqlState::DATETIME_FIELD_OVERFLOW, "time out of range"));
                }
                builder.append_value(us);
            }
            Values::Timestamp(builder) => {
                builder.append_value(us_from_2000(i64::from_be_bytes(fixed(bytes, sql_type)?))?);
            }
            Values::Interval(builder) => builder.append_value(interval(fixed(bytes, sql_type)?)?),
            Values::Array { offsets, nulls, elements } => {
                append_elements(elements, bytes)?;
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

fn invalid(sql_type: &SqlType) -> Error {
    Error::user(SqlState::INVALID_BINARY_REPRESENTATION, format!("incorrect binary data format for type {sql_type}"))
}

fn fixed<const N: usize>(bytes: &[u8], sql_type: &SqlType) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| invalid(sql_type))
}

/// Text must be UTF-8 without zero bytes.
fn utf8(bytes: &[u8]) -> Result<&str> {
    let wrong = |byte: u8| {
        Error::user(
            SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            format!("invalid byte sequence for encoding \"UTF8\": 0x{byte:02x}"),
        )
    };
    if bytes.contains(&0) {
        return Err(wrong(0));
    }
    std::str::from_utf8(bytes).map_err(|e| wrong(bytes[e.valid_up_to()]))
}

fn date_from_2000(days: i32) -> Result<i32> {
    match days {
        i32::MAX | i32::MIN => Ok(days),
        _ => days
            .checked_add(PG_EPOCH_DAYS)
            .ok_or_else(|| Error::user(SqlState::DATETIME_FIELD_OVERFLOW, "date out of range")),
    }
}

fn us_from_2000(us: i64) -> Result<i64> {
    match us {
        i64::MAX | i64::MIN => Ok(us),
        _ => us
            .checked_add(PG_EPOCH_US)
            .ok_or_else(|| Error::user(SqlState::DATETIME_FIELD_OVERFLOW, "timestamp out of range")),
    }
}

fn interval(bytes: [u8; 16]) -> Result<IntervalMonthDayNano> {
    let (us, rest) = bytes.split_first_chunk::<8>().expect("sixteen bytes");
    let (days, months) = rest.split_first_chunk::<4>().expect("eight bytes are left");
    let months = i32::from_be_bytes(months.try_into().expect("four bytes are left"));
    let nanoseconds = i64::from_be_bytes(*us)
        .checked_mul(1000)
        .ok_or_else(|| Error::user(SqlState::DATETIME_FIELD_OVERFLOW, "interval out of range"))?;
    Ok(IntervalMonthDayNano { months, days: i32::from_be_bytes(*days), nanoseconds })
}

/// Reads dimensions, element type and elements; see [`super::BinaryColumn`] for the layout.
fn append_elements(elements: &mut BinaryColumnBuilder, bytes: &[u8]) -> Result<()> {
    let array_type = SqlType::Array(Box::new(elements.sql_type.clone()));
    let mut reader = Reader { bytes, sql_type: &array_type };
    let (n_dimensions, _has_nulls, element_oid) = (reader.i32()?, reader.i32()?, reader.i32()? as u32);
    if !has_form_of(element_oid, &elements.sql_type) {
        return Err(Error::user(SqlState::DATATYPE_MISMATCH, "wrong element type"));
    }
    match n_dimensions {
        0 => return Ok(()),
        1 => {}
        _ => return Err(Error::not_supported("multidimensional arrays have no binary form yet")),
    }
    let (length, _lower_bound) = (reader.i32()?, reader.i32()?);
    for _ in 0..length {
        match usize::try_from(reader.i32()?) {
            Ok(n_bytes) => elements.append(reader.take(n_bytes)?)?,
            Err(_) => elements.append_null(),
        }
    }
    if reader.bytes.is_empty() { Ok(()) } else { Err(invalid(&array_type)) }
}

/// Whether elements of a type are written as those of the wanted one: all kinds of text are written alike, and queries give
/// `varchar` columns as `text`.
fn has_form_of(element_oid: u32, wanted: &SqlType) -> bool {
    let is_text = |t: &SqlType| matches!(t, SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_));
    let is_text_oid = || PgType::sql_type(element_oid, -1).is_some_and(|t| is_text(&t));
    element_oid == PgType::of(wanted).oid || (is_text(wanted) && is_text_oid())
}

struct Reader<'a> {
    bytes: &'a [u8],
    sql_type: &'a SqlType,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n_bytes: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(n_bytes).ok_or_else(|| invalid(self.sql_type))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
    }
}
