//! The memory of one query that is short of it.
//!
//! It is taken from that of all queries before the query begins, so that nobody else takes it later. Within it, who gathers
//! rows and can put them on disk has a share, and so has who merges what a sort has put there: in the pool of all queries
//! sorts may take all that there is, and when one of them has to merge there is nothing left, and nothing that it could do.

use std::fmt;

use datafusion::common::{Result, resources_datafusion_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use parking_lot::Mutex;

/// Memory in equal shares; a quarter of it, and whatever of the shares nobody has, is for those who have none.
#[derive(Debug)]
pub(crate) struct SharedOut {
    n_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    n_shares: usize,
    reserved: usize,
}

impl SharedOut {
    pub(crate) fn new(n_bytes: usize) -> Self {
        SharedOut { n_bytes, state: Mutex::default() }
    }
}

fn has_share(consumer: &MemoryConsumer) -> bool {
    consumer.can_spill() || consumer.name().starts_with("ExternalSorterMerge")
}

impl fmt::Display for SharedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a query's {} bytes", self.n_bytes)
    }
}

impl MemoryPool for SharedOut {
    fn name(&self) -> &'static str {
        "shared out"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.state.lock().n_shares += usize::from(has_share(consumer));
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.state.lock().n_shares -= usize::from(has_share(consumer));
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        self.state.lock().reserved += additional;
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        self.state.lock().reserved -= shrink;
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let mut state = self.state.lock();
        let mut available = self.n_bytes.saturating_sub(state.reserved);
        if has_share(reservation.consumer()) {
            let share = self.n_bytes / 4 * 3 / state.n_shares.max(1);
            available = available.min(share.saturating_sub(reservation.size()));
        }
        if additional > available {
            let name = reservation.consumer().name();
            return Err(resources_datafusion_err!(
                "{name} needs {additional} bytes, and of {self} it may have {available} more"
            ));
        }
        state.reserved += additional;
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.state.lock().reserved
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.n_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn nobody_takes_what_others_may_have() {
        let pool: Arc<dyn MemoryPool> = Arc::new(SharedOut::new(800));
        let sort = MemoryConsumer::new("ExternalSorter[0]").with_can_spill(true).register(&pool);
        let merge = MemoryConsumer::new("ExternalSorterMerge[0]").register(&pool);
        let join = MemoryConsumer::new("HashJoinInput[0]").register(&pool);
        for (taker, n_bytes) in [(&sort, 300), (&merge, 300), (&join, 200)] {
            taker.try_grow(n_bytes).expect("it is there");
            assert!(taker.try_grow(1).is_err(), "{} has all that it may", taker.consumer().name());
        }
        drop(sort);
        join.try_grow(300).expect("nobody has it");
        drop(join);
        merge.try_grow(300).expect("it has another share");
        assert!(merge.try_grow(1).is_err());
        drop(merge);
        assert_eq!(pool.reserved(), 0);
    }
}
