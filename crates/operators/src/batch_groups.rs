//! Groups of the rows of one batch.

use std::cmp::Ordering;

use arrow::array::{Array, ArrayRef, AsArray, DynComparator, UInt32Array, make_comparator};
use arrow::compute::SortOptions;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType, TimeUnit,
    TimestampMicrosecondType,
};
use hashbrown::HashMap;
use millstream_types::Result;
use millstream_types::hash::{hash_columns, is_exact};

const NO_GROUP: u32 = u32::MAX;

/// Numbers the distinct keys of a batch, in the order of their first rows.
///
/// Nothing is kept from one batch to the next but room, and no key is copied: a group's first row stands for it. Open
/// addressing over group numbers, at most half full; a lookup costs no cache miss, since a batch's groups are few enough
/// to stay in the nearer caches.
///
/// Keys that are equal in SQL but not in bits, such as the two zeros, may get a group each: what is made of the groups
/// must be merged again by whoever takes it.
#[derive(Default)]
pub(crate) struct BatchGroups {
    slots: Vec<u32>,
    hashes: Vec<u64>,
    /// By group: the hash of its key, and its first row.
    group_hashes: Vec<u64>,
    first_rows: Vec<u32>,
    /// By row.
    groups: Vec<u32>,
}

impl BatchGroups {
    /// Groups rows by the given columns, all of the length `n_rows`.
    ///
    /// # Errors
    /// If a column's type cannot be compared.
    pub(crate) fn group(&mut self, keys: &[ArrayRef], n_rows: usize) -> Result<()> {
        hash_columns(keys, n_rows, &mut self.hashes);
        self.slots.clear();
        self.slots.resize((n_rows * 2).next_power_of_two().max(16), NO_GROUP);
        self.group_hashes.clear();
        self.first_rows.clear();
        self.groups.clear();
        let mask = self.slots.len() - 1;
        for (row_idx, &hash) in self.hashes.iter().enumerate() {
            let mut at = hash as usize & mask;
            let group = loop {
                let group = self.slots[at];
                if group == NO_GROUP {
                    self.slots[at] = self.first_rows.len() as u32;
                    self.group_hashes.push(hash);
                    self.first_rows.push(row_idx as u32);
                    break self.slots[at];
                }
                if self.group_hashes[group as usize] == hash {
                    break group;
                }
                at = (at + 1) & mask;
            };
            self.groups.push(group);
        }
        let is_exact = matches!(keys, [one] if is_exact(one.data_type()) && one.null_count() == 0);
        if is_exact || keys.is_empty() { Ok(()) } else { self.separate(keys) }
    }

    /// Gives rows whose keys differ, though their hashes are equal, groups of their own.
    fn separate(&mut self, keys: &[ArrayRef]) -> Result<()> {
        let mut equal = vec![true; self.groups.len()];
        for key in keys {
            compare_rows(key, |row_idx| self.first_rows[self.groups[row_idx] as usize] as usize, &mut equal)?;
        }
        if !equal.contains(&false) {
            return Ok(());
        }
        let comparators = keys.iter().map(comparator).collect::<Result<Vec<_>>>()?;
        let mut others: HashMap<u64, Vec<u32>> = HashMap::new();
        for row_idx in (0..equal.len()).filter(|&i| !equal[i]) {
            let others = others.entry(self.hashes[row_idx]).or_default();
            let is_same = |group: &&u32| {
                let first_row = self.first_rows[**group as usize] as usize;
                comparators.iter().all(|compare| compare(row_idx, first_row) == Ordering::Equal)
            };
            self.groups[row_idx] = others.iter().find(is_same).copied().unwrap_or_else(|| {
                self.first_rows.push(row_idx as u32);
                others.push(self.first_rows.len() as u32 - 1);
                self.first_rows.len() as u32 - 1
            });
        }
        Ok(())
    }

    /// The number of groups.
    pub(crate) fn len(&self) -> usize {
        self.first_rows.len()
    }

    /// The group of each row.
    pub(crate) fn groups(&self) -> &[u32] {
        &self.groups
    }

    /// A column's value in the first row of each group.
    ///
    /// # Errors
    /// If the column's type has no take kernel.
    pub(crate) fn first_values(&self, column: &ArrayRef) -> Result<ArrayRef> {
        Ok(arrow::compute::take(column, &UInt32Array::from(self.first_rows.clone()), None)?)
    }
}

