//! A data directory: what tells it from any other folder, and the lock of the one process that has it.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_types::{Error, ErrorKind, Result, SqlState};

use crate::bucket::{Bucket, BucketObjects};
use crate::checkpoint::{self, CheckpointOptions, CheckpointStore, MANIFESTS, Snapshot};
use crate::disk::{Disk, OsDisk, io_error};
use crate::encoding::{Decoder, Encode, checksum};
use crate::errors::{IN_USE, damaged, unknown_version};
use crate::location::Location;
use crate::log::{self, Log, LogEvents, LogOptions, LogReader};
use crate::object_store::{DiskStore, ObjectStore, Put};

const MAGIC: &[u8; 8] = b"MSDATA01";

/// The only version so far.
const VERSION: u32 = 1;

/// The file that the lock is on.
const LOCK: &str = "LOCK";

/// How long one waits for a process that ends, looking each so long.
const LOCKED_WITHIN: Duration = Duration::from_secs(1);
const LOCKED_AFTER: Duration = Duration::from_millis(10);

/// The file that says what the directory is.
const IDENTITY: &str = "data.id";

/// Under which name it is written first.
const NEW_IDENTITY: &str = "data.id.tmp";

/// More than any version of it has, in bytes.
const IDENTITY_BYTES_MAX: usize = 4096;

/// A data directory that this process has, until it is dropped.
pub struct DataDirectory {
    id: u128,
    place: Place,
}

enum Place {
    /// The operating system gives the lock back when its file is closed, also that of a process that was killed.
    Folder { disk: Arc<dyn Disk>, _lock: File },
    /// It is had by whoever has taken over its log last.
    Bucket(Arc<Bucket>),
}

impl fmt::Debug for DataDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataDirectory").field("id", &self.id).finish_non_exhaustive()
    }
}

impl DataDirectory {
    /// Takes a data directory, or makes one of a folder that is empty or not there, or of a prefix without objects. One in a
    /// bucket is taken by [`DataDirectory::open_log`].
    ///
    /// # Errors
    /// 55006 if another process has the folder; 55000 if it is of a newer version, or has other things in it; XX001 if
    /// its identity does not read right; 53100 and 58030 if the disk or the bucket fails.
    pub fn open(at: &Location) -> Result<DataDirectory> {
        match at {
            Location::Folder(path) => DataDirectory::open_folder(path),
            Location::Bucket(url) => DataDirectory::open_bucket(Arc::new(Bucket::open(url)?)),
        }
    }

