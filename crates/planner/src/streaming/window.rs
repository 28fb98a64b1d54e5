//! Window functions: those that share a partitioning and an order are one operator.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{DFSchema, plan_datafusion_err};
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction};
use datafusion::logical_expr::{Expr, Window, WindowFrame, WindowFunctionDefinition};
use datafusion::physical_planner::is_window_frame_bound_valid;
use millstream_expr::recomputed::{Argument, ForeignFunction};
use millstream_expr::window::{Frame, RowFunction};
use millstream_expr::{OrderBy, WindowCall};
use millstream_operators::Edge;
use millstream_operators::window::WindowSpec;
use millstream_types::{Error, Result};

use super::aggregate::{function_of, widened_from};
use super::exprs::with_columns;
use super::{Facts, Lowered, Planner, arrow_schema, shown};
use crate::errors::from_datafusion;

/// A window function over columns.
struct Bound {
    partition_by: Vec<usize>,
    order_by: Vec<OrderBy>,
    call: WindowCall,
}

impl Planner<'_> {
    pub(super) fn lower_window(&mut self, window: &Window) -> Result<Lowered> {
        if let Some(numbered) = self.lower_row_number(window)? {
            return Ok(numbered);
        }
        let functions = window.window_expr.iter().map(function_in).collect::<Result<Vec<_>>>()?;
        let input = self.lower(&window.input, None)?;
        let n_columns = input.schema.fields().len();
        let shown = of_window(window, &input.schema)?;
        let exprs: Vec<&Expr> = functions.iter().flat_map(|f| operands(f)).collect();
        let (input, positions) = with_columns(input, exprs.into_iter())?;
        let schema = input.stages.last().map_or_else(|| self.dataflow.schema(input.node), |s| s.schema.clone());
        let mut positions = positions.into_iter();
        let bound = functions.iter().map(|f| bind(f, &mut positions, &schema)).collect::<Result<Vec<_>>>()?;
        let n_helpers = schema.fields().len() - n_columns;
        let (facts, mut node) = (input.facts.clone(), self.emit(input));
        let mut facts = facts;
        // Where the values of each function stand in the end.
        let mut places = vec![0; bound.len()];
        let mut todo: Vec<usize> = (0..bound.len()).collect();
        while let Some(&first) = todo.first() {
            let is_alike = |i: &usize| {
                bound[*i].partition_by == bound[first].partition_by && bound[*i].order_by == bound[first].order_by
            };
            let (alike, rest): (Vec<usize>, Vec<usize>) = todo.iter().partition(|&i| is_alike(i));
            let before = self.dataflow.schema(node).fields().len();
            alike.iter().enumerate().for_each(|(k, &i)| places[i] = before + k);
            let calls: Vec<(&WindowCall, &str)> =
                alike.iter().map(|&i| (&bound[i].call, window.schema.field(n_columns + i).name().as_str())).collect();
            (node, facts) = self.window(node, facts, &bound[first], &calls);
            todo = rest;
        }
        let have = self.dataflow.schema(node);
        let kept: Vec<usize> = (0..n_columns).chain(places).collect();
        let is_identity = n_helpers == 0 && kept.iter().enumerate().all(|(i, k)| i == *k);
        let named = DFSchema::from_unqualified_fields(numbered_fields(&have), Default::default());
        let named = named.map_err(from_datafusion)?;
        let lowered = Lowered { node, stages: vec![], schema: named, facts };
        let lowered = if is_identity { lowered } else { self.only_columns(lowered, &kept)? };
        let casted = self.under_schema(lowered, &arrow_schema(&shown))?;
        Ok(Lowered { schema: shown, ..casted })
    }

    /// Adds an operator that appends the values of functions of one partitioning and order.
    fn window(&mut self, from: usize, facts: Facts, first: &Bound, calls: &[(&WindowCall, &str)]) -> (usize, Facts) {
        let input = self.dataflow.schema(from);
        let partition_by = &first.partition_by;
        let is_local = !partition_by.is_empty()
            && facts.partitioned_by.as_ref().is_some_and(|p| p.iter().all(|c| partition_by.contains(c)));
        let exchange = facts.exchange(is_local, partition_by);
        let mut fields = input.fields().to_vec();
        fields.extend(calls.iter().map(|(call, name)| Arc::new(Field::new(*name, call.data_type().clone(), true))));
        let spec = WindowSpec {
            input,
            partition_by: partition_by.clone(),
            order_by: first.order_by.clone(),
            calls: calls.iter().map(|(call, _)| (*call).clone()).collect(),
            key: facts.key.clone(),
            append_only: facts.append_only,
            schema: Arc::new(Schema::new(fields)),
        };
        let node = self.add(spec, vec![Edge { from, exchange }]);
        let partitioned_by = if is_local { facts.partitioned_by } else { Some(partition_by.clone()) };
        (node, Facts { append_only: false, key: facts.key, partitioned_by, consolidated: false })
    }

    /// Some of the input's columns, in another order.
    fn only_columns(&mut self, input: Lowered, kept: &[usize]) -> Result<Lowered> {
        let exprs: Vec<Expr> = kept.iter().map(|&i| Expr::from(input.schema.qualified_field(i))).collect();
        let schema = super::restrict(&input.schema, kept)?;
        self.project(input, &exprs, schema)
    }
}

/// A window's schema: the input's columns, then the functions.
pub(super) fn of_window(window: &Window, input: &DFSchema) -> Result<DFSchema> {
    let columns: Vec<Expr> = input.iter().map(Expr::from).collect();
    shown::of_exprs(window.schema.as_ref().clone(), columns.iter().chain(&window.window_expr), input)
}

