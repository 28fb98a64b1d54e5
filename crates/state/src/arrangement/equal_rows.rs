//! Equal rows of one batch.

use arrow::array::{ArrayRef, DynComparator, RecordBatch, UInt32Array, make_comparator};
use arrow::compute::SortOptions;
use arrow::row::{RowConverter, SortField};
use hashbrown::HashMap;
use millstream_types::delta::take_batch;
use millstream_types::{Error, Result};

/// Compares rows of one batch; makes its comparators when they are first needed.
pub(super) struct RowEquality<'a> {
    columns: &'a [ArrayRef],
    comparators: Vec<DynComparator>,
}

impl<'a> RowEquality<'a> {
    pub(super) fn new(columns: &'a [ArrayRef]) -> Self {
        RowEquality { columns, comparators: Vec::new() }
    }

    pub(super) fn holds(&mut self, a: u32, b: u32) -> Result<bool> {
        if a != b && self.comparators.is_empty() {
            let comparators = self.columns.iter().map(|c| make_comparator(c, c, SortOptions::default()));
            self.comparators = comparators.collect::<Result<_, _>>()?;
        }
        Ok(a == b || self.comparators.iter().all(|compare| compare(a as usize, b as usize).is_eq()))
    }
}

/// Takes out of `insertions` one row equal to each of `missing`; all are indices into the batch.
pub(super) fn cancel(batch: &RecordBatch, missing: &[u32], insertions: &mut Vec<u32>) -> Result<()> {
    let columns = batch.columns();
    let encoded = if columns.is_empty() {
        None
    } else {
        let fields = columns.iter().map(|c| SortField::new(c.data_type().clone())).collect();
        Some(RowConverter::new(fields)?.convert_columns(columns)?)
    };
    // Rows without columns are all equal.
    let row = |i: u32| encoded.as_ref().map_or([].as_slice(), |e| e.row(i as usize).data());
    let mut wanted: HashMap<&[u8], usize> = HashMap::new();
    for &i in missing {
        *wanted.entry(row(i)).or_default() += 1;
    }
    let mut n_left = missing.len();
    insertions.retain(|&i| {
        if n_left == 0 {
            return true;
        }
        match wanted.get_mut(row(i)) {
            Some(n) if *n > 0 => {
                *n -= 1;
                n_left -= 1;
                false
            }
            _ => true,
        }
    });
    if n_left > 0 {
        let row = take_batch(batch, &UInt32Array::from(missing[..1].to_vec()))?;
        return Err(Error::internal(format!("{n_left} rows were deleted that are not there, such as {row:?}")));
    }
    Ok(())
}
