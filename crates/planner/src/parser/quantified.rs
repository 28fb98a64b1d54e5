//! What may stand before ANY and ALL, and within them, and sqlparser does not read: `x [NOT] LIKE ANY (...)` as `x ~~ ANY
//! (...)`, which means the same, and `ANY (VALUES ...)` as `ANY (SELECT * FROM (VALUES ...) AS __values)`.

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::tokens::word_is;

/// Applies both rewrites.
pub(super) fn rewrite_quantified(tokens: &mut Vec<TokenWithSpan>) {
    let mut at = 0;
    while at < tokens.len() {
        if word_is(&tokens[at], &["ANY", "ALL", "SOME"])
            && let Some(open) = text_after(tokens, at).filter(|&i| tokens[i].token == Token::LParen)
        {
            select_from_values(tokens, at, open);
            at = with_operator(tokens, at);
        }
        at += 1;
    }
}

fn is_text(token: &TokenWithSpan) -> bool {
    !matches!(token.token, Token::Whitespace(_))
}

fn text_after(tokens: &[TokenWithSpan], at: usize) -> Option<usize> {
    (at + 1..tokens.len()).find(|&i| is_text(&tokens[i]))
}

fn text_before(tokens: &[TokenWithSpan], at: usize) -> Option<usize> {
    (0..at).rev().find(|&i| is_text(&tokens[i]))
}

/// Puts an operator in place of `[NOT] LIKE` before a quantifier; where that stands now.
fn with_operator(tokens: &mut Vec<TokenWithSpan>, quantifier: usize) -> usize {
    let Some(like) = text_before(tokens, quantifier) else { return quantifier };
    let ignores_case = word_is(&tokens[like], &["ILIKE"]);
    if !ignores_case && !word_is(&tokens[like], &["LIKE"]) {
        return quantifier;
    }
    let not = text_before(tokens, like).filter(|&i| word_is(&tokens[i], &["NOT"]));
    let token = match (not, ignores_case) {
        (None, false) => Token::DoubleTilde,
        (None, true) => Token::DoubleTildeAsterisk,
        (Some(_), false) => Token::ExclamationMarkDoubleTilde,
        (Some(_), true) => Token::ExclamationMarkDoubleTildeAsterisk,
    };
    let first = not.unwrap_or(like);
    let span = Span::new(tokens[first].span.start, tokens[like].span.end);
    tokens.splice(first..=like, [TokenWithSpan { token, span }]);
    quantifier - (like - first)
}

/// VALUES after a comparison and a quantifier becomes a query of the form that sqlparser looks for. Other words before ALL
/// are those of set operations, which are followed by queries anyway.
fn select_from_values(tokens: &mut Vec<TokenWithSpan>, quantifier: usize, open: usize) {
    let compares = text_before(tokens, quantifier).is_some_and(|i| {
        let is_like = word_is(&tokens[i], &["LIKE", "ILIKE"]);
        is_like || !matches!(tokens[i].token, Token::Word(_) | Token::LParen | Token::Comma)
    });
    let Some(values) = text_after(tokens, open).filter(|&i| compares && word_is(&tokens[i], &["VALUES"])) else {
        return;
    };
    let Some(close) = closing(tokens, open) else { return };
    let at = |token, span| TokenWithSpan { token, span };
    let (start, end) = (tokens[values].span, tokens[close].span);
    let alias = ["AS", "__values"].map(Token::make_keyword);
    tokens.splice(close..close, std::iter::once(Token::RParen).chain(alias).map(|token| at(token, end)));
    let words = ["SELECT", "*", "FROM", "("].map(|word| match word {
        "*" => Token::Mul,
        "(" => Token::LParen,
        word => Token::make_keyword(word),
    });
    tokens.splice(values..values, words.map(|token| at(token, start)));
}

/// The parenthesis that closes another.
fn closing(tokens: &[TokenWithSpan], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 1 => return Some(i),
            Token::RParen => depth -= 1,
            _ => {}
        }
    }
    None
}
