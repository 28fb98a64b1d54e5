//! NaN is one value, equal to itself and greater than all numbers. Comparisons, keys and orders go by its bits, so whatever
//! computes a NaN gives this one: processors and libraries give others too, such as those with a sign.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, Float64Array};
use arrow::datatypes::{DataType, Float32Type, Float64Type};

use super::builtin::Spec;

/// The functions of this file.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: "one_nan", returns: |args| args[0].clone(), run: |a, _| Ok(one_nan(Arc::clone(&a[0]))), strict: true },
    Spec { name: "negative_float", returns: |args| args[0].clone(), run: |a, _| Ok(negative(&a[0])), strict: true },
    Spec { name: "sign_float", returns: |_| DataType::Float64, run: |a, _| Ok(sign(&a[0])), strict: true },
];

/// The column with one NaN.
pub(super) fn one_nan(column: ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => {
            let values: &Float64Array = column.as_primitive::<Float64Type>();
            if !values.values().iter().any(|v| v.is_nan()) {
                return column;
            }
            Arc::new(values.unary::<_, Float64Type>(|v| if v.is_nan() { f64::NAN } else { v }))
        }
        DataType::Float32 => {
            let values: &Float32Array = column.as_primitive::<Float32Type>();
            if !values.values().iter().any(|v| v.is_nan()) {
                return column;
            }
            Arc::new(values.unary::<_, Float32Type>(|v| if v.is_nan() { f32::NAN } else { v }))
        }
        _ => column,
    }
}

fn negative(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float32 => Arc::new(
            column.as_primitive::<Float32Type>().unary::<_, Float32Type>(|v| if v.is_nan() { f32::NAN } else { -v }),
        ),
        _ => Arc::new(
            column.as_primitive::<Float64Type>().unary::<_, Float64Type>(|v| if v.is_nan() { f64::NAN } else { -v }),
        ),
    }
}

/// -1, 0 or 1; of a NaN 0, as in Postgres.
fn sign(column: &ArrayRef) -> ArrayRef {
    let sign = |v: f64| f64::from(i8::from(v > 0.0) - i8::from(v < 0.0));
    Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(sign))
}
