//! Cuts a line of `COPY` data into fields.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::CopyOptions;
use crate::{Error, Result, SqlState};

/// A field: `None` is null.
type Field<'a> = Option<Cow<'a, [u8]>>;

/// A line of text format: hands each field to `put` with its index.
pub(super) fn text_fields<'a>(
    line: &'a [u8],
    options: &CopyOptions,
    mut put: impl FnMut(usize, Field<'a>) -> Result<()>,
) -> Result<usize> {
    let has_escapes = memchr(b'\\', line).is_some();
    let mut rest = line;
    let mut index = 0;
    loop {
        let end = if has_escapes { escaped_end(rest, options.delimiter) } else { memchr(options.delimiter, rest) };
        let raw = &rest[..end.unwrap_or(rest.len())];
        let field = if raw == options.null.as_bytes() {
            None
        } else if has_escapes && raw.contains(&b'\\') {
            Some(Cow::Owned(unescape(raw)))
        } else {
            Some(Cow::Borrowed(raw))
        };
        put(index, field)?;
        index += 1;
        match end {
            Some(end) => rest = &rest[end + 1..],
            None => return Ok(index),
        }
    }
}

/// The next delimiter that no backslash stands before.
fn escaped_end(text: &[u8], delimiter: u8) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + memchr2(b'\\', delimiter, &text[from..])?;
        if text[at] == delimiter {
            return Some(at);
        }
        from = (at + 2).min(text.len());
    }
}

fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    while at < raw.len() {
        if raw[at] != b'\\' || at + 1 == raw.len() {
            out.push(raw[at]);
            at += 1;
            continue;
        }
        let digits = |radix: u32, max: usize, from: usize| {
            raw[from..].iter().take(max).take_while(|b| char::from(**b).is_digit(radix)).count()
        };
        let number = |radix: u32, from: usize, n: usize| {
            let digit = |b: &u8| char::from(*b).to_digit(radix).unwrap_or(0);
            raw[from..from + n].iter().fold(0u32, |value, b| value * radix + digit(b)) as u8
        };
        let escape = raw[at + 1];
        let octal = digits(8, 3, at + 1);
        let hex = if escape == b'x' { digits(16, 2, at + 2) } else { 0 };
        if octal > 0 {
            out.push(number(8, at + 1, octal));
            at += 1 + octal;
        } else if hex > 0 {
            out.push(number(16, at + 2, hex));
            at += 2 + hex;
        } else {
            out.push(match escape {
                b'b' => 0x08,
                b'f' => 0x0c,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 0x0b,
                other => other,
            });
            at += 2;
        }
    }
    out
}

/// A line of csv format: hands each field to `put` with its index.
pub(super) fn csv_fields<'a>(
    line: &'a [u8],
    options: &CopyOptions,
    mut put: impl FnMut(usize, Field<'a>) -> Result<()>,
) -> Result<usize> {
    let mut rest = line;
    let mut index = 0;
    loop {
        let special = memchr2(options.delimiter, options.quote, rest);
        let end = match special {
            Some(at) if rest[at] == options.quote => {
                let (field, end) = quoted_field(rest, options)?;
                put(index, Some(Cow::Owned(field)))?;
                end
            }
            end => {
                let raw = &rest[..end.unwrap_or(rest.len())];
                put(index, (raw != options.null.as_bytes()).then_some(Cow::Borrowed(raw)))?;
                end
            }
        };
        index += 1;
        match end {
            Some(end) => rest = &rest[end + 1..],
            None => return Ok(index),
        }
    }
}

/// A field with quotes somewhere, and where the delimiter after it is.
fn quoted_field(text: &[u8], options: &CopyOptions) -> Result<(Vec<u8>, Option<usize>)> {
    let mut field = Vec::new();
    let (mut quoted, mut at) = (false, 0);
    while let Some(&byte) = text.get(at) {
        at += 1;
        if !quoted {
            if byte == options.delimiter {
                return Ok((field, Some(at - 1)));
            }
            if byte == options.quote {
                quoted = true;
            } else {
                field.push(byte);
            }
            continue;
        }
        let next = text.get(at);
        if byte == options.escape && next.is_some_and(|n| *n == options.escape || *n == options.quote) {
            field.push(text[at]);
            at += 1;
        } else if byte == options.quote {
            quoted = false;
        } else {
            field.push(byte);
        }
    }
    if quoted {
        return Err(Error::user(SqlState::BAD_COPY_FILE_FORMAT, "unterminated CSV quoted field"));
    }
    Ok((field, None))
}
