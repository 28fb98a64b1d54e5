//! `mode()`, `percentile_disc()` and `percentile_cont()`, which pick one of a group's values by their order, or a value
//! between two.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, UInt32Array, new_empty_array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{SortColumn, SortOptions, concat, is_not_null, lexsort_to_indices, sort_to_indices, take};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, TypeSignature, Volatility};
use datafusion::physical_expr::expressions::Literal;
use millstream_types::{Error, SqlState};

use super::equal_key::{is_loose, key};
use super::temporal::interval_between;
use crate::binder::external;
use crate::typing::types::{INTERVAL, Result, user_error};

/// All functions.
pub(super) fn all() -> Vec<Arc<AggregateUDF>> {
    [Pick::Mode, Pick::Percentile, Pick::Between]
        .into_iter()
        .map(|pick| {
            let n_args = if pick == Pick::Mode { 1 } else { 2 };
            let signature = Signature::new(TypeSignature::Any(n_args), Volatility::Immutable);
            Arc::new(AggregateUDF::new_from_impl(OrderedSet { pick, signature }))
        })
        .collect()
}

/// Which value is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pick {
    /// The most frequent one, the first of them in the order.
    Mode,
    /// The first one that has at least a fraction of all values up to it.
    Percentile,
    /// The value that has a fraction of all values up to it, between two doubles if need be.
    Between,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OrderedSet {
    pick: Pick,
    signature: Signature,
}

impl AggregateUDFImpl for OrderedSet {
    fn name(&self) -> &str {
        match self.pick {
            Pick::Mode => "mode",
            Pick::Percentile => "percentile_disc",
            Pick::Between => "percentile_cont",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types[0].clone())
    }

    fn supports_within_group_clause(&self) -> bool {
        true
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let fraction = match self.pick {
            Pick::Mode => 0.0,
            Pick::Percentile | Pick::Between => fraction_of(&args)?,
        };
        let options = args.order_bys.first().map_or_else(SortOptions::default, |o| o.options);
        let data_type = args.expr_fields[0].data_type().clone();
        Ok(Box::new(Values { pick: self.pick, fraction, options, data_type, values: Vec::new() }))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let element = Field::new_list_field(args.input_fields[0].data_type().clone(), true);
        let name = format!("{}[values]", args.name);
        Ok(vec![Arc::new(Field::new(name, DataType::List(Arc::new(element)), true))])
    }
}

fn fraction_of(args: &AccumulatorArgs<'_>) -> Result<f64> {
    let literal = args.exprs.get(1).and_then(|e| e.downcast_ref::<Literal>());
    let value = literal.map(|l| l.value().cast_to(&DataType::Float64)).transpose()?;
    match value {
        Some(ScalarValue::Float64(Some(fraction))) if (0.0..=1.0).contains(&fraction) => Ok(fraction),
        Some(ScalarValue::Float64(Some(fraction))) => {
            user_error(SqlState("22003"), format!("percentile value {fraction} is not between 0 and 1"))
        }
        _ => Err(external(Error::not_supported("the fraction of a percentile must be a constant"))),
    }
}

/// The values of a group.
#[derive(Debug)]
struct Values {
    pick: Pick,
    fraction: f64,
    options: SortOptions,
    data_type: DataType,
    values: Vec<ArrayRef>,
}

impl Accumulator for Values {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.values.push(values[0].clone());
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let all = concatenated(&self.values, &self.data_type)?;
        let all = arrow::compute::filter(&all, &is_not_null(&all)?)?;
        if all.is_empty() {
            return ScalarValue::try_from(&self.data_type);
        }
        let order = order_of(&all, self.options)?;
        let sorted = take(&all, &order, None)?;
        let at = match self.pick {
            Pick::Between => return between(&sorted, self.fraction),
            Pick::Percentile => ((self.fraction * sorted.len() as f64).ceil() as usize).max(1) - 1,
            Pick::Mode => {
                let mut best = (0, 0);
                for run in runs(&sorted)? {
                    if run.len() > best.1 {
                        best = (run.start, run.len());
                    }
                }
                best.0
            }
        };
        ScalarValue::try_from_array(&sorted, at)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.values.iter().map(|a| a.get_array_memory_size()).sum::<usize>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![list_of(&concatenated(&self.values, &self.data_type)?)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.values.extend(elements(&states[0])?);
        Ok(())
    }
}

