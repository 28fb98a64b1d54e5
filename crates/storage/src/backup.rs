//! Backups: a checkpoint and what it needs, copied to a folder, which is a data directory then.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use millstream_types::{Error, ErrorKind, Result, SqlState};

use crate::checkpoint::{CheckpointOptions, CheckpointStore, FOLDERS, Snapshot};
use crate::data_directory::{DataDirectory, is_data_directory, make_identity};
use crate::disk::{Disk, OsDisk, io_error};
use crate::log::{self, LogOptions};
use crate::object_store::{DiskStore, ObjectStore, Put};

/// Bytes that are copied at once.
const PIECE_BYTES: u64 = 4 << 20;

/// What was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The epoch whose state it is.
    pub epoch: u64,
    /// Objects of state.
    pub n_objects: usize,
    /// Bytes of all files.
    pub n_bytes: u64,
}

/// Copies a checkpoint to a folder that is empty or not there. The copy is a data directory; until all of it is durable
/// it is none.
///
/// # Errors
/// 55000 if the folder is not empty; XX001 if a file is missing; 53100 and 58030 if the disk fails.
pub fn back_up(snapshot: &Snapshot, to: &Path) -> Result<Copied> {
    let disk = empty_folder(to)?;
    let copied = copy_state(snapshot, &disk)?;
    let manifest = snapshot.manifest();
    let options = LogOptions { id: manifest.data_id, term: manifest.term, ..LogOptions::default() };
    log::begin_at(&*disk, &options, manifest.log_sequence)?;
    make_identity(&*disk, manifest.data_id).map_err(|e| io_error("make", "data.id", &e))?;
    Ok(copied)
}

/// Copies a backup, or a data directory that no process has, to a folder that is empty or not there, and reads all of the
/// copy's state once.
///
/// # Errors
/// As [`back_up`]; 55000 if there is no backup; XX001 naming the file if something of it is damaged.
pub fn restore(from: &Path, to: &Path) -> Result<Copied> {
    if !is_data_directory(from) {
        let message = format!("folder \"{}\" is no backup", from.display());
        return Err(Error::new(ErrorKind::External, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message));
    }
    let source = DataDirectory::open(from)?;
    let snapshot = open(source.disk(), source.id())?.hold();
    let disk = empty_folder(to)?;
    let mut copied = copy_state(&snapshot, &disk)?;
    let (store, target) =
        (DiskStore::new(source.disk(), &[log::FOLDER])?, DiskStore::new(Arc::clone(&disk), &[log::FOLDER])?);
    for name in store.list(log::FOLDER)? {
        copied.n_bytes += copy(&store, &target, &format!("{}/{name}", log::FOLDER))?;
    }
    open(Arc::clone(&disk), source.id())?.hold().verify()?;
    make_identity(&*disk, source.id()).map_err(|e| io_error("make", "data.id", &e))?;
    Ok(copied)
}

fn open(disk: Arc<dyn Disk>, data_id: u128) -> Result<CheckpointStore> {
    let store = DiskStore::new(disk, &FOLDERS)?;
    // Whoever has written it last.
    let options = CheckpointOptions { data_id, term: u64::MAX, ..CheckpointOptions::default() };
    CheckpointStore::open(Arc::new(store), options)
}

fn empty_folder(path: &Path) -> Result<Arc<dyn Disk>> {
    let shown = path.display().to_string();
    let disk = OsDisk::new(path);
    disk.create_folder(".").map_err(|e| io_error("make", &shown, &e))?;
    let is_empty = fs::read_dir(path).map(|mut entries| entries.next().is_none());
    if !is_empty.map_err(|e: io::Error| io_error("list", &shown, &e))? {
        let message = format!("folder \"{shown}\" is not empty");
        return Err(Error::new(ErrorKind::External, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message));
    }
    Ok(Arc::new(disk))
}

/// Objects first, then the manifest that names them.
fn copy_state(snapshot: &Snapshot, disk: &Arc<dyn Disk>) -> Result<Copied> {
    let target = DiskStore::new(Arc::clone(disk), &FOLDERS)?;
    let (store, manifest) = (snapshot.store(), snapshot.manifest());
    let mut n_bytes = 0;
    for path in manifest.object_paths() {
        n_bytes += copy(store, &target, &path)?;
    }
    let path = manifest.path();
    let bytes = store.read_range(&path, 0..store.len(&path)?)?;
    n_bytes += bytes.len() as u64;
    match target.put_if_absent(&path, &bytes) {
        Put::Done => Ok(Copied { epoch: manifest.epoch, n_objects: manifest.n_objects(), n_bytes }),
        Put::Taken => Err(Error::internal(format!("\"{path}\" was made by somebody else"))),
        Put::Failed(error) | Put::Unknown(error) => Err(error),
    }
}

fn copy(from: &dyn ObjectStore, to: &dyn ObjectStore, name: &str) -> Result<u64> {
    let len = from.len(name)?;
    let mut sink = to.put(name)?;
    let mut at = 0;
    while at < len {
        let end = len.min(at + PIECE_BYTES);
        sink.write(&from.read_range(name, at..end)?)?;
        at = end;
    }
    sink.finish()?;
    Ok(len)
}
