//! Classes of types, the common type of several, and what an expression must become to have it.

use std::sync::Arc;

use arrow::array::StringViewArray;
use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::logical_expr::expr::{FieldMetadata, Placeholder};
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, Operator};
use millstream_types::pg::parse_column;
use millstream_types::sql_type::{NUMERIC_PRECISION, NUMERIC_SCALE};
use millstream_types::{Error, SqlState, SqlType};

use super::chains::Chain;
use crate::binder::external;
use crate::functions::casts::CastFunction;

pub(crate) type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// `numeric` without precision and scale.
pub(crate) const NUMERIC: DataType = DataType::Decimal128(NUMERIC_PRECISION, NUMERIC_SCALE);
/// `text`
pub(crate) const TEXT: DataType = DataType::Utf8View;
/// `timestamp`
pub(crate) const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);
/// `interval`
pub(crate) const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);
/// `time`
pub(crate) const TIME: DataType = DataType::Time64(TimeUnit::Microsecond);

/// `timestamptz`
pub(crate) fn timestamptz() -> DataType {
    SqlType::Timestamptz.arrow_type()
}

/// Types that behave alike in operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Unknown,
    Bool,
    Int,
    Numeric,
    Real,
    Double,
    Text,
    Bytes,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Interval,
    Array,
    Other,
}

impl Class {
    pub(crate) fn of(data_type: &DataType) -> Class {
        match data_type {
            DataType::Null => Class::Unknown,
            DataType::Boolean => Class::Bool,
            d if d.is_integer() => Class::Int,
            DataType::Decimal128(..) | DataType::Decimal256(..) | DataType::Decimal64(..) | DataType::Decimal32(..) => {
                Class::Numeric
            }
            DataType::Float16 | DataType::Float32 => Class::Real,
            DataType::Float64 => Class::Double,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Class::Text,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                Class::Bytes
            }
            DataType::Date32 | DataType::Date64 => Class::Date,
            DataType::Time32(_) | DataType::Time64(_) => Class::Time,
            DataType::Timestamp(_, None) => Class::Timestamp,
            DataType::Timestamp(_, Some(_)) => Class::Timestamptz,
            DataType::Interval(_) | DataType::Duration(_) => Class::Interval,
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => Class::Array,
            _ => Class::Other,
        }
    }

    pub(crate) fn is_number(self) -> bool {
        matches!(self, Class::Int | Class::Numeric | Class::Real | Class::Double)
    }

    pub(crate) fn is_date_or_timestamp(self) -> bool {
        matches!(self, Class::Date | Class::Timestamp | Class::Timestamptz)
    }
}

/// A type's name in messages, without precision or length.
pub(crate) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "unknown".to_string(),
        other => match SqlType::of_arrow(other) {
            Some(SqlType::Numeric(_)) => "numeric".to_string(),
            Some(sql_type) => sql_type.to_string(),
            None => other.to_string(),
        },
    }
}

/// The type under which values of this type flow between operators and reach clients.
pub(crate) fn canonical(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Null => DataType::Null,
        other => SqlType::of_arrow(other).map_or_else(|| other.clone(), |t| t.arrow_type()),
    }
}

/// Whether the expression is a constant whose type its surroundings decide: `'x'`, `NULL`, `$1`.
pub(crate) fn is_unknown(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(value, _) => matches!(
            value,
            ScalarValue::Null | ScalarValue::Utf8(_) | ScalarValue::Utf8View(_) | ScalarValue::LargeUtf8(_)
        ),
        Expr::Placeholder(p) => p.field.is_none(),
        Expr::Alias(alias) => is_unknown(&alias.expr),
        _ => false,
    }
}

/// The expression's type; `Null` for an unknown one.
pub(crate) fn type_of(expr: &Expr, schema: &DFSchema) -> Result<DataType> {
    if is_unknown(expr) { Ok(DataType::Null) } else { data_type_of(expr, schema) }
}

/// The type of an expression that is resolved. What a chain of operators may nest is not derived through all of its levels.
pub(crate) fn data_type_of(expr: &Expr, schema: &DFSchema) -> Result<DataType> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { op: Operator::And | Operator::Or, .. }) => Ok(DataType::Boolean),
        Expr::BinaryExpr(BinaryExpr { op: Operator::StringConcat, .. }) => Ok(TEXT),
        Expr::ScalarFunction(function) => match Chain::of(function) {
            Some(chain) => chain.type_over(&function.args, schema),
            None => expr.get_type(schema),
        },
        _ => expr.get_type(schema),
    }
}

