//! What an operator has emitted of things that it computes anew: to take it back, and to emit no more than differences.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use hashbrown::HashMap;
use millstream_expr::{RowError, RowErrors, row_errors};
use millstream_state::{NO_ROW, PagedVec, RowStore, Rows};
use millstream_types::{Error, Result};

/// The values that were emitted of things with a number: groups, or rows.
///
/// Costs: comparing looks at each thing's place and values, putting copies the values, taking gathers them. Memory is the
/// values, and four bytes for each number.
pub(crate) struct EmittedValues {
    values: RowStore,
    /// The place of a thing's values.
    place_of: PagedVec<u32>,
}

/// Indices of things whose values are not what was emitted.
pub(crate) struct Unlike {
    /// Something else was emitted.
    pub(crate) changed: Vec<u32>,
    /// Nothing was.
    pub(crate) new: Vec<u32>,
}

impl EmittedValues {
    /// Nothing was emitted yet.
    ///
    /// # Errors
    /// Not supported, if a value's type cannot be kept.
    pub(crate) fn new(schema: SchemaRef) -> Result<Self> {
        Ok(EmittedValues { values: RowStore::new(schema)?, place_of: PagedVec::new(NO_ROW) })
    }

    /// Whether anything was emitted of a thing.
    pub(crate) fn has(&self, number: u32) -> bool {
        self.place_of.get(number) != NO_ROW
    }

    /// Compares values, one for each of the things, with what was emitted.
    pub(crate) fn compare(&self, numbers: &[u32], values: &[ArrayRef]) -> Unlike {
        let (known, new): (Vec<u32>, Vec<u32>) =
            (0..numbers.len() as u32).partition(|&at| self.has(numbers[at as usize]));
        let places: Vec<u32> = known.iter().map(|&at| self.place_of.get(numbers[at as usize])).collect();
        let mut same = vec![true; known.len()];
        self.values.compare(&places, values, &known, &mut same);
        let changed = known.into_iter().zip(same).filter(|(_, same)| !same).map(|(at, _)| at).collect();
        Unlike { changed, new }
    }

    /// Notes what is emitted of things; their values are those with the given indices. Of none of them anything is noted.
    pub(crate) fn put(&mut self, numbers: &[u32], values: &[ArrayRef], indices: &[u32]) {
        let mut places = Vec::with_capacity(indices.len());
        self.values.add(values, Rows::Selected(indices), &mut places);
        numbers.iter().zip(places).for_each(|(&number, place)| self.place_of.set(number, place));
    }

    /// Notes values that were emitted before, one for each of the things.
    pub(crate) fn restore(&mut self, numbers: &[u32], values: &[ArrayRef]) {
        self.put(numbers, values, &(0..numbers.len() as u32).collect::<Vec<_>>());
    }

    /// The values that were emitted of things. Something was emitted of all of them.
    pub(crate) fn gather(&self, numbers: &[u32]) -> RecordBatch {
        let places: Vec<u32> = numbers.iter().map(|&number| self.place_of.get(number)).collect();
        self.values.gather(&places)
    }

    /// The values that were emitted of things, which are forgotten. Something was emitted of all of them.
    pub(crate) fn take(&mut self, numbers: &[u32]) -> RecordBatch {
        let places: Vec<u32> = numbers.iter().map(|&number| self.place_of.get(number)).collect();
        let values = self.values.gather(&places);
        for (&number, place) in numbers.iter().zip(places) {
            self.values.free(place);
            self.place_of.set(number, NO_ROW);
        }
        values
    }

    /// Gives memory of values that were taken back.
    pub(crate) fn reclaim(&mut self) {
        self.values.reclaim();
    }

    /// Allocated bytes.
    pub(crate) fn n_bytes(&self) -> usize {
        self.values.n_bytes() + self.place_of.n_bytes()
    }
}

/// Groups or partitions of which nothing can be computed, and what was said of it.
#[derive(Default)]
pub(crate) struct Failing(HashMap<u32, RowError>);

impl Failing {
    /// Notes that a group fails.
    pub(crate) fn add(&mut self, group: u32, error: Error, key: &RecordBatch, errors: &mut RowErrors) {
        errors.add(error.clone(), key, 0, 1);
        self.0.insert(group, RowError { error, row: row_errors::row_text(key, 0), weight: 1 });
    }

    /// Takes back what was said of a group, if it was failing: it is computed anew, or gone.
    pub(crate) fn remove(&mut self, group: u32, errors: &mut RowErrors) {
        if let Some(failed) = self.0.remove(&group) {
            errors.retract(failed);
        }
    }

    /// Whether a group fails.
    pub(crate) fn contains(&self, group: u32) -> bool {
        !self.0.is_empty() && self.0.contains_key(&group)
    }
}
