//! What changes of a table come to: rows that a later change takes away again are left out.

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::interleave_record_batch;
use arrow::row::{RowConverter, Rows as KeyRows, SortField};
use hashbrown::HashMap;
use millstream_state::TableShape;
use millstream_types::{Error, Result};

use super::format::{Part, partitions, runs};
use super::object_reader::Piece;

/// No row, in the chains of rows of one identity.
const NONE: u32 = u32::MAX;

/// The identities of rows as bytes.
///
/// `None` if there are no columns: then all rows are of one identity.
pub(super) struct Identities(Option<RowConverter>);

/// Rows of one part of a change.
pub(super) struct Change {
    pub(super) part: Part,
    pub(super) batch: RecordBatch,
    /// What they are sorted by: see [`Part::order_of`].
    pub(super) order: Vec<u64>,
}

impl Change {
    /// Rows of which only the partition matters.
    pub(super) fn by_partition(piece: Piece) -> Change {
        let order = partitions(&piece.runs).map(|partition| u64::from(partition) << 56).collect();
        Change { part: piece.part, batch: piece.batch, order }
    }
}

impl Identities {
    /// Of the rows of a table.
    ///
    /// # Errors
    /// If the identity has a type that cannot be compared.
    pub(super) fn new(shape: &TableShape) -> Result<Identities> {
        let fields = shape.gone_schema()?;
        let sorts: Vec<SortField> = fields.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
        Ok(Identities(if sorts.is_empty() { None } else { Some(RowConverter::new(sorts)?) }))
    }

    /// Of the rows of a change.
    fn of(&self, change: &Change, shape: &TableShape) -> Result<Option<KeyRows>> {
        let columns = change.part.identity_of(shape, &change.batch);
        Ok(self.0.as_ref().map(|converter| converter.convert_columns(&columns)).transpose()?)
    }
}

/// Where a row is: what it is sorted by, which change it is in, and its number there.
type Place = (u64, u32, u32);

/// What is left of changes, in order.
#[derive(Default)]
pub(super) struct Net {
    pub(super) gone: Vec<Place>,
    pub(super) rows: Vec<Place>,
}

/// The rows of one identity that are left so far, as chains, the newest first.
struct Left {
    gone: u32,
    rows: u32,
}

/// What changes come to, oldest first. If nothing is older than they are, nothing of what is gone is left.
///
/// Memory is about 40 bytes for each row, and the bytes of its identity.
///
/// # Errors
/// Internal, if nothing is older and a row takes away one that is not there.
pub(super) fn net(changes: &[Change], shape: &TableShape, identities: &Identities, is_oldest: bool) -> Result<Net> {
    let keys = changes.iter().map(|change| identities.of(change, shape)).collect::<Result<Vec<_>>>()?;
    let of_change = |(c, change): (u32, &Change)| -> Vec<Place> {
        change.order.iter().zip(0..).map(|(&order, row)| (order, c, row)).collect()
    };
    let places: Vec<Place> = (0..).zip(changes).flat_map(of_change).collect();
    debug_assert!(places.len() < NONE as usize, "chains have numbers for these rows");
    let mut before: Vec<u32> = vec![NONE; places.len()];
    let mut is_left = vec![false; places.len()];
    let mut by_key: HashMap<&[u8], Left> = HashMap::with_capacity(places.len());
    for (i, &(_, c, row)) in places.iter().enumerate() {
        let key = keys[c as usize].as_ref().map_or(&[][..], |keys| keys.row(row as usize).data());
        let left = by_key.entry(key).or_insert(Left { gone: NONE, rows: NONE });
        let is_gone = changes[c as usize].part == Part::Gone;
        // A row cancels one that it takes away, and in a multiset one of which it is the like.
        let other = if is_gone { &mut left.rows } else { &mut left.gone };
        if *other != NONE && (is_gone || shape.is_multiset()) {
            is_left[*other as usize] = false;
            *other = before[*other as usize];
        } else if is_gone && is_oldest {
            return Err(Error::internal("a checkpoint takes away a row that is not there"));
        } else {
            let same = if is_gone { &mut left.gone } else { &mut left.rows };
            before[i] = *same;
            *same = i as u32;
            is_left[i] = true;
        }
    }
    let mut net = Net::default();
    for (_, place) in is_left.into_iter().zip(places).filter(|(is_left, _)| *is_left) {
        let is_gone = changes[place.1 as usize].part == Part::Gone;
        if is_gone { &mut net.gone } else { &mut net.rows }.push(place);
    }
    net.gone.sort_unstable();
    net.rows.sort_unstable();
    Ok(net)
}

