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
use millstream_expr::RecomputedCall;
use millstream_expr::encoded::{Decoder, Encoder, FieldNumber};
use millstream_expr::recomputed::RecomputedCallForm;
use millstream_expr::scalar::batch_of;
use millstream_state::{SavedState, StateChanges};
use millstream_types::hash::{mix, worker_of};
use millstream_types::{Delta, EpochHeader, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::emitted_values::{EmittedValues, Failing, Unlike};
use crate::encoded::{EncodedSpec, StoredSpec, columns};
use crate::operator::{BuildContext, Operator, OperatorSpec, Output, Port, Progress};
use crate::partitioned_rows::PartitionedRows;
use crate::saving::{
    ChangedRows, SAVED_ROWS, SaveCursor, SavedTable, Tracking, Unsaved, places_in_key, save_all, saved_columns,
    saved_rows, types_of,
};

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

    fn keeps(&self) -> String {
        "all rows".to_owned()
    }

    fn encode(&self, encoder: &mut Encoder<'_>) -> Result<EncodedSpec> {
        EncodedSpec::of(self, encoder)
    }

    fn build(&self, context: BuildContext) -> Result<Box<dyn Operator>> {
        let results = Arc::new(Schema::new(self.schema.fields()[self.group_by.len()..].to_vec()));
        let is_global = self.group_by.is_empty();
        Ok(Box::new(Recompute {
            rows: PartitionedRows::new(&self.input, &self.group_by, None, self.append_only)?,
            emitted: EmittedValues::new(results)?,
            failing: Failing::default(),
            // Without a key there is one group, on the worker that owns the hash of no columns, and it always exists.
            global_pending: is_global && worker_of(mix(0), context.n_workers) == context.worker,
            tracking: Tracking::default(),
            spec: self.clone(),
        }))
    }
}

/// The form of a [`RecomputeSpec`].
#[derive(Serialize, Deserialize)]
pub(crate) struct RecomputeForm {
    input: FieldNumber,
    group_by: Vec<usize>,
    calls: Vec<RecomputedCallForm>,
    append_only: bool,
    schema: FieldNumber,
}

impl StoredSpec for RecomputeSpec {
    const KIND: &'static str = "recompute";
    type Form = RecomputeForm;

    fn form(&self, encoder: &mut Encoder<'_>) -> Result<RecomputeForm> {
        Ok(RecomputeForm {
            input: encoder.schema(&self.input),
            group_by: self.group_by.clone(),
            calls: self.calls.iter().map(|c| encoder.recomputed(c)).collect::<Result<_>>()?,
            append_only: self.append_only,
            schema: encoder.schema(&self.schema),
        })
    }

    fn of_form(form: RecomputeForm, _: &[SchemaRef], decoder: &Decoder<'_>) -> Result<Self> {
        let input = decoder.schema(form.input)?;
        Ok(RecomputeSpec {
            group_by: columns(form.group_by, &input)?,
            calls: form.calls.iter().map(|c| decoder.recomputed(c, &input)).collect::<Result<_>>()?,
            append_only: form.append_only,
            schema: decoder.schema(form.schema)?,
            input,
        })
    }
}

struct Recompute {
    spec: RecomputeSpec,
    rows: PartitionedRows,
    /// The results of each group.
    emitted: EmittedValues,
    failing: Failing,
    /// The one group of an aggregate without a key has not been computed yet.
    global_pending: bool,
    tracking: Tracking<Changes>,
}

/// What has changed since the last save.
#[derive(Default)]
struct Changes {
    rows: ChangedRows,
    /// Groups with results.
    results: ChangedRows,
}

impl Operator for Recompute {
    fn push(&mut self, _: Port, delta: Delta, _: &mut Output) -> Result<Progress> {
        let ids = self.rows.push(&delta)?;
        if let Some(changes) = self.tracking.changes() {
            changes.rows.add(&ids);
        }
        Ok(Progress::Done)
    }

