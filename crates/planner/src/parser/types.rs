//! Names of types.

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, BinaryLength, CharacterLength, DataType, ExactNumberInfo, ObjectName, TimezoneInfo,
};
use datafusion::sql::sqlparser::parser::Parser;
use millstream_types::sql_type::NUMERIC_PRECISION;
use millstream_types::{Error, Result, SqlState, SqlType};

use super::cursor::folded;
use super::tokens::{planned_error, single};

/// The type that a name in SQL stands for.
///
/// # Errors
/// 42704 for a type that does not exist, 0A000 for one that Millstream does not have yet.
pub fn sql_type_of(data_type: &DataType) -> Result<SqlType> {
    Ok(match data_type {
        DataType::Bool | DataType::Boolean => SqlType::Boolean,
        DataType::Int2(None) | DataType::SmallInt(None) => SqlType::SmallInt,
        DataType::Int(None) | DataType::Int4(None) | DataType::Integer(None) => SqlType::Integer,
        DataType::BigInt(None) | DataType::Int8(None) => SqlType::BigInt,
        DataType::Real | DataType::Float4 => SqlType::Real,
        DataType::Float(ExactNumberInfo::Precision(p)) => float_of(*p)?,
        DataType::Double(ExactNumberInfo::None)
        | DataType::DoublePrecision
        | DataType::Float8
        | DataType::Float(ExactNumberInfo::None) => SqlType::Double,
        DataType::Numeric(info) | DataType::Decimal(info) | DataType::Dec(info) => numeric_of(info)?,
        DataType::Text | DataType::String(None) => SqlType::Text,
        DataType::Character(n) | DataType::Char(n) => SqlType::Char(length_of("character", n)?.unwrap_or(1)),
        DataType::CharacterVarying(n) | DataType::CharVarying(n) | DataType::Varchar(n) => {
            SqlType::Varchar(length_of("character varying", n)?)
        }
        DataType::Bytea => SqlType::Bytea,
        DataType::Varbinary(None::<BinaryLength>) => SqlType::Bytea,
        DataType::Date => SqlType::Date,
        DataType::Time(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => SqlType::Time,
        DataType::Timestamp(_, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => SqlType::Timestamp,
        DataType::Timestamp(..) => SqlType::Timestamptz,
        DataType::Interval { .. } => SqlType::Interval,
        DataType::Array(
            ArrayElemTypeDef::SquareBracket(element, _)
            | ArrayElemTypeDef::AngleBracket(element)
            | ArrayElemTypeDef::Parenthesis(element),
        ) => match sql_type_of(element)? {
            // Postgres does not tell the number of dimensions; here arrays have one.
            SqlType::Array(_) => return Err(Error::not_supported("arrays of arrays are not supported yet")),
            element => SqlType::Array(Box::new(element)),
        },
        DataType::JSON | DataType::JSONB | DataType::Uuid => {
            return Err(planned_error(&format!("type {}", data_type.to_string().to_lowercase())));
        }
        DataType::Map(..) | DataType::Struct(..) => return Err(planned_error("this type")),
        DataType::Custom(name, modifiers) => custom(name, modifiers)?,
        _ => return Err(unknown_type(&data_type.to_string().to_lowercase())),
    })
}

/// The type that a text such as `character varying(20)` stands for.
///
/// # Errors
/// As [`sql_type_of`]; 42601 if the text is no type.
pub fn sql_type_from_text(text: &str) -> Result<SqlType> {
    sql_type_of(&data_type_from_text(text)?)
}

/// A type's name as sqlparser reads it.
pub(crate) fn data_type_from_text(text: &str) -> Result<DataType> {
    let mut cursor = super::cursor::Cursor::new(single(text)?);
    let data_type = cursor.grammar(Parser::parse_data_type)?;
    cursor.expect_end()?;
    Ok(data_type)
}

fn unknown_type(name: &str) -> Error {
    Error::user(SqlState::UNDEFINED_OBJECT, format!("type \"{name}\" does not exist"))
}

fn float_of(precision: u64) -> Result<SqlType> {
    match precision {
        0 => Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, "precision for type float must be at least 1 bit")),
        1..=24 => Ok(SqlType::Real),
        25..=53 => Ok(SqlType::Double),
        _ => Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, "precision for type float must be less than 54 bits")),
    }
}

