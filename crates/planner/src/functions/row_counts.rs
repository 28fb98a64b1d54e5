//! The counts of LIMIT and OFFSET where a query computes them: they are not negative.

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DataType, Int64Type};
use millstream_types::{Error, SqlState};

use super::builtin::Spec;

/// Checks the count of a LIMIT.
pub(crate) const LIMIT_COUNT: &str = "limit_count";
/// Checks the count of an OFFSET.
pub(crate) const OFFSET_COUNT: &str = "offset_count";

/// The functions of this file.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: LIMIT_COUNT, returns: |_| DataType::Int64, run: limit_count, strict: true },
    Spec { name: OFFSET_COUNT, returns: |_| DataType::Int64, run: offset_count, strict: true },
];

fn limit_count(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    checked(&args[0], "2201W", "LIMIT must not be negative")
}

fn offset_count(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    checked(&args[0], "2201X", "OFFSET must not be negative")
}

fn checked(counts: &ArrayRef, state: &'static str, message: &str) -> Result<ArrayRef, Error> {
    let is_negative = counts.as_primitive::<Int64Type>().iter().flatten().any(|n| n < 0);
    if is_negative { Err(Error::user(SqlState(state), message)) } else { Ok(counts.clone()) }
}
