//! SQL text to statements: Millstream's own statements by their leading words, queries and expressions by sqlparser.

mod between;
mod comment;
mod copy;
mod create;
mod cursor;
mod depth;
mod dialect;
mod exclusion;
mod grouping_sets;
mod keywords;
mod quantified;
mod session;
mod table_command;
mod tokens;
mod trims;
mod types;
mod write;

#[cfg(test)]
mod tests;

use millstream_types::{Error, Result, SqlState};

use crate::ast::{
    DeclareCursor, Drop, DropBehavior, Explain, ExplainTarget, Refresh, RelationKind, Statement, Subscribe,
    SubscribeTarget, Truncate,
};
pub(crate) use between::SYMMETRIC;
use cursor::Cursor;
pub(crate) use cursor::folded;
pub(crate) use exclusion::EXCLUDE;
use keywords::is_object_kind;
pub(crate) use keywords::is_reserved;
pub(crate) use tokens::planned_error;
pub(crate) use types::data_type_from_text;
pub use types::{sql_type_from_text, sql_type_of};

/// One statement of a query string.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The statement.
    pub statement: Statement,
    /// Its own text, without the semicolon.
    pub text: String,
    /// Where its text begins in the query string, in characters from 0: what must be added to a position in `text`.
    pub offset: usize,
}

/// Splits a query string at its semicolons and parses each statement; blank ones are left out.
///
/// # Errors
/// 42601 with a position that counts from the beginning of the whole string; 0A000 for what is SQL that Millstream
/// knows and cannot do; that of [`interrupt`](crate::interrupt) if the statement is to stop.
pub fn parse(sql: &str) -> Result<Vec<Parsed>> {
    let mut statements = Vec::new();
    for piece in tokens::split(sql)? {
        let offset = piece.offset;
        let text = piece.text.to_string();
        let statement = parse_piece(piece).map_err(|e| stopped().unwrap_or_else(|| shifted(e, offset)))?;
        statements.push(Parsed { statement, text, offset });
    }
    Ok(statements)
}

/// Parses one scalar expression, such as a column's default.
///
/// # Errors
/// 42601 if the text is not one expression.
pub fn parse_expr(sql: &str) -> Result<crate::ast::Expr> {
    parse_all(sql, Cursor::expr)
}

/// Parses one query, such as a view's.
///
/// # Errors
/// 42601 if the text is not one query.
pub fn parse_query(sql: &str) -> Result<Box<crate::ast::Query>> {
    parse_all(sql, Cursor::query)
}

/// Parses a text that is one thing.
fn parse_all<'a, T>(sql: &'a str, rule: fn(&mut Cursor<'a>) -> Result<T>) -> Result<T> {
    let mut cursor = Cursor::new(tokens::single(sql)?);
    let parsed = rule(&mut cursor).and_then(|parsed| cursor.expect_end().map(|()| parsed));
    parsed.map_err(|error| stopped().unwrap_or(error))
}

/// The error of a statement that is to stop, which the parser takes for one of syntax.
fn stopped() -> Option<Error> {
    crate::interrupt::check().err().map(crate::errors::from_datafusion)
}

/// The error with its position counted from the beginning of a larger text.
fn shifted(error: Error, offset: usize) -> Error {
    match error.fields().position {
        Some(position) => error.with_position(position + offset),
        None => error,
    }
}

fn parse_piece(piece: tokens::Piece<'_>) -> Result<Statement> {
    let piece = tokens::prepare(piece)?;
    let mut cursor = Cursor::new(piece);
    let statement = parse_statement(&mut cursor)?;
    cursor.expect_end()?;
    Ok(statement)
}

/// Statements of Postgres that Millstream knows and does not do.
const KNOWN_UNSUPPORTED: &[&str] = &[
    "ALTER", "ANALYZE", "CALL", "CLUSTER", "DO", "GRANT", "IMPORT", "LISTEN", "LOAD", "LOCK", "MERGE", "NOTIFY",
    "REASSIGN", "REINDEX", "REVOKE", "SECURITY", "VACUUM",
];