fn numeric_of(info: &ExactNumberInfo) -> Result<SqlType> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => return Ok(SqlType::Numeric(None)),
        ExactNumberInfo::Precision(p) => (*p, 0),
        ExactNumberInfo::PrecisionAndScale(p, s) => (*p, *s),
    };
    let max = u64::from(NUMERIC_PRECISION);
    if precision == 0 || precision > 1000 {
        return Err(Error::user(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("NUMERIC precision {precision} must be between 1 and 1000"),
        ));
    }
    if precision > max {
        return Err(Error::not_supported(format!("numeric precision {precision} is above {max}")));
    }
    if scale < 0 || scale > precision as i64 {
        return Err(Error::not_supported(format!("numeric scale {scale} must lie between 0 and the precision")));
    }
    Ok(SqlType::Numeric(Some((precision as u8, scale as i8))))
}

fn length_of(name: &str, length: &Option<CharacterLength>) -> Result<Option<u32>> {
    let Some(CharacterLength::IntegerLength { length, .. }) = length else { return Ok(None) };
    if *length == 0 {
        return Err(Error::user(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("length for type {name} must be at least 1"),
        ));
    }
    match u32::try_from(*length) {
        Ok(n) if n <= 10_485_760 => Ok(Some(n)),
        _ => Err(Error::user(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("length for type {name} cannot exceed 10485760"),
        )),
    }
}

/// Names that sqlparser has no word for; qualified with `pg_catalog` also those that it has.
fn custom(name: &ObjectName, modifiers: &[String]) -> Result<SqlType> {
    let parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident()).map(folded).collect();
    let base = match parts.as_slice() {
        [base] => base.as_str(),
        [schema, base] if schema == "pg_catalog" => base.as_str(),
        _ => return Err(unknown_type(&name.to_string())),
    };
    let number = modifiers.first().and_then(|m| m.parse::<u64>().ok());
    Ok(match base {
        "bool" => SqlType::Boolean,
        "int2" => SqlType::SmallInt,
        "int4" | "int" => SqlType::Integer,
        "oid" => SqlType::Oid,
        "int8" | "xid" | "regclass" | "regtype" | "regproc" | "regprocedure" | "regnamespace" => SqlType::BigInt,
        "float4" => SqlType::Real,
        "float8" | "double" => SqlType::Double,
        "numeric" => SqlType::Numeric(None),
        "text" | "string" | "name" | "cstring" => SqlType::Text,
        "char" => SqlType::Char(1),
        "bpchar" => number.map_or(SqlType::Text, |n| SqlType::Char(n.min(10_485_760) as u32)),
        "varchar" => SqlType::Varchar(number.map(|n| n.min(10_485_760) as u32)),
        "bytea" => SqlType::Bytea,
        "date" => SqlType::Date,
        "time" => SqlType::Time,
        "timestamp" => SqlType::Timestamp,
        "timestamptz" => SqlType::Timestamptz,
        "interval" => SqlType::Interval,
        "timetz" | "json" | "jsonb" | "uuid" | "map" | "struct" | "hstore" => {
            return Err(planned_error(&format!("type {base}")));
        }
        "serial" | "bigserial" | "smallserial" => {
            return Err(Error::not_supported(format!("type {base} is not supported"))
                .with_hint("a table without a primary key has a hidden row id"));
        }
        _ if base.starts_with('_') => {
            let element = sql_type_from_text(&base[1..]).map_err(|_| unknown_type(base))?;
            SqlType::Array(Box::new(element))
        }
        _ => return Err(unknown_type(base)),
    })
}
