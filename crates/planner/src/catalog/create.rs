//! Making relations.

use std::sync::Arc;

use millstream_types::{Error, Result, SqlState, SqlType};

use super::{
    Catalog, Column, Contents, DEFAULT_SCHEMA, Index, Kind, Notice, Relation, RelationId, SYSTEM_SCHEMAS, View, at,
};
use crate::ast::{ColumnName, CreateIndex, CreateRelation, CreateView, Name, OnKeyConflict, RelationKind};

/// The name of the hidden key of a table that declares none.
pub const ROW_ID_COLUMN: &str = "_row_id";
/// As many columns as Postgres allows.
const MAX_COLUMNS: usize = 1600;

/// What came of a `CREATE`.
#[derive(Clone, Debug)]
pub enum Created {
    /// The relation was made.
    New(Arc<Relation>),
    /// It replaced a view of the same name, which keeps its id.
    Replaced(Arc<Relation>),
    /// It exists already and the statement said `IF NOT EXISTS`.
    Exists(Notice),
}

/// A relation that passed all checks but that of its name.
#[derive(Clone, Debug)]
pub struct NewRelation {
    /// What it is.
    pub kind: Kind,
    /// Its columns.
    pub columns: Vec<Column>,
    /// Positions of the key's columns.
    pub primary_key: Vec<usize>,
    /// What a row does whose key exists already.
    pub on_conflict: OnKeyConflict,
    /// Whether rows are only ever added.
    pub append_only: bool,
    /// `WITH (...)`
    pub options: Vec<(String, String)>,
    /// The relations it reads.
    pub depends_on: Vec<RelationId>,
}

impl NewRelation {
    /// A relation of a kind with columns and nothing else.
    pub fn new(kind: Kind, columns: Vec<Column>) -> Self {
        NewRelation {
            kind,
            columns,
            primary_key: Vec::new(),
            on_conflict: OnKeyConflict::default(),
            append_only: false,
            options: Vec::new(),
            depends_on: Vec::new(),
        }
    }
}

impl Catalog {
    /// Makes a stream. `connector_columns` are those that its connector gives if the statement names none.
    ///
    /// # Errors
    /// 42P07, 42701, 3F000, 42P16 and the like, as Postgres.
    pub fn create_stream(
        &mut self,
        create: &CreateRelation,
        connector_columns: Option<Vec<Column>>,
    ) -> Result<Created> {
        if let Some(column) = create.primary_key.first() {
            return Err(Error::not_supported("streams cannot have a primary key")
                .with_hint("use CREATE TABLE")
                .with_position(column.position));
        }
        if create.on_conflict != OnKeyConflict::Error {
            return Err(Error::user(
                SqlState::INVALID_TABLE_DEFINITION,
                "ON CONFLICT needs a table with a primary key",
            ));
        }
        let columns = columns_of(create, connector_columns)?;
        let new = NewRelation {
            append_only: true,
            options: create.options.clone(),
            ..NewRelation::new(Kind::Stream, columns)
        };
        self.create(&create.name, create.if_not_exists, new)
    }

    /// Makes a table; without a primary key it gets a hidden row id.
    ///
    /// # Errors
    /// As [`Catalog::create_stream`]; 42703 for a key column that does not exist.
    pub fn create_table(&mut self, create: &CreateRelation) -> Result<Created> {
        let mut columns = columns_of(create, None)?;
        let mut primary_key = key_of(create, &columns)?;
        for &i in &primary_key {
            columns[i].not_null = true;
        }
        if create.on_conflict != OnKeyConflict::Error && primary_key.is_empty() {
            return Err(Error::user(SqlState::INVALID_TABLE_DEFINITION, "ON CONFLICT needs a primary key"));
        }
        if primary_key.is_empty() {
            primary_key.push(columns.len());
            let row_id = Column { not_null: true, hidden: true, ..Column::new(ROW_ID_COLUMN, SqlType::BigInt) };
            columns.push(row_id);
        }
        let new = NewRelation {
            primary_key,
            on_conflict: create.on_conflict,
            append_only: create.append_only,
            options: create.options.clone(),
            ..NewRelation::new(Kind::Table, columns)
        };
        self.create(&create.name, create.if_not_exists, new)
    }

