//! Columns in Postgres' binary form: one look at the type, then bytes appended value by value.

use arrow::array::{Array, AsArray, BinaryViewArray, BooleanArray, StringViewArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNano,
    IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType, UInt32Type,
};

use super::calendar::{PG_EPOCH_DAYS, PG_EPOCH_US};
use super::numeric::NumericShape;
use super::oid::PgType;
use super::text_out::{mismatch, primitive, write_padded};
use crate::{Error, Result, SqlType};

/// A column whose values are appended to a buffer in binary form, in any order.
pub struct BinaryColumn<'a> {
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
    Interval(&'a [IntervalMonthDayNano]),
    Array {
        offsets: &'a [i32],
        element_oid: u32,
        elements: Box<BinaryColumn<'a>>,
    },
}

impl<'a> BinaryColumn<'a> {
    /// Looks at a column.
    ///
    /// # Errors
    /// Internal, if the array is not of the type that carries `sql_type`; not supported for arrays of arrays.
    pub fn new(array: &'a dyn Array, sql_type: &SqlType) -> Result<Self> {
        let wrong = || mismatch(array, sql_type);
        let values = match sql_type {
            SqlType::Boolean => Values::Boolean(array.as_boolean_opt().ok_or_else(wrong)?),
            SqlType::SmallInt => Values::SmallInt(primitive::<Int16Type>(array, sql_type)?),
            SqlType::Integer => Values::Integer(primitive::<Int32Type>(array, sql_type)?),
            SqlType::BigInt => Values::BigInt(primitive::<Int64Type>(array, sql_type)?),
            SqlType::Oid => Values::Oid(primitive::<UInt32Type>(array, sql_type)?),
            SqlType::Real => Values::Real(primitive::<Float32Type>(array, sql_type)?),
            SqlType::Double => Values::Double(primitive::<Float64Type>(array, sql_type)?),
            SqlType::Numeric(declared) => {
                Values::Numeric(primitive::<Decimal128Type>(array, sql_type)?, NumericShape::new(*declared))
            }
            SqlType::Text | SqlType::Varchar(_) => Values::Text(array.as_string_view_opt().ok_or_else(wrong)?),
            SqlType::Char(n) => Values::Padded(array.as_string_view_opt().ok_or_else(wrong)?, *n as usize),
            SqlType::Bytea => Values::Bytea(array.as_binary_view_opt().ok_or_else(wrong)?),
            SqlType::Date => Values::Date(primitive::<Date32Type>(array, sql_type)?),
            SqlType::Time => Values::Time(primitive::<Time64MicrosecondType>(array, sql_type)?),
            SqlType::Timestamp | SqlType::Timestamptz => {
                Values::Timestamp(primitive::<TimestampMicrosecondType>(array, sql_type)?)
            }
            SqlType::Interval => Values::Interval(primitive::<IntervalMonthDayNanoType>(array, sql_type)?),
            SqlType::Array(element) => {
                if matches!(**element, SqlType::Array(_)) {
                    return Err(Error::not_supported("arrays of arrays have no binary form yet"));
                }
                let list = array.as_list_opt::<i32>().ok_or_else(wrong)?;
                Values::Array {
                    offsets: list.value_offsets(),
                    element_oid: PgType::of(element).oid,
                    elements: Box::new(BinaryColumn::new(list.values().as_ref(), element)?),
                }
            }
        };
        Ok(BinaryColumn { nulls: array.nulls().filter(|n| n.null_count() > 0), values })
    }

    /// Whether a row is null.
    #[inline]
    pub fn is_null(&self, row_idx: usize) -> bool {
        self.nulls.is_some_and(|nulls| nulls.is_null(row_idx))
    }

    /// Appends the binary form of a row that is not null, without its length.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline]
    pub fn write(&self, row_idx: usize, out: &mut Vec<u8>) {
        match &self.values {
            Values::Boolean(values) => out.push(u8::from(values.value(row_idx))),
            Values::SmallInt(values) => out.extend_from_slice(&values[row_idx].to_be_bytes()),
            Values::Integer(values) => out.extend_from_slice(&values[row_idx].to_be_bytes()),
            Values::BigInt(values) | Values::Time(values) => out.extend_from_slice(&values[row_idx].to_be_bytes()),
            Values::Oid(values) => out.extend_from_slice(&values[row_idx].to_be_bytes()),
            Values::Real(values) => out.extend_from_slice(&values[row_idx].to_be_bytes()),
            Values::Double(values) => out.extend_from_slice(&values[row_idx].to_be_bytes()),
            Values::Numeric(values, shape) => shape.write_binary(values[row_idx], out),
            Values::Text(values) => out.extend_from_slice(values.value(row_idx).as_bytes()),
            Values::Padded(values, n) => write_padded(values.value(row_idx), *n, out),
            Values::Bytea(values) => out.extend_from_slice(values.value(row_idx)),
            Values::Date(values) => out.extend_from_slice(&date_since_2000(values[row_idx]).to_be_bytes()),
            Values::Timestamp(values) => out.extend_from_slice(&us_since_2000(values[row_idx]).to_be_bytes()),
            Values::Interval(values) => {
                let value = values[row_idx];
                out.extend_from_slice(&(value.nanoseconds / 1000).to_be_bytes());
                out.extend_from_slice(&value.days.to_be_bytes());
                out.extend_from_slice(&value.months.to_be_bytes());
            }
            Values::Array { offsets, element_oid, elements } => {
                let rows = offsets[row_idx] as usize..offsets[row_idx + 1] as usize;
                elements.write_array(rows, *element_oid, out);
            }
        }
    }

    /// Dimensions (none if empty), whether there are nulls, the element type, length and lower bound, elements.
    fn write_array(&self, rows: std::ops::Range<usize>, element_oid: u32, out: &mut Vec<u8>) {
        let has_nulls = rows.clone().any(|row_idx| self.is_null(row_idx));
        out.extend_from_slice(&i32::from(!rows.is_empty()).to_be_bytes());
        out.extend_from_slice(&i32::from(has_nulls).to_be_bytes());
        out.extend_from_slice(&element_oid.to_be_bytes());
        if rows.is_empty() {
            return;
        }
        out.extend_from_slice(&(rows.len() as i32).to_be_bytes());
        out.extend_from_slice(&1i32.to_be_bytes());
        for row_idx in rows {
            if self.is_null(row_idx) {
                out.extend_from_slice(&(-1i32).to_be_bytes());
                continue;
            }
            let at = out.len();
            out.extend_from_slice(&[0; 4]);
            self.write(row_idx, out);
            let length = (out.len() - at - 4) as i32;
            out[at..at + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// The extreme values are the infinities on both sides.
#[inline]
fn date_since_2000(days: i32) -> i32 {
    match days {
        i32::MAX | i32::MIN => days,
        _ => days.wrapping_sub(PG_EPOCH_DAYS),
    }
}

#[inline]
fn us_since_2000(us: i64) -> i64 {
    match us {
        i64::MAX | i64::MIN => us,
        _ => us.saturating_sub(PG_EPOCH_US),
    }
}
