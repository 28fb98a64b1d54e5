//! Deltas: sets of weighted rows, the one thing that flows between operators.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, GenericByteViewArray, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute;
use arrow::datatypes::{ByteViewType, DataType, SchemaRef};

use crate::Result;

/// One weight a row.
pub type Weights = ScalarBuffer<i64>;

/// A Z-set: a batch of rows and a weight for each (+n inserts, -n deletes).
///
/// Without weights every row counts +1. The same row may stand in a delta more than once, and its weights add up;
/// within an epoch partial sums may be negative. A weight of 0 is allowed and means nothing.
#[derive(Clone, Debug)]
pub struct Delta {
    batch: RecordBatch,
    weights: Option<Weights>,
}

impl Delta {
    /// Rows that are all inserted once.
    pub fn inserts(batch: RecordBatch) -> Self {
        Delta { batch, weights: None }
    }

    /// Rows with a weight each.
    ///
    /// # Panics
    /// If there are not as many weights as rows.
    pub fn new(batch: RecordBatch, weights: Option<Weights>) -> Self {
        if let Some(weights) = &weights {
            assert_eq!(weights.len(), batch.num_rows(), "one weight a row");
        }
        Delta { batch, weights }
    }

    /// A delta without rows.
    pub fn empty(schema: SchemaRef) -> Self {
        Delta::inserts(RecordBatch::new_empty(schema))
    }

    /// The number of rows, whatever their weights.
    pub fn n_rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.n_rows() == 0
    }

    /// The rows.
    pub fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    /// The columns of the rows.
    pub fn columns(&self) -> &[ArrayRef] {
        self.batch.columns()
    }

    /// The schema of the rows.
    pub fn schema(&self) -> SchemaRef {
        self.batch.schema()
    }

    /// The weights; `None` means +1 each.
    pub fn weights(&self) -> Option<&Weights> {
        self.weights.as_ref()
    }

    /// The weight of one row.
    pub fn weight(&self, row_idx: usize) -> i64 {
        self.weights.as_ref().map_or(1, |w| w[row_idx])
    }

    /// Splits into rows and weights.
    pub fn into_parts(self) -> (RecordBatch, Option<Weights>) {
        (self.batch, self.weights)
    }

    /// The same rows and weights under other columns, one value a row.
    ///
    /// # Errors
    /// If a column's length or type does not fit the schema.
    pub fn with_columns(&self, schema: SchemaRef, columns: Vec<ArrayRef>) -> Result<Self> {
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(self.n_rows()));
        let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
        Ok(Delta { batch, weights: self.weights.clone() })
    }

    /// Every weight times -1.
    #[must_use]
    pub fn negate(&self) -> Self {
        let weights = match &self.weights {
            Some(w) => w.iter().map(|w| -w).collect(),
            None => std::iter::repeat_n(-1i64, self.n_rows()).collect(),
        };
        Delta { batch: self.batch.clone(), weights: Some(weights) }
    }

    /// The rows for which `mask` is true.
    ///
    /// # Errors
    /// If a column's type has no filter kernel.
    pub fn filter(&self, mask: &BooleanArray) -> Result<Self> {
        let weights = match &self.weights {
            Some(w) => {
                let w = arrow::array::Int64Array::new(w.clone(), None);
                let kept = compute::filter(&w, mask)?;
                let kept = kept.as_any().downcast_ref::<arrow::array::Int64Array>().expect("filter keeps the type");
                Some(kept.values().clone())
            }
            None => None,
        };
        Ok(Delta { batch: compute::filter_record_batch(&self.batch, mask)?, weights })
    }

    /// The rows with the given indices, in that order.
    ///
    /// # Errors
    /// If a column's type has no take kernel.
    pub fn take(&self, rows: &UInt32Array) -> Result<Self> {
        let weights = self.weights.as_ref().map(|w| rows.values().iter().map(|&r| w[r as usize]).collect());
        Ok(Delta { batch: take_batch(&self.batch, rows)?, weights })
    }

    /// A run of rows, sharing memory with this delta.
    #[must_use]
    pub fn slice(&self, offset: usize, len: usize) -> Self {
        Delta { batch: self.batch.slice(offset, len), weights: self.weights.as_ref().map(|w| w.slice(offset, len)) }
    }

    /// The same rows, without what else lies in the buffers of their views, where that is more than they have and more
    /// than a few kilobytes: it would live for as long as they do.
    ///
    /// The cost is that of looking at each view, and of copying texts from buffers that are mostly of others.
    #[must_use]
    pub fn compact(self) -> Self {
        if !self.columns().iter().any(is_sparse) {
            return self;
        }
        let compact = |column: &ArrayRef| -> ArrayRef {
            match column.data_type() {
                DataType::Utf8View if is_sparse(column) => Arc::new(column.as_string_view().gc()),
                DataType::BinaryView if is_sparse(column) => Arc::new(column.as_binary_view().gc()),
                _ => Arc::clone(column),
            }
        };
        let columns = self.columns().iter().map(compact).collect();
        let batch = RecordBatch::try_new(self.schema(), columns).expect("the columns are of the same types and length");
        Delta { batch, weights: self.weights }
    }

    /// All rows of several deltas of one schema.
    ///
    /// # Errors
    /// If schemas differ.
    pub fn concat(schema: &SchemaRef, deltas: &[Delta]) -> Result<Self> {
        if let [one] = deltas {
            return Ok(one.clone());
        }
        let batch = compute::concat_batches(schema, deltas.iter().map(Delta::batch))?;
        let weights = deltas.iter().any(|d| d.weights.is_some()).then(|| {
            let mut all = Vec::with_capacity(batch.num_rows());
            for delta in deltas {
                match &delta.weights {
                    Some(w) => all.extend_from_slice(w),
                    None => all.resize(all.len() + delta.n_rows(), 1),
                }
            }
            ScalarBuffer::from(all)
        });
        Ok(Delta { batch, weights })
    }

    /// Memory behind the rows, in bytes; buffers shared with others count in full.
    pub fn n_bytes(&self) -> usize {
        self.batch.get_array_memory_size() + self.weights.as_ref().map_or(0, |w| w.len() * size_of::<i64>())
    }

    /// Bytes of the rows themselves: what they share with other rows counts once for all of them.
    pub fn values_bytes(&self) -> usize {
        values_bytes(&self.batch) + self.weights.as_ref().map_or(0, |w| w.len() * size_of::<i64>())
    }
}

