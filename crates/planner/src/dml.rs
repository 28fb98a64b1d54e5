//! Statements that change rows: `INSERT`, `UPDATE`, `DELETE`, with their defaults, casts and constraints.
//!
//! What a statement writes is a plan (or, for plain `VALUES`, a batch) over the relation's own columns. Plans of
//! `RETURNING` and of `ON CONFLICT DO UPDATE` scan a [`RowsSource`], for which the engine puts the rows in question.

mod constraints;
mod copy;
mod insert;
mod literals;
pub(crate) mod returning;
mod update;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableSource};
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast as sql;
use millstream_types::{Error, Result, SqlState, SqlType};

use crate::ast::{ColumnName, CreateRelation, Name};
use crate::binder::{PlanContext, rewrite_expr};
use crate::catalog::{Catalog, Column, Kind, Relation};
use crate::errors::from_datafusion;
use crate::functions::moments;
use crate::parser::{data_type_from_text, folded, parse_expr, parse_query};
use crate::reading;
use crate::session_context::Purpose;
use crate::typing::cast::explicit_cast;
use crate::typing::exprs::resolve;
use crate::typing::types::{Class, constant, is_unknown, type_name, type_of};
use crate::typing::zoned::in_session_zone;
pub use constraints::check_constraints;
pub use copy::{BoundCopy, bind_copy};
pub use insert::{BoundConflict, BoundInsert, ConflictUpdate, InsertRows, bind_copy_columns, bind_insert};
pub use literals::InsertTemplate;
pub use returning::BoundReturning;
use returning::bind_returning;
pub use update::{BoundDelete, BoundUpdate, bind_delete, bind_update};

/// A scan of rows that the engine has at hand: those written, or those in conflict.
#[derive(Debug)]
pub struct RowsSource {
    schema: SchemaRef,
}

impl RowsSource {
    /// The source behind a scan, if it is one of these.
    pub fn of(source: &Arc<dyn TableSource>) -> Option<&RowsSource> {
        source.as_ref().downcast_ref::<RowsSource>()
    }
}

impl TableSource for RowsSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

