//! Memory that is accounted for: by view, by table, and in all.
//!
//! Every holder of state reports what it has through a [`Charge`]; charges add up in an [`Account`], and accounts in the
//! one of all. Nothing is refused here: whoever charges asks afterwards whether a limit is passed, and says whose it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// Bytes in use, with a limit. An account may be part of another.
#[derive(Debug)]
pub struct Account {
    used: AtomicI64,
    limit: AtomicI64,
    parent: Option<Arc<Account>>,
}

impl Account {
    /// The account of all.
    pub fn root(limit: usize) -> Arc<Self> {
        Arc::new(Account { used: AtomicI64::new(0), limit: AtomicI64::new(to_i64(limit)), parent: None })
    }

    /// An account that is part of this one. Without a limit of its own, only that of the whole counts.
    pub fn part(self: &Arc<Self>, limit: Option<usize>) -> Arc<Self> {
        let limit = AtomicI64::new(limit.map_or(i64::MAX, to_i64));
        Arc::new(Account { used: AtomicI64::new(0), limit, parent: Some(Arc::clone(self)) })
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        usize::try_from(self.used.load(Relaxed)).unwrap_or(0)
    }

    /// The limit; `None` if there is none.
    pub fn limit(&self) -> Option<usize> {
        usize::try_from(self.limit.load(Relaxed)).ok().filter(|&l| l < i64::MAX as usize)
    }

    /// Whether more is in use than may be.
    pub fn is_over(&self) -> bool {
        self.used.load(Relaxed) > self.limit.load(Relaxed)
    }

    /// Whether the account that this one is part of has passed its limit.
    pub fn is_whole_over(&self) -> bool {
        self.parent.as_ref().is_some_and(|p| p.is_over())
    }

    fn change(&self, by: i64) {
        self.used.fetch_add(by, Relaxed);
        if let Some(parent) = &self.parent {
            parent.change(by);
        }
    }
}

/// What one holder of state has in use; gives it back when dropped.
#[derive(Debug)]
pub struct Charge {
    account: Arc<Account>,
    bytes: i64,
}

impl Charge {
    /// Nothing yet.
    pub fn new(account: &Arc<Account>) -> Self {
        Charge { account: Arc::clone(account), bytes: 0 }
    }

    /// Reports what is in use now.
    pub fn set(&mut self, bytes: usize) {
        let bytes = to_i64(bytes);
        if bytes != self.bytes {
            self.account.change(bytes - self.bytes);
            self.bytes = bytes;
        }
    }

    /// What was reported last.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(0)
    }

    /// The account.
    pub fn account(&self) -> &Account {
        &self.account
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.change(-self.bytes);
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
        let all = Account::root(100);
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
}