/// Fields under names that tell them apart.
fn numbered_fields(schema: &SchemaRef) -> arrow::datatypes::Fields {
    schema.fields().iter().enumerate().map(|(i, f)| f.as_ref().clone().with_name(column_name(i))).collect()
}

fn column_name(column: usize) -> String {
    format!("c{column}")
}

pub(super) fn function_in(expr: &Expr) -> Result<&WindowFunction> {
    match expr {
        Expr::Alias(alias) => function_in(&alias.expr),
        Expr::WindowFunction(function) => Ok(function),
        other => Err(Error::internal(format!("{other} stands where a window function was expected"))),
    }
}

fn is_literal(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(..))
}

/// What must be a column before the function can be computed: constants stay as they are.
fn operands(function: &WindowFunction) -> Vec<&Expr> {
    let params = &function.params;
    let ours = our_function(function);
    let argument = |e| ours.map_or(e, |f| widened_from(f, e));
    let mut operands: Vec<&Expr> = params.partition_by.iter().collect();
    operands.extend(params.order_by.iter().map(|s| &s.expr));
    operands.extend(params.args.iter().map(argument).filter(|e| !is_literal(e)));
    operands.extend(params.filter.as_deref());
    operands
}

fn our_function(function: &WindowFunction) -> Option<millstream_expr::AggregateFunction> {
    match &function.fun {
        WindowFunctionDefinition::AggregateUDF(udaf) => function_of(udaf.name()),
        WindowFunctionDefinition::WindowUDF(_) => None,
    }
}

/// Binds a function to columns; `positions` are those of its operands.
fn bind(function: &WindowFunction, positions: &mut impl Iterator<Item = usize>, input: &SchemaRef) -> Result<Bound> {
    let params = &function.params;
    let mut next = || positions.next().ok_or_else(|| Error::internal("an operand of a window function has no column"));
    let partition_by = params.partition_by.iter().map(|_| next()).collect::<Result<Vec<_>>>()?;
    let order = params.order_by.iter().map(|sort| {
        let column = next()?;
        Ok(OrderBy { column, descending: !sort.asc, nulls_first: sort.nulls_first })
    });
    let order_by = order.collect::<Result<Vec<_>>>()?;
    let ours = our_function(function);
    let arguments = params.args.iter().map(|e| match ours.map_or(e, |f| widened_from(f, e)) {
        Expr::Literal(value, _) => Ok(Argument::Constant(value.clone())),
        _ => Ok(Argument::Column(next()?)),
    });
    let arguments = arguments.collect::<Result<Vec<_>>>()?;
    let filter = params.filter.as_ref().map(|_| next()).transpose()?;
    if params.distinct {
        return Err(Error::not_supported("DISTINCT is not implemented for window functions"));
    }
    let call = match &function.fun {
        WindowFunctionDefinition::WindowUDF(udwf) => {
            check_bounds(&params.window_frame)?;
            let of_rows = RowFunction {
                function: Arc::clone(udwf),
                shown_as: text_of(function, &arguments, input),
                arguments,
                partition_by: partition_by.clone(),
                order_by: order_by.clone(),
                frame: Arc::new(params.window_frame.clone()),
                ignore_nulls: params.null_treatment == Some(NullTreatment::IgnoreNulls),
            };
            WindowCall::of_rows(of_rows, input)?
        }
        WindowFunctionDefinition::AggregateUDF(udaf) => {
            let frame = Frame { frame: Arc::new(params.window_frame.clone()), order_by: order_by.clone(), filter };
            let argument = match arguments.as_slice() {
                [] if udaf.name() == "count" => Some(None),
                [Argument::Constant(value)] if udaf.name() == "count" && !value.is_null() => Some(None),
                [Argument::Column(column)] => Some(Some(*column)),
                _ => None,
            };
            let type_of = |a: Option<usize>| a.map(|a| input.field(a).data_type());
            match ours.zip(argument).filter(|(f, a)| f.result_type(type_of(*a)).is_some()) {
                Some((ours, argument)) => WindowCall::aggregate(ours, argument, frame, input)?,
                None => {
                    let foreign = ForeignFunction {
                        function: Arc::clone(udaf),
                        arguments,
                        within_group: vec![],
                        ignore_nulls: params.null_treatment == Some(NullTreatment::IgnoreNulls),
                    };
                    WindowCall::foreign(&foreign, frame, input)?
                }
            }
        }
    };
    // A column of the partition orders nothing, nor does one that was ordered by before; functions were told of all.
    let mut seen = partition_by.clone();
    let mut order_by = order_by;
    order_by.retain(|o| {
        !seen.contains(&o.column) && {
            seen.push(o.column);
            true
        }
    });
    let mut partition_by = partition_by;
    partition_by.sort_unstable();
    partition_by.dedup();
    Ok(Bound { partition_by, order_by, call })
}

/// Refuses frames that end before they start, in the words in which DataFusion does.
fn check_bounds(frame: &WindowFrame) -> Result<()> {
    if is_window_frame_bound_valid(frame) {
        return Ok(());
    }
    let (start, end) = (&frame.start_bound, &frame.end_bound);
    Err(from_datafusion(plan_datafusion_err!(
        "Invalid window frame: start bound ({start}) cannot be larger than end bound ({end})"
    )))
}

/// The function for EXPLAIN.
fn text_of(function: &WindowFunction, arguments: &[Argument], input: &SchemaRef) -> String {
    let argument = |a: &Argument| match a {
        Argument::Column(c) => input.field(*c).name().clone(),
        Argument::Constant(value) => value.to_string(),
    };
    let arguments: Vec<String> = arguments.iter().map(argument).collect();
    format!("{}({})", function.fun.name(), arguments.join(", "))
}
