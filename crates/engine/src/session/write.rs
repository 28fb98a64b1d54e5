//! `INSERT`, `UPDATE`, `DELETE`, `TRUNCATE`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use datafusion::logical_expr::LogicalPlan;
use futures::StreamExt;
use futures::stream::BoxStream;
use hashbrown::HashSet;
use millstream_expr::Scalar;
use millstream_expr::scalar::batch_of;
use millstream_planner::access::{KeyLookup, PointQuery};
use millstream_planner::ast::{Delete, Insert, OnKeyConflict, Truncate};
use millstream_planner::catalog::{Kind, Relation};
use millstream_planner::dml::{
    BoundConflict, BoundReturning, ConflictUpdate, InsertRows, bind_delete, bind_insert, check_constraints,
};
use millstream_planner::{Purpose, RelationId, optimize, streaming};
use millstream_types::delta::take_batch;
use millstream_types::{Error, Result, SqlState, SqlType};

use super::Session;
use super::planned::{ParsedStatement, PlannedWrite};
use super::query::{columns_of, fixed_types};
use crate::api::{Response, Rows, RowsTag};
use crate::coordinator::{Commit, OrderHold, WriteOp};
use crate::engine::EngineState;
use crate::memory::UncommittedMemory;
use crate::read::{RowsAtHand, execute_at, execute_over, stored_relations};
use crate::staged::{Conflict, UpdateRows};
use crate::transaction::{Transaction, Written};

/// A statement that reads anew for this time does so with the write order for itself.
const ATTEMPT_WITH_ORDER: usize = 3;
/// Attempts of a statement before it fails with 40001: its hold on the write order has run out each time.
const ATTEMPTS_MAX: usize = 5;
/// How long a single statement has the write order at most.
const ORDER_HELD_MAX: Duration = Duration::from_secs(10);

/// A statement that writes, with its parameters' values, ready to be run at any epoch.
enum Write {
    /// Rows that do not depend on an epoch.
    Rows { relation: Arc<Relation>, rows: RecordBatch, conflict: Conflict },
    /// `INSERT ... SELECT`
    Query { relation: Arc<Relation>, plan: LogicalPlan, conflict: Conflict },
    /// `UPDATE`; what is read is the old rows and the new ones, side by side.
    Update { relation: Arc<Relation>, reading: Reading, keys_change: bool },
    /// `DELETE`; what is read is the rows.
    Delete { relation: Arc<Relation>, reading: Reading },
}

/// What a statement that changes rows reads.
enum Reading {
    Plan(LogicalPlan),
    /// Rows of the relation itself, by primary key.
    Point(Arc<PointQuery>, KeyLookup, Vec<ArrayRef>),
}

impl Write {
    fn relation(&self) -> &Arc<Relation> {
        match self {
            Write::Rows { relation, .. }
            | Write::Query { relation, .. }
            | Write::Update { relation, .. }
            | Write::Delete { relation, .. } => relation,
        }
    }

    fn plan(&self) -> Option<&LogicalPlan> {
        match self {
            Write::Query { plan, .. }
            | Write::Update { reading: Reading::Plan(plan), .. }
            | Write::Delete { reading: Reading::Plan(plan), .. } => Some(plan),
            Write::Rows { .. } | Write::Update { .. } | Write::Delete { .. } => None,
        }
    }
}

/// `RETURNING`, ready to be run.
struct Returning {
    plan: LogicalPlan,
    bound: BoundReturning,
}

/// What a statement gives: the rows of `RETURNING`, or how many it wrote.
enum Outcome {
    Count(usize),
    Rows(Vec<(String, SqlType)>, Vec<RecordBatch>),
}

