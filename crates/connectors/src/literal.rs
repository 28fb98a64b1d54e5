//! Values in option texts: parsed once, by the type they are to have.

use arrow::array::ArrayRef;
use millstream_types::SqlType;
use millstream_types::pg::{FormatSettings, TextColumnBuilder};

/// The value that `text` stands for in Postgres, as an array of length 1; `None` if it is no value of the type.
pub(crate) fn parse(text: &str, sql_type: &SqlType) -> Option<ArrayRef> {
    let mut builder = TextColumnBuilder::new(sql_type, &FormatSettings::default(), 1);
    builder.append(text).ok()?;
    Some(builder.finish())
}

/// Text without its quotes, if it stands in single quotes, with doubled quotes inside undone.
pub(crate) fn unquote(text: &str) -> String {
    let text = text.trim();
    match text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        Some(inner) => inner.replace("''", "'"),
        None => text.to_owned(),
    }
}
