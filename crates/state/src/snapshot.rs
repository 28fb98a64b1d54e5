//! The readers' end of an arrangement: its rows at an epoch, and the difference between two.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use millstream_types::{Delta, Epoch, Result};
use parking_lot::Mutex;

use crate::chunk_columns::ChunkColumns;
use crate::cold::ReadAhead;
use crate::column::{CHUNK_ROWS, chunk_of, offset_of};
use crate::reading::ChunksAhead;
use crate::stored::Statistics;

/// A set of rows of a chunk; copies share memory until one changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowBits {
    words: Option<Arc<[u64; CHUNK_ROWS / 64]>>,
    count: usize,
}

impl RowBits {
    #[inline]
    pub(crate) fn get(&self, offset: usize) -> bool {
        self.words.as_ref().is_some_and(|w| w[offset / 64] >> (offset % 64) & 1 == 1)
    }

    pub(crate) fn set(&mut self, offset: usize) {
        let words = self.words.get_or_insert_with(|| Arc::new([0; CHUNK_ROWS / 64]));
        let word = &mut Arc::make_mut(words)[offset / 64];
        self.count += usize::from(*word >> (offset % 64) & 1 == 0);
        *word |= 1 << (offset % 64);
    }

    pub(crate) fn clear(&mut self, offset: usize) {
        if self.get(offset) {
            let words = self.words.as_mut().expect("a bit is set");
            Arc::make_mut(words)[offset / 64] &= !(1 << (offset % 64));
            self.count -= 1;
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The rows that are in it, ascending.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = usize> {
        let words = self.words.iter().flat_map(|words| words.iter().enumerate());
        words.flat_map(|(i, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros() as usize;
                (rest != 0).then(|| {
                    rest &= rest - 1;
                    i * 64 + bit
                })
            })
        })
    }

    /// The first `n` rows.
    pub(crate) fn first(n: usize) -> RowBits {
        static ALL: LazyLock<RowBits> = LazyLock::new(|| RowBits::of_words(|_| u64::MAX));
        if n == CHUNK_ROWS {
            return ALL.clone();
        }
        Self::of_words(|i| match n.saturating_sub(i * 64) {
            0 => 0,
            left @ 1..64 => (1 << left) - 1,
            _ => u64::MAX,
        })
    }

    /// Those that are not in another set.
    pub(crate) fn without(&self, other: &RowBits) -> RowBits {
        if self.count == 0 || other.count == 0 {
            return self.clone();
        }
        Self::of_words(|i| self.word(i) & !other.word(i))
    }

    /// Those that are in another set too.
    pub(crate) fn and(&self, other: &RowBits) -> RowBits {
        if self.count == 0 || other.count == 0 {
            return RowBits::default();
        }
        Self::of_words(|i| self.word(i) & other.word(i))
    }

    fn word(&self, i: usize) -> u64 {
        self.words.as_ref().map_or(0, |words| words[i])
    }

    fn of_words(word: impl Fn(usize) -> u64) -> RowBits {
        let words: [u64; CHUNK_ROWS / 64] = std::array::from_fn(word);
        let count = words.iter().map(|word| word.count_ones() as usize).sum();
        RowBits { words: (count > 0).then(|| Arc::new(words)), count }
    }
}

/// When the rows of a chunk were born: runs `(first row, epoch)` with ascending epochs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Births(Vec<(u32, Epoch)>);

impl From<&[(u32, Epoch)]> for Births {
    fn from(runs: &[(u32, Epoch)]) -> Self {
        Births(runs.to_vec())
    }
}

impl Births {
    pub(crate) fn push(&mut self, first_row: usize, epoch: Epoch) {
        debug_assert!(self.0.last().is_none_or(|l| l.1 <= epoch));
        self.0.push((first_row as u32, epoch));
    }

    /// Makes one run of those that nobody tells apart any more.
    pub(crate) fn fold(&mut self, since: Epoch) {
        let n_old = self.0.partition_point(|r| r.1 <= since);
        if n_old > 1 {
            let newest = self.0[n_old - 1].1;
            self.0.drain(1..n_old);
            self.0[0].1 = newest;
        }
    }

    pub(crate) fn newest(&self) -> Epoch {
        self.0.last().map_or(Epoch::ZERO, |r| r.1)
    }

