//! The failed rows of a dataflow, for as long as their causes stand.

use std::borrow::Cow;
use std::collections::HashMap;

use millstream_expr::RowError;
use millstream_types::Epoch;
use parking_lot::Mutex;

/// A failed row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    sqlstate: Cow<'static, str>,
    message: String,
    row: String,
}

/// A failed row as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowErrorEntry {
    /// The epoch in which it first failed.
    pub epoch: Epoch,
    /// The SQLSTATE.
    pub sqlstate: String,
    /// The message.
    pub message: String,
    /// The row, as text.
    pub row: String,
    /// How often it stands.
    pub count: i64,
}

/// Failed rows that are listed one by one; of more, only their number is known.
const LISTED_MAX: usize = 10_000;

/// Failed rows with their weights, added up over workers.
#[derive(Debug, Default)]
pub struct RowErrorLog(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    now: Listed,
    /// As of the epoch that was marked last.
    at_mark: Option<(Epoch, Listed)>,
}

#[derive(Clone, Debug, Default)]
struct Listed {
    rows: HashMap<Key, (Epoch, i64)>,
    /// Rows that are not listed, since there are too many.
    n_others: i64,
}

/// All that is known of failed rows at an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedRowErrors {
    /// Those that are listed, oldest first. Some counts may be negative, which others that are to come make up for.
    pub entries: Vec<RowErrorEntry>,
    /// How many are not listed.
    pub n_others: i64,
}

impl RowErrorLog {
    /// Adds an epoch's failed rows.
    pub fn add(&self, epoch: Epoch, errors: Vec<RowError>) {
        if errors.is_empty() {
            return;
        }
        let mut log = self.0.lock();
        let Log { now, at_mark } = &mut *log;
        let mut at_mark = at_mark.as_mut().filter(|(mark, _)| epoch <= *mark).map(|(_, listed)| listed);
        for error in errors {
            let fields = error.error.fields();
            let key = Key { sqlstate: fields.state.0.into(), message: fields.message.clone(), row: error.row };
            at_mark.iter_mut().for_each(|listed| listed.add(epoch, key.clone(), error.weight));
            now.add(epoch, key, error.weight);
        }
    }

    /// From now on what is as of an epoch is known apart. No row of a later one was added yet.
    pub fn mark(&self, epoch: Epoch) {
        let mut log = self.0.lock();
        log.at_mark = Some((epoch, log.now.clone()));
    }

    /// All that is known as of the epoch that was marked last.
    pub fn at_mark(&self) -> SavedRowErrors {
        let log = self.0.lock();
        let listed = log.at_mark.as_ref().map(|(_, listed)| listed);
        listed.map_or_else(SavedRowErrors::default, |l| SavedRowErrors { entries: l.entries(), n_others: l.n_others })
    }

    /// Goes on from what was known.
    pub fn restore(&self, saved: SavedRowErrors) {
        let row = |e: RowErrorEntry| {
            (Key { sqlstate: e.sqlstate.into(), message: e.message, row: e.row }, (e.epoch, e.count))
        };
        self.0.lock().now = Listed { rows: saved.entries.into_iter().map(row).collect(), n_others: saved.n_others };
    }

    /// The number of failed rows.
    pub fn len(&self) -> usize {
        let log = self.0.lock();
        let listed: i64 = log.now.rows.values().map(|(_, n)| (*n).max(0)).sum();
        usize::try_from(listed + log.now.n_others).unwrap_or(0)
    }

    /// Whether no row has failed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The failed rows that are listed, oldest first.
    pub fn entries(&self) -> Vec<RowErrorEntry> {
        let mut entries = self.0.lock().now.entries();
        entries.retain(|entry| entry.count > 0);
        entries
    }
}

impl Listed {
    fn add(&mut self, epoch: Epoch, key: Key, weight: i64) {
        let is_other = self.rows.len() >= LISTED_MAX || weight < 0 && self.n_others > 0;
        if is_other && !self.rows.contains_key(&key) {
            self.n_others += weight;
            return;
        }
        let entry = self.rows.entry(key.clone()).or_insert((epoch, 0));
        entry.1 += weight;
        if entry.1 == 0 {
            self.rows.remove(&key);
        }
    }

    fn entries(&self) -> Vec<RowErrorEntry> {
        let entry = |(key, (epoch, count)): (&Key, &(Epoch, i64))| RowErrorEntry {
            epoch: *epoch,
            sqlstate: key.sqlstate.to_string(),
            message: key.message.clone(),
            row: key.row.clone(),
            count: *count,
        };
        let mut entries: Vec<_> = self.rows.iter().map(entry).collect();
        entries.sort_by(|a, b| (a.epoch, &a.row).cmp(&(b.epoch, &b.row)));
        entries
    }
}

#[cfg(test)]
mod tests {
    use millstream_types::{Error, SqlState};

    use super::*;

    fn failed(row: usize, weight: i64) -> RowError {
        RowError { error: Error::user(SqlState::DIVISION_BY_ZERO, "division by zero"), row: row.to_string(), weight }
    }

    #[test]
    fn rows_beyond_the_listed_ones_are_counted() {
        let log = RowErrorLog::default();
        let n_rows = LISTED_MAX + 500;
        log.add(Epoch(1), (0..n_rows).map(|i| failed(i, 1)).collect());
        assert_eq!((log.len(), log.entries().len()), (n_rows, LISTED_MAX));
        log.add(Epoch(2), (0..n_rows).map(|i| failed(i, -1)).collect());
        assert_eq!((log.len(), log.entries().len()), (0, 0));
    }

    #[test]
    fn what_was_known_at_an_epoch_can_be_gone_on_from() {
        let log = RowErrorLog::default();
        log.add(Epoch(1), vec![failed(1, 1), failed(2, 2)]);
        log.mark(Epoch(5));
        // Operators that are behind and operators that are ahead.
        log.add(Epoch(6), vec![failed(1, -1), failed(3, 1)]);
        log.add(Epoch(5), vec![failed(2, -1), failed(4, 1)]);
        let saved = log.at_mark();
        let rows: Vec<(&str, i64)> = saved.entries.iter().map(|e| (e.row.as_str(), e.count)).collect();
        assert_eq!(rows, [("1", 1), ("2", 1), ("4", 1)]);
        let restored = RowErrorLog::default();
        restored.restore(saved);
        restored.add(Epoch(6), vec![failed(1, -1), failed(3, 1)]);
        assert_eq!(restored.entries(), log.entries());
        assert_eq!(restored.len(), 3);
    }
}
