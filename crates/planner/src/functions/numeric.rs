//! Arithmetic over numbers as Postgres does it: overflow and division by zero are errors, decimals keep their digits.

use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, Datum, Decimal128Array, Float32Array, Float64Array};
use arrow::compute::kernels::numeric;
use arrow::datatypes::{DataType, Decimal128Type, Float32Type, Float64Type, i256};
use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, exec_datafusion_err, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr_common::datum::apply;
use millstream_types::sql_type::{NUMERIC_PRECISION, NUMERIC_SCALE};
use millstream_types::{Error, SqlState};

use super::not_a_number::one_nan;
use crate::binder::external;
use crate::typing::types::{NUMERIC, Result, type_name};

/// One of `+ - * / %`. Both operands have the same type, or are decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Op {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

/// An arithmetic operator as a function.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Arithmetic {
    op: Op,
    signature: Signature,
}

impl Arithmetic {
    /// The function of an operator.
    pub(crate) fn of(op: Operator) -> Arc<ScalarUDF> {
        let index = match op {
            Operator::Plus => 0,
            Operator::Minus => 1,
            Operator::Multiply => 2,
            Operator::Divide => 3,
            _ => 4,
        };
        Arithmetic::all()[index].clone()
    }

    /// The function of a name.
    pub(crate) fn of_name(name: &str) -> Option<Arc<ScalarUDF>> {
        Arithmetic::all().iter().find(|f| f.name() == name).cloned()
    }

    fn all() -> &'static [Arc<ScalarUDF>; 5] {
        static ALL: LazyLock<[Arc<ScalarUDF>; 5]> = LazyLock::new(|| {
            [Op::Add, Op::Subtract, Op::Multiply, Op::Divide, Op::Modulo].map(|op| {
                let signature = Signature::any(2, Volatility::Immutable);
                Arc::new(ScalarUDF::new_from_impl(Arithmetic { op, signature }))
            })
        });
        &ALL
    }

    /// The operator that a function is.
    pub(crate) fn operator(function: &ScalarFunction) -> Option<Operator> {
        Arithmetic::behind(function).map(|arithmetic| match arithmetic.op {
            Op::Add => Operator::Plus,
            Op::Subtract => Operator::Minus,
            Op::Multiply => Operator::Multiply,
            Op::Divide => Operator::Divide,
            Op::Modulo => Operator::Modulo,
        })
    }

    fn behind(function: &ScalarFunction) -> Option<&Arithmetic> {
        let inner: &dyn std::any::Any = function.func.inner().as_ref();
        inner.downcast_ref::<Arithmetic>().filter(|_| function.args.len() == 2)
    }

    /// The type of an operator's result.
    pub(crate) fn type_of(op: Operator, left: &DataType, right: &DataType) -> Result<DataType> {
        Arithmetic::of(op).return_type(&[left.clone(), right.clone()])
    }

    fn symbol(&self) -> &'static str {
        match self.op {
            Op::Add => "+",
            Op::Subtract => "-",
            Op::Multiply => "*",
            Op::Divide => "/",
            Op::Modulo => "%",
        }
    }
}

impl ScalarUDFImpl for Arithmetic {
    fn name(&self) -> &str {
        match self.op {
            Op::Add => "add",
            Op::Subtract => "subtract",
            Op::Multiply => "multiply",
            Op::Divide => "divide",
            Op::Modulo => "modulo",
        }
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [left, right] = args else { return internal_err!("{} takes two arguments", self.name()) };
        // The left operand may nest deeply: a name within a name is not made by itself.
        let mut left = left;
        let mut rest = vec![(self.symbol(), right)];
        while let Expr::ScalarFunction(function) = left
            && let (Some(inner), [l, r]) = (Arithmetic::behind(function), function.args.as_slice())
        {
            rest.push((inner.symbol(), r));
            left = l;
        }
        let mut name = format!("{}{}", "(".repeat(rest.len()), left.schema_name());
        for (symbol, right) in rest.into_iter().rev() {
            write!(name, " {symbol} {})", right.schema_name()).map_err(|e| exec_datafusion_err!("{e}"))?;
        }
        Ok(name)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [DataType::Decimal128(p1, s1), DataType::Decimal128(p2, s2)] => {
                Ok(decimal_type(self.op, (*p1, *s1), (*p2, *s2)))
            }
            [left, right] if left == right => Ok(left.clone()),
            [left, right] => internal_err!("{} over {left} and {right}", self.name()),
            _ => internal_err!("{} takes two arguments", self.name()),
        }
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = args.args.as_slice() else {
            return internal_err!("{} takes two arguments", self.name());
        };
        let result_type = args.return_field.data_type().clone();
        let op = self.op;
        apply(left, right, |l, r| {
            let is_decimal = matches!(result_type, DataType::Decimal128(..));
            if is_decimal {
                return decimals(op, l, r, &result_type);
            }
            let result = match op {
                Op::Add => numeric::add(l, r),
                Op::Subtract => numeric::sub(l, r),
                Op::Multiply => numeric::mul(l, r),
                Op::Divide => {
                    refuse_float_zero(l, r)?;
                    numeric::div(l, r)
                }
                Op::Modulo => numeric::rem(l, r),
            };
            let result = result.map_err(|e| arithmetic_error(e, &result_type))?;
            refuse_overflow(l.get().0, r.get().0, &result)?;
            Ok(one_nan(result))
        })
        .map_err(unwrapped)
    }
}

