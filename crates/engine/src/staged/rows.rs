//! Rows of one relation by key, in the order in which they came.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, DynComparator, Float32Array, Float64Array, RecordBatch, make_comparator,
};
use arrow::compute::{SortOptions, concat_batches, filter_record_batch, interleave_record_batch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, SchemaRef};
use hashbrown::HashTable;
use millstream_planner::catalog::Relation;
use millstream_types::Result;
use millstream_types::hash::{hash_columns, is_exact};

/// Batches of fewer rows are merged with their neighbours.
const MERGED_ROWS_MAX: usize = 1 << 13;

/// Rows in batches as they came, each with a number, found by key.
///
/// Rows are numbered from 0 in the order in which they were pushed; a row can be killed and revived, and the last ones
/// can be taken off again. At most one living row has a given key. The index covers the rows that were pushed before
/// [`KeyedRows::index`] was last called, so that who never looks for keys does not pay for it. Costs: a push copies
/// nothing but small batches, which are merged geometrically, so many pushes of one row cost a logarithm of copies each.
#[derive(Clone)]
pub(crate) struct KeyedRows {
    schema: SchemaRef,
    key: Vec<usize>,
    /// Equal hashes mean equal keys.
    exact: bool,
    batches: Vec<RecordBatch>,
    /// The number of each batch's first row.
    starts: Vec<usize>,
    dead: Vec<bool>,
    n_dead: usize,
    /// Of the keys of the rows that the index covers.
    hashes: Vec<u64>,
    index: HashTable<u32>,
}

impl KeyedRows {
    /// No rows; without key columns no row can be found.
    pub(crate) fn new(schema: SchemaRef, key: &[usize]) -> Self {
        let exact = matches!(key, [one] if is_exact(schema.field(*one).data_type()));
        KeyedRows {
            schema,
            key: key.to_vec(),
            exact,
            batches: Vec::new(),
            starts: Vec::new(),
            dead: Vec::new(),
            n_dead: 0,
            hashes: Vec::new(),
            index: HashTable::new(),
        }
    }

    /// No rows of a table, by its primary key.
    pub(crate) fn empty_of(relation: &Relation) -> Self {
        let mut rows = KeyedRows::new(relation.full_schema(), &relation.primary_key);
        rows.index();
        rows
    }

    /// Rows ever pushed, dead ones included: the number of the next one.
    pub(crate) fn n_pushed(&self) -> usize {
        self.dead.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.n_dead == self.dead.len()
    }

    pub(crate) fn batches(&self) -> &[RecordBatch] {
        &self.batches
    }

    /// The key columns of a batch of this relation.
    pub(crate) fn keys_of(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        self.key.iter().map(|&c| rows.column(c).clone()).collect()
    }

    pub(crate) fn is_exact(&self) -> bool {
        self.exact
    }

    /// Adds rows at the end.
    pub(crate) fn push(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.starts.push(self.dead.len());
        self.dead.resize(self.dead.len() + batch.num_rows(), false);
        self.batches.push(batch);
        while let [.., before, last] = self.batches.as_slice()
            && before.num_rows() + last.num_rows() <= MERGED_ROWS_MAX
            && before.num_rows() <= 2 * last.num_rows()
        {
            let merged = concat_batches(&self.schema, [before, last])?;
            self.batches.truncate(self.batches.len() - 2);
            self.starts.pop();
            self.batches.push(merged);
        }
        Ok(())
    }

    /// Lets the index cover all rows.
    pub(crate) fn index(&mut self) {
        let mut hashes = Vec::new();
        while self.hashes.len() < self.dead.len() {
            let at = self.batch_of(self.hashes.len());
            let batch =
                self.batches[at].slice(self.hashes.len() - self.starts[at], self.end_of(at) - self.hashes.len());
            hash_columns(&self.keys_of(&batch), batch.num_rows(), &mut hashes);
            for &hash in &hashes {
                let row = self.hashes.len() as u32;
                self.hashes.push(hash);
                let known = &self.hashes;
                self.index.insert_unique(hash, row, |&r| known[r as usize]);
            }
        }
    }

    /// The living row of each key. The index covers all rows.
    pub(crate) fn find(&self, keys: &[ArrayRef], hashes: &[u64]) -> Result<Vec<Option<u32>>> {
        debug_assert_eq!(self.hashes.len(), self.dead.len(), "index() comes before find()");
        if self.is_empty() {
            return Ok(vec![None; hashes.len()]);
        }
        let equal = if self.exact { None } else { Some(self.comparators(keys)?) };
        let is_it = |i: usize, row: u32| {
            let row = row as usize;
            self.hashes[row] == hashes[i]
                && !self.dead[row]
                && equal.as_ref().is_none_or(|by_batch| {
                    let at = self.batch_of(row);
                    by_batch[at].iter().all(|compare| compare(i, row - self.starts[at]) == Ordering::Equal)
                })
        };
        Ok((0..hashes.len()).map(|i| self.index.find(hashes[i], |&row| is_it(i, row)).copied()).collect())
    }

    fn comparators(&self, keys: &[ArrayRef]) -> Result<Vec<Vec<DynComparator>>> {
        let of_batch = |batch: &RecordBatch| comparators(keys, &self.keys_of(batch));
        self.batches.iter().map(of_batch).collect()
    }

    pub(crate) fn kill(&mut self, row: u32) {
        let dead = &mut self.dead[row as usize];
        debug_assert!(!*dead, "a row dies once");
        *dead = true;
        self.n_dead += 1;
    }