    fn open_folder(path: &Path) -> Result<DataDirectory> {
        let shown = path.display().to_string();
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::new(path));
        disk.create_folder(".").map_err(|e| io_error("make", &shown, &e))?;
        refuse_other_folders(path).map_err(|e| io_error("list", &shown, &e))??;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK));
        let lock = lock.map_err(|e| io_error("make", &format!("{shown}/{LOCK}"), &e))?;
        let waits_until = Instant::now() + LOCKED_WITHIN;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                // A process that was killed may still be on its way out.
                Err(TryLockError::WouldBlock) if Instant::now() < waits_until => std::thread::sleep(LOCKED_AFTER),
                Err(TryLockError::WouldBlock) => return Err(in_use(&shown)),
                Err(TryLockError::Error(error)) => return Err(io_error("lock", &format!("{shown}/{LOCK}"), &error)),
            }
        }
        let id = identity(&*disk)?;
        Ok(DataDirectory { id, place: Place::Folder { disk, _lock: lock } })
    }

    pub(crate) fn open_bucket(bucket: Arc<Bucket>) -> Result<DataDirectory> {
        let bytes = match bucket.read(IDENTITY)? {
            Some(bytes) => bytes,
            None => {
                if let Some(name) = bucket.any_name()? {
                    return Err(not_empty(bucket.url(), &name));
                }
                let id = random_id().map_err(|e| io_error("read", "/dev/urandom", &e))?;
                let bytes = Bytes::from(encode(VERSION, id));
                match bucket.create(IDENTITY, &bytes) {
                    Put::Done => bytes,
                    // Another process makes it, too.
                    Put::Taken => bucket.read(IDENTITY)?.ok_or_else(|| damaged(IDENTITY, 0, "it is gone again"))?,
                    Put::Failed(error) | Put::Unknown(error) => return Err(error),
                }
            }
        };
        let id = decode(&bytes)?;
        bucket.check_conditions(IDENTITY, &bytes)?;
        Ok(DataDirectory { id, place: Place::Bucket(bucket) })
    }

    /// The random number that all its files have.
    pub fn id(&self) -> u128 {
        self.id
    }

    /// Its files, if it is a folder.
    pub fn disk(&self) -> Option<Arc<dyn Disk>> {
        match &self.place {
            Place::Folder { disk, .. } => Some(Arc::clone(disk)),
            Place::Bucket(_) => None,
        }
    }

    /// Puts another disk over that of a folder, as tests and benchmarks do.
    pub fn put_disk(&mut self, over: &dyn Fn(Arc<dyn Disk>) -> Arc<dyn Disk>) {
        if let Place::Folder { disk, .. } = &mut self.place {
            *disk = over(Arc::clone(disk));
        }
    }

    /// Opens its log for writing. In a bucket this takes it from whoever has it: that process can write nothing more.
    ///
    /// # Errors
    /// XX001, naming file and place, if what was durable does not read right; 53100 and 58030 if the disk or the bucket fails.
    pub fn open_log(&self, options: LogOptions, events: Arc<dyn LogEvents>) -> Result<Log> {
        let options = LogOptions { id: self.id, ..options };
        match &self.place {
            Place::Folder { disk, .. } => Log::open(Arc::clone(disk), options, events),
            Place::Bucket(bucket) => {
                if bucket.sizes(log::FOLDER)?.is_empty() && !bucket.sizes(MANIFESTS)?.is_empty() {
                    return Err(damaged(log::FOLDER, 0, "there are manifests, and no objects of the log"));
                }
                Log::open_in_bucket(Arc::clone(bucket), options, events)
            }
        }
    }

    /// Opens its checkpoints, as the writer that has the log.
    ///
    /// # Errors
    /// As [`CheckpointStore::open`].
    pub fn open_checkpoints(&self, log: &Log) -> Result<CheckpointStore> {
        let options = CheckpointOptions { data_id: self.id, term: log.term(), ..CheckpointOptions::default() };
        let store: Arc<dyn ObjectStore> = match (&self.place, log.objects()) {
            (Place::Folder { disk, .. }, _) => Arc::new(DiskStore::new(Arc::clone(disk), &checkpoint::FOLDERS)?),
            (Place::Bucket(bucket), Some(log)) => Arc::new(BucketObjects::owned(Arc::clone(bucket), Arc::clone(log))),
            (Place::Bucket(_), None) => return Err(Error::internal("the log of another data directory")),
        };
        CheckpointStore::open(store, options)
    }

    /// The newest checkpoint, to be read while nobody writes.
    ///
    /// # Errors
    /// XX001 if there is none, or its manifest does not read right; 58030.
    pub(crate) fn read_checkpoint(&self) -> Result<Snapshot> {
        let store: Arc<dyn ObjectStore> = match &self.place {
            Place::Folder { disk, .. } => Arc::new(DiskStore::new(Arc::clone(disk), &checkpoint::FOLDERS)?),
            Place::Bucket(bucket) => Arc::new(BucketObjects::new(Arc::clone(bucket))),
        };
        Snapshot::of_newest(store, self.id)
    }

    /// What its log has, to be read while nobody writes.
    ///
    /// # Errors
    /// As [`DataDirectory::open_log`].
    pub(crate) fn read_log(&self) -> Result<LogReader> {
        match &self.place {
            Place::Folder { disk, .. } => LogReader::of_disk(Arc::clone(disk), self.id),
            Place::Bucket(bucket) => LogReader::of_bucket(Arc::clone(bucket), self.id),
        }
    }
}

fn in_use(path: &str) -> Error {
    let message = format!("data directory \"{path}\" is in use by another process");
    Error::new(ErrorKind::External, IN_USE, message).with_hint(
        "Stop that process, or give this one a folder of its own: --data-dir FOLDER; with --in-memory it needs none.",
    )
}

/// A folder that has files and is no data directory is somebody else's.
fn refuse_other_folders(path: &Path) -> io::Result<Result<()>> {
    if is_data_directory(path) {
        return Ok(Ok(()));
    }
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        // What is left where making one was cut short; `lost+found` is in every new file system.
        if [LOCK, NEW_IDENTITY, "lost+found"].iter().all(|ours| name != *ours) {
            return Ok(Err(not_empty(&path.display().to_string(), &name.display().to_string())));
        }
    }
    Ok(Ok(()))
}

