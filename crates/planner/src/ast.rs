//! Millstream's statements, as the parser hands them on.
//!
//! Queries and scalar expressions stay in sqlparser's own tree: DataFusion's planner reads that. Every span in them is
//! on line 1, and its column is the character's position in the statement's text, counted from 1.

use datafusion::sql::sqlparser::ast;
use millstream_types::SqlType;
use millstream_types::copy::CopyHeader;
use serde::{Deserialize, Serialize};

pub use datafusion::sql::sqlparser::ast::{Expr, Query};

/// A possibly qualified name of a relation, folded to lower case where it was not quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The schema, if the name was qualified.
    pub schema: Option<String>,
    /// The name itself.
    pub name: String,
    /// Where it stands in the statement's text, in characters from 1.
    pub position: usize,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        f.write_str(&self.name)
    }
}

/// A name of a column, cursor, parameter and the like, folded to lower case where it was not quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnName {
    /// The name.
    pub name: String,
    /// Where it stands in the statement's text, in characters from 1.
    pub position: usize,
}

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `CREATE STREAM`, `CREATE SOURCE`
    CreateStream(CreateRelation),
    /// `CREATE TABLE`
    CreateTable(CreateRelation),
    /// `CREATE [OR REPLACE] VIEW`
    CreateView(CreateView),
    /// `CREATE MATERIALIZED VIEW`
    CreateMaterializedView(CreateView),
    /// `CREATE INDEX`
    CreateIndex(CreateIndex),
    /// `CREATE SINK`
    CreateSink(CreateSink),
    /// `DROP ...`
    Drop(Drop),
    /// `SELECT`, `VALUES`, `TABLE`, `WITH`
    Query(Box<Query>),
    /// `INSERT`
    Insert(Box<Insert>),
    /// `UPDATE`
    Update(Box<Update>),
    /// `DELETE`
    Delete(Box<Delete>),
    /// `TRUNCATE`
    Truncate(Truncate),
    /// `COPY relation FROM STDIN`
    CopyFrom(CopyFrom),
    /// `COPY relation | (query) TO STDOUT`
    CopyTo(CopyTo),
    /// `BEGIN`, `START TRANSACTION`
    Begin(TransactionModes),
    /// `COMMIT`, `END`
    Commit,
    /// `COMMIT AND CHAIN`
    CommitAndChain,
    /// `ROLLBACK`, `ABORT`
    Rollback,
    /// `ROLLBACK AND CHAIN`
    RollbackAndChain,
    /// `SAVEPOINT name`
    SavePoint(String),
    /// `ROLLBACK TO [SAVEPOINT] name`
    RollbackTo(String),
    /// `RELEASE [SAVEPOINT] name`
    Release(String),
    /// `SET parameter`
    Set(Set),
    /// `RESET parameter`; `None` is `RESET ALL`
    Reset(Option<String>),
    /// `SHOW ...`
    Show(Show),
    /// `DESCRIBE relation`
    Describe(Name),
    /// `EXPLAIN ...`
    Explain(Explain),
    /// `SUBSCRIBE ...`
    Subscribe(Subscribe),
    /// `DECLARE name CURSOR FOR ...`
    DeclareCursor(DeclareCursor),
    /// `FETCH ... name`, `MOVE ... name`
    Fetch(Fetch),
    /// `CLOSE name`; `None` is `CLOSE ALL`
    Close(Option<String>),
    /// `PREPARE name AS ...`
    Prepare(Prepare),
    /// `EXECUTE name (...)`
    Execute(Execute),
    /// `DEALLOCATE name`; `None` is `DEALLOCATE ALL`
    Deallocate(Option<String>),
    /// `DISCARD ...`
    Discard(Discard),
    /// `UNLISTEN name | *`: nobody listens.
    Unlisten,
    /// `FLUSH`
    Flush,
    /// `CHECKPOINT`
    Checkpoint,
    /// `BACKUP TO 'path'`
    Backup(String),
    /// `REFRESH MATERIALIZED VIEW name [CASCADE]`
    Refresh(Refresh),
    /// `COMMENT ON ...`
    Comment(Comment),
}

