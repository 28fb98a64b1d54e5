//! The state of an aggregate as rows, and back.
//!
//! Table 0 has a row for each group: its key, its number of rows, whether it fails, and the states of the calls that are
//! one row each. The call with index i whose state has several rows has table 1 + i, with the key before each. Behind
//! those of the calls, each column whose distinct values are kept has a table: key, value, counts. What tells rows apart is
//! the key, in all but table 0 with the column behind it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use millstream_expr::aggregate::PartialRows;
use millstream_state::{SavedState, StateChanges};
use millstream_types::{Error, Result};

use super::{Aggregate, AggregateInput};
use crate::operator::{Output, Progress};
use crate::saving::{
    ChangedRows, Identities, SAVED_ROWS, SaveCursor, SavedTable, TablePlace, Tracking, Unsaved, places_in_key,
    save_all, saved_columns, types_of,
};

/// What has changed since the last save, beside what parts note themselves.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) groups: ChangedRows,
    /// Rows of states that have several, by call, which are gone with their group.
    of_states: Vec<Identities>,
}

impl Changes {
    pub(super) fn n_bytes(&self) -> usize {
        self.groups.n_bytes() + self.of_states.iter().map(Identities::n_bytes).sum::<usize>()
    }
}

impl Aggregate {
    /// All there is.
    pub(super) fn save_groups(&self, partitioned_by: &[Vec<usize>], saved: &mut StateChanges) -> Result<()> {
        let by = self.partitioned_by(partitioned_by)?;
        save_all(|cursor| {
            cursor.go_on(self.n_tables(), |table, place| match self.call_of_table(table) {
                Some(call) => self.save_next_states(call, place, &by, saved),
                None => self.save_next_rows(table, None, place, &by, saved),
            })
        })
    }

    /// Some more of what has changed since the last save.
    pub(super) fn save_next_changes(
        &mut self,
        cursor: &mut SaveCursor,
        partitioned_by: &[Vec<usize>],
        saved: &mut StateChanges,
    ) -> Result<Progress> {
        let by = self.partitioned_by(partitioned_by)?;
        cursor.go_on(self.n_tables(), |table, place| match (self.call_of_table(table), self.tracking.unsaved()?) {
            (Some(call), Some(_)) => self.save_next_changed_states(call, place, &by, saved),
            (Some(call), None) => self.save_next_states(call, place, &by, saved),
            (None, changed) => self.save_next_rows(table, changed, place, &by, saved),
        })
    }

    /// Some more of table 0, or of one of distinct values.
    fn save_next_rows(
        &self,
        table: usize,
        changed: Option<&Changes>,
        place: &mut TablePlace,
        by: &[usize],
        saved: &mut StateChanges,
    ) -> Result<Progress> {
        if table == 0 {
            let groups = Unsaved::of(self.table.rows(), changed.map(|changed| &changed.groups));
            let mut table = self.table_of_groups(by, saved)?;
            return groups.save_next(place, &mut table, |groups| self.group_columns(groups));
        }
        let set = table - 1 - self.accumulators.len();
        let entries = self.distinct[set].unsaved(changed.is_none());
        let mut table = self.table_of_set(set, by, saved)?;
        entries.save_next(place, &mut table, |entries| self.distinct[set].values_behind_keys(entries, &self.table))
    }

    /// Some more of the states of a call, of which each may have several rows.
    fn save_next_states(
        &self,
        call: usize,
        place: &mut TablePlace,
        by: &[usize],
        saved: &mut StateChanges,
    ) -> Result<Progress> {
        let mut next = place.next;
        let groups = self.table.next_groups(&mut next, SAVED_ROWS);
        if groups.is_empty() || !self.has_several_rows(call) {
            return Ok(Progress::Done);
        }
        let rows = self.accumulators[call].partial_rows(&groups, place.behind.as_ref(), SAVED_ROWS)?;
        let n_rows = rows.groups.len();
        self.table_of_states(call, by, saved)?.add(self.behind_keys(&rows), n_rows)?;
        (place.next, place.behind) = match rows.groups.last() {
            Some(&last) if n_rows == SAVED_ROWS => (last, Some(rows.columns[0].slice(n_rows - 1, 1))),
            _ => (next, None),
        };
        Ok(Progress::More)
    }

    /// Some more of what has changed of them.
    fn save_next_changed_states(
        &mut self,
        call: usize,
        place: &mut TablePlace,
        by: &[usize],
        saved: &mut StateChanges,
    ) -> Result<Progress> {
        let Some(Changes { groups, of_states }) = self.tracking.unsaved()? else { return Ok(Progress::Done) };
        if let Some(gone) = of_states.get(call)
            && gone.save_next(place, &mut self.table_of_states(call, by, saved)?)? == Progress::More
        {
            return Ok(Progress::More);
        }
        let mut next = place.next;
        let groups = groups.next(&mut next, SAVED_ROWS);
        if groups.is_empty() || !self.has_several_rows(call) {
            return Ok(Progress::Done);
        }
        let of_call = self.accumulators[call].take_changes(&groups, SAVED_ROWS);
        let mut table = self.table_of_states(call, by, saved)?;
        table.take_away(self.behind_keys(&of_call.gone), of_call.gone.groups.len())?;
        table.add(self.behind_keys(&of_call.rows), of_call.rows.groups.len())?;
        if !of_call.has_more {
            place.next = next;
        }
        Ok(Progress::More)
    }

