//! Postgres types on the wire: identifiers, text and binary forms, in and out.
//!
//! Columns go out row by row through [`TextColumn`] and [`BinaryColumn`], which look at the Arrow type once a column and
//! append bytes to the caller's buffer, and come in through [`TextColumnBuilder`] and [`BinaryColumnBuilder`].

mod array_in;
mod binary_in;
mod binary_out;
mod calendar;
mod datetime_in;
mod datetime_tokens;
mod digits;
mod float_out;
mod interval_in;
mod numeric;
mod oid;
mod settings;
mod text_in;
mod text_out;
mod time_zone;

#[cfg(test)]
mod tests;

pub use binary_in::BinaryColumnBuilder;
pub use binary_out::BinaryColumn;
pub use interval_in::parse_interval;
pub use oid::PgType;
pub use settings::{DateOrder, FormatSettings};
pub use text_in::{TextColumnBuilder, parse_column};
pub use text_out::{TextColumn, format_column};
pub use time_zone::TimeZone;
