//! Cursors: `DECLARE`, `FETCH`, `MOVE`, `CLOSE`.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use hashbrown::HashMap;
use millstream_planner::ast::{DeclareCursor, Fetch, Statement};
use millstream_types::{Error, Result, SqlState};
use tokio::sync::Mutex;

use super::{Session, done};
use crate::api::{Response, ResultColumn, Rows, RowsTag};

/// A session's cursors by name.
#[derive(Default)]
pub(super) struct Cursors(HashMap<String, Cursor>);

/// A result that is taken in pieces.
struct Cursor {
    columns: Vec<ResultColumn>,
    /// Its statement's text.
    text: String,
    /// It outlives its transaction ...
    hold: bool,
    /// ... unless that is rolled back and has opened it.
    opened_here: bool,
    live: bool,
    rows: Arc<Mutex<CursorRows>>,
}

/// What of a cursor's result is still to come.
struct CursorRows {
    batches: BoxStream<'static, Result<RecordBatch>>,
    /// Rows that came with others and have not been asked for.
    rest: Option<RecordBatch>,
}

/// A cursor as `pg_cursors` shows it.
pub(crate) struct CursorInfo {
    pub(crate) name: String,
    pub(crate) statement: String,
    pub(crate) hold: bool,
}

impl Cursors {
    /// The transaction has ended.
    pub(super) fn end_transaction(&mut self, committed: bool) {
        self.0.retain(|_, cursor| cursor.hold && (committed || !cursor.opened_here));
        self.0.values_mut().for_each(|cursor| cursor.opened_here = false);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn infos(&self) -> Vec<CursorInfo> {
        let info = |(name, cursor): (&String, &Cursor)| CursorInfo {
            name: name.clone(),
            statement: cursor.text.clone(),
            hold: cursor.hold,
        };
        let mut infos: Vec<CursorInfo> = self.0.iter().map(info).collect();
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        infos
    }

    fn get(&self, name: &str) -> Result<&Cursor> {
        self.0.get(name).ok_or_else(|| no_cursor(name))
    }
}

fn no_cursor(name: &str) -> Error {
    Error::user(SqlState::INVALID_CURSOR_NAME, format!("cursor \"{name}\" does not exist"))
}

impl Session {
    pub(super) async fn declare(
        &mut self,
        declare: &DeclareCursor,
        text: &str,
        params: &[ArrayRef],
    ) -> Result<Response> {
        if self.is_outside_block() && !declare.hold {
            let message = "DECLARE CURSOR can only be used in transaction blocks";
            return Err(Error::user(SqlState::NO_ACTIVE_SQL_TRANSACTION, message)
                .with_hint("BEGIN a transaction first, or declare the cursor WITH HOLD."));
        }
        if self.cursors.0.contains_key(&declare.name) {
            let message = format!("cursor \"{}\" already exists", declare.name);
            return Err(Error::user(SqlState::DUPLICATE_CURSOR, message));
        }
        let rows = match declare.statement.as_ref() {
            Statement::Query(query) => match self.select(query, params).await? {
                Response::Rows(rows) => rows,
                _ => return Err(Error::internal("a query without rows")),
            },
            Statement::Subscribe(subscribe) => self.subscribe(subscribe).await?,
            _ => return Err(Error::internal("a cursor is for a query or a subscription")),
        };
        let cursor = Cursor {
            columns: rows.columns,
            text: text.to_owned(),
            hold: declare.hold,
            opened_here: true,
            live: rows.live,
            rows: Arc::new(Mutex::new(CursorRows { batches: rows.batches.fuse().boxed(), rest: None })),
        };
        self.cursors.0.insert(declare.name.clone(), cursor);
        if self.is_outside_block() {
            // The statement is its own transaction, and it is over.
            self.cursors.end_transaction(true);
        }
        Ok(done("DECLARE CURSOR"))
    }