/// A stream or a table that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateRelation {
    /// Its name.
    pub name: Name,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// Its columns in order.
    pub columns: Vec<ColumnDef>,
    /// The columns of the primary key, empty if none was declared.
    pub primary_key: Vec<ColumnName>,
    /// What a row does whose key exists already.
    pub on_conflict: OnKeyConflict,
    /// `APPEND ONLY`
    pub append_only: bool,
    /// `WITH (...)`, in order.
    pub options: Vec<(String, String)>,
}

/// A column of a relation that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnDef {
    /// Its name.
    pub name: ColumnName,
    /// Its type.
    pub sql_type: SqlType,
    /// `NOT NULL`
    pub not_null: bool,
    /// The text of its `DEFAULT` expression.
    pub default: Option<String>,
}

/// What a row does whose key exists already, where the statement does not say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnKeyConflict {
    /// It is an error, as in Postgres.
    #[default]
    Error,
    /// It replaces the old row.
    Overwrite,
    /// It is dropped.
    Ignore,
    /// Its values that are not null replace the old ones.
    UpdateIfNotNull,
}

/// A view that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateView {
    /// Its name.
    pub name: Name,
    /// `OR REPLACE`
    pub or_replace: bool,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// Names that replace those of the query's first columns.
    pub columns: Vec<ColumnName>,
    /// `WITH (...)`
    pub options: Vec<(String, String)>,
    /// The query.
    pub query: Box<Query>,
    /// The query's own text.
    pub query_text: String,
}

/// An index that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateIndex {
    /// Its name; made up from relation and columns if none is given.
    pub name: Option<Name>,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// The relation.
    pub relation: Name,
    /// The columns in order.
    pub columns: Vec<ColumnName>,
}

/// A sink that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateSink {
    /// Its name.
    pub name: Name,
    /// `IF NOT EXISTS`
    pub if_not_exists: bool,
    /// What flows into it.
    pub input: SinkInput,
    /// `WITH (...)`
    pub options: Vec<(String, String)>,
}

/// What flows into a sink.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkInput {
    /// `FROM relation`
    Relation(Name),
    /// `AS query`, with its text
    Query(Box<Query>, String),
}

/// Kinds of relations that a user makes and drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelationKind {
    /// A stream.
    Stream,
    /// A table.
    Table,
    /// A view that is computed when it is read.
    View,
    /// A view that is kept up to date.
    MaterializedView,
    /// An index.
    Index,
    /// A sink.
    Sink,
}

impl RelationKind {
    /// The words of a command tag: `CREATE MATERIALIZED VIEW`.
    pub fn keywords(self) -> &'static str {
        match self {
            RelationKind::Stream => "STREAM",
            RelationKind::Table => "TABLE",
            RelationKind::View => "VIEW",
            RelationKind::MaterializedView => "MATERIALIZED VIEW",
            RelationKind::Index => "INDEX",
            RelationKind::Sink => "SINK",
        }
    }

    /// The word in a message: `materialized view`.
    pub fn noun(self) -> &'static str {
        match self {
            RelationKind::Stream => "stream",
            RelationKind::Table => "table",
            RelationKind::View => "view",
            RelationKind::MaterializedView => "materialized view",
            RelationKind::Index => "index",
            RelationKind::Sink => "sink",
        }
    }
}

/// `DROP kind [IF EXISTS] name, ... [CASCADE | RESTRICT]`
#[derive(Clone, Debug, PartialEq)]
pub struct Drop {
    /// What is dropped.
    pub kind: RelationKind,
    /// The names.
    pub names: Vec<Name>,
    /// `IF EXISTS`
    pub if_exists: bool,
    /// What happens to dependents.
    pub behavior: DropBehavior,
}

/// What a `DROP` does about dependents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DropBehavior {
    /// It fails if there are any.
    #[default]
    Restrict,
    /// It drops them too.
    Cascade,
}

/// `INSERT INTO ...`
#[derive(Clone, Debug, PartialEq)]
pub struct Insert {
    /// The target.
    pub table: Name,
    /// The name under which `ON CONFLICT` and `RETURNING` see the target.
    pub alias: Option<String>,
    /// The columns named; empty for all.
    pub columns: Vec<ColumnName>,
    /// Rows; `None` is `DEFAULT VALUES`.
    pub source: Option<Box<Query>>,
    /// `ON CONFLICT ...`
    pub on_conflict: Option<OnConflict>,
    /// `RETURNING ...`
    pub returning: Option<Vec<ast::SelectItem>>,
}

