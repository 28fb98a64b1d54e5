//! From SQL text to a dataflow: dialect, catalog, binder, streaming rules. Pure: no I/O, no threads.

pub mod ast;
pub mod catalog;
pub mod parser;

pub use catalog::{Catalog, RelationId};
