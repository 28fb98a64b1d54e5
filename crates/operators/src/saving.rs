//! What operators share when they save their state.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema};
use millstream_expr::scalar::batch_of;
use millstream_state::SavedState;
use millstream_types::hash::hash_columns;
use millstream_types::{Error, Result};

/// Rows that are gathered and saved at once.
pub(crate) const SAVED_ROWS: usize = 1 << 16;

/// Adds rows, given as columns, to a table; the columns at the places `by` say where rows belong.
pub(crate) fn save_rows(
    saved: &mut SavedState,
    table: u32,
    columns: Vec<ArrayRef>,
    n_rows: usize,
    by: &[usize],
) -> Result<()> {
    let keys: Vec<ArrayRef> = by.iter().map(|&c| Arc::clone(&columns[c])).collect();
    let mut hashes = Vec::new();
    hash_columns(&keys, n_rows, &mut hashes);
    let field = |(i, c): (usize, &ArrayRef)| Field::new(format!("c{i}"), c.data_type().clone(), true);
    let schema = Schema::new(columns.iter().enumerate().map(field).collect::<Vec<_>>());
    saved.add(table, &batch_of(Arc::new(schema), columns, n_rows)?, &hashes)
}

/// The columns of a table and how many rows it has; nothing if it has none.
pub(crate) fn saved_columns(
    saved: &SavedState,
    table: u32,
    n_columns: usize,
) -> Result<Option<(Vec<ArrayRef>, usize)>> {
    let Some(rows) = saved.rows(table)? else { return Ok(None) };
    if rows.num_columns() != n_columns {
        let n_found = rows.num_columns();
        return Err(Error::internal(format!("a saved table has {n_found} columns instead of {n_columns}")));
    }
    Ok(Some((rows.columns().to_vec(), rows.num_rows())))
}

/// The same for tables that have rows of a schema.
pub(crate) fn saved_rows(
    saved: &SavedState,
    table: u32,
    schema: &arrow::datatypes::SchemaRef,
) -> Result<Option<RecordBatch>> {
    let columns = saved_columns(saved, table, schema.fields().len())?;
    columns.map(|(columns, n_rows)| batch_of(schema.clone(), columns, n_rows)).transpose()
}

/// Where, among the columns of a key, the columns are that rows are partitioned by.
pub(crate) fn places_in_key(partitioned_by: &[usize], key: &[usize]) -> Result<Vec<usize>> {
    let place = |c: &usize| key.iter().position(|k| k == c);
    let places = partitioned_by.iter().map(place).collect::<Option<_>>();
    places.ok_or_else(|| Error::internal("rows are partitioned by more than their key"))
}
