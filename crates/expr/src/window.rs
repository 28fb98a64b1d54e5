//! Window functions over one partition at a time.
//!
//! Functions that number or look up rows are DataFusion's own. Aggregates run over frames that DataFusion computes, with
//! our accumulators where there is one: rows that leave a frame are taken back exactly, whatever they were. An aggregate
//! of DataFusion's is computed anew for each frame, unless frames only grow.

mod encoded;
mod of_rows;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, new_empty_array};
use arrow::compute::{cast, concat, filter};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::WindowFrame;
use datafusion::logical_expr::window_state::WindowFrameContext;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::window::WindowExpr;
use millstream_types::{Error, Result};

use crate::aggregate::{AggregateFunction, GroupAccumulator, Input, accumulator};
use crate::order::OrderBy;
use crate::recomputed::{Argument, Computation, ForeignFunction};
use crate::scalar::{error_of, truth};
pub use encoded::WindowCallForm;
pub use of_rows::RowFunction;

/// A window function of a query, over columns of its input.
#[derive(Clone, Debug)]
pub struct WindowCall {
    function: Function,
    data_type: DataType,
}

#[derive(Clone, Debug)]
enum Function {
    /// Numbers or looks up rows.
    OfRows(RowFunction, Arc<dyn WindowExpr>),
    Aggregate(WindowAggregate),
}

/// The rows that an aggregate takes for each row.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Where frames start and end.
    pub frame: Arc<WindowFrame>,
    /// The order within the partition.
    pub order_by: Vec<OrderBy>,
    /// A boolean column: only rows where it is true count.
    pub filter: Option<usize>,
}

#[derive(Clone, Debug)]
struct WindowAggregate {
    computation: Computation,
    arguments: Vec<Argument>,
    frame: Frame,
}

impl WindowCall {
    /// A function that numbers or looks up rows.
    ///
    /// # Errors
    /// What the function says of its arguments.
    pub fn of_rows(function: RowFunction, input: &SchemaRef) -> Result<Self> {
        let bound = function.bind(input)?;
        let data_type = bound.field().map_err(error_of)?.data_type().clone();
        Ok(WindowCall { function: Function::OfRows(function, bound), data_type })
    }

    /// An aggregate of ours.
    ///
    /// # Errors
    /// Not supported, if there is none for the argument.
    pub fn aggregate(
        function: AggregateFunction,
        argument: Option<usize>,
        frame: Frame,
        input: &SchemaRef,
    ) -> Result<Self> {
        let data_type = function.result_type(argument.map(|a| input.field(a).data_type()));
        let data_type = data_type.ok_or_else(|| Error::not_supported(format!("{} over a window", function.name())))?;
        let arguments = argument.map(Argument::Column).into_iter().collect();
        let aggregate = WindowAggregate { computation: Computation::Ours(function), arguments, frame };
        Ok(WindowCall { function: Function::Aggregate(aggregate), data_type })
    }

    /// An aggregate of DataFusion's.
    ///
    /// # Errors
    /// Not supported, if the function refuses its arguments.
    pub fn foreign(function: &ForeignFunction, frame: Frame, input: &SchemaRef) -> Result<Self> {
        let bound = function.bind(input)?;
        let data_type = bound.field().data_type().clone();
        let arguments = function.arguments.clone();
        let aggregate =
            WindowAggregate { computation: Computation::DataFusion(function.clone(), bound), arguments, frame };
        Ok(WindowCall { function: Function::Aggregate(aggregate), data_type })
    }

    /// The type of the values.
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// A value for each row of one partition, whose rows are in order.
    ///
    /// # Errors
    /// The error of some row.
    pub fn evaluate(&self, partition: &RecordBatch) -> Result<ArrayRef> {
        let values = match &self.function {
            Function::OfRows(_, bound) => bound.evaluate(partition).map_err(error_of)?,
            Function::Aggregate(aggregate) => aggregate.evaluate(partition, &self.data_type)?,
        };
        Ok(if *values.data_type() == self.data_type { values } else { cast(&values, &self.data_type)? })
    }
}

impl fmt::Display for WindowCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let aggregate = match &self.function {
            Function::OfRows(function, _) => return f.write_str(&function.shown_as),
            Function::Aggregate(aggregate) => aggregate,
        };
        let name = match &aggregate.computation {
            Computation::Ours(function) => function.name(),
            Computation::DataFusion(function, _) => function.function.name(),
        };
        let arguments = aggregate.arguments.iter().map(|a| match a {
            Argument::Column(column) => format!("#{column}"),
            Argument::Constant(value) => value.to_string(),
        });
        let arguments: Vec<String> = arguments.collect();
        let arguments = if arguments.is_empty() { "*".to_owned() } else { arguments.join(", ") };
        write!(f, "{name}({arguments})")?;
        if let Some(filter) = aggregate.frame.filter {
            write!(f, " filter #{filter}")?;
        }
        write!(f, " {}", aggregate.frame.frame)
    }
}