fn parse_statement(c: &mut Cursor<'_>) -> Result<Statement> {
    if c.at_query() {
        return write::of_query(c.query()?);
    }
    let position = c.position();
    let Some(word) = c.peek_word() else { return Err(c.syntax_error()) };
    if KNOWN_UNSUPPORTED.contains(&word.as_str()) {
        return Err(Error::not_supported(format!("{word} is not supported yet")).with_position(position));
    }
    if let Some(statement) = parse_definition(c, &word)? {
        return Ok(statement);
    }
    if let Some(statement) = write::parse(c, &word)? {
        return Ok(statement);
    }
    if let Some(statement) = session::parse(c, &word)? {
        return Ok(statement);
    }
    match word.as_str() {
        "COPY" => copy::parse(c),
        "EXPLAIN" => explain(c),
        "SUBSCRIBE" => Ok(Statement::Subscribe(subscribe(c)?)),
        "DECLARE" => declare(c),
        "PREPARE" => session::prepare(c, parse_statement),
        _ => Err(c.syntax_error()),
    }
}

fn parse_definition(c: &mut Cursor<'_>, word: &str) -> Result<Option<Statement>> {
    match word {
        "CREATE" => create::parse(c).map(Some),
        "DROP" => drop(c).map(Some),
        "TRUNCATE" => truncate(c).map(Some),
        "COMMENT" => comment::parse(c).map(Some),
        "REFRESH" => {
            c.expect_words(&["REFRESH", "MATERIALIZED", "VIEW"])?;
            c.words(&["CONCURRENTLY"]);
            let name = c.name()?;
            let cascade = c.words(&["CASCADE"]);
            Ok(Some(Statement::Refresh(Refresh { name, cascade })))
        }
        _ => Ok(None),
    }
}

/// The kind of relation that the next words name.
fn relation_kind(c: &mut Cursor<'_>) -> Option<RelationKind> {
    [
        (&["STREAM"] as &[&str], RelationKind::Stream),
        (&["SOURCE"], RelationKind::Stream),
        (&["TABLE"], RelationKind::Table),
        (&["VIEW"], RelationKind::View),
        (&["MATERIALIZED", "VIEW"], RelationKind::MaterializedView),
        (&["INDEX"], RelationKind::Index),
        (&["SINK"], RelationKind::Sink),
    ]
    .into_iter()
    .find_map(|(words, kind)| c.words(words).then_some(kind))
}

fn drop(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect_words(&["DROP"])?;
    let position = c.position();
    let Some(kind) = relation_kind(c) else {
        return Err(match c.peek_word() {
            Some(word) if is_object_kind(&word) => {
                Error::not_supported(format!("DROP {word} is not supported yet")).with_position(position)
            }
            _ => c.syntax_error(),
        });
    };
    let if_exists = c.words(&["IF", "EXISTS"]);
    let names = c.comma_separated(Cursor::name)?;
    let behavior = drop_behavior(c);
    Ok(Statement::Drop(Drop { kind, names, if_exists, behavior }))
}

fn drop_behavior(c: &mut Cursor<'_>) -> DropBehavior {
    if c.words(&["CASCADE"]) {
        return DropBehavior::Cascade;
    }
    c.words(&["RESTRICT"]);
    DropBehavior::Restrict
}

fn truncate(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect_words(&["TRUNCATE"])?;
    c.words(&["TABLE"]);
    c.words(&["ONLY"]);
    let names = c.comma_separated(Cursor::name)?;
    if !c.words(&["RESTART", "IDENTITY"]) {
        c.words(&["CONTINUE", "IDENTITY"]);
    }
    let behavior = drop_behavior(c);
    Ok(Statement::Truncate(Truncate { names, behavior }))
}

