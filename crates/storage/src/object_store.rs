//! Objects by name, as a bucket has them: written once, read by ranges.
//!
//! Checkpoints need no more than this of what is under them, so that they can lie in a bucket as well as on a disk.

use std::io::{self, ErrorKind as IoErrorKind};
use std::ops::Range;
use std::sync::Arc;

use millstream_types::{Error, Result};

use crate::disk::{Disk, DiskFile, io_error};
use crate::errors::damaged;

/// Objects by name, `folder/name`. Nothing in an object changes once it is there.
///
/// Calls wait for what is under them; they may come from several threads.
pub trait ObjectStore: Send + Sync {
    /// Begins an object, which nobody sees as whole before [`ObjectSink::finish`]; a name that is taken is an error, then
    /// or now.
    ///
    /// # Errors
    /// 53100 and 58030, as for all calls here.
    fn put(&self, name: &str) -> Result<Box<dyn ObjectSink>>;
    /// Writes a small object at once and durably, unless there is one of that name.
    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Put;
    /// Reads a range of an object.
    ///
    /// # Errors
    /// XX001 if the object is not there, or ends before the range does. 58030 if it cannot be read.
    fn read_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>>;
    /// Begins to read a range, as [`ObjectStore::read_range`] does, if the way there is so long that it is worth while. Nothing
    /// if it is not, or while as much is on its way as may be: then the range is read when it is needed.
    fn begin_read(&self, _name: &str, _range: Range<u64>) -> Option<BegunRead> {
        None
    }
    /// The length of an object in bytes.
    ///
    /// # Errors
    /// XX001 if the object is not there.
    fn len(&self, name: &str) -> Result<u64>;
    /// The names in a folder, without it, in no order.
    ///
    /// # Errors
    /// 58030 if it cannot be read.
    fn list(&self, folder: &str) -> Result<Vec<String>>;
    /// Forgets objects, durably; those that are not there are no error.
    ///
    /// # Errors
    /// 58030 if one cannot be deleted; some of them may be gone.
    fn delete(&self, names: &[String]) -> Result<()>;
}

/// A range that is being read. Dropped, it is not read any more.
pub struct BegunRead(Box<dyn FnOnce() -> Result<Vec<u8>> + Send>);

impl BegunRead {
    /// `wait` waits for the bytes, and gives up what it has when it is dropped.
    pub fn new(wait: impl FnOnce() -> Result<Vec<u8>> + Send + 'static) -> BegunRead {
        BegunRead(Box::new(wait))
    }

    /// The bytes.
    ///
    /// # Errors
    /// As [`ObjectStore::read_range`].
    pub fn wait(self) -> Result<Vec<u8>> {
        self.0()
    }
}

/// An object that is being written, from front to back. Dropped without [`ObjectSink::finish`], it was never there.
pub trait ObjectSink: Send {
    /// Adds bytes.
    ///
    /// # Errors
    /// 53100 if there is no room, 58030 if it cannot be written. Nothing can be added afterwards.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
    /// Makes the object durable, with its name.
    ///
    /// # Errors
    /// As [`ObjectSink::write`]; the object is not there then.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// What became of [`ObjectStore::put_if_absent`].
#[derive(Debug)]
#[must_use]
pub enum Put {
    /// The object is there, durably.
    Done,
    /// There is one of that name already.
    Taken,
    /// It is not there.
    Failed(Error),
    /// It may be there or not, now or after a restart.
    Unknown(Error),
}

/// Objects as files in folders of a disk.
pub struct DiskStore {
    disk: Arc<dyn Disk>,
}

impl DiskStore {
    /// Has its objects in these folders, which are made if they are missing.
    ///
    /// # Errors
    /// 53100 and 58030 if they cannot be made.
    pub fn new(disk: Arc<dyn Disk>, folders: &[&str]) -> Result<DiskStore> {
        for folder in folders {
            disk.create_folder(folder).map_err(|e| io_error("make", folder, &e))?;
        }
        Ok(DiskStore { disk })
    }

    /// Writes a file under a name that is only meant for a while; one that is in the way is of a writer that is no more.
    fn write_whole(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let created = match self.disk.create(path) {
            Err(error) if error.kind() == IoErrorKind::AlreadyExists => {
                self.disk.remove(path)?;
                self.disk.create(path)
            }
            created => created,
        };
        let file = created?;
        file.write_at(bytes, 0)?;
        file.sync()
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        match self.disk.open(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == IoErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>> {
        self.disk.open(name).map_err(|error| match error.kind() {
            IoErrorKind::NotFound => damaged(name, 0, "it is not there"),
            _ => io_error("open", name, &error),
        })
    }
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl ObjectStore for DiskStore {
    fn put(&self, name: &str) -> Result<Box<dyn ObjectSink>> {
        let file = self.disk.create(name).map_err(|e| io_error("make", name, &e))?;
        let disk = Arc::clone(&self.disk);
        Ok(Box::new(FileSink { disk, file, path: name.to_owned(), len: 0, is_finished: false }))
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Put {
        let written_as = format!("{name}.tmp");
        let failed = |action, path: &str, error: &io::Error| {
            // If it cannot be removed it is not in the way of anything.
            let _ = self.disk.remove(&written_as);
            Put::Failed(io_error(action, path, error))
        };
        if let Err(error) = self.write_whole(&written_as, bytes) {
            return failed("write", &written_as, &error);
        }
        if let Err(error) = self.disk.rename(&written_as, name) {
            return match self.exists(name) {
                Ok(true) if error.kind() == IoErrorKind::AlreadyExists => {
                    let _ = self.disk.remove(&written_as);
                    Put::Taken
                }
                Ok(false) => failed("make", name, &error),
                _ => Put::Unknown(io_error("make", name, &error)),
            };
        }
        match self.disk.sync_folder(folder_of(name)) {
            Ok(()) => Put::Done,
            Err(error) => Put::Unknown(io_error("make durable", name, &error)),
        }
    }

    fn read_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let file = self.open(name)?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let n_read = file.read_at(&mut bytes, range.start).map_err(|e| io_error("read", name, &e))?;
        if n_read < bytes.len() {
            return Err(damaged(name, range.start as usize + n_read, "it ends there"));
        }
        Ok(bytes)
    }

    fn len(&self, name: &str) -> Result<u64> {
        self.open(name)?.len().map_err(|e| io_error("read", name, &e))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.disk.list(folder).map_err(|e| io_error("list", folder, &e))
    }

    fn delete(&self, names: &[String]) -> Result<()> {
        let mut folders: Vec<&str> = Vec::new();
        for name in names {
            match self.disk.remove(name) {
                Err(error) if error.kind() != IoErrorKind::NotFound => return Err(io_error("remove", name, &error)),
                _ => {}
            }
            if !folders.contains(&folder_of(name)) {
                folders.push(folder_of(name));
            }
        }
        for folder in folders {
            self.disk.sync_folder(folder).map_err(|e| io_error("make durable", folder, &e))?;
        }
        Ok(())
    }
}

/// A file that is being written, under its final name: what names it comes later.
struct FileSink {
    disk: Arc<dyn Disk>,
    file: Arc<dyn DiskFile>,
    path: String,
    len: u64,
    is_finished: bool,
}

impl ObjectSink for FileSink {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_at(bytes, self.len).map_err(|e| io_error("write", &self.path, &e))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let synced = self.file.sync().and_then(|()| self.disk.sync_folder(folder_of(&self.path)));
        synced.map_err(|e| io_error("make durable", &self.path, &e))?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if !self.is_finished {
            // What cannot be removed now is removed when the directory is opened again.
            let _ = self.disk.remove(&self.path);
        }
    }
}
