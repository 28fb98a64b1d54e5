//! `INSERT`

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast::{self as sql, Spanned};
use millstream_types::pg::FormatSettings;
use millstream_types::{Error, Result, SqlState, SqlType};

use super::literals::{self, InsertTemplate, literal_rows};
use super::{
    BoundReturning, Params, assign_all, assigned, assignments, bind_returning, cast_to, column_position, default_ast,
    default_expr, is_default, project, rows_source, side_by_side, target, typed_constant,
};
use crate::ast::{ColumnName, ConflictAction, Insert, OnConflict, OnKeyConflict};
use crate::binder::{PlanContext, bind, located, rewrite_expr};
use crate::catalog::{Catalog, Column, Relation, RelationId};
use crate::errors::from_datafusion;
use crate::reading;
use crate::session_context::Purpose;
use crate::typing::calls::condition;
use crate::typing::exprs::resolve;

/// An `INSERT` that means something.
#[derive(Clone, Debug)]
pub struct BoundInsert {
    /// The target.
    pub relation: Arc<Relation>,
    /// The rows: all visible columns of the target in order, of their types. Constraints are not yet checked.
    pub rows: InsertRows,
    /// What a row does whose key exists already.
    pub conflict: BoundConflict,
    /// `RETURNING`
    pub returning: Option<BoundReturning>,
    /// The types of `$1`, `$2` ...
    pub param_types: Vec<SqlType>,
    /// The relations that the statement reads.
    pub relations: Vec<RelationId>,
}

/// The rows of an `INSERT`.
#[derive(Clone, Debug)]
pub enum InsertRows {
    /// Constants, read without the planner.
    Batch(RecordBatch),
    /// Constants and parameters: a prepared statement fills in its values without the planner.
    Template(InsertTemplate),
    /// Everything else: a typed plan, not yet optimized.
    Plan(LogicalPlan),
}

/// What a row does whose key exists already.
#[derive(Clone, Debug)]
pub enum BoundConflict {
    /// As the table says.
    Table(OnKeyConflict),
    /// It is dropped.
    Nothing,
    /// It changes the existing row.
    Update(Box<ConflictUpdate>),
}

/// `ON CONFLICT DO UPDATE SET ... [WHERE ...]`
#[derive(Clone, Debug)]
pub struct ConflictUpdate {
    /// Scans one [`super::RowsSource`] whose columns are those of the existing row and then those of the row that was to
    /// be inserted, the visible ones. Its output: a boolean that says whether the row is changed at all (null: no), then
    /// the visible columns of the new row.
    pub plan: LogicalPlan,
    /// Positions of the columns that are set.
    pub set_columns: Vec<usize>,
}

/// Resolves an `INSERT`. `settings` are those under which constants are read.
///
/// # Errors
/// As Postgres: 42703, 42701, 42804, 42809, 42601 for too few or too many values, 42P10 for a conflict target that is not
/// the primary key.
pub fn bind_insert(
    catalog: &Catalog,
    insert: &Insert,
    param_types: &[Option<SqlType>],
    settings: &FormatSettings,
) -> Result<BoundInsert> {
    reading::under(settings, || bind_under(catalog, insert, param_types, settings)).map_err(|e| match &insert.source {
        Some(source) => located(e, source),
        None => e,
    })
}

fn bind_under(
    catalog: &Catalog,
    insert: &Insert,
    param_types: &[Option<SqlType>],
    settings: &FormatSettings,
) -> Result<BoundInsert> {
    let relation = target(catalog, &insert.table, "insert into")?;
    let mut positions = bind_copy_columns(&relation, &insert.columns)?;
    let conflict = bind_conflict(catalog, &relation, insert)?;
    let done = |rows, types, relations| {
        let mut params = Params { given: param_types, types };
        let alias = insert.alias.as_deref();
        let returning = bind_returning(catalog, &relation, alias, insert.returning.as_ref(), &mut params)?;
        let (relation, param_types) = (relation.clone(), params.types);
        Ok(BoundInsert { relation, rows, conflict, returning, param_types, relations })
    };
    let Some(source) = &insert.source else {
        return done(InsertRows::Plan(default_row(catalog, &relation)?), Vec::new(), Vec::new());
    };
    let width = width_of(source);
    if let Some(width) = width {
        check_width(&mut positions, width, insert, plain_values(source))?;
    }
    if let Some(rows) = plain_values(source) {
        if rows.iter().any(|row| row.content.len() != positions.len()) {
            return Err(Error::user(SqlState::SYNTAX_ERROR, "VALUES lists must all be the same length"));
        }
        if let Some(batch) = literal_rows(&relation, &positions, rows, settings)? {
            return done(InsertRows::Batch(batch), Vec::new(), Vec::new());
        }
        if let Some((template, types)) = literals::template_rows(&relation, &positions, rows, settings, param_types)? {
            return done(InsertRows::Template(template), types, Vec::new());
        }
    }
    let mut query = source.as_ref().clone();
    type_constants(&mut query, &relation, &positions)?;
    let context = PlanContext::new(catalog, Purpose::AdHoc);
    let bound = bind(&context, &query, param_types)?;
    if width.is_none() {
        check_width(&mut positions, bound.columns.len(), insert, None)?;
    }
    let fields: Vec<Expr> = bound.plan.schema().iter().map(Expr::from).collect();
    let mut exprs: Vec<(Expr, &Column)> = Vec::new();
    for (i, column) in relation.visible_columns().iter().enumerate() {
        let expr = match positions.iter().position(|&p| p == i) {
            Some(source) => fields[source].clone(),
            None => default_expr(catalog, column)?,
        };
        exprs.push((expr, column));
    }
    let plan = assign_all(bound.plan, exprs)?;
    done(InsertRows::Plan(plan), bound.param_types, bound.relations)
}

