//! Arrangements against a plain model: the rows of each epoch, all of them kept.

use std::collections::BTreeMap;

use arrow::array::{AsArray, Int64Array, StringViewArray};
use arrow::datatypes::{DataType, Int64Type};
use millstream_types::delta::schema_of;
use millstream_types::hash::mix;

use super::*;
use crate::changes::HashedRows;
use crate::{Changes, ColdMemory, Hold, Holds, Snapshot, UnsavedRows};

/// `(k, t, v)`.
type Row = (Option<i64>, Option<String>, i64);
/// Rows by weight.
type Rows = BTreeMap<Row, i64>;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % n
    }
}

fn schema() -> SchemaRef {
    schema_of(&[("k", DataType::Int64), ("t", DataType::Utf8View), ("v", DataType::Int64)])
}

fn columns_of<'a>(rows: impl Iterator<Item = &'a Row> + Clone) -> Vec<ArrayRef> {
    vec![
        Arc::new(rows.clone().map(|r| r.0).collect::<Int64Array>()),
        Arc::new(rows.clone().map(|r| r.1.as_deref()).collect::<StringViewArray>()),
        Arc::new(rows.map(|r| Some(r.2)).collect::<Int64Array>()),
    ]
}

fn delta_of(changes: &[(Row, i64)], weighted: bool) -> Delta {
    let batch = RecordBatch::try_new(schema(), columns_of(changes.iter().map(|c| &c.0))).expect("three columns");
    Delta::new(batch, weighted.then(|| changes.iter().map(|c| c.1).collect()))
}

fn add(rows: &mut Rows, row: Row, weight: i64) {
    let sum = rows.entry(row.clone()).or_default();
    *sum += weight;
    if *sum == 0 {
        rows.remove(&row);
    }
}

fn add_batch(rows: &mut Rows, batch: &RecordBatch, weight: impl Fn(usize) -> i64) {
    let number = |c: usize| batch.column(c).as_primitive::<Int64Type>();
    let texts = batch.column(1).as_string_view();
    for i in 0..batch.num_rows() {
        let k = number(0).is_valid(i).then(|| number(0).value(i));
        let t = texts.is_valid(i).then(|| texts.value(i).to_owned());
        add(rows, (k, t, number(2).value(i)), weight(i));
    }
}

fn rows_of(snapshot: &Snapshot) -> Rows {
    let mut rows = Rows::new();
    for batch in snapshot.batches().expect("it can be read") {
        add_batch(&mut rows, &batch, |_| 1);
    }
    rows
}

fn sum_of(changes: &Changes) -> Rows {
    let mut rows = Rows::new();
    for delta in changes.deltas().expect("it can be read") {
        add_batch(&mut rows, delta.batch(), |i| delta.weight(i));
    }
    rows
}

fn difference(from: &Rows, to: &Rows) -> Rows {
    let mut rows = to.clone();
    from.iter().for_each(|(row, n)| add(&mut rows, row.clone(), -n));
    rows
}

/// What a case is about.
#[derive(Clone, Copy, Debug)]
struct Case {
    seed: u64,
    /// Changes of an epoch, at most.
    n_changes_max: u64,
    /// Values of a column, about.
    n_values: u64,
    deletable: bool,
    /// Rows are found by `k` alone, which is not unique here; else by all columns.
    by_key: bool,
    /// Chunks are put away at random, full or not.
    spills: bool,
}

/// A probe by `t` that takes what it finds in pieces, epochs apart.
struct Paused {
    keys: Vec<ArrayRef>,
    hashes: Vec<u64>,
    /// Held meanwhile.
    at: Hold,
    position: ProbePosition,
    found: Rows,
    expected: Rows,
}

/// An arrangement beside its model.
struct Pair {
    case: Case,
    random: Random,
    arrangement: Arrangement,
    store: Arc<ColdMemory>,
    indexes: Vec<Vec<usize>>,
    holds: Holds,
    held: Vec<Hold>,
    /// Snapshots that readers have kept, with what they were.
    kept: Vec<(Snapshot, Rows)>,
    paused: Option<Paused>,
    /// The rows after each sealed epoch.
    sealed: BTreeMap<Epoch, Rows>,
    now: Rows,
    /// What was handed over to be saved and is not written yet, with what the rows were then.
    unsaved: Option<(UnsavedRows, Rows)>,
    /// The rows that all that was saved comes to.
    saved: Rows,
}

