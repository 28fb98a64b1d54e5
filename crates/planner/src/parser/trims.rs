//! `TRIM(LEADING FROM x)` and `TRIM(FROM x)`, which sqlparser does not read, with the blank that they trim.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::tokens::word_is;

/// Inserts what is trimmed, and drops a FROM that stands alone.
pub(super) fn complete_trims(tokens: &mut Vec<TokenWithSpan>) {
    let is_text = |t: &TokenWithSpan| !matches!(t.token, Token::Whitespace(_));
    let mut at = 0;
    while at < tokens.len() {
        let mut next = (at..tokens.len()).filter(|&i| is_text(&tokens[i]));
        at += 1;
        let (Some(trim), Some(open), Some(side)) = (next.next(), next.next(), next.next()) else { return };
        if !word_is(&tokens[trim], &["TRIM"]) || tokens[open].token != Token::LParen {
            continue;
        }
        if word_is(&tokens[side], &["FROM"]) {
            tokens.remove(side);
        } else if word_is(&tokens[side], &["LEADING", "TRAILING", "BOTH"])
            && let Some(from) = next.next().filter(|&i| word_is(&tokens[i], &["FROM"]))
        {
            let span = tokens[from].span;
            tokens.insert(from, TokenWithSpan { token: Token::SingleQuotedString(" ".to_owned()), span });
        }
    }
}
