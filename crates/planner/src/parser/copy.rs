//! `COPY ... FROM STDIN` and `COPY ... TO STDOUT`

use millstream_types::{Error, Result, SqlState};

use super::cursor::Cursor;
use super::{boolean_option, subscribe};
use crate::ast::{CopyFormat, CopyFrom, CopyOptions, CopySource, CopyTo, Statement};

pub(super) fn parse(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect_words(&["COPY"])?;
    let source = if c.at_symbol('(') {
        c.expect_symbol('(')?;
        let source = match c.peek_word().as_deref() {
            Some("SUBSCRIBE") => CopySource::Subscribe(subscribe(c)?),
            _ => CopySource::Query(c.query()?),
        };
        c.expect_symbol(')')?;
        source
    } else {
        let relation = c.name()?;
        let columns = if c.at_symbol('(') { c.column_list()? } else { Vec::new() };
        CopySource::Relation(relation, columns)
    };
    let position = c.position();
    if c.words(&["TO"]) {
        endpoint(c, "STDOUT")?;
        return Ok(Statement::CopyTo(CopyTo { source, format: options(c)? }));
    }
    c.expect_words(&["FROM"])?;
    let CopySource::Relation(relation, columns) = source else {
        return Err(Error::user(SqlState::SYNTAX_ERROR, "syntax error at or near \"FROM\"").with_position(position));
    };
    endpoint(c, "STDIN")?;
    Ok(Statement::CopyFrom(CopyFrom { relation, columns, format: options(c)? }))
}

fn endpoint(c: &mut Cursor<'_>, expected: &str) -> Result<()> {
    if c.words(&["STDIN"]) || c.words(&["STDOUT"]) {
        return Ok(());
    }
    let position = c.position();
    Err(Error::not_supported(format!("COPY works with {expected} only, not with files or programs"))
        .with_hint("use psql's \\copy")
        .with_position(position))
}

fn options(c: &mut Cursor<'_>) -> Result<CopyOptions> {
    let mut options = CopyOptions::default();
    let with = c.words(&["WITH"]);
    if c.at_symbol('(') {
        for (name, value) in c.options()? {
            set(&mut options, &name, &value)?;
        }
        return Ok(options);
    }
    let mut any = false;
    while let Some(word) = c.peek_word() {
        match word.as_str() {
            "CSV" | "TEXT" | "BINARY" => {
                c.words(&[&word]);
                set(&mut options, "format", &word.to_ascii_lowercase())?;
            }
            "HEADER" => {
                c.words(&[&word]);
                options.header = true;
            }
            "DELIMITER" | "NULL" | "QUOTE" | "ESCAPE" => {
                c.words(&[&word]);
                c.words(&["AS"]);
                let value = c.string()?;
                set(&mut options, &word.to_ascii_lowercase(), &value)?;
            }
            _ => break,
        }
        any = true;
    }
    if with && !any {
        return Err(c.syntax_error());
    }
    Ok(options)
}

fn set(options: &mut CopyOptions, name: &str, value: &str) -> Result<()> {
    match name {
        "format" => {
            options.format = match value.to_ascii_lowercase().as_str() {
                "text" => CopyFormat::Text,
                "csv" => CopyFormat::Csv,
                "binary" => CopyFormat::Binary,
                _ => {
                    return Err(Error::user(
                        SqlState::INVALID_PARAMETER_VALUE,
                        format!("COPY format \"{value}\" not recognized"),
                    ));
                }
            }
        }
        "header" => options.header = boolean_option("header", value)?,
        "delimiter" => options.delimiter = Some(one_byte(name, value)?),
        "quote" => options.quote = Some(one_byte(name, value)?),
        "escape" => options.escape = Some(one_byte(name, value)?),
        "null" => options.null = Some(value.to_string()),
        "encoding" if value.eq_ignore_ascii_case("utf8") || value.eq_ignore_ascii_case("utf-8") => {}
        "freeze" => {}
        "force_quote" | "force_not_null" | "force_null" => {
            return Err(Error::not_supported(format!("COPY option \"{name}\" is not supported yet")));
        }
        _ => return Err(Error::user(SqlState::SYNTAX_ERROR, format!("option \"{name}\" not recognized"))),
    }
    Ok(())
}

fn one_byte(name: &str, value: &str) -> Result<char> {
    let mut chars = value.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) if c.is_ascii() => Ok(c),
        _ => Err(Error::user(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("COPY {name} must be a single one-byte character"),
        )),
    }
}