    /// Makes or replaces a view. `columns` and `depends_on` come from binding its query.
    ///
    /// # Errors
    /// As [`Catalog::create_stream`]; 42P16 for a replacement that changes columns which exist.
    pub fn create_view(
        &mut self,
        create: &CreateView,
        kind: RelationKind,
        columns: Vec<Column>,
        depends_on: Vec<RelationId>,
    ) -> Result<Created> {
        let view = View { text: create.query_text.clone() };
        let kind = if kind == RelationKind::View { Kind::View(view) } else { Kind::MaterializedView(view) };
        let new = NewRelation { options: create.options.clone(), depends_on, ..NewRelation::new(kind, columns) };
        if create.or_replace
            && let Some(old) = self.find(create.name.schema.as_deref().or(Some(DEFAULT_SCHEMA)), &create.name.name)
        {
            let old = old.clone();
            return self.replace_view(&create.name, &old, new);
        }
        self.create(&create.name, create.if_not_exists, new)
    }

    /// Makes an index. The planner that reads it finds it through [`Catalog::indexes_of`].
    ///
    /// # Errors
    /// 42P01, 42703, 42809 for a relation that keeps no rows of its own.
    pub fn create_index(&mut self, create: &CreateIndex) -> Result<Created> {
        let relation = self.resolve(&create.relation)?.clone();
        if !matches!(relation.kind, Kind::Table | Kind::MaterializedView(_) | Kind::Stream) {
            let what = format!("cannot create index on {} \"{}\"", relation.kind.noun(), relation.name);
            return Err(at(Error::user(SqlState::WRONG_OBJECT_TYPE, what), &create.relation));
        }
        if relation.has_connector() {
            let what = format!("cannot create index on {} \"{}\"", relation.kind.noun(), relation.name);
            return Err(at(Error::user(SqlState::WRONG_OBJECT_TYPE, what), &create.relation)
                .with_detail("a stream with a connector keeps no rows"));
        }
        let mut positions = Vec::new();
        for column in &create.columns {
            positions
                .push(position_of(&relation.columns, column, || format!("column \"{}\" does not exist", column.name))?);
        }
        let name = create.name.clone().unwrap_or_else(|| self.free_index_name(&relation, &create.columns));
        let columns = positions.iter().map(|&i| relation.columns[i].clone()).collect();
        let kind = Kind::Index(Index { relation: relation.id, columns: positions });
        let new = NewRelation { depends_on: vec![relation.id], ..NewRelation::new(kind, columns) };
        let name = Name { schema: name.schema.or_else(|| Some(relation.schema.clone())), ..name };
        self.create(&name, create.if_not_exists, new)
    }

    /// Registers a relation that the engine computes. Done once, when the engine starts.
    ///
    /// # Errors
    /// 42P07 if the name is taken.
    pub fn create_system(&mut self, schema: &str, name: &str, columns: Vec<Column>) -> Result<Arc<Relation>> {
        if self.find_in(schema, name).is_some() {
            return Err(duplicate(name));
        }
        let name = Name { schema: Some(schema.to_string()), name: name.to_string(), position: 0 };
        Ok(self.contents_mut().insert(&name, NewRelation::new(Kind::System, columns)))
    }

