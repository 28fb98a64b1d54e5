//! Reading an object: its index once, then blocks as they are asked for.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_types::Result;

use super::OBJECTS;
use super::block::decode;
use super::format::{self, BlockEntry, Part, Section};
use super::manifest::ObjectEntry;
use super::object_file::{BegunIndex, NamedFile};
use crate::encoding::checksum;
use crate::errors::damaged;
use crate::object_store::ObjectStore;
use crate::read_ahead::{ObjectRange, RangeReader};

/// Rows of a block that are in a range of partitions.
#[derive(Clone, Debug)]
pub struct Piece {
    /// What becomes of them.
    pub part: Part,
    /// How many are in which partition, which ascend.
    pub runs: Vec<(u8, u32)>,
    /// The rows; of those that are gone, the columns of the identity.
    pub batch: RecordBatch,
}

/// An object whose index was read.
pub(super) struct Object {
    store: Arc<dyn ObjectStore>,
    path: Arc<str>,
    sections: Vec<Section>,
}

/// An object whose index is being read.
pub(super) struct OpeningObject {
    store: Arc<dyn ObjectStore>,
    path: Arc<str>,
    index: BegunIndex,
}

impl Object {
    /// Begins to read the index of an object.
    pub(super) fn begin_open(store: Arc<dyn ObjectStore>, entry: &ObjectEntry) -> OpeningObject {
        let path: Arc<str> = format!("{OBJECTS}/{}", entry.name).into();
        let index = NamedFile { path: &path, len: entry.len, index_checksum: entry.index_checksum }.begin(&*store);
        OpeningObject { store, path, index }
    }

    pub(super) fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Where a block is.
    pub(super) fn range_of(&self, block: &BlockEntry) -> ObjectRange {
        let range = block.offset..block.offset + u64::from(block.len);
        ObjectRange { name: Arc::clone(&self.path), range }
    }

    /// Reads blocks of this object, and of others in the same store.
    pub(super) fn reader(&self, blocks: impl IntoIterator<Item = ObjectRange>) -> RangeReader {
        RangeReader::new(Arc::clone(&self.store), blocks)
    }

    /// The rows of a block, of its bytes.
    ///
    /// # Errors
    /// XX001 naming the object and the place if they are not as they were written.
    pub(super) fn decode_block(
        &self,
        section: &Section,
        part: Part,
        block: &BlockEntry,
        bytes: Vec<u8>,
    ) -> Result<RecordBatch> {
        let at = block.offset as usize;
        if checksum(&bytes) != block.checksum {
            return Err(damaged(&self.path, at, "a block of rows does not read right"));
        }
        let schema = match part {
            Part::Gone => section.shape.gone_schema()?,
            Part::Rows => Arc::clone(&section.shape.schema),
        };
        let rows = decode(bytes, block.metadata_len, &schema)
            .map_err(|error| damaged(&self.path, at, &format!("a block of rows does not make sense: {error}")))?;
        if rows.num_rows() != block.n_rows() {
            return Err(damaged(&self.path, at, "a block has not as many rows as its index says"));
        }
        Ok(rows)
    }
}

impl OpeningObject {
    /// Waits for the index.
    ///
    /// # Errors
    /// XX001 naming the object if it is not there or not as it was written; 55000 if it is of another version.
    pub(super) fn finish(self, data_id: u128, entry: &ObjectEntry) -> Result<Object> {
        let file = NamedFile { path: &self.path, len: entry.len, index_checksum: entry.index_checksum };
        let sections = file.read_index(&*self.store, self.index, &format::HEADER, data_id, format::decode_index)?;
        Ok(Object { store: self.store, path: self.path, sections })
    }
}

/// The rows of a block that are in a range of partitions: where they are in it, and how many of which.
pub(super) fn slice_of(block: &BlockEntry, partitions: &Range<usize>) -> (Range<usize>, Vec<(u8, u32)>) {
    let (mut before, mut n_rows) = (0, 0);
    let mut runs = Vec::new();
    for &(partition, n) in &block.runs {
        if usize::from(partition) < partitions.start {
            before += n as usize;
        } else if usize::from(partition) < partitions.end {
            runs.push((partition, n));
            n_rows += n as usize;
        }
    }
    (before..before + n_rows, runs)
}
