//! `bit_and`, `bit_or` and `bit_xor` over integers.
//!
//! XOR undoes itself. AND and OR are kept as values while rows only come; when rows may be taken back, as the number of
//! rows that have each bit, so that an update costs one step for each bit of the type whatever the group's size.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use hashbrown::HashMap;
use millstream_state::PagedVec;
use millstream_types::{Error, Result};

use super::{GroupAccumulator, Input};

/// What is done with the bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BitOp {
    And,
    Or,
    Xor,
}

pub(super) fn accumulator(op: BitOp, argument: &DataType, append_only: bool) -> Box<dyn GroupAccumulator> {
    let data_type = argument.clone();
    if append_only || op == BitOp::Xor {
        Box::new(BitValues { op, data_type, states: PagedVec::new((0, 0)) })
    } else {
        let n_bits = 8 * argument.primitive_width().unwrap_or(8);
        Box::new(BitCounts { op, data_type, n_bits, groups: HashMap::new() })
    }
}

pub(super) fn is_supported(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Int16 | DataType::Int32 | DataType::Int64)
}

/// The values as `i64`: sign extension leaves AND, OR and XOR as they are.
fn wide(array: &ArrayRef) -> Result<Int64Array> {
    Ok(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

fn narrow(values: Int64Array, data_type: &DataType) -> Result<ArrayRef> {
    Ok(cast(&values, data_type)?)
}

/// The value of each group, and the number of rows in it.
struct BitValues {
    op: BitOp,
    data_type: DataType,
    states: PagedVec<(i64, i64)>,
}

impl BitValues {
    /// Takes `n` rows (fewer than none are taken back) whose value together is `value`.
    fn add(&mut self, group: u32, value: i64, n: i64) -> Result<()> {
        let (state, n_rows) = self.states.get_mut(group);
        match self.op {
            BitOp::Xor => *state ^= value,
            _ if n < 0 => return Err(Error::internal("a row was taken back from append-only input")),
            _ if n == 0 => {}
            _ if *n_rows == 0 => *state = value,
            BitOp::And => *state &= value,
            BitOp::Or => *state |= value,
        }
        *n_rows += n;
        Ok(())
    }
}

impl GroupAccumulator for BitValues {
    fn update(&mut self, input: Input<'_>) -> Result<()> {
        let values = wide(input.argument.expect("aggregates of bits have an argument"))?;
        let is_xor = self.op == BitOp::Xor;
        let mut outcome = Ok(());
        input.for_each(|i, group, weight| {
            // An even number of equal rows leaves no trace in an XOR.
            let value = if is_xor && weight % 2 == 0 { 0 } else { values.value(i) };
            let added = self.add(group, value, weight);
            if added.is_err() {
                outcome = added;
            }
        });
        outcome
    }

    fn merge(&mut self, groups: &[u32], partial: &[ArrayRef]) -> Result<()> {
        let values = partial[0].as_primitive::<Int64Type>().values();
        let counts = partial[1].as_primitive::<Int64Type>().values();
        groups.iter().zip(values.iter().zip(counts)).try_for_each(|(&g, (&value, &n))| self.add(g, value, n))
    }

    fn partial_types(&self) -> Vec<DataType> {
        vec![DataType::Int64; 2]
    }

    fn partial(&self, groups: &[u32]) -> Vec<ArrayRef> {
        let states = || groups.iter().map(|&g| self.states.get(g));
        vec![
            Arc::new(Int64Array::from_iter_values(states().map(|s| s.0))),
            Arc::new(Int64Array::from_iter_values(states().map(|s| s.1))),
        ]
    }

    fn finish(&self, groups: &[u32]) -> Result<ArrayRef> {
        let value = |(value, n): (i64, i64)| (n > 0).then_some(value);
        narrow(groups.iter().map(|&g| value(self.states.get(g))).collect(), &self.data_type)
    }

    fn reset(&mut self, group: u32) {
        self.states.set(group, (0, 0));
    }

    fn n_bytes(&self) -> usize {
        self.states.n_bytes()
    }
}

/// For each group the number of rows that have each bit, then the number of rows.
struct BitCounts {
    op: BitOp,
    data_type: DataType,
    n_bits: usize,
    groups: HashMap<u32, Box<[i64]>>,
}

impl GroupAccumulator for BitCounts {
    fn update(&mut self, input: Input<'_>) -> Result<()> {
        let values = wide(input.argument.expect("aggregates of bits have an argument"))?;
        let n_bits = self.n_bits;
        input.for_each(|i, group, weight| {
            let counts = self.groups.entry(group).or_insert_with(|| vec![0; n_bits + 1].into());
            let value = values.value(i) as u64;
            for (bit, count) in counts[..n_bits].iter_mut().enumerate() {
                *count += weight * (value >> bit & 1) as i64;
            }
            counts[n_bits] += weight;
        });
        Ok(())
    }

    fn merge(&mut self, groups: &[u32], partial: &[ArrayRef]) -> Result<()> {
        let n_bits = self.n_bits;
        for (at, counts) in partial.iter().enumerate() {
            let counts = counts.as_primitive::<Int64Type>().values();
            for (&group, n) in groups.iter().zip(counts) {
                self.groups.entry(group).or_insert_with(|| vec![0; n_bits + 1].into())[at] += n;
            }
        }
        Ok(())
    }

    fn partial_types(&self) -> Vec<DataType> {
        vec![DataType::Int64; self.n_bits + 1]
    }

    fn partial(&self, groups: &[u32]) -> Vec<ArrayRef> {
        let count = |at: usize| {
            let counts = groups.iter().map(|g| self.groups.get(g).map_or(0, |c| c[at]));
            Arc::new(Int64Array::from_iter_values(counts)) as ArrayRef
        };
        (0..=self.n_bits).map(count).collect()
    }

    fn finish(&self, groups: &[u32]) -> Result<ArrayRef> {
        let n_bits = self.n_bits;
        let value = |group: &u32| {
            let counts = self.groups.get(group).filter(|c| c[n_bits] > 0)?;
            let is_set = |count: i64| if self.op == BitOp::And { count == counts[n_bits] } else { count > 0 };
            let mut value = 0u64;
            for (bit, &count) in counts[..n_bits].iter().enumerate() {
                value |= u64::from(is_set(count)) << bit;
            }
            // The sign of the narrow type is that of the wide one.
            Some((value as i64) << (64 - n_bits) >> (64 - n_bits))
        };
        narrow(groups.iter().map(value).collect(), &self.data_type)
    }

    fn reset(&mut self, group: u32) {
        self.groups.remove(&group);
    }

    fn n_bytes(&self) -> usize {
        self.groups.capacity() * size_of::<(u32, Box<[i64]>)>() + self.groups.len() * (self.n_bits + 1) * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, Int16Array};

    fn results(op: BitOp, append_only: bool, steps: &[(Vec<Option<i16>>, i64)]) -> Vec<Option<i16>> {
        let mut accumulator = accumulator(op, &DataType::Int16, append_only);
        let step = |(values, weight): &(Vec<Option<i16>>, i64)| {
            let argument: ArrayRef = Arc::new(Int16Array::from(values.clone()));
            let (groups, weights) = (vec![0; values.len()], vec![*weight; values.len()]);
            let input = Input { groups: &groups, argument: Some(&argument), filter: None, weights: Some(&weights) };
            accumulator.update(input).expect("integers");
            let result = accumulator.finish(&[0]).expect("no overflow");
            let result = result.as_primitive::<arrow::datatypes::Int16Type>().clone();
            result.is_valid(0).then(|| result.value(0))
        };
        steps.iter().map(step).collect()
    }

    #[test]
    fn bits_come_and_go() {
        let steps = vec![
            (vec![Some(-1), None, Some(0b1100)], 1),
            (vec![Some(0b1010)], 2),
            (vec![Some(0b1010)], -2),
            (vec![Some(0b1100)], -1),
            (vec![Some(-1)], -1),
        ];
        assert_eq!(results(BitOp::And, false, &steps), [Some(12), Some(8), Some(12), Some(-1), None]);
        assert_eq!(results(BitOp::Or, false, &steps), [Some(-1), Some(-1), Some(-1), Some(-1), None]);
        assert_eq!(results(BitOp::Xor, false, &steps), [Some(-13), Some(-13), Some(-13), Some(-1), None]);
        assert_eq!(results(BitOp::And, true, &steps[..2]), [Some(12), Some(8)]);
        assert_eq!(results(BitOp::Or, true, &steps[..2]), [Some(-1), Some(-1)]);
    }
}
