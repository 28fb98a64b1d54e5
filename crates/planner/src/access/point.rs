//! Queries that are answered row by row from the rows of one relation that have certain keys.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, FetchType, Limit, LogicalPlan, SkipType, TableScan};
use millstream_expr::Scalar;
use millstream_expr::scalar::{batch_of, truth};
use millstream_types::{Result, SqlType};

use super::{IndexedKey, KeyLookup, is_timeless};
use crate::binder::RelationSource;
use crate::catalog::Relation;
use crate::errors::from_datafusion;
use crate::streaming::{physical, unqualified};

/// A filter and a projection over the rows of one relation that have certain keys, all of which may depend on
/// parameters. It is evaluated without DataFusion's executor, whose set-up costs more than such a query.
#[derive(Debug)]
pub struct PointQuery {
    relation: Arc<Relation>,
    columns: Vec<usize>,
    is_unique: bool,
    /// Over the parameters alone: for each key, one scalar a column.
    keys: Vec<Vec<Scalar>>,
    /// The parameters as columns.
    params: SchemaRef,
    /// The relation's columns, as many as the plan may see, and the parameters.
    input: SchemaRef,
    predicate: Option<Scalar>,
    projection: Vec<Scalar>,
    output: SchemaRef,
}

impl PointQuery {
    /// The point query that an optimized ad-hoc plan is; `None` if it is something else, or depends on the time.
    ///
    /// # Errors
    /// Internal.
    pub fn of(plan: &LogicalPlan, param_types: &[SqlType]) -> Result<Option<PointQuery>> {
        let Some(parts) = Parts::of(plan) else { return Ok(None) };
        let Some(source) = RelationSource::of(&parts.scan.source) else { return Ok(None) };
        let Some(key) = IndexedKey::find(source, &parts.scan.filters) else { return Ok(None) };
        let is_one = key.is_unique && key.keys.len() == 1;
        if !(is_one || parts.keeps_all) || !is_timeless(plan)? || has_subquery(plan)? {
            return Ok(None);
        }
        let params = schema_of(param_types.iter().enumerate().map(|(i, t)| param_field(i, t)));
        let visible = datafusion::logical_expr::TableSource::schema(source);
        let input = schema_of(visible.fields().iter().map(|f| f.as_ref().clone()).chain(fields_of(&params)));
        // A column that is called like a parameter.
        let Ok(names) = DFSchema::try_from(input.as_ref().clone()) else { return Ok(None) };
        let over_params = DFSchema::try_from(params.as_ref().clone()).map_err(from_datafusion)?;
        let bound = |expr: &Expr, names: &DFSchema| physical(&with_columns(unqualified(expr.clone())?)?, names);
        let keys = key.keys.iter().map(|k| k.iter().map(|e| bound(e, &over_params)).collect::<Result<Vec<_>>>());
        let projection = match parts.projection {
            Some(exprs) => exprs.iter().map(|e| bound(e, &names)).collect::<Result<_>>()?,
            None => {
                let columns = parts.scan.projected_schema.columns();
                columns.iter().map(|c| bound(&Expr::Column(c.clone()), &names)).collect::<Result<_>>()?
            }
        };
        Ok(Some(PointQuery {
            relation: Arc::clone(source.relation()),
            columns: key.columns,
            is_unique: key.is_unique,
            keys: keys.collect::<Result<_>>()?,
            predicate: conjunction(parts.conditions).map(|c| bound(&c, &names)).transpose()?,
            projection,
            params,
            input,
            output: Arc::new(plan.schema().as_arrow().clone()),
        }))
    }

    /// Whether a bound plan, once it is optimized, may be one.
    pub fn may_be(plan: &LogicalPlan) -> bool {
        let mut plan = plan;
        loop {
            plan = match plan {
                LogicalPlan::Projection(p) => &p.input,
                LogicalPlan::Filter(filter) => &filter.input,
                LogicalPlan::Sort(sort) => &sort.input,
                LogicalPlan::Limit(limit) => &limit.input,
                LogicalPlan::SubqueryAlias(alias) => &alias.input,
                LogicalPlan::TableScan(_) => return true,
                _ => return false,
            };
        }
    }

    /// The columns of its result.
    pub fn schema(&self) -> &SchemaRef {
        &self.output
    }

    /// Whether no two rows of the relation have the same key.
    pub fn is_unique(&self) -> bool {
        self.is_unique
    }

