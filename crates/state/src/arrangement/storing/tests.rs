//! Storing and forgetting against a plain model: every row, and the epoch that it was born in.

use std::ops::Range;

use arrow::array::{AsArray, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Int64Type};
use millstream_types::delta::schema_of;
use millstream_types::hash::mix;

use super::*;
use crate::stored::{ColumnStatistics, Statistics};
use crate::{ArrangementReader, ArrangementSpec, ColdMemory, ColdStore, Hold, Holds};

struct Model {
    arrangement: Arrangement,
    reader: ArrangementReader,
    holds: Holds,
    held: Vec<Hold>,
    store: ColdMemory,
    epoch: Epoch,
    /// Each row's epoch; its value is its index.
    born: Vec<Epoch>,
    /// Up to which row all are stored or handed over, and with which epoch those are not stored yet.
    n_handed_over: usize,
    unstored: Vec<(RecordBatch, Vec<(u32, Epoch)>)>,
    /// Blocks that are stored: the object and the epoch up to which it has rows.
    objects: Vec<(u64, Epoch, Vec<StoredBlock>)>,
    n_objects: u64,
    floors: Vec<(Epoch, Epoch)>,
    random: u64,
}

fn batch(values: Range<usize>) -> RecordBatch {
    let column: Int64Array = values.map(|v| v as i64).collect();
    RecordBatch::try_new(schema_of(&[("v", DataType::Int64)]), vec![Arc::new(column)]).expect("one column")
}

fn values(batches: impl IntoIterator<Item = RecordBatch>) -> Vec<i64> {
    let of = |batch: RecordBatch| batch.column(0).as_primitive::<Int64Type>().values().to_vec();
    let mut values: Vec<i64> = batches.into_iter().flat_map(of).collect();
    values.sort_unstable();
    values
}

