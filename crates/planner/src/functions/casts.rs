//! Casts that Arrow does otherwise than Postgres.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, PrimitiveArray};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, IntervalMonthDayNanoType,
    Time64MicrosecondType, TimestampMicrosecondType, UInt32Type,
};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use millstream_types::pg::{FormatSettings, format_column, parse_column};
use millstream_types::{Error, SqlState, SqlType};

use super::numeric::{out_of_range, rescale_decimal};
use crate::binder::external;
use crate::typing::types::{Class, Result, type_name};

const US_PER_DAY: i64 = 86_400_000_000;

/// A cast to one type.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct CastFunction {
    to: SqlType,
    name: String,
    signature: Signature,
}

impl CastFunction {
    /// `CAST(expr AS to)`
    pub(crate) fn call(to: SqlType, expr: Expr) -> Expr {
        Expr::ScalarFunction(ScalarFunction::new_udf(CastFunction::to(to), vec![expr]))
    }

    /// The cast to a type.
    pub(crate) fn to(to: SqlType) -> Arc<ScalarUDF> {
        let name = format!("cast_to_{to}").replace(' ', "_");
        let signature = Signature::any(1, Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(CastFunction { to, name, signature }))
    }

    /// The type that it casts to.
    pub(crate) fn target(&self) -> &SqlType {
        &self.to
    }

    /// The type that a function casts to, if it is a cast.
    pub(crate) fn target_of(function: &ScalarFunction) -> Option<&SqlType> {
        function.func.inner().downcast_ref::<CastFunction>().map(|cast| &cast.to)
    }
}

impl ScalarUDFImpl for CastFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [arg] = args else { return internal_err!("a cast takes one argument") };
        Ok(format!("CAST({} AS {})", arg.schema_name(), self.to))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to.arrow_type())
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(array)] => Ok(ColumnarValue::Array(cast_column(array, &self.to).map_err(external)?)),
            [ColumnarValue::Scalar(value)] => {
                let result = cast_column(&value.to_array()?, &self.to).map_err(external)?;
                ScalarValue::try_from_array(&result, 0).map(ColumnarValue::Scalar)
            }
            _ => internal_err!("a cast takes one argument"),
        }
    }
}

/// The day of a time, in days since 1970.
fn date_of(us: i64) -> i32 {
    match us {
        i64::MAX => i32::MAX,
        i64::MIN => i32::MIN,
        us => us.div_euclid(US_PER_DAY) as i32,
    }
}

/// A column as one of another type; an explicit cast of Postgres.
pub(crate) fn cast_column(array: &ArrayRef, to: &SqlType) -> Result<ArrayRef, Error> {
    use Class as C;
    let from = array.data_type();
    let target = to.arrow_type();
    if *from == target {
        return Ok(array.clone());
    }
    match (Class::of(from), Class::of(&target)) {
        (C::Text, _) => {
            let texts = cast(array, &DataType::Utf8View)?;
            parse_column(texts.as_string_view(), to, &FormatSettings::default())
        }
        (_, C::Text) => {
            let sql_type =
                SqlType::of_arrow(from).ok_or_else(|| Error::not_supported(format!("type {from} has no text form")))?;
            format_column(array, &sql_type, &FormatSettings::default())
        }
        (C::Real | C::Double, C::Int) => int_of_float(array, &target),
        (C::Numeric, C::Int) => int_of_decimal(array, &target),
        (C::Numeric, C::Numeric) => decimal_of_decimal(array, &target),
        (C::Numeric, C::Real | C::Double) => Ok(cast(&doubles_of_decimal(array), &target)?),
        // The same four bytes.
        (C::Int, C::Int) if *from == DataType::Int32 && target == DataType::UInt32 => {
            Ok(Arc::new(array.as_primitive::<Int32Type>().unary::<_, UInt32Type>(|v| v as u32)))
        }
        (C::Int, C::Int) if *from == DataType::UInt32 && target == DataType::Int32 => {
            Ok(Arc::new(array.as_primitive::<UInt32Type>().unary::<_, Int32Type>(|v| v as i32)))
        }
        (C::Bool, C::Int) => Ok(cast(array, &target)?),
        (C::Timestamp | C::Timestamptz, C::Date) => {
            timestamps(array, date_of).map(|a: PrimitiveArray<Date32Type>| Arc::new(a) as ArrayRef)
        }
        (C::Timestamp | C::Timestamptz, C::Time) => timestamps(array, |us| us.rem_euclid(US_PER_DAY))
            .map(|a: PrimitiveArray<Time64MicrosecondType>| Arc::new(a) as ArrayRef),
        (C::Interval, C::Time) => {
            let intervals = array.as_primitive::<IntervalMonthDayNanoType>();
            let times: PrimitiveArray<Time64MicrosecondType> =
                intervals.unary(|i| (i.nanoseconds / 1000).rem_euclid(US_PER_DAY));
            Ok(Arc::new(times))
        }
        (C::Time, C::Interval) => {
            let times = array.as_primitive::<Time64MicrosecondType>();
            let intervals: PrimitiveArray<IntervalMonthDayNanoType> =
                times.unary(|us| arrow::datatypes::IntervalMonthDayNano::new(0, 0, us * 1000));
            Ok(Arc::new(intervals))
        }
        (C::Array, C::Array) => cast_elements(array, to),
        _ => cast_with_options(array, &target, &CastOptions { safe: false, ..CastOptions::default() })
            .map_err(|_| out_of_range(&target)),
    }
}

