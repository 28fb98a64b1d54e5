//! Aggregates that are computed anew from all rows of a group, where the function cannot take rows back.
//!
//! What SQL says of a call's rows (FILTER, DISTINCT, ORDER BY) is done here, so that the function itself only sees values
//! in their order. An order is completed by the arguments: rows that still compare equal make no difference.

mod encoded;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array, new_empty_array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::AggregateUDF;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr_common::sort_expr::PhysicalSortExpr;
use millstream_types::{Error, Result};

use crate::aggregate::{AggregateCall, AggregateFunction, Input, accumulator};
use crate::order::{OrderBy, RowOrder};
use crate::scalar::{error_of, truth};

/// An argument of an aggregate.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// A column of the input.
    Column(usize),
    /// The same for all rows: a percentile, a separator.
    Constant(ScalarValue),
}

impl Argument {
    pub(crate) fn values(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        match self {
            Argument::Column(column) => Ok(batch.column(*column).clone()),
            Argument::Constant(value) => value.to_array_of_size(batch.num_rows()).map_err(error_of),
        }
    }

    pub(crate) fn expr(&self, input: &SchemaRef) -> Arc<dyn PhysicalExpr> {
        match self {
            Argument::Column(column) => Arc::new(Column::new(input.field(*column).name(), *column)),
            Argument::Constant(value) => Arc::new(Literal::new(value.clone())),
        }
    }
}

/// What makes a value of rows.
#[derive(Clone, Debug)]
pub(crate) enum Computation {
    /// An accumulator of ours, so that results are those of the incremental operator.
    Ours(AggregateFunction),
    /// One of DataFusion's: as it was asked for, and bound to the input.
    DataFusion(ForeignFunction, Arc<AggregateFunctionExpr>),
}

/// A function of DataFusion's, with what its accumulator has to know.
#[derive(Clone, Debug)]
pub struct ForeignFunction {
    /// The function.
    pub function: Arc<AggregateUDF>,
    /// Its arguments.
    pub arguments: Vec<Argument>,
    /// The order of WITHIN GROUP, which is part of what the function computes.
    pub within_group: Vec<OrderBy>,
    /// Nulls are left out.
    pub ignore_nulls: bool,
}

impl ForeignFunction {
    pub(crate) fn bind(&self, input: &SchemaRef) -> Result<Arc<AggregateFunctionExpr>> {
        let exprs = self.arguments.iter().map(|a| a.expr(input)).collect();
        let order = self
            .within_group
            .iter()
            .map(|o| PhysicalSortExpr { expr: Argument::Column(o.column).expr(input), options: o.options() });
        AggregateExprBuilder::new(Arc::clone(&self.function), exprs)
            .schema(input.clone())
            .alias(self.function.name())
            .order_by(order.collect())
            .with_ignore_nulls(self.ignore_nulls)
            .build()
            .map(Arc::new)
            .map_err(error_of)
    }
}

pub use encoded::RecomputedCallForm;
pub(crate) use encoded::{ComputationForm, only_column};

/// One aggregate of a query, computed from the rows of a group.
#[derive(Clone, Debug)]
pub struct RecomputedCall {
    computation: Computation,
    arguments: Vec<Argument>,
    order_by: Vec<OrderBy>,
    distinct: bool,
    filter: Option<usize>,
    data_type: DataType,
}

impl RecomputedCall {
    /// A call that could also be kept incrementally.
    ///
    /// # Errors
    /// Not supported, if the function has no accumulator for the argument.
    pub fn ours(call: &AggregateCall, input: &SchemaRef) -> Result<Self> {
        let argument = call.argument.map(|a| input.field(a).data_type());
        let data_type = call.function.result_type(argument);
        Ok(RecomputedCall {
            computation: Computation::Ours(call.function),
            arguments: call.argument.map(Argument::Column).into_iter().collect(),
            order_by: vec![],
            distinct: call.distinct,
            filter: call.filter,
            data_type: data_type.ok_or_else(|| Error::not_supported(format!("{call} over {argument:?}")))?,
        })
    }

    /// A call of one of DataFusion's functions.
    ///
    /// # Errors
    /// Not supported, if the function refuses its arguments.
    pub fn foreign(
        function: &ForeignFunction,
        order_by: Vec<OrderBy>,
        distinct: bool,
        filter: Option<usize>,
        input: &SchemaRef,
    ) -> Result<Self> {
        let bound = function.bind(input)?;
        Ok(RecomputedCall {
            data_type: bound.field().data_type().clone(),
            computation: Computation::DataFusion(function.clone(), bound),
            arguments: function.arguments.clone(),
            order_by,
            distinct,
            filter,
        })
    }

