//! Hash aggregation: groups whose results change are retracted and emitted anew at the end of the epoch.
//!
//! ```text
//!   one level:    rows ──exchange by group──▶ Aggregate (rows)
//!   two levels:   rows ──▶ PartialAggregate ──────────────exchange by group──▶ ┐
//!                 rows ──exchange by (group, value)──▶ DistinctPartial ──────▶ ┴ Aggregate (states)
//! ```
//!
//! One level suits input that is already partitioned by the group key, and groups with few rows. With two levels each
//! worker reduces its rows first, and distinct values are found where they live, so neither hot nor few groups keep one
//! worker busy while the others wait.

mod distinct;
mod partial;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::kernels::cmp::distinct as is_distinct;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use hashbrown::HashMap;
use millstream_expr::aggregate::{Input, accumulator};
use millstream_expr::scalar::truth;
use millstream_expr::{AggregateCall, GroupAccumulator, RowError};
use millstream_state::PagedVec;
use millstream_types::hash::{mix, worker_of};
use millstream_types::{Delta, EpochHeader, Error, ErrorKind, Result};

use crate::group_table::GroupTable;
use crate::operator::{BuildContext, OUTPUT_BATCH_ROWS, Operator, OperatorSpec, Output, Port, Progress};
pub use distinct::DistinctPartialSpec;
use distinct::DistinctSets;
pub use partial::PartialAggregateSpec;