fn timestamps<T: arrow::datatypes::ArrowPrimitiveType>(
    array: &ArrayRef,
    f: impl Fn(i64) -> T::Native,
) -> Result<PrimitiveArray<T>, Error> {
    Ok(array.as_primitive::<TimestampMicrosecondType>().unary(f))
}

/// Rounds half to even, as Postgres' `float8` to `integer`.
fn int_of_float(array: &ArrayRef, target: &DataType) -> Result<ArrayRef, Error> {
    let floats: ArrayRef = cast(array, &DataType::Float64)?;
    let floats: &Float64Array = floats.as_primitive::<Float64Type>();
    let ints: Int64Array = floats.try_unary::<_, Int64Type, Error>(|v| {
        let rounded = v.round_ties_even();
        if rounded.is_nan() || !(-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&rounded) {
            return Err(out_of_range(target));
        }
        Ok(rounded as i64)
    })?;
    narrowed(ints, target)
}

fn int_of_decimal(array: &ArrayRef, target: &DataType) -> Result<ArrayRef, Error> {
    let decimals = array.as_primitive::<Decimal128Type>();
    let scale = decimals.scale();
    let ints: Int64Array = decimals.try_unary::<_, Int64Type, Error>(|v| {
        i64::try_from(rescale_decimal(v, scale, 0)?).map_err(|_| out_of_range(target))
    })?;
    narrowed(ints, target)
}

/// The double next to each decimal. Up to 2^53 it and a power of ten up to 10^22 are exact doubles, and so their quotient
/// is rounded once; beyond that, decimal text is read.
fn doubles_of_decimal(array: &ArrayRef) -> Float64Array {
    const EXACT_MAX: u128 = 1 << f64::MANTISSA_DIGITS;
    let decimals = array.as_primitive::<Decimal128Type>();
    let scale = i32::from(decimals.scale());
    let unit = 10f64.powi(scale);
    decimals.unary(|value| {
        if value.unsigned_abs() <= EXACT_MAX && (0..=22).contains(&scale) {
            return value as f64 / unit;
        }
        format!("{value}e{}", -scale).parse().unwrap_or(f64::NAN)
    })
}

fn narrowed(ints: Int64Array, target: &DataType) -> Result<ArrayRef, Error> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(&ints, target, &options).map_err(|_| out_of_range(target))
}

fn decimal_of_decimal(array: &ArrayRef, target: &DataType) -> Result<ArrayRef, Error> {
    let DataType::Decimal128(precision, scale) = *target else {
        return Err(Error::internal(format!("cast of a decimal to {target}")));
    };
    let decimals = array.as_primitive::<Decimal128Type>();
    let from = decimals.scale();
    let max = 10i128.pow(u32::from(precision)) - 1;
    let cast: Decimal128Array = decimals.try_unary::<_, Decimal128Type, Error>(|v| {
        let value = rescale_decimal(v, from, scale)?;
        if (-max..=max).contains(&value) { Ok(value) } else { Err(field_overflow(precision, scale)) }
    })?;
    Ok(Arc::new(cast.with_precision_and_scale(precision, scale)?))
}

fn field_overflow(precision: u8, scale: i8) -> Error {
    let digits = i16::from(precision) - i16::from(scale);
    let bound = if digits == 0 { "1".to_string() } else { format!("10^{digits}") };
    Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "numeric field overflow").with_detail(format!(
        "A field with precision {precision}, scale {scale} must round to an absolute value less than {bound}."
    ))
}

fn cast_elements(array: &ArrayRef, to: &SqlType) -> Result<ArrayRef, Error> {
    let SqlType::Array(element) = to else {
        return Err(Error::internal(format!("cast of {} to {to}", type_name(array.data_type()))));
    };
    let list = array.as_list::<i32>();
    let values = cast_column(list.values(), element)?;
    let field = Arc::new(arrow::datatypes::Field::new_list_field(element.arrow_type(), true));
    let cast = arrow::array::ListArray::try_new(field, list.offsets().clone(), values, list.nulls().cloned())?;
    Ok(Arc::new(cast))
}
