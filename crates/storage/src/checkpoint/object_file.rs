//! What all kinds of objects have around their blocks: a header, an index, and a footer that leads to it.

use std::sync::Arc;

use millstream_types::{Error, Result};

use crate::encoding::{Encode, array, checksum};
use crate::errors::{damaged, unknown_version};
use crate::object_store::{BegunRead, ObjectSink, ObjectStore};

/// What every object ends with.
const END_MAGIC: &[u8; 8] = b"MSOBJEND";

/// Bytes of the header.
const HEADER_BYTES: usize = 40;

/// Bytes of the footer.
const FOOTER_BYTES: usize = 40;

/// Bytes at the end of an object that are read ahead: most indexes are smaller.
const TAIL_BYTES: u64 = 64 << 10;

/// What the objects of a kind begin with.
pub(super) struct Header {
    pub(super) magic: &'static [u8; 8],
    /// The only version so far.
    pub(super) version: u32,
    /// The version of the hash that rows are partitioned by; 0 if they are not.
    pub(super) hash_version: u32,
}

impl Header {
    fn encode(&self, data_id: u128) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.put_u32(self.version);
        bytes.put_u32(self.hash_version);
        bytes.put_u128(data_id);
        bytes.extend(checksum(&bytes));
        bytes
    }

    /// # Errors
    /// XX001 naming the object if it does not begin so; 55000 if it is of another version.
    fn check(&self, path: &str, bytes: &[u8; HEADER_BYTES], data_id: u128) -> Result<()> {
        if !bytes.starts_with(self.magic) || checksum(&bytes[..HEADER_BYTES - 8]) != bytes[HEADER_BYTES - 8..] {
            return Err(damaged(path, 0, "it does not begin with the header of an object"));
        }
        let (version, hash_version) = (u32::from_le_bytes(array(bytes, 8)), u32::from_le_bytes(array(bytes, 12)));
        if version != self.version {
            return Err(unknown_version(path, version, "the format of objects"));
        }
        if hash_version != self.hash_version {
            return Err(unknown_version(path, hash_version, "the hash of rows"));
        }
        if array(bytes, 16) != data_id.to_le_bytes() {
            return Err(damaged(path, 0, "it belongs to another data directory"));
        }
        Ok(())
    }
}

/// Where the index is.
struct Footer {
    offset: u64,
    len: u64,
    checksum: [u8; 8],
}

impl Footer {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER_BYTES);
        bytes.put_u64(self.offset);
        bytes.put_u64(self.len);
        bytes.extend(self.checksum);
        bytes.extend(checksum(&bytes));
        bytes.extend(END_MAGIC);
        bytes
    }

    /// The footer of an object of that length, if it reads right.
    fn decode(bytes: &[u8; FOOTER_BYTES], object_len: u64) -> Option<Footer> {
        let footer = Footer {
            offset: u64::from_le_bytes(array(bytes, 0)),
            len: u64::from_le_bytes(array(bytes, 8)),
            checksum: array(bytes, 16),
        };
        let is_right = bytes.ends_with(END_MAGIC)
            && checksum(&bytes[..24]) == bytes[24..32]
            && footer.offset.checked_add(footer.len)?.checked_add(FOOTER_BYTES as u64)? == object_len;
        is_right.then_some(footer)
    }
}

/// An object that is being written, from front to back. Dropped before [`ObjectFile::finish`], it was never there.
pub(super) struct ObjectFile {
    store: Arc<dyn ObjectStore>,
    path: String,
    header: Vec<u8>,
    /// `None` until there is something to write.
    sink: Option<Box<dyn ObjectSink>>,
    len: u64,
}

/// How an object is named, once it is there.
pub(super) struct FinishedFile {
    pub(super) file: UnnamedFile,
    pub(super) len: u64,
    pub(super) index_checksum: [u8; 8],
}

/// An object that is there durably, and that nothing names yet. Dropped, it is deleted again.
pub(super) struct UnnamedFile {
    store: Arc<dyn ObjectStore>,
    path: String,
    is_kept: bool,
}

impl ObjectFile {
    pub(super) fn new(store: Arc<dyn ObjectStore>, path: String, header: &Header, data_id: u128) -> ObjectFile {
        ObjectFile { store, path, header: header.encode(data_id), sink: None, len: 0 }
    }

