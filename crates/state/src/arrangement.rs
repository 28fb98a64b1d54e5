//! Arrangements: indexed rows with the epochs of their birth and death, from which relations are read.
//!
//! ```text
//!   chunk 0 (full)        chunk 1 (full)         chunk 2 (tail)
//!   ┌──────────────┐      ┌──────────────┐       ┌──────┬ ─ ─ ─ ┐
//!   │ born ≤ since │      │ 0: e5  90:e6 │       │ e7   │          appended to, never written again
//!   └──────────────┘      └──────────────┘       └──────┴ ─ ─ ─ ┘
//!   deaths, beside the chunks:  e6: {row 17}   e7: {row 3, row 9000}
//! ```
//!
//! A row is one instance of a multiset element; a change is a death and a birth. The owner, one worker, applies deltas
//! and seals epochs; sealing publishes what readers may see under a lock that is held for as long as it takes to
//! exchange a few pointers. A reader at epoch e takes the chunks' prefixes born by e, less the rows that had died by e:
//! no row is copied. Births within a chunk ascend, so they are kept as runs `(first row, epoch)`.
//!
//! `since` is the oldest epoch that anybody may still ask for. Deaths up to it are forgotten: the rows leave the
//! indexes, chunks that are mostly dead are merged. Row ids change in a merge; who keeps some for a while pins them.
//!
//! Where memory is short, full chunks are put away, the oldest first, and then shards of indexes ([`Arrangement::spill`]).
//! Births and deaths stay in memory. A row of such a chunk is read when it is looked at, by the owner or by a reader on its
//! own thread, and both read a chunk once for all the rows that they want of it. Of an index the owner reads some shards
//! after the other, once for each call.

mod equal_rows;
mod saving;
mod spilling;
mod storing;

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, IntervalMonthDayNanoType, SchemaRef};
use hashbrown::HashMap;
use millstream_types::hash::{hash_columns, is_exact, mix};
use millstream_types::{Delta, Epoch, Error, Result};
use parking_lot::Mutex;

use self::equal_rows::{RowEquality, cancel};
use self::storing::Stored;
use crate::chunk_columns::{ChunkColumns, LeftBehind, OwnColumns};
use crate::chunked_rows::ChunkedRows;
use crate::cold::ColdStore;
use crate::column::{CHUNK_ROWS, Equality, Rows, chunk_of, offset_of, row_id};
use crate::hash_index::{Access, HashIndex, NO_ROW};
use crate::snapshot::{ArrangementReader, Births, ChunkImage, Published, RowBits};
use crate::unsaved::Identities;

/// Rows moved by merging at one seal, beyond four for each death of the epoch.
const MERGED_ROWS_MIN: usize = CHUNK_ROWS;
/// A chunk that is not full is not merged for fewer rows that are gone, unless all are.
const GONE_ROWS_MIN: usize = 256;
/// Shards of an index that are in memory at once where memory is short.
const SHARDS_AT_ONCE: usize = 8;
/// Memory is not short any more after so many epochs in which nothing had to be put away.
const CALM_EPOCHS: u32 = 32;
/// The table of deaths does not shrink for fewer.
const DEATHS_MIN: usize = 1 << 10;

/// Pairs of a probe and a row that matches it.
#[derive(Debug, Default, Clone)]
pub struct Matches {
    /// Indices into the probing batch.
    pub probes: Vec<u32>,
    /// Row ids; as many as `probes`.
    pub rows: Vec<u32>,
}

impl Matches {
    /// Forgets all pairs.
    pub fn clear(&mut self) {
        self.probes.clear();
        self.rows.clear();
    }

    /// The number of pairs.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds a pair.
    pub fn push(&mut self, probe: u32, row: u32) {
        self.probes.push(probe);
        self.rows.push(row);
    }

    /// Keeps the pairs whose mask is true.
    pub fn retain(&mut self, mask: &[bool]) {
        let mut kept = 0;
        for (i, &keep) in mask.iter().enumerate() {
            self.probes[kept] = self.probes[i];
            self.rows[kept] = self.rows[i];
            kept += usize::from(keep);
        }
        self.probes.truncate(kept);
        self.rows.truncate(kept);
    }
}

/// Where a probe goes on that stopped because it had found enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbePosition {
    /// Index into the probing batch.
    pub probe: usize,
    /// The row that this probe found last; [`NO_ROW`] if it has not begun.
    after: u32,
}

impl ProbePosition {
    /// The begin of a probe of the batch.
    pub fn before(probe: usize) -> Self {
        ProbePosition { probe, after: NO_ROW }
    }
}