/// The relation that a statement writes.
fn target(catalog: &Catalog, name: &Name, verb: &str) -> Result<Arc<Relation>> {
    let relation = catalog.resolve(name)?;
    let refuse =
        |message: String| Error::user(SqlState::WRONG_OBJECT_TYPE, message).with_position(name.position.max(1));
    let noun = relation.kind.noun();
    match &relation.kind {
        Kind::Table => {}
        Kind::Stream if matches!(verb, "insert into" | "copy to") => {}
        Kind::Stream => {
            return Err(refuse(format!("cannot {verb} stream \"{}\"", relation.name))
                .with_detail("rows of a stream never change"));
        }
        Kind::View(_) if verb != "copy to" => {
            let message = format!("cannot {verb} view \"{}\"", relation.name);
            return Err(Error::user(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .with_detail("Views are not updatable.")
                .with_position(name.position.max(1)));
        }
        _ => return Err(refuse(format!("cannot {verb} {noun} \"{}\"", relation.name))),
    }
    if relation.has_connector() {
        return Err(refuse(format!("cannot {verb} {noun} \"{}\"", relation.name))
            .with_detail("its rows come from its connector"));
    }
    if relation.append_only && matches!(verb, "update" | "delete from") {
        return Err(refuse(format!("cannot {verb} table \"{}\"", relation.name)).with_detail("it is append only"));
    }
    Ok(relation.clone())
}

/// The position of a column that a statement names.
fn column_position(relation: &Relation, column: &ColumnName) -> Result<usize> {
    relation.column_index(&column.name).ok_or_else(|| {
        let message = format!("column \"{}\" of relation \"{}\" does not exist", column.name, relation.name);
        Error::user(SqlState::UNDEFINED_COLUMN, message).with_position(column.position.max(1))
    })
}

/// A column's type in casts: without a length, which is checked when the row is written.
fn cast_type(sql_type: &SqlType) -> Result<sql::DataType> {
    match sql_type {
        SqlType::Varchar(_) | SqlType::Char(_) => Ok(sql::DataType::Text),
        other => data_type_from_text(&other.to_string()),
    }
}

/// A constant of unknown type that is written into a column, cast to the column's type.
fn typed_constant(expr: &sql::Expr, column: &Column) -> Result<sql::Expr> {
    let is_constant = match expr {
        sql::Expr::Value(value) => matches!(
            value.value,
            sql::Value::SingleQuotedString(_)
                | sql::Value::EscapedStringLiteral(_)
                | sql::Value::DollarQuotedString(_)
                | sql::Value::Null
                | sql::Value::Placeholder(_)
        ),
        _ => false,
    };
    if is_constant { cast_to(expr, column) } else { Ok(expr.clone()) }
}

/// An expression cast to a column's type.
fn cast_to(expr: &sql::Expr, column: &Column) -> Result<sql::Expr> {
    Ok(sql::Expr::Cast {
        kind: sql::CastKind::Cast,
        expr: Box::new(expr.clone()),
        data_type: cast_type(&column.sql_type)?,
        array: false,
        format: None,
    })
}

/// Whether an expression is the word DEFAULT.
fn is_default(expr: &sql::Expr) -> bool {
    matches!(expr, sql::Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
}

/// A column's default, of the column's type; a null if it has none.
fn default_expr(catalog: &Catalog, column: &Column) -> Result<Expr> {
    let wanted = column.sql_type.arrow_type();
    let Some(text) = &column.default else {
        return Ok(Expr::Literal(ScalarValue::try_from(&wanted).map_err(from_datafusion)?, None));
    };
    let mut expr = parse_expr(text)?;
    rewrite_expr(&mut expr);
    let context = PlanContext::new(catalog, Purpose::AdHoc);
    let empty = DFSchema::empty();
    let mut planner_context = PlannerContext::new();
    let planned = SqlToRel::new(&context).sql_to_expr(expr, &empty, &mut planner_context).map_err(from_datafusion)?;
    let resolved = resolve(planned, &empty).map_err(from_datafusion)?;
    assigned(resolved, column, &empty)
}

/// Checks the defaults of a relation that is to be made. One that is `'now'` or its like is from then on what that means
/// at this moment, as in Postgres.
///
/// # Errors
/// 42804 if the type of one does not fit, and whatever is wrong with an expression itself.
pub fn settle_defaults(catalog: &Catalog, create: &mut CreateRelation) -> Result<()> {
    for def in &mut create.columns {
        let column = Column { default: def.default.clone(), ..Column::new(&def.name.name, def.sql_type.clone()) };
        let expr = reading::under(catalog.settings(), || default_expr(catalog, &column))?;
        if let Expr::ScalarFunction(function) = &expr
            && let Some(text) = moments::text_of(function)
        {
            let settled = moments::settled(text, &def.sql_type, catalog.settings())?;
            def.default = Some(format!("'{settled}'"));
        } else if expr.exists(|e| Ok(is_of_clock(e))).map_err(from_datafusion)? {
            return Err(Error::not_supported("'now' and its like within a default are not supported yet")
                .with_hint("Use now(), current_date or current_timestamp."));
        }
    }
    Ok(())
}

fn is_of_clock(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(function) if moments::text_of(function).is_some())
}

/// The expression cast as an assignment to a column casts it.
fn assigned(expr: Expr, column: &Column, schema: &DFSchema) -> Result<Expr> {
    let wanted = column.sql_type.arrow_type();
    let assign = || -> Result<Expr, datafusion::common::DataFusionError> {
        if is_unknown(&expr) {
            if let Expr::Literal(value, metadata) = &expr
                && let Some(text) = value.try_as_str().flatten()
            {
                return constant(text, &wanted, metadata.clone());
            }
            return explicit_cast(expr.clone(), &wanted, schema);
        }
        let from = type_of(&expr, schema)?;
        if !is_assignable(&from, &wanted) {
            let message = format!(
                "column \"{}\" is of type {} but expression is of type {}",
                column.name,
                column.sql_type,
                type_name(&from)
            );
            return Err(crate::binder::external(
                Error::user(SqlState::DATATYPE_MISMATCH, message)
                    .with_hint("You will need to rewrite or cast the expression."),
            ));
        }
        explicit_cast(expr.clone(), &wanted, schema)
    };
    assign().map_err(from_datafusion)
}

/// Whether Postgres casts one type to the other when a value is stored.
fn is_assignable(from: &DataType, to: &DataType) -> bool {
    use Class as C;
    match (Class::of(from), Class::of(to)) {
        (_, C::Text) => true,
        (from, to) if from.is_number() && to.is_number() => true,
        (from, to) if from.is_date_or_timestamp() && to.is_date_or_timestamp() => true,
        (C::Timestamp | C::Timestamptz | C::Interval, C::Time) | (C::Time, C::Interval) => true,
        (from, to) => from == to,
    }
}

/// A plan whose output is what is assigned to `columns`, one output column each.
fn assign_all(plan: LogicalPlan, exprs: Vec<(Expr, &Column)>) -> Result<LogicalPlan> {
    let schema = plan.schema().clone();
    let exprs = exprs
        .into_iter()
        .map(|(expr, column)| Ok(assigned(expr, column, &schema)?.alias(&column.name)))
        .collect::<Result<Vec<_>>>()?;
    project(plan, exprs)
}

/// A projection of expressions that were made after the plan was bound.
fn project(plan: LogicalPlan, exprs: Vec<Expr>) -> Result<LogicalPlan> {
    let plan = LogicalPlanBuilder::from(plan).project(exprs).and_then(LogicalPlanBuilder::build);
    plan.and_then(in_session_zone).map_err(from_datafusion)
}

/// The parameters of a statement whose parts are bound one after another.
struct Params<'a> {
    /// The types that the client fixed.
    given: &'a [Option<SqlType>],
    /// Those that have been found so far.
    types: Vec<SqlType>,
}

