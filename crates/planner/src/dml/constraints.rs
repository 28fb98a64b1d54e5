//! NOT NULL and lengths, applied to the rows that a statement writes.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringViewBuilder};
use millstream_types::pg::{FormatSettings, TextColumn};
use millstream_types::{Error, Result, SqlState, SqlType};

use crate::catalog::{Column, Relation};

/// The rows with texts as long as their columns want them: `varchar(n)` loses blanks beyond n, `char(n)` all at its end.
///
/// `batch` has the relation's first columns, of their Arrow types.
///
/// # Errors
/// 22001 for a longer text, 23502 for a null where none may be.
pub fn check_constraints(relation: &Relation, batch: &RecordBatch) -> Result<RecordBatch> {
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (array, column) in batch.columns().iter().zip(&relation.columns) {
        columns.push(match column.sql_type {
            SqlType::Varchar(Some(n)) => limited(array, n as usize, Blanks::Count)?,
            SqlType::Char(n) => limited(array, n as usize, Blanks::Padding)?,
            _ => array.clone(),
        });
    }
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let batch = RecordBatch::try_new_with_options(batch.schema(), columns, &options)?;
    for (array, column) in batch.columns().iter().zip(&relation.columns) {
        if column.not_null && array.null_count() > 0 {
            return Err(null_violation(relation, column, &batch, array));
        }
    }
    Ok(batch)
}

fn null_violation(relation: &Relation, column: &Column, batch: &RecordBatch, array: &ArrayRef) -> Error {
    let row = (0..array.len()).find(|&row| array.is_null(row)).unwrap_or(0);
    let message = format!(
        "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
        column.name, relation.name
    );
    let error = Error::user(SqlState::NOT_NULL_VIOLATION, message);
    match row_text(relation, batch, row) {
        Ok(text) => error.with_detail(format!("Failing row contains ({text}).")),
        Err(_) => error,
    }
}

/// A row as Postgres shows it in details.
fn row_text(relation: &Relation, batch: &RecordBatch, row: usize) -> Result<String> {
    let settings = FormatSettings::default();
    let mut texts = Vec::with_capacity(batch.num_columns());
    for (array, column) in batch.columns().iter().zip(relation.visible_columns()) {
        let values = TextColumn::new(array.as_ref(), &column.sql_type, &settings)?;
        if values.is_null(row) {
            texts.push("null".to_string());
            continue;
        }
        let mut text = Vec::new();
        values.write(row, &mut text);
        texts.push(String::from_utf8_lossy(&text).into_owned());
    }
    Ok(texts.join(", "))
}

/// What blanks at the end of a text are worth.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blanks {
    /// `varchar(n)`
    Count,
    /// `char(n)`
    Padding,
}

fn limited(array: &ArrayRef, n: usize, blanks: Blanks) -> Result<ArrayRef> {
    let texts = array.as_string_view();
    let fits = |text: &str| {
        let length = if text.len() <= n && text.is_ascii() { text.len() } else { text.chars().count() };
        length <= n && !(blanks == Blanks::Padding && text.ends_with(' '))
    };
    if texts.iter().flatten().all(fits) {
        return Ok(array.clone());
    }
    let mut out = StringViewBuilder::with_capacity(texts.len());
    for text in texts {
        let Some(text) = text else {
            out.append_null();
            continue;
        };
        let end = text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
        if text[end..].chars().any(|c| c != ' ') {
            let name = if blanks == Blanks::Padding { "character" } else { "character varying" };
            return Err(Error::user(
                SqlState::STRING_DATA_RIGHT_TRUNCATION,
                format!("value too long for type {name}({n})"),
            ));
        }
        let text = &text[..end];
        out.append_value(if blanks == Blanks::Padding { text.trim_end_matches(' ') } else { text });
    }
    Ok(Arc::new(out.finish()))
}
