//! Functions whose results may be far larger than their arguments: they fail before they take all memory.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, FieldRef, IntervalMonthDayNanoType, TimeUnit};
use datafusion::common::exec_err;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use millstream_types::{Error, SqlState};

use crate::binder::external;
use crate::typing::types::Result;

/// Bytes that one call may give for all its rows together.
const RESULT_BYTES_MAX: i128 = 512 << 20;
/// As [`RESULT_BYTES_MAX`], of a call that is folded into a constant, which a plan would keep and every copy of it.
const FOLDED_BYTES_MAX: i128 = 16 << 10;
/// What an element of an array counts for, whatever its type.
const ELEMENT_BYTES: i128 = 16;

/// About how many bytes a call gives, at most.
type Estimate = fn(&[ArrayRef]) -> Result<i128>;

const GROWING: &[(&str, Estimate)] = &[
    ("repeat", repeat),
    ("lpad", pad),
    ("rpad", pad),
    ("replace", replace),
    ("array_repeat", repeat_element),
    ("array_resize", repeat_element),
    ("generate_series", series),
    ("range", series),
];

/// Puts the limit on all functions that need it.
pub(super) fn limit(functions: &mut HashMap<String, Arc<ScalarUDF>>) {
    for function in functions.values_mut() {
        if let Some((_, estimate)) = GROWING.iter().find(|(name, _)| *name == function.name()) {
            *function = Arc::new(ScalarUDF::from(Limited { function: Arc::clone(function), estimate: *estimate }));
        }
    }
}

/// DataFusion's function, which is not called for too large a result.
#[derive(Debug)]
struct Limited {
    function: Arc<ScalarUDF>,
    estimate: Estimate,
}

impl PartialEq for Limited {
    fn eq(&self, other: &Self) -> bool {
        self.function == other.function
    }
}

impl Eq for Limited {}

impl std::hash::Hash for Limited {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.function.hash(state);
    }
}

impl ScalarUDFImpl for Limited {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.function.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.function.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.function.is_strict()
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.coerce_types(arg_types)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.function.simplify(args, info)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let n_bytes = (self.estimate)(&ColumnarValue::values_to_arrays(&args.args)?)?;
        if n_bytes > FOLDED_BYTES_MAX && crate::reading::folds() {
            // A constant whose evaluation fails stays a call.
            return exec_err!("the result of {}() is not for a plan", self.name());
        }
        if n_bytes > RESULT_BYTES_MAX {
            let message = format!("the result of {}() is too large", self.name());
            let detail = format!("It would have {n_bytes} bytes; at most {RESULT_BYTES_MAX} are allowed at once.");
            return Err(external(Error::user(SqlState::PROGRAM_LIMIT_EXCEEDED, message).with_detail(detail)));
        }
        self.function.invoke_with_args(args)
    }
}

/// `repeat(text, times)`
fn repeat(args: &[ArrayRef]) -> Result<i128> {
    let (lens, times) = (lengths(&args[0])?, integers(&args[1])?);
    Ok(lens.iter().zip(times.iter()).map(|(len, n)| len * non_negative(n)).sum())
}

/// `lpad(text, length[, fill])`
fn pad(args: &[ArrayRef]) -> Result<i128> {
    // A character of the fill has up to four bytes, a blank one.
    let char_bytes = if args.len() > 2 { 4 } else { 1 };
    Ok(integers(&args[1])?.iter().map(|n| non_negative(n) * char_bytes).sum())
}

/// `replace(text, from, to)`
fn replace(args: &[ArrayRef]) -> Result<i128> {
    let (lens, from, to) = (lengths(&args[0])?, lengths(&args[1])?, lengths(&args[2])?);
    Ok(lens.iter().zip(&from).zip(&to).map(|((len, from), to)| len + len / from.max(&1) * to).sum())
}

/// `array_repeat(element, times)`, `array_resize(array, length)`
fn repeat_element(args: &[ArrayRef]) -> Result<i128> {
    Ok(integers(&args[1])?.iter().map(|n| non_negative(n) * ELEMENT_BYTES).sum())
}

