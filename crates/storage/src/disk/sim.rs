//! A disk in memory for tests: it fails where it is told to, and forgets what was not made durable when its power is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, DiskFile};

/// What is written at once on a disk, in bytes: of a write that was not made durable, any sectors may be there.
const SECTOR: usize = 512;

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The disk is full.
    Full,
    /// It cannot be read or written.
    Broken,
    /// Half of the bytes are written; then it is broken.
    Short,
    /// Nothing works any more from here on.
    Off,
}

/// A disk in memory; clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By path: what everybody sees.
    names: BTreeMap<String, usize>,
    /// By path: what is there after the power was cut.
    durable_names: BTreeMap<String, usize>,
    files: Vec<FileState>,
    /// Calls so far that change something or make it durable.
    n_calls: u64,
    /// Which calls fail.
    faults: BTreeMap<u64, Fault>,
    is_off: bool,
    /// The bytes that all files may have together.
    space: Option<u64>,
}

#[derive(Clone, Default)]
struct FileState {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that were written since.
    dirty: BTreeSet<usize>,
}

impl SimDisk {
    /// Lets the call with this number, from 0, fail.
    pub fn fail_at(&self, call: u64, fault: Fault) {
        self.0.lock().faults.insert(call, fault);
    }

    /// Calls so far that changed something or made it durable.
    pub fn n_calls(&self) -> u64 {
        self.0.lock().n_calls
    }

    /// Whether nothing works any more.
    pub fn is_off(&self) -> bool {
        self.0.lock().is_off
    }

    /// What all files have together, in bytes.
    pub fn used(&self) -> u64 {
        let state = self.0.lock();
        state.names.values().map(|&file| state.files[file].bytes.len() as u64).sum()
    }

    /// Bounds what all files may have together, in bytes.
    pub fn set_space(&self, n_bytes: Option<u64>) {
        self.0.lock().space = n_bytes;
    }

    /// The disk as a process finds it that starts after this one was killed: all that was written is there. This one is
    /// off.
    pub fn after_kill(&self) -> SimDisk {
        let mut state = self.0.lock();
        state.is_off = true;
        let files = state.files.iter().map(|f| FileState { bytes: f.bytes.clone(), ..f.clone() }).collect();
        let (names, durable_names) = (state.names.clone(), state.durable_names.clone());
        SimDisk(Arc::new(Mutex::new(State { names, durable_names, files, ..State::default() })))
    }

    /// The disk after its power was cut: of what was not made durable any part may be there, as `coin` says. This one is
    /// off.
    pub fn after_power_cut(&self, mut coin: impl FnMut() -> bool) -> SimDisk {
        let mut state = self.0.lock();
        state.is_off = true;
        let mut names = state.durable_names.clone();
        for (path, &file) in &state.names {
            if !names.contains_key(path) && coin() {
                names.insert(path.clone(), file);
            }
        }
        names.retain(|path, _| state.names.contains_key(path) || coin());
        let survived = |file: &FileState, coin: &mut dyn FnMut() -> bool| {
            let mut bytes = file.durable.clone();
            if bytes.len() != file.bytes.len() && coin() {
                bytes.resize(file.bytes.len(), 0);
            }
            for &sector in &file.dirty {
                let range = sector * SECTOR..((sector + 1) * SECTOR).min(file.bytes.len());
                if range.start < range.end && range.end <= bytes.len() && coin() {
                    bytes[range.clone()].copy_from_slice(&file.bytes[range]);
                }
            }
            FileState { durable: bytes.clone(), bytes, dirty: BTreeSet::new() }
        };
        let files = state.files.iter().map(|file| survived(file, &mut coin)).collect();
        let durable_names = names.clone();
        SimDisk(Arc::new(Mutex::new(State { names, durable_names, files, ..State::default() })))
    }

    /// Changes bytes of a file, as a disk may that has gone bad.
    pub fn damage(&self, path: &str, offset: usize, change: impl FnOnce(&mut [u8])) {
        let mut state = self.0.lock();
        let file = state.names[path];
        let file = &mut state.files[file];
        change(&mut file.bytes[offset..]);
        file.durable = file.bytes.clone();
    }
}

impl State {
    /// Counts a call; the fault that it meets, if any.
    fn call(&mut self) -> io::Result<Option<Fault>> {
        let fault = self.faults.get(&self.n_calls).copied();
        self.n_calls += 1;
        self.is_off |= fault == Some(Fault::Off);
        match fault {
            _ if self.is_off => Err(io::Error::other("the disk is off")),
            Some(Fault::Full) => Err(io::ErrorKind::StorageFull.into()),
            Some(Fault::Broken) => Err(io::Error::other("the disk is broken")),
            fault => Ok(fault),
        }
    }

    fn file(&self, path: &str) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn grow(&mut self, file: usize, len: usize) -> io::Result<()> {
        let by = len.saturating_sub(self.files[file].bytes.len());
        let used: usize = self.names.values().map(|&f| self.files[f].bytes.len()).sum();
        if by > 0 && self.space.is_some_and(|space| (used + by) as u64 > space) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let bytes = &mut self.files[file].bytes;
        bytes.resize(bytes.len() + by, 0);
        Ok(())
    }
}

impl Disk for SimDisk {
    fn create_folder(&self, _: &str) -> io::Result<()> {
        self.0.lock().call().map(|_| ())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        let names = state.names.keys().filter_map(|path| path.strip_prefix(folder)?.strip_prefix('/'));
        Ok(names.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.call()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.files.len();
        state.files.push(FileState::default());
        state.names.insert(path.to_owned(), file);
        Ok(Arc::new(SimFile { disk: self.clone(), file }))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.0.lock().file(path)?;
        Ok(Arc::new(SimFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call()?;
        let file = state.file(from)?;
        if state.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.names.remove(from);
        state.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call()?;
        state.file(path)?;
        state.names.remove(path);
        Ok(())
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.call()?;
        let is_in = |path: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let State { names, durable_names, files, .. } = &mut *state;
        durable_names.retain(|path, file| {
            if is_in(path) && !names.values().any(|named| named == file) {
                // Nobody finds it any more.
                files[*file] = FileState::default();
            }
            !is_in(path)
        });
        durable_names.extend(names.iter().filter(|(path, _)| is_in(path)).map(|(path, file)| (path.clone(), *file)));
        Ok(())
    }
}

struct SimFile {
    disk: SimDisk,
    file: usize,
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().files[self.file].bytes.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.0.lock();
        let from = state.files[self.file].bytes.get(offset as usize..).unwrap_or_default();
        let n_read = from.len().min(bytes.len());
        bytes[..n_read].copy_from_slice(&from[..n_read]);
        Ok(n_read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let fault = state.call()?;
        let written = if fault == Some(Fault::Short) { &bytes[..bytes.len() / 2] } else { bytes };
        let from = offset as usize;
        let to = from + written.len();
        state.grow(self.file, to)?;
        let file = &mut state.files[self.file];
        file.bytes[from..to].copy_from_slice(written);
        file.dirty.extend(from / SECTOR..to.div_ceil(SECTOR));
        if written.len() < bytes.len() { Err(io::Error::other("the disk is broken")) } else { Ok(()) }
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.call()?;
        state.grow(self.file, len as usize)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.call()?;
        state.grow(self.file, len as usize)?;
        state.files[self.file].bytes.truncate(len as usize);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.call()?;
        let file = &mut state.files[self.file];
        file.durable = file.bytes.clone();
        file.dirty.clear();
        Ok(())
    }
}
