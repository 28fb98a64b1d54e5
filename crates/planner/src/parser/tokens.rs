//! Text to tokens: splitting at semicolons, positions, and the few rewrites that sqlparser's grammar needs.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer, TokenizerError};
use millstream_types::{Error, Result, SqlState};

use super::between::rewrite_symmetric;
use super::depth::check_depth;
use super::dialect::MillstreamDialect;
use super::exclusion::rewrite_exclusions;
use super::grouping_sets::flatten_grouping_sets;
use super::quantified::rewrite_quantified;
use super::table_command::rewrite_table_commands;
use super::trims::complete_trims;

pub(super) static DIALECT: MillstreamDialect = MillstreamDialect;

/// A statement's text and tokens. Every span lies on line 1 and counts characters of `text` from 1.
pub(super) struct Piece<'a> {
    /// The text, from the first token to the last.
    pub(super) text: &'a str,
    /// Where the text begins in the whole string, in characters from 0.
    pub(super) offset: usize,
    /// The tokens, blanks and comments included.
    pub(super) tokens: Vec<TokenWithSpan>,
}

/// The statements of a query string, blank ones left out.
pub(super) fn split(sql: &str) -> Result<Vec<Piece<'_>>> {
    let mut tokens = tokenize(sql)?;
    let mut pieces = Vec::new();
    while !tokens.is_empty() {
        let end = tokens.iter().position(|t| t.token == Token::SemiColon).unwrap_or(tokens.len());
        let rest = tokens.split_off((end + 1).min(tokens.len()));
        tokens.truncate(end);
        pieces.extend(piece(sql, tokens));
        tokens = rest;
    }
    Ok(pieces)
}

/// The one statement or expression of a text.
pub(super) fn single(sql: &str) -> Result<Piece<'_>> {
    let tokens = tokenize(sql)?;
    let piece = piece(sql, tokens)
        .ok_or_else(|| Error::user(SqlState::SYNTAX_ERROR, "syntax error at end of input").with_position(1))?;
    prepare(piece)
}

/// Tokens whose columns count the characters of the whole text.
fn tokenize(sql: &str) -> Result<Vec<TokenWithSpan>> {
    let lines = LineStarts::of(sql);
    let mut tokens = Tokenizer::new(&DIALECT, sql).tokenize_with_location().map_err(|e| token_error(sql, &lines, e))?;
    for token in &mut tokens {
        token.span = Span::new(lines.flat(token.span.start), lines.flat(token.span.end));
    }
    Ok(tokens)
}

/// The tokens as a piece that counts from its own first token; `None` if there are only blanks.
fn piece(sql: &str, mut tokens: Vec<TokenWithSpan>) -> Option<Piece<'_>> {
    let is_text = |t: &TokenWithSpan| !matches!(t.token, Token::Whitespace(_) | Token::EOF);
    let first = tokens.iter().position(is_text)?;
    let last = tokens.iter().rposition(is_text)?;
    tokens.truncate(last + 1);
    tokens.drain(..first);
    let offset = tokens.first()?.span.start.column as usize - 1;
    let end = tokens.last()?.span.end.column as usize - 1;
    for token in &mut tokens {
        token.span.start.column -= offset as u64;
        token.span.end.column -= offset as u64;
    }
    Some(Piece { text: char_slice(sql, offset, end), offset, tokens })
}

/// The characters `from..to` of a text, counted from 0.
pub(super) fn char_slice(text: &str, from: usize, to: usize) -> &str {
    if text.is_ascii() {
        return &text[from..to];
    }
    let byte = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
    &text[byte(from)..byte(to)]
}

/// The first and past-the-last character, from 1, of the token that begins at `column`; for error messages only.
pub(super) fn token_span_at(text: &str, column: usize) -> Option<(usize, usize)> {
    let tokens = tokenize(text).ok()?;
    let token = tokens.iter().find(|t| t.span.start.column as usize == column)?;
    Some((column, token.span.end.column as usize))
}

/// Where each line begins, in characters from 0.
struct LineStarts(Vec<u64>);

impl LineStarts {
    fn of(text: &str) -> Self {
        let mut starts = vec![0];
        starts.extend(text.chars().zip(1u64..).filter(|(c, _)| *c == '\n').map(|(_, next)| next));
        LineStarts(starts)
    }

    /// The location on one long line.
    fn flat(&self, at: Location) -> Location {
        let line = (at.line as usize).saturating_sub(1).min(self.0.len() - 1);
        Location { line: 1, column: self.0[line] + at.column }
    }
}

/// Postgres' words for what the tokenizer stumbled over.
fn token_error(sql: &str, lines: &LineStarts, error: TokenizerError) -> Error {
    let position = lines.flat(error.location).column as usize;
    let what = error.message.to_ascii_lowercase();
    let kind = if what.contains("unterminated dollar") {
        "unterminated dollar-quoted string"
    } else if what.contains("unterminated") && what.contains("string") {
        "unterminated quoted string"
    } else if what.contains("comment") {
        "unterminated /* comment"
    } else if what.contains("delimited identifier") || what.contains("close delimiter") {
        "unterminated quoted identifier"
    } else {
        "syntax error"
    };
    let near: String = sql.chars().skip(position.saturating_sub(1)).collect();
    Error::user(SqlState::SYNTAX_ERROR, format!("{kind} at or near \"{near}\"")).with_position(position.max(1))
}

