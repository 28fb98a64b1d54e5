//! SQL types as Postgres names them, and the Arrow types that carry them.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};
use serde::{Deserialize, Serialize};

/// The precision of `numeric` without a declared one.
pub const NUMERIC_PRECISION: u8 = 38;
/// The scale of `numeric` without a declared one: such a value prints without trailing zeros.
pub const NUMERIC_SCALE: i8 = 16;

/// A column's SQL type.
///
/// Several SQL types may share an Arrow type (`text` and `varchar(n)`): lengths are checked when a row is written and
/// play no part afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SqlType {
    /// `boolean`
    Boolean,
    /// `smallint`
    SmallInt,
    /// `integer`
    Integer,
    /// `bigint`
    BigInt,
    /// `oid`, the identifier of an object in the catalogs
    Oid,
    /// `real`
    Real,
    /// `double precision`
    Double,
    /// `numeric(precision, scale)`; `None` is `numeric` without either
    Numeric(Option<(u8, i8)>),
    /// `text`
    Text,
    /// `varchar(n)`; `None` is `varchar` without a length
    Varchar(Option<u32>),
    /// `char(n)`, padded with blanks to n characters
    Char(u32),
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time` without time zone
    Time,
    /// `timestamp` without time zone
    Timestamp,
    /// `timestamp with time zone`
    Timestamptz,
    /// `interval`
    Interval,
    /// one-dimensional array
    Array(Box<SqlType>),
}

impl SqlType {
    /// The Arrow type that carries values of this type. Times are in microseconds, intervals in nanoseconds.
    pub fn arrow_type(&self) -> DataType {
        match self {
            SqlType::Boolean => DataType::Boolean,
            SqlType::SmallInt => DataType::Int16,
            SqlType::Integer => DataType::Int32,
            SqlType::BigInt => DataType::Int64,
            SqlType::Oid => DataType::UInt32,
            SqlType::Real => DataType::Float32,
            SqlType::Double => DataType::Float64,
            SqlType::Numeric(Some((p, s))) => DataType::Decimal128(*p, *s),
            SqlType::Numeric(None) => DataType::Decimal128(NUMERIC_PRECISION, NUMERIC_SCALE),
            SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) => DataType::Utf8View,
            SqlType::Bytea => DataType::BinaryView,
            SqlType::Date => DataType::Date32,
            SqlType::Time => DataType::Time64(TimeUnit::Microsecond),
            SqlType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            SqlType::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            SqlType::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
            SqlType::Array(element) => DataType::List(Arc::new(Field::new_list_field(element.arrow_type(), true))),
        }
    }

    /// The SQL type under which a value of an Arrow type is shown; `None` for Arrow types that have none.
    pub fn of_arrow(arrow: &DataType) -> Option<SqlType> {
        Some(match arrow {
            DataType::Boolean => SqlType::Boolean,
            DataType::Int8 | DataType::UInt8 | DataType::Int16 => SqlType::SmallInt,
            DataType::UInt16 | DataType::Int32 => SqlType::Integer,
            DataType::UInt32 => SqlType::Oid,
            DataType::Int64 => SqlType::BigInt,
            DataType::UInt64 => SqlType::Numeric(Some((20, 0))),
            DataType::Float16 | DataType::Float32 => SqlType::Real,
            DataType::Float64 => SqlType::Double,
            DataType::Decimal128(NUMERIC_PRECISION, NUMERIC_SCALE) => SqlType::Numeric(None),
            DataType::Decimal128(p, s) | DataType::Decimal256(p, s) => SqlType::Numeric(Some((*p, *s))),
            DataType::Null | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => SqlType::Text,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                SqlType::Bytea
            }
            DataType::Date32 | DataType::Date64 => SqlType::Date,
            DataType::Time32(_) | DataType::Time64(_) => SqlType::Time,
            DataType::Timestamp(_, None) => SqlType::Timestamp,
            DataType::Timestamp(_, Some(_)) => SqlType::Timestamptz,
            DataType::Interval(_) | DataType::Duration(_) => SqlType::Interval,
            DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) => {
                SqlType::Array(Box::new(SqlType::of_arrow(f.data_type())?))
            }
            DataType::Dictionary(_, value) => SqlType::of_arrow(value)?,
            _ => return None,
        })
    }
}

/// The name as `format_type` of Postgres prints it.
impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlType::Boolean => f.write_str("boolean"),
            SqlType::SmallInt => f.write_str("smallint"),
            SqlType::Integer => f.write_str("integer"),
            SqlType::BigInt => f.write_str("bigint"),
            SqlType::Oid => f.write_str("oid"),
            SqlType::Real => f.write_str("real"),
            SqlType::Double => f.write_str("double precision"),
            SqlType::Numeric(None) => f.write_str("numeric"),
            SqlType::Numeric(Some((p, s))) => write!(f, "numeric({p},{s})"),
            SqlType::Text => f.write_str("text"),
            SqlType::Varchar(None) => f.write_str("character varying"),
            SqlType::Varchar(Some(n)) => write!(f, "character varying({n})"),
            SqlType::Char(n) => write!(f, "character({n})"),
            SqlType::Bytea => f.write_str("bytea"),
            SqlType::Date => f.write_str("date"),
            SqlType::Time => f.write_str("time without time zone"),
            SqlType::Timestamp => f.write_str("timestamp without time zone"),
            SqlType::Timestamptz => f.write_str("timestamp with time zone"),
            SqlType::Interval => f.write_str("interval"),
            SqlType::Array(element) => write!(f, "{element}[]"),
        }
    }
}
