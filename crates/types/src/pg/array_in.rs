//! Splits the text of an array into its elements: `{1,NULL,"a \"b\"",{2}}`.

use crate::{Error, Result, SqlState};

/// An element as written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Element<'a> {
    Null,
    /// Text with quotes and escapes taken out.
    Text(std::borrow::Cow<'a, str>),
    /// The text of an inner array, braces included.
    Nested(&'a str),
}

/// The elements of the outermost braces.
pub(crate) fn split_array(text: &str) -> Result<Vec<Element<'_>>> {
    let malformed = |detail: &str| {
        let text = text.trim_start_matches(is_space);
        Error::user(SqlState::INVALID_TEXT_REPRESENTATION, format!("malformed array literal: \"{text}\""))
            .with_detail(detail)
    };
    let trimmed = text.trim_matches(is_space);
    if trimmed.starts_with('[') {
        return Err(Error::not_supported("array literals with explicit bounds are not supported"));
    }
    let Some(body) = trimmed.strip_prefix('{') else {
        return Err(malformed("Array value must start with \"{\" or dimension information."));
    };
    let mut scanner = Scanner { rest: body };
    let mut elements = Vec::new();
    scanner.skip_space();
    if let Some(tail) = scanner.rest.strip_prefix('}') {
        return if tail.is_empty() { Ok(elements) } else { Err(malformed("Junk after closing right brace.")) };
    }
    loop {
        elements.push(scanner.element().map_err(|detail| malformed(&detail))?);
        scanner.skip_space();
        match scanner.rest.as_bytes().first() {
            Some(b',') => scanner.rest = &scanner.rest[1..],
            Some(b'}') if scanner.rest.len() == 1 => return Ok(elements),
            Some(b'}') => return Err(malformed("Junk after closing right brace.")),
            Some(_) => return Err(malformed("Unexpected array element.")),
            None => return Err(malformed("Unexpected end of input.")),
        }
    }
}

fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\x0b'
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches(is_space);
    }

    fn element(&mut self) -> Result<Element<'a>, String> {
        self.skip_space();
        match self.rest.as_bytes().first() {
            None => Err("Unexpected end of input.".to_owned()),
            Some(b'"') => self.quoted(),
            Some(b'{') => self.nested(),
            Some(&byte @ (b',' | b'}')) => Err(format!("Unexpected \"{}\" character.", char::from(byte))),
            Some(_) => self.bare(),
        }
    }

    fn quoted(&mut self) -> Result<Element<'a>, String> {
        let mut text = String::new();
        let mut chars = self.rest[1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[at + 2..];
                    return Ok(Element::Text(text.into()));
                }
                '\\' => text.push(chars.next().ok_or("Unexpected end of input.")?.1),
                _ => text.push(c),
            }
        }
        Err("Unexpected end of input.".to_owned())
    }

    fn nested(&mut self) -> Result<Element<'a>, String> {
        let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
        for (at, byte) in self.rest.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = !quoted,
                b'{' if !quoted => depth += 1,
                b'}' if !quoted => {
                    depth -= 1;
                    if depth == 0 {
                        let nested = &self.rest[..=at];
                        self.rest = &self.rest[at + 1..];
                        return Ok(Element::Nested(nested));
                    }
                }
                _ => {}
            }
        }
        Err("Unexpected end of input.".to_owned())
    }

    fn bare(&mut self) -> Result<Element<'a>, String> {
        let mut escaped = false;
        let ends = |c: char| {
            let ends = !escaped && matches!(c, ',' | '}' | '{' | '"');
            escaped = !escaped && c == '\\';
            ends
        };
        let end = self.rest.find(ends).ok_or("Unexpected end of input.")?;
        if matches!(self.rest.as_bytes()[end], b'{' | b'"') {
            return Err(format!("Unexpected \"{}\" character.", char::from(self.rest.as_bytes()[end])));
        }
        let text = self.rest[..end].trim_end_matches(is_space);
        self.rest = &self.rest[end..];
        if text.eq_ignore_ascii_case("null") {
            return Ok(Element::Null);
        }
        if !text.contains('\\') {
            return Ok(Element::Text(text.into()));
        }
        let mut unescaped = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            unescaped.push(if c == '\\' { chars.next().ok_or("Unexpected end of input.")? } else { c });
        }
        Ok(Element::Text(unescaped.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> Element<'_> {
        Element::Text(s.into())
    }

    #[test]
    fn elements_are_split_and_unquoted() {
        assert_eq!(split_array("{}").ok(), Some(vec![]));
        assert_eq!(split_array(" { 1 , NULL,\"null\" } ").ok(), Some(vec![text("1"), Element::Null, text("null")]));
        assert_eq!(split_array(r#"{"a \"b\" \\",c\,d}"#).ok(), Some(vec![text(r#"a "b" \"#), text(r"c,d")]));
        assert_eq!(
            split_array(r#"{{1,2},{"}",3}}"#).ok(),
            Some(vec![Element::Nested("{1,2}"), Element::Nested(r#"{"}",3}"#)])
        );
    }

    #[test]
    fn malformed_arrays_are_refused() {
        for wrong in ["", "1,2", "{1", "{1}}", "{1,}", "{,1}", "{\"a}", "{1 \"a\"}", "{{1}"] {
            let error = split_array(wrong).expect_err(wrong);
            assert_eq!(error.state(), SqlState::INVALID_TEXT_REPRESENTATION, "{wrong}");
        }
    }
}
