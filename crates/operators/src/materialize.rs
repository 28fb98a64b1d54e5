//! The end of a view's dataflow: its rows in an arrangement, and each epoch's changes for those who follow.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::not;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use hashbrown::HashMap;
use millstream_state::{Arrangement, ArrangementSpec, ColdStore, UnsavedRows};
use millstream_types::{Delta, Epoch, Error, Result};

use crate::spilling::MemoryWatch;
use crate::spilling::queue::Queue;

/// What a view's rows are kept as.
#[derive(Clone, Debug)]
pub struct MaterializeSpec {
    /// The columns.
    pub schema: SchemaRef,
    /// Columns whose values no two rows share, if known.
    pub key: Option<Vec<usize>>,
    /// Columns whose hash, in this order, decides which worker keeps a row, if it is so.
    pub partitioned_by: Option<Vec<usize>>,
    /// No row is ever taken back.
    pub append_only: bool,
    /// The delta of each epoch has no row that it also takes back.
    pub consolidated: bool,
    /// Columns by which rows are looked up beside the key.
    pub indexes: Vec<Vec<usize>>,
}

impl MaterializeSpec {
    /// The columns whose hash, in this order, says where rows belong; none if they may be anywhere, and never go.
    ///
    /// # Errors
    /// Internal, if rows go and nothing says where they are.
    pub fn place(&self) -> Result<Option<&[usize]>> {
        match (&self.partitioned_by, &self.key) {
            (Some(by), _) => Ok(Some(by)),
            // The only row is where the hash of nothing says.
            (None, Some(key)) if key.is_empty() => Ok(Some(&[])),
            (None, _) if self.append_only => Ok(None),
            (None, _) => Err(Error::internal("rows of a view are anywhere, and may go")),
        }
    }

    /// The arrangement that keeps such rows: by key if there is one; otherwise by all columns, unless rows only come.
    pub fn arrangement(&self) -> ArrangementSpec {
        let identity = match (&self.key, self.append_only) {
            (Some(key), _) => Some(key.clone()),
            (None, true) => None,
            (None, false) => Some((0..self.schema.fields().len()).collect()),
        };
        ArrangementSpec { schema: self.schema.clone(), identity, indexes: self.indexes.clone() }
    }
}

/// Rows that are taken back are so many bytes at a time: each call may have to read all rows that were put away.
const TAKEN_BACK_BYTES: usize = if cfg!(test) { 32 } else { 1 << 22 };

/// Rows that come are so many bytes at a time where an index is not in memory, for the same reason.
const ADDED_BYTES: usize = if cfg!(test) { 32 } else { 1 << 21 };

/// Where rows go that wait for the end of an epoch while memory is short.
struct PutAway {
    store: Arc<dyn ColdStore>,
    watch: Rc<dyn MemoryWatch>,
}

/// Applies an epoch's deltas to the arrangement: what only adds rows as it comes, the rest at the end of the epoch.
///
/// If somebody wants to know what changed, all deltas of the epoch are kept until its end; otherwise only the rows that
/// are taken back are, and not in memory if that is short.
pub struct Materialize {
    spec: MaterializeSpec,
    arrangement: Rc<RefCell<Arrangement>>,
    collected: Vec<Delta>,
    /// Rows that came and are not in the arrangement yet, in no order.
    added: Queue,
    /// Rows that are taken back, in epochs that nobody wants to know of.
    taken_back: Queue,
    put_away: Option<PutAway>,
}

impl Materialize {
    /// A materialization into an arrangement made of `spec.arrangement()`.
    pub fn new(spec: MaterializeSpec, arrangement: Rc<RefCell<Arrangement>>) -> Self {
        let (added, taken_back) = (Queue::default(), Queue::default());
        Materialize { spec, arrangement, collected: Vec::new(), added, taken_back, put_away: None }
    }

    /// Where rows that wait for the end of an epoch go while memory is short.
    #[must_use]
    pub fn putting_away(mut self, store: Arc<dyn ColdStore>, watch: Rc<dyn MemoryWatch>) -> Self {
        self.put_away = Some(PutAway { store, watch });
        self
    }

    /// Takes a delta of the current epoch. With `keep`, it is among the changes that the end of the epoch gives.
    ///
    /// # Errors
    /// Internal, if the rows do not fit the arrangement.
    pub fn push(&mut self, delta: Delta, keep: bool) -> Result<()> {
        if keep {
            self.collected.push(delta);
            return Ok(());
        }
        let Some(weights) = delta.weights() else { return self.add(delta) };
        let added = BooleanArray::from_iter(weights.iter().map(|&w| Some(w > 0)));
        // A row that is taken back may come later in the epoch, so deletions wait for its end.
        let taken_back = delta.filter(&not(&added)?)?;
        if !taken_back.is_empty() {
            self.taken_back.push(0, taken_back);
            self.put_away_taken_back()?;
        }
        self.add(delta.filter(&added)?)
    }

    fn add(&mut self, delta: Delta) -> Result<()> {
        if self.added.is_empty() && !self.arrangement.borrow().has_index_away() {
            return self.arrangement.borrow_mut().apply(&delta);
        }
        self.added.push(0, delta);
        if self.added.n_bytes() >= ADDED_BYTES { self.apply_added() } else { Ok(()) }
    }

    fn apply_added(&mut self) -> Result<()> {
        while let Some((_, delta)) = self.added.pop(ADDED_BYTES)? {
            self.arrangement.borrow_mut().apply(&delta)?;
        }
        Ok(())
    }

    fn put_away_taken_back(&mut self) -> Result<()> {
        match &self.put_away {
            Some(PutAway { store, watch }) if self.taken_back.n_bytes() >= TAKEN_BACK_BYTES && watch.excess() > 0 => {
                self.taken_back.put_away(store)
            }
            _ => Ok(()),
        }
    }

    /// Applies the epoch, makes it visible, and returns what of it was kept.
    ///
    /// # Errors
    /// Internal, if the deltas do not add up.
    pub fn end_epoch(&mut self, epoch: Epoch, since: Epoch) -> Result<Vec<Delta>> {
        self.apply_added()?;
        // All rows that come are there: each that is taken back finds its own.
        while let Some((_, delta)) = self.taken_back.pop(TAKEN_BACK_BYTES)? {
            self.arrangement.borrow_mut().apply(&delta)?;
        }
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
        arrangement.seal(epoch, since)?;
        Ok(deltas)
    }

    /// What has changed since it was last saved; see [`Arrangement::take_unsaved`]. Called between epochs.
    pub fn take_unsaved(&self) -> UnsavedRows {
        self.arrangement.borrow_mut().take_unsaved()
    }

    /// Bytes of the arrangement and of what waits for the end of the epoch.
    pub fn n_bytes(&self) -> usize {
        let collected: usize = self.collected.iter().map(Delta::values_bytes).sum();
        self.arrangement.borrow().n_bytes() + collected + self.added.n_bytes() + self.taken_back.n_bytes()
    }

    /// Bytes in memory that can be spilled, and bytes that are.
    pub fn n_bytes_spillable(&self) -> (usize, usize) {
        let arrangement = self.arrangement.borrow();
        (arrangement.n_bytes_spillable(), arrangement.n_bytes_spilled() + self.taken_back.n_bytes_away())
    }

    /// Rows of the arrangement.
    pub fn n_rows(&self) -> usize {
        self.arrangement.borrow().len()
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

#[cfg(test)]
mod tests;
