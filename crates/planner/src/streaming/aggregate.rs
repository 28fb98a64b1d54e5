//! `GROUP BY`: one level where the rows are partitioned by the key already, else two where the functions allow it.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::logical_expr::expr::{AggregateFunction as PlanFunction, NullTreatment};
use datafusion::logical_expr::{Aggregate, AggregateUDF, Expr};
use millstream_expr::recomputed::{Argument, ForeignFunction};
use millstream_expr::{AggregateCall, AggregateFunction, MapStage, OrderBy, RecomputedCall, Scalar};
use millstream_operators::aggregate::{
    AggregateInput, AggregateSpec, DistinctPartialSpec, DistinctReduceSpec, PartialAggregateSpec,
};
use millstream_operators::recompute::RecomputeSpec;
use millstream_operators::{Edge, Exchange, NodeId};
use millstream_types::{Error, Result};

use super::exprs::{columns_of, physical};
use super::{Facts, Lowered, Planner, arrow_schema, shown};

impl Planner<'_> {
    pub(super) fn lower_aggregate(&mut self, aggregate: &Aggregate) -> Result<Lowered> {
        if let Some(Expr::GroupingSet(set)) = aggregate.group_expr.first() {
            return self.lower_grouping_sets(aggregate, set);
        }
        if let Some(lowered) = self.lower_without_determined_keys(aggregate)? {
            return Ok(lowered);
        }
        if let Some(lowered) = self.lower_windowed_aggregate(aggregate)? {
            return Ok(lowered);
        }
        let exprs = || aggregate.group_expr.iter().chain(&aggregate.aggr_expr);
        let needed = columns_of(exprs(), aggregate.input.schema());
        let input = self.lower(&aggregate.input, Some(&needed))?;
        let schema = shown::of_exprs(aggregate.schema.as_ref().clone(), exprs(), &input.schema)?;
        let mut columns = InputColumns::new(&input);
        let keys = aggregate.group_expr.iter().map(|e| columns.add(e)).collect::<Result<Vec<_>>>()?;
        let calls = aggregate.aggr_expr.iter().map(|e| columns.call(e)).collect::<Result<Vec<_>>>()?;
        let prepared = columns.into_stage(input);
        self.aggregate(prepared, keys, calls, schema)
    }

    /// Aggregates over plain columns. `schema` has the keys, then the calls.
    pub(super) fn aggregate(
        &mut self,
        input: Lowered,
        keys: Vec<usize>,
        calls: Vec<Call>,
        schema: DFSchema,
    ) -> Result<Lowered> {
        let facts = input.facts.clone();
        let input_schema = self.output_schema(&input);
        let from = self.emit(input);
        let incremental: Option<Vec<AggregateCall>> = calls.iter().map(|c| c.incremental(&input_schema)).collect();
        let Some(calls) = incremental else {
            let recomputed = calls.iter().map(|c| c.recomputed(&input_schema)).collect::<Result<Vec<_>>>()?;
            return self.recompute(from, &facts, keys, recomputed, schema);
        };
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
            let exchange = facts.exchange(is_local, &keys);
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
                let reduce = DistinctReduceSpec(distinct.clone());
                let reduce = self.add(reduce, vec![Edge { from, exchange: Exchange::Local }]);
                // The value stands behind the keys.
                let by_value = Exchange::Hash((0..=n_keys).collect());
                let distinct = self.add(distinct, vec![Edge { from: reduce, exchange: by_value }]);
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
        self.under_planned_types(node, facts, schema)
    }

    /// Aggregates of which some can only be computed from all rows of a group.
    fn recompute(
        &mut self,
        from: NodeId,
        facts: &Facts,
        keys: Vec<usize>,
        calls: Vec<RecomputedCall>,
        schema: DFSchema,
    ) -> Result<Lowered> {
        let input = self.dataflow.schema(from);
        let n_keys = keys.len();
        let key_fields =
            keys.iter().enumerate().map(|(i, &k)| shown::like(schema.field(i), input.field(k).data_type().clone()));
        let call_fields =
            calls.iter().enumerate().map(|(i, c)| shown::like(schema.field(n_keys + i), c.data_type().clone()));
        let fields: Vec<Field> = key_fields.chain(call_fields).collect();
        // Without a key the one group is where the hash of no columns says.
        let is_local = n_keys > 0 && facts.partitioned_by.as_ref().is_some_and(|p| p.iter().all(|c| keys.contains(c)));
        let exchange = facts.exchange(is_local, &keys);
        let spec = RecomputeSpec {
            input,
            group_by: keys.clone(),
            calls,
            append_only: facts.append_only,
            schema: Arc::new(Schema::new(fields)),
        };
        let node = self.add(spec, vec![Edge { from, exchange }]);
        let key: Vec<usize> = (0..n_keys).collect();
        let partitioned_by = match facts.partitioned_by.as_ref().filter(|_| is_local) {
            Some(p) => p.iter().map(|c| keys.iter().position(|k| k == c)).collect(),
            None => Some(key.clone()),
        };
        let facts = Facts { append_only: false, key: Some(key), partitioned_by, consolidated: true };
        self.under_planned_types(node, facts, schema)
    }

    /// A node whose columns are those of the plan, perhaps of other types.
    pub(super) fn under_planned_types(&mut self, node: NodeId, facts: Facts, schema: DFSchema) -> Result<Lowered> {
        let out = self.dataflow.schema(node);
        let lowered = Lowered { node, stages: vec![], schema: schema.clone(), facts };
        let planned = arrow_schema(&schema);
        if planned == out {
            return Ok(lowered);
        }
        let fields = schema.iter().zip(out.fields()).map(|((q, _), have)| (q.cloned(), Arc::clone(have))).collect();
        let have = DFSchema::new_with_metadata(fields, Default::default()).map_err(crate::errors::from_datafusion)?;
        let casted = self.under_schema(Lowered { schema: have, ..lowered }, &planned)?;
        Ok(Lowered { schema, ..casted })
    }
}

