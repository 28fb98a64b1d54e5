//! SQL test files: parses sqllogictest records and runs them over connections that the caller makes.
//!
//! A file opens with a comment that says what it is for, and has a line `# postgres: yes` if it is plain Postgres SQL
//! and so must give the same rows there, or `# postgres: no`. Records are those of sqllogictest (parsed by the crate of
//! that name). The columns of a row are separated by one tab, NULL is printed as `NULL`, the empty string as `(empty)`,
//! a line break or a tab within a value as `\n` or `\t`. `sleep`, `retry` and whatever else makes a test depend on time
//! or on the machine is refused.

mod connection;
mod diff;
mod file;
mod run;

pub use connection::{Connection, Output, SqlError};
pub use file::{Header, SltFile, find_files};
pub use run::{Engine, bless, run, run_with_restart};

#[cfg(test)]
mod tests;
