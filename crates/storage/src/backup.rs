//! Backups: a checkpoint and what it needs, copied to a folder or into a bucket, which is a data directory then.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use millstream_types::{Error, ErrorKind, Result, SqlState};
use parking_lot::Mutex;

use crate::bucket::{Bucket, BucketObjects};
use crate::checkpoint::{FOLDERS, Snapshot};
use crate::data_directory::{DataDirectory, is_data_directory_at, make_identity, make_identity_in_bucket};
use crate::disk::{Disk, OsDisk, io_error};
use crate::location::Location;
use crate::log::{self, Log, LogEvents, LogObjects, LogOptions, LogReader};
use crate::object_store::{DiskStore, ObjectStore, Put};
use crate::read_ahead::{ObjectRange, RangeReader};

/// Bytes that are copied at once.
const PIECE_BYTES: u64 = 1 << 20;

/// The term with which a backup begins: it has had no writer.
const FIRST_TERM: u64 = 1;

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

/// Copies a checkpoint to a folder that is empty or not there, or to a prefix without objects. The copy is a data
/// directory; until all of it is durable it is none.
///
/// # Errors
/// 55000 if there is something; XX001 if a file is missing; 53100 and 58030 if the disk or the bucket fails.
pub fn back_up(snapshot: &Snapshot, to: &Location) -> Result<Copied> {
    let target = Target::new(to)?;
    let manifest = snapshot.manifest();
    let copied = copy_state(snapshot, &*target.store()?)?;
    target.begin_log(manifest.data_id, manifest.log_sequence)?;
    target.make_identity(manifest.data_id)?;
    Ok(copied)
}

/// Copies a backup, or a data directory that no process has, to where nothing is, and reads all of the copy's state once.
///
/// # Errors
/// As [`back_up`]; 55000 if there is no backup; XX001 naming the file if something of it is damaged.
pub fn restore(from: &Location, to: &Location) -> Result<Copied> {
    if !is_data_directory_at(from)? {
        let message = format!("\"{from}\" is no backup");
        return Err(Error::new(ErrorKind::External, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message));
    }
    let source = DataDirectory::open(from)?;
    let snapshot = source.read_checkpoint()?;
    let target = Target::new(to)?;
    let mut copied = copy_state(&snapshot, &*target.store()?)?;
    let first = snapshot.manifest().log_sequence;
    target.begin_log(source.id(), first)?;
    copied.n_bytes += copy_log(&source.read_log()?, first, &target, source.id())?;
    Snapshot::of_newest(target.store()?, source.id())?.verify()?;
    target.make_identity(source.id())?;
    Ok(copied)
}

/// Where a copy goes.
enum Target {
    Folder(Arc<dyn Disk>),
    Bucket(Arc<Bucket>),
}

impl Target {
    /// # Errors
    /// 55000 if something is there.
    fn new(at: &Location) -> Result<Target> {
        match at {
            Location::Folder(path) => empty_folder(path).map(Target::Folder),
            Location::Bucket(url) => {
                let bucket = Bucket::open(url)?;
                match bucket.any_name()? {
                    Some(_) => Err(not_empty(bucket.url())),
                    None => Ok(Target::Bucket(Arc::new(bucket))),
                }
            }
        }
    }

    fn store(&self) -> Result<Arc<dyn ObjectStore>> {
        match self {
            Target::Folder(disk) => Ok(Arc::new(DiskStore::new(Arc::clone(disk), &FOLDERS)?)),
            Target::Bucket(bucket) => Ok(Arc::new(BucketObjects::new(Arc::clone(bucket)))),
        }
    }

    fn begin_log(&self, id: u128, first: u64) -> Result<()> {
        match self {
            Target::Folder(disk) => {
                let options = LogOptions { id, term: FIRST_TERM, ..LogOptions::default() };
                log::begin_at(&**disk, &options, first)
            }
            Target::Bucket(bucket) => LogObjects::begin_at(Arc::clone(bucket), id, first),
        }
    }

    fn open_log(&self, id: u128, events: Arc<dyn LogEvents>) -> Result<Log> {
        let options = LogOptions { id, ..LogOptions::default() };
        match self {
            Target::Folder(disk) => Log::open(Arc::clone(disk), options, events),
            Target::Bucket(bucket) => Log::open_in_bucket(Arc::clone(bucket), options, events),
        }
    }

