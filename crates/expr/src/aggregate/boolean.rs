//! `bool_and` and `bool_or`, by counting.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use millstream_state::PagedVec;
use millstream_types::Result;

use super::{GroupAccumulator, Input};

/// The numbers of true and false values of each group.
pub(super) struct Booleans {
    is_and: bool,
    counts: PagedVec<[i64; 2]>,
}

impl Booleans {
    pub(super) fn new(is_and: bool) -> Self {
        Booleans { is_and, counts: PagedVec::new([0; 2]) }
    }
}

impl GroupAccumulator for Booleans {
    fn update(&mut self, input: Input<'_>) -> Result<()> {
        let values = input.argument.expect("bool_and and bool_or have an argument").as_boolean();
        input.for_each(|i, group, weight| self.counts.get_mut(group)[usize::from(values.value(i))] += weight);
        Ok(())
    }

    fn merge(&mut self, groups: &[u32], partial: &[ArrayRef]) -> Result<()> {
        for (truth, counts) in partial.iter().enumerate() {
            let counts = counts.as_primitive::<Int64Type>();
            groups.iter().zip(counts.values()).for_each(|(&group, n)| self.counts.get_mut(group)[truth] += n);
        }
        Ok(())
    }

    fn partial_types(&self) -> Vec<DataType> {
        vec![DataType::Int64; 2]
    }

    fn partial(&self, groups: &[u32]) -> Vec<ArrayRef> {
        let counts = |truth: usize| Int64Array::from_iter_values(groups.iter().map(|&g| self.counts.get(g)[truth]));
        vec![Arc::new(counts(0)), Arc::new(counts(1))]
    }

    fn finish(&self, groups: &[u32]) -> Result<ArrayRef> {
        let result = |group: u32| {
            let [n_false, n_true] = self.counts.get(group);
            (n_false + n_true > 0).then_some(if self.is_and { n_false == 0 } else { n_true > 0 })
        };
        Ok(Arc::new(groups.iter().map(|&g| result(g)).collect::<BooleanArray>()))
    }

    fn reset(&mut self, group: u32) {
        self.counts.set(group, [0; 2]);
    }

    fn n_bytes(&self) -> usize {
        self.counts.n_bytes()
    }
}
