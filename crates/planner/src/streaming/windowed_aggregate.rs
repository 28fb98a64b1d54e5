//! `GROUP BY` the windows of `HOP`: rows are reduced by the last window that each falls into, and only what is left is
//! repeated for every window.
//!
//! ```text
//!   rows ──▶ PartialAggregate by (key, last window) ──▶ FlatMap: its windows ──by (key, window)──▶ Aggregate (states)
//! ```

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Unnest, ident};
use millstream_expr::{AggregateCall, MapStage, Scalar, Stages};
use millstream_operators::aggregate::{AggregateInput, AggregateSpec, PartialAggregateSpec};
use millstream_operators::flat_map::{FlatColumn, FlatMapSpec, Keeps};
use millstream_operators::map::MapSpec;
use millstream_operators::{Edge, Exchange, NodeId};
use millstream_types::Result;

use super::aggregate::{InputColumns, is_splittable, output_schema};
use super::exprs::{columns_of, physical};
use super::inline::{below_projections, substitute};
use super::unnest::keeps_of;
use super::{Facts, Lowered, Planner, shown};
use crate::errors::from_datafusion;
use crate::functions::hopping::WINDOW_STARTS;

/// What the column with the last windows is called while their array is bound to it.
const LAST: &str = "last";

/// A key of the aggregate.
enum Key {
    /// The same for all windows of a row: an expression over the plan below the windows.
    OfRow(Expr),
    /// The start of the window.
    Window,
}

/// What such an aggregate is made of; expressions are over `input`.
struct WindowedAggregate<'a> {
    input: &'a LogicalPlan,
    unnest: &'a Unnest,
    windows: ScalarFunction,
    keys: Vec<Key>,
    calls: Vec<Expr>,
}

impl<'a> WindowedAggregate<'a> {
    /// The parts, if all keys are of either kind and no call is over the windows.
    fn of(aggregate: &'a Aggregate) -> Result<Option<Self>> {
        let exprs = aggregate.group_expr.iter().chain(&aggregate.aggr_expr).map(|e| e.clone().unalias()).collect();
        let (exprs, plan) = below_projections(exprs, &aggregate.input)?;
        let LogicalPlan::Unnest(unnest) = plan else { return Ok(None) };
        let ([(list, depth)], []) = (unnest.list_type_columns.as_slice(), unnest.struct_type_columns.as_slice()) else {
            return Ok(None);
        };
        let LogicalPlan::Projection(projection) = unnest.input.as_ref() else { return Ok(None) };
        let windows = match projection.expr[*list].clone().unalias() {
            Expr::ScalarFunction(function) if function.name() == WINDOW_STARTS && depth.depth == 1 => function,
            _ => return Ok(None),
        };
        let mut below = Vec::new();
        let mut is_window = Vec::new();
        for expr in exprs {
            let columns = columns_of([&expr], &unnest.schema);
            let of_windows = columns.iter().filter(|c| unnest.dependency_indices[**c] == *list).count();
            is_window.push(of_windows > 0);
            if of_windows == 0 {
                let of_row = |i: usize| projection.expr[unnest.dependency_indices[i]].clone();
                below.append(&mut substitute(vec![expr], &unnest.schema, of_row)?);
            } else if !matches!(expr, Expr::Column(_)) {
                return Ok(None);
            }
        }
        let n_keys = aggregate.group_expr.len();
        let (of_keys, of_calls) = is_window.split_at(n_keys);
        if of_calls.contains(&true) || of_keys.iter().filter(|w| **w).count() != 1 {
            return Ok(None);
        }
        let calls = below.split_off(n_keys - 1);
        let mut below = below.into_iter();
        let key = |window: &bool| if *window { None } else { below.next() };
        let keys = of_keys.iter().map(key).map(|e| e.map_or(Key::Window, Key::OfRow)).collect();
        Ok(Some(WindowedAggregate { input: &projection.input, unnest, windows, keys, calls }))
    }

    /// A plan that is equal for equal parts.
    fn plan(&self) -> Result<LogicalPlan> {
        let key = |key: &Key| match key {
            Key::OfRow(expr) => expr.clone(),
            Key::Window => Expr::ScalarFunction(self.windows.clone()),
        };
        let keys = self.keys.iter().map(key).collect();
        let aggregate = Aggregate::try_new(Arc::new(self.input.clone()), keys, self.calls.clone());
        Ok(LogicalPlan::Aggregate(aggregate.map_err(from_datafusion)?))
    }
}

