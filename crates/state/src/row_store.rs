//! Rows in columns, addressed by row id.

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use millstream_types::Result;

use crate::column::{CHUNK_ROWS, Column, Equality, Rows, row_id};
use crate::number_set::NumberSet;

/// A set of rows that one operator keeps for itself: added in bulk, freed one by one, gathered by id.
///
/// Ids of freed rows are given out again, so memory follows the number of rows that are kept. Ids of present rows never
/// change. Costs: adding a row copies its values; freeing is constant; text that freed rows leave behind is reclaimed
/// when it outweighs the rest.
pub struct RowStore {
    schema: SchemaRef,
    columns: Vec<Column>,
    /// Rows ever appended; ids are below it.
    n_appended: usize,
    free: Vec<u32>,
    is_free: NumberSet,
}

impl RowStore {
    /// An empty store.
    ///
    /// # Errors
    /// Not supported, if a column's type cannot be kept.
    pub fn new(schema: SchemaRef) -> Result<Self> {
        let columns = schema.fields().iter().map(|f| Column::new(f.data_type())).collect::<Result<_>>()?;
        Ok(RowStore { schema, columns, n_appended: 0, free: Vec::new(), is_free: NumberSet::default() })
    }

    /// The columns' names and types.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows that are kept.
    pub fn len(&self) -> usize {
        self.n_appended - self.free.len()
    }

    /// Whether no row is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All ids that were ever given out are below this one.
    pub fn id_bound(&self) -> u32 {
        self.n_appended as u32
    }

    /// Allocated bytes.
    pub fn n_bytes(&self) -> usize {
        let free = self.free.capacity() * size_of::<u32>() + self.is_free.n_bytes();
        self.columns.iter().map(Column::n_bytes).sum::<usize>() + free
    }

    /// A column.
    pub fn column(&self, column_idx: usize) -> &Column {
        &self.columns[column_idx]
    }

    /// Adds rows and appends their ids to `ids`, in order.
    pub fn add(&mut self, columns: &[ArrayRef], rows: Rows<'_>, ids: &mut Vec<u32>) {
        debug_assert_eq!(columns.len(), self.columns.len());
        let n_reused = self.free.len().min(rows.len());
        if n_reused > 0 {
            let from = ids.len();
            // From the end, so that which ids come next does not depend on how many.
            ids.extend(self.free.drain(self.free.len() - n_reused..).rev());
            ids[from..].iter().for_each(|&row| _ = self.is_free.remove(row));
            for (column, array) in self.columns.iter_mut().zip(columns) {
                column.overwrite(&ids[from..], array, rows.slice(0, n_reused));
            }
        }
        let mut done = n_reused;
        while done < rows.len() {
            let (chunk, offset) = (self.n_appended / CHUNK_ROWS, self.n_appended % CHUNK_ROWS);
            let n = (rows.len() - done).min(CHUNK_ROWS - offset);
            for (column, array) in self.columns.iter_mut().zip(columns) {
                column.append(chunk, array, rows.slice(done, n));
            }
            let first = row_id(chunk, offset);
            ids.extend(first..first + n as u32);
            self.n_appended += n;
            done += n;
        }
    }

    /// The ids that the next `n_rows` added rows will get, in order.
    pub fn promise(&self, n_rows: usize) -> impl Iterator<Item = u32> + use<> {
        let n_reused = self.free.len().min(n_rows);
        let reused: Vec<u32> = self.free[self.free.len() - n_reused..].iter().rev().copied().collect();
        let first = self.n_appended as u32;
        reused.into_iter().chain(first..first + (n_rows - n_reused) as u32)
    }

    /// Frees a row, whose id may then be given to another.
    pub fn free(&mut self, row: u32) {
        for column in &mut self.columns {
            column.forget(row);
        }
        self.free.push(row);
        self.is_free.insert(row);
    }

    /// Reclaims text of freed rows if there is much of it. Looks at every row when it does.
    pub fn reclaim(&mut self) {
        if !self.columns.iter().any(Column::is_sparse) {
            return;
        }
        for column in self.columns.iter_mut().filter(|c| c.is_sparse()) {
            column.rewrite_texts((0..self.n_appended as u32).filter(|&row| !self.is_free.contains(row)));
        }
    }

