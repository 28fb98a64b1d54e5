//! What waits between workers and a subscriber: bounded, so that a subscriber who does not read holds nobody back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use millstream_runtime::{Sink, SinkWriter};
use millstream_types::delta::values_bytes;
use millstream_types::{Delta, Epoch, Result};
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Bytes that may wait for a subscriber before its subscription ends.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// What a row counts for at least, and an epoch that changed nothing: what is kept of it beside its values.
const OVERHEAD_BYTES: usize = 64;

/// What a worker tells a subscription: its changes of an epoch.
pub(super) struct Told {
    pub(super) epoch: Epoch,
    pub(super) changes: Vec<Delta>,
    /// Bytes that count against the bound.
    n_counted: usize,
}

/// The workers' end.
#[derive(Clone)]
pub(super) struct Teller {
    /// Gone once the subscription has fallen behind; the subscriber finds out when it has read what is there.
    send: Arc<Mutex<Option<mpsc::UnboundedSender<Told>>>>,
    shared: Arc<Shared>,
}

/// The subscriber's end. Dropping it ends the subscription.
pub(super) struct Listener {
    receive: mpsc::UnboundedReceiver<Told>,
    shared: Arc<Shared>,
}

struct Shared {
    n_waiting: AtomicUsize,
    alive: AtomicBool,
    /// The first epoch of which a worker's changes were not taken.
    first_missing: AtomicU64,
}

/// Both ends.
pub(super) fn buffer() -> (Teller, Listener) {
    let (send, receive) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        n_waiting: AtomicUsize::new(0),
        alive: AtomicBool::new(true),
        first_missing: AtomicU64::new(u64::MAX),
    });
    let teller = Teller { send: Arc::new(Mutex::new(Some(send))), shared: Arc::clone(&shared) };
    (teller, Listener { receive, shared })
}

impl Teller {
    /// Hands over an epoch's changes; `false` if nobody wants more.
    ///
    /// A worker calls it before it completes the epoch. So once an epoch is complete, either all workers' changes of it
    /// have been taken, or [`Listener::first_missing`] tells that some have not.
    pub(super) fn tell(&self, epoch: Epoch, changes: &[Delta]) -> bool {
        let n_counted = counted_bytes(changes);
        let n_waiting = self.shared.n_waiting.fetch_add(n_counted, Ordering::AcqRel) + n_counted;
        let is_wanted = self.shared.alive.load(Ordering::Acquire) && n_waiting <= WAITING_BYTES_MAX;
        let told = Told { epoch, changes: changes.to_vec(), n_counted };
        if is_wanted && self.send(told) {
            return true;
        }
        self.shared.first_missing.fetch_min(epoch.0, Ordering::AcqRel);
        *self.send.lock() = None;
        false
    }

    /// Hands over what a subscription begins with, which may be more than the bound.
    fn tell_first(&self, epoch: Epoch, changes: Vec<Delta>) {
        self.send(Told { epoch, changes, n_counted: 0 });
    }

    fn send(&self, told: Told) -> bool {
        self.send.lock().as_ref().is_some_and(|send| send.send(told).is_ok())
    }
}

fn counted_bytes(changes: &[Delta]) -> usize {
    let counted = |delta: &Delta| values_bytes(delta.batch()).max(delta.n_rows() * OVERHEAD_BYTES);
    OVERHEAD_BYTES + changes.iter().map(counted).sum::<usize>()
}

impl Listener {
    /// What has been told and not been taken; `None` if nothing is there now.
    pub(super) fn try_next(&mut self) -> Option<Told> {
        let told = self.receive.try_recv().ok()?;
        self.taken(&told);
        Some(told)
    }

    /// What is told next; `None` if the subscription has fallen behind.
    pub(super) async fn next(&mut self) -> Option<Told> {
        let told = self.receive.recv().await?;
        self.taken(&told);
        Some(told)
    }

    /// Of this epoch and later ones not everything was taken: the subscription has fallen behind.
    pub(super) fn first_missing(&self) -> Epoch {
        Epoch(self.shared.first_missing.load(Ordering::Acquire))
    }

