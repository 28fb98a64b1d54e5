//! Keys of values that may be equal in SQL without being the same.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Int64Array, ListArray, StructArray};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, IntervalMonthDayNano, IntervalMonthDayNanoType};
use millstream_types::Error;

use super::builtin::Spec;

/// The functions of this file.
pub(super) static SPECS: &[Spec] =
    &[Spec { name: "equal_key", returns: |args| key_type(&args[0]), run: |a, _| key(&a[0]), strict: true }];

/// Whether different values of a type may be equal: a month and 30 days, the two zeros, any two NaN.
pub(crate) fn is_loose(data_type: &DataType) -> bool {
    match data_type {
        DataType::Interval(_) | DataType::Float32 | DataType::Float64 => true,
        DataType::List(item) => is_loose(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|f| is_loose(f.data_type())),
        _ => false,
    }
}

fn key_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Interval(_) => DataType::Decimal128(38, 0),
        DataType::Float32 | DataType::Float64 => DataType::Int64,
        DataType::List(item) => DataType::List(key_field(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|f| key_field(f)).collect()),
        other => other.clone(),
    }
}

fn key_field(field: &Field) -> Arc<Field> {
    Arc::new(Field::new(field.name(), key_type(field.data_type()), true))
}

/// Values that are the same exactly if those of the column are equal, and in the same order.
pub(crate) fn key(column: &ArrayRef) -> Result<ArrayRef, Error> {
    Ok(match column.data_type() {
        DataType::Interval(_) => {
            let keys: Decimal128Array = column.as_primitive::<IntervalMonthDayNanoType>().unary(interval_key);
            Arc::new(keys.with_precision_and_scale(38, 0)?)
        }
        DataType::Float32 => {
            let keys: Int64Array = column.as_primitive::<Float32Type>().unary(|v| float_key(v.into()));
            Arc::new(keys)
        }
        DataType::Float64 => {
            let keys: Int64Array = column.as_primitive::<Float64Type>().unary(float_key);
            Arc::new(keys)
        }
        DataType::List(item) => {
            let lists = column.as_list::<i32>();
            let keys = key(lists.values())?;
            Arc::new(ListArray::new(key_field(item), lists.offsets().clone(), keys, lists.nulls().cloned()))
        }
        DataType::Struct(fields) => {
            let rows = column.as_struct();
            let keys = rows.columns().iter().map(key).collect::<Result<Vec<_>, _>>()?;
            let fields = fields.iter().map(|f| key_field(f)).collect();
            Arc::new(StructArray::new(fields, keys, rows.nulls().cloned()))
        }
        _ => column.clone(),
    })
}

/// The length in nanoseconds: a month has 30 days, a day 24 hours.
fn interval_key(i: IntervalMonthDayNano) -> i128 {
    const NS_PER_DAY: i128 = 86_400_000_000_000;
    (i128::from(i.months) * 30 + i128::from(i.days)) * NS_PER_DAY + i128::from(i.nanoseconds)
}

/// The bits, those of negative numbers turned round; NaN is greater than all others, and the zeros are one.
fn float_key(v: f64) -> i64 {
    let bits = if v.is_nan() { f64::NAN.to_bits() & (u64::MAX >> 1) } else { (v + 0.0).to_bits() } as i64;
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::IntervalMonthDayNanoArray;

    #[test]
    fn keys_of_floats_are_equal_and_ordered_as_in_sql() {
        let ordered = [f64::NEG_INFINITY, -1.5, -f64::MIN_POSITIVE, 0.0, 1e-300, 2.0, f64::INFINITY, f64::NAN];
        assert!(ordered.map(float_key).is_sorted_by(|a, b| a < b));
        assert_eq!(float_key(-0.0), float_key(0.0));
        assert_eq!(float_key(-f64::NAN), float_key(f64::NAN));
    }

    #[test]
    fn lists_have_the_keys_of_their_elements() {
        let intervals = IntervalMonthDayNanoArray::from(vec![
            IntervalMonthDayNano::new(1, 0, 0),
            IntervalMonthDayNano::new(0, 29, 86_400_000_000_000),
        ]);
        let item = Arc::new(Field::new("item", intervals.data_type().clone(), true));
        let offsets = arrow::buffer::OffsetBuffer::from_lengths([1, 1]);
        let lists: ArrayRef = Arc::new(ListArray::new(item, offsets, Arc::new(intervals), None));
        let keys = key(&lists).unwrap();
        assert_eq!(keys.data_type(), &key_type(lists.data_type()));
        assert_eq!(keys.slice(0, 1).as_ref(), keys.slice(1, 1).as_ref());
    }
}
