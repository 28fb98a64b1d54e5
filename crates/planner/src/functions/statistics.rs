//! Aggregates of ours as DataFusion's, for ad-hoc queries: the accumulators that keep views, so that both say the same.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use millstream_expr::aggregate::{Input, accumulator};
use millstream_expr::{AggregateFunction, GroupAccumulator};

use crate::binder::external;
use crate::typing::calls::no_function;
use crate::typing::types::Result;

/// The functions under the names that DataFusion has for them.
pub(super) fn all() -> Vec<Arc<AggregateUDF>> {
    use AggregateFunction as F;
    let functions =
        [("var_pop", F::VarPop), ("var", F::VarSamp), ("stddev_pop", F::StddevPop), ("stddev", F::StddevSamp)];
    let udaf = |(name, function)| Arc::new(AggregateUDF::new_from_impl(Ours::new(name, function)));
    functions.into_iter().map(udaf).collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Ours {
    name: &'static str,
    function: AggregateFunction,
    signature: Signature,
}

impl Ours {
    pub(super) fn new(name: &'static str, function: AggregateFunction) -> Self {
        Ours { name, function, signature: Signature::any(1, Volatility::Immutable) }
    }

    /// A state for frames that slide.
    pub(super) fn sliding(&self, args: &AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let one = One::retracting(self.function, args.expr_fields[0].data_type())?;
        Ok(Box::new(One { result: Some(args.return_field.data_type().clone()), ..one }))
    }

    fn make(&self, argument: &DataType) -> Result<Box<dyn GroupAccumulator>> {
        accumulator(self.function, Some(argument), true).map_err(external)
    }
}

impl One {
    /// A state that only takes values.
    pub(super) fn append_only(function: AggregateFunction, argument: &DataType) -> Result<Self> {
        let accumulator = accumulator(function, Some(argument), true).map_err(external)?;
        Ok(One {
            accumulator,
            is_distinct: false,
            retracts: false,
            seen: Vec::new(),
            argument: argument.clone(),
            result: None,
        })
    }

    /// A state that takes values back too, for frames that slide.
    pub(super) fn retracting(function: AggregateFunction, argument: &DataType) -> Result<Self> {
        let accumulator = accumulator(function, Some(argument), false).map_err(external)?;
        Ok(One {
            accumulator,
            is_distinct: false,
            retracts: true,
            seen: Vec::new(),
            argument: argument.clone(),
            result: None,
        })
    }
}

impl AggregateUDFImpl for Ours {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let result = self.function.result_type(arg_types.first());
        let name = if self.name == "var" { "variance" } else { self.name };
        result.map_or_else(|| no_function(name, arg_types), Ok)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let argument = args.expr_fields[0].data_type().clone();
        let result = Some(args.return_field.data_type().clone());
        Ok(Box::new(One { is_distinct: args.is_distinct, result, ..One::append_only(self.function, &argument)? }))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let argument = args.input_fields[0].data_type();
        if args.is_distinct {
            let list = DataType::List(Arc::new(Field::new_list_field(argument.clone(), true)));
            return Ok(vec![Arc::new(Field::new(format!("{}[values]", args.name), list, true))]);
        }
        let field = |(i, t): (usize, DataType)| Arc::new(Field::new(format!("{}[{i}]", args.name), t, true));
        Ok(self.make(argument)?.partial_types().into_iter().enumerate().map(field).collect())
    }
}

/// The state of one group.
pub(super) struct One {
    accumulator: Box<dyn GroupAccumulator>,
    is_distinct: bool,
    /// Values may be taken back.
    retracts: bool,
    /// All values, where only distinct ones count.
    seen: Vec<ArrayRef>,
    argument: DataType,
    /// What the plan has for the result, if it may have another precision.
    result: Option<DataType>,
}

impl std::fmt::Debug for One {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "One({})", self.argument)
    }
}

impl One {
    fn add(&mut self, values: &ArrayRef) -> Result<()> {
        self.update(values, None)
    }

    fn update(&mut self, values: &ArrayRef, weights: Option<&[i64]>) -> Result<()> {
        let groups = vec![0; values.len()];
        let input = Input { groups: &groups, argument: Some(values), filter: None, weights };
        self.accumulator.update(input).map_err(external)
    }

    fn all_seen(&self) -> Result<ArrayRef> {
        super::ordered_set::concatenated(&self.seen, &self.argument)
    }
}

impl Accumulator for One {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        if self.is_distinct {
            self.seen.push(values[0].clone());
            return Ok(());
        }
        self.add(&values[0])
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.update(&values[0], Some(&vec![-1; values[0].len()]))
    }

    fn supports_retract_batch(&self) -> bool {
        self.retracts
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.is_distinct {
            let distinct = super::ordered_set::distinct(&self.all_seen()?)?;
            self.accumulator.reset(0);
            self.add(&distinct)?;
        }
        let mut result = self.accumulator.finish(&[0]).map_err(external)?;
        if let Some(data_type) = &self.result {
            result = super::sums::relabelled(result, data_type);
        }
        ScalarValue::try_from_array(&result, 0)
    }

    fn size(&self) -> usize {
        size_of::<Self>()
            + self.accumulator.n_bytes()
            + self.seen.iter().map(|a| a.get_array_memory_size()).sum::<usize>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        if self.is_distinct {
            return Ok(vec![super::ordered_set::list_of(&self.all_seen()?)]);
        }
        self.accumulator.partial(&[0]).iter().map(|a| ScalarValue::try_from_array(a, 0)).collect()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        if self.is_distinct {
            self.seen.extend(super::ordered_set::elements(&states[0])?);
            return Ok(());
        }
        let groups = vec![0; states[0].len()];
        self.accumulator.merge(&groups, states).map_err(external)
    }
}
