//! The bytes of segments and records; `docs/storage.md` draws them.

use std::ops::Range;

use crate::encoding::{array, checksum};

/// What every segment begins with.
const MAGIC: &[u8; 8] = b"MSLOG001";

/// The only version so far.
const VERSION: u32 = 1;

/// Bytes of a segment's header.
pub(super) const HEADER_BYTES: usize = 56;

/// Bytes of a record before its payload.
pub(super) const HEAD_BYTES: usize = 24;

/// Bytes of a record beside its payload.
pub(super) const RECORD_BYTES: usize = HEAD_BYTES + 8;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The number of the first record.
    pub(super) first: u64,
    /// The writer's term.
    pub(super) term: u64,
    /// The data directory that it belongs to.
    pub(super) id: u128,
}

/// Why the beginning of a file is no header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoHeader {
    /// Of a version that this release does not know.
    Version(u32),
    /// It does not read right.
    Damaged,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        self.encode_as(VERSION)
    }

    pub(super) fn encode_as(&self, version: u32) -> [u8; HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(version.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.first.to_le_bytes());
        bytes.extend(self.term.to_le_bytes());
        bytes.extend(self.id.to_le_bytes());
        bytes.extend(checksum(&bytes));
        bytes.try_into().expect("its parts are that long")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Header, NoHeader> {
        let Some(bytes) = bytes.get(..HEADER_BYTES).filter(|bytes| bytes.starts_with(MAGIC)) else {
            return Err(NoHeader::Damaged);
        };
        if bytes[HEADER_BYTES - 8..] != checksum(&bytes[..HEADER_BYTES - 8]) {
            return Err(NoHeader::Damaged);
        }
        let version = u32::from_le_bytes(array(bytes, 8));
        if version != VERSION {
            return Err(NoHeader::Version(version));
        }
        let (first, term) = (u64::from_le_bytes(array(bytes, 16)), u64::from_le_bytes(array(bytes, 24)));
        Ok(Header { first, term, id: u128::from_le_bytes(array(bytes, 32)) })
    }
}

/// Bytes of the payload of the record that begins with a head.
pub(super) fn payload_bytes(head: &[u8; HEAD_BYTES]) -> usize {
    u32::from_le_bytes(array(head, 0)) as usize
}

/// A record as it stands in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    pub(super) kind: u8,
    pub(super) sequence: u64,
    /// The last record that was durable when this one was written.
    pub(super) settled: u64,
    /// Where the payload is.
    pub(super) payload: Range<usize>,
}

impl Encoded {
    /// Where the next record begins.
    pub(super) fn end(&self) -> usize {
        self.payload.end + 8
    }
}

/// Adds a record to what is written next.
pub(super) fn encode_record(bytes: &mut Vec<u8>, kind: u8, sequence: u64, settled: u64, payload: &[u8]) {
    let from = bytes.len();
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend([kind, 0, 0, 0]);
    bytes.extend(sequence.to_le_bytes());
    bytes.extend(settled.to_le_bytes());
    bytes.extend(payload);
    bytes.extend(checksum(&bytes[from..]));
}

/// The record at a place, if there is one that reads right and has a number that may stand there.
pub(super) fn decode_record(bytes: &[u8], at: usize, numbers: &Range<u64>) -> Option<Encoded> {
    let head = bytes.get(at..at + HEAD_BYTES)?;
    let n_bytes = u32::from_le_bytes(array(head, 0)) as usize;
    let sequence = u64::from_le_bytes(array(head, 8));
    let settled = u64::from_le_bytes(array(head, 16));
    if head[5..8] != [0; 3] || !numbers.contains(&sequence) || settled >= sequence {
        return None;
    }
    let payload = at + HEAD_BYTES..at + HEAD_BYTES + n_bytes;
    let stored = bytes.get(payload.end..payload.end + 8)?;
    (stored == checksum(&bytes[at..payload.end])).then_some(Encoded { kind: head[4], sequence, settled, payload })
}
