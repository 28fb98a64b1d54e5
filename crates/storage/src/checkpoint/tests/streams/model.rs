//! What the streams of a store should have.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use millstream_state::StoredBlock;
use millstream_types::delta::schema_of;
use millstream_types::{Epoch, Result};

use super::super::super::*;
use crate::random::Bits;

/// A row: the epoch in which it was born, a number, and a text, which may be missing.
pub(in crate::checkpoint::tests) type StreamRow = (u64, i64, Option<String>);

/// The rows of each slot, in the order in which they came.
pub(in crate::checkpoint::tests) type Slots = BTreeMap<u8, Vec<StreamRow>>;

/// The slots that have rows.
const SLOTS: [u8; 2] = [0, 255];

/// All streams, and all rows that ever came to them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::checkpoint::tests) struct StreamModel {
    /// The streams that live. Rows born at or before the epoch are forgotten.
    pub(in crate::checkpoint::tests) floors: BTreeMap<u64, u64>,
    rows: BTreeMap<u64, Slots>,
    n_streams: u64,
    n_rows: i64,
    /// How often it has changed: no more often than there were epochs.
    clock: u64,
}

pub(in crate::checkpoint::tests) fn schema() -> SchemaRef {
    schema_of(&[("n", DataType::Int64), ("t", DataType::Utf8View)])
}

/// Rows as columns, and when they were born.
pub(in crate::checkpoint::tests) fn columns(rows: &[StreamRow]) -> (Vec<(u32, Epoch)>, RecordBatch) {
    let numbers: ArrayRef = Arc::new(rows.iter().map(|(_, n, _)| Some(*n)).collect::<Int64Array>());
    let texts: ArrayRef = Arc::new(rows.iter().map(|(_, _, t)| t.clone()).collect::<StringViewArray>());
    let mut births: Vec<(u32, Epoch)> = (0..).zip(rows).map(|(i, row)| (i, Epoch(row.0))).collect();
    births.dedup_by_key(|(_, epoch)| *epoch);
    (births, RecordBatch::try_new(schema(), vec![numbers, texts]).expect("two columns"))
}

impl StreamModel {
    /// Lets rows come, and some be forgotten; sometimes drops a stream and has a new one.
    pub(in crate::checkpoint::tests) fn change(&mut self, random: &mut Bits) {
        self.clock += 1;
        // Where everything fails in turn, runs are short, and one is enough.
        let n_streams = if self.clock > 5 { 2 } else { 1 };
        if self.floors.len() < n_streams {
            self.n_streams += 1;
            self.floors.insert(self.n_streams, 0);
        } else if random.below(12) == 0 {
            let stream = *self.floors.first_key_value().expect("there is one").0;
            self.floors.remove(&stream);
            self.rows.remove(&stream);
        }
        for (&stream, floor) in &mut self.floors {
            if random.below(6) == 0 {
                *floor = (*floor).max(self.clock.saturating_sub(1 + random.below(4)));
            }
            for slot in SLOTS {
                let rows = self.rows.entry(stream).or_default().entry(slot).or_default();
                let (n_late, n_rows) = (random.below(6), random.below(14));
                for i in 0..n_rows {
                    self.n_rows += 1;
                    let text = (random.below(5) > 0).then(|| "y".repeat(random.below(30) as usize));
                    rows.push((if i < n_late { self.clock.max(2) - 1 } else { self.clock }, self.n_rows, text));
                }
            }
        }
    }

    /// Writes the rows that another one does not have.
    pub(in crate::checkpoint::tests) fn write(
        &self,
        checkpoint: &Checkpoint,
        since: &StreamModel,
    ) -> Result<Vec<WrittenStreamObject>> {
        let mut objects = Vec::new();
        for (&stream, slots) in &self.rows {
            let mut writer = checkpoint.stream_object(stream, &schema())?;
            for (&slot, rows) in slots {
                let before = since.rows.get(&stream).and_then(|slots| slots.get(&slot)).map_or(0, Vec::len);
                let rows = &rows[before..];
                for rows in [&rows[..rows.len() / 3], &rows[rows.len() / 3..]].into_iter().filter(|r| !r.is_empty()) {
                    let (births, rows) = columns(rows);
                    writer.push(slot, &births, &rows)?;
                }
            }
            objects.extend(writer.finish()?);
        }
        Ok(objects)
    }

