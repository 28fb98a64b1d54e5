//! What is asked of mimalloc, the allocator of our programs.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long};

// Links the library whose function is declared below.
use libmimalloc_sys as _;

/// `mi_option_purge_delay` of `mimalloc.h`.
const PURGE_DELAY: c_int = 15;
/// How long freed memory stays with the process, if that may take much.
const PURGE_DELAY_MS: c_long = 10_000;
/// How long it does for each so many bytes that the process may take.
const PURGE_DELAY_MS_FOR: usize = 512 << 10;
/// A process that may take less has no huge pages: each is there as a whole for the first byte that is used of it.
#[cfg(target_os = "linux")]
const HUGE_PAGES_FROM: usize = 1 << 30;

unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
    fn mi_collect(force: bool);
}

/// Keeps freed memory for ten seconds before it goes back to the system, rather than one.
///
/// Operators allocate and free a batch's buffers all the time. When the delay has passed everything that is free at that
/// moment is given back, and what is needed again a moment later has to be cleared by the kernel first: at one second
/// that was half of the time of a query with much state.
///
/// Called once, when the program starts. Does nothing to programs with another allocator.
pub fn keep_freed_memory() {
    // SAFETY: the function takes any option number and value, from any thread, and only writes the option's cell.
    unsafe { mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) }
}

/// As [`keep_freed_memory`], for a process that may take so many bytes: the less it may, the sooner freed memory goes back.
pub fn keep_freed_memory_within(limit: usize) {
    let delay = c_long::try_from(limit / PURGE_DELAY_MS_FOR).unwrap_or(c_long::MAX).min(PURGE_DELAY_MS);
    // SAFETY: as in `keep_freed_memory`.
    unsafe { mi_option_set(PURGE_DELAY, delay) }
    #[cfg(target_os = "linux")]
    if limit < HUGE_PAGES_FROM {
        disable_huge_pages();
    }
}

/// Gives freed memory back now.
pub fn give_back_freed_memory() {
    // SAFETY: it may be called at any time from any thread, and touches nothing but free memory.
    unsafe { mi_collect(true) }
}

#[cfg(target_os = "linux")]
fn disable_huge_pages() {
    use std::ffi::c_ulong;

    /// `PR_SET_THP_DISABLE` of `linux/prctl.h`.
    const SET_THP_DISABLE: c_int = 41;
    unsafe extern "C" {
        fn prctl(option: c_int, ...) -> c_int;
    }
    let (on, unused): (c_ulong, c_ulong) = (1, 0);
    // SAFETY: this option takes a flag and three zeros, and only sets a flag of the process. An old kernel refuses it.
    let _ = unsafe { prctl(SET_THP_DISABLE, on, unused, unused, unused) };
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" {
        fn mi_option_get(option: c_int) -> c_long;
    }

    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: as above; reads the option's cell.
        let get = || unsafe { mi_option_get(PURGE_DELAY) };
        // A second in version 3 of the library, ten milliseconds in version 2.
        assert!(matches!(get(), 10 | 1_000));
        keep_freed_memory();
        assert_eq!(get(), PURGE_DELAY_MS);
        keep_freed_memory_within(64 << 20);
        assert_eq!(get(), 128);
        keep_freed_memory_within(usize::MAX);
        assert_eq!(get(), PURGE_DELAY_MS);
        give_back_freed_memory();
    }
}
