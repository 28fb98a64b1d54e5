//! Changes of saved state that are put away, by hash partition, and read back.
//!
//! What an operator says of its state ([`StateChanges`]) goes piece by piece into a [`ColdStore`], so that no more than a
//! few rows of it are in memory at once. Beside its columns a piece has the partition of each row.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt8Array, UInt32Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, UInt8Type};
use millstream_types::delta::{take_batch, values_bytes};
use millstream_types::hash::partition_of;
use millstream_types::{Error, Result};
use parking_lot::Mutex;

use crate::changes::{ChangePart, ChangeSink, GoneLater, HashedRows, StateChanges, TableShape, left_of_last};
use crate::cold::{ColdChunk, ColdStore};
use crate::saved::SavedState;

/// Rows of a piece at most.
const PIECE_ROWS_MAX: usize = 1 << 13;
/// Bytes of a piece after which it is put away: fewer where there are pieces of many parts at a time.
const PIECE_BYTES: std::ops::RangeInclusive<usize> = 1 << 16..=1 << 18;
/// Bytes of all those pieces, more or less.
const PIECES_BYTES: usize = 1 << 22;

/// The changes of an operator's tables, put away. Clones share what was put away.
#[derive(Clone, Debug, Default)]
pub struct SpilledChanges {
    tables: BTreeMap<u32, SpilledTable>,
}

#[derive(Clone, Debug)]
struct SpilledTable {
    shape: TableShape,
    gone: Vec<Arc<dyn ColdChunk>>,
    rows: Vec<Arc<dyn ColdChunk>>,
}

impl SpilledChanges {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The number of rows that came.
    pub fn n_rows(&self) -> usize {
        self.tables.values().flat_map(|table| &table.rows).map(|chunk| chunk.n_rows()).sum()
    }

    /// Bytes where they were put.
    pub fn n_bytes(&self) -> usize {
        self.tables.values().flat_map(|table| table.gone.iter().chain(&table.rows)).map(|chunk| chunk.n_bytes()).sum()
    }

    /// Reads all of it back.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(&self) -> Result<StateChanges> {
        let mut changes = StateChanges::default();
        for (&number, table) in &self.tables {
            table.gone.iter().try_for_each(|chunk| changes.add_gone(number, &table.shape, read(&**chunk)?))?;
            table.rows.iter().try_for_each(|chunk| changes.add_rows(number, &table.shape, read(&**chunk)?))?;
        }
        Ok(changes)
    }
}