/// A hash index over columns of an arrangement.
struct KeyIndex {
    columns: Vec<usize>,
    /// Equal hashes of non-null keys mean equal keys.
    exact: bool,
    /// It finds a row as it is, and not all whose values are equal: intervals, of which many are equal, are told apart,
    /// so that the rows of a chain are mostly the same.
    finds_identical: bool,
    index: HashIndex,
    /// While it is built: the first chunk whose rows are not in it.
    built_to: Option<usize>,
}

impl KeyIndex {
    fn new(schema: &SchemaRef, columns: &[usize], deletable: bool) -> Self {
        let exact = matches!(columns, [one] if is_exact(schema.field(*one).data_type()));
        let index = if deletable { HashIndex::new() } else { HashIndex::append_only() };
        KeyIndex { columns: columns.to_vec(), exact, finds_identical: false, index, built_to: None }
    }

    /// The index through which a row to delete is found.
    fn of_identity(schema: &SchemaRef, columns: &[usize]) -> Self {
        let has_intervals = schema.fields().iter().any(|f| matches!(f.data_type(), DataType::Interval(_)));
        let finds_identical = has_intervals && columns.len() == schema.fields().len();
        KeyIndex { finds_identical, ..Self::new(schema, columns, true) }
    }

    /// The hashes of keys, one array a column.
    fn hash(&self, keys: &[ArrayRef], n_rows: usize, hashes: &mut Vec<u64>) {
        hash_columns(keys, n_rows, hashes);
        if !self.finds_identical {
            return;
        }
        for intervals in keys.iter().filter_map(|k| k.as_primitive_opt::<IntervalMonthDayNanoType>()) {
            for (i, hash) in hashes.iter_mut().enumerate().filter(|(i, _)| intervals.is_valid(*i)) {
                let value = intervals.value(i);
                let parts = (value.months as u32 as u64) << 32 | value.days as u32 as u64;
                *hash = mix(*hash ^ mix(parts ^ mix(value.nanoseconds as u64)));
            }
        }
    }

    fn keys(&self, columns: &[ArrayRef]) -> Vec<ArrayRef> {
        self.columns.iter().map(|&c| columns[c].clone()).collect()
    }
}

/// Whether a row's chunk is one whose rows are in an index that is built so far.
#[inline]
fn covers(built_to: Option<usize>, row: u32) -> bool {
    built_to.is_none_or(|chunk| chunk_of(row) < chunk)
}

/// Calls `each` with the number of each hash, when its shard is in memory. Where there is little memory a few shards are
/// at once: hashes of a shard come in order, those of different ones do not.
///
/// # Errors
/// If a shard cannot be read.
fn by_shards(
    index: &mut HashIndex,
    hashes: &[u64],
    store: Option<&dyn ColdStore>,
    access: Access,
    mut each: impl FnMut(&mut HashIndex, usize),
) -> Result<()> {
    let Some(store) = store.filter(|_| index.has_copies()) else {
        index.fetch(hashes, access)?;
        (0..hashes.len()).for_each(|i| each(index, i));
        return Ok(());
    };
    let group = |index: &HashIndex, i: usize| index.shard_of(hashes[i]) / SHARDS_AT_ONCE;
    let mut order: Vec<usize> = (0..hashes.len()).collect();
    order.sort_by_key(|&i| group(index, i));
    let mut rest = order.as_slice();
    while let Some(&first) = rest.first() {
        let number = group(index, first);
        let (now, later) = rest.split_at(rest.partition_point(|&i| group(index, i) == number));
        rest = later;
        let of_group: Vec<u64> = now.iter().map(|&i| hashes[i]).collect();
        index.fetch(&of_group, access)?;
        now.iter().for_each(|&i| each(index, i));
        let shards = number * SHARDS_AT_ONCE..((number + 1) * SHARDS_AT_ONCE).min(index.n_shards());
        // What cannot be put away stays: whoever counts memory sees that.
        let _ = index.put_away(shards, store);
    }
    Ok(())
}

/// The hash of each row in an index. Rows that lie in chunks that were put away ascend, and of those chunks one is in memory
/// at a time.
fn hashes_of(rows: &ChunkedRows, index: &KeyIndex, ids: &[u32]) -> Result<Vec<u64>> {
    let (mut all, mut hashes) = (Vec::with_capacity(ids.len()), Vec::new());
    for piece in ids.chunk_by(|&a, &b| !rows.has_away() || chunk_of(a) == chunk_of(b)) {
        index.hash(&rows.gather_columns(&index.columns, piece)?, piece.len(), &mut hashes);
        all.append(&mut hashes);
    }
    Ok(all)
}

