//! Hash aggregation: groups whose results change are retracted and emitted anew at the end of the epoch.
//!
//! ```text
//!   one level:    rows ──by group──▶ Aggregate (rows)
//!   two levels:   rows ──▶ PartialAggregate ───────────────────────────────────by group──▶ ┐
//!                 rows ──▶ DistinctReduce ──by group and value──▶ DistinctPartial ──by group──▶ ┴ Aggregate (states)
//! ```
//!
//! One level suits input that is already partitioned by the group key, and groups with few rows. With two levels each
//! worker reduces its rows first, batch by batch, and distinct values are found where they live, so neither hot nor few
//! groups keep one worker busy while the others wait.

mod distinct;
mod distinct_reduce;
mod encoded;
mod partial;
mod saved;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::compute::kernels::cmp::distinct as is_distinct;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use millstream_expr::aggregate::{Input, accumulator};
use millstream_expr::encoded::Encoder;
use millstream_expr::scalar::{batch_of, truth};
use millstream_expr::{AggregateCall, GroupAccumulator};
use millstream_state::{PagedVec, SavedState, StateChanges};
use millstream_types::delta::take_batch;
use millstream_types::hash::{mix, worker_of};
use millstream_types::{Delta, EpochHeader, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::emitted_values::Failing;
use crate::encoded::EncodedSpec;
use crate::group_table::GroupTable;
use crate::operator::{BuildContext, OUTPUT_BATCH_ROWS, Operator, OperatorSpec, Output, Port, Progress};
use crate::saving::Tracking;
pub use distinct::DistinctPartialSpec;
use distinct::DistinctSets;
pub use distinct_reduce::DistinctReduceSpec;
pub use partial::PartialAggregateSpec;
use saved::Changes;

/// What arrives on a port of an aggregate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AggregateInput {
    /// Rows: `group_by` and the calls' arguments are columns of them.
    Rows {
        /// The columns of the group key.
        group_by: Vec<usize>,
    },
    /// States, as [`PartialAggregateSpec`] and [`DistinctPartialSpec`] emit them: the group key's columns, then, if
    /// `counts_rows`, the number of rows, then the states of some calls.
    States {
        /// Whether the number of the group's rows comes on this port.
        counts_rows: bool,
        /// The indices of the calls.
        calls: Vec<usize>,
    },
}

/// A `GROUP BY` with its aggregates. The output has the group key's columns, then one column for each call.
#[derive(Clone, Debug)]
pub struct AggregateSpec {
    /// The schema of the rows to aggregate, which the calls refer to.
    pub input: SchemaRef,
    /// The aggregates.
    pub calls: Vec<AggregateCall>,
    /// What arrives, by port.
    pub ports: Vec<AggregateInput>,
    /// The number of columns of the group key.
    pub n_keys: usize,
    /// No row is ever taken back.
    pub append_only: bool,
    /// The schema of the output.
    pub schema: SchemaRef,
}

impl OperatorSpec for AggregateSpec {
    fn name(&self) -> &'static str {
        "Aggregate"
    }

    fn describe(&self) -> String {
        describe(&self.schema, self.n_keys, &self.calls, self.append_only)
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn keeps(&self) -> String {
        let groups = if self.n_keys == 0 { "one group" } else { "a group for each key" };
        let takes_rows = self.ports.iter().any(|p| matches!(p, AggregateInput::Rows { .. }));
        let values = takes_rows && self.calls.iter().any(|c| c.distinct);
        if values { format!("{groups} with its values") } else { groups.to_owned() }
    }

    fn encode(&self, encoder: &mut Encoder<'_>) -> Result<EncodedSpec> {
        EncodedSpec::of(self, encoder)
    }

    fn build(&self, context: BuildContext) -> Result<Box<dyn Operator>> {
        let keys = Schema::new(self.schema.fields()[..self.n_keys].to_vec());
        let accumulators = self.calls.iter().map(|c| accumulator_of(c, &self.input, self.append_only));
        let takes_rows = self.ports.iter().any(|p| matches!(p, AggregateInput::Rows { .. }));
        let distinct =
            if takes_rows { DistinctSets::of_calls(&self.calls, &self.input, self.append_only)? } else { vec![] };
        Ok(Box::new(Aggregate {
            spec: self.clone(),
            table: GroupTable::new(Arc::new(keys))?,
            n_rows: PagedVec::new(0),
            accumulators: accumulators.collect::<Result<_>>()?,
            distinct,
            stamps: PagedVec::new(0),
            stamp: 1,
            touched: Vec::new(),
            before: Vec::new(),
            before_groups: Vec::new(),
            failing: Failing::default(),
            tracking: Tracking::default(),
            // Without a key there is one group, on the worker that owns the hash of no columns, and it always exists.
            global_pending: self.n_keys == 0 && worker_of(mix(0), context.n_workers) == context.worker,
            pending: Vec::new(),
        }))
    }
}

