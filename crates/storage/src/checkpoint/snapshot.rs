//! Reading a checkpoint: the changes of a table, oldest first, or what they come to.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_state::{StoredBlock, TableShape, read_blocks};
use millstream_types::hash::N_PARTITIONS;
use millstream_types::{Error, Result};
use parking_lot::Mutex;

use super::format::{BlockEntry, Part, Section, TableId};
use super::manifest::Manifest;
use super::net::{Change, Identities, net, rows_at};
use super::object_file::BegunIndex;
use super::object_reader::{Object, OpeningObject, Piece, slice_of};
use super::store::{CheckpointStore, Hold};
use super::streams::{StreamBlocks, StreamObject, StreamObjectEntry};
use super::{BLOCK_ROWS_MAX, manifest::ObjectEntry};
use crate::object_store::ObjectStore;
use crate::read_ahead::ObjectRange;

/// So many indexes are read at the same time.
const OPENED_AT_ONCE: usize = 16;

/// A checkpoint to be read. What it needs is not deleted before it is dropped.
///
/// Indexes are read when they are first needed and kept; rows are not. Calls may come from several threads.
pub struct Snapshot {
    hold: Hold,
    store: Arc<dyn ObjectStore>,
    /// The objects that were opened, in the manifest's order.
    objects: Vec<Mutex<Option<Arc<Object>>>>,
}

/// The change of a table in an object.
pub(super) struct TableSection {
    pub(super) object: Arc<Object>,
    /// Which of its sections.
    pub(super) section_idx: usize,
}

impl TableSection {
    /// All of a table that an object has, oldest first.
    pub(super) fn all_in(object: &Arc<Object>, table: TableId) -> Vec<TableSection> {
        let is_of_table = |i: &usize| object.sections()[*i].table == table;
        let of_table = (0..object.sections().len()).filter(is_of_table);
        of_table.map(|section_idx| TableSection { object: Arc::clone(object), section_idx }).collect()
    }

    pub(super) fn section(&self) -> &Section {
        &self.object.sections()[self.section_idx]
    }
}

/// All changes of a table, oldest first, of a range of partitions, in pieces that are read one by one.
pub struct TableChanges {
    pieces: Vec<PieceAt>,
}

struct PieceAt {
    object: Arc<Object>,
    section_idx: usize,
    part: Part,
    block_idx: usize,
    slice: Range<usize>,
    runs: Vec<(u8, u32)>,
}

impl Snapshot {
    pub(super) fn new(hold: Hold, store: Arc<dyn ObjectStore>) -> Snapshot {
        let objects = hold.manifest().objects.iter().map(|_| Mutex::default()).collect();
        Snapshot { hold, store, objects }
    }

    /// The newest checkpoint of a data directory that nobody writes.
    ///
    /// # Errors
    /// XX001 if there is none, or its manifest does not read right; 58030 if it cannot be read.
    pub(crate) fn of_newest(store: Arc<dyn ObjectStore>, data_id: u128) -> Result<Snapshot> {
        CheckpointStore::read_newest(store, data_id)
    }

