//! Distinct values of groups: which values there are, under each FILTER, and what an epoch changes about it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use millstream_expr::AggregateCall;
use millstream_expr::encoded::Encoder;
use millstream_state::{PagedVec, SavedState, StateChanges};
use millstream_types::{Delta, EpochHeader, Error, Result};

use super::partial::reduce;
use super::{Filters, describe};
use crate::encoded::EncodedSpec;
use crate::group_table::GroupTable;
use crate::operator::{BuildContext, Operator, OperatorSpec, Output, Port, Progress};
use crate::saving::{ChangedRows, SaveCursor, SavedTable, Tracking, Unsaved, save_all, saved_columns, types_of};

/// A use of the distinct values: a filter and the calls that have it.
pub(super) struct Variant {
    pub(super) filter: Option<usize>,
    calls: Vec<usize>,
}

/// The filters of distinct calls over one column, each once. `calls` are numbered as their users do.
pub(super) fn variants_of<'a>(calls: impl Iterator<Item = (usize, &'a AggregateCall)>) -> Vec<Variant> {
    let mut variants: Vec<Variant> = Vec::new();
    for (i, call) in calls {
        match variants.iter_mut().find(|v| v.filter == call.filter) {
            Some(variant) => variant.calls.push(i),
            None => variants.push(Variant { filter: call.filter, calls: vec![i] }),
        }
    }
    variants
}

/// Whether it is enough to know which values were seen: rows only come, and there are few filters.
pub(super) fn is_seen_enough(append_only: bool, n_variants: usize) -> bool {
    append_only && n_variants <= SEEN_VARIANTS_MAX
}

/// Filters for which a value has a bit each.
const SEEN_VARIANTS_MAX: usize = 32;

/// Values that became, or ceased to be, members of their group.
#[derive(Default)]
pub(super) struct Change {
    pub(super) groups: Vec<u32>,
    pub(super) weights: Vec<i64>,
    rows: Vec<u32>,
}

impl Change {
    fn push(&mut self, group: u32, weight: i64, row_idx: u32) {
        self.groups.push(group);
        self.weights.push(weight);
        self.rows.push(row_idx);
    }
}

/// How the members are counted.
enum Counts {
    /// Rows only come: a bit for each variant says that the value was seen.
    Seen(PagedVec<u32>),
    /// The number of rows with the value, for each variant.
    Weights(Vec<PagedVec<i64>>),
}

/// The distinct values of one column in each group: one entry for a group and value, serving all filters.
pub(super) struct DistinctSets {
    argument: usize,
    variants: Vec<Variant>,
    entries: GroupTable,
    counts: Counts,
    /// Entries that may have lost their last row in this epoch.
    emptied: Vec<u32>,
    /// Entries that have changed since they were last saved, if that is noted.
    changes: Option<ChangedRows>,
}

impl DistinctSets {
    /// One for each column that is the argument of a distinct call.
    pub(super) fn of_calls(calls: &[AggregateCall], input: &SchemaRef, append_only: bool) -> Result<Vec<DistinctSets>> {
        let mut arguments = Vec::new();
        for call in calls.iter().filter(|c| c.distinct) {
            let argument = call.argument.ok_or_else(|| Error::internal("DISTINCT without an argument"))?;
            if !arguments.contains(&argument) {
                arguments.push(argument);
            }
        }
        let sets_of = |argument: usize| {
            let of_argument = |(_, c): &(usize, &AggregateCall)| c.distinct && c.argument == Some(argument);
            let variants = variants_of(calls.iter().enumerate().filter(of_argument));
            DistinctSets::new(argument, input.field(argument).data_type(), variants, append_only)
        };
        arguments.into_iter().map(sets_of).collect()
    }

