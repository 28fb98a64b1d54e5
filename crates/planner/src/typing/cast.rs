//! Explicit casts as Postgres does them, where Arrow's differ: rounding, range errors, texts.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::{Cast, Expr, cast, lit};
use millstream_types::{Error, SqlState, SqlType};

use super::types::{Class, Result, TEXT, canonical, coerce, constant, element_type, type_name, type_of};
use crate::binder::external;
use crate::functions::casts::CastFunction;

/// `expr::to`
pub(crate) fn explicit_cast(expr: Expr, to: &DataType, schema: &DFSchema) -> Result<Expr> {
    let from = type_of(&expr, schema)?;
    if from == DataType::Null {
        return constant_cast(expr, to, schema);
    }
    if from == *to {
        return Ok(expr);
    }
    let (fc, tc) = (Class::of(&from), Class::of(to));
    if is_exact(&from, to) {
        return Ok(cast(expr, to.clone()));
    }
    if canonical(&from) == *to && fc == tc {
        return Ok(cast(expr, to.clone()));
    }
    match (fc, tc) {
        (Class::Int, Class::Bool) => return binary_not_zero(expr, &from, schema),
        (Class::Array, Class::Array) if !element_needs_function(&from, to) => return Ok(cast(expr, to.clone())),
        _ => {}
    }
    if !exists(fc, tc) {
        let message = format!("cannot cast type {} to {}", type_name(&from), type_name(to));
        return Err(external(Error::user(SqlState::CANNOT_COERCE, message)));
    }
    let to = SqlType::of_arrow(to).ok_or_else(|| external(Error::internal(format!("cast to {to}"))))?;
    let from = canonical(&from);
    Ok(CastFunction::call(to, coerce(expr, &from, schema)?))
}

/// A constant of unknown type is read as the type; `'x'::text` stays a cast, so that its type is known from now on.
fn constant_cast(expr: Expr, to: &DataType, schema: &DFSchema) -> Result<Expr> {
    let Expr::Literal(value, metadata) = &expr else { return coerce(expr, to, schema) };
    let text = value.try_as_str().flatten();
    match text {
        None => Ok(Expr::Cast(Cast::new(Box::new(expr), to.clone()))),
        Some(_) if Class::of(to) == Class::Text => Ok(Expr::Cast(Cast::new(Box::new(expr), TEXT))),
        Some(text) => constant(text, to, metadata.clone()),
    }
}

fn binary_not_zero(expr: Expr, from: &DataType, schema: &DFSchema) -> Result<Expr> {
    let zero = coerce(lit(0i32), from, schema)?;
    Ok(super::calls::binary(expr, datafusion::logical_expr::Operator::NotEq, zero))
}

/// Whether Arrow's cast loses nothing, so that it may stay a cast which optimizer rules understand.
fn is_exact(from: &DataType, to: &DataType) -> bool {
    use Class as C;
    let width = |d: &DataType| d.primitive_width().unwrap_or(0);
    match (Class::of(from), Class::of(to)) {
        // Of unsigned integers an oid may be any number. Others come from DataFusion's own functions: counts and positions,
        // far below their limit.
        (C::Int, C::Int) if *from == DataType::UInt32 => width(from) < width(to),
        (C::Int, C::Int) if *to == DataType::UInt32 => false,
        (C::Int, C::Int) => width(from) <= width(to),
        (C::Int, C::Double) | (C::Real, C::Double) => true,
        (C::Int, C::Numeric) => {
            let (p, s) = super::types::decimal_parts(to);
            let (needed, _) = super::types::decimal_parts(from);
            i16::from(p) - i16::from(s) >= i16::from(needed)
        }
        (C::Numeric, C::Numeric) => {
            let ((p1, s1), (p2, s2)) = (super::types::decimal_parts(from), super::types::decimal_parts(to));
            s2 >= s1 && i16::from(p2) - i16::from(s2) >= i16::from(p1) - i16::from(s1)
        }
        (C::Date, C::Timestamp | C::Timestamptz) => true,
        (C::Timestamp, C::Timestamptz) | (C::Timestamptz, C::Timestamp) => true,
        (C::Text, C::Text) | (C::Bytes, C::Bytes) => true,
        _ => false,
    }
}

/// Whether Postgres has a cast between two classes.
fn exists(from: Class, to: Class) -> bool {
    use Class as C;
    match (from, to) {
        (C::Other, _) | (_, C::Other) => false,
        (C::Text, _) | (_, C::Text) => true,
        (from, to) if from.is_number() && to.is_number() => true,
        (C::Bool, C::Int) => true,
        (from, to) if from.is_date_or_timestamp() && to.is_date_or_timestamp() => true,
        (C::Timestamp | C::Timestamptz | C::Interval, C::Time) => true,
        (C::Time, C::Interval) => true,
        (C::Array, C::Array) => true,
        (from, to) => from == to,
    }
}

fn element_needs_function(from: &DataType, to: &DataType) -> bool {
    match (element_type(from), element_type(to)) {
        (Some(from), Some(to)) => from != to && !is_exact(&from, &to),
        _ => true,
    }
}
