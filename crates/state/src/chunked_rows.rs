//! Rows in columns without reuse of ids, for arrangements: whole chunks are freed, single rows are not.
//!
//! A chunk is full with [`CHUNK_ROWS`] rows, or with fewer if those take [`CHUNK_BYTES`]. One that is full is never written
//! again, so it can be put away: then its rows are read from where it was put whenever they are wanted, at most once for
//! each call, and only the columns that are wanted.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat, take};
use arrow::datatypes::SchemaRef;
use millstream_types::{Error, Result};

use crate::chunk_columns::Place;
use crate::codec::compacted;
use crate::cold::{ColdChunk, ColdStore};
use crate::column::{CHUNK_ROWS, Column, Equality, Rows, chunk_of, offset_of, row_id};
use crate::row_sizes::RowSizes;

/// Bytes of values that fill a chunk, however few rows they are: what is put away, read back and copied is a chunk at a time.
const CHUNK_BYTES: usize = if cfg!(test) { 1 << 17 } else { 1 << 20 };

/// Clears the mask where rows differ from probes.
type Compare<'a> = &'a dyn Fn(&[u32], &[u32], &mut [bool]);

/// Rows of an arrangement, by id.
pub(crate) struct ChunkedRows {
    pub(crate) schema: SchemaRef,
    pub(crate) columns: Vec<Column>,
    lens: Vec<usize>,
    /// Bytes of each chunk's values when they were added.
    n_bytes_added: Vec<usize>,
    tail: Option<usize>,
    free_chunks: Vec<usize>,
    /// Chunks that were put away; as long as there were chunks when the last one was.
    away: Vec<Option<Arc<dyn ColdChunk>>>,
    n_away: usize,
}

impl ChunkedRows {
    pub(crate) fn new(schema: SchemaRef) -> Result<Self> {
        let columns = schema.fields().iter().map(|f| Column::new(f.data_type())).collect::<Result<_>>()?;
        let (lens, n_bytes_added, free_chunks, away) = Default::default();
        Ok(ChunkedRows { schema, columns, lens, n_bytes_added, tail: None, free_chunks, away, n_away: 0 })
    }

    pub(crate) fn n_bytes(&self) -> usize {
        self.columns.iter().map(Column::n_bytes).sum()
    }

    /// Bytes of chunks that were put away, where they are.
    pub(crate) fn n_bytes_away(&self) -> usize {
        self.away.iter().flatten().map(|chunk| chunk.n_bytes()).sum()
    }

    /// Whether some chunks were put away.
    pub(crate) fn has_away(&self) -> bool {
        self.n_away > 0
    }

    /// The chunk, if it was put away.
    pub(crate) fn away(&self, chunk: usize) -> Option<&Arc<dyn ColdChunk>> {
        self.away.get(chunk).and_then(Option::as_ref)
    }

    /// Whether a chunk can be put away: it is in memory and will not be written again.
    pub(crate) fn can_go(&self, chunk: usize) -> bool {
        self.is_full(chunk) && self.away(chunk).is_none()
    }

    /// Whether a chunk gets no more rows.
    pub(crate) fn is_full(&self, chunk: usize) -> bool {
        self.lens[chunk] == CHUNK_ROWS || self.n_bytes_added[chunk] >= CHUNK_BYTES
    }

    /// Puts a chunk away.
    ///
    /// # Errors
    /// If that cannot be; then it stays.
    pub(crate) fn put_away(&mut self, chunk: usize, store: &dyn ColdStore) -> Result<()> {
        debug_assert!(self.can_go(chunk));
        let len = self.lens[chunk];
        let columns = self.columns.iter().map(|column| column.share(chunk, len).to_array()).collect();
        let away = store.put(&batch_of(&self.schema, columns, len)?)?;
        self.forget_values(chunk);
        if self.away.len() < self.lens.len() {
            self.away.resize(self.lens.len(), None);
        }
        self.away[chunk] = Some(away);
        self.n_away += 1;
        self.close(chunk);
        Ok(())
    }

    fn forget_values(&mut self, chunk: usize) {
        for column in &mut self.columns {
            (0..self.lens[chunk]).for_each(|offset| column.forget(row_id(chunk, offset)));
            column.drop_chunk(chunk);
        }
    }