/// Keys and calls as EXPLAIN shows them.
fn describe(schema: &SchemaRef, n_keys: usize, calls: &[AggregateCall], append_only: bool) -> String {
    let keys: Vec<&str> = schema.fields()[..n_keys].iter().map(|f| f.name().as_str()).collect();
    let calls: Vec<String> = calls.iter().map(ToString::to_string).collect();
    let mode = if append_only { " append-only" } else { "" };
    format!("by ({}) [{}]{mode}", keys.join(", "), calls.join(", "))
}

fn accumulator_of(call: &AggregateCall, input: &SchemaRef, append_only: bool) -> Result<Box<dyn GroupAccumulator>> {
    let argument = call.argument.map(|a| input.field(a).data_type());
    accumulator(call.function, argument, append_only)
}

/// The schema of states: the key's columns, the number of rows if counted, the columns of each call's state.
fn state_schema(keys: &[Arc<Field>], counts_rows: bool, accumulators: &[Box<dyn GroupAccumulator>]) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = keys.to_vec();
    if counts_rows {
        fields.push(Arc::new(Field::new("n_rows", DataType::Int64, false)));
    }
    for (i, accumulator) in accumulators.iter().enumerate() {
        for (j, t) in accumulator.partial_types().into_iter().enumerate() {
            fields.push(Arc::new(Field::new(format!("state_{i}_{j}"), t, true)));
        }
    }
    Arc::new(Schema::new(fields))
}

struct Aggregate {
    spec: AggregateSpec,

    // State.
    table: GroupTable,
    /// The number of rows of each group; a group without rows does not exist.
    n_rows: PagedVec<i64>,
    accumulators: Vec<Box<dyn GroupAccumulator>>,
    distinct: Vec<DistinctSets>,
    failing: Failing,
    /// The one group of an aggregate without a key has not been made yet.
    global_pending: bool,
    /// Sets of distinct values, and accumulators whose states have several rows, note their changes themselves.
    tracking: Tracking<Changes>,

    // Scratch, for one epoch.
    /// The last epoch, by our own count, in which a group was touched.
    stamps: PagedVec<u64>,
    stamp: u64,
    touched: Vec<u32>,
    /// Results of touched groups before the epoch, and which groups they are of; in the order of `touched`.
    before: Vec<RecordBatch>,
    before_groups: Vec<u32>,
    pending: Vec<Delta>,
}

impl Aggregate {
    /// Notes groups that are touched for the first time in this epoch, and what their results were.
    fn touch(&mut self, groups: &[u32]) -> Result<()> {
        let from = self.touched.len();
        for &group in groups {
            let stamp = self.stamps.get_mut(group);
            if *stamp != self.stamp {
                *stamp = self.stamp;
                self.touched.push(group);
            }
        }
        let n_before = self.before_groups.len();
        let had_result = |g: &u32| (self.n_rows.get(*g) > 0 || self.is_global_group(*g)) && !self.failing.contains(*g);
        let existing: Vec<u32> = self.touched[from..].iter().copied().filter(had_result).collect();
        self.before_groups.extend(existing);
        if self.before_groups.len() > n_before {
            self.before.push(self.results(&self.before_groups[n_before..])?);
        }
        Ok(())
    }

    /// The group of each row, made if there is none; they are touched.
    fn groups_of(&mut self, keys: &[ArrayRef], n_rows: usize) -> Result<Vec<u32>> {
        let mut groups = Vec::new();
        self.table.find_or_add(keys, n_rows, &mut groups);
        if let Some(changes) = self.tracking.changes() {
            changes.groups.add(self.table.added());
        }
        self.touch(&groups)?;
        Ok(groups)
    }

    fn is_global_group(&self, group: u32) -> bool {
        self.spec.n_keys == 0 && !self.global_pending && group == 0
    }

    /// The output rows of groups.
    fn results(&self, groups: &[u32]) -> Result<RecordBatch> {
        let mut columns = self.table.keys(groups).columns().to_vec();
        for accumulator in &self.accumulators {
            columns.push(accumulator.finish(groups)?);
        }
        batch_of(self.spec.schema.clone(), columns, groups.len())
    }

    /// Results group by group where the groups together fail; those that fail alone are left out and noted. Adds the
    /// groups that have a result to `done`.
    fn results_or_errors(&mut self, groups: &[u32], done: &mut Vec<u32>, out: &mut Output) -> Result<Vec<RecordBatch>> {
        match self.results(groups) {
            Ok(batch) => {
                done.extend_from_slice(groups);
                Ok(vec![batch])
            }
            Err(error) if error.kind() != ErrorKind::User => Err(error),
            Err(error) if groups.len() == 1 => {
                self.failing.add(groups[0], error, &self.table.keys(groups), &mut out.errors);
                Ok(vec![])
            }
            Err(_) => {
                let (left, right) = groups.split_at(groups.len() / 2);
                let mut batches = self.results_or_errors(left, done, out)?;
                batches.extend(self.results_or_errors(right, done, out)?);
                Ok(batches)
            }
        }
    }