    pub(crate) fn revive(&mut self, row: u32) {
        let dead = &mut self.dead[row as usize];
        self.n_dead -= usize::from(std::mem::take(dead));
    }

    /// Takes off all rows from a number on.
    pub(crate) fn truncate(&mut self, n_pushed: usize) {
        for row in n_pushed..self.hashes.len() {
            if let Ok(entry) = self.index.find_entry(self.hashes[row], |&r| r as usize == row) {
                entry.remove();
            }
        }
        self.hashes.truncate(n_pushed);
        self.n_dead -= self.dead[n_pushed..].iter().filter(|dead| **dead).count();
        self.dead.truncate(n_pushed);
        while let Some(&start) = self.starts.last()
            && start + self.batches[self.starts.len() - 1].num_rows() > n_pushed
        {
            let last = self.batches.pop().expect("a batch for each start");
            if start < n_pushed {
                self.batches.push(last.slice(0, n_pushed - start));
                break;
            }
            self.starts.pop();
        }
    }

    /// The place of a row: which batch, and where in it.
    pub(crate) fn place(&self, row: u32) -> (usize, usize) {
        let at = self.batch_of(row as usize);
        (at, row as usize - self.starts[at])
    }

    /// The living rows, in order.
    pub(crate) fn alive(&self) -> Result<Vec<RecordBatch>> {
        if self.n_dead == 0 {
            return Ok(self.batches.clone());
        }
        let mut alive = Vec::new();
        for (batch, &start) in self.batches.iter().zip(&self.starts) {
            let dead = &self.dead[start..start + batch.num_rows()];
            let kept = filter_record_batch(batch, &dead.iter().map(|d| Some(!d)).collect::<BooleanArray>())?;
            if kept.num_rows() > 0 {
                alive.push(kept);
            }
        }
        Ok(alive)
    }

    fn batch_of(&self, row: usize) -> usize {
        self.starts.partition_point(|&start| start <= row) - 1
    }

    fn end_of(&self, batch: usize) -> usize {
        self.starts[batch] + self.batches[batch].num_rows()
    }
}

/// Rows of several batches, in the given order.
pub(crate) fn gather(schema: &SchemaRef, batches: &[&RecordBatch], places: &[(usize, usize)]) -> Result<RecordBatch> {
    if places.is_empty() {
        return Ok(RecordBatch::new_empty(schema.clone()));
    }
    Ok(interleave_record_batch(batches, places)?)
}

/// One comparator a column, in which nulls are equal, and floats are as SQL's equality has them.
pub(crate) fn comparators(left: &[ArrayRef], right: &[ArrayRef]) -> Result<Vec<DynComparator>> {
    let pairs = left.iter().zip(right);
    let pairs = pairs.map(|(l, r)| make_comparator(&comparable(l), &comparable(r), SortOptions::default()));
    Ok(pairs.collect::<Result<_, _>>()?)
}

/// The array with one zero and one NaN.
pub(super) fn comparable(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float32 => {
            let one = |v: f32| if v.is_nan() { f32::NAN } else { v + 0.0 };
            Arc::new(array.as_primitive::<Float32Type>().unary::<_, Float32Type>(one) as Float32Array)
        }
        DataType::Float64 => {
            let one = |v: f64| if v.is_nan() { f64::NAN } else { v + 0.0 };
            Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(one) as Float64Array)
        }
        _ => array.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringViewArray};
    use millstream_types::delta::schema_of;

    use super::*;

    fn batch(rows: &[(&str, i64)]) -> RecordBatch {
        let schema = schema_of(&[("k", DataType::Utf8View), ("v", DataType::Int64)]);
        let keys: ArrayRef = Arc::new(rows.iter().map(|r| Some(r.0)).collect::<StringViewArray>());
        let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1)));
        RecordBatch::try_new(schema, vec![keys, values]).unwrap()
    }

    fn find(rows: &mut KeyedRows, keys: &[&str]) -> Vec<Option<u32>> {
        rows.index();
        let keys: Vec<ArrayRef> = vec![Arc::new(keys.iter().map(|k| Some(*k)).collect::<StringViewArray>())];
        let mut hashes = Vec::new();
        hash_columns(&keys, keys[0].len(), &mut hashes);
        rows.find(&keys, &hashes).unwrap()
    }

    #[test]
    fn rows_are_found_while_they_live_and_taken_off_again() {
        let mut rows = KeyedRows::new(batch(&[]).schema(), &[0]);
        for (i, key) in ["a", "b", "c", "d", "e"].iter().enumerate() {
            rows.push(batch(&[(key, i as i64)])).unwrap();
        }
        assert!(rows.batches().len() < 4, "small batches are merged");
        assert_eq!(find(&mut rows, &["e", "a", "x"]), vec![Some(4), Some(0), None]);
        rows.kill(0);
        rows.push(batch(&[("a", 10), ("f", 11)])).unwrap();
        assert_eq!(find(&mut rows, &["a", "f"]), vec![Some(5), Some(6)]);
        rows.truncate(3);
        assert_eq!(find(&mut rows, &["a", "c", "d", "f"]), vec![None, Some(2), None, None]);
        rows.revive(0);
        assert_eq!(find(&mut rows, &["a"]), vec![Some(0)]);
        let alive: usize = rows.alive().unwrap().iter().map(RecordBatch::num_rows).sum();
        assert_eq!(alive, 3);
        rows.push(batch(&[("d", 1)])).unwrap();
        assert_eq!(find(&mut rows, &["d"]), vec![Some(3)]);
    }
}
