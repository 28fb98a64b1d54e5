//! The rows of a side of a join as they are saved: all of them, or what has changed.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use hashbrown::HashMap;
use millstream_state::{NumberSet, Rows, SavedState, StateChanges};
use millstream_types::Result;
use millstream_types::hash::hash_columns;

use super::super::alone::{Known, Totals};
use super::JoinSide;
use crate::operator::Progress;
use crate::saving::{Identities, SAVED_ROWS, SavedTable, TablePlace, Tracking, save_all, saved_columns, types_of};

/// What has changed since the last save.
#[derive(Default)]
pub(super) struct Changes {
    /// Rows that have changed, or are new.
    rows: NumberSet,
    /// What is saved of those that are not new.
    saved: HashMap<u32, SavedRow>,
    gone: Identities,
}

/// What of a row can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SavedRow {
    weight: i64,
    known: Known,
}

impl Changes {
    pub(super) fn n_bytes(&self) -> usize {
        self.rows.n_bytes() + self.saved.capacity() * size_of::<(u32, SavedRow)>() + self.gone.n_bytes()
    }
}

impl JoinSide {
    /// Adds the rows with their weights and, where that counts, what they have emitted.
    pub(in super::super) fn save(&self, table: u32, by: &[usize], saved: &mut StateChanges) -> Result<()> {
        let mut table = self.saved_table(table, by, saved)?;
        save_all(|cursor| cursor.go_on(1, |_, place| self.save_next_rows(0, place, &mut table)))
    }

    pub(in super::super) fn track_changes(&mut self) {
        self.tracking.start();
    }

    /// Adds some more of what has changed since the last save.
    pub(in super::super) fn save_changes(
        &mut self,
        table: u32,
        by: &[usize],
        saved: &mut StateChanges,
    ) -> Result<Progress> {
        let mut cursor = self.tracking.cursor();
        let changes = self.tracking.unsaved()?;
        let mut table = self.saved_table(table, by, saved)?;
        let progress = cursor.go_on(1, |_, place| match changes {
            Some(changes) if !self.is_log() => self.save_next_changes(changes, place, &mut table),
            _ => self.save_next_rows(self.n_saved, place, &mut table),
        })?;
        if self.tracking.note_saved(progress, cursor) == Progress::Done {
            self.n_saved = self.rows.id_bound();
        }
        Ok(progress)
    }

    /// Some more of the rows from an id on.
    fn save_next_rows(&self, from: u32, place: &mut TablePlace, table: &mut SavedTable<'_>) -> Result<Progress> {
        place.next = place.next.max(from);
        let ids = self.rows.next_ids(&mut place.next, SAVED_ROWS);
        self.save_rows(&ids, table)?;
        Ok(if ids.is_empty() { Progress::Done } else { Progress::More })
    }

    fn save_next_changes(
        &self,
        changes: &Changes,
        place: &mut TablePlace,
        table: &mut SavedTable<'_>,
    ) -> Result<Progress> {
        if changes.gone.save_next(place, table)? == Progress::More {
            return Ok(Progress::More);
        }
        let mut ids = changes.rows.next(&mut place.next, SAVED_ROWS);
        if ids.is_empty() {
            return Ok(Progress::Done);
        }
        ids.retain(|row| changes.saved.get(row) != Some(&self.state_of(*row)));
        let saved = ids.iter().filter_map(|row| Some((*row, *changes.saved.get(row)?)));
        let (saved_ids, states): (Vec<u32>, Vec<SavedRow>) = saved.unzip();
        table.take_away(self.saved_rows(&saved_ids, &states), saved_ids.len())?;
        self.save_rows(&ids, table)?;
        Ok(Progress::More)
    }

