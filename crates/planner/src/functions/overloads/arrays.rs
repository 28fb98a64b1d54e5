//! Functions over arrays.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Case, Expr, Operator, cast, lit, not};
use millstream_types::{Error, SqlState};

use super::super::quantified::{self, Quantifier, quantified};
use super::super::regexp::group_of_match;
use super::{canonical_call, datafusion_function, nullif, resolve};
use crate::binder::external;
use crate::equal_keys::comparable;
use crate::functions::builtin;
use crate::typing::calls::{no_function, resolve_call};
use crate::typing::cast::explicit_cast;
use crate::typing::deferred::Call;
use crate::typing::types::{
    Class, Result, TEXT, array_of, coerce, common_pair, common_type, element_type, is_unknown, type_of,
};

/// An argument as an array: a constant is one of the given elements.
fn as_array(expr: &Expr, element: &DataType, schema: &DFSchema) -> Result<Expr> {
    let data_type = type_of(expr, schema)?;
    match element_type(&data_type) {
        Some(own) if own == *element => Ok(expr.clone()),
        Some(_) => Ok(cast(expr.clone(), array_of(element))),
        None => coerce(expr.clone(), &array_of(element), schema),
    }
}

/// `||` where one side is an array.
pub(crate) fn concatenate_arrays(left: Expr, right: Expr, schema: &DFSchema) -> Result<Expr> {
    let (lt, rt) = (type_of(&left, schema)?, type_of(&right, schema)?);
    match (element_type(&lt), element_type(&rt)) {
        (Some(_), Some(_)) => resolve("array_cat", vec![left, right], schema),
        (Some(_), None) if rt == DataType::Null => resolve("array_cat", vec![left, right], schema),
        (None, Some(_)) if lt == DataType::Null => resolve("array_cat", vec![left, right], schema),
        (Some(_), None) => resolve("array_append", vec![left, right], schema),
        _ => resolve("array_prepend", vec![left, right], schema),
    }
}

pub(super) fn array_function(name: &str, args: &[Expr], types: &[DataType], schema: &DFSchema) -> Result<Option<Expr>> {
    let element = |i: usize| types.get(i).and_then(element_type);
    let call = |function: &str, args: Vec<Expr>| canonical_call(function, args, schema).map(Some);
    let int = |i: usize| coerce(args[i].clone(), &DataType::Int64, schema);
    let as_int4 = |e: Option<Expr>| Ok(e.map(|e| cast(e, DataType::Int32)));
    let element_first = element(0);
    match (name, args.len()) {
        ("array", 0) => {
            let message = "cannot determine type of empty array";
            Err(external(
                Error::user(SqlState::INDETERMINATE_DATATYPE, message)
                    .with_hint("Explicitly cast to the desired type, for example ARRAY[]::integer[]."),
            ))
        }
        ("array", _) => {
            let common = common_type(types, "ARRAY")?;
            let items = args.iter().map(|a| coerce(a.clone(), &common, schema)).collect::<Result<Vec<_>>>()?;
            call("make_array", items)
        }
        ("array_element", 2) if element_first.is_some() => match group_of_match(&args[0], &int(1)?) {
            Some(group) => Ok(Some(group)),
            None => {
                let index = int(1)?;
                let element = call("array_element", vec![args[0].clone(), index.clone()])?;
                Ok(element.map(|element| where_positive(element, index)))
            }
        },
        ("array_slice", 3) if element_first.is_some() => {
            // Of a bound that is null nothing is known.
            let at_least = |i: usize, least: i64| {
                let bound = int(i)?;
                let when_then_expr = vec![(Box::new(bound.clone().lt(lit(least))), Box::new(lit(least)))];
                Ok(Expr::Case(Case { expr: None, when_then_expr, else_expr: Some(Box::new(bound)) }))
            };
            let (from, to): (Result<Expr>, Result<Expr>) = (at_least(1, 1), at_least(2, 0));
            call("array_slice", vec![args[0].clone(), from?, to?])
        }
        ("array_length" | "array_upper", 2) if element_first.is_some() => {
            // Null for an empty array, as in Postgres, where DataFusion says 0.
            let length = datafusion_function("array_length")?.call(vec![args[0].clone(), int(1)?]);
            let length = cast(length, DataType::Int32);
            nullif(&[length, lit(0i32)], &[DataType::Int32, DataType::Int32], schema).map(Some)
        }
        ("array_lower", 2) if element_first.is_some() => {
            let length = resolve("array_length", args.to_vec(), schema)?;
            let none = Expr::IsNull(Box::new(length));
            Ok(Some(Expr::Case(Case {
                expr: None,
                when_then_expr: vec![(Box::new(not(none)), Box::new(lit(1i32)))],
                else_expr: None,
            })))
        }
        ("cardinality", 1) if element_first.is_some() => as_int4(call("cardinality", args.to_vec())?),
        ("array_ndims", 1) if element_first.is_some() => as_int4(call("array_ndims", args.to_vec())?),
        ("array_to_string", 2 | 3) if element_first.is_some() => {
            let texts = explicit_cast(args[0].clone(), &array_of(&TEXT), schema)?;
            let mut all = vec![texts];
            for arg in &args[1..] {
                all.push(coerce(arg.clone(), &TEXT, schema)?);
            }
            call("array_to_string", all)
        }
        ("array_cat" | "array_concat" | "array_has_all" | "array_has_any", 2) => {
            let Some(common) = common_element(types, 0, 1, true) else { return no_function(name, types) };
            let function = if name == "array_cat" { "array_concat" } else { name };
            call(function, vec![as_array(&args[0], &common, schema)?, as_array(&args[1], &common, schema)?])
        }
        ("array_append" | "array_position" | "array_remove" | "array_has", 2) => {
            let Some(common) = common_element(types, 0, 1, false) else { return no_function(name, types) };
            let function = if name == "array_remove" { "array_without" } else { name };
            let found =
                call(function, vec![as_array(&args[0], &common, schema)?, coerce(args[1].clone(), &common, schema)?])?;
            if name == "array_position" { as_int4(found) } else { Ok(found) }
        }
        ("array_prepend", 2) => {
            let Some(common) = common_element(types, 1, 0, false) else { return no_function(name, types) };
            call("array_prepend", vec![coerce(args[0].clone(), &common, schema)?, as_array(&args[1], &common, schema)?])
        }
        (_, 2) if let Some((quantifier, op)) = quantified::of_name(name) => {
            compared_with_elements(quantifier, op, args, types, schema).map(Some)
        }
        _ => Ok(None),
    }
}

