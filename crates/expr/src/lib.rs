//! Bound scalar expressions and retractable aggregates over columns.
//!
//! [`scalar`] is the only place at run time where DataFusion's expressions are evaluated; [`aggregate`] holds the
//! accumulators, which are our own because they must retract.

pub mod aggregate;
pub mod row_errors;
pub mod scalar;

pub use aggregate::{AggregateCall, AggregateFunction, GroupAccumulator};
pub use row_errors::{RowError, RowErrors};
pub use scalar::{MapStage, Scalar, Stages};
