//! From keys to dense group numbers.

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use millstream_state::{HashIndex, NO_ROW, RowStore, Rows};
use millstream_types::Result;
use millstream_types::hash::{hash_columns, is_exact};

/// Numbers the distinct keys it has seen; the number is the id of the key's row, so freed numbers are used again.
///
/// Cost of a lookup: one cache miss in the index, and for keys whose hash is not exact one more in each key column.
pub struct GroupTable {
    keys: RowStore,
    index: HashIndex,
    exact: bool,
    hashes: Vec<u64>,
    added: Vec<u32>,
}

impl GroupTable {
    /// A table for keys of a schema; without columns all rows are one group.
    ///
    /// # Errors
    /// Not supported, if a key's type cannot be kept.
    pub fn new(schema: SchemaRef) -> Result<Self> {
        let exact = matches!(schema.fields().as_ref(), [one] if is_exact(one.data_type()));
        Ok(GroupTable {
            keys: RowStore::new(schema)?,
            index: HashIndex::new(),
            exact,
            hashes: Vec::new(),
            added: Vec::new(),
        })
    }

    /// The schema of keys.
    pub fn key_schema(&self) -> &SchemaRef {
        self.keys.schema()
    }

    /// The number of groups.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no groups.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// All group numbers are below this one.
    pub fn bound(&self) -> u32 {
        self.keys.id_bound()
    }

    /// Allocated bytes.
    pub fn n_bytes(&self) -> usize {
        self.keys.n_bytes() + self.index.n_bytes()
    }

    /// The keys of groups.
    pub fn keys(&self, groups: &[u32]) -> RecordBatch {
        self.keys.gather(groups)
    }

    /// The numbers of all groups, ascending.
    pub fn groups(&self) -> Vec<u32> {
        self.keys.ids()
    }

    /// The next groups; see [`RowStore::next_ids`].
    pub fn next_groups(&self, from: &mut u32, n_max: usize) -> Vec<u32> {
        self.keys.next_ids(from, n_max)
    }

    /// The keys' rows, by group.
    pub fn rows(&self) -> &RowStore {
        &self.keys
    }

    /// The groups that the last [`GroupTable::find_or_add`] made.
    pub fn added(&self) -> &[u32] {
        &self.added
    }

    /// Writes the group number of each row into `groups`, which is cleared first, and makes groups for new keys.
    pub fn find_or_add(&mut self, keys: &[ArrayRef], n_rows: usize, groups: &mut Vec<u32>) {
        groups.clear();
        let mut hashes = std::mem::take(&mut self.hashes);
        hash_columns(keys, n_rows, &mut hashes);
        // New keys are numbered as they come: freed numbers first, in the order in which the store gives them out.
        let mut new_rows: Vec<u32> = Vec::new();
        let mut promised = self.keys.promise(n_rows);
        self.index.find_or_insert_all(&hashes, |i, head| {
            let group = if head == NO_ROW {
                new_rows.push(i as u32);
                promised.next().expect("one number a row")
            } else {
                head
            };
            groups.push(group);
            group
        });
        self.added.clear();
        if !new_rows.is_empty() {
            self.keys.add(keys, Rows::Selected(&new_rows), &mut self.added);
            debug_assert!(self.added.iter().zip(&new_rows).all(|(&id, &i)| groups[i as usize] == id));
        }
        if !keys.is_empty() && (!self.exact || keys[0].null_count() > 0 || self.has_nulls()) {
            self.resolve_collisions(keys, &hashes, groups);
        }
        self.hashes = hashes;
    }

    fn has_nulls(&self) -> bool {
        self.keys.column(0).has_nulls()
    }

    /// Rows whose key differs from that of the group which their hash found go down the chain, or get groups of their
    /// own.
    fn resolve_collisions(&mut self, keys: &[ArrayRef], hashes: &[u64], groups: &mut [u32]) {
        let columns: Vec<usize> = (0..keys.len()).collect();
        let probes: Vec<u32> = (0..groups.len() as u32).collect();
        let mut equal = vec![true; groups.len()];
        self.keys.compare_keys(&columns, groups, keys, &probes, &mut equal);
        for i in (0..groups.len()).filter(|&i| !equal[i]) {
            let is_key = |row: &u32| {
                let mut mask = [true];
                self.keys.compare_keys(&columns, &[*row], keys, &[i as u32], &mut mask);
                mask[0]
            };
            let found = self.index.rows(hashes[i]).find(is_key);
            groups[i] = found.unwrap_or_else(|| {
                let at = self.added.len();
                self.keys.add(keys, Rows::Selected(&[i as u32]), &mut self.added);
                self.index.insert(hashes[i], self.added[at]);
                self.added[at]
            });
        }
    }

    /// Forgets groups; their numbers will be given to others.
    pub fn remove(&mut self, groups: &[u32]) {
        if groups.is_empty() {
            return;
        }
        let keys = self.keys.gather(groups);
        hash_columns(keys.columns(), groups.len(), &mut self.hashes);
        for (&group, &hash) in groups.iter().zip(&self.hashes) {
            self.index.remove(hash, group);
            self.keys.free(group);
        }
        self.keys.reclaim();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringViewArray};
    use arrow::datatypes::DataType;
    use millstream_types::delta::schema_of;
    use millstream_types::hash::mix;
    use std::collections::HashMap;
    use std::sync::Arc;

    #[test]
    fn numbers_stand_for_keys() {
        let schema = schema_of(&[("k", DataType::Int64), ("t", DataType::Utf8View)]);
        for width in [1, 2] {
            let fields: Vec<_> = schema.fields().iter().take(width).cloned().collect();
            let mut table =
                GroupTable::new(Arc::new(arrow::datatypes::Schema::new(fields))).expect("types can be kept");
            let mut model: HashMap<(Option<i64>, usize), u32> = HashMap::new();
            let mut groups = Vec::new();
            for step in 0..50u64 {
                let rows: Vec<(Option<i64>, usize)> = (0..300)
                    .map(|i| mix(step * 1000 + i))
                    .map(|r| {
                        (
                            (!r.is_multiple_of(11)).then_some((r % 200) as i64),
                            if width == 2 { (r >> 20) as usize % 3 } else { 0 },
                        )
                    })
                    .collect();
                let mut keys: Vec<ArrayRef> = vec![Arc::new(rows.iter().map(|r| r.0).collect::<Int64Array>())];
                if width == 2 {
                    let text = rows.iter().map(|r| Some("some text, longer than inline".repeat(r.1)));
                    keys.push(Arc::new(text.collect::<StringViewArray>()));
                }
                table.find_or_add(&keys, rows.len(), &mut groups);
                for (row, &group) in rows.iter().zip(&groups) {
                    assert_eq!(*model.entry(*row).or_insert(group), group);
                }
                assert_eq!(table.len(), model.len());
                let gone: Vec<_> =
                    model.keys().copied().filter(|k| mix(step ^ k.0.unwrap_or(-1) as u64).is_multiple_of(4)).collect();
                let numbers: Vec<u32> = gone.iter().map(|k| model.remove(k).expect("a key")).collect();
                table.remove(&numbers);
            }
        }
    }
}