    /// Writes bytes; gives where they are.
    ///
    /// # Errors
    /// 53100 and 58030 if they cannot be written. Nothing can be added afterwards.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<u64> {
        let sink = match &mut self.sink {
            Some(sink) => sink,
            None => {
                let sink = self.sink.insert(self.store.put(&self.path)?);
                sink.write(&self.header)?;
                self.len = self.header.len() as u64;
                sink
            }
        };
        sink.write(bytes)?;
        let offset = self.len;
        self.len += bytes.len() as u64;
        Ok(offset)
    }

    /// Makes the object durable, with its index; it has blocks.
    ///
    /// # Errors
    /// 53100 and 58030 if it cannot be written; the object is not there then.
    pub(super) fn finish(mut self, index: &[u8]) -> Result<FinishedFile> {
        let Some(mut sink) = self.sink.take() else { return Err(Error::internal("an object without blocks")) };
        let footer = Footer { offset: self.len, len: index.len() as u64, checksum: checksum(index) };
        let end = [index, &footer.encode()].concat();
        sink.write(&end)?;
        sink.finish()?;
        let file = UnnamedFile { store: self.store, path: self.path, is_kept: false };
        Ok(FinishedFile { file, len: self.len + end.len() as u64, index_checksum: footer.checksum })
    }
}

impl UnnamedFile {
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Something names it now, or may: it is deleted by those who know when nothing does.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for UnnamedFile {
    fn drop(&mut self) {
        if !self.is_kept {
            // What cannot be deleted now is when the directory is opened again.
            let _ = self.store.delete(std::slice::from_ref(&self.path));
        }
    }
}

/// An object as a manifest names it.
pub(super) struct NamedFile<'a> {
    pub(super) path: &'a str,
    pub(super) len: u64,
    pub(super) index_checksum: [u8; 8],
}

/// What leads to the index of an object, if it is read ahead.
pub(super) struct BegunIndex {
    head: Option<BegunRead>,
    tail: Option<BegunRead>,
}

impl NamedFile<'_> {
    /// Begins to read what leads to the index, and the index if it is small.
    pub(super) fn begin(&self, store: &dyn ObjectStore) -> BegunIndex {
        if self.len < (HEADER_BYTES + FOOTER_BYTES) as u64 {
            return BegunIndex { head: None, tail: None };
        }
        let head = store.begin_read(self.path, 0..HEADER_BYTES as u64);
        let tail = head.as_ref().and_then(|_| store.begin_read(self.path, self.tail_at()..self.len));
        BegunIndex { head, tail }
    }

    /// Where what is read ahead begins.
    fn tail_at(&self) -> u64 {
        self.len.saturating_sub(TAIL_BYTES).max(HEADER_BYTES as u64)
    }

    /// Reads the index, as `decode` makes something of its bytes.
    ///
    /// # Errors
    /// XX001 naming the object if it is not there or not as it was written; 55000 if it is of another version.
    pub(super) fn read_index<T>(
        &self,
        store: &dyn ObjectStore,
        begun: BegunIndex,
        header: &Header,
        data_id: u128,
        decode: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T> {
        let path = self.path;
        let (head, tail) = match (begun.head, begun.tail) {
            (Some(head), Some(tail)) => (head.wait()?, tail.wait()?),
            _ => {
                let len = store.len(path)?;
                if len != self.len || len < (HEADER_BYTES + FOOTER_BYTES) as u64 {
                    return Err(damaged(path, len as usize, &format!("it has {len} bytes instead of {}", self.len)));
                }
                let footer = store.read_range(path, len - FOOTER_BYTES as u64..len)?;
                (store.read_range(path, 0..HEADER_BYTES as u64)?, footer)
            }
        };
        header.check(path, &array(&head, 0), data_id)?;
        let footer_at = self.len - FOOTER_BYTES as u64;
        let tail_at = self.len - tail.len() as u64;
        let Some(footer) = Footer::decode(&array(&tail, tail.len() - FOOTER_BYTES), self.len) else {
            return Err(damaged(path, footer_at as usize, "its footer does not read right"));
        };
        let index = match footer.offset.checked_sub(tail_at) {
            Some(start) => tail[start as usize..tail.len() - FOOTER_BYTES].to_vec(),
            None => store.read_range(path, footer.offset..footer.offset + footer.len)?,
        };
        if footer.checksum != self.index_checksum || checksum(&index) != footer.checksum {
            return Err(damaged(path, footer.offset as usize, "its index does not read right"));
        }
        decode(&index).ok_or_else(|| damaged(path, footer.offset as usize, "its index does not make sense"))
    }
}