    fn push_rows(&mut self, group_by: &[usize], delta: &Delta) -> Result<()> {
        let keys: Vec<ArrayRef> = group_by.iter().map(|&c| delta.columns()[c].clone()).collect();
        let groups = self.groups_of(&keys, delta.n_rows())?;
        let weights = delta.weights().map(|w| w.as_ref());
        for (i, &group) in groups.iter().enumerate() {
            *self.n_rows.get_mut(group) += weights.map_or(1, |w: &[i64]| w[i]);
        }
        let mut filters = Filters::default();
        for (call, accumulator) in self.spec.calls.iter().zip(&mut self.accumulators).filter(|(c, _)| !c.distinct) {
            accumulator.update(Input {
                groups: &groups,
                argument: call.argument.map(|a| &delta.columns()[a]),
                filter: filters.get(delta, call.filter),
                weights,
            })?;
        }
        for sets in &mut self.distinct {
            sets.update(&groups, delta, |change, call, values| {
                self.accumulators[call].update(Input {
                    groups: &change.groups,
                    argument: Some(values),
                    filter: None,
                    weights: Some(&change.weights),
                })
            })?;
        }
        Ok(())
    }

    fn push_states(&mut self, counts_rows: bool, calls: &[usize], delta: &Delta) -> Result<()> {
        if delta.weights().is_some() {
            return Err(Error::internal("states are added, they have no weights"));
        }
        let (keys, states) = delta.columns().split_at(self.spec.n_keys);
        let groups = self.groups_of(keys, delta.n_rows())?;
        let mut from = 0;
        if counts_rows {
            let n_rows = states[0].as_primitive::<Int64Type>().values();
            groups.iter().zip(n_rows).for_each(|(&group, n)| *self.n_rows.get_mut(group) += n);
            from = 1;
        }
        for &call in calls {
            let n_columns = self.accumulators[call].partial_types().len();
            self.accumulators[call].merge(&groups, &states[from..from + n_columns])?;
            from += n_columns;
        }
        Ok(())
    }

    /// Compares the results of touched groups with what they were, and queues the differences.
    fn emit_changes(&mut self, out: &mut Output) -> Result<()> {
        let mut alive = Vec::with_capacity(self.touched.len());
        let mut gone = Vec::new();
        let touched = std::mem::take(&mut self.touched);
        for &group in &touched {
            self.failing.remove(group, &mut out.errors);
            match self.n_rows.get(group) {
                n if n > 0 || self.is_global_group(group) => alive.push(group),
                0 => gone.push(group),
                n => return Err(Error::internal(format!("a group has {n} rows at the end of an epoch"))),
            }
        }
        let mut after = Results { groups: Vec::with_capacity(alive.len()), batches: Vec::new() };
        for groups in alive.chunks(OUTPUT_BATCH_ROWS) {
            after.batches.extend(self.results_or_errors(groups, &mut after.groups, out)?);
        }
        let before =
            Results { groups: std::mem::take(&mut self.before_groups), batches: std::mem::take(&mut self.before) };
        self.pending = changes(&self.spec.schema, self.spec.n_keys, &touched, before, after)?;
        self.touched = touched;
        for sets in &mut self.distinct {
            sets.end_epoch(&self.table);
        }
        self.note_changes(&gone)?;
        self.touched.clear();
        self.table.remove(&gone);
        for &group in &gone {
            self.accumulators.iter_mut().for_each(|a| a.reset(group));
        }
        self.pending.reverse();
        Ok(())
    }
}

/// Filter columns as masks, computed once for each batch.
#[derive(Default)]
struct Filters(Vec<(usize, BooleanArray)>);

impl Filters {
    fn get(&mut self, delta: &Delta, filter: Option<usize>) -> Option<&BooleanArray> {
        let column = filter?;
        let at = self.0.iter().position(|(c, _)| *c == column).unwrap_or_else(|| {
            self.0.push((column, truth(&delta.columns()[column])));
            self.0.len() - 1
        });
        Some(&self.0[at].1)
    }
}

/// Output rows of some groups.
struct Results {
    groups: Vec<u32>,
    batches: Vec<RecordBatch>,
}

