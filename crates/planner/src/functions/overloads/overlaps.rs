//! `(s1, e1) OVERLAPS (s2, e2)` as the comparisons that the standard says it is.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, Operator, lit, when};

use super::resolve;
use crate::typing::calls::resolve_call;
use crate::typing::deferred::Call;
use crate::typing::types::{Class, Result};

/// A period of time; its end is null if either of its bounds is.
struct Period {
    start: Expr,
    end: Expr,
}

impl Period {
    /// From two bounds in any order, or from a start and a length.
    fn new(start: &Expr, end: &Expr, end_type: &DataType, schema: &DFSchema) -> Result<Period> {
        let end = match Class::of(end_type) {
            Class::Interval => resolve_call(&Call::Operator(Operator::Plus), vec![start.clone(), end.clone()], schema)?,
            _ => end.clone(),
        };
        let last = resolve("greatest", vec![start.clone(), end.clone()], schema)?;
        let has_both = start.clone().is_not_null().and(end.clone().is_not_null());
        Ok(Period { start: resolve("least", vec![start.clone(), end], schema)?, end: when(has_both, last).end()? })
    }

    /// What is known if this period starts after the other one.
    fn after(&self, other: &Period, schema: &DFSchema) -> Result<Expr> {
        let unknown = || lit(ScalarValue::Boolean(None));
        when(other.end.clone().is_null(), unknown())
            .when(compared(Operator::Lt, &self.start, &other.end, schema)?, lit(true))
            .when(self.end.clone().is_null(), unknown())
            .otherwise(lit(false))
    }
}

fn compared(op: Operator, left: &Expr, right: &Expr, schema: &DFSchema) -> Result<Expr> {
    resolve_call(&Call::Operator(op), vec![left.clone(), right.clone()], schema)
}

/// The condition over four bounds.
pub(super) fn overlaps(args: &[Expr], types: &[DataType], schema: &DFSchema) -> Result<Expr> {
    let first = Period::new(&args[0], &args[1], &types[1], schema)?;
    let second = Period::new(&args[2], &args[3], &types[3], schema)?;
    let has_ends = first.end.clone().is_not_null().and(second.end.clone().is_not_null());
    let at_once = when(has_ends, lit(true)).end()?;
    when(compared(Operator::Gt, &first.start, &second.start, schema)?, first.after(&second, schema)?)
        .when(compared(Operator::Lt, &first.start, &second.start, schema)?, second.after(&first, schema)?)
        .when(compared(Operator::Eq, &first.start, &second.start, schema)?, at_once)
        .end()
}
