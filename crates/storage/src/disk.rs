//! The disk as storage sees it: files under the data directory, written at places, made durable by name.
//!
//! One trait, so that tests can put a disk under storage that fails, or loses what was not made durable.

pub mod sim;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_types::error::is_disk_full;
use millstream_types::{Error, ErrorKind, SqlState};

/// The files of a data directory, by path relative to it, with `/` between names; `.` is the directory itself.
///
/// Nothing is durable until it is said to be: what is in a file after [`DiskFile::sync`], that there is a file, or is none
/// any more, after [`Disk::sync_folder`] of its folder.
pub trait Disk: Send + Sync {
    /// Makes a folder, and those above it, and makes them durable; nothing happens if it is there.
    fn create_folder(&self, path: &str) -> io::Result<()>;
    /// The names of the files in a folder, in no order.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
    /// Makes an empty file, to be read and written; one that exists is an error.
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file to be read and written.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file another name in its folder, at once; one that is taken is an error.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Forgets a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Makes it durable which files there are in a folder.
    fn sync_folder(&self, path: &str) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether there is nothing in it.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reads at a place; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes at a place. After an error any of them may be there.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes it at least that long, with zeros, and has the room for them: what is written there does not fail for lack
    /// of space.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Cuts it, or makes it longer without having the room.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes what is in it durable, its length included.
    fn sync(&self) -> io::Result<()>;
}

/// Says what went wrong with a file: 53100 if the disk is full, else 58030.
pub fn io_error(action: &str, path: &str, error: &io::Error) -> Error {
    let message = format!("could not {action} file \"{path}\": {error}");
    if is_disk_full(error) {
        let full = Error::new(ErrorKind::Resource, SqlState::DISK_FULL, message);
        return full.with_hint("Make room on the disk; nothing else is needed.");
    }
    Error::new(ErrorKind::External, SqlState::IO_ERROR, message)
}

/// The real one.
#[derive(Debug)]
pub struct OsDisk {
    root: PathBuf,
}

impl OsDisk {
    /// The files under a folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        OsDisk { root: root.into() }
    }

    fn at(&self, path: &str) -> PathBuf {
        // "." behind a folder that is not there cannot be made.
        if path == "." { self.root.clone() } else { self.root.join(path) }
    }
}

impl Disk for OsDisk {
    fn create_folder(&self, path: &str) -> io::Result<()> {
        let path = self.at(path);
        let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
        for folder in missing.into_iter().rev() {
            match fs::create_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
            if let Some(above) = folder.parent().filter(|above| !above.as_os_str().is_empty()) {
                File::open(above)?.sync_all()?;
            }
        }
        Ok(())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.at(folder))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OsFile(OpenOptions::new().read(true).write(true).create_new(true).open(self.at(path))?)))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OsFile(OpenOptions::new().read(true).write(true).open(self.at(path))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.at(from), self.at(to));
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            use rustix::io::Errno;
            match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
                // Not every file system can.
                Err(Errno::INVAL | Errno::NOSYS) => {}
                renamed => return Ok(renamed?),
            }
        }
        fs::hard_link(&from, &to)?;
        fs::remove_file(&from)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.at(path))
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        File::open(self.at(path))?.sync_all()
    }
}

struct OsFile(File);

impl DiskFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut n_read = 0;
        while n_read < bytes.len() {
            match self.0.read_at(&mut bytes[n_read..], offset + n_read as u64) {
                Ok(0) => break,
                Ok(n) => n_read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(n_read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let has = self.len()?;
        if has >= len {
            return Ok(());
        }
        #[cfg(target_os = "linux")]
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), has, len - has) {
            // Not every file system can.
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            allocated => return Ok(allocated?),
        }
        let zeros = [0; 1 << 16];
        for offset in (has..len).step_by(zeros.len()) {
            self.0.write_all_at(&zeros[..zeros.len().min((len - offset) as usize)], offset)?;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
