//! Merging: several objects next to each other become one, in which rows that were taken away are no more.
//!
//! Table by table. Rows of one identity are at the same place of the order in which rows lie in sections, so the sections
//! of a table are read beside each other, from front to back, a block of each at a time.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_types::{Error, ErrorKind, Result, SqlState};

use super::BLOCK_ROWS_MAX;
use super::format::{Part, TableId, partitions};
use super::net::{Change, Identities, net, rows_at};
use super::object_writer::ObjectWriter;
use super::snapshot::{Snapshot, TableSection};
use super::store::CheckpointStore;
use super::tiers::Tiers;
use crate::errors::is_damage;
use crate::read_ahead::RangeReader;

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
    /// Reads and writes the bytes of the objects once. Memory is a block of each part of those objects whose rows are at the
    /// same place, and all rows of an identity. What was merged is still on the disk until
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
        let merged = merge(snapshot, chosen.clone(), &mut writer, stop);
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
fn merge(snapshot: &Snapshot, chosen: Range<usize>, writer: &mut ObjectWriter, stop: &AtomicBool) -> Result<usize> {
    let mut n_kept = 0;
    let is_oldest = chosen.start == 0;
    let objects = chosen.map(|i| snapshot.object(i)).collect::<Result<Vec<_>>>()?;
    let tables: BTreeSet<TableId> = objects.iter().flat_map(|o| o.sections().iter().map(|s| s.table)).collect();
    let owners = &snapshot.manifest().owners;
    for table in tables.into_iter().filter(|table| owners.contains(&table.owner)) {
        let of_object = |object: &Arc<_>| TableSection::all_in(object, table);
        let sections: Vec<TableSection> = objects.iter().flat_map(of_object).collect();
        let merge = TableMerge { sections: &sections, is_oldest, stop };
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
    stop: &'a AtomicBool,
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
        loop {
            self.check_stop()?;
            // Up to there all rows are in memory of those that are not at their end.
            let waiting = readers.iter().enumerate().filter_map(|(i, reader)| Some((reader.end()?, i))).min();
            let mut changes = Vec::new();
            readers.iter_mut().for_each(|reader| reader.take_before(waiting.map(|(end, _)| end), &mut changes));
            match waiting {
                _ if !changes.is_empty() => self.write_net(&changes, &identities, writer)?,
                Some((_, reader)) => readers[reader].load()?,
                None => break,
            }
        }
        writer.end_section()
    }

    /// Writes the sections as they are, one after the other.
    fn copy(&self, writer: &mut ObjectWriter) -> Result<()> {
        for at in self.sections {
            let (object, section) = (&at.object, at.section());
            let blocks = section.gone.iter().chain(&section.rows);
            let mut reader = object.reader(blocks.map(|block| object.range_of(block)));
            writer.copy_section(section, || {
                self.check_stop()?;
                reader.read_next()
            })?;
        }
        Ok(())
    }

    fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Writes what changes come to, which no other changes concern.
    fn write_net(&self, changes: &[Change], identities: &Identities, writer: &mut ObjectWriter) -> Result<()> {
        let net = net(changes, &self.sections[0].section().shape, identities, self.is_oldest)?;
        for (part, places) in [(Part::Gone, &net.gone), (Part::Rows, &net.rows)] {
            for places in places.chunks(BLOCK_ROWS_MAX) {
                let (runs, rows) = rows_at(changes, places)?;
                writer.push(part, runs, rows)?;
            }
        }
        Ok(())
    }
}

/// Reads a part of a section from front to back.
struct PartReader<'a> {
    at: &'a TableSection,
    part: Part,
    blocks: RangeReader,
    /// How many blocks were read.
    n_read: usize,
    /// Rows that were read and not taken.
    rows: VecDeque<Change>,
}

impl<'a> PartReader<'a> {
    fn of(at: &'a TableSection) -> [PartReader<'a>; 2] {
        [Part::Gone, Part::Rows].map(|part| {
            let blocks = at.section().blocks(part).iter().map(|block| at.object.range_of(block));
            PartReader { at, part, blocks: at.object.reader(blocks), n_read: 0, rows: VecDeque::new() }
        })
    }

    /// The place in the order before which all rows were read; `None` if that is so of all.
    fn end(&self) -> Option<u64> {
        let next = self.at.section().blocks(self.part).get(self.n_read)?;
        let last = self.rows.back().and_then(|rows| rows.order.last().copied());
        Some(last.unwrap_or_else(|| next.runs.first().map_or(0, |&(partition, _)| u64::from(partition) << 56)))
    }

    /// Reads the next block.
    fn load(&mut self) -> Result<()> {
        let section = self.at.section();
        let block = &section.blocks(self.part)[self.n_read];
        let batch = self.at.object.decode_block(section, self.part, block, self.blocks.read_next()?)?;
        let order = self.part.order_of(&section.shape, &batch, partitions(&block.runs));
        let is_behind = self.rows.back().is_none_or(|before| before.order.last() <= order.first());
        if !is_behind || !order.is_sorted() {
            return Err(Error::internal("rows of a checkpoint are not in order"));
        }
        self.rows.push_back(Change { part: self.part, batch, order });
        self.n_read += 1;
        Ok(())
    }

    /// Takes the rows before a place in the order, or all.
    fn take_before(&mut self, end: Option<u64>, changes: &mut Vec<Change>) {
        while let Some(rows) = self.rows.front_mut() {
            let n_rows = end.map_or(rows.order.len(), |end| rows.order.partition_point(|&order| order < end));
            if n_rows < rows.order.len() {
                let (taken, left) = (rows.batch.slice(0, n_rows), rows.batch.slice(n_rows, rows.order.len() - n_rows));
                let left_order = rows.order.split_off(n_rows);
                if n_rows > 0 {
                    let order = std::mem::take(&mut rows.order);
                    changes.push(Change { part: self.part, batch: taken, order });
                }
                (rows.batch, rows.order) = (left, left_order);
                return;
            }
            changes.extend(self.rows.pop_front());
        }
    }
}