    /// The rows of a stream that are not forgotten.
    pub(in crate::checkpoint::tests) fn rows_of(&self, stream: u64) -> Slots {
        let floor = self.floors[&stream];
        let living = |(&slot, rows): (&u8, &Vec<StreamRow>)| {
            (slot, rows.iter().filter(|row| row.0 > floor).cloned().collect::<Vec<_>>())
        };
        let slots = self.rows.get(&stream).into_iter().flatten().map(living);
        slots.filter(|(_, rows)| !rows.is_empty()).collect()
    }

    /// Panics unless a checkpoint has this.
    pub(in crate::checkpoint::tests) fn check(&self, snapshot: &Snapshot) {
        let manifest = snapshot.manifest();
        assert_eq!(manifest.stream_floors, self.floors);
        assert!(manifest.stream_objects.iter().all(|object| object.up_to > self.floors[&object.stream]));
        for (&stream, &floor) in &self.floors {
            let blocks = snapshot.stream_blocks(stream).expect("it reads right");
            assert_eq!(read(&blocks, floor).expect("it reads right"), self.rows_of(stream), "stream {stream}");
        }
    }
}

/// The rows of blocks that were born after an epoch.
pub(in crate::checkpoint::tests) fn read(blocks: &[(u8, StoredBlock)], floor: u64) -> Result<Slots> {
    let mut slots = Slots::new();
    for (slot, block) in blocks {
        let rows = block.rows.read(None)?;
        assert_eq!(rows.num_rows(), block.rows.n_rows());
        assert_eq!(rows.schema(), schema());
        assert!(block.births[0].0 == 0 && block.births.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1));
        let (numbers, texts) = (rows.column(0).as_primitive::<Int64Type>(), rows.column(1).as_string_view());
        // Numbers ascend, so this is what is known of them.
        let (min, max) = block.statistics.columns[0].bounds.as_ref().expect("numbers have bounds");
        let known = [min, max].map(|bound| bound.as_primitive::<Int64Type>().value(block.place));
        assert_eq!(known, [numbers.value(0), numbers.value(numbers.len() - 1)]);
        assert_eq!(block.statistics.columns[1].n_nulls.value(block.place), texts.null_count() as u64);
        for (i, (&n, text)) in numbers.values().iter().zip(texts).enumerate() {
            let birth = block.births.iter().rev().find(|(row, _)| *row as usize <= i).expect("the first is row 0").1.0;
            if birth > floor {
                slots.entry(*slot).or_default().push((birth, n, text.map(str::to_owned)));
            }
        }
    }
    Ok(slots)
}

/// Commits objects of streams, and nothing else, in the epoch after the newest.
pub(in crate::checkpoint::tests) fn commit(
    store: &CheckpointStore,
    floors: &[(u64, u64)],
    write: impl FnOnce(&Checkpoint, u64) -> Vec<WrittenStreamObject>,
) -> Vec<StreamBlocks> {
    let checkpoint = store.begin();
    let epoch = store.newest().epoch + 1;
    let objects = write(&checkpoint, epoch);
    let stream_floors = floors.iter().copied().collect();
    let commit =
        Commit { epoch, now_us: epoch as i64 * 1_000_000, log_sequence: 1, stream_floors, ..Commit::default() };
    store.commit(&checkpoint, commit, vec![], objects).expect("there is room").1
}

/// Commits some rows of a stream, whose number follows from the epoch, in slot 3.
pub(in crate::checkpoint::tests) fn commit_rows(
    store: &CheckpointStore,
    floors: &[(u64, u64)],
    stream: u64,
    n_rows: i64,
) -> Vec<StreamBlocks> {
    commit(store, floors, |checkpoint, epoch| {
        let mut writer = checkpoint.stream_object(stream, &schema()).expect("it begins");
        let rows: Vec<StreamRow> = (0..n_rows).map(|n| (epoch, epoch as i64 * 1_000_000 + n, None)).collect();
        let (births, rows) = columns(&rows);
        writer.push(3, &births, &rows).expect("there is room");
        writer.finish().expect("there is room").into_iter().collect()
    })
}
