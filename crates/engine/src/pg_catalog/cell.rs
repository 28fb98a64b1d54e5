//! A single value of a catalog relation or of a catalog function's arguments. Catalogs are small: what counts here is
//! that their rows are easy to write.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, Float32Array, Float64Array, Int16Array, Int32Array,
    Int64Array, ListBuilder, PrimitiveBuilder, StringViewArray, StringViewBuilder, TimestampMicrosecondArray,
    UInt32Array, new_null_array,
};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float32Type, Int16Type, Int32Type, Int64Type, UInt32Type};
use millstream_types::pg::{FormatSettings, TextColumn};
use millstream_types::{Error, Result, SqlType};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Ints(Vec<i64>),
    Texts(Vec<String>),
    /// Microseconds since 1970 UTC.
    Time(i64),
}

/// What the values of a column or the results of a function are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CellType {
    Bool,
    SmallInt,
    Integer,
    BigInt,
    Oid,
    Real,
    Double,
    Text,
    SmallInts,
    Oids,
    Texts,
    Reals,
    Timestamptz,
    Interval,
    Bytea,
}

pub(crate) fn text(value: impl Into<String>) -> Cell {
    Cell::Text(value.into())
}

pub(crate) fn int(value: impl Into<i64>) -> Cell {
    Cell::Int(value.into())
}

impl From<Option<String>> for Cell {
    fn from(value: Option<String>) -> Cell {
        value.map_or(Cell::Null, Cell::Text)
    }
}

impl Cell {
    pub(crate) fn as_int(&self) -> Option<i64> {
        match self {
            Cell::Int(value) => Some(*value),
            Cell::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        if let Cell::Text(text) = self { Some(text) } else { None }
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self {
            Cell::Bool(value) => Some(*value),
            Cell::Text(text) => Some(matches!(text.to_ascii_lowercase().as_str(), "t" | "true" | "on" | "yes" | "1")),
            _ => None,
        }
    }

    /// The value at a row of an array.
    pub(crate) fn at(array: &ArrayRef, row_idx: usize) -> Result<Cell> {
        if array.is_null(row_idx) || array.data_type().is_null() {
            return Ok(Cell::Null);
        }
        Ok(match array.data_type() {
            DataType::Boolean => Cell::Bool(array.as_boolean().value(row_idx)),
            DataType::Int16 => int(array.as_primitive::<Int16Type>().value(row_idx)),
            DataType::Int32 => int(array.as_primitive::<Int32Type>().value(row_idx)),
            DataType::Int64 => int(array.as_primitive::<Int64Type>().value(row_idx)),
            DataType::UInt32 => int(array.as_primitive::<UInt32Type>().value(row_idx)),
            DataType::Utf8View => text(array.as_string_view().value(row_idx)),
            DataType::Utf8 => text(array.as_string::<i32>().value(row_idx)),
            DataType::List(_) => Cell::list(&array.as_list::<i32>().value(row_idx))?,
            other => {
                let sql_type =
                    SqlType::of_arrow(other).ok_or_else(|| Error::internal(format!("a value of {other}")))?;
                let settings = FormatSettings::default();
                let mut bytes = Vec::new();
                TextColumn::new(array.as_ref(), &sql_type, &settings)?.write(row_idx, &mut bytes);
                text(String::from_utf8_lossy(&bytes))
            }
        })
    }

    fn list(elements: &ArrayRef) -> Result<Cell> {
        let cells = (0..elements.len()).map(|i| Cell::at(elements, i)).collect::<Result<Vec<_>>>()?;
        if cells.iter().all(|c| matches!(c, Cell::Int(_))) {
            return Ok(Cell::Ints(cells.iter().filter_map(Cell::as_int).collect()));
        }
        Ok(Cell::Texts(cells.iter().map(|c| c.as_text().unwrap_or_default().to_owned()).collect()))
    }
}

impl CellType {
    /// The type of a column of Postgres' catalogs, by Postgres' name. Names, single characters, trees of expressions and
    /// access lists are texts, identifiers of objects are numbers.
    pub(crate) fn of_postgres(name: &str) -> CellType {
        match name {
            "boolean" => CellType::Bool,
            "smallint" => CellType::SmallInt,
            "integer" => CellType::Integer,
            "bigint" => CellType::BigInt,
            "oid" => CellType::Oid,
            "real" => CellType::Real,
            "double precision" | "numeric" => CellType::Double,
            "int2vector" | "smallint[]" => CellType::SmallInts,
            "oidvector" | "oid[]" => CellType::Oids,
            "real[]" => CellType::Reals,
            "timestamp with time zone" => CellType::Timestamptz,
            "interval" => CellType::Interval,
            "bytea" => CellType::Bytea,
            name if name.ends_with("[]") => CellType::Texts,
            _ => CellType::Text,
        }
    }