    /// The type of the result.
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// The results of groups, each a run of rows.
    ///
    /// # Errors
    /// The error of some group.
    pub fn evaluate(&self, batch: &RecordBatch, groups: &[Range<usize>]) -> Result<ArrayRef> {
        let (rows, ends) = self.select(batch, groups)?;
        let rows = UInt32Array::from(rows);
        let arguments = self.arguments.iter().map(|a| Ok(take(&a.values(batch)?, &rows, None)?));
        let arguments = arguments.collect::<Result<Vec<ArrayRef>>>()?;
        let results = match &self.computation {
            Computation::Ours(function) => ours(*function, arguments.first(), &ends)?,
            Computation::DataFusion(_, bound) => foreign(bound, &arguments, &ends)?,
        };
        Ok(if *results.data_type() == self.data_type { results } else { cast(&results, &self.data_type)? })
    }

    /// The rows that count, in order, and where each group ends among them.
    fn select(&self, batch: &RecordBatch, groups: &[Range<usize>]) -> Result<(Vec<u32>, Vec<usize>)> {
        let filter = self.filter.map(|f| truth(batch.column(f)));
        let is_ordered = self.distinct || matches!(self.computation, Computation::DataFusion(..));
        let arguments = self.arguments.iter().filter_map(|a| match a {
            Argument::Column(column) => Some(OrderBy::ascending(*column)),
            Argument::Constant(_) => None,
        });
        let arguments: Vec<OrderBy> = arguments.collect();
        let order_by = if is_ordered { [self.order_by.as_slice(), &arguments].concat() } else { vec![] };
        let schema = batch.schema();
        let order = RowOrder::new(&schema, &order_by)?.encode(batch.columns())?;
        let values = if self.distinct { arguments.as_slice() } else { &[] };
        let values = RowOrder::new(&schema, values)?.encode(batch.columns())?;
        let mut rows = Vec::with_capacity(batch.num_rows());
        let mut ends = Vec::with_capacity(groups.len());
        for group in groups {
            let counts = |row: &u32| filter.as_ref().is_none_or(|f| f.value(*row as usize));
            let mut of_group: Vec<u32> = (group.start as u32..group.end as u32).filter(counts).collect();
            order.sort(&mut of_group);
            if self.distinct {
                of_group.dedup_by(|a, b| values.compare(*a as usize, *b as usize).is_eq());
            }
            rows.extend(of_group);
            ends.push(rows.len());
        }
        Ok((rows, ends))
    }
}

impl fmt::Display for RecomputedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.computation {
            Computation::Ours(function) => function.name(),
            Computation::DataFusion(function, _) => function.function.name(),
        };
        let arguments = self.arguments.iter().map(|a| match a {
            Argument::Column(column) => format!("#{column}"),
            Argument::Constant(value) => value.to_string(),
        });
        let arguments = arguments.collect::<Vec<_>>().join(", ");
        write!(f, "{name}({}{arguments}", if self.distinct { "distinct " } else { "" })?;
        if !self.order_by.is_empty() {
            let order = |o: &OrderBy| format!("#{}{}", o.column, if o.descending { " desc" } else { "" });
            write!(f, " order by {}", self.order_by.iter().map(order).collect::<Vec<_>>().join(", "))?;
        }
        write!(f, ")")?;
        self.filter.map_or(Ok(()), |filter| write!(f, " filter #{filter}"))
    }
}

fn ours(function: AggregateFunction, argument: Option<&ArrayRef>, ends: &[usize]) -> Result<ArrayRef> {
    let mut accumulator = accumulator(function, argument.map(|a| a.data_type()), true)?;
    let mut groups = Vec::with_capacity(ends.last().copied().unwrap_or(0));
    for (group, &end) in ends.iter().enumerate() {
        groups.resize(end, group as u32);
    }
    accumulator.update(Input { groups: &groups, argument, filter: None, weights: None })?;
    accumulator.finish(&(0..ends.len() as u32).collect::<Vec<_>>())
}

fn foreign(function: &AggregateFunctionExpr, arguments: &[ArrayRef], ends: &[usize]) -> Result<ArrayRef> {
    let mut start = 0;
    let mut results = Vec::with_capacity(ends.len());
    for &end in ends {
        let mut accumulator = function.create_accumulator().map_err(error_of)?;
        if end > start {
            let of_group: Vec<ArrayRef> = arguments.iter().map(|a| a.slice(start, end - start)).collect();
            accumulator.update_batch(&of_group).map_err(error_of)?;
        }
        results.push(accumulator.evaluate().map_err(error_of)?);
        start = end;
    }
    if results.is_empty() {
        return Ok(new_empty_array(function.field().data_type()));
    }
    ScalarValue::iter_to_array(results).map_err(error_of)
}
