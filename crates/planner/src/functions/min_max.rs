//! DataFusion's `min` and `max`, but over floating-point numbers, intervals and arrays the accumulators that keep views: NaN is
//! the greatest, a month has 30 days, as in Postgres, and of equal values one is told from the others in the same way.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, Signature, StatisticsArgs,
};
use millstream_expr::AggregateFunction;

use super::equal_key::is_loose;
use super::statistics::One;
use crate::typing::types::Result;

/// Both functions.
pub(super) fn all() -> Vec<Arc<AggregateUDF>> {
    let functions = [(AggregateFunction::Min, min_udaf()), (AggregateFunction::Max, max_udaf())];
    functions.into_iter().map(|(ours, theirs)| Arc::new(AggregateUDF::new_from_impl(MinMax { ours, theirs }))).collect()
}

/// DataFusion keeps floats by a comparison that NaN fails, from the greatest finite value on, and intervals by their parts.
#[derive(Debug, PartialEq, Eq, Hash)]
struct MinMax {
    ours: AggregateFunction,
    theirs: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for MinMax {
    fn name(&self) -> &str {
        self.theirs.name()
    }

    fn signature(&self) -> &Signature {
        self.theirs.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.theirs.return_type(arg_types)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.theirs.coerce_types(arg_types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        match args.return_field.data_type() {
            t if is_loose(t) => Ok(Box::new(One::append_only(self.ours, t)?)),
            _ => self.theirs.accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.theirs.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        !is_loose(args.return_field.data_type()) && self.theirs.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        self.theirs.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        match args.return_field.data_type() {
            t if is_loose(t) => Ok(Box::new(One::retracting(self.ours, t)?)),
            _ => self.theirs.create_sliding_accumulator(args),
        }
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn value_from_stats(&self, args: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.theirs.value_from_stats(args)
    }
}
