//! `BETWEEN SYMMETRIC`, which sqlparser has no word for, as `BETWEEN __symmetric(low) AND high`.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

use super::tokens::word_is;

/// The function around the lower bound that says that the bounds may come in any order.
pub(crate) const SYMMETRIC: &str = "__symmetric";

/// Replaces SYMMETRIC, and drops ASYMMETRIC, which is the default.
pub(super) fn rewrite_symmetric(tokens: &mut Vec<TokenWithSpan>) {
    let mut at = 0;
    while at < tokens.len() {
        let follows_between = tokens[..at]
            .iter()
            .rfind(|t| !matches!(t.token, Token::Whitespace(_)))
            .is_some_and(|t| word_is(t, &["BETWEEN"]));
        if follows_between && word_is(&tokens[at], &["ASYMMETRIC"]) {
            tokens.remove(at);
            continue;
        }
        if follows_between
            && word_is(&tokens[at], &["SYMMETRIC"])
            && let Some(and) = end_of_bound(tokens, at + 1)
        {
            let span = tokens[at].span;
            let name = Word { value: SYMMETRIC.to_owned(), quote_style: None, keyword: Keyword::NoKeyword };
            tokens.insert(and, TokenWithSpan { token: Token::RParen, span: tokens[and].span });
            tokens.insert(at + 1, TokenWithSpan { token: Token::LParen, span });
            tokens[at].token = Token::Word(name);
        }
        at += 1;
    }
}

/// The AND after a lower bound, which holds no other one but in parentheses and in CASE.
fn end_of_bound(tokens: &[TokenWithSpan], from: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(from) {
        match &token.token {
            Token::LParen | Token::LBracket => depth += 1,
            Token::RParen | Token::RBracket => depth = depth.checked_sub(1)?,
            _ if word_is(token, &["CASE"]) => depth += 1,
            _ if word_is(token, &["END"]) => depth = depth.checked_sub(1)?,
            _ if depth == 0 && word_is(token, &["AND"]) => return Some(i),
            _ => {}
        }
    }
    None
}
