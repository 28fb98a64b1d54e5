//! Resolving one expression.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, i256};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{
    AggregateFunction, AggregateFunctionParams, FieldMetadata, InList, InSubquery, Placeholder, ScalarFunction,
    SetComparison, Sort, WindowFunction, WindowFunctionParams,
};
use datafusion::logical_expr::utils::COUNT_STAR_EXPANSION;
use datafusion::logical_expr::{
    BinaryExpr, Case, Cast, Expr, LogicalPlanBuilder, Operator, Subquery, WindowFrameBound, WindowFrameUnits,
    WindowFunctionDefinition, WindowUDF, cast, not,
};
use millstream_types::SqlState;
use millstream_types::sql_type::NUMERIC_PRECISION;

use super::calls::{between, canonically_typed, condition, like, negative, no_function, resolve_call};
use super::cast::explicit_cast;
use super::deferred::{Call, Deferred};
use super::input_order::is_order_sensitive;
use super::single_row;
use super::types::{
    Class, INTERVAL, NUMERIC, Result, TEXT, canonical, coerce, common_type, is_unknown, parse_exactly, type_of,
    types_of, user_error,
};
use crate::binder::external;
use crate::equal_keys::comparable;
use crate::functions::builtin;
use crate::functions::by_row::ByRow;
use crate::functions::equal_key;
use crate::functions::excluding::Excluding;
use crate::functions::quantified::is_pattern;
use crate::functions::row;
use crate::interrupt;

/// The expression with every operator, function and constant as Postgres understands it. Resolving twice changes nothing.
pub(crate) fn resolve(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let one = |expr| {
        interrupt::check()?;
        Ok(Transformed::yes(resolve_one(expr, schema)?))
    };
    expr.transform_up(one).data()
}

/// An expression whose operands are resolved.
fn resolve_one(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    match expr {
        Expr::Literal(value, metadata) => literal(value, metadata),
        Expr::Placeholder(Placeholder { id, field: Some(field) }) => {
            let field = Field::new("", canonical(field.data_type()), true);
            Ok(Expr::Placeholder(Placeholder { id, field: Some(Arc::new(field)) }))
        }
        Expr::ScalarFunction(function) => scalar_function(function, schema),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            resolve_call(&Call::Operator(op), vec![*left, *right], schema)
        }
        Expr::Cast(Cast { expr, field }) => explicit_cast(*expr, &canonical(field.data_type()), schema),
        Expr::Negative(inner) => negative(*inner, schema),
        Expr::Not(inner) => Ok(not(condition(*inner, "NOT", schema)?)),
        Expr::IsTrue(e) => Ok(Expr::IsTrue(Box::new(condition(*e, "IS TRUE", schema)?))),
        Expr::IsNotTrue(e) => Ok(Expr::IsNotTrue(Box::new(condition(*e, "IS NOT TRUE", schema)?))),
        Expr::IsFalse(e) => Ok(Expr::IsFalse(Box::new(condition(*e, "IS FALSE", schema)?))),
        Expr::IsNotFalse(e) => Ok(Expr::IsNotFalse(Box::new(condition(*e, "IS NOT FALSE", schema)?))),
        Expr::Like(inner) => like(inner, schema),
        Expr::Between(b) => between(*b.expr, b.negated, *b.low, *b.high, schema),
        Expr::InList(list) => in_list(list, schema),
        Expr::InSubquery(inner) => in_subquery(inner, schema),
        Expr::SetComparison(inner) => set_comparison(inner, schema),
        Expr::ScalarSubquery(subquery) => single_row::checked(subquery),
        Expr::Case(case) => resolve_case(case, schema),
        Expr::AggregateFunction(function) => aggregate(function, schema),
        Expr::WindowFunction(function) => window(*function, schema),
        other => Ok(other),
    }
}

/// Integers are of the smallest type of `integer`, `bigint`, `numeric` that holds them; texts stay unknown.
fn literal(value: ScalarValue, metadata: Option<FieldMetadata>) -> Result<Expr> {
    let value = match value {
        ScalarValue::Int64(Some(n)) => {
            i32::try_from(n).map_or(ScalarValue::Int64(Some(n)), |n| ScalarValue::Int32(Some(n)))
        }
        ScalarValue::UInt64(Some(n)) => ScalarValue::Decimal128(Some(i128::from(n)), 20, 0),
        ScalarValue::Decimal256(Some(n), _, scale) => narrowed(n, scale)?,
        ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) => ScalarValue::Utf8View(text),
        other => other,
    };
    Ok(Expr::Literal(value, metadata))
}

