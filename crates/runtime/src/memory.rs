//! Memory that is accounted for: by view, by table, and in all.
//!
//! Every holder of state reports what it has through a [`Charge`]; charges add up in an [`Account`], and accounts in the
//! one of all. Nothing is refused here: whoever charges asks afterwards whether a limit is passed, and says whose it is.
//!
//! ```text
//!   0 ────────────────── 60 %, or as is said ─────────────── limit
//!        all stays in memory      │  what can be is spilled    │  what cannot be spilled fails
//! ```

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use millstream_operators::Operator;
use millstream_operators::spilling::MemoryWatch;

/// The share of a limit, in percent, from which on state is spilled. What an epoch adds has to fit into the rest.
const SPILLED_FROM: i64 = 60;

/// Bytes in use, with a limit. An account may be part of another.
#[derive(Debug)]
pub struct Account {
    used: AtomicI64,
    /// Of those, the ones that whoever holds them will spill if need be.
    spillable: AtomicI64,
    /// Bytes that were spilled, where they are.
    spilled: AtomicI64,
    /// Bytes of operators of which nothing can be spilled within an epoch.
    whole: AtomicI64,
    limit: i64,
    /// Bytes in use from which on state is spilled.
    spilled_from: i64,
    /// Bytes that the process has too many, whatever is accounted for.
    unaccounted_excess: AtomicI64,
    parent: Option<Arc<Account>>,
}

impl Account {
    /// The account of all, with a limit, and with the bytes from which on state is spilled.
    pub fn root(limit: usize, spilled_from: usize) -> Arc<Self> {
        Self::with_limits(to_i64(limit), to_i64(spilled_from), None)
    }

    /// An account that is part of this one. Without a limit of its own, only that of the whole counts.
    pub fn part(self: &Arc<Self>, limit: Option<usize>) -> Arc<Self> {
        let limit = limit.map_or(i64::MAX, to_i64);
        Self::with_limits(limit, limit / 100 * SPILLED_FROM + limit % 100 * SPILLED_FROM / 100, Some(Arc::clone(self)))
    }

    fn with_limits(limit: i64, spilled_from: i64, parent: Option<Arc<Account>>) -> Arc<Self> {
        let zero = || AtomicI64::new(0);
        let unaccounted_excess = zero();
        Arc::new(Account {
            used: zero(),
            spillable: zero(),
            spilled: zero(),
            whole: zero(),
            limit,
            spilled_from,
            unaccounted_excess,
            parent,
        })
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        usize::try_from(self.used.load(Relaxed)).unwrap_or(0)
    }

    /// Bytes in use that are not about to be spilled.
    pub fn pinned(&self) -> usize {
        usize::try_from(self.used.load(Relaxed) - self.spillable.load(Relaxed)).unwrap_or(0)
    }

    /// Bytes that were spilled, where they are.
    pub fn spilled(&self) -> usize {
        usize::try_from(self.spilled.load(Relaxed)).unwrap_or(0)
    }

    /// Bytes of operators of which nothing can be spilled within an epoch, whatever that adds.
    pub fn whole(&self) -> usize {
        usize::try_from(self.whole.load(Relaxed)).unwrap_or(0)
    }

    /// Bytes are in use that are in no account, and more than may be: as many are spilled for them.
    pub fn set_unaccounted_excess(&self, n_bytes: usize) {
        self.unaccounted_excess.store(to_i64(n_bytes), Relaxed);
    }

    /// Bytes in use beyond those from which on state is spilled, here or in an account that this one is part of.
    pub fn excess(&self) -> usize {
        let own = self.used.load(Relaxed).saturating_sub(self.spilled_from);
        let own = usize::try_from(own.max(self.unaccounted_excess.load(Relaxed))).unwrap_or(0);
        own.max(self.parent.as_ref().map_or(0, |parent| parent.excess()))
    }

    /// Whether so many bytes more are likely to be too many: more than half of what there is until state is spilled.
    pub(crate) fn is_small_for(&self, n_bytes: usize) -> bool {
        let room = self.spilled_from.saturating_sub(self.used.load(Relaxed));
        to_i64(n_bytes) >= room / 2 || self.parent.as_ref().is_some_and(|parent| parent.is_small_for(n_bytes))
    }

    /// The limit; `None` if there is none.
    pub fn limit(&self) -> Option<usize> {
        usize::try_from(self.limit).ok().filter(|&l| l < i64::MAX as usize)
    }

    /// Whether more is in use than may be, and will not be spilled.
    pub fn is_over(&self) -> bool {
        self.used.load(Relaxed) - self.spillable.load(Relaxed) > self.limit
    }

    /// Whether the account that this one is part of has passed its limit.
    pub fn is_whole_over(&self) -> bool {
        self.parent.as_ref().is_some_and(|p| p.is_over())
    }