impl Pair {
    fn new(case: Case) -> Self {
        let by = if case.by_key { vec![0] } else { vec![0, 1, 2] };
        let identity = case.deletable.then_some(by);
        let further = vec![vec![1], vec![2, 0]];
        let indexes = identity.iter().chain(&further).cloned().collect();
        let spec = ArrangementSpec { schema: schema(), identity, indexes: further };
        let (mut arrangement, store) = (Arrangement::new(&spec).expect("the types can be kept"), Arc::default());
        arrangement.spill_into(Arc::clone(&store) as Arc<dyn ColdStore>);
        Pair {
            case,
            random: Random(case.seed),
            arrangement,
            store,
            indexes,
            holds: Holds::new(),
            held: Vec::new(),
            kept: Vec::new(),
            paused: None,
            sealed: BTreeMap::from([(Epoch::ZERO, Rows::new())]),
            now: Rows::new(),
            unsaved: None,
            saved: Rows::new(),
        }
    }

    fn random_row(&mut self) -> Row {
        let n_values = self.case.n_values;
        let k = self.random.below(n_values + 1).checked_sub(1).map(|k| k as i64);
        let text = |t: u64| if t.is_multiple_of(2) { t.to_string() } else { format!("{t:>40}") };
        let t = self.random.below(n_values + 1).checked_sub(1).map(text);
        (k, t, self.random.below(3) as i64)
    }

    /// Some rows come, some go, some come and go at once.
    fn apply(&mut self) {
        let mut changes: Vec<(Row, i64)> = Vec::new();
        for _ in 0..self.random.below(self.case.n_changes_max) {
            let row = self.random_row();
            let weight = [1, 1, 1, 2][self.random.below(4) as usize];
            changes.push((row.clone(), weight));
            if self.case.deletable && self.random.below(16) == 0 {
                changes.push((row, -(1 + self.random.below(weight as u64) as i64)));
            }
        }
        if self.case.deletable && self.random.below(3) > 0 {
            // Sometimes nearly all.
            let share = [2, 8, 64][self.random.below(3) as usize];
            for (row, n) in &self.now {
                let random = mix(self.random.0 ^ row.2 as u64 ^ row.0.unwrap_or(-1) as u64);
                if !random.is_multiple_of(share) {
                    changes.push((row.clone(), -(1 + (self.random.below(*n as u64) as i64))));
                }
            }
        }
        let weighted = changes.iter().any(|c| c.1 != 1);
        for i in (1..changes.len()).rev() {
            changes.swap(i, self.random.below(i as u64 + 1) as usize);
        }
        self.arrangement.apply(&delta_of(&changes, weighted)).expect("the changes add up");
        changes.into_iter().for_each(|(row, weight)| add(&mut self.now, row, weight));
        assert_eq!(self.arrangement.len() as i64, self.now.values().sum::<i64>());
    }

    /// Takes, moves and gives up holds.
    fn hold(&mut self, epoch: Epoch) {
        let since = self.holds.since();
        match self.random.below(5) {
            0 => self.held.push(self.holds.acquire(epoch).expect("a sealed epoch can be held")),
            1 if !self.held.is_empty() => {
                let at = self.random.below(self.held.len() as u64) as usize;
                self.held.swap_remove(at);
            }
            2 => {
                if let Some(hold) = self.held.last_mut() {
                    hold.advance(epoch);
                }
            }
            3 => {
                let readable: Vec<Epoch> = self.sealed.range(since..).map(|s| *s.0).collect();
                let at = readable[self.random.below(readable.len() as u64) as usize];
                self.kept.push((self.arrangement.reader().snapshot(at), self.sealed[&at].clone()));
            }
            _ => {}
        }
    }

    fn seal(&mut self, epoch: Epoch) {
        self.arrangement.seal(epoch, self.holds.advance(epoch)).expect("chunks can be read");
        self.sealed.insert(epoch, self.now.clone());
        assert_eq!(self.arrangement.reader().sealed(), epoch);
    }

    /// Readers see each epoch that can still be read as it was.
    fn check_readers(&self) {
        let reader = self.arrangement.reader();
        let since = self.holds.since();
        let readable: Vec<(&Epoch, &Rows)> = self.sealed.range(since..).collect();
        for (epoch, rows) in &readable {
            let snapshot = reader.snapshot(**epoch);
            assert_eq!(rows_of(&snapshot), **rows, "{:?} at {epoch}", self.case);
            assert_eq!(snapshot.n_rows() as i64, rows.values().sum::<i64>(), "{:?} at {epoch}", self.case);
        }
        for (from, before) in readable.iter().step_by(2) {
            for (to, after) in readable.iter().rev().step_by(2).filter(|(to, _)| to >= from) {
                let changes = reader.changes(**from, **to);
                assert_eq!(sum_of(&changes), difference(before, after), "{:?} {from} to {to}", self.case);
            }
        }
        for (snapshot, rows) in &self.kept {
            assert_eq!(rows_of(snapshot), *rows, "{:?}, a snapshot that was kept", self.case);
        }
    }