    /// Makes a relation whose parts are known, such as a sink.
    ///
    /// # Errors
    /// 42P07 if the name is taken, 3F000 if there is no such schema, 42501 in a schema of the engine, 42701, 54000.
    pub fn create(&mut self, name: &Name, if_not_exists: bool, new: NewRelation) -> Result<Created> {
        let name = self.target(name)?;
        if self.find_in(name.schema.as_deref().unwrap_or(DEFAULT_SCHEMA), &name.name).is_some() {
            if if_not_exists {
                let message = format!("relation \"{}\" already exists, skipping", name.name);
                return Ok(Created::Exists(Notice::new(SqlState::DUPLICATE_TABLE, message)));
            }
            return Err(at(duplicate(&name.name), &name));
        }
        check_columns(&new.columns)?;
        Ok(Created::New(self.contents_mut().insert(&name, new)))
    }

    /// The name with its schema, which must be one that users may write in.
    fn target(&self, name: &Name) -> Result<Name> {
        let schema = name.schema.clone().unwrap_or_else(|| DEFAULT_SCHEMA.to_string());
        if !self.contents.schemas.contains(&schema) {
            let error = Error::user(SqlState::INVALID_SCHEMA_NAME, format!("schema \"{schema}\" does not exist"));
            return Err(at(error, name));
        }
        if SYSTEM_SCHEMAS.contains(&schema.as_str()) {
            let message = format!("permission denied to create \"{schema}.{}\"", name.name);
            return Err(at(Error::user(SqlState::INSUFFICIENT_PRIVILEGE, message), name)
                .with_detail("system catalog modifications are not allowed"));
        }
        Ok(Name { schema: Some(schema), ..name.clone() })
    }

    fn replace_view(&mut self, name: &Name, old: &Arc<Relation>, new: NewRelation) -> Result<Created> {
        if !matches!(old.kind, Kind::View(_)) {
            return Err(at(super::wrong_kind(&old.name, RelationKind::View), name));
        }
        check_columns(&new.columns)?;
        if self.reads(&new.depends_on, old.id) {
            let message = format!("infinite recursion detected in rules for relation \"{}\"", old.name);
            return Err(at(Error::user(SqlState::INVALID_TABLE_DEFINITION, message), name));
        }
        check_replacement(old, &new.columns)?;
        let relation = Relation {
            kind: new.kind,
            columns: new.columns,
            options: new.options,
            depends_on: new.depends_on,
            ..old.as_ref().clone()
        };
        let relation = Arc::new(relation);
        self.contents_mut().relations.insert(old.id, relation.clone());
        Ok(Created::Replaced(relation))
    }

    /// Whether one of `from` is, or reads at any distance, the relation.
    fn reads(&self, from: &[RelationId], relation: RelationId) -> bool {
        let mut pending = from.to_vec();
        while let Some(id) = pending.pop() {
            if id == relation {
                return true;
            }
            pending.extend(self.get(id).into_iter().flat_map(|r| r.depends_on.iter().copied()));
        }
        false
    }

    /// `relation_column_idx`, with a number where that is taken.
    fn free_index_name(&self, relation: &Relation, columns: &[ColumnName]) -> Name {
        let columns: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
        let base = format!("{}_{}_idx", relation.name, columns.join("_"));
        let taken = |name: &str| self.find_in(&relation.schema, name).is_some();
        let name = std::iter::once(base.clone())
            .chain((1u32..).map(|n| format!("{base}{n}")))
            .find(|name| !taken(name))
            .expect("there are more numbers than relations");
        Name { schema: Some(relation.schema.clone()), name, position: 0 }
    }
}

impl Contents {
    fn insert(&mut self, name: &Name, new: NewRelation) -> Arc<Relation> {
        let schema = name.schema.as_deref().unwrap_or(DEFAULT_SCHEMA);
        let relation = Arc::new(self.new_relation(schema, &name.name, new));
        self.names.entry(relation.schema.clone()).or_default().insert(relation.name.clone(), relation.id);
        self.relations.insert(relation.id, relation.clone());
        relation
    }

