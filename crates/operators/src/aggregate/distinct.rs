//! Distinct values of groups: which values there are, under each FILTER, and what an epoch changes about it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_expr::AggregateCall;
use millstream_state::PagedVec;
use millstream_types::{Delta, EpochHeader, Error, Result};

use super::partial::reduce;
use super::{Filters, describe};
use crate::group_table::GroupTable;
use crate::operator::{BuildContext, Operator, OperatorSpec, Output, Port, Progress};

/// A use of the distinct values: a filter and the calls that have it.
struct Variant {
    filter: Option<usize>,
    calls: Vec<usize>,
}

/// Values that became, or ceased to be, members of their group.
pub(super) struct Change {
    pub(super) groups: Vec<u32>,
    pub(super) weights: Vec<i64>,
    rows: Vec<u32>,
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
}

impl DistinctSets {
    /// One for each column that is the argument of a distinct call.
    pub(super) fn of_calls(calls: &[AggregateCall], input: &SchemaRef, append_only: bool) -> Result<Vec<DistinctSets>> {
        let mut sets: Vec<DistinctSets> = Vec::new();
        for (i, call) in calls.iter().enumerate().filter(|(_, c)| c.distinct) {
            let argument = call.argument.ok_or_else(|| Error::internal("DISTINCT without an argument"))?;
            let at = match sets.iter().position(|s| s.argument == argument) {
                Some(at) => at,
                None => {
                    sets.push(DistinctSets::new(argument, input.field(argument).data_type())?);
                    sets.len() - 1
                }
            };
            let variants = &mut sets[at].variants;
            match variants.iter_mut().find(|v| v.filter == call.filter) {
                Some(variant) => variant.calls.push(i),
                None => variants.push(Variant { filter: call.filter, calls: vec![i] }),
            }
        }
        for s in &mut sets {
            if !append_only || s.variants.len() > 32 {
                s.counts = Counts::Weights(s.variants.iter().map(|_| PagedVec::new(0)).collect());
            }
        }
        Ok(sets)
    }

    fn new(argument: usize, data_type: &DataType) -> Result<Self> {
        let fields = vec![Field::new("group", DataType::Int64, false), Field::new("value", data_type.clone(), true)];
        Ok(DistinctSets {
            argument,
            variants: Vec::new(),
            entries: GroupTable::new(Arc::new(Schema::new(fields)))?,
            counts: Counts::Seen(PagedVec::new(0)),
            emptied: Vec::new(),
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
        self.entries.n_bytes() + counts
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
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(groups.iter().map(|&g| i64::from(g))));
        let mut entries = Vec::new();
        self.entries.find_or_add(&[numbers, values.clone()], delta.n_rows(), &mut entries);
        let mut filters = Filters::default();
        let nulls = values.nulls().filter(|n| n.null_count() > 0);
        for (v, variant) in self.variants.iter().enumerate() {
            let filter = filters.get(delta, variant.filter);
            let counts = |i: usize| nulls.is_none_or(|n| n.is_valid(i)) && filter.is_none_or(|f| f.value(i));
            let mut change = Change { groups: Vec::new(), weights: Vec::new(), rows: Vec::new() };
            for (i, &entry) in entries.iter().enumerate() {
                if !counts(i) {
                    continue;
                }
                let weight = delta.weight(i);
                let turn = match &mut self.counts {
                    Counts::Seen(seen) => {
                        if weight < 0 {
                            return Err(Error::internal("a row was taken back from append-only input"));
                        }
                        let seen = seen.get_mut(entry);
                        let is_new = *seen >> v & 1 == 0 && weight > 0;
                        *seen |= u32::from(weight > 0) << v;
                        i64::from(is_new)
                    }
                    Counts::Weights(weights) => {
                        let n = weights[v].get_mut(entry);
                        let was = *n > 0;
                        *n += weight;
                        i64::from(*n > 0) - i64::from(was)
                    }
                };
                if turn != 0 {
                    change.groups.push(groups[i]);
                    change.weights.push(turn);
                    change.rows.push(i as u32);
                }
            }
            if !change.rows.is_empty() {
                let rows = UInt32Array::from(std::mem::take(&mut change.rows));
                let values = arrow::compute::take(values, &rows, None)?;
                variant.calls.iter().try_for_each(|&call| changed(&change, call, &values))?;
            }
        }
        if let (Counts::Weights(_), Some(weights)) = (&self.counts, delta.weights()) {
            self.emptied.extend(entries.iter().zip(weights.iter()).filter(|(_, w)| **w < 0).map(|(&e, _)| e));
        }
        Ok(())
    }

    /// Forgets values without rows.
    pub(super) fn end_epoch(&mut self) {
        let mut emptied = std::mem::take(&mut self.emptied);
        if let Counts::Weights(weights) = &self.counts {
            emptied.sort_unstable();
            emptied.dedup();
            emptied.retain(|&entry| weights.iter().all(|w| w.get(entry) == 0));
            self.entries.remove(&emptied);
        }
    }
}

/// Finds the distinct values of one column, on input partitioned by group key and value, and reduces what changes to
/// states of the calls. All calls are distinct and have the same argument.
#[derive(Clone, Debug)]
pub struct DistinctPartialSpec {
    /// The schema of the input.
    pub input: SchemaRef,
    /// The columns of the group key.
    pub group_by: Vec<usize>,
    /// The aggregates.
    pub calls: Vec<AggregateCall>,
    /// No row is ever taken back.
    pub append_only: bool,
}

impl DistinctPartialSpec {
    fn keys(&self) -> Vec<Arc<Field>> {
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

    fn build(&self, _: BuildContext) -> Result<Box<dyn Operator>> {
        let sets = DistinctSets::of_calls(&self.calls, &self.input, self.append_only)?;
        let [sets] = <[DistinctSets; 1]>::try_from(sets).map_err(|_| Error::internal("calls over one column"))?;
        let keys = Arc::new(Schema::new(self.keys()));
        Ok(Box::new(DistinctPartial {
            spec: self.clone(),
            schema: self.schema(),
            groups: GroupTable::new(keys)?,
            sets,
        }))
    }
}

struct DistinctPartial {
    spec: DistinctPartialSpec,
    schema: SchemaRef,
    /// Numbers the group keys, to make entries narrow.
    groups: GroupTable,
    sets: DistinctSets,
}

impl Operator for DistinctPartial {
    fn push(&mut self, _: Port, delta: Delta, out: &mut Output) -> Result<Progress> {
        let keys: Vec<ArrayRef> = self.spec.group_by.iter().map(|&c| delta.columns()[c].clone()).collect();
        let mut groups = Vec::new();
        self.groups.find_or_add(&keys, delta.n_rows(), &mut groups);
        let mut states = reduce::States::new(&self.spec.input, &self.spec.calls, false)?;
        let mut touched = Vec::new();
        self.sets.update(&groups, &delta, |change, call, values| {
            touched.extend_from_slice(&change.groups);
            states.update(call, &change.groups, values, &change.weights)
        })?;
        if !touched.is_empty() {
            touched.sort_unstable();
            touched.dedup();
            out.emit(states.emit(&self.schema, self.groups.keys(&touched).columns(), &touched)?);
        }
        Ok(Progress::Done)
    }

    fn end_epoch(&mut self, _: &EpochHeader, _: &mut Output) -> Result<Progress> {
        self.sets.end_epoch();
        Ok(Progress::Done)
    }

    fn n_bytes(&self) -> usize {
        self.groups.n_bytes() + self.sets.n_bytes()
    }

    fn n_entries(&self) -> usize {
        self.sets.len()
    }
}
