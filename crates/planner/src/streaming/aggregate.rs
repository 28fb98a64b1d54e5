//! `GROUP BY`: one level where the rows are partitioned by the key already, else two where the functions allow it.

use datafusion::common::DFSchema;
use datafusion::logical_expr::expr::AggregateFunction as PlanFunction;
use datafusion::logical_expr::{Aggregate, Expr};
use millstream_expr::{AggregateCall, AggregateFunction, MapStage, Scalar};
use millstream_operators::aggregate::{AggregateInput, AggregateSpec, DistinctPartialSpec, PartialAggregateSpec};
use millstream_operators::{Edge, Exchange};
use millstream_types::{Error, Result};

use super::exprs::{columns_of, physical};
use super::{Facts, Lowered, Planner, arrow_schema};

impl Planner {
    pub(super) fn lower_aggregate(&mut self, aggregate: &Aggregate) -> Result<Lowered> {
        if let Some(Expr::GroupingSet(_)) = aggregate.group_expr.first() {
            return Err(Error::not_supported("grouping sets cannot be kept up to date yet")
                .with_hint("Support for them in materialized views is planned; an ad-hoc SELECT can run them."));
        }
        let exprs = || aggregate.group_expr.iter().chain(&aggregate.aggr_expr);
        let needed = columns_of(exprs(), aggregate.input.schema());
        let input = self.lower(&aggregate.input, Some(&needed))?;
        let mut columns = InputColumns::new(&input);
        let keys = aggregate.group_expr.iter().map(|e| columns.add(e)).collect::<Result<Vec<_>>>()?;
        let calls = aggregate.aggr_expr.iter().map(|e| columns.call(e)).collect::<Result<Vec<_>>>()?;
        let prepared = columns.into_stage(input);
        self.aggregate(prepared, keys, calls, aggregate.schema.as_ref().clone())
    }

    /// Aggregates over plain columns. `schema` has the keys, then the calls.
    pub(super) fn aggregate(
        &mut self,
        input: Lowered,
        keys: Vec<usize>,
        calls: Vec<AggregateCall>,
        schema: DFSchema,
    ) -> Result<Lowered> {
        let facts = input.facts.clone();
        let input_schema = input.stages.last().map_or_else(|| self.dataflow.schema(input.node), |s| s.schema.clone());
        let from = self.emit(input);
        let out = output_schema(&input_schema, &keys, &calls, &schema)?;
        let n_keys = keys.len();
        let by_key = Exchange::Hash((0..n_keys).collect());
        let is_local = facts.partitioned_by.as_ref().is_some_and(|p| p.iter().all(|c| keys.contains(c)));
        let splits = calls.iter().all(|c| is_splittable(c, facts.append_only));
        let spec = |ports| AggregateSpec {
            input: input_schema.clone(),
            calls: calls.clone(),
            ports,
            n_keys,
            append_only: facts.append_only,
            schema: out.clone(),
        };
        let node = if is_local || !splits {
            let exchange = if is_local { Exchange::Local } else { Exchange::Hash(keys.clone()) };
            self.add(spec(vec![AggregateInput::Rows { group_by: keys.clone() }]), vec![Edge { from, exchange }])
        } else {
            let mut ports = Vec::new();
            let mut edges = Vec::new();
            let plain: Vec<usize> = (0..calls.len()).filter(|&i| !calls[i].distinct).collect();
            let partial = PartialAggregateSpec {
                input: input_schema.clone(),
                group_by: keys.clone(),
                calls: plain.iter().map(|&i| calls[i].clone()).collect(),
                append_only: facts.append_only,
            };
            let partial = self.add(partial, vec![Edge { from, exchange: Exchange::Local }]);
            ports.push(AggregateInput::States { counts_rows: true, calls: plain });
            edges.push(Edge { from: partial, exchange: by_key.clone() });
            for argument in distinct_arguments(&calls) {
                let of_argument = |i: &usize| calls[*i].distinct && calls[*i].argument == Some(argument);
                let indices: Vec<usize> = (0..calls.len()).filter(of_argument).collect();
                let distinct = DistinctPartialSpec {
                    input: input_schema.clone(),
                    group_by: keys.clone(),
                    calls: indices.iter().map(|&i| calls[i].clone()).collect(),
                    append_only: facts.append_only,
                };
                let by_value = keys.iter().copied().chain([argument]).collect();
                let distinct = self.add(distinct, vec![Edge { from, exchange: Exchange::Hash(by_value) }]);
                ports.push(AggregateInput::States { counts_rows: false, calls: indices });
                edges.push(Edge { from: distinct, exchange: by_key.clone() });
            }
            self.add(spec(ports), edges)
        };
        // One level without an exchange keeps the partitioning of its input; its columns are among the keys.
        let key: Vec<usize> = (0..n_keys).collect();
        let partitioned_by = match facts.partitioned_by.filter(|_| is_local) {
            Some(p) => p.iter().map(|c| keys.iter().position(|k| k == c)).collect(),
            None => Some(key.clone()),
        };
        let facts = Facts { append_only: false, key: Some(key), partitioned_by, consolidated: true };
        let lowered = Lowered { node, stages: vec![], schema: schema.clone(), facts };
        let planned = arrow_schema(&schema);
        if planned == out {
            return Ok(lowered);
        }
        let have = DFSchema::try_from(out.as_ref().clone()).map_err(crate::errors::from_datafusion)?;
        let casted = self.under_schema(Lowered { schema: have, ..lowered }, &planned)?;
        Ok(Lowered { schema, ..casted })
    }
}

