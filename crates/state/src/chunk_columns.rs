//! The columns of a chunk, as all find them who hold it: in memory, or where they were put meanwhile.
//!
//! Readers and what was handed over for a checkpoint hold images of chunks for as long as they take. All images of a chunk
//! share one place for its columns, so that memory is free as soon as they are put away, whoever holds an image.

use std::sync::{Arc, Weak};

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use millstream_types::Result;
use parking_lot::Mutex;

use crate::cold::{ColdChunk, ColdStore};
use crate::column::ColumnImage;
use crate::stored::StoredBlock;

/// A chunk's columns.
pub(crate) enum ChunkColumns {
    /// An arrangement's own.
    Own(Arc<OwnColumns>),
    /// To be read from where they lie for good.
    Stored(StoredBlock),
}

/// Where columns are; they have all rows of an image, and may have more after them.
#[derive(Clone)]
pub(crate) enum Place {
    Here(Arc<[ColumnImage]>),
    Away(Arc<dyn ColdChunk>),
}

/// Columns of a chunk in the place where they are now.
pub(crate) struct OwnColumns(Mutex<Place>);

impl OwnColumns {
    /// The columns of a chunk, which are there now; a chunk that was never published has none yet.
    pub(crate) fn of_chunk(columns: &mut Option<Arc<Self>>, place: Place) -> Arc<Self> {
        if let Some(columns) = columns {
            columns.set(place);
            return Arc::clone(columns);
        }
        Arc::clone(columns.insert(Arc::new(OwnColumns(Mutex::new(place)))))
    }

    /// They are there now.
    pub(crate) fn set(&self, place: Place) {
        *self.0.lock() = place;
    }

    /// The first `len` rows, or some columns of them.
    pub(crate) fn read(&self, schema: &SchemaRef, len: usize, projection: Option<&[usize]>) -> Result<RecordBatch> {
        let place = self.0.lock().clone();
        match place {
            Place::Away(away) => Ok(away.read(projection)?.slice(0, len)),
            Place::Here(columns) => batch_of(schema, &columns, len, projection),
        }
    }

    /// Puts all of them away, if they are in memory.
    fn put_away(&self, schema: &SchemaRef, store: &dyn ColdStore) -> Result<()> {
        let place = self.0.lock().clone();
        if let Place::Here(columns) = place {
            let len = columns.first().map_or(0, ColumnImage::len);
            self.set(Place::Away(store.put(&batch_of(schema, &columns, len, None)?)?));
        }
        Ok(())
    }
}

fn batch_of(
    schema: &SchemaRef,
    columns: &[ColumnImage],
    len: usize,
    projection: Option<&[usize]>,
) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(len));
    let column = |column: &ColumnImage| column.to_array().slice(0, len);
    let (schema, columns): (SchemaRef, Vec<ArrayRef>) = match projection {
        None => (schema.clone(), columns.iter().map(column).collect()),
        Some(p) => (Arc::new(schema.project(p)?), p.iter().map(|&i| column(&columns[i])).collect()),
    };
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

/// Columns of chunks that an arrangement has dropped, and that may be in memory since others hold them.
#[derive(Default)]
pub(crate) struct LeftBehind(Vec<(Weak<OwnColumns>, usize)>);

impl LeftBehind {
    /// Adds those of a chunk that is about to be dropped, and what they take.
    pub(crate) fn push(&mut self, columns: &Arc<OwnColumns>, n_bytes: usize) {
        self.0.push((Arc::downgrade(columns), n_bytes));
    }

    /// Forgets those that nobody holds any more.
    pub(crate) fn prune(&mut self) {
        self.0.retain(|(columns, _)| columns.strong_count() > 0);
    }

    /// Bytes in memory.
    pub(crate) fn n_bytes(&self) -> usize {
        self.0.iter().filter(|(columns, _)| columns.strong_count() > 0).map(|(_, n_bytes)| n_bytes).sum()
    }

    /// Puts some away, until there are no more than so many bytes.
    ///
    /// # Errors
    /// If that cannot be; then what is left stays.
    pub(crate) fn put_away(&mut self, n_bytes: usize, schema: &SchemaRef, store: &dyn ColdStore) -> Result<()> {
        while self.n_bytes() > n_bytes {
            let Some((columns, _)) = self.0.last() else { break };
            if let Some(columns) = columns.upgrade() {
                columns.put_away(schema, store)?;
            }
            self.0.pop();
        }
        Ok(())
    }
}
