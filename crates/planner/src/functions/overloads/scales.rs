//! `scale`, `min_scale`, `trim_scale`: digits after the point of numbers.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::{Expr, lit, when};

use super::as_decimal;
use crate::functions::builtin;
use crate::typing::calls::no_function;
use crate::typing::types::{Class, NUMERIC, Result, coerce, type_of};

/// One of the three functions over a number. Without a declared scale, zeros at the end are no digits.
pub(super) fn scale_function(name: &str, arg: &Expr, data_type: &DataType, schema: &DFSchema) -> Result<Expr> {
    let number = match Class::of(data_type) {
        Class::Int => as_decimal(arg.clone(), schema)?,
        Class::Numeric => arg.clone(),
        Class::Unknown => coerce(arg.clone(), &NUMERIC, schema)?,
        _ => return no_function(name, std::slice::from_ref(data_type)),
    };
    match (name, type_of(&number, schema)?) {
        ("trim_scale", _) => coerce(number, &NUMERIC, schema),
        ("scale", declared @ DataType::Decimal128(_, scale)) if declared != NUMERIC => {
            when(number.is_not_null(), lit(i32::from(scale))).end()
        }
        _ => Ok(builtin("min_scale").call(vec![number])),
    }
}