fn distinct_arguments(calls: &[AggregateCall]) -> Vec<usize> {
    let mut arguments: Vec<usize> = calls.iter().filter(|c| c.distinct).filter_map(|c| c.argument).collect();
    arguments.sort_unstable();
    arguments.dedup();
    arguments
}

/// Whether states of parts of a group add up to the state of the group.
fn is_splittable(call: &AggregateCall, append_only: bool) -> bool {
    match call.function {
        AggregateFunction::Min | AggregateFunction::Max => append_only,
        _ => true,
    }
}

fn output_schema(
    input: &arrow::datatypes::SchemaRef,
    keys: &[usize],
    calls: &[AggregateCall],
    names: &DFSchema,
) -> Result<arrow::datatypes::SchemaRef> {
    use arrow::datatypes::{Field, Schema};
    let mut fields = Vec::new();
    for (i, &key) in keys.iter().enumerate() {
        fields.push(Field::new(names.field(i).name(), input.field(key).data_type().clone(), true));
    }
    for (i, call) in calls.iter().enumerate() {
        let argument = call.argument.map(|a| input.field(a).data_type());
        let result = call
            .function
            .result_type(argument)
            .ok_or_else(|| Error::not_supported(format!("{call} over {argument:?} cannot be kept up to date yet")))?;
        fields.push(Field::new(names.field(keys.len() + i).name(), result, true));
    }
    Ok(std::sync::Arc::new(Schema::new(fields)))
}

/// The columns that an aggregate needs of its input: expressions, each once.
struct InputColumns {
    schema: DFSchema,
    exprs: Vec<Expr>,
    scalars: Vec<Scalar>,
}

impl InputColumns {
    fn new(input: &Lowered) -> Self {
        InputColumns { schema: input.schema.clone(), exprs: Vec::new(), scalars: Vec::new() }
    }

    /// The position of an expression, which is added if it is not there yet.
    fn add(&mut self, expr: &Expr) -> Result<usize> {
        let expr = expr.clone().unalias();
        if let Some(at) = self.exprs.iter().position(|e| *e == expr) {
            return Ok(at);
        }
        self.scalars.push(physical(&expr, &self.schema)?);
        self.exprs.push(expr);
        Ok(self.exprs.len() - 1)
    }

    fn call(&mut self, expr: &Expr) -> Result<AggregateCall> {
        let Expr::AggregateFunction(PlanFunction { func, params }) = expr.clone().unalias() else {
            return Err(Error::internal(format!("{expr} stands where an aggregate was expected")));
        };
        let unsupported = || {
            Error::not_supported(format!("aggregate {}() cannot be kept up to date yet", func.name()))
                .with_hint("Support for it in materialized views is planned; an ad-hoc SELECT can run it.")
        };
        let function = function_of(func.name()).ok_or_else(unsupported)?;
        let argument = match (function, params.args.as_slice()) {
            (AggregateFunction::Count, [] | [Expr::Literal(_, _)]) => None,
            (_, [argument]) => Some(argument),
            _ => return Err(unsupported()),
        };
        if !params.order_by.is_empty() && !matches!(function, AggregateFunction::Count) {
            return Err(unsupported());
        }
        let argument = argument.map(|a| self.add(widened_from(function, a))).transpose()?;
        let filter = params.filter.as_deref().map(|f| self.add(f)).transpose()?;
        // The smallest of the distinct values is the smallest of all.
        let distinct = params.distinct && !matches!(function, AggregateFunction::Min | AggregateFunction::Max);
        Ok(AggregateCall { function, argument, distinct, filter })
    }

    /// Puts the columns on top of the input.
    fn into_stage(self, input: Lowered) -> Lowered {
        let InputColumns { scalars, exprs, .. } = self;
        let origin: Vec<Option<usize>> = scalars.iter().map(Scalar::as_column).collect();
        let present = arrow_schema(&input.schema);
        let fields = scalars.iter().zip(&exprs).map(|(s, e)| {
            let data_type = s.data_type(&present).expect("bound to this schema");
            arrow::datatypes::Field::new(e.schema_name().to_string(), data_type, true)
        });
        let schema = std::sync::Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()));
        let facts = input.facts.project(&origin);
        let mut lowered = Lowered { facts, ..input };
        let is_identity =
            origin.iter().enumerate().all(|(i, o)| *o == Some(i)) && origin.len() == present.fields().len();
        if !is_identity {
            lowered.stages.push(MapStage { predicate: None, projection: Some(scalars), schema });
        }
        lowered
    }
}

/// Sums are exact over integers as they are: a widening cast under them is not needed.
fn widened_from(function: AggregateFunction, argument: &Expr) -> &Expr {
    use arrow::datatypes::DataType as T;
    match argument {
        Expr::Cast(cast) if matches!(function, AggregateFunction::Sum | AggregateFunction::Avg) => {
            match cast.field.data_type() {
                T::Int64 | T::Decimal128(_, _) if matches!(cast.expr.as_ref(), Expr::Column(_)) => cast.expr.as_ref(),
                _ => argument,
            }
        }
        _ => argument,
    }
}

fn function_of(name: &str) -> Option<AggregateFunction> {
    Some(match name {
        "count" => AggregateFunction::Count,
        "sum" => AggregateFunction::Sum,
        "avg" | "mean" => AggregateFunction::Avg,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        "bool_and" | "every" => AggregateFunction::BoolAnd,
        "bool_or" => AggregateFunction::BoolOr,
        _ => return None,
    })
}
