//! `INSERT ... VALUES` of plain constants and parameters, read straight into columns without the planner.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::concat;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::sql::sqlparser::ast as sql;
use millstream_types::pg::{FormatSettings, TextColumnBuilder};
use millstream_types::{Error, Result, SqlState, SqlType};

use super::is_default;
use crate::catalog::{Column, Relation};
use crate::parser::parse_expr;

/// As many parameters as the wire protocol can number.
const MAX_PARAMS: usize = 65_535;

/// A constant as its column reads it.
enum Constant<'a> {
    Null,
    Text(&'a str),
    Owned(String),
}

/// The rows as a batch of the relation's visible columns; `None` if some value needs the planner. `positions` says into
/// which column each value goes.
///
/// # Errors
/// What is wrong with a constant, as Postgres says it: 22P02, 22003 and so on.
pub(super) fn literal_rows(
    relation: &Relation,
    positions: &[usize],
    rows: &[sql::Parens<Vec<sql::Expr>>],
    settings: &FormatSettings,
) -> Result<Option<RecordBatch>> {
    let columns = relation.visible_columns();
    // Which value of a row each column takes.
    let sources: Vec<Option<usize>> = (0..columns.len()).map(|c| positions.iter().position(|&p| p == c)).collect();
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len());
    for (column, source) in columns.iter().zip(&sources) {
        let default = match default_constant(column) {
            Some(default) => default,
            None if source.is_none() => return Ok(None),
            None => Constant::Null,
        };
        let has_plain_default = default_constant(column).is_some();
        let mut builder = TextColumnBuilder::new(&without_length(&column.sql_type), settings, rows.len());
        for row in rows {
            let value = match source.map(|i| &row.content[i]) {
                None => None,
                Some(expr) if is_default(expr) && has_plain_default => None,
                Some(expr) => match constant(expr, &column.sql_type) {
                    Some(value) => Some(value),
                    None => return Ok(None),
                },
            };
            append(&mut builder, value.as_ref().unwrap_or(&default))?;
        }
        arrays.push(builder.finish());
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(Some(RecordBatch::try_new_with_options(nullable_schema(columns), arrays, &options)?))
}

/// Rows of constants and parameters: what a prepared `INSERT ... VALUES ($1, $2)` writes.
#[derive(Clone, Debug)]
pub struct InsertTemplate {
    schema: SchemaRef,
    /// For each column, a cell a row.
    columns: Vec<Vec<Cell>>,
    n_rows: usize,
}

/// A value of a template.
#[derive(Clone, Debug)]
enum Cell {
    /// One value.
    Constant(ArrayRef),
    /// The parameter with this number, from 0.
    Param(usize),
}

