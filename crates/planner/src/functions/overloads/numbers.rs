//! Functions over numbers whose result depends on the argument's type.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, Operator};

use super::{as_decimal, datafusion_function, resolve};
use crate::functions::builtin;
use crate::typing::calls::{no_function, resolve_call};
use crate::typing::cast::explicit_cast;
use crate::typing::deferred::Call;
use crate::typing::types::{Class, NUMERIC, Result, coerce, coerce_operand};

/// Functions over numbers whose result depends on the argument's type.
pub(super) fn numeric_function(
    name: &str,
    args: &[Expr],
    types: &[DataType],
    schema: &DFSchema,
) -> Result<Option<Expr>> {
    let class = types.first().map_or(Class::Other, Class::of);
    let is_numeric = matches!(class, Class::Numeric);
    let is_float = matches!(class, Class::Real | Class::Double | Class::Int | Class::Unknown);
    let arg = |i: usize| args[i].clone();
    let float = |i: usize| coerce(arg(i), &DataType::Float64, schema);
    let expr = match (name, args.len()) {
        ("mod", 2) => resolve_call(&Call::Operator(Operator::Modulo), args.to_vec(), schema)?,
        ("div", 2) => {
            let quotient = resolve_call(&Call::Operator(Operator::Divide), args.to_vec(), schema)?;
            let truncated = resolve("trunc", vec![quotient], schema)?;
            explicit_cast(truncated, &DataType::Decimal128(38, 0), schema)?
        }
        ("abs", 1) if class.is_number() => datafusion_function("abs")?.call(args.to_vec()),
        ("abs", 1) if class == Class::Unknown => datafusion_function("abs")?.call(vec![float(0)?]),
        ("sign", 1) if class.is_number() => {
            let sign = datafusion_function("signum")?.call(vec![float(0)?]);
            if is_numeric { explicit_cast(sign, &DataType::Decimal128(38, 0), schema)? } else { sign }
        }
        ("round", 1) if is_numeric => builtin("round_whole").call(args.to_vec()),
        ("trunc", 1) if is_numeric => builtin("trunc_whole").call(args.to_vec()),
        ("ceil" | "ceiling", 1) if is_numeric => builtin("ceil_numeric").call(args.to_vec()),
        ("floor", 1) if is_numeric => builtin("floor_numeric").call(args.to_vec()),
        ("round", 1) if is_float => builtin("round_float").call(vec![float(0)?]),
        ("trunc", 1) if is_float => builtin("trunc_float").call(vec![float(0)?]),
        ("ceil" | "ceiling", 1) if is_float => datafusion_function("ceil")?.call(vec![float(0)?]),
        ("floor", 1) if is_float => datafusion_function("floor")?.call(vec![float(0)?]),
        ("round" | "trunc", 2) if matches!(class, Class::Numeric | Class::Int | Class::Unknown) => {
            return round_to(name, args, types, schema);
        }
        _ => return Ok(None),
    };
    Ok(Some(expr))
}

/// `round(numeric, digits)`: with constant digits the result prints that many.
fn round_to(name: &str, args: &[Expr], types: &[DataType], schema: &DFSchema) -> Result<Option<Expr>> {
    if !matches!(Class::of(&types[1]), Class::Int | Class::Unknown) {
        return Ok(None);
    }
    let value = match Class::of(&types[0]) {
        Class::Numeric => args[0].clone(),
        Class::Int => as_decimal(args[0].clone(), schema)?,
        _ => coerce(args[0].clone(), &NUMERIC, schema)?,
    };
    let digits = coerce(args[1].clone(), &DataType::Int64, schema)?;
    let constant = match &digits {
        Expr::Literal(ScalarValue::Int64(Some(n)), _) => Some((*n).clamp(0, 16) as i8),
        _ => None,
    };
    let function = if name == "round" { "round_numeric" } else { "trunc_numeric" };
    let rounded = builtin(function).call(vec![value, digits]);
    Ok(Some(match constant {
        Some(scale) => explicit_cast(rounded, &DataType::Decimal128(38, scale), schema)?,
        None => rounded,
    }))
}

/// Exact if all bounds are, else over doubles.
pub(super) fn width_bucket(args: &[Expr], types: &[DataType], schema: &DFSchema) -> Result<Expr> {
    let classes: Vec<Class> = types[..3].iter().map(Class::of).collect();
    let is_exact =
        classes.contains(&Class::Numeric) && !classes.iter().any(|c| matches!(c, Class::Real | Class::Double));
    let known = |c: &Class| c.is_number() || *c == Class::Unknown;
    if !classes.iter().all(known) || !matches!(Class::of(&types[3]), Class::Int | Class::Unknown) {
        return no_function("width_bucket", types);
    }
    let bound = |arg: &Expr| match is_exact {
        true => coerce_operand(as_decimal(arg.clone(), schema)?, &NUMERIC, schema),
        false => coerce(arg.clone(), &DataType::Float64, schema),
    };
    let mut all = args[..3].iter().map(bound).collect::<Result<Vec<_>>>()?;
    all.push(coerce(args[3].clone(), &DataType::Int64, schema)?);
    Ok(builtin(if is_exact { "width_bucket_numeric" } else { "width_bucket_double" }).call(all))
}