    pub(super) async fn fetch(&mut self, fetch: &Fetch) -> Result<Response> {
        let cursor = self.cursors.get(&fetch.name)?;
        let wait = match (cursor.live, fetch.timeout_us) {
            (false, _) => Wait::ForAll,
            (true, None) => Wait::ForOne(None),
            (true, Some(us)) => Wait::ForOne(Some(Duration::from_micros(us))),
        };
        let columns = cursor.columns.clone();
        let mut batches = fetched(Arc::clone(&cursor.rows), fetch.count.unwrap_or(u64::MAX), wait);
        if !fetch.skip {
            return Ok(Response::Rows(Rows { columns, batches, tag: RowsTag::Fetch, live: false }));
        }
        let mut n_rows = 0;
        while let Some(batch) = batches.next().await {
            n_rows += batch?.num_rows();
        }
        Ok(done(&format!("MOVE {n_rows}")))
    }

    pub(super) fn close(&mut self, name: Option<&str>) -> Result<Response> {
        match name {
            None => {
                self.cursors.clear();
                Ok(done("CLOSE CURSOR ALL"))
            }
            Some(name) if self.close_cursor(name) => Ok(done("CLOSE CURSOR")),
            Some(name) => Err(no_cursor(name)),
        }
    }

    /// The columns of a cursor that `DECLARE` opened.
    pub fn cursor_columns(&self, name: &str) -> Option<Vec<ResultColumn>> {
        self.cursors.0.get(name).map(|cursor| cursor.columns.clone())
    }

    /// Closes a cursor; `false` if there is none of that name.
    pub fn close_cursor(&mut self, name: &str) -> bool {
        self.cursors.0.remove(name).is_some()
    }

    /// The columns that a `FETCH` gives.
    pub(super) fn fetch_columns(&self, fetch: &Fetch) -> Result<Option<Vec<ResultColumn>>> {
        let cursor = self.cursors.get(&fetch.name)?;
        Ok((!fetch.skip).then(|| cursor.columns.clone()))
    }
}

/// What a `FETCH` waits for.
#[derive(Clone, Copy)]
enum Wait {
    /// All rows that it wants, or the end.
    ForAll,
    /// One row, not longer than this; then only what is ready.
    ForOne(Option<Duration>),
}

/// Up to `left` rows of a cursor, taken out of it as they are read.
fn fetched(rows: Arc<Mutex<CursorRows>>, left: u64, wait: Wait) -> BoxStream<'static, Result<RecordBatch>> {
    let state = (rows, left, false);
    futures::stream::unfold(state, move |(rows, left, has_some)| async move {
        let batch = if left == 0 { None } else { rows.lock().await.next(left, wait, has_some).await }?;
        let n_rows = batch.as_ref().map_or(0, |b| b.num_rows() as u64);
        // Nothing follows an error.
        let left = if batch.is_ok() { left - n_rows } else { 0 };
        Some((batch, (rows, left, has_some || n_rows > 0)))
    })
    .boxed()
}

impl CursorRows {
    /// The next rows, at most `n_rows_max`; `None` at the end or if waiting is over.
    async fn next(&mut self, n_rows_max: u64, wait: Wait, has_some: bool) -> Option<Result<RecordBatch>> {
        let batch = match self.rest.take() {
            Some(batch) => batch,
            None => match self.next_batch(wait, has_some).await? {
                Ok(batch) => batch,
                Err(error) => return Some(Err(error)),
            },
        };
        let n_rows = usize::try_from(n_rows_max).map_or(batch.num_rows(), |max| max.min(batch.num_rows()));
        if n_rows < batch.num_rows() {
            self.rest = Some(batch.slice(n_rows, batch.num_rows() - n_rows));
        }
        Some(Ok(batch.slice(0, n_rows)))
    }

    async fn next_batch(&mut self, wait: Wait, has_some: bool) -> Option<Result<RecordBatch>> {
        match wait {
            Wait::ForAll => self.batches.next().await,
            Wait::ForOne(_) if has_some => self.batches.next().now_or_never()?,
            Wait::ForOne(None) => self.batches.next().await,
            Wait::ForOne(Some(time)) => tokio::time::timeout(time, self.batches.next()).await.ok()?,
        }
    }
}