impl InsertTemplate {
    /// The rows with parameters in their places: one array of length 1 a parameter, of its type.
    ///
    /// # Errors
    /// 08P01 if a parameter is missing; internal if one is of another type.
    pub fn rows(&self, params: &[ArrayRef]) -> Result<RecordBatch> {
        let value = |cell: &Cell| match cell {
            Cell::Constant(array) => Ok(array.clone()),
            Cell::Param(i) => params
                .get(*i)
                .cloned()
                .ok_or_else(|| Error::user(SqlState::PROTOCOL_VIOLATION, format!("parameter ${} has no value", i + 1))),
        };
        let mut columns = Vec::with_capacity(self.columns.len());
        for cells in &self.columns {
            let values = cells.iter().map(value).collect::<Result<Vec<_>>>()?;
            columns.push(match values.as_slice() {
                [one] => one.clone(),
                many => concat(&many.iter().map(AsRef::as_ref).collect::<Vec<_>>())?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.n_rows));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}

/// The rows as a template, and the types of its parameters; `None` if some value is neither a constant nor a parameter
/// of its column's own type.
///
/// # Errors
/// As [`literal_rows`].
pub(super) fn template_rows(
    relation: &Relation,
    positions: &[usize],
    rows: &[sql::Parens<Vec<sql::Expr>>],
    settings: &FormatSettings,
    given: &[Option<SqlType>],
) -> Result<Option<(InsertTemplate, Vec<SqlType>)>> {
    let columns = relation.visible_columns();
    let mut types: Vec<Option<SqlType>> = given.to_vec();
    let mut cells = Vec::with_capacity(columns.len());
    for (i, column) in columns.iter().enumerate() {
        let source = positions.iter().position(|&p| p == i);
        let mut of_column = Vec::with_capacity(rows.len());
        for row in rows {
            let expr = source.map(|s| &row.content[s]).filter(|e| !is_default(e));
            let cell = match expr.and_then(param_number) {
                Some(number) => {
                    if !take_type(&mut types, number, &column.sql_type) {
                        return Ok(None);
                    }
                    Cell::Param(number)
                }
                None => match constant_cell(expr, column, settings)? {
                    Some(array) => Cell::Constant(array),
                    None => return Ok(None),
                },
            };
            of_column.push(cell);
        }
        cells.push(of_column);
    }
    // A parameter that stands nowhere has no type to be found here.
    let Some(types) = types.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
    let template = InsertTemplate { schema: nullable_schema(columns), columns: cells, n_rows: rows.len() };
    Ok(Some((template, types)))
}

/// The number of a parameter, from 0.
fn param_number(expr: &sql::Expr) -> Option<usize> {
    let sql::Expr::Value(value) = expr else { return None };
    let sql::Value::Placeholder(id) = &value.value else { return None };
    id.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1).filter(|&n| n < MAX_PARAMS)
}

/// Gives a parameter its column's type; false if it has another.
fn take_type(types: &mut Vec<Option<SqlType>>, number: usize, wanted: &SqlType) -> bool {
    if types.len() <= number {
        types.resize(number + 1, None);
    }
    match &types[number] {
        None => {
            types[number] = Some(wanted.clone());
            true
        }
        Some(known) => known.arrow_type() == wanted.arrow_type(),
    }
}

/// A constant, or the column's default where there is none.
fn constant_cell(expr: Option<&sql::Expr>, column: &Column, settings: &FormatSettings) -> Result<Option<ArrayRef>> {
    let value = match expr {
        Some(expr) => constant(expr, &column.sql_type),
        None => default_constant(column),
    };
    let Some(value) = value else { return Ok(None) };
    let mut builder = TextColumnBuilder::new(&without_length(&column.sql_type), settings, 1);
    append(&mut builder, &value)?;
    Ok(Some(builder.finish()))
}

fn append(builder: &mut TextColumnBuilder, value: &Constant<'_>) -> Result<()> {
    match value {
        Constant::Null => builder.append_null(),
        Constant::Text(text) => builder.append(text)?,
        Constant::Owned(text) => builder.append(text)?,
    }
    Ok(())
}

/// Nulls in columns that take none are the constraints' business: the batch itself allows them.
fn nullable_schema(columns: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|c| c.arrow_field().with_nullable(true)).collect::<Vec<_>>()))
}

/// Lengths are checked with the other constraints.
fn without_length(sql_type: &SqlType) -> SqlType {
    match sql_type {
        SqlType::Varchar(_) | SqlType::Char(_) => SqlType::Text,
        other => other.clone(),
    }
}

/// The default if it is a constant; `None` if it needs the planner.
fn default_constant(column: &Column) -> Option<Constant<'static>> {
    let Some(text) = &column.default else { return Some(Constant::Null) };
    let expr = parse_expr(text).ok()?;
    match constant(&expr, &column.sql_type)? {
        Constant::Null => Some(Constant::Null),
        Constant::Text(text) => Some(Constant::Owned(text.to_string())),
        Constant::Owned(text) => Some(Constant::Owned(text)),
    }
}

/// A constant whose text the column reads as Postgres would store it.
fn constant<'a>(expr: &'a sql::Expr, sql_type: &SqlType) -> Option<Constant<'a>> {
    match expr {
        sql::Expr::Value(value) => match &value.value {
            sql::Value::Null => Some(Constant::Null),
            sql::Value::SingleQuotedString(text) | sql::Value::EscapedStringLiteral(text) => Some(Constant::Text(text)),
            sql::Value::Boolean(b) if *sql_type == SqlType::Boolean => {
                Some(Constant::Text(if *b { "true" } else { "false" }))
            }
            sql::Value::Number(text, _) if number_fits(text, sql_type) => Some(Constant::Text(text)),
            _ => None,
        },
        sql::Expr::UnaryOp { op: sql::UnaryOperator::Minus, expr } => match expr.as_ref() {
            sql::Expr::Value(value) => match &value.value {
                sql::Value::Number(text, _) if number_fits(text, sql_type) => Some(Constant::Owned(format!("-{text}"))),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// Whether a number's own text is what the column would store.
fn number_fits(text: &str, sql_type: &SqlType) -> bool {
    let is_integer = text.bytes().all(|b| b.is_ascii_digit());
    match sql_type {
        SqlType::SmallInt | SqlType::Integer | SqlType::BigInt | SqlType::Oid => is_integer,
        SqlType::Real | SqlType::Double | SqlType::Numeric(_) => true,
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) => is_integer && (text == "0" || !text.starts_with('0')),
        _ => false,
    }
}
