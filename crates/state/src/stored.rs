//! Rows of a stream where they lie for good: blocks in the order in which they came, with what is known of each.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, UInt64Array};
use millstream_types::Epoch;

use crate::cold::ColdChunk;

/// Rows that came one after the other and never change, to be read from where they lie.
#[derive(Clone)]
pub struct StoredBlock {
    /// The rows.
    pub rows: Arc<dyn ColdChunk>,
    /// When they were born: runs `(first row, epoch)`, the first with row 0, rows and epochs ascending.
    pub births: Vec<(u32, Epoch)>,
    /// The number of the object that they lie in: another object takes the place of all its blocks together.
    pub object: u64,
    /// What is known of the blocks of the object.
    pub statistics: Arc<Statistics>,
    /// Which of them this is.
    pub place: usize,
}

/// What is known of some blocks, column by column.
#[derive(Debug)]
pub struct Statistics {
    /// In the order of the columns.
    pub columns: Vec<ColumnStatistics>,
}

/// What is known of a column; one element a block.
#[derive(Clone, Debug)]
pub struct ColumnStatistics {
    /// No value is less than the first array's, or greater than the second's, of the column's type, in SQL's order; null where
    /// that is not known or all values are null. `None` if it is known of no block.
    pub bounds: Option<(ArrayRef, ArrayRef)>,
    /// The number of nulls.
    pub n_nulls: UInt64Array,
}

impl fmt::Debug for StoredBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredBlock").field("rows", &self.rows).field("births", &self.births).finish_non_exhaustive()
    }
}
