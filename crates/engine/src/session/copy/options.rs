//! The options of `COPY`, checked as Postgres does.

use millstream_planner::ast::{self, ForcedColumns};
use millstream_types::copy::{CopyFormat, CopyHeader, CopyOptions};
use millstream_types::{Error, Result, SqlState};

use crate::api::ResultColumn;

/// The options of a copy into these columns.
///
/// # Errors
/// 22023, 42601 and 0A000 for options that do not go together, 42703 and 42P10 for columns that are not copied.
pub(super) fn of_copy_in(given: &ast::CopyOptions, columns: &[ResultColumn]) -> Result<CopyOptions> {
    if given.force_quote.is_some() {
        return Err(Error::not_supported("COPY force quote only available using COPY TO"));
    }
    let mut options = options_of(given)?;
    options.force_not_null = positions(given.force_not_null.as_ref(), "FORCE_NOT_NULL", columns)?;
    options.force_null = positions(given.force_null.as_ref(), "FORCE_NULL", columns)?;
    Ok(options)
}

/// Checks the options of a copy out before what is copied is known.
///
/// # Errors
/// As [`of_copy_in`].
pub(super) fn check_copy_out(given: &ast::CopyOptions) -> Result<()> {
    for (is_given, what) in [(given.force_not_null.is_some(), "not null"), (given.force_null.is_some(), "null")] {
        if is_given {
            return Err(Error::not_supported(format!("COPY force {what} only available using COPY FROM")));
        }
    }
    if given.header == CopyHeader::Match {
        return Err(Error::not_supported("cannot use \"match\" with HEADER in COPY TO"));
    }
    options_of(given).map(|_| ())
}

/// The options of a copy of these columns out.
///
/// # Errors
/// As [`of_copy_in`].
pub(super) fn of_copy_out(given: &ast::CopyOptions, columns: &[ResultColumn]) -> Result<CopyOptions> {
    let mut options = options_of(given)?;
    options.force_quote = positions(given.force_quote.as_ref(), "FORCE_QUOTE", columns)?;
    Ok(options)
}

/// The columns of an option as positions among those that are copied.
fn positions(forced: Option<&ForcedColumns>, option: &str, columns: &[ResultColumn]) -> Result<Vec<usize>> {
    match forced {
        None => Ok(vec![]),
        Some(ForcedColumns::All) => Ok((0..columns.len()).collect()),
        Some(ForcedColumns::Named(names)) => names
            .iter()
            .map(|named| {
                columns.iter().position(|c| c.name == named.name).ok_or_else(|| {
                    let message = format!("{option} column \"{}\" not referenced by COPY", named.name);
                    Error::user(SqlState::INVALID_COLUMN_REFERENCE, message).with_position(named.position.max(1))
                })
            })
            .collect(),
    }
}

/// The options with the format's defaults, but for columns.
fn options_of(given: &ast::CopyOptions) -> Result<CopyOptions> {
    let format = match given.format {
        ast::CopyFormat::Text => CopyFormat::Text,
        ast::CopyFormat::Csv => CopyFormat::Csv,
        ast::CopyFormat::Binary => CopyFormat::Binary,
    };
    let mut options = CopyOptions::new(format);
    let byte = |c: Option<char>, default: u8| c.map_or(default, |c| c as u8);
    options.delimiter = byte(given.delimiter, options.delimiter);
    options.quote = byte(given.quote, options.quote);
    options.escape = byte(given.escape, options.quote);
    options.header = given.header;
    if let Some(null) = &given.null {
        options.null.clone_from(null);
    }
    check_format(given)?;
    if format != CopyFormat::Binary {
        check_texts(&options)?;
    }
    Ok(options)
}

/// Options that the format does not have.
fn check_format(given: &ast::CopyOptions) -> Result<()> {
    let is_csv = given.format == ast::CopyFormat::Csv;
    let only_csv = [
        (given.quote.is_some(), "quote"),
        (given.escape.is_some(), "escape"),
        (given.force_quote.is_some(), "force quote"),
        (given.force_not_null.is_some(), "force not null"),
        (given.force_null.is_some(), "force null"),
    ];
    if given.format == ast::CopyFormat::Binary {
        let of_lines = [
            (given.delimiter.is_some(), "DELIMITER"),
            (given.null.is_some(), "NULL"),
            (given.header != CopyHeader::No, "HEADER"),
        ];
        if let Some((_, option)) = of_lines.iter().find(|(is_given, _)| *is_given) {
            return Err(Error::user(SqlState::SYNTAX_ERROR, format!("cannot specify {option} in BINARY mode")));
        }
    }
    match only_csv.iter().find(|(is_given, _)| *is_given && !is_csv) {
        Some((_, option)) => Err(Error::not_supported(format!("COPY {option} available only in CSV mode"))),
        None => Ok(()),
    }
}

/// Characters that would be taken for one another.
fn check_texts(options: &CopyOptions) -> Result<()> {
    let is_csv = options.format == CopyFormat::Csv;
    let invalid = |message: &str| Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, message));
    if matches!(options.delimiter, b'\n' | b'\r') {
        return invalid("COPY delimiter cannot be newline or carriage return");
    }
    if !is_csv && b"\\.abcdefghijklmnopqrstuvwxyz0123456789".contains(&options.delimiter) {
        return invalid(&format!("COPY delimiter cannot be \"{}\"", char::from(options.delimiter)));
    }
    if options.null.contains(['\n', '\r']) {
        return invalid("COPY null representation cannot use newline or carriage return");
    }
    if options.null.as_bytes().contains(&options.delimiter) {
        return Err(Error::not_supported("COPY delimiter must not appear in the NULL specification"));
    }
    if is_csv && options.delimiter == options.quote {
        return invalid("COPY delimiter and quote must be different");
    }
    if is_csv && options.null.as_bytes().contains(&options.quote) {
        return Err(Error::not_supported("CSV quote character must not appear in the NULL specification"));
    }
    Ok(())
}
