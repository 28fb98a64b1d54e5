//! Window functions: the partitions that an epoch changed are computed anew, and only differences are emitted.
//!
//! ```text
//!   rows ──exchange by partition──▶ rows by partition ──changed ones, in order──▶ functions ──▶ compare ──▶ differences
//!                                                                                                 ▲ results
//! ```
//!
//! The order within a partition is completed with all remaining columns, so that a row's place never depends on when it
//! came; functions that look at peers are only told the order that the query gives.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat, filter, take};
use arrow::datatypes::{Schema, SchemaRef};
use millstream_expr::encoded::{Decoder, Encoder, FieldNumber};
use millstream_expr::scalar::batch_of;
use millstream_expr::window::WindowCallForm;
use millstream_expr::{OrderBy, RowOrder, WindowCall, order};
use millstream_state::{NumberSet, SavedState, StateChanges};
use millstream_types::delta::take_batch;
use millstream_types::{Delta, EpochHeader, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::emitted_values::{EmittedValues, Failing, Unlike};
use crate::encoded::{EncodedSpec, StoredSpec, columns};
use crate::operator::{BuildContext, OUTPUT_BATCH_ROWS, Operator, OperatorSpec, Output, Port, Progress};
use crate::partitioned_rows::PartitionedRows;
use crate::saving::{
    Identities, SAVED_ROWS, SaveCursor, SavedTable, Tracking, save_all, saved_columns, saved_rows, types_of,
};

/// Window functions that share a partitioning and an order. The output has the input's columns, then one for each call.
#[derive(Clone, Debug)]
pub struct WindowSpec {
    /// The schema of the input.
    pub input: SchemaRef,
    /// The partition's columns; none if there is one partition.
    pub partition_by: Vec<usize>,
    /// The order within a partition.
    pub order_by: Vec<OrderBy>,
    /// The functions, over columns of the input.
    pub calls: Vec<WindowCall>,
    /// Columns whose values no two rows of the input share, if known.
    pub key: Option<Vec<usize>>,
    /// No row is ever taken back.
    pub append_only: bool,
    /// The schema of the output.
    pub schema: SchemaRef,
}

impl OperatorSpec for WindowSpec {
    fn name(&self) -> &'static str {
        "Window"
    }

    fn describe(&self) -> String {
        let calls: Vec<String> = self.calls.iter().map(ToString::to_string).collect();
        let mut parts = order::describe(&self.input, &self.partition_by, &self.order_by);
        parts.push(format!("[{}]", calls.join(", ")));
        parts.extend(self.append_only.then(|| "append-only".to_owned()));
        parts.join(" ")
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

    fn build(&self, _: BuildContext) -> Result<Box<dyn Operator>> {
        let n_input = self.input.fields().len();
        let results = Arc::new(Schema::new(self.schema.fields()[n_input..].to_vec()));
        let rest = order::remaining_columns(&self.input, &self.partition_by, &self.order_by);
        let order = [self.order_by.as_slice(), &rest].concat();
        Ok(Box::new(Window {
            order: RowOrder::new(&self.input, &order)?,
            rows: PartitionedRows::new(&self.input, &self.partition_by, self.key.as_deref(), self.append_only)?,
            emitted: EmittedValues::new(results)?,
            failing: Failing::default(),
            tracking: Tracking::default(),
            spec: self.clone(),
        }))
    }
}

/// The form of a [`WindowSpec`].
#[derive(Serialize, Deserialize)]
pub(crate) struct WindowForm {
    input: FieldNumber,
    partition_by: Vec<usize>,
    order_by: Vec<OrderBy>,
    calls: Vec<WindowCallForm>,
    key: Option<Vec<usize>>,
    append_only: bool,
    schema: FieldNumber,
}

impl StoredSpec for WindowSpec {
    const KIND: &'static str = "window";
    type Form = WindowForm;

    fn form(&self, encoder: &mut Encoder<'_>) -> Result<WindowForm> {
        Ok(WindowForm {
            input: encoder.schema(&self.input),
            partition_by: self.partition_by.clone(),
            order_by: self.order_by.clone(),
            calls: self.calls.iter().map(|c| encoder.window(c)).collect::<Result<_>>()?,
            key: self.key.clone(),
            append_only: self.append_only,
            schema: encoder.schema(&self.schema),
        })
    }

    fn of_form(form: WindowForm, _: &[SchemaRef], decoder: &Decoder<'_>) -> Result<Self> {
        let input = decoder.schema(form.input)?;
        Ok(WindowSpec {
            partition_by: columns(form.partition_by, &input)?,
            order_by: order::columns_of(&form.order_by, &input)?,
            calls: form.calls.iter().map(|c| decoder.window(c, &input)).collect::<Result<_>>()?,
            key: form.key.map(|key| columns(key, &input)).transpose()?,
            append_only: form.append_only,
            schema: decoder.schema(form.schema)?,
            input,
        })
    }
}

struct Window {
    spec: WindowSpec,
    order: RowOrder,
    rows: PartitionedRows,
    /// The values of each row.
    emitted: EmittedValues,
    failing: Failing,
    tracking: Tracking<Changes>,
}

/// What has changed since the last save. Rows that it says nothing of are saved as they are: among those that are shown
/// if they are shown, else among those of partitions that fail.
#[derive(Default)]
struct Changes {
    /// Rows that have changed. Where they were saved as shown, that is gone.
    rows: NumberSet,
    /// Those of them that are saved among those of partitions that fail.
    had_failed: NumberSet,
    /// Saved rows that were shown, and ones of partitions that failed, which are gone.
    gone_shown: Identities,
    gone_failed: Identities,
}

impl Changes {
    fn n_bytes(&self) -> usize {
        self.rows.n_bytes() + self.had_failed.n_bytes() + self.gone_shown.n_bytes() + self.gone_failed.n_bytes()
    }
}

/// Rows of some partitions, each a run, in order.
struct Piece {
    partitions: Vec<u32>,
    runs: Vec<Range<usize>>,
    ids: Vec<u32>,
    rows: RecordBatch,
}

impl Operator for Window {
    fn push(&mut self, _: Port, delta: Delta, _: &mut Output) -> Result<Progress> {
        let ids = self.rows.push(&delta)?;
        if let Some(changes) = self.tracking.changes() {
            for id in ids {
                changes.rows.insert(id);
                changes.had_failed.remove(id);
            }
        }
        Ok(Progress::Done)
    }

    fn end_epoch(&mut self, _: &EpochHeader, out: &mut Output) -> Result<Progress> {
        self.rows.settle()?;
        for &partition in self.rows.changed() {
            self.failing.remove(partition, &mut out.errors);
        }
        let shown: Vec<u32> = self.rows.gone().iter().copied().filter(|&id| self.emitted.has(id)).collect();
        for ids in shown.chunks(OUTPUT_BATCH_ROWS) {
            let rows = self.rows.gather(ids);
            self.retract(&rows, ids, out)?;
        }
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress> {
        while let Some(partitions) = self.rows.next_piece() {
            let piece = self.ordered(partitions)?;
            self.compute(&piece, out)?;
            if out.is_full() && !self.rows.is_done() {
                return Ok(Progress::More);
            }
        }
        if let Some(changes) = self.tracking.changes() {
            // Of those that were shown that has been said.
            let is_saved = |id: &u32| !changes.rows.remove(*id) | changes.had_failed.remove(*id);
            let gone: Vec<u32> = self.rows.gone().iter().copied().filter(is_saved).collect();
            changes.gone_failed.add(identity(&self.spec, self.rows.gather(&gone).columns()), gone.len());
        }
        self.rows.forget(false);
        self.emitted.reclaim();
        Ok(Progress::Done)
    }

    /// Table 0 has the rows that were emitted, with their values, table 1 those of partitions that fail.
    fn save(&self, partitioned_by: &[Vec<usize>], saved: &mut StateChanges) -> Result<()> {
        save_all(|cursor| self.save_next(None, cursor, &partitioned_by[0], saved))
    }

    fn track_changes(&mut self) {
        self.tracking.start();
    }

    fn save_changes(&mut self, partitioned_by: &[Vec<usize>], changes: &mut StateChanges) -> Result<Progress> {
        let mut cursor = self.tracking.cursor();
        let progress = self.save_next(self.tracking.unsaved()?, &mut cursor, &partitioned_by[0], changes)?;
        Ok(self.tracking.note_saved(progress, cursor))
    }

    fn restore(&mut self, saved: &mut SavedState) -> Result<()> {
        let n_input = self.spec.input.fields().len();
        if let Some((columns, n_rows)) = saved_columns(saved, 0, self.spec.schema.fields().len())? {
            let rows = batch_of(self.spec.input.clone(), columns[..n_input].to_vec(), n_rows)?;
            let (ids, _) = self.rows.restore(&rows)?;
            self.emitted.restore(&ids, &columns[n_input..]);
        }
        if let Some(rows) = saved_rows(saved, 1, &self.spec.input)? {
            let (_, partitions) = self.rows.restore(&rows)?;
            // What is said of them is computed anew.
            let piece = self.ordered(partitions)?;
            self.compute(&piece, &mut Output::default())?;
        }
        self.tracking = Tracking::restored();
        Ok(())
    }

    fn n_bytes(&self) -> usize {
        self.rows.n_bytes() + self.emitted.n_bytes() + self.tracking.n_bytes(Changes::n_bytes)
    }

    fn n_entries(&self) -> usize {
        self.rows.len()
    }
}

impl Window {
    /// The table of rows with their values.
    fn table_of_shown<'a>(&self, by: &[usize], saved: &'a mut StateChanges) -> Result<SavedTable<'a>> {
        let types = types_of(&self.spec.schema);
        let identity = identity(&self.spec, &(0..types.len()).collect::<Vec<_>>());
        SavedTable::new(saved, 0, types, identity, by)
    }

    /// The table of rows of partitions that fail.
    fn table_of_failed<'a>(&self, by: &[usize], saved: &'a mut StateChanges) -> Result<SavedTable<'a>> {
        let types = types_of(&self.spec.input);
        let identity = identity(&self.spec, &(0..types.len()).collect::<Vec<_>>());
        SavedTable::new(saved, 1, types, identity, by)
    }

    fn save_next(
        &self,
        changed: Option<&Changes>,
        cursor: &mut SaveCursor,
        by: &[usize],
        saved: &mut StateChanges,
    ) -> Result<Progress> {
        cursor.go_on(2, |table, place| {
            let of_shown = table == 0;
            let mut table = if of_shown { self.table_of_shown(by, saved)? } else { self.table_of_failed(by, saved)? };
            if let Some(changed) = changed {
                let gone = if of_shown { &changed.gone_shown } else { &changed.gone_failed };
                if gone.save_next(place, &mut table)? == Progress::More {
                    return Ok(Progress::More);
                }
            }
            let ids = match changed {
                Some(changed) => changed.rows.next(&mut place.next, SAVED_ROWS),
                None => self.rows.rows().next_ids(&mut place.next, SAVED_ROWS),
            };
            if ids.is_empty() {
                return Ok(Progress::Done);
            }
            let had_failed = |id: &u32| changed.is_some_and(|changed| changed.had_failed.contains(*id));
            let (shown, failed): (Vec<u32>, Vec<u32>) = ids.into_iter().partition(|&id| self.emitted.has(id));
            if of_shown {
                let columns = [self.rows.gather(&shown).columns(), self.emitted.gather(&shown).columns()].concat();
                table.add(columns, shown.len())?;
                return Ok(Progress::More);
            }
            let no_more: Vec<u32> = shown.into_iter().filter(had_failed).collect();
            table.take_away(table.identity(self.rows.gather(&no_more).columns()), no_more.len())?;
            // What failed and fails again need not be said.
            let new: Vec<u32> = failed.into_iter().filter(|id| !had_failed(id)).collect();
            table.add(self.rows.gather(&new).columns().to_vec(), new.len())?;
            Ok(Progress::More)
        })
    }

    /// The rows of partitions, put in order; partitions remember it.
    fn ordered(&mut self, partitions: Vec<u32>) -> Result<Piece> {
        let (ids, runs) = self.rows.runs(&partitions);
        let rows = self.rows.gather(&ids);
        let order = self.order.encode(rows.columns())?;
        let mut places: Vec<u32> = (0..ids.len() as u32).collect();
        for (run, &partition) in runs.iter().zip(&partitions) {
            order.sort(&mut places[run.clone()]);
            if !places[run.clone()].is_sorted() {
                let members = places[run.clone()].iter().map(|&i| ids[i as usize]).collect();
                self.rows.reorder(partition, members);
            }
        }
        if places.is_sorted() {
            return Ok(Piece { partitions, runs, ids, rows });
        }
        let ids = places.iter().map(|&i| ids[i as usize]).collect();
        Ok(Piece { partitions, runs, ids, rows: take_batch(&rows, &places.into())? })
    }

    /// Computes partitions and emits how they differ from what was emitted of them.
    fn compute(&mut self, piece: &Piece, out: &mut Output) -> Result<()> {
        let mut values: Vec<Vec<ArrayRef>> = Vec::new();
        // Rows of partitions that could be computed, and those of partitions that failed.
        let (mut good, mut failed) = (Vec::new(), Vec::new());
        for (run, &partition) in piece.runs.iter().zip(&piece.partitions).filter(|(run, _)| !run.is_empty()) {
            let rows = run.start as u32..run.end as u32;
            let partition_rows = piece.rows.slice(run.start, run.len());
            let computed = self.spec.calls.iter().map(|c| c.evaluate(&partition_rows)).collect::<Result<Vec<_>>>();
            match computed {
                Ok(of_partition) => {
                    good.extend(rows);
                    values.push(of_partition);
                }
                Err(error) if error.kind() != ErrorKind::User => return Err(error),
                Err(error) => {
                    failed.extend(rows.filter(|&i| self.emitted.has(piece.ids[i as usize])));
                    self.failing.add(partition, error, &self.rows.keys(&[partition]), &mut out.errors);
                }
            }
        }
        if !failed.is_empty() {
            let ids: Vec<u32> = failed.iter().map(|&i| piece.ids[i as usize]).collect();
            let rows = take_batch(&piece.rows, &failed.into())?;
            self.retract(&rows, &ids, out)?;
        }
        if good.is_empty() {
            return Ok(());
        }
        let column = |c: usize| {
            let parts: Vec<&dyn Array> = values.iter().map(|of_partition| of_partition[c].as_ref()).collect();
            concat(&parts)
        };
        let values = (0..self.spec.calls.len()).map(column).collect::<Result<Vec<_>, _>>()?;
        self.emit_differences(piece, &good, &values, out)
    }

    /// Emits rows whose values are new or differ; `values` are those of the rows with the given indices in the piece.
    fn emit_differences(&mut self, piece: &Piece, good: &[u32], values: &[ArrayRef], out: &mut Output) -> Result<()> {
        let ids: Vec<u32> = good.iter().map(|&i| piece.ids[i as usize]).collect();
        let ids_at = |at: &[u32]| at.iter().map(|&i| ids[i as usize]).collect::<Vec<_>>();
        let rows_at = |at: &[u32]| take_batch(&piece.rows, &at.iter().map(|&i| good[i as usize]).collect());
        let Unlike { changed, new } = self.emitted.compare(&ids, values);
        if !changed.is_empty() {
            self.retract(&rows_at(&changed)?, &ids_at(&changed), out)?;
        }
        let shown = [changed, new].concat();
        if shown.is_empty() {
            return Ok(());
        }
        let shown_ids = ids_at(&shown);
        self.emitted.put(&shown_ids, values, &shown);
        if let Some(changes) = self.tracking.changes() {
            // What is neither shown nor new was of a partition that failed.
            let unsaid = shown_ids.iter().copied().filter(|&id| changes.rows.insert(id));
            changes.had_failed.extend(unsaid);
        }
        let mut columns = rows_at(&shown)?.columns().to_vec();
        let shown = UInt32Array::from(shown);
        for value in values {
            columns.push(take(value, &shown, None)?);
        }
        out.emit(Delta::inserts(batch_of(self.spec.schema.clone(), columns, shown.len())?));
        Ok(())
    }

    /// Takes rows back as they were emitted, and forgets their values.
    fn retract(&mut self, rows: &RecordBatch, ids: &[u32], out: &mut Output) -> Result<()> {
        let columns = [rows.columns(), self.emitted.take(ids).columns()].concat();
        if let Some(changes) = self.tracking.changes() {
            let is_saved: BooleanArray = ids.iter().map(|&id| Some(changes.rows.insert(id))).collect();
            let identity = identity(&self.spec, &columns);
            let gone = identity.iter().map(|column| filter(column, &is_saved)).collect::<Result<_, _>>()?;
            changes.gone_shown.add(gone, is_saved.true_count());
        }
        let batch = batch_of(self.spec.schema.clone(), columns, ids.len())?;
        out.emit(Delta::inserts(batch).negate());
        Ok(())
    }
}

/// Of the columns of rows those that tell rows apart when they are saved: all, unless fewer are known to do so.
fn identity<T: Clone>(spec: &WindowSpec, columns: &[T]) -> Vec<T> {
    let Some(key) = &spec.key else { return columns.to_vec() };
    let is_of_key = |(c, _): &(usize, &T)| key.contains(c) || spec.partition_by.contains(c);
    columns.iter().enumerate().filter(is_of_key).map(|(_, column)| column.clone()).collect()
}

#[cfg(test)]
mod tests;
