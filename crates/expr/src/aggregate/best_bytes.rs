//! `min` and `max` over text and bytes while rows only come.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewBuilder, StringViewBuilder};
use arrow::datatypes::DataType;
use hashbrown::HashMap;
use millstream_state::PagedVec;
use millstream_types::{Error, Result};

use super::{GroupAccumulator, Input};

/// Values up to this length stand in their view.
const INLINE: usize = 12;
/// The view of no value: as long as no value is.
const NONE: u128 = u32::MAX as u128;

/// The least or greatest value of each group. Short ones are kept as Arrow's views of them, without an allocation.
pub(super) struct BestBytes {
    is_max: bool,
    data_type: DataType,
    views: PagedVec<u128>,
    long: HashMap<u32, Box<[u8]>>,
    n_long_bytes: usize,
}

impl BestBytes {
    pub(super) fn new(is_max: bool, data_type: &DataType) -> Self {
        let (views, long) = (PagedVec::new(NONE), HashMap::new());
        BestBytes { is_max, data_type: data_type.clone(), views, long, n_long_bytes: 0 }
    }

    #[inline]
    fn improve(&mut self, group: u32, view: u128, value: &[u8]) {
        let best = self.views.get_mut(group);
        if *best == view && value.len() <= INLINE {
            return;
        }
        let short = best.to_le_bytes();
        let old = match *best as u32 as usize {
            _ if *best == NONE => None,
            len if len <= INLINE => Some(&short[4..4 + len]),
            _ => self.long.get(&group).map(AsRef::as_ref),
        };
        let is_better = old.is_none_or(|old| if self.is_max { value > old } else { value < old });
        if !is_better {
            return;
        }
        if let Some(old) = self.long.remove(&group) {
            self.n_long_bytes -= old.len();
        }
        // Of a long value only the length says anything.
        *best = view;
        if value.len() > INLINE {
            self.n_long_bytes += value.len();
            self.long.insert(group, value.into());
        }
    }

    /// Calls `put` with the value of each group.
    fn for_each(&self, groups: &[u32], mut put: impl FnMut(Option<&[u8]>)) {
        for group in groups {
            let view = self.views.get(*group);
            let short = view.to_le_bytes();
            put(match view as u32 as usize {
                _ if view == NONE => None,
                len if len <= INLINE => Some(&short[4..4 + len]),
                _ => self.long.get(group).map(AsRef::as_ref),
            });
        }
    }
}

impl GroupAccumulator for BestBytes {
    fn update(&mut self, input: Input<'_>) -> Result<()> {
        let argument = input.argument.expect("min and max have an argument");
        let mut retracted = false;
        macro_rules! improve {
            ($values:expr) => {{
                let values = $values;
                let views = values.views();
                input.for_each(|i, group, weight| {
                    retracted |= weight < 0;
                    if weight > 0 {
                        self.improve(group, views[i], values.value(i).as_ref());
                    }
                });
            }};
        }
        match argument.data_type() {
            DataType::Utf8View => improve!(argument.as_string_view()),
            _ => improve!(argument.as_binary_view()),
        }
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
        if self.data_type == DataType::BinaryView {
            let mut out = BinaryViewBuilder::with_capacity(groups.len());
            self.for_each(groups, |value| out.append_option(value));
            return Ok(Arc::new(out.finish()));
        }
        let mut out = StringViewBuilder::with_capacity(groups.len());
        self.for_each(groups, |value| {
            out.append_option(value.map(|v| std::str::from_utf8(v).expect("values of text are text")));
        });
        Ok(Arc::new(out.finish()))
    }

    fn reset(&mut self, group: u32) {
        self.views.set(group, NONE);
        if let Some(value) = self.long.remove(&group) {
            self.n_long_bytes -= value.len();
        }
    }

    fn n_bytes(&self) -> usize {
        self.views.n_bytes() + self.long.capacity() * size_of::<(u32, Box<[u8]>)>() + self.n_long_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringViewArray;

    #[test]
    fn the_best_of_short_and_long_values() {
        let values = ["b", "", "a value that is longer than a view", "a value", "zz", "a value that is longer", "c"];
        let column: ArrayRef = Arc::new(StringViewArray::from(values.to_vec()));
        for is_max in [false, true] {
            let mut best = BestBytes::new(is_max, &DataType::Utf8View);
            for n in 1..=values.len() {
                let argument = column.slice(n - 1, 1);
                let input = Input { groups: &[3], argument: Some(&argument), filter: None, weights: None };
                best.update(input).expect("rows come");
                let expected = if is_max { values[..n].iter().max() } else { values[..n].iter().min() };
                let found = best.finish(&[3, 4]).expect("texts");
                assert_eq!(Some(&found.as_string_view().value(0)), expected);
                assert!(found.is_null(1));
            }
            best.reset(3);
            assert!(best.finish(&[3]).expect("texts").is_null(0));
            assert_eq!(best.n_long_bytes, 0);
        }
    }
}