    /// Notes, at the end of an epoch, what it has changed; some of the touched groups are about to go.
    pub(super) fn note_changes(&mut self, gone: &[u32]) -> Result<()> {
        let Some(changes) = self.tracking.changes() else { return Ok(()) };
        self.touched.iter().for_each(|&group| changes.groups.change(group));
        let saved = changes.groups.remove(gone);
        changes.groups.take_away(self.table.keys(&saved).columns().to_vec(), saved.len());
        changes.of_states.resize_with(self.accumulators.len(), Identities::default);
        for (accumulator, of_states) in self.accumulators.iter_mut().zip(&mut changes.of_states) {
            let changed = accumulator.take_changes(gone, usize::MAX);
            if !changed.rows.groups.is_empty() {
                return Err(Error::internal("a group without rows has values"));
            }
            if changed.gone.groups.is_empty() {
                continue;
            }
            let keys = self.table.keys(&changed.gone.groups);
            of_states.add([keys.columns(), &changed.gone.columns].concat(), changed.gone.groups.len());
        }
        Ok(())
    }

    /// From now on parts note their changes, if we do.
    pub(super) fn track_parts(&mut self) {
        if self.tracking.is_noting() {
            self.accumulators.iter_mut().for_each(|a| a.track_changes());
            self.distinct.iter_mut().for_each(|sets| sets.track_changes());
        }
    }

    /// Where in the group key the columns are that rows are partitioned by.
    fn partitioned_by(&self, partitioned_by: &[Vec<usize>]) -> Result<Vec<usize>> {
        match (self.spec.ports.first(), partitioned_by.first()) {
            (Some(AggregateInput::Rows { group_by }), Some(by)) => places_in_key(by, group_by),
            (_, Some(by)) => Ok(by.clone()),
            (_, None) => Ok(vec![]),
        }
    }

    fn n_tables(&self) -> usize {
        1 + self.accumulators.len() + self.distinct.len()
    }

    /// The call whose states a table has.
    fn call_of_table(&self, table: usize) -> Option<usize> {
        (1..=self.accumulators.len()).contains(&table).then(|| table - 1)
    }

    fn has_several_rows(&self, call: usize) -> bool {
        self.accumulators[call].partial_groups(&[]).is_some()
    }

    fn key_types(&self) -> Vec<DataType> {
        types_of(&self.spec.schema)[..self.spec.n_keys].to_vec()
    }

    fn table_of_groups<'a>(&self, by: &[usize], saved: &'a mut StateChanges) -> Result<SavedTable<'a>> {
        let mut types = self.key_types();
        types.extend([DataType::Int64, DataType::Boolean]);
        let of_one_row = self.accumulators.iter().filter(|a| a.partial_groups(&[]).is_none());
        types.extend(of_one_row.flat_map(|a| a.partial_types()));
        SavedTable::new(saved, 0, types, (0..self.spec.n_keys).collect(), by)
    }

    fn table_of_states<'a>(&self, call: usize, by: &[usize], saved: &'a mut StateChanges) -> Result<SavedTable<'a>> {
        let types = [self.key_types(), self.accumulators[call].partial_types()].concat();
        SavedTable::new(saved, 1 + call as u32, types, (0..=self.spec.n_keys).collect(), by)
    }

    fn table_of_set<'a>(&self, set: usize, by: &[usize], saved: &'a mut StateChanges) -> Result<SavedTable<'a>> {
        let types = [self.key_types(), self.distinct[set].saved_types()].concat();
        SavedTable::new(saved, self.number_of_set(set), types, (0..=self.spec.n_keys).collect(), by)
    }

    fn number_of_set(&self, set: usize) -> u32 {
        (1 + self.accumulators.len() + set) as u32
    }

    /// Groups as table 0 has them.
    fn group_columns(&self, groups: &[u32]) -> Vec<ArrayRef> {
        let mut columns = self.table.keys(groups).columns().to_vec();
        columns.push(Arc::new(Int64Array::from_iter_values(groups.iter().map(|&g| self.n_rows.get(g)))));
        columns.push(Arc::new(BooleanArray::from_iter(groups.iter().map(|g| Some(self.failing.contains(*g))))));
        for accumulator in self.accumulators.iter().filter(|a| a.partial_groups(&[]).is_none()) {
            columns.extend(accumulator.partial(groups));
        }
        columns
    }

    /// Rows of states behind the keys of their groups.
    fn behind_keys(&self, rows: &PartialRows) -> Vec<ArrayRef> {
        [self.table.keys(&rows.groups).columns(), &rows.columns].concat()
    }

    pub(super) fn restore_groups(&mut self, saved: &mut SavedState) -> Result<()> {
        let n_keys = self.spec.n_keys;
        let in_groups_table = |a: &&mut Box<dyn millstream_expr::GroupAccumulator>| a.partial_groups(&[]).is_none();
        let n_states = |a: &mut Box<dyn millstream_expr::GroupAccumulator>| a.partial_types().len();
        let n_columns: usize = self.accumulators.iter_mut().filter(in_groups_table).map(n_states).sum();
        self.tracking = Tracking::restored();
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
            let n_columns = n_keys + self.distinct[j].saved_types().len();
            let Some((columns, n_rows)) = saved_columns(saved, self.number_of_set(j), n_columns)? else { continue };
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
