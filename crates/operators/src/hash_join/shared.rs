//! A side of a join that keeps nothing: its rows are those of a relation's arrangement on the same worker.

use std::cell::RefCell;
use std::rc::Rc;

use arrow::array::ArrayRef;
use millstream_state::{Arrangement, Matches, ProbePosition};
use millstream_types::{Epoch, Error, Result};

use super::SharedInput;
use crate::operator::BuildContext;

/// The rows of a relation as of the last epoch that the join has ended, or of the one that it is ending.
///
/// The relation runs ahead of the join and is compacted behind it; whoever drives the dataflow holds it at the last
/// epoch that the join has ended. Row ids change when the arrangement merges chunks, so it is pinned while a probe is
/// interrupted.
pub(super) struct SharedSide {
    arrangement: Rc<RefCell<Arrangement>>,
    index: usize,
    /// For each column of the input, its place in the arrangement.
    columns: Vec<usize>,
    at: Epoch,
    interrupted: Option<Interrupted>,
}

/// A probe that is to go on, over the keys from `first` of its delta on.
struct Interrupted {
    first: usize,
    position: ProbePosition,
    _pin: Pin,
}

/// Keeps the row ids of an arrangement from changing.
struct Pin(Rc<RefCell<Arrangement>>);

impl Pin {
    fn new(arrangement: &Rc<RefCell<Arrangement>>) -> Self {
        arrangement.borrow_mut().pin();
        Pin(Rc::clone(arrangement))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.borrow_mut().unpin();
    }
}

impl SharedSide {
    /// # Errors
    /// Internal, if this worker does not keep the relation, or not indexed by the join's key.
    pub(super) fn new(input: &SharedInput, context: BuildContext<'_>) -> Result<Self> {
        let missing = || Error::internal(format!("relation {} is not arranged by the key of a join", input.relation));
        let arrangement = context.arrangements.arrangement(input.relation).ok_or_else(missing)?;
        let index = arrangement.borrow().index_on(&input.keys).ok_or_else(missing)?;
        Ok(SharedSide { arrangement, index, columns: input.columns.clone(), at: context.start, interrupted: None })
    }

    /// From here on the rows are those as of an epoch, which the relation has completed.
    pub(super) fn advance(&mut self, epoch: Epoch) {
        self.at = epoch;
    }

    /// Adds pairs for keys from a row of a delta on, until there are about `limit`. Returns the row to go on with.
    ///
    /// # Errors
    /// If rows are not in memory and cannot be read.
    pub(super) fn probe(
        &mut self,
        keys: &[ArrayRef],
        hashes: &[u64],
        from: usize,
        limit: usize,
        matches: &mut Matches,
    ) -> Result<usize> {
        let (first, position) = match self.interrupted.take() {
            Some(Interrupted { first, position, .. }) => (first, position),
            None => (from, ProbePosition::before(0)),
        };
        let to = hashes.len().min(first + limit);
        let keys: Vec<ArrayRef> = keys.iter().map(|k| k.slice(first, to - first)).collect();
        let hashes = &hashes[first..to];
        let n_before = matches.len();
        let mut arrangement = self.arrangement.borrow_mut();
        let position = arrangement.probe_from(self.index, &keys, hashes, Some(self.at), position, limit, matches)?;
        drop(arrangement);
        matches.probes[n_before..].iter_mut().for_each(|probe| *probe += first as u32);
        if position.probe == hashes.len() {
            return Ok(to);
        }
        self.interrupted = Some(Interrupted { first, position, _pin: Pin::new(&self.arrangement) });
        Ok(first + position.probe)
    }

    /// # Errors
    /// If rows are not in memory and cannot be read.
    pub(super) fn gather(&self, columns: &[usize], rows: &[u32]) -> Result<Vec<ArrayRef>> {
        let columns: Vec<usize> = columns.iter().map(|&column| self.columns[column]).collect();
        self.arrangement.borrow().gather_columns(&columns, rows)
    }
}
