//! How deep a statement nests, estimated before anything recurses over it.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use millstream_types::{Error, Result, SqlState};

/// Levels of a statement's tree at most.
pub(super) const DEPTH_MAX: usize = 6_000;

/// Refuses what nests too deeply. Brackets and CASE nest; a chain of operators nests to the left, one level for each.
pub(super) fn check_depth(tokens: &[TokenWithSpan]) -> Result<()> {
    // Operators since the last comma, for each bracket that is open.
    let mut open: Vec<usize> = vec![0];
    let mut depth = 0;
    for token in tokens {
        let change = change_of(&token.token);
        match change {
            Change::None => continue,
            Change::Opens => open.push(0),
            Change::Deepens => open.last_mut().map_or((), |n| *n += 1),
            Change::Separates => depth -= open.last_mut().map_or(0, std::mem::take),
            Change::Closes if open.len() > 1 => depth -= open.pop().map_or(0, |n| n + 1),
            Change::Closes => {}
        }
        depth += usize::from(matches!(change, Change::Opens | Change::Deepens));
        if depth > DEPTH_MAX {
            let position = token.span.start.column as usize;
            return Err(too_deep().with_position(position));
        }
    }
    Ok(())
}

pub(super) fn too_deep() -> Error {
    Error::user(SqlState::STATEMENT_TOO_COMPLEX, "stack depth limit exceeded")
        .with_hint("the statement nests expressions or subqueries too deeply")
}

enum Change {
    None,
    Opens,
    Closes,
    Deepens,
    Separates,
}

fn change_of(token: &Token) -> Change {
    match token {
        Token::LParen | Token::LBracket => Change::Opens,
        Token::RParen | Token::RBracket => Change::Closes,
        Token::Comma => Change::Separates,
        Token::Plus
        | Token::Minus
        | Token::Mul
        | Token::Div
        | Token::Mod
        | Token::Caret
        | Token::StringConcat
        | Token::DoubleColon
        | Token::Tilde
        | Token::Ampersand
        | Token::Pipe
        | Token::CaretAt
        | Token::ShiftLeft
        | Token::ShiftRight => Change::Deepens,
        Token::Word(word) => match word.keyword {
            Keyword::CASE => Change::Opens,
            Keyword::END => Change::Closes,
            Keyword::AND
            | Keyword::OR
            | Keyword::NOT
            | Keyword::IS
            | Keyword::UNION
            | Keyword::INTERSECT
            | Keyword::EXCEPT
            | Keyword::JOIN
            | Keyword::COLLATE
            | Keyword::AT => Change::Deepens,
            _ => Change::None,
        },
        _ => Change::None,
    }
}