    fn taken(&self, told: &Told) {
        self.shared.n_waiting.fetch_sub(told.n_counted, Ordering::AcqRel);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.alive.store(false, Ordering::Release);
    }
}

/// The end of a subscription's own dataflow.
pub(super) struct SubscriptionSink {
    pub(super) teller: Teller,
    /// The result as of the first epoch is told.
    pub(super) snapshot: bool,
}

struct SubscriptionWriter {
    teller: Teller,
    snapshot: bool,
    has_begun: bool,
}

impl Sink for SubscriptionSink {
    fn open(&self, _: usize) -> Result<Box<dyn SinkWriter>> {
        let teller = self.teller.clone();
        Ok(Box::new(SubscriptionWriter { teller, snapshot: self.snapshot, has_begun: false }))
    }
}

impl SinkWriter for SubscriptionWriter {
    fn write(&mut self, epoch: Epoch, deltas: Vec<Delta>) -> Result<()> {
        if self.has_begun {
            // A subscriber that is gone takes its dataflow with it.
            self.teller.tell(epoch, &deltas);
        } else if self.snapshot {
            self.teller.tell_first(epoch, deltas);
        }
        self.has_begun = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch, StringViewArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    const ROWS_MAX: usize = WAITING_BYTES_MAX / OVERHEAD_BYTES;

    fn rows(n_rows: usize) -> Delta {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
        let column = Arc::new(Int64Array::from(vec![0; n_rows]));
        Delta::inserts(RecordBatch::try_new(schema, vec![column]).expect("a batch"))
    }

    /// A row of one string.
    fn long_row(n_bytes: usize) -> Delta {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Utf8View, false)]));
        let column = Arc::new(StringViewArray::from(vec!["x".repeat(n_bytes)]));
        Delta::inserts(RecordBatch::try_new(schema, vec![column]).expect("a batch"))
    }

    #[test]
    fn a_subscriber_that_does_not_read_is_cut_off_after_what_waits() {
        let (teller, mut listener) = buffer();
        teller.tell_first(Epoch(1), vec![rows(ROWS_MAX + 1)]);
        assert!(teller.tell(Epoch(2), &[rows(ROWS_MAX - 1)]));
        assert_eq!(listener.first_missing(), Epoch(u64::MAX));
        assert!(!teller.tell(Epoch(3), &[rows(1)]));
        let epochs: Vec<u64> = std::iter::from_fn(|| listener.try_next()).map(|told| told.epoch.0).collect();
        assert_eq!(epochs, [1, 2]);
        assert!(!teller.tell(Epoch(4), &[rows(1)]), "the end is final");
        assert_eq!(listener.first_missing(), Epoch(3));
        // Another worker is behind.
        assert!(!teller.clone().tell(Epoch(2), &[]));
        assert_eq!(listener.first_missing(), Epoch(2));
    }

    #[test]
    fn long_rows_and_empty_epochs_count_as_well() {
        let (teller, _listener) = buffer();
        let long = long_row(WAITING_BYTES_MAX / 4);
        let n_told = (1..).take_while(|&epoch| teller.tell(Epoch(epoch), &[long.slice(0, 1)])).count();
        assert_eq!(n_told, 3);
        let (teller, _listener) = buffer();
        let n_told = (1..).take_while(|&epoch| teller.tell(Epoch(epoch), &[])).count();
        assert_eq!(n_told, ROWS_MAX);
    }

    #[test]
    fn a_subscriber_that_reads_is_told_for_ever() {
        let (teller, mut listener) = buffer();
        for epoch in 1..10 {
            assert!(teller.tell(Epoch(epoch), &[rows(ROWS_MAX / 2)]));
            assert_eq!(listener.try_next().map(|told| told.epoch), Some(Epoch(epoch)));
        }
        drop(listener);
        assert!(!teller.tell(Epoch(10), &[rows(1)]));
    }
}
