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

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat, take};
use arrow::datatypes::{Schema, SchemaRef};
use hashbrown::HashMap;
use millstream_expr::scalar::batch_of;
use millstream_expr::{OrderBy, RowError, RowOrder, WindowCall, row_errors};
use millstream_state::{NO_ROW, PagedVec, RowStore, Rows};
use millstream_types::delta::take_batch;
use millstream_types::{Delta, EpochHeader, ErrorKind, Result};

use crate::operator::{BuildContext, OUTPUT_BATCH_ROWS, Operator, OperatorSpec, Output, Port, Progress};
use crate::partitioned_rows::{PartitionedRows, next_piece};

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
        let partition: Vec<&str> = self.partition_by.iter().map(|&c| self.input.field(c).name().as_str()).collect();
        let order: Vec<String> = self.order_by.iter().map(|o| o.describe(&self.input)).collect();
        let calls: Vec<String> = self.calls.iter().map(ToString::to_string).collect();
        let mut text = String::new();
        if !partition.is_empty() {
            text += &format!("partition by ({}) ", partition.join(", "));
        }
        if !order.is_empty() {
            text += &format!("order by ({}) ", order.join(", "));
        }
        text += &format!("[{}]", calls.join(", "));
        if self.append_only {
            text += " append-only";
        }
        text
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn build(&self, _: BuildContext) -> Result<Box<dyn Operator>> {
        let n_input = self.input.fields().len();
        let results = Arc::new(Schema::new(self.schema.fields()[n_input..].to_vec()));
        let is_rest = |c: &usize| !self.partition_by.contains(c) && self.order_by.iter().all(|o| o.column != *c);
        let rest = (0..n_input).filter(is_rest).map(OrderBy::ascending);
        let order: Vec<OrderBy> = self.order_by.iter().cloned().chain(rest).collect();
        Ok(Box::new(Window {
            order: RowOrder::new(&self.input, &order)?,
            rows: PartitionedRows::new(&self.input, &self.partition_by, self.key.as_deref(), self.append_only)?,
            results: RowStore::new(results)?,
            result_of: PagedVec::new(NO_ROW),
            failing: HashMap::new(),
            pending: Vec::new(),
            changed: Vec::new(),
            gone: Vec::new(),
            spec: self.clone(),
        }))
    }
}

struct Window {
    spec: WindowSpec,
    order: RowOrder,

    // State.
    rows: PartitionedRows,
    /// The values that were emitted with each row.
    results: RowStore,
    /// The place of a row's values in `results`.
    result_of: PagedVec<u32>,
    /// Partitions whose values cannot be computed, and what was said of it.
    failing: HashMap<u32, RowError>,

    // Of the epoch.
    /// Partitions that are still to be computed.
    pending: Vec<u32>,
    changed: Vec<u32>,
    gone: Vec<u32>,
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
        self.rows.push(&delta)?;
        Ok(Progress::Done)
    }

    fn end_epoch(&mut self, _: &EpochHeader, out: &mut Output) -> Result<Progress> {
        let changes = self.rows.settle()?;
        self.pending = changes.partitions.clone();
        self.changed = changes.partitions;
        self.gone = changes.gone;
        for &partition in &self.changed {
            if let Some(failed) = self.failing.remove(&partition) {
                out.errors.retract(failed);
            }
        }
        let shown: Vec<u32> = self.gone.iter().copied().filter(|&id| self.result_of.get(id) != NO_ROW).collect();
        for ids in shown.chunks(OUTPUT_BATCH_ROWS) {
            let rows = self.rows.gather(ids);
            self.retract(&rows, ids, out)?;
        }
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress> {
        while !self.pending.is_empty() {
            let partitions = next_piece(&self.rows, &mut self.pending, OUTPUT_BATCH_ROWS);
            let piece = self.ordered(partitions)?;
            self.compute(&piece, out)?;
            if out.is_full() && !self.pending.is_empty() {
                return Ok(Progress::More);
            }
        }
        self.rows.forget(&self.gone, &self.changed, |_| false);
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

impl Window {
    /// The rows of partitions, put in order; partitions remember it.
    fn ordered(&mut self, partitions: Vec<u32>) -> Result<Piece> {
        let mut ids: Vec<u32> = Vec::new();
        let mut runs = Vec::with_capacity(partitions.len());
        for &partition in &partitions {
            let start = ids.len();
            ids.extend_from_slice(self.rows.members(partition));
            runs.push(start..ids.len());
        }
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
                    failed.extend(rows.filter(|&i| self.result_of.get(piece.ids[i as usize]) != NO_ROW));
                    let keys = self.rows.keys(&[partition]);
                    out.errors.add(error.clone(), &keys, 0, 1);
                    let row = row_errors::row_text(&keys, 0);
                    self.failing.insert(partition, RowError { error, row, weight: 1 });
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
        let id_of = |at: u32| piece.ids[good[at as usize] as usize];
        let (known, new): (Vec<u32>, Vec<u32>) =
            (0..good.len() as u32).partition(|&at| self.result_of.get(id_of(at)) != NO_ROW);
        let results: Vec<u32> = known.iter().map(|&at| self.result_of.get(id_of(at))).collect();
        let mut same = vec![true; known.len()];
        let columns: Vec<usize> = (0..values.len()).collect();
        self.results.compare(&columns, &results, values, &known, &mut same);
        let differing: Vec<u32> = known.iter().zip(&same).filter(|(_, same)| !**same).map(|(&at, _)| at).collect();
        if !differing.is_empty() {
            let ids: Vec<u32> = differing.iter().map(|&at| id_of(at)).collect();
            let places: UInt32Array = differing.iter().map(|&at| good[at as usize]).collect();
            self.retract(&take_batch(&piece.rows, &places)?, &ids, out)?;
        }
        let shown = [differing, new].concat();
        if shown.is_empty() {
            return Ok(());
        }
        let mut ids = Vec::with_capacity(shown.len());
        self.results.add(values, Rows::Selected(&shown), &mut ids);
        for (&at, result) in shown.iter().zip(ids) {
            self.result_of.set(id_of(at), result);
        }
        let places: UInt32Array = shown.iter().map(|&at| good[at as usize]).collect();
        let mut columns = take_batch(&piece.rows, &places)?.columns().to_vec();
        let shown = UInt32Array::from(shown);
        for value in values {
            columns.push(take(value, &shown, None)?);
        }
        out.emit(Delta::inserts(batch_of(self.spec.schema.clone(), columns, shown.len())?));
        Ok(())
    }

    /// Takes rows back as they were emitted, and forgets their values.
    fn retract(&mut self, rows: &RecordBatch, ids: &[u32], out: &mut Output) -> Result<()> {
        let results: Vec<u32> = ids.iter().map(|&id| self.result_of.get(id)).collect();
        let columns = [rows.columns(), self.results.gather(&results).columns()].concat();
        let batch = batch_of(self.spec.schema.clone(), columns, ids.len())?;
        out.emit(Delta::inserts(batch).negate());
        for (&id, &result) in ids.iter().zip(&results) {
            self.results.free(result);
            self.result_of.set(id, NO_ROW);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
