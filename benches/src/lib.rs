//! Home of the benchmarks: the Nexmark queries, their input, the batch run that checks their results, a server in a
//! process of its own with a client that costs little, and what is measured of processes.

pub mod checksum;
pub mod engine_under_test;
pub mod figure;
pub mod input;
pub mod nexmark_reference;
pub mod process;
pub mod queries;
pub mod repeated;
pub mod server_process;
pub mod slow_disk;
pub mod whole_engine;
pub mod wire_client;