/// `ON CONFLICT [(columns)] DO ...`
#[derive(Clone, Debug, PartialEq)]
pub struct OnConflict {
    /// The columns named; empty if none were.
    pub target: Vec<ColumnName>,
    /// What to do.
    pub action: ConflictAction,
}

/// What a conflicting row does.
#[derive(Clone, Debug, PartialEq)]
pub enum ConflictAction {
    /// `DO NOTHING`
    Nothing,
    /// `DO UPDATE SET ... [WHERE ...]`
    Update {
        /// The assignments.
        assignments: Vec<ast::Assignment>,
        /// The condition.
        filter: Option<Box<Expr>>,
    },
}

/// `UPDATE ...`
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// `WITH ...`
    pub with: Option<ast::With>,
    /// The target.
    pub table: Name,
    /// Its alias.
    pub alias: Option<String>,
    /// The assignments.
    pub assignments: Vec<ast::Assignment>,
    /// `FROM ...`
    pub from: Vec<ast::TableWithJoins>,
    /// `WHERE ...`
    pub filter: Option<Expr>,
    /// `RETURNING ...`
    pub returning: Option<Vec<ast::SelectItem>>,
}

/// `DELETE FROM ...`
#[derive(Clone, Debug, PartialEq)]
pub struct Delete {
    /// `WITH ...`
    pub with: Option<ast::With>,
    /// The target.
    pub table: Name,
    /// Its alias.
    pub alias: Option<String>,
    /// `USING ...`
    pub using: Vec<ast::TableWithJoins>,
    /// `WHERE ...`
    pub filter: Option<Expr>,
    /// `RETURNING ...`
    pub returning: Option<Vec<ast::SelectItem>>,
}

/// `TRUNCATE [TABLE] name, ...`
#[derive(Clone, Debug, PartialEq)]
pub struct Truncate {
    /// The tables.
    pub names: Vec<Name>,
    /// What happens to tables that refer to them; none can.
    pub behavior: DropBehavior,
}

/// `COPY relation [(columns)] FROM STDIN`
#[derive(Clone, Debug, PartialEq)]
pub struct CopyFrom {
    /// The target.
    pub relation: Name,
    /// The columns named; empty for all.
    pub columns: Vec<ColumnName>,
    /// How the rows are written.
    pub format: CopyOptions,
    /// `WHERE`: which rows are taken.
    pub filter: Option<Box<Expr>>,
}

/// `COPY ... TO STDOUT`
#[derive(Clone, Debug, PartialEq)]
pub struct CopyTo {
    /// What is read.
    pub source: CopySource,
    /// How the rows are written.
    pub format: CopyOptions,
}

/// What `COPY ... TO` reads.
#[derive(Clone, Debug, PartialEq)]
pub enum CopySource {
    /// A relation, or some of its columns.
    Relation(Name, Vec<ColumnName>),
    /// A query.
    Query(Box<Query>),
    /// A subscription: never ends.
    Subscribe(Subscribe),
    /// `INSERT`, `UPDATE` or `DELETE` with `RETURNING`.
    Write(Box<Statement>),
}

/// Formats of `COPY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyFormat {
    /// Postgres' text format.
    #[default]
    Text,
    /// Comma separated values.
    Csv,
    /// Values in their binary forms.
    Binary,
}

/// Options of `COPY`; `None` stands for the format's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// The format.
    pub format: CopyFormat,
    /// The character between columns.
    pub delimiter: Option<char>,
    /// What a null looks like.
    pub null: Option<String>,
    /// Whether the first line names the columns.
    pub header: CopyHeader,
    /// The quoting character of `csv`.
    pub quote: Option<char>,
    /// The character before a quote inside quotes.
    pub escape: Option<char>,
    /// Columns whose values are all quoted.
    pub force_quote: Option<ForcedColumns>,
    /// Columns in which a null's text without quotes is that text.
    pub force_not_null: Option<ForcedColumns>,
    /// Columns in which a null's text in quotes is null.
    pub force_null: Option<ForcedColumns>,
}

/// The columns of an option of `COPY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForcedColumns {
    /// `*`
    All,
    /// Those named.
    Named(Vec<ColumnName>),
}

/// Modes of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionModes {
    /// `READ ONLY` or `READ WRITE`, if it was said.
    pub read_only: Option<bool>,
}

