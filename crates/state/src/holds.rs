//! Holds: who still needs a relation as of which epoch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millstream_types::Epoch;
use parking_lot::Mutex;

/// The last epoch that is closed: everybody may see it, and nobody a later one. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct LastClosed(Arc<AtomicU64>);

impl LastClosed {
    /// The last closed epoch.
    pub fn get(&self) -> Epoch {
        Epoch(self.0.load(Ordering::Acquire))
    }

    /// Closes all epochs up to one.
    pub fn advance(&self, epoch: Epoch) {
        self.0.fetch_max(epoch.0, Ordering::AcqRel);
    }
}

#[derive(Debug, Default)]
struct Registered {
    /// Nothing before this epoch can be read any more.
    since: Epoch,
    holds: BTreeMap<Epoch, usize>,
}

/// The holds on one relation, shared by its readers and by the workers that compact it.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    registered: Arc<Mutex<Registered>>,
    /// Who begins to read does so as of this epoch.
    last_closed: Option<LastClosed>,
}

/// A registered interest in a relation as of an epoch; dropping it ends the interest.
#[derive(Debug)]
pub struct Hold {
    holds: Holds,
    epoch: Epoch,
}

impl Holds {
    /// No holds, and everything can be read.
    pub fn new() -> Self {
        Self::default()
    }

    /// No holds, but that whoever begins to read may do so as of the last closed epoch.
    pub fn of_readers(last_closed: LastClosed) -> Self {
        Holds { last_closed: Some(last_closed), ..Self::default() }
    }

    /// Registers an interest, or says from which epoch on that is possible.
    ///
    /// # Errors
    /// The oldest readable epoch, if the wanted one is older.
    pub fn acquire(&self, epoch: Epoch) -> Result<Hold, Epoch> {
        let mut registered = self.registered.lock();
        if epoch < registered.since {
            return Err(registered.since);
        }
        *registered.holds.entry(epoch).or_default() += 1;
        Ok(Hold { holds: self.clone(), epoch })
    }

    /// Moves `since` up to `limit`, or as far as the holds allow, and returns it. Called by workers with an epoch that
    /// they have completed; `since` never moves back.
    pub fn advance(&self, limit: Epoch) -> Epoch {
        let mut registered = self.registered.lock();
        // Read under the lock: who has read an earlier one may find it gone, and takes this one.
        let limit = self.last_closed.as_ref().map_or(limit, |closed| limit.min(closed.get()));
        let oldest = registered.holds.keys().next().copied().unwrap_or(limit);
        registered.since = registered.since.max(limit.min(oldest));
        registered.since
    }

    /// The number of holds.
    pub fn n_holds(&self) -> usize {
        self.registered.lock().holds.values().sum()
    }

    /// The oldest readable epoch.
    pub fn since(&self) -> Epoch {
        self.registered.lock().since
    }
}

impl Hold {
    /// The held epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Gives up what is before a later epoch.
    pub fn advance(&mut self, epoch: Epoch) {
        debug_assert!(epoch >= self.epoch);
        let mut registered = self.holds.registered.lock();
        *registered.holds.entry(epoch).or_default() += 1;
        release(&mut registered, self.epoch);
        self.epoch = epoch;
    }
}

impl Clone for Hold {
    fn clone(&self) -> Self {
        *self.holds.registered.lock().holds.entry(self.epoch).or_default() += 1;
        Hold { holds: self.holds.clone(), epoch: self.epoch }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        release(&mut self.holds.registered.lock(), self.epoch);
    }
}

fn release(registered: &mut Registered, epoch: Epoch) {
    let count = registered.holds.get_mut(&epoch).expect("a hold is registered once and released once");
    *count -= 1;
    if *count == 0 {
        registered.holds.remove(&epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_hold_stops_compaction() {
        let holds = Holds::new();
        let mut a = holds.acquire(Epoch(3)).expect("nothing is compacted yet");
        let b = holds.acquire(Epoch(5)).expect("nothing is compacted yet");
        assert_eq!(holds.advance(Epoch(9)), Epoch(3));
        a.advance(Epoch(7));
        assert_eq!(holds.advance(Epoch(9)), Epoch(5));
        assert_eq!(holds.acquire(Epoch(4)).expect_err("compacted"), Epoch(5));
        drop(b);
        assert_eq!(holds.advance(Epoch(9)), Epoch(7));
        drop(a);
        assert_eq!(holds.advance(Epoch(9)), Epoch(9));
        assert_eq!(holds.advance(Epoch(8)), Epoch(9));
    }

    #[test]
    fn what_the_last_closed_epoch_needs_is_kept() {
        let closed = LastClosed::default();
        let holds = Holds::of_readers(closed.clone());
        assert_eq!(holds.advance(Epoch(9)), Epoch::ZERO);
        closed.advance(Epoch(5));
        closed.advance(Epoch(4));
        assert_eq!(holds.advance(Epoch(9)), Epoch(5));
        assert_eq!(holds.advance(Epoch(3)), Epoch(5));
    }
}