    /// The table of rows. Equal rows may be kept as several, so nothing less than all columns tells them apart.
    fn saved_table<'a>(&self, table: u32, by: &[usize], saved: &'a mut StateChanges) -> Result<SavedTable<'a>> {
        let mut types = types_of(self.rows.schema());
        types.push(DataType::Int64);
        types.extend(self.partners.iter().flat_map(|_| Known::TYPES));
        SavedTable::multiset(saved, table, types, by)
    }

    fn save_rows(&self, ids: &[u32], table: &mut SavedTable<'_>) -> Result<()> {
        let states: Vec<SavedRow> = ids.iter().map(|&row| self.state_of(row)).collect();
        table.add(self.saved_rows(ids, &states), ids.len())
    }

    /// Rows as they are saved.
    fn saved_rows(&self, ids: &[u32], states: &[SavedRow]) -> Vec<ArrayRef> {
        let mut columns = self.rows.gather(ids).columns().to_vec();
        columns.push(Arc::new(Int64Array::from_iter_values(states.iter().map(|s| s.weight))));
        if self.partners.is_some() {
            columns.extend(Known::columns(&states.iter().map(|s| s.known).collect::<Vec<_>>()));
        }
        columns
    }

    /// Takes over rows as [`JoinSide::save`] gave them; `right` is what was known of the right side.
    pub(in super::super) fn restore(&mut self, table: u32, saved: &mut SavedState, right: Totals) -> Result<()> {
        let n_input = self.rows.schema().fields().len();
        let n_partners = if self.partners.is_some() { Known::TYPES.len() } else { 0 };
        self.tracking = Tracking::restored();
        if let Some(partners) = &mut self.partners {
            partners.restore_right(right);
        }
        let Some((columns, n_rows)) = saved_columns(saved, table, n_input + 1 + n_partners)? else { return Ok(()) };
        let rows = &columns[..n_input];
        let mut ids = Vec::with_capacity(n_rows);
        self.rows.add(rows, Rows::Range { offset: 0, len: n_rows }, &mut ids);
        self.n_saved = self.rows.id_bound();
        let keys: Vec<ArrayRef> = self.keys.iter().map(|&k| rows[k].clone()).collect();
        let mut hashes = Vec::new();
        hash_columns(&keys, n_rows, &mut hashes);
        self.by_key.insert_all(&hashes, ids.iter().copied());
        if let Some(by_row) = &mut self.by_row {
            hash_columns(rows, n_rows, &mut hashes);
            by_row.insert_all(&hashes, ids.iter().copied());
        }
        let weights = columns[n_input].as_primitive::<Int64Type>().values();
        ids.iter().zip(weights).for_each(|(&row, &weight)| self.set_weight(row, weight));
        self.totals.n_rows += weights.iter().sum::<i64>();
        if let Some(partners) = &mut self.partners {
            partners.restore(&ids, &columns[n_input + 1..]);
        }
        Ok(())
    }

    /// Rows only come, and nothing about one changes.
    pub(super) fn is_log(&self) -> bool {
        self.append_only && self.partners.is_none()
    }

    /// Notes what is saved of a row, which is about to change.
    pub(super) fn note(&mut self, row: u32) {
        let state = self.state_of(row);
        if let Some(changes) = self.tracking.changes()
            && changes.rows.insert(row)
        {
            changes.saved.insert(row, state);
        }
    }

    /// Notes that rows are new.
    #[inline]
    pub(super) fn note_new(&mut self, rows: &[u32]) {
        if self.tracking.is_noting()
            && !self.is_log()
            && let Some(changes) = self.tracking.changes()
        {
            changes.rows.extend(rows.iter().copied());
        }
    }

    /// Notes that rows, all of which have been noted to change, are about to go.
    pub(super) fn note_dead(&mut self, dead: &[u32]) {
        if !self.tracking.is_noting() {
            return;
        }
        let (mut ids, mut states) = (Vec::new(), Vec::new());
        for &row in dead {
            let Some(changes) = self.tracking.changes() else { return };
            let is_noted = changes.rows.remove(row);
            debug_assert!(is_noted, "a row changes before it goes");
            if let Some(saved) = changes.saved.remove(&row) {
                ids.push(row);
                states.push(saved);
            }
        }
        let gone = self.saved_rows(&ids, &states);
        if let Some(changes) = self.tracking.changes() {
            changes.gone.add(gone, ids.len());
        }
    }

    fn state_of(&self, row: u32) -> SavedRow {
        let known = self.partners.as_ref().map(|partners| partners.known(row)).unwrap_or_default();
        SavedRow { weight: self.weights.get(row), known }
    }
}
