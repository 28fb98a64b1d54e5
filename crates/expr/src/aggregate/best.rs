//! `min` and `max` while rows only come: one value a group.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use millstream_state::PagedVec;
use millstream_types::{Error, Result};

use super::minmax::Key;
use super::{GroupAccumulator, Input};

/// The best values that were seen of each group, least or greatest.
pub(super) trait BestValues: Default + Send + Sync + 'static {
    /// Takes rows of positive weight; says whether there were negative ones.
    fn improve(&mut self, input: Input<'_>, argument: &ArrayRef, is_max: bool) -> Result<bool>;

    /// The values of groups; null where there was none.
    fn values(&self, data_type: &DataType, groups: &[u32]) -> Result<ArrayRef>;

    /// Forgets a group's value.
    fn remove(&mut self, group: u32);

    /// Allocated bytes.
    fn n_bytes(&self) -> usize;
}

/// Keys of fixed width, in pages.
pub(super) struct BestKeys<K: Copy> {
    keys: PagedVec<K>,
    present: PagedVec<bool>,
}

impl<K: Copy + Default> Default for BestKeys<K> {
    fn default() -> Self {
        BestKeys { keys: PagedVec::new(K::default()), present: PagedVec::new(false) }
    }
}

impl<K: Key + Copy + Default> BestValues for BestKeys<K> {
    fn improve(&mut self, input: Input<'_>, argument: &ArrayRef, is_max: bool) -> Result<bool> {
        let keys = K::of(argument)?;
        let mut retracted = false;
        input.for_each(|i, group, weight| {
            retracted |= weight < 0;
            if weight > 0 {
                let (present, best) = (self.present.get_mut(group), self.keys.get_mut(group));
                if !*present || if is_max { keys[i] > *best } else { keys[i] < *best } {
                    *present = true;
                    *best = keys[i];
                }
            }
        });
        Ok(retracted)
    }

    fn values(&self, data_type: &DataType, groups: &[u32]) -> Result<ArrayRef> {
        let value = |&group: &u32| self.present.get(group).then(|| self.keys.get(group));
        K::to_array(data_type, groups.iter().map(value).collect())
    }

    fn remove(&mut self, group: u32) {
        self.present.set(group, false);
    }

    fn n_bytes(&self) -> usize {
        self.keys.n_bytes() + self.present.n_bytes()
    }
}

/// The best value of each group, of rows that are never taken back.
pub(super) struct Best<B> {
    is_max: bool,
    data_type: DataType,
    best: B,
}

impl<B: BestValues> Best<B> {
    pub(super) fn new(is_max: bool, data_type: &DataType) -> Self {
        Best { is_max, data_type: data_type.clone(), best: B::default() }
    }
}

impl<B: BestValues> GroupAccumulator for Best<B> {
    fn update(&mut self, input: Input<'_>) -> Result<()> {
        let argument = input.argument.expect("min and max have an argument");
        let retracted = self.best.improve(input, argument, self.is_max)?;
        if retracted { Err(Error::internal("a row was taken back from append-only input")) } else { Ok(()) }
    }

    fn merge(&mut self, groups: &[u32], partial: &[ArrayRef]) -> Result<()> {
        self.update(Input { groups, argument: Some(&partial[0]), filter: None, weights: None })
    }

    fn partial_types(&self) -> Vec<DataType> {
        vec![self.data_type.clone()]
    }

    fn partial(&self, groups: &[u32]) -> Vec<ArrayRef> {
        vec![self.finish(groups).expect("stored values are of the type")]
    }

    fn finish(&self, groups: &[u32]) -> Result<ArrayRef> {
        self.best.values(&self.data_type, groups)
    }

    fn reset(&mut self, group: u32) {
        self.best.remove(group);
    }

    fn n_bytes(&self) -> usize {
        self.best.n_bytes()
    }
}
