//! Streaming rules: from an optimized logical plan to a dataflow of our operators.
//!
//! Each plan node lowers to a node of the dataflow and to what is known of its rows: whether any is ever taken back,
//! which columns are a key, how they are partitioned. Those facts choose the cheaper operators and spare exchanges.
//! Filters and projections are not nodes at once but stages that wait, so that runs of them fuse into one operator.

mod aggregate;
mod constant;
mod exprs;
mod group_keys;
mod grouping_sets;
mod inline;
mod join;
mod shared;
mod shown;
#[cfg(test)]
mod tests;
mod top_n;
mod unnest;
mod window;
mod windowed_aggregate;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, Projection, TableScan, Union, Window};
use millstream_expr::{MapStage, Scalar, Stages};
use millstream_operators::map::MapSpec;
use millstream_operators::materialize::MaterializeSpec;
use millstream_operators::union::UnionSpec;
use millstream_operators::{Dataflow, Edge, Exchange, Node, NodeFacts, NodeId, OperatorSpec, RelationId};
use millstream_types::{Error, Result, SqlType};

use crate::binder::RelationSource;
use crate::catalog::{JoinSide, Kind, Relation};
use crate::errors::from_datafusion;
use exprs::column_index;
pub(crate) use exprs::{columns_of, physical, unqualified};

/// A dataflow and how its result is to be kept.
#[derive(Clone, Debug)]
pub struct StreamingPlan {
    /// The operators.
    pub dataflow: Dataflow,
    /// The result.
    pub result: MaterializeSpec,
    /// The relations that are read, each once.
    pub relations: Vec<RelationId>,
    /// The join sides that are kept although an arrangement could serve them, if there was one.
    pub copied: Vec<JoinSide>,
}

/// Plans the dataflow that keeps a query up to date. `plan` is bound and optimized for a view; `columns` are its output's;
/// `arrangements` are those that it may share.
///
/// # Errors
/// Not supported (0A000), for what has no operator yet.
pub fn plan(
    plan: &LogicalPlan,
    columns: &[(String, SqlType)],
    arrangements: &[Arc<Relation>],
) -> Result<StreamingPlan> {
    let (row_limits, lowered, copied) = (HashMap::new(), Vec::new(), Vec::new());
    let mut planner = Planner { dataflow: Dataflow::default(), row_limits, lowered, arrangements, copied };
    let lowered = planner.lower(plan, None)?;
    let fields: Vec<Field> = columns.iter().map(|(name, t)| Field::new(name, t.arrow_type(), true)).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let lowered = planner.under_schema(lowered, &schema)?;
    let mut facts = lowered.facts.clone();
    let node = planner.emit(lowered);
    planner.place_rows(node, &mut facts, &schema);
    let Facts { append_only, key, partitioned_by, consolidated } = facts;
    let mut relations: Vec<RelationId> = planner.dataflow.imports().map(|(_, id, _)| id).collect();
    relations.sort_unstable();
    relations.dedup();
    let result = MaterializeSpec { schema, key, partitioned_by, append_only, consolidated, indexes: vec![] };
    Ok(StreamingPlan { dataflow: planner.dataflow, result, relations, copied: planner.copied })
}

/// The expressions of a plan that computes one row from one row: projections over a scan.
///
/// # Errors
/// Not supported, if the plan is anything else, such as one with a subquery.
pub fn row_scalars(plan: &LogicalPlan) -> Result<(SchemaRef, Vec<Scalar>)> {
    let mut input = plan;
    let scan = loop {
        input = match input {
            LogicalPlan::Projection(projection) => &projection.input,
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            LogicalPlan::TableScan(scan) => break scan,
            _ => return Err(not_one_row()),
        }
    };
    // Columns that the optimizer has left out of the scan keep their places.
    let whole = DFSchema::try_from(scan.source.schema().as_ref().clone()).map_err(from_datafusion)?;
    let scalars = (0..plan.schema().fields().len()).map(|i| physical(&over_scan(plan, i)?, &whole));
    let scalars = scalars.collect::<Result<_>>()?;
    Ok((arrow_schema(&whole), scalars))
}

