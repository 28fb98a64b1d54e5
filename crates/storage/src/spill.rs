//! Spilled state: rows that workers have no memory for, in files that do not outlive the process.
//!
//! ```text
//!   spill/1.rows:  block | block | ...          a block: rows as Arrow IPC, uncompressed
//! ```
//!
//! Blocks follow one another; where one lies, its length and its checksum are known to its owner alone, so the files mean
//! nothing to anybody else, and the folder is emptied before it is used. A file is removed with the last of its blocks.
//! Nothing is made durable. What is spilled is read again and again, mostly from the system's cache, so blocks are not
//! compressed: a block that was read is a batch as it is.
#![allow(unsafe_code)]

use std::hash::BuildHasher;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use hashbrown::DefaultHashBuilder;
use millstream_state::{ColdChunk, ColdStore};
use millstream_types::{Error, ErrorKind, Result, SqlState};
use parking_lot::Mutex;

use crate::checkpoint::block;
use crate::disk::{Disk, DiskFile, OsDisk, io_error};
use crate::errors::damaged;

/// The folder of a data directory that spilled state is in.
const FOLDER: &str = "spill";

/// The folder in it for queries.
const QUERIES: &str = "queries";

/// After so many bytes a file gets no more blocks.
const FILE_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 16 << 20 };

/// Files that get blocks at a time.
const N_OPEN: usize = 8;

/// How a folder for spilled state that belongs to no data directory begins; the process and a number follow.
const TEMPORARY: &str = "millstream-spill-";

/// The files of spilled state.
pub struct SpillFolder {
    disk: Arc<dyn Disk>,
    /// Removed with this; it is not that of a data directory.
    temporary: Option<PathBuf>,
    /// By thread: two that write the same file wait for each other.
    open: [Mutex<OpenFile>; N_OPEN],
    /// Files begun so far.
    n_files: AtomicU64,
    n_bytes: Arc<AtomicU64>,
    n_bytes_max: u64,
}

/// The file that gets the next block.
#[derive(Default)]
struct OpenFile {
    current: Option<Arc<SpillFile>>,
    len: u64,
}

impl std::fmt::Debug for SpillFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpillFolder").field("n_bytes", &self.n_bytes).finish_non_exhaustive()
    }
}

impl SpillFolder {
    /// The folder of a data directory, without what an earlier process has left there, for so many bytes at most.
    ///
    /// # Errors
    /// 53100 and 58030 if the disk fails.
    pub fn of_data_directory(disk: Arc<dyn Disk>, n_bytes_max: u64) -> Result<SpillFolder> {
        match disk.list(FOLDER) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            names => {
                for name in names.map_err(|e| io_error("list", FOLDER, &e))? {
                    let path = format!("{FOLDER}/{name}");
                    disk.remove(&path).map_err(|e| io_error("remove", &path, &e))?;
                }
            }
        }
        Ok(Self::new(disk, None, n_bytes_max))
    }

    fn new(disk: Arc<dyn Disk>, temporary: Option<PathBuf>, n_bytes_max: u64) -> SpillFolder {
        let (open, n_files, n_bytes) = (Default::default(), AtomicU64::new(0), Arc::default());
        SpillFolder { disk, temporary, open, n_files, n_bytes, n_bytes_max }
    }

    /// A folder among those for temporary files, which is made when something is put there, for so many bytes at most.
    pub fn temporary(n_bytes_max: u64) -> SpillFolder {
        SpillFolder::temporary_in(&std::env::temp_dir(), n_bytes_max)
    }

    fn temporary_in(temporary: &Path, n_bytes_max: u64) -> SpillFolder {
        static N_FOLDERS: AtomicU64 = AtomicU64::new(0);
        remove_abandoned(temporary);
        let number = N_FOLDERS.fetch_add(1, Relaxed);
        let path = temporary.join(format!("{TEMPORARY}{}-{number}", std::process::id()));
        let disk = Arc::new(OsDisk::new(path.clone()));
        Self::new(disk, Some(path), n_bytes_max)
    }

    /// The folder of a data directory for what queries put on disk while they run, without what an earlier process has
    /// left there.
    ///
    /// # Errors
    /// 53100 and 58030 if the disk fails.
    pub fn of_queries(data_directory: &Path) -> Result<PathBuf> {
        let path = data_directory.join(FOLDER).join(QUERIES);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => std::fs::create_dir_all(&path),
        }
        .map_err(|e| io_error("empty", &path.display().to_string(), &e))?;
        Ok(path)
    }

    /// Bytes that are spilled.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes.load(Relaxed)
    }

    /// 53100: as if the disk were full.
    fn is_full(&self) -> Error {
        let message = format!("spilled state takes {} bytes, and its limit is {}", self.n_bytes(), self.n_bytes_max);
        Error::new(ErrorKind::Resource, SqlState::DISK_FULL, message)
    }

    /// Where so many bytes are to be written: a file, and the place in it.
    fn place(&self, len: u64) -> Result<(Arc<SpillFile>, u64)> {
        let mut open = self.open[thread_number() % N_OPEN].lock();
        if open.len >= FILE_BYTES {
            open.current = None;
        }
        let file = match &open.current {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(self.new_file()?);
                open.len = 0;
                open.current = Some(Arc::clone(&file));
                file
            }
        };
        let offset = open.len;
        open.len += len;
        Ok((file, offset))
    }

    fn new_file(&self) -> Result<SpillFile> {
        let name = format!("{FOLDER}/{}.rows", self.n_files.fetch_add(1, Relaxed) + 1);
        // Where temporary files are is nowhere else to be seen.
        let path = self.temporary.as_ref().map_or_else(|| name.clone(), |at| at.join(&name).display().to_string());
        let made = self.disk.create_folder(FOLDER).and_then(|()| self.disk.create(&name));
        let file = made.map_err(|e| io_error("make", &path, &e))?;
        Ok(SpillFile { name, path, file, disk: Arc::clone(&self.disk), hash: DefaultHashBuilder::default() })
    }
}

