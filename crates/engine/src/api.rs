//! What a session hands to a front end: results as streams, `COPY`, notices, cancelling.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use futures::stream::BoxStream;
use millstream_types::copy::CopyOptions;
use millstream_types::{Result, SqlState, SqlType};
use tokio::sync::Notify;

/// Where a session stands between statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// No transaction is open.
    Idle,
    /// In a transaction that `BEGIN` opened.
    InTransaction,
    /// In a transaction of which a statement failed: only `ROLLBACK` is admitted.
    Failed,
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultColumn {
    /// As the client sees it.
    pub name: String,
    /// The type; batches carry exactly [`SqlType::arrow_type`].
    pub sql_type: SqlType,
    /// The relation and the number of the attribute, if the column is one unchanged.
    pub origin: Option<(u32, i16)>,
}

impl ResultColumn {
    /// A column that is computed.
    pub fn computed(name: impl Into<String>, sql_type: SqlType) -> Self {
        ResultColumn { name: name.into(), sql_type, origin: None }
    }
}

/// What a statement gives.
pub enum Response {
    /// The statement was empty.
    Empty,
    /// Done, without rows.
    Done {
        /// The command tag, complete: `CREATE TABLE`, `INSERT 0 1`.
        tag: String,
    },
    /// Rows follow.
    Rows(Rows),
    /// The client is to send rows.
    CopyIn(CopyIn),
    /// Rows are to be sent in a `COPY` format.
    CopyOut {
        /// Their form.
        options: CopyOptions,
        /// The rows; the tag is not used, it is `COPY n`.
        rows: Rows,
    },
}

/// A result that is pulled batch by batch. Dropping it stops the work behind it.
pub struct Rows {
    /// The columns of every batch.
    pub columns: Vec<ResultColumn>,
    /// The batches, of any size.
    pub batches: BoxStream<'static, Result<RecordBatch>>,
    /// How the command tag is made.
    pub tag: RowsTag,
    /// The result never ends by itself: what there is goes out whenever nothing more is ready.
    pub live: bool,
}

/// The command behind a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsTag {
    /// `SELECT`, `VALUES`, `TABLE`
    Select,
    /// `SUBSCRIBE`
    Subscribe,
    /// `INSERT ... RETURNING`
    Insert,
    /// `UPDATE ... RETURNING`
    Update,
    /// `DELETE ... RETURNING`
    Delete,
    /// `FETCH`
    Fetch,
    /// `COPY`
    Copy,
    /// `SHOW`
    Show,
    /// `DESCRIBE`
    Describe,
    /// `EXPLAIN`
    Explain,
}

impl RowsTag {
    /// The command tag after `n_rows` rows.
    pub fn complete(self, n_rows: u64) -> String {
        match self {
            RowsTag::Select => format!("SELECT {n_rows}"),
            RowsTag::Subscribe => format!("SUBSCRIBE {n_rows}"),
            RowsTag::Insert => format!("INSERT 0 {n_rows}"),
            RowsTag::Update => format!("UPDATE {n_rows}"),
            RowsTag::Delete => format!("DELETE {n_rows}"),
            RowsTag::Fetch => format!("FETCH {n_rows}"),
            RowsTag::Copy => format!("COPY {n_rows}"),
            RowsTag::Show => "SHOW".to_owned(),
            RowsTag::Describe => "DESCRIBE".to_owned(),
            RowsTag::Explain => "EXPLAIN".to_owned(),
        }
    }
}

/// A message to the client that is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How much it matters.
    pub severity: Severity,
    /// The SQLSTATE; `00000` or `01000` if nothing fits better.
    pub state: SqlState,
    /// What there is to say.
    pub message: String,
    /// Details, if any.
    pub detail: Option<String>,
    /// What the user may do, if known.
    pub hint: Option<String>,
}

/// How much a [`Notice`] matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// `INFO`
    Info,
    /// `NOTICE`
    Notice,
    /// `WARNING`
    Warning,
}

/// By which another task cancels the statement that a session runs now.
///
/// The session clears it when a statement begins, so that a cancellation that comes between statements does nothing.
#[derive(Clone, Debug, Default)]
pub struct CancelHandle(Arc<CancelState>);

#[derive(Debug, Default)]
struct CancelState {
    cancelled: AtomicBool,
    changed: Notify,
}

impl CancelHandle {
    /// Asks the running statement to stop.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }

    /// A statement begins: earlier requests are forgotten.
    pub fn clear(&self) {
        self.0.cancelled.store(false, Ordering::Release);
    }

    /// Whether the running statement is to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Acquire)
    }

    /// Waits until the running statement is to stop.
    pub async fn cancelled(&self) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_cancelled() {
                return;
            }
            changed.await;
        }
    }
}

/// What a client is to send for `COPY ... FROM STDIN`. The session takes the rows:
/// [`crate::Session::copy_push`], [`crate::Session::copy_finish`], [`crate::Session::copy_abort`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyIn {
    /// The relation's name, for errors.
    pub relation: String,
    /// The columns of the batches to push, in order.
    pub columns: Vec<ResultColumn>,
    /// How the client's bytes are to be read.
    pub options: CopyOptions,
}