impl Session {
    pub(super) async fn insert(&mut self, insert: &Insert, params: &[ArrayRef]) -> Result<Response> {
        self.check_writable("INSERT")?;
        let bound = bind_insert(&self.catalog(), insert, &fixed_types(params), &self.format_settings())?;
        let relation = bound.relation;
        let conflict = match &bound.conflict {
            BoundConflict::Nothing => Conflict::Ignore,
            BoundConflict::Table(OnKeyConflict::Error) => Conflict::Error,
            BoundConflict::Table(OnKeyConflict::Ignore) => Conflict::Ignore,
            BoundConflict::Table(OnKeyConflict::Overwrite) => Conflict::Overwrite,
            BoundConflict::Table(OnKeyConflict::UpdateIfNotNull) => Conflict::UpdateIfNotNull,
            BoundConflict::Update(update) => self.conflict_update(&relation, update, params)?,
        };
        let write = match bound.rows {
            InsertRows::Template(template) => {
                let rows = check_constraints(&relation, &template.rows(params)?)?;
                Write::Rows { relation, rows, conflict }
            }
            InsertRows::Batch(rows) => {
                let rows = check_constraints(&relation, &rows)?;
                Write::Rows { relation, rows, conflict }
            }
            InsertRows::Plan(plan) => Write::Query { relation, plan: self.ready(plan, params)?, conflict },
        };
        self.write(RowsTag::Insert, vec![write], bound.returning, params).await
    }

    pub(super) async fn update(&mut self, statement: &ParsedStatement, params: &[ArrayRef]) -> Result<Response> {
        self.check_writable("UPDATE")?;
        let (planned, params) = self.planned_with_params(statement, params)?;
        let (relation, reading) = (Arc::clone(&planned.relation), self.reading(&planned, &params)?);
        let write = Write::Update { relation, reading, keys_change: planned.keys_change };
        self.write(RowsTag::Update, vec![write], planned.returning.clone(), &params).await
    }

    pub(super) async fn delete(&mut self, statement: &ParsedStatement, params: &[ArrayRef]) -> Result<Response> {
        self.check_writable("DELETE")?;
        let (planned, params) = self.planned_with_params(statement, params)?;
        let write =
            Write::Delete { relation: Arc::clone(&planned.relation), reading: self.reading(&planned, &params)? };
        self.write(RowsTag::Delete, vec![write], planned.returning.clone(), &params).await
    }

    /// The plan of an `UPDATE` or `DELETE`, and the values of its parameters: constants of the statement if there are no others.
    fn planned_with_params(
        &self,
        statement: &ParsedStatement,
        params: &[ArrayRef],
    ) -> Result<(Arc<PlannedWrite>, Vec<ArrayRef>)> {
        if params.is_empty()
            && let Some(lookup) = self.planned_write_lookup(statement)
        {
            return Ok(lookup);
        }
        Ok((self.planned_write(statement, &fixed_types(params))?, params.to_vec()))
    }

    fn reading(&self, planned: &PlannedWrite, params: &[ArrayRef]) -> Result<Reading> {
        Ok(match planned.point(params) {
            Some(point) => Reading::Point(Arc::clone(point), point.lookup(params)?, params.to_vec()),
            None => Reading::Plan(self.ready(planned.plan.clone(), params)?),
        })
    }

    pub(super) async fn truncate(&mut self, truncate: &Truncate) -> Result<Response> {
        self.check_writable("TRUNCATE TABLE")?;
        let catalog = self.catalog();
        let mut writes = Vec::new();
        for name in &truncate.names {
            let relation = catalog.resolve(name)?;
            if relation.kind != Kind::Table {
                let message = format!("cannot truncate {} \"{}\"", relation.kind.noun(), relation.name);
                return Err(Error::user(SqlState::WRONG_OBJECT_TYPE, message).with_position(name.position.max(1)));
            }
            let delete =
                Delete { with: None, table: name.clone(), alias: None, using: vec![], filter: None, returning: None };
            let bound = bind_delete(&catalog, &delete, &[])?;
            let reading = Reading::Plan(self.ready(bound.plan, &[])?);
            writes.push(Write::Delete { relation: bound.relation, reading });
        }
        self.write(RowsTag::Delete, writes, None, &[]).await?;
        Ok(super::done("TRUNCATE TABLE"))
    }