fn not_one_row() -> Error {
    Error::not_supported("an expression here must not have subqueries")
}

/// A column of projections over a scan as an expression over the scan's columns. Casts and common subexpressions have the
/// optimizer stack projections; a subexpression is computed as often as it stands in the expression.
fn over_scan(plan: &LogicalPlan, column: usize) -> Result<Expr> {
    match plan {
        LogicalPlan::TableScan(scan) => unqualified(Expr::from(scan.projected_schema.qualified_field(column))),
        LogicalPlan::SubqueryAlias(alias) => over_scan(&alias.input, column),
        LogicalPlan::Projection(projection) => {
            let schema = projection.input.schema();
            let replace = |e: Expr| match &e {
                Expr::Column(c) => over_scan(&projection.input, schema.index_of_column(c)?)
                    .map(Transformed::yes)
                    .map_err(crate::binder::external),
                _ => Ok(Transformed::no(e)),
            };
            let expr = projection.expr[column].clone().unalias();
            expr.transform_up(replace).data().map_err(from_datafusion)
        }
        _ => Err(not_one_row()),
    }
}

/// What is known of a node's rows. Columns are positions in its output.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// No row is ever taken back.
    append_only: bool,
    /// Columns whose values no two rows share.
    key: Option<Vec<usize>>,
    /// Equal values in these columns, which are hashed in this order, are on one worker.
    partitioned_by: Option<Vec<usize>>,
    /// No epoch both takes a row back and gives it.
    consolidated: bool,
}

impl Facts {
    /// How rows come to an operator that wants those of a key on one worker: they stay if they are partitioned so that
    /// they are there already.
    fn exchange(&self, is_local: bool, key: &[usize]) -> Exchange {
        match &self.partitioned_by {
            Some(columns) if is_local => Exchange::Partitioned(columns.clone()),
            _ => Exchange::Hash(key.to_vec()),
        }
    }

    /// The facts after a projection; `origin` tells the input column that an output column is.
    fn project(&self, origin: &[Option<usize>]) -> Facts {
        let place = |c: &usize| origin.iter().position(|o| o.as_ref() == Some(c));
        let places = |columns: &Vec<usize>| columns.iter().map(place).collect::<Option<Vec<usize>>>();
        let key = self.key.as_ref().and_then(places);
        Facts {
            append_only: self.append_only,
            consolidated: self.consolidated && key.is_some(),
            partitioned_by: self.partitioned_by.as_ref().and_then(places),
            key,
        }
    }
}

/// A lowered plan node: a node of the dataflow, the stages that wait on top of it, and what its rows are.
#[derive(Clone)]
struct Lowered {
    node: NodeId,
    stages: Vec<MapStage>,
    /// The plan's names and types of the columns; columns that nobody needs may be missing.
    schema: DFSchema,
    facts: Facts,
}

struct Planner<'a> {
    dataflow: Dataflow,
    /// How many rows of each partition are wanted of a `row_number()`, by its plan node.
    row_limits: HashMap<*const Window, usize>,
    /// Plans that may come again, as what they were lowered to.
    lowered: Vec<(LogicalPlan, Lowered)>,
    /// Arrangements that join sides may share.
    arrangements: &'a [Arc<Relation>],
    /// Join sides that are kept here although an arrangement could serve them.
    copied: Vec<JoinSide>,
}

