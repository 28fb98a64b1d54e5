//! What the process takes in all, and what is done when that comes close to what it may take.
//!
//! State, queries and rows on their way are accounted for; what operators have in use for a moment, and what the allocator
//! keeps, is not. So it is looked at what the process really has: from [`NEAR_PERCENT`] of what it may take on, freed memory
//! is given back at once, and what is still too much then counts as too much state, some of which is spilled for it.

use std::fs;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use millstream_runtime::Account;
use millstream_types::{Error, Result};

/// What a process takes that has nothing to do, or little, with one worker; and what it takes for each further one.
pub(crate) const IDLE_BYTES: usize = 32 << 20;
pub(crate) const IDLE_WORKER_BYTES: usize = 4 << 20;
/// From this part of what it may take on something is done.
const NEAR_PERCENT: usize = 60;
/// How often it is looked, for a process that may take little; and for one that may take much.
const LOOKED_EVERY: std::ops::RangeInclusive<u64> = 10..=500;
/// A process may take so many bytes more for each millisecond between two looks.
const LOOKED_EVERY_MS_FOR: usize = 32 << 20;

/// Looks after it until it is dropped.
pub(crate) struct ProcessMemory(#[expect(dead_code, reason = "the thread ends when this is dropped")] Sender<()>);

impl ProcessMemory {
    /// For a process that may take so many bytes beside what it takes with nothing to do.
    ///
    /// # Errors
    /// Internal, if a thread cannot be started.
    pub(crate) fn watch(limit: usize, n_workers: usize, state: Arc<Account>) -> Result<Self> {
        let (send, ended) = channel();
        let limit = limit.saturating_add(IDLE_BYTES + n_workers.saturating_sub(1) * IDLE_WORKER_BYTES);
        let thread = std::thread::Builder::new().name("memory".to_owned());
        let watched = thread.spawn(move || watch(limit, &ended, &state));
        watched.map_err(|e| Error::internal(format!("a thread did not start: {e}")))?;
        Ok(ProcessMemory(send))
    }
}

fn watch(limit: usize, ended: &Receiver<()>, state: &Account) {
    let every = ((limit / LOOKED_EVERY_MS_FOR) as u64).clamp(*LOOKED_EVERY.start(), *LOOKED_EVERY.end());
    let near = limit / 100 * NEAR_PERCENT;
    while ended.recv_timeout(Duration::from_millis(every)) == Err(RecvTimeoutError::Timeout) {
        let Some(mut taken) = anonymous_bytes() else { return };
        if taken > near {
            millstream_state::allocator::give_back_freed_memory();
            taken = anonymous_bytes().unwrap_or(taken);
        }
        state.set_unaccounted_excess(taken.saturating_sub(near));
    }
}

/// What the process has in memory that is in no file; `None` if the system does not tell.
fn anonymous_bytes() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_counts_as_state() {
        let state = Account::root(1 << 40, 1 << 40);
        let (send, ended) = channel();
        let thread = std::thread::spawn({
            let state = Arc::clone(&state);
            move || watch(1 << 12, &ended, &state)
        });
        while cfg!(target_os = "linux") && state.excess() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(send);
        thread.join().expect("it ends");
        assert!(!state.is_over() && state.used() == 0);
    }
}