    fn change(&self, by: Usage) {
        self.used.fetch_add(by.used, Relaxed);
        self.spillable.fetch_add(by.spillable, Relaxed);
        self.spilled.fetch_add(by.spilled, Relaxed);
        self.whole.fetch_add(by.whole, Relaxed);
        if let Some(parent) = &self.parent {
            parent.change(by);
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    used: i64,
    spillable: i64,
    spilled: i64,
    whole: i64,
}

/// What one holder of state has in use; gives it back when dropped.
#[derive(Debug)]
pub struct Charge {
    account: Arc<Account>,
    usage: Usage,
}

impl Charge {
    /// Nothing yet.
    pub fn new(account: &Arc<Account>) -> Self {
        Charge { account: Arc::clone(account), usage: Usage::default() }
    }

    /// Reports what is in use now, of which nothing will be spilled.
    pub fn set(&mut self, bytes: usize) {
        self.set_in_memory(bytes, 0);
    }

    /// Reports what is in use now, and how much of it will be spilled if need be.
    pub fn set_in_memory(&mut self, bytes: usize, spillable: usize) {
        let used = to_i64(bytes);
        self.change(Usage { used, spillable: to_i64(spillable).min(used), ..self.usage });
    }

    /// Reports what is in use now, how much of it will be spilled if need be, and what is spilled.
    pub fn set_all(&mut self, bytes: usize, spillable: usize, spilled: usize) {
        let (used, spilled) = (to_i64(bytes), to_i64(spilled));
        self.change(Usage { used, spillable: to_i64(spillable).min(used), spilled, ..self.usage });
    }

    fn set_whole(&mut self, whole: usize) {
        self.change(Usage { whole: to_i64(whole), ..self.usage });
    }

    fn change(&mut self, to: Usage) {
        let was = std::mem::replace(&mut self.usage, to);
        if was != to {
            self.account.change(Usage {
                used: to.used - was.used,
                spillable: to.spillable - was.spillable,
                spilled: to.spilled - was.spilled,
                whole: to.whole - was.whole,
            });
        }
    }

    /// What was reported last.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.usage.used).unwrap_or(0)
    }

    /// The account.
    pub fn account(&self) -> &Account {
        &self.account
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.change(Usage::default());
    }
}

/// What an operator, or the end of a dataflow, has in use on a worker.
#[derive(Debug)]
pub(crate) struct HeldMemory(RefCell<Charge>);

impl HeldMemory {
    pub(crate) fn new(account: &Arc<Account>) -> Self {
        HeldMemory(RefCell::new(Charge::new(account)))
    }

    pub(crate) fn set_all(&self, bytes: usize, spillable: usize, spilled: usize) {
        self.0.borrow_mut().set_all(bytes, spillable, spilled);
    }

    /// Reports what an operator has.
    pub(crate) fn set_of(&self, operator: &dyn Operator) {
        self.set_all(operator.n_bytes(), operator.n_spillable_bytes(), operator.n_spilled_bytes());
        self.note_whole(operator.n_whole_bytes());
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.borrow().bytes()
    }
}

impl MemoryWatch for HeldMemory {
    fn report(&self, n_bytes: usize, n_spillable_bytes: usize) {
        self.0.borrow_mut().set_in_memory(n_bytes, n_spillable_bytes);
    }

    fn note_whole(&self, n_bytes: usize) {
        self.0.borrow_mut().set_whole(n_bytes);
    }

    fn excess(&self) -> usize {
        self.0.borrow().account().excess()
    }

    fn is_short_for(&self, n_bytes: usize) -> bool {
        self.0.borrow().account().is_small_for(n_bytes)
    }

    fn is_spilling(&self) -> bool {
        self.0.borrow().account().spilled() > 0
    }
}

fn to_i64(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_add_up_and_are_given_back() {
        let all = Account::root(100, 60);
        let view = all.part(Some(50));
        let table = all.part(None);
        let (mut a, mut b) = (Charge::new(&view), Charge::new(&table));
        a.set(40);
        b.set(50);
        assert_eq!((view.used(), table.used(), all.used()), (40, 50, 90));
        assert!(!view.is_over() && !view.is_whole_over());
        a.set(60);
        assert!(view.is_over() && view.is_whole_over() && !table.is_over() && table.is_whole_over());
        a.set(10);
        assert!(!view.is_over() && !all.is_over());
        drop((a, b));
        assert_eq!(all.used(), 0);
    }

    #[test]
    fn what_can_be_spilled_is_not_over_the_limit() {
        let all = Account::root(100, 60);
        let view = all.part(Some(50));
        let (mut a, mut b) = (Charge::new(&view), Charge::new(&all.part(None)));
        a.set_all(30, 30, 0);
        assert_eq!((view.excess(), all.excess()), (0, 0));
        a.set_all(70, 25, 7);
        assert_eq!((view.excess(), all.excess(), view.pinned(), all.spilled()), (40, 10, 45, 7));
        assert!(!view.is_over());
        b.set(75);
        assert_eq!((view.excess(), all.pinned()), (85, 120), "the whole has too much");
        assert!(!view.is_over() && view.is_whole_over());
        a.set_all(70, 15, 7);
        assert!(view.is_over());
        a.set_whole(9);
        a.set_in_memory(60, 15);
        assert_eq!((view.whole(), all.whole(), b.account().whole()), (9, 9, 0));
        drop((a, b));
        assert_eq!((all.used(), all.pinned(), all.spilled(), all.whole()), (0, 0, 0, 0));
    }
}
