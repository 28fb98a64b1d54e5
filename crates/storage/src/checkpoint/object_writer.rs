//! Writing an object: sections of rows by partition, block after block.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use millstream_state::{HashedRows, TableShape};
use millstream_types::delta::values_bytes;
use millstream_types::hash::partition_of;
use millstream_types::{Error, Result};

use super::block::BlockEncoder;
use super::format::{self, BlockEntry, Part, Section, TableId};
use super::manifest::{ObjectEntry, OwnerShare};
use super::net::interleave;
use super::object_file::{ObjectFile, UnnamedFile};
use super::store::CheckpointOptions;
use super::{BLOCK_ROWS_MAX, OBJECTS};
use crate::encoding::checksum;
use crate::object_store::ObjectStore;

/// An object that is being written. Dropped before [`ObjectWriter::finish`], it was never there.
///
/// Memory is bounded by a block of each part, the index, and 16 bytes for each row that [`ObjectWriter::add`] takes at once.
pub struct ObjectWriter {
    file: ObjectFile,
    name: String,
    block_bytes: usize,
    worker: Option<u32>,
    encoder: BlockEncoder,
    sections: Vec<Section>,
    /// The section that is open, with the rows that are no block yet.
    open: Option<OpenSection>,
}

struct OpenSection {
    section: Section,
    gone: Pending,
    rows: Pending,
}

/// Rows that wait until they are a block.
#[derive(Default)]
struct Pending {
    pieces: Vec<RecordBatch>,
    runs: Vec<(u8, u32)>,
    n_rows: usize,
    n_bytes: usize,
}

/// An object that is there durably, and that nothing names yet. Dropped, it is deleted again.
pub struct WrittenObject {
    pub(super) entry: ObjectEntry,
    pub(super) file: UnnamedFile,
}

