//! `GROUPING SETS` within `GROUPING SETS`, which sqlparser does not read, and which means the same as its elements.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::tokens::{matching_paren, word_is};

/// Drops the inner words and their parentheses.
pub(super) fn flatten_grouping_sets(tokens: &mut Vec<TokenWithSpan>) {
    let mut outer_end = None;
    let mut dropped = Vec::new();
    for at in 0..tokens.len() {
        let Some((words, open)) = sets_at(tokens, at) else { continue };
        let Some(close) = matching_paren(tokens, open) else { continue };
        match outer_end {
            Some(end) if at < end => dropped.extend(words.into_iter().chain([open, close])),
            _ => outer_end = Some(close),
        }
    }
    if dropped.is_empty() {
        return;
    }
    let mut at = 0;
    tokens.retain(|_| {
        at += 1;
        !dropped.contains(&(at - 1))
    });
}

/// The two words that begin at a token, and the parenthesis after them.
fn sets_at(tokens: &[TokenWithSpan], at: usize) -> Option<([usize; 2], usize)> {
    if !word_is(&tokens[at], &["GROUPING"]) {
        return None;
    }
    let is_text = |i: &usize| !matches!(tokens[*i].token, Token::Whitespace(_));
    let mut next = (at + 1..tokens.len()).filter(is_text);
    let (sets, open) = (next.next()?, next.next()?);
    (word_is(&tokens[sets], &["SETS"]) && tokens[open].token == Token::LParen).then_some(([at, sets], open))
}
