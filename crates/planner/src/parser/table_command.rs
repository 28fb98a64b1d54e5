//! `TABLE name`, wherever a query may stand, as `SELECT * FROM name`; sqlparser reads it at some places only, and not what
//! comes after it.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::tokens::word_is;

/// What a query may follow.
const BEFORE_QUERIES: [&str; 10] =
    ["UNION", "EXCEPT", "INTERSECT", "ALL", "DISTINCT", "AS", "FOR", "EXPLAIN", "ANALYZE", "VERBOSE"];

/// What follows a relation's name where it is all that is said of it.
const AFTER_NAME: [&str; 11] =
    ["UNION", "EXCEPT", "INTERSECT", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR", "ON", "RETURNING", "WITH"];

/// Replaces the word where it is a query.
pub(super) fn rewrite_table_commands(tokens: &mut Vec<TokenWithSpan>) {
    if !tokens.iter().any(|t| word_is(t, &["TABLE"])) {
        return;
    }
    let is_text = |t: &TokenWithSpan| !matches!(t.token, Token::Whitespace(_));
    let inserts = tokens.iter().find(|t| is_text(t)).is_some_and(|t| word_is(t, &["INSERT", "WITH"]));
    let mut at = 0;
    while at < tokens.len() {
        let before = tokens[..at].iter().rfind(|t| is_text(t));
        let follows = match before {
            None => true,
            Some(t) if matches!(t.token, Token::LParen | Token::RParen) => true,
            // INSERT INTO t TABLE u
            Some(t) => word_is(t, &BEFORE_QUERIES) || inserts && matches!(t.token, Token::Word(_)),
        };
        if follows && word_is(&tokens[at], &["TABLE"]) && is_followed_by_name(&tokens[at + 1..]) {
            let span = tokens[at].span;
            let only =
                (at + 1..tokens.len()).find(|&i| is_text(&tokens[i])).filter(|&i| word_is(&tokens[i], &["ONLY"]));
            if let Some(only) = only {
                tokens.remove(only);
            }
            let select = [Token::make_keyword("SELECT"), Token::Mul, Token::make_keyword("FROM")];
            tokens.splice(at..=at, select.map(|token| TokenWithSpan { token, span }));
        }
        at += 1;
    }
}

/// Whether a name comes next, and then what may follow a query of all rows.
fn is_followed_by_name(tokens: &[TokenWithSpan]) -> bool {
    let mut rest = tokens.iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).peekable();
    rest.next_if(|t| word_is(t, &["ONLY"]));
    loop {
        if rest.next_if(|t| matches!(t.token, Token::Word(_))).is_none() {
            return false;
        }
        if rest.next_if(|t| t.token == Token::Period).is_none() {
            break;
        }
    }
    rest.next()
        .is_none_or(|t| matches!(t.token, Token::RParen | Token::SemiColon | Token::EOF) || word_is(t, &AFTER_NAME))
}