/// The types of several expressions.
pub(crate) fn types_of(exprs: &[Expr], schema: &DFSchema) -> Result<Vec<DataType>> {
    exprs.iter().map(|e| type_of(e, schema)).collect()
}

/// An error of ours on its way through DataFusion.
pub(crate) fn user_error<T>(state: SqlState, message: impl Into<String>) -> Result<T> {
    Err(external(Error::user(state, message)))
}

/// A constant text as a value of exactly this type.
pub(crate) fn parse_exactly(text: &str, to: &DataType) -> Result<ScalarValue> {
    let sql_type = SqlType::of_arrow(to)
        .ok_or_else(|| external(Error::not_supported(format!("constants of type {to} are not supported"))))?;
    let texts = StringViewArray::from(vec![text]);
    let array = parse_column(&texts, &sql_type, &crate::reading::settings()).map_err(external)?;
    ScalarValue::try_from_array(&array, 0)
}

/// A constant text as an expression of exactly this type. `'today'` and its like are read when the statement runs.
pub(crate) fn constant(text: &str, to: &DataType, metadata: Option<FieldMetadata>) -> Result<Expr> {
    match parse_exactly(text, to) {
        Ok(value) => Ok(Expr::Literal(value, metadata)),
        Err(error) => match crate::functions::moments::of_clock(text, to)? {
            Some(moment) => Ok(moment),
            None => Err(error),
        },
    }
}

/// A plain decimal number with as many digits as it is written with.
fn decimal_literal(text: &str) -> Option<ScalarValue> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (int, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{int}{fraction}");
    if all.is_empty() || all.len() > usize::from(NUMERIC_PRECISION) || !all.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: i128 = all.parse().ok()?;
    let precision = (all.len() as u8).max(1);
    Some(ScalarValue::Decimal128(Some(if negative { -value } else { value }), precision, fraction.len() as i8))
}

/// The expression as one of a type. Constants become constants of the type, parameters get it; anything else is cast.
pub(crate) fn coerce(expr: Expr, to: &DataType, schema: &DFSchema) -> Result<Expr> {
    match expr {
        Expr::Literal(ScalarValue::Null, metadata) => Ok(Expr::Literal(ScalarValue::try_from(to)?, metadata)),
        Expr::Literal(
            ScalarValue::Utf8(text) | ScalarValue::Utf8View(text) | ScalarValue::LargeUtf8(text),
            metadata,
        ) => {
            let value = match text {
                Some(text) if Class::of(to) == Class::Text => ScalarValue::Utf8View(Some(text)),
                Some(text) => return constant(&text, to, metadata),
                None => ScalarValue::try_from(to)?,
            };
            Ok(Expr::Literal(value, metadata))
        }
        Expr::Placeholder(Placeholder { id, field: None }) => {
            let field = Some(Arc::new(Field::new("", canonical(to), true)));
            Ok(Expr::Placeholder(Placeholder { id, field }))
        }
        Expr::Literal(value, metadata) if is_widening(&value.data_type(), to) => {
            Ok(Expr::Literal(value.cast_to(to)?, metadata))
        }
        other => {
            let from = data_type_of(&other, schema)?;
            if from == *to {
                return Ok(other);
            }
            match (Class::of(&from), Class::of(to)) {
                (Class::Numeric, Class::Real) => Ok(CastFunction::call(SqlType::Real, other)),
                (Class::Numeric, Class::Double) => Ok(CastFunction::call(SqlType::Double, other)),
                _ => Ok(Expr::Cast(Cast::new(Box::new(other), to.clone()))),
            }
        }
    }
}

/// As [`coerce`], for an operand: a constant beside a decimal keeps the digits that it is written with.
pub(crate) fn coerce_operand(expr: Expr, to: &DataType, schema: &DFSchema) -> Result<Expr> {
    if Class::of(to) == Class::Numeric
        && let Expr::Literal(value, metadata) = &expr
        && let Some(number) = value.try_as_str().flatten().and_then(decimal_literal)
    {
        return Ok(Expr::Literal(number, metadata.clone()));
    }
    coerce(expr, to, schema)
}

/// Whether every number of one type is one of the other.
fn is_widening(from: &DataType, to: &DataType) -> bool {
    let width = |d: &DataType| match d {
        DataType::Int16 => 1,
        DataType::Int32 => 2,
        DataType::Int64 => 3,
        DataType::Decimal128(_, 0) => 4,
        DataType::Float64 => 5,
        _ => 0,
    };
    let (from, to) = (width(from), width(to));
    from > 0 && to > from
}

