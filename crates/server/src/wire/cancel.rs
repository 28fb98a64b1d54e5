//! Which sessions can be cancelled, by number and secret.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use millstream_engine::CancelHandle;
use parking_lot::Mutex;

/// The sessions of a server.
#[derive(Clone, Default)]
pub(crate) struct CancelRegistry(Arc<Mutex<HashMap<i32, Entry>>>);

struct Entry {
    secret: i32,
    handle: CancelHandle,
}

/// A session's place in the registry; dropping it takes the session out.
pub(crate) struct Registration {
    registry: CancelRegistry,
    pub(crate) pid: i32,
    pub(crate) secret: i32,
}

impl CancelRegistry {
    /// Adds a session under a new secret.
    pub(crate) fn register(&self, session_id: u32, handle: CancelHandle) -> Registration {
        let pid = session_id as i32;
        // Keyed from the operating system's randomness, so that nobody guesses it.
        let secret = RandomState::new().hash_one(session_id) as i32;
        self.0.lock().insert(pid, Entry { secret, handle });
        Registration { registry: self.clone(), pid, secret }
    }

    /// Cancels what runs in a session; nothing happens if number and secret do not fit.
    pub(crate) fn cancel(&self, pid: i32, secret: i32) {
        if let Some(entry) = self.0.lock().get(&pid)
            && entry.secret == secret
        {
            entry.handle.cancel();
        }
    }

    /// Cancels what runs in any session.
    pub(crate) fn cancel_all(&self) {
        self.0.lock().values().for_each(|entry| entry.handle.cancel());
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.0.lock().remove(&self.pid);
    }
}
