//! Types whose values are whole numbers of a smallest unit: integers, numeric, dates, times and intervals.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Decimal128Array, Int16Array, Int32Array, Int64Array,
    IntervalMonthDayNanoArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNano,
    IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType, UInt32Type,
};
use millstream_types::SqlType;

use crate::literal;

pub(super) const DAY_US: i128 = 86_400_000_000;

/// One of these types, with the conversions between values and whole numbers.
#[derive(Clone, Debug)]
pub(super) struct Line {
    sql_type: SqlType,
    /// The least and the greatest value.
    pub(super) min: i128,
    pub(super) max: i128,
}

impl Line {
    /// The line of a type; `None` for the other types.
    pub(super) fn of(sql_type: &SqlType) -> Option<Line> {
        let (min, max) = match sql_type {
            SqlType::SmallInt => (i16::MIN.into(), i16::MAX.into()),
            SqlType::Integer | SqlType::Date => (i32::MIN.into(), i32::MAX.into()),
            SqlType::BigInt | SqlType::Timestamp | SqlType::Timestamptz => (i64::MIN.into(), i64::MAX.into()),
            SqlType::Oid => (0, u32::MAX.into()),
            SqlType::Time => (0, DAY_US - 1),
            SqlType::Interval => ((i64::MIN / 1000).into(), (i64::MAX / 1000).into()),
            SqlType::Numeric(_) => {
                let DataType::Decimal128(precision, _) = sql_type.arrow_type() else { return None };
                let max = 10i128.pow(precision.into()) - 1;
                (-max, max)
            }
            _ => return None,
        };
        Some(Line { sql_type: sql_type.clone(), min, max })
    }

    /// How many units are 1; only of numbers.
    pub(super) fn one(&self) -> i128 {
        match self.sql_type.arrow_type() {
            DataType::Decimal128(_, scale) => 10i128.pow(scale.max(0).unsigned_abs().into()),
            _ => 1,
        }
    }

    /// Whether values print without trailing zeros, so that the unit is not seen.
    pub(super) fn is_unscaled_numeric(&self) -> bool {
        self.sql_type == SqlType::Numeric(None)
    }

    /// The value that a literal stands for. Intervals are counted in microseconds and have no months.
    pub(super) fn parse(&self, text: &str) -> Option<i128> {
        let value = literal::parse(&literal::unquote(text), &self.sql_type)?;
        let value = match value.data_type() {
            DataType::Int16 => value.as_primitive::<Int16Type>().value(0).into(),
            DataType::Int32 => value.as_primitive::<Int32Type>().value(0).into(),
            DataType::Int64 => value.as_primitive::<Int64Type>().value(0).into(),
            DataType::UInt32 => value.as_primitive::<UInt32Type>().value(0).into(),
            DataType::Date32 => value.as_primitive::<Date32Type>().value(0).into(),
            DataType::Time64(_) => value.as_primitive::<Time64MicrosecondType>().value(0).into(),
            DataType::Timestamp(_, _) => value.as_primitive::<TimestampMicrosecondType>().value(0).into(),
            DataType::Decimal128(_, _) => value.as_primitive::<Decimal128Type>().value(0),
            DataType::Interval(_) => {
                let value = value.as_primitive::<IntervalMonthDayNanoType>().value(0);
                if value.months != 0 {
                    return None;
                }
                i128::from(value.days) * DAY_US + i128::from(value.nanoseconds) / 1000
            }
            _ => return None,
        };
        (self.min..=self.max).contains(&value).then_some(value)
    }

    /// An array of values that lie between `min` and `max`.
    pub(super) fn array(&self, values: impl Iterator<Item = i128>) -> ArrayRef {
        match &self.sql_type {
            SqlType::SmallInt => Arc::new(Int16Array::from_iter_values(values.map(|v| v as i16))),
            SqlType::Integer => Arc::new(Int32Array::from_iter_values(values.map(|v| v as i32))),
            SqlType::BigInt => Arc::new(Int64Array::from_iter_values(values.map(|v| v as i64))),
            SqlType::Oid => Arc::new(UInt32Array::from_iter_values(values.map(|v| v as u32))),
            SqlType::Date => Arc::new(Date32Array::from_iter_values(values.map(|v| v as i32))),
            SqlType::Time => Arc::new(Time64MicrosecondArray::from_iter_values(values.map(|v| v as i64))),
            SqlType::Interval => {
                let interval = |v| IntervalMonthDayNano::new(0, 0, v as i64 * 1000);
                Arc::new(IntervalMonthDayNanoArray::from_iter_values(values.map(interval)))
            }
            sql_type => match sql_type.arrow_type() {
                DataType::Timestamp(_, zone) => {
                    let array = TimestampMicrosecondArray::from_iter_values(values.map(|v| v as i64));
                    Arc::new(array.with_timezone_opt(zone))
                }
                decimal => Arc::new(Decimal128Array::from_iter_values(values).with_data_type(decimal)),
            },
        }
    }
}