    pub(crate) fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }

    /// Reads everything that lives once.
    ///
    /// # Errors
    /// XX001 naming the object, and the place, of what does not read right; 58030 if the disk fails.
    pub fn verify(&self) -> Result<()> {
        for &owner in &self.manifest().owners {
            for table in self.tables(owner)?.into_keys() {
                self.changes(table, &(0..N_PARTITIONS))?.read_all().try_for_each(|piece| piece.map(drop))?;
            }
        }
        for &stream in self.manifest().stream_floors.keys() {
            let blocks: Vec<StoredBlock> = self.stream_blocks(stream)?.into_iter().map(|(_, block)| block).collect();
            read_blocks(&blocks).try_for_each(|rows| rows.map(drop))?;
        }
        Ok(())
    }

    /// What the checkpoint says of itself.
    pub fn manifest(&self) -> &Manifest {
        self.hold.manifest()
    }

    /// The tables of an owner and what their rows are.
    ///
    /// # Errors
    /// XX001 naming the object if an object that has something of this owner cannot be read; 58030 if the disk fails.
    pub fn tables(&self, owner: u64) -> Result<BTreeMap<TableId, TableShape>> {
        let mut tables = BTreeMap::new();
        for object in self.objects_of(owner)? {
            let sections = object.sections().iter().filter(|section| section.table.owner == owner);
            tables.extend(sections.map(|section| (section.table, section.shape.clone())));
        }
        Ok(tables)
    }

    /// The changes of a table, for the rows of a range of partitions. Reads indexes, but no rows.
    ///
    /// # Errors
    /// As [`Snapshot::tables`].
    pub fn changes(&self, table: TableId, partitions: &Range<usize>) -> Result<TableChanges> {
        let mut pieces = Vec::new();
        for at in self.sections_of(table)? {
            let section = at.section();
            for part in [Part::Gone, Part::Rows] {
                for (block_idx, block) in section.blocks(part).iter().enumerate() {
                    let (slice, runs) = slice_of(block, partitions);
                    if !slice.is_empty() {
                        let (object, section_idx) = (Arc::clone(&at.object), at.section_idx);
                        pieces.push(PieceAt { object, section_idx, part, block_idx, slice, runs });
                    }
                }
            }
        }
        Ok(TableChanges { pieces })
    }

    /// The rows of a table, of a range of partitions, by partition. Takes memory for all its changes.
    ///
    /// # Errors
    /// As [`Snapshot::tables`], also if a block of rows does not read right. Internal, if changes do not fit each other.
    pub fn net_rows(&self, table: TableId, partitions: &Range<usize>) -> Result<Vec<RecordBatch>> {
        let Some(shape) = self.tables(table.owner)?.remove(&table) else { return Ok(vec![]) };
        let changes = self.changes(table, partitions)?;
        let pieces = changes.read_all().collect::<Result<Vec<_>>>()?;
        let is_right = |p: &Piece| p.part == Part::Gone || p.batch.schema().fields() == shape.schema.fields();
        if !pieces.iter().all(is_right) {
            return Err(Error::internal("a table was saved with several schemas"));
        }
        let changes: Vec<Change> = pieces.into_iter().map(Change::by_partition).collect();
        let net = net(&changes, &shape, &Identities::new(&shape)?, true)?;
        net.rows.chunks(BLOCK_ROWS_MAX).map(|places| Ok(rows_at(&changes, places)?.1)).collect()
    }

    /// About how many bytes [`Snapshot::net_rows`] reads.
    ///
    /// # Errors
    /// As [`Snapshot::tables`].
    pub fn n_bytes_of_rows(&self, table: TableId, partitions: &Range<usize>) -> Result<u64> {
        Ok(self.changes(table, partitions)?.n_bytes())
    }

    /// The rows of a stream, with the slot of each block; those of one slot in the order in which they came. Reads
    /// indexes, but no rows. Blocks can be read for as long as somebody has them, whatever becomes of the snapshot.
    ///
    /// # Errors
    /// XX001 naming the object if one of the stream's cannot be read; 58030 if the disk fails.
    pub fn stream_blocks(&self, stream: u64) -> Result<Vec<(u8, StoredBlock)>> {
        let entries: Vec<&StreamObjectEntry> = self.manifest().objects_of_stream(stream).collect();
        let mut blocks = Vec::new();
        for some in entries.chunks(OPENED_AT_ONCE) {
            let opening: Vec<_> = some.iter().map(|entry| StreamObject::begin_open(&*self.store, entry)).collect();
            for (entry, index) in some.iter().zip(opening) {
                blocks.extend(StreamBlocks::of(self.opened(entry, index)?).blocks);
            }
        }
        Ok(blocks)
    }

    /// An object of a stream, with its index.
    pub(super) fn stream_object(&self, entry: &StreamObjectEntry) -> Result<Arc<StreamObject>> {
        self.opened(entry, StreamObject::begin_open(&*self.store, entry))
    }

    fn opened(&self, entry: &StreamObjectEntry, index: BegunIndex) -> Result<Arc<StreamObject>> {
        StreamObject::open(Arc::clone(&self.store), self.manifest().data_id, entry, index, self.hold.readers())
    }

    /// The sections of a table, oldest first.
    fn sections_of(&self, table: TableId) -> Result<Vec<TableSection>> {
        let mut sections = Vec::new();
        for object in self.objects_of(table.owner)? {
            sections.extend(TableSection::all_in(&object, table));
        }
        Ok(sections)
    }

    /// The objects that have something of an owner that lives.
    fn objects_of(&self, owner: u64) -> Result<Vec<Arc<Object>>> {
        let manifest = self.manifest();
        let has = |object: &ObjectEntry| manifest.owners.contains(&owner) && object.has(owner);
        let idxs: Vec<usize> = (0..manifest.objects.len()).filter(|&i| has(&manifest.objects[i])).collect();
        let mut objects = Vec::with_capacity(idxs.len());
        for some in idxs.chunks(OPENED_AT_ONCE) {
            let opening: Vec<_> = some.iter().map(|&idx| self.begin_object(idx)).collect();
            for (&idx, opening) in some.iter().zip(opening) {
                objects.push(self.finish_object(idx, opening)?);
            }
        }
        Ok(objects)
    }

    /// An object, with its index.
    pub(super) fn object(&self, idx: usize) -> Result<Arc<Object>> {
        self.finish_object(idx, self.begin_object(idx))
    }

    /// Begins to read the index of an object, unless it was read.
    fn begin_object(&self, idx: usize) -> Option<OpeningObject> {
        let is_open = self.objects[idx].lock().is_some();
        (!is_open).then(|| Object::begin_open(Arc::clone(&self.store), &self.manifest().objects[idx]))
    }

    fn finish_object(&self, idx: usize, opening: Option<OpeningObject>) -> Result<Arc<Object>> {
        let mut opened = self.objects[idx].lock();
        if let Some(object) = &*opened {
            return Ok(Arc::clone(object));
        }
        let manifest = self.manifest();
        let entry = &manifest.objects[idx];
        let opening = opening.unwrap_or_else(|| Object::begin_open(Arc::clone(&self.store), entry));
        Ok(Arc::clone(opened.insert(Arc::new(opening.finish(manifest.data_id, entry)?))))
    }
}

