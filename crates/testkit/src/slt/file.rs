//! A test file: its header and its records, and what is refused in one.

use std::path::{Path, PathBuf};

use sqllogictest::{Condition, DefaultColumnType, Record};

/// The engines that `onlyif` and `skipif` may name.
const ENGINES: [&str; 2] = ["millstream", "postgres"];

/// What a file says about itself in the comment it opens with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the file is for: its first line.
    pub purpose: String,
    /// Whether the file is plain Postgres SQL and must give the same rows there.
    pub postgres: bool,
    /// Whether the server may be started anew in the middle; if not, the line says why.
    pub restart: bool,
}

/// A parsed test file.
#[derive(Clone, Debug)]
pub struct SltFile {
    /// Where it was read from.
    pub path: PathBuf,
    /// What it says about itself.
    pub header: Header,
    pub(super) records: Vec<Record<DefaultColumnType>>,
}

impl SltFile {
    /// Reads and checks a file. `shown` is the path that failures name.
    ///
    /// # Errors
    /// Says which file and line is not as this module's documentation asks.
    pub fn read(path: &Path, shown: &str) -> Result<SltFile, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
        SltFile::parse(&text, path, shown)
    }

    /// The same for a text that is already in memory.
    ///
    /// # Errors
    /// As [`SltFile::read`].
    pub fn parse(text: &str, path: &Path, shown: &str) -> Result<SltFile, String> {
        let header = Header::parse(text).map_err(|error| format!("{shown}:1: {error}"))?;
        let records = sqllogictest::parse_with_name::<DefaultColumnType>(text, shown)
            .map_err(|error| format!("{}: {}", error.location(), error.kind()))?;
        for record in &records {
            check(record).map_err(|error| format!("{shown}: {error}"))?;
        }
        Ok(SltFile { path: path.to_owned(), header, records })
    }

    /// How many statements and queries the file has.
    pub fn n_statements(&self) -> usize {
        self.records.iter().filter(|record| matches!(record, Record::Statement { .. } | Record::Query { .. })).count()
    }
}

impl Header {
    fn parse(text: &str) -> Result<Header, String> {
        let lines: Vec<&str> =
            text.lines().take_while(|line| line.starts_with('#')).map(|line| line[1..].trim()).collect();
        let purpose = lines.first().filter(|line| !line.is_empty() && !line.starts_with("postgres:"));
        let purpose = purpose.ok_or("the first line must be a comment that says what the file is for")?.to_string();
        let postgres = match lines.iter().find_map(|line| line.strip_prefix("postgres:")).map(str::trim) {
            Some("yes") => true,
            Some("no") => false,
            _ => return Err("the opening comment must have a line `# postgres: yes` or `# postgres: no`".into()),
        };
        let restart = match lines.iter().find_map(|line| line.strip_prefix("restart:")).map(str::trim) {
            None => true,
            Some(no) if no.strip_prefix("no, ").is_some_and(|why| !why.is_empty()) => false,
            Some(_) => return Err("a line `# restart:` must say `no, ` and why".into()),
        };
        Ok(Header { purpose, postgres, restart })
    }
}

/// Refuses records that would make a test depend on time or on the machine, and engines that do not exist: a misspelt
/// `skipif` would silently run, a misspelt `onlyif` silently not.
fn check(record: &Record<DefaultColumnType>) -> Result<(), String> {
    let refused = |line: u32, what: &str| Err(format!("line {line}: `{what}` is not allowed here"));
    match record {
        Record::Statement { loc, retry: Some(_), .. } | Record::Query { loc, retry: Some(_), .. } => {
            refused(loc.line(), "retry")
        }
        Record::Sleep { loc, .. } => refused(loc.line(), "sleep"),
        Record::System { loc, .. } => refused(loc.line(), "system"),
        Record::Include { loc, .. } => refused(loc.line(), "include"),
        Record::HashThreshold { loc, .. } => refused(loc.line(), "hash-threshold"),
        Record::Let { loc, .. } => refused(loc.line(), "let"),
        Record::Control(_) => Err("`control` is not allowed here".into()),
        Record::Condition(Condition::OnlyIf { label } | Condition::SkipIf { label })
            if !ENGINES.contains(&label.as_str()) =>
        {
            Err(format!("no engine is called `{label}`"))
        }
        _ => Ok(()),
    }
}

/// All `.slt` files below a directory, with their paths relative to it, in the order of these paths.
///
/// # Errors
/// When the directory cannot be read.
pub fn find_files(root: &Path) -> std::io::Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "slt") {
                let shown = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
                files.push((path, shown));
            }
        }
    }
    files.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(files)
}
