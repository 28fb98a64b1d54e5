//! Which operator or function a call means, as Postgres resolves it by the types of its arguments.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Expr, Like, Operator, cast, lit, not};
use millstream_types::{Error, SqlState};

use super::cast::explicit_cast;
use super::chains;
use super::deferred::Call;
use super::types::{
    Class, INTERVAL, Result, TEXT, TIMESTAMP, canonical, coerce, coerce_operand, common_number, common_pair,
    data_type_of, decimal_of_int, type_name, type_of, types_of, wider_int,
};
use crate::binder::external;
use crate::equal_keys::comparable;
use crate::functions::numeric::Arithmetic;
use crate::functions::{builtin, overloads};

/// The call over arguments that are resolved themselves.
pub(crate) fn resolve_call(call: &Call, args: Vec<Expr>, schema: &DFSchema) -> Result<Expr> {
    match call {
        Call::Operator(op) => {
            let [left, right]: [Expr; 2] =
                args.try_into().map_err(|_| external(Error::internal("an operator without two operands")))?;
            resolve_operator(*op, left, right, schema)
        }
        Call::Operators(ops) => {
            let mut operands = args.into_iter();
            let Some(first) = operands.next() else {
                return Err(external(Error::internal("a chain of operators without operands")));
            };
            ops.iter().zip(operands).try_fold(first, |left, (op, right)| {
                crate::interrupt::check()?;
                canonically_typed(resolve_operator(*op, left, right, schema)?, schema)
            })
        }
        Call::Function(name) => overloads::resolve(name, args, schema),
    }
}

/// The expression, cast if its type is one that flows nowhere.
pub(super) fn canonically_typed(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let data_type = data_type_of(&expr, schema)?;
    let wanted = canonical(&data_type);
    Ok(if wanted == data_type { expr } else { cast(expr, wanted) })
}

/// `operator does not exist: text + integer`
fn no_operator<T>(op: Operator, left: &DataType, right: &DataType) -> Result<T> {
    let symbol = match op {
        Operator::NotEq => "<>".to_string(),
        Operator::LikeMatch => "~~".to_string(),
        Operator::ILikeMatch => "~~*".to_string(),
        Operator::IsDistinctFrom | Operator::IsNotDistinctFrom => "=".to_string(),
        Operator::BitwiseXor => "#".to_string(),
        other => other.to_string(),
    };
    let message = format!("operator does not exist: {} {symbol} {}", type_name(left), type_name(right));
    Err(external(Error::user(SqlState::UNDEFINED_FUNCTION, message).with_hint(
        "No operator matches the given name and argument types. You might need to add explicit type casts.",
    )))
}

pub(crate) fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

fn resolve_operator(op: Operator, left: Expr, right: Expr, schema: &DFSchema) -> Result<Expr> {
    match op {
        Operator::And | Operator::Or => {
            let name = if op == Operator::And { "AND" } else { "OR" };
            Ok(binary(condition(left, name, schema)?, op, condition(right, name, schema)?))
        }
        Operator::Eq
        | Operator::NotEq
        | Operator::Lt
        | Operator::LtEq
        | Operator::Gt
        | Operator::GtEq
        | Operator::IsDistinctFrom
        | Operator::IsNotDistinctFrom => comparison(op, left, right, schema),
        Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo => {
            arithmetic(op, left, right, schema)
        }
        Operator::StringConcat => concatenation(left, right, schema),
        Operator::RegexMatch | Operator::RegexIMatch | Operator::RegexNotMatch | Operator::RegexNotIMatch => {
            let (left, right) = texts(op, left, right, schema)?;
            Ok(binary(left, op, right))
        }
        Operator::LikeMatch | Operator::ILikeMatch | Operator::NotLikeMatch | Operator::NotILikeMatch => {
            let (left, right) = texts(op, left, right, schema)?;
            let negated = matches!(op, Operator::NotLikeMatch | Operator::NotILikeMatch);
            let case_insensitive = matches!(op, Operator::ILikeMatch | Operator::NotILikeMatch);
            Ok(Expr::Like(Like::new(negated, Box::new(left), Box::new(right), None, case_insensitive)))
        }
        Operator::BitwiseAnd
        | Operator::BitwiseOr
        | Operator::BitwiseXor
        | Operator::BitwiseShiftLeft
        | Operator::BitwiseShiftRight => bitwise(op, left, right, schema),
        Operator::AtArrow => overloads::resolve("array_has_all", vec![left, right], schema),
        Operator::ArrowAt => overloads::resolve("array_has_all", vec![right, left], schema),
        other => Err(external(Error::not_supported(format!("operator {other} is not supported yet")))),
    }
}