    /// Runs statements that write, in the open transaction or as one of their own.
    async fn write(
        &mut self,
        tag: RowsTag,
        writes: Vec<Write>,
        returning: Option<BoundReturning>,
        params: &[ArrayRef],
    ) -> Result<Response> {
        let returning = match returning {
            Some(bound) => Some(Returning { plan: self.ready(bound.plan.clone(), params)?, bound }),
            None => None,
        };
        self.until_back(&relations_of(&writes, returning.as_ref())?).await?;
        let outcome = match self.open_transaction().await? {
            Some(transaction) => {
                let mut transaction = transaction.lock().await;
                run(&self.engine, &mut transaction, &writes, returning.as_ref()).await?
            }
            None => match self.write_at_turn(&writes, returning.is_some()).await? {
                Some(outcome) => outcome,
                None => self.write_alone(&writes, returning.as_ref()).await?,
            },
        };
        Ok(match outcome {
            Outcome::Count(n_rows) => Response::Done { tag: tag.complete(n_rows as u64) },
            Outcome::Rows(columns, batches) => {
                let columns = columns_of(&columns);
                let batches = futures::stream::iter(batches.into_iter().map(Ok)).boxed();
                Response::Rows(Rows { columns, batches, tag, live: false })
            }
        })
    }

    /// Writes new rows of a relation, all or none, in the open transaction or as one of their own.
    pub(super) async fn insert_rows(
        &mut self,
        relation: &Arc<Relation>,
        batches: Vec<RecordBatch>,
        conflict: &Conflict,
    ) -> Result<()> {
        if let Some(transaction) = self.open_transaction().await? {
            let write = |rows| Write::Rows { relation: Arc::clone(relation), rows, conflict: conflict.clone() };
            let writes: Vec<Write> = batches.into_iter().map(write).collect();
            let mut transaction = transaction.lock().await;
            return run(&self.engine, &mut transaction, &writes, None).await.map(|_| ());
        }
        let op = |rows| WriteOp::Insert { relation: relation.id, rows, conflict: conflict.clone() };
        let ops = batches.into_iter().map(op).collect();
        self.committing.store(true, Ordering::Release);
        let written = self.engine.clock.write(self.commit_of(ops)).await;
        self.committing.store(false, Ordering::Release);
        written.map(|_| ())
    }

    /// Rows that depend on no epoch need not be looked at before their turn.
    async fn write_at_turn(&mut self, writes: &[Write], has_returning: bool) -> Result<Option<Outcome>> {
        let [write] = writes else { return Ok(None) };
        // Given back when the rows have been written.
        let memory;
        let (relation, rows, conflict) = match write {
            Write::Rows { conflict, .. } | Write::Query { conflict, .. } if conflict.moves() => return Ok(None),
            Write::Rows { relation, rows, conflict } if !has_returning => (relation, rows.clone(), conflict),
            Write::Query { relation, plan, conflict } if !has_returning && stored_relations(plan)?.is_empty() => {
                let (_, mut batches) = crate::read::execute(&self.engine, plan.clone()).await?;
                memory = UncommittedMemory::new(&self.engine.query_memory);
                let mut all = Vec::new();
                while let Some(batch) = batches.next().await {
                    let rows = fit(relation, &batch?)?;
                    memory.add(&rows)?;
                    all.push(rows);
                }
                (relation, concat_batches(&relation_nullable(relation), &all)?, conflict)
            }
            _ => return Ok(None),
        };
        let op = WriteOp::Insert { relation: relation.id, rows, conflict: conflict.clone() };
        self.committing.store(true, Ordering::Release);
        let written = self.engine.clock.write(self.commit_of(vec![op])).await;
        self.committing.store(false, Ordering::Release);
        Ok(Some(Outcome::Count(written?.n_rows())))
    }

    fn commit_of(&self, ops: Vec<WriteOp>) -> Commit {
        Commit { ops, is_asynchronous: self.is_asynchronous(), ..Commit::default() }
    }

    /// Whether commits are acknowledged before they are durable.
    pub(super) fn is_asynchronous(&self) -> bool {
        self.settings.get("synchronous_commit").is_ok_and(|value| value == "off")
    }