impl Planner<'_> {
    /// Lowers an aggregate over the windows of `HOP`; nothing if it is another.
    pub(super) fn lower_windowed_aggregate(&mut self, aggregate: &Aggregate) -> Result<Option<Lowered>> {
        let Some(parts) = WindowedAggregate::of(aggregate)? else { return Ok(None) };
        // What the columns between are called makes no difference, nor which of them are left out.
        let lowered = self.lower_once(&parts.plan()?, |planner| planner.lower_over_windows(aggregate, &parts))?;
        let schema = shown::of_columns(aggregate.schema.as_ref().clone(), |i| lowered.schema.fields().get(i))?;
        Ok(Some(Lowered { schema, ..lowered }))
    }

    fn lower_over_windows(&mut self, aggregate: &Aggregate, parts: &WindowedAggregate<'_>) -> Result<Lowered> {
        let of_rows = parts.keys.iter().filter_map(|k| if let Key::OfRow(e) = k { Some(e) } else { None });
        let last = &parts.windows.args[0];
        let needed = columns_of(of_rows.chain([last]).chain(&parts.calls), parts.input.schema());
        let input = self.lower(parts.input, Some(&needed))?;
        let append_only = input.facts.append_only;
        let planned = {
            let window = Expr::ScalarFunction(parts.windows.clone()).alias("window_start");
            let keys = parts.keys.iter().map(|key| if let Key::OfRow(e) = key { e } else { &window });
            shown::of_exprs(aggregate.schema.as_ref().clone(), keys.chain(&parts.calls), &input.schema)?
        };
        let mut columns = InputColumns::new(&input);
        let mut keys = Vec::new();
        for key in &parts.keys {
            keys.push(match key {
                Key::OfRow(e) => Some(columns.add(e)?),
                Key::Window => None,
            });
        }
        let calls = parts.calls.iter().map(|e| columns.call(e)).collect::<Result<Vec<_>>>()?;
        let schema = columns.arrow_schema();
        let incremental: Option<Vec<AggregateCall>> = calls.iter().map(|c| c.incremental(&schema)).collect();
        let splits = |calls: &Vec<AggregateCall>| calls.iter().all(|c| !c.distinct && is_splittable(c, append_only));
        let Some(incremental) = incremental.filter(splits) else {
            let windows = columns.add(&Expr::ScalarFunction(parts.windows.clone()))?;
            let rows = columns.into_stage(input);
            let repeated = self.repeat_rows(rows, windows, keeps_of(parts.unnest));
            let keys = keys.into_iter().map(|k| k.unwrap_or(windows)).collect();
            return self.aggregate(repeated, keys, calls, planned);
        };
        let last = columns.add(last)?;
        let rows = columns.into_stage(input);
        let input = self.output_schema(&rows);
        let from = self.emit(rows);
        let group_by: Vec<usize> = keys.into_iter().map(|k| k.unwrap_or(last)).collect();
        let partial = PartialAggregateSpec {
            input: input.clone(),
            group_by: group_by.clone(),
            calls: incremental.clone(),
            append_only,
        };
        let partial = self.add(partial, vec![Edge { from, exchange: Exchange::Local }]);
        let states = self.repeat_states(partial, parts)?;
        let spec = AggregateSpec {
            schema: output_schema(&input, &group_by, &incremental, &planned)?,
            input,
            ports: vec![AggregateInput::States { counts_rows: true, calls: (0..incremental.len()).collect() }],
            calls: incremental,
            n_keys: group_by.len(),
            append_only,
        };
        let key: Vec<usize> = (0..group_by.len()).collect();
        let node = self.add(spec, vec![Edge { from: states, exchange: Exchange::Hash(key.clone()) }]);
        let facts = Facts { append_only: false, key: Some(key.clone()), partitioned_by: Some(key), consolidated: true };
        self.under_planned_types(node, facts, planned)
    }

    /// Each row once for each of its windows, whose start takes the place of their array.
    fn repeat_rows(&mut self, rows: Lowered, windows: usize, keeps: Keeps) -> Lowered {
        let schema = self.output_schema(&rows);
        let is_kept = |p: &Vec<usize>| !p.contains(&windows);
        let facts = Facts {
            append_only: rows.facts.append_only,
            partitioned_by: rows.facts.partitioned_by.clone().filter(is_kept),
            ..Facts::default()
        };
        let planned = rows.schema.clone();
        let from = self.emit(rows);
        let node = self.add(repeat(&schema, windows, keeps), vec![Edge { from, exchange: Exchange::Local }]);
        Lowered { node, stages: vec![], schema: planned, facts }
    }

    /// States by keys, of which one is the last window, become states by keys and window.
    fn repeat_states(&mut self, partial: NodeId, parts: &WindowedAggregate<'_>) -> Result<NodeId> {
        let schema = self.dataflow.schema(partial);
        let last = parts.keys.iter().position(|k| matches!(k, Key::Window)).expect("there is one");
        let mut windows = parts.windows.clone();
        windows.args[0] = ident(LAST);
        // Only one of the columns needs a name.
        let field = |(i, f): (usize, &FieldRef)| {
            Field::new(if i == last { LAST.to_owned() } else { format!("#{i}") }, f.data_type().clone(), true)
        };
        let fields: Vec<Field> = schema.fields().iter().enumerate().map(field).collect();
        let named = DFSchema::try_from(Schema::new(fields)).map_err(from_datafusion)?;
        let windows = physical(&Expr::ScalarFunction(windows), &named)?;
        let mut fields = schema.fields().to_vec();
        fields[last] = Arc::new(Field::new("windows", windows.data_type(&schema)?, true));
        let column = |i: usize| Scalar::column(schema.field(i).name(), i);
        let scalars = (0..fields.len()).map(|i| if i == last { windows.clone() } else { column(i) }).collect();
        let listed: SchemaRef = Arc::new(Schema::new(fields));
        let stage = MapStage { predicate: None, projection: Some(scalars), schema: listed.clone() };
        let spec = MapSpec { stages: Stages(vec![stage]), schema: listed.clone() };
        let from = self.add(spec, vec![Edge { from: partial, exchange: Exchange::Local }]);
        let spec = repeat(&listed, last, keeps_of(parts.unnest));
        Ok(self.add(spec, vec![Edge { from, exchange: Exchange::Local }]))
    }
}

/// Rows of a schema, of which one column has arrays, once for each element, which takes the array's place.
fn repeat(schema: &SchemaRef, array: usize, keeps: Keeps) -> FlatMapSpec {
    let column = |i| if i == array { FlatColumn::Elements(i) } else { FlatColumn::Kept(i) };
    let mut fields = schema.fields().to_vec();
    if let DataType::List(element) = schema.field(array).data_type() {
        fields[array] = Arc::new(Field::new("window_start", element.data_type().clone(), true));
    }
    let columns = (0..fields.len()).map(column).collect();
    FlatMapSpec { columns, keeps, schema: Arc::new(Schema::new(fields)) }
}
