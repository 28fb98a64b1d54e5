//! For tests only: batch literals, recompute oracle, seeded changes, test-file runner, the SQL of the documentation.

#[cfg(test)]
mod dependencies;
pub mod docs;
#[cfg(test)]
mod named_files;
pub mod slt;
