//! The value of a scalar subquery that may have more rows than one.
//!
//! An aggregate takes the first two values, as many as tell one row from more. A function then gives the only one, or
//! Postgres' error, where the value is needed and not before.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use millstream_types::{Error, SqlState};

use super::builtin::Spec;
use super::ordered_set::elements;
use crate::typing::types::{Result, array_of, element_type};

/// The aggregate's name.
pub(crate) const UP_TO_TWO: &str = "__up_to_two";
/// The function's name.
pub(crate) const ONLY_ELEMENT: &str = "only_element";

/// The functions of this file.
pub(super) static SPECS: &[Spec] = &[Spec {
    name: ONLY_ELEMENT,
    returns: |args| element_type(&args[0]).unwrap_or(DataType::Null),
    run: only_element,
    strict: true,
}];

/// The one element of each array; null for none.
fn only_element(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let lists = args[0].as_list::<i32>();
    let mut positions = UInt64Array::builder(n_rows);
    for row in 0..n_rows {
        let length = if lists.is_null(row) { 0 } else { lists.value_length(row) };
        match length {
            0 => positions.append_null(),
            1 => positions.append_value(lists.value_offsets()[row] as u64),
            _ => {
                let message = "more than one row returned by a subquery used as an expression";
                return Err(Error::user(SqlState::CARDINALITY_VIOLATION, message));
            }
        }
    }
    Ok(take(lists.values(), &positions.finish(), None)?)
}

/// The aggregate that keeps two values at most.
pub(super) fn up_to_two() -> Arc<AggregateUDF> {
    Arc::new(AggregateUDF::new_from_impl(UpToTwo { signature: Signature::any(1, Volatility::Immutable) }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct UpToTwo {
    signature: Signature,
}

impl AggregateUDFImpl for UpToTwo {
    fn name(&self) -> &str {
        UP_TO_TWO
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(array_of(&arg_types[0]))
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Values { data_type: args.expr_fields[0].data_type().clone(), values: Vec::new() }))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let name = format!("{}[values]", args.name);
        Ok(vec![Arc::new(Field::new(name, array_of(args.input_fields[0].data_type()), true))])
    }
}

/// Values of a group, two at most.
#[derive(Debug)]
struct Values {
    data_type: DataType,
    values: Vec<ScalarValue>,
}

impl Values {
    fn take(&mut self, values: &ArrayRef) -> Result<()> {
        for row in 0..values.len().min(2 - self.values.len()) {
            // A copy, so that the batch it came in can go.
            self.values.push(ScalarValue::try_from_array(values, row)?.compacted());
        }
        Ok(())
    }
}

impl Accumulator for Values {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.take(&values[0])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::List(ScalarValue::new_list_nullable(&self.values, &self.data_type)))
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.values.iter().map(ScalarValue::size).sum::<usize>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        elements(&states[0])?.iter().try_for_each(|values| self.take(values))
    }
}