/// Our error travels through Arrow's signature of kernels.
fn through_arrow(error: Error) -> ArrowError {
    ArrowError::ExternalError(Box::new(error))
}

fn unwrapped(error: DataFusionError) -> DataFusionError {
    external(crate::errors::from_datafusion(error))
}

fn arithmetic_error(error: ArrowError, data_type: &DataType) -> ArrowError {
    match error {
        ArrowError::DivideByZero => through_arrow(division_by_zero()),
        ArrowError::ArithmeticOverflow(_) => through_arrow(out_of_range(data_type)),
        other => other,
    }
}

fn division_by_zero() -> Error {
    Error::user(SqlState::DIVISION_BY_ZERO, "division by zero")
}

/// `integer out of range`
pub(crate) fn out_of_range(data_type: &DataType) -> Error {
    let message = match data_type {
        DataType::Float32 | DataType::Float64 => "value out of range: overflow".to_string(),
        DataType::Decimal128(..) => {
            return Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value out of range: overflow")
                .with_detail("numeric holds at most 38 digits, 16 of them after the point where none are declared");
        }
        DataType::UInt32 => "OID out of range".to_string(),
        other => format!("{} out of range", type_name(other)),
    };
    Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, message)
}

/// A zero under a number that is not null.
fn refuse_float_zero(dividends: &dyn Datum, divisors: &dyn Datum) -> Result<(), ArrowError> {
    let ((left, left_scalar), (right, right_scalar)) = (dividends.get(), divisors.get());
    let is_zero = |i: usize| match right.data_type() {
        DataType::Float64 => right.as_primitive::<Float64Type>().value(i) == 0.0,
        DataType::Float32 => right.as_primitive::<Float32Type>().value(i) == 0.0,
        _ => false,
    };
    if !right.data_type().is_floating() {
        return Ok(());
    }
    let n = if left_scalar { right.len() } else { left.len() };
    let row = |i: usize, scalar: bool| if scalar { 0 } else { i };
    let has_zero = (0..n).any(|i| {
        let (l, r) = (row(i, left_scalar), row(i, right_scalar));
        left.is_valid(l) && right.is_valid(r) && is_zero(r)
    });
    if has_zero { Err(through_arrow(division_by_zero())) } else { Ok(()) }
}

/// A float that became infinite although no operand was is an overflow.
fn refuse_overflow(left: &dyn Array, right: &dyn Array, result: &ArrayRef) -> Result<(), ArrowError> {
    let overflows = match result.data_type() {
        DataType::Float64 => {
            let infinite = |a: &Float64Array| a.iter().flatten().any(f64::is_infinite);
            infinite(result.as_primitive()) && !infinite(left.as_primitive()) && !infinite(right.as_primitive())
        }
        DataType::Float32 => {
            let infinite = |a: &Float32Array| a.iter().flatten().any(f32::is_infinite);
            infinite(result.as_primitive()) && !infinite(left.as_primitive()) && !infinite(right.as_primitive())
        }
        _ => false,
    };
    if overflows { Err(through_arrow(out_of_range(result.data_type()))) } else { Ok(()) }
}

/// The result's type. `numeric` without digits stays what it is; declared digits are kept as far as 38 reach.
fn decimal_type(op: Op, (p1, s1): (u8, i8), (p2, s2): (u8, i8)) -> DataType {
    let plain = |p: u8, s: i8| p == NUMERIC_PRECISION && s == NUMERIC_SCALE;
    if op == Op::Divide || plain(p1, s1) || plain(p2, s2) {
        return NUMERIC;
    }
    let (i1, i2) = (p1 as i8 - s1, p2 as i8 - s2);
    let (integral, scale) = match op {
        Op::Multiply => (i1 + i2 + 1, s1 + s2),
        Op::Modulo => (i1.max(i2), s1.max(s2)),
        _ => (i1.max(i2) + 1, s1.max(s2)),
    };
    let max = NUMERIC_PRECISION as i8;
    if integral + scale <= max {
        return DataType::Decimal128((integral + scale) as u8, scale);
    }
    DataType::Decimal128(NUMERIC_PRECISION, scale.min(NUMERIC_SCALE.max(max - integral)))
}