/// An aggregate of the query, over columns of its input.
#[derive(Clone, Debug)]
pub(super) enum Call {
    /// One that takes rows back, if there is an accumulator for the argument's type.
    Ours(AggregateCall, Arc<AggregateUDF>),
    /// One of DataFusion's.
    Foreign { function: ForeignFunction, order_by: Vec<OrderBy>, distinct: bool, filter: Option<usize> },
}

impl Call {
    pub(super) fn incremental(&self, input: &SchemaRef) -> Option<AggregateCall> {
        let Call::Ours(call, _) = self else { return None };
        call.function.result_type(call.argument.map(|a| input.field(a).data_type())).is_some().then(|| call.clone())
    }

    fn recomputed(&self, input: &SchemaRef) -> Result<RecomputedCall> {
        if let Some(call) = self.incremental(input) {
            return RecomputedCall::ours(&call, input);
        }
        match self {
            Call::Ours(call, function) => {
                let function = ForeignFunction {
                    function: Arc::clone(function),
                    arguments: call.argument.map(Argument::Column).into_iter().collect(),
                    within_group: vec![],
                    ignore_nulls: false,
                };
                RecomputedCall::foreign(&function, vec![], call.distinct, call.filter, input)
            }
            Call::Foreign { function, order_by, distinct, filter } => {
                RecomputedCall::foreign(function, order_by.clone(), *distinct, *filter, input)
            }
        }
    }
}

fn distinct_arguments(calls: &[AggregateCall]) -> Vec<usize> {
    let mut arguments: Vec<usize> = calls.iter().filter(|c| c.distinct).filter_map(|c| c.argument).collect();
    arguments.sort_unstable();
    arguments.dedup();
    arguments
}

/// Whether states of parts of a group add up to the state of the group.
pub(super) fn is_splittable(call: &AggregateCall, append_only: bool) -> bool {
    match call.function {
        AggregateFunction::Min | AggregateFunction::Max | AggregateFunction::BitAnd | AggregateFunction::BitOr => {
            append_only
        }
        _ => true,
    }
}

/// Whether the result over distinct values is that over all of them.
fn ignores_repetition(function: AggregateFunction) -> bool {
    use AggregateFunction as F;
    matches!(function, F::Min | F::Max | F::BoolAnd | F::BoolOr | F::BitAnd | F::BitOr)
}

