//! Epochs: ticks of the one global clock.

use std::fmt;

/// A tick of the global clock. Epoch 0 is never used by a write: it is the state of an empty relation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch before the first write.
    pub const ZERO: Epoch = Epoch(0);
    /// Later than every epoch that closes.
    pub const MAX: Epoch = Epoch(u64::MAX);

    /// The epoch that follows this one.
    #[must_use]
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }

    /// The epoch before this one; `ZERO` is its own predecessor.
    #[must_use]
    pub fn prev(self) -> Epoch {
        Epoch(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What is the same for every row of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochHeader {
    /// The epoch's number.
    pub epoch: Epoch,
    /// The value of `now()` in this epoch, microseconds since 1970-01-01 UTC; never decreases.
    pub now_us: i64,
}