    /// The runs of the rows from one on, as if it were the first.
    pub(crate) fn runs_from(&self, row: usize) -> Vec<(u32, Epoch)> {
        let before = self.0.partition_point(|run| run.0 as usize <= row).saturating_sub(1);
        self.0[before..].iter().map(|&(first, epoch)| (first.saturating_sub(row as u32), epoch)).collect()
    }

    /// How many of the first `len` rows were born at or before an epoch.
    #[inline]
    pub(crate) fn n_born_by(&self, epoch: Epoch, len: usize) -> usize {
        match self.0.last() {
            Some((_, newest)) if *newest > epoch => {
                let i = self.0.partition_point(|r| r.1 <= epoch);
                self.0[i].0 as usize
            }
            _ => len,
        }
    }
}

/// A chunk as readers hold it.
pub(crate) struct ChunkImage {
    pub(crate) columns: ChunkColumns,
    pub(crate) len: usize,
    pub(crate) births: Births,
    /// Rows that no reader sees any more.
    pub(crate) reclaimed: RowBits,
}

impl ChunkImage {
    /// Begins to read it, if it is a block that is far.
    fn read_ahead(&self, projection: Option<&[usize]>) -> Option<ReadAhead> {
        match &self.columns {
            ChunkColumns::Stored(block) => block.rows.read_ahead(projection),
            // What is not in memory for lack of room is on a disk.
            ChunkColumns::Own(_) => None,
        }
    }

    /// Of the rows, those that were born after one epoch, if it matters, and up to another.
    fn born(&self, after: Option<Epoch>, up_to: Epoch) -> Range<usize> {
        let end = self.births.n_born_by(up_to, self.len);
        after.map_or(0, |after| self.births.n_born_by(after, self.len).min(end))..end
    }
}

/// What the owner has published; exchanged at each seal.
#[derive(Default)]
pub(crate) struct Published {
    /// Rows that lie elsewhere for good, which come before the chunks. Only where no row ever dies by itself.
    pub(crate) stored: Arc<Vec<Arc<ChunkImage>>>,
    /// From the first epoch on, rows that were born at or before the second are forgotten. Both ascend.
    pub(crate) floors: Vec<(Epoch, Epoch)>,
    pub(crate) chunks: Vec<Option<Arc<ChunkImage>>>,
    pub(crate) deaths: VecDeque<(Epoch, Arc<[u32]>)>,
    pub(crate) sealed: Epoch,
}

impl Published {
    fn all_chunks(&self) -> Chunks {
        Chunks { stored: Arc::clone(&self.stored), chunks: self.chunks.clone() }
    }
}

/// Chunks as a reader has taken them: those that are stored, and then the others.
#[derive(Clone)]
struct Chunks {
    stored: Arc<Vec<Arc<ChunkImage>>>,
    chunks: Vec<Option<Arc<ChunkImage>>>,
}

impl Chunks {
    /// What is on its way of a chunk; those of the next ones that have rows born in between are on theirs then.
    fn take_ahead(
        &self,
        chunk_idx: usize,
        next: impl IntoIterator<Item = usize>,
        projection: Option<&[usize]>,
        (from, to): (Option<Epoch>, Epoch),
        ahead: &mut ChunksAhead,
    ) -> Option<ReadAhead> {
        ahead.take(chunk_idx, next, |next| {
            let chunk = self.get(next)?;
            if chunk.born(from, to).is_empty() { None } else { chunk.read_ahead(projection) }
        })
    }

    fn len(&self) -> usize {
        self.stored.len() + self.chunks.len()
    }

