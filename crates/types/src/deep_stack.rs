//! A stack for what recurses over the nesting of a statement: its parts are visited, copied, compared and dropped by functions
//! that call themselves, in libraries too.
//!
//! A statement nests at most so deep (54001 beyond), and a level takes at most so much of a stack; what takes part of
//! `STACK_BYTES` is never touched costs address space only.

/// The stack on which a statement is parsed, planned and dropped: 6,000 levels of some 80 kB, which is more than a level
/// takes in a build without optimizations.
const STACK_BYTES: usize = 512 << 20;
/// With less than this left another stack is taken, so threads with more run most statements on their own.
const RED_ZONE_BYTES: usize = 24 << 20;
/// The stack that a thread should have which serves connections or runs queries.
pub const THREAD_STACK_BYTES: usize = 64 << 20;

/// Runs something whose depth is that of a usual statement.
pub fn on_deep_stack<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(RED_ZONE_BYTES, STACK_BYTES, work)
}

/// Runs something on a stack of its own that is deep enough for every statement.
pub fn on_own_stack<T>(work: impl FnOnce() -> T) -> T {
    stacker::grow(STACK_BYTES, work)
}

/// A value that may nest deeply: it is dropped on a stack that is deep enough.
#[derive(Debug)]
pub struct Deep<T>(Option<T>);

impl<T> Deep<T> {
    /// Takes a value.
    pub fn new(value: T) -> Self {
        Deep(Some(value))
    }
}

impl<T> std::ops::Deref for Deep<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is there until it is dropped")
    }
}

impl<T> Drop for Deep<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        on_deep_stack(|| drop(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list whose drop recurses.
    struct Link(Option<Box<Link>>);

    #[test]
    fn what_is_deep_is_dropped() {
        let mut list = Link(None);
        for _ in 0..100_000 {
            list = Link(Some(Box::new(list)));
        }
        let list = Deep::new(list);
        let Link(next) = &*list;
        assert!(next.is_some());
    }
}