pub(super) fn output_schema(
    input: &SchemaRef,
    keys: &[usize],
    calls: &[AggregateCall],
    names: &DFSchema,
) -> Result<SchemaRef> {
    let mut fields = Vec::new();
    for (i, &key) in keys.iter().enumerate() {
        fields.push(shown::like(names.field(i), input.field(key).data_type().clone()));
    }
    for (i, call) in calls.iter().enumerate() {
        let argument = call.argument.map(|a| input.field(a).data_type());
        let result = call
            .function
            .result_type(argument)
            .ok_or_else(|| Error::not_supported(format!("{call} over {argument:?} cannot be kept up to date yet")))?;
        fields.push(shown::like(names.field(keys.len() + i), result));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The columns that an aggregate needs of its input: expressions, each once.
pub(super) struct InputColumns {
    schema: DFSchema,
    exprs: Vec<Expr>,
    /// As the query has them: under the names that they have there.
    named: Vec<Expr>,
    scalars: Vec<Scalar>,
}

impl InputColumns {
    pub(super) fn new(input: &Lowered) -> Self {
        InputColumns { schema: input.schema.clone(), exprs: Vec::new(), named: Vec::new(), scalars: Vec::new() }
    }

    /// The position of an expression, which is added if it is not there yet.
    pub(super) fn add(&mut self, expr: &Expr) -> Result<usize> {
        let named = expr;
        let expr = expr.clone().unalias();
        if let Some(at) = self.exprs.iter().position(|e| *e == expr) {
            return Ok(at);
        }
        self.scalars.push(physical(&expr, &self.schema)?);
        self.exprs.push(expr);
        self.named.push(named.clone());
        Ok(self.exprs.len() - 1)
    }

    pub(super) fn call(&mut self, expr: &Expr) -> Result<Call> {
        let Expr::AggregateFunction(PlanFunction { func, params }) = expr.clone().unalias() else {
            return Err(Error::internal(format!("{expr} stands where an aggregate was expected")));
        };
        let filter = params.filter.as_deref().map(|f| self.add(f)).transpose()?;
        let ours = function_of(func.name());
        let argument = match (ours, params.args.as_slice()) {
            (Some(AggregateFunction::Count), []) => Some(None),
            (Some(AggregateFunction::Count), [Expr::Literal(value, _)]) if !value.is_null() && !params.distinct => {
                Some(None)
            }
            (Some(_), [argument]) => Some(Some(argument)),
            _ => None,
        };
        if let (Some(function), Some(argument)) = (ours, argument) {
            let argument = argument.map(|a| self.add(widened_from(function, a))).transpose()?;
            let distinct = params.distinct && !ignores_repetition(function);
            return Ok(Call::Ours(AggregateCall { function, argument, distinct, filter }, func));
        }
        let arguments = params.args.iter().map(|a| match a {
            Expr::Literal(value, _) => Ok(Argument::Constant(value.clone())),
            other => Ok(Argument::Column(self.add(other)?)),
        });
        let arguments = arguments.collect::<Result<Vec<_>>>()?;
        let order = params.order_by.iter().map(|sort| {
            let column = self.add(&sort.expr)?;
            Ok(OrderBy { column, descending: !sort.asc, nulls_first: sort.nulls_first })
        });
        let order_by = order.collect::<Result<Vec<OrderBy>>>()?;
        let within_group = if func.supports_within_group_clause() { order_by.clone() } else { vec![] };
        let ignore_nulls = params.null_treatment == Some(NullTreatment::IgnoreNulls);
        let function = ForeignFunction { function: func, arguments, within_group, ignore_nulls };
        Ok(Call::Foreign { function, order_by, distinct: params.distinct, filter })
    }

    /// The columns, under the names or texts of their expressions.
    pub(super) fn arrow_schema(&self) -> SchemaRef {
        let present = arrow_schema(&self.schema);
        let fields = self.scalars.iter().zip(&self.named).map(|(s, named)| {
            let data_type = s.data_type(&present).expect("bound to this schema");
            shown::field_of(&named.schema_name().to_string(), data_type, named, &self.schema)
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Puts the columns on top of the input.
    pub(super) fn into_stage(self, input: Lowered) -> Lowered {
        let schema = self.arrow_schema();
        let InputColumns { scalars, .. } = self;
        let origin: Vec<Option<usize>> = scalars.iter().map(Scalar::as_column).collect();
        let present = arrow_schema(&input.schema);
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
pub(super) fn widened_from(function: AggregateFunction, argument: &Expr) -> &Expr {
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

pub(super) fn function_of(name: &str) -> Option<AggregateFunction> {
    Some(match name {
        "count" => AggregateFunction::Count,
        "sum" => AggregateFunction::Sum,
        "avg" | "mean" => AggregateFunction::Avg,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        "bool_and" | "every" => AggregateFunction::BoolAnd,
        "bool_or" => AggregateFunction::BoolOr,
        "bit_and" => AggregateFunction::BitAnd,
        "bit_or" => AggregateFunction::BitOr,
        "bit_xor" => AggregateFunction::BitXor,
        "var_pop" => AggregateFunction::VarPop,
        "var" | "var_samp" => AggregateFunction::VarSamp,
        "stddev_pop" => AggregateFunction::StddevPop,
        "stddev" | "stddev_samp" => AggregateFunction::StddevSamp,
        _ => return None,
    })
}
