//! `COPY`: rows of a client into a relation, and rows of a relation, query or subscription out.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use datafusion::logical_expr::LogicalPlan;
use futures::StreamExt;
use millstream_expr::scalar::batch_of;
use millstream_planner::ast::{self, CopyFrom, CopySource, CopyTo, OnKeyConflict};
use millstream_planner::catalog::Relation;
use millstream_planner::dml::{bind_copy, bind_copy_columns, check_constraints};
use millstream_planner::parser::parse_query;
use millstream_types::copy::{CopyFormat, CopyOptions};
use millstream_types::{Error, Result, SqlState};

use super::Session;
use crate::api::{CopyIn, Response, ResultColumn, Rows, RowsTag};
use crate::memory::UncommittedMemory;
use crate::read::{ReadPoint, RowsAtHand, execute_over};
use crate::staged::Conflict;

/// A `COPY ... FROM` whose rows are coming.
pub(super) struct Copying {
    relation: Arc<Relation>,
    /// The data's columns, as positions in the relation.
    positions: Vec<usize>,
    /// From the data's columns to the relation's, ready to run; `None` if what the data lacks is null.
    defaults: Option<LogicalPlan>,
    /// The first line names the columns.
    header: bool,
    n_rows: usize,
    /// What has come so far, written all at once in the end.
    staged: Vec<RecordBatch>,
    memory: UncommittedMemory,
}

impl Session {
    pub(super) fn copy_from(&mut self, copy: &CopyFrom) -> Result<Response> {
        self.check_writable("COPY FROM")?;
        let options = options_of(&copy.format)?;
        let bound = bind_copy(&self.catalog(), copy)?;
        let columns = bound.columns().into_iter().map(|(name, t)| ResultColumn::computed(name, t)).collect();
        // One `now()` for all rows, as for the rows of one INSERT.
        let defaults = bound.defaults.map(|plan| self.ready(plan, &[])).transpose()?;
        let relation = bound.relation.name.clone();
        self.copying = Some(Copying {
            relation: bound.relation,
            positions: bound.positions,
            defaults,
            header: options.header,
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
        let Some(plan) = &copying.defaults else {
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
        let options = options_of(&copy.format)?;
        let rows = match &copy.source {
            CopySource::Query(query) => self.select(query, params).await?,
            CopySource::Subscribe(subscribe) => Response::Rows(self.subscribe(subscribe).await?),
            CopySource::Relation(name, columns) => {
                let relation = self.catalog().resolve(name)?.clone();
                let text = select_text(&relation, columns)?;
                let query = parse_query(&text)?;
                self.select(&query, params).await.map_err(|e| at_name(&e, name))?
            }
        };
        let Response::Rows(rows) = rows else { return Err(Error::internal("a query without rows")) };
        Ok(Response::CopyOut { options, rows: Rows { tag: RowsTag::Copy, ..rows } })
    }
}

impl Copying {
    /// Rows that meet the relation's constraints; an error names the line.
    fn checked(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        check_constraints(&self.relation, rows).map_err(|error| {
            let fails = |i: &usize| check_constraints(&self.relation, &rows.slice(*i, 1)).is_err();
            let failing = (0..rows.num_rows()).find(fails).unwrap_or(0);
            let line = self.n_rows + failing + 1 + usize::from(self.header);
            error.with_context(format!("COPY {}, line {line}", self.relation.name))
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

fn select_text(relation: &Relation, columns: &[ast::ColumnName]) -> Result<String> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let positions = bind_copy_columns(relation, columns)?;
    let names: Vec<String> = positions.iter().map(|&p| quoted(&relation.columns[p].name)).collect();
    Ok(format!("SELECT {} FROM {}.{}", names.join(", "), quoted(&relation.schema), quoted(&relation.name)))
}

/// An error about a statement that we wrote, at the name in the user's.
fn at_name(error: &Error, name: &ast::Name) -> Error {
    match error.fields().position {
        Some(_) => error.clone().with_position(name.position.max(1)),
        None => error.clone(),
    }
}

/// A statement's options with the format's defaults, checked as Postgres does.
fn options_of(given: &ast::CopyOptions) -> Result<CopyOptions> {
    let format = match given.format {
        ast::CopyFormat::Text => CopyFormat::Text,
        ast::CopyFormat::Csv => CopyFormat::Csv,
        ast::CopyFormat::Binary => CopyFormat::Binary,
    };
    let mut options = CopyOptions::new(format);
    let invalid = |message: &str| Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, message));
    let byte = |c: Option<char>, default: u8| c.map_or(default, |c| c as u8);
    options.delimiter = byte(given.delimiter, options.delimiter);
    options.quote = byte(given.quote, options.quote);
    options.escape = byte(given.escape, options.quote);
    options.header = given.header;
    if let Some(null) = &given.null {
        options.null.clone_from(null);
    }
    let csv = format == CopyFormat::Csv;
    if format == CopyFormat::Binary {
        for (option, is_given) in
            [("DELIMITER", given.delimiter.is_some()), ("NULL", given.null.is_some()), ("HEADER", given.header)]
        {
            if is_given {
                let message = format!("cannot specify {option} in BINARY mode");
                return Err(Error::user(SqlState::SYNTAX_ERROR, message));
            }
        }
        return Ok(options);
    }
    if !csv && (given.quote.is_some() || given.escape.is_some()) {
        let option = if given.quote.is_some() { "quote" } else { "escape" };
        return Err(Error::not_supported(format!("COPY {option} available only in CSV mode")));
    }
    if matches!(options.delimiter, b'\n' | b'\r') {
        return invalid("COPY delimiter cannot be newline or carriage return");
    }
    if !csv && b"\\.abcdefghijklmnopqrstuvwxyz0123456789".contains(&options.delimiter) {
        return invalid(&format!("COPY delimiter cannot be \"{}\"", char::from(options.delimiter)));
    }
    if options.null.contains(['\n', '\r']) {
        return invalid("COPY null representation cannot use newline or carriage return");
    }
    if options.null.as_bytes().contains(&options.delimiter) {
        return Err(Error::not_supported("COPY delimiter must not appear in the NULL specification"));
    }
    if csv && options.delimiter == options.quote {
        return invalid("COPY delimiter and quote must be different");
    }
    if csv && options.null.as_bytes().contains(&options.quote) {
        return Err(Error::not_supported("CSV quote character must not appear in the NULL specification"));
    }
    Ok(options)
}
