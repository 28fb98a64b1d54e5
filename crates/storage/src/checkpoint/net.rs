//! What changes of a table come to: rows that a later change takes away again are left out.

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::interleave_record_batch;
use arrow::row::{RowConverter, Rows as KeyRows, SortField};
use hashbrown::HashMap;
use millstream_types::{Error, Result};

use super::format::TableShape;
use super::object_reader::{Piece, Rows};

/// No row, in the chains of rows of one identity.
const NONE: u32 = u32::MAX;

/// The identities of rows as bytes.
pub(super) struct Identities {
    /// `None` if there are no columns: then all rows are of one identity.
    converter: Option<RowConverter>,
    columns: Vec<usize>,
}

/// The identities of the rows of a piece.
pub(super) struct Keys(Option<KeyRows>);

impl Identities {
    /// Of the rows of a table.
    ///
    /// # Errors
    /// If the identity has a type that cannot be compared.
    pub(super) fn new(shape: &TableShape) -> Result<Identities> {
        let fields = shape.gone_schema()?;
        let sorts: Vec<SortField> = fields.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
        let converter = if sorts.is_empty() { None } else { Some(RowConverter::new(sorts)?) };
        Ok(Identities { converter, columns: shape.identity.clone() })
    }

    /// Of the rows of a piece.
    ///
    /// # Errors
    /// If its columns are not of the table's shape.
    pub(super) fn of(&self, piece: &Piece) -> Result<Keys> {
        let Some(converter) = &self.converter else { return Ok(Keys(None)) };
        let columns = piece.batch.columns();
        Ok(Keys(Some(match piece.rows {
            Rows::Gone => converter.convert_columns(columns)?,
            Rows::Added => {
                let columns: Vec<_> = self.columns.iter().map(|&c| columns[c].clone()).collect();
                converter.convert_columns(&columns)?
            }
        })))
    }
}

impl Keys {
    /// The identity of a row.
    pub(super) fn get(&self, row: usize) -> &[u8] {
        self.0.as_ref().map_or(&[], |keys| keys.row(row).data())
    }
}

/// Where a row is: its partition, which piece it is in, and its number there.
type Place = (u8, u32, u32);

/// What is left of changes, by partition.
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
/// Memory is 16 bytes for each row and the bytes of its identity.
///
/// # Errors
/// Internal, if nothing is older and a row takes away one that is not there.
pub(super) fn net(pieces: &[Piece], shape: &TableShape, identities: &Identities, is_oldest: bool) -> Result<Net> {
    let keys = pieces.iter().map(|piece| identities.of(piece)).collect::<Result<Vec<_>>>()?;
    let places = places(pieces);
    let mut before: Vec<u32> = vec![NONE; places.len()];
    let mut is_left = vec![false; places.len()];
    let mut by_key: HashMap<&[u8], Left> = HashMap::with_capacity(places.len());
    for (i, &(_, piece, row)) in places.iter().enumerate() {
        let left = by_key.entry(keys[piece as usize].get(row as usize)).or_insert(Left { gone: NONE, rows: NONE });
        let is_gone = pieces[piece as usize].rows == Rows::Gone;
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
    for (i, place) in places.into_iter().enumerate().filter(|(i, _)| is_left[*i]) {
        debug_assert!(i < NONE as usize, "chains have places for these rows");
        let is_gone = pieces[place.1 as usize].rows == Rows::Gone;
        if is_gone { &mut net.gone } else { &mut net.rows }.push(place);
    }
    // Stable, so rows stay in the order in which they came.
    net.gone.sort_by_key(|&(partition, ..)| partition);
    net.rows.sort_by_key(|&(partition, ..)| partition);
    Ok(net)
}

/// All rows, in the order in which they apply.
fn places(pieces: &[Piece]) -> Vec<Place> {
    let mut places = Vec::with_capacity(pieces.iter().map(|piece| piece.batch.num_rows()).sum());
    for (p, piece) in pieces.iter().enumerate() {
        let mut row = 0;
        for &(partition, n_rows) in &piece.runs {
            places.extend((row..row + n_rows).map(|row| (partition, p as u32, row)));
            row += n_rows;
        }
    }
    places
}

/// The rows at places, at most so many at once, and how many are in which partition.
pub(super) fn rows_at(pieces: &[Piece], places: &[Place]) -> Result<(Vec<(u8, u32)>, RecordBatch)> {
    let mut runs: Vec<(u8, u32)> = Vec::new();
    for &(partition, ..) in places {
        match runs.last_mut() {
            Some((last, n)) if *last == partition => *n += 1,
            _ => runs.push((partition, 1)),
        }
    }
    // Only pieces of one schema can be asked: those that the places name.
    let mut used: Vec<u32> = places.iter().map(|&(_, piece, _)| piece).collect();
    used.sort_unstable();
    used.dedup();
    let batches: Vec<&RecordBatch> = used.iter().map(|&piece| &pieces[piece as usize].batch).collect();
    let position = |piece: u32| used.binary_search(&piece).expect("it is among them");
    let indices: Vec<(usize, usize)> = places.iter().map(|&(_, piece, row)| (position(piece), row as usize)).collect();
    Ok((runs, interleave(&batches, &indices)?))
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

    /// Pieces from `- key`, `+ key value`; all in one partition.
    fn pieces(changes: &[(Rows, i64, i64)], is_multiset: bool) -> Vec<Piece> {
        let piece = |&(rows, key, value): &(Rows, i64, i64)| {
            let columns =
                [("k", key), ("v", value)].map(|(name, n)| (name, Arc::new(Int64Array::from(vec![n])) as ArrayRef));
            let n_columns = if rows == Rows::Gone && !is_multiset { 1 } else { 2 };
            let batch = RecordBatch::try_from_iter(columns.into_iter().take(n_columns)).expect("columns");
            Piece { rows, runs: vec![(0, 1)], batch }
        };
        changes.iter().map(piece).collect()
    }

    /// What is left, as numbers of the changes.
    fn left(changes: &[(Rows, i64, i64)], is_multiset: bool, is_oldest: bool) -> Result<(Vec<u32>, Vec<u32>)> {
        let schema = schema_of(&[("k", DataType::Int64), ("v", DataType::Int64)]);
        let shape = if is_multiset { TableShape::multiset(schema) } else { TableShape::keyed(schema, vec![0]) };
        let net = net(&pieces(changes, is_multiset), &shape, &Identities::new(&shape)?, is_oldest)?;
        let numbers = |places: Vec<Place>| places.into_iter().map(|(_, piece, _)| piece).collect();
        Ok((numbers(net.gone), numbers(net.rows)))
    }

    #[test]
    fn what_is_left() {
        use Rows::{Added, Gone};
        let updated = [(Added, 1, 10), (Gone, 1, 0), (Added, 1, 11), (Gone, 2, 0), (Added, 2, 20)];
        assert_eq!(left(&updated, false, false), Ok((vec![3], vec![2, 4])));
        assert!(left(&updated, false, true).is_err(), "there is no older row with key 2");
        assert_eq!(left(&updated[..3], false, true), Ok((vec![], vec![2])));
        let twice = [(Added, 1, 1), (Added, 1, 1), (Gone, 1, 1), (Gone, 2, 2), (Added, 2, 2), (Added, 2, 3)];
        assert_eq!(left(&twice, true, false), Ok((vec![], vec![0, 5])), "the like of what is gone cancels it");
        assert!(left(&twice[2..3], true, true).is_err());
        assert_eq!(left(&twice[2..4], true, false), Ok((vec![0, 1], vec![])));
    }
}
