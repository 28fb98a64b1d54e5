//! A cursor over a statement's tokens: our own words, and sqlparser's grammar for queries, expressions and types.

use datafusion::sql::sqlparser::ast as sql;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use millstream_types::{Error, Result, SqlState, SqlType};

use super::depth::{DEPTH_MAX, too_deep};
use super::exclusion::apply_exclusions;
use super::keywords::is_reserved;
use super::tokens::{DIALECT, Piece, char_slice, token_span_at};
use super::types::sql_type_of;
use crate::ast::{ColumnName, Expr, Name, Query};

/// Calls of sqlparser's functions that may be open: some for each level.
const RECURSION_LIMIT: usize = 8 * DEPTH_MAX;

/// Reads a statement from left to right.
pub(super) struct Cursor<'a> {
    parser: Parser<'static>,
    text: &'a str,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(piece: Piece<'a>) -> Self {
        let parser =
            Parser::new(&DIALECT).with_recursion_limit(RECURSION_LIMIT).with_tokens_with_locations(piece.tokens);
        Cursor { parser, text: piece.text }
    }

    /// Where the next token stands, in characters from 1.
    pub(super) fn position(&self) -> usize {
        match self.parser.peek_token_ref().span.start.column as usize {
            0 => self.end_position(),
            position => position,
        }
    }

    fn end_position(&self) -> usize {
        self.text.chars().count() + 1
    }

    /// The next token, if it is a word without quotes, in upper case.
    pub(super) fn peek_word(&self) -> Option<String> {
        self.peek_nth_word(0)
    }

    fn peek_nth_word(&self, n: usize) -> Option<String> {
        match &self.parser.peek_nth_token_ref(n).token {
            Token::Word(w) if w.quote_style.is_none() => Some(w.value.to_ascii_uppercase()),
            _ => None,
        }
    }

    /// Takes these words if they come next, all or none.
    pub(super) fn words(&mut self, words: &[&str]) -> bool {
        let all = words.iter().enumerate().all(|(n, w)| self.peek_nth_word(n).as_deref() == Some(w));
        if all {
            for _ in words {
                self.parser.advance_token();
            }
        }
        all
    }

    pub(super) fn expect_words(&mut self, words: &[&str]) -> Result<()> {
        for word in words {
            if !self.words(&[word]) {
                return Err(self.syntax_error());
            }
        }
        Ok(())
    }

    /// Checks that these words come next, and takes none of them.
    pub(super) fn check_words(&self, words: &[&str]) -> Result<()> {
        let other = (0..words.len()).find(|&n| self.peek_nth_word(n).as_deref() != Some(words[n]));
        other.map_or(Ok(()), |n| Err(self.syntax_error_at(self.parser.peek_nth_token_ref(n))))
    }

    /// Whether a number comes next.
    pub(super) fn at_number(&self) -> bool {
        matches!(self.parser.peek_token_ref().token, Token::Number(..))
    }

    fn symbol_token(symbol: char) -> Token {
        match symbol {
            '(' => Token::LParen,
            ')' => Token::RParen,
            ',' => Token::Comma,
            '=' => Token::Eq,
            '.' => Token::Period,
            '-' => Token::Minus,
            '+' => Token::Plus,
            '*' => Token::Mul,
            other => Token::Char(other),
        }
    }

    pub(super) fn at_symbol(&self, symbol: char) -> bool {
        self.parser.peek_token_ref().token == Self::symbol_token(symbol)
    }

    pub(super) fn symbol(&mut self, symbol: char) -> bool {
        self.parser.consume_token(&Self::symbol_token(symbol))
    }

    pub(super) fn expect_symbol(&mut self, symbol: char) -> Result<()> {
        if self.symbol(symbol) { Ok(()) } else { Err(self.syntax_error()) }
    }

    /// Whether a query begins here.
    pub(super) fn at_query(&self) -> bool {
        match self.peek_word().as_deref() {
            Some("SELECT" | "WITH" | "VALUES" | "TABLE") => true,
            Some(_) => false,
            None => self.at_parenthesized_query(),
        }
    }

    /// Whether a query in parentheses begins here.
    pub(super) fn at_parenthesized_query(&self) -> bool {
        let mut n = 0;
        while self.parser.peek_nth_token_ref(n).token == Token::LParen {
            n += 1;
        }
        n > 0 && matches!(self.peek_nth_word(n).as_deref(), Some("SELECT" | "WITH" | "VALUES" | "TABLE"))
    }

    pub(super) fn at_end(&self) -> bool {
        self.parser.peek_token_ref().token == Token::EOF
    }

    pub(super) fn expect_end(&self) -> Result<()> {
        if self.at_end() { Ok(()) } else { Err(self.syntax_error()) }
    }

    /// The error that the next token is not what it should be.
    pub(super) fn syntax_error(&self) -> Error {
        self.syntax_error_at(self.parser.peek_token_ref())
    }

    fn syntax_error_at(&self, token: &TokenWithSpan) -> Error {
        if token.token == Token::EOF || token.span.start.column == 0 {
            return self.end_of_input();
        }
        let (from, to) = (token.span.start.column as usize, token.span.end.column as usize);
        self.syntax_error_near(from, to)
    }

    fn syntax_error_near(&self, from: usize, to: usize) -> Error {
        let near = char_slice(self.text, from - 1, to.max(from + 1) - 1);
        Error::user(SqlState::SYNTAX_ERROR, format!("syntax error at or near \"{near}\"")).with_position(from)
    }

    fn end_of_input(&self) -> Error {
        Error::user(SqlState::SYNTAX_ERROR, "syntax error at end of input").with_position(self.end_position())
    }

    /// sqlparser's error as Postgres words it, at the token where it gave up.
    fn grammar_error(&self, error: &ParserError) -> Error {
        let message = match error {
            ParserError::RecursionLimitExceeded => {
                return too_deep();
            }
            ParserError::TokenizerError(message) | ParserError::ParserError(message) => message,
        };
        let column = message.rsplit_once("Column: ").and_then(|(_, n)| n.trim().parse::<usize>().ok());
        if let Some((from, to)) = column.and_then(|column| token_span_at(self.text, column)) {
            return self.syntax_error_near(from, to);
        }
        if message.contains("found: EOF") {
            return self.end_of_input();
        }
        self.syntax_error_at(self.parser.get_current_token())
    }

    /// Runs a rule of sqlparser's grammar.
    pub(super) fn grammar<T>(
        &mut self,
        rule: impl FnOnce(&mut Parser<'static>) -> Result<T, ParserError>,
    ) -> Result<T> {
        let result = rule(&mut self.parser);
        result.map_err(|e| self.grammar_error(&e))
    }

    pub(super) fn query(&mut self) -> Result<Box<Query>> {
        if !self.at_query() {
            return Err(self.syntax_error());
        }
        let mut query = self.grammar(Parser::parse_query)?;
        apply_exclusions(&mut query);
        Ok(query)
    }

    /// A query and its text.
    pub(super) fn query_with_text(&mut self) -> Result<(Box<Query>, String)> {
        let from = self.position();
        let query = self.query()?;
        Ok((query, self.text_since(from)))
    }

    /// The text from a position to the last token taken.
    pub(super) fn text_since(&self, from: usize) -> String {
        let to = if self.at_end() { self.end_position() } else { self.position() };
        char_slice(self.text, from - 1, to - 1).trim_end().to_string()
    }

    pub(super) fn expr(&mut self) -> Result<Expr> {
        self.grammar(Parser::parse_expr)
    }

    pub(super) fn sql_type(&mut self) -> Result<SqlType> {
        let position = self.position();
        let data_type = self.grammar(Parser::parse_data_type)?;
        sql_type_of(&data_type).map_err(|e| e.with_position(position))
    }

    /// A possibly qualified name. The database is accepted in front and forgotten.
    pub(super) fn name(&mut self) -> Result<Name> {
        self.refuse_reserved()?;
        let position = self.position();
        let object = self.grammar(|p| p.parse_object_name(false))?;
        name_of(&object).map_err(|e| e.with_position(position))
    }

    fn refuse_reserved(&self) -> Result<()> {
        if self.peek_word().is_some_and(|word| is_reserved(&word)) { Err(self.syntax_error()) } else { Ok(()) }
    }

    /// A single identifier.
    pub(super) fn identifier(&mut self) -> Result<ColumnName> {
        self.refuse_reserved()?;
        self.label()
    }

    /// A single identifier, where no word is reserved.
    pub(super) fn label(&mut self) -> Result<ColumnName> {
        let position = self.position();
        let ident = self.grammar(Parser::parse_identifier)?;
        Ok(ColumnName { name: folded(&ident), position })
    }

    pub(super) fn comma_separated<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.symbol(',') {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// `(a, b, ...)`
    pub(super) fn column_list(&mut self) -> Result<Vec<ColumnName>> {
        self.expect_symbol('(')?;
        let columns = self.comma_separated(Self::identifier)?;
        self.expect_symbol(')')?;
        Ok(columns)
    }

    pub(super) fn unsigned(&mut self) -> Result<u64> {
        self.grammar(Parser::parse_literal_uint)
    }

    /// `(name [=] value, name, ...)`: names in lower case, an omitted value is empty.
    pub(super) fn options(&mut self) -> Result<Vec<(String, String)>> {
        self.expect_symbol('(')?;
        if self.symbol(')') {
            return Ok(Vec::new());
        }
        let options = self.comma_separated(|c| {
            let mut name = c.label()?.name.to_ascii_lowercase();
            while c.symbol('.') {
                name = format!("{name}.{}", c.label()?.name);
            }
            let assigned = c.symbol('=');
            if !assigned && (c.at_symbol(',') || c.at_symbol(')')) {
                return Ok((name, String::new()));
            }
            Ok((name, c.option_value()?))
        })?;
        self.expect_symbol(')')?;
        Ok(options)
    }

    /// A string, number or word, as text; a word in lower case.
    pub(super) fn option_value(&mut self) -> Result<String> {
        let negative = self.symbol('-');
        if !negative {
            self.symbol('+');
        }
        let token = self.parser.peek_token();
        let value = match &token.token {
            Token::Number(n, _) if negative => format!("-{n}"),
            Token::Number(n, _) => n.clone(),
            _ if negative => return Err(self.syntax_error()),
            Token::SingleQuotedString(s) | Token::EscapedStringLiteral(s) => s.clone(),
            Token::DollarQuotedString(s) => s.value.clone(),
            Token::Word(w) if w.quote_style.is_some() => w.value.clone(),
            Token::Word(w) => w.value.to_ascii_lowercase(),
            _ => return Err(self.syntax_error()),
        };
        self.parser.advance_token();
        Ok(value)
    }

    /// A quoted string.
    pub(super) fn string(&mut self) -> Result<String> {
        self.grammar(Parser::parse_literal_string)
    }
}

/// An identifier as Postgres folds it: to lower case unless quoted.
pub(crate) fn folded(ident: &sql::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// A name in sqlparser's tree as ours.
pub(crate) fn name_of(object: &sql::ObjectName) -> Result<Name> {
    let mut parts = Vec::with_capacity(3);
    let mut position = 0;
    for part in &object.0 {
        let ident =
            part.as_ident().ok_or_else(|| Error::user(SqlState::INVALID_NAME, format!("invalid name \"{object}\"")))?;
        if parts.is_empty() {
            position = ident.span.start.column as usize;
        }
        parts.push(folded(ident));
    }
    let name = parts.pop().unwrap_or_default();
    let schema = parts.pop();
    if let Some(database) = parts.pop()
        && (database != "millstream" || !parts.is_empty())
    {
        return Err(Error::not_supported(format!("cross-database references are not implemented: {object}"))
            .with_position(position.max(1)));
    }
    Ok(Name { schema, name, position })
}
