//! Writing an object of a stream: rows of each slot in the order in which they come, block after block.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use millstream_types::delta::values_bytes;
use millstream_types::{Epoch, Error, Result};

use super::super::block::BlockEncoder;
use super::super::object_file::{ObjectFile, UnnamedFile};
use super::super::store::Shared;
use super::format::{BlockEntry, ColumnEntry, HEADER, Index, are_births};
use super::object_reader::StreamObject;
use super::readers::Readers;
use super::{BLOCK_ROWS_MAX, StreamObjectEntry, statistics};
use crate::checkpoint::STREAMS;
use crate::encoding::checksum;
use crate::object_store::ObjectStore;

/// An object of a stream that is being written. Dropped before [`StreamObjectWriter::finish`], it was never there.
///
/// Memory is bounded by a block of each slot that has rows, and the index.
pub struct StreamObjectWriter {
    // What it is.
    name: String,
    stream: u64,
    schema: SchemaRef,
    block_bytes: usize,
    store: Arc<dyn ObjectStore>,
    readers: Arc<Readers>,
    // What is written of it.
    file: ObjectFile,
    encoder: BlockEncoder,
    /// A schema for each column.
    column_schemas: Vec<SchemaRef>,
    blocks: Vec<BlockEntry>,
    /// What is known of the blocks, a row each.
    statistics: Vec<RecordBatch>,
    /// Rows that are no block yet, by slot.
    pending: BTreeMap<u8, Pending>,
}

/// Rows that wait until they are a block.
#[derive(Default)]
struct Pending {
    pieces: Vec<RecordBatch>,
    births: Vec<(u32, Epoch)>,
    n_rows: usize,
    n_bytes: usize,
}

/// An object of a stream that is there durably, and that nothing names yet. Dropped, it is deleted again.
pub struct WrittenStreamObject {
    pub(in crate::checkpoint) entry: StreamObjectEntry,
    pub(in crate::checkpoint) object: Arc<StreamObject>,
    pub(in crate::checkpoint) file: UnnamedFile,
}

impl StreamObjectWriter {
    pub(in crate::checkpoint) fn new(
        shared: &Shared,
        number: u64,
        stream: u64,
        schema: &SchemaRef,
    ) -> Result<StreamObjectWriter> {
        let name = format!("{number:020}-{}-{stream}.obj", shared.options.term);
        let store = Arc::clone(&shared.store);
        let file = ObjectFile::new(Arc::clone(&store), format!("{STREAMS}/{name}"), &HEADER, shared.options.data_id);
        Ok(StreamObjectWriter {
            name,
            stream,
            schema: Arc::clone(schema),
            block_bytes: shared.options.stream_block_bytes,
            store,
            readers: Arc::clone(&shared.readers),
            file,
            encoder: BlockEncoder::new()?,
            column_schemas: column_schemas(schema),
            blocks: Vec::new(),
            statistics: Vec::new(),
            pending: BTreeMap::new(),
        })
    }

    /// Adds rows of a slot, which came one after the other, and after those that it has. Runs of `births` say in which
    /// epoch the rows from one on were born; the first begins with row 0, and rows and epochs ascend.
    ///
    /// # Errors
    /// 53100 and 58030 if they cannot be written; internal, if rows or births are not such. Nothing can be added afterwards.
    pub fn push(&mut self, slot: u8, births: &[(u32, Epoch)], rows: &RecordBatch) -> Result<()> {
        let n_rows = rows.num_rows();
        if n_rows == 0 {
            return Ok(());
        }
        if rows.schema().fields() != self.schema.fields() || !are_births(births, n_rows) {
            return Err(Error::internal("rows of a stream are not of its columns, or not in order"));
        }
        let bytes_per_row = values_bytes(rows).div_ceil(n_rows).max(1);
        let mut from = 0;
        while from < n_rows {
            let pending = self.pending.entry(slot).or_default();
            let is_older = pending.births.last().is_some_and(|(_, last)| births[0].1 < *last && from == 0);
            let room = self.block_bytes.saturating_sub(pending.n_bytes) / bytes_per_row;
            let fits = room.min(BLOCK_ROWS_MAX - pending.n_rows).min(n_rows - from);
            if pending.n_rows > 0 && (fits == 0 || is_older) {
                self.write_block(slot)?;
                continue;
            }
            let to = from + fits.max(1);
            pending.add_births(births, from..to);
            pending.pieces.push(rows.slice(from, to - from));
            pending.n_rows += to - from;
            pending.n_bytes += (to - from) * bytes_per_row;
            from = to;
        }
        Ok(())
    }

