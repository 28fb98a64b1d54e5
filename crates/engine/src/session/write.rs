//! `INSERT`, `UPDATE`, `DELETE`, `TRUNCATE`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use datafusion::logical_expr::LogicalPlan;
use futures::StreamExt;
use hashbrown::HashSet;
use millstream_expr::Scalar;
use millstream_expr::scalar::batch_of;
use millstream_planner::ast::{Delete, Insert, OnKeyConflict, Truncate, Update};
use millstream_planner::catalog::{Kind, Relation};
use millstream_planner::dml::{
    BoundConflict, BoundReturning, ConflictUpdate, InsertRows, bind_delete, bind_insert, bind_update, check_constraints,
};
use millstream_planner::{Purpose, RelationId, optimize, streaming};
use millstream_types::delta::take_batch;
use millstream_types::{Epoch, Error, Result, SqlState};

use super::Session;
use super::query::{columns_of, fixed_types};
use crate::api::{Response, Rows, RowsTag};
use crate::coordinator::{Conflict, Transaction, WriteOp, Written};
use crate::read::{RowsAtHand, execute, execute_over};

/// How often a statement reads anew because what it read has changed.
const ATTEMPTS: usize = 100;

impl Session {
    pub(super) async fn insert(&mut self, insert: &Insert, params: &[ArrayRef]) -> Result<Response> {
        let bound = bind_insert(&self.catalog(), insert, &fixed_types(params), &self.format_settings())?;
        let relation = &bound.relation;
        let conflict = match &bound.conflict {
            BoundConflict::Nothing => Conflict::Ignore,
            BoundConflict::Table(OnKeyConflict::Error) => Conflict::Error,
            BoundConflict::Table(OnKeyConflict::Ignore) => Conflict::Ignore,
            BoundConflict::Table(OnKeyConflict::Overwrite) => Conflict::Overwrite,
            BoundConflict::Table(OnKeyConflict::UpdateIfNotNull) => Conflict::UpdateIfNotNull,
            BoundConflict::Update(update) => self.conflict_update(relation, update, params)?,
        };
        let written = match &bound.rows {
            InsertRows::Template(template) => {
                let rows = check_constraints(relation, &template.rows(params)?)?;
                let op = WriteOp::Insert { relation: relation.id, rows, conflict };
                self.engine.clock.write(Transaction { ops: vec![op], reads: None }).await?
            }
            InsertRows::Batch(rows) => {
                let rows = check_constraints(relation, rows)?;
                let op = WriteOp::Insert { relation: relation.id, rows, conflict };
                self.engine.clock.write(Transaction { ops: vec![op], reads: None }).await?
            }
            InsertRows::Plan(plan) => {
                let schema = relation.visible_schema();
                let write = |rows: &RecordBatch| {
                    let rows = batch_of(schema.clone(), rows.columns().to_vec(), rows.num_rows())?;
                    let rows = check_constraints(relation, &rows)?;
                    Ok(WriteOp::Insert { relation: relation.id, rows, conflict: conflict.clone() })
                };
                self.read_and_write(plan, &bound.relations, params, write).await?
            }
        };
        self.written(RowsTag::Insert, relation, written, bound.returning.as_ref(), params).await
    }

    pub(super) async fn update(&mut self, update: &Update, params: &[ArrayRef]) -> Result<Response> {
        let bound = bind_update(&self.catalog(), update, &fixed_types(params))?;
        let relation = &bound.relation;
        let n_columns = relation.columns.len();
        let write = |rows: &RecordBatch| {
            let rows = first_of_each(rows, &relation.primary_key)?;
            let (old, new) = rows.columns().split_at(n_columns);
            let schema = relation.full_schema();
            let old = batch_of(schema.clone(), old.to_vec(), rows.num_rows())?;
            let new = checked(relation, &schema, new.to_vec(), rows.num_rows())?;
            Ok(WriteOp::Change { relation: relation.id, old, new: Some(new) })
        };
        let written = self.read_and_write(&bound.plan, &bound.relations, params, write).await?;
        self.written(RowsTag::Update, relation, written, bound.returning.as_ref(), params).await
    }

    pub(super) async fn delete(&mut self, delete: &Delete, params: &[ArrayRef]) -> Result<Response> {
        let bound = bind_delete(&self.catalog(), delete, &fixed_types(params))?;
        let relation = &bound.relation;
        let write = |rows: &RecordBatch| {
            let rows = first_of_each(rows, &relation.primary_key)?;
            let old = batch_of(relation.full_schema(), rows.columns().to_vec(), rows.num_rows())?;
            Ok(WriteOp::Change { relation: relation.id, old, new: None })
        };
        let written = self.read_and_write(&bound.plan, &bound.relations, params, write).await?;
        self.written(RowsTag::Delete, relation, written, bound.returning.as_ref(), params).await
    }

    pub(super) async fn truncate(&mut self, truncate: &Truncate) -> Result<Response> {
        for name in &truncate.names {
            let relation = self.catalog().resolve(name)?.clone();
            if relation.kind != Kind::Table {
                let message = format!("cannot truncate {} \"{}\"", relation.kind.noun(), relation.name);
                return Err(Error::user(SqlState::WRONG_OBJECT_TYPE, message).with_position(name.position.max(1)));
            }
            let delete = Delete { table: name.clone(), alias: None, using: vec![], filter: None, returning: None };
            self.delete(&delete, &[]).await?;
        }
        Ok(super::done("TRUNCATE TABLE"))
    }