    fn new(argument: usize, data_type: &DataType, variants: Vec<Variant>, append_only: bool) -> Result<Self> {
        let fields = vec![Field::new("group", DataType::Int64, false), Field::new("value", data_type.clone(), true)];
        let counts = if is_seen_enough(append_only, variants.len()) {
            Counts::Seen(PagedVec::new(0))
        } else {
            Counts::Weights(variants.iter().map(|_| PagedVec::new(0)).collect())
        };
        Ok(DistinctSets {
            argument,
            entries: GroupTable::new(Arc::new(Schema::new(fields)))?,
            counts,
            variants,
            emptied: Vec::new(),
            changes: None,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn n_bytes(&self) -> usize {
        let counts = match &self.counts {
            Counts::Seen(seen) => seen.n_bytes(),
            Counts::Weights(weights) => weights.iter().map(PagedVec::n_bytes).sum(),
        };
        self.entries.n_bytes() + counts + self.changes.as_ref().map_or(0, ChangedRows::n_bytes)
    }

    /// Takes rows, given their groups, and calls `changed(change, call, values)` for each call whose set of values
    /// changes.
    pub(super) fn update(
        &mut self,
        groups: &[u32],
        delta: &Delta,
        mut changed: impl FnMut(&Change, usize, &ArrayRef) -> Result<()>,
    ) -> Result<()> {
        let values = &delta.columns()[self.argument];
        let entries = self.find_or_add(groups, values);
        let filters: Vec<Option<usize>> = self.variants.iter().map(|v| v.filter).collect();
        let mut masks = Filters::default();
        let nulls = values.nulls().filter(|n| n.null_count() > 0);
        for (variant_idx, filter) in filters.into_iter().enumerate() {
            let mask = masks.get(delta, filter);
            let count = |i: usize| {
                let counts = nulls.is_none_or(|n| n.is_valid(i)) && mask.is_none_or(|m| m.value(i));
                if counts { delta.weight(i) } else { 0 }
            };
            let change = self.count(variant_idx, &entries, groups, count)?;
            self.report(variant_idx, change, values, &mut changed)?;
        }
        if let Some(weights) = delta.weights() {
            let taken_back = entries.iter().zip(weights.iter()).filter(|(_, w)| **w < 0);
            self.note_emptied(taken_back.map(|(&entry, _)| entry));
        }
        Ok(())
    }

    /// Takes values as [`super::DistinctReduceSpec`] prepares them: each with a column of bits that tell under which
    /// filters it was seen, or with a column for each filter of the rows that came, less those that were taken back.
    pub(super) fn update_reduced(
        &mut self,
        groups: &[u32],
        values: &ArrayRef,
        counts: &[ArrayRef],
        mut changed: impl FnMut(&Change, usize, &ArrayRef) -> Result<()>,
    ) -> Result<()> {
        let entries = self.find_or_add(groups, values);
        let numbers = |column: usize| counts[column].as_primitive::<Int64Type>().values();
        if let Counts::Seen(seen) = &mut self.counts {
            // Most values were seen before: one pass finds those that were not.
            let mut fresh = Vec::new();
            for (i, (&entry, &bits)) in entries.iter().zip(numbers(0)).enumerate() {
                let seen = seen.get_mut(entry);
                let new_bits = bits as u32 & !*seen;
                if new_bits != 0 {
                    *seen |= new_bits;
                    fresh.push((i as u32, new_bits));
                    note(&mut self.changes, entry);
                }
            }
            for variant_idx in 0..self.variants.len() {
                let mut change = Change::default();
                let of_variant = fresh.iter().filter(|(_, bits)| bits >> variant_idx & 1 == 1);
                of_variant.for_each(|&(i, _)| change.push(groups[i as usize], 1, i));
                self.report(variant_idx, change, values, &mut changed)?;
            }
            return Ok(());
        }
        for variant_idx in 0..self.variants.len() {
            let weights = numbers(variant_idx);
            let taken_back = entries.iter().zip(weights).filter(|(_, w)| **w < 0).map(|(&entry, _)| entry);
            self.note_emptied(taken_back);
            let change = self.count(variant_idx, &entries, groups, |i| weights[i])?;
            self.report(variant_idx, change, values, &mut changed)?;
        }
        Ok(())
    }

    /// The entry of each row.
    fn find_or_add(&mut self, groups: &[u32], values: &ArrayRef) -> Vec<u32> {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(groups.iter().map(|&g| i64::from(g))));
        let mut entries = Vec::new();
        self.entries.find_or_add(&[numbers, values.clone()], groups.len(), &mut entries);
        if let Some(changes) = &mut self.changes {
            changes.add(self.entries.added());
        }
        entries
    }

    /// Counts `count(row_idx)` rows of each entry under a filter; gives the rows with which entries became members of
    /// their set, or ceased to be.
    fn count(
        &mut self,
        variant_idx: usize,
        entries: &[u32],
        groups: &[u32],
        count: impl Fn(usize) -> i64,
    ) -> Result<Change> {
        let mut change = Change::default();
        let mut turn = |i: usize, weight: i64| change.push(groups[i], weight, i as u32);
        match &mut self.counts {
            Counts::Seen(seen) => {
                for (i, &entry) in entries.iter().enumerate() {
                    let weight = count(i);
                    if weight < 0 {
                        return Err(Error::internal("a row was taken back from append-only input"));
                    }
                    let seen = seen.get_mut(entry);
                    if weight > 0 && *seen >> variant_idx & 1 == 0 {
                        *seen |= 1 << variant_idx;
                        note(&mut self.changes, entry);
                        turn(i, 1);
                    }
                }
            }
            Counts::Weights(weights) => {
                for (i, &entry) in entries.iter().enumerate() {
                    let (n, weight) = (weights[variant_idx].get_mut(entry), count(i));
                    let was = *n > 0;
                    *n += weight;
                    if weight != 0 {
                        note(&mut self.changes, entry);
                    }
                    if was != (*n > 0) {
                        turn(i, if was { -1 } else { 1 });
                    }
                }
            }
        }
        Ok(change)
    }

    fn report(
        &self,
        variant_idx: usize,
        mut change: Change,
        values: &ArrayRef,
        changed: &mut impl FnMut(&Change, usize, &ArrayRef) -> Result<()>,
    ) -> Result<()> {
        if change.rows.is_empty() {
            return Ok(());
        }
        let rows = UInt32Array::from(std::mem::take(&mut change.rows));
        let values = arrow::compute::take(values, &rows, None)?;
        self.variants[variant_idx].calls.iter().try_for_each(|&call| changed(&change, call, &values))
    }

    fn note_emptied(&mut self, entries: impl Iterator<Item = u32>) {
        if matches!(self.counts, Counts::Weights(_)) {
            self.emptied.extend(entries);
        }
    }

    /// Forgets values without rows; gives the group of each that it forgot. `groups` has the keys of groups.
    pub(super) fn end_epoch(&mut self, groups: &GroupTable) -> Vec<u32> {
        let mut emptied = std::mem::take(&mut self.emptied);
        if let Counts::Weights(weights) = &self.counts {
            emptied.sort_unstable();
            emptied.dedup();
            emptied.retain(|&entry| weights.iter().all(|w| w.get(entry) == 0));
        }
        if let Some(mut changes) = self.changes.take() {
            let gone = changes.remove(&emptied);
            let keys = groups.keys(&self.groups_of(&gone));
            let values = Arc::clone(self.entries.keys(&gone).column(1));
            changes.take_away([keys.columns(), &[values]].concat(), gone.len());
            self.changes = Some(changes);
        }
        let groups = self.groups_of(&emptied);
        self.entries.remove(&emptied);
        groups
    }

    /// From now on changes are noted, unless they are already; what there is is saved.
    pub(super) fn track_changes(&mut self) {
        self.changes.get_or_insert_default();
    }

    /// The entries that have changed since they were last saved, or all.
    pub(super) fn unsaved(&self, is_all: bool) -> Unsaved<'_> {
        Unsaved::of(self.entries.rows(), self.changes.as_ref().filter(|_| !is_all))
    }

    /// All entries are saved.
    pub(super) fn note_saved(&mut self) {
        self.changes = self.changes.as_ref().map(|_| ChangedRows::default());
    }

    /// Values, with their groups: the value's column, then one of bits or one of counts for each variant.
    pub(super) fn values(&self, entries: &[u32]) -> (Vec<u32>, Vec<ArrayRef>) {
        let numbers = |of: &dyn Fn(u32) -> i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(entries.iter().map(|&entry| of(entry))))
        };
        let mut columns = vec![Arc::clone(self.entries.keys(entries).column(1))];
        match &self.counts {
            Counts::Seen(seen) => columns.push(numbers(&|entry| seen.get(entry).into())),
            Counts::Weights(weights) => columns.extend(weights.iter().map(|w| numbers(&|entry| w.get(entry)))),
        }
        (self.groups_of(entries), columns)
    }

    /// Values as [`DistinctSets::values`] gives them, behind the keys of their groups.
    pub(super) fn values_behind_keys(&self, entries: &[u32], groups: &GroupTable) -> Vec<ArrayRef> {
        let (of, values) = self.values(entries);
        [groups.keys(&of).columns(), &values].concat()
    }

    /// The types of the columns that [`DistinctSets::values`] gives.
    pub(super) fn saved_types(&self) -> Vec<DataType> {
        let n_counts = match &self.counts {
            Counts::Seen(_) => 1,
            Counts::Weights(weights) => weights.len(),
        };
        let value = self.entries.key_schema().field(1).data_type().clone();
        [vec![value], vec![DataType::Int64; n_counts]].concat()
    }

    /// Takes over values as [`DistinctSets::values`] gives them.
    pub(super) fn restore_values(&mut self, groups: &[u32], columns: &[ArrayRef]) -> Result<()> {
        let (values, counts) =
            columns.split_first().ok_or_else(|| Error::internal("distinct values without a column"))?;
        let entries = self.find_or_add(groups, values);
        let numbers = |column: usize| counts[column].as_primitive::<Int64Type>().values();
        match &mut self.counts {
            Counts::Seen(seen) => entries.iter().zip(numbers(0)).for_each(|(&e, &bits)| seen.set(e, bits as u32)),
            Counts::Weights(weights) => {
                for (column, weights) in weights.iter_mut().enumerate() {
                    entries.iter().zip(numbers(column)).for_each(|(&entry, &n)| weights.set(entry, n));
                }
            }
        }
        Ok(())
    }

    /// The group of each value that the last update saw for the first time.
    fn groups_of_added(&self) -> Vec<u32> {
        self.groups_of(self.entries.added())
    }

    fn groups_of(&self, entries: &[u32]) -> Vec<u32> {
        if entries.is_empty() {
            return vec![];
        }
        let keys = self.entries.keys(entries);
        keys.column(0).as_primitive::<Int64Type>().values().iter().map(|&group| group as u32).collect()
    }
}