fn not_empty(place: &str, name: &str) -> Error {
    let message = format!("\"{place}\" is no data directory, and not empty: it has \"{name}\"");
    Error::new(ErrorKind::External, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
        .with_hint("Give the path of a data directory, of an empty folder, or of a prefix without objects.")
}

/// The id of a data directory, which gets one if it has none.
fn identity(disk: &dyn Disk) -> Result<u128> {
    match disk.open(IDENTITY) {
        Ok(file) => {
            let mut bytes = vec![0; IDENTITY_BYTES_MAX];
            let n_read = file.read_at(&mut bytes, 0).map_err(|e| io_error("read", IDENTITY, &e))?;
            decode(&bytes[..n_read])
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = random_id().map_err(|e| io_error("read", "/dev/urandom", &e))?;
            make_identity(disk, id).map_err(|e| io_error("make", IDENTITY, &e))?;
            Ok(id)
        }
        Err(error) => Err(io_error("open", IDENTITY, &error)),
    }
}

/// Makes what is under a prefix a data directory.
pub(crate) fn make_identity_in_bucket(bucket: &Bucket, id: u128) -> Result<()> {
    match bucket.create(IDENTITY, &Bytes::from(encode(VERSION, id))) {
        Put::Done => Ok(()),
        Put::Taken => Err(not_empty(bucket.url(), IDENTITY)),
        Put::Failed(error) | Put::Unknown(error) => Err(error),
    }
}

/// Whether a place says that it is a data directory.
pub(crate) fn is_data_directory_at(at: &Location) -> Result<bool> {
    match at {
        Location::Folder(path) => Ok(is_data_directory(path)),
        Location::Bucket(url) => Ok(Bucket::open(url)?.read(IDENTITY)?.is_some()),
    }
}

/// Whether a folder says that it is a data directory.
fn is_data_directory(path: &Path) -> bool {
    path.join(IDENTITY).exists()
}

/// Makes a folder a data directory.
pub(crate) fn make_identity(disk: &dyn Disk, id: u128) -> io::Result<()> {
    match disk.remove(NEW_IDENTITY) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(NEW_IDENTITY)?;
    file.write_at(&encode(VERSION, id), 0)?;
    file.sync()?;
    disk.rename(NEW_IDENTITY, IDENTITY)?;
    disk.sync_folder(".")
}

pub(crate) fn random_id() -> io::Result<u128> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}

fn encode(version: u32, id: u128) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.put_u32(version);
    bytes.put_u32(0);
    bytes.put_u128(id);
    bytes.extend(checksum(&bytes));
    bytes
}

/// The id; that the beginning and the checksum at the end are as they are holds for every version.
fn decode(bytes: &[u8]) -> Result<u128> {
    let wrong = || damaged(IDENTITY, 0, "it does not say which data directory this is");
    let Some((body, stored)) = bytes.split_last_chunk::<8>().filter(|(body, _)| body.starts_with(MAGIC)) else {
        return Err(wrong());
    };
    if *stored != checksum(body) {
        return Err(wrong());
    }
    let mut rest = Decoder(&body[MAGIC.len()..]);
    match rest.u32() {
        Some(VERSION) => rest.u32().and_then(|_| rest.u128()).ok_or_else(wrong),
        Some(version) => Err(unknown_version(IDENTITY, version, "data directories")),
        None => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_once_and_had_by_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data");
        let first = DataDirectory::open_folder(&path).expect("it is made");
        let refused = DataDirectory::open_folder(&path).expect_err("it is in use");
        assert_eq!(refused.state(), IN_USE);
        assert!(refused.message().contains("is in use by another process"), "{}", refused.message());
        let id = first.id();
        drop(first);
        assert_eq!(DataDirectory::open_folder(&path).expect("it is free").id(), id);
        let other = DataDirectory::open_folder(&folder.path().join("other")).expect("it is made");
        assert_ne!(other.id(), id);
    }

    #[test]
    fn folders_of_others_and_of_newer_versions_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("letter.txt"), "dear").expect("a file");
        let error = DataDirectory::open_folder(folder.path()).expect_err("not ours");
        assert!(error.message().contains("letter.txt"), "{}", error.message());
        assert!(!folder.path().join(LOCK).exists(), "nothing was made there");
        fs::remove_file(folder.path().join("letter.txt")).expect("it is there");

        fs::write(folder.path().join(NEW_IDENTITY), "half").expect("a file");
        drop(DataDirectory::open_folder(folder.path()).expect("cut short, and made again"));

        let path = folder.path().join(IDENTITY);
        fs::write(&path, encode(2, 7)).expect("written");
        let error = DataDirectory::open_folder(folder.path()).expect_err("newer");
        assert!(error.message().contains("data.id") && error.message().contains("version 2"), "{}", error.message());
        let right = encode(VERSION, 7);
        for i in 0..right.len() {
            let mut bytes = right.clone();
            bytes[i] ^= 1;
            fs::write(&path, &bytes).expect("written");
            let error = DataDirectory::open_folder(folder.path()).expect_err("damaged");
            assert_eq!(error.state(), SqlState::DATA_CORRUPTED, "byte {i}");
        }
    }
}
