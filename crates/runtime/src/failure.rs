//! The failure of one dataflow on a worker, and nothing else's.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use millstream_operators::RelationId;
use millstream_types::{Epoch, Error, Result};

use crate::command::Events;

/// Shared by the operators of a worker's copy of a dataflow: whether it has failed, and of what. The engine, which is told,
/// drops all copies.
#[derive(Clone)]
pub(crate) struct Failure {
    dataflow: RelationId,
    /// The epoch that the dataflow starts at: it cannot fail in an earlier one, whatever its frontiers say by then.
    start: Epoch,
    error: Arc<OnceLock<Error>>,
    events: Arc<dyn Events>,
}

impl Failure {
    pub(crate) fn new(dataflow: RelationId, start: Epoch, events: Arc<dyn Events>) -> Self {
        Failure { dataflow, start, error: Arc::default(), events }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.error.get().is_some()
    }

    /// Notes the first failure and tells the engine of it.
    pub(crate) fn fail(&self, epoch: Epoch, error: Error) {
        if self.error.set(error.clone()).is_ok() {
            self.events.failed(self.dataflow, epoch.max(self.start), error);
        }
    }

    /// Tells the engine that all state together has passed its limit.
    pub(crate) fn whole_is_over(&self, epoch: Epoch) {
        self.events.memory_exceeded(self.dataflow, epoch.max(self.start));
    }

    /// Runs an operator's code; an error or a panic fails the dataflow and gives `None`.
    pub(crate) fn guard<T>(&self, epoch: Epoch, work: impl FnOnce() -> Result<T>) -> Option<T> {
        // The operator is not called again after a panic, so nobody sees what it left half done.
        let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(error_of_panic(panic.as_ref())));
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(epoch, error);
                None
            }
        }
    }
}

fn error_of_panic(panic: &(dyn Any + Send)) -> Error {
    let text =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    Error::internal(format!("an operator panicked: {}", text.unwrap_or_else(|| "no message".to_owned())))
}
