//! The least or greatest text of each group, or bytes that stand for something else.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewBuilder, StringViewBuilder, make_view};
use arrow::datatypes::DataType;
use hashbrown::HashMap;
use millstream_state::PagedVec;
use millstream_types::Result;

use super::Input;
use super::best::BestValues;
use super::minmax::Key;

/// Values up to this length stand in their view.
const INLINE: usize = 12;
/// The view of no value: as long as no value is.
const NONE: u128 = u32::MAX as u128;

/// The best value of each group. Short ones are kept as Arrow's views of them, without an allocation.
pub(super) struct BestBytes {
    views: PagedVec<u128>,
    long: HashMap<u32, Box<[u8]>>,
    n_long_bytes: usize,
}

impl Default for BestBytes {
    fn default() -> Self {
        BestBytes { views: PagedVec::new(NONE), long: HashMap::new(), n_long_bytes: 0 }
    }
}

impl BestBytes {
    #[inline]
    fn take(&mut self, group: u32, view: u128, value: &[u8], is_max: bool) {
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
        let is_better = old.is_none_or(|old| if is_max { value > old } else { value < old });
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

impl BestValues for BestBytes {
    fn improve(&mut self, input: Input<'_>, argument: &ArrayRef, is_max: bool) -> Result<bool> {
        let mut retracted = false;
        macro_rules! improve {
            ($view:expr, $value:expr) => {
                input.for_each(|i, group, weight| {
                    retracted |= weight < 0;
                    if weight > 0 {
                        self.take(group, $view(i), $value(i), is_max);
                    }
                })
            };
        }
        match argument.data_type() {
            DataType::Utf8View => {
                let (texts, views) = (argument.as_string_view(), argument.as_string_view().views());
                improve!(|i: usize| views[i], |i: usize| texts.value(i).as_bytes());
            }
            DataType::BinaryView => {
                let (values, views) = (argument.as_binary_view(), argument.as_binary_view().views());
                improve!(|i: usize| views[i], |i: usize| values.value(i));
            }
            _ => {
                let keys = Box::<[u8]>::of(argument)?;
                improve!(|i: usize| make_view(&keys[i], 0, 0), |i: usize| &keys[i]);
            }
        }
        Ok(retracted)
    }

    fn values(&self, data_type: &DataType, groups: &[u32]) -> Result<ArrayRef> {
        match data_type {
            DataType::Utf8View => {
                let mut out = StringViewBuilder::with_capacity(groups.len());
                self.for_each(groups, |value| {
                    out.append_option(value.map(|v| std::str::from_utf8(v).expect("values of text are text")));
                });
                Ok(Arc::new(out.finish()))
            }
            DataType::BinaryView => {
                let mut out = BinaryViewBuilder::with_capacity(groups.len());
                self.for_each(groups, |value| out.append_option(value));
                Ok(Arc::new(out.finish()))
            }
            _ => {
                let mut keys: Vec<Option<Box<[u8]>>> = Vec::with_capacity(groups.len());
                self.for_each(groups, |value| keys.push(value.map(Into::into)));
                Key::to_array(data_type, keys)
            }
        }
    }

    fn remove(&mut self, group: u32) {
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
            let mut best = BestBytes::default();
            for n in 1..=values.len() {
                let argument = column.slice(n - 1, 1);
                let input = Input { groups: &[3], argument: Some(&argument), filter: None, weights: None };
                assert!(!best.improve(input, &argument, is_max).expect("text"), "no row is taken back");
                let expected = if is_max { values[..n].iter().max() } else { values[..n].iter().min() };
                let found = best.values(&DataType::Utf8View, &[3, 4]).expect("texts");
                assert_eq!(Some(&found.as_string_view().value(0)), expected);
                assert!(found.is_null(1));
            }
            best.remove(3);
            assert!(best.values(&DataType::Utf8View, &[3]).expect("texts").is_null(0));
            assert_eq!(best.n_long_bytes, 0);
        }
    }
}
