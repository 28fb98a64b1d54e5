//! Merging: several objects next to each other become one, in which rows that were taken away are no more.
//!
//! Table by table, each by ranges of partitions whose rows fit the memory that merging may have; a partition that has more
//! is gone through several times, each time for the rows whose identity's hash is of one class.

use std::collections::BTreeSet;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use millstream_types::hash::{N_PARTITIONS, hash_bytes};
use millstream_types::{Error, ErrorKind, Result, SqlState};

use super::BLOCK_ROWS_MAX;
use super::format::{BlockEntry, TableId};
use super::net::{Identities, interleave, net, rows_at};
use super::object_reader::{Piece, Rows, slice_of};
use super::object_writer::{ObjectWriter, Part};
use super::snapshot::{Snapshot, TableSection};
use super::store::CheckpointStore;
use super::tiers::Tiers;
use crate::errors::is_damage;

/// What a merge has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// How many objects became one.
    pub n_objects: usize,
    /// How many bytes they had.
    pub bytes_before: u64,
    /// How many bytes it has.
    pub bytes_after: u64,
    /// Tables that could not be merged, since something is wrong with them, and stay as they were.
    pub n_tables_kept: usize,
}

impl CheckpointStore {
    /// Merges the objects that should be merged next, if any should; is called again until none should. Takes long: it is
    /// for a thread of its own, and goes on beside checkpoints that are committed. `stop` makes it give up soon.
    ///
    /// Reads and writes the bytes of the objects once, some blocks twice. What was merged is still on the disk until
    /// [`CheckpointStore::collect`] after the next commit.
    ///
    /// # Errors
    /// 53100 and 58030 if the disk fails: nothing has changed, and it may be tried again after a while. What is damaged stays as it is, for
    /// those who read it to be told.
    pub fn merge_once(&self, stop: &AtomicBool) -> Result<Option<Merged>> {
        let _alone = self.shared.merging.lock();
        let snapshot = self.hold();
        let options = &self.shared.options;
        let tiers = Tiers { fan_in: options.fan_in.max(2), whole_bytes_min: options.whole_bytes_min };
        let mut unmergeable = self.shared.unmergeable.lock();
        let chosen = loop {
            let objects = &snapshot.manifest().objects;
            let Some(chosen) = tiers.choose(snapshot.manifest(), |object| !unmergeable.contains(&object.name)) else {
                return Ok(None);
            };
            let damaged = chosen.clone().find_map(|i| snapshot.object(i).err().map(|error| (i, error)));
            match damaged {
                None => break chosen,
                Some((i, error)) if is_damage(&error) => {
                    tracing::error!(%error, "an object of checkpoints cannot be merged");
                    unmergeable.insert(objects[i].name.clone());
                }
                Some((_, error)) => return Err(error),
            }
        };
        drop(unmergeable);
        self.merge_objects(&snapshot, chosen, stop)
    }

    /// Merges objects next to each other; nothing if it was stopped.
    fn merge_objects(&self, snapshot: &Snapshot, chosen: Range<usize>, stop: &AtomicBool) -> Result<Option<Merged>> {
        let mut writer = self.shared.merged_object()?;
        let merged = merge(snapshot, chosen.clone(), self.shared.options.merge_bytes, &mut writer, stop);
        let n_tables_kept = match merged {
            Err(error) if error.state() == SqlState::QUERY_CANCELED => return Ok(None),
            merged => merged?,
        };
        let written = writer.finish()?;
        let objects = &snapshot.manifest().objects[chosen];
        let bytes_before = objects.iter().map(|object| object.len).sum();
        let bytes_after = written.as_ref().map_or(0, |object| object.n_bytes());
        self.shared.replace(objects, written)?;
        Ok(Some(Merged { n_objects: objects.len(), bytes_before, bytes_after, n_tables_kept }))
    }

    /// Merges some objects next to each other, whatever their sizes.
    #[cfg(test)]
    pub(super) fn merge_any(&self, random: &mut crate::random::Bits) -> Result<Option<Merged>> {
        let _alone = self.shared.merging.lock();
        let snapshot = self.hold();
        let n_objects = snapshot.manifest().objects.len() as u64;
        let start = random.below(n_objects.max(1));
        let end = start + 1 + random.below(4);
        self.merge_objects(&snapshot, start as usize..end.min(n_objects) as usize, &AtomicBool::new(false))
    }
}

/// Writes what objects next to each other come to; gives the number of tables that could not be merged.
fn merge(
    snapshot: &Snapshot,
    chosen: Range<usize>,
    bytes_max: u64,
    writer: &mut ObjectWriter,
    stop: &AtomicBool,
) -> Result<usize> {
    let mut n_kept = 0;
    let is_oldest = chosen.start == 0;
    let objects = chosen.map(|i| snapshot.object(i)).collect::<Result<Vec<_>>>()?;
    let tables: BTreeSet<TableId> = objects.iter().flat_map(|o| o.sections().iter().map(|s| s.table)).collect();
    let owners = &snapshot.manifest().owners;
    for table in tables.into_iter().filter(|table| owners.contains(&table.owner)) {
        let of_object = |object: &Arc<_>| TableSection::all_in(object, table);
        let sections: Vec<TableSection> = objects.iter().flat_map(of_object).collect();
        let merge = TableMerge { sections: &sections, is_oldest, bytes_max, stop };
        match merge.run(writer) {
            // What is wrong with a table is left as it is, so that it is found by whoever reads it.
            Err(error) if is_damage(&error) || error.kind() == ErrorKind::Internal => {
                tracing::error!(%error, ?table, "the state of a table cannot be merged");
                writer.abandon_section();
                merge.copy(writer)?;
                n_kept += 1;
            }
            merged => merged?,
        }
    }
    Ok(n_kept)
}