/// The double, or interval, at a fraction of the way through sorted ones.
fn between(sorted: &ArrayRef, fraction: f64) -> Result<ScalarValue> {
    if *sorted.data_type() == INTERVAL {
        let at = fraction * (sorted.len() - 1) as f64;
        let (first, second) = (sorted.slice(at.floor() as usize, 1), sorted.slice(at.ceil() as usize, 1));
        let between = interval_between(&first, &second, at - at.floor()).map_err(external)?;
        return ScalarValue::try_from_array(&between, 0);
    }
    let sorted = sorted.as_primitive_opt::<Float64Type>();
    let sorted = sorted.ok_or_else(|| external(Error::internal("percentile_cont is computed over doubles")))?.values();
    let at = fraction * (sorted.len() - 1) as f64;
    let (first, second) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    let value = if first == second { first } else { first + (at - at.floor()) * (second - first) };
    Ok(ScalarValue::Float64(Some(value)))
}

/// The order of values; those that are equal without being the same are ordered too.
fn order_of(values: &ArrayRef, options: SortOptions) -> Result<UInt32Array> {
    if !is_loose(values.data_type()) {
        return Ok(sort_to_indices(values, Some(options), None)?);
    }
    let keys = SortColumn { values: key(values).map_err(external)?, options: Some(options) };
    Ok(lexsort_to_indices(&[keys, SortColumn { values: values.clone(), options: None }], None)?)
}

/// Runs of equal values of a sorted array.
fn runs(sorted: &ArrayRef) -> Result<Vec<std::ops::Range<usize>>> {
    let keys = key(sorted).map_err(external)?;
    let rows = RowConverter::new(vec![SortField::new(keys.data_type().clone())])?;
    let rows = rows.convert_columns(&[keys])?;
    let mut runs = Vec::new();
    let mut start = 0;
    for i in 1..=sorted.len() {
        if i == sorted.len() || rows.row(i) != rows.row(start) {
            runs.push(start..i);
            start = i;
        }
    }
    Ok(runs)
}

/// Each value once.
pub(super) fn distinct(values: &ArrayRef) -> Result<ArrayRef> {
    if values.is_empty() {
        return Ok(values.clone());
    }
    let sorted = take(values, &order_of(values, SortOptions::default())?, None)?;
    let firsts: UInt32Array = runs(&sorted)?.iter().map(|run| run.start as u32).collect();
    Ok(take(&sorted, &firsts, None)?)
}

/// All values of some arrays.
pub(super) fn concatenated(arrays: &[ArrayRef], data_type: &DataType) -> Result<ArrayRef> {
    if arrays.is_empty() {
        return Ok(new_empty_array(data_type));
    }
    Ok(concat(&arrays.iter().map(AsRef::as_ref).collect::<Vec<_>>())?)
}

/// An array as one list.
pub(super) fn list_of(values: &ArrayRef) -> ScalarValue {
    let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    ScalarValue::List(Arc::new(ListArray::new(field, offsets, values.clone(), None)))
}

/// The elements of each list.
pub(super) fn elements(lists: &ArrayRef) -> Result<Vec<ArrayRef>> {
    let lists = lists.as_list_opt::<i32>();
    let lists = lists.ok_or_else(|| external(Error::internal("states of an aggregate are lists")))?;
    Ok((0..lists.len()).filter(|&i| lists.is_valid(i)).map(|i| lists.value(i)).collect())
}