/// Notes that an entry has changed, if that is wanted.
#[inline]
fn note(changes: &mut Option<ChangedRows>, entry: u32) {
    if let Some(changes) = changes {
        changes.change(entry);
    }
}

/// Finds the distinct values of one column and reduces what changes to states of the calls. Takes what
/// [`super::DistinctReduceSpec`] makes of the rows, partitioned by group key and value. All calls are distinct and have
/// the same argument.
#[derive(Clone, Debug)]
pub struct DistinctPartialSpec {
    /// The schema of the rows, which the key and the calls refer to.
    pub input: SchemaRef,
    /// The columns of the group key.
    pub group_by: Vec<usize>,
    /// The aggregates.
    pub calls: Vec<AggregateCall>,
    /// No row is ever taken back.
    pub append_only: bool,
}

impl DistinctPartialSpec {
    pub(super) fn keys(&self) -> Vec<Arc<Field>> {
        self.group_by.iter().map(|&c| Arc::clone(&self.input.fields()[c])).collect()
    }
}

impl OperatorSpec for DistinctPartialSpec {
    fn name(&self) -> &'static str {
        "DistinctPartial"
    }

    fn describe(&self) -> String {
        describe(&Arc::new(Schema::new(self.keys())), self.group_by.len(), &self.calls, self.append_only)
    }

    fn schema(&self) -> SchemaRef {
        reduce::schema(&self.keys(), &self.input, &self.calls, false)
            .expect("the planner chose calls with accumulators")
    }

    fn keeps(&self) -> String {
        "the values of each group".to_owned()
    }

    fn encode(&self, encoder: &mut Encoder<'_>) -> Result<EncodedSpec> {
        EncodedSpec::of(self, encoder)
    }

    fn build(&self, _: BuildContext) -> Result<Box<dyn Operator>> {
        let sets = DistinctSets::of_calls(&self.calls, &self.input, self.append_only)?;
        let [sets] = <[DistinctSets; 1]>::try_from(sets).map_err(|_| Error::internal("calls over one column"))?;
        let keys = Arc::new(Schema::new(self.keys()));
        Ok(Box::new(DistinctPartial {
            spec: self.clone(),
            schema: self.schema(),
            groups: GroupTable::new(keys)?,
            n_values: PagedVec::new(0),
            sets,
            tracking: Tracking::default(),
        }))
    }
}

