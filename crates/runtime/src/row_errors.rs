//! The failed rows of a dataflow, for as long as their causes stand.

use std::collections::HashMap;

use millstream_expr::RowError;
use millstream_types::Epoch;
use parking_lot::Mutex;

/// A failed row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    sqlstate: &'static str,
    message: String,
    row: String,
}

/// A failed row as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowErrorEntry {
    /// The epoch in which it first failed.
    pub epoch: Epoch,
    /// The SQLSTATE.
    pub sqlstate: &'static str,
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
pub struct RowErrorLog(Mutex<Listed>);

#[derive(Debug, Default)]
struct Listed {
    rows: HashMap<Key, (Epoch, i64)>,
    /// Rows that are not listed, since there are too many.
    n_others: i64,
}

impl RowErrorLog {
    /// Adds an epoch's failed rows.
    pub fn add(&self, epoch: Epoch, errors: Vec<RowError>) {
        if errors.is_empty() {
            return;
        }
        let mut log = self.0.lock();
        for error in errors {
            let fields = error.error.fields();
            let key = Key { sqlstate: fields.state.0, message: fields.message.clone(), row: error.row };
            let is_other = log.rows.len() >= LISTED_MAX || error.weight < 0 && log.n_others > 0;
            if is_other && !log.rows.contains_key(&key) {
                log.n_others += error.weight;
                continue;
            }
            let entry = log.rows.entry(key.clone()).or_insert((epoch, 0));
            entry.1 += error.weight;
            if entry.1 == 0 {
                log.rows.remove(&key);
            }
        }
    }

    /// The number of failed rows.
    pub fn len(&self) -> usize {
        let log = self.0.lock();
        let listed: i64 = log.rows.values().map(|(_, n)| (*n).max(0)).sum();
        usize::try_from(listed + log.n_others).unwrap_or(0)
    }

    /// Whether no row has failed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The failed rows that are listed, oldest first.
    pub fn entries(&self) -> Vec<RowErrorEntry> {
        let entry = |(key, (epoch, count)): (&Key, &(Epoch, i64))| RowErrorEntry {
            epoch: *epoch,
            sqlstate: key.sqlstate,
            message: key.message.clone(),
            row: key.row.clone(),
            count: *count,
        };
        let mut entries: Vec<_> = self.0.lock().rows.iter().map(entry).filter(|e| e.count > 0).collect();
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
}
