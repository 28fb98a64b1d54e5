//! Dataflows that come back: what was saved of them is taken over between other work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_operators::RelationId;

use super::state::{Kept, WorkerState};
use crate::command::InstallDataflow;
use crate::dataflow::{Around, Parts};
use crate::failure::Failure;
use crate::restoring::{Restored, Restoring};

/// Restoring after which operators and commands get their turn.
const TURN: Duration = Duration::from_millis(1);

impl WorkerState {
    /// Begins to take over what was saved of a dataflow.
    pub(super) fn begin_restore(&mut self, install: Arc<InstallDataflow>) {
        let (id, start) = (install.id, install.start.epoch);
        let failure = Failure::new(id, start, Arc::clone(&self.events));
        let n_bytes = install.restored.as_ref().map_or(0, |restored| restored.n_bytes);
        let restoring = self
            .make_parts(&install, n_bytes)
            .and_then(|parts| Restoring::begin(Arc::clone(&install), parts, failure, self.index, self.n_workers));
        match restoring {
            Ok(restoring) => self.restoring.push(restoring),
            Err(error) => self.events.failed(id, start, error),
        }
    }

    /// Takes over what was saved for a part of a turn; returns whether there is more to do.
    pub(super) fn restore(&mut self) -> bool {
        let start = Instant::now();
        let mut i = 0;
        while i < self.restoring.len() {
            match self.restoring[i].step() {
                Restored::Nothing => i += 1,
                Restored::Piece => {}
                Restored::Failed => drop(self.restoring.swap_remove(i)),
                Restored::All => {
                    let Restoring { install, parts, .. } = self.restoring.swap_remove(i);
                    self.restored.insert(install.id, parts);
                    self.events.restored(install.id, self.index);
                }
            }
            if start.elapsed() >= TURN {
                return !self.restoring.is_empty();
            }
        }
        false
    }

    /// A dataflow is dropped, or will not come back.
    pub(super) fn forget_restored(&mut self, id: RelationId) {
        self.restoring.retain(|restoring| restoring.install.id != id);
        self.restored.remove(&id);
    }

    /// The operators of a dataflow, and where its rows go. `n_bytes` are about what it has on all workers at the start.
    pub(super) fn make_parts(&self, install: &InstallDataflow, n_bytes: usize) -> millstream_types::Result<Parts> {
        let arrangements = &Kept(&self.relations);
        let (worker, n_workers, spill) = (self.index, self.n_workers, self.spill.as_ref());
        Parts::new(install, Around { worker, n_workers, arrangements, spill, n_bytes })
    }
}
