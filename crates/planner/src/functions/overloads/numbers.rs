//! Functions over numbers whose result depends on the argument's type.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, Operator};

use super::{as_decimal, datafusion_function, resolve};
use crate::functions::builtin;
use crate::typing::calls::{no_function, resolve_call};
use crate::typing::cast::explicit_cast;
use crate::typing::deferred::Call;
use crate::typing::types::{Class, NUMERIC, Result, coerce, coerce_operand, common_pair};

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
        ("mod" | "div", 2) if types.iter().any(|t| matches!(Class::of(t), Class::Real | Class::Double)) => {
            return no_function(name, types);
        }
        ("gcd" | "lcm", 2) => return of_divisors(name, args, types, schema).map(Some),
        ("mod", 2) => resolve_call(&Call::Operator(Operator::Modulo), args.to_vec(), schema)?,
        ("div", 2) => {
            let quotient = resolve_call(&Call::Operator(Operator::Divide), args.to_vec(), schema)?;
            let truncated = resolve("trunc", vec![quotient], schema)?;
            explicit_cast(truncated, &DataType::Decimal128(38, 0), schema)?
        }
        ("abs", 1) if class.is_number() => datafusion_function("abs")?.call(args.to_vec()),
        ("abs", 1) if class == Class::Unknown => datafusion_function("abs")?.call(vec![float(0)?]),
        ("sign", 1) if class.is_number() => {
            let sign = builtin("sign_float").call(vec![float(0)?]);
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

/// Functions that are exact over a numeric, unless a float stands beside it, and over doubles else.
pub(super) fn exact_function(name: &str, args: &[Expr], types: &[DataType], schema: &DFSchema) -> Result<Option<Expr>> {
    let classes: Vec<Class> = types.iter().map(Class::of).collect();
    let has = |c: &[Class]| classes.iter().any(|class| c.contains(class));
    let has_float = has(&[Class::Real, Class::Double]);
    if !classes.iter().all(|c| c.is_number() || *c == Class::Unknown) {
        return Ok(None);
    }
    let function = match (name, args.len()) {
        // There is no other logarithm to a base.
        ("log", 2) if has_float => return no_function(name, types),
        ("log", 2) => "log_numeric",
        _ if has_float || !has(&[Class::Numeric]) => return Ok(None),
        ("exp", 1) => "exp_numeric",
        ("ln", 1) => "ln_numeric",
        ("log" | "log10", 1) => "log10_numeric",
        ("sqrt", 1) => "sqrt_numeric",
        ("power" | "pow", 2) => "power_numeric",
        _ => return Ok(None),
    };
    let number = |arg: &Expr| coerce_operand(as_decimal(arg.clone(), schema)?, &NUMERIC, schema);
    let number = |(arg, class): (&Expr, &Class)| match class {
        Class::Numeric => Ok(arg.clone()),
        _ => number(arg),
    };
    let args = args.iter().zip(&classes).map(number).collect::<Result<Vec<_>>>()?;
    Ok(Some(builtin(function).call(args)))
}

/// `gcd` and `lcm`, of the type that both arguments have in common.
fn of_divisors(name: &str, args: &[Expr], types: &[DataType], schema: &DFSchema) -> Result<Expr> {
    let common = match common_pair(&types[0], &types[1]) {
        Some(common) if matches!(Class::of(&common), Class::Int | Class::Numeric) => common,
        _ => return no_function(name, types),
    };
    // There is none over smallint.
    let common = if common == DataType::Int16 { DataType::Int32 } else { common };
    let is_whole = Class::of(&common) == Class::Int;
    let decimal = if is_whole { DataType::Decimal128(38, 0) } else { common.clone() };
    let args = args.iter().map(|a| explicit_cast(coerce(a.clone(), &common, schema)?, &decimal, schema));
    let function = if name == "gcd" { "gcd_numeric" } else { "lcm_numeric" };
    let found = builtin(function).call(args.collect::<Result<Vec<_>>>()?);
    if is_whole { explicit_cast(found, &common, schema) } else { Ok(found) }
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