impl TableChanges {
    /// How many pieces there are.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// About how many bytes they take where they are: of a block whose other rows are not among them its share.
    fn n_bytes(&self) -> u64 {
        let share = |at: &PieceAt| {
            let block = &at.object.sections()[at.section_idx].blocks(at.part)[at.block_idx];
            u64::from(block.len) * at.slice.len() as u64 / block.n_rows().max(1) as u64
        };
        self.pieces.iter().map(share).sum()
    }

    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Reads a piece. They can be read in any order, by several threads, and apply in the order of their numbers.
    ///
    /// # Errors
    /// XX001 naming the object and the place if it does not read right; 58030 if the disk fails.
    pub fn read(&self, number: usize) -> Result<Piece> {
        let at = &self.pieces[number];
        at.decode(at.object.reader([at.range()]).read_next()?)
    }

    /// Reads all pieces, in order, with some more on their way where that is long. After an error the others may still be read.
    pub fn read_all(&self) -> impl Iterator<Item = Result<Piece>> {
        let ranges = self.pieces.iter().map(PieceAt::range);
        let mut reader = self.pieces.first().map(|first| first.object.reader(ranges));
        self.pieces.iter().map(move |at| {
            let reader = reader.as_mut().expect("there is one if there is a piece");
            at.decode(reader.read_next()?)
        })
    }
}

impl PieceAt {
    fn section(&self) -> &Section {
        &self.object.sections()[self.section_idx]
    }

    fn block(&self) -> &BlockEntry {
        &self.section().blocks(self.part)[self.block_idx]
    }

    fn range(&self) -> ObjectRange {
        self.object.range_of(self.block())
    }

    /// The piece, of the bytes of its block.
    fn decode(&self, bytes: Vec<u8>) -> Result<Piece> {
        let batch = self.object.decode_block(self.section(), self.part, self.block(), bytes)?;
        Ok(Piece { part: self.part, runs: self.runs.clone(), batch: batch.slice(self.slice.start, self.slice.len()) })
    }
}