/// What the owner knows of a chunk beside its rows.
#[derive(Default)]
struct Chunk {
    births: Births,
    /// Rows that have died, reclaimed or not.
    dead: RowBits,
    /// Rows that died at or before `since`: gone for every reader.
    reclaimed: RowBits,
    /// Rows that are saved as they are.
    saved: RowBits,
    /// Where those find its columns who hold it, if it was published.
    columns: Option<Arc<OwnColumns>>,
    /// Rows that were published.
    n_sealed: usize,
    touched: bool,
}

/// Indexed rows with births and deaths; the owner's end.
///
/// Costs: inserting copies a row and adds it to each index; deleting finds the row through the identity index and notes
/// its death; sealing is linear in what the epoch touched, plus a bounded amount of merging.
pub struct Arrangement {
    rows: ChunkedRows,
    chunks: Vec<Chunk>,
    /// The first is the identity index, through which a row to delete is found, if rows may be deleted.
    indexes: Vec<KeyIndex>,
    deletable: bool,
    n_live: usize,
    /// Deaths of the epoch that is being worked on.
    new_deaths: Vec<u32>,
    /// Deaths after `since`, by epoch.
    deaths: VecDeque<(Epoch, Arc<[u32]>)>,
    death_epochs: HashMap<u32, Epoch>,
    /// Where merged rows go: a chunk of rows all born by `since`.
    merge_target: Option<usize>,
    /// How many keep row ids from changing.
    n_pins: usize,
    /// The columns that tell saved rows apart; none if rows are never deleted.
    saved_identity: Option<Vec<usize>>,
    /// Identities of rows that were saved and are forgotten since.
    forgotten_saved: Identities,
    /// What was dropped here and others hold.
    left_behind: LeftBehind,
    /// The chunk that is put away next, if it can be.
    next_to_go: usize,
    /// Chunks could not be put away when that was tried last.
    cannot_spill: bool,
    /// Where chunks are put away, if they may be.
    store: Option<Arc<dyn ColdStore>>,
    /// Epochs sealed since that was done last.
    n_calm: u32,
    stored: Stored,
    published: Arc<Mutex<Published>>,
}

/// What an arrangement is made of.
#[derive(Clone, Debug)]
pub struct ArrangementSpec {
    /// The columns.
    pub schema: SchemaRef,
    /// Columns that find a row to delete, a unique key or all columns; `None` if rows are never deleted.
    pub identity: Option<Vec<usize>>,
    /// Further indexes.
    pub indexes: Vec<Vec<usize>>,
}