struct DistinctPartial {
    spec: DistinctPartialSpec,
    schema: SchemaRef,
    /// Numbers the group keys, to make entries narrow.
    groups: GroupTable,
    /// The number of values that each group has; only counted if rows may be taken back.
    n_values: PagedVec<u32>,
    sets: DistinctSets,
    /// What has changed the sets note.
    tracking: Tracking<()>,
}

impl Operator for DistinctPartial {
    fn push(&mut self, _: Port, delta: Delta, out: &mut Output) -> Result<Progress> {
        let (keys, rest) = delta.columns().split_at(self.spec.group_by.len());
        let (values, counts) = rest.split_first().ok_or_else(|| Error::internal("distinct values without a column"))?;
        let mut groups = Vec::new();
        self.groups.find_or_add(keys, delta.n_rows(), &mut groups);
        let mut states = reduce::States::new(&self.spec.input, &self.spec.calls, false)?;
        let mut touched = Vec::new();
        self.sets.update_reduced(&groups, values, counts, |change, call, values| {
            touched.extend_from_slice(&change.groups);
            states.update(call, &change.groups, values, &change.weights)
        })?;
        if !self.spec.append_only {
            self.sets.groups_of_added().into_iter().for_each(|group| *self.n_values.get_mut(group) += 1);
        }
        if !touched.is_empty() {
            touched.sort_unstable();
            touched.dedup();
            out.emit(states.emit(&self.schema, self.groups.keys(&touched).columns(), &touched)?);
        }
        Ok(Progress::Done)
    }