impl Drop for SpillFolder {
    fn drop(&mut self) {
        self.open.iter().for_each(|open| open.lock().current = None);
        if let Some(path) = &self.temporary {
            // Owners of blocks that live on remove their files; what is left is removed by a later process.
            let _ = std::fs::remove_dir(path.join(FOLDER));
            let _ = std::fs::remove_dir(path);
        }
    }
}

/// A number of this thread's own.
fn thread_number() -> usize {
    static N_THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = N_THREADS.fetch_add(1, Relaxed));
    NUMBER.with(|number| *number)
}

/// Removes folders of processes that have ended without doing so.
fn remove_abandoned(temporary: &Path) {
    let Ok(entries) = std::fs::read_dir(temporary) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(TEMPORARY)).and_then(|rest| rest.split_once('-'));
        let Some((process, _)) = process.filter(|(process, _)| process.parse::<u32>().is_ok()) else { continue };
        if Path::new("/proc/self").exists() && !Path::new("/proc").join(process).exists() {
            // It may be another user's.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl ColdStore for SpillFolder {
    fn put(&self, rows: &RecordBatch) -> Result<Arc<dyn ColdChunk>> {
        let block = block::BlockEncoder::uncompressed()?.encode(rows)?;
        let len = block.bytes.len();
        if self.n_bytes() + len as u64 > self.n_bytes_max {
            return Err(self.is_full());
        }
        let (file, offset) = self.place(len as u64)?;
        file.file.write_at(&block.bytes, offset).map_err(|e| io_error("write", &file.path, &e))?;
        self.n_bytes.fetch_add(len as u64, Relaxed);
        let checksum = file.checksum(&block.bytes);
        Ok(Arc::new(Block {
            file,
            offset,
            len,
            metadata_len: block.metadata_len,
            checksum,
            schema: rows.schema(),
            n_rows: rows.num_rows(),
            n_bytes: Arc::clone(&self.n_bytes),
        }))
    }
}

/// A file, which is removed when nobody owns a block of it.
struct SpillFile {
    name: String,
    /// As it is shown.
    path: String,
    file: Arc<dyn DiskFile>,
    disk: Arc<dyn Disk>,
    /// With a key of its own: bytes that lie in another place, or are left of another file, are wrong as well.
    hash: DefaultHashBuilder,
}

impl SpillFile {
    /// 64 bits, for this process alone.
    fn checksum(&self, bytes: &[u8]) -> u64 {
        self.hash.hash_one(bytes)
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        if let Err(error) = self.disk.remove(&self.name) {
            tracing::warn!(path = self.path, %error, "a file of spilled state cannot be removed");
        }
    }
}

/// Rows in a file.
struct Block {
    file: Arc<SpillFile>,
    offset: u64,
    len: usize,
    metadata_len: u32,
    checksum: u64,
    schema: SchemaRef,
    n_rows: usize,
    /// Of all blocks.
    n_bytes: Arc<AtomicU64>,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {} of {}", self.len, self.offset, self.file.path)
    }
}

impl ColdChunk for Block {
    fn read(&self, projection: Option<&[usize]>) -> Result<RecordBatch> {
        let mut bytes = vec![0; self.len];
        let n_read = self.file.file.read_at(&mut bytes, self.offset);
        let n_read = n_read.map_err(|e| io_error("read", &self.file.path, &e))?;
        let wrong = |why: &str| damaged_spill(&self.file.path, self.offset as usize, why);
        if n_read < self.len || self.file.checksum(&bytes) != self.checksum {
            return Err(wrong("it does not hold what was written"));
        }
        let bytes = Buffer::from_vec(bytes);
        // SAFETY: `put` of this process has made the block of rows of that schema; nobody else can make one, and the
        // checksum says that the bytes are still the same.
        let rows = unsafe { block::decode_own(bytes, self.metadata_len, &self.schema, projection) };
        rows.map_err(|e| wrong(&e.to_string()))
    }

    fn n_rows(&self) -> usize {
        self.n_rows
    }

    fn n_bytes(&self) -> usize {
        self.len
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.n_bytes.fetch_sub(self.len as u64, Relaxed);
    }
}

