//! Aggregates that cannot take rows back: a group's rows are kept, and groups that an epoch changed are computed anew.
//!
//! ```text
//!   rows ──exchange by group──▶ rows by group ──changed groups──▶ functions ──▶ compare ──▶ differences
//!                                                                                 ▲ results
//! ```

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{Schema, SchemaRef};
use hashbrown::HashMap;
use millstream_expr::scalar::batch_of;
use millstream_expr::{RecomputedCall, RowError, row_errors};
use millstream_state::{NO_ROW, PagedVec, RowStore, Rows};
use millstream_types::hash::{mix, worker_of};
use millstream_types::{Delta, EpochHeader, ErrorKind, Result};

use crate::operator::{BuildContext, OUTPUT_BATCH_ROWS, Operator, OperatorSpec, Output, Port, Progress};
use crate::partitioned_rows::{PartitionedRows, next_piece};

/// A `GROUP BY` with aggregates of any kind. The output has the group key's columns, then one for each call.
#[derive(Clone, Debug)]
pub struct RecomputeSpec {
    /// The schema of the input.
    pub input: SchemaRef,
    /// The columns of the group key.
    pub group_by: Vec<usize>,
    /// The aggregates.
    pub calls: Vec<RecomputedCall>,
    /// No row is ever taken back.
    pub append_only: bool,
    /// The schema of the output.
    pub schema: SchemaRef,
}

impl OperatorSpec for RecomputeSpec {
    fn name(&self) -> &'static str {
        "Recompute"
    }

    fn describe(&self) -> String {
        let keys: Vec<&str> = self.group_by.iter().map(|&c| self.input.field(c).name().as_str()).collect();
        let calls: Vec<String> = self.calls.iter().map(ToString::to_string).collect();
        let mode = if self.append_only { " append-only" } else { "" };
        format!("by ({}) [{}]{mode}", keys.join(", "), calls.join(", "))
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn build(&self, context: BuildContext) -> Result<Box<dyn Operator>> {
        let results = Arc::new(Schema::new(self.schema.fields()[self.group_by.len()..].to_vec()));
        let is_global = self.group_by.is_empty();
        Ok(Box::new(Recompute {
            rows: PartitionedRows::new(&self.input, &self.group_by, None, self.append_only)?,
            results: RowStore::new(results)?,
            result_of: PagedVec::new(NO_ROW),
            failing: HashMap::new(),
            // Without a key there is one group, on the worker that owns the hash of no columns, and it always exists.
            global_pending: is_global && worker_of(mix(0), context.n_workers) == context.worker,
            pending: Vec::new(),
            changed: Vec::new(),
            gone: Vec::new(),
            spec: self.clone(),
        }))
    }
}

struct Recompute {
    spec: RecomputeSpec,

    // State.
    rows: PartitionedRows,
    /// The results that were emitted.
    results: RowStore,
    /// The place of a group's results in `results`.
    result_of: PagedVec<u32>,
    /// Groups whose results cannot be computed, and what was said of it.
    failing: HashMap<u32, RowError>,
    /// The one group of an aggregate without a key has not been computed yet.
    global_pending: bool,

    // Of the epoch.
    /// Groups that are still to be computed.
    pending: Vec<u32>,
    changed: Vec<u32>,
    gone: Vec<u32>,
}

impl Operator for Recompute {
    fn push(&mut self, _: Port, delta: Delta, _: &mut Output) -> Result<Progress> {
        self.rows.push(&delta)?;
        Ok(Progress::Done)
    }

    fn end_epoch(&mut self, _: &EpochHeader, out: &mut Output) -> Result<Progress> {
        let mut changes = self.rows.settle()?;
        if std::mem::take(&mut self.global_pending) && changes.partitions.is_empty() {
            changes.partitions.push(self.rows.whole());
        }
        for &group in &changes.partitions {
            if let Some(failed) = self.failing.remove(&group) {
                out.errors.retract(failed);
            }
        }
        self.pending = changes.partitions.clone();
        self.changed = changes.partitions;
        self.gone = changes.gone;
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress> {
        while !self.pending.is_empty() {
            let groups = next_piece(&self.rows, &mut self.pending, OUTPUT_BATCH_ROWS);
            self.compute(&groups, out)?;
            if out.is_full() && !self.pending.is_empty() {
                return Ok(Progress::More);
            }
        }
        let is_global = self.spec.group_by.is_empty();
        self.rows.forget(&self.gone, &self.changed, |_| is_global);
        self.results.reclaim();
        self.gone.clear();
        self.changed.clear();
        Ok(Progress::Done)
    }

    fn n_bytes(&self) -> usize {
        self.rows.n_bytes() + self.results.n_bytes() + self.result_of.n_bytes()
    }

    fn n_entries(&self) -> usize {
        self.rows.len()
    }
}

impl Recompute {
    /// Computes groups and emits how their results differ from what was emitted of them.
    fn compute(&mut self, groups: &[u32], out: &mut Output) -> Result<()> {
        let is_global = self.spec.group_by.is_empty();
        let exists = |g: &&u32| is_global || !self.rows.members(**g).is_empty();
        let (alive, gone): (Vec<&u32>, Vec<&u32>) = groups.iter().partition(exists);
        let alive: Vec<u32> = alive.into_iter().copied().collect();
        let gone: Vec<u32> = gone.into_iter().copied().collect();
        let mut ids = Vec::new();
        let mut runs = Vec::with_capacity(alive.len());
        for &group in &alive {
            let start = ids.len();
            ids.extend_from_slice(self.rows.members(group));
            runs.push(start..ids.len());
        }
        let rows = self.rows.gather(&ids);
        let (alive, values, failed) = self.results_of(&rows, alive, runs, out)?;
        self.retract(&[gone, failed].concat(), out)?;
        self.emit_differences(&alive, &values, out)
    }

