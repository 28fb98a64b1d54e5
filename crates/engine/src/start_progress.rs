//! How far a start is with what is on the disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the log is told.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// How far a start is: bytes of the checkpoint and of the log that have been taken in, of all.
#[derive(Debug)]
pub struct StartProgress {
    /// What is taken in.
    what: &'static str,
    began: Instant,
    n_bytes: AtomicU64,
    n_done: AtomicU64,
    /// When the log was told last, in milliseconds from the beginning.
    told_ms: AtomicU64,
}

impl Default for StartProgress {
    fn default() -> Self {
        Self::of("what is on the disk")
    }
}

impl StartProgress {
    /// Of something that has a name, for people.
    pub(crate) fn of(what: &'static str) -> Self {
        let (n_bytes, n_done, told_ms) = Default::default();
        StartProgress { what, began: Instant::now(), n_bytes, n_done, told_ms }
    }

    /// There are so many bytes more to be taken in.
    pub(crate) fn expect(&self, n_bytes: u64) {
        self.n_bytes.fetch_add(n_bytes, Ordering::Relaxed);
    }

    /// So many bytes more have been taken in.
    pub(crate) fn advance(&self, n_bytes: u64) {
        self.n_done.fetch_add(n_bytes, Ordering::Relaxed);
        let (now, told) = (self.began.elapsed().as_millis() as u64, self.told_ms.load(Ordering::Relaxed));
        let is_time = now >= told + TOLD_EVERY.as_millis() as u64;
        // Several threads take in what there is.
        let tell = || self.told_ms.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_time && tell() {
            tracing::info!("taking in {}: {}", self.what, self.shown().unwrap_or_default());
        }
    }

    /// Bytes that there are.
    pub(crate) fn n_expected(&self) -> u64 {
        self.n_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that have been taken in.
    pub(crate) fn n_done(&self) -> u64 {
        self.n_done.load(Ordering::Relaxed)
    }

    /// In words: `120 of 480 MB (25 %), 60 MB/s`. `None` until it is known how much there is.
    pub fn shown(&self) -> Option<String> {
        let (n_done, n_bytes) = (self.n_done.load(Ordering::Relaxed), self.n_bytes.load(Ordering::Relaxed));
        // What is expected is an estimate: nobody is told of more than all.
        (n_bytes > 0).then(|| shown(n_done.min(n_bytes), n_bytes, self.began.elapsed()))
    }
}

fn shown(n_done: u64, n_bytes: u64, time: Duration) -> String {
    const MB: u64 = 1_000_000;
    let percent = (n_done * 100).checked_div(n_bytes).unwrap_or(0);
    let rate = (n_done as f64 / time.as_secs_f64().max(1e-3)) as u64;
    format!("{} of {} MB ({percent} %), {} MB/s", n_done / MB, n_bytes / MB, rate / MB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_shown_in_words() {
        assert_eq!(shown(120_500_000, 482_000_000, Duration::from_secs(2)), "120 of 482 MB (25 %), 60 MB/s");
        let progress = StartProgress::default();
        assert_eq!(progress.shown(), None);
        progress.expect(2_000_000);
        progress.advance(3_000_000);
        let shown = progress.shown().expect("there is something");
        assert!(shown.starts_with("2 of 2 MB (100 %)"), "{shown}");
    }
}