impl Params<'_> {
    fn known(&self) -> Vec<Option<SqlType>> {
        let found = self.types.iter().cloned().map(Some);
        found.chain(self.given.iter().skip(self.types.len()).cloned()).collect()
    }
}

fn rows_source(schema: SchemaRef) -> Arc<dyn TableSource> {
    Arc::new(RowsSource { schema })
}

/// The schema under which a relation's target table is known to a [`PlanContext`].
pub(crate) const TARGET_SCHEMA: &str = "__target";

/// `SELECT * FROM target [AS alias]`, in which the caller replaces what it needs.
fn template(relation: &Relation, alias: Option<&str>) -> Result<Box<sql::Query>> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let alias = quoted(alias.unwrap_or(&relation.name));
    parse_query(&format!("SELECT * FROM {TARGET_SCHEMA}.{} AS {alias}", quoted(&relation.name)))
}

fn select_of(query: &mut sql::Query) -> Result<&mut sql::Select> {
    match query.body.as_mut() {
        sql::SetExpr::Select(select) => Ok(select),
        _ => Err(Error::internal("a template is a SELECT")),
    }
}

/// `name.*`
fn all_of(name: &str) -> sql::SelectItem {
    let name = sql::ObjectName::from(vec![sql::Ident::with_quote('"', name)]);
    let kind = sql::SelectItemQualifiedWildcardKind::ObjectName(name);
    sql::SelectItem::QualifiedWildcard(kind, sql::WildcardAdditionalOptions::default())
}

/// The columns that assignments set, and the expressions.
fn assignments<'a>(
    relation: &'a Relation,
    assignments: &[sql::Assignment],
) -> Result<Vec<(usize, &'a Column, sql::Expr)>> {
    let mut out: Vec<(usize, &Column, sql::Expr)> = Vec::new();
    for assignment in assignments {
        for (name, value) in pairs(assignment)? {
            let ident = name
                .0
                .last()
                .and_then(|p| p.as_ident())
                .ok_or_else(|| Error::user(SqlState::SYNTAX_ERROR, format!("invalid column name {name}")))?;
            let column = ColumnName { name: folded(ident), position: ident.span.start.column as usize };
            let position = column_position(relation, &column)?;
            if out.iter().any(|(p, _, _)| *p == position) {
                let message = format!("multiple assignments to same column \"{}\"", column.name);
                return Err(Error::user(SqlState::SYNTAX_ERROR, message).with_position(column.position.max(1)));
            }
            let column = &relation.columns[position];
            let value = match &value {
                value if is_default(value) => default_ast(column)?,
                value => typed_constant(value, column)?,
            };
            out.push((position, column, value));
        }
    }
    Ok(out)
}

/// `a = x`, or `(a, b) = (x, y)` taken apart.
fn pairs(assignment: &sql::Assignment) -> Result<Vec<(&sql::ObjectName, sql::Expr)>> {
    match &assignment.target {
        sql::AssignmentTarget::ColumnName(name) => Ok(vec![(name, assignment.value.clone())]),
        sql::AssignmentTarget::Tuple(names) => match &assignment.value {
            sql::Expr::Tuple(values) if values.len() == names.len() => {
                Ok(names.iter().zip(values.iter().cloned()).collect())
            }
            sql::Expr::Tuple(_) => {
                Err(Error::user(SqlState::SYNTAX_ERROR, "number of columns does not match number of values"))
            }
            _ => Err(Error::not_supported("assigning a subquery to several columns is not supported yet")),
        },
    }
}

/// A column's default as an expression in a statement; a typed null if it has none.
fn default_ast(column: &Column) -> Result<sql::Expr> {
    match &column.default {
        Some(text) => typed_constant(&parse_expr(text)?, column),
        None => typed_constant(&sql::Expr::Value(sql::Value::Null.into()), column),
    }
}

/// Fields of several relations side by side, for scans of rows in conflict.
fn side_by_side(schemas: &[(&str, &SchemaRef)]) -> SchemaRef {
    let fields = schemas.iter().flat_map(|(prefix, schema)| {
        schema.fields().iter().map(move |f| Field::new(format!("{prefix}.{}", f.name()), f.data_type().clone(), true))
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