/// The rows at places, and how many are in which partition.
pub(super) fn rows_at(changes: &[Change], places: &[Place]) -> Result<(Vec<(u8, u32)>, RecordBatch)> {
    // Only changes of one schema can be asked: those that the places name.
    let mut used: Vec<u32> = places.iter().map(|&(_, change, _)| change).collect();
    used.sort_unstable();
    used.dedup();
    let batches: Vec<&RecordBatch> = used.iter().map(|&change| &changes[change as usize].batch).collect();
    let position = |change: u32| used.binary_search(&change).expect("it is among them");
    let indices: Vec<(usize, usize)> =
        places.iter().map(|&(_, change, row)| (position(change), row as usize)).collect();
    Ok((runs(places.iter().map(|&(order, ..)| order)), interleave(&batches, &indices)?))
}

/// Rows of batches of one schema, of which there is at least one, also if they have no columns.
///
/// # Errors
/// If a type has no kernel for it.
pub(super) fn interleave(batches: &[&RecordBatch], indices: &[(usize, usize)]) -> Result<RecordBatch> {
    if batches[0].num_columns() == 0 {
        let options = RecordBatchOptions::new().with_row_count(Some(indices.len()));
        return Ok(RecordBatch::try_new_with_options(batches[0].schema(), vec![], &options)?);
    }
    Ok(interleave_record_batch(batches, indices)?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::DataType;
    use millstream_types::delta::schema_of;

    use super::*;

    /// Changes of one row each; all in one partition.
    fn changes_of(changes: &[(Part, i64, i64)], is_multiset: bool) -> Vec<Change> {
        let change = |&(part, key, value): &(Part, i64, i64)| {
            let columns =
                [("k", key), ("v", value)].map(|(name, n)| (name, Arc::new(Int64Array::from(vec![n])) as ArrayRef));
            let n_columns = if part == Part::Gone && !is_multiset { 1 } else { 2 };
            let batch = RecordBatch::try_from_iter(columns.into_iter().take(n_columns)).expect("columns");
            Change { part, batch, order: vec![0] }
        };
        changes.iter().map(change).collect()
    }

    /// What is left, as numbers of the changes.
    fn left(changes: &[(Part, i64, i64)], is_multiset: bool, is_oldest: bool) -> Result<(Vec<u32>, Vec<u32>)> {
        let schema = schema_of(&[("k", DataType::Int64), ("v", DataType::Int64)]);
        let shape = if is_multiset { TableShape::multiset(schema) } else { TableShape::keyed(schema, vec![0]) };
        let net = net(&changes_of(changes, is_multiset), &shape, &Identities::new(&shape)?, is_oldest)?;
        let numbers = |places: Vec<Place>| places.into_iter().map(|(_, change, _)| change).collect();
        Ok((numbers(net.gone), numbers(net.rows)))
    }

    #[test]
    fn what_is_left() {
        use Part::{Gone, Rows};
        let updated = [(Rows, 1, 10), (Gone, 1, 0), (Rows, 1, 11), (Gone, 2, 0), (Rows, 2, 20)];
        assert_eq!(left(&updated, false, false), Ok((vec![3], vec![2, 4])));
        assert!(left(&updated, false, true).is_err(), "there is no older row with key 2");
        assert_eq!(left(&updated[..3], false, true), Ok((vec![], vec![2])));
        let twice = [(Rows, 1, 1), (Rows, 1, 1), (Gone, 1, 1), (Gone, 2, 2), (Rows, 2, 2), (Rows, 2, 3)];
        assert_eq!(left(&twice, true, false), Ok((vec![], vec![0, 5])), "the like of what is gone cancels it");
        assert!(left(&twice[2..3], true, true).is_err());
        assert_eq!(left(&twice[2..4], true, false), Ok((vec![0, 1], vec![])));
    }
}
