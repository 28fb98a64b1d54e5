//! `INSERT`, `UPDATE`, `DELETE`, `TRUNCATE`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use futures::StreamExt;
use millstream_planner::ast::{ConflictAction, Delete, Insert, OnKeyConflict, Truncate, Update};
use millstream_planner::catalog::{Kind, Relation};
use millstream_planner::{Purpose, bind_query};
use millstream_types::{Error, Result, SqlState};

use super::{Session, done};
use crate::api::Response;
use crate::coordinator::{Conflict, Transaction, WriteOp};
use crate::read::execute;

impl Session {
    pub(super) async fn insert(&mut self, insert: &Insert, params: &[ArrayRef]) -> Result<Response> {
        let catalog = self.catalog();
        let relation = catalog.resolve(&insert.table)?.clone();
        check_writable(&relation)?;
        let source = insert.source.as_ref().ok_or_else(|| Error::not_supported("INSERT ... DEFAULT VALUES is not supported yet"))?;
        let bound = bind_query(&catalog, source, &[], Purpose::AdHoc)?;
        let targets = target_columns(&relation, insert)?;
        if bound.columns.len() > targets.len() {
            return Err(Error::user(SqlState::SYNTAX_ERROR, "INSERT has more expressions than target columns"));
        }
        if !insert.columns.is_empty() && bound.columns.len() < targets.len() {
            return Err(Error::user(SqlState::SYNTAX_ERROR, "INSERT has more target columns than expressions"));
        }
        let plan = self.ready(bound.plan, params)?;
        let (_, mut batches) = execute(&self.engine, plan).await?;
        let mut all = Vec::new();
        while let Some(batch) = batches.next().await {
            all.push(batch?);
        }
        let Some(first) = all.first() else { return Ok(done("INSERT 0 0")) };
        let given = concat_batches(&first.schema(), &all)?;
        let rows = row_of_columns(&relation, &targets, &given)?;
        let conflict = match &insert.on_conflict {
            None => match relation.on_conflict {
                OnKeyConflict::Error => Conflict::Error,
                OnKeyConflict::Overwrite => Conflict::Overwrite,
                OnKeyConflict::Ignore => Conflict::Ignore,
                OnKeyConflict::UpdateIfNotNull => Conflict::UpdateIfNotNull,
            },
            Some(on) if on.action == ConflictAction::Nothing => Conflict::Ignore,
            Some(_) => return Err(Error::not_supported("ON CONFLICT DO UPDATE is not supported yet")),
        };
        let op = WriteOp::Insert { relation: relation.id, rows, conflict };
        let written = self.engine.clock.write(Transaction { ops: vec![op], reads: None }).await?;
        let n_rows: usize = written.rows.iter().map(RecordBatch::num_rows).sum();
        Ok(Response::Done { tag: format!("INSERT 0 {n_rows}") })
    }

    pub(super) async fn update(&mut self, update: &Update, _params: &[ArrayRef]) -> Result<Response> {
        check_writable(self.catalog().resolve(&update.table)?)?;
        Err(Error::not_supported("UPDATE is not supported yet"))
    }

    pub(super) async fn delete(&mut self, delete: &Delete, _params: &[ArrayRef]) -> Result<Response> {
        check_writable(self.catalog().resolve(&delete.table)?)?;
        Err(Error::not_supported("DELETE is not supported yet"))
    }

    pub(super) async fn truncate(&mut self, truncate: &Truncate) -> Result<Response> {
        for name in &truncate.names {
            check_writable(self.catalog().resolve(name)?)?;
        }
        Err(Error::not_supported("TRUNCATE is not supported yet"))
    }
}

/// The relation must be one that clients write to.
fn check_writable(relation: &Relation) -> Result<()> {
    let writable = matches!(relation.kind, Kind::Table | Kind::Stream) && !relation.has_connector();
    if writable {
        return Ok(());
    }
    let message = format!("cannot change {} \"{}\"", relation.kind.noun(), relation.name);
    Err(Error::user(SqlState::WRONG_OBJECT_TYPE, message))
}

/// Positions of the columns that an `INSERT` fills, in its order.
fn target_columns(relation: &Relation, insert: &Insert) -> Result<Vec<usize>> {
    if insert.columns.is_empty() {
        return Ok((0..relation.visible_columns().len()).collect());
    }
    let mut targets = Vec::new();
    for column in &insert.columns {
        let at = relation.column_index(&column.name).ok_or_else(|| {
            let message = format!("column \"{}\" of relation \"{}\" does not exist", column.name, relation.name);
            Error::user(SqlState::UNDEFINED_COLUMN, message).with_position(column.position)
        })?;
        if targets.contains(&at) {
            let message = format!("column \"{}\" specified more than once", column.name);
            return Err(Error::user(SqlState::DUPLICATE_COLUMN, message).with_position(column.position));
        }
        targets.push(at);
    }
    Ok(targets)
}

/// Given columns as whole rows of the relation, null where nothing was given.
fn row_of_columns(relation: &Relation, targets: &[usize], given: &RecordBatch) -> Result<RecordBatch> {
    let n_rows = given.num_rows();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (i, column) in relation.visible_columns().iter().enumerate() {
        let data_type = column.sql_type.arrow_type();
        let place = targets.iter().position(|t| *t == i).filter(|p| *p < given.num_columns());
        let array = match place {
            Some(place) => arrow::compute::cast(given.column(place), &data_type)?,
            None => arrow::array::new_null_array(&data_type, n_rows),
        };
        if column.not_null && array.null_count() > 0 {
            let message = format!(
                "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                column.name, relation.name
            );
            return Err(Error::user(SqlState::NOT_NULL_VIOLATION, message));
        }
        columns.push(array);
    }
    let schema = Arc::clone(&relation.visible_schema());
    millstream_expr::scalar::batch_of(schema, columns, n_rows)
}
