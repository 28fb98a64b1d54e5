//! What a connector implements to be read from.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_types::Result;

/// A replayable source, addressed by offset: the same range gives the same rows, at any time, on any worker.
///
/// The coordinator binds a range of offsets to each epoch and gives every worker a part of it; workers read their parts
/// at the same time. An offset is whatever the source counts by; a range of `n` offsets may hold fewer than `n` rows
/// (a Nexmark stream counts events of all kinds), never more.
pub trait Source: Send + Sync {
    /// All columns, in order.
    fn schema(&self) -> SchemaRef;

    /// The offset after the last one, if the source ends.
    fn end(&self) -> Option<u64>;

    /// How many offsets a second become available; `None` if as many as are wanted.
    fn rate(&self) -> Option<f64>;

    /// The rows of a range, with only the columns of `projection` (indices into [`Source::schema`], in that order). A
    /// column that is not asked for costs nothing. An empty projection gives a batch without columns whose row count is
    /// right.
    ///
    /// # Errors
    /// External, if the rows cannot be had now.
    fn read(&self, offsets: Range<u64>, projection: &[usize]) -> Result<RecordBatch>;
}
