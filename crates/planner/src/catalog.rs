//! The catalog: which relations exist, as a value that is cheap to clone and never shared for writing.
//!
//! A [`Catalog`] is one version. Statements plan against the version they began with; DDL clones it, changes the clone
//! (`create_*`, [`Catalog::drop`]) and hands it back to its owner. Names and relations live behind one `Arc`, copied as
//! a whole on the first change after a clone: reads are free, a DDL statement costs time linear in the number of
//! relations, which is small beside building a dataflow.

mod arrangement;
mod change;
mod create;
mod drop;
mod relation;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;
use millstream_types::pg::FormatSettings;
use millstream_types::{Error, Result, SqlState};
use serde::{Deserialize, Serialize};

use crate::ast::{Name, RelationKind};
pub use arrangement::{Arranged, JoinSide, plan_of};
pub use change::CatalogChange;
pub use create::{Created, NewRelation, ROW_ID_COLUMN};
pub use drop::Dropped;
pub use relation::{Column, Index, Kind, Relation, RelationId, View};

/// The schema in which relations are made unless their name says otherwise.
pub const DEFAULT_SCHEMA: &str = "public";
/// The schemas that belong to the engine: nobody makes or drops a relation there.
pub const SYSTEM_SCHEMAS: [&str; 3] = ["millstream", "pg_catalog", "information_schema"];
/// Where an unqualified name is looked for, in this order.
const SEARCH_PATH: [&str; 2] = ["pg_catalog", DEFAULT_SCHEMA];
/// The first id of a user's relation; what the engine has itself comes before, however much a release has of it.
const FIRST_USER_ID: u64 = 1 << 16;
/// The first oid of a user's relation, as in Postgres.
const FIRST_USER_OID: u32 = 16_384;
/// The first oid of an engine's relation.
const FIRST_SYSTEM_OID: u32 = 10_000;

/// One version of the catalog, and how a session that plans against it reads and prints values.
#[derive(Clone, Debug)]
pub struct Catalog {
    contents: Arc<Contents>,
    settings: FormatSettings,
}

#[derive(Clone, Debug)]
struct Contents {
    version: u64,
    next_system_id: u64,
    next_user_id: u64,
    next_user_oid: u32,
    next_system_oid: u32,
    schemas: BTreeSet<String>,
    relations: BTreeMap<RelationId, Arc<Relation>>,
    /// Those that views share, by themselves.
    arrangements: BTreeMap<RelationId, Arc<Relation>>,
    /// The join sides that each view keeps copies of.
    copied: BTreeMap<RelationId, Vec<JoinSide>>,
    /// The plans that run, as they are stored.
    plans: BTreeMap<RelationId, Arc<[u8]>>,
    /// schema, then name
    names: HashMap<String, HashMap<String, RelationId>>,
    functions: HashMap<String, Arc<ScalarUDF>>,
    comments: BTreeMap<Commented, String>,
}

/// What a comment is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Commented {
    /// A relation, or its column of this number from 1; 0 is the relation itself.
    Relation(RelationId, i16),
    /// A schema.
    Schema(String),
    /// The database.
    Database,
}

/// What a statement tells its user beside its result; always of severity `NOTICE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The SQLSTATE.
    pub state: SqlState,
    /// The message.
    pub message: String,
    /// Details, if any.
    pub detail: Option<String>,
}

impl Notice {
    fn new(state: SqlState, message: String) -> Self {
        Notice { state, message, detail: None }
    }
}

/// The SQLSTATE of a notice that stands for success.
const SUCCESSFUL_COMPLETION: SqlState = SqlState("00000");

impl Default for Catalog {
    fn default() -> Self {
        Self::new()
    }
}

impl Catalog {
    /// A catalog with its schemas and nothing in them.
    pub fn new() -> Self {
        let schemas = SYSTEM_SCHEMAS.into_iter().chain([DEFAULT_SCHEMA]).map(String::from).collect();
        let contents = Arc::new(Contents {
            version: 0,
            next_system_id: 1,
            next_user_id: FIRST_USER_ID,
            next_user_oid: FIRST_USER_OID,
            next_system_oid: FIRST_SYSTEM_OID,
            schemas,
            relations: BTreeMap::new(),
            arrangements: BTreeMap::new(),
            copied: BTreeMap::new(),
            plans: BTreeMap::new(),
            names: HashMap::new(),
            functions: HashMap::new(),
            comments: BTreeMap::new(),
        });
        Catalog { contents, settings: FormatSettings::default() }
    }

    /// The same version for a session with these settings.
    #[must_use]
    pub fn with_settings(self, settings: FormatSettings) -> Self {
        Catalog { settings, ..self }
    }

    /// The settings of the session that plans against it.
    pub fn settings(&self) -> &FormatSettings {
        &self.settings
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.contents.version
    }

    /// The schemas in alphabetical order.
    pub fn schemas(&self) -> impl Iterator<Item = &str> {
        self.contents.schemas.iter().map(String::as_str)
    }

    /// All relations, the engine's included, in the order in which they were made.
    pub fn relations(&self) -> impl Iterator<Item = &Arc<Relation>> {
        self.contents.relations.values()
    }

