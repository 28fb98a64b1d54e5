//! Home of the benchmarks: the Nexmark queries, their input, the batch run that checks their results, and what is
//! measured of the process.

pub mod checksum;
pub mod engine_under_test;
pub mod input;
pub mod nexmark_reference;
pub mod process;
pub mod queries;