fn decimals(op: Op, left: &dyn Datum, right: &dyn Datum, result_type: &DataType) -> Result<ArrayRef, ArrowError> {
    let DataType::Decimal128(precision, scale) = *result_type else {
        return Err(ArrowError::ComputeError("a decimal result has a decimal type".into()));
    };
    let (l, l_scalar) = left.get();
    let (r, r_scalar) = right.get();
    let (l, r) = (l.as_primitive::<Decimal128Type>(), r.as_primitive::<Decimal128Type>());
    let exact = Exact { op, scales: (l.scale(), r.scale()), scale };
    let n = if l_scalar { r.len() } else { l.len() };
    let mut builder = Decimal128Array::builder(n);
    for i in 0..n {
        let (li, ri) = (if l_scalar { 0 } else { i }, if r_scalar { 0 } else { i });
        if l.is_null(li) || r.is_null(ri) {
            builder.append_null();
        } else {
            builder.append_value(exact.value(l.value(li), r.value(ri)).map_err(through_arrow)?);
        }
    }
    Ok(Arc::new(builder.finish().with_precision_and_scale(precision, scale)?))
}

/// One decimal operation: scales of the operands and of the result.
struct Exact {
    op: Op,
    scales: (i8, i8),
    scale: i8,
}

impl Exact {
    fn value(&self, left: i128, right: i128) -> Result<i128, Error> {
        let (s1, s2) = self.scales;
        let common = s1.max(s2);
        let (wide_l, wide_r) = (i256::from_i128(left), i256::from_i128(right));
        let scaled = |v: i256, by: i8| v.checked_mul(power_of_ten(by)).ok_or_else(overflow);
        match self.op {
            Op::Add | Op::Subtract => {
                let (l, r) = (scaled(wide_l, common - s1)?, scaled(wide_r, common - s2)?);
                let sum = if self.op == Op::Add { l.wrapping_add(r) } else { l.wrapping_sub(r) };
                rescaled(sum, common, self.scale)
            }
            Op::Multiply => match left.checked_mul(right) {
                Some(product) if s1 + s2 == self.scale => within(i256::from_i128(product)),
                _ => rescaled(wide_l.checked_mul(wide_r).ok_or_else(overflow)?, s1 + s2, self.scale),
            },
            Op::Divide => {
                if right == 0 {
                    return Err(division_by_zero());
                }
                let shift = self.scale - s1 + s2;
                let (l, r) =
                    if shift >= 0 { (scaled(wide_l, shift)?, wide_r) } else { (wide_l, scaled(wide_r, -shift)?) };
                within(divided(l, r))
            }
            Op::Modulo => {
                if right == 0 {
                    return Err(division_by_zero());
                }
                let (l, r) = (scaled(wide_l, common - s1)?, scaled(wide_r, common - s2)?);
                rescaled(l.wrapping_rem(r), common, self.scale)
            }
        }
    }
}

fn overflow() -> Error {
    out_of_range(&NUMERIC)
}

fn power_of_ten(exponent: i8) -> i256 {
    i256::from_i128(10).wrapping_pow(exponent.max(0) as u32)
}

/// The quotient, rounded half away from zero.
fn divided(left: i256, right: i256) -> i256 {
    let (quotient, rest) = (left.wrapping_div(right), left.wrapping_rem(right));
    let twice = rest.wrapping_abs().wrapping_mul(i256::from_i128(2));
    if twice < right.wrapping_abs() {
        return quotient;
    }
    let one = i256::ONE;
    if (left < i256::ZERO) == (right < i256::ZERO) { quotient.wrapping_add(one) } else { quotient.wrapping_sub(one) }
}

fn rescaled(value: i256, from: i8, to: i8) -> Result<i128, Error> {
    let value = match from.cmp(&to) {
        std::cmp::Ordering::Equal => value,
        std::cmp::Ordering::Greater => divided(value, power_of_ten(from - to)),
        std::cmp::Ordering::Less => value.checked_mul(power_of_ten(to - from)).ok_or_else(overflow)?,
    };
    within(value)
}

/// At most 38 digits.
fn within(value: i256) -> Result<i128, Error> {
    const MAX: i128 = 10i128.pow(NUMERIC_PRECISION as u32) - 1;
    match value.to_i128() {
        Some(v) if (-MAX..=MAX).contains(&v) => Ok(v),
        _ => Err(overflow()),
    }
}

/// A decimal at another scale, rounded half away from zero.
pub(crate) fn rescale_decimal(value: i128, from: i8, to: i8) -> Result<i128, Error> {
    rescaled(i256::from_i128(value), from, to)
}
