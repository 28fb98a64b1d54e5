//! For tests only: batch literals, recompute oracle, seeded changes, test-file runner.

#[cfg(test)]
mod dependencies;
pub mod slt;
