//! `min` and `max`: one value a group while rows only come, an ordered multiset when they may be taken back.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, Int64Array, IntervalMonthDayNanoArray, StringViewArray};
use arrow::buffer::NullBuffer;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit};
use arrow::row::{RowConverter, SortField};
use hashbrown::HashMap;
use millstream_types::Result;

use super::best::{Best, BestKeys, BestValues};
use super::best_bytes::BestBytes;
use super::ordered::{ZERO, fits_u64, keys_i128, keys_u64, values_of_i128, values_of_u64};
use super::{GroupAccumulator, Input, PartialChanges, PartialRows};

pub(super) fn is_supported(data_type: &DataType) -> bool {
    fits_u64(data_type)
        || matches!(
            data_type,
            DataType::Decimal128(_, _)
                | DataType::Utf8View
                | DataType::BinaryView
                | DataType::List(_)
                | DataType::Interval(IntervalUnit::MonthDayNano)
        )
}

pub(super) fn accumulator(is_max: bool, argument: &DataType, append_only: bool) -> Box<dyn GroupAccumulator> {
    fn of<K: Key>(is_max: bool, argument: &DataType, append_only: bool) -> Box<dyn GroupAccumulator> {
        if append_only {
            return Box::new(Best::<K::Best>::new(is_max, argument));
        }
        let data_type = argument.clone();
        Box::new(Multisets::<K> { is_max, data_type, groups: HashMap::new(), n_entries: 0, changes: None })
    }
    match argument {
        t if fits_u64(t) => of::<u64>(is_max, argument, append_only),
        DataType::Decimal128(_, _) => of::<i128>(is_max, argument, append_only),
        _ => of::<Box<[u8]>>(is_max, argument, append_only),
    }
}

/// A representation of values whose order is that of SQL.
pub(super) trait Key: Ord + Clone + Send + Sync + Sized + 'static {
    /// How the best one of each group is kept.
    type Best: BestValues;
    fn of(array: &ArrayRef) -> Result<Vec<Self>>;
    fn to_array(data_type: &DataType, keys: Vec<Option<Self>>) -> Result<ArrayRef>;
}

fn nulls_of<K>(keys: &[Option<K>]) -> Option<NullBuffer> {
    keys.iter().any(Option::is_none).then(|| keys.iter().map(Option::is_some).collect())
}

impl Key for u64 {
    type Best = BestKeys<u64>;

    fn of(array: &ArrayRef) -> Result<Vec<u64>> {
        Ok(keys_u64(array))
    }

    fn to_array(data_type: &DataType, keys: Vec<Option<u64>>) -> Result<ArrayRef> {
        let nulls = nulls_of(&keys);
        // Functions may compute with what is below a null: that has to be harmless.
        Ok(values_of_u64(data_type, keys.into_iter().map(|key| key.unwrap_or(ZERO)).collect(), nulls))
    }
}

impl Key for i128 {
    type Best = BestKeys<i128>;

    fn of(array: &ArrayRef) -> Result<Vec<i128>> {
        Ok(keys_i128(array))
    }

    fn to_array(data_type: &DataType, keys: Vec<Option<i128>>) -> Result<ArrayRef> {
        let nulls = nulls_of(&keys);
        Ok(values_of_i128(data_type, keys.into_iter().map(Option::unwrap_or_default).collect(), nulls))
    }
}

/// Text and bytes as they are, anything else as its row encoding.
impl Key for Box<[u8]> {
    type Best = BestBytes;

    fn of(array: &ArrayRef) -> Result<Vec<Box<[u8]>>> {
        Ok(match array.data_type() {
            DataType::Utf8View => {
                let array = array.as_string_view();
                (0..array.len()).map(|i| array.value(i).as_bytes().into()).collect()
            }
            DataType::BinaryView => {
                let array = array.as_binary_view();
                (0..array.len()).map(|i| array.value(i).into()).collect()
            }
            DataType::Interval(_) => {
                array.as_primitive::<IntervalMonthDayNanoType>().values().iter().map(|&v| interval_key(v)).collect()
            }
            _ => {
                let rows = converter(array.data_type())?.convert_columns(std::slice::from_ref(array))?;
                rows.iter().map(|row| row.as_ref().into()).collect()
            }
        })
    }