    /// Runs statements as a transaction, again if what they read has changed before their turn came.
    async fn write_alone(&mut self, writes: &[Write], returning: Option<&Returning>) -> Result<Outcome> {
        let ids = relations_of(writes, returning)?;
        self.engine.clock.until_back(&ids).await?;
        let mut attempt = 1;
        loop {
            let order = if attempt >= ATTEMPT_WITH_ORDER {
                Some(OrderHold::take(&self.engine.clock, ORDER_HELD_MAX).await?)
            } else {
                None
            };
            if attempt == 1 {
                self.engine.clock.until_all_seen().await;
            } else {
                // What was in the way may not be closed yet.
                self.engine.clock.until_all_closed().await;
            }
            let mut transaction = Transaction::begin_on(&self.engine, &ids, order)?;
            let outcome = run(&self.engine, &mut transaction, writes, returning).await?;
            self.committing.store(true, Ordering::Release);
            let committed = transaction.commit(&self.engine, self.is_asynchronous(), None).await;
            self.committing.store(false, Ordering::Release);
            match committed {
                Err(error) if error.state() == SqlState::SERIALIZATION_FAILURE && attempt < ATTEMPTS_MAX => {
                    attempt += 1;
                }
                committed => return committed.map(|()| outcome),
            }
        }
    }

    /// `DO UPDATE`, as a function of the rows that are there and those that were to come.
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
        let moves = update.set_columns.iter().any(|c| relation.primary_key.contains(c));
        let update: UpdateRows = Arc::new(move |old: &RecordBatch, new: &RecordBatch| {
            let both = old.columns()[..n_visible].iter().chain(&new.columns()[..n_visible]).cloned().collect();
            let both = batch_of(schema.clone(), both, old.num_rows())?;
            let (applies, values) =
                scalars.split_first().ok_or_else(|| Error::internal("an update has a condition"))?;
            let applies = applies.evaluate(&both)?;
            let applies = applies.as_boolean();
            let applies: BooleanArray =
                if applies.null_count() > 0 { prep_null_mask_filter(applies) } else { applies.clone() };
            // Only of the rows that change may the new values fail.
            let both = filter_record_batch(&both, &applies)?;
            let values = values.iter().map(|s| s.evaluate(&both)).collect::<Result<Vec<_>>>()?;
            // A table with a key has no hidden column.
            let rows = checked(&relation, values, both.num_rows())?;
            Ok((applies, rows))
        });
        Ok(if moves { Conflict::Move(update) } else { Conflict::Update(update) })
    }
}

