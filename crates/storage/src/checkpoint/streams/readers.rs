//! Who reads from which object.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// How many read from objects, by path. What is read from is not deleted.
#[derive(Default)]
pub(in crate::checkpoint) struct Readers(Mutex<BTreeMap<String, usize>>);

/// An interest in an object, which ends when this is dropped; the store of the object may have gone before.
pub(super) struct Reader {
    all: Arc<Readers>,
    path: String,
}

impl Readers {
    /// Whether anybody reads from an object.
    pub(in crate::checkpoint) fn has(&self, path: &str) -> bool {
        self.0.lock().contains_key(path)
    }

    pub(super) fn add(all: &Arc<Readers>, path: String) -> Reader {
        *all.0.lock().entry(path.clone()).or_default() += 1;
        Reader { all: Arc::clone(all), path }
    }
}

impl Reader {
    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut readers = self.all.0.lock();
        if let Some(n_readers) = readers.get_mut(&self.path) {
            *n_readers -= 1;
            if *n_readers == 0 {
                readers.remove(&self.path);
            }
        }
    }
}