    /// The relation with this id.
    pub fn get(&self, id: RelationId) -> Option<&Arc<Relation>> {
        self.contents.relations.get(&id)
    }

    /// The relation with this oid.
    pub fn get_by_oid(&self, oid: u32) -> Option<&Arc<Relation>> {
        self.contents.relations.values().find(|r| r.oid == oid)
    }

    /// The relation that a name means; an unqualified one is looked for along the search path.
    pub fn find(&self, schema: Option<&str>, name: &str) -> Option<&Arc<Relation>> {
        match schema {
            Some(schema) => self.find_in(schema, name),
            None => SEARCH_PATH.iter().find_map(|schema| self.find_in(schema, name)),
        }
    }

    fn find_in(&self, schema: &str, name: &str) -> Option<&Arc<Relation>> {
        self.contents.names.get(schema)?.get(name).and_then(|id| self.get(*id))
    }

    /// The relation that a name means.
    ///
    /// # Errors
    /// 42P01 with the name's position if there is none.
    pub fn resolve(&self, name: &Name) -> Result<&Arc<Relation>> {
        self.find(name.schema.as_deref(), &name.name).ok_or_else(|| {
            let error = Error::user(SqlState::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist"));
            at(error, name)
        })
    }

    /// The relation that a name means, which must be of a kind.
    ///
    /// # Errors
    /// 42P01 if there is none, 42809 if it is something else.
    pub fn resolve_kind(&self, name: &Name, kind: RelationKind) -> Result<&Arc<Relation>> {
        let relation = self.resolve(name)?;
        if relation.kind.is(kind) {
            return Ok(relation);
        }
        Err(at(wrong_kind(&relation.name, kind), name))
    }

    /// The indexes of a relation, in the order in which they were made.
    pub fn indexes_of(&self, relation: RelationId) -> impl Iterator<Item = &Arc<Relation>> {
        self.relations().filter(move |r| matches!(&r.kind, Kind::Index(i) if i.relation == relation))
    }

    /// The columns of a relation's indexes.
    pub fn indexed_columns(&self, relation: RelationId) -> impl Iterator<Item = Vec<usize>> {
        let columns = |index: &Arc<Relation>| match &index.kind {
            Kind::Index(index) => Some(index.columns.clone()),
            _ => None,
        };
        self.indexes_of(relation).filter_map(columns)
    }

    /// The relations that read from this one, its indexes among them, in the order in which they were made.
    pub fn dependents_of(&self, relation: RelationId) -> impl Iterator<Item = &Arc<Relation>> {
        self.relations().filter(move |r| r.depends_on.contains(&relation))
    }

    /// Sets a comment, or takes it away.
    pub fn set_comment(&mut self, about: Commented, text: Option<String>) {
        let comments = &mut self.contents_mut().comments;
        match text {
            Some(text) if !text.is_empty() => drop(comments.insert(about, text)),
            _ => drop(comments.remove(&about)),
        }
    }

    /// All comments, in a fixed order.
    pub fn comments(&self) -> impl Iterator<Item = (&Commented, &str)> {
        self.contents.comments.iter().map(|(about, text)| (about, text.as_str()))
    }

    /// Notes the plan of a view, sink or arrangement as it is stored.
    pub fn store_plan(&mut self, id: RelationId, plan: Arc<[u8]>) {
        self.contents_mut().plans.insert(id, plan);
    }

    /// Forgets a stored plan: it does not say any more what the view's query says.
    pub fn forget_plan(&mut self, id: RelationId) {
        self.contents_mut().plans.remove(&id);
    }

    /// The plan of a view, sink or arrangement as it is stored.
    pub fn stored_plan(&self, id: RelationId) -> Option<&Arc<[u8]>> {
        self.contents.plans.get(&id)
    }

    /// Registers a function that only the engine can compute, such as `version()` or `pg_get_userbyid(oid)`, under its
    /// name without a schema. It comes before the planner's own; constants of unknown type reach it as texts.
    pub fn register_function(&mut self, function: Arc<ScalarUDF>) {
        self.contents_mut().functions.insert(function.name().to_string(), function);
    }

    /// The engine's function of a name, with or without `pg_catalog` in front.
    pub(crate) fn function(&self, name: &str) -> Option<&Arc<ScalarUDF>> {
        self.contents.functions.get(name.strip_prefix("pg_catalog.").unwrap_or(name))
    }

    fn contents_mut(&mut self) -> &mut Contents {
        let contents = Arc::make_mut(&mut self.contents);
        contents.version += 1;
        contents
    }
}

/// `"x" is not a table`
fn wrong_kind(name: &str, kind: RelationKind) -> Error {
    let article = if kind == RelationKind::Index { "an" } else { "a" };
    Error::user(SqlState::WRONG_OBJECT_TYPE, format!("\"{name}\" is not {article} {}", kind.noun()))
}

/// The error, pointing at a name if its position is known.
fn at(error: Error, name: &Name) -> Error {
    if name.position > 0 { error.with_position(name.position) } else { error }
}
