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

/// Failed rows with their weights, added up over workers.
#[derive(Debug, Default)]
pub struct RowErrorLog(Mutex<HashMap<Key, (Epoch, i64)>>);

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
            let entry = log.entry(key.clone()).or_insert((epoch, 0));
            entry.1 += error.weight;
            if entry.1 == 0 {
                log.remove(&key);
            }
        }
    }

    /// The number of failed rows.
    pub fn len(&self) -> usize {
        self.0.lock().values().map(|(_, n)| (*n).max(0) as usize).sum()
    }

    /// Whether no row has failed.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// All failed rows, oldest first.
    pub fn entries(&self) -> Vec<RowErrorEntry> {
        let entry = |(key, (epoch, count)): (&Key, &(Epoch, i64))| RowErrorEntry {
            epoch: *epoch,
            sqlstate: key.sqlstate,
            message: key.message.clone(),
            row: key.row.clone(),
            count: *count,
        };
        let mut entries: Vec<_> = self.0.lock().iter().map(entry).filter(|e| e.count > 0).collect();
        entries.sort_by(|a, b| (a.epoch, &a.row).cmp(&(b.epoch, &b.row)));
        entries
    }
}
