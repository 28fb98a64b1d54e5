//! Rows as a table of text, for people at a terminal.

use std::fmt;

use arrow::array::{Array, ArrayRef, RecordBatch};
use millstream_types::SqlType;
use millstream_types::pg::{FormatSettings, TextColumn};

/// A table of text.
pub(crate) struct TextTable {
    rows: Vec<Vec<String>>,
    is_number: Vec<bool>,
}

/// Lays rows out; the values read as Postgres writes them.
pub(crate) fn format_table(batches: &[RecordBatch], settings: &FormatSettings) -> TextTable {
    let Some(first) = batches.first() else { return TextTable { rows: vec![], is_number: vec![] } };
    let schema = first.schema();
    let types: Vec<Option<SqlType>> = schema.fields().iter().map(|f| SqlType::of_arrow(f.data_type())).collect();
    let mut rows = vec![schema.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>()];
    for batch in batches {
        let texts = batch.columns().iter().zip(&types).map(|(column, t)| texts_of(column, t.as_ref(), settings));
        let texts: Vec<Vec<String>> = texts.collect();
        rows.extend((0..batch.num_rows()).map(|row| texts.iter().map(|column| column[row].clone()).collect()));
    }
    let is_number = schema.fields().iter().map(|f| f.data_type().is_numeric()).collect();
    TextTable { rows, is_number }
}

/// The values of a column as text, empty for null.
fn texts_of(column: &ArrayRef, sql_type: Option<&SqlType>, settings: &FormatSettings) -> Vec<String> {
    let Some(Ok(texts)) = sql_type.map(|t| TextColumn::new(column.as_ref(), t, settings)) else {
        return vec![String::new(); column.len()];
    };
    let text = |row: usize| {
        let mut out = Vec::new();
        if !texts.is_null(row) {
            texts.write(row, &mut out);
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    (0..column.len()).map(text).collect()
}

impl TextTable {
    /// The last column's value in the last row.
    pub(crate) fn last_value(&self) -> Option<&str> {
        self.rows.get(1..)?.last()?.last().map(String::as_str)
    }
}

impl fmt::Display for TextTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(header) = self.rows.first() else { return writeln!(f, "(no rows)") };
        let width = |c: usize| self.rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..header.len()).map(width).collect();
        for (i, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).zip(&self.is_number).map(|((cell, &width), is_number)| {
                if *is_number && i > 0 { format!(" {cell:>width$} ") } else { format!(" {cell:<width$} ") }
            });
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("|"))?;
            if i == 0 {
                let rules: Vec<String> = widths.iter().map(|w| "-".repeat(w + 2)).collect();
                writeln!(f, "{}", rules.join("+"))?;
            }
        }
        Ok(())
    }
}