    /// The rows that are needed, for values of the parameters, each an array of length 1.
    ///
    /// # Errors
    /// That of computing a key.
    pub fn lookup(&self, params: &[ArrayRef]) -> Result<KeyLookup> {
        let batch = batch_of(self.params.clone(), params.to_vec(), 1)?;
        let column = |c: usize| -> Result<ArrayRef> {
            let values = self.keys.iter().map(|k| k[c].evaluate(&batch)).collect::<Result<Vec<_>>>()?;
            match values.as_slice() {
                [one] => Ok(Arc::clone(one)),
                many => Ok(arrow::compute::concat(&many.iter().map(AsRef::as_ref).collect::<Vec<_>>())?),
            }
        };
        let keys = (0..self.columns.len()).map(column).collect::<Result<_>>()?;
        let (relation, columns) = (Arc::clone(&self.relation), self.columns.clone());
        Ok(KeyLookup { relation, columns, is_unique: self.is_unique, keys })
    }

    /// What the query gives for some rows of the relation, all columns.
    ///
    /// # Errors
    /// That of an expression.
    pub fn evaluate(&self, rows: &RecordBatch, params: &[ArrayRef]) -> Result<RecordBatch> {
        let n_columns = self.input.fields().len() - self.params.fields().len();
        let mut columns = rows.columns()[..n_columns].to_vec();
        for param in params {
            columns.push(match rows.num_rows() {
                1 => Arc::clone(param),
                n => ScalarValue::try_from_array(param, 0)
                    .and_then(|v| v.to_array_of_size(n))
                    .map_err(from_datafusion)?,
            });
        }
        let mut batch = batch_of(self.input.clone(), columns, rows.num_rows())?;
        if let Some(predicate) = &self.predicate {
            let mask = truth(&predicate.evaluate(&batch)?);
            if mask.true_count() < batch.num_rows() {
                batch = filter_record_batch(&batch, &mask)?;
            }
        }
        let columns = self.projection.iter().map(|e| e.evaluate(&batch)).collect::<Result<_>>()?;
        batch_of(self.output.clone(), columns, batch.num_rows())
    }
}

/// A plan that is nothing but a projection and a filter over a scan.
struct Parts<'a> {
    projection: Option<&'a [Expr]>,
    conditions: Vec<Expr>,
    scan: &'a TableScan,
    /// There is no order and no limit, which may only be passed over where there is one row at most.
    keeps_all: bool,
}

impl<'a> Parts<'a> {
    fn of(plan: &'a LogicalPlan) -> Option<Self> {
        let (mut projection, mut conditions, mut keeps_all) = (None, Vec::new(), true);
        let mut plan = plan;
        loop {
            plan = match plan {
                LogicalPlan::Projection(p) if projection.is_none() && conditions.is_empty() => {
                    projection = Some(p.expr.as_slice());
                    &p.input
                }
                LogicalPlan::Filter(filter) => {
                    conditions.push(filter.predicate.clone());
                    &filter.input
                }
                LogicalPlan::Sort(sort) if conditions.is_empty() && sort.fetch != Some(0) => {
                    keeps_all = false;
                    &sort.input
                }
                LogicalPlan::Limit(limit) if conditions.is_empty() && keeps_one(limit) => {
                    keeps_all = false;
                    &limit.input
                }
                LogicalPlan::SubqueryAlias(alias) => &alias.input,
                LogicalPlan::TableScan(scan) => return Some(Parts { projection, conditions, scan, keeps_all }),
                _ => return None,
            };
        }
    }
}

fn has_subquery(plan: &LogicalPlan) -> Result<bool> {
    let mut has = false;
    let visited = plan.apply(|node| {
        node.apply_subqueries(|_| {
            has = true;
            Ok(TreeNodeRecursion::Stop)
        })
    });
    visited.map_err(from_datafusion)?;
    Ok(has)
}

/// Whether the first row passes.
fn keeps_one(limit: &Limit) -> bool {
    let skips_none = matches!(limit.get_skip_type(), Ok(SkipType::Literal(0)));
    skips_none && matches!(limit.get_fetch_type(), Ok(FetchType::Literal(fetch)) if fetch != Some(0))
}

fn param_field(i: usize, sql_type: &SqlType) -> Field {
    Field::new(format!("${}", i + 1), sql_type.arrow_type(), true)
}

fn schema_of(fields: impl Iterator<Item = Field>) -> SchemaRef {
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn fields_of(schema: &SchemaRef) -> impl Iterator<Item = Field> {
    schema.fields().iter().map(|f| f.as_ref().clone())
}

/// The expression with its parameters as columns of their names.
fn with_columns(expr: Expr) -> Result<Expr> {
    let column = |e: Expr| match e {
        Expr::Placeholder(p) => Ok(Transformed::yes(Expr::Column(Column::new_unqualified(p.id)))),
        other => Ok(Transformed::no(other)),
    };
    expr.transform_up(column).data().map_err(from_datafusion)
}
