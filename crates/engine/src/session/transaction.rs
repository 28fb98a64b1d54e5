//! Transaction blocks: `BEGIN` to `COMMIT` or `ROLLBACK`, savepoints, and the statements of one message.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millstream_planner::RelationId;
use millstream_planner::ast::{Set, Statement, TransactionModes};
use millstream_types::{Error, Result, SqlState};

use super::catalog_changes::CatalogChanges;
use super::{Session, done};
use crate::api::{Response, TransactionStatus};
use crate::coordinator::{Commit, OrderHold, Publication};
use crate::transaction::{SavePoint, SharedTransaction, Transaction};

/// Conflicts in a row after which a session's next transaction has the write order for itself.
const CONFLICTS_MAX: u32 = 2;
/// How long a transaction has the write order at most.
const ORDER_HELD_MAX: Duration = Duration::from_secs(1);

/// What a session's statements share a transaction with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// Each statement is a transaction of its own.
    Nothing,
    /// The other statements of one message.
    Message,
    /// What stands between `BEGIN` and its end.
    Begun,
}

/// Where a session stands in its transaction block.
pub(super) struct BlockState {
    pub(super) block: Block,
    /// Statements of a message that share a transaction are being run.
    in_message: bool,
    failed: bool,
    read_only: bool,
    /// Begun by the first statement that reads or writes.
    transaction: Option<SharedTransaction>,
    /// What it has done to the catalog.
    pub(super) changes: Option<CatalogChanges>,
    save_points: Vec<(String, SavePoint, Option<CatalogChanges>)>,
    /// Transactions in a row that ended in 40001.
    n_conflicts: u32,
}

impl Default for BlockState {
    fn default() -> Self {
        BlockState {
            block: Block::Nothing,
            in_message: false,
            failed: false,
            read_only: false,
            transaction: None,
            changes: None,
            save_points: Vec::new(),
            n_conflicts: 0,
        }
    }
}

impl BlockState {
    pub(super) fn status(&self) -> TransactionStatus {
        match self.block {
            Block::Begun if self.failed => TransactionStatus::Failed,
            Block::Begun => TransactionStatus::InTransaction,
            Block::Nothing | Block::Message => TransactionStatus::Idle,
        }
    }

    /// The transaction ends, whatever becomes of it; the statements of a message that follow begin another one.
    fn end(&mut self) -> Option<SharedTransaction> {
        self.block = if self.in_message { Block::Message } else { Block::Nothing };
        self.failed = false;
        self.read_only = false;
        self.save_points.clear();
        self.changes = None;
        self.transaction.take()
    }

    pub(super) fn fail(&mut self) {
        self.failed |= self.block != Block::Nothing;
    }
}

impl Session {
    /// The transaction that statements share; `None` if each is one of its own.
    ///
    /// # Errors
    /// 57P01
    pub(super) async fn open_transaction(&mut self) -> Result<Option<SharedTransaction>> {
        if self.block.block == Block::Nothing {
            return Ok(None);
        }
        if self.block.transaction.is_none() {
            let order = if self.block.n_conflicts >= CONFLICTS_MAX {
                Some(OrderHold::take(&self.engine.clock, ORDER_HELD_MAX).await?)
            } else {
                None
            };
            if self.block.n_conflicts > 0 {
                // What was in the way may not be closed yet.
                self.engine.clock.until_all_closed().await;
            } else {
                self.engine.clock.until_all_seen().await;
            }
            let transaction = Transaction::begin(&self.engine, order)?;
            self.block.transaction = Some(Arc::new(tokio::sync::Mutex::new(transaction)));
        }
        Ok(self.block.transaction.clone())
    }

    /// Waits until relations are back that come back after a start, before the transaction takes its epoch.
    ///
    /// # Errors
    /// 55000 if one has failed, 42P01 if it was dropped.
    pub(super) async fn until_back(&self, ids: &[RelationId]) -> Result<()> {
        if self.block.block == Block::Nothing { Ok(()) } else { self.engine.clock.until_back(ids).await }
    }

    /// # Errors
    /// 25006 in a read-only transaction.
    pub(super) fn check_writable(&self, what: &str) -> Result<()> {
        let by_default = self.block.block != Block::Begun && self.settings.is_on("default_transaction_read_only");
        if self.block.read_only || by_default {
            let message = format!("cannot execute {what} in a read-only transaction");
            return Err(Error::user(SqlState::READ_ONLY_SQL_TRANSACTION, message));
        }
        Ok(())
    }