    fn end_epoch(&mut self, _: &EpochHeader, _: &mut Output) -> Result<Progress> {
        let mut emptied = Vec::new();
        for group in self.sets.end_epoch(&self.groups) {
            let n_values = self.n_values.get_mut(group);
            *n_values -= 1;
            if *n_values == 0 {
                emptied.push(group);
            }
        }
        self.groups.remove(&emptied);
        Ok(Progress::Done)
    }

    /// One table: the group key's columns, the value, counts.
    fn save(&self, partitioned_by: &[Vec<usize>], saved: &mut StateChanges) -> Result<()> {
        save_all(|cursor| self.save_next(true, cursor, partitioned_by, saved))
    }

    fn track_changes(&mut self) {
        self.tracking.start();
        if self.tracking.is_noting() {
            self.sets.track_changes();
        }
    }

    fn save_changes(&mut self, partitioned_by: &[Vec<usize>], changes: &mut StateChanges) -> Result<Progress> {
        let mut cursor = self.tracking.cursor();
        let is_all = self.tracking.unsaved()?.is_none();
        let progress = self.save_next(is_all, &mut cursor, partitioned_by, changes)?;
        if self.tracking.note_saved(progress, cursor) == Progress::Done {
            self.sets.note_saved();
            self.sets.track_changes();
        }
        Ok(progress)
    }

    fn restore(&mut self, saved: &mut SavedState) -> Result<()> {
        self.tracking = Tracking::restored();
        let n_keys = self.spec.group_by.len();
        let n_columns = n_keys + self.sets.saved_types().len();
        let Some((columns, n_rows)) = saved_columns(saved, 0, n_columns)? else {
            return Ok(());
        };
        let mut groups = Vec::new();
        self.groups.find_or_add(&columns[..n_keys], n_rows, &mut groups);
        self.sets.restore_values(&groups, &columns[n_keys..])?;
        if !self.spec.append_only {
            groups.iter().for_each(|&group| *self.n_values.get_mut(group) += 1);
        }
        Ok(())
    }

    fn n_bytes(&self) -> usize {
        self.groups.n_bytes() + self.n_values.n_bytes() + self.sets.n_bytes()
    }

    fn n_entries(&self) -> usize {
        self.groups.len() + self.sets.len()
    }
}

impl DistinctPartial {
    fn save_next(
        &self,
        is_all: bool,
        cursor: &mut SaveCursor,
        partitioned_by: &[Vec<usize>],
        saved: &mut StateChanges,
    ) -> Result<Progress> {
        let mut table = self.saved_table(partitioned_by, saved)?;
        let entries = self.sets.unsaved(is_all);
        let columns_of = |entries: &[u32]| self.sets.values_behind_keys(entries, &self.groups);
        cursor.go_on(1, |_, place| entries.save_next(place, &mut table, columns_of))
    }

