//! Runs dataflows on timely: adapter, workers, exchange, metrics; the traits of sources and sinks.

pub mod source;

pub use source::Source;