    /// # Errors
    /// 25P02 for whatever does not end a transaction that has failed.
    pub(super) fn check_not_failed(&self, statement: &Statement) -> Result<()> {
        let ends = matches!(
            statement,
            Statement::Commit
                | Statement::CommitAndChain
                | Statement::Rollback
                | Statement::RollbackAndChain
                | Statement::RollbackTo(_)
        );
        if self.block.failed && !ends {
            return Err(Error::user(
                SqlState::IN_FAILED_SQL_TRANSACTION,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, modes: &TransactionModes) -> Response {
        if self.block.block == Block::Begun {
            self.warn(SqlState::ACTIVE_SQL_TRANSACTION, "there is already a transaction in progress");
        }
        // Statements of the same message that came before belong to it.
        self.block.block = Block::Begun;
        let by_default = || self.settings.is_on("default_transaction_read_only");
        self.block.read_only = modes.read_only.unwrap_or_else(by_default);
        done("BEGIN")
    }

    /// `SET TRANSACTION ...`
    ///
    /// # Errors
    /// 25001 after the first query, where Postgres has it too.
    fn set_transaction_read_only(&mut self, on: bool) -> Result<()> {
        if self.block.block == Block::Nothing {
            self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, "SET TRANSACTION can only be used in transaction blocks");
            return Ok(());
        }
        if self.block.read_only && !on && self.block.transaction.is_some() {
            let message = "transaction read-write mode must be set before any query";
            return Err(Error::user(SqlState::ACTIVE_SQL_TRANSACTION, message));
        }
        self.block.read_only = on;
        Ok(())
    }

    /// Commits what the block has written.
    ///
    /// # Errors
    /// 40001 or 23505; the transaction is over in any case.
    async fn commit_block(&mut self) -> Result<()> {
        let changes = self.block.changes.take();
        let transaction = self.block.end();
        let outcome = match changes {
            Some(changes) => self.commit_changes(changes, transaction).await,
            None => self.commit_staged(transaction, None).await,
        };
        self.block_ended(outcome.is_ok());
        match &outcome {
            Err(error) if error.state() == SqlState::SERIALIZATION_FAILURE => self.block.n_conflicts += 1,
            _ => self.block.n_conflicts = 0,
        }
        outcome
    }

    /// Commits what a transaction has written, with what becomes of the catalog.
    pub(super) async fn commit_staged(
        &mut self,
        transaction: Option<SharedTransaction>,
        publication: Option<Box<Publication>>,
    ) -> Result<()> {
        if transaction.is_none() && publication.is_none() {
            return Ok(());
        }
        let is_asynchronous = self.is_asynchronous();
        self.committing.store(true, Ordering::Release);
        let outcome = match transaction {
            Some(transaction) => transaction.lock().await.commit(&self.engine, is_asynchronous, publication).await,
            None => {
                let commit = Commit { publication, ..Commit::default() };
                self.engine.clock.write(commit).await.map(|_| ())
            }
        };
        self.committing.store(false, Ordering::Release);
        outcome
    }

    pub(super) async fn commit(&mut self, chain: bool) -> Result<Response> {
        self.check_chain(chain, "COMMIT AND CHAIN")?;
        self.warn_outside();
        let (failed, read_only) = (self.block.failed, self.block.read_only);
        let outcome = if failed {
            self.roll_back();
            Ok(done("ROLLBACK"))
        } else {
            self.commit_block().await.map(|()| done("COMMIT"))
        };
        self.chain(chain && outcome.is_ok(), read_only);
        outcome
    }

    pub(super) fn rollback(&mut self, chain: bool) -> Result<Response> {
        self.check_chain(chain, "ROLLBACK AND CHAIN")?;
        self.warn_outside();
        let read_only = self.block.read_only;
        self.roll_back();
        self.chain(chain, read_only);
        Ok(done("ROLLBACK"))
    }

    fn roll_back(&mut self) {
        self.block.end();
        self.block_ended(false);
    }

    /// What lives as long as a transaction goes with it.
    fn block_ended(&mut self, committed: bool) {
        self.settings.end_block(committed);
        self.cursors.end_transaction(committed);
    }

    /// Whether each statement is a transaction of its own now.
    pub(super) fn is_outside_block(&self) -> bool {
        self.block.block == Block::Nothing
    }

    fn check_chain(&self, chain: bool, what: &str) -> Result<()> {
        if chain { self.check_begun(what) } else { Ok(()) }
    }

    fn chain(&mut self, chain: bool, read_only: bool) {
        if chain {
            self.block.block = Block::Begun;
            self.block.read_only = read_only;
        }
    }

    fn warn_outside(&mut self) {
        if self.block.block != Block::Begun {
            self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, "there is no transaction in progress");
        }
    }

    /// # Errors
    /// 25P01
    fn check_begun(&self, what: &str) -> Result<()> {
        if self.block.block == Block::Begun {
            return Ok(());
        }
        let message = format!("{what} can only be used in transaction blocks");
        Err(Error::user(SqlState::NO_ACTIVE_SQL_TRANSACTION, message))
    }

    /// `SET` and `RESET`, which the end of a transaction block may take back.
    pub(super) fn set(&mut self, set: &Set) -> Result<Response> {
        if self.block.block != Block::Nothing {
            self.settings.note(&set.name, set.local && self.block.block == Block::Begun);
        } else if set.local {
            self.warn(SqlState::NO_ACTIVE_SQL_TRANSACTION, "SET LOCAL can only be used in transaction blocks");
            return Ok(done("SET"));
        }
        if set.name == "transaction_read_only" {
            self.set_transaction_read_only(set.value.as_deref() == Some(&["on".to_owned()]))?;
        } else {
            self.settings.set(set)?;
        }
        Ok(done("SET"))
    }

    pub(super) async fn save_point(&mut self, name: &str) -> Result<Response> {
        self.check_begun("SAVEPOINT")?;
        let point = match self.open_transaction().await? {
            Some(transaction) => transaction.lock().await.save_point(),
            None => return Err(Error::internal("a block without a transaction")),
        };
        self.block.save_points.push((name.to_owned(), point, self.block.changes.clone()));
        Ok(done("SAVEPOINT"))
    }

    pub(super) async fn rollback_to(&mut self, name: &str) -> Result<Response> {
        self.check_begun("ROLLBACK TO SAVEPOINT")?;
        let at = self.save_point_at(name)?;
        if let Some(transaction) = &self.block.transaction {
            transaction.lock().await.rollback_to(&self.block.save_points[at].1);
        }
        self.block.save_points.truncate(at + 1);
        self.block.changes = self.block.save_points[at].2.clone();
        self.block.failed = false;
        Ok(done("ROLLBACK"))
    }

    pub(super) fn release(&mut self, name: &str) -> Result<Response> {
        self.check_begun("RELEASE SAVEPOINT")?;
        let at = self.save_point_at(name)?;
        self.block.save_points.truncate(at);
        Ok(done("RELEASE"))
    }

    /// The last savepoint of a name.
    fn save_point_at(&self, name: &str) -> Result<usize> {
        let at = self.block.save_points.iter().rposition(|(n, ..)| n == name);
        at.ok_or_else(|| {
            Error::user(SqlState::INVALID_SAVEPOINT_SPECIFICATION, format!("savepoint \"{name}\" does not exist"))
        })
    }

    /// Whether a transaction block has begun, whose end is still to come.
    pub(super) fn is_in_block(&self) -> bool {
        self.block.block == Block::Begun
    }

    /// A statement that changes the catalog comes, outside of a transaction block: it is a transaction of its own.
    ///
    /// # Errors
    /// 25006; in a message, what the commit of the statements before gives.
    pub(super) async fn before_ddl(&mut self, what: &str) -> Result<()> {
        self.check_writable(what)?;
        if self.block.block == Block::Message { self.commit_block().await } else { Ok(()) }
    }

    /// Statements follow that share a transaction unless they say otherwise: those of one query string, or those up to a
    /// Sync of the extended protocol.
    pub async fn begin_implicit(&mut self) {
        self.block.in_message = true;
        if self.block.block == Block::Nothing {
            self.block.block = Block::Message;
        }
    }

    /// The last of them is done; `failed` if one was not.
    ///
    /// # Errors
    /// That of committing what they have written.
    pub async fn end_implicit(&mut self, failed: bool) -> Result<()> {
        self.block.in_message = false;
        if self.block.block != Block::Message {
            return Ok(());
        }
        let outcome = if failed || self.block.failed {
            self.roll_back();
            Ok(())
        } else {
            self.commit_block().await
        };
        self.block.block = Block::Nothing;
        outcome
    }

    /// A statement failed: an open transaction has failed with it.
    pub fn statement_failed(&mut self) {
        self.block.fail();
    }
}
