//! The end of a view's dataflow: its rows in an arrangement, and each epoch's changes for those who follow.

use std::cell::RefCell;
use std::rc::Rc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use hashbrown::HashMap;
use millstream_state::{Arrangement, ArrangementSpec};
use millstream_types::{Delta, Epoch, Result};

/// What a view's rows are kept as.
#[derive(Clone, Debug)]
pub struct MaterializeSpec {
    /// The columns.
    pub schema: SchemaRef,
    /// Columns whose values no two rows share, if known.
    pub key: Option<Vec<usize>>,
    /// No row is ever taken back.
    pub append_only: bool,
    /// The delta of each epoch has no row that it also takes back.
    pub consolidated: bool,
}

impl MaterializeSpec {
    /// The arrangement that keeps such rows: by key if there is one; otherwise by all columns, unless rows only come.
    pub fn arrangement(&self) -> ArrangementSpec {
        let identity = match (&self.key, self.append_only) {
            (Some(key), _) => Some(key.clone()),
            (None, true) => None,
            (None, false) => Some((0..self.schema.fields().len()).collect()),
        };
        ArrangementSpec { schema: self.schema.clone(), identity, indexes: vec![] }
    }
}

/// Collects an epoch's deltas and, at its end, applies their sum to the arrangement.
pub struct Materialize {
    spec: MaterializeSpec,
    arrangement: Rc<RefCell<Arrangement>>,
    collected: Vec<Delta>,
}

impl Materialize {
    /// A materialization into an arrangement made of `spec.arrangement()`.
    pub fn new(spec: MaterializeSpec, arrangement: Rc<RefCell<Arrangement>>) -> Self {
        Materialize { spec, arrangement, collected: Vec::new() }
    }

    /// Takes a delta of the current epoch.
    pub fn push(&mut self, delta: Delta) {
        self.collected.push(delta);
    }

    /// Applies the epoch, makes it visible, and returns what changed.
    ///
    /// # Errors
    /// Internal, if the deltas do not add up.
    pub fn end_epoch(&mut self, epoch: Epoch, since: Epoch) -> Result<Vec<Delta>> {
        let mut deltas = std::mem::take(&mut self.collected);
        if !self.spec.append_only && !self.spec.consolidated && deltas.iter().any(|d| d.weights().is_some()) {
            let all = Delta::concat(&self.spec.schema, &deltas)?;
            deltas = vec![consolidate(&all)?];
        }
        deltas.retain(|d| !d.is_empty());
        let mut arrangement = self.arrangement.borrow_mut();
        if deltas.len() > 1 && deltas.iter().any(|d| d.weights().is_some()) {
            // Deletions of one delta may stand for insertions of another.
            deltas = vec![Delta::concat(&self.spec.schema, &deltas)?];
        }
        for delta in &deltas {
            arrangement.apply(delta)?;
        }
        arrangement.seal(epoch, since);
        Ok(deltas)
    }
}

/// The sum of a delta's equal rows: each row stands in the result once, and none with weight 0.
///
/// # Errors
/// If a column's type has no row encoding.
pub fn consolidate(delta: &Delta) -> Result<Delta> {
    if delta.columns().is_empty() {
        let sum: i64 = (0..delta.n_rows()).map(|i| delta.weight(i)).sum();
        let batch: RecordBatch = delta.batch().slice(0, delta.n_rows().min(1));
        return Ok(if sum == 0 { Delta::empty(delta.schema()) } else { Delta::new(batch, Some(vec![sum].into())) });
    }
    let fields = delta.columns().iter().map(|c| SortField::new(c.data_type().clone())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(delta.columns())?;
    let mut sums: HashMap<&[u8], (u32, i64)> = HashMap::with_capacity(delta.n_rows());
    for (i, row) in rows.iter().enumerate() {
        sums.entry(row.data()).or_insert((i as u32, 0)).1 += delta.weight(i);
    }
    let mut kept: Vec<(u32, i64)> = sums.into_values().filter(|(_, w)| *w != 0).collect();
    kept.sort_unstable();
    if kept.len() == delta.n_rows() && kept.iter().all(|&(i, w)| delta.weight(i as usize) == w) {
        return Ok(delta.clone());
    }
    let rows: UInt32Array = kept.iter().map(|(i, _)| *i).collect();
    let taken = delta.take(&rows)?;
    let weights = kept.iter().any(|(_, w)| *w != 1).then(|| kept.iter().map(|(_, w)| *w).collect());
    Ok(Delta::new(taken.into_parts().0, weights))
}