/// What arrives on a port of an aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
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
            failing: HashMap::new(),
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
    /// Groups whose result cannot be computed, and what was said of it.
    failing: HashMap<u32, RowError>,
    /// The one group of an aggregate without a key has not been made yet.
    global_pending: bool,

    // Scratch, for one epoch.
    /// The last epoch, by our own count, in which a group was touched.
    stamps: PagedVec<u64>,
    stamp: u64,
    touched: Vec<u32>,
    /// Results of touched groups before the epoch.
    before: Vec<RecordBatch>,
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
        let existing: Vec<u32> = self.touched[from..]
            .iter()
            .copied()
            .filter(|&g| self.n_rows.get(g) > 0 || self.is_global_group(g))
            .filter(|g| !self.failing.contains_key(g))
            .collect();
        if !existing.is_empty() {
            self.before.push(self.results(&existing)?);
        }
        Ok(())
    }

    fn is_global_group(&self, group: u32) -> bool {
        self.spec.n_keys == 0 && !self.global_pending && group == 0
    }

    /// The output rows of groups, followed by the group numbers.
    fn results(&self, groups: &[u32]) -> Result<RecordBatch> {
        let mut columns = self.table.keys(groups).columns().to_vec();
        for accumulator in &self.accumulators {
            columns.push(accumulator.finish(groups)?);
        }
        columns.push(Arc::new(Int64Array::from_iter_values(groups.iter().map(|&g| i64::from(g)))));
        let mut fields = self.spec.schema.fields().to_vec();
        fields.push(Arc::new(Field::new("group", DataType::Int64, false)));
        Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
    }

    /// Results group by group where the groups together fail; those that fail alone are left out and noted.
    fn results_or_errors(&mut self, groups: &[u32], out: &mut Output) -> Result<Vec<RecordBatch>> {
        match self.results(groups) {
            Ok(batch) => Ok(vec![batch]),
            Err(error) if error.kind() != ErrorKind::User => Err(error),
            Err(error) if groups.len() == 1 => {
                out.errors.add(error.clone(), &self.table.keys(groups), 0, 1);
                let row = millstream_expr::row_errors::row_text(&self.table.keys(groups), 0);
                self.failing.insert(groups[0], RowError { error, row, weight: 1 });
                Ok(vec![])
            }
            Err(_) => {
                let (left, right) = groups.split_at(groups.len() / 2);
                let mut batches = self.results_or_errors(left, out)?;
                batches.extend(self.results_or_errors(right, out)?);
                Ok(batches)
            }
        }
    }

    fn push_rows(&mut self, group_by: &[usize], delta: &Delta) -> Result<()> {
        let keys: Vec<ArrayRef> = group_by.iter().map(|&c| delta.columns()[c].clone()).collect();
        let mut groups = Vec::new();
        self.table.find_or_add(&keys, delta.n_rows(), &mut groups);
        self.touch(&groups)?;
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
        let mut groups = Vec::new();
        self.table.find_or_add(keys, delta.n_rows(), &mut groups);
        self.touch(&groups)?;
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
        for group in std::mem::take(&mut self.touched) {
            if let Some(failed) = self.failing.remove(&group) {
                out.errors.retract(failed);
            }
            match self.n_rows.get(group) {
                n if n > 0 || self.is_global_group(group) => alive.push(group),
                0 => gone.push(group),
                n => return Err(Error::internal(format!("a group has {n} rows at the end of an epoch"))),
            }
        }
        let mut after = Vec::new();
        for groups in alive.chunks(OUTPUT_BATCH_ROWS) {
            after.extend(self.results_or_errors(groups, out)?);
        }
        let before = std::mem::take(&mut self.before);
        self.pending = changes(&self.spec.schema, before, after)?;
        self.table.remove(&gone);
        for &group in &gone {
            self.accumulators.iter_mut().for_each(|a| a.reset(group));
        }
        self.distinct.iter_mut().for_each(DistinctSets::end_epoch);
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

/// The differences between results before and after; their last column tells the group.
fn changes(schema: &SchemaRef, before: Vec<RecordBatch>, after: Vec<RecordBatch>) -> Result<Vec<Delta>> {
    let numbers = |batch: &RecordBatch| {
        let column = batch.columns().last().expect("the group's number");
        column.as_primitive::<Int64Type>().values().clone()
    };
    let wide = match (before.first(), after.first()) {
        (Some(b), _) | (None, Some(b)) => b.schema(),
        (None, None) => return Ok(vec![]),
    };
    let before = arrow::compute::concat_batches(&wide, &before)?;
    let after = arrow::compute::concat_batches(&wide, &after)?;
    let (old, new) = (numbers(&before), numbers(&after));
    let place: HashMap<i64, u32> = old.iter().enumerate().map(|(i, &g)| (g, i as u32)).collect();
    let (mut paired_old, mut paired_new) = (Vec::new(), Vec::new());
    let mut old_left = vec![true; old.len()];
    let mut new_left = vec![true; new.len()];
    for (i, group) in new.iter().enumerate() {
        if let Some(&j) = place.get(group) {
            paired_old.push(j);
            paired_new.push(i as u32);
        }
    }
    let unchanged = unchanged_pairs(&before, &after, &paired_old, &paired_new)?;
    for ((&j, &i), same) in paired_old.iter().zip(&paired_new).zip(unchanged) {
        old_left[j as usize] = !same;
        new_left[i as usize] = !same;
    }
    let strip = |batch: &RecordBatch, left: Vec<bool>, weight: i64| -> Result<Delta> {
        let columns = batch.columns()[..schema.fields().len()].to_vec();
        let batch = millstream_expr::scalar::batch_of(schema.clone(), columns, batch.num_rows())?;
        let n_left = left.iter().filter(|l| **l).count();
        let batch = arrow::compute::filter_record_batch(&batch, &BooleanArray::from(left))?;
        let weights = (weight != 1).then(|| ScalarBuffer::from(vec![weight; n_left]));
        Ok(Delta::new(batch, weights))
    };
    Ok([strip(&before, old_left, -1)?, strip(&after, new_left, 1)?].into_iter().filter(|d| !d.is_empty()).collect())
}

fn unchanged_pairs(before: &RecordBatch, after: &RecordBatch, old: &[u32], new: &[u32]) -> Result<Vec<bool>> {
    let mut same = vec![true; old.len()];
    if old.is_empty() {
        return Ok(same);
    }
    let (old, new) = (UInt32Array::from(old.to_vec()), UInt32Array::from(new.to_vec()));
    for (b, a) in before.columns().iter().zip(after.columns()) {
        let b = arrow::compute::take(b, &old, None)?;
        let a = arrow::compute::take(a, &new, None)?;
        if b.data_type().is_nested() {
            for (i, same) in same.iter_mut().enumerate() {
                *same &= b.slice(i, 1) == a.slice(i, 1);
            }
        } else {
            let differs = is_distinct(&b, &a)?;
            same.iter_mut().zip(differs.values()).for_each(|(same, differs)| *same &= !differs);
        }
    }
    Ok(same)
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
            let mut groups = Vec::new();
            self.table.find_or_add(&[], 1, &mut groups);
            self.touch(&groups)?;
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

    fn n_bytes(&self) -> usize {
        self.table.n_bytes()
            + self.n_rows.n_bytes()
            + self.stamps.n_bytes()
            + self.accumulators.iter().map(|a| a.n_bytes()).sum::<usize>()
            + self.distinct.iter().map(DistinctSets::n_bytes).sum::<usize>()
    }

    fn n_entries(&self) -> usize {
        self.table.len() + self.distinct.iter().map(DistinctSets::len).sum::<usize>()
    }
}
