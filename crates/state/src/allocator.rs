//! What is asked of mimalloc, the allocator of our programs.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_long};

// Links the library whose function is declared below.
use libmimalloc_sys as _;

/// `mi_option_purge_delay` of `mimalloc.h`.
const PURGE_DELAY: c_int = 15;
/// How long freed memory stays with the process.
const PURGE_DELAY_MS: c_long = 10_000;

unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
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
    }
}
