//! What a manifest says of an object of a stream.

use super::super::STREAMS;
use super::super::found::object_number;
use crate::encoding::{Decoder, Encode};

/// An object that has rows of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamObjectEntry {
    /// Whose rows they are.
    pub stream: u64,
    /// The rows were born after this epoch,
    pub after: u64,
    /// and not after this one.
    pub up_to: u64,
    /// The value of `now()` in the earlier one, in microseconds since 1970-01-01 UTC; rows came later,
    pub since_us: i64,
    /// and not later than its value in the other one.
    pub now_us: i64,
    /// Its length in bytes.
    pub len: u64,
    /// How many rows it has.
    pub n_rows: u64,
    /// About how much memory the rows take.
    pub decoded_bytes: u64,
    /// Its name in the folder of objects of streams.
    pub(in crate::checkpoint) name: String,
    pub(in crate::checkpoint) index_checksum: [u8; 8],
}

impl StreamObjectEntry {
    /// Its number, which no other object has that is named together with it.
    pub fn number(&self) -> u64 {
        object_number(&self.name).expect("names are made of numbers")
    }

    /// Its path under the data directory.
    pub fn path(&self) -> String {
        format!("{STREAMS}/{}", self.name)
    }

    pub(in crate::checkpoint) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.put_bytes(self.name.as_bytes());
        bytes.put_u64(self.stream);
        bytes.put_u64(self.after);
        bytes.put_u64(self.up_to);
        bytes.put_u64(self.since_us as u64);
        bytes.put_u64(self.now_us as u64);
        bytes.put_u64(self.len);
        bytes.extend(self.index_checksum);
        bytes.put_u64(self.n_rows);
        bytes.put_u64(self.decoded_bytes);
    }

    pub(in crate::checkpoint) fn decode(rest: &mut Decoder<'_>) -> Option<StreamObjectEntry> {
        let name = String::from_utf8(rest.bytes()?.to_vec()).ok()?;
        object_number(&name)?;
        Some(StreamObjectEntry {
            name,
            stream: rest.u64()?,
            after: rest.u64()?,
            up_to: rest.u64()?,
            since_us: rest.u64()? as i64,
            now_us: rest.u64()? as i64,
            len: rest.u64()?,
            index_checksum: rest.u64()?.to_le_bytes(),
            n_rows: rest.u64()?,
            decoded_bytes: rest.u64()?,
        })
    }
}
