//! What a session hands to a front end: results as streams, `COPY`, notices, cancelling.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use futures::stream::BoxStream;
use millstream_types::copy::CopyOptions;
use millstream_types::{Error, Result, SqlState, SqlType};
use tokio::sync::{Notify, mpsc, oneshot};

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

/// The rows that a client sends with `COPY ... FROM STDIN`, on their way into the engine. Dropping it aborts the copy.
pub struct CopyIn {
    /// The columns of the batches to push, in order.
    pub columns: Vec<ResultColumn>,
    /// How the client's bytes are to be read.
    pub options: CopyOptions,
    sender: mpsc::Sender<CopyMessage>,
    outcome: oneshot::Receiver<Result<String>>,
}

/// The engine's side of a [`CopyIn`].
pub struct CopyRows {
    receiver: mpsc::Receiver<CopyMessage>,
    outcome: oneshot::Sender<Result<String>>,
}

/// What comes out of [`CopyRows::next`].
#[derive(Debug)]
pub enum CopyMessage {
    /// More rows.
    Batch(RecordBatch),
    /// That was all: write them and answer with [`CopyRows::answer`].
    Finish,
}

/// Batches between front end and engine.
const N_BATCHES_QUEUED: usize = 4;

impl CopyIn {
    /// Both ends of a copy.
    pub fn new(columns: Vec<ResultColumn>, options: CopyOptions) -> (CopyIn, CopyRows) {
        let (sender, receiver) = mpsc::channel(N_BATCHES_QUEUED);
        let (answer, outcome) = oneshot::channel();
        (CopyIn { columns, options, sender, outcome }, CopyRows { receiver, outcome: answer })
    }

    /// Hands rows over; waits while the engine is behind.
    ///
    /// # Errors
    /// The engine's, if it has given the copy up.
    pub async fn push(&mut self, batch: RecordBatch) -> Result<()> {
        match self.sender.send(CopyMessage::Batch(batch)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(match (&mut self.outcome).await {
                Ok(Err(error)) => error,
                _ => gone(),
            }),
        }
    }

    /// All rows are there: writes them and gives the command tag.
    ///
    /// # Errors
    /// The engine's.
    pub async fn finish(self) -> Result<String> {
        // If the engine has given up, its reason is in the outcome.
        let _ = self.sender.send(CopyMessage::Finish).await;
        self.outcome.await.unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> Error {
    Error::internal("the copy ended without an answer")
}

impl CopyRows {
    /// What comes next; `None` if the front end has aborted the copy.
    pub async fn next(&mut self) -> Option<CopyMessage> {
        self.receiver.recv().await
    }

    /// Ends the copy with its command tag (`COPY n`) or an error, at any time.
    pub fn answer(self, outcome: Result<String>) {
        // The front end may be gone; then nobody wants to know.
        let _ = self.outcome.send(outcome);
    }
}