/// A decimal with as many of its digits after the point, the last one rounded, as 38 digits leave room for.
fn narrowed(value: i256, scale: i8) -> Result<ScalarValue> {
    let max = i256::from_i128(10i128.pow(u32::from(NUMERIC_PRECISION)));
    let ten = i256::from_i128(10);
    let (mut value, mut scale) = (value, scale);
    while value.wrapping_abs() >= max {
        let mut last = i256::ZERO;
        while value.wrapping_abs() >= max {
            if scale == 0 {
                return user_error(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value overflows numeric format");
            }
            (last, value) = (value.wrapping_rem(ten), value.wrapping_div(ten));
            scale -= 1;
        }
        // The digit that was dropped last decides; it has the sign of the value.
        value = value.wrapping_add(last.wrapping_div(i256::from_i128(5)));
    }
    Ok(ScalarValue::Decimal128(value.to_i128(), NUMERIC_PRECISION, scale))
}

fn scalar_function(function: ScalarFunction, schema: &DFSchema) -> Result<Expr> {
    if let Some(deferred) = Deferred::of(&function) {
        let call = deferred.call.clone();
        return canonically_typed(resolve_call(&call, function.args, schema)?, schema);
    }
    let name = function.func.name().to_string();
    let types = types_of(&function.args, schema)?;
    canonically_typed(Expr::ScalarFunction(function), schema)
        .or_else(|error| if is_signature_error(&error) { no_function(&name, &types) } else { Err(error) })
}

/// Whether DataFusion says that a function has no such arguments.
fn is_signature_error(error: &datafusion::common::DataFusionError) -> bool {
    let message = error.to_string();
    message.contains("No function matches")
        || message.contains("failed to match any signature")
        || message.contains("coerce")
}

fn in_list(list: InList, schema: &DFSchema) -> Result<Expr> {
    let InList { expr, list, negated } = list;
    let mut all = vec![*expr];
    all.extend(list);
    let common = match common_type(&types_of(&all, schema)?, "IN") {
        Ok(common) => common,
        // Some pair has no `=`: the comparison says which.
        Err(error) => {
            let (first, rest) = (&all[0], &all[1..]);
            for item in rest {
                resolve_call(&Call::Operator(Operator::Eq), vec![first.clone(), item.clone()], schema)?;
            }
            return Err(error);
        }
    };
    let key = |e: Expr| comparable(coerce(e, &common, schema)?, schema);
    let mut all = all.into_iter().map(key).collect::<Result<Vec<_>>>()?;
    let expr = Box::new(all.remove(0));
    Ok(Expr::InList(InList { expr, list: all, negated }))
}

fn in_subquery(inner: InSubquery, schema: &DFSchema) -> Result<Expr> {
    let InSubquery { expr, subquery, negated } = inner;
    let (expr, subquery) = compared(Operator::Eq, *expr, subquery, schema)?;
    Ok(Expr::InSubquery(InSubquery { expr: Box::new(expr), subquery, negated }))
}

fn set_comparison(inner: SetComparison, schema: &DFSchema) -> Result<Expr> {
    let SetComparison { expr, subquery, op, quantifier } = inner;
    let (expr, subquery) = compared(op, *expr, subquery, schema)?;
    Ok(Expr::SetComparison(SetComparison::new(Box::new(expr), subquery, op, quantifier)))
}

/// A value, or a row of values, and a subquery, of the types in which they are compared.
fn compared(op: Operator, expr: Expr, subquery: Subquery, schema: &DFSchema) -> Result<(Expr, Subquery)> {
    let (input, values) = row::rows_of(&subquery.subquery);
    let is_row = row::is_row(&expr);
    let operands = row::values_of(expr);
    if operands.len() != values.len() {
        let which = if operands.len() > values.len() { "few" } else { "many" };
        return user_error(SqlState::SYNTAX_ERROR, format!("subquery has too {which} columns"));
    }
    let pairs = operands
        .into_iter()
        .zip(&values)
        .map(|(operand, value)| compared_pair(op, operand, value.clone(), (schema, input.schema())));
    let (mut operands, new): (Vec<Expr>, Vec<Expr>) = pairs.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let (expr, new) = match is_row {
        true => (row::row(operands), vec![row::row(new)]),
        false if new == values => return Ok((operands.remove(0), subquery)),
        false => (operands.remove(0), new),
    };
    let plan = LogicalPlanBuilder::from(input.as_ref().clone()).project(new)?.build()?;
    Ok((expr, subquery.with_plan(Arc::new(plan))))
}

/// The left side takes the type of the subquery's column if it is a constant; else both get the type in which they are
/// compared.
fn compared_pair(op: Operator, left: Expr, value: Expr, schemas: (&DFSchema, &DFSchema)) -> Result<(Expr, Expr)> {
    let (schema, value_schema) = schemas;
    let column = type_of(&value, value_schema)?;
    let left = if is_unknown(&left) && column != DataType::Null { coerce(left, &column, schema)? } else { left };
    let data_type = type_of(&left, schema)?;
    let is_text = |t: &DataType| matches!(Class::of(t), Class::Text | Class::Unknown);
    let common = match is_pattern(op) {
        true => (is_text(&data_type) && is_text(&column)).then_some(TEXT),
        false => super::types::common_pair(&data_type, &column),
    };
    match common {
        // Two nulls of no type.
        Some(DataType::Null) => Ok((left, value)),
        Some(common) => {
            let left = comparable(coerce(left, &common, schema)?, schema)?;
            Ok((left, comparable(coerce(value, &common, value_schema)?, value_schema)?))
        }
        None => {
            let dummy = Expr::Cast(Cast::new(Box::new(Expr::Literal(ScalarValue::Boolean(None), None)), column));
            resolve_call(&Call::Operator(op), vec![left.clone(), dummy], schema)?;
            Ok((left, value))
        }
    }
}

fn resolve_case(case: Case, schema: &DFSchema) -> Result<Expr> {
    let Case { expr, when_then_expr, else_expr } = case;
    let (whens, thens): (Vec<Expr>, Vec<Expr>) = when_then_expr.into_iter().map(|(w, t)| (*w, *t)).unzip();
    let mut results = thens;
    let has_else = else_expr.is_some();
    results.extend(else_expr.map(|e| *e));
    let common = common_type(&types_of(&results, schema)?, "CASE")?;
    let mut results = results.into_iter().map(|e| coerce(e, &common, schema)).collect::<Result<Vec<_>>>()?;
    let else_expr = if has_else { results.pop().map(Box::new) } else { None };
    let (expr, whens) = match expr {
        None => {
            let whens = whens.into_iter().map(|w| condition(w, "CASE/WHEN", schema)).collect::<Result<Vec<_>>>()?;
            (None, whens)
        }
        Some(subject) => {
            let mut all = vec![*subject];
            all.extend(whens);
            let common = common_type(&types_of(&all, schema)?, "CASE/WHEN")?;
            let mut all = all.into_iter().map(|e| coerce(e, &common, schema)).collect::<Result<Vec<_>>>()?;
            let subject = all.remove(0);
            (Some(Box::new(subject)), all)
        }
    };
    let when_then_expr = whens.into_iter().zip(results).map(|(w, t)| (Box::new(w), Box::new(t))).collect();
    Ok(Expr::Case(Case { expr, when_then_expr, else_expr }))
}

/// Arguments of an aggregate: `sum(bigint)` adds up in `numeric`, constants get types.
fn aggregate_args(name: &str, mut args: Vec<Expr>, schema: &DFSchema) -> Result<Vec<Expr>> {
    let types = types_of(&args, schema)?;
    let class = types.first().map_or(Class::Other, Class::of);
    match name {
        "sum" if types.first() == Some(&DataType::Int64) => {
            let arg = args.remove(0);
            args.insert(0, cast(arg, DataType::Decimal128(38, 0)));
        }
        "sum" if !class.is_number() && class != Class::Interval => return no_function(name, &types),
        "bool_and" | "bool_or" if class != Class::Bool && class != Class::Unknown => return no_function(name, &types),
        "array_agg" if class == Class::Array => args = vec![builtin("accumulated_array").call(args)],
        "string_agg" if !matches!(class, Class::Text | Class::Unknown | Class::Bytes) => {
            return no_function(name, &types);
        }
        "stddev" | "stddev_pop" | "var" | "var_pop" if !class.is_number() => return no_function(name, &types),
        "percentile_cont" if class == Class::Interval && args.len() == 2 => {
            args[1] = coerce(args[1].clone(), &DataType::Float64, schema)?;
        }
        "corr" | "covar_pop" | "covar_samp" | "percentile_cont" => {
            for arg in &mut args {
                *arg = coerce(arg.clone(), &DataType::Float64, schema)?;
            }
        }
        name if name.starts_with("regr_") => {
            for arg in &mut args {
                *arg = coerce(arg.clone(), &DataType::Float64, schema)?;
            }
        }
        _ => {}
    }
    args.into_iter().map(|a| if is_unknown(&a) { coerce(a, &TEXT, schema) } else { Ok(a) }).collect()
}

fn aggregate(function: AggregateFunction, schema: &DFSchema) -> Result<Expr> {
    let AggregateFunction { func, params } = function;
    let AggregateFunctionParams { args, distinct, filter, order_by, null_treatment } = params;
    let args = match (func.name(), args.as_slice()) {
        // count(*) counts the constant by which DataFusion knows it.
        ("count", [Expr::Literal(ScalarValue::Int32(Some(1)), _)]) => vec![Expr::Literal(COUNT_STAR_EXPANSION, None)],
        _ => aggregate_args(func.name(), args, schema)?,
    };
    let filter = match filter {
        Some(filter) => Some(Box::new(condition(*filter, "FILTER", schema)?)),
        None => None,
    };
    let order_by = completed_order(func.name(), &args, order_by);
    let params = AggregateFunctionParams { args, distinct, filter, order_by, null_treatment };
    Ok(Expr::AggregateFunction(AggregateFunction { func, params }))
}

/// Where SQL leaves the order of an aggregate's rows open, its arguments complete it: rows that are still equal then make
/// no difference to it.
fn completed_order(name: &str, args: &[Expr], mut order_by: Vec<Sort>) -> Vec<Sort> {
    if is_order_sensitive(name) {
        for arg in args.iter().filter(|a| !matches!(a, Expr::Literal(..))) {
            if order_by.iter().all(|sort| sort.expr != *arg) {
                order_by.push(Sort::new(arg.clone(), true, false));
            }
        }
    }
    order_by
}

fn window(function: WindowFunction, schema: &DFSchema) -> Result<Expr> {
    let WindowFunction { fun, params } = function;
    let fun = with_wider_default(fun, &params.args, schema)?;
    let args = match &fun {
        WindowFunctionDefinition::AggregateUDF(udaf) => aggregate_args(udaf.name(), params.args, schema)?,
        WindowFunctionDefinition::WindowUDF(udwf) if Excluding::of(udwf).is_some() => {
            excluding_args(udwf, params.args, schema)?
        }
        WindowFunctionDefinition::WindowUDF(_) => {
            let mut args = params.args;
            if matches!(&fun, WindowFunctionDefinition::WindowUDF(udwf) if ByRow::is(udwf)) {
                args = by_row_args(fun.name(), args, schema)?;
            }
            // The default of lag and lead is of the value's type.
            if matches!(fun.name(), "lag" | "lead")
                && args.len() == 3
                && let Ok(value) = type_of(&args[0], schema)
                && value != DataType::Null
            {
                let default = args.remove(2);
                args.push(coerce(default, &value, schema)?);
            }
            if fun.name() == "ntile" {
                check_ntile(&args)?;
            }
            args
        }
    };
    let filter = match params.filter {
        Some(filter) => Some(Box::new(condition(*filter, "FILTER", schema)?)),
        None => None,
    };
    let params = interval_range(WindowFunctionParams { args, filter, ..params }, schema)?;
    Ok(Expr::WindowFunction(Box::new(WindowFunction { fun, params })))
}

/// `lag` and `lead` whose default is of a wider type than the value give that type; DataFusion's give the value's.
fn with_wider_default(
    fun: WindowFunctionDefinition,
    args: &[Expr],
    schema: &DFSchema,
) -> Result<WindowFunctionDefinition> {
    let [value, _, default] = args else { return Ok(fun) };
    let Some(by_row) = ByRow::of_name(fun.name()) else { return Ok(fun) };
    let (value, default) = (type_of(value, schema)?, type_of(default, schema)?);
    let is_wider = value != DataType::Null && super::types::common_pair(&value, &default).as_ref() != Some(&value);
    Ok(if is_wider { WindowFunctionDefinition::WindowUDF(by_row) } else { fun })
}

/// Numbers as bigint, and the default of `lag` and `lead` of one type with the value.
fn by_row_args(name: &str, mut args: Vec<Expr>, schema: &DFSchema) -> Result<Vec<Expr>> {
    let types = types_of(&args, schema)?;
    let most = match name {
        "ntile" => 1,
        "nth_value" => 2,
        _ => 3,
    };
    let number = usize::from(name != "ntile");
    let fits = types.get(number).is_some_and(|t| {
        matches!(Class::of(t), Class::Unknown | Class::Int) && *t != DataType::Int64 && types.len() <= most
    });
    if !fits {
        return no_function(name, &types);
    }
    args[number] = coerce(args[number].clone(), &DataType::Int64, schema)?;
    if let Some(value) = types.first().filter(|_| name != "ntile") {
        let common = match types.get(2) {
            None => super::types::common_pair(value, &DataType::Null),
            Some(default) => super::types::common_pair(value, default),
        };
        let Some(common) = common else { return no_function(name, &types) };
        let common = match (Class::of(value), Class::of(&common)) {
            (_, Class::Unknown) => TEXT,
            // An integer beside a constant has no more digits than it had.
            (Class::Int, Class::Numeric) => NUMERIC,
            _ => common,
        };
        for i in [0, 2].into_iter().filter(|i| *i < types.len()) {
            args[i] = coerce(args[i].clone(), &common, schema)?;
        }
    }
    Ok(args)
}

/// RANGE over intervals is one over the numbers that order them; DataFusion has none over intervals.
fn interval_range(mut params: WindowFunctionParams, schema: &DFSchema) -> Result<WindowFunctionParams> {
    let frame = &mut params.window_frame;
    let has_offset = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::Preceding(offset) | WindowFrameBound::Following(offset) => !offset.is_null(),
        WindowFrameBound::CurrentRow => false,
    };
    let has_offset = has_offset(&frame.start_bound) || has_offset(&frame.end_bound);
    let [sort] = params.order_by.as_mut_slice() else { return Ok(params) };
    if frame.units != WindowFrameUnits::Range || !has_offset || !is_interval(&sort.expr, schema)? {
        return Ok(params);
    }
    sort.expr = builtin("equal_key").call(vec![sort.expr.clone()]);
    for bound in [&mut frame.start_bound, &mut frame.end_bound] {
        if let WindowFrameBound::Preceding(offset) | WindowFrameBound::Following(offset) = bound {
            *offset = interval_number(offset)?;
        }
    }
    Ok(params)
}