/// XX001: nothing is lost that was durable.
fn damaged_spill(path: &str, offset: usize, why: &str) -> Error {
    damaged(path, offset, why).with_hint("The file holds spilled state and nothing else; REFRESH computes a view anew.")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use arrow::array::{ArrayRef, Int64Array, StringViewArray};
    use arrow::datatypes::DataType;
    use millstream_types::delta::schema_of;

    use super::*;

    fn rows(from: i64, n: i64) -> RecordBatch {
        let schema = schema_of(&[("k", DataType::Int64), ("t", DataType::Utf8View)]);
        let numbers: ArrayRef = Arc::new((from..from + n).map(|k| (k % 5 > 0).then_some(k)).collect::<Int64Array>());
        let text = |k: i64| Some(format!("a text that is longer than a view, {k}"));
        let texts: ArrayRef = Arc::new((from..from + n).map(text).collect::<StringViewArray>());
        RecordBatch::try_new(schema, vec![numbers, texts]).expect("two columns")
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder.join(FOLDER)).map_or(0, Iterator::count)
    }

    #[test]
    fn rows_come_back_and_files_go_with_their_owners() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(folder.path()));
        let spill = SpillFolder::of_data_directory(Arc::clone(&disk), u64::MAX).expect("nothing is there");
        let batches: Vec<RecordBatch> = (0..40).map(|i| rows(i * 100_000, 20_000)).collect();
        let mut chunks: Vec<Arc<dyn ColdChunk>> =
            batches.iter().map(|rows| spill.put(rows).expect("it is written")).collect();
        assert!(files(folder.path()) > 1, "files are bounded");
        for (chunk, rows) in chunks.iter().zip(&batches) {
            assert_eq!(chunk.n_rows(), rows.num_rows());
            assert_eq!(chunk.read(None).expect("it is there"), *rows);
            let turned = rows.project(&[1, 0]).expect("its columns");
            assert_eq!(chunk.read(Some(&[1, 0])).expect("it is there"), turned);
            assert_eq!(chunk.read(Some(&[])).expect("it is there").num_rows(), rows.num_rows());
        }
        assert_eq!(spill.n_bytes(), chunks.iter().map(|chunk| chunk.n_bytes() as u64).sum::<u64>());
        chunks.truncate(1);
        assert!(files(folder.path()) <= 2, "one has a block, and one gets the next");
        assert_eq!(chunks[0].read(None).expect("it is there"), batches[0]);
        // As after a process that was killed.
        std::mem::forget(chunks);
        std::mem::forget(spill);
        let spill = SpillFolder::of_data_directory(disk, u64::MAX).expect("it can be emptied");
        assert_eq!((files(folder.path()), spill.n_bytes()), (0, 0));
    }

    #[test]
    fn a_folder_for_temporary_files_that_is_of_no_use_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let temporary = folder.path().join("tmp");
        fs::write(&temporary, "no folder").expect("written");
        let spill = SpillFolder::temporary_in(&temporary, u64::MAX);
        let error = spill.put(&rows(0, 1000)).expect_err("there is no room");
        assert!(error.message().contains(&*temporary.to_string_lossy()), "{error}");
        assert_eq!(spill.n_bytes(), 0);
        // It is tried again.
        fs::remove_file(&temporary).expect("it is there");
        let chunk = spill.put(&rows(0, 1000)).expect("there is room");
        assert_eq!(chunk.read(None).expect("it is there"), rows(0, 1000));
        drop((chunk, spill));
        assert_eq!(fs::read_dir(&temporary).expect("it was made").count(), 0, "nothing is left");
    }

    #[test]
    fn damage_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let spill =
            SpillFolder::of_data_directory(Arc::new(OsDisk::new(folder.path())), u64::MAX).expect("nothing is there");
        let chunk = spill.put(&rows(0, 1000)).expect("it is written");
        let path = folder.path().join(FOLDER).join("1.rows");
        let whole = fs::read(&path).expect("the first file");
        let mut bytes = whole.clone();
        bytes[whole.len() / 2] ^= 1;
        for wrong in [bytes, whole[..whole.len() - 1].to_vec()] {
            fs::write(&path, wrong).expect("written");
            let error = chunk.read(None).expect_err("it is damaged");
            assert_eq!(error.state(), SqlState::DATA_CORRUPTED);
            assert!(error.message().contains("spill/1.rows"), "{}", error.message());
        }
    }

    #[test]
    fn a_temporary_folder_is_made_when_it_is_needed_and_goes() {
        let spill = SpillFolder::temporary(1 << 16);
        let path = spill.temporary.clone().expect("it is temporary");
        assert!(!path.exists());
        let chunk = spill.put(&rows(0, 10)).expect("it is written");
        assert!(path.exists());
        let error = spill.put(&rows(0, 100_000)).expect_err("more than it may have");
        assert_eq!(error.state(), SqlState::DISK_FULL);
        drop(chunk);
        drop(spill);
        assert!(!path.exists());
    }
}