    /// Adds the rows of a block of another object, of which `bytes` are to be the bytes: as it is if it is at least half full.
    pub(super) fn push_block(&mut self, object: &StreamObject, place: usize, bytes: Vec<u8>) -> Result<()> {
        if object.schema() != &self.schema {
            return Err(Error::internal("objects of a stream have several schemas"));
        }
        let entry = &object.index.blocks[place];
        let (n_rows, n_bytes) = (entry.n_rows as usize, entry.decoded_bytes as usize);
        let is_small = 2 * n_rows < BLOCK_ROWS_MAX && 2 * n_bytes < self.block_bytes;
        let bytes = object.check_bytes(entry, 0..entry.columns.len(), bytes)?;
        if is_small {
            return self.push(entry.slot, &entry.births, &object.decode_all(place, &bytes)?);
        }
        self.write_block(entry.slot)?;
        self.statistics.push(object.index.statistics.slice(place, 1));
        self.blocks.push(BlockEntry { offset: self.file.write(&bytes)?, ..entry.clone() });
        Ok(())
    }

    /// Makes a block of the rows of a slot that wait.
    fn write_block(&mut self, slot: u8) -> Result<()> {
        let Some(pending) = self.pending.get_mut(&slot).map(mem::take) else { return Ok(()) };
        let rows = match pending.pieces.as_slice() {
            [] => return Ok(()),
            [rows] => rows.clone(),
            pieces => concat_batches(&self.schema, pieces)?,
        };
        let (mut bytes, mut columns) = (Vec::new(), Vec::with_capacity(rows.num_columns()));
        for (column, schema) in rows.columns().iter().zip(&self.column_schemas) {
            let column = RecordBatch::try_new(Arc::clone(schema), vec![Arc::clone(column)])?;
            let encoded = self.encoder.encode(&column)?;
            let len = u32::try_from(encoded.bytes.len());
            columns.push(ColumnEntry {
                len: len.map_err(|_| Error::internal("a column of one block has 4 GiB"))?,
                metadata_len: encoded.metadata_len,
                checksum: checksum(&encoded.bytes),
            });
            bytes.extend(encoded.bytes);
        }
        self.statistics.push(statistics::of_rows(&rows)?);
        self.blocks.push(BlockEntry {
            slot,
            n_rows: rows.num_rows() as u32,
            offset: self.file.write(&bytes)?,
            decoded_bytes: pending.n_bytes as u64,
            births: pending.births,
            columns,
        });
        Ok(())
    }

    /// Makes the object durable; `None` if it has no rows, and then there is none.
    ///
    /// # Errors
    /// 53100 and 58030 if it cannot be written; the object is not there then.
    pub fn finish(mut self) -> Result<Option<WrittenStreamObject>> {
        for slot in self.pending.keys().copied().collect::<Vec<u8>>() {
            self.write_block(slot)?;
        }
        let Some(first) = self.statistics.first() else { return Ok(None) };
        let statistics = concat_batches(&first.schema(), &self.statistics)?;
        let index = Index { stream: self.stream, schema: self.schema, blocks: self.blocks, statistics };
        let bytes = index.encode()?;
        let finished = self.file.finish(&bytes)?;
        // As others read it, and without the rows of which the bounds may have been views.
        let index = Index::decode(&bytes).ok_or_else(|| Error::internal("an index that does not read right"))?;
        let entry = StreamObjectEntry {
            name: self.name,
            stream: self.stream,
            after: 0,
            up_to: 0,
            since_us: 0,
            now_us: 0,
            len: finished.len,
            index_checksum: finished.index_checksum,
            n_rows: index.blocks.iter().map(|block| u64::from(block.n_rows)).sum(),
            decoded_bytes: index.blocks.iter().map(|block| block.decoded_bytes).sum(),
        };
        let object = StreamObject::new(self.store, &entry, index, &self.readers);
        Ok(Some(WrittenStreamObject { entry, object: Arc::new(object), file: finished.file }))
    }
}

/// A schema for each column.
pub(super) fn column_schemas(schema: &Schema) -> Vec<SchemaRef> {
    schema.fields().iter().map(|field| Arc::new(Schema::new(vec![Arc::clone(field)]))).collect()
}

impl Pending {
    /// Adds the births of a range of rows that are added.
    fn add_births(&mut self, births: &[(u32, Epoch)], range: Range<usize>) {
        for (i, &(row, epoch)) in births.iter().enumerate() {
            let start = range.start.max(row as usize);
            let end = births.get(i + 1).map_or(range.end, |&(next, _)| range.end.min(next as usize));
            if start < end && self.births.last().is_none_or(|&(_, last)| last != epoch) {
                self.births.push(((self.n_rows + start - range.start) as u32, epoch));
            }
        }
    }
}

impl WrittenStreamObject {
    /// The length of the object in bytes.
    pub fn n_bytes(&self) -> u64 {
        self.entry.len
    }

    /// How many rows it has.
    pub fn n_rows(&self) -> u64 {
        self.entry.n_rows
    }
}
