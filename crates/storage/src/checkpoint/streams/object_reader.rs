//! Reading an object of a stream: its index once, then of each block the columns that are asked for.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use millstream_state::{ColdChunk, ReadAhead, Statistics, StoredBlock};
use millstream_types::Result;

use super::super::block::decode_columns;
use super::super::object_file::{BegunIndex, NamedFile};
use super::format::{BlockEntry, ColumnEntry, HEADER, Index};
use super::object_writer::column_schemas;
use super::readers::{Reader, Readers};
use super::{StreamObjectEntry, statistics};
use crate::encoding::checksum;
use crate::errors::damaged;
use crate::object_store::{BegunRead, ObjectStore};
use crate::read_ahead::{ObjectRange, RangeReader};

/// An object whose index was read. It is not deleted before this is dropped.
pub(in crate::checkpoint) struct StreamObject {
    store: Arc<dyn ObjectStore>,
    reader: Reader,
    number: u64,
    pub(super) index: Index,
    statistics: Arc<Statistics>,
    /// A schema for each column.
    column_schemas: Vec<SchemaRef>,
}

/// The blocks of an object, with the slot of each. Those of one slot are in the order in which their rows came.
#[derive(Debug)]
pub struct StreamBlocks {
    /// The stream.
    pub stream: u64,
    /// The blocks.
    pub blocks: Vec<(u8, StoredBlock)>,
}

impl StreamBlocks {
    pub(in crate::checkpoint) fn of(object: Arc<StreamObject>) -> StreamBlocks {
        let block = |(place, block): (usize, &BlockEntry)| {
            let rows = BlockRows { object: Arc::clone(&object), place };
            let stored = StoredBlock {
                rows: Arc::new(rows),
                births: block.births.clone(),
                object: object.number,
                statistics: Arc::clone(&object.statistics),
                place,
            };
            (block.slot, stored)
        };
        StreamBlocks {
            stream: object.index.stream,
            blocks: object.index.blocks.iter().enumerate().map(block).collect(),
        }
    }
}

impl StreamObject {
    /// Begins to read the index of an object.
    pub(in crate::checkpoint) fn begin_open(store: &dyn ObjectStore, entry: &StreamObjectEntry) -> BegunIndex {
        NamedFile { path: &entry.path(), len: entry.len, index_checksum: entry.index_checksum }.begin(store)
    }