    /// A relation with an id and an oid of its own.
    pub(super) fn new_relation(&mut self, schema: &str, name: &str, new: NewRelation) -> Relation {
        let (next_id, next_oid) = match new.kind {
            Kind::System => (&mut self.next_system_id, &mut self.next_system_oid),
            _ => (&mut self.next_user_id, &mut self.next_user_oid),
        };
        let (id, oid) = (RelationId(*next_id), *next_oid);
        *next_id += 1;
        *next_oid += 1;
        Relation {
            id,
            oid,
            schema: schema.to_owned(),
            name: name.to_owned(),
            kind: new.kind,
            columns: new.columns,
            primary_key: new.primary_key,
            on_conflict: new.on_conflict,
            partitioned_by: None,
            append_only: new.append_only,
            options: new.options,
            depends_on: new.depends_on,
        }
    }
}

fn duplicate(name: &str) -> Error {
    Error::user(SqlState::DUPLICATE_TABLE, format!("relation \"{name}\" already exists"))
}

fn columns_of(create: &CreateRelation, connector_columns: Option<Vec<Column>>) -> Result<Vec<Column>> {
    if create.columns.is_empty()
        && let Some(columns) = connector_columns
    {
        return Ok(columns);
    }
    let mut columns: Vec<Column> = Vec::with_capacity(create.columns.len());
    for def in &create.columns {
        if columns.iter().any(|c| c.name == def.name.name) {
            return Err(duplicate_column(&def.name.name).with_position(def.name.position.max(1)));
        }
        columns.push(Column {
            name: def.name.name.clone(),
            sql_type: def.sql_type.clone(),
            not_null: def.not_null,
            default: def.default.clone(),
            hidden: false,
        });
    }
    Ok(columns)
}

fn duplicate_column(name: &str) -> Error {
    Error::user(SqlState::DUPLICATE_COLUMN, format!("column \"{name}\" specified more than once"))
}

fn check_columns(columns: &[Column]) -> Result<()> {
    if columns.len() > MAX_COLUMNS {
        return Err(Error::user(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("relations can have at most {MAX_COLUMNS} columns"),
        ));
    }
    for (i, column) in columns.iter().enumerate() {
        if columns[..i].iter().any(|c| c.name == column.name) {
            return Err(duplicate_column(&column.name));
        }
    }
    Ok(())
}

fn position_of(columns: &[Column], column: &ColumnName, message: impl Fn() -> String) -> Result<usize> {
    columns
        .iter()
        .position(|c| !c.hidden && c.name == column.name)
        .ok_or_else(|| Error::user(SqlState::UNDEFINED_COLUMN, message()).with_position(column.position.max(1)))
}

fn key_of(create: &CreateRelation, columns: &[Column]) -> Result<Vec<usize>> {
    let mut key: Vec<usize> = Vec::new();
    for column in &create.primary_key {
        let message = || format!("column \"{}\" named in key does not exist", column.name);
        let position = position_of(columns, column, message)?;
        if key.contains(&position) {
            let message = format!("column \"{}\" appears twice in primary key constraint", column.name);
            return Err(Error::user(SqlState::DUPLICATE_COLUMN, message).with_position(column.position.max(1)));
        }
        key.push(position);
    }
    Ok(key)
}

/// A replacement keeps the names and types of the columns there are and may add more.
fn check_replacement(old: &Relation, columns: &[Column]) -> Result<()> {
    let error = |message| Err(Error::user(SqlState::INVALID_TABLE_DEFINITION, message));
    if columns.len() < old.columns.len() {
        return error("cannot drop columns from view".to_string());
    }
    for (old, new) in old.columns.iter().zip(columns) {
        if old.name != new.name {
            return error(format!("cannot change name of view column \"{}\" to \"{}\"", old.name, new.name));
        }
        if old.sql_type != new.sql_type {
            return error(format!(
                "cannot change data type of view column \"{}\" from {} to {}",
                old.name, old.sql_type, new.sql_type
            ));
        }
    }
    Ok(())
}
