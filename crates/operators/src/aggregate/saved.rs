//! The state of an aggregate as rows, and back.
//!
//! Table 0 has a row for each group: its key, its number of rows, whether it fails, and the states of the calls that are
//! one row each. The call with index i whose state has several rows has table 1 + i, with the key before each. Behind
//! those of the calls, each column whose distinct values are kept has a table: key, value, counts.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::datatypes::Int64Type;
use millstream_state::SavedState;
use millstream_types::Result;

use super::{Aggregate, AggregateInput};
use crate::operator::Output;
use crate::saving::{SAVED_ROWS, places_in_key, save_rows, saved_columns};

impl Aggregate {
    pub(super) fn save_groups(&self, partitioned_by: &[Vec<usize>], saved: &mut SavedState) -> Result<()> {
        let by = match (self.spec.ports.first(), partitioned_by.first()) {
            (Some(AggregateInput::Rows { group_by }), Some(by)) => places_in_key(by, group_by)?,
            (_, Some(by)) => by.clone(),
            (_, None) => vec![],
        };
        for groups in self.table.groups().chunks(SAVED_ROWS) {
            let mut columns = self.table.keys(groups).columns().to_vec();
            columns.push(Arc::new(Int64Array::from_iter_values(groups.iter().map(|&g| self.n_rows.get(g)))));
            columns.push(Arc::new(BooleanArray::from_iter(groups.iter().map(|g| Some(self.failing.contains(*g))))));
            for (i, accumulator) in self.accumulators.iter().enumerate() {
                let states = accumulator.partial(groups);
                match accumulator.partial_groups(groups) {
                    None => columns.extend(states),
                    Some(of) => self.save_of_groups(1 + i as u32, &of, states, &by, saved)?,
                }
            }
            save_rows(saved, 0, columns, groups.len(), &by)?;
        }
        for (j, sets) in self.distinct.iter().enumerate() {
            let (groups, columns) = sets.values();
            self.save_of_groups(self.table_of_set(j), &groups, columns, &by, saved)?;
        }
        Ok(())
    }

    /// Adds rows behind the keys of the groups that they are of.
    fn save_of_groups(
        &self,
        table: u32,
        groups: &[u32],
        rows: Vec<ArrayRef>,
        by: &[usize],
        saved: &mut SavedState,
    ) -> Result<()> {
        for (k, of) in groups.chunks(SAVED_ROWS).enumerate() {
            let mut columns = self.table.keys(of).columns().to_vec();
            columns.extend(rows.iter().map(|c| c.slice(k * SAVED_ROWS, of.len())));
            save_rows(saved, table, columns, of.len(), by)?;
        }
        Ok(())
    }

    fn table_of_set(&self, set: usize) -> u32 {
        (1 + self.accumulators.len() + set) as u32
    }

    pub(super) fn restore_groups(&mut self, saved: &SavedState) -> Result<()> {
        let n_keys = self.spec.n_keys;
        let in_groups_table = |a: &&mut Box<dyn millstream_expr::GroupAccumulator>| a.partial_groups(&[]).is_none();
        let n_states = |a: &mut Box<dyn millstream_expr::GroupAccumulator>| a.partial_types().len();
        let n_columns: usize = self.accumulators.iter_mut().filter(in_groups_table).map(n_states).sum();
        let Some((columns, n_rows)) = saved_columns(saved, 0, n_keys + 2 + n_columns)? else { return Ok(()) };
        self.global_pending = false;
        let (keys, states) = columns.split_at(n_keys);
        let mut groups = Vec::new();
        self.table.find_or_add(keys, n_rows, &mut groups);
        let counts = states[0].as_primitive::<Int64Type>().values();
        groups.iter().zip(counts).for_each(|(&group, &n)| self.n_rows.set(group, n));
        let mut from = 2;
        for accumulator in self.accumulators.iter_mut().filter(in_groups_table) {
            let to = from + accumulator.partial_types().len();
            accumulator.merge(&groups, &states[from..to])?;
            from = to;
        }
        for i in 0..self.accumulators.len() {
            let accumulator = &mut self.accumulators[i];
            if accumulator.partial_groups(&[]).is_none() {
                continue;
            }
            let n_columns = n_keys + accumulator.partial_types().len();
            let Some((columns, n_rows)) = saved_columns(saved, 1 + i as u32, n_columns)? else { continue };
            let mut groups = Vec::new();
            self.table.find_or_add(&columns[..n_keys], n_rows, &mut groups);
            accumulator.merge(&groups, &columns[n_keys..])?;
        }
        for j in 0..self.distinct.len() {
            let n_columns = n_keys + self.distinct[j].n_saved_columns();
            let Some((columns, n_rows)) = saved_columns(saved, self.table_of_set(j), n_columns)? else { continue };
            let mut groups = Vec::new();
            self.table.find_or_add(&columns[..n_keys], n_rows, &mut groups);
            self.distinct[j].restore_values(&groups, &columns[n_keys..])?;
        }
        // What is said of them is computed anew.
        let fails = states[1].as_boolean();
        let failing: Vec<u32> = (0..n_rows).filter(|&i| fails.value(i)).map(|i| groups[i]).collect();
        if !failing.is_empty() {
            self.results_or_errors(&failing, &mut Vec::new(), &mut Output::default())?;
        }
        Ok(())
    }
}