/// `generate_series([from,] to[, step])`, of integers, dates or timestamps.
fn series(args: &[ArrayRef]) -> Result<i128> {
    let (from, to, step) = match args {
        [to] => (None, to, None),
        [from, to] => (Some(from), to, None),
        [from, to, step, ..] => (Some(from), to, Some(step)),
        [] => return Ok(0),
    };
    let to = points(to)?;
    let from = from.map_or_else(|| Ok(vec![Some(0); to.len()]), points)?;
    let step = step.map_or_else(|| Ok(vec![Some(1); to.len()]), points)?;
    let n_elements = |((from, to), step): ((&Option<i128>, &Option<i128>), &Option<i128>)| match (from, to, step) {
        (Some(from), Some(to), Some(step)) if *step != 0 && (to - from).signum() != -step.signum() => {
            (to - from).abs() / step.abs() + 1
        }
        _ => 0,
    };
    Ok(from.iter().zip(&to).zip(&step).map(n_elements).sum::<i128>() * ELEMENT_BYTES)
}

/// Numbers as they are; times, and intervals at their shortest, in nanoseconds.
fn points(column: &ArrayRef) -> Result<Vec<Option<i128>>> {
    const DAY: i128 = 86_400_000_000_000;
    let unit = match column.data_type() {
        DataType::Interval(_) => {
            let intervals = column.as_primitive_opt::<IntervalMonthDayNanoType>();
            let nanoseconds = |i: arrow::datatypes::IntervalMonthDayNano| {
                (i128::from(i.months) * 28 + i128::from(i.days)) * DAY + i128::from(i.nanoseconds)
            };
            return Ok(intervals.map_or_else(Vec::new, |all| all.iter().map(|i| i.map(nanoseconds)).collect()));
        }
        DataType::Date32 => DAY,
        DataType::Date64 | DataType::Timestamp(TimeUnit::Millisecond, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000_000,
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        _ => 1,
    };
    Ok(integers(column)?.iter().map(|v| v.map(|v| i128::from(v) * unit)).collect())
}

/// A column of integers, or what stands behind a column of times.
fn integers(column: &ArrayRef) -> Result<Int64Array> {
    let column = match column.data_type() {
        DataType::Date32 => &arrow::compute::cast(column, &DataType::Int32)?,
        _ => column,
    };
    Ok(arrow::compute::cast(column, &DataType::Int64)?.as_primitive().clone())
}

/// The bytes of each text; none for null.
fn lengths(column: &ArrayRef) -> Result<Vec<i128>> {
    let column = arrow::compute::cast(column, &DataType::Utf8View)?;
    Ok(column.as_string_view().iter().map(|text| text.map_or(0, str::len) as i128).collect())
}

fn non_negative(n: Option<i64>) -> i128 {
    i128::from(n.unwrap_or(0).max(0))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, StringArray, TimestampMicrosecondArray};
    use datafusion::common::ScalarValue;

    use super::*;

    fn numbers(values: &[i64]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    fn texts(values: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    #[test]
    fn results_are_estimated() {
        assert_eq!(repeat(&[texts(&["ab", "c"]), numbers(&[1_000_000_000_000, -1])]).unwrap(), 2_000_000_000_000);
        assert_eq!(pad(&[texts(&["ab", "c"]), numbers(&[5, i64::MAX])]).unwrap(), i128::from(i64::MAX) + 5);
        assert_eq!(replace(&[texts(&["xxxx", "y"]), texts(&["x", ""]), texts(&["abc", ""])]).unwrap(), 17);
        assert_eq!(repeat_element(&[texts(&["x"]), numbers(&[3])]).unwrap(), 48);
        assert_eq!(series(&[numbers(&[1, 5, 9, 1]), numbers(&[10, 1, 1, i64::MIN])]).unwrap(), 160);
        assert_eq!(series(&[numbers(&[10]), numbers(&[1]), numbers(&[-3])]).unwrap(), 64);
        assert_eq!(series(&[numbers(&[i64::MIN]), numbers(&[i64::MAX]), numbers(&[0])]).unwrap(), 0);
    }

    #[test]
    fn series_of_times_are_estimated() {
        let step = |months, days, nanoseconds| -> ArrayRef {
            ScalarValue::new_interval_mdn(months, days, nanoseconds).to_array().unwrap()
        };
        let days: [ArrayRef; 2] = [0, 280].map(|day| Arc::new(Date32Array::from(vec![day])) as ArrayRef);
        assert_eq!(series(&[days[0].clone(), days[1].clone(), step(1, 0, 0)]).unwrap(), 11 * ELEMENT_BYTES);
        let times: [ArrayRef; 2] =
            [0, 60_000_000].map(|us| Arc::new(TimestampMicrosecondArray::from(vec![us])) as ArrayRef);
        let millisecond = step(0, 0, 1_000_000);
        assert_eq!(series(&[times[0].clone(), times[1].clone(), millisecond]).unwrap(), 60_001 * ELEMENT_BYTES);
    }
}