    /// Each index finds the rows of a key, at each epoch that can still be read, and those of now.
    fn check_lookups(&mut self) {
        let probes: Vec<Row> = (0..8).map(|_| self.random_row()).collect();
        let columns = columns_of(probes.iter());
        let since = self.holds.since();
        let at = self.sealed.range(since..).map(|(epoch, rows)| (Some(*epoch), rows));
        for (at, rows) in at.chain([(None, &self.now)]) {
            for index_columns in &self.indexes {
                let Some(index) = self.arrangement.index_on(index_columns) else { continue };
                let keys: Vec<ArrayRef> = index_columns.iter().map(|&c| columns[c].clone()).collect();
                let mut hashes = Vec::new();
                hash_columns(&keys, probes.len(), &mut hashes);
                let mut matches = Matches::default();
                matches.push(7, crate::NO_ROW);
                self.arrangement.probe(index, &keys, &hashes, at, &mut matches).expect("chunks can be read");
                assert_eq!((matches.probes[0], matches.rows[0]), (7, crate::NO_ROW), "pairs that were there stay");
                assert!(matches.probes[1..].is_sorted(), "each key in order");
                let found = self.arrangement.gather(&matches.rows[1..]).expect("chunks can be read");
                for (i, probe) in probes.iter().enumerate() {
                    let mut of_probe = Rows::new();
                    let is_of_probe = |j: usize| i64::from(matches.probes[j + 1] as usize == i);
                    add_batch(&mut of_probe, &found, is_of_probe);
                    let is_equal = |row: &Row| {
                        index_columns.iter().all(|c| match c {
                            0 => row.0 == probe.0,
                            1 => row.1 == probe.1,
                            _ => row.2 == probe.2,
                        })
                    };
                    let expected: Rows = rows.iter().filter(|r| is_equal(r.0)).map(|(r, n)| (r.clone(), *n)).collect();
                    assert_eq!(of_probe, expected, "{:?} at {at:?} by {index_columns:?}", self.case);
                }
            }
        }
    }

    /// Puts some chunks away, those that are filled among them.
    fn spill(&mut self) {
        if !self.case.spills || self.random.below(2) == 0 {
            return;
        }
        if self.random.below(2) == 0 {
            self.arrangement.rows.swap_tail(None);
            self.arrangement.merge_target = None;
        }
        let n_bytes = 1 + self.random.below(200_000) as usize;
        self.arrangement.spill(n_bytes).expect("they can be put away");
        let (is_away, is_there) = (self.arrangement.n_bytes_spilled() > 0, self.store.n_bytes() > 0);
        // What others hold stays there when it is gone here.
        assert!(is_there || !is_away);
        assert!(is_away || !is_there || self.unsaved.is_some() || !self.kept.is_empty());
    }

    /// Builds on, while rows come, go and move.
    fn build_some(&mut self) {
        for _ in 0..self.random.below(3) {
            self.arrangement.build_indexes().expect("chunks can be read");
        }
    }

    /// Begins a probe in pieces, or takes the next piece of the one there is: all pieces are of the epoch of its begin.
    fn probe_on(&mut self, epoch: Epoch) {
        if self.paused.is_none() && self.random.below(2) == 0 {
            let probes: Vec<Row> = (0..3).map(|_| self.random_row()).collect();
            let keys = vec![columns_of(probes.iter())[1].clone()];
            let mut hashes = Vec::new();
            hash_columns(&keys, probes.len(), &mut hashes);
            let mut expected = Rows::new();
            for (row, n) in probes.iter().flat_map(|p| self.now.iter().filter(|r| r.0.1 == p.1)) {
                add(&mut expected, row.clone(), *n);
            }
            let at = self.holds.acquire(epoch).expect("a sealed epoch can be held");
            let position = ProbePosition::before(0);
            self.paused = Some(Paused { keys, hashes, at, position, found: Rows::new(), expected });
            self.arrangement.pin();
        }
        let Some(mut paused) = self.paused.take() else { return };
        let index = self.arrangement.index_on(&[1]).expect("it was there at the start");
        for _ in 0..=self.random.below(3) {
            let mut matches = Matches::default();
            let limit = 1 + self.random.below(4) as usize;
            let at = Some(paused.at.epoch());
            let Paused { keys, hashes, position, .. } = &paused;
            let next = self.arrangement.probe_from(index, keys, hashes, at, *position, limit, &mut matches);
            paused.position = next.expect("chunks can be read");
            assert!(matches.len() <= limit, "{:?}", self.case);
            let found = self.arrangement.gather(&matches.rows).expect("chunks can be read");
            add_batch(&mut paused.found, &found, |_| 1);
            if paused.position.probe == paused.hashes.len() {
                assert_eq!(paused.found, paused.expected, "{:?}, in pieces", self.case);
                return self.arrangement.unpin();
            }
        }
        self.paused = Some(paused);
    }

