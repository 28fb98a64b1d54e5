//! Manifests: which objects make up the state at a checkpoint, and what else there is to know of it.

use std::collections::{BTreeMap, BTreeSet};

use millstream_types::{Error, Result};

use super::streams::StreamObjectEntry;
use super::{MANIFESTS, OBJECTS};
use crate::encoding::{Decoder, Encode, array, checksum};
use crate::errors::{damaged, unknown_version};

const MAGIC: &[u8; 8] = b"MSMANI01";

/// The version that is written. Version 1 has no streams.
const VERSION: u32 = 2;

/// What is written instead of a worker if an object is made of several.
const MERGED: u32 = u32::MAX;

/// A checkpoint, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The data directory that it belongs to.
    pub data_id: u128,
    /// The writer's term.
    pub term: u64,
    /// Its own number: one more than that of the manifest before it.
    pub number: u64,
    /// The epoch whose state it is.
    pub epoch: u64,
    /// The value of `now()` in that epoch, in microseconds since 1970-01-01 UTC.
    pub now_us: i64,
    /// The first record of the log that recovery reads.
    pub log_sequence: u64,
    /// The catalog, to those who know it.
    pub catalog: Vec<u8>,
    /// The owners that live.
    pub owners: BTreeSet<u64>,
    /// Small values of owners, by key.
    pub values: BTreeMap<(u64, Vec<u8>), Vec<u8>>,
    /// The objects that together are the state, oldest first.
    pub(super) objects: Vec<ObjectEntry>,
    /// The streams that live. Rows that were born at or before the epoch are forgotten; 0 if none are.
    pub stream_floors: BTreeMap<u64, u64>,
    /// The objects that have rows of streams; those of one stream oldest first.
    pub stream_objects: Vec<StreamObjectEntry>,
}

/// An object that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObjectEntry {
    /// Its name in the folder of objects.
    pub(super) name: String,
    /// It has what changed after this epoch,
    pub(super) after: u64,
    /// up to this one.
    pub(super) up_to: u64,
    /// Its length in bytes.
    pub(super) len: u64,
    pub(super) index_checksum: [u8; 8],
    /// The worker that wrote it; `None` if it is made of several.
    pub(super) worker: Option<u32>,
    /// The owners that it has sections of.
    pub(super) shares: Vec<OwnerShare>,
}

/// What an object has of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnerShare {
    pub(super) owner: u64,
    /// The bytes of its blocks.
    pub(super) n_bytes: u64,
    pub(super) n_rows: u64,
    pub(super) n_gone: u64,
}

impl ObjectEntry {
    /// Whether it has something of an owner.
    pub(super) fn has(&self, owner: u64) -> bool {
        self.shares.iter().any(|share| share.owner == owner)
    }
}

impl Manifest {
    /// How many objects make up the state, with those of streams.
    pub fn n_objects(&self) -> usize {
        self.objects.len() + self.stream_objects.len()
    }

    /// How many bytes all objects have.
    pub fn n_bytes(&self) -> u64 {
        let of_streams: u64 = self.stream_objects.iter().map(|object| object.len).sum();
        of_streams + self.objects.iter().map(|object| object.len).sum::<u64>()
    }

    /// How many bytes objects have of an owner.
    pub fn n_bytes_of(&self, owner: u64) -> u64 {
        let shares = self.objects.iter().flat_map(|object| &object.shares);
        shares.filter(|share| share.owner == owner).map(|share| share.n_bytes).sum()
    }

    /// The paths of the objects under the data directory: what a copy of the state needs.
    pub fn object_paths(&self) -> impl Iterator<Item = String> {
        let of_state = self.objects.iter().map(|object| format!("{OBJECTS}/{}", object.name));
        of_state.chain(self.stream_objects.iter().map(StreamObjectEntry::path))
    }

    /// The objects of a stream, oldest first.
    pub fn objects_of_stream(&self, stream: u64) -> impl Iterator<Item = &StreamObjectEntry> {
        self.stream_objects.iter().filter(move |object| object.stream == stream)
    }

    /// The path of the manifest itself under the data directory.
    pub fn path(&self) -> String {
        path_of(self.number)
    }

    /// The same, by a writer of another term.
    pub(crate) fn as_of_term(&self, term: u64) -> Manifest {
        Manifest { term, ..self.clone() }
    }

