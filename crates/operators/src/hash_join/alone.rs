//! Rows of a join that emit something by whether they have partners: outer, semi, anti and mark joins.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use millstream_state::{PagedVec, SavedState, StateChanges};
use millstream_types::Result;
use serde::{Deserialize, Serialize};

use crate::saving::{SavedTable, saved_columns};

/// What the rows of a side emit beside pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alone {
    /// Nothing.
    Nothing,
    /// Rows without a partner, with nulls for the other side's columns.
    NullExtended,
    /// Rows with a partner, once each.
    Semi,
    /// Rows without a partner.
    Anti,
    /// As `Anti`, with the meaning of `NOT IN`: no row at all if the right side has a null key, and no row with a null
    /// key unless the right side is empty. Only for the left side, and on one worker.
    NullAwareAnti,
    /// All rows, with a mark that says whether they have a partner.
    Mark,
}

impl Alone {
    /// Whether rows that can have no partner emit something.
    pub(super) fn needs_unmatched(self) -> bool {
        !matches!(self, Alone::Nothing | Alone::Semi)
    }
}

/// Rows of a side, and rows with a null key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) n_rows: i64,
    pub(super) n_null_keys: i64,
}

impl Totals {
    /// Saves them as the one row of a table, or none if there is nothing to tell, in the place of what was saved. Joins that
    /// need them are on one worker.
    pub(super) fn save(self, before: Totals, table: u32, saved: &mut StateChanges) -> Result<()> {
        if self == before {
            return Ok(());
        }
        let mut table = SavedTable::new(saved, table, vec![DataType::Int64; 2], vec![], &[])?;
        if before != Totals::default() {
            table.take_away(vec![], 1)?;
        }
        if self == Totals::default() {
            return Ok(());
        }
        let number = |n: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![n])) };
        table.add(vec![number(self.n_rows), number(self.n_null_keys)], 1)
    }

    /// What was saved; nothing if it was not.
    pub(super) fn restored(table: u32, saved: &mut SavedState) -> Result<Totals> {
        let Some((columns, _)) = saved_columns(saved, table, 2)? else { return Ok(Totals::default()) };
        let number = |column: usize| columns[column].as_primitive::<Int64Type>().value(0);
        Ok(Totals { n_rows: number(0), n_null_keys: number(1) })
    }
}

/// Rows to emit, with what becomes of each.
pub(super) struct Decided {
    pub(super) rows: Vec<u32>,
    pub(super) weights: Vec<i64>,
    /// Rows with a partner, or rows without.
    pub(super) has_partner: bool,
}

/// What is known of a row: its partners, the weights emitted without and with them, and whether the key has a null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    n_partners: i64,
    emitted: [i64; 2],
    has_null_key: bool,
}

impl Known {
    /// The types of [`Known::columns`].
    pub(super) const TYPES: [DataType; 4] = [DataType::Int64, DataType::Int64, DataType::Int64, DataType::Boolean];

    /// What is known of rows, as columns.
    pub(super) fn columns(of_rows: &[Known]) -> [ArrayRef; 4] {
        let numbers =
            |of: fn(&Known) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(of_rows.iter().map(of))) };
        let has_null_key = BooleanArray::from_iter(of_rows.iter().map(|k| Some(k.has_null_key)));
        let (without, with) = (numbers(|k| k.emitted[0]), numbers(|k| k.emitted[1]));
        [numbers(|k| k.n_partners), without, with, Arc::new(has_null_key)]
    }
}

/// For each row of a side: how many partners it has, and what it has emitted.
///
/// A row's partners are the rows of the other side, by weight, that it makes a pair with. Counts are kept up as pairs
/// are met; what is emitted follows at the end of the epoch, for the rows that were touched.
pub(super) struct Partners {
    alone: Alone,
    counts: PagedVec<i64>,
    /// Weights emitted as a row without partners, and as one with.
    emitted: PagedVec<[i64; 2]>,
    has_null_key: PagedVec<bool>,
    is_touched: PagedVec<bool>,
    touched: Vec<u32>,
    dead: Vec<u32>,
    /// The right side as it was when this was last decided; only of interest to null-aware joins.
    right: Totals,
}

impl Partners {
    pub(super) fn new(alone: Alone) -> Self {
        Partners {
            alone,
            counts: PagedVec::new(0),
            emitted: PagedVec::new([0; 2]),
            has_null_key: PagedVec::new(false),
            is_touched: PagedVec::new(false),
            touched: Vec::new(),
            dead: Vec::new(),
            right: Totals::default(),
        }
    }