    /// Hands over what has not been saved, to be written later.
    fn hand_over(&mut self) {
        self.write();
        if self.case.deletable && self.case.by_key {
            // Rows that are saved are known by a unique key.
            return;
        }
        self.unsaved = Some((self.arrangement.take_unsaved(), self.now.clone()));
        assert_eq!(self.arrangement.take_unsaved().n_rows(), 0);
    }

    /// Writes what was handed over: with all that was saved before, that comes to what there was.
    fn write(&mut self) {
        let Some((unsaved, then)) = self.unsaved.take() else { return };
        let by: Option<&[usize]> = self.case.deletable.then_some(&[1, 0]);
        let (mut gone, mut came) = (Vec::new(), Vec::new());
        let take = |of_gone: &[HashedRows], of_came: &[HashedRows]| {
            assert!(of_gone.is_empty() || came.is_empty(), "what is gone comes first");
            gone.extend_from_slice(of_gone);
            came.extend_from_slice(of_came);
            Ok(())
        };
        unsaved.hand_out(by, 1, take).expect("it can be read");
        let n_rows: usize = gone.iter().chain(&came).map(|rows| rows.hashes.len()).sum();
        assert_eq!(n_rows, unsaved.n_rows());
        for (rows, weight) in gone.iter().map(|g| (g, -1)).chain(came.iter().map(|c| (c, 1))) {
            add_batch(&mut self.saved, &rows.batch, |_| weight);
            if let Some(by) = by {
                let mut hashes = Vec::new();
                hash_columns(rows.batch.project(by).expect("its columns").columns(), rows.hashes.len(), &mut hashes);
                assert_eq!(rows.hashes, hashes);
            }
        }
        assert_eq!(self.saved, then, "{:?}", self.case);
    }

    /// Lets the arrangement forget what nobody can ask for, whether an epoch has begun or not.
    fn forget(&mut self, epoch: Epoch) {
        let since = self.holds.advance(epoch);
        self.arrangement.forget(since).expect("chunks can be read");
    }

    /// All rows go, and nobody holds anything.
    fn empty(&mut self, epoch: Epoch) {
        if self.paused.take().is_some() {
            self.arrangement.unpin();
        }
        self.held.clear();
        self.kept.clear();
        let gone: Vec<(Row, i64)> = self.now.iter().map(|(row, n)| (row.clone(), -n)).collect();
        self.arrangement.apply(&delta_of(&gone, true)).expect("the rows are there");
        self.now.clear();
        self.seal(epoch);
        assert!(self.arrangement.is_empty());
    }
}

fn run(case: Case, n_epochs: u64) {
    let mut pair = Pair::new(case);
    let mut epoch = Epoch::ZERO;
    for i in 0..n_epochs {
        for _ in 0..pair.random.below(3) {
            pair.apply();
            pair.spill();
        }
        if pair.random.below(3) == 0 {
            pair.forget(epoch);
        }
        pair.check_lookups();
        epoch = Epoch(epoch.0 + 1 + pair.random.below(2));
        pair.seal(epoch);
        pair.spill();
        if i == n_epochs / 3 {
            let wanted = [vec![1], vec![2, 0], vec![2], vec![0, 1]];
            pair.arrangement.set_indexes(&wanted);
            pair.indexes.extend([vec![2], vec![0, 1]]);
        }
        if i >= n_epochs / 3 && i < n_epochs - 2 {
            pair.build_some();
        }
        if i == n_epochs - 2 {
            while pair.arrangement.build_indexes().expect("chunks can be read") {}
            assert!(pair.indexes.iter().all(|columns| pair.arrangement.index_on(columns).is_some()));
        }
        match pair.random.below(3) {
            0 => pair.hand_over(),
            1 => pair.write(),
            _ => {}
        }
        pair.check_readers();
        pair.check_lookups();
        pair.probe_on(epoch);
        pair.hold(epoch);
        if pair.random.below(3) == 0 {
            pair.forget(epoch);
            pair.check_readers();
            pair.check_lookups();
        }
    }
    pair.hand_over();
    pair.write();
    if case.deletable {
        let fresh = Pair::new(case).arrangement.n_bytes();
        pair.empty(epoch.next());
        pair.check_readers();
        pair.hand_over();
        pair.write();
        let n_bytes = pair.arrangement.n_bytes();
        assert!(n_bytes <= fresh + EMPTY_BYTES_MAX, "{case:?}: {n_bytes} bytes are counted of nothing");
    }
}