    fn end_epoch(&mut self, _: &EpochHeader, out: &mut Output) -> Result<Progress> {
        if std::mem::take(&mut self.global_pending) {
            self.rows.make_whole();
        }
        self.rows.settle()?;
        for &group in self.rows.changed() {
            self.failing.remove(group, &mut out.errors);
        }
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress> {
        while let Some(groups) = self.rows.next_piece() {
            self.compute(groups, out)?;
            if out.is_full() && !self.rows.is_done() {
                return Ok(Progress::More);
            }
        }
        if let Some(changes) = self.tracking.changes() {
            let gone = changes.rows.remove(self.rows.gone());
            changes.rows.take_away(self.rows.gather(&gone).columns().to_vec(), gone.len());
        }
        self.rows.forget(self.spec.group_by.is_empty());
        self.emitted.reclaim();
        Ok(Progress::Done)
    }

    /// Table 0 has the rows, each copy by itself, table 1 the results by key of the groups that have any.
    fn save(&self, partitioned_by: &[Vec<usize>], saved: &mut StateChanges) -> Result<()> {
        save_all(|cursor| self.save_next(None, cursor, partitioned_by, saved))
    }

    fn track_changes(&mut self) {
        self.tracking.start();
    }

    fn save_changes(&mut self, partitioned_by: &[Vec<usize>], changes: &mut StateChanges) -> Result<Progress> {
        let mut cursor = self.tracking.cursor();
        let progress = self.save_next(self.tracking.unsaved()?, &mut cursor, partitioned_by, changes)?;
        Ok(self.tracking.note_saved(progress, cursor))
    }

    fn restore(&mut self, saved: &mut SavedState) -> Result<()> {
        let groups = match saved_rows(saved, 0, &self.spec.input)? {
            Some(rows) => self.rows.restore(&rows)?.1,
            None => vec![],
        };
        let n_keys = self.spec.group_by.len();
        if let Some((columns, n_rows)) = saved_columns(saved, 1, self.spec.schema.fields().len())? {
            let groups = self.rows.numbers_of(&columns[..n_keys], n_rows);
            self.emitted.restore(&groups, &columns[n_keys..]);
            self.global_pending = false;
        }
        // Those that have rows and no results have failed: what is said of them is computed anew.
        let failed: Vec<u32> = groups.into_iter().filter(|&g| !self.emitted.has(g)).collect();
        self.global_pending &= failed.is_empty();
        self.compute(failed, &mut Output::default())?;
        self.tracking = Tracking::restored();
        Ok(())
    }

    fn n_bytes(&self) -> usize {
        let of_changes = |c: &Changes| c.rows.n_bytes() + c.results.n_bytes();
        self.rows.n_bytes() + self.emitted.n_bytes() + self.tracking.n_bytes(of_changes)
    }

    fn n_entries(&self) -> usize {
        self.rows.len()
    }
}

impl Recompute {
    fn save_next(
        &self,
        changed: Option<&Changes>,
        cursor: &mut SaveCursor,
        partitioned_by: &[Vec<usize>],
        saved: &mut StateChanges,
    ) -> Result<Progress> {
        cursor.go_on(2, |table, place| match (table, changed) {
            (0, _) => {
                let rows = Unsaved::of(self.rows.rows(), changed.map(|changed| &changed.rows));
                let mut table = self.table_of_rows(partitioned_by, saved)?;
                rows.save_next(place, &mut table, |ids| self.rows.gather(ids).columns().to_vec())
            }
            (_, Some(changed)) => {
                let mut table = self.table_of_results(partitioned_by, saved)?;
                Unsaved::Changed(&changed.results).save_next(place, &mut table, |groups| self.results_by_key(groups))
            }
            (_, None) => {
                let groups = self.rows.next_partitions(&mut place.next, SAVED_ROWS);
                if groups.is_empty() {
                    return Ok(Progress::Done);
                }
                let shown: Vec<u32> = groups.into_iter().filter(|&g| self.emitted.has(g)).collect();
                self.table_of_results(partitioned_by, saved)?.add(self.results_by_key(&shown), shown.len())?;
                Ok(Progress::More)
            }
        })
    }

    fn table_of_rows<'a>(&self, partitioned_by: &[Vec<usize>], saved: &'a mut StateChanges) -> Result<SavedTable<'a>> {
        SavedTable::multiset(saved, 0, types_of(&self.spec.input), &partitioned_by[0])
    }

    fn table_of_results<'a>(
        &self,
        partitioned_by: &[Vec<usize>],
        saved: &'a mut StateChanges,
    ) -> Result<SavedTable<'a>> {
        let by = places_in_key(&partitioned_by[0], &self.spec.group_by)?;
        let key = (0..self.spec.group_by.len()).collect();
        SavedTable::new(saved, 1, types_of(&self.spec.schema), key, &by)
    }

    /// The results of groups that have some, behind their keys.
    fn results_by_key(&self, groups: &[u32]) -> Vec<ArrayRef> {
        [self.rows.keys(groups).columns(), self.emitted.gather(groups).columns()].concat()
    }

    /// Computes groups and emits how their results differ from what was emitted of them.
    fn compute(&mut self, groups: Vec<u32>, out: &mut Output) -> Result<()> {
        let is_global = self.spec.group_by.is_empty();
        let exists = |g: &u32| is_global || !self.rows.members(*g).is_empty();
        let (alive, gone): (Vec<u32>, Vec<u32>) = groups.into_iter().partition(exists);
        let (ids, runs) = self.rows.runs(&alive);
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
                    self.failing.add(group, error, &self.rows.keys(&[group]), &mut out.errors);
                    failed.push(group);
                }
            }
        }
        let values = evaluate(&good_runs)?;
        Ok((good, values, failed))
    }

    fn emit_differences(&mut self, groups: &[u32], values: &[ArrayRef], out: &mut Output) -> Result<()> {
        let Unlike { changed, new } = self.emitted.compare(groups, values);
        let groups_at = |at: &[u32]| at.iter().map(|&i| groups[i as usize]).collect::<Vec<_>>();
        self.retract(&groups_at(&changed), out)?;
        let shown = [changed, new].concat();
        if shown.is_empty() {
            return Ok(());
        }
        let groups = groups_at(&shown);
        self.emitted.put(&groups, values, &shown);
        if let Some(changes) = self.tracking.changes() {
            changes.results.add(&groups);
        }
        let mut columns = self.rows.keys(&groups).columns().to_vec();
        let shown = UInt32Array::from(shown);
        for value in values {
            columns.push(take(value, &shown, None)?);
        }
        out.emit(Delta::inserts(batch_of(self.spec.schema.clone(), columns, shown.len())?));
        Ok(())
    }

    /// Takes back what was emitted of groups, if anything was.
    fn retract(&mut self, groups: &[u32], out: &mut Output) -> Result<()> {
        let groups: Vec<u32> = groups.iter().copied().filter(|&g| self.emitted.has(g)).collect();
        if groups.is_empty() {
            return Ok(());
        }
        if let Some(changes) = self.tracking.changes() {
            let gone = changes.results.remove(&groups);
            changes.results.take_away(self.rows.keys(&gone).columns().to_vec(), gone.len());
        }
        let columns = [self.rows.keys(&groups).columns(), self.emitted.take(&groups).columns()].concat();
        let batch = batch_of(self.spec.schema.clone(), columns, groups.len())?;
        out.emit(Delta::inserts(batch).negate());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
