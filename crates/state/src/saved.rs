//! Saved state: rows by hash partition, as bytes from which any number of workers can go on.
//!
//! What an operator keeps is saved as tables, each with a number and a schema of the operator's own, whose rows carry
//! the hash partition that they belong to. Workers own ranges of partitions, so another number of workers takes up the
//! same bytes by reading other ranges, and no row is hashed again.
//!
//! ```text
//!   "MSSTATE1" | hash version u32 | number of tables u32 | table ...
//!   table:  number u32 | number of pieces u32 | length in bytes u64 | partition of each piece u8 ... | Arrow IPC file
//! ```
//!
//! Numbers are little-endian. The file of a table has one batch for each piece, which is the rows of one partition;
//! pieces ascend by partition, so a range of partitions is a range of batches, and only those are read.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::Range;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::concat_batches;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use millstream_types::delta::take_batch;
use millstream_types::hash::{HASH_VERSION, N_PARTITIONS, partition_of};
use millstream_types::{Error, Result};

const MAGIC: &[u8; 8] = b"MSSTATE1";

/// The state of one operator, on one worker or on all of them.
#[derive(Debug, Default)]
pub struct SavedState {
    tables: BTreeMap<u32, SavedTable>,
}

/// Rows, the first of each partition's among them.
#[derive(Debug, Default)]
struct SavedTable {
    /// Rows of one partition each, in the order in which they were added.
    pieces: Vec<(u8, RecordBatch)>,
}

impl SavedState {
    /// Adds rows to a table; `hashes` say where they belong, one a row.
    ///
    /// # Errors
    /// If a column's type has no take kernel.
    pub fn add(&mut self, table: u32, rows: &RecordBatch, hashes: &[u64]) -> Result<()> {
        debug_assert_eq!(rows.num_rows(), hashes.len(), "a hash a row");
        let mut by_partition: Vec<Vec<u32>> = vec![Vec::new(); N_PARTITIONS];
        for (i, &hash) in hashes.iter().enumerate() {
            by_partition[partition_of(hash)].push(i as u32);
        }
        let pieces = &mut self.tables.entry(table).or_default().pieces;
        for (partition, rows_of) in by_partition.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            pieces.push((partition as u8, take_batch(rows, &UInt32Array::from(rows_of))?));
        }
        Ok(())
    }

    /// Adds rows to a table of which nobody will ask in which partitions they are: all are the worker's that restores them.
    pub fn add_own(&mut self, table: u32, rows: RecordBatch) {
        self.tables.entry(table).or_default().pieces.push((0, rows));
    }

    /// Adds what another worker has saved of the same operator.
    pub fn merge(&mut self, other: SavedState) {
        for (number, table) in other.tables {
            self.tables.entry(number).or_default().pieces.extend(table.pieces);
        }
    }

    /// The rows of a table; `None` if there are none.
    ///
    /// # Errors
    /// Internal, if rows of several schemas were added.
    pub fn rows(&self, table: u32) -> Result<Option<RecordBatch>> {
        let Some(table) = self.tables.get(&table) else { return Ok(None) };
        let Some((_, first)) = table.pieces.first() else { return Ok(None) };
        Ok(Some(concat_batches(&first.schema(), table.pieces.iter().map(|(_, rows)| rows))?))
    }

    /// Takes a table out; `None` if it has no rows.
    ///
    /// # Errors
    /// Internal, if rows of several schemas were added.
    pub fn take(&mut self, table: u32) -> Result<Option<RecordBatch>> {
        let mut pieces = self.tables.remove(&table).unwrap_or_default().pieces;
        if pieces.len() == 1 {
            return Ok(pieces.pop().map(|(_, rows)| rows));
        }
        let Some((_, first)) = pieces.first() else { return Ok(None) };
        Ok(Some(concat_batches(&first.schema(), pieces.iter().map(|(_, rows)| rows))?))
    }

    /// The state as bytes.
    ///
    /// # Errors
    /// Internal, if a type has no IPC encoding.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(HASH_VERSION.to_le_bytes());
        bytes.extend((self.tables.len() as u32).to_le_bytes());
        for (number, table) in &self.tables {
            let mut by_partition: BTreeMap<u8, Vec<&RecordBatch>> = BTreeMap::new();
            table.pieces.iter().for_each(|(p, rows)| by_partition.entry(*p).or_default().push(rows));
            let (_, first) = table.pieces.first().ok_or_else(|| Error::internal("a saved table without rows"))?;
            let schema = first.schema();
            let mut writer = FileWriter::try_new(Vec::new(), &schema)?;
            for rows in by_partition.values() {
                writer.write(&concat_batches(&schema, rows.iter().copied())?)?;
            }
            let file = writer.into_inner()?;
            bytes.extend(number.to_le_bytes());
            bytes.extend((by_partition.len() as u32).to_le_bytes());
            bytes.extend((file.len() as u64).to_le_bytes());
            bytes.extend(by_partition.keys());
            bytes.extend(file);
        }
        Ok(bytes)
    }

    /// The rows of a range of partitions from bytes that [`SavedState::encode`] gave.
    ///
    /// # Errors
    /// Internal, if the bytes are not such state, or of another version of the hash.
    pub fn decode(bytes: &[u8], partitions: &Range<usize>) -> Result<SavedState> {
        let mut rest = bytes;
        if take(&mut rest, MAGIC.len())? != MAGIC {
            return Err(Error::internal("these bytes are no saved state"));
        }
        let hash_version = number(&mut rest)?;
        if hash_version != HASH_VERSION {
            return Err(Error::internal(format!("state of hash version {hash_version}, not {HASH_VERSION}")));
        }
        let mut state = SavedState::default();
        for _ in 0..number(&mut rest)? {
            let (table, n_pieces) = (number(&mut rest)?, number(&mut rest)? as usize);
            let n_bytes = u64::from_le_bytes(take(&mut rest, 8)?.try_into().expect("eight bytes")) as usize;
            let of_pieces = take(&mut rest, n_pieces)?;
            let mut file = FileReader::try_new(Cursor::new(take(&mut rest, n_bytes)?), None)?;
            let wanted = |p: &(usize, &u8)| partitions.contains(&usize::from(*p.1));
            let mut pieces = Vec::new();
            for (i, &partition) in of_pieces.iter().enumerate().filter(wanted) {
                file.set_index(i)?;
                let rows = file.next().ok_or_else(|| Error::internal("a piece of saved state is missing"))??;
                pieces.push((partition, rows));
            }
            if !pieces.is_empty() {
                state.tables.insert(table, SavedTable { pieces });
            }
        }
        Ok(state)
    }
}

