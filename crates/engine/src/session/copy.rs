//! `COPY`: rows of a client into a relation, and rows of a relation, query, subscription or of what is written out.

mod options;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use datafusion::logical_expr::LogicalPlan;
use futures::StreamExt;
use millstream_expr::scalar::batch_of;
use millstream_planner::ast::{self, CopyFrom, CopySource, CopyTo, OnKeyConflict};
use millstream_planner::catalog::Relation;
use millstream_planner::dml::{bind_copy, bind_copy_columns, check_constraints};
use millstream_planner::parser::{Parsed, parse_query};
use millstream_types::copy::CopyHeader;
use millstream_types::{Error, Result};

use super::Session;
use super::planned::ParsedStatement;
use crate::api::{CopyIn, Response, ResultColumn, Rows, RowsTag};
use crate::memory::UncommittedMemory;
use crate::read::{ReadPoint, RowsAtHand, execute_over};
use crate::staged::Conflict;

/// A `COPY ... FROM` whose rows are coming.
pub(super) struct Copying {
    relation: Arc<Relation>,
    /// The data's columns, as positions in the relation.
    positions: Vec<usize>,
    /// From the data's columns to the relation's, ready to run; `None` if what the data lacks is null, and every row is taken.
    completion: Option<LogicalPlan>,
    /// The first line names the columns.
    header: bool,
    /// There are rows that are not taken, so the number of one is not that of its line.
    is_filtered: bool,
    n_rows: usize,
    /// What has come so far, written all at once in the end.
    staged: Vec<RecordBatch>,
    memory: UncommittedMemory,
}

impl Session {
    pub(super) fn copy_from(&mut self, copy: &CopyFrom) -> Result<Response> {
        self.check_writable("COPY FROM")?;
        let bound = bind_copy(&self.catalog(), copy)?;
        let columns: Vec<_> = bound.columns().into_iter().map(|(name, t)| ResultColumn::computed(name, t)).collect();
        let options = options::of_copy_in(&copy.format, &columns)?;
        // One `now()` for all rows, as for the rows of one INSERT.
        let completion = bound.completion.map(|plan| self.ready(plan, &[])).transpose()?;
        let relation = bound.relation.name.clone();
        self.copying = Some(Copying {
            relation: bound.relation,
            positions: bound.positions,
            completion,
            header: options.header != CopyHeader::No,
            is_filtered: copy.filter.is_some(),
            n_rows: 0,
            staged: Vec::new(),
            memory: UncommittedMemory::new(&self.engine.query_memory),
        });
        Ok(Response::CopyIn(CopyIn { relation, columns, options }))
    }

    /// Takes rows of the copy that the last statement asked for: the columns that it named, any number of rows.
    ///
    /// # Errors
    /// 23502 and 22001 as for an `INSERT`, with the line in the context; 53200. The copy is over then.
    pub async fn copy_push(&mut self, rows: RecordBatch) -> Result<()> {
        let Some(mut copying) = self.copying.take() else { return Err(no_copy()) };
        let whole = self.whole_rows(&copying, rows).await;
        let checked = whole.and_then(|rows| copying.checked(&rows));
        let checked = checked.and_then(|rows| copying.memory.add(&rows).map(|()| rows));
        let rows = checked.inspect_err(|_| self.statement_failed())?;
        copying.n_rows += rows.num_rows();
        copying.staged.push(rows);
        self.copying = Some(copying);
        Ok(())
    }

    /// All rows of the copy are there: writes them, all or none, and gives the command tag.
    ///
    /// # Errors
    /// As an `INSERT` of the rows.
    pub async fn copy_finish(&mut self) -> Result<String> {
        let Some(copying) = self.copying.take() else { return Err(no_copy()) };
        let conflict = match copying.relation.on_conflict {
            OnKeyConflict::Error => Conflict::Error,
            OnKeyConflict::Ignore => Conflict::Ignore,
            OnKeyConflict::Overwrite => Conflict::Overwrite,
            OnKeyConflict::UpdateIfNotNull => Conflict::UpdateIfNotNull,
        };
        let Copying { relation, staged, n_rows, memory: _memory, .. } = copying;
        let written = self.insert_rows(&relation, staged, &conflict).await;
        written.inspect_err(|_| self.statement_failed())?;
        Ok(RowsTag::Copy.complete(n_rows as u64))
    }