    fn get(&self, idx: usize) -> Option<&Arc<ChunkImage>> {
        match idx.checked_sub(self.stored.len()) {
            None => self.stored.get(idx),
            Some(idx) => self.chunks[idx].as_ref(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<ChunkImage>> {
        self.stored.iter().chain(self.chunks.iter().flatten())
    }

    /// Of rows that have died, in order, those of a chunk.
    fn of_chunk<'a>(&self, died: &'a [u32], idx: usize) -> &'a [u32] {
        let Some(idx) = idx.checked_sub(self.stored.len()) else { return &[] };
        let from = died.partition_point(|&row| chunk_of(row) < idx);
        &died[from..died.partition_point(|&row| chunk_of(row) <= idx)]
    }
}

/// Reads an arrangement from any thread.
#[derive(Clone)]
pub struct ArrangementReader {
    schema: SchemaRef,
    published: Arc<Mutex<Published>>,
}

impl ArrangementReader {
    pub(crate) fn new(schema: SchemaRef, published: Arc<Mutex<Published>>) -> Self {
        ArrangementReader { schema, published }
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The last sealed epoch.
    pub fn sealed(&self) -> Epoch {
        self.published.lock().sealed
    }

    /// The rows as of an epoch. The caller holds the relation at that epoch, or an earlier one, and nothing that it
    /// wants to see is still to be sealed.
    pub fn snapshot(&self, epoch: Epoch) -> Snapshot {
        let (chunks, deaths, floor) = {
            let published = self.published.lock();
            let floor = published.floors.iter().rev().find(|(from, _)| *from <= epoch);
            (published.all_chunks(), published.deaths.clone(), floor.map(|(_, floor)| *floor))
        };
        let mut dead: Vec<u32> = Vec::new();
        for (_, rows) in deaths.iter().filter(|d| d.0 <= epoch) {
            dead.extend_from_slice(rows);
        }
        dead.sort_unstable();
        Snapshot { schema: self.schema.clone(), epoch, floor, chunks, dead }
    }

    /// What changed after epoch `from` up to epoch `to`. The caller holds the relation at `from` or earlier, and nothing
    /// up to `to` is still to be sealed.
    pub fn changes(&self, from: Epoch, to: Epoch) -> Changes {
        let (chunks, deaths) = {
            let published = self.published.lock();
            (published.all_chunks(), published.deaths.clone())
        };
        let mut died: Vec<u32> = Vec::new();
        for (_, rows) in deaths.iter().filter(|d| from < d.0 && d.0 <= to) {
            died.extend_from_slice(rows);
        }
        died.sort_unstable();
        Changes { schema: self.schema.clone(), from, to, chunks, died }
    }
}

/// The difference of an arrangement's rows between two epochs: births count +1, deaths -1. Holds memory, not locks.
///
/// Taking it is linear in the number of chunks and of deaths; a chunk in which nothing happened costs nothing more.
pub struct Changes {
    schema: SchemaRef,
    from: Epoch,
    to: Epoch,
    chunks: Chunks,
    /// Rows that died in between, ascending.
    died: Vec<u32>,
}

impl Changes {
    /// The number of chunks, each of which gives at most one delta.
    pub fn n_chunks(&self) -> usize {
        self.chunks.len()
    }

    /// At most so many rows come; those that are born and die in between are counted twice, and do not come.
    pub fn n_rows_max(&self) -> usize {
        let born = |chunk: &Arc<ChunkImage>| chunk.born(Some(self.from), self.to).len();
        self.died.len() + self.chunks.iter().map(born).sum::<usize>()
    }

    /// What changed in one chunk, restricted to some columns; `None` if nothing did.
    ///
    /// # Errors
    /// If a column's type has no filter kernel, or a chunk that is not in memory cannot be read.
    pub fn chunk(&self, chunk_idx: usize, projection: Option<&[usize]>) -> Result<Option<Delta>> {
        self.chunk_of(chunk_idx, projection, None)
    }

    /// The same, with those that will be asked for next on their way where that is long.
    ///
    /// # Errors
    /// As [`Changes::chunk`].
    pub fn chunk_before(
        &self,
        chunk_idx: usize,
        next: impl IntoIterator<Item = usize>,
        projection: Option<&[usize]>,
        ahead: &mut ChunksAhead,
    ) -> Result<Option<Delta>> {
        let begun = self.chunks.take_ahead(chunk_idx, next, projection, (Some(self.from), self.to), ahead);
        self.chunk_of(chunk_idx, projection, begun)
    }