    /// The results of groups that can be computed, their numbers, and those of groups that cannot.
    fn results_of(
        &mut self,
        rows: &RecordBatch,
        groups: Vec<u32>,
        runs: Vec<Range<usize>>,
        out: &mut Output,
    ) -> Result<(Vec<u32>, Vec<ArrayRef>, Vec<u32>)> {
        let evaluate = |runs: &[Range<usize>]| {
            self.spec.calls.iter().map(|c| c.evaluate(rows, runs)).collect::<Result<Vec<ArrayRef>>>()
        };
        match evaluate(&runs) {
            Ok(values) => return Ok((groups, values, vec![])),
            Err(error) if error.kind() != ErrorKind::User => return Err(error),
            Err(_) => {}
        }
        // Those that fail alone are left out and noted.
        let (mut good, mut good_runs, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (group, run) in groups.into_iter().zip(runs) {
            match evaluate(std::slice::from_ref(&run)) {
                Ok(_) => {
                    good.push(group);
                    good_runs.push(run);
                }
                Err(error) if error.kind() != ErrorKind::User => return Err(error),
                Err(error) => {
                    let keys = self.rows.keys(&[group]);
                    out.errors.add(error.clone(), &keys, 0, 1);
                    let row = row_errors::row_text(&keys, 0);
                    self.failing.insert(group, RowError { error, row, weight: 1 });
                    failed.push(group);
                }
            }
        }
        let values = evaluate(&good_runs)?;
        Ok((good, values, failed))
    }

    fn emit_differences(&mut self, groups: &[u32], values: &[ArrayRef], out: &mut Output) -> Result<()> {
        let (known, new): (Vec<u32>, Vec<u32>) =
            (0..groups.len() as u32).partition(|&at| self.result_of.get(groups[at as usize]) != NO_ROW);
        let results: Vec<u32> = known.iter().map(|&at| self.result_of.get(groups[at as usize])).collect();
        let mut same = vec![true; known.len()];
        let columns: Vec<usize> = (0..values.len()).collect();
        self.results.compare(&columns, &results, values, &known, &mut same);
        let differing: Vec<u32> = known.iter().zip(&same).filter(|(_, same)| !**same).map(|(&at, _)| at).collect();
        self.retract(&differing.iter().map(|&at| groups[at as usize]).collect::<Vec<_>>(), out)?;
        let shown = [differing, new].concat();
        if shown.is_empty() {
            return Ok(());
        }
        let mut ids = Vec::with_capacity(shown.len());
        self.results.add(values, Rows::Selected(&shown), &mut ids);
        let shown_groups: Vec<u32> = shown.iter().map(|&at| groups[at as usize]).collect();
        shown_groups.iter().zip(ids).for_each(|(&group, result)| self.result_of.set(group, result));
        let mut columns = self.rows.keys(&shown_groups).columns().to_vec();
        let shown = UInt32Array::from(shown);
        for value in values {
            columns.push(take(value, &shown, None)?);
        }
        out.emit(Delta::inserts(batch_of(self.spec.schema.clone(), columns, shown.len())?));
        Ok(())
    }

    /// Takes back what was emitted of groups, if anything was.
    fn retract(&mut self, groups: &[u32], out: &mut Output) -> Result<()> {
        let groups: Vec<u32> = groups.iter().copied().filter(|&g| self.result_of.get(g) != NO_ROW).collect();
        if groups.is_empty() {
            return Ok(());
        }
        let results: Vec<u32> = groups.iter().map(|&g| self.result_of.get(g)).collect();
        let columns = [self.rows.keys(&groups).columns(), self.results.gather(&results).columns()].concat();
        let batch = batch_of(self.spec.schema.clone(), columns, groups.len())?;
        out.emit(Delta::inserts(batch).negate());
        for (&group, &result) in groups.iter().zip(&results) {
            self.results.free(result);
            self.result_of.set(group, NO_ROW);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
