//! A store that does something when an object is begun, and remembers what was read.

use std::ops::Range;
use std::sync::Arc;

use millstream_types::Result;
use parking_lot::Mutex;

use super::super::FOLDERS;
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::object_store::{DiskStore, ObjectSink, ObjectStore, Put};

type Hook = Box<dyn FnOnce() + Send>;

/// Objects on a disk.
pub(super) struct Hooked {
    store: DiskStore,
    /// What happens, once, when an object is begun of which the name has this in it.
    pub(super) hook: Mutex<Option<(&'static str, Hook)>>,
    /// What was read, since somebody has taken it.
    pub(super) reads: Mutex<Vec<(String, Range<u64>)>>,
}

impl Hooked {
    pub(super) fn new(disk: &SimDisk) -> Arc<Hooked> {
        let store = DiskStore::new(Arc::new(disk.clone()) as Arc<dyn Disk>, &FOLDERS).expect("folders");
        Arc::new(Hooked { store, hook: Mutex::default(), reads: Mutex::default() })
    }
}

impl ObjectStore for Hooked {
    fn put(&self, name: &str) -> Result<Box<dyn ObjectSink>> {
        let hook = self.hook.lock().take_if(|(part, _)| name.contains(*part));
        if let Some((_, hook)) = hook {
            hook();
        }
        self.store.put(name)
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Put {
        self.store.put_if_absent(name, bytes)
    }

    fn read_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.reads.lock().push((name.to_owned(), range.clone()));
        self.store.read_range(name, range)
    }

    fn len(&self, name: &str) -> Result<u64> {
        self.store.len(name)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.store.list(folder)
    }

    fn delete(&self, names: &[String]) -> Result<()> {
        self.store.delete(names)
    }
}