/// A condition: boolean, or a constant that becomes one.
pub(crate) fn condition(expr: Expr, what: &str, schema: &DFSchema) -> Result<Expr> {
    let data_type = type_of(&expr, schema)?;
    match Class::of(&data_type) {
        Class::Bool => Ok(expr),
        Class::Unknown => coerce(expr, &DataType::Boolean, schema),
        _ => {
            let message = format!("argument of {what} must be type boolean, not type {}", type_name(&data_type));
            Err(external(Error::user(SqlState::DATATYPE_MISMATCH, message)))
        }
    }
}

fn comparison(op: Operator, left: Expr, right: Expr, schema: &DFSchema) -> Result<Expr> {
    let (lt, rt) = (type_of(&left, schema)?, type_of(&right, schema)?);
    let (left, right) = match common_pair(&lt, &rt) {
        None => return no_operator(op, &lt, &rt),
        Some(common) => {
            let common = if common == DataType::Null { TEXT } else { common };
            (coerce_operand(left, &common, schema)?, coerce_operand(right, &common, schema)?)
        }
    };
    Ok(binary(comparable(left, schema)?, op, comparable(right, schema)?))
}

fn texts(op: Operator, left: Expr, right: Expr, schema: &DFSchema) -> Result<(Expr, Expr)> {
    let (lt, rt) = (type_of(&left, schema)?, type_of(&right, schema)?);
    let is_text = |t: &DataType| matches!(Class::of(t), Class::Text | Class::Unknown);
    if !is_text(&lt) || !is_text(&rt) {
        return no_operator(op, &lt, &rt);
    }
    Ok((coerce(left, &TEXT, schema)?, coerce(right, &TEXT, schema)?))
}

fn bitwise(op: Operator, left: Expr, right: Expr, schema: &DFSchema) -> Result<Expr> {
    let (lt, rt) = (type_of(&left, schema)?, type_of(&right, schema)?);
    let is_int = |t: &DataType| matches!(Class::of(t), Class::Int | Class::Unknown);
    if !is_int(&lt) || !is_int(&rt) || (lt == DataType::Null && rt == DataType::Null) {
        return no_operator(op, &lt, &rt);
    }
    let common = match common_pair(&lt, &rt) {
        Some(common) => common,
        None => return no_operator(op, &lt, &rt),
    };
    Ok(binary(coerce(left, &common, schema)?, op, coerce(right, &common, schema)?))
}

fn concatenation(left: Expr, right: Expr, schema: &DFSchema) -> Result<Expr> {
    let (lt, rt) = (type_of(&left, schema)?, type_of(&right, schema)?);
    match (Class::of(&lt), Class::of(&rt)) {
        (Class::Array, _) | (_, Class::Array) => overloads::concatenate_arrays(left, right, schema),
        (Class::Bytes, Class::Bytes | Class::Unknown) | (Class::Unknown, Class::Bytes) => {
            let bytes = |e: Expr| coerce(e, &DataType::BinaryView, schema);
            Ok(builtin("bytea_concat").call(vec![bytes(left)?, bytes(right)?]))
        }
        (l, r) if matches!(l, Class::Text | Class::Unknown) || matches!(r, Class::Text | Class::Unknown) => {
            let text = |e: Expr, t: &DataType| match Class::of(t) {
                Class::Text | Class::Unknown => coerce(e, &TEXT, schema),
                _ => explicit_cast(e, &TEXT, schema),
            };
            Ok(chains::applied(text(left, &lt)?, Operator::StringConcat, text(right, &rt)?))
        }
        _ => no_operator(Operator::StringConcat, &lt, &rt),
    }
}

/// `+ - * / %` over numbers, dates, times and intervals.
fn arithmetic(op: Operator, left: Expr, right: Expr, schema: &DFSchema) -> Result<Expr> {
    let (lt, rt) = (type_of(&left, schema)?, type_of(&right, schema)?);
    let (lc, rc) = (Class::of(&lt), Class::of(&rt));
    if lc.is_number() && rc.is_number() {
        return numbers(op, left, right, (&lt, &rt), schema);
    }
    match (lc, rc) {
        (Class::Unknown, Class::Unknown) => no_unique_operator(op),
        (Class::Unknown, rc) if rc.is_number() => {
            let left = coerce_operand(left, &rt, schema)?;
            let lt = type_of(&left, schema)?;
            numbers(op, left, right, (&lt, &rt), schema)
        }
        (lc, Class::Unknown) if lc.is_number() => {
            let right = coerce_operand(right, &lt, schema)?;
            let rt = type_of(&right, schema)?;
            numbers(op, left, right, (&lt, &rt), schema)
        }
        // The other side of `timestamp + 'x'` is an interval, of `timestamp - 'x'` a timestamp.
        (Class::Unknown, _) => {
            let other = if op == Operator::Plus { INTERVAL } else { rt.clone() };
            let left = coerce(left, &other, schema)?;
            times(op, left, right, (&other, &rt), schema)
        }
        (_, Class::Unknown) => {
            let other = match (op, lc) {
                (Operator::Minus, Class::Timestamp | Class::Timestamptz | Class::Date | Class::Time) => lt.clone(),
                (Operator::Multiply | Operator::Divide, Class::Interval) => DataType::Float64,
                _ => INTERVAL,
            };
            let right = coerce(right, &other, schema)?;
            times(op, left, right, (&lt, &other), schema)
        }
        _ => times(op, left, right, (&lt, &rt), schema),
    }
}

