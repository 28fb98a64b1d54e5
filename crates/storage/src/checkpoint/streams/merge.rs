//! Merging: several objects of a stream next to each other become one, with the same rows in the same order.
//!
//! Blocks that are at least half full are copied as they are; smaller ones of a slot that follow each other become one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream_state::StoredBlock;
use millstream_types::{Epoch, Error, ErrorKind, Result, SqlState};

use super::super::snapshot::Snapshot;
use super::super::store::CheckpointStore;
use super::object_reader::StreamObject;
use super::object_writer::StreamObjectWriter;
use super::tiers::{StreamLimits, StreamTiers};
use super::{StreamBlocks, StreamObjectEntry};
use crate::errors::is_damage;

/// How many objects become one, at most.
const FAN_IN_MAX: usize = 16;

/// What a merge has done: one object of a stream has taken the place of several.
#[derive(Debug)]
pub struct MergedStream {
    /// The stream.
    pub stream: u64,
    /// The numbers of the objects that are no more.
    pub replaced: Vec<u64>,
    /// The rows are those that were born in the epochs of these objects, up to this one.
    pub up_to: Epoch,
    /// The blocks, with their slots.
    pub blocks: Vec<(u8, StoredBlock)>,
}

/// How an attempt to merge has ended.
enum Attempt {
    Done(MergedStream),
    /// There is nothing to show for it.
    GivenUp,
    /// An object cannot be merged, and will not be tried again.
    LeftOut(String, Error),
}

impl CheckpointStore {
    /// Merges the objects of a stream that should be merged next, if any should; is called again until none should. What
    /// `limits` says of a stream an object is not made to exceed, so that it can be forgotten as a whole. Otherwise
    /// as [`CheckpointStore::merge_once`]; memory is a block of each slot.
    ///
    /// # Errors
    /// 53100 and 58030 if the disk fails: nothing has changed, and it may be tried again after a while. An object that is
    /// damaged stays as it is.
    pub fn merge_streams_once(
        &self,
        stop: &AtomicBool,
        limits: impl Fn(u64) -> StreamLimits,
    ) -> Result<Option<MergedStream>> {
        let _alone = self.shared.merging.lock();
        let snapshot = self.hold();
        loop {
            let chosen = snapshot.manifest().stream_floors.keys().find_map(|&stream| {
                let fan_in = self.shared.options.fan_in.clamp(2, FAN_IN_MAX);
                self.choose_of_stream(&snapshot, stream, StreamTiers { fan_in, limits: limits(stream) })
            });
            let Some(chosen) = chosen else { return Ok(None) };
            match self.merge_stream_objects(&snapshot, &chosen, stop)? {
                Attempt::Done(merged) => return Ok(Some(merged)),
                Attempt::GivenUp => return Ok(None),
                Attempt::LeftOut(path, error) => {
                    tracing::error!(%error, "an object of a stream cannot be merged");
                    self.shared.unmergeable.lock().insert(path);
                }
            }
        }
    }

    fn choose_of_stream<'a>(
        &self,
        snapshot: &'a Snapshot,
        stream: u64,
        tiers: StreamTiers,
    ) -> Option<Vec<&'a StreamObjectEntry>> {
        let unmergeable = self.shared.unmergeable.lock();
        let objects: Vec<&StreamObjectEntry> = snapshot.manifest().objects_of_stream(stream).collect();
        let mut segments = objects.split(|object| unmergeable.contains(&object.path()));
        segments.find_map(|segment| Some(segment[tiers.choose(segment)?].to_vec()))
    }

    /// Merges objects of a stream next to each other.
    fn merge_stream_objects(
        &self,
        snapshot: &Snapshot,
        chosen: &[&StreamObjectEntry],
        stop: &AtomicBool,
    ) -> Result<Attempt> {
        let mut writer: Option<StreamObjectWriter> = None;
        for entry in chosen {
            let copied = snapshot.stream_object(entry).and_then(|object| {
                let writer = match &mut writer {
                    Some(writer) => writer,
                    None => writer.insert(self.shared.stream_object(entry.stream, object.schema())?),
                };
                copy(&object, writer, stop)
            });
            match copied {
                Err(error) if error.state() == SqlState::QUERY_CANCELED => return Ok(Attempt::GivenUp),
                Err(error) if is_damage(&error) || error.kind() == ErrorKind::Internal => {
                    return Ok(Attempt::LeftOut(entry.path(), error));
                }
                copied => copied?,
            }
        }
        let written = writer.map(StreamObjectWriter::finish).transpose()?.flatten();
        let Some(written) = written else { return Ok(Attempt::GivenUp) };
        let Some(object) = self.shared.replace_of_stream(chosen, written)? else { return Ok(Attempt::GivenUp) };
        let up_to = Epoch(chosen.iter().map(|entry| entry.up_to).max().unwrap_or_default());
        let StreamBlocks { stream, blocks } = StreamBlocks::of(object);
        let replaced = chosen.iter().map(|entry| entry.number()).collect();
        Ok(Attempt::Done(MergedStream { stream, replaced, up_to, blocks }))
    }

    /// Merges some objects of a stream next to each other, whatever their sizes.
    #[cfg(test)]
    pub(in crate::checkpoint) fn merge_any_of_stream(
        &self,
        stream: u64,
        random: &mut crate::random::Bits,
    ) -> Result<Option<MergedStream>> {
        let _alone = self.shared.merging.lock();
        let snapshot = self.hold();
        let objects: Vec<&StreamObjectEntry> = snapshot.manifest().objects_of_stream(stream).collect();
        let start = random.below(objects.len().max(1) as u64) as usize;
        let end = objects.len().min(start + 1 + random.below(4) as usize);
        match self.merge_stream_objects(&snapshot, &objects[start..end], &AtomicBool::new(false))? {
            Attempt::Done(merged) => Ok(Some(merged)),
            Attempt::GivenUp => Ok(None),
            Attempt::LeftOut(_, error) => Err(error),
        }
    }
}

/// Adds the rows of an object.
fn copy(object: &Arc<StreamObject>, writer: &mut StreamObjectWriter, stop: &AtomicBool) -> Result<()> {
    let mut blocks = object.read_blocks();
    for place in 0..object.n_blocks() {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::cancelled());
        }
        writer.push_block(object, place, blocks.read_next()?)?;
    }
    Ok(())
}
