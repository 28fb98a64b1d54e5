//! `COMMENT ON ... IS ...`

use millstream_types::{Error, Result};

use super::cursor::Cursor;
use super::relation_kind;
use crate::ast::{ColumnName, Comment, CommentTarget, Name, Statement};

pub(super) fn parse(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect_words(&["COMMENT", "ON"])?;
    let position = c.position();
    let target = if c.words(&["COLUMN"]) {
        let (relation, column) = column(c)?;
        CommentTarget::Column(relation, column)
    } else if c.words(&["SCHEMA"]) {
        CommentTarget::Schema(c.identifier()?)
    } else if c.words(&["DATABASE"]) {
        CommentTarget::Database(c.identifier()?)
    } else if let Some(kind) = relation_kind(c) {
        CommentTarget::Relation(kind, c.name()?)
    } else {
        return Err(match c.peek_word() {
            Some(word) => {
                Error::not_supported(format!("COMMENT ON {word} is not supported yet")).with_position(position)
            }
            None => c.syntax_error(),
        });
    };
    c.expect_words(&["IS"])?;
    let text = if c.words(&["NULL"]) { None } else { Some(c.string()?) };
    Ok(Statement::Comment(Comment { target, text }))
}

/// `[schema.]relation.column`
fn column(c: &mut Cursor<'_>) -> Result<(Name, ColumnName)> {
    let first = c.identifier()?;
    c.expect_symbol('.')?;
    let second = c.identifier()?;
    let position = first.position;
    if c.symbol('.') {
        return Ok((Name { schema: Some(first.name), name: second.name, position }, c.identifier()?));
    }
    Ok((Name { schema: None, name: first.name, position }, second))
}