fn explain(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect_words(&["EXPLAIN"])?;
    let mut analyze = false;
    if c.at_symbol('(') && !c.at_parenthesized_query() {
        for (name, value) in c.options()? {
            match name.as_str() {
                "analyze" => analyze = boolean_option(&name, &value)?,
                "verbose" | "costs" | "buffers" | "timing" | "summary" | "settings" | "wal" => {}
                "format" => check_format(&value)?,
                _ => {
                    let message = format!("unrecognized EXPLAIN option \"{name}\"");
                    return Err(Error::user(SqlState::SYNTAX_ERROR, message));
                }
            }
        }
    } else {
        analyze = c.words(&["ANALYZE"]) || c.words(&["ANALYSE"]);
        c.words(&["VERBOSE"]);
    }
    let target = if c.words(&["MATERIALIZED", "VIEW"]) {
        ExplainTarget::MaterializedView(c.name()?)
    } else {
        ExplainTarget::Statement(Box::new(parse_statement(c)?))
    };
    Ok(Statement::Explain(Explain { analyze, target }))
}

/// Refuses every form of `EXPLAIN` but text.
fn check_format(value: &str) -> Result<()> {
    match value.to_ascii_lowercase().as_str() {
        "text" => Ok(()),
        "xml" | "json" | "yaml" => Err(Error::not_supported(format!("EXPLAIN format \"{value}\" is not supported"))),
        _ => {
            let message = format!("unrecognized value for EXPLAIN option \"format\": \"{value}\"");
            Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, message))
        }
    }
}

/// `SUBSCRIBE [TO] relation | (query) [WITH (...)] [AS OF epoch]`
fn subscribe(c: &mut Cursor<'_>) -> Result<Subscribe> {
    c.expect_words(&["SUBSCRIBE"])?;
    c.words(&["TO"]);
    let target = if c.at_symbol('(') {
        c.expect_symbol('(')?;
        let (query, text) = c.query_with_text()?;
        c.expect_symbol(')')?;
        SubscribeTarget::Query(query, text)
    } else {
        SubscribeTarget::Relation(c.name()?)
    };
    let (mut snapshot, mut progress) = (None, false);
    if c.words(&["WITH"]) {
        for (name, value) in c.options()? {
            match name.as_str() {
                "snapshot" => snapshot = Some(boolean_option(&name, &value)?),
                "progress" => progress = boolean_option(&name, &value)?,
                _ => {
                    return Err(Error::user(
                        SqlState::INVALID_PARAMETER_VALUE,
                        format!("unrecognized SUBSCRIBE option \"{name}\""),
                    )
                    .with_hint("the options are SNAPSHOT and PROGRESS"));
                }
            }
        }
    }
    let as_of = if c.words(&["AS", "OF"]) { Some(c.unsigned()?) } else { None };
    Ok(Subscribe { target, snapshot, progress, as_of })
}

fn declare(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect_words(&["DECLARE"])?;
    let name = c.identifier()?.name;
    let mut hold = false;
    loop {
        let position = c.position();
        if c.words(&["NO", "SCROLL"]) || c.words(&["INSENSITIVE"]) || c.words(&["ASENSITIVE"]) {
            continue;
        }
        if c.words(&["BINARY"]) || c.words(&["SCROLL"]) {
            return Err(Error::not_supported("binary and scrollable cursors are not supported").with_position(position));
        }
        break;
    }
    c.expect_words(&["CURSOR"])?;
    if c.words(&["WITH", "HOLD"]) {
        hold = true;
    } else {
        c.words(&["WITHOUT", "HOLD"]);
    }
    c.expect_words(&["FOR"])?;
    let statement = if c.peek_word().as_deref() == Some("SUBSCRIBE") {
        Statement::Subscribe(subscribe(c)?)
    } else {
        Statement::Query(c.query()?)
    };
    Ok(Statement::DeclareCursor(DeclareCursor { name, hold, statement: Box::new(statement) }))
}

/// The value of an option that is true or false; a bare name means true.
pub(crate) fn boolean_option(name: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "" | "true" | "on" | "1" | "yes" => Ok(true),
        "false" | "off" | "0" | "no" => Ok(false),
        _ => Err(Error::user(SqlState::SYNTAX_ERROR, format!("{name} requires a Boolean value"))),
    }
}