/// The positions of the columns that `INSERT` or `COPY` names; all visible ones if it names none.
///
/// # Errors
/// 42703, 42701.
pub fn bind_copy_columns(relation: &Relation, columns: &[ColumnName]) -> Result<Vec<usize>> {
    if columns.is_empty() {
        return Ok((0..relation.visible_columns().len()).collect());
    }
    let mut positions = Vec::with_capacity(columns.len());
    for column in columns {
        let position = column_position(relation, column)?;
        if positions.contains(&position) {
            let message = format!("column \"{}\" specified more than once", column.name);
            return Err(Error::user(SqlState::DUPLICATE_COLUMN, message).with_position(column.position.max(1)));
        }
        positions.push(position);
    }
    Ok(positions)
}

/// Without a column list fewer values than columns fill the first ones; too many, or too few for a list, are errors.
fn check_width(
    positions: &mut Vec<usize>,
    width: usize,
    insert: &Insert,
    rows: Option<&[sql::Parens<Vec<sql::Expr>>]>,
) -> Result<()> {
    if width > positions.len() {
        let error = Error::user(SqlState::SYNTAX_ERROR, "INSERT has more expressions than target columns");
        let extra = rows.and_then(|rows| rows.first()).and_then(|row| row.content.get(positions.len()));
        let position = extra.map_or(0, |e| e.span().start.column as usize);
        return Err(if position > 0 { error.with_position(position) } else { error });
    }
    if let Some(column) = insert.columns.get(width) {
        let error = Error::user(SqlState::SYNTAX_ERROR, "INSERT has more target columns than expressions");
        return Err(error.with_position(column.position.max(1)));
    }
    positions.truncate(width);
    Ok(())
}

/// The rows of a source that is nothing but VALUES.
fn plain_values(query: &sql::Query) -> Option<&[sql::Parens<Vec<sql::Expr>>]> {
    let plain =
        query.with.is_none() && query.order_by.is_none() && query.limit_clause.is_none() && query.fetch.is_none();
    match query.body.as_ref() {
        sql::SetExpr::Values(values) if plain => Some(&values.rows),
        _ => None,
    }
}

/// How many columns a source has, if its text says so.
fn width_of(query: &sql::Query) -> Option<usize> {
    plain_values(query).and_then(|rows| rows.first()).map(|row| row.content.len())
}