/// Takes so many bytes from the front.
fn take<'a>(rest: &mut &'a [u8], n_bytes: usize) -> Result<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(n_bytes).ok_or_else(|| Error::internal("saved state that is cut off"))?;
    *rest = left;
    Ok(taken)
}

fn number(rest: &mut &[u8]) -> Result<u32> {
    Ok(u32::from_le_bytes(take(rest, 4)?.try_into().expect("four bytes")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array, StringViewArray};
    use arrow::datatypes::{DataType, Int64Type};
    use millstream_types::delta::schema_of;
    use millstream_types::hash::{hash_columns, partitions_of};

    use super::*;

    fn batch(from: i64, to: i64) -> (RecordBatch, Vec<u64>) {
        let schema = schema_of(&[("k", DataType::Int64), ("t", DataType::Utf8View)]);
        let keys: ArrayRef = Arc::new((from..to).map(Some).collect::<Int64Array>());
        let text = |k: i64| (k % 3 != 0).then(|| format!("a text that is longer than a view, {k}"));
        let texts: ArrayRef = Arc::new((from..to).map(text).collect::<StringViewArray>());
        let mut hashes = Vec::new();
        hash_columns(std::slice::from_ref(&keys), (to - from) as usize, &mut hashes);
        (RecordBatch::try_new(schema, vec![keys, texts]).expect("two columns"), hashes)
    }

    fn keys(state: &SavedState, table: u32) -> Vec<i64> {
        let rows = state.rows(table).expect("one schema");
        let mut keys: Vec<i64> = rows.map_or(vec![], |r| r.column(0).as_primitive::<Int64Type>().values().to_vec());
        keys.sort_unstable();
        keys
    }

    #[test]
    fn other_numbers_of_workers_find_each_row_once() {
        let mut state = SavedState::default();
        for (from, to) in [(0, 700), (700, 701), (701, 1000)] {
            let (rows, hashes) = batch(from, to);
            let mut of_worker = SavedState::default();
            of_worker.add(3, &rows, &hashes).expect("types that can be taken");
            state.merge(of_worker);
        }
        let (rows, hashes) = batch(5, 6);
        state.add(9, &rows, &hashes).expect("types that can be taken");
        let bytes = state.encode().expect("encodes");
        for n_workers in [1, 2, 3, 7, 256] {
            let parts = (0..n_workers).map(|w| SavedState::decode(&bytes, &partitions_of(w, n_workers)));
            let parts: Vec<SavedState> = parts.collect::<Result<_>>().expect("decodes");
            let mut all: Vec<i64> = parts.iter().flat_map(|p| keys(p, 3)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..1000).collect::<Vec<_>>());
            assert_eq!(parts.iter().flat_map(|p| keys(p, 9)).collect::<Vec<_>>(), [5]);
            assert!(parts.iter().all(|p| p.rows(4).expect("nothing").is_none()));
        }
    }

    #[test]
    fn a_table_is_taken_once() {
        let mut state = SavedState::default();
        for (from, to) in [(0, 10), (10, 11)] {
            state.add_own(7, batch(from, to).0);
        }
        assert_eq!(state.take(7).expect("one schema"), Some(batch(0, 11).0));
        assert!(state.take(7).expect("nothing").is_none() && state.rows(7).expect("nothing").is_none());
    }

    #[test]
    fn damaged_bytes_are_an_error() {
        let (rows, hashes) = batch(0, 10);
        let mut state = SavedState::default();
        state.add(0, &rows, &hashes).expect("types that can be taken");
        let bytes = state.encode().expect("encodes");
        for n_bytes in [0, 7, 12, 30, bytes.len() - 1] {
            assert!(SavedState::decode(&bytes[..n_bytes], &(0..N_PARTITIONS)).is_err(), "{n_bytes} bytes");
        }
        let mut other = bytes;
        other[8] += 1;
        assert!(SavedState::decode(&other, &(0..N_PARTITIONS)).is_err(), "another version of the hash");
    }
}