/// `SET [SESSION | LOCAL] name {TO | =} value, ...`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The parameter in lower case; `timezone` also for `TIME ZONE`.
    pub name: String,
    /// `LOCAL`: until the transaction ends.
    pub local: bool,
    /// The values; `None` is `DEFAULT`.
    pub value: Option<Vec<String>>,
}

/// `SHOW ...`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    /// `SHOW name`
    Parameter(String),
    /// `SHOW ALL`
    All,
    /// `SHOW STREAMS`, `SHOW TABLES` ...
    Relations(RelationKind),
    /// `SHOW JOBS`
    Jobs,
    /// `SHOW COLUMNS FROM r`
    Columns(Name),
    /// `SHOW CREATE ... r`
    Create(RelationKind, Name),
    /// `SHOW DATABASES`
    Databases,
    /// `SHOW SCHEMAS`
    Schemas,
}

/// `EXPLAIN [ANALYZE] ...`
#[derive(Clone, Debug, PartialEq)]
pub struct Explain {
    /// `ANALYZE`
    pub analyze: bool,
    /// What is explained.
    pub target: ExplainTarget,
}

/// What is explained.
#[derive(Clone, Debug, PartialEq)]
pub enum ExplainTarget {
    /// A statement.
    Statement(Box<Statement>),
    /// `EXPLAIN MATERIALIZED VIEW name`
    MaterializedView(Name),
}

/// `SUBSCRIBE [TO] relation | (query) [WITH (...)] [AS OF epoch]`
#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe {
    /// What is followed.
    pub target: SubscribeTarget,
    /// `SNAPSHOT`; `None` where the statement leaves it open.
    pub snapshot: Option<bool>,
    /// `PROGRESS`
    pub progress: bool,
    /// `AS OF epoch`
    pub as_of: Option<u64>,
}

/// What a subscription follows.
#[derive(Clone, Debug, PartialEq)]
pub enum SubscribeTarget {
    /// A relation.
    Relation(Name),
    /// A query, with its text.
    Query(Box<Query>, String),
}

/// `DECLARE name CURSOR FOR ...`
#[derive(Clone, Debug, PartialEq)]
pub struct DeclareCursor {
    /// Its name.
    pub name: String,
    /// `WITH HOLD`: outlives its transaction.
    pub hold: bool,
    /// `Statement::Query` or `Statement::Subscribe`.
    pub statement: Box<Statement>,
}

/// `FETCH [NEXT | FORWARD] [n | ALL] [FROM | IN] name`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The cursor.
    pub name: String,
    /// How many rows; `None` is `ALL`.
    pub count: Option<u64>,
    /// `MOVE`: the rows are skipped and not sent.
    pub skip: bool,
    /// `WITH (timeout = ...)`: how long a subscription's first row is waited for, in microseconds; for ever if not given.
    pub timeout_us: Option<u64>,
}

/// `COMMENT ON ... IS ...`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    /// What it is about.
    pub target: CommentTarget,
    /// The text; `None` takes it away.
    pub text: Option<String>,
}

/// What a comment is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommentTarget {
    /// A relation of a kind.
    Relation(RelationKind, Name),
    /// A column of a relation.
    Column(Name, ColumnName),
    /// A schema.
    Schema(ColumnName),
    /// The database.
    Database(ColumnName),
}

/// `PREPARE name [(types)] AS statement`
#[derive(Clone, Debug, PartialEq)]
pub struct Prepare {
    /// Its name.
    pub name: String,
    /// Types of its parameters.
    pub param_types: Vec<SqlType>,
    /// The statement.
    pub statement: Box<Statement>,
    /// Its text.
    pub text: String,
}

/// `EXECUTE name [(expressions)]`
#[derive(Clone, Debug, PartialEq)]
pub struct Execute {
    /// The prepared statement's name.
    pub name: String,
    /// The values of its parameters.
    pub params: Vec<Expr>,
}

/// `DISCARD ...`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// `ALL`
    All,
    /// `PLANS`
    Plans,
    /// `SEQUENCES`
    Sequences,
    /// `TEMP`
    Temp,
}

/// `REFRESH MATERIALIZED VIEW name [CASCADE]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// The view.
    pub name: Name,
    /// Also the views built on it.
    pub cascade: bool,
}