impl Model {
    fn new(seed: u64) -> Self {
        let spec = ArrangementSpec { schema: batch(0..0).schema(), identity: None, indexes: vec![] };
        let arrangement = Arrangement::new(&spec).expect("a type that can be kept");
        let reader = arrangement.reader();
        Model {
            arrangement,
            reader,
            holds: Holds::new(),
            held: vec![],
            store: ColdMemory::default(),
            epoch: Epoch::ZERO,
            born: vec![],
            n_handed_over: 0,
            unstored: vec![],
            objects: vec![],
            n_objects: 0,
            floors: vec![],
            random: mix(seed),
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random = mix(self.random);
        self.random % n
    }

    fn write(&mut self) {
        self.epoch = self.epoch.next();
        let n_rows = self.below(1500) as usize;
        let rows = batch(self.born.len()..self.born.len() + n_rows);
        self.born.extend(std::iter::repeat_n(self.epoch, n_rows));
        self.arrangement.apply(&millstream_types::Delta::inserts(rows)).expect("all is in memory");
        self.seal();
    }

    fn seal(&mut self) {
        let since = self.holds.advance(self.epoch);
        self.arrangement.seal(self.epoch, since).expect("all is in memory");
    }

    fn hand_over(&mut self) {
        let rows = self.arrangement.take_to_store();
        let rows: Vec<_> = rows.in_order().collect::<Result<_>>().expect("all is in memory");
        let n_rows: usize = rows.iter().map(|(batch, _)| batch.num_rows()).sum();
        assert_eq!(self.n_handed_over + n_rows, self.born.len(), "each row is handed over once");
        self.n_handed_over = self.born.len();
        self.unstored.extend(rows);
    }

    fn block(&self, object: u64, rows: &RecordBatch, births: Vec<(u32, Epoch)>) -> StoredBlock {
        let column = ColumnStatistics { bounds: None, n_nulls: UInt64Array::from(vec![0]) };
        let statistics = Arc::new(Statistics { columns: vec![column] });
        StoredBlock { rows: self.store.put(rows).expect("it takes all"), births, object, statistics, place: 0 }
    }

    fn store_all(&mut self) {
        self.n_objects += 1;
        let object = self.n_objects;
        let unstored = std::mem::take(&mut self.unstored);
        let blocks: Vec<StoredBlock> =
            unstored.into_iter().map(|(rows, births)| self.block(object, &rows, births)).collect();
        self.arrangement.store(self.epoch, blocks.clone()).expect("as many rows");
        if !blocks.is_empty() {
            self.objects.push((object, self.epoch, blocks));
        }
    }

    /// Some objects next to each other become one, with one block.
    fn merge(&mut self) {
        let n_objects = self.objects.len() as u64;
        if n_objects < 2 {
            return;
        }
        let from = self.below(n_objects - 1) as usize;
        let to = (from + 2 + self.below(3) as usize).min(self.objects.len());
        let merged: Vec<_> = self.objects.drain(from..to).collect();
        let (mut batches, mut births, mut n_rows) = (vec![], vec![], 0);
        for (_, up_to, blocks) in &merged {
            births.push((n_rows, *up_to));
            for block in blocks {
                batches.push(block.rows.read(None).expect("it is there"));
                n_rows += block.rows.n_rows() as u32;
            }
        }
        let up_to = merged.last().map_or(Epoch::ZERO, |(_, up_to, _)| *up_to);
        self.n_objects += 1;
        let rows = concat_batches(&batches[0].schema(), &batches).expect("of one schema");
        let block = self.block(self.n_objects, &rows, births);
        let replaced: Vec<u64> = merged.iter().map(|(object, ..)| *object).collect();
        let since = self.holds.advance(self.epoch);
        self.arrangement.replace_stored(&replaced, up_to, vec![block.clone()], since).expect("the same rows");
        self.objects.insert(from, (self.n_objects, up_to, vec![block]));
    }

    fn set_floor(&mut self) {
        let since = self.holds.since();
        let possible: Vec<Epoch> = self.objects.iter().map(|(_, up_to, _)| *up_to).filter(|e| *e <= since).collect();
        let Some(&floor) = possible.get(self.below(possible.len().max(1) as u64) as usize) else { return };
        self.epoch = self.epoch.next();
        self.arrangement.set_floor(self.epoch, floor);
        self.floors.push((self.epoch, floor));
        self.seal();
    }

    fn hold(&mut self) {
        self.held.extend(self.holds.acquire(self.epoch));
        if self.held.len() > 4 {
            let at = self.below(self.held.len() as u64) as usize;
            self.held.swap_remove(at);
        }
    }

    fn expected(&self, epoch: Epoch) -> Vec<i64> {
        let floor = self.floors.iter().filter(|(from, _)| *from <= epoch).map(|(_, floor)| *floor).max();
        let is_seen = |(_, born): &(usize, &Epoch)| **born <= epoch && **born > floor.unwrap_or_default();
        self.born.iter().enumerate().filter(is_seen).map(|(value, _)| value as i64).collect()
    }

    fn check(&self) {
        let epochs: Vec<Epoch> = self.held.iter().map(Hold::epoch).chain([self.epoch]).collect();
        for &epoch in &epochs {
            let snapshot = self.reader.snapshot(epoch);
            let expected = self.expected(epoch);
            assert_eq!(snapshot.n_rows(), expected.len(), "rows as of {epoch}");
            assert_eq!(values(snapshot.batches().expect("all can be read")), expected, "as of {epoch}");
            let changes = self.reader.changes(epoch, self.epoch).deltas().expect("all can be read");
            assert!(changes.iter().all(|delta| delta.weights().is_none()), "nothing is taken back");
            let new = |born: &Epoch| *born > epoch;
            let n_new = self.born.iter().filter(|born| new(born)).count();
            let first = (self.born.len() - n_new) as i64;
            let changed = values(changes.into_iter().map(|delta| delta.batch().clone()));
            assert_eq!(changed, (first..self.born.len() as i64).collect::<Vec<_>>(), "since {epoch}");
        }
    }
}

#[test]
fn rows_are_seen_wherever_they_are_until_they_are_forgotten() {
    let (mut n_floors, mut n_objects) = (0, 0);
    for seed in 0..4 {
        let mut model = Model::new(seed);
        for _ in 0..80 {
            match model.below(10) {
                0..4 => model.write(),
                4 => model.hand_over(),
                5 => {
                    model.hand_over();
                    model.store_all();
                }
                6 => model.merge(),
                7 => model.set_floor(),
                _ => model.hold(),
            }
            model.check();
        }
        (n_floors, n_objects) = (n_floors + model.floors.len(), n_objects + model.n_objects);
        model.held.clear();
        model.write();
        model.hand_over();
        model.store_all();
        model.check();
        let n_chunks = model.reader.snapshot(model.epoch).n_chunks();
        assert_eq!(model.arrangement.n_rows_stored(), model.arrangement.len(), "all of it is stored, in {n_chunks}");
        // Who holds nothing needs nothing of what is forgotten.
        let last = model.epoch;
        model.epoch = last.next();
        model.arrangement.set_floor(model.epoch, last);
        model.floors.push((model.epoch, last));
        model.seal();
        model.check();
        assert_eq!((model.arrangement.len(), model.arrangement.n_bytes_stored()), (0, 0));
        drop(model.objects);
        assert_eq!(model.store.n_bytes(), 0, "nobody has blocks any more");
    }
    assert!(n_floors > 4 && n_objects > 16, "all of it happens: {n_floors} floors, {n_objects} objects");
}