fn is_interval(expr: &Expr, schema: &DFSchema) -> Result<bool> {
    Ok(Class::of(&type_of(expr, schema)?) == Class::Interval)
}

/// The number by which an interval is ordered; a null of it stays one.
fn interval_number(interval: &ScalarValue) -> Result<ScalarValue> {
    let interval = match interval.try_as_str().flatten() {
        Some(text) => parse_exactly(text, &INTERVAL)?,
        None => interval.cast_to(&INTERVAL)?,
    };
    equal_key::key(&interval.to_array()?).map_err(external).and_then(|keys| ScalarValue::try_from_array(&keys, 0))
}

/// Arguments of an aggregate, then an order, then a condition.
fn excluding_args(udwf: &WindowUDF, mut args: Vec<Expr>, schema: &DFSchema) -> Result<Vec<Expr>> {
    let Some(excluding) = Excluding::of(udwf) else { return Ok(args) };
    let mut rest = args.split_off(excluding.n_args());
    if excluding.has_filter()
        && let Some(filter) = rest.pop()
    {
        rest.push(condition(filter, "FILTER", schema)?);
    }
    let mut all = aggregate_args(excluding.aggregate(), args, schema)?;
    all.extend(rest);
    Ok(all)
}

/// The number of buckets is a constant, as far as it goes.
fn check_ntile(args: &[Expr]) -> Result<()> {
    let number = match args.first() {
        Some(Expr::Literal(value, _)) => value.cast_to(&DataType::Int64)?,
        _ => return Ok(()),
    };
    match number {
        ScalarValue::Int64(Some(..=0)) => user_error(SqlState("22014"), "argument of ntile must be greater than zero"),
        _ => Ok(()),
    }
}

/// The type of `avg` over sums of a type.
pub(crate) fn average_type(sum: &DataType) -> Option<DataType> {
    match Class::of(sum) {
        Class::Int | Class::Numeric => Some(NUMERIC),
        Class::Real | Class::Double => Some(DataType::Float64),
        _ => None,
    }
}