    fn to_array(data_type: &DataType, keys: Vec<Option<Box<[u8]>>>) -> Result<ArrayRef> {
        Ok(match data_type {
            DataType::Utf8View => {
                let text = |k: &Option<Box<[u8]>>| {
                    k.as_ref().map(|k| String::from_utf8(k.to_vec()).expect("keys of text are text"))
                };
                Arc::new(keys.iter().map(text).collect::<StringViewArray>())
            }
            DataType::BinaryView => Arc::new(keys.into_iter().collect::<BinaryViewArray>()),
            DataType::Interval(_) => {
                let interval = |k: &Option<Box<[u8]>>| k.as_deref().map(interval_of_key);
                Arc::new(keys.iter().map(interval).collect::<IntervalMonthDayNanoArray>())
            }
            _ => {
                let converter = converter(data_type)?;
                let null = arrow::array::new_null_array(data_type, 1);
                let null = converter.convert_columns(&[null])?;
                let parser = converter.parser();
                let rows = keys.iter().map(|k| match k {
                    Some(k) => parser.parse(k),
                    None => null.row(0),
                });
                converter.convert_rows(rows)?.remove(0)
            }
        })
    }
}

/// An interval's length, with months of 30 days and days of 24 hours as Postgres compares them, then its parts.
fn interval_key(v: IntervalMonthDayNano) -> Box<[u8]> {
    const DAY: i128 = 86_400_000_000_000;
    let length = (i128::from(v.months) * 30 + i128::from(v.days)) * DAY + i128::from(v.nanoseconds);
    let mut key = Vec::with_capacity(32);
    key.extend_from_slice(&(length ^ i128::MIN).to_be_bytes());
    key.extend_from_slice(&v.months.to_be_bytes());
    key.extend_from_slice(&v.days.to_be_bytes());
    key.extend_from_slice(&v.nanoseconds.to_be_bytes());
    key.into()
}

fn interval_of_key(key: &[u8]) -> IntervalMonthDayNano {
    let of = |from: usize, to: usize| key[from..to].iter().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
    IntervalMonthDayNano::new(of(16, 20) as u32 as i32, of(20, 24) as u32 as i32, of(24, 32) as i64)
}

fn converter(data_type: &DataType) -> Result<RowConverter> {
    // Nulls within arrays come last, as in Postgres.
    let options = SortOptions { descending: false, nulls_first: false };
    Ok(RowConverter::new(vec![SortField::new_with_options(data_type.clone(), options)])?)
}

/// All values of each group, with their weights.
struct Multisets<K> {
    is_max: bool,
    data_type: DataType,
    groups: HashMap<u32, BTreeMap<K, i64>>,
    n_entries: usize,
    changes: Option<Changes<K>>,
}

/// Values that have changed, by group, with the weights that they had before.
struct Changes<K> {
    groups: HashMap<u32, BTreeMap<K, i64>>,
    n_entries: usize,
}

impl<K: Key> Changes<K> {
    fn note(&mut self, group: u32, key: &K, weight: i64) {
        let values = self.groups.entry(group).or_default();
        if !values.contains_key(key) {
            values.insert(key.clone(), weight);
            self.n_entries += 1;
        }
    }

    /// Takes values of a group out, in their order, at most as many as are left.
    fn take(&mut self, group: u32, n_left: &mut usize) -> Vec<(K, i64)> {
        let Some(values) = self.groups.get_mut(&group) else { return vec![] };
        let taken: Vec<(K, i64)> = std::iter::from_fn(|| values.pop_first()).take(*n_left).collect();
        if values.is_empty() {
            self.groups.remove(&group);
        }
        *n_left -= taken.len();
        self.n_entries -= taken.len();
        taken
    }
}

impl<K: Key> Multisets<K> {
    fn add(&mut self, group: u32, key: &K, weight: i64) {
        let values = self.groups.entry(group).or_default();
        let kept = values.get_mut(key);
        if let Some(changes) = &mut self.changes {
            changes.note(group, key, kept.as_ref().map_or(0, |n| **n));
        }
        match kept {
            Some(n) => {
                *n += weight;
                if *n == 0 {
                    values.remove(key);
                    self.n_entries -= 1;
                }
            }
            None => {
                values.insert(key.clone(), weight);
                self.n_entries += 1;
            }
        }
    }

    fn best(&self, group: u32) -> Option<K> {
        let values = self.groups.get(&group)?;
        let best = if self.is_max { values.last_key_value() } else { values.first_key_value() };
        best.map(|(key, n)| {
            debug_assert!(*n > 0, "sums are not negative at the end of an epoch");
            key.clone()
        })
    }
}

impl<K: Key> GroupAccumulator for Multisets<K> {
    fn update(&mut self, input: Input<'_>) -> Result<()> {
        let keys = K::of(input.argument.expect("min and max have an argument"))?;
        input.for_each(|i, group, weight| {
            if weight != 0 {
                self.add(group, &keys[i], weight);
            }
        });
        Ok(())
    }

