//! Splits the text of a date, time or interval into fields by their look, before anybody knows what they mean.
//!
//! The rules are those of Postgres' `ParseDateTime`: a field ends where the characters stop fitting its kind, so
//! `2024-01-02T03:04+02` has four fields without a blank between them.

/// A field and its look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// Digits, perhaps with one point: `20240102`, `1.5`.
    Number(&'a str),
    /// Pieces joined by `-`, `/` or `.`, or a name with such: `2024-01-02`, `8-jan-1999`, `europe/berlin`.
    Joined(&'a str),
    /// Digits with colons: `03:04:05.6`.
    Time(&'a str),
    /// Letters.
    Word(&'a str),
    /// A sign and what follows it: `+02:00`, `-1`, `-infinity`.
    Signed(&'a str),
}

/// The fields of a text; `None` if a character belongs to no field.
pub(crate) fn tokenize(text: &str) -> Option<Vec<Token<'_>>> {
    let mut tokens = Vec::with_capacity(4);
    let mut rest = text;
    while let Some(&byte) = rest.as_bytes().first() {
        let (token, length) = match byte {
            _ if byte.is_ascii_whitespace() || byte == 0x0b => (None, 1),
            b'0'..=b'9' | b'.' => number(rest)?,
            b'+' | b'-' => signed(rest)?,
            _ if byte.is_ascii_alphabetic() => word(rest),
            _ if byte.is_ascii_punctuation() => (None, 1),
            _ => return None,
        };
        tokens.extend(token);
        rest = &rest[length..];
    }
    Some(tokens)
}

type Field<'a> = (Option<Token<'a>>, usize);

fn run(text: &str, from: usize, fits: impl Fn(u8) -> bool) -> usize {
    from + text.as_bytes()[from..].iter().take_while(|&&b| fits(b)).count()
}

fn at(text: &str, index: usize) -> u8 {
    text.as_bytes().get(index).copied().unwrap_or(0)
}

fn number(text: &str) -> Option<Field<'_>> {
    let digits = run(text, 0, |b| b.is_ascii_digit());
    let next = at(text, digits);
    if next == b':' {
        let end = run(text, digits, |b| b.is_ascii_digit() || b == b':' || b == b'.');
        return Some((Some(Token::Time(&text[..end])), end));
    }
    if digits == 0 && !at(text, 1).is_ascii_digit() {
        return None;
    }
    if matches!(next, b'-' | b'/') || (next == b'.' && digits > 0) {
        let after = at(text, digits + 1);
        if after.is_ascii_digit() {
            let second = run(text, digits + 1, |b| b.is_ascii_digit());
            if at(text, second) == next {
                let end = run(text, second, |b| b.is_ascii_digit() || b == next);
                return Some((Some(Token::Joined(&text[..end])), end));
            }
            let token = &text[..second];
            return Some((Some(if next == b'.' { Token::Number(token) } else { Token::Joined(token) }), second));
        }
        if next != b'.' {
            let end = run(text, digits, |b| b.is_ascii_alphanumeric() || b == next);
            return Some((Some(Token::Joined(&text[..end])), end));
        }
    }
    let end = run(text, digits, |b| b == b'.').min(digits + 1);
    let end = run(text, end, |b| b.is_ascii_digit());
    Some((Some(Token::Number(&text[..end])), end))
}

fn signed(text: &str) -> Option<Field<'_>> {
    let start = run(text, 1, |b| b == b' ');
    let first = at(text, start);
    let end = if first.is_ascii_digit() || (first == b'.' && at(text, start + 1).is_ascii_digit()) {
        let end = run(text, start, |b| b.is_ascii_digit() || b == b':' || b == b'.');
        if at(text, end) == b'-' && at(text, end + 1).is_ascii_digit() {
            run(text, end + 1, |b| b.is_ascii_digit())
        } else {
            end
        }
    } else if first.is_ascii_alphabetic() {
        run(text, start, |b| b.is_ascii_alphabetic())
    } else {
        return None;
    };
    Some((Some(Token::Signed(&text[..end])), end))
}

fn word(text: &str) -> Field<'_> {
    let letters = run(text, 0, |b| b.is_ascii_alphabetic());
    let next = at(text, letters);
    let joined = matches!(next, b'-' | b'/' | b'.' | b'_')
        || ((next == b'+' || next.is_ascii_digit()) && !stands_alone(&text[..letters]));
    if !joined {
        return (Some(Token::Word(&text[..letters])), letters);
    }
    let end = run(text, letters, |b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'/' | b'_' | b'.' | b':'));
    (Some(Token::Joined(&text[..end])), end)
}

/// Words that are not the beginning of a name when a digit or a plus sign follows.
fn stands_alone(word: &str) -> bool {
    const WORDS: [&str; 13] =
        ["ad", "allballs", "am", "at", "bc", "epoch", "j", "jd", "julian", "on", "pm", "t", "today"];
    WORDS.iter().any(|alone| word.eq_ignore_ascii_case(alone)) || month_by_name(&word.to_ascii_lowercase()).is_some()
}

/// The number of a month, by its name or the beginning of it.
pub(crate) fn month_by_name(lower: &str) -> Option<u32> {
    const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    if lower == "sept" {
        return Some(9);
    }
    let found = MONTHS.iter().position(|month| *month == lower || (lower.len() == 3 && month.starts_with(lower)));
    found.map(|index| index as u32 + 1)
}

#[cfg(test)]
mod tests {
    use super::Token::*;
    use super::*;

    #[test]
    fn fields_end_where_their_look_does() {
        assert_eq!(
            tokenize("2024-01-02T03:04:05.6+02:00"),
            Some(vec![Joined("2024-01-02"), Word("T"), Time("03:04:05.6"), Signed("+02:00")])
        );
        assert_eq!(tokenize("Jan 8, 1999"), Some(vec![Word("Jan"), Number("8"), Number("1999")]));
        assert_eq!(tokenize("8-jan-1999"), Some(vec![Joined("8-jan-1999")]));
        assert_eq!(tokenize("1.5 h .5"), Some(vec![Number("1.5"), Word("h"), Number(".5")]));
        assert_eq!(tokenize("-infinity"), Some(vec![Signed("-infinity")]));
        assert_eq!(tokenize("Europe/Berlin"), Some(vec![Joined("Europe/Berlin")]));
        assert_eq!(tokenize("1\u{e9}"), None);
    }
}