impl Planner<'_> {
    /// Lowers a plan. With `needed`, columns of its output that are not in the set may be left out.
    fn lower(&mut self, plan: &LogicalPlan, needed: Option<&BTreeSet<usize>>) -> Result<Lowered> {
        let lowered = self.lower_node(plan, needed)?;
        if lowered.stages.is_empty() {
            self.note_facts(lowered.node, &lowered.facts);
        }
        Ok(lowered)
    }

    /// What EXPLAIN says of a node's output.
    fn note_facts(&mut self, node: NodeId, facts: &Facts) {
        self.dataflow.facts.insert(node, NodeFacts { append_only: facts.append_only, key: facts.key.clone() });
    }

    fn lower_node(&mut self, plan: &LogicalPlan, needed: Option<&BTreeSet<usize>>) -> Result<Lowered> {
        match plan {
            LogicalPlan::TableScan(scan) => self.lower_scan(scan),
            LogicalPlan::SubqueryAlias(alias) => {
                let input = self.lower(&alias.input, needed)?;
                let kept = kept_columns(alias.input.schema(), &input.schema)?;
                let schema = restrict(&alias.schema, &kept)?;
                let schema = shown::of_columns(schema, |i| input.schema.fields().get(i))?;
                Ok(Lowered { schema, ..input })
            }
            LogicalPlan::Filter(filter) => {
                self.note_row_limits(filter);
                let needed = needed.map(|n| &columns_of([&filter.predicate], filter.input.schema()) | n);
                let mut input = self.lower(&filter.input, needed.as_ref())?;
                let predicate = physical(&filter.predicate, &input.schema)?;
                let schema = arrow_schema(&input.schema);
                input.stages.push(MapStage { predicate: Some(predicate), projection: None, schema });
                Ok(input)
            }
            LogicalPlan::Projection(projection) => self.lower_projection(projection),
            LogicalPlan::Aggregate(aggregate) => self.lower_once(plan, |planner| planner.lower_aggregate(aggregate)),
            LogicalPlan::Distinct(Distinct::All(input)) => self.lower_distinct(input),
            LogicalPlan::Distinct(Distinct::On(distinct)) => self.lower_distinct_on(distinct),
            LogicalPlan::Limit(limit) => self.lower_limit(limit),
            LogicalPlan::Window(window) => self.lower_window(window),
            LogicalPlan::Join(join) => self.lower_join(join, needed),
            LogicalPlan::Union(union) => self.lower_union(union),
            LogicalPlan::Unnest(unnest) => self.lower_unnest(unnest),
            LogicalPlan::Values(values) => self.lower_values(values),
            LogicalPlan::EmptyRelation(empty) => self.lower_empty(empty),
            // The order of a view's rows means nothing.
            LogicalPlan::Sort(sort) => match sort.fetch {
                None => self.lower(&sort.input, needed),
                Some(fetch) => self.lower_sorted(&sort.input, &sort.expr, fetch),
            },
            other => Err(Error::not_supported(format!("{} cannot be kept up to date yet", name_of(other)))
                .with_hint("Support for it in materialized views is planned; an ad-hoc SELECT can run it.")),
        }
    }

    /// Lowers a plan that has state; one that stands in a query twice is computed and kept once.
    fn lower_once(&mut self, plan: &LogicalPlan, lower: impl FnOnce(&mut Self) -> Result<Lowered>) -> Result<Lowered> {
        if let Some((_, lowered)) = self.lowered.iter().find(|(known, _)| known == plan) {
            return Ok(lowered.clone());
        }
        let lowered = lower(self)?;
        self.lowered.push((plan.clone(), lowered.clone()));
        Ok(lowered)
    }

    fn lower_scan(&mut self, scan: &TableScan) -> Result<Lowered> {
        let source = RelationSource::of(&scan.source)
            .ok_or_else(|| Error::internal(format!("a view scans {}, which is no relation", scan.table_name)))?;
        let relation = source.relation();
        if relation.kind == Kind::System {
            return Err(Error::not_supported(format!("a view cannot read system relation \"{}\"", relation.name)));
        }
        let all: Vec<usize> = (0..relation.visible_columns().len()).collect();
        let projection = scan.projection.clone().unwrap_or(all);
        let place = |c: &usize| projection.iter().position(|p| p == c);
        let places = |columns: &[usize]| columns.iter().map(place).collect::<Option<Vec<usize>>>();
        let key = relation.declared_key().and_then(places);
        let append_only = relation.append_only || relation.kind == Kind::Stream;
        let facts =
            Facts { append_only, partitioned_by: relation.partitioned_by().and_then(places), key, consolidated: false };
        let node = self.dataflow.add(Node::Import {
            relation: source.id(),
            name: relation.name.clone(),
            projection,
            schema: arrow_schema(&scan.projected_schema),
            changes_only: false,
        });
        self.note_facts(node, &facts);
        let schema = scan.projected_schema.as_ref().clone();
        let mut lowered = Lowered { node, stages: vec![], schema, facts };
        for filter in &scan.filters {
            let predicate = physical(filter, &lowered.schema)?;
            let schema = arrow_schema(&lowered.schema);
            lowered.stages.push(MapStage { predicate: Some(predicate), projection: None, schema });
        }
        Ok(lowered)
    }

    fn lower_projection(&mut self, projection: &Projection) -> Result<Lowered> {
        let needed = columns_of(&projection.expr, projection.input.schema());
        let input = self.lower(&projection.input, Some(&needed))?;
        self.project(input, &projection.expr, projection.schema.as_ref().clone())
    }

    /// Adds a stage that computes expressions over the input's columns.
    fn project(&mut self, mut input: Lowered, exprs: &[Expr], schema: DFSchema) -> Result<Lowered> {
        let scalars = exprs.iter().map(|e| physical(e, &input.schema)).collect::<Result<Vec<_>>>()?;
        let schema = shown::of_exprs(schema, exprs.iter(), &input.schema)?;
        let origin: Vec<Option<usize>> = scalars.iter().map(Scalar::as_column).collect();
        let is_identity =
            origin.iter().enumerate().all(|(i, o)| *o == Some(i)) && origin.len() == input.schema.fields().len();
        input.facts = input.facts.project(&origin);
        if !is_identity {
            let schema = arrow_schema(&schema);
            input.stages.push(MapStage { predicate: None, projection: Some(scalars), schema });
        }
        Ok(Lowered { schema, ..input })
    }

    /// `SELECT DISTINCT` is a `GROUP BY` of all columns; a group never comes back while rows only come.
    fn lower_distinct(&mut self, input: &LogicalPlan) -> Result<Lowered> {
        let lowered = self.lower(input, None)?;
        let append_only = lowered.facts.append_only;
        let n_columns = lowered.schema.fields().len();
        let schema = lowered.schema.clone();
        let mut distinct = self.aggregate(lowered, (0..n_columns).collect(), vec![], schema)?;
        distinct.facts.append_only = append_only;
        Ok(distinct)
    }

    fn lower_union(&mut self, union: &Union) -> Result<Lowered> {
        let all = union.inputs.iter().map(|input| self.lower(input, None)).collect::<Result<Vec<_>>>()?;
        let first = all.first().map(|lowered| lowered.schema.clone());
        let names = |i: usize| first.as_ref().and_then(|f| f.fields().get(i));
        let planned = shown::of_columns(union.schema.as_ref().clone(), names)?;
        let schema = arrow_schema(&planned);
        let mut inputs = Vec::new();
        let mut append_only = true;
        for lowered in all {
            append_only &= lowered.facts.append_only;
            let lowered = self.under_schema(lowered, &schema)?;
            inputs.push(Edge { from: self.emit(lowered), exchange: Exchange::Local });
        }
        let node = self.add(UnionSpec { schema }, inputs);
        let facts = Facts { append_only, ..Facts::default() };
        Ok(Lowered { node, stages: vec![], schema: planned, facts })
    }

    /// Casts and renames columns where they differ from a schema.
    fn under_schema(&mut self, mut input: Lowered, schema: &SchemaRef) -> Result<Lowered> {
        let present = arrow_schema(&input.schema);
        if present.fields().len() != schema.fields().len() {
            return Err(Error::internal("a plan's output has another number of columns than its query"));
        }
        let mut scalars = Vec::new();
        for (i, (have, want)) in present.fields().iter().zip(schema.fields()).enumerate() {
            let column = Scalar::column(have.name(), i);
            scalars.push(if have.data_type() == want.data_type() {
                column
            } else {
                exprs::cast(&column, &present, want.data_type())?
            });
        }
        let origin: Vec<Option<usize>> = scalars.iter().map(Scalar::as_column).collect();
        let casts = origin.contains(&None);
        if casts {
            input.facts = input.facts.project(&origin);
        }
        if casts || present.fields().iter().zip(schema.fields()).any(|(a, b)| a.name() != b.name()) {
            input.stages.push(MapStage { predicate: None, projection: Some(scalars), schema: schema.clone() });
        }
        Ok(input)
    }

    /// The schema of a node's output with its waiting stages.
    fn output_schema(&self, lowered: &Lowered) -> SchemaRef {
        lowered.stages.last().map_or_else(|| self.dataflow.schema(lowered.node), |s| s.schema.clone())
    }

    /// Makes the waiting stages a node.
    fn emit(&mut self, lowered: Lowered) -> NodeId {
        if lowered.stages.is_empty() {
            return lowered.node;
        }
        let schema = self.output_schema(&lowered);
        let spec = MapSpec { stages: Stages(lowered.stages), schema };
        let node = self.add(spec, vec![Edge { from: lowered.node, exchange: Exchange::Local }]);
        self.note_facts(node, &lowered.facts);
        node
    }

    /// Brings a view's rows, if they may be taken back, to where their values say: state is kept by hash partition, so that
    /// another number of workers can go on from it. A single row is where the hash of nothing says.
    fn place_rows(&mut self, node: NodeId, facts: &mut Facts, schema: &SchemaRef) {
        let is_one_row = facts.key.as_ref().is_some_and(Vec::is_empty);
        if facts.append_only || facts.partitioned_by.is_some() || is_one_row {
            return;
        }
        let columns = facts.key.clone().unwrap_or_else(|| (0..schema.fields().len()).collect());
        let spec = MapSpec { stages: Stages(vec![]), schema: self.dataflow.schema(node) };
        let placed = self.add(spec, vec![Edge { from: node, exchange: Exchange::Hash(columns.clone()) }]);
        facts.partitioned_by = Some(columns);
        self.note_facts(placed, facts);
    }

    fn add(&mut self, spec: impl OperatorSpec + 'static, inputs: Vec<Edge>) -> NodeId {
        self.dataflow.add(Node::Operator { spec: Arc::new(spec), inputs })
    }
}

/// The columns of a plan schema as Arrow's, all of them nullable: what is known of nulls is the plan's business.
fn arrow_schema(schema: &DFSchema) -> SchemaRef {
    Arc::new(Schema::new(shown::arrow_fields(schema)))
}

/// The positions in `all` of the columns of a restricted schema.
fn kept_columns(all: &DFSchema, restricted: &DFSchema) -> Result<Vec<usize>> {
    if all.fields().len() == restricted.fields().len() {
        return Ok((0..all.fields().len()).collect());
    }
    restricted.iter().map(|(qualifier, field)| column_index(all, qualifier, field.name())).collect()
}

/// A schema with only some of its columns.
fn restrict(schema: &DFSchema, kept: &[usize]) -> Result<DFSchema> {
    let fields = kept.iter().map(|&i| schema.qualified_field(i)).map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
    DFSchema::new_with_metadata(fields, schema.metadata().clone()).map_err(from_datafusion)
}

/// What a plan node is called in a message.
fn name_of(plan: &LogicalPlan) -> &'static str {
    match plan {
        LogicalPlan::RecursiveQuery(_) => "WITH RECURSIVE",
        LogicalPlan::Subquery(_) => "a correlated subquery of this form",
        _ => "this query",
    }
}