/// What an arrangement without rows may keep beyond what a new one has: pages of the indexes' links, tables of maps.
const EMPTY_BYTES_MAX: usize = 1 << 20;

#[test]
fn every_epoch_that_is_held_reads_as_it_was() {
    for seed in 0..40 {
        let (deletable, by_key) = (seed % 4 != 0, seed % 4 == 1);
        for spills in [false, true] {
            run(Case { seed, n_changes_max: 14, n_values: 4, deletable, by_key, spills }, 16);
        }
    }
}

#[test]
fn chunks_that_fill_and_empty_change_nothing_that_is_seen() {
    for seed in 100..103 {
        let (deletable, by_key) = (seed != 100, seed == 101);
        for spills in [false, true] {
            run(Case { seed, n_changes_max: 9_000, n_values: 100, deletable, by_key, spills }, 6);
        }
    }
}

/// Chunks that could not be merged when their rows died, since too many were, are merged later.
#[test]
fn memory_of_dead_rows_comes_back_when_a_hold_goes() {
    let spec = ArrangementSpec { schema: schema(), identity: Some(vec![0]), indexes: vec![] };
    let mut arrangement = Arrangement::new(&spec).expect("the types can be kept");
    let rows: Vec<(Row, i64)> = (0..100_000).map(|k| ((Some(k), None, 0), 1)).collect();
    arrangement.apply(&delta_of(&rows, false)).expect("rows come");
    arrangement.seal(Epoch(1), Epoch(1)).expect("all is in memory");
    let n_bytes = arrangement.rows.n_bytes();
    let gone: Vec<(Row, i64)> = rows.into_iter().filter(|r| r.0.0.is_some_and(|k| k % 4 > 0)).collect();
    arrangement.apply(&delta_of(&gone, true).negate()).expect("the rows are there");
    // Somebody holds the first epoch, and then nobody does.
    arrangement.seal(Epoch(2), Epoch(1)).expect("all is in memory");
    arrangement.forget(Epoch(2)).expect("all is in memory");
    let left = arrangement.rows.n_bytes();
    assert!(left < n_bytes, "{left} bytes of {n_bytes} are left before the next epoch");
    (3..20).for_each(|epoch| arrangement.seal(Epoch(epoch), Epoch(epoch)).expect("all is in memory"));
    let left = arrangement.rows.n_bytes();
    assert!(left * 2 < n_bytes, "{left} bytes of {n_bytes} are left of a quarter of the rows");
    let rows = rows_of(&arrangement.reader().snapshot(Epoch(19)));
    assert!(rows.len() == 25_000 && rows.keys().all(|r| r.0.is_some_and(|k| k % 4 == 0)));
}

