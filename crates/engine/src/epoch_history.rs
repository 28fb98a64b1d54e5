//! The last epochs that brought something: what went into each, and how long the log and the workers took.
//!
//! An epoch's entry is made with the epoch and shared by those who note when it is durable, closed, and complete. Each of
//! them stores a number, once; nobody waits for anybody.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use millstream_types::{Epoch, EpochHeader};
use parking_lot::Mutex;

/// So many epochs are remembered.
const REMEMBERED: usize = 4096;

/// The last epochs, oldest first.
#[derive(Default)]
pub(crate) struct EpochHistory {
    entries: Mutex<VecDeque<Arc<EpochEntry>>>,
}

impl EpochHistory {
    /// Remembers an epoch that was just made.
    pub(crate) fn add(&self, header: &EpochHeader, brought: Brought) -> Arc<EpochEntry> {
        let entry = Arc::new(EpochEntry {
            epoch: header.epoch,
            brought,
            made: Instant::now(),
            made_us: header.now_us,
            durable: Moment::default(),
            closed: Moment::default(),
            complete: Moment::default(),
            n_incomplete: AtomicUsize::new(1),
        });
        let mut entries = self.entries.lock();
        if entries.len() == REMEMBERED {
            entries.pop_front();
        }
        entries.push_back(Arc::clone(&entry));
        entry
    }

    /// Those that are closed, oldest first.
    pub(crate) fn closed(&self) -> Vec<Arc<EpochEntry>> {
        let entries = self.entries.lock();
        entries.iter().filter(|entry| entry.closed_at_us().is_some()).cloned().collect()
    }
}

/// What went into an epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Brought {
    /// Rows that came or went, and offsets of sources.
    pub(crate) n_rows: u64,
    pub(crate) n_transactions: usize,
    /// Of its record; `None` if all data is in memory.
    pub(crate) n_log_bytes: Option<usize>,
}

/// An epoch that brought something.
pub(crate) struct EpochEntry {
    pub(crate) epoch: Epoch,
    pub(crate) brought: Brought,
    made: Instant,
    /// In microseconds since 1970 UTC.
    made_us: i64,
    durable: Moment,
    closed: Moment,
    complete: Moment,
    /// Relations that it touches and that are not complete everywhere, and one more until all of them are counted.
    n_incomplete: AtomicUsize,
}

/// Microseconds from when an epoch was made, plus one; zero until then.
#[derive(Default)]
struct Moment(AtomicU64);

impl Moment {
    fn is_now(&self, made: Instant) {
        let micros = u64::try_from(made.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        self.0.store(micros + 1, Ordering::Release);
    }

    fn micros(&self) -> Option<u64> {
        self.0.load(Ordering::Acquire).checked_sub(1)
    }
}

impl EpochEntry {
    /// Its record is durable.
    pub(crate) fn note_durable(&self) {
        self.durable.is_now(self.made);
    }

    /// Everybody may see it.
    pub(crate) fn note_closed(&self) {
        self.closed.is_now(self.made);
    }

    /// It touches one more relation.
    pub(crate) fn await_one(&self) {
        self.n_incomplete.fetch_add(1, Ordering::Relaxed);
    }

    /// A relation that it touches is complete on all workers, or is no more; or, once, all of them are counted.
    pub(crate) fn note_complete(&self) {
        if self.n_incomplete.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.complete.is_now(self.made);
        }
    }

    /// When everybody could see it, in microseconds since 1970 UTC.
    pub(crate) fn closed_at_us(&self) -> Option<i64> {
        Some(self.made_us.saturating_add_unsigned(self.closed.micros()?))
    }

    /// From when it was made until its record was durable, in microseconds.
    pub(crate) fn log_us(&self) -> Option<u64> {
        self.durable.micros()
    }

    /// From when it was made until all relations that it touches were complete on all workers, in microseconds.
    pub(crate) fn compute_us(&self) -> Option<u64> {
        self.complete.micros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Brought = Brought { n_rows: 0, n_transactions: 0, n_log_bytes: None };

    fn add(history: &EpochHistory, epoch: u64) -> Arc<EpochEntry> {
        history.add(&EpochHeader { epoch: Epoch(epoch), now_us: 7 }, NOTHING)
    }

    #[test]
    fn the_last_epochs_are_remembered_once_they_are_closed() {
        let history = EpochHistory::default();
        let n_epochs = REMEMBERED as u64 + 10;
        for epoch in 1..=n_epochs {
            add(&history, epoch).note_closed();
        }
        add(&history, n_epochs + 1);
        let epochs: Vec<u64> = history.closed().iter().map(|entry| entry.epoch.0).collect();
        assert_eq!(epochs, (12..=n_epochs).collect::<Vec<_>>());
        assert!(history.closed().iter().all(|entry| entry.closed_at_us().is_some_and(|at| at >= 7)));
    }

    #[test]
    fn an_epoch_is_complete_with_the_last_relation_that_it_touches() {
        let entry = add(&EpochHistory::default(), 1);
        entry.await_one();
        entry.note_complete();
        assert_eq!(entry.compute_us(), None, "there may be more of them");
        entry.await_one();
        entry.note_complete();
        assert_eq!(entry.compute_us(), None, "one is missing");
        entry.note_complete();
        assert!(entry.compute_us().is_some());
        assert_eq!((entry.log_us(), entry.closed_at_us()), (None, None));
        entry.note_durable();
        assert!(entry.log_us().is_some());
    }
}