    /// Runs a statement's plan at an epoch and writes what follows from its rows, if what it read is still so at its
    /// turn; else it reads anew.
    async fn read_and_write(
        &mut self,
        plan: &LogicalPlan,
        reads: &[RelationId],
        params: &[ArrayRef],
        write: impl Fn(&RecordBatch) -> Result<WriteOp>,
    ) -> Result<Written> {
        let mut attempt = 1;
        loop {
            let plan = self.ready(plan.clone(), params)?;
            let schema: SchemaRef = Arc::new(plan.schema().as_arrow().clone());
            let (epoch, batches) = execute(&self.engine, plan).await?;
            let rows = collect(schema, batches).await?;
            let op = write(&rows)?;
            let reads: Option<(Epoch, Vec<RelationId>)> = (!reads.is_empty()).then(|| (epoch, reads.to_vec()));
            match self.engine.clock.write(Transaction { ops: vec![op], reads }).await {
                Err(error) if error.state() == SqlState::SERIALIZATION_FAILURE && attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    /// The answer to a statement that has written: the rows of `RETURNING`, or a count.
    async fn written(
        &mut self,
        tag: RowsTag,
        relation: &Arc<Relation>,
        written: Written,
        returning: Option<&BoundReturning>,
        params: &[ArrayRef],
    ) -> Result<Response> {
        let n_rows: usize = written.rows.iter().map(RecordBatch::num_rows).sum();
        let Some(returning) = returning else { return Ok(Response::Done { tag: tag.complete(n_rows as u64) }) };
        let schema = relation.visible_schema();
        let visible = |batch: &RecordBatch| {
            let columns = batch.columns()[..schema.fields().len()].to_vec();
            batch_of(schema.clone(), columns, batch.num_rows())
        };
        let rows = written.rows.iter().map(visible).collect::<Result<Vec<_>>>()?;
        let rows = concat_batches(&schema, &rows)?;
        let plan = self.ready(returning.plan.clone(), params)?;
        let batches = execute_over(&self.engine, plan, RowsAtHand(rows)).await?;
        Ok(Response::Rows(Rows { columns: columns_of(&returning.columns), batches, tag, live: false }))
    }

    /// `DO UPDATE`, as a function of the row that is there and the one that was to come.
    fn conflict_update(
        &self,
        relation: &Arc<Relation>,
        update: &ConflictUpdate,
        params: &[ArrayRef],
    ) -> Result<Conflict> {
        let plan = self.with_params(update.plan.clone(), params)?;
        let plan = optimize(plan, Purpose::AdHoc, Some(super::query::now_us()))?;
        let (schema, scalars): (SchemaRef, Vec<Scalar>) = streaming::row_scalars(&plan)?;
        let relation = Arc::clone(relation);
        let n_visible = relation.visible_columns().len();
        Ok(Conflict::Update(Arc::new(move |old: &RecordBatch, new: &RecordBatch| {
            let both = old.columns()[..n_visible].iter().chain(&new.columns()[..n_visible]).cloned().collect();
            let both = batch_of(schema.clone(), both, 1)?;
            let mut values = scalars.iter().map(|s| s.evaluate(&both)).collect::<Result<Vec<_>>>()?;
            let applies = values.remove(0);
            let applies = applies.as_boolean();
            if applies.is_null(0) || !applies.value(0) {
                return Ok(None);
            }
            // A table with a key has no hidden column.
            checked(&relation, &relation.full_schema(), values, 1).map(Some)
        })))
    }
}

/// New rows of a relation that meet its constraints.
fn checked(relation: &Relation, schema: &SchemaRef, columns: Vec<ArrayRef>, n_rows: usize) -> Result<RecordBatch> {
    let n_visible = relation.visible_columns().len();
    let visible = batch_of(relation_nullable(relation), columns[..n_visible].to_vec(), n_rows)?;
    let mut fit = check_constraints(relation, &visible)?.columns().to_vec();
    fit.extend_from_slice(&columns[n_visible..]);
    batch_of(schema.clone(), fit, n_rows)
}

/// The visible columns, with nulls allowed: constraints are yet to be checked.
fn relation_nullable(relation: &Relation) -> SchemaRef {
    let fields = relation.visible_columns().iter().map(|c| c.arrow_field().with_nullable(true));
    Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()))
}

/// The first of the rows that have the same key.
fn first_of_each(rows: &RecordBatch, key: &[usize]) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> = key.iter().map(|&c| rows.column(c).clone()).collect();
    let fields = columns.iter().map(|c| SortField::new(c.data_type().clone())).collect();
    let encoded = RowConverter::new(fields)?.convert_columns(&columns)?;
    let mut seen = HashSet::new();
    let first: Vec<u32> =
        (0..rows.num_rows() as u32).filter(|&i| seen.insert(encoded.row(i as usize).owned())).collect();
    if first.len() == rows.num_rows() {
        return Ok(rows.clone());
    }
    take_batch(rows, &UInt32Array::from(first))
}

async fn collect(
    schema: SchemaRef,
    mut batches: futures::stream::BoxStream<'static, Result<RecordBatch>>,
) -> Result<RecordBatch> {
    let mut all = Vec::new();
    while let Some(batch) = batches.next().await {
        all.push(batch?);
    }
    let schema = all.first().map_or(schema, RecordBatch::schema);
    Ok(concat_batches(&schema, &all)?)
}