/// A chunk that is put away is in memory no more, whoever reads, and what cannot be put away stays.
#[test]
fn chunks_that_are_put_away_leave_memory() {
    let spec = ArrangementSpec { schema: schema(), identity: Some(vec![0]), indexes: vec![] };
    let mut arrangement = Arrangement::new(&spec).expect("the types can be kept");
    let text = |k: i64| Some(format!("{k:>100}"));
    let rows: Vec<(Row, i64)> = (0..100_000).map(|k| ((Some(k), text(k), 0), 1)).collect();
    arrangement.apply(&delta_of(&rows, false)).expect("rows come");
    arrangement.seal(Epoch(1), Epoch(1)).expect("all is in memory");
    let (reader, memory) = (arrangement.reader(), Arc::new(ColdMemory::default()));
    assert_eq!((arrangement.n_bytes_spillable(), arrangement.spill(usize::MAX)), (0, Ok(0)), "there is no other place");
    arrangement.spill_into(memory.clone());
    let n_bytes = arrangement.rows.n_bytes();
    assert!(arrangement.n_bytes_spillable() > n_bytes / 2);
    memory.set_fails(true);
    arrangement.spill(usize::MAX).expect_err("nothing can be put there");
    assert_eq!((arrangement.n_bytes_spillable(), arrangement.n_bytes_spilled()), (0, 0));
    assert_eq!(rows_of(&reader.snapshot(Epoch(1))).len(), 100_000);
    memory.set_fails(false);
    let freed = arrangement.spill(n_bytes / 2).expect("it can be put there");
    assert!(freed >= n_bytes / 2 && freed < n_bytes * 3 / 4, "{freed} bytes of {n_bytes} are free");
    arrangement.spill(usize::MAX).expect("it can be put there");
    // What is left is the last chunk, which is not full, and the block that its texts begin in.
    assert!(arrangement.rows.n_bytes() < n_bytes / 5, "{} bytes are left", arrangement.rows.n_bytes());
    assert!(memory.n_bytes() == arrangement.n_bytes_spilled() && memory.n_bytes() > n_bytes / 2);
    let links = arrangement.n_bytes() - arrangement.rows.n_bytes();
    assert!(links < n_bytes / 20, "{links} bytes of the index are left");
    assert_eq!(rows_of(&reader.snapshot(Epoch(1))).len(), 100_000);
    arrangement.apply(&delta_of(&rows[..1000], true).negate()).expect("the rows are there");
    arrangement.seal(Epoch(2), Epoch(2)).expect("chunks can be read");
    assert_eq!(rows_of(&reader.snapshot(Epoch(2))).len(), 99_000);
    memory.set_fails(true);
    reader.snapshot(Epoch(2)).batches().expect_err("chunks cannot be read");
    arrangement.apply(&delta_of(&rows[2000..2001], true).negate()).expect_err("chunks cannot be read");
}

/// A table whose few rows are changed again and again keeps little of their former texts, although it has less than a
/// chunk of them, and although the last epochs are always held.
#[test]
fn texts_that_are_replaced_leave_little_behind() {
    let spec = ArrangementSpec { schema: schema(), identity: Some(vec![0]), indexes: vec![] };
    let mut arrangement = Arrangement::new(&spec).expect("the types can be kept");
    let row = |k: i64, epoch: u64| (Some(k), Some(format!("{epoch:>1000}")), 0);
    let mut n_bytes_max = 0;
    for epoch in 1..=200 {
        let changes: Vec<(Row, i64)> =
            (0..20).flat_map(|k| [(row(k, epoch - 1), -i64::from(epoch > 1)), (row(k, epoch), 1)]).collect();
        arrangement.apply(&delta_of(&changes, true)).expect("the rows are there");
        arrangement.seal(Epoch(epoch), Epoch(epoch - 1)).expect("all is in memory");
        n_bytes_max = n_bytes_max.max(arrangement.n_bytes());
    }
    assert_eq!(arrangement.len(), 20);
    assert!(n_bytes_max < 2 << 20, "{n_bytes_max} bytes for twenty rows of a kilobyte");
}

/// Rows of two kilobytes, from `k` on.
fn wide_rows(keys: std::ops::Range<i64>, weight: i64) -> Delta {
    let rows: Vec<(Row, i64)> = keys.map(|k| ((Some(k), Some(format!("{k:>2000}")), k), weight)).collect();
    delta_of(&rows, true)
}

#[test]
fn few_rows_that_take_much_are_a_chunk() {
    let spec = ArrangementSpec { schema: schema(), identity: Some(vec![0]), indexes: vec![] };
    let mut arrangement = Arrangement::new(&spec).expect("the types can be kept");
    let memory = Arc::new(ColdMemory::default());
    arrangement.spill_into(memory.clone());
    arrangement.apply(&wide_rows(0..1000, 1)).expect("they are new");
    arrangement.seal(Epoch(1), Epoch(1)).expect("all is in memory");
    let n_bytes = arrangement.n_bytes();
    arrangement.spill(usize::MAX).expect("it can be put there");
    // The last chunk is not full, and indexes are small.
    assert!(arrangement.n_bytes() < n_bytes / 4, "{} of {n_bytes} bytes are in memory", arrangement.n_bytes());
    let before = memory.n_bytes();
    // Chunks of a few rows are merged as well when most of these are gone.
    let most = Delta::concat(&schema(), &(0..100).map(|i| wide_rows(i * 10..i * 10 + 9, -1)).collect::<Vec<_>>());
    arrangement.apply(&most.expect("of one schema")).expect("they are there");
    arrangement.seal(Epoch(2), Epoch(2)).expect("all can be read");
    let (here, away) = (arrangement.n_bytes(), memory.n_bytes());
    assert!(here + away < before / 3, "{here} and {away} bytes are left of {before}");
    let mut expected = Rows::new();
    (0..100).for_each(|i| add_batch(&mut expected, wide_rows(i * 10 + 9..i * 10 + 10, 1).batch(), |_| 1));
    assert_eq!(rows_of(&arrangement.reader().snapshot(Epoch(2))), expected);
}