/// The relations that statements write and read.
fn relations_of(writes: &[Write], returning: Option<&Returning>) -> Result<Vec<RelationId>> {
    let mut ids: Vec<RelationId> = writes.iter().map(|w| w.relation().id).collect();
    for plan in writes.iter().filter_map(Write::plan).chain(returning.map(|r| &r.plan)) {
        ids.extend(stored_relations(plan)?);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Runs statements in a transaction.
async fn run(
    engine: &Arc<EngineState>,
    transaction: &mut Transaction,
    writes: &[Write],
    returning: Option<&Returning>,
) -> Result<Outcome> {
    let mut written = Written::default();
    // Columns of other relations beside the rows that were written.
    let mut beside = Vec::new();
    for write in writes {
        let (rows, of_others) = run_one(engine, transaction, write).await?;
        written.rows.extend(rows.rows);
        beside = of_others;
    }
    let (Some(Returning { plan, bound }), [write, ..]) = (returning, writes) else {
        return Ok(Outcome::Count(written.n_rows()));
    };
    let n_visible = write.relation().visible_columns().len();
    let schema = &bound.rows;
    let visible = |batch: &RecordBatch| {
        let mut columns = batch.columns()[..n_visible].to_vec();
        columns.extend_from_slice(&beside);
        batch_of(schema.clone(), columns, batch.num_rows())
    };
    let rows = written.rows.iter().map(visible).collect::<Result<Vec<_>>>()?;
    let rows = RowsAtHand(concat_batches(schema, &rows)?);
    transaction.reads.add_plan(plan)?;
    let point = transaction.point(engine, &stored_relations(plan)?).await?;
    let mut batches = execute_over(engine, plan.clone(), &rows, &point)?;
    let mut all = Vec::new();
    while let Some(batch) = batches.next().await {
        all.push(batch?);
    }
    Ok(Outcome::Rows(bound.columns.clone(), all))
}

/// What a statement writes, and the columns of other relations that stand beside the rows, in one batch with them.
async fn run_one(
    engine: &Arc<EngineState>,
    transaction: &mut Transaction,
    write: &Write,
) -> Result<(Written, Vec<ArrayRef>)> {
    let alone = |written| (written, Vec::new());
    match write {
        Write::Rows { relation, rows, conflict } => {
            let since = transaction.statement(relation);
            transaction.insert(engine, relation, rows, conflict, since).await.map(alone)
        }
        Write::Query { relation, plan, conflict } => {
            let mut batches = read_plan(engine, transaction, plan).await?;
            // Rows are staged as they come.
            let since = transaction.statement(relation);
            let mut written = Written::default();
            while let Some(batch) = batches.next().await {
                let rows = fit(relation, &batch?)?;
                written.rows.extend(transaction.insert(engine, relation, &rows, conflict, since).await?.rows);
            }
            Ok(alone(written))
        }
        Write::Update { relation, reading, keys_change } => {
            let (old, mut new) = read_rows(engine, transaction, relation, reading).await?;
            let beside = new.split_off(relation.columns.len());
            let new = checked(relation, new, old.num_rows())?;
            let written = transaction.change(engine, relation, &old, Some(&new), *keys_change).await?;
            Ok((written, beside))
        }
        Write::Delete { relation, reading } => {
            let (old, beside) = read_rows(engine, transaction, relation, reading).await?;
            Ok((transaction.change(engine, relation, &old, None, false).await?, beside))
        }
    }
}

async fn read_plan(
    engine: &Arc<EngineState>,
    transaction: &mut Transaction,
    plan: &LogicalPlan,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    transaction.reads.add_plan(plan)?;
    let point = transaction.point(engine, &stored_relations(plan)?).await?;
    execute_at(engine, plan.clone(), &point).await
}

/// The rows of a relation that a statement changes, each once, and the columns beside them.
async fn read_rows(
    engine: &Arc<EngineState>,
    transaction: &mut Transaction,
    relation: &Relation,
    reading: &Reading,
) -> Result<(RecordBatch, Vec<ArrayRef>)> {
    let mut all = Vec::new();
    let memory;
    let schema: SchemaRef = match reading {
        Reading::Plan(plan) => {
            let mut batches = read_plan(engine, transaction, plan).await?;
            memory = UncommittedMemory::new(&engine.query_memory);
            while let Some(batch) = batches.next().await {
                let rows = batch?;
                memory.add(&rows)?;
                all.push(rows);
            }
            Arc::new(plan.schema().as_arrow().clone())
        }
        Reading::Point(query, lookup, params) => {
            transaction.reads.add_lookup(lookup);
            let point = transaction.point(engine, &[relation.id]).await?;
            let rows = point.find(&engine.workers, lookup).await?;
            let rows = rows.ok_or_else(|| Error::internal("a table without an index over its primary key"))?;
            for batch in rows {
                all.push(query.evaluate(&batch, params)?);
            }
            Arc::clone(query.schema())
        }
    };
    let schema = all.first().map_or(schema, RecordBatch::schema);
    // A row may come more than once, and any one of them counts.
    let rows = first_of_each(&concat_batches(&schema, &all)?, &relation.primary_key)?;
    let (old, new) = rows.columns().split_at(relation.columns.len());
    Ok((batch_of(relation.full_schema(), old.to_vec(), rows.num_rows())?, new.to_vec()))
}

/// What a query gives as rows of a relation that meet its constraints.
fn fit(relation: &Relation, rows: &RecordBatch) -> Result<RecordBatch> {
    let rows = batch_of(relation_nullable(relation), rows.columns().to_vec(), rows.num_rows())?;
    check_constraints(relation, &rows)
}

/// New rows of a relation, all columns, that meet its constraints.
fn checked(relation: &Relation, columns: Vec<ArrayRef>, n_rows: usize) -> Result<RecordBatch> {
    let n_visible = relation.visible_columns().len();
    let visible = batch_of(relation_nullable(relation), columns[..n_visible].to_vec(), n_rows)?;
    let mut fit = check_constraints(relation, &visible)?.columns().to_vec();
    fit.extend_from_slice(&columns[n_visible..]);
    batch_of(relation.full_schema(), fit, n_rows)
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
