//! Home of the benchmarks.