    /// The bytes of it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.put_u32(VERSION);
        bytes.put_u32(0);
        bytes.put_u128(self.data_id);
        bytes.put_u64(self.term);
        bytes.put_u64(self.number);
        bytes.put_u64(self.epoch);
        bytes.put_u64(self.now_us as u64);
        bytes.put_u64(self.log_sequence);
        bytes.put_bytes(&self.catalog);
        bytes.put_len(self.owners.len());
        self.owners.iter().for_each(|&owner| bytes.put_u64(owner));
        bytes.put_len(self.values.len());
        for ((owner, key), value) in &self.values {
            bytes.put_u64(*owner);
            bytes.put_bytes(key);
            bytes.put_bytes(value);
        }
        bytes.put_len(self.objects.len());
        self.objects.iter().for_each(|object| object.encode(&mut bytes));
        bytes.put_len(self.stream_floors.len());
        for (&stream, &floor) in &self.stream_floors {
            bytes.put_u64(stream);
            bytes.put_u64(floor);
        }
        bytes.put_len(self.stream_objects.len());
        self.stream_objects.iter().for_each(|object| object.encode(&mut bytes));
        bytes.extend(checksum(&bytes));
        bytes
    }

    /// The manifest with a number from its bytes.
    ///
    /// # Errors
    /// XX001 if it does not read right: it was durable before it had its name. 55000 if it is of another version.
    pub(super) fn decode(bytes: &[u8], number: u64, data_id: u128) -> Result<Manifest> {
        let path = path_of(number);
        let wrong = |why: &str| {
            damaged(&path, 0, why).with_hint(
                "Nothing was changed. Put the file back from a copy, or take it away: the checkpoint before it and the \
                 log have all that it has.",
            )
        };
        if !bytes.starts_with(MAGIC) || bytes.len() < MAGIC.len() + 4 + 8 {
            return Err(wrong("it does not begin as a manifest"));
        }
        let (body, stored) = bytes.split_at(bytes.len() - 8);
        let version = u32::from_le_bytes(array(bytes, MAGIC.len()));
        if stored != checksum(body) {
            return Err(wrong("its checksum is another one"));
        }
        if !(1..=VERSION).contains(&version) {
            return Err(unknown_version(&path, version, "the format of manifests"));
        }
        let manifest =
            Manifest::decode_body(&body[MAGIC.len() + 8..], version).ok_or_else(|| wrong("it does not make sense"))?;
        if manifest.data_id != data_id {
            return Err(wrong("it belongs to another data directory"));
        }
        if manifest.number != number {
            return Err(wrong(&format!("it is manifest {}", manifest.number)));
        }
        Ok(manifest)
    }

    fn decode_body(bytes: &[u8], version: u32) -> Option<Manifest> {
        let mut rest = Decoder(bytes);
        let mut manifest = Manifest {
            data_id: rest.u128()?,
            term: rest.u64()?,
            number: rest.u64()?,
            epoch: rest.u64()?,
            now_us: rest.u64()? as i64,
            log_sequence: rest.u64()?,
            catalog: rest.bytes()?.to_vec(),
            owners: rest.list(Decoder::u64)?.into_iter().collect(),
            values: rest
                .list(|rest| Some(((rest.u64()?, rest.bytes()?.to_vec()), rest.bytes()?.to_vec())))?
                .into_iter()
                .collect(),
            objects: rest.list(ObjectEntry::decode)?,
            ..Manifest::default()
        };
        if version > 1 {
            manifest.stream_floors = rest.list(|rest| Some((rest.u64()?, rest.u64()?)))?.into_iter().collect();
            manifest.stream_objects = rest.list(StreamObjectEntry::decode)?;
        }
        rest.is_at_end().then_some(manifest)
    }
}

impl ObjectEntry {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.put_bytes(self.name.as_bytes());
        bytes.put_u64(self.after);
        bytes.put_u64(self.up_to);
        bytes.put_u64(self.len);
        bytes.extend(self.index_checksum);
        bytes.put_u32(self.worker.unwrap_or(MERGED));
        bytes.put_len(self.shares.len());
        // There may be a thousand owners in each of hundreds of objects.
        for share in &self.shares {
            [share.owner, share.n_bytes, share.n_rows, share.n_gone].into_iter().for_each(|n| bytes.put_varint(n));
        }
    }

    fn decode(rest: &mut Decoder<'_>) -> Option<ObjectEntry> {
        Some(ObjectEntry {
            name: String::from_utf8(rest.bytes()?.to_vec()).ok()?,
            after: rest.u64()?,
            up_to: rest.u64()?,
            len: rest.u64()?,
            index_checksum: rest.u64()?.to_le_bytes(),
            worker: Some(rest.u32()?).filter(|&worker| worker != MERGED),
            shares: rest.list(OwnerShare::decode)?,
        })
    }
}

impl OwnerShare {
    fn decode(rest: &mut Decoder<'_>) -> Option<OwnerShare> {
        let (owner, n_bytes) = (rest.varint()?, rest.varint()?);
        Some(OwnerShare { owner, n_bytes, n_rows: rest.varint()?, n_gone: rest.varint()? })
    }
}

pub(super) fn path_of(number: u64) -> String {
    format!("{MANIFESTS}/{number:020}")
}

/// XX001: there are objects, and no manifest.
pub(super) fn missing() -> Error {
    damaged(MANIFESTS, 0, "there are objects of checkpoints, and no manifest")
}
