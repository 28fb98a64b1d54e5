//! Texts by single characters as Postgres has them, and byte strings as texts.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringViewArray};
use arrow::datatypes::{DataType, Int64Type};
use millstream_types::{Error, SqlState};

use super::builtin::Spec;
use crate::typing::types::TEXT;

/// `54000`
const PROGRAM_LIMIT_EXCEEDED: SqlState = SqlState("54000");
/// Characters of base64 in a line.
const BASE64_LINE: usize = 76;

/// The functions of this file. They take the places of DataFusion's of the same names.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: "upper", returns: |_| TEXT, run: |a, _| Ok(map(a, upper)), strict: true },
    Spec { name: "initcap", returns: |_| TEXT, run: |a, _| Ok(map(a, initcap)), strict: true },
    Spec { name: "chr", returns: |_| TEXT, run: chr, strict: true },
    Spec { name: "encode", returns: |_| TEXT, run: encode, strict: true },
];

fn map(args: &[ArrayRef], f: fn(&str) -> String) -> ArrayRef {
    let texts: StringViewArray = args[0].as_string_view().iter().map(|text| text.map(f)).collect();
    Arc::new(texts)
}

/// A character's upper case, if that is one character too.
fn upper_char(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

fn upper(text: &str) -> String {
    text.chars().map(upper_char).collect()
}

fn initcap(text: &str) -> String {
    let mut within_word = false;
    let change = |c: char| {
        let begins = !within_word;
        within_word = c.is_alphanumeric();
        if begins { upper_char(c) } else { c.to_lowercase().next().unwrap_or(c) }
    };
    text.chars().map(change).collect()
}

fn chr(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    let codes = args[0].as_primitive::<Int64Type>();
    let texts = codes.iter().map(|code| code.map(|code| chr_of(code).map(String::from)).transpose());
    Ok(Arc::new(texts.collect::<Result<StringViewArray, Error>>()?))
}

fn chr_of(code: i64) -> Result<char, Error> {
    let error = |message: String| Err(Error::user(PROGRAM_LIMIT_EXCEEDED, message));
    match code {
        0 => error("null character not permitted".to_owned()),
        ..0 => error("character number must be positive".to_owned()),
        0x11_0000.. => error(format!("requested character too large for encoding: {code}")),
        _ => match char::from_u32(code as u32) {
            Some(c) => Ok(c),
            None => error(format!("requested character not valid for encoding: {code}")),
        },
    }
}

fn encode(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    debug_assert_eq!(args[0].data_type(), &DataType::BinaryView);
    let (bytes, forms) = (args[0].as_binary_view(), args[1].as_string_view());
    debug_assert_eq!(bytes.iter().len(), n_rows);
    let texts = bytes.iter().zip(forms).map(|(bytes, form)| match bytes.zip(form) {
        Some((bytes, form)) => encoded(bytes, form).map(Some),
        None => Ok(None),
    });
    Ok(Arc::new(texts.collect::<Result<StringViewArray, Error>>()?))
}

fn encoded(bytes: &[u8], form: &str) -> Result<String, Error> {
    match form.to_ascii_lowercase().as_str() {
        "base64" => Ok(base64(bytes)),
        "hex" => Ok(bytes.iter().map(|b| format!("{b:02x}")).collect()),
        "escape" => Ok(bytes.iter().map(|&b| escaped(b)).collect()),
        _ => Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, format!("unrecognized encoding: \"{form}\""))),
    }
}

fn escaped(byte: u8) -> String {
    match byte {
        b'\\' => "\\\\".to_owned(),
        0 | 0x80.. => format!("\\{byte:03o}"),
        _ => char::from(byte).to_string(),
    }
}

/// RFC 2045: padded, and in lines.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len() / 3 * 4 + bytes.len() / 57 + 4);
    let mut in_line = 0;
    for chunk in bytes.chunks(3) {
        if in_line == BASE64_LINE {
            out.push('\n');
            in_line = 0;
        }
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        let digit = |i: usize| if i <= chunk.len() { DIGITS[(word >> (18 - 6 * i)) as usize & 63] } else { b'=' };
        out.extend((0..4).map(|i| char::from(digit(i))));
        in_line += 4;
    }
    out
}
