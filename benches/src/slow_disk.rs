//! A disk that takes its time to make something durable: what a group commit is for shows on it, whatever disk there is.

use std::io;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use millstream_engine::DiskHook;
use millstream_storage::disk::{Disk, DiskFile};

/// Lets whatever disk take so much longer for each `fdatasync` and `fsync`.
pub fn slow_disk(sync_delay: Duration) -> DiskHook {
    Arc::new(move |disk| Arc::new(SlowDisk { disk, sync_delay }))
}

struct SlowDisk {
    disk: Arc<dyn Disk>,
    sync_delay: Duration,
}

struct SlowFile {
    file: Arc<dyn DiskFile>,
    sync_delay: Duration,
}

impl SlowDisk {
    fn slow(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(SlowFile { file, sync_delay: self.sync_delay })
    }
}

impl Disk for SlowDisk {
    fn create_folder(&self, path: &str) -> io::Result<()> {
        self.disk.create_folder(path)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.disk.list(folder)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.slow(self.disk.create(path)?))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.slow(self.disk.open(path)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_folder(&self, path: &str) -> io::Result<()> {
        sleep(self.sync_delay);
        self.disk.sync_folder(path)
    }
}

impl DiskFile for SlowFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        sleep(self.sync_delay);
        self.file.sync()
    }
}