    fn chunk_of(
        &self,
        chunk_idx: usize,
        projection: Option<&[usize]>,
        begun: Option<ReadAhead>,
    ) -> Result<Option<Delta>> {
        let Some(chunk) = self.chunks.get(chunk_idx) else { return Ok(None) };
        let born = chunk.born(Some(self.from), self.to);
        let died = self.chunks.of_chunk(&self.died, chunk_idx);
        if died.is_empty() && born.is_empty() {
            return Ok(None);
        }
        let batch = match begun {
            Some(begun) => begun.wait()?,
            None => image_batch(&self.schema, chunk, projection)?,
        };
        if died.is_empty() {
            return Ok(Some(Delta::inserts(batch.slice(born.start, born.len()))));
        }
        let mut change = vec![0i64; chunk.len];
        change[born].fill(1);
        died.iter().for_each(|&row| change[offset_of(row)] -= 1);
        let mask = BooleanArray::new(BooleanBuffer::collect_bool(chunk.len, |i| change[i] != 0), None);
        let weights = change.iter().copied().filter(|&w| w != 0).collect();
        let delta = Delta::new(filter_record_batch(&batch, &mask)?, Some(weights));
        Ok((!delta.is_empty()).then_some(delta))
    }

    /// All deltas.
    ///
    /// # Errors
    /// If a column's type has no filter kernel, or a chunk that is not in memory cannot be read.
    pub fn deltas(&self) -> Result<Vec<Delta>> {
        let (mut ahead, n) = (ChunksAhead::default(), self.n_chunks());
        (0..n).filter_map(|i| self.chunk_before(i, i + 1..n, None, &mut ahead).transpose()).collect()
    }
}

/// The rows of an arrangement at one epoch. Holds memory, not locks.
#[derive(Clone)]
pub struct Snapshot {
    schema: SchemaRef,
    epoch: Epoch,
    /// Rows that were born at or before it are forgotten, if there is one.
    floor: Option<Epoch>,
    chunks: Chunks,
    /// Rows that had died by the epoch and are not yet reclaimed, ascending.
    dead: Vec<u32>,
}

impl Snapshot {
    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The number of chunks, each of which gives at most one batch.
    pub fn n_chunks(&self) -> usize {
        self.chunks.len()
    }

    /// The number of rows.
    pub fn n_rows(&self) -> usize {
        let born = |c: &Arc<ChunkImage>| c.born(self.floor, self.epoch).len().saturating_sub(c.reclaimed.count());
        self.chunks.iter().map(born).sum::<usize>().saturating_sub(self.dead.len())
    }

    /// Whether there is a chunk of this number: some are empty places.
    pub fn has_chunk(&self, chunk_idx: usize) -> bool {
        self.chunks.get(chunk_idx).is_some()
    }

    /// The rows of a chunk, if it is a stored block, seen or not.
    pub fn n_rows_stored(&self, chunk_idx: usize) -> Option<usize> {
        let chunk = self.chunks.get(chunk_idx)?;
        matches!(chunk.columns, ChunkColumns::Stored(_)).then_some(chunk.len)
    }

    /// What is known of the rows of a chunk, if it is a stored block, and its place in that.
    pub fn statistics(&self, chunk_idx: usize) -> Option<(&Statistics, usize)> {
        match &self.chunks.get(chunk_idx)?.columns {
            ChunkColumns::Stored(block) => Some((&block.statistics, block.place)),
            _ => None,
        }
    }

    /// The rows of one chunk, restricted to some columns; `None` if it has none. Chunks without dead rows are not copied.
    ///
    /// # Errors
    /// If a column's type has no filter kernel, or a chunk that is not in memory cannot be read.
    pub fn chunk(&self, chunk_idx: usize, projection: Option<&[usize]>) -> Result<Option<RecordBatch>> {
        self.chunk_of(chunk_idx, projection, None)
    }

    /// The same, with those that will be asked for next on their way where that is long.
    ///
    /// # Errors
    /// As [`Snapshot::chunk`].
    pub fn chunk_before(
        &self,
        chunk_idx: usize,
        next: impl IntoIterator<Item = usize>,
        projection: Option<&[usize]>,
        ahead: &mut ChunksAhead,
    ) -> Result<Option<RecordBatch>> {
        let begun = self.chunks.take_ahead(chunk_idx, next, projection, (self.floor, self.epoch), ahead);
        self.chunk_of(chunk_idx, projection, begun)
    }

