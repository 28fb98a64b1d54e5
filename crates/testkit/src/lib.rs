//! For tests only: batch literals, recompute oracle, seeded changes, test-file runner.

pub mod slt;