impl Arrangement {
    /// An empty arrangement.
    ///
    /// # Errors
    /// Not supported, if a column's type cannot be kept.
    pub fn new(spec: &ArrangementSpec) -> Result<Self> {
        let deletable = spec.identity.is_some();
        let identity = spec.identity.iter().map(|columns| KeyIndex::of_identity(&spec.schema, columns));
        let others = spec.indexes.iter().map(|columns| KeyIndex::new(&spec.schema, columns, deletable));
        Ok(Arrangement {
            rows: ChunkedRows::new(spec.schema.clone())?,
            chunks: Vec::new(),
            indexes: identity.chain(others).collect(),
            deletable,
            n_live: 0,
            new_deaths: Vec::new(),
            deaths: VecDeque::new(),
            death_epochs: HashMap::new(),
            merge_target: None,
            n_pins: 0,
            saved_identity: spec.identity.clone(),
            forgotten_saved: Identities::default(),
            left_behind: LeftBehind::default(),
            next_to_go: 0,
            cannot_spill: false,
            store: None,
            n_calm: CALM_EPOCHS,
            stored: Stored::default(),
            published: Arc::new(Mutex::new(Published::default())),
        })
    }

    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.rows.schema
    }

    /// Rows alive now, the epoch that is being worked on included.
    pub fn len(&self) -> usize {
        self.n_live
    }

    /// Whether no row is alive.
    pub fn is_empty(&self) -> bool {
        self.n_live == 0
    }

    /// Allocated bytes, dead rows that a hold keeps included, and chunks that are gone and that others hold.
    pub fn n_bytes(&self) -> usize {
        self.rows.n_bytes()
            + self.indexes.iter().map(|i| i.index.n_bytes()).sum::<usize>()
            + self.chunks.len() * size_of::<Chunk>()
            + self.death_epochs.capacity() * size_of::<(u32, Epoch)>()
            + self.stored.n_bytes_in_memory()
            + self.forgotten_saved.n_bytes()
            + self.left_behind.n_bytes()
    }

    /// The number of the index over exactly these columns, in this order, if all rows are in it.
    pub fn index_on(&self, columns: &[usize]) -> Option<usize> {
        if !self.stored.is_indexable() {
            return None;
        }
        self.indexes.iter().position(|i| i.columns == columns && i.built_to.is_none() && !i.finds_identical)
    }

    /// Makes the indexes over these columns the only ones beside the identity index; those that are new are built by
    /// [`Arrangement::build_indexes`]. Numbers of indexes other than the identity index change.
    pub fn set_indexes(&mut self, wanted: &[Vec<usize>]) {
        let mut is_identity = self.deletable;
        self.indexes.retain(|i| std::mem::take(&mut is_identity) || wanted.contains(&i.columns));
        for columns in wanted {
            if !self.indexes.iter().any(|i| i.columns == *columns && !i.finds_identical) {
                let index = KeyIndex::new(&self.rows.schema, columns, self.deletable);
                self.indexes.push(KeyIndex { built_to: Some(0), ..index });
            }
        }
    }

    /// Adds the rows of one chunk to an index that lacks them; returns whether there is more to do. Everything else may
    /// go on between two calls.
    ///
    /// # Errors
    /// If a chunk that was put away cannot be read.
    pub fn build_indexes(&mut self) -> Result<bool> {
        let n_chunks = self.chunks.len();
        let Some(index) = self.indexes.iter_mut().find(|i| i.built_to.is_some()) else { return Ok(false) };
        if let Some(chunk) = index.built_to.filter(|&chunk| chunk < n_chunks) {
            let present: Vec<u32> = (0..self.rows.len_of(chunk))
                .filter(|&offset| !self.chunks[chunk].reclaimed.get(offset))
                .map(|offset| row_id(chunk, offset))
                .collect();
            let keys = self.rows.gather_columns(&index.columns, &present)?;
            let mut hashes = Vec::new();
            index.hash(&keys, present.len(), &mut hashes);
            index.index.fetch(&hashes, Access::Write)?;
            index.index.insert_all(&hashes, present);
            index.built_to = Some(chunk + 1);
        } else {
            index.built_to = None;
        }
        Ok(self.indexes.iter().any(|i| i.built_to.is_some()))
    }

    /// A reader's end.
    pub fn reader(&self) -> ArrangementReader {
        ArrangementReader::new(self.rows.schema.clone(), Arc::clone(&self.published))
    }

    /// Applies a delta: deletions first, so that within one delta a key may be given up and taken again.
    ///
    /// A deletion of a row that is not there cancels an insertion of an equal row in the same delta.
    ///
    /// # Errors
    /// Internal, if a row is deleted that is in neither: then the sender broke the contract that only the state at the
    /// end of an epoch is judged.
    pub fn apply(&mut self, delta: &Delta) -> Result<()> {
        let Some(weights) = delta.weights() else {
            return self.insert(delta.columns(), Rows::Range { offset: 0, len: delta.n_rows() });
        };
        let mut deletions = Vec::new();
        let mut insertions = Vec::new();
        for (i, &w) in weights.iter().enumerate() {
            let instances = std::iter::repeat_n(i as u32, w.unsigned_abs() as usize);
            if w < 0 { deletions.extend(instances) } else { insertions.extend(instances) }
        }
        if !deletions.is_empty() {
            let missing = self.delete(delta, &deletions)?;
            if !missing.is_empty() {
                cancel(delta.batch(), &missing, &mut insertions)?;
            }
        }
        self.insert(delta.columns(), Rows::Selected(&insertions))
    }

    /// Inserts rows.
    ///
    /// # Errors
    /// If a part of an index that was put away cannot be read.
    pub fn insert(&mut self, columns: &[ArrayRef], rows: Rows<'_>) -> Result<()> {
        let store = self.short_of_memory();
        let mut ids = Vec::with_capacity(rows.len());
        let chunks = &mut self.chunks;
        self.rows.append(columns, rows, |chunk, offset, n| {
            if chunks.len() <= chunk {
                chunks.resize_with(chunk + 1, Chunk::default);
            }
            chunks[chunk].touched = true;
            ids.extend((offset..offset + n).map(|o| row_id(chunk, o)));
        });
        self.n_live += ids.len();
        let mut hashes = Vec::new();
        for index in &mut self.indexes {
            let keys = index.keys(columns);
            match rows {
                Rows::Range { offset, len } if offset == 0 && keys.first().is_none_or(|k| k.len() == len) => {
                    index.hash(&keys, len, &mut hashes);
                }
                _ => {
                    let n_rows = keys.first().map_or(rows.len(), |k| k.len());
                    let mut all = Vec::new();
                    index.hash(&keys, n_rows, &mut all);
                    hashes.clear();
                    hashes.extend((0..rows.len()).map(|i| all.get(rows.index(i)).copied().unwrap_or(all[0])));
                }
            }
            if index.built_to.is_none() && !index.index.has_copies() {
                index.index.insert_all(&hashes, ids.iter().copied());
                continue;
            }
            let built_to = index.built_to;
            by_shards(&mut index.index, &hashes, store.as_deref(), Access::Write, |index, i| {
                if covers(built_to, ids[i]) {
                    index.insert(hashes[i], ids[i]);
                }
            })?;
        }
        Ok(())
    }

    /// Marks one living row dead for each of the given rows of a delta; returns those for which there was none.
    fn delete(&mut self, delta: &Delta, rows: &[u32]) -> Result<Vec<u32>> {
        if !self.deletable {
            return Err(Error::internal("a row was deleted from an append-only arrangement"));
        }
        let columns = delta.columns();
        let store = self.short_of_memory();
        let identity = &mut self.indexes[0];
        let keys = identity.keys(columns);
        let mut hashes = Vec::new();
        identity.hash(&keys, delta.n_rows(), &mut hashes);
        let hashes_of_rows: Vec<u64> = rows.iter().map(|&i| hashes[i as usize]).collect();
        let mut heads = vec![None; rows.len()];
        by_shards(&mut identity.index, &hashes_of_rows, store.as_deref(), Access::Read, |index, at| {
            heads[at] = index.head(hashes_of_rows[at]);
        })?;
        let mut missing = Vec::new();
        // Equal rows go down their chain together: each by itself would pass all that the others have taken.
        let mut pending = Matches::default();
        let mut counts: Vec<usize> = Vec::new();
        let mut leaders: HashMap<u64, usize> = HashMap::new();
        let mut equality = RowEquality::new(columns);
        let all_columns: Vec<(usize, &ArrayRef)> = columns.iter().enumerate().collect();
        for (&i, head) in rows.iter().zip(heads) {
            let hash = hashes[i as usize];
            let Some((head, chain_len)) = head else {
                missing.push(i);
                continue;
            };
            if chain_len > 1 {
                let leader = *leaders.entry(hash).or_insert(pending.len());
                if leader < pending.len() && equality.holds(pending.probes[leader], i)? {
                    counts[leader] += 1;
                    continue;
                }
            }
            pending.push(i, head);
            counts.push(1);
        }
        // Each round compares one row of each chain, all at once.
        while !pending.is_empty() {
            let mut equal = vec![true; pending.len()];
            let Matches { probes, rows } = &pending;
            self.rows.compare(Equality::Identity, &all_columns, rows, probes, &mut equal)?;
            let (mut later, mut later_counts) = (Matches::default(), Vec::new());
            for (k, equal) in equal.into_iter().enumerate() {
                let (i, row, mut count) = (pending.probes[k], pending.rows[k], counts[k]);
                if equal && !self.chunks[chunk_of(row)].dead.get(offset_of(row)) {
                    self.kill(row);
                    count -= 1;
                }
                match self.indexes[0].index.next(row) {
                    _ if count == 0 => {}
                    NO_ROW => missing.extend(std::iter::repeat_n(i, count)),
                    next => {
                        later.push(i, next);
                        later_counts.push(count);
                    }
                }
            }
            (pending, counts) = (later, later_counts);
        }
        Ok(missing)
    }

    fn kill(&mut self, row: u32) {
        let chunk = &mut self.chunks[chunk_of(row)];
        chunk.dead.set(offset_of(row));
        self.n_live -= 1;
        self.new_deaths.push(row);
    }

    /// Adds to `matches` the rows whose columns of an index equal the keys, for each key in order: those alive now, or
    /// with `at` those visible at an epoch not older than `since`. `hashes` are those of the keys. Nulls equal nulls;
    /// callers drop null keys where they must not match.
    ///
    /// # Errors
    /// If a chunk that was put away cannot be read.
    pub fn probe(
        &mut self,
        index: usize,
        keys: &[ArrayRef],
        hashes: &[u64],
        at: Option<Epoch>,
        matches: &mut Matches,
    ) -> Result<()> {
        self.probe_from(index, keys, hashes, at, ProbePosition::before(0), usize::MAX, matches)?;
        Ok(())
    }

    /// As [`Arrangement::probe`], from a position on, until there are about `limit` matches. Returns where to go on;
    /// the probe there is `hashes.len()` at the end.
    ///
    /// Whoever goes on later pins the arrangement meanwhile ([`Arrangement::pin`]) and holds it at `at`.
    ///
    /// # Errors
    /// If a chunk that was put away cannot be read.
    #[allow(clippy::too_many_arguments)]
    pub fn probe_from(
        &mut self,
        index: usize,
        keys: &[ArrayRef],
        hashes: &[u64],
        at: Option<Epoch>,
        position: ProbePosition,
        limit: usize,
        matches: &mut Matches,
    ) -> Result<ProbePosition> {
        // Those of shards that may not be in memory.
        let mut heads: Option<Vec<u32>> = None;
        if self.indexes[index].index.has_copies() {
            let store = self.short_of_memory();
            let mut found = vec![NO_ROW; hashes.len()];
            by_shards(&mut self.indexes[index].index, hashes, store.as_deref(), Access::Read, |index, i| {
                found[i] = index.head(hashes[i]).map_or(NO_ROW, |(head, _)| head);
            })?;
            heads = Some(found);
        }
        let KeyIndex { columns, exact, index, .. } = &self.indexes[index];
        let from = matches.len();
        let mut stopped_at = ProbePosition { probe: hashes.len(), after: NO_ROW };
        // Follows a chain; returns whether to go on with the next one.
        let mut follow = |probe: usize, mut row: u32| {
            while row != NO_ROW {
                if self.is_visible(row, at) {
                    matches.push(probe as u32, row);
                    if matches.len() - from >= limit {
                        stopped_at = ProbePosition { probe, after: row };
                        return false;
                    }
                }
                row = index.next(row);
            }
            true
        };
        let mut first = position.probe;
        if position.after != NO_ROW {
            first += 1;
            if !follow(position.probe, index.next(position.after)) {
                first = hashes.len();
            }
        }
        match heads {
            None => index.probe_while(&hashes[first..], |i, head, _| follow(first + i, head)),
            Some(heads) => {
                let mut heads = heads.into_iter().enumerate().skip(first).filter(|(_, head)| *head != NO_ROW);
                heads.all(|(i, head)| follow(i, head));
            }
        }
        if *exact && keys[0].null_count() == 0 && !self.rows.columns[columns[0]].has_nulls() {
            return Ok(stopped_at);
        }
        let mut mask = vec![true; matches.len()];
        let key_columns: Vec<(usize, &ArrayRef)> = columns.iter().copied().zip(keys).collect();
        let (rows, probes) = (&matches.rows[from..], &matches.probes[from..]);
        self.rows.compare(Equality::Sql, &key_columns, rows, probes, &mut mask[from..])?;
        matches.retain(&mask);
        Ok(stopped_at)
    }

    /// Keeps row ids from changing until [`Arrangement::unpin`]: chunks are not merged meanwhile.
    pub fn pin(&mut self) {
        self.n_pins += 1;
    }

    /// Takes back one [`Arrangement::pin`].
    pub fn unpin(&mut self) {
        self.n_pins -= 1;
    }

    #[inline]
    fn is_visible(&self, row: u32, at: Option<Epoch>) -> bool {
        let chunk = &self.chunks[chunk_of(row)];
        let dead = chunk.dead.get(offset_of(row));
        match at {
            None => !dead,
            Some(at) => {
                offset_of(row) < chunk.births.n_born_by(at, chunk.n_sealed)
                    && !(dead && self.death_epochs.get(&row).is_some_and(|&died| died <= at))
            }
        }
    }

    /// The given rows.
    ///
    /// # Errors
    /// If a chunk that was put away cannot be read.
    pub fn gather(&self, rows: &[u32]) -> Result<RecordBatch> {
        self.rows.gather(rows)
    }

    /// Columns of the given rows.
    ///
    /// # Errors
    /// If a chunk that was put away cannot be read.
    pub fn gather_columns(&self, columns: &[usize], rows: &[u32]) -> Result<Vec<ArrayRef>> {
        self.rows.gather_columns(columns, rows)
    }

    /// Ends an epoch: what was applied since the last seal becomes visible to readers at `epoch`, and what died at or
    /// before `since` is forgotten.
    ///
    /// Epochs ascend. `since` may be later than `epoch`: then another worker has come further, and nobody will ask for
    /// `epoch` itself.
    ///
    /// # Errors
    /// If a chunk that was put away cannot be read; then the arrangement is not to be used any more.
    pub fn seal(&mut self, epoch: Epoch, since: Epoch) -> Result<()> {
        let since = since.min(epoch);
        self.n_calm = self.n_calm.saturating_add(1);
        let n_deaths = self.new_deaths.len();
        if n_deaths > 0 {
            let deaths: Arc<[u32]> = std::mem::take(&mut self.new_deaths).into();
            deaths.iter().for_each(|&row| {
                self.death_epochs.insert(row, epoch);
            });
            self.deaths.push_back((epoch, deaths));
        }
        for (chunk_idx, chunk) in self.chunks.iter_mut().enumerate() {
            let len = self.rows.len_of(chunk_idx);
            if chunk.touched && len > chunk.n_sealed {
                chunk.births.push(chunk.n_sealed, epoch);
                chunk.n_sealed = len;
            }
            if chunk.touched {
                chunk.births.fold(since);
            }
        }
        self.forget_deaths(since)?;
        let dropped = self.merge_chunks(since, MERGED_ROWS_MIN + 4 * n_deaths)?;
        self.publish(epoch, &dropped);
        self.forget_stored(since)
    }

    /// Forgets what died at or before `since`, between epochs; nothing if one has begun.
    ///
    /// # Errors
    /// As for [`Arrangement::seal`].
    pub fn forget(&mut self, since: Epoch) -> Result<()> {
        self.forget_stored(since)?;
        let has_begun = |(i, chunk): (usize, &Chunk)| chunk.touched && self.rows.len_of(i) > chunk.n_sealed;
        let is_due = self.deaths.front().is_some_and(|(epoch, _)| *epoch <= since);
        if !is_due || !self.new_deaths.is_empty() || self.chunks.iter().enumerate().any(has_begun) {
            return Ok(());
        }
        let n_dead: usize =
            self.deaths.iter().take_while(|(epoch, _)| *epoch <= since).map(|(_, rows)| rows.len()).sum();
        self.chunks.iter_mut().filter(|chunk| chunk.dead.count() > 0).for_each(|chunk| chunk.births.fold(since));
        self.forget_deaths(since)?;
        let dropped = self.merge_chunks(since, MERGED_ROWS_MIN + 4 * n_dead)?;
        let sealed = self.published.lock().sealed;
        self.publish(sealed, &dropped);
        Ok(())
    }

    /// Takes rows that died by `since` out of the indexes.
    fn forget_deaths(&mut self, since: Epoch) -> Result<()> {
        let mut gone: Vec<u32> = Vec::new();
        while let Some((epoch, _)) = self.deaths.front() {
            if *epoch > since {
                break;
            }
            let (_, rows) = self.deaths.pop_front().expect("just seen");
            gone.extend_from_slice(&rows);
        }
        if gone.is_empty() {
            return Ok(());
        }
        if self.rows.has_away() {
            gone.sort_unstable();
        }
        self.note_forgotten(&gone)?;
        let store = self.short_of_memory();
        for index in &mut self.indexes {
            let hashes = hashes_of(&self.rows, index, &gone)?;
            let built_to = index.built_to;
            by_shards(&mut index.index, &hashes, store.as_deref(), Access::Write, |index, i| {
                if covers(built_to, gone[i]) {
                    index.remove(hashes[i], gone[i]);
                }
            })?;
        }
        for &row in &gone {
            self.death_epochs.remove(&row);
            let chunk = &mut self.chunks[chunk_of(row)];
            chunk.reclaimed.set(offset_of(row));
            chunk.touched = true;
        }
        if self.death_epochs.capacity() > 8 * self.death_epochs.len().max(DEATHS_MIN) {
            self.death_epochs.shrink_to(2 * self.death_epochs.len());
        }
        Ok(())
    }

    /// Frees chunks without living rows and merges those that are mostly dead. Returns the freed chunks.
    ///
    /// All chunks are looked at, not only those that the epoch has touched: one may have had to wait, for a hold to move
    /// on or because more than `n_rows_budget` rows were to be moved. A chunk with fewer rows living than gone costs each
    /// death at most one move.
    fn merge_chunks(&mut self, since: Epoch, mut n_rows_budget: usize) -> Result<Vec<usize>> {
        let mut dropped = Vec::new();
        let mut moved = Moved::default();
        if self.n_pins > 0 {
            return Ok(dropped);
        }
        for chunk_idx in 0..self.chunks.len() {
            let chunk = &self.chunks[chunk_idx];
            let (len, n_gone) = (self.rows.len_of(chunk_idx), chunk.reclaimed.count());
            let is_enough = n_gone == len || n_gone >= GONE_ROWS_MIN || self.rows.is_full(chunk_idx);
            let is_worthwhile = n_gone * 2 > len && is_enough;
            if !is_worthwhile {
                continue;
            }
            // Rows that come from now on would keep the chunk from being merged.
            self.rows.close(chunk_idx);
            let is_settled = chunk.dead.count() == n_gone && chunk.births.newest() <= since;
            if !is_settled || len - n_gone > n_rows_budget {
                continue;
            }
            n_rows_budget -= len - n_gone;
            self.merge_target = self.merge_target.filter(|&target| target != chunk_idx);
            let n_moved = moved.new.len();
            self.move_rows(chunk_idx, &mut moved)?;
            dropped.push(chunk_idx);
            self.put_away_filled(&moved.new[n_moved..]);
        }
        self.rename(&moved)?;
        // Not before: ids of rows that have not got their new ones must not be given to others.
        self.drop_chunks(&dropped);
        Ok(dropped)
    }

    /// Copies a chunk's living rows, all of them visible to everybody, to the merge target.
    fn move_rows(&mut self, chunk_idx: usize, to: &mut Moved) -> Result<()> {
        let living: Vec<u32> = (0..self.rows.len_of(chunk_idx))
            .filter(|&offset| !self.chunks[chunk_idx].reclaimed.get(offset))
            .map(|offset| row_id(chunk_idx, offset))
            .collect();
        if living.is_empty() {
            return Ok(());
        }
        let batch = self.rows.gather(&living)?;
        let mut moved = Vec::with_capacity(living.len());
        let tail = self.rows.swap_tail(self.merge_target);
        self.rows.append(batch.columns(), Rows::Range { offset: 0, len: living.len() }, |chunk, offset, n| {
            moved.extend((offset..offset + n).map(|o| row_id(chunk, o)));
        });
        self.merge_target = self.rows.swap_tail(tail);
        for (&row, &old) in moved.iter().zip(&living) {
            let chunk_idx = chunk_of(row);
            let is_saved = self.chunks[chunk_of(old)].saved.get(offset_of(old));
            if self.chunks.len() <= chunk_idx {
                self.chunks.resize_with(chunk_idx + 1, Chunk::default);
            }
            let chunk = &mut self.chunks[chunk_idx];
            if !chunk.touched || chunk.n_sealed != self.rows.len_of(chunk_idx) {
                chunk.touched = true;
                if chunk.n_sealed == 0 {
                    chunk.births.push(0, Epoch::ZERO);
                }
                chunk.n_sealed = self.rows.len_of(chunk_idx);
            }
            if is_saved {
                chunk.saved.set(offset_of(row));
            }
        }
        to.hashes.resize_with(self.indexes.len(), Vec::new);
        let mut hashes = Vec::new();
        for (index, of_index) in self.indexes.iter().zip(&mut to.hashes) {
            index.hash(&index.keys(batch.columns()), living.len(), &mut hashes);
            of_index.extend_from_slice(&hashes);
        }
        to.old.extend(living);
        to.new.extend(moved);
        Ok(())
    }

    /// Gives rows that were moved their new ids in the indexes.
    fn rename(&mut self, moved: &Moved) -> Result<()> {
        let store = self.short_of_memory();
        for (index, hashes) in self.indexes.iter_mut().zip(&moved.hashes) {
            let built_to = index.built_to;
            by_shards(&mut index.index, hashes, store.as_deref(), Access::Write, |index, i| {
                let (hash, old, new) = (hashes[i], moved.old[i], moved.new[i]);
                match (covers(built_to, old), covers(built_to, new)) {
                    (true, true) => index.rename(hash, old, new),
                    (true, false) => index.remove(hash, old),
                    (false, true) => index.insert(hash, new),
                    (false, false) => {}
                }
            })?;
        }
        Ok(())
    }

    fn publish(&mut self, epoch: Epoch, dropped: &[usize]) {
        let mut images = Vec::new();
        for (chunk_idx, chunk) in self.chunks.iter_mut().enumerate() {
            if std::mem::take(&mut chunk.touched) && self.rows.len_of(chunk_idx) > 0 {
                let columns = OwnColumns::of_chunk(&mut chunk.columns, self.rows.share(chunk_idx));
                let image = ChunkImage {
                    columns: ChunkColumns::Own(columns),
                    len: chunk.n_sealed,
                    births: chunk.births.clone(),
                    reclaimed: chunk.reclaimed.clone(),
                };
                images.push((chunk_idx, Arc::new(image)));
            }
        }
        let mut published = self.published.lock();
        published.chunks.resize(self.chunks.len(), None);
        for &chunk_idx in dropped {
            published.chunks[chunk_idx] = None;
        }
        for (chunk_idx, image) in images {
            published.chunks[chunk_idx] = Some(image);
        }
        published.deaths.clone_from(&self.deaths);
        published.sealed = epoch;
    }
}

/// Rows that were moved, in order.
#[derive(Default)]
struct Moved {
    old: Vec<u32>,
    new: Vec<u32>,
    /// For each index, the rows' hashes.
    hashes: Vec<Vec<u64>>,
}

#[cfg(test)]
mod tests;
