//! Distributions of booleans, texts and bytes, and those over other distributions: choice, null, array.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, ListArray, UInt32Array};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::compute;
use arrow::datatypes::FieldRef;
use millstream_types::{Error, Result, SqlState};

use super::distribution::Distribution;
use crate::random::{Key, below, letters, unit};
use crate::text::TextBuilder;

/// True with a probability.
pub(super) struct Bernoulli {
    pub(super) key: Key,
    pub(super) probability: f64,
}

impl Bernoulli {
    fn mask(&self, positions: &[u64]) -> BooleanArray {
        positions.iter().map(|&p| Some(unit(self.key.word(p)) < self.probability)).collect()
    }
}

impl Distribution for Bernoulli {
    fn generate(&self, positions: &[u64]) -> Result<ArrayRef> {
        Ok(Arc::new(self.mask(positions)))
    }
}

/// Lengths, each as likely.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lengths {
    pub(super) min: usize,
    pub(super) max: usize,
}

impl Lengths {
    fn of(self, word: u64) -> usize {
        self.min + below(word, (self.max - self.min) as u64 + 1) as usize
    }

    fn mean(self) -> usize {
        self.min.midpoint(self.max)
    }
}

/// Random lower-case letters.
pub(super) struct Letters {
    pub(super) key: Key,
    pub(super) lengths: Lengths,
    /// Values are filled up with blanks to this length, if there is one.
    pub(super) padded_to: Option<usize>,
}

impl Distribution for Letters {
    fn generate(&self, positions: &[u64]) -> Result<ArrayRef> {
        let n_bytes = self.padded_to.unwrap_or(self.lengths.mean());
        let mut builder = TextBuilder::with_capacity(positions.len(), n_bytes);
        // The letters take the words from 0 on.
        let each = positions.iter().map(|&p| self.key.at(p)).map(|key| (key, self.lengths.of(key.word(u64::MAX))));
        match self.padded_to {
            None => each.for_each(|(key, len)| builder.push_letters(key, len)),
            Some(padded_to) => {
                let mut value = Vec::new();
                for (key, len) in each {
                    value.clear();
                    (0..len.div_ceil(8) as u64).for_each(|i| value.extend_from_slice(&letters(key.word(i))));
                    value.truncate(len);
                    value.resize(padded_to, b' ');
                    builder.push(&value);
                }
            }
        }
        Ok(builder.finish_text())
    }
}

/// Random bytes.
pub(super) struct Bytes {
    pub(super) key: Key,
    pub(super) lengths: Lengths,
}

impl Distribution for Bytes {
    fn generate(&self, positions: &[u64]) -> Result<ArrayRef> {
        let mut builder = TextBuilder::with_capacity(positions.len(), self.lengths.mean());
        for &p in positions {
            let key = self.key.at(p);
            builder.push_bytes(key, self.lengths.of(key.word(u64::MAX)));
        }
        Ok(builder.finish_binary())
    }
}

/// One of some values, each as likely.
pub(super) struct Choice {
    pub(super) key: Key,
    pub(super) values: ArrayRef,
}

impl Distribution for Choice {
    fn generate(&self, positions: &[u64]) -> Result<ArrayRef> {
        let n = self.values.len() as u64;
        let rows: UInt32Array = positions.iter().map(|&p| below(self.key.word(p), n) as u32).collect();
        Ok(compute::take(&self.values, &rows, None)?)
    }
}

/// Null with a probability, else the value of another distribution.
pub(super) struct Null {
    pub(super) nulls: Nulls,
    pub(super) values: Box<dyn Distribution>,
}

impl Distribution for Null {
    fn generate(&self, positions: &[u64]) -> Result<ArrayRef> {
        self.nulls.apply(&self.values.generate(positions)?, positions)
    }
}

/// Where there are nulls.
pub(super) struct Nulls(pub(super) Bernoulli);

impl Nulls {
    /// The values, some of them replaced by null.
    pub(super) fn apply(&self, values: &ArrayRef, positions: &[u64]) -> Result<ArrayRef> {
        Ok(compute::nullif(values, &self.0.mask(positions))?)
    }
}

/// Arrays of random lengths, with elements of another distribution.
pub(super) struct Arrays {
    pub(super) key: Key,
    pub(super) lengths: Lengths,
    pub(super) element: FieldRef,
    pub(super) values: Box<dyn Distribution>,
}

impl Distribution for Arrays {
    fn generate(&self, positions: &[u64]) -> Result<ArrayRef> {
        let mut offsets = Vec::with_capacity(positions.len() + 1);
        offsets.push(0i32);
        let mut elements = Vec::with_capacity(positions.len() * self.lengths.mean());
        for &p in positions {
            let first = p.wrapping_mul(self.lengths.max as u64);
            elements.extend((0..self.lengths.of(self.key.word(p)) as u64).map(|i| first.wrapping_add(i)));
            let end = i32::try_from(elements.len())
                .map_err(|_| Error::user(SqlState::PROGRAM_LIMIT_EXCEEDED, "too many array elements in one batch"))?;
            offsets.push(end);
        }
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Ok(Arc::new(ListArray::try_new(self.element.clone(), offsets, self.values.generate(&elements)?, None)?))
    }
}
