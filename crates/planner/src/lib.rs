//! From SQL text to a dataflow: dialect, catalog, binder, streaming rules. Pure: no I/O, no threads.

pub mod access;
pub mod ast;
pub mod binder;
pub mod catalog;
mod column_projections;
mod completed_order;
mod completed_peers;
pub mod constants;
mod dependent_join;
pub mod dml;
mod equal_keys;
pub mod errors;
mod functions;
mod hidden_properties;
pub mod interrupt;
mod lifted_subqueries;
mod missing_sorts;
pub mod parser;
mod push_down_conditions;
mod reading;
pub mod row_expr;
mod rules;
mod series_scan;
pub mod session_context;
mod short_circuit;
mod sliding_frames;
mod sql_exprs;
pub mod streaming;
mod typing;
mod window_keys;

pub use binder::{BoundQuery, RelationSource, bind_query, optimize};
pub use catalog::{Catalog, RelationId};
pub use functions::stored::stored_functions;
pub use session_context::Purpose;
