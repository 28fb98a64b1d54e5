//! Bound scalar expressions and retractable aggregates over columns.
//!
//! [`scalar`], [`recomputed`] and [`window`] are the only places at run time where DataFusion's expressions and functions
//! are evaluated; [`aggregate`] holds the accumulators, which are our own because they must retract.

pub mod aggregate;
pub mod encoded;
pub mod order;
pub mod recomputed;
pub mod row_errors;
pub mod scalar;
mod short_circuit;
pub mod window;

pub use aggregate::{AggregateCall, AggregateFunction, GroupAccumulator};
pub use order::{OrderBy, RowOrder};
pub use recomputed::RecomputedCall;
pub use row_errors::{RowError, RowErrors};
pub use scalar::{MapStage, Scalar, Stages};
pub use window::WindowCall;