impl ObjectWriter {
    /// Begins an object of a name; `worker` is `None` if it is made of several.
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        name: String,
        options: &CheckpointOptions,
        worker: Option<u32>,
    ) -> Result<ObjectWriter> {
        let file = ObjectFile::new(store, format!("{OBJECTS}/{name}"), &format::HEADER, options.data_id);
        let (encoder, sections) = (BlockEncoder::new()?, Vec::new());
        Ok(ObjectWriter { file, name, block_bytes: options.block_bytes, worker, encoder, sections, open: None })
    }

    /// Adds the change of a table: what of the last checkpoint's rows is gone, by identity, and what rows came.
    ///
    /// # Errors
    /// 53100 and 58030 if it cannot be written; internal, if rows are not of the table's shape. Nothing can be added
    /// afterwards.
    pub fn add(&mut self, table: TableId, shape: &TableShape, gone: &[HashedRows], rows: &[HashedRows]) -> Result<()> {
        let gone_schema = shape.gone_schema()?;
        let is_right = gone.iter().all(|g| g.batch.schema().fields() == gone_schema.fields())
            && rows.iter().all(|r| r.batch.schema().fields() == shape.schema.fields())
            && gone.iter().chain(rows).all(|r| r.batch.num_rows() == r.hashes.len());
        if !is_right {
            return Err(Error::internal("rows of a checkpoint are not of their table's shape"));
        }
        if gone.iter().chain(rows).all(|r| r.hashes.is_empty()) {
            return Ok(());
        }
        self.begin_section(table, shape.clone());
        self.push_in_order(Part::Gone, shape, gone)?;
        self.push_in_order(Part::Rows, shape, rows)?;
        self.end_section()
    }

    /// Adds rows in the order in which they lie in a section.
    fn push_in_order(&mut self, part: Part, shape: &TableShape, rows: &[HashedRows]) -> Result<()> {
        let batches: Vec<&RecordBatch> = rows.iter().map(|r| &r.batch).collect();
        let n_rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
        let n_bytes: usize = batches.iter().map(|batch| values_bytes(batch)).sum();
        let mut places: Vec<(u64, u32, u32)> = Vec::with_capacity(n_rows);
        for (b, hashed) in (0..).zip(rows) {
            let partitions = hashed.hashes.iter().map(|&hash| partition_of(hash) as u8);
            let order = part.order_of(shape, &hashed.batch, partitions);
            places.extend(order.into_iter().zip(0..).map(|(order, r)| (order, b, r)));
        }
        places.sort_unstable();
        let rows_max = (self.block_bytes / (n_bytes / n_rows.max(1)).max(1)).clamp(1, BLOCK_ROWS_MAX);
        for places in places.chunks(rows_max) {
            let indices: Vec<(usize, usize)> = places.iter().map(|&(_, b, r)| (b as usize, r as usize)).collect();
            let runs = format::runs(places.iter().map(|&(order, ..)| order));
            self.push(part, runs, interleave(&batches, &indices)?)?;
        }
        Ok(())
    }

    /// Begins the section of a table. A table may have several; they apply in order.
    pub(super) fn begin_section(&mut self, table: TableId, shape: TableShape) {
        let section = Section { table, shape, gone: Vec::new(), rows: Vec::new() };
        self.open = Some(OpenSection { section, gone: Pending::default(), rows: Pending::default() });
    }

    /// Adds rows to a part of the open section, which come after those that it has, in order.
    pub(super) fn push(&mut self, part: Part, runs: Vec<(u8, u32)>, rows: RecordBatch) -> Result<()> {
        let bytes_per_row = values_bytes(&rows).div_ceil(rows.num_rows().max(1)).max(1);
        let block_bytes = self.block_bytes;
        let mut runs = runs.into_iter();
        let mut run = runs.next();
        let mut from = 0;
        while from < rows.num_rows() {
            let pending = self.pending(part);
            let fits = (block_bytes.saturating_sub(pending.n_bytes) / bytes_per_row)
                .min(BLOCK_ROWS_MAX - pending.n_rows)
                .min(rows.num_rows() - from);
            if fits == 0 && pending.n_rows > 0 {
                self.write_block(part)?;
                continue;
            }
            let n_rows = fits.max(1);
            pending.pieces.push(rows.slice(from, n_rows));
            pending.n_rows += n_rows;
            pending.n_bytes += n_rows * bytes_per_row;
            let mut left = n_rows as u32;
            while let Some((partition, n_rows)) = run.filter(|_| left > 0) {
                let taken = left.min(n_rows);
                pending.add_run(partition, taken);
                left -= taken;
                run = if taken < n_rows { Some((partition, n_rows - taken)) } else { runs.next() };
            }
            from += n_rows;
        }
        Ok(())
    }

    /// Ends the open section.
    pub(super) fn end_section(&mut self) -> Result<()> {
        self.write_block(Part::Gone)?;
        self.write_block(Part::Rows)?;
        let section = self.open.take().expect("a section is open").section;
        if !section.gone.is_empty() || !section.rows.is_empty() {
            self.sections.push(section);
        }
        Ok(())
    }

    /// Ends the open section, if one is, as if it had never begun; what was written of it lies in the object unused.
    pub(super) fn abandon_section(&mut self) {
        self.open = None;
    }

    /// Adds a section whose blocks are bytes that were written before.
    pub(super) fn copy_section(
        &mut self,
        section: &Section,
        mut read_next: impl FnMut() -> Result<Vec<u8>>,
    ) -> Result<()> {
        let mut copied = section.clone();
        for block in copied.gone.iter_mut().chain(&mut copied.rows) {
            let bytes = read_next()?;
            block.offset = self.file.write(&bytes)?;
        }
        self.sections.push(copied);
        Ok(())
    }

    fn pending(&mut self, part: Part) -> &mut Pending {
        let open = self.open.as_mut().expect("a section is open");
        match part {
            Part::Gone => &mut open.gone,
            Part::Rows => &mut open.rows,
        }
    }

    fn write_block(&mut self, part: Part) -> Result<()> {
        let pending = mem::take(self.pending(part));
        let Some(first) = pending.pieces.first() else { return Ok(()) };
        let rows = match pending.pieces.as_slice() {
            [rows] => rows.clone(),
            pieces => concat_batches(&first.schema(), pieces)?,
        };
        let encoded = self.encoder.encode(&rows)?;
        let entry = BlockEntry {
            offset: self.file.write(&encoded.bytes)?,
            len: encoded.bytes.len() as u32,
            metadata_len: encoded.metadata_len,
            checksum: checksum(&encoded.bytes),
            decoded_bytes: pending.n_bytes as u64,
            runs: pending.runs,
        };
        let section = &mut self.open.as_mut().expect("a section is open").section;
        match part {
            Part::Gone => section.gone.push(entry),
            Part::Rows => section.rows.push(entry),
        }
        Ok(())
    }

    /// Makes the object durable; `None` if nothing was added, and then there is none.
    ///
    /// # Errors
    /// 53100 and 58030 if it cannot be written; the object is not there then.
    pub fn finish(self) -> Result<Option<WrittenObject>> {
        if self.sections.is_empty() {
            return Ok(None);
        }
        let finished = self.file.finish(&format::encode_index(&self.sections)?)?;
        let mut shares: BTreeMap<u64, OwnerShare> = BTreeMap::new();
        for section in &self.sections {
            let owner = section.table.owner;
            let share = shares.entry(owner).or_insert(OwnerShare { owner, n_bytes: 0, n_rows: 0, n_gone: 0 });
            share.n_bytes += section.n_bytes();
            share.n_rows += format::n_rows(&section.rows);
            share.n_gone += format::n_rows(&section.gone);
        }
        let entry = ObjectEntry {
            name: self.name,
            after: 0,
            up_to: 0,
            len: finished.len,
            index_checksum: finished.index_checksum,
            worker: self.worker,
            shares: shares.into_values().collect(),
        };
        Ok(Some(WrittenObject { entry, file: finished.file }))
    }
}

impl Pending {
    fn add_run(&mut self, partition: u8, n_rows: u32) {
        match self.runs.last_mut() {
            Some((last, n)) if *last == partition => *n += n_rows,
            last => {
                debug_assert!(last.is_none_or(|(last, _)| *last < partition), "partitions ascend");
                self.runs.push((partition, n_rows));
            }
        }
    }
}

impl WrittenObject {
    /// The length of the object in bytes.
    pub fn n_bytes(&self) -> u64 {
        self.entry.len
    }
}
