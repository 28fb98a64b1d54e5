//! Rows that wait, in memory or away.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use millstream_state::{ColdChunk, ColdStore};
use millstream_types::{Delta, Result};

use crate::operator::Port;

/// Rows that wait, in no order.
#[derive(Default)]
pub(crate) struct Queue {
    here: VecDeque<(Port, Delta)>,
    away: Vec<QueuedAway>,
    /// Bytes in memory.
    n_bytes: usize,
}

/// Rows that wait somewhere else, with their weight as the last column.
struct QueuedAway {
    port: Port,
    rows: Arc<dyn ColdChunk>,
}

impl Queue {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.here.is_empty() && self.away.is_empty()
    }

    /// Bytes in memory.
    pub(crate) fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Adds rows.
    pub(crate) fn push(&mut self, port: Port, delta: Delta) {
        self.n_bytes += delta.values_bytes();
        self.here.push_back((port, delta));
    }

    /// Some of the rows: what came or was put away together, and more behind it until it is so many bytes.
    pub(crate) fn pop(&mut self, n_bytes_wanted: usize) -> Result<Option<(Port, Delta)>> {
        if let Some((port, first)) = self.here.pop_front() {
            let mut n_bytes = first.values_bytes();
            let mut deltas = vec![first];
            while n_bytes < n_bytes_wanted
                && let Some((_, delta)) = self.here.pop_front_if(|(of, _)| *of == port)
            {
                n_bytes += delta.values_bytes();
                deltas.push(delta);
            }
            self.n_bytes -= n_bytes;
            return Ok(Some((port, Delta::concat(&deltas[0].schema(), &deltas)?)));
        }
        let Some(QueuedAway { port, rows }) = self.away.pop() else { return Ok(None) };
        let rows = rows.read(None)?;
        let (fields, n_columns) = (rows.schema().fields().clone(), rows.num_columns() - 1);
        let weights = rows.column(n_columns).as_primitive::<Int64Type>().values().clone();
        let schema = Arc::new(Schema::new(fields[..n_columns].to_vec()));
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let batch = RecordBatch::try_new_with_options(schema, rows.columns()[..n_columns].to_vec(), &options)?;
        let all_once = weights.iter().all(|&weight| weight == 1);
        Ok(Some((port, Delta::new(batch, (!all_once).then_some(weights)))))
    }

    /// Puts the rows away.
    pub(crate) fn put_away(&mut self, store: &Arc<dyn ColdStore>) -> Result<()> {
        let mut by_port: Vec<(Port, Vec<Delta>)> = Vec::new();
        for (port, delta) in self.here.drain(..) {
            match by_port.iter_mut().find(|(of, _)| *of == port) {
                Some((_, deltas)) => deltas.push(delta),
                None => by_port.push((port, vec![delta])),
            }
        }
        self.n_bytes = 0;
        for (port, deltas) in by_port {
            let all = Delta::concat(&deltas[0].schema(), &deltas)?;
            let mut fields = all.schema().fields().to_vec();
            fields.push(Arc::new(Field::new("weight", DataType::Int64, false)));
            let weights: Int64Array = (0..all.n_rows()).map(|i| Some(all.weight(i))).collect();
            let columns: Vec<ArrayRef> = all.columns().iter().cloned().chain([Arc::new(weights) as ArrayRef]).collect();
            let rows = store.put(&RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)?;
            self.away.push(QueuedAway { port, rows });
        }
        Ok(())
    }

    /// Bytes that are away.
    pub(crate) fn n_bytes_away(&self) -> usize {
        self.away.iter().map(|queued| queued.rows.n_bytes()).sum()
    }
}