fn comparator(column: &ArrayRef) -> Result<DynComparator> {
    Ok(make_comparator(column, column, SortOptions::default())?)
}

/// Clears `equal[i]` where a column's value in row `i` differs from that in row `other(i)`.
fn compare_rows(column: &ArrayRef, other: impl Fn(usize) -> usize, equal: &mut [bool]) -> Result<()> {
    macro_rules! primitive {
        ($t:ty) => {{
            let values = column.as_primitive::<$t>().values();
            equal.iter_mut().enumerate().for_each(|(i, equal)| *equal &= values[i] == values[other(i)]);
        }};
    }
    match column.data_type() {
        _ if column.null_count() > 0 => compare_with(&comparator(column)?, other, equal),
        DataType::Int16 => primitive!(Int16Type),
        DataType::Int32 => primitive!(Int32Type),
        DataType::Int64 => primitive!(Int64Type),
        DataType::Date32 => primitive!(Date32Type),
        DataType::Time64(TimeUnit::Microsecond) => primitive!(Time64MicrosecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => primitive!(TimestampMicrosecondType),
        DataType::Decimal128(_, _) => primitive!(Decimal128Type),
        DataType::Utf8View => {
            let texts = column.as_string_view();
            let views = texts.views();
            for (i, equal) in equal.iter_mut().enumerate() {
                let j = other(i);
                // Equal views are equal values, and different views of short texts are different values.
                let is_short = views[i] as u32 <= 12;
                *equal = *equal && (views[i] == views[j] || !is_short && texts.value(i) == texts.value(j));
            }
        }
        _ => compare_with(&comparator(column)?, other, equal),
    }
    Ok(())
}

fn compare_with(comparator: &DynComparator, other: impl Fn(usize) -> usize, equal: &mut [bool]) {
    for (i, equal) in equal.iter_mut().enumerate() {
        *equal = *equal && comparator(i, other(i)) == Ordering::Equal;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, StringViewArray};
    use millstream_types::hash::mix;
    use std::sync::Arc;

    #[test]
    fn rows_are_in_one_group_exactly_if_their_keys_are_the_same() {
        let mut batch_groups = BatchGroups::default();
        for seed in 0..20u64 {
            let n_rows = (seed * 97 % 500) as usize;
            let r = |i: usize, k: u64| mix(seed * 1_000_003 + i as u64 * 7 + k);
            let number = |i: usize| (!r(i, 0).is_multiple_of(9)).then_some((r(i, 0) % 20) as i64);
            let text = |i: usize| "a text that is longer than a view ".repeat((r(i, 1) % 3) as usize) + "x";
            let float = |i: usize| [0.0, -0.0, f64::NAN, 1.5][(r(i, 2) % 4) as usize];
            let columns: Vec<ArrayRef> = vec![
                Arc::new((0..n_rows).map(number).collect::<Int64Array>()),
                Arc::new((0..n_rows).map(|i| Some(text(i))).collect::<StringViewArray>()),
                Arc::new((0..n_rows).map(|i| Some(float(i))).collect::<Float64Array>()),
            ];
            for n_keys in 0..=3 {
                batch_groups.group(&columns[..n_keys], n_rows).expect("the types can be compared");
                let key = |i: usize| {
                    let key = (number(i), text(i), float(i).to_bits());
                    match n_keys {
                        0 => (None, String::new(), 0),
                        1 => (key.0, String::new(), 0),
                        2 => (key.0, key.1, 0),
                        _ => key,
                    }
                };
                let mut model = std::collections::HashMap::new();
                for (i, &group) in batch_groups.groups().iter().enumerate() {
                    assert_eq!(*model.entry(key(i)).or_insert(group), group, "seed {seed}");
                }
                assert_eq!(model.len(), batch_groups.len(), "seed {seed}");
                for column in &columns[..n_keys] {
                    let firsts = batch_groups.first_values(column).expect("the types can be taken");
                    let groups = UInt32Array::from(batch_groups.groups().to_vec());
                    let of_rows = arrow::compute::take(&firsts, &groups, None).expect("groups are in range");
                    let compare = make_comparator(&of_rows, column, SortOptions::default()).expect("one type");
                    assert!((0..n_rows).all(|i| compare(i, i) == Ordering::Equal), "seed {seed}");
                }
            }
        }
    }
}