    /// Waits for the index of an object.
    ///
    /// # Errors
    /// XX001 naming the object if it is not there or not as it was written; 55000 if it is of another version.
    pub(in crate::checkpoint) fn open(
        store: Arc<dyn ObjectStore>,
        data_id: u128,
        entry: &StreamObjectEntry,
        index: BegunIndex,
        readers: &Arc<Readers>,
    ) -> Result<Arc<StreamObject>> {
        let path = entry.path();
        let file = NamedFile { path: &path, len: entry.len, index_checksum: entry.index_checksum };
        let index = file.read_index(&*store, index, &HEADER, data_id, Index::decode)?;
        if index.stream != entry.stream {
            return Err(damaged(&path, 0, "it belongs to another stream"));
        }
        Ok(Arc::new(StreamObject::new(store, entry, index, readers)))
    }

    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        entry: &StreamObjectEntry,
        index: Index,
        readers: &Arc<Readers>,
    ) -> StreamObject {
        StreamObject {
            store,
            reader: Readers::add(readers, entry.path()),
            number: entry.number(),
            statistics: Arc::new(statistics::by_column(&index.schema, &index.statistics)),
            column_schemas: column_schemas(&index.schema),
            index,
        }
    }

    pub(in crate::checkpoint) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.index.schema
    }

    pub(super) fn n_blocks(&self) -> usize {
        self.index.blocks.len()
    }

    /// Reads all blocks from front to back.
    pub(super) fn read_blocks(&self) -> RangeReader {
        let name: Arc<str> = self.reader.path().into();
        let whole = |block: &BlockEntry| ObjectRange {
            name: Arc::clone(&name),
            range: range_of(block, 0..block.columns.len()),
        };
        RangeReader::new(Arc::clone(&self.store), self.index.blocks.iter().map(whole))
    }

    /// Columns of a block that lie next to each other, of bytes that are to be those that were written.
    ///
    /// # Errors
    /// XX001 naming the object and the place if they are not.
    pub(super) fn check_bytes(&self, block: &BlockEntry, columns: Range<usize>, bytes: Vec<u8>) -> Result<Buffer> {
        let start = range_of(block, columns.clone()).start;
        let columns = &block.columns[columns];
        let mut rest = &*bytes;
        for column in columns {
            let (of_column, behind) = rest.split_at(column.len as usize);
            if checksum(of_column) != column.checksum {
                let at = start as usize + bytes.len() - rest.len();
                return Err(damaged(self.reader.path(), at, "a column of a block of rows does not read right"));
            }
            rest = behind;
        }
        Ok(Buffer::from_vec(bytes))
    }

    /// All columns of a block, of its bytes, which were checked.
    ///
    /// # Errors
    /// XX001 naming the object if they do not make sense.
    pub(super) fn decode_all(&self, place: usize, bytes: &Buffer) -> Result<RecordBatch> {
        let block = &self.index.blocks[place];
        let columns = self.decode_run(block, 0..block.columns.len(), bytes)?;
        let options = RecordBatchOptions::new().with_row_count(Some(block.n_rows as usize));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.index.schema), columns, &options)?)
    }

    /// Begins to read columns of a block, those that lie next to each other at once. Nothing if that is not worth while.
    fn begin(&self, place: usize, columns: &[usize]) -> Option<Vec<BegunRead>> {
        let block = &self.index.blocks[place];
        let begin = |run| self.store.begin_read(self.reader.path(), range_of(block, run));
        runs_of(columns).into_iter().map(begin).collect()
    }

    /// Columns of a block, in the given order, of what was begun to be read.
    ///
    /// # Errors
    /// As [`ColdChunk::read`].
    fn read(&self, place: usize, columns: &[usize], begun: Option<Vec<BegunRead>>) -> Result<RecordBatch> {
        let block = &self.index.blocks[place];
        let schema: SchemaRef = Arc::new(self.index.schema.project(columns)?);
        let mut begun = begun.into_iter().flatten();
        let mut read: Vec<(usize, ArrayRef)> = Vec::with_capacity(columns.len());
        for run in runs_of(columns) {
            let bytes = match begun.next() {
                Some(begun) => begun.wait()?,
                None => self.store.read_range(self.reader.path(), range_of(block, run.clone()))?,
            };
            let bytes = self.check_bytes(block, run.clone(), bytes)?;
            read.extend(run.clone().zip(self.decode_run(block, run, &bytes)?));
        }
        let place_of = |column| read.binary_search_by_key(column, |(column, _)| *column).expect("it is among them");
        let arrays = columns.iter().map(|column| Arc::clone(&read[place_of(column)].1)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(block.n_rows as usize));
        Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
    }

    /// Columns that lie next to each other.
    fn decode_run(&self, block: &BlockEntry, run: Range<usize>, bytes: &Buffer) -> Result<Vec<ArrayRef>> {
        let mut at = 0;
        let decode = |column: usize| {
            let len = block.columns[column].len as usize;
            at += len;
            self.decode(block, column, bytes.slice_with_length(at - len, len))
        };
        run.map(decode).collect()
    }

    fn decode(&self, block: &BlockEntry, column: usize, bytes: Buffer) -> Result<ArrayRef> {
        let wrong = |why: &str| {
            let why = format!("column {column} of a block of rows does not make sense: {why}");
            damaged(self.reader.path(), block.offset as usize, &why)
        };
        let decoded = decode_columns(bytes, block.columns[column].metadata_len, &self.column_schemas[column], None);
        let decoded = decoded.map_err(|error| wrong(&error.to_string()))?;
        if decoded.num_rows() != block.n_rows as usize {
            return Err(wrong("it has not as many rows as the index says"));
        }
        Ok(Arc::clone(decoded.column(0)))
    }
}

/// The columns that are wanted, as runs of neighbours, ascending.
fn runs_of(columns: &[usize]) -> Vec<Range<usize>> {
    let mut wanted = columns.to_vec();
    wanted.sort_unstable();
    wanted.dedup();
    wanted.chunk_by(|column, next| column + 1 == *next).map(|run| run[0]..run[run.len() - 1] + 1).collect()
}

/// Where columns of a block are that lie next to each other.
fn range_of(block: &BlockEntry, columns: Range<usize>) -> Range<u64> {
    let n_bytes = |columns: &[ColumnEntry]| columns.iter().map(|column| u64::from(column.len)).sum::<u64>();
    let start = block.offset + n_bytes(&block.columns[..columns.start]);
    start..start + n_bytes(&block.columns[columns])
}

/// The rows of a block.
struct BlockRows {
    object: Arc<StreamObject>,
    place: usize,
}

impl BlockRows {
    fn columns(&self, projection: Option<&[usize]>) -> Vec<usize> {
        projection.map_or_else(|| (0..self.object.column_schemas.len()).collect(), <[usize]>::to_vec)
    }

    fn entry(&self) -> &BlockEntry {
        &self.object.index.blocks[self.place]
    }
}

impl fmt::Debug for BlockRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, entry) = (self.object.reader.path(), self.entry());
        write!(f, "{} rows at {} of {path}", entry.n_rows, entry.offset)
    }
}

impl ColdChunk for BlockRows {
    fn read(&self, projection: Option<&[usize]>) -> Result<RecordBatch> {
        let columns = self.columns(projection);
        // Several requests can be under way at the same time.
        let begun = if runs_of(&columns).len() > 1 { self.object.begin(self.place, &columns) } else { None };
        self.object.read(self.place, &columns, begun)
    }

    fn read_ahead(&self, projection: Option<&[usize]>) -> Option<ReadAhead> {
        let (object, place, columns) = (Arc::clone(&self.object), self.place, self.columns(projection));
        let begun = object.begin(place, &columns)?;
        Some(ReadAhead::new(move || object.read(place, &columns, Some(begun))))
    }

    fn n_rows(&self) -> usize {
        self.entry().n_rows as usize
    }

    fn n_bytes(&self) -> usize {
        self.entry().len() as usize
    }
}
