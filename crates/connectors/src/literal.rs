//! Values in option texts: parsed once, by the type they are to have.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;

/// The value that `text` stands for, as an array of length 1; `None` if it is no value of the type.
pub(crate) fn parse(text: &str, data_type: &DataType) -> Option<ArrayRef> {
    let text: ArrayRef = Arc::new(StringArray::from(vec![text.trim()]));
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let value = match data_type {
        // Arrow knows zones by name only where it is built with their database.
        DataType::Timestamp(unit, Some(_)) => {
            let utc = cast_with_options(&text, &DataType::Timestamp(*unit, Some("+00:00".into())), &strict).ok()?;
            cast_with_options(&utc, data_type, &strict).ok()?
        }
        other => cast_with_options(&text, other, &strict).ok()?,
    };
    (value.null_count() == 0).then_some(value)
}

/// Text without its quotes, if it stands in single quotes, with doubled quotes inside undone.
pub(crate) fn unquote(text: &str) -> String {
    let text = text.trim();
    match text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        Some(inner) => inner.replace("''", "'"),
        None => text.to_owned(),
    }
}