    fn chunk_of(
        &self,
        chunk_idx: usize,
        projection: Option<&[usize]>,
        begun: Option<ReadAhead>,
    ) -> Result<Option<RecordBatch>> {
        let Some(chunk) = self.chunks.get(chunk_idx) else { return Ok(None) };
        let born = chunk.born(self.floor, self.epoch);
        if born.is_empty() {
            return Ok(None);
        }
        let batch = match begun {
            Some(begun) => begun.wait()?,
            None => image_batch(&self.schema, chunk, projection)?,
        };
        let batch = batch.slice(born.start, born.len());
        let mut gone = chunk.reclaimed.clone();
        self.chunks.of_chunk(&self.dead, chunk_idx).iter().for_each(|&row| gone.set(offset_of(row)));
        if gone.count() > 0 {
            let visible = BooleanBuffer::collect_bool(born.len(), |i| !gone.get(born.start + i));
            let n_visible = visible.count_set_bits();
            if n_visible < born.len() {
                return Ok((n_visible > 0).then_some(filter_record_batch(&batch, &BooleanArray::new(visible, None))?));
            }
        }
        Ok(Some(batch))
    }

    /// All batches.
    ///
    /// # Errors
    /// If a column's type has no filter kernel, or a chunk that is not in memory cannot be read.
    pub fn batches(&self) -> Result<Vec<RecordBatch>> {
        let (mut ahead, n) = (ChunksAhead::default(), self.n_chunks());
        (0..n).filter_map(|i| self.chunk_before(i, i + 1..n, None, &mut ahead).transpose()).collect()
    }
}

pub(crate) fn image_batch(schema: &SchemaRef, chunk: &ChunkImage, projection: Option<&[usize]>) -> Result<RecordBatch> {
    match &chunk.columns {
        ChunkColumns::Own(columns) => columns.read(schema, chunk.len, projection),
        ChunkColumns::Stored(block) => block.rows.read(projection),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Int64Type};
    use millstream_types::delta::schema_of;

    use super::*;
    use crate::{Arrangement, ArrangementSpec};

    /// Values by weight, added up over deltas.
    fn sums(deltas: &[Delta]) -> Vec<(i64, i64)> {
        let mut sums = std::collections::BTreeMap::new();
        for delta in deltas {
            let values = delta.columns()[0].as_primitive::<Int64Type>();
            (0..delta.n_rows()).for_each(|i| *sums.entry(values.value(i)).or_default() += delta.weight(i));
        }
        sums.into_iter().filter(|(_, w)| *w != 0).collect()
    }

    fn delta(rows: &[(i64, i64)]) -> Delta {
        let values: Int64Array = rows.iter().map(|r| Some(r.0)).collect();
        let batch = RecordBatch::try_new(schema_of(&[("v", DataType::Int64)]), vec![Arc::new(values)]);
        Delta::new(batch.expect("one column"), Some(rows.iter().map(|r| r.1).collect()))
    }

    #[test]
    fn changes_are_the_difference_of_two_snapshots() {
        let spec =
            ArrangementSpec { schema: schema_of(&[("v", DataType::Int64)]), identity: Some(vec![0]), indexes: vec![] };
        let mut arrangement = Arrangement::new(&spec).expect("a type that can be kept");
        let reader = arrangement.reader();
        let held = Epoch(3);
        for epoch in 1..=60u64 {
            let base = epoch as i64 * 1000;
            let mut rows: Vec<(i64, i64)> = (base..base + 700).map(|v| (v, 1)).collect();
            if epoch > 1 {
                // Most of the last epoch's rows go, one comes twice.
                rows.extend((base - 1000..base - 400).map(|v| (v, -1)));
                rows.push((base, 1));
            }
            arrangement.apply(&delta(&rows)).expect("the rows are there");
            arrangement.seal(Epoch(epoch), held.min(Epoch(epoch))).expect("all is in memory");
        }
        for (from, to) in [(3, 3), (3, 4), (3, 60), (10, 40), (59, 60)] {
            let (from, to) = (Epoch(from), Epoch(to));
            let rows =
                |epoch| reader.snapshot(epoch).batches().expect("it can be read").into_iter().map(Delta::inserts);
            let expected: Vec<Delta> = rows(to).chain(rows(from).map(|d| d.negate())).collect();
            let changes = reader.changes(from, to);
            let found = changes.deltas().expect("it can be read");
            assert_eq!(sums(&found), sums(&expected), "{from} to {to}");
            let n_rows: usize = found.iter().map(Delta::n_rows).sum();
            assert!(n_rows <= changes.n_rows_max());
            assert_eq!(reader.snapshot(to).n_rows(), rows(to).map(|d| d.n_rows()).sum::<usize>());
        }
    }
}
