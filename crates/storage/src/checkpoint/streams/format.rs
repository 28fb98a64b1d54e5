//! The bytes of objects of streams around their blocks; `docs/storage.md` draws them.

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use millstream_types::{Epoch, Result};

use super::super::block::{BlockEncoder, decode_columns, decode_schema, encode_schema};
use super::super::object_file::Header;
use super::statistics;
use crate::encoding::{Decoder, Encode};

/// What every object of a stream begins with.
pub(super) const HEADER: Header = Header { magic: b"MSSTRM01", version: 1, hash_version: 0 };

/// Where a column of a block is: behind the column before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ColumnEntry {
    pub(super) len: u32,
    /// How many bytes of it are the IPC metadata.
    pub(super) metadata_len: u32,
    pub(super) checksum: [u8; 8],
}

/// Where a block is, and which rows it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockEntry {
    pub(super) slot: u8,
    pub(super) n_rows: u32,
    /// Where its first column is.
    pub(super) offset: u64,
    /// About how much memory its rows take.
    pub(super) decoded_bytes: u64,
    /// When its rows were born: runs of rows, which begin with row 0; both ascend.
    pub(super) births: Vec<(u32, Epoch)>,
    pub(super) columns: Vec<ColumnEntry>,
}

/// What is in an object.
pub(super) struct Index {
    pub(super) stream: u64,
    pub(super) schema: SchemaRef,
    pub(super) blocks: Vec<BlockEntry>,
    /// What is known of the blocks, a row each: see [`statistics::schema_for`].
    pub(super) statistics: RecordBatch,
}

impl BlockEntry {
    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.columns.iter().map(|column| u64::from(column.len)).sum()
    }
}

/// Whether these are births of so many rows.
pub(super) fn are_births(births: &[(u32, Epoch)], n_rows: usize) -> bool {
    births.first().is_some_and(|&(row, _)| row == 0)
        && births.is_sorted_by(|(row, epoch), (next_row, next)| row < next_row && epoch < next)
        && births.last().is_some_and(|&(row, _)| (row as usize) < n_rows)
}

impl Index {
    /// # Errors
    /// Internal, if it has no encoding.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        bytes.put_u64(self.stream);
        bytes.put_bytes(&encode_schema(&self.schema)?);
        bytes.put_len(self.blocks.len());
        for block in &self.blocks {
            bytes.put_u8(block.slot);
            bytes.put_u32(block.n_rows);
            bytes.put_u64(block.offset);
            bytes.put_u64(block.decoded_bytes);
            bytes.put_len(block.births.len());
            for &(row, epoch) in &block.births {
                bytes.put_u32(row);
                bytes.put_u64(epoch.0);
            }
            bytes.put_len(block.columns.len());
            for column in &block.columns {
                bytes.put_u32(column.len);
                bytes.put_u32(column.metadata_len);
                bytes.extend(column.checksum);
            }
        }
        let statistics = BlockEncoder::new()?.encode(&self.statistics)?;
        bytes.put_u32(statistics.metadata_len);
        bytes.put_bytes(&statistics.bytes);
        Ok(bytes)
    }

    /// The index from its bytes; `None` if they are none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Index> {
        let mut rest = Decoder(bytes);
        let stream = rest.u64()?;
        let schema = decode_schema(rest.bytes()?)?;
        let n_columns = schema.fields().len();
        let blocks = rest.list(|rest| BlockEntry::decode(rest, n_columns))?;
        let metadata_len = rest.u32()?;
        let statistics = Buffer::from(rest.bytes()?);
        let statistics = decode_columns(statistics, metadata_len, &statistics::schema_for(&schema), None).ok()?;
        let is_right = statistics.num_rows() == blocks.len() && rest.is_at_end();
        is_right.then_some(Index { stream, schema, blocks, statistics })
    }
}

impl BlockEntry {
    fn decode(rest: &mut Decoder<'_>, n_columns: usize) -> Option<BlockEntry> {
        let block = BlockEntry {
            slot: rest.u8()?,
            n_rows: rest.u32()?,
            offset: rest.u64()?,
            decoded_bytes: rest.u64()?,
            births: rest.list(|rest| Some((rest.u32()?, Epoch(rest.u64()?))))?,
            columns: rest.list(|rest| {
                let (len, metadata_len) = (rest.u32()?, rest.u32()?);
                Some(ColumnEntry { len, metadata_len, checksum: rest.u64()?.to_le_bytes() })
            })?,
        };
        let is_right = block.columns.len() == n_columns && are_births(&block.births, block.n_rows as usize);
        is_right.then_some(block)
    }
}