    fn make_identity(&self, id: u128) -> Result<()> {
        match self {
            Target::Folder(disk) => make_identity(&**disk, id).map_err(|e| io_error("make", "data.id", &e)),
            Target::Bucket(bucket) => make_identity_in_bucket(bucket, id),
        }
    }
}

fn empty_folder(path: &Path) -> Result<Arc<dyn Disk>> {
    let shown = path.display().to_string();
    let disk = OsDisk::new(path);
    disk.create_folder(".").map_err(|e| io_error("make", &shown, &e))?;
    let is_empty = fs::read_dir(path).map(|mut entries| entries.next().is_none());
    if !is_empty.map_err(|e: io::Error| io_error("list", &shown, &e))? {
        return Err(not_empty(&shown));
    }
    Ok(Arc::new(disk))
}

fn not_empty(place: &str) -> Error {
    let message = format!("\"{place}\" is not empty");
    Error::new(ErrorKind::External, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
}

/// Objects first, then the manifest that names them.
fn copy_state(snapshot: &Snapshot, target: &dyn ObjectStore) -> Result<Copied> {
    let (store, manifest) = (snapshot.store(), snapshot.manifest());
    let mut n_bytes = 0;
    for path in manifest.object_paths() {
        n_bytes += copy(&store, target, &path)?;
    }
    let path = manifest.path();
    let bytes = manifest.as_of_term(FIRST_TERM).encode();
    n_bytes += bytes.len() as u64;
    match target.put_if_absent(&path, &bytes) {
        Put::Done => Ok(Copied { epoch: manifest.epoch, n_objects: manifest.n_objects(), n_bytes }),
        Put::Taken => Err(Error::internal(format!("\"{path}\" was made by somebody else"))),
        Put::Failed(error) | Put::Unknown(error) => Err(error),
    }
}

fn copy(from: &Arc<dyn ObjectStore>, to: &dyn ObjectStore, name: &str) -> Result<u64> {
    let len = from.len(name)?;
    let mut sink = to.put(name)?;
    let (shared, starts): (Arc<str>, _) = (name.into(), (0..len).step_by(PIECE_BYTES as usize));
    let piece = |at| ObjectRange { name: Arc::clone(&shared), range: at..len.min(at + PIECE_BYTES) };
    let mut pieces = RangeReader::new(Arc::clone(from), starts.clone().map(piece));
    for _ in starts {
        sink.write(&pieces.read_next()?)?;
    }
    sink.finish()?;
    Ok(len)
}

/// Copies the records from one on, with their numbers; gives the bytes that they have.
fn copy_log(from: &LogReader, first: u64, to: &Target, id: u128) -> Result<u64> {
    let copying = Arc::new(Copying::default());
    let log = to.open_log(id, Arc::clone(&copying) as Arc<dyn LogEvents>)?;
    let mut n_bytes = 0;
    let mut last = first.saturating_sub(1);
    for record in from.records(first)? {
        let record = record?;
        n_bytes += record.payload.len() as u64;
        let room = log.reserve(record.payload.len())?;
        last = log.append(room, record.kind, record.payload, 0)?;
        if last != record.sequence {
            return Err(Error::internal(format!("record {} would become record {last}", record.sequence)));
        }
    }
    // What was appended is durable then, or has failed.
    drop(log);
    let outcome = copying.0.lock();
    match &*outcome {
        Outcome { error: Some(error), .. } => Err(error.clone()),
        Outcome { durable, .. } if *durable < last && n_bytes > 0 => {
            Err(Error::new(ErrorKind::External, SqlState::IO_ERROR, "the log could not be written"))
        }
        _ => Ok(n_bytes),
    }
}

/// What becomes of a log that is copied.
#[derive(Default)]
struct Copying(Mutex<Outcome>);

#[derive(Default)]
struct Outcome {
    durable: u64,
    error: Option<Error>,
}

impl LogEvents for Copying {
    fn durable(&self, sequence: u64) {
        self.0.lock().durable = sequence;
    }

    fn lost(&self, error: Error) {
        self.0.lock().error = Some(error);
    }

    fn taken_over(&self, error: Error) {
        self.0.lock().error = Some(error);
    }
}