/// The element at an index, of which those below 1 are none; DataFusion counts negative ones from the end.
fn where_positive(element: Expr, index: Expr) -> Expr {
    if matches!(index, Expr::Literal(ScalarValue::Int64(Some(1..)), _)) {
        return element;
    }
    let when_then_expr = vec![(Box::new(index.gt(lit(0i64))), Box::new(element))];
    Expr::Case(Case { expr: None, when_then_expr, else_expr: None })
}

/// The element type in which an array and another array, or an element, meet.
fn common_element(types: &[DataType], array: usize, other: usize, other_is_array: bool) -> Option<DataType> {
    let own = element_type(&types[array]);
    let theirs = if other_is_array { element_type(&types[other]) } else { Some(types[other].clone()) };
    let is_unknown = |t: &DataType| *t == DataType::Null;
    match (own, theirs) {
        (Some(a), Some(b)) => common_pair(&a, &b),
        (Some(a), None) if is_unknown(&types[other]) => Some(a),
        (None, Some(b)) if is_unknown(&types[array]) && !is_unknown(&b) => Some(b),
        _ => None,
    }
}

/// The keys of elements that are compared by keys.
fn comparable_elements(array: Expr, element: &DataType) -> Expr {
    if matches!(element, DataType::Interval(_)) { builtin("equal_key").call(vec![array]) } else { array }
}

/// `value op ANY (array)`, `value op ALL (array)`
fn compared_with_elements(
    quantifier: Quantifier,
    op: Operator,
    args: &[Expr],
    types: &[DataType],
    schema: &DFSchema,
) -> Result<Expr> {
    let element = match element_type(&types[1]) {
        Some(element) => element,
        None if is_unknown(&args[1]) && types[0] != DataType::Null => types[0].clone(),
        None => {
            let message = "op ANY/ALL (array) requires array on right side";
            return Err(external(Error::user(SqlState::WRONG_OBJECT_TYPE, message)));
        }
    };
    let is_text = |t: &DataType| matches!(Class::of(t), Class::Text | Class::Unknown);
    let common = match quantified::is_pattern(op) {
        true => (is_text(&types[0]) && is_text(&element)).then_some(TEXT),
        false => common_pair(&types[0], &element),
    };
    let Some(common) = common else {
        let dummy = Expr::Literal(ScalarValue::try_from(&element)?, None);
        return resolve_call(&Call::Operator(op), vec![args[0].clone(), cast(dummy, element)], schema);
    };
    let array = as_array(&args[1], &common, schema)?;
    let value = coerce(args[0].clone(), &common, schema)?;
    Ok(quantified(quantifier, op, comparable(value, schema)?, comparable_elements(array, &common)))
}
