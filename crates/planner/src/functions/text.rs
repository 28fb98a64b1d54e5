//! Functions over texts and byte strings that DataFusion lacks.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, Int32Array, StringViewArray, StringViewBuilder};
use arrow::datatypes::{DataType, Int64Type};
use millstream_types::{Error, SqlState};

use super::builtin::Spec;
use crate::typing::types::TEXT;

/// The functions of this file.
pub(super) static SPECS: &[Spec] = &[
    Spec {
        name: "similar_to_pattern",
        returns: |_| TEXT,
        run: |a, _| map(a, |s| Ok(similar_pattern(s))),
        strict: true,
    },
    Spec { name: "like_escape", returns: |_| TEXT, run: like_escape, strict: true },
    Spec { name: "quote_literal", returns: |_| TEXT, run: |a, _| map(a, |s| Ok(quote_literal(s))), strict: true },
    Spec { name: "quote_ident", returns: |_| TEXT, run: |a, _| map(a, |s| Ok(quote_ident(s))), strict: true },
    Spec { name: "format", returns: |_| TEXT, run: format, strict: false },
    Spec { name: "bytea_length", returns: |_| DataType::Int32, run: bytea_length, strict: true },
    Spec { name: "bytea_concat", returns: |_| DataType::BinaryView, run: bytea_concat, strict: true },
    Spec { name: "cut_char", returns: |_| TEXT, run: cut_char, strict: true },
];

fn map(args: &[ArrayRef], f: impl Fn(&str) -> Result<String, Error>) -> Result<ArrayRef, Error> {
    let texts = args[0].as_string_view();
    let mut out = StringViewBuilder::with_capacity(texts.len());
    for text in texts {
        match text {
            Some(text) => out.append_value(f(text)?),
            None => out.append_null(),
        }
    }
    Ok(Arc::new(out.finish()))
}

/// The regular expression that a pattern of SIMILAR TO means.
fn similar_pattern(pattern: &str) -> String {
    let mut out = String::from("^(?:");
    let mut chars = pattern.chars();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                out.push('\\');
                out.extend(chars.next());
            }
            ']' if in_class => {
                in_class = false;
                out.push(c);
            }
            c if in_class => out.push(c),
            '[' => {
                in_class = true;
                out.push(c);
            }
            '%' => out.push_str("(?s:.)*"),
            '_' => out.push_str("(?s:.)"),
            '.' | '^' | '$' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.push_str(")$");
    out
}

/// `like_escape(pattern, escape)`: the pattern with backslashes where it has another escape character.
fn like_escape(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let (patterns, escapes) = (args[0].as_string_view(), args[1].as_string_view());
    let mut out = StringViewBuilder::with_capacity(n_rows);
    for row in 0..n_rows {
        if patterns.is_null(row) || escapes.is_null(row) {
            out.append_null();
        } else {
            out.append_value(escaped_pattern(patterns.value(row), escapes.value(row))?);
        }
    }
    Ok(Arc::new(out.finish()))
}

fn escaped_pattern(pattern: &str, escape: &str) -> Result<String, Error> {
    let mut chars = escape.chars();
    let escape = match (chars.next(), chars.next()) {
        (escape, None) => escape,
        _ => {
            return Err(Error::user(SqlState("22025"), "invalid escape string")
                .with_hint("Escape string must be empty or one character."));
        }
    };
    let mut out = String::with_capacity(pattern.len());
    let mut is_escaped = false;
    for c in pattern.chars() {
        if escape == Some(c) && !is_escaped {
            out.push('\\');
            is_escaped = true;
            continue;
        }
        if c == '\\' && !is_escaped {
            out.push('\\');
        }
        out.push(c);
        is_escaped = false;
    }
    Ok(out)
}