    /// About the bytes in memory of a chunk's values.
    pub(crate) fn n_bytes_of(&self, chunk: usize) -> usize {
        if self.away(chunk).is_some() { 0 } else { self.n_bytes_added[chunk] }
    }

    pub(crate) fn len_of(&self, chunk: usize) -> usize {
        self.lens[chunk]
    }

    /// No more rows go to a chunk, if it is the one that is filled.
    pub(crate) fn close(&mut self, chunk: usize) {
        self.tail = self.tail.filter(|&tail| tail != chunk);
    }

    /// Makes another chunk, or a new one, the one that is filled; returns the one that was.
    pub(crate) fn swap_tail(&mut self, tail: Option<usize>) -> Option<usize> {
        std::mem::replace(&mut self.tail, tail)
    }

    /// Appends rows and calls `placed(chunk, offset, n)` for each run of them.
    pub(crate) fn append(&mut self, columns: &[ArrayRef], rows: Rows<'_>, mut placed: impl FnMut(usize, usize, usize)) {
        let sizes = RowSizes::of(columns);
        let mut done = 0;
        while done < rows.len() {
            let chunk = self.tail.filter(|&c| !self.is_full(c)).unwrap_or_else(|| self.open_chunk());
            let offset = self.lens[chunk];
            let left = rows.slice(done, (rows.len() - done).min(CHUNK_ROWS - offset));
            let (n, n_bytes) = sizes.first_of(left, CHUNK_BYTES - self.n_bytes_added[chunk]);
            for (column, array) in self.columns.iter_mut().zip(columns) {
                column.append(chunk, array, rows.slice(done, n));
            }
            self.lens[chunk] += n;
            self.n_bytes_added[chunk] += n_bytes;
            placed(chunk, offset, n);
            done += n;
        }
    }

    fn open_chunk(&mut self) -> usize {
        let chunk = self.free_chunks.pop().unwrap_or_else(|| {
            self.lens.push(0);
            self.n_bytes_added.push(0);
            self.lens.len() - 1
        });
        self.tail = Some(chunk);
        chunk
    }

    /// Frees a chunk, with all its rows.
    pub(crate) fn drop_chunk(&mut self, chunk: usize) {
        match self.away.get_mut(chunk).and_then(Option::take) {
            Some(_) => self.n_away -= 1,
            None => self.forget_values(chunk),
        }
        (self.lens[chunk], self.n_bytes_added[chunk]) = (0, 0);
        self.free_chunks.push(chunk);
        self.close(chunk);
    }

    /// A chunk's columns for readers.
    pub(crate) fn share(&self, chunk: usize) -> Place {
        match self.away(chunk) {
            Some(away) => Place::Away(Arc::clone(away)),
            None => Place::Here(self.columns.iter().map(|c| c.share(chunk, self.lens[chunk])).collect()),
        }
    }

    /// The given rows.
    pub(crate) fn gather(&self, rows: &[u32]) -> Result<RecordBatch> {
        let all: Vec<usize> = (0..self.columns.len()).collect();
        batch_of(&self.schema, self.gather_columns(&all, rows)?, rows.len())
    }