/// Merging one table.
struct TableMerge<'a> {
    /// Oldest first.
    sections: &'a [TableSection],
    /// Whether there is nothing older.
    is_oldest: bool,
    bytes_max: u64,
    stop: &'a AtomicBool,
}

/// Rows of partitions that are merged at once, or in several passes.
struct Step {
    partitions: Range<usize>,
    n_passes: u64,
}

impl TableMerge<'_> {
    fn run(&self, writer: &mut ObjectWriter) -> Result<()> {
        let [first, newer @ ..] = self.sections else { return Ok(()) };
        let shape = &first.section().shape;
        let is_of_one_shape = newer.iter().all(|at| at.section().shape == *shape);
        let is_net = newer.is_empty() && (!self.is_oldest || first.section().gone.is_empty());
        if is_net || !is_of_one_shape {
            return self.copy(writer);
        }
        let identities = Identities::new(shape)?;
        let mut readers: Vec<PartReader<'_>> = self.sections.iter().flat_map(PartReader::of).collect();
        writer.begin_section(first.section().table, shape.clone());
        for step in self.steps() {
            for pass in 0..step.n_passes {
                self.check_stop()?;
                let mut pieces = Vec::new();
                for reader in &mut readers {
                    reader.read(&step.partitions, |piece| {
                        let piece =
                            if step.n_passes == 1 { piece } else { of_pass(piece, &identities, pass, step.n_passes)? };
                        pieces.push(piece);
                        Ok(())
                    })?;
                }
                let net = net(&pieces, shape, &identities, self.is_oldest)?;
                for (part, places) in [(Part::Gone, &net.gone), (Part::Rows, &net.rows)] {
                    for places in places.chunks(BLOCK_ROWS_MAX) {
                        let (runs, rows) = rows_at(&pieces, places)?;
                        writer.push(part, runs, rows)?;
                    }
                }
            }
        }
        writer.end_section()
    }

    /// Writes the sections as they are, one after the other.
    fn copy(&self, writer: &mut ObjectWriter) -> Result<()> {
        for at in self.sections {
            writer.copy_section(at.section(), |block| {
                self.check_stop()?;
                at.object.read_raw(block)
            })?;
        }
        Ok(())
    }

    fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Which partitions are merged together, in order.
    fn steps(&self) -> Vec<Step> {
        let mut bytes = vec![0; N_PARTITIONS];
        for at in self.sections {
            let section = at.section();
            for block in section.gone.iter().chain(&section.rows) {
                let n_rows = block.n_rows().max(1) as u64;
                for &(partition, n) in &block.runs {
                    bytes[usize::from(partition)] += block.decoded_bytes * u64::from(n) / n_rows;
                }
            }
        }
        let bytes_max = self.bytes_max.max(1);
        let mut steps: Vec<Step> = Vec::new();
        let mut together = 0;
        for (partition, bytes) in bytes.into_iter().enumerate().filter(|(_, bytes)| *bytes > 0) {
            together += bytes;
            match steps.last_mut().filter(|_| together <= bytes_max) {
                Some(step) => step.partitions.end = partition + 1,
                None => {
                    steps.push(Step { partitions: partition..partition + 1, n_passes: bytes.div_ceil(bytes_max) });
                    together = bytes;
                }
            }
        }
        steps
    }
}

/// Reads a part of a section by ranges of partitions that ascend; keeps the last block, of which the next range may have
/// rows too.
struct PartReader<'a> {
    at: &'a TableSection,
    part: Part,
    last: Option<(usize, RecordBatch)>,
}

impl<'a> PartReader<'a> {
    fn of(at: &'a TableSection) -> [PartReader<'a>; 2] {
        [Part::Gone, Part::Rows].map(|part| PartReader { at, part, last: None })
    }

    fn blocks(&self) -> &'a [BlockEntry] {
        let section = self.at.section();
        match self.part {
            Part::Gone => &section.gone,
            Part::Rows => &section.rows,
        }
    }

    fn read(&mut self, partitions: &Range<usize>, mut take: impl FnMut(Piece) -> Result<()>) -> Result<()> {
        let rows = match self.part {
            Part::Gone => Rows::Gone,
            Part::Rows => Rows::Added,
        };
        for (i, block) in self.blocks().iter().enumerate() {
            let (slice, runs) = slice_of(block, partitions);
            if slice.is_empty() {
                continue;
            }
            let batch = match mem::take(&mut self.last) {
                Some((last, batch)) if last == i => batch,
                _ => self.at.object.read_block(self.at.section(), self.part, block)?,
            };
            take(Piece { rows, runs, batch: batch.slice(slice.start, slice.len()) })?;
            self.last = Some((i, batch));
        }
        Ok(())
    }
}

/// The rows of a piece whose identity is of one class of several.
fn of_pass(piece: Piece, identities: &Identities, pass: u64, n_passes: u64) -> Result<Piece> {
    let keys = identities.of(&piece)?;
    let mut indices = Vec::new();
    let mut runs = Vec::new();
    let mut row = 0;
    for &(partition, n_rows) in &piece.runs {
        let before = indices.len();
        let of_run = row..row + n_rows as usize;
        row = of_run.end;
        indices.extend(of_run.filter(|&row| hash_bytes(keys.get(row)) % n_passes == pass).map(|row| (0, row)));
        runs.push((partition, (indices.len() - before) as u32));
    }
    Ok(Piece { rows: piece.rows, runs, batch: interleave(&[&piece.batch], &indices)? })
}
