//! Groups of regular expressions.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListBuilder, StringViewBuilder};
use arrow::datatypes::Int64Type;
use datafusion::logical_expr::Expr;
use millstream_types::hash::hash_bytes;
use millstream_types::{Error, SqlState};
use regex::Regex;

use super::builtin::{Spec, builtin};
use crate::typing::types::{TEXT, array_of};

/// The functions of this file.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: "regexp_group", returns: |_| TEXT, run: regexp_group, strict: true },
    Spec { name: "regexp_split", returns: |_| array_of(&TEXT), run: regexp_split, strict: true },
];

/// `(regexp_match(text, pattern))[i]` without the array in between, if that is what the arguments of the subscript are.
pub(super) fn group_of_match(array: &Expr, index: &Expr) -> Option<Expr> {
    match (array, index) {
        (Expr::ScalarFunction(call), Expr::Literal(_, _)) if call.name() == "regexp_match" && call.args.len() == 2 => {
            let args = vec![call.args[0].clone(), call.args[1].clone(), index.clone()];
            matches!(args[1], Expr::Literal(_, _)).then(|| builtin("regexp_group").call(args))
        }
        _ => None,
    }
}

/// `regexp_group(text, pattern, i)`: what the `i`th group matched, or the whole pattern if it has no group; null if
/// that is nothing.
fn regexp_group(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let (texts, patterns) = (args[0].as_string_view(), args[1].as_string_view());
    let indexes = args[2].as_primitive::<Int64Type>();
    let mut groups: Vec<Option<&str>> = Vec::with_capacity(n_rows);
    let mut compiled: Option<Pattern> = None;
    let mut seen = Seen::default();
    for i in 0..n_rows {
        if texts.is_null(i) || patterns.is_null(i) || indexes.is_null(i) {
            groups.push(None);
            continue;
        }
        let (text, index) = (texts.value(i), indexes.value(i));
        let pattern = match compiled.take().filter(|p| p.regex.as_str() == patterns.value(i) && p.index == index) {
            Some(pattern) => compiled.insert(pattern),
            None => {
                seen = Seen::default();
                compiled.insert(Pattern::new(patterns.value(i), index)?)
            }
        };
        let group = match seen.find(text, i as u32, |row| texts.value(row as usize)) {
            Some(row) => groups[row as usize],
            None => pattern.group(text),
        };
        groups.push(group);
    }
    let mut out = StringViewBuilder::with_capacity(n_rows);
    groups.into_iter().for_each(|group| out.append_option(group));
    Ok(Arc::new(out.finish()))
}

/// `regexp_split(text, pattern)`: the texts between what the pattern matches. A match of nothing at an end of the text,
/// or behind another match, splits nothing.
fn regexp_split(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let (texts, patterns) = (args[0].as_string_view(), args[1].as_string_view());
    let mut compiled: Option<Pattern> = None;
    let mut out = ListBuilder::new(StringViewBuilder::new());
    for i in 0..n_rows {
        if texts.is_null(i) || patterns.is_null(i) {
            out.append(false);
            continue;
        }
        let pattern = match compiled.take().filter(|p| p.regex.as_str() == patterns.value(i)) {
            Some(pattern) => compiled.insert(pattern),
            None => compiled.insert(Pattern::new(patterns.value(i), 0)?),
        };
        let text = texts.value(i);
        let mut begin = 0;
        for found in pattern.regex.find_iter(text) {
            if found.is_empty() && (found.start() == begin || found.start() == text.len()) {
                continue;
            }
            out.values().append_value(&text[begin..found.start()]);
            begin = found.end();
        }
        out.values().append_value(&text[begin..]);
        out.append(true);
    }
    Ok(Arc::new(out.finish()))
}

/// Rows of a batch by their text: texts of streams repeat, and a look here costs a tenth of a search. Stops looking
/// where too few of them do.
#[derive(Default)]
struct Seen {
    /// A row for the text's hash, or `NO_ROW`; the last one that came stays.
    rows: Vec<u32>,
    n_looked: u32,
    n_found: u32,
}

const NO_ROW: u32 = u32::MAX;
const SEEN_SLOTS: usize = 1 << 12;
/// Texts after which it is known whether they repeat: at least one of eight should.
const SEEN_SAMPLE: u32 = 512;

impl Seen {
    /// An earlier row with the same text; else notes this one.
    #[inline]
    fn find<'t>(&mut self, text: &str, row: u32, text_of: impl Fn(u32) -> &'t str) -> Option<u32> {
        if self.n_looked >= SEEN_SAMPLE && self.n_found < self.n_looked / 8 {
            return None;
        }
        if self.rows.is_empty() {
            self.rows = vec![NO_ROW; SEEN_SLOTS];
        }
        self.n_looked += 1;
        let slot = &mut self.rows[hash_bytes(text.as_bytes()) as usize % SEEN_SLOTS];
        if *slot != NO_ROW && text_of(*slot) == text {
            self.n_found += 1;
            return Some(*slot);
        }
        *slot = row;
        None
    }
}

/// A compiled pattern, with room for one match.
struct Pattern {
    regex: Regex,
    /// The group that is wanted, from 1.
    index: i64,
    places: regex::CaptureLocations,
}

impl Pattern {
    fn new(pattern: &str, index: i64) -> Result<Self, Error> {
        let regex = Regex::new(pattern).map_err(|error| {
            let message = format!("invalid regular expression: {}", reason_of(&error));
            Error::user(SqlState::INVALID_REGULAR_EXPRESSION, message)
        })?;
        Ok(Pattern { places: regex.capture_locations(), regex, index })
    }

    #[inline]
    fn group<'t>(&mut self, text: &'t str) -> Option<&'t str> {
        let n_groups = self.places.len() - 1;
        let group = match usize::try_from(self.index).ok()? {
            1 if n_groups == 0 => 0,
            group if (1..=n_groups).contains(&group) => group,
            _ => return None,
        };
        self.regex.captures_read(&mut self.places, text)?;
        self.places.get(group).map(|(from, to)| &text[from..to])
    }
}

/// The last line of the error says what is wrong; those before it point at the place.
fn reason_of(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringViewArray};

    #[test]
    fn groups_are_what_they_matched() {
        let cases = [
            ("a=1&b=22", "(&|^)b=([^&]*)", 2, Some("22")),
            ("b=22", "(&|^)b=([^&]*)", 1, Some("")),
            ("a=1", "(&|^)b=([^&]*)", 2, None),
            ("abc", "b.", 1, Some("bc")),
            ("abc", "b.", 2, None),
            ("abc", "(x)?(b)", 1, None),
            ("abc", "(x)?(b)", 2, Some("b")),
            ("abc", "(b)", 0, None),
            ("abc", "(b)", -1, None),
            ("", "", 1, Some("")),
        ];
        // Each case twice, so that the second time its group is known.
        let cases = cases.map(|case| [case, case]).concat();
        let texts: ArrayRef = Arc::new(cases.iter().map(|c| Some(c.0)).collect::<StringViewArray>());
        let patterns: ArrayRef = Arc::new(cases.iter().map(|c| Some(c.1)).collect::<StringViewArray>());
        let indexes: ArrayRef = Arc::new(cases.iter().map(|c| Some(c.2)).collect::<Int64Array>());
        let found = regexp_group(&[texts, patterns, indexes], cases.len()).expect("all patterns compile");
        let found = found.as_string_view();
        for (i, case) in cases.iter().enumerate() {
            assert_eq!(found.is_valid(i).then(|| found.value(i)), case.3, "{case:?}");
        }
    }
}
