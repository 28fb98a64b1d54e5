//! A relation and its columns.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
pub use millstream_operators::RelationId;
use millstream_types::SqlType;
use serde::{Deserialize, Serialize};

use super::Arranged;
use crate::ast::{OnKeyConflict, RelationKind};

/// A column of a relation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub sql_type: SqlType,
    /// Whether it refuses nulls.
    pub not_null: bool,
    /// The text of its default expression.
    pub default: Option<String>,
    /// Whether only the engine sees it: the row id of a table without a key. Always the last column.
    pub hidden: bool,
}

impl Column {
    /// A column that may be null and has no default.
    pub fn new(name: impl Into<String>, sql_type: SqlType) -> Self {
        Column { name: name.into(), sql_type, not_null: false, default: None, hidden: false }
    }

    /// The Arrow field that carries it.
    pub fn arrow_field(&self) -> Field {
        Field::new(&self.name, self.sql_type.arrow_type(), !self.not_null)
    }
}

/// What a relation is, and what only its kind has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A stream.
    Stream,
    /// A table.
    Table,
    /// A view that is computed when it is read.
    View(View),
    /// A view that is kept up to date.
    MaterializedView(View),
    /// An index.
    Index(Index),
    /// A sink; its query if it does not read a relation as it is.
    Sink(Option<View>),
    /// Rows of a relation as joins of several views read them.
    Arrangement(Arranged),
    /// A relation that the engine computes from its own state.
    System,
}

/// A stored query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The query's text.
    pub text: String,
}

/// What an index is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The relation.
    pub relation: RelationId,
    /// Positions of its columns, in the index' order.
    pub columns: Vec<usize>,
}

impl Kind {
    /// The kind as statements name it; `None` for the engine's own relations.
    pub fn of_user(&self) -> Option<RelationKind> {
        Some(match self {
            Kind::Stream => RelationKind::Stream,
            Kind::Table => RelationKind::Table,
            Kind::View(_) => RelationKind::View,
            Kind::MaterializedView(_) => RelationKind::MaterializedView,
            Kind::Index(_) => RelationKind::Index,
            Kind::Sink(_) => RelationKind::Sink,
            Kind::Arrangement(_) | Kind::System => return None,
        })
    }

    /// Whether statements name it so.
    pub fn is(&self, kind: RelationKind) -> bool {
        self.of_user() == Some(kind)
    }

    /// The word in a message.
    pub fn noun(&self) -> &'static str {
        match self {
            Kind::Arrangement(_) => "arrangement",
            _ => self.of_user().map_or("system relation", RelationKind::noun),
        }
    }

    /// Whether it has rows that a query can read.
    pub fn is_readable(&self) -> bool {
        !matches!(self, Kind::Index(_) | Kind::Sink(_) | Kind::Arrangement(_))
    }
}

/// A relation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// Its id.
    pub id: RelationId,
    /// Its number in `pg_class`.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its columns in order, a hidden one last.
    pub columns: Vec<Column>,
    /// Positions of the columns of its primary key; empty if it has none. A table always has one.
    pub primary_key: Vec<usize>,
    /// What a row does whose key exists already.
    pub on_conflict: OnKeyConflict,
    /// Of a materialized view or an arrangement, the columns whose hash, in this order, decides which worker keeps a row, if it is so.
    pub partitioned_by: Option<Vec<usize>>,
    /// Whether rows are only ever added.
    pub append_only: bool,
    /// `WITH (...)`, in order.
    pub options: Vec<(String, String)>,
    /// The relations it reads, each once.
    pub depends_on: Vec<RelationId>,
}

impl Relation {
    /// The columns that a user sees.
    pub fn visible_columns(&self) -> &[Column] {
        let n = self.columns.iter().take_while(|c| !c.hidden).count();
        &self.columns[..n]
    }

    /// The position of the column with this name.
    pub fn column_index(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| !c.hidden && c.name == name)
    }

    /// The schema of the columns that a user sees.
    pub fn visible_schema(&self) -> SchemaRef {
        schema_of(self.visible_columns())
    }

    /// The schema of all columns.
    pub fn full_schema(&self) -> SchemaRef {
        schema_of(&self.columns)
    }

    /// The value of an option.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether rows come from a connector.
    pub fn has_connector(&self) -> bool {
        self.option("connector").is_some()
    }

    /// The primary key as the user declared it; `None` for a hidden row id or no key at all.
    pub fn declared_key(&self) -> Option<&[usize]> {
        let declared = !self.primary_key.is_empty() && self.primary_key.iter().all(|&i| !self.columns[i].hidden);
        declared.then_some(self.primary_key.as_slice())
    }

    /// The columns whose hash, in this order, decides which worker keeps a row; `None` if rows lie anywhere.
    pub fn partitioned_by(&self) -> Option<&[usize]> {
        match self.kind {
            Kind::Table => Some(&self.primary_key),
            _ => self.partitioned_by.as_deref(),
        }
    }

    /// The query's text, if it is a view or a sink over a query.
    pub fn query_text(&self) -> Option<&str> {
        match &self.kind {
            Kind::View(v) | Kind::MaterializedView(v) | Kind::Sink(Some(v)) => Some(&v.text),
            _ => None,
        }
    }
}

fn schema_of(columns: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(Column::arrow_field).collect::<Vec<_>>()))
}