    /// A state has one row for each value.
    fn merge(&mut self, groups: &[u32], partial: &[ArrayRef]) -> Result<()> {
        let weights = partial[1].as_primitive::<Int64Type>();
        self.update(Input { groups, argument: Some(&partial[0]), filter: None, weights: Some(weights.values()) })
    }

    fn partial_types(&self) -> Vec<DataType> {
        vec![self.data_type.clone(), DataType::Int64]
    }

    fn partial(&self, groups: &[u32]) -> Vec<ArrayRef> {
        let entries = groups.iter().filter_map(|g| self.groups.get(g)).flatten();
        let (keys, weights): (Vec<Option<K>>, Vec<i64>) = entries.map(|(k, w)| (Some(k.clone()), *w)).unzip();
        vec![
            K::to_array(&self.data_type, keys).expect("stored values are of the type"),
            Arc::new(Int64Array::from(weights)),
        ]
    }

    fn partial_groups(&self, groups: &[u32]) -> Option<Vec<u32>> {
        let n_values = |g: &u32| self.groups.get(g).map_or(0, BTreeMap::len);
        Some(groups.iter().flat_map(|g| std::iter::repeat_n(*g, n_values(g))).collect())
    }

    fn partial_rows(&self, groups: &[u32], behind: Option<&ArrayRef>, n_max: usize) -> Result<PartialRows> {
        let mut behind = behind.map(K::of).transpose()?.and_then(|keys| keys.into_iter().next());
        let (mut of, mut keys, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for group in groups {
            let from = behind.take().map_or(Bound::Unbounded, Bound::Excluded);
            let Some(values) = self.groups.get(group) else { continue };
            for (key, weight) in values.range((from, Bound::Unbounded)).take(n_max - keys.len()) {
                of.push(*group);
                keys.push(Some(key.clone()));
                weights.push(*weight);
            }
            if keys.len() == n_max {
                break;
            }
        }
        Ok(PartialRows {
            groups: of,
            columns: vec![K::to_array(&self.data_type, keys)?, Arc::new(Int64Array::from(weights))],
        })
    }

    fn track_changes(&mut self) {
        self.changes.get_or_insert_with(|| Changes { groups: HashMap::new(), n_entries: 0 });
    }

    fn take_changes(&mut self, groups: &[u32], n_max: usize) -> PartialChanges {
        let Some(changes) = &mut self.changes else { return PartialChanges::default() };
        let (mut gone_groups, mut gone) = (Vec::new(), Vec::new());
        let (mut row_groups, mut rows, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let mut n_left = n_max;
        for group in groups {
            let now = self.groups.get(group);
            for (key, before) in changes.take(*group, &mut n_left) {
                let weight = now.and_then(|values| values.get(&key)).copied().unwrap_or(0);
                if weight == before {
                    continue;
                }
                if weight != 0 {
                    row_groups.push(*group);
                    rows.push(Some(key.clone()));
                    weights.push(weight);
                }
                if before != 0 {
                    gone_groups.push(*group);
                    gone.push(Some(key));
                }
            }
            if n_left == 0 {
                break;
            }
        }
        let values = |keys| K::to_array(&self.data_type, keys).expect("stored values are of the type");
        PartialChanges {
            gone: PartialRows { groups: gone_groups, columns: vec![values(gone)] },
            rows: PartialRows { groups: row_groups, columns: vec![values(rows), Arc::new(Int64Array::from(weights))] },
            has_more: n_left == 0,
        }
    }

    fn finish(&self, groups: &[u32]) -> Result<ArrayRef> {
        K::to_array(&self.data_type, groups.iter().map(|&g| self.best(g)).collect())
    }

    fn reset(&mut self, group: u32) {
        if let Some(values) = self.groups.remove(&group) {
            self.n_entries -= values.len();
        }
    }

    fn n_bytes(&self) -> usize {
        let of_changes = self.changes.as_ref().map_or((0, 0), |c| (c.n_entries, c.groups.capacity()));
        // A B-tree's nodes are about two thirds full.
        (self.n_entries + of_changes.0) * (size_of::<K>() + size_of::<i64>()) * 3 / 2
            + (self.groups.capacity() + of_changes.1) * size_of::<(u32, BTreeMap<K, i64>)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_harmless_value_below_a_null() {
        for data_type in [DataType::Int64, DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None)] {
            let array = u64::to_array(&data_type, vec![None, Some(ZERO + 5)]).expect("a type of keys");
            assert_eq!(array.to_data().buffers()[0].typed_data::<i64>(), [0, 5]);
            assert!(array.is_null(0) && array.is_valid(1));
        }
    }
}