    /// The table of values; the key and the value tell its rows apart.
    fn saved_table<'a>(&self, partitioned_by: &[Vec<usize>], saved: &'a mut StateChanges) -> Result<SavedTable<'a>> {
        let by = partitioned_by.first().ok_or_else(|| Error::internal("distinct values without a port"))?;
        let types = [types_of(&Schema::new(self.spec.keys())), self.sets.saved_types()].concat();
        SavedTable::new(saved, 0, types, (0..=self.spec.group_by.len()).collect(), by)
    }
}

#[cfg(test)]
mod tests {
    use super::super::DistinctReduceSpec;
    use super::*;
    use arrow::array::RecordBatch;
    use millstream_expr::AggregateFunction;
    use millstream_types::delta::schema_of;
    use millstream_types::{Epoch, hash::mix};
    use std::collections::{BTreeMap, BTreeSet};

    /// Rows `(group, value, weight)` through both operators; what changes of the number of distinct values.
    fn push(operators: &mut [Box<dyn Operator>; 2], rows: &[(i64, i64, i64)], counts: &mut BTreeMap<i64, i64>) {
        let schema = schema_of(&[("k", DataType::Int64), ("v", DataType::Int64)]);
        let column =
            |f: fn(&(i64, i64, i64)) -> i64| -> ArrayRef { Arc::new(rows.iter().map(f).collect::<Int64Array>()) };
        let batch = RecordBatch::try_new(schema, vec![column(|r| r.0), column(|r| r.1)]).expect("two columns");
        let delta = Delta::new(batch, Some(rows.iter().map(|r| r.2).collect()));
        let mut out = Output::default();
        operators[0].push(0, delta, &mut out).expect("rows can be reduced");
        let mut changes = Output::default();
        for reduced in out.take() {
            operators[1].push(0, reduced, &mut changes).expect("values can be counted");
        }
        for delta in changes.take() {
            let numbers = |c: usize| delta.columns()[c].as_primitive::<Int64Type>().values().to_vec();
            numbers(0).into_iter().zip(numbers(1)).for_each(|(k, n)| *counts.entry(k).or_default() += n);
        }
        let header = EpochHeader { epoch: Epoch(1), now_us: 0 };
        operators[1].end_epoch(&header, &mut changes).expect("sums are not negative");
    }

    #[test]
    fn values_are_counted_once_and_groups_without_rows_are_forgotten() {
        let call =
            AggregateCall { function: AggregateFunction::Count, argument: Some(1), distinct: true, filter: None };
        let input = schema_of(&[("k", DataType::Int64), ("v", DataType::Int64)]);
        let spec = DistinctPartialSpec { input, group_by: vec![0], calls: vec![call], append_only: false };
        let context = BuildContext::alone();
        let reduce = DistinctReduceSpec(spec.clone()).build(context).expect("the types can be kept");
        let mut operators = [reduce, spec.build(context).expect("the types can be kept")];
        let mut counts = BTreeMap::new();
        let mut kept: Vec<(i64, i64)> = Vec::new();
        for step in 0..40u64 {
            let r = |i: u64| mix(step * 1000 + i);
            let mut rows: Vec<(i64, i64, i64)> =
                (0..r(0) % 300).map(|i| ((r(i) % 20) as i64, (r(i) >> 32) as i64 % 10, 1)).collect();
            kept.extend(rows.iter().map(|r| (r.0, r.1)));
            for i in 0..r(1) % (kept.len() as u64 + 1) {
                let (k, v) = kept.swap_remove(r(1000 + i) as usize % kept.len());
                rows.push((k, v, -1));
            }
            push(&mut operators, &rows, &mut counts);
            let mut expected: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
            kept.iter().for_each(|(k, v)| _ = expected.entry(*k).or_default().insert(*v));
            counts.retain(|_, n| *n != 0);
            let expected: BTreeMap<i64, i64> = expected.into_iter().map(|(k, v)| (k, v.len() as i64)).collect();
            assert_eq!(counts, expected, "step {step}");
        }
        let rest: Vec<_> = kept.drain(..).map(|(k, v)| (k, v, -1)).collect();
        push(&mut operators, &rest, &mut counts);
        assert_eq!(operators[1].n_entries(), 0);
    }
}