#[test]
fn what_only_the_next_checkpoint_wants_is_put_away() {
    let spec = ArrangementSpec { schema: schema(), identity: Some(vec![1]), indexes: vec![] };
    let mut arrangement = Arrangement::new(&spec).expect("the types can be kept");
    let memory = Arc::new(ColdMemory::default());
    arrangement.spill_into(memory.clone());
    arrangement.apply(&wide_rows(0..1000, 1)).expect("they are new");
    arrangement.seal(Epoch(1), Epoch(1)).expect("all is in memory");
    drop(arrangement.take_unsaved());
    for (epoch, from) in (2..).zip((0..1000).step_by(100)) {
        arrangement.apply(&wide_rows(from..from + 100, -1)).expect("they are there");
        arrangement.seal(Epoch(epoch), Epoch(epoch)).expect("all can be read");
        if epoch > 2 {
            // From the first time on it goes by itself.
            arrangement.spill(1).expect("it can be put there");
        }
        assert!(arrangement.n_bytes() < 3 << 20, "{} bytes are in memory", arrangement.n_bytes());
    }
    assert!(arrangement.is_empty());
    let n_bytes = arrangement.n_bytes();
    assert!(n_bytes < 1 << 20 && arrangement.n_bytes_spilled() > 1_900_000, "{n_bytes} bytes are in memory");
    let unsaved = arrangement.take_unsaved();
    assert_eq!((unsaved.n_rows(), arrangement.n_bytes_spilled()), (1000, 0));
    let (mut gone, mut n_bytes_max) = (Vec::new(), 0);
    let take = |of_gone: &[HashedRows], rows: &[HashedRows]| {
        n_bytes_max = of_gone
            .iter()
            .map(|gone| millstream_types::delta::values_bytes(&gone.batch))
            .sum::<usize>()
            .max(n_bytes_max);
        assert!(rows.is_empty());
        for HashedRows { batch, .. } in of_gone {
            gone.extend(
                batch.column(0).as_string_view().iter().flatten().map(|t| t.trim().parse::<i64>().expect("a key")),
            );
        }
        Ok(())
    };
    unsaved.hand_out(Some(&[1]), 1 << 14, take).expect("all can be read");
    assert!(n_bytes_max < 1 << 19, "{n_bytes_max} bytes at a time");
    gone.sort_unstable();
    assert_eq!(gone, (0..1000).collect::<Vec<_>>());
    drop(unsaved);
    assert_eq!(memory.n_bytes(), 0);
}

/// What was handed over for a checkpoint does not keep in memory what is put away, and counts where it is dropped.
#[test]
fn what_was_handed_over_goes_with_its_chunks() {
    let spec = ArrangementSpec { schema: schema(), identity: Some(vec![1]), indexes: vec![] };
    let mut arrangement = Arrangement::new(&spec).expect("the types can be kept");
    let memory = Arc::new(ColdMemory::default());
    arrangement.spill_into(memory.clone());
    let mut since = Epoch::ZERO;
    let mut change = |arrangement: &mut Arrangement, delta: Delta| {
        since = since.next();
        arrangement.apply(&delta).expect("they are new, or there");
        arrangement.seal(since, since).expect("all can be read");
    };
    // The last chunk is filled, and some rows are gone, after the rows were handed over.
    change(&mut arrangement, wide_rows(0..1000, 1));
    let unsaved = arrangement.take_unsaved();
    change(&mut arrangement, wide_rows(1000..1100, 1));
    change(&mut arrangement, wide_rows(0..10, -1));
    arrangement.spill(usize::MAX).expect("it can be put there");
    let count = |unsaved: &UnsavedRows| {
        let mut n_rows = 0;
        unsaved
            .hand_out(Some(&[1]), 1 << 14, |_, came| {
                n_rows += came.iter().map(|rows| rows.hashes.len()).sum::<usize>();
                Ok(())
            })
            .map(|()| n_rows)
    };
    memory.set_fails(true);
    for chunk in &unsaved.chunks {
        let rows = crate::snapshot::image_batch(&schema(), &chunk.image, None);
        assert!(rows.is_err(), "{} rows are in memory", chunk.image.len);
    }
    memory.set_fails(false);
    assert_eq!(count(&unsaved).expect("all can be read"), 1000);
    drop(unsaved);

    // Chunks whose rows are gone take memory until they are written, or put away.
    change(&mut arrangement, wide_rows(2000..3000, 1));
    let unsaved = arrangement.take_unsaved();
    change(&mut arrangement, wide_rows(2000..3000, -1));
    let n_bytes = arrangement.n_bytes();
    assert!(n_bytes > 2_000_000, "{n_bytes} bytes are in memory");
    arrangement.spill(usize::MAX).expect("it can be put there");
    let n_bytes = arrangement.n_bytes();
    assert!(n_bytes < 1_000_000, "{n_bytes} bytes are in memory");
    assert_eq!(count(&unsaved).expect("all can be read"), 1000 + 100);
    change(&mut arrangement, wide_rows(3000..4000, 1));
    let unsaved = [unsaved, arrangement.take_unsaved()];
    change(&mut arrangement, wide_rows(3000..4000, -1));
    assert!(arrangement.n_bytes() > 2_000_000);
    drop(unsaved);
    let n_bytes = arrangement.n_bytes();
    assert!(n_bytes < 1_000_000, "{n_bytes} bytes are in memory");
}