fn quote_literal(text: &str) -> String {
    let prefix = if text.contains('\\') { " E" } else { "" };
    format!("{prefix}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

fn quote_ident(text: &str) -> String {
    let plain = text.chars().next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { text.to_string() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

/// `format('%s %I %L', ...)`; all arguments are texts.
fn format(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let columns: Vec<&StringViewArray> = args.iter().map(|a| a.as_string_view()).collect();
    let mut out = StringViewBuilder::with_capacity(n_rows);
    for row in 0..n_rows {
        if columns[0].is_null(row) {
            out.append_null();
            continue;
        }
        let values: Vec<Option<&str>> = columns[1..].iter().map(|c| (!c.is_null(row)).then(|| c.value(row))).collect();
        out.append_value(format_row(columns[0].value(row), &values)?);
    }
    Ok(Arc::new(out.finish()))
}

fn format_row(template: &str, values: &[Option<&str>]) -> Result<String, Error> {
    let invalid = |message: String| Error::user(SqlState::INVALID_PARAMETER_VALUE, message);
    let mut out = String::new();
    let mut next = 0usize;
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.peek() == Some(&'%') {
            chars.next();
            out.push('%');
            continue;
        }
        let (left, width) = position_and_width(&mut chars, &mut next)?;
        let Some(kind) = chars.next() else {
            return Err(invalid("unterminated format() type specifier".to_string()));
        };
        let value = values.get(next).ok_or_else(|| invalid("too few arguments for format()".to_string()))?;
        next += 1;
        let text = match (kind, value) {
            ('s', value) => value.unwrap_or_default().to_string(),
            ('L', value) => value.map_or_else(|| "NULL".to_string(), quote_literal),
            ('I', Some(value)) => quote_ident(value),
            ('I', None) => {
                let message = "null values cannot be formatted as an SQL identifier";
                return Err(Error::user(SqlState("22004"), message));
            }
            (other, _) => return Err(invalid(format!("unrecognized format() type specifier \"{other}\""))),
        };
        let missing = width.saturating_sub(text.chars().count());
        let blanks = " ".repeat(missing);
        if left {
            out.push_str(&text);
            out.push_str(&blanks);
        } else {
            out.push_str(&blanks);
            out.push_str(&text);
        }
    }
    Ok(out)
}

/// `[n$][-][width]`: sets the next argument and gives alignment and width.
fn position_and_width(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    next: &mut usize,
) -> Result<(bool, usize), Error> {
    let mut left = false;
    let mut number = 0usize;
    loop {
        match chars.peek().copied() {
            Some('-') => left = true,
            Some(d) if d.is_ascii_digit() => {
                number = number.saturating_mul(10).saturating_add(d as usize - '0' as usize).min(1_000_000);
            }
            Some('$') => {
                *next = number.checked_sub(1).ok_or_else(|| {
                    let message = "format specifies argument 0, but arguments are numbered from 1";
                    Error::user(SqlState::INVALID_PARAMETER_VALUE, message)
                })?;
                number = 0;
            }
            _ => return Ok((left, number)),
        }
        chars.next();
    }
}

fn bytea_length(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    let lengths: Int32Array = args[0].as_binary_view().iter().map(|b| b.map(|b| b.len() as i32)).collect();
    Ok(Arc::new(lengths))
}

fn bytea_concat(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    let (left, right) = (args[0].as_binary_view(), args[1].as_binary_view());
    let joined: BinaryViewArray = left.iter().zip(right).map(|(l, r)| Some([l?, r?].concat())).collect();
    Ok(Arc::new(joined))
}

/// A text cut to n characters, without blanks at its end: a cast to `char(n)`.
fn cut_char(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    let (texts, lengths) = (args[0].as_string_view(), args[1].as_primitive::<Int64Type>());
    let mut out = StringViewBuilder::with_capacity(texts.len());
    for row in 0..texts.len() {
        if texts.is_null(row) || lengths.is_null(row) {
            out.append_null();
            continue;
        }
        let n = usize::try_from(lengths.value(row)).unwrap_or(0);
        let text = texts.value(row);
        let end = text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
        out.append_value(text[..end].trim_end_matches(' '));
    }
    Ok(Arc::new(out.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_character_can_escape_in_a_pattern() {
        let cases = [
            ("10!%", "!", r"10\%"),
            ("a!!b", "!", r"a\!b"),
            (r"a\%", "!", r"a\\%"),
            (r"a\%", "", r"a\\%"),
            (r"a\%", "\\", r"a\%"),
        ];
        for (pattern, escape, wanted) in cases {
            assert_eq!(escaped_pattern(pattern, escape).as_deref(), Ok(wanted), "{pattern} ESCAPE {escape}");
        }
        assert_eq!(escaped_pattern("a", "!!").map_err(|e| e.state().0), Err("22025"));
    }
}
