//! `INSERT ... VALUES` of plain constants, read straight into columns without the planner.

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::sql::sqlparser::ast as sql;
use millstream_types::pg::{FormatSettings, TextColumnBuilder};
use millstream_types::{Error, Result, SqlType};

use super::is_default;
use crate::catalog::{Column, Relation};
use crate::parser::parse_expr;

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
            match value.as_ref().unwrap_or(&default) {
                Constant::Null => builder.append_null(),
                Constant::Text(text) => builder.append(text)?,
                Constant::Owned(text) => builder.append(text)?,
            }
        }
        arrays.push(builder.finish());
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    // Nulls in columns that take none are the constraints' business: the batch itself allows them.
    let fields: Vec<_> = columns.iter().map(|c| c.arrow_field().with_nullable(true)).collect();
    let schema = std::sync::Arc::new(arrow::datatypes::Schema::new(fields));
    Ok(Some(RecordBatch::try_new_with_options(schema, arrays, &options).map_err(Error::from)?))
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
        SqlType::SmallInt | SqlType::Integer | SqlType::BigInt => is_integer,
        SqlType::Real | SqlType::Double | SqlType::Numeric(_) => true,
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) => is_integer && (text == "0" || !text.starts_with('0')),
        _ => false,
    }
}
