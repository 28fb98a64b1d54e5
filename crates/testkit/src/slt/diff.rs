//! Expected and actual rows side by side, for a failure's message.

use std::fmt::Write;

/// Lines beyond this many are left out of a diff, so that a broken view of many rows does not flood the terminal.
const MAX_LINES: usize = 200;

/// One line for each row: `-` expected and missing, `+` there and not expected, blank for both.
///
/// The longest common subsequence decides which rows are common; memory is quadratic in the rows that differ, and
/// longer inputs are printed one after the other.
pub(super) fn diff(expected: &[String], actual: &[String]) -> String {
    let prefix = expected.iter().zip(actual).take_while(|(e, a)| e == a).count();
    let (expected_rest, actual_rest) = (&expected[prefix..], &actual[prefix..]);
    let mut lines: Vec<(char, &str)> = expected[..prefix].iter().map(|row| (' ', row.as_str())).collect();
    if expected_rest.len() * actual_rest.len() > 1 << 20 {
        lines.extend(expected_rest.iter().map(|row| ('-', row.as_str())));
        lines.extend(actual_rest.iter().map(|row| ('+', row.as_str())));
    } else {
        lines.extend(changes(expected_rest, actual_rest));
    }
    let mut text = String::new();
    for (sign, row) in lines.iter().take(MAX_LINES) {
        let _infallible = writeln!(text, "  {sign} {row}");
    }
    if lines.len() > MAX_LINES {
        let _infallible = writeln!(text, "  … and {} more lines", lines.len() - MAX_LINES);
    }
    text
}

fn changes<'a>(expected: &'a [String], actual: &'a [String]) -> Vec<(char, &'a str)> {
    let width = actual.len() + 1;
    // common[i * width + j]: length of the longest common subsequence of expected[i..] and actual[j..].
    let mut common = vec![0u32; (expected.len() + 1) * width];
    for i in (0..expected.len()).rev() {
        for j in (0..actual.len()).rev() {
            common[i * width + j] = if expected[i] == actual[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < expected.len() || j < actual.len() {
        if i < expected.len() && j < actual.len() && expected[i] == actual[j] {
            lines.push((' ', expected[i].as_str()));
            (i, j) = (i + 1, j + 1);
        } else if j == actual.len() || (i < expected.len() && common[(i + 1) * width + j] >= common[i * width + j + 1])
        {
            lines.push(('-', expected[i].as_str()));
            i += 1;
        } else {
            lines.push(('+', actual[j].as_str()));
            j += 1;
        }
    }
    lines
}
