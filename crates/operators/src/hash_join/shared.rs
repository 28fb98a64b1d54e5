//! A side of a join that keeps nothing: its rows are those of a relation's arrangement on the same worker.

use std::cell::RefCell;
use std::rc::Rc;

use arrow::array::ArrayRef;
use millstream_state::{Arrangement, Matches};
use millstream_types::{Epoch, Error, Result};

use super::SharedInput;
use crate::operator::BuildContext;

/// The rows of a relation as of the last epoch that the join has ended, or of the one that it is ending.
///
/// The relation runs ahead of the join and is compacted behind it; whoever drives the dataflow holds it at the last
/// epoch that the join has ended. Row ids change when the arrangement merges chunks, so none is kept between calls.
pub(super) struct SharedSide {
    arrangement: Rc<RefCell<Arrangement>>,
    index: usize,
    /// For each column of the input, its place in the arrangement.
    columns: Vec<usize>,
    at: Epoch,
}

impl SharedSide {
    /// # Errors
    /// Internal, if this worker does not keep the relation, or not indexed by the join's key.
    pub(super) fn new(input: &SharedInput, context: BuildContext<'_>) -> Result<Self> {
        let missing = || Error::internal(format!("relation {} is not arranged by the key of a join", input.relation));
        let arrangement = context.arrangements.arrangement(input.relation).ok_or_else(missing)?;
        let index = arrangement.borrow().index_on(&input.keys).ok_or_else(missing)?;
        Ok(SharedSide { arrangement, index, columns: input.columns.clone(), at: context.start })
    }

    /// From here on the rows are those as of an epoch, which the relation has completed.
    pub(super) fn advance(&mut self, epoch: Epoch) {
        self.at = epoch;
    }

    /// Adds pairs for keys, whose probes are numbered from `first` on.
    pub(super) fn probe(&self, keys: &[ArrayRef], hashes: &[u64], first: usize, matches: &mut Matches) {
        let from = matches.len();
        self.arrangement.borrow().probe(self.index, keys, hashes, Some(self.at), matches);
        matches.probes[from..].iter_mut().for_each(|probe| *probe += first as u32);
    }

    pub(super) fn gather(&self, column: usize, rows: &[u32]) -> ArrayRef {
        self.arrangement.borrow().gather_column(self.columns[column], rows)
    }
}
