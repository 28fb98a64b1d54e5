//! SQL blocks of the documentation, run statement by statement as a reader would.
//!
//! Every block fenced as `sql` of a page runs in one session of a fresh engine, in the order of the page. A statement
//! must succeed, unless a line `-- ERROR: ...` follows it: then it must fail with a message that contains the text.
//! Statements that never end, such as `SUBSCRIBE`, belong into text, not into such blocks.

use std::path::{Path, PathBuf};

use crate::slt::{Connection, SqlError};

/// A statement of a page.
#[derive(Debug, PartialEq, Eq)]
struct Statement {
    /// The line of the page on which it begins.
    line: usize,
    sql: String,
    /// What its error must contain, if it must fail.
    error: Option<String>,
}

/// The pages: the README and everything in `docs`, from the workspace's root.
///
/// # Errors
/// If a folder cannot be listed.
pub fn pages(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut pages = vec![root.join("README.md")];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    Ok(pages)
}

/// Runs all SQL blocks of a page.
///
/// # Errors
/// The statements that did not do what the page says, each with its line.
pub async fn run(page: &Path, connection: &mut impl Connection) -> Result<(), String> {
    let text = std::fs::read_to_string(page).map_err(|e| format!("{}: {e}", page.display()))?;
    let mut failures = Vec::new();
    for statement in statements(&text) {
        let outcome = connection.run(&statement.sql).await.map(|_| ());
        if let Some(problem) = judge(&statement, outcome) {
            failures.push(format!("line {}: {problem}\n  {}", statement.line, statement.sql.trim()));
        }
    }
    connection.close().await;
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

fn judge(statement: &Statement, outcome: Result<(), SqlError>) -> Option<String> {
    match (&statement.error, outcome) {
        (None, Ok(())) => None,
        (None, Err(error)) => Some(error.to_string()),
        (Some(expected), Ok(())) => Some(format!("succeeded instead of failing with: {expected}")),
        (Some(expected), Err(error)) => {
            (!error.to_string().contains(expected)).then(|| format!("{error}, instead of: {expected}"))
        }
    }
}

/// The statements of all blocks fenced as `sql`.
fn statements(page: &str) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut in_block = false;
    let mut open: Option<Statement> = None;
    for (i, line) in page.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block && line.trim() == "```sql";
            statements.extend(open.take());
            continue;
        }
        if !in_block {
            continue;
        }
        if let (None, Some(error)) = (&open, line.trim().strip_prefix("-- ERROR:")) {
            if let Some(last) = statements.last_mut() {
                last.error = Some(error.trim().to_owned());
            }
            continue;
        }
        let mut rest = line;
        while !rest.is_empty() {
            let end = end_of_statement(rest, open.as_ref().map_or("", |s| &s.sql));
            let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
            let starts = !part.trim().is_empty() && !part.trim_start().starts_with("--");
            if open.is_some() || starts {
                let open = open.get_or_insert_with(|| Statement { line: i + 1, sql: String::new(), error: None });
                open.sql.push_str(part);
                open.sql.push('\n');
            }
            if end.is_some() {
                statements.extend(open.take());
            }
            rest = after;
        }
    }
    statements
}

/// Where in a line the statement ends, behind its semicolon, if it does; `before` is what it has of earlier lines.
fn end_of_statement(line: &str, before: &str) -> Option<usize> {
    let mut quote: Option<char> = None;
    for (text, is_line) in [(before, false), (line, true)] {
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            match (quote, c) {
                (Some(q), c) if c == q => quote = None,
                (None, '\'' | '"') => quote = Some(c),
                (None, '-') if chars.peek().is_some_and(|(_, next)| *next == '-') => {
                    // A comment, to the end of its line.
                    while chars.next_if(|(_, next)| *next != '\n').is_some() {}
                }
                (None, ';') if is_line => return Some(at + 1),
                _ => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_cut_into_statements() {
        let page = "# T\n```sql\n-- says; nothing\nSELECT ';' -- a; b\n  , 1;  SELECT 2;\n-- ERROR: no\n```\n```\nno sql;\n```\n```sql\nSELECT 3\n```\n";
        let found = statements(page);
        let shape: Vec<_> = found.iter().map(|s| (s.line, s.sql.trim(), s.error.as_deref())).collect();
        assert_eq!(
            shape,
            [(4, "SELECT ';' -- a; b\n  , 1;", None), (5, "SELECT 2;", Some("no")), (12, "SELECT 3", None)]
        );
    }
}
