//! The bytes of the log's objects; `docs/storage.md` draws them.

use millstream_types::Result;

use crate::encoding::{Decoder, Encode, checksum};
use crate::errors::{damaged, unknown_version};
use crate::log::Record;
use crate::log::format::{decode_record, encode_record};
use crate::log::queue::Queued;

/// What every object begins with.
const MAGIC: &[u8; 8] = b"MSLOB001";

/// The only version so far.
const VERSION: u32 = 1;

/// Bytes of an object's header.
pub(super) const HEADER_BYTES: usize = 80;

/// What an object says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// How many records it has.
    pub(super) n_records: u32,
    /// Its own number.
    pub(super) number: u64,
    /// The number of its first record, or of the next one if it has none.
    pub(super) first: u64,
    /// The writer's term; 0 if it only bars the way.
    pub(super) term: u64,
    /// The random number of the writer.
    pub(super) writer: u128,
    /// The data directory that it belongs to.
    pub(super) id: u128,
}

impl Header {
    /// Whether it is only there to keep others from writing, and says nothing of records.
    pub(super) fn is_bar(&self) -> bool {
        self.term == 0
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        self.encode_as(VERSION)
    }

    pub(super) fn encode_as(&self, version: u32) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.put_u32(version);
        bytes.put_u32(self.n_records);
        bytes.put_u64(self.number);
        bytes.put_u64(self.first);
        bytes.put_u64(self.term);
        bytes.put_u128(self.writer);
        bytes.put_u128(self.id);
        bytes.extend(checksum(&bytes));
        bytes
    }

    /// The header of the object with a number.
    ///
    /// # Errors
    /// XX001 if it does not read right, 55000 if it is of another version.
    pub(super) fn decode(bytes: &[u8], path: &str, number: u64, id: u128) -> Result<Header> {
        let wrong = || damaged(path, 0, "it does not begin as an object of the log");
        let bytes = bytes.get(..HEADER_BYTES).filter(|bytes| bytes.starts_with(MAGIC)).ok_or_else(wrong)?;
        let (body, stored) = bytes.split_at(HEADER_BYTES - 8);
        if stored != checksum(body) {
            return Err(wrong());
        }
        let mut rest = Decoder(&body[MAGIC.len()..]);
        let version = rest.u32().ok_or_else(wrong)?;
        if version != VERSION {
            return Err(unknown_version(path, version, "the log's objects"));
        }
        let header = Header::decode_body(&mut rest).ok_or_else(wrong)?;
        if header.id != id {
            return Err(damaged(path, 0, "it belongs to another data directory"));
        }
        if header.number != number {
            return Err(damaged(path, 0, &format!("it is object {}", header.number)));
        }
        Ok(header)
    }

    fn decode_body(rest: &mut Decoder<'_>) -> Option<Header> {
        Some(Header {
            n_records: rest.u32()?,
            number: rest.u64()?,
            first: rest.u64()?,
            term: rest.u64()?,
            writer: rest.u128()?,
            id: rest.u128()?,
        })
    }
}

/// The object of a group, which begins after the last durable record.
pub(super) fn encode_object(header: Header, group: &[Queued]) -> Vec<u8> {
    let mut bytes = Header { n_records: group.len() as u32, ..header }.encode();
    for (sequence, queued) in (header.first..).zip(group) {
        encode_record(&mut bytes, queued.kind, sequence, header.first - 1, &queued.payload);
    }
    bytes
}

/// The records of an object.
///
/// # Errors
/// XX001 if they are not exactly what the header says.
pub(super) fn decode_records(bytes: &[u8], path: &str, header: &Header) -> Result<Vec<Record>> {
    let mut records = Vec::with_capacity(header.n_records as usize);
    let mut at = HEADER_BYTES;
    for sequence in header.first..header.first + u64::from(header.n_records) {
        let record = decode_record(bytes, at, &(sequence..sequence + 1))
            .ok_or_else(|| damaged(path, at, &format!("record {sequence} does not read right")))?;
        at = record.end();
        records.push(Record { sequence, kind: record.kind, payload: bytes[record.payload].to_vec() });
    }
    if at < bytes.len() {
        return Err(damaged(path, at, "something is behind its records"));
    }
    Ok(records)
}