    pub(super) fn n_bytes(&self) -> usize {
        self.counts.n_bytes() + self.emitted.n_bytes() + self.has_null_key.n_bytes() + self.is_touched.n_bytes()
    }

    #[inline]
    pub(super) fn touch(&mut self, row: u32) {
        let is_touched = self.is_touched.get_mut(row);
        if !*is_touched {
            *is_touched = true;
            self.touched.push(row);
        }
    }

    #[inline]
    pub(super) fn count(&mut self, row: u32, n: i64) {
        *self.counts.get_mut(row) += n;
        self.touch(row);
    }

    pub(super) fn note_null_key(&mut self, row: u32) {
        if row != millstream_state::NO_ROW {
            self.has_null_key.set(row, true);
        }
    }

    #[inline]
    pub(super) fn is_touched(&self, row: u32) -> bool {
        self.is_touched.get(row)
    }

    /// Whether all rows are to be decided anew, since the right side is another than it was.
    pub(super) fn turns(&self, right: Totals) -> bool {
        let facts = |t: Totals| (t.n_rows == 0, t.n_null_keys > 0);
        self.alone == Alone::NullAwareAnti && facts(right) != facts(self.right)
    }

    /// What touched rows are to emit, given the rows' weights.
    pub(super) fn decide(&mut self, weights: &PagedVec<i64>, right: Totals) -> Vec<Decided> {
        self.right = right;
        let mut decided = [false, true].map(|has_partner| Decided { rows: vec![], weights: vec![], has_partner });
        for row in std::mem::take(&mut self.touched) {
            self.is_touched.set(row, false);
            let weight = weights.get(row);
            let wanted = self.wanted(row, weight);
            let emitted = self.emitted.get_mut(row);
            for (i, decided) in decided.iter_mut().enumerate() {
                if wanted[i] != emitted[i] {
                    decided.rows.push(row);
                    decided.weights.push(wanted[i] - emitted[i]);
                }
            }
            *emitted = wanted;
            if weight == 0 {
                self.dead.push(row);
            }
        }
        decided.into_iter().filter(|d| !d.rows.is_empty()).collect()
    }

    /// The weights that a row is to have emitted, without partners and with.
    fn wanted(&self, row: u32, weight: i64) -> [i64; 2] {
        let has_partner = self.counts.get(row) > 0;
        match self.alone {
            Alone::Nothing => [0, 0],
            Alone::NullExtended | Alone::Anti if has_partner => [0, 0],
            Alone::NullExtended | Alone::Anti => [weight, 0],
            Alone::Semi if has_partner => [0, weight],
            Alone::Semi => [0, 0],
            Alone::Mark if has_partner => [0, weight],
            Alone::Mark => [weight, 0],
            Alone::NullAwareAnti => {
                let passes = self.right.n_rows == 0
                    || !has_partner && self.right.n_null_keys == 0 && !self.has_null_key.get(row);
                [if passes { weight } else { 0 }, 0]
            }
        }
    }

    /// What is known of a row.
    pub(super) fn known(&self, row: u32) -> Known {
        Known {
            n_partners: self.counts.get(row),
            emitted: self.emitted.get(row),
            has_null_key: self.has_null_key.get(row),
        }
    }

    /// Takes over what [`Known::columns`] gave.
    pub(super) fn restore(&mut self, rows: &[u32], columns: &[ArrayRef]) {
        let numbers = |column: usize| columns[column].as_primitive::<Int64Type>().values();
        let (counts, without, with) = (numbers(0), numbers(1), numbers(2));
        let has_null_key = columns[3].as_boolean();
        for (i, &row) in rows.iter().enumerate() {
            self.counts.set(row, counts[i]);
            self.emitted.set(row, [without[i], with[i]]);
            self.has_null_key.set(row, has_null_key.value(i));
        }
    }

    /// Takes over how the right side was when this was last decided.
    pub(super) fn restore_right(&mut self, right: Totals) {
        self.right = right;
    }

    /// Rows without instances left; their ids may be given to others after this.
    pub(super) fn take_dead(&mut self) -> Vec<u32> {
        let dead = std::mem::take(&mut self.dead);
        for &row in &dead {
            self.counts.set(row, 0);
            self.emitted.set(row, [0; 2]);
            self.has_null_key.set(row, false);
        }
        dead
    }
}
