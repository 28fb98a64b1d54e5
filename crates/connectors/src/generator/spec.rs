//! The text form of distributions: `name(argument, ...)`, where an argument may be a distribution again.

/// A distribution as written: its name and its arguments' texts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spec<'a> {
    pub(super) name: String,
    /// What stands between the parentheses.
    pub(super) body: &'a str,
    /// The body, split at its outer commas; quotes are left in place.
    pub(super) args: Vec<&'a str>,
}

impl<'a> Spec<'a> {
    /// Reads a distribution; the error says what is wrong with its form.
    pub(super) fn parse(text: &'a str) -> Result<Spec<'a>, String> {
        let text = text.trim();
        let name_len = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        let (name, rest) = text.split_at(name_len);
        if name.is_empty() {
            return Err("a distribution starts with its name, as in uniform(1, 100)".to_owned());
        }
        let rest = rest.trim_start();
        let body = match rest.strip_prefix('(').map(|rest| rest.strip_suffix(')')) {
            Some(Some(body)) => body.trim(),
            None if rest.is_empty() => "",
            _ => return Err(format!("the arguments of {name} stand in one pair of parentheses")),
        };
        let args = if body.is_empty() { Vec::new() } else { split(body)? };
        Ok(Spec { name: name.to_ascii_lowercase(), body, args })
    }
}

/// Splits at commas that are in no quotes and no parentheses.
fn split(body: &str) -> Result<Vec<&str>, String> {
    let (mut depth, mut quoted, mut start) = (0usize, false, 0);
    let mut args = Vec::new();
    for (i, c) in body.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            _ if quoted => {}
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1).ok_or("a closing parenthesis has no opening one")?,
            ',' if depth == 0 => {
                args.push(body[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    if quoted || depth > 0 {
        return Err("a quote or a parenthesis is not closed".to_owned());
    }
    args.push(body[start..].trim());
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_split_at_outer_commas() {
        let args = |text: &'static str| Spec::parse(text).unwrap().args;
        assert_eq!(args("uniform(1, 100)"), ["1", "100"]);
        assert_eq!(args("choice('a, b', c, 'it''s', '(')"), ["'a, b'", "c", "'it''s'", "'('"]);
        assert_eq!(args("null(0.1, array(0, 4, uniform(1, 2)))"), ["0.1", "array(0, 4, uniform(1, 2))"]);
        assert!(args(" bernoulli ").is_empty());
        assert_eq!(Spec::parse("Expr( n * (2 + 1) )").unwrap().body, "n * (2 + 1)");
        assert_eq!(Spec::parse("Expr(n)").unwrap().name, "expr");
    }

    #[test]
    fn malformed_texts_say_why() {
        for text in ["", "(1)", "uniform(1", "uniform 1, 2", "choice('a)", "uniform(1)) + (2)", "1 + 1"] {
            assert!(Spec::parse(text).is_err(), "{text}");
        }
    }
}
