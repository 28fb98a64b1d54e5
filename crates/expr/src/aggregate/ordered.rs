//! Values as unsigned integers, or bytes, in the order that SQL gives them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, PrimitiveArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, UInt32Type,
};

const SIGN: u64 = 1 << 63;
/// The key of zero; false, for booleans.
pub(super) const ZERO: u64 = SIGN;

/// Whether values of a type map to `u64` in order.
pub(super) fn fits_u64(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Boolean
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt32
            | DataType::Float32
            | DataType::Float64
            | DataType::Date32
            | DataType::Time64(TimeUnit::Microsecond)
            | DataType::Timestamp(TimeUnit::Microsecond, _)
    )
}

fn float_key(v: f64) -> u64 {
    // NaN is greater than all others. Of the zeros the negative one is the less: they are equal, but two values.
    let bits = if v.is_nan() { f64::NAN.to_bits() & !SIGN } else { v.to_bits() };
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

fn float_of_key(key: u64) -> f64 {
    f64::from_bits(if key & SIGN != 0 { key & !SIGN } else { !key })
}

/// The keys of all values; those of nulls mean nothing.
pub(super) fn keys_u64(array: &ArrayRef) -> Vec<u64> {
    fn ints<T: ArrowPrimitiveType>(array: &ArrayRef, to_i64: impl Fn(T::Native) -> i64) -> Vec<u64> {
        array.as_primitive::<T>().values().iter().map(|&v| to_i64(v) as u64 ^ SIGN).collect()
    }
    match array.data_type() {
        DataType::Boolean => {
            let bools = array.as_boolean();
            (0..bools.len()).map(|i| u64::from(bools.value(i))).collect()
        }
        DataType::Int16 => ints::<Int16Type>(array, i64::from),
        DataType::Int32 => ints::<Int32Type>(array, i64::from),
        DataType::Int64 => ints::<Int64Type>(array, |v| v),
        DataType::UInt32 => ints::<UInt32Type>(array, i64::from),
        DataType::Date32 => ints::<Date32Type>(array, i64::from),
        DataType::Time64(_) => ints::<Time64MicrosecondType>(array, |v| v),
        DataType::Timestamp(_, _) => ints::<TimestampMicrosecondType>(array, |v| v),
        DataType::Float32 => {
            array.as_primitive::<Float32Type>().values().iter().map(|&v| float_key(v.into())).collect()
        }
        _ => array.as_primitive::<Float64Type>().values().iter().map(|&v| float_key(v)).collect(),
    }
}

/// The values of keys.
pub(super) fn values_of_u64(data_type: &DataType, keys: Vec<u64>, nulls: Option<NullBuffer>) -> ArrayRef {
    fn ints<T: ArrowPrimitiveType>(
        data_type: &DataType,
        keys: &[u64],
        nulls: Option<NullBuffer>,
        of_i64: impl Fn(i64) -> T::Native,
    ) -> ArrayRef {
        let values: ScalarBuffer<T::Native> = keys.iter().map(|&k| of_i64((k ^ SIGN) as i64)).collect();
        Arc::new(PrimitiveArray::<T>::new(values, nulls).with_data_type(data_type.clone()))
    }
    match data_type {
        DataType::Boolean => Arc::new(BooleanArray::new(keys.iter().map(|&k| k == 1).collect(), nulls)),
        DataType::Int16 => ints::<Int16Type>(data_type, &keys, nulls, |v| v as i16),
        DataType::Int32 => ints::<Int32Type>(data_type, &keys, nulls, |v| v as i32),
        DataType::Int64 => ints::<Int64Type>(data_type, &keys, nulls, |v| v),
        DataType::UInt32 => ints::<UInt32Type>(data_type, &keys, nulls, |v| v as u32),
        DataType::Date32 => ints::<Date32Type>(data_type, &keys, nulls, |v| v as i32),
        DataType::Time64(_) => ints::<Time64MicrosecondType>(data_type, &keys, nulls, |v| v),
        DataType::Timestamp(_, _) => ints::<TimestampMicrosecondType>(data_type, &keys, nulls, |v| v),
        DataType::Float32 => {
            let values: ScalarBuffer<f32> = keys.iter().map(|&k| float_of_key(k) as f32).collect();
            Arc::new(PrimitiveArray::<Float32Type>::new(values, nulls))
        }
        _ => {
            let values: ScalarBuffer<f64> = keys.iter().map(|&k| float_of_key(k)).collect();
            Arc::new(PrimitiveArray::<Float64Type>::new(values, nulls))
        }
    }
}

/// The keys of numerics.
pub(super) fn keys_i128(array: &ArrayRef) -> Vec<i128> {
    array.as_primitive::<Decimal128Type>().values().to_vec()
}

/// The numerics of keys.
pub(super) fn values_of_i128(data_type: &DataType, keys: Vec<i128>, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(Decimal128Array::new(keys.into(), nulls).with_data_type(data_type.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_floats_are_in_sql_order() {
        let ordered = [f64::NEG_INFINITY, -1e300, -1.5, -f64::MIN_POSITIVE, 0.0, 1e-300, 2.0, f64::INFINITY, f64::NAN];
        let keys: Vec<u64> = ordered.iter().map(|&v| float_key(v)).collect();
        assert!(keys.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(float_key(-0.0) + 1, float_key(0.0));
        assert!(ordered.iter().zip(keys).all(|(&v, k)| float_of_key(k) == v || v.is_nan()));
    }
}
