//! Values in option texts: parsed once, by the type they are to have.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;

/// The value that `text` stands for, as an array of length 1; `None` if it is no value of the type.
pub(crate) fn parse(text: &str, data_type: &DataType) -> Option<ArrayRef> {
    let text: ArrayRef = Arc::new(StringArray::from(vec![text.trim()]));
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(&text, data_type, &strict).ok().filter(|value| value.null_count() == 0)
}

/// Text without its quotes, if it stands in single quotes, with doubled quotes inside undone.
pub(crate) fn unquote(text: &str) -> String {
    let text = text.trim();
    match text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        Some(inner) => inner.replace("''", "'"),
        None => text.to_owned(),
    }
}
