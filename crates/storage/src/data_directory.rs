//! A data directory: what tells it from any other folder, and the lock of the one process that has it.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_types::{Error, ErrorKind, Result, SqlState};

use crate::disk::{Disk, OsDisk, io_error};
use crate::encoding::{Decoder, Encode, checksum};
use crate::errors::{damaged, unknown_version};

const MAGIC: &[u8; 8] = b"MSDATA01";

/// The only version so far.
const VERSION: u32 = 1;

/// 55006: object in use.
const IN_USE: SqlState = SqlState("55006");

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
    disk: Arc<dyn Disk>,
    /// The operating system gives it back when the file is closed, also that of a process that was killed.
    _lock: File,
}

impl fmt::Debug for DataDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataDirectory").field("id", &self.id).finish_non_exhaustive()
    }
}

impl DataDirectory {
    /// Takes a data directory, or makes one of a folder that is empty or not there.
    ///
    /// # Errors
    /// 55006 if another process has it; 55000 if it is of a newer version, or a folder with other things in it; XX001 if
    /// its identity does not read right; 53100 and 58030 if the disk fails.
    pub fn open(path: &Path) -> Result<DataDirectory> {
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
        Ok(DataDirectory { id, disk, _lock: lock })
    }

    /// The random number that all its files have.
    pub fn id(&self) -> u128 {
        self.id
    }

    /// Its files.
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    /// Puts another disk over its files, as tests and benchmarks do.
    pub fn put_disk(&mut self, disk: Arc<dyn Disk>) {
        self.disk = disk;
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
            let (path, name) = (path.display(), name.display());
            let message = format!("folder \"{path}\" is no data directory, and not empty: it has \"{name}\"");
            let error = Error::new(ErrorKind::External, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message);
            return Ok(Err(error.with_hint("Give the path of a data directory, or of an empty folder.")));
        }
    }
    Ok(Ok(()))
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

/// Whether a folder says that it is a data directory.
pub(crate) fn is_data_directory(path: &Path) -> bool {
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

fn random_id() -> io::Result<u128> {
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
        let first = DataDirectory::open(&path).expect("it is made");
        let refused = DataDirectory::open(&path).expect_err("it is in use");
        assert_eq!(refused.state(), IN_USE);
        assert!(refused.message().contains("is in use by another process"), "{}", refused.message());
        let id = first.id();
        drop(first);
        assert_eq!(DataDirectory::open(&path).expect("it is free").id(), id);
        let other = DataDirectory::open(&folder.path().join("other")).expect("it is made");
        assert_ne!(other.id(), id);
    }

    #[test]
    fn folders_of_others_and_of_newer_versions_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("letter.txt"), "dear").expect("a file");
        let error = DataDirectory::open(folder.path()).expect_err("not ours");
        assert!(error.message().contains("letter.txt"), "{}", error.message());
        assert!(!folder.path().join(LOCK).exists(), "nothing was made there");
        fs::remove_file(folder.path().join("letter.txt")).expect("it is there");

        fs::write(folder.path().join(NEW_IDENTITY), "half").expect("a file");
        drop(DataDirectory::open(folder.path()).expect("cut short, and made again"));

        let path = folder.path().join(IDENTITY);
        fs::write(&path, encode(2, 7)).expect("written");
        let error = DataDirectory::open(folder.path()).expect_err("newer");
        assert!(error.message().contains("data.id") && error.message().contains("version 2"), "{}", error.message());
        let right = encode(VERSION, 7);
        for i in 0..right.len() {
            let mut bytes = right.clone();
            bytes[i] ^= 1;
            fs::write(&path, &bytes).expect("written");
            let error = DataDirectory::open(folder.path()).expect_err("damaged");
            assert_eq!(error.state(), SqlState::DATA_CORRUPTED, "byte {i}");
        }
    }
}
