//! `COPY ... FROM STDIN` and `COPY ... TO STDOUT`

use millstream_types::copy::CopyHeader;
use millstream_types::{Error, Result, SqlState};

use super::cursor::Cursor;
use super::{boolean_option, subscribe};
use crate::ast::{CopyFormat, CopyFrom, CopyOptions, CopySource, CopyTo, ForcedColumns, Statement};

pub(super) fn parse(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect_words(&["COPY"])?;
    let source = if c.at_symbol('(') {
        c.expect_symbol('(')?;
        let source = match c.peek_word().as_deref() {
            Some("SUBSCRIBE") => CopySource::Subscribe(subscribe(c)?),
            Some(word) if matches!(word, "INSERT" | "UPDATE" | "DELETE") => {
                CopySource::Write(Box::new(write(c, word)?))
            }
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
    let format = options(c)?;
    let filter = if c.words(&["WHERE"]) { Some(Box::new(c.expr()?)) } else { None };
    Ok(Statement::CopyFrom(CopyFrom { relation, columns, format, filter }))
}

/// A statement that writes; only what it returns can be copied.
fn write(c: &mut Cursor<'_>, word: &str) -> Result<Statement> {
    let position = c.position();
    let Some(statement) = super::write::parse(c, word)? else { return Err(c.syntax_error()) };
    let returns = match &statement {
        Statement::Insert(insert) => insert.returning.is_some(),
        Statement::Update(update) => update.returning.is_some(),
        Statement::Delete(delete) => delete.returning.is_some(),
        _ => false,
    };
    if returns {
        return Ok(statement);
    }
    Err(Error::not_supported("COPY query must have a RETURNING clause").with_position(position))
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
    let mut given: Vec<String> = Vec::new();
    let mut once = |name: &str, position: usize| {
        if given.iter().any(|g| g == name) {
            let message = "conflicting or redundant options";
            return Err(Error::user(SqlState::SYNTAX_ERROR, message).with_position(position));
        }
        given.push(name.to_owned());
        Ok(())
    };
    let with = c.words(&["WITH"]);
    if c.at_symbol('(') {
        c.expect_symbol('(')?;
        loop {
            let position = c.position();
            let name = c.label()?.name.to_ascii_lowercase();
            once(&name, position)?;
            parenthesized_option(c, &mut options, &name)?;
            if !c.symbol(',') {
                break;
            }
        }
        c.expect_symbol(')')?;
        return Ok(options);
    }
    let mut any = false;
    while let Some((name, position)) = old_option(c, &mut options)? {
        once(&name, position)?;
        any = true;
    }
    if with && !any {
        return Err(c.syntax_error());
    }
    Ok(options)
}

fn parenthesized_option(c: &mut Cursor<'_>, options: &mut CopyOptions, name: &str) -> Result<()> {
    if let "force_quote" | "force_not_null" | "force_null" = name {
        let position = c.position();
        if !(c.at_symbol('(') || c.at_symbol('*') && name == "force_quote") {
            let message = format!("argument to option \"{name}\" must be a list of column names");
            return Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, message).with_position(position));
        }
        return forced(c, options, name, true);
    }
    let has_value = !c.at_symbol(',') && !c.at_symbol(')');
    let value = if has_value { c.option_value()? } else { String::new() };
    if !has_value && matches!(name, "format" | "delimiter" | "null" | "quote" | "escape" | "encoding") {
        return Err(Error::user(SqlState::SYNTAX_ERROR, format!("{name} requires a parameter")));
    }
    set(options, name, &value)
}

/// An option without parentheses around all of them, as before Postgres 9: its name, and where it stands.
fn old_option(c: &mut Cursor<'_>, options: &mut CopyOptions) -> Result<Option<(String, usize)>> {
    let position = c.position();
    let Some(word) = c.peek_word() else { return Ok(None) };
    let name = word.to_ascii_lowercase();
    let name = match word.as_str() {
        "CSV" | "TEXT" | "BINARY" => {
            c.words(&[&word]);
            set(options, "format", &name)?;
            "format".to_owned()
        }
        "HEADER" | "FREEZE" => {
            c.words(&[&word]);
            set(options, &name, "")?;
            name
        }
        "DELIMITER" | "NULL" | "QUOTE" | "ESCAPE" | "ENCODING" => {
            c.words(&[&word]);
            c.words(&["AS"]);
            let value = c.string()?;
            set(options, &name, &value)?;
            name
        }
        "FORCE" => {
            c.words(&["FORCE"]);
            let name = if c.words(&["QUOTE"]) {
                "force_quote"
            } else if c.words(&["NOT", "NULL"]) {
                "force_not_null"
            } else if c.words(&["NULL"]) {
                "force_null"
            } else {
                return Err(c.syntax_error());
            };
            forced(c, options, name, false)?;
            name.to_owned()
        }
        _ => return Ok(None),
    };
    Ok(Some((name, position)))
}

/// The columns of FORCE_QUOTE and its kind.
fn forced(c: &mut Cursor<'_>, options: &mut CopyOptions, name: &str, in_parentheses: bool) -> Result<()> {
    let columns = if name == "force_quote" && c.symbol('*') {
        ForcedColumns::All
    } else if in_parentheses {
        ForcedColumns::Named(c.column_list()?)
    } else {
        ForcedColumns::Named(c.comma_separated(Cursor::identifier)?)
    };
    *match name {
        "force_quote" => &mut options.force_quote,
        "force_not_null" => &mut options.force_not_null,
        _ => &mut options.force_null,
    } = Some(columns);
    Ok(())
}

fn set(options: &mut CopyOptions, name: &str, value: &str) -> Result<()> {
    match name {
        "format" => options.format = format(value)?,
        "header" => options.header = header(value)?,
        "delimiter" => options.delimiter = Some(one_byte(name, value)?),
        "quote" => options.quote = Some(one_byte(name, value)?),
        "escape" => options.escape = Some(one_byte(name, value)?),
        "null" => options.null = Some(value.to_string()),
        "encoding" if ["utf8", "utf-8", "unicode"].iter().any(|n| value.eq_ignore_ascii_case(n)) => {}
        "encoding" => return Err(Error::not_supported(format!("COPY in encoding \"{value}\" is not supported"))),
        "freeze" => {
            boolean_option(name, value)?;
        }
        _ => return Err(Error::user(SqlState::SYNTAX_ERROR, format!("option \"{name}\" not recognized"))),
    }
    Ok(())
}

fn format(value: &str) -> Result<CopyFormat> {
    match value.to_ascii_lowercase().as_str() {
        "text" => Ok(CopyFormat::Text),
        "csv" => Ok(CopyFormat::Csv),
        "binary" => Ok(CopyFormat::Binary),
        _ => {
            let message = format!("COPY format \"{value}\" not recognized");
            Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, message))
        }
    }
}

fn header(value: &str) -> Result<CopyHeader> {
    if value.eq_ignore_ascii_case("match") {
        return Ok(CopyHeader::Match);
    }
    match boolean_option("header", value) {
        Ok(true) => Ok(CopyHeader::Yes),
        Ok(false) => Ok(CopyHeader::No),
        Err(_) => Err(Error::user(SqlState::SYNTAX_ERROR, "header requires a Boolean value or \"match\"")),
    }
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