    pub(crate) fn sql_type(self) -> SqlType {
        match self {
            CellType::Bool => SqlType::Boolean,
            CellType::SmallInt => SqlType::SmallInt,
            CellType::Integer => SqlType::Integer,
            CellType::BigInt => SqlType::BigInt,
            CellType::Oid => SqlType::Oid,
            CellType::Real => SqlType::Real,
            CellType::Double => SqlType::Double,
            CellType::Text => SqlType::Text,
            CellType::SmallInts => SqlType::Array(Box::new(SqlType::SmallInt)),
            CellType::Oids => SqlType::Array(Box::new(SqlType::Oid)),
            CellType::Texts => SqlType::Array(Box::new(SqlType::Text)),
            CellType::Reals => SqlType::Array(Box::new(SqlType::Real)),
            CellType::Timestamptz => SqlType::Timestamptz,
            CellType::Interval => SqlType::Interval,
            CellType::Bytea => SqlType::Bytea,
        }
    }

    /// Values as a column.
    pub(crate) fn array<'a>(self, cells: impl Iterator<Item = &'a Cell> + Clone) -> ArrayRef {
        let ints = cells.clone().map(|c| if let Cell::Int(value) = c { Some(*value) } else { None });
        let floats = cells.clone().map(|c| match c {
            Cell::Float(value) => Some(*value),
            Cell::Int(value) => Some(*value as f64),
            _ => None,
        });
        match self {
            CellType::Bool => Arc::new(cells.map(Cell::as_bool).collect::<BooleanArray>()),
            CellType::SmallInt => Arc::new(ints.map(|v| v.map(|v| v as i16)).collect::<Int16Array>()),
            CellType::Integer => Arc::new(ints.map(|v| v.map(|v| v as i32)).collect::<Int32Array>()),
            CellType::BigInt => Arc::new(ints.collect::<Int64Array>()),
            CellType::Oid => Arc::new(ints.map(|v| v.map(|v| v as u32)).collect::<UInt32Array>()),
            CellType::Real => Arc::new(floats.map(|v| v.map(|v| v as f32)).collect::<Float32Array>()),
            CellType::Double => Arc::new(floats.collect::<Float64Array>()),
            CellType::Text => Arc::new(cells.map(Cell::as_text).collect::<StringViewArray>()),
            CellType::SmallInts => int_lists::<Int16Type>(cells, |v| v as i16),
            CellType::Oids => int_lists::<UInt32Type>(cells, |v| v as u32),
            CellType::Reals => int_lists::<Float32Type>(cells, |v| v as f32),
            CellType::Texts => text_lists(cells),
            CellType::Timestamptz => {
                let times = cells.map(|c| if let Cell::Time(us) = c { Some(*us) } else { None });
                Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
            }
            CellType::Interval => new_null_array(&SqlType::Interval.arrow_type(), cells.count()),
            CellType::Bytea => Arc::new(cells.map(|_| None::<&[u8]>).collect::<BinaryViewArray>()),
        }
    }
}

fn int_lists<'a, T: ArrowPrimitiveType>(
    cells: impl Iterator<Item = &'a Cell>,
    convert: impl Fn(i64) -> T::Native,
) -> ArrayRef {
    let mut lists = ListBuilder::new(PrimitiveBuilder::<T>::new());
    for cell in cells {
        match cell {
            Cell::Ints(values) => {
                values.iter().for_each(|v| lists.values().append_value(convert(*v)));
                lists.append(true);
            }
            _ => lists.append(false),
        }
    }
    Arc::new(lists.finish())
}

fn text_lists<'a>(cells: impl Iterator<Item = &'a Cell>) -> ArrayRef {
    let mut lists = ListBuilder::new(StringViewBuilder::new());
    for cell in cells {
        match cell {
            Cell::Texts(values) => {
                values.iter().for_each(|v| lists.values().append_value(v));
                lists.append(true);
            }
            Cell::Ints(values) if values.is_empty() => lists.append(true),
            _ => lists.append(false),
        }
    }
    Arc::new(lists.finish())
}
