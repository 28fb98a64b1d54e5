//! Parameters of prepared statements, from bytes to columns of one row.

use arrow::array::ArrayRef;
use bytes::Bytes;
use millstream_types::pg::{BinaryColumnBuilder, FormatSettings, TextColumnBuilder};
use millstream_types::{Error, Result, SqlState, SqlType};

use super::frontend::Bind;

/// The format code that stands for an index: none given is text for all, one is for all, else one each.
pub(crate) fn format_code(codes: &[i16], index: usize) -> i16 {
    match codes {
        [] => 0,
        [one] => *one,
        each => each.get(index).copied().unwrap_or(0),
    }
}

/// Refuses format codes that do not fit what they are for.
pub(crate) fn check_formats(codes: &[i16], n_items: usize, mismatch: impl Fn() -> String) -> Result<()> {
    if codes.len() > 1 && codes.len() != n_items {
        return Err(Error::user(SqlState::PROTOCOL_VIOLATION, mismatch()));
    }
    match codes.iter().find(|code| !matches!(code, 0 | 1)) {
        Some(code) => Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, format!("unsupported format code: {code}"))),
        None => Ok(()),
    }
}

/// One array of length 1 for each parameter.
pub(crate) fn read_params(bind: &Bind, types: &[SqlType], settings: &FormatSettings) -> Result<Vec<ArrayRef>> {
    let n_params = bind.params.len();
    if n_params != types.len() {
        return Err(Error::user(
            SqlState::PROTOCOL_VIOLATION,
            format!(
                "bind message supplies {n_params} parameters, but prepared statement \"{}\" requires {}",
                bind.statement,
                types.len()
            ),
        ));
    }
    check_formats(&bind.param_formats, n_params, || {
        format!("bind message has {} parameter formats but {n_params} parameters", bind.param_formats.len())
    })?;
    let read = |(i, sql_type): (usize, &SqlType)| {
        let value = bind.params[i].as_ref();
        match format_code(&bind.param_formats, i) {
            0 => read_text(value, sql_type, settings),
            _ => read_binary(value, sql_type),
        }
    };
    types.iter().enumerate().map(read).collect()
}

fn read_text(value: Option<&Bytes>, sql_type: &SqlType, settings: &FormatSettings) -> Result<ArrayRef> {
    let mut builder = TextColumnBuilder::new(sql_type, settings, 1);
    match value {
        None => builder.append_null(),
        Some(bytes) => {
            let text = std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or_else(|| {
                let message = "invalid byte sequence for encoding \"UTF8\" in a parameter";
                Error::user(SqlState::CHARACTER_NOT_IN_REPERTOIRE, message)
            })?;
            builder.append(text)?;
        }
    }
    Ok(builder.finish())
}

fn read_binary(value: Option<&Bytes>, sql_type: &SqlType) -> Result<ArrayRef> {
    let mut builder = BinaryColumnBuilder::new(sql_type, 1);
    match value {
        None => builder.append_null(),
        Some(bytes) => builder.append(bytes)?,
    }
    Ok(builder.finish())
}