#[test]
fn rows_without_columns_come_and_go() {
    let schema = schema_of(&[]);
    let spec = ArrangementSpec { schema: schema.clone(), identity: Some(vec![]), indexes: vec![] };
    let mut arrangement = Arrangement::new(&spec).expect("no types");
    let delta = |weights: &[i64]| {
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(weights.len()));
        let batch = RecordBatch::try_new_with_options(schema.clone(), vec![], &options).expect("no columns");
        Delta::new(batch, Some(weights.to_vec().into()))
    };
    for (epoch, (weights, n_rows)) in [([3, 1], 4), ([-1, 2], 5), ([-7, 2], 0), ([1, 0], 1)].into_iter().enumerate() {
        let epoch = Epoch(epoch as u64 + 1);
        arrangement.apply(&delta(&weights)).expect("the rows are there");
        arrangement.seal(epoch, epoch).expect("all is in memory");
        assert_eq!((arrangement.len(), arrangement.reader().snapshot(epoch).n_rows()), (n_rows, n_rows));
    }
    arrangement.apply(&delta(&[-2, 0])).expect_err("there is one row");
}

/// Rows of intervals that are equal and not the same are found each by itself, and all of them by key.
#[test]
fn intervals_that_are_equal_are_told_apart() {
    use arrow::array::{IntervalMonthDayNanoArray, PrimitiveArray};
    use arrow::datatypes::{IntervalMonthDayNano, IntervalUnit};
    let schema = schema_of(&[("i", DataType::Interval(IntervalUnit::MonthDayNano))]);
    let same = [(0, 30, 0), (1, 0, 0), (0, 29, 86_400_000_000_000)];
    let value = |n: usize| IntervalMonthDayNano::new(same[n % 3].0, same[n % 3].1, same[n % 3].2);
    let batch = |ns: &[usize]| {
        let column: IntervalMonthDayNanoArray = PrimitiveArray::from_iter_values(ns.iter().map(|n| value(*n)));
        RecordBatch::try_new(schema.clone(), vec![Arc::new(column)]).expect("one column")
    };
    let spec = ArrangementSpec { schema: schema.clone(), identity: Some(vec![0]), indexes: vec![vec![0]] };
    let mut arrangement = Arrangement::new(&spec).expect("the types can be kept");
    arrangement.apply(&Delta::new(batch(&[0, 1, 2]), Some(vec![4_000, 3_000, 2_000].into()))).expect("rows come");
    arrangement.seal(Epoch(1), Epoch(1)).expect("all is in memory");
    arrangement.apply(&Delta::new(batch(&[2, 0]), Some(vec![-2_000, -1].into()))).expect("the rows are there");
    arrangement.apply(&Delta::new(batch(&[2]), Some(vec![-1].into()))).expect_err("all of it are gone");
    let keys = batch(&[1]).columns().to_vec();
    let mut hashes = Vec::new();
    hash_columns(&keys, 1, &mut hashes);
    let mut matches = Matches::default();
    let index = arrangement.index_on(&[0]).expect("it was asked for");
    arrangement.probe(index, &keys, &hashes, None, &mut matches).expect("all is in memory");
    assert_eq!(matches.len(), 3_999 + 3_000, "all that are equal");
    arrangement.set_indexes(&[]);
    assert_eq!(arrangement.index_on(&[0]), None);
}
