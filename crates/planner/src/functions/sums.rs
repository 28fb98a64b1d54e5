//! DataFusion's `sum`, but over numerics and floats the accumulator that keeps views: what does not fit is an error, where
//! DataFusion's would wrap.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{DataType, Decimal128Type, FieldRef};
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, Signature, Volatility,
};
use millstream_expr::aggregate::{Input, accumulator};
use millstream_expr::scalar::truth;
use millstream_expr::{AggregateFunction, GroupAccumulator};

use super::statistics::Ours;
use crate::binder::external;
use crate::typing::types::Result;

/// The function.
pub(super) fn sum() -> Arc<AggregateUDF> {
    let ours = Ours::new("sum", AggregateFunction::Sum);
    let theirs = sum_udaf();
    let signature = Signature::user_defined(Volatility::Immutable);
    Arc::new(AggregateUDF::new_from_impl(Sum { ours, theirs, signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Sum {
    ours: Ours,
    theirs: Arc<AggregateUDF>,
    signature: Signature,
}

/// Whether ours is the one that adds up: a sum of reals is a real, where DataFusion's is a double, and infinities that
/// cancel out are our NaN.
fn is_ours(field: &FieldRef) -> bool {
    matches!(field.data_type(), DataType::Decimal128(_, _) | DataType::Float32 | DataType::Float64)
}

fn is_summed(data_type: &DataType) -> bool {
    use DataType as T;
    data_type.is_decimal() || matches!(data_type, T::Int64 | T::UInt64 | T::Float64 | T::Duration(_) | T::Interval(_))
}

impl AggregateUDFImpl for Sum {
    fn name(&self) -> &str {
        self.theirs.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [DataType::Float32] => Ok(DataType::Float32),
            [summed] if is_summed(summed) => self.theirs.return_type(arg_types),
            _ => Ok(DataType::Float64),
        }
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        use DataType as T;
        // What cannot be added up is found when types are resolved.
        let summed = |t: &DataType| match t {
            T::Int8 | T::Int16 | T::Int32 => T::Int64,
            T::UInt8 | T::UInt16 | T::UInt32 => T::UInt64,
            T::Float16 | T::Null => T::Float64,
            other => other.clone(),
        };
        Ok(arg_types.iter().map(summed).collect())
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if is_ours(&args.expr_fields[0]) { self.ours.accumulator(args) } else { self.theirs.accumulator(args) }
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        if is_ours(&args.input_fields[0]) { self.ours.state_fields(args) } else { self.theirs.state_fields(args) }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        if is_ours(&args.expr_fields[0]) {
            return !args.is_distinct;
        }
        self.theirs.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        if !is_ours(&args.expr_fields[0]) {
            return self.theirs.create_groups_accumulator(args);
        }
        let argument = args.expr_fields[0].data_type().clone();
        let sums = Sums { accumulator: make(&argument)?, n_groups: 0, argument, result: args.return_field };
        Ok(Box::new(sums))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if is_ours(&args.expr_fields[0]) {
            return self.ours.sliding(&args);
        }
        self.theirs.create_sliding_accumulator(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
}

fn make(argument: &DataType) -> Result<Box<dyn GroupAccumulator>> {
    accumulator(AggregateFunction::Sum, Some(argument), true).map_err(external)
}

/// Values under the precision that the plan has for them.
pub(super) fn relabelled(values: ArrayRef, data_type: &DataType) -> ArrayRef {
    match (values.data_type(), data_type) {
        (DataType::Decimal128(_, from), DataType::Decimal128(_, to)) if from == to => {
            Arc::new(values.as_primitive::<Decimal128Type>().clone().with_data_type(data_type.clone()))
        }
        _ => values,
    }
}

/// Sums of groups, numbered as DataFusion numbers them.
struct Sums {
    accumulator: Box<dyn GroupAccumulator>,
    n_groups: usize,
    argument: DataType,
    result: FieldRef,
}

impl Sums {
    fn update(&mut self, values: &[ArrayRef], groups: &[u32], filter: Option<&BooleanArray>) -> Result<()> {
        let filter = filter.map(|f| truth(&(Arc::new(f.clone()) as ArrayRef)));
        let input = Input { groups, argument: Some(&values[0]), filter: filter.as_ref(), weights: None };
        self.accumulator.update(input).map_err(external)
    }

    /// Takes the first groups, and numbers those that stay from 0.
    fn emit<T>(
        &mut self,
        emit_to: EmitTo,
        of: impl Fn(&dyn GroupAccumulator, &[u32]) -> millstream_types::Result<T>,
    ) -> Result<T> {
        let n_emitted = match emit_to {
            EmitTo::All => self.n_groups,
            EmitTo::First(n) => n,
        };
        let all: Vec<u32> = (0..self.n_groups as u32).collect();
        let (emitted, rest) = all.split_at(n_emitted);
        let values = of(self.accumulator.as_ref(), emitted).map_err(external)?;
        let mut left = make(&self.argument)?;
        left.merge(&all[..rest.len()], &self.accumulator.partial(rest)).map_err(external)?;
        (self.accumulator, self.n_groups) = (left, rest.len());
        Ok(values)
    }
}

fn numbers(groups: &[usize]) -> Vec<u32> {
    groups.iter().map(|&g| g as u32).collect()
}

impl GroupsAccumulator for Sums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.n_groups = total_num_groups;
        self.update(values, &numbers(group_indices), opt_filter)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = self.emit(emit_to, |accumulator, groups| accumulator.finish(groups))?;
        Ok(relabelled(sums, self.result.data_type()))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.emit(emit_to, |accumulator, groups| Ok(accumulator.partial(groups)))
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.n_groups = total_num_groups;
        self.accumulator.merge(&numbers(group_indices), values).map_err(external)
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let groups: Vec<u32> = (0..values[0].len() as u32).collect();
        let (argument, result) = (self.argument.clone(), Arc::clone(&self.result));
        let mut each = Sums { accumulator: make(&argument)?, n_groups: groups.len(), argument, result };
        each.update(values, &groups, opt_filter)?;
        Ok(each.accumulator.partial(&groups))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.accumulator.n_bytes()
    }
}
