//! A fingerprint of a multiset of rows, the same whatever their order and however they are split into batches.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, TimeUnit};
use millstream_types::{Delta, Result, hash_columns};

/// The number of rows, and the sum of their hashes.
///
/// Both are linear: the sums over the deltas of a view are those of its contents, so that a view's fingerprint can be
/// kept while its deltas flow. Hashes are of canonical values: integers of any width, decimals and whole floats by
/// value, other floats by their leading 24 bits, times in microseconds, strings of any encoding by their bytes. So
/// engines agree that chose other types for a column, or added floats in another order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    /// Rows, counted with their weights.
    pub n_rows: i64,
    /// The sum of weight times hash, modulo 2^64.
    pub sum: u64,
}

impl Checksum {
    /// Takes in rows, each once.
    ///
    /// # Errors
    /// If a column's type has no canonical form.
    pub fn add_batch(&mut self, batch: &RecordBatch) -> Result<()> {
        self.add_weighted(batch, |_| 1)
    }

    /// Takes in changes.
    ///
    /// # Errors
    /// If a column's type has no canonical form.
    pub fn add_delta(&mut self, delta: &Delta) -> Result<()> {
        self.add_weighted(delta.batch(), |row_idx| delta.weight(row_idx))
    }

    fn add_weighted(&mut self, batch: &RecordBatch, weight: impl Fn(usize) -> i64) -> Result<()> {
        let columns = batch.columns().iter().map(canonical).collect::<Result<Vec<_>>>()?;
        let mut hashes = Vec::new();
        hash_columns(&columns, batch.num_rows(), &mut hashes);
        for (row_idx, hash) in hashes.into_iter().enumerate() {
            let weight = weight(row_idx);
            self.n_rows += weight;
            self.sum = self.sum.wrapping_add(hash.wrapping_mul(weight.cast_unsigned()));
        }
        Ok(())
    }
}

fn canonical(column: &ArrayRef) -> Result<ArrayRef> {
    let cast = |to: DataType| compute::cast(column, &to);
    Ok(match column.data_type() {
        DataType::Decimal128(_, scale) => {
            let scale = *scale;
            Arc::new(
                column.as_primitive::<Decimal128Type>().unary::<_, arrow::datatypes::Int64Type>(|v| decimal(v, scale)),
            )
        }
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            let column = cast(DataType::Float64)?;
            let values: Int64Array = column.as_primitive::<Float64Type>().unary(float);
            Arc::new(values)
        }
        t if t.is_integer() => cast(DataType::Int64)?,
        DataType::Timestamp(_, _) => cast(DataType::Timestamp(TimeUnit::Microsecond, None))?,
        DataType::Utf8 | DataType::LargeUtf8 => cast(DataType::Utf8View)?,
        _ => column.clone(),
    })
}

/// A whole number as itself, any other by its leading bits.
fn float(value: f64) -> i64 {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return value as i64;
    }
    // Where a bit pattern is cut, neighbours fall apart; the offset moves these places away from decimal fractions.
    const DROPPED: u32 = 53 - 24;
    const OFFSET: u64 = 0x0b5a_3c17;
    (value.to_bits().wrapping_add(OFFSET) >> DROPPED << DROPPED).cast_signed()
}

fn decimal(mut value: i128, mut scale: i8) -> i64 {
    while scale > 0 && value % 10 == 0 {
        value /= 10;
        scale -= 1;
    }
    match i64::try_from(value) {
        Ok(value) if scale == 0 => value,
        _ => float(value as f64 / 10f64.powi(scale.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Decimal128Array, Float64Array, Int32Array, StringArray, StringViewArray};
    use millstream_types::delta::schema_of;

    fn batch(columns: Vec<ArrayRef>) -> RecordBatch {
        let fields: Vec<_> = columns.iter().map(|c| ("c", c.data_type().clone())).collect();
        RecordBatch::try_new(schema_of(&fields), columns).unwrap()
    }

    fn of(columns: Vec<ArrayRef>) -> Checksum {
        let mut checksum = Checksum::default();
        checksum.add_batch(&batch(columns)).unwrap();
        checksum
    }

    #[test]
    fn types_that_mean_the_same_agree() {
        let decimal = |values: Vec<i128>, precision, scale| -> ArrayRef {
            Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap())
        };
        let whole = of(vec![Arc::new(Int64Array::from(vec![7, -100]))]);
        assert_eq!(whole, of(vec![Arc::new(Int32Array::from(vec![7, -100]))]));
        assert_eq!(whole, of(vec![Arc::new(Float64Array::from(vec![-100.0, 7.0]))]));
        assert_eq!(whole, of(vec![decimal(vec![70, -1000], 10, 1)]));
        let broken = of(vec![decimal(vec![908, 11_209_875_624], 23, 3)]);
        assert_eq!(broken, of(vec![decimal(vec![908 * 10i128.pow(13), 11_209_875_624 * 10i128.pow(13)], 38, 16)]));
        assert_eq!(broken, of(vec![Arc::new(Float64Array::from(vec![0.908 + 1e-16, 11_209_875.624]))]));
        assert_ne!(broken, of(vec![Arc::new(Float64Array::from(vec![0.90801, 11_209_875.624]))]));
        let text = of(vec![Arc::new(StringArray::from(vec!["a", "longer than the view"]))]);
        assert_eq!(text, of(vec![Arc::new(StringViewArray::from(vec!["longer than the view", "a"]))]));
    }

    #[test]
    fn deltas_add_up_to_contents() {
        let rows = |values: Vec<i64>| batch(vec![Arc::new(Int64Array::from(values))]);
        let mut kept = Checksum::default();
        kept.add_delta(&Delta::inserts(rows(vec![1, 2, 3, 3]))).unwrap();
        kept.add_delta(&Delta::new(rows(vec![3, 2, 9]), Some(vec![-1, -1, 2].into()))).unwrap();
        let contents = of(vec![Arc::new(Int64Array::from(vec![9, 1, 9, 3]))]);
        assert_eq!(kept, contents);
        assert_ne!(kept, of(vec![Arc::new(Int64Array::from(vec![9, 1, 9, 4]))]));
    }
}