    /// Columns of the given rows.
    ///
    /// # Errors
    /// If a chunk that was put away cannot be read.
    pub(crate) fn gather_columns(&self, columns: &[usize], rows: &[u32]) -> Result<Vec<ArrayRef>> {
        debug_assert!(rows.iter().all(|&r| offset_of(r) < self.lens[chunk_of(r)]));
        if self.n_away == 0 || columns.is_empty() || rows.iter().all(|&row| self.away(chunk_of(row)).is_none()) {
            return Ok(columns.iter().map(|&c| self.columns[c].gather(rows)).collect());
        }
        let (here, away) = self.by_chunk(rows);
        let mut pieces: Vec<Vec<ArrayRef>> = columns.iter().map(|_| Vec::new()).collect();
        // Where in the pieces, one after the other, each row is.
        let mut places: Vec<u32> = vec![0; rows.len()];
        let mut n_placed = 0;
        let mut place = |indices: &[u32]| {
            indices.iter().zip(n_placed..).for_each(|(&i, at)| places[i as usize] = at);
            n_placed += indices.len() as u32;
        };
        let rows_here: Vec<u32> = here.iter().map(|&i| rows[i as usize]).collect();
        place(&here);
        pieces.iter_mut().zip(columns).for_each(|(piece, &c)| piece.push(self.columns[c].gather(&rows_here)));
        for (chunk, indices) in away {
            let batch = self.read(chunk, columns)?;
            let offsets: UInt32Array = indices.iter().map(|&i| offset_of(rows[i as usize]) as u32).collect();
            place(&indices);
            for (piece, column) in pieces.iter_mut().zip(batch.columns()) {
                // Few of its texts are not to keep all of the chunk's.
                piece.push(compacted(&take(column, &offsets, None)?));
            }
        }
        let places = UInt32Array::from(places);
        let in_order = |pieces: Vec<ArrayRef>| -> Result<ArrayRef> {
            let pieces: Vec<&dyn arrow::array::Array> = pieces.iter().map(|piece| &**piece).collect();
            Ok(take(&concat(&pieces)?, &places, None)?)
        };
        pieces.into_iter().map(in_order).collect()
    }

    /// Clears `mask[i]` where, of any of the columns, the value of `rows[i]` is another than that at `probes[i]` of the
    /// array that stands with the column.
    ///
    /// # Errors
    /// If a chunk that was put away cannot be read.
    pub(crate) fn compare(
        &self,
        equality: Equality,
        columns: &[(usize, &ArrayRef)],
        rows: &[u32],
        probes: &[u32],
        mask: &mut [bool],
    ) -> Result<()> {
        if self.n_away == 0 || rows.iter().all(|&row| self.away(chunk_of(row)).is_none()) {
            for (column, array) in columns {
                self.columns[*column].compare(equality, rows, array, probes, mask);
            }
            return Ok(());
        }
        let (here, away) = self.by_chunk(rows);
        let mut compare = |indices: &[u32], compare: Compare<'_>| {
            let of = |values: &[u32]| indices.iter().map(|&i| values[i as usize]).collect::<Vec<u32>>();
            let mut equal: Vec<bool> = indices.iter().map(|&i| mask[i as usize]).collect();
            compare(&of(rows), &of(probes), &mut equal);
            indices.iter().zip(equal).for_each(|(&i, equal)| mask[i as usize] = equal);
        };
        compare(&here, &|rows, probes, equal| {
            columns.iter().for_each(|(c, array)| self.columns[*c].compare(equality, rows, array, probes, equal));
        });
        let read: Vec<usize> = columns.iter().map(|(c, _)| *c).collect();
        for (chunk, indices) in away {
            let batch = self.read(chunk, &read)?;
            let all = Rows::Range { offset: 0, len: batch.num_rows() };
            let mut values = Vec::new();
            for column in batch.columns() {
                let mut value = Column::new(column.data_type())?;
                value.append(0, column, all);
                values.push(value);
            }
            compare(&indices, &|rows, probes, equal| {
                let rows: Vec<u32> = rows.iter().map(|&row| offset_of(row) as u32).collect();
                let columns = values.iter().zip(columns);
                columns.for_each(|(value, (_, array))| value.compare(equality, &rows, array, probes, equal));
            });
        }
        Ok(())
    }

    /// The indices of rows in memory, and of others by chunk.
    fn by_chunk(&self, rows: &[u32]) -> (Vec<u32>, BTreeMap<usize, Vec<u32>>) {
        let (mut here, mut away) = (Vec::new(), BTreeMap::<usize, Vec<u32>>::new());
        for (i, &row) in (0..).zip(rows) {
            let chunk = chunk_of(row);
            if self.away(chunk).is_some() { away.entry(chunk).or_default().push(i) } else { here.push(i) }
        }
        (here, away)
    }

    fn read(&self, chunk: usize, columns: &[usize]) -> Result<RecordBatch> {
        let away = self.away(chunk).ok_or_else(|| Error::internal("a chunk is not where it was put"))?;
        away.read(Some(columns))
    }
}

fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, n_rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}