/// The state that changes come to, the oldest first, which are known to add up. All of it is for who restores it.
///
/// Memory is that of the state, and of what has gone and come again in the meantime.
///
/// # Errors
/// If they cannot be read.
pub fn state_of(changes: &[SpilledChanges]) -> Result<SavedState> {
    let mut saved = SavedState::default();
    let mut numbers: Vec<u32> = changes.iter().flat_map(|changes| changes.tables.keys().copied()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    for number in numbers {
        let tables: Vec<&SpilledTable> = changes.iter().filter_map(|changes| changes.tables.get(&number)).collect();
        if tables.iter().all(|table| table.gone.is_empty()) {
            for chunk in tables.iter().flat_map(|table| &table.rows) {
                saved.add_own(number, read(&**chunk)?.batch);
            }
            continue;
        }
        left(&tables)?.into_iter().for_each(|rows| saved.add_own(number, rows.batch));
    }
    Ok(saved)
}

/// What is left of the rows of one table, the oldest changes first.
///
/// Changes are read from the newest to the oldest: what is known to go is not kept when it is read.
fn left(tables: &[&SpilledTable]) -> Result<Vec<HashedRows>> {
    let mut left = Vec::new();
    let mut gone = GoneLater::default();
    for table in tables.iter().rev() {
        // What goes in a change was there before it: its own rows come after that.
        for chunk in table.rows.iter().rev() {
            let rows = read(&**chunk)?;
            left.push(rows.only(left_of_last(&table.shape, &rows.batch, &mut gone)?)?);
        }
        for chunk in &table.gone {
            gone.add(&table.shape, &read(&**chunk)?.batch)?;
        }
    }
    if !gone.is_empty() {
        return Err(Error::internal("spilled state does not add up: a row is gone that was not there"));
    }
    left.reverse();
    Ok(left)
}

/// Reads rows and their partitions.
fn read(chunk: &dyn ColdChunk) -> Result<HashedRows> {
    let rows = chunk.read(None)?;
    let schema = rows.schema();
    let n_columns = schema.fields().len().checked_sub(1);
    let n_columns = n_columns.ok_or_else(|| Error::internal("spilled rows without their partition"))?;
    let partitions = rows.column(n_columns).as_primitive::<UInt8Type>().values();
    // The partition is all that is wanted of the hash.
    let hashes = partitions.iter().map(|&partition| u64::from(partition) << 56).collect();
    let schema = Arc::new(Schema::new(schema.fields()[..n_columns].to_vec()));
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let batch = RecordBatch::try_new_with_options(schema, rows.columns()[..n_columns].to_vec(), &options)?;
    Ok(HashedRows { batch, hashes })
}

/// Puts away what is said, as it is said, apart by these ranges of partitions, which are all in which there are rows.
///
/// # Errors
/// If it cannot be written, or `say` fails.
pub fn spill(
    store: &Arc<dyn ColdStore>,
    parts: &[Range<usize>],
    say: impl FnOnce(&mut StateChanges) -> Result<()>,
) -> Result<Vec<SpilledChanges>> {
    let mut spill = Spill::new(store, parts);
    say(spill.changes())?;
    spill.finish()
}

/// As [`spill`], where what is to be put away is said little by little.
pub struct Spill {
    writer: Arc<Mutex<SpillWriter>>,
    changes: StateChanges,
}

impl Spill {
    /// Nothing is said yet.
    pub fn new(store: &Arc<dyn ColdStore>, parts: &[Range<usize>]) -> Self {
        let writer = Arc::new(Mutex::new(SpillWriter::new(Arc::clone(store), parts.to_vec())));
        Spill { changes: StateChanges::handed_to(writer.clone()), writer }
    }

    /// Puts away what is added.
    pub fn changes(&mut self) -> &mut StateChanges {
        &mut self.changes
    }

    /// What was put away, by part.
    ///
    /// # Errors
    /// If the rest cannot be written.
    pub fn finish(self) -> Result<Vec<SpilledChanges>> {
        self.writer.lock().finish()
    }
}

/// Puts changes away as they come.
struct SpillWriter {
    store: Arc<dyn ColdStore>,
    parts: Vec<Range<usize>>,
    /// For each partition its part.
    part_of: Vec<Option<usize>>,
    piece_bytes: usize,
    spilled: Vec<SpilledChanges>,
    pending: BTreeMap<(usize, u32, ChangePart), Pending>,
}

/// Rows that are to be a piece.
struct Pending {
    shape: TableShape,
    batches: Vec<RecordBatch>,
    partitions: Vec<u8>,
    n_bytes: usize,
}

impl fmt::Debug for SpillWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpillWriter").field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl SpillWriter {
    fn new(store: Arc<dyn ColdStore>, parts: Vec<Range<usize>>) -> Self {
        let part_of = |partition: usize| parts.iter().position(|part| part.contains(&partition));
        let part_of = (0..millstream_types::hash::N_PARTITIONS).map(part_of).collect();
        let spilled = vec![SpilledChanges::default(); parts.len()];
        let piece_bytes = (PIECES_BYTES / parts.len().max(1)).clamp(*PIECE_BYTES.start(), *PIECE_BYTES.end());
        SpillWriter { store, parts, part_of, piece_bytes, spilled, pending: BTreeMap::new() }
    }

    /// What was put away, by part.
    fn finish(&mut self) -> Result<Vec<SpilledChanges>> {
        let pending: Vec<_> = self.pending.keys().copied().collect();
        pending.into_iter().try_for_each(|key| self.write(key))?;
        let empty = vec![SpilledChanges::default(); self.parts.len()];
        Ok(std::mem::replace(&mut self.spilled, empty))
    }

    fn write(&mut self, key: (usize, u32, ChangePart)) -> Result<()> {
        let Some(Pending { shape, batches, partitions, .. }) = self.pending.remove(&key) else { return Ok(()) };
        let (part, number, change) = key;
        let first = batches.first().ok_or_else(|| Error::internal("a piece without rows"))?;
        let rows = concat_batches(&first.schema(), &batches)?;
        let mut fields = rows.schema().fields().to_vec();
        fields.push(Arc::new(Field::new("partition", DataType::UInt8, false)));
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        columns.push(Arc::new(UInt8Array::from(partitions)));
        let chunk = self.store.put(&RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)?;
        let new = || SpilledTable { shape, gone: Vec::new(), rows: Vec::new() };
        let table = self.spilled[part].tables.entry(number).or_insert_with(new);
        match change {
            ChangePart::Gone => table.gone.push(chunk),
            ChangePart::Rows => table.rows.push(chunk),
        }
        Ok(())
    }
}

impl ChangeSink for SpillWriter {
    fn take(&mut self, table: u32, shape: &TableShape, change: ChangePart, rows: HashedRows) -> Result<()> {
        let mut by_part: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        for (i, &hash) in rows.hashes.iter().enumerate() {
            let part = self.part_of[partition_of(hash)];
            let part = part.ok_or_else(|| Error::internal("state of a partition of another worker"))?;
            by_part.entry(part).or_default().push(i as u32);
        }
        for (part, of_part) in by_part {
            let key = (part, table, change);
            for piece in of_part.chunks(PIECE_ROWS_MAX) {
                let batch = if piece.len() == rows.hashes.len() {
                    rows.batch.clone()
                } else {
                    take_batch(&rows.batch, &UInt32Array::from(piece.to_vec()))?
                };
                let new = || {
                    let (batches, partitions) = (Vec::new(), Vec::new());
                    Pending { shape: shape.clone(), batches, partitions, n_bytes: 0 }
                };
                let pending = self.pending.entry(key).or_insert_with(new);
                pending.n_bytes += values_bytes(&batch);
                pending.batches.push(batch);
                pending.partitions.extend(piece.iter().map(|&i| partition_of(rows.hashes[i as usize]) as u8));
                if pending.n_bytes >= self.piece_bytes || pending.partitions.len() >= PIECE_ROWS_MAX {
                    self.write(key)?;
                }
            }
        }
        Ok(())
    }
}