/// Constants of unknown type take the types of the columns that they go into; DEFAULT is replaced. Every row is assigned by
/// itself, and to a text everything can be: so one column of several rows may hold values of several types.
fn type_constants(query: &mut sql::Query, relation: &Relation, positions: &[usize]) -> Result<()> {
    let column = |i: usize| positions.get(i).map(|&p| &relation.columns[p]);
    match query.body.as_mut() {
        sql::SetExpr::Values(values) => {
            let is_one = values.rows.len() == 1;
            for row in &mut values.rows {
                for (i, expr) in row.content.iter_mut().enumerate() {
                    let Some(column) = column(i) else { continue };
                    let is_text = matches!(column.sql_type, SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_));
                    *expr = if is_default(expr) {
                        default_ast(column)?
                    } else if is_text && !is_one {
                        cast_to(expr, column)?
                    } else {
                        typed_constant(expr, column)?
                    };
                }
            }
        }
        sql::SetExpr::Select(select) => {
            for (i, item) in select.projection.iter_mut().enumerate() {
                let Some(column) = column(i) else { break };
                match item {
                    sql::SelectItem::UnnamedExpr(expr) | sql::SelectItem::ExprWithAlias { expr, .. } => {
                        *expr = typed_constant(expr, column)?;
                    }
                    // What follows a wildcard stands at positions that only the planner knows.
                    _ => break,
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// `DEFAULT VALUES`
fn default_row(catalog: &Catalog, relation: &Relation) -> Result<LogicalPlan> {
    let one = LogicalPlanBuilder::empty(true).build().map_err(from_datafusion)?;
    let exprs = relation
        .visible_columns()
        .iter()
        .map(|column| Ok((default_expr(catalog, column)?, column)))
        .collect::<Result<Vec<_>>>()?;
    assign_all(one, exprs)
}

fn bind_conflict(catalog: &Catalog, relation: &Arc<Relation>, insert: &Insert) -> Result<BoundConflict> {
    let Some(conflict) = &insert.on_conflict else { return Ok(BoundConflict::Table(relation.on_conflict)) };
    check_target(relation, conflict)?;
    match &conflict.action {
        ConflictAction::Nothing => Ok(BoundConflict::Nothing),
        ConflictAction::Update { assignments, filter } => {
            if conflict.target.is_empty() {
                let message = "ON CONFLICT DO UPDATE requires inference specification or constraint name";
                return Err(
                    Error::user(SqlState::SYNTAX_ERROR, message).with_hint("For example, ON CONFLICT (column_name).")
                );
            }
            let alias = insert.alias.as_deref().unwrap_or(&relation.name);
            conflict_update(catalog, relation, alias, assignments, filter.as_deref())
                .map(|update| BoundConflict::Update(Box::new(update)))
        }
    }
}

/// The target must be the primary key, in any order.
fn check_target(relation: &Relation, conflict: &OnConflict) -> Result<()> {
    if conflict.target.is_empty() {
        return Ok(());
    }
    let mut named = conflict.target.iter().map(|c| column_position(relation, c)).collect::<Result<Vec<_>>>()?;
    named.sort_unstable();
    named.dedup();
    let mut key = relation.declared_key().unwrap_or_default().to_vec();
    key.sort_unstable();
    if named == key {
        return Ok(());
    }
    let message = "there is no unique or exclusion constraint matching the ON CONFLICT specification";
    Err(Error::user(SqlState::INVALID_COLUMN_REFERENCE, message))
}

fn conflict_update(
    catalog: &Catalog,
    relation: &Arc<Relation>,
    alias: &str,
    sets: &[sql::Assignment],
    filter: Option<&sql::Expr>,
) -> Result<ConflictUpdate> {
    let visible = relation.visible_schema();
    let rows = rows_source(side_by_side(&[("existing", &visible), ("excluded", &visible)]));
    let scan = LogicalPlanBuilder::scan("__conflict", rows, None)
        .and_then(LogicalPlanBuilder::build)
        .map_err(from_datafusion)?;
    let n = relation.visible_columns().len();
    let names = relation
        .visible_columns()
        .iter()
        .map(|c| (alias, c))
        .chain(relation.visible_columns().iter().map(|c| ("excluded", c)));
    let exprs = scan
        .schema()
        .iter()
        .zip(names)
        .map(|(field, (qualifier, column))| Expr::from(field).alias_qualified(Some(qualifier), &column.name))
        .collect();
    let both = project(scan, exprs)?;
    let context = PlanContext::new(catalog, Purpose::AdHoc);
    let planner = SqlToRel::new(&context);
    let bound = |expr: &sql::Expr| -> Result<Expr> {
        let mut expr = expr.clone();
        rewrite_expr(&mut expr);
        let planned = planner.sql_to_expr(expr, both.schema(), &mut PlannerContext::new()).map_err(from_datafusion)?;
        resolve(planned, both.schema()).map_err(from_datafusion)
    };
    let matches = match filter {
        Some(filter) => condition(bound(filter)?, "WHERE", both.schema()).map_err(from_datafusion)?,
        None => lit(true),
    };
    let set = assignments(relation, sets)?;
    let mut out = vec![datafusion::logical_expr::cast(matches, DataType::Boolean).alias("__matches")];
    for (i, column) in relation.visible_columns().iter().enumerate() {
        let expr = match set.iter().find(|(p, _, _)| *p == i) {
            Some((_, _, value)) => assigned(bound(value)?, column, both.schema())?,
            None => Expr::from(both.schema().qualified_field(i)),
        };
        out.push(expr.alias(format!("new.{}", column.name)));
    }
    debug_assert_eq!(out.len(), n + 1, "a flag and every visible column");
    Ok(ConflictUpdate { plan: project(both.clone(), out)?, set_columns: set.iter().map(|(p, _, _)| *p).collect() })
}