/// The differences between results before and after, both in the order of `touched`, which has all their groups.
fn changes(schema: &SchemaRef, n_keys: usize, touched: &[u32], before: Results, after: Results) -> Result<Vec<Delta>> {
    let [old, new] = [&before, &after].map(|r| arrow::compute::concat_batches(schema, &r.batches));
    let (old, new) = (old?, new?);
    // What is left of each side: everything but the pairs that are equal.
    let (old_left, new_left) = if before.groups == after.groups {
        let differs = differing(&old, &new, n_keys)?;
        (differs.clone(), differs)
    } else {
        let (mut paired_old, mut paired_new) = (Vec::new(), Vec::new());
        let (mut i, mut j) = (0, 0);
        for group in touched {
            let (was, is) = (before.groups.get(i) == Some(group), after.groups.get(j) == Some(group));
            if was && is {
                paired_old.push(i as u32);
                paired_new.push(j as u32);
            }
            i += usize::from(was);
            j += usize::from(is);
        }
        let take = |batch: &RecordBatch, rows: &[u32]| take_batch(batch, &UInt32Array::from(rows.to_vec()));
        let (pairs_old, pairs_new) = (take(&old, &paired_old)?, take(&new, &paired_new)?);
        let differs = differing(&pairs_old, &pairs_new, n_keys)?;
        let left = |n_rows: usize, pairs: &[u32]| {
            let mut left = vec![true; n_rows];
            pairs.iter().zip(differs.values()).for_each(|(&row, differs)| left[row as usize] = differs);
            BooleanArray::from(left)
        };
        (left(old.num_rows(), &paired_old), left(new.num_rows(), &paired_new))
    };
    let gone = arrow::compute::filter_record_batch(&old, &old_left)?;
    let weights = ScalarBuffer::from(vec![-1; gone.num_rows()]);
    let gone = Delta::new(gone, Some(weights));
    let come = Delta::inserts(arrow::compute::filter_record_batch(&new, &new_left)?);
    Ok([gone, come].into_iter().filter(|d| !d.is_empty()).collect())
}

/// Which rows of two batches differ. Those with the same number are of the same group, so keys are equal.
fn differing(old: &RecordBatch, new: &RecordBatch, n_keys: usize) -> Result<BooleanArray> {
    let n_rows = old.num_rows();
    let mut differing = BooleanBuffer::new_unset(n_rows);
    for (old, new) in old.columns().iter().zip(new.columns()).skip(n_keys) {
        let differs = if old.data_type().is_nested() {
            BooleanBuffer::collect_bool(n_rows, |i| old.slice(i, 1) != new.slice(i, 1))
        } else {
            is_distinct(old, new)?.values().clone()
        };
        differing = &differing | &differs;
    }
    Ok(BooleanArray::new(differing, None))
}

impl Operator for Aggregate {
    fn push(&mut self, port: Port, delta: Delta, _: &mut Output) -> Result<Progress> {
        match self.spec.ports[port].clone() {
            AggregateInput::Rows { group_by } => self.push_rows(&group_by, &delta)?,
            AggregateInput::States { counts_rows, calls } => self.push_states(counts_rows, &calls, &delta)?,
        }
        Ok(Progress::Done)
    }

    fn end_epoch(&mut self, _: &EpochHeader, out: &mut Output) -> Result<Progress> {
        if self.global_pending {
            self.groups_of(&[], 1)?;
            self.global_pending = false;
        }
        self.emit_changes(out)?;
        self.stamp += 1;
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress> {
        while let Some(delta) = self.pending.pop() {
            out.emit(delta);
            if out.is_full() && !self.pending.is_empty() {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    fn save(&self, partitioned_by: &[Vec<usize>], saved: &mut StateChanges) -> Result<()> {
        self.save_groups(partitioned_by, saved)
    }

    fn track_changes(&mut self) {
        self.tracking.start();
        self.track_parts();
    }

    fn save_changes(&mut self, partitioned_by: &[Vec<usize>], changes: &mut StateChanges) -> Result<Progress> {
        let mut cursor = self.tracking.cursor();
        let progress = self.save_next_changes(&mut cursor, partitioned_by, changes)?;
        if self.tracking.note_saved(progress, cursor) == Progress::Done {
            self.distinct.iter_mut().for_each(DistinctSets::note_saved);
            self.track_parts();
        }
        Ok(progress)
    }

    fn restore(&mut self, saved: &mut SavedState) -> Result<()> {
        self.restore_groups(saved)
    }

    fn n_bytes(&self) -> usize {
        self.table.n_bytes()
            + self.n_rows.n_bytes()
            + self.stamps.n_bytes()
            + self.accumulators.iter().map(|a| a.n_bytes()).sum::<usize>()
            + self.distinct.iter().map(DistinctSets::n_bytes).sum::<usize>()
            + self.tracking.n_bytes(Changes::n_bytes)
    }

    fn n_entries(&self) -> usize {
        self.table.len() + self.distinct.iter().map(DistinctSets::len).sum::<usize>()
    }
}

#[cfg(test)]
mod tests;