    /// The copy came to nothing: its rows are forgotten.
    pub fn copy_abort(&mut self) {
        self.copying = None;
    }

    /// The data's rows with all columns of the relation.
    async fn whole_rows(&self, copying: &Copying, rows: RecordBatch) -> Result<RecordBatch> {
        let schema = copying.relation.visible_schema();
        let Some(plan) = &copying.completion else {
            let column = |(i, field): (usize, &Arc<arrow::datatypes::Field>)| -> ArrayRef {
                match copying.positions.iter().position(|&p| p == i) {
                    Some(at) => rows.column(at).clone(),
                    None => new_null_array(field.data_type(), rows.num_rows()),
                }
            };
            let columns = schema.fields().iter().enumerate().map(column).collect();
            return batch_of(nullable(&schema), columns, rows.num_rows());
        };
        let point = ReadPoint::now(&self.engine, &[]).await?;
        let mut batches = execute_over(&self.engine, plan.clone(), &RowsAtHand(rows), &point)?;
        let mut all = Vec::new();
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            all.push(batch_of(nullable(&schema), batch.columns().to_vec(), batch.num_rows())?);
        }
        Ok(arrow::compute::concat_batches(&nullable(&schema), &all)?)
    }

    pub(super) async fn copy_to(&mut self, copy: &CopyTo, params: &[ArrayRef]) -> Result<Response> {
        options::check_copy_out(&copy.format)?;
        let rows = match &copy.source {
            CopySource::Query(query) => self.select(query, params).await?,
            CopySource::Subscribe(subscribe) => Response::Rows(self.subscribe(subscribe).await?),
            CopySource::Relation(name, columns) => self.whole_relation(name, columns, params).await?,
            CopySource::Write(statement) => {
                let parsed = Parsed { statement: statement.as_ref().clone(), text: String::new(), offset: 0 };
                Box::pin(self.dispatch(&ParsedStatement::new(parsed), params)).await?
            }
        };
        let Response::Rows(rows) = rows else { return Err(Error::internal("a query without rows")) };
        let options = options::of_copy_out(&copy.format, &rows.columns)?;
        Ok(Response::CopyOut { options, rows: Rows { tag: RowsTag::Copy, ..rows } })
    }

    /// A relation's rows, under the types that its columns were declared with.
    async fn whole_relation(
        &mut self,
        name: &ast::Name,
        columns: &[ast::ColumnName],
        params: &[ArrayRef],
    ) -> Result<Response> {
        let relation = self.catalog().resolve(name)?.clone();
        let positions = bind_copy_columns(&relation, columns)?;
        let query = parse_query(&select_text(&relation, &positions))?;
        let response = self.select(&query, params).await.map_err(|e| at_name(&e, name))?;
        let Response::Rows(mut rows) = response else { return Ok(response) };
        for (column, position) in rows.columns.iter_mut().zip(positions) {
            column.sql_type = relation.columns[position].sql_type.clone();
        }
        Ok(Response::Rows(rows))
    }
}

impl Copying {
    /// Rows that meet the relation's constraints; an error names the line.
    fn checked(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        check_constraints(&self.relation, rows).map_err(|error| {
            let fails = |i: &usize| check_constraints(&self.relation, &rows.slice(*i, 1)).is_err();
            let failing = (0..rows.num_rows()).find(fails).unwrap_or(0);
            let line = self.n_rows + failing + 1 + usize::from(self.header);
            let relation = &self.relation.name;
            error.with_context(match self.is_filtered {
                true => format!("COPY {relation}"),
                false => format!("COPY {relation}, line {line}"),
            })
        })
    }
}

fn no_copy() -> Error {
    Error::internal("no copy is going on")
}

fn nullable(schema: &arrow::datatypes::SchemaRef) -> arrow::datatypes::SchemaRef {
    let fields = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()))
}

fn select_text(relation: &Relation, positions: &[usize]) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let names: Vec<String> = positions.iter().map(|&p| quoted(&relation.columns[p].name)).collect();
    format!("SELECT {} FROM {}.{}", names.join(", "), quoted(&relation.schema), quoted(&relation.name))
}

/// An error about a statement that we wrote, at the name in the user's.
fn at_name(error: &Error, name: &ast::Name) -> Error {
    match error.fields().position {
        Some(_) => error.clone().with_position(name.position.max(1)),
        None => error.clone(),
    }
}
