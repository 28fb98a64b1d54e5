//! The bytes of objects of changes around their blocks; `docs/storage.md` draws them.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use millstream_state::TableShape;
use millstream_types::Result;
use millstream_types::hash::{HASH_VERSION, hash_columns, partition_of};

use super::block::{decode_schema, encode_schema};
use super::object_file::Header;
use crate::encoding::{Decoder, Encode};

/// What every object of changes begins with.
pub(super) const HEADER: Header = Header { magic: b"MSOBJ001", version: 1, hash_version: HASH_VERSION };

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId {
    /// The relation or dataflow that it belongs to.
    pub owner: u64,
    /// The node of the owner's dataflow.
    pub node: u32,
    /// Its number there.
    pub table: u32,
}

/// The two parts of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Identities, each of which takes away one row.
    Gone,
    /// Rows, which are added.
    Rows,
}

impl Part {
    /// Of rows of this part of a table's change, the columns of the identity.
    pub(super) fn identity_of(self, shape: &TableShape, rows: &RecordBatch) -> Vec<ArrayRef> {
        match self {
            Part::Gone => rows.columns().to_vec(),
            Part::Rows => shape.identity.iter().map(|&column| Arc::clone(rows.column(column))).collect(),
        }
    }

    /// Of rows of this part and their partitions, what they are sorted by in a section: the partition in the upper 8 bits, and
    /// below a hash of the identity. So rows of one identity meet where sections are read beside each other.
    pub(super) fn order_of(
        self,
        shape: &TableShape,
        rows: &RecordBatch,
        partitions: impl Iterator<Item = u8>,
    ) -> Vec<u64> {
        let mut hashes = Vec::new();
        hash_columns(&self.identity_of(shape, rows), rows.num_rows(), &mut hashes);
        hashes.iter().zip(partitions).map(|(hash, partition)| u64::from(partition) << 56 | hash >> 8).collect()
    }
}

/// Where a block is, and which rows it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockEntry {
    pub(super) offset: u64,
    pub(super) len: u32,
    /// How many bytes of it are the IPC metadata.
    pub(super) metadata_len: u32,
    pub(super) checksum: [u8; 8],
    /// About how much memory its rows take.
    pub(super) decoded_bytes: u64,
    /// The rows of each partition, which ascend.
    pub(super) runs: Vec<(u8, u32)>,
}

impl BlockEntry {
    pub(super) fn n_rows(&self) -> usize {
        self.runs.iter().map(|&(_, n_rows)| n_rows as usize).sum()
    }
}

/// The change of one table, as it lies in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) table: TableId,
    pub(super) shape: TableShape,
    pub(super) gone: Vec<BlockEntry>,
    pub(super) rows: Vec<BlockEntry>,
}

impl Section {
    /// The blocks of a part.
    pub(super) fn blocks(&self, part: Part) -> &[BlockEntry] {
        match part {
            Part::Gone => &self.gone,
            Part::Rows => &self.rows,
        }
    }

    /// How many bytes its blocks have.
    pub(super) fn n_bytes(&self) -> u64 {
        self.gone.iter().chain(&self.rows).map(|block| u64::from(block.len)).sum()
    }
}

/// The partition of each row, from how many there are of which.
pub(super) fn partitions(runs: &[(u8, u32)]) -> impl Iterator<Item = u8> {
    runs.iter().flat_map(|&(partition, n_rows)| std::iter::repeat_n(partition, n_rows as usize))
}

/// How many rows there are of which partition, from what they are sorted by.
pub(super) fn runs(order: impl Iterator<Item = u64>) -> Vec<(u8, u32)> {
    let mut runs: Vec<(u8, u32)> = Vec::new();
    for order in order {
        let partition = partition_of(order) as u8;
        match runs.last_mut() {
            Some((last, n)) if *last == partition => *n += 1,
            _ => runs.push((partition, 1)),
        }
    }
    runs
}

/// The rows of blocks.
pub(super) fn n_rows(blocks: &[BlockEntry]) -> u64 {
    blocks.iter().map(|block| block.n_rows() as u64).sum()
}

pub(super) fn encode_index(sections: &[Section]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.put_len(sections.len());
    for section in sections {
        bytes.put_u64(section.table.owner);
        bytes.put_u32(section.table.node);
        bytes.put_u32(section.table.table);
        bytes.put_len(section.shape.identity.len());
        section.shape.identity.iter().for_each(|&column| bytes.put_u32(column as u32));
        bytes.put_bytes(&encode_schema(&section.shape.schema)?);
        encode_blocks(&mut bytes, &section.gone);
        encode_blocks(&mut bytes, &section.rows);
    }
    Ok(bytes)
}

fn encode_blocks(bytes: &mut Vec<u8>, blocks: &[BlockEntry]) {
    bytes.put_len(blocks.len());
    for block in blocks {
        bytes.put_u64(block.offset);
        bytes.put_u32(block.len);
        bytes.put_u32(block.metadata_len);
        bytes.extend(block.checksum);
        bytes.put_u64(block.decoded_bytes);
        bytes.put_len(block.runs.len());
        for &(partition, n_rows) in &block.runs {
            bytes.put_u8(partition);
            bytes.put_varint(u64::from(n_rows));
        }
    }
}

/// The sections from the bytes of an index; `None` if they are no index.
pub(super) fn decode_index(bytes: &[u8]) -> Option<Vec<Section>> {
    let mut rest = Decoder(bytes);
    let sections = rest.list(|rest| {
        let table = TableId { owner: rest.u64()?, node: rest.u32()?, table: rest.u32()? };
        let identity = rest.list(|rest| rest.u32().map(|column| column as usize))?;
        let schema = decode_schema(rest.bytes()?)?;
        let is_right = identity.iter().all(|&column| column < schema.fields().len());
        let shape = is_right.then_some(TableShape { schema, identity })?;
        Some(Section { table, shape, gone: decode_blocks(rest)?, rows: decode_blocks(rest)? })
    })?;
    rest.is_at_end().then_some(sections)
}

fn decode_blocks(rest: &mut Decoder<'_>) -> Option<Vec<BlockEntry>> {
    rest.list(|rest| {
        Some(BlockEntry {
            offset: rest.u64()?,
            len: rest.u32()?,
            metadata_len: rest.u32()?,
            checksum: rest.u64()?.to_le_bytes(),
            decoded_bytes: rest.u64()?,
            runs: rest.list(|rest| Some((rest.u8()?, u32::try_from(rest.varint()?).ok()?)))?,
        })
    })
}