    /// The ids of all rows that are kept, ascending.
    pub fn ids(&self) -> Vec<u32> {
        self.next_ids(&mut 0, usize::MAX)
    }

    /// The first ids of rows that are kept which are not below `from`, ascending, at most so many; `from` becomes the id
    /// after the last of them.
    pub fn next_ids(&self, from: &mut u32, n_max: usize) -> Vec<u32> {
        self.is_free.next_absent(from, self.id_bound(), n_max)
    }

    /// Rows, in the order of their ids' places in `rows`.
    pub fn gather(&self, rows: &[u32]) -> RecordBatch {
        let columns = self.columns.iter().map(|c| c.gather(rows)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options).expect("columns of this schema")
    }

    /// Clears `mask[i]` where `rows[i]` is another row than `probes[i]` of `arrays`, which are all columns.
    pub fn compare(&self, rows: &[u32], arrays: &[ArrayRef], probes: &[u32], mask: &mut [bool]) {
        debug_assert_eq!(arrays.len(), self.columns.len());
        for (column, array) in self.columns.iter().zip(arrays) {
            column.compare(Equality::Identity, rows, array, probes, mask);
        }
    }

    /// Clears `mask[i]` where, in SQL, the given columns of `rows[i]` do not equal those of `probes[i]` of `keys`.
    pub fn compare_keys(&self, columns: &[usize], rows: &[u32], keys: &[ArrayRef], probes: &[u32], mask: &mut [bool]) {
        for (&column_idx, key) in columns.iter().zip(keys) {
            self.columns[column_idx].compare(Equality::Sql, rows, key, probes, mask);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        Array, AsArray, BooleanArray, Decimal128Array, Float64Array, Int16Array, Int64Array, ListArray,
        StringViewArray, UInt32Array,
    };
    use arrow::datatypes::{DataType, Int64Type};
    use millstream_types::delta::{schema_of, take_batch};
    use millstream_types::hash::mix;
    use std::sync::Arc;

    fn text(seed: u64) -> Option<String> {
        (!seed.is_multiple_of(7)).then(|| "x".repeat((seed % 40) as usize) + &seed.to_string())
    }

    fn batch(seed: u64, n: u64) -> RecordBatch {
        let r = |i: u64, k: u64| mix(seed.wrapping_mul(7919) ^ (i * 13 + k));
        macro_rules! opt {
            ($i:expr, $k:expr, $v:expr) => {
                (!mix(r($i, $k)).is_multiple_of(5)).then_some($v)
            };
        }
        let list: ListArray = ListArray::from_iter_primitive::<Int64Type, _, _>(
            (0..n).map(|i| opt!(i, 5, (0..r(i, 6) % 4).map(|j| Some(j as i64)).collect::<Vec<_>>())),
        );
        let columns: Vec<ArrayRef> = vec![
            Arc::new((0..n).map(|i| opt!(i, 0, r(i, 0) as i64)).collect::<Int64Array>()),
            Arc::new((0..n).map(|i| text(r(i, 1))).collect::<StringViewArray>()),
            Arc::new((0..n).map(|i| opt!(i, 2, r(i, 2) % 2 == 0)).collect::<BooleanArray>()),
            Arc::new((0..n).map(|i| Some(r(i, 3) as i16)).collect::<Int16Array>()),
            Arc::new((0..n).map(|i| opt!(i, 4, r(i, 4) as i128)).collect::<Decimal128Array>()),
            Arc::new(list),
            Arc::new(
                (0..n)
                    .map(|i| opt!(i, 8, [0.0, -0.0, f64::NAN, 2.5][(r(i, 8) % 4) as usize]))
                    .collect::<Float64Array>(),
            ),
        ];
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let fields: Vec<_> = names.iter().zip(&columns).map(|(n, c)| (*n, c.data_type().clone())).collect();
        RecordBatch::try_new(schema_of(&fields), columns).expect("columns fit")
    }

    /// Random additions and frees against a list of (id, batch, row).
    #[test]
    fn rows_are_what_was_added() {
        for seed in 0..6 {
            let schema = batch(0, 0).schema();
            let mut store = RowStore::new(schema).expect("all types can be kept");
            let mut model: Vec<(u32, RecordBatch, u32)> = Vec::new();
            for step in 0..60u64 {
                let r = mix(seed * 31 + step);
                let added = batch(r, r % 700);
                let mut ids = Vec::new();
                if r.is_multiple_of(2) {
                    store.add(added.columns(), Rows::Range { offset: 0, len: added.num_rows() }, &mut ids);
                    model.extend(ids.iter().enumerate().map(|(i, &id)| (id, added.clone(), i as u32)));
                } else {
                    let selection: Vec<u32> = (0..added.num_rows() as u32).rev().step_by(2).collect();
                    store.add(added.columns(), Rows::Selected(&selection), &mut ids);
                    model.extend(ids.iter().zip(&selection).map(|(&id, &i)| (id, added.clone(), i)));
                }
                let n_freed = (r >> 32) as usize % (model.len() + 1);
                for k in 0..n_freed as u64 {
                    let (id, ..) = model.swap_remove(mix(r ^ k) as usize % model.len());
                    store.free(id);
                }
                store.reclaim();
                assert_eq!(store.len(), model.len());
            }
            let ids: Vec<u32> = model.iter().map(|m| m.0).collect();
            let got = store.gather(&ids);
            let mut mask = vec![true; ids.len()];
            for (i, (id, from, row)) in model.iter().enumerate() {
                let expected = take_batch(from, &UInt32Array::from(vec![*row])).expect("a row");
                assert_eq!(got.slice(i, 1), expected);
                store.compare(&[*id], from.columns(), &[*row], &mut mask[i..=i]);
            }
            assert!(mask.iter().all(|&m| m), "every row equals itself");
            let nulls = store.column(1).gather_or_null(&[crate::hash_index::NO_ROW, ids[0]]);
            assert!(nulls.is_null(0));
            assert_eq!(nulls.as_string_view().len(), 2);
        }
    }

    #[test]
    fn comparison_tells_rows_apart() {
        let left = batch(1, 300);
        let mut store = RowStore::new(left.schema()).expect("all types can be kept");
        let mut ids = Vec::new();
        store.add(left.columns(), Rows::Range { offset: 0, len: 300 }, &mut ids);
        for column_idx in 0..7 {
            let probes: Vec<u32> = (0..300).map(|i| (i * 7 + 3) % 300).collect();
            let mut mask = vec![true; 300];
            store.compare_keys(&[column_idx], &ids, &left.columns()[column_idx..=column_idx], &probes, &mut mask);
            let mut same = vec![true; 300];
            let array = left.column(column_idx);
            store.column(column_idx).compare(Equality::Identity, &ids, array, &probes, &mut same);
            let column = left.column(column_idx);
            for i in 0..300 {
                let (a, b) = (&column.slice(i, 1), &column.slice(probes[i] as usize, 1));
                let equal = match column.data_type() {
                    DataType::Float64 => {
                        let f = |a: &ArrayRef| {
                            let a = a.as_primitive::<arrow::datatypes::Float64Type>();
                            a.is_valid(0).then(|| {
                                if a.value(0).is_nan() { "nan".into() } else { (a.value(0) + 0.0).abs().to_string() }
                            })
                        };
                        f(a) == f(b)
                    }
                    _ => a == b,
                };
                assert_eq!(mask[i], equal, "column {column_idx}: {a:?} {b:?}");
                assert_eq!(same[i], a.to_data() == b.to_data(), "column {column_idx}: {a:?} {b:?}");
            }
        }
    }

    #[test]
    fn text_of_freed_rows_is_reclaimed() {
        let schema = schema_of(&[("t", DataType::Utf8View)]);
        let mut store = RowStore::new(schema).expect("text can be kept");
        for round in 0..50 {
            let array: ArrayRef =
                Arc::new((0..1000).map(|i| Some(format!("{round:>100}{i:>100}"))).collect::<StringViewArray>());
            let mut ids = Vec::new();
            store.add(&[array], Rows::Range { offset: 0, len: 1000 }, &mut ids);
            ids.iter().skip(1).for_each(|&id| store.free(id));
            store.reclaim();
        }
        assert_eq!(store.len(), 50);
        assert!(store.n_bytes() < 4 << 20, "{} bytes", store.n_bytes());
    }
}
