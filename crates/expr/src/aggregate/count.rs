//! `count(*)` and `count(x)`.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use millstream_state::PagedVec;
use millstream_types::Result;

use super::{GroupAccumulator, Input};

/// The number of rows of each group.
pub(super) struct Count(PagedVec<i64>);

impl Count {
    pub(super) fn new() -> Self {
        Count(PagedVec::new(0))
    }
}

impl GroupAccumulator for Count {
    fn update(&mut self, input: Input<'_>) -> Result<()> {
        input.for_each(|_, group, weight| *self.0.get_mut(group) += weight);
        Ok(())
    }

    fn merge(&mut self, groups: &[u32], partial: &[ArrayRef]) -> Result<()> {
        let counts = partial[0].as_primitive::<Int64Type>();
        groups.iter().zip(counts.values()).for_each(|(&group, n)| *self.0.get_mut(group) += n);
        Ok(())
    }

    fn partial_types(&self) -> Vec<DataType> {
        vec![DataType::Int64]
    }

    fn partial(&self, groups: &[u32]) -> Vec<ArrayRef> {
        vec![Arc::new(Int64Array::from_iter_values(groups.iter().map(|&g| self.0.get(g))))]
    }

    fn finish(&self, groups: &[u32]) -> Result<ArrayRef> {
        Ok(self.partial(groups).remove(0))
    }

    fn reset(&mut self, group: u32) {
        self.0.set(group, 0);
    }

    fn n_bytes(&self) -> usize {
        self.0.n_bytes()
    }
}