fn no_unique_operator<T>(op: Operator) -> Result<T> {
    let message = format!("operator is not unique: unknown {op} unknown");
    Err(external(
        Error::user(SqlState("42725"), message)
            .with_hint("Could not choose a best candidate operator. You might need to add explicit type casts."),
    ))
}

fn numbers(op: Operator, left: Expr, right: Expr, types: (&DataType, &DataType), schema: &DFSchema) -> Result<Expr> {
    let (lt, rt) = types;
    let Some(common) = common_number(lt, rt) else { return no_operator(op, lt, rt) };
    if op == Operator::Modulo && matches!(Class::of(&common), Class::Real | Class::Double) {
        return no_operator(op, lt, rt);
    }
    let (left, right) = if Class::of(&common) == Class::Numeric {
        // Decimals keep their own scales: the result's scale depends on both.
        (as_decimal(left, lt, schema)?, as_decimal(right, rt, schema)?)
    } else {
        (coerce(left, &common, schema)?, coerce(right, &common, schema)?)
    };
    Ok(chains::applied(left, op, right))
}

fn as_decimal(expr: Expr, data_type: &DataType, schema: &DFSchema) -> Result<Expr> {
    if Class::of(data_type) == Class::Int { coerce(expr, &decimal_of_int(data_type), schema) } else { Ok(expr) }
}

/// Arithmetic in which a date, a time or an interval takes part.
fn times(op: Operator, left: Expr, right: Expr, types: (&DataType, &DataType), schema: &DFSchema) -> Result<Expr> {
    use Class as C;
    let (lt, rt) = types;
    let (lc, rc) = (Class::of(lt), Class::of(rt));
    let day_number = |e: Expr| cast(e, DataType::Int32);
    match (op, lc, rc) {
        (Operator::Plus | Operator::Minus, C::Date, C::Int) if wider_int(rt, rt) != DataType::Int64 => {
            let days = coerce(right, &DataType::Int32, schema)?;
            Ok(cast(Arithmetic::of(op).call(vec![day_number(left), days]), DataType::Date32))
        }
        (Operator::Plus, C::Int, C::Date) => times(op, right, left, (rt, lt), schema),
        (Operator::Minus, C::Date, C::Date) => Ok(builtin("date_difference").call(vec![left, right])),
        (Operator::Plus | Operator::Minus, C::Date, C::Interval) => {
            Ok(binary(coerce(left, &TIMESTAMP, schema)?, op, right))
        }
        (Operator::Plus | Operator::Minus, C::Timestamp | C::Timestamptz, C::Interval) => Ok(binary(left, op, right)),
        (Operator::Plus, C::Interval, C::Date | C::Timestamp | C::Timestamptz | C::Time) => {
            times(op, right, left, (rt, lt), schema)
        }
        (Operator::Minus, l, r) if l.is_date_or_timestamp() && r.is_date_or_timestamp() => {
            let Some(common) = common_pair(lt, rt) else { return no_operator(op, lt, rt) };
            let (left, right) = (coerce(left, &common, schema)?, coerce(right, &common, schema)?);
            Ok(builtin("timestamp_difference").call(vec![left, right]))
        }
        (Operator::Plus, C::Date, C::Time) => Ok(builtin("date_at_time").call(vec![left, right])),
        (Operator::Plus, C::Time, C::Date) => Ok(builtin("date_at_time").call(vec![right, left])),
        (Operator::Plus, C::Time, C::Interval) => Ok(builtin("time_plus").call(vec![left, right])),
        (Operator::Minus, C::Time, C::Interval) => {
            let negated = builtin("interval_multiply").call(vec![right, lit(-1.0f64)]);
            Ok(builtin("time_plus").call(vec![left, negated]))
        }
        (Operator::Minus, C::Time, C::Time) => Ok(builtin("time_difference").call(vec![left, right])),
        (Operator::Plus, C::Interval, C::Interval) => Ok(builtin("interval_add").call(vec![left, right])),
        (Operator::Minus, C::Interval, C::Interval) => Ok(builtin("interval_subtract").call(vec![left, right])),
        (Operator::Multiply, C::Interval, r) if r.is_number() => {
            Ok(builtin("interval_multiply").call(vec![left, coerce(right, &DataType::Float64, schema)?]))
        }
        (Operator::Multiply, l, C::Interval) if l.is_number() => times(op, right, left, (rt, lt), schema),
        (Operator::Divide, C::Interval, r) if r.is_number() => {
            Ok(builtin("interval_divide").call(vec![left, coerce(right, &DataType::Float64, schema)?]))
        }
        _ => no_operator(op, lt, rt),
    }
}

