//! Files that the documentation names are there: checked in every page.

use std::path::{Path, PathBuf};

use crate::docs;

/// What the names of files end in; other words with a slash are no paths.
const ENDINGS: [&str; 8] = [".rs", ".md", ".slt", ".sql", ".txt", ".toml", ".sh", ".py"];

/// The paths that a page names between backticks or as the target of a link.
fn named(page: &str) -> Vec<&str> {
    let quoted = page.split('`').skip(1).step_by(2);
    let linked = page.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let is_path = |text: &&str| {
        let is_file = ENDINGS.iter().any(|ending| text.ends_with(ending)) || text.ends_with('/');
        is_file && text.contains('/') && !text.contains(|c: char| c.is_whitespace() || "*<{$:".contains(c))
    };
    quoted.chain(linked).filter(is_path).collect()
}

/// Whether a file or folder is there: from the root, from the folder of all crates, or beside the page.
fn is_there(root: &Path, page: &Path, name: &str) -> bool {
    let beside = page.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    [root.to_path_buf(), root.join("crates"), beside].iter().any(|folder| folder.join(name).exists())
}

#[test]
fn files_that_the_documentation_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = docs::pages(&root).expect("the pages can be listed");
    pages.push(root.join("sql-tests/README.md"));
    let mut n_named = 0;
    let mut missing = Vec::new();
    for page in &pages {
        let text = std::fs::read_to_string(page).expect("a page can be read");
        let names = named(&text);
        n_named += names.len();
        missing.extend(names.iter().filter(|n| !is_there(&root, page, n)).map(|n| format!("{}: {n}", page.display())));
    }
    assert!(missing.is_empty(), "files that are not there:\n{}", missing.join("\n"));
    assert!(n_named > 10, "the pages name files");
}

#[test]
fn paths_are_told_from_other_words() {
    let page = "`a/b.rs` and `SELECT a / b`, `and/or`, [c](../c.md#part), `x/*.slt`, `d/`, `e.rs`";
    assert_eq!(named(page), ["a/b.rs", "d/", "../c.md"]);
}