/// Refuses phrases that are planned, and rewrites `TABLE(TUMBLE(TABLE r, DESCRIPTOR(c), i))` to `TUMBLE(r, c, i)`, `BETWEEN
/// SYMMETRIC`, `EXCLUDE`, `LIKE ANY`, `TABLE r`, and all kinds of quoted strings to the plain one.
pub(super) fn prepare(mut piece: Piece<'_>) -> Result<Piece<'_>> {
    check_depth(&piece.tokens)?;
    refuse_planned(&piece.tokens)?;
    unwrap_table_functions(&mut piece.tokens);
    rewrite_table_commands(&mut piece.tokens);
    end_before_options(&mut piece.tokens);
    rewrite_symmetric(&mut piece.tokens);
    rewrite_exclusions(&mut piece.tokens);
    flatten_grouping_sets(&mut piece.tokens);
    complete_trims(&mut piece.tokens);
    rewrite_quantified(&mut piece.tokens);
    for token in &mut piece.tokens {
        unify_string(&mut token.token);
    }
    Ok(piece)
}

/// `E'...'`, `U&'...'` and `$$...$$` differ in how they are written only, and the tokenizer has read them.
fn unify_string(token: &mut Token) {
    match token {
        Token::EscapedStringLiteral(text) | Token::UnicodeStringLiteral(text) => {
            *token = Token::SingleQuotedString(std::mem::take(text));
        }
        Token::DollarQuotedString(text) => *token = Token::SingleQuotedString(std::mem::take(&mut text.value)),
        _ => {}
    }
}

/// `WITH (` begins the options of our statements, and stands in no query of Postgres; sqlparser takes it for a hint of the
/// table before it. The word is known by its text, so to sqlparser it can be one that ends every clause.
fn end_before_options(tokens: &mut [TokenWithSpan]) {
    let mut follows: Option<usize> = None;
    for i in 0..tokens.len() {
        match (&tokens[i].token, follows) {
            (Token::Whitespace(_), _) => continue,
            (Token::LParen, Some(with)) => {
                if let Token::Word(word) = &mut tokens[with].token {
                    word.keyword = Keyword::END;
                }
            }
            _ => {}
        }
        follows = word_is(&tokens[i], &["WITH"]).then_some(i);
    }
}

/// Two words in a row that mean something this version cannot do, and what it is.
const PLANNED: &[(&str, &[&str], &str)] = &[
    ("EMIT", &["ON"], "EMIT ON WINDOW CLOSE"),
    ("WATERMARK", &["FOR"], "WATERMARK"),
    ("ASOF", &["JOIN", "LEFT", "INNER"], "ASOF JOIN"),
    ("FOR", &["SYSTEM_TIME"], "FOR SYSTEM_TIME AS OF"),
];

fn refuse_planned(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut previous: Option<(&TokenWithSpan, &str)> = None;
    for token in tokens {
        match &token.token {
            Token::Whitespace(_) => continue,
            Token::Word(word) if word.quote_style.is_none() => {
                if let Some((first, text)) = previous {
                    let planned = PLANNED.iter().find(|(a, b, _)| {
                        text.eq_ignore_ascii_case(a) && b.iter().any(|b| word.value.eq_ignore_ascii_case(b))
                    });
                    if let Some((_, _, what)) = planned {
                        return Err(planned_error(what).with_position(first.span.start.column as usize));
                    }
                }
                previous = Some((token, &word.value));
            }
            _ => previous = None,
        }
    }
    Ok(())
}

/// The error for SQL that is Millstream's and not there yet.
pub(crate) fn planned_error(what: &str) -> Error {
    Error::not_supported(format!("{what} is not supported yet")).with_hint(format!("{what} is planned"))
}

pub(super) fn word_is(token: &TokenWithSpan, words: &[&str]) -> bool {
    match &token.token {
        Token::Word(w) => w.quote_style.is_none() && words.iter().any(|x| w.value.eq_ignore_ascii_case(x)),
        _ => false,
    }
}

fn unwrap_table_functions(tokens: &mut Vec<TokenWithSpan>) {
    if !tokens.iter().any(|t| word_is(t, &["TUMBLE", "HOP", "SESSION", "CUMULATE"])) {
        return;
    }
    let text: Vec<usize> = (0..tokens.len()).filter(|&i| !matches!(tokens[i].token, Token::Whitespace(_))).collect();
    let mut dropped = vec![false; tokens.len()];
    for window in text.windows(5) {
        let [table, open, function, inner, next] = window else { continue };
        let is_call = word_is(&tokens[*table], &["TABLE"])
            && tokens[*open].token == Token::LParen
            && word_is(&tokens[*function], &["TUMBLE", "HOP", "SESSION", "CUMULATE"])
            && tokens[*inner].token == Token::LParen;
        if !is_call {
            continue;
        }
        let Some(close) = matching_paren(tokens, *open) else { continue };
        dropped[*table] = true;
        dropped[*open] = true;
        dropped[close] = true;
        dropped[*next] |= word_is(&tokens[*next], &["TABLE"]);
        drop_descriptors(tokens, &mut dropped, *inner, close);
    }
    let mut keep = dropped.iter().map(|d| !d);
    tokens.retain(|_| keep.next().unwrap_or(true));
}

/// Marks `DESCRIPTOR (` and its `)` between two tokens.
fn drop_descriptors(tokens: &[TokenWithSpan], dropped: &mut [bool], from: usize, to: usize) {
    for i in from..to {
        if !word_is(&tokens[i], &["DESCRIPTOR"]) {
            continue;
        }
        let open = (i + 1..to).find(|&j| !matches!(tokens[j].token, Token::Whitespace(_)));
        if let Some(open) = open.filter(|&j| tokens[j].token == Token::LParen)
            && let Some(close) = matching_paren(tokens, open)
        {
            dropped[i] = true;
            dropped[open] = true;
            dropped[close] = true;
        }
    }
}

pub(super) fn matching_paren(tokens: &[TokenWithSpan], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}