/// `-x`
pub(crate) fn negative(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let data_type = type_of(&expr, schema)?;
    match Class::of(&data_type) {
        Class::Int => {
            let zero = coerce(lit(0i32), &data_type, schema)?;
            Ok(Arithmetic::of(Operator::Minus).call(vec![zero, expr]))
        }
        Class::Numeric => Ok(Expr::Negative(Box::new(expr))),
        Class::Real | Class::Double => Ok(negative_float(expr)),
        Class::Interval => Ok(builtin("interval_multiply").call(vec![expr, lit(-1.0f64)])),
        Class::Unknown => coerce(expr, &DataType::Float64, schema).map(negative_float),
        _ => {
            let message = format!("operator does not exist: - {}", type_name(&data_type));
            Err(external(Error::user(SqlState::UNDEFINED_FUNCTION, message).with_hint(
                "No operator matches the given name and argument type. You might need to add an explicit type cast.",
            )))
        }
    }
}

/// Of a NaN, that itself; a constant stays one.
fn negative_float(expr: Expr) -> Expr {
    if let Expr::Literal(value, metadata) = &expr
        && let Ok(negative) = value.arithmetic_negate()
        && !matches!(value, ScalarValue::Float64(Some(v)) if v.is_nan())
        && !matches!(value, ScalarValue::Float32(Some(v)) if v.is_nan())
    {
        return Expr::Literal(negative, metadata.clone());
    }
    builtin("negative_float").call(vec![expr])
}

/// `x LIKE y` and its kind.
pub(crate) fn like(like: Like, schema: &DFSchema) -> Result<Expr> {
    let op = match (like.negated, like.case_insensitive) {
        (false, false) => Operator::LikeMatch,
        (false, true) => Operator::ILikeMatch,
        (true, false) => Operator::NotLikeMatch,
        (true, true) => Operator::NotILikeMatch,
    };
    let (expr, pattern) = texts(op, *like.expr, *like.pattern, schema)?;
    Ok(Expr::Like(Like::new(like.negated, Box::new(expr), Box::new(pattern), like.escape_char, like.case_insensitive)))
}

/// `x BETWEEN a AND b` as the two comparisons that it stands for where their types differ.
pub(crate) fn between(expr: Expr, negated: bool, low: Expr, high: Expr, schema: &DFSchema) -> Result<Expr> {
    let types = types_of(&[expr.clone(), low.clone(), high.clone()], schema)?;
    let common = types.iter().try_fold(DataType::Null, |common, t| common_pair(&common, t));
    let is_interval = types.iter().any(|t| Class::of(t) == Class::Interval);
    if let Some(common) = common.filter(|_| !is_interval) {
        let common = if common == DataType::Null { TEXT } else { common };
        let [expr, low, high] = [expr, low, high].map(|e| coerce(e, &common, schema));
        return Ok(Expr::Between(datafusion::logical_expr::Between::new(
            Box::new(expr?),
            negated,
            Box::new(low?),
            Box::new(high?),
        )));
    }
    let above = comparison(Operator::GtEq, expr.clone(), low, schema)?;
    let below = comparison(Operator::LtEq, expr, high, schema)?;
    let both = binary(above, Operator::And, below);
    Ok(if negated { not(both) } else { both })
}

/// The types that a call's error names: `round(text, integer)`.
pub(crate) fn no_function<T>(name: &str, types: &[DataType]) -> Result<T> {
    let names: Vec<String> = types.iter().map(type_name).collect();
    let message = format!("function {name}({}) does not exist", names.join(", "));
    Err(external(Error::user(SqlState::UNDEFINED_FUNCTION, message).with_hint(
        "No function matches the given name and argument types. You might need to add explicit type casts.",
    )))
}