/// Bytes of the values of a batch, whatever else the buffers hold in which they lie.
pub fn values_bytes(batch: &RecordBatch) -> usize {
    let of_column = |column: &ArrayRef| match column.data_type() {
        DataType::Utf8View => views_bytes(column.as_string_view()),
        DataType::BinaryView => views_bytes(column.as_binary_view()),
        _ => column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size()),
    };
    batch.columns().iter().map(of_column).sum()
}

/// Bytes of a buffer of views that may be of others.
const SPARSE_BYTES_MIN: usize = 1 << 16;

/// Whether the buffers of views have more of others than of this column.
fn is_sparse(column: &ArrayRef) -> bool {
    fn of_views<T: ByteViewType>(array: &GenericByteViewArray<T>) -> bool {
        let n_bytes: usize = array.data_buffers().iter().map(|buffer| buffer.len()).sum();
        n_bytes > SPARSE_BYTES_MIN && array.total_buffer_bytes_used() < n_bytes / 2
    }
    match column.data_type() {
        DataType::Utf8View => of_views(column.as_string_view()),
        DataType::BinaryView => of_views(column.as_binary_view()),
        _ => false,
    }
}

fn views_bytes<T: ByteViewType>(array: &GenericByteViewArray<T>) -> usize {
    array.len() * size_of::<u128>() + array.total_buffer_bytes_used()
}

/// The rows of `batch` with the given indices, also for a batch without columns.
///
/// # Errors
/// If a column's type has no take kernel.
pub fn take_batch(batch: &RecordBatch, rows: &UInt32Array) -> Result<RecordBatch> {
    let columns =
        batch.columns().iter().map(|c| compute::take(c.as_ref(), rows, None)).collect::<Result<Vec<_>, _>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &options)?)
}

/// A schema from `(name, type)` pairs, every column nullable.
pub fn schema_of(columns: &[(&str, DataType)]) -> SchemaRef {
    let fields: Vec<_> = columns.iter().map(|(name, t)| arrow::datatypes::Field::new(*name, t.clone(), true)).collect();
    Arc::new(arrow::datatypes::Schema::new(fields))
}
