//! Queries that clients send again and again as texts, with what was planned of them.

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::session::ParsedStatement;

/// Statements of one generation.
const STATEMENTS_MAX: usize = 256;
/// Longer texts are not kept.
const TEXT_BYTES_MAX: usize = 4096;

/// The statements that were used last, by text.
///
/// There are two generations: what is used is in the young one, and when that is full the old one is forgotten and the
/// young one becomes it. So a statement stays that comes at least once in [`STATEMENTS_MAX`] different ones.
#[derive(Default)]
pub(crate) struct StatementCache(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Box<str>, ParsedStatement>,
    old: HashMap<Box<str>, ParsedStatement>,
}

impl StatementCache {
    pub(crate) fn get(&self, text: &str) -> Option<ParsedStatement> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let mut generations = self.0.lock();
        if let Some(statement) = generations.young.get(text) {
            return Some(statement.clone());
        }
        let (text, statement) = generations.old.remove_entry(text)?;
        generations.put(text, statement.clone());
        Some(statement)
    }

    pub(crate) fn put(&self, text: &str, statement: ParsedStatement) {
        if text.len() <= TEXT_BYTES_MAX {
            self.0.lock().put(text.into(), statement);
        }
    }
}

impl Generations {
    fn put(&mut self, text: Box<str>, statement: ParsedStatement) {
        if self.young.len() >= STATEMENTS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(text, statement);
    }
}
