//! What a connector implements to be written to.

use millstream_types::{Delta, Epoch, Result};

/// A sink: takes each epoch's changes, with the epoch as their sequence number.
pub trait Sink: Send + Sync {
    /// Opens one worker's end.
    ///
    /// # Errors
    /// External, if the other side cannot be reached.
    fn open(&self, worker: usize) -> Result<Box<dyn SinkWriter>>;
}

/// One worker's end of a sink.
pub trait SinkWriter {
    /// Takes the changes of an epoch that is complete on this worker; there may be none.
    ///
    /// # Errors
    /// External, if they cannot be written now.
    fn write(&mut self, epoch: Epoch, deltas: Vec<Delta>) -> Result<()>;
}
