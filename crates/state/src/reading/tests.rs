//! Chunks that are far, and what is on its way of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;

/// A chunk on its way, which is counted until it is taken or dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn begin(n_begun: &Arc<AtomicUsize>) -> Option<ReadAhead> {
    n_begun.fetch_add(1, SeqCst);
    let counted = Counted(Arc::clone(n_begun));
    Some(ReadAhead::new(move || {
        drop(counted);
        Err(millstream_types::Error::internal("no rows"))
    }))
}

#[test]
fn more_each_time_are_on_their_way_and_none_when_it_is_dropped() {
    let n_begun = Arc::new(AtomicUsize::new(0));
    let mut ahead = ChunksAhead::default();
    for (chunk, expected) in [1, 2, 4, 8, 16, 16, 16].into_iter().enumerate() {
        let taken = ahead.take(chunk, chunk + 1..100, |_| begin(&n_begun));
        assert_eq!(taken.is_some(), chunk > 0, "the first one is not on its way before it is wanted");
        drop(taken);
        assert_eq!(n_begun.load(SeqCst), expected, "after chunk {chunk}");
    }
    drop(ahead.take(99, 100..100, |_| begin(&n_begun)));
    assert_eq!(n_begun.load(SeqCst), 0, "those before a chunk are not wanted any more");
    ahead.take(100, 101..200, |_| begin(&n_begun));
    assert_eq!(n_begun.load(SeqCst), AHEAD_MAX);
    drop(ahead);
    assert_eq!(n_begun.load(SeqCst), 0);
}

#[test]
fn those_that_are_near_are_left_out() {
    let n_begun = Arc::new(AtomicUsize::new(0));
    let mut ahead = ChunksAhead::default();
    let wanted: Vec<usize> = (0..60).filter(|chunk| chunk % 7 != 3).collect();
    for (i, &chunk) in wanted.iter().enumerate() {
        let next = wanted[i + 1..].iter().copied();
        let taken = ahead.take(chunk, next, |chunk| if chunk % 2 == 0 { begin(&n_begun) } else { None });
        assert_eq!(taken.is_some(), chunk % 2 == 0 && chunk > 0, "chunk {chunk}");
    }
    assert_eq!(n_begun.load(SeqCst), 0);
}