/// The decimal that holds every integer of a type.
pub(crate) fn decimal_of_int(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => DataType::Decimal128(5, 0),
        DataType::UInt16 | DataType::Int32 => DataType::Decimal128(10, 0),
        DataType::UInt32 | DataType::Int64 => DataType::Decimal128(19, 0),
        _ => DataType::Decimal128(20, 0),
    }
}

/// A number's type as a decimal's precision and scale.
pub(crate) fn decimal_parts(data_type: &DataType) -> (u8, i8) {
    match data_type {
        DataType::Decimal128(p, s) | DataType::Decimal256(p, s) => (*p, *s),
        DataType::Decimal64(p, s) | DataType::Decimal32(p, s) => (*p, *s),
        other => match decimal_of_int(other) {
            DataType::Decimal128(p, s) => (p, s),
            _ => (NUMERIC_PRECISION, 0),
        },
    }
}

/// The decimal that holds the values of both, as far as 38 digits go.
fn wider_decimal(a: &DataType, b: &DataType) -> DataType {
    let is_plain = |d: &DataType| *d == NUMERIC;
    if is_plain(a) || is_plain(b) {
        return NUMERIC;
    }
    let ((p1, s1), (p2, s2)) = (decimal_parts(a), decimal_parts(b));
    let scale = s1.max(s2);
    let integral = (p1 as i8 - s1).max(p2 as i8 - s2);
    let precision = (integral + scale).clamp(1, NUMERIC_PRECISION as i8) as u8;
    DataType::Decimal128(precision, scale.min(precision as i8))
}

/// The wider of two integer types.
pub(crate) fn wider_int(a: &DataType, b: &DataType) -> DataType {
    let rank = |d: &DataType| match canonical(d) {
        DataType::Int16 => 0,
        DataType::Int32 => 1,
        _ => 2,
    };
    match rank(a).max(rank(b)) {
        0 => DataType::Int16,
        1 => DataType::Int32,
        _ => DataType::Int64,
    }
}

/// The type in which two numbers meet: `None` if one is no number.
pub(crate) fn common_number(a: &DataType, b: &DataType) -> Option<DataType> {
    let (ca, cb) = (Class::of(a), Class::of(b));
    if !ca.is_number() || !cb.is_number() {
        return None;
    }
    Some(match (ca, cb) {
        (Class::Int, Class::Int) => wider_int(a, b),
        (Class::Real, Class::Real) => DataType::Float32,
        (Class::Real | Class::Double, _) | (_, Class::Real | Class::Double) => DataType::Float64,
        _ => wider_decimal(a, b),
    })
}

/// The type in which two values can be compared, or stand in one column; `None` if Postgres has none.
pub(crate) fn common_pair(a: &DataType, b: &DataType) -> Option<DataType> {
    let (ca, cb) = (Class::of(a), Class::of(b));
    Some(match (ca, cb) {
        (Class::Unknown, Class::Unknown) => DataType::Null,
        (Class::Unknown, _) => canonical(b),
        (_, Class::Unknown) => canonical(a),
        _ if a == b && *a == DataType::UInt32 => DataType::UInt32,
        _ if ca.is_number() && cb.is_number() => common_number(a, b)?,
        _ if ca.is_date_or_timestamp() && cb.is_date_or_timestamp() => {
            let has = |c| ca == c || cb == c;
            if has(Class::Timestamptz) {
                timestamptz()
            } else if has(Class::Timestamp) {
                TIMESTAMP
            } else {
                DataType::Date32
            }
        }
        (Class::Array, Class::Array) => {
            let (ea, eb) = (element_type(a)?, element_type(b)?);
            array_of(&common_pair(&ea, &eb)?)
        }
        _ if ca == cb => canonical(a),
        _ => return None,
    })
}

/// The type of a column in which all these values stand; unknown ones become text if there is nothing else.
pub(crate) fn common_type(types: &[DataType], what: &str) -> Result<DataType> {
    let mut common = DataType::Null;
    for data_type in types {
        common = match common_pair(&common, data_type) {
            Some(common) => common,
            None => {
                let message =
                    format!("{what} types {} and {} cannot be matched", type_name(&common), type_name(data_type));
                return user_error(SqlState::DATATYPE_MISMATCH, message);
            }
        };
    }
    Ok(if common == DataType::Null { TEXT } else { common })
}

/// The type of an array's elements.
pub(crate) fn element_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) => Some(f.data_type().clone()),
        _ => None,
    }
}

/// The array type over elements of a type.
pub(crate) fn array_of(element: &DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(element.clone(), true)))
}
