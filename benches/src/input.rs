//! The input of the Nexmark queries: generated while the query runs, or before.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use millstream_connectors::{SourceOptions, create_source};
use millstream_runtime::Source;
use millstream_types::Result;

/// The relations that the queries read.
pub const TABLES: [&str; 3] = ["person", "auction", "bid"];

/// The generator of one table, without an end.
///
/// # Errors
/// If the interval is not positive.
pub fn nexmark_source(table: &str, event_interval_ms: f64) -> Result<Arc<dyn Source>> {
    let interval = event_interval_ms.to_string();
    let options = [("connector", "nexmark"), ("table", table), ("event_interval_ms", &interval)];
    create_source(&SourceOptions::new(options)?)
}

/// A source whose first offsets lie in memory; after them the same rows come again, and again.
pub struct PregeneratedSource {
    source: Arc<dyn Source>,
    /// Offsets a chunk.
    chunk_size: u64,
    chunks: Vec<RecordBatch>,
}

impl PregeneratedSource {
    /// Reads all columns of the first `n_chunks` times `chunk_size` offsets.
    ///
    /// # Errors
    /// Those of the source.
    pub fn new(source: Arc<dyn Source>, n_chunks: u64, chunk_size: u64) -> Result<Self> {
        let all: Vec<usize> = (0..source.schema().fields().len()).collect();
        let read = |chunk: u64| source.read(chunk * chunk_size..(chunk + 1) * chunk_size, &all);
        let chunks = (0..n_chunks).map(read).collect::<Result<Vec<_>>>()?;
        Ok(PregeneratedSource { source, chunk_size, chunks })
    }

    /// The rows of a range that lies within one chunk.
    fn read_within(&self, offsets: Range<u64>) -> Result<RecordBatch> {
        let chunk = offsets.start / self.chunk_size % self.chunks.len() as u64;
        let first = chunk * self.chunk_size;
        let in_chunk = |offset: u64| first + offset % self.chunk_size;
        // Counting rows costs the source nothing.
        let skipped = self.source.read(first..in_chunk(offsets.start), &[])?.num_rows();
        let end = in_chunk(offsets.start) + (offsets.end - offsets.start);
        let n_rows = self.source.read(in_chunk(offsets.start)..end, &[])?.num_rows();
        Ok(self.chunks[chunk as usize].slice(skipped, n_rows))
    }
}

impl Source for PregeneratedSource {
    fn schema(&self) -> SchemaRef {
        self.source.schema()
    }

    fn end(&self) -> Option<u64> {
        None
    }

    fn rate(&self) -> Option<f64> {
        None
    }

    fn read(&self, offsets: Range<u64>, projection: &[usize]) -> Result<RecordBatch> {
        let mut parts = Vec::new();
        let mut start = offsets.start;
        while start < offsets.end {
            let end = offsets.end.min((start / self.chunk_size + 1) * self.chunk_size);
            parts.push(self.read_within(start..end)?.project(projection)?);
            start = end;
        }
        match parts.len() {
            0 => Ok(self.chunks[0].slice(0, 0).project(projection)?),
            1 => Ok(parts.swap_remove(0)),
            _ => Ok(concat_batches(&parts[0].schema(), &parts)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_generated_before_is_what_is_generated_now() {
        for table in TABLES {
            let source = nexmark_source(table, 10.0).unwrap();
            let before = PregeneratedSource::new(source.clone(), 4, 250).unwrap();
            for range in [0..250, 0..1, 37..38, 240..260, 10..999, 500..500] {
                let expected = source.read(range.clone(), &[2, 0]).unwrap();
                assert_eq!(before.read(range.clone(), &[2, 0]).unwrap(), expected, "{table} {range:?}");
                let again = range.start + 3_000..range.end + 3_000;
                assert_eq!(before.read(again, &[2, 0]).unwrap(), expected, "{table} {range:?} again");
                assert_eq!(before.read(range, &[]).unwrap().num_rows(), expected.num_rows());
            }
        }
    }
}