impl WindowAggregate {
    fn evaluate(&self, partition: &RecordBatch, data_type: &DataType) -> Result<ArrayRef> {
        let n_rows = partition.num_rows();
        if n_rows == 0 {
            return Ok(new_empty_array(data_type));
        }
        let arguments = self.arguments.iter().map(|a| a.values(partition)).collect::<Result<Vec<_>>>()?;
        let mask = self.frame.filter.map(|f| truth(partition.column(f)));
        let frames = self.frames(partition)?;
        let values = match &self.computation {
            Computation::Ours(function) => {
                let grows = frames.iter().all(|f| f.start == 0);
                let accumulator = accumulator(*function, arguments.first().map(|a| a.data_type()), grows)?;
                sliding(accumulator, arguments.first(), mask.as_ref(), &frames)?
            }
            Computation::DataFusion(_, bound) => foreign(bound, &arguments, mask.as_ref(), &frames)?,
        };
        // A row with the frame of the row before it has its value.
        let mut at = 0u32;
        let places = (0..n_rows).map(|i| {
            at += u32::from(i > 0 && frames[i] != frames[i - 1]);
            at
        });
        let places: arrow::array::UInt32Array = places.collect();
        Ok(arrow::compute::take(&values, &places, None)?)
    }

    /// The frame of each row; neither start nor end ever goes back.
    fn frames(&self, partition: &RecordBatch) -> Result<Vec<Range<usize>>> {
        let n_rows = partition.num_rows();
        let order: Vec<ArrayRef> = self.frame.order_by.iter().map(|o| partition.column(o.column).clone()).collect();
        let options = self.frame.order_by.iter().map(OrderBy::options).collect();
        let mut context = WindowFrameContext::new(Arc::clone(&self.frame.frame), options);
        let mut last = 0..0;
        let mut frames = Vec::with_capacity(n_rows);
        for row in 0..n_rows {
            let range = context.calculate_range(&order, &last, n_rows, row).map_err(error_of)?;
            last = range.clone();
            frames.push(range.start..range.end.max(range.start));
        }
        Ok(frames)
    }
}

/// One value for each frame that differs from the one before it.
fn sliding(
    mut accumulator: Box<dyn GroupAccumulator>,
    argument: Option<&ArrayRef>,
    mask: Option<&BooleanArray>,
    frames: &[Range<usize>],
) -> Result<ArrayRef> {
    let update = |accumulator: &mut Box<dyn GroupAccumulator>, rows: Range<usize>, weight: i64| -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let argument = argument.map(|a| a.slice(rows.start, rows.len()));
        let mask = mask.map(|m| m.slice(rows.start, rows.len()));
        let (groups, weights) = (vec![0; rows.len()], vec![weight; rows.len()]);
        let weights = (weight != 1).then_some(weights.as_slice());
        accumulator.update(Input { groups: &groups, argument: argument.as_ref(), filter: mask.as_ref(), weights })
    };
    let mut results = Vec::new();
    let mut last: Option<Range<usize>> = None;
    for frame in frames {
        match &last {
            Some(last) if last == frame => continue,
            Some(last) if frame.start < last.end && frame.start >= last.start && frame.end >= last.end => {
                update(&mut accumulator, last.start..frame.start, -1)?;
                update(&mut accumulator, last.end..frame.end, 1)?;
            }
            _ => {
                accumulator.reset(0);
                update(&mut accumulator, frame.clone(), 1)?;
            }
        }
        results.push(accumulator.finish(&[0])?);
        last = Some(frame.clone());
    }
    let results: Vec<&dyn Array> = results.iter().map(AsRef::as_ref).collect();
    Ok(concat(&results)?)
}

/// As [`sliding`], with an accumulator that takes nothing back.
fn foreign(
    function: &AggregateFunctionExpr,
    arguments: &[ArrayRef],
    mask: Option<&BooleanArray>,
    frames: &[Range<usize>],
) -> Result<ArrayRef> {
    let create = || function.create_accumulator().map_err(error_of);
    let mut accumulator = create()?;
    let mut results = Vec::new();
    let mut last: Option<Range<usize>> = None;
    for frame in frames {
        let added = match &last {
            Some(last) if last == frame => continue,
            Some(last) if frame.start == last.start && frame.end >= last.end => last.end..frame.end,
            _ => {
                accumulator = create()?;
                frame.clone()
            }
        };
        if !added.is_empty() {
            let values = arguments.iter().map(|a| {
                let values = a.slice(added.start, added.len());
                Ok(match mask {
                    Some(mask) => filter(&values, &mask.slice(added.start, added.len()))?,
                    None => values,
                })
            });
            accumulator.update_batch(&values.collect::<Result<Vec<ArrayRef>>>()?).map_err(error_of)?;
        }
        results.push(accumulator.evaluate().map_err(error_of)?);
        last = Some(frame.clone());
    }
    ScalarValue::iter_to_array(results).map_err(error_of)
}
