//! Properties of operators: whatever changes come, split into batches and epochs in whatever way, the sum of what an
//! operator has emitted is what its definition makes of the sum of its input.
//!
//! Input is random, with rows that go before they come within an epoch, and with keys that differ although their hashes
//! are equal. In the end all rows go that may, and no state is left of them. Rows that fail are a second output, of which the
//! same holds. A failure is made smaller, epoch by epoch and change by change, before it is shown with its seed.
//! `MILLSTREAM_PROPERTY_CASES` sets how many cases are run, `MILLSTREAM_PROPERTY_SEED` the first of them.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int64Array, IntervalMonthDayNanoArray, ListArray,
    RecordBatch, StringViewArray,
};
use arrow::datatypes::{
    DataType, Decimal128Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, SchemaRef,
    UInt64Type,
};
use arrow::row::{RowConverter, SortField};
use millstream_expr::scalar::batch_of;
use millstream_expr::{OrderBy, RowError};
use millstream_state::changes::net;
use millstream_state::{ColdMemory, StateChanges};
use millstream_types::hash::{hash_columns, mix};
use millstream_types::{Delta, Epoch, EpochHeader, Error, Result};

use crate::dataflow::{Dataflow, Edge, Exchange, Node, RelationId};
use crate::encoded::tests::stored;
use crate::operator::{BuildContext, Operator, OperatorSpec, Output, Progress};
use crate::spilling::{MemoryWatch, SpillTo};
use crate::step::StepDriver;

/// A row: numbers, and everything else as numbers.
pub(crate) type Row = Vec<Option<i64>>;
/// Changes of an epoch: port, row, weight.
pub(crate) type Changes = Vec<(usize, Row, i64)>;
/// The rows of an input or of the output, by weight.
pub(crate) type Rows = BTreeMap<Row, i64>;
/// What is said of rows that failed, by weight.
pub(crate) type Errors = BTreeMap<String, i64>;

/// Values of a column are few, so that rows meet.
const N_VALUES: u64 = 4;
/// In order.
const TEXTS: [&str; N_VALUES as usize] = ["", "a text that is longer", "a text that is longer still", "b"];
/// Arrays of numbers.
pub(crate) const LISTS: [&[Option<i64>]; N_VALUES as usize] =
    [&[], &[Some(0)], &[Some(1), None, Some(1)], &[None, Some(2)]];
/// Intervals, the first two of which are equal without being the same, as are the last two; in the order of their parts.
const INTERVALS: [IntervalMonthDayNano; N_VALUES as usize] = [
    IntervalMonthDayNano::new(0, 0, 86_400_000_000_000),
    IntervalMonthDayNano::new(0, 1, 0),
    IntervalMonthDayNano::new(0, 30, 0),
    IntervalMonthDayNano::new(1, 0, 0),
];
/// Numerics are multiples of this: sums of more than three do not fit.
const NUMERIC_UNIT: i128 = 30_000_000_000_000_000_000_000_000_000_000_000_000;
/// Cases of each property, unless the environment says otherwise.
const N_CASES: u64 = 12;

/// The type of values whose hashes are all equal, to each other and to that of null.
pub(crate) const COLLIDING: DataType = DataType::Decimal128(37, 0);

/// The type of values that may be equal without being the same. A row is told from others by them, as by any other column.
pub(crate) const LOOSE: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

/// The `i`th of such values, which ascend: the hash of a numeric is that of its halves, one of which can be chosen freely.
fn collision(i: u64) -> i128 {
    let mut hashes = Vec::new();
    hash_columns(&[arrow::array::new_null_array(&DataType::Int64, 1)], 1, &mut hashes);
    let upper = i << 8;
    let lower = unmix(unmix(hashes[0]) ^ upper.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    i128::from(upper) << 64 | i128::from(lower)
}

/// The inverse of [`mix`].
fn unmix(x: u64) -> u64 {
    let unshift = |x: u64| x ^ x >> 27 ^ x >> 54;
    let inverse = |odd: u64| (0..5).fold(odd, |inv, _| inv.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inv))));
    let x = unshift(x).wrapping_mul(inverse(0x1c69_b3f7_4ac4_ae35));
    unshift((x ^ x >> 33).wrapping_mul(inverse(0x3c79_ac49_2ba7_b653)))
}

#[test]
fn collisions_collide() {
    let numerics = (0..N_VALUES).map(|i| Some(collision(i))).chain([None]).collect::<Decimal128Array>();
    let column: ArrayRef = Arc::new(numerics.with_data_type(COLLIDING));
    let mut hashes = Vec::new();
    hash_columns(&[column], N_VALUES as usize + 1, &mut hashes);
    assert!(hashes.iter().all(|h| *h == hashes[0]), "{hashes:x?}");
    assert!((0..N_VALUES).map(collision).is_sorted_by(|a, b| a < b));
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// A sequence of random numbers.
struct Random(u64);

impl Random {
    /// The sequence of a seed.
    fn new(seed: u64) -> Self {
        Random(mix(seed))
    }

    /// A number below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % n
    }
}

/// Random epochs of changes, after each of which the inputs are what they are said to be.
fn random_epochs(inputs: &[Input], seed: u64) -> Vec<Changes> {
    let mut random = Random::new(seed);
    let mut rows: Vec<Vec<(Row, i64)>> = vec![Vec::new(); inputs.len()];
    let n_epochs = 1 + random.below(8);
    let mut epochs: Vec<Changes> = (0..n_epochs).map(|_| random_changes(&mut random, inputs, &mut rows)).collect();
    let rest = rows.into_iter().enumerate().filter(|(port, _)| !inputs[*port].append_only);
    let rest = rest.flat_map(|(port, rows)| rows.into_iter().map(move |(row, n)| (port, row, -n)));
    epochs.push(rest.collect());
    epochs
}

fn random_changes(random: &mut Random, inputs: &[Input], rows: &mut [Vec<(Row, i64)>]) -> Changes {
    let mut changes = Changes::new();
    for _ in 0..random.below(14) {
        let port = random.below(inputs.len() as u64) as usize;
        let (input, there) = (&inputs[port], &mut rows[port]);
        if !input.append_only && !there.is_empty() && random.below(2) == 0 {
            // Of one row, or of all rows like it at once.
            let at = random.below(there.len() as u64) as usize;
            let row = there[at].0.clone();
            if random.below(2) == 0 {
                let total: i64 = there.iter().filter(|(r, _)| *r == row).map(|(_, n)| n).sum();
                there.retain(|(r, _)| *r != row);
                changes.push((port, row, -total));
            } else {
                let (row, weight) = there.swap_remove(at);
                changes.push((port, row, -weight));
            }
            continue;
        }
        let row = random_row(random, &input.schema);
        let mut weight = [1, 1, 1, 2, 3][random.below(5) as usize];
        if input.key.is_some() {
            weight = 1;
            if let Some(at) = there.iter().position(|(r, _)| input.key_of(r) == input.key_of(&row)) {
                if input.append_only {
                    continue;
                }
                let (replaced, _) = there.swap_remove(at);
                changes.push((port, replaced, -1));
            }
        }
        there.push((row.clone(), weight));
        changes.push((port, row, weight));
    }
    // Within an epoch the order of changes means nothing.
    for i in (1..changes.len()).rev() {
        changes.swap(i, random.below(i as u64 + 1) as usize);
    }
    changes
}

fn random_row(random: &mut Random, schema: &SchemaRef) -> Row {
    let value = |data_type: &DataType| {
        let n_values = if *data_type == DataType::Boolean { 2 } else { N_VALUES };
        random.below(n_values + 1).checked_sub(1).map(|v| v as i64)
    };
    schema.fields().iter().map(|f| f.data_type()).map(value).collect()
}

/// What came out in an epoch.
#[derive(Default)]
pub(crate) struct Emitted {
    pub(crate) deltas: Vec<Delta>,
    pub(crate) errors: Vec<RowError>,
    /// Rows, groups or entries of state after it.
    pub(crate) n_entries: usize,
}

/// What is tested: takes the batches of an epoch, by port, and gives what it emits.
pub(crate) type Subject = Box<dyn FnMut(u64, Vec<(usize, Delta)>) -> Result<Emitted, String>>;

/// One operator, on one worker.
pub(crate) fn operator(spec: &dyn OperatorSpec) -> Subject {
    let mut operator = spec.build(BuildContext::alone()).expect("types can be kept");
    Box::new(move |epoch, input| {
        let mut emitted = Emitted::default();
        push_all(operator.as_mut(), input, &mut emitted)?;
        end_epoch(operator.as_mut(), epoch, &mut emitted)?;
        emitted.n_entries = operator.n_entries();
        Ok(emitted)
    })
}

/// Gives an operator batches, by port.
pub(crate) fn push_all(
    operator: &mut dyn Operator,
    input: Vec<(usize, Delta)>,
    emitted: &mut Emitted,
) -> Result<(), String> {
    let mut out = Output::default();
    for (port, delta) in input {
        let progress = operator.push(port, delta, &mut out).map_err(|e| e.to_string())?;
        drain(operator, progress, &mut out, emitted)?;
    }
    Ok(())
}

/// Ends an epoch of an operator.
pub(crate) fn end_epoch(operator: &mut dyn Operator, epoch: u64, emitted: &mut Emitted) -> Result<(), String> {
    let mut out = Output::default();
    let progress = operator.end_epoch(&header(epoch), &mut out).map_err(|e| e.to_string())?;
    drain(operator, progress, &mut out, emitted)
}

/// A dataflow, whose relations are numbered as ports, on some workers. After each epoch its state may be saved, whole or as
/// what has changed, and taken up by another number of workers.
///
/// Operators put their state away whenever they are told that there is too much, which is so at random.
pub(crate) fn dataflow(dataflow: &Dataflow, n_workers: usize) -> Subject {
    // What runs is what was kept on disk.
    let dataflow = stored(dataflow);
    let memory = Rc::new(RandomMemory::default());
    let store: Arc<ColdMemory> = Arc::default();
    let spill_to =
        SpillTo { store: store.clone(), watch: memory.clone(), queued_bytes_max: 0, starts_in_parts: n_workers == 2 };
    let driver = StepDriver::with_spilling(dataflow.clone(), n_workers, Some(&spill_to));
    let mut driver = driver.expect("types can be kept");
    let mut saved = SavedChanges::new(dataflow.nodes.len(), spill_to);
    Box::new(move |epoch, input| {
        let mut random = Random::new(epoch * 1000 + input.len() as u64);
        memory.begin(random.below(u64::MAX));
        if epoch == 1 && random.below(2) == 0 {
            driver.track_changes();
            saved.are_tracked = true;
        }
        if epoch > 1 {
            saved.go_on(&mut driver, &dataflow, &mut random).map_err(|e| format!("saved state: {e}"))?;
        }
        if random.below(2) == 0 {
            driver.relieve().map_err(|e| e.to_string())?;
        }
        let mut relations: BTreeMap<RelationId, Vec<Delta>> = BTreeMap::new();
        input.into_iter().for_each(|(port, delta)| relations.entry(RelationId(port as u64)).or_default().push(delta));
        let (deltas, errors) = driver.epoch(&header(epoch), &relations).map_err(|e| e.to_string())?;
        Ok(Emitted { deltas, errors, n_entries: driver.n_entries() })
    })
}

/// Memory of which there is too little at random: never, always, or now and then.
#[derive(Default)]
pub(crate) struct RandomMemory {
    random: Cell<u64>,
    /// One in so many.
    is_short: Cell<u64>,
}

impl RandomMemory {
    /// From here on as a seed says.
    pub(crate) fn begin(&self, seed: u64) {
        self.random.set(seed);
        self.is_short.set([0, 1, 2, 5][(seed % 4) as usize]);
    }
}

impl MemoryWatch for RandomMemory {
    fn report(&self, _: usize, _: usize) {}

    fn is_short_for(&self, _: usize) -> bool {
        self.excess() > 0
    }

    fn excess(&self) -> usize {
        self.random.set(mix(self.random.get().wrapping_add(1)));
        let is_short = self.is_short.get() > 0 && self.random.get().is_multiple_of(self.is_short.get());
        if is_short { 1 + (self.random.get() >> 32) as usize % 3000 } else { 0 }
    }
}

/// What was saved of a dataflow's operators.
struct SavedChanges {
    spill_to: SpillTo,
    /// By node, the oldest first.
    changes: Vec<Vec<StateChanges>>,
    /// Whether the operators that run note what changes.
    are_tracked: bool,
    /// Whether they go on from saved state.
    is_restored: bool,
}

impl SavedChanges {
    fn new(n_nodes: usize, spill_to: SpillTo) -> Self {
        SavedChanges { spill_to, changes: vec![vec![]; n_nodes], are_tracked: false, is_restored: false }
    }

    /// Lets a driver go on, or saves what it has, whole or what has changed, and goes on from there in another.
    fn go_on(&mut self, driver: &mut StepDriver, dataflow: &Dataflow, random: &mut Random) -> Result<()> {
        let what = random.below(6);
        if what == 0 {
            return Ok(());
        }
        if what == 1 {
            // What was restored has changed since.
            if !self.is_restored {
                driver.track_changes();
                self.are_tracked = true;
            }
            return Ok(());
        }
        if self.are_tracked {
            self.add(driver.save_changes()?);
            self.are_what_there_is(driver)?;
            if what == 2 {
                return Ok(());
            }
        } else {
            self.changes = driver.save()?.into_iter().map(|changes| vec![changes]).collect();
        }
        let saved = self.changes.iter().map(|changes| net(changes)?.encode()).collect::<Result<Vec<_>>>()?;
        let n_workers = 1 + random.below(4) as usize;
        let restored = StepDriver::with_spilling(dataflow.clone(), n_workers, Some(&self.spill_to))?;
        *driver = restored.restored(&saved)?;
        self.is_restored = true;
        self.are_tracked = random.below(3) > 0;
        if self.are_tracked {
            driver.track_changes();
            if random.below(4) == 0 {
                let n_rows: usize = driver.save_changes()?.iter().map(StateChanges::n_rows).sum();
                assert_eq!(n_rows, 0, "what was restored is saved");
            }
        }
        self.are_what_there_is(driver)
    }

    fn add(&mut self, changes: Vec<StateChanges>) {
        self.changes.iter_mut().zip(changes).for_each(|(all, changes)| all.push(changes));
    }

    /// All changes come to the state that there is.
    fn are_what_there_is(&self, driver: &StepDriver) -> Result<()> {
        for (node, (changes, there)) in self.changes.iter().zip(driver.save()?).enumerate() {
            let (saved, there) = (net(changes)?, net(&[there])?);
            for table in 0..30 {
                let (saved, there) = (sorted(saved.rows(table)?)?, sorted(there.rows(table)?)?);
                if saved != there {
                    let what = format!("table {table} of node {node} is saved as {saved:?} and is {there:?}");
                    return Err(Error::internal(what));
                }
            }
        }
        Ok(())
    }
}

/// Rows in the order of their bytes, as text.
fn sorted(rows: Option<RecordBatch>) -> Result<Vec<(Vec<u8>, String)>> {
    let Some(rows) = rows else { return Ok(vec![]) };
    let fields = rows.schema().fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
    let encoded = RowConverter::new(fields)?.convert_columns(rows.columns())?;
    let text = |i: usize| rows.columns().iter().map(|c| format!("{:?}", c.slice(i, 1))).collect::<String>();
    let mut sorted: Vec<_> = encoded.iter().enumerate().map(|(i, row)| (row.data().to_vec(), text(i))).collect();
    sorted.sort();
    Ok(sorted)
}

/// The number of workers for a seed: one, two and four in turn.
pub(crate) fn n_workers(seed: u64) -> usize {
    1 << (seed % 3)
}

/// One operator over imports, each exchanged by the hash of some columns.
pub(crate) fn exchanged(spec: impl OperatorSpec + 'static, inputs: &[(SchemaRef, Vec<usize>)]) -> Dataflow {
    let mut dataflow = Dataflow::default();
    let edges = inputs.iter().enumerate().map(|(port, (schema, columns))| Edge {
        from: dataflow.add(import(port, schema)),
        exchange: Exchange::Hash(columns.clone()),
    });
    let inputs = edges.collect();
    dataflow.add(Node::Operator { spec: Arc::new(spec), inputs });
    dataflow
}

/// A subject of which no epoch's output has a row that it also takes back, nor one that it gives in two pieces.
pub(crate) fn consolidated(mut subject: Subject) -> Subject {
    Box::new(move |epoch, input| {
        let emitted = subject(epoch, input)?;
        let mut seen = Rows::new();
        for (row, weight) in emitted.deltas.iter().flat_map(rows_of) {
            if let Some(before) = seen.insert(row.clone(), weight) {
                return Err(format!("{row:?} is emitted with weight {weight}, and with {before} in the same epoch"));
            }
        }
        Ok(emitted)
    })
}

/// The import of a port, with all its columns.
pub(crate) fn import(port: usize, schema: &SchemaRef) -> Node {
    let projection = (0..schema.fields().len()).collect();
    let relation = RelationId(port as u64);
    Node::Import { relation, name: port.to_string(), projection, schema: schema.clone(), changes_only: false }
}

fn header(epoch: u64) -> EpochHeader {
    EpochHeader { epoch: Epoch(epoch), now_us: 0 }
}

/// An input of a subject.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    schema: SchemaRef,
    append_only: bool,
    key: Option<Vec<usize>>,
}

impl Input {
    /// Any rows.
    pub(crate) fn of(schema: SchemaRef) -> Self {
        Input { schema, append_only: false, key: None }
    }

    /// Whether no row is ever taken back.
    pub(crate) fn append_only(self, append_only: bool) -> Self {
        Input { append_only, ..self }
    }

    /// After each epoch no two rows have the same values in these columns.
    pub(crate) fn keyed(self, key: Option<Vec<usize>>) -> Self {
        Input { key, ..self }
    }

    fn key_of(&self, row: &Row) -> Row {
        self.key.iter().flatten().map(|&c| row[c]).collect()
    }
}

/// What is to have come out in the end.
#[derive(Default)]
pub(crate) struct Expected {
    pub(crate) rows: Rows,
    pub(crate) errors: Errors,
}

impl From<Rows> for Expected {
    fn from(rows: Rows) -> Self {
        Expected { rows, errors: Errors::new() }
    }
}

/// Checks subjects, made for a seed, over many random inputs.
pub(crate) fn check<E: Into<Expected>>(
    name: &str,
    inputs: &[Input],
    build: impl Fn(u64) -> Subject,
    definition: impl Fn(&[Rows]) -> E,
) {
    check_over(name, inputs, |seed, _| build(seed), definition);
}

/// As [`check`], for subjects that know all epochs from the start.
pub(crate) fn check_over<E: Into<Expected>>(
    name: &str,
    inputs: &[Input],
    build: impl Fn(u64, &[Changes]) -> Subject,
    definition: impl Fn(&[Rows]) -> E,
) {
    let first = from_environment("MILLSTREAM_PROPERTY_SEED", 1);
    for seed in first..first + from_environment("MILLSTREAM_PROPERTY_CASES", N_CASES) {
        let epochs = random_epochs(inputs, seed);
        let fails = |epochs: &[Changes]| run(build(seed, epochs), inputs, epochs, seed, &definition).err();
        if fails(&epochs).is_some() {
            let smaller = shrink(epochs, |e| adds_up(inputs, e) && fails(e).is_some());
            let error = fails(&smaller).unwrap_or_default();
            panic!("{name}: seed {seed}: {error}\nepochs: {smaller:?}");
        }
    }
}

/// Whether after each epoch no row's weight is negative, and no two rows have the same key.
fn adds_up(inputs: &[Input], epochs: &[Changes]) -> bool {
    let mut sums: BTreeMap<(usize, &Row), i64> = BTreeMap::new();
    epochs.iter().all(|changes| {
        changes.iter().for_each(|(port, row, weight)| *sums.entry((*port, row)).or_default() += weight);
        let mut of_keys: BTreeMap<(usize, Row), i64> = BTreeMap::new();
        for ((port, row), n) in sums.iter().filter(|((port, _), _)| inputs[*port].key.is_some()) {
            *of_keys.entry((*port, inputs[*port].key_of(row))).or_default() += n;
        }
        sums.values().all(|n| *n >= 0) && of_keys.values().all(|n| *n <= 1)
    })
}

/// Leaves out epochs and changes as long as the rest still fails.
fn shrink(mut epochs: Vec<Changes>, fails: impl Fn(&[Changes]) -> bool) -> Vec<Changes> {
    loop {
        let mut smaller = (0..epochs.len()).map(|e| {
            let mut less = epochs.clone();
            less.remove(e);
            less
        });
        let found = smaller.find(|less| fails(less)).or_else(|| {
            let pairs = || (0..epochs.len()).flat_map(|e| (0..epochs[e].len()).map(move |c| (e, c)));
            let without = |left_out: &[(usize, usize)]| {
                let mut less = epochs.clone();
                let mut left_out = left_out.to_vec();
                left_out.sort_unstable();
                left_out.iter().rev().for_each(|&(e, c)| drop(less[e].remove(c)));
                less
            };
            let one = pairs().map(|a| without(&[a])).find(|less| fails(less));
            // A row and its retraction go together.
            one.or_else(|| {
                let two = pairs().flat_map(|a| pairs().filter(move |b| *b > a).map(move |b| (a, b)));
                two.map(|(a, b)| without(&[a, b])).find(|less| fails(less))
            })
        });
        match found {
            Some(less) => epochs = less,
            None => return epochs,
        }
    }
}

/// Runs epochs, split into batches as the seed says, and compares the sum of the output with the definition after each.
pub(crate) fn run<E: Into<Expected>>(
    mut subject: Subject,
    inputs: &[Input],
    epochs: &[Changes],
    seed: u64,
    definition: impl Fn(&[Rows]) -> E,
) -> Result<(), String> {
    let mut random = Random::new(seed ^ 0xba7c);
    let mut sums = vec![Rows::new(); inputs.len()];
    let (mut rows, mut errors) = (Rows::new(), Errors::new());
    for (i, changes) in epochs.iter().enumerate() {
        let mut batches = Vec::new();
        let mut rest = changes.as_slice();
        while let Some((port, ..)) = rest.first() {
            let n_same = rest.iter().take_while(|c| c.0 == *port).count();
            let (now, later) = rest.split_at(1 + random.below(n_same as u64) as usize);
            rest = later;
            batches.push((*port, delta_of(&inputs[*port].schema, now)));
        }
        let emitted = subject(i as u64 + 1, batches)?;
        for (port, row, weight) in changes {
            add(&mut sums[*port], row.clone(), *weight);
        }
        emitted.deltas.iter().flat_map(rows_of).for_each(|(row, weight)| add(&mut rows, row, weight));
        let text = |e: &RowError| format!("{}: {}", e.error.message(), e.row);
        emitted.errors.iter().for_each(|e| add(&mut errors, text(e), e.weight));
        let mut expected: Expected = definition(&sums).into();
        expected.rows.retain(|_, n| *n != 0);
        if rows != expected.rows {
            return Err(format!("epoch {}: emitted {rows:?}, by definition {:?}", i + 1, expected.rows));
        }
        // The one group of an aggregate without a key always exists.
        if sums.iter().all(Rows::is_empty) && emitted.n_entries > 1 {
            return Err(format!("epoch {}: {} entries of nothing are kept", i + 1, emitted.n_entries));
        }
        if errors != expected.errors {
            return Err(format!("epoch {}: errors {errors:?}, by definition {:?}", i + 1, expected.errors));
        }
    }
    Ok(())
}

fn add<K: Ord + Clone>(sums: &mut BTreeMap<K, i64>, key: K, weight: i64) {
    let sum = sums.entry(key.clone()).or_default();
    *sum += weight;
    if *sum == 0 {
        sums.remove(&key);
    }
}

fn drain(
    operator: &mut dyn Operator,
    mut progress: Progress,
    out: &mut Output,
    emitted: &mut Emitted,
) -> Result<(), String> {
    loop {
        emitted.deltas.extend(out.take());
        emitted.errors.extend(out.errors.take());
        if progress == Progress::Done {
            return Ok(());
        }
        progress = operator.resume(out).map_err(|e| e.to_string())?;
    }
}

/// Changes of one port.
pub(crate) fn delta_of(schema: &SchemaRef, changes: &[(usize, Row, i64)]) -> Delta {
    let column = |(c, t): (usize, &DataType)| -> ArrayRef {
        let values = changes.iter().map(|(_, row, _)| row[c]);
        match t {
            DataType::Int64 => Arc::new(values.collect::<Int64Array>()),
            DataType::Boolean => Arc::new(values.map(|v| v.map(|v| v == 1)).collect::<BooleanArray>()),
            t if *t == LOOSE => {
                Arc::new(values.map(|v| v.map(|v| INTERVALS[v as usize])).collect::<IntervalMonthDayNanoArray>())
            }
            t if *t == COLLIDING => {
                let numerics = values.map(|v| v.map(|v| collision(v as u64)));
                Arc::new(numerics.collect::<Decimal128Array>().with_data_type(COLLIDING))
            }
            DataType::Decimal128(_, _) => {
                let numerics = values.map(|v| v.map(|v| i128::from(v) * NUMERIC_UNIT));
                Arc::new(numerics.collect::<Decimal128Array>().with_data_type(t.clone()))
            }
            DataType::List(_) => {
                let lists = values.map(|v| v.map(|v| LISTS[v as usize].to_vec()));
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists))
            }
            _ => Arc::new(values.map(|v| v.map(|v| TEXTS[v as usize])).collect::<StringViewArray>()),
        }
    };
    let columns = schema.fields().iter().map(|f| f.data_type()).enumerate().map(column).collect();
    let batch = batch_of(schema.clone(), columns, changes.len()).expect("columns of the schema");
    let weights: Vec<i64> = changes.iter().map(|c| c.2).collect();
    let all_once = weights.iter().all(|w| *w == 1);
    Delta::new(batch, (!all_once).then(|| weights.into()))
}

/// Compares values as an order says, rows by the first of several that tells them apart.
pub(crate) fn compare_rows(a: &Row, b: &Row, order: &[OrderBy]) -> Ordering {
    let compare = |o: &OrderBy| match (a[o.column], b[o.column]) {
        (Some(a), Some(b)) if o.descending => b.cmp(&a),
        (Some(a), Some(b)) => a.cmp(&b),
        (a, b) if o.nulls_first => b.is_none().cmp(&a.is_none()),
        (a, b) => a.is_none().cmp(&b.is_none()),
    };
    order.iter().map(compare).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

/// Each copy of each row, by the values of some columns.
pub(crate) fn groups_of(rows: &Rows, by: &[usize]) -> BTreeMap<Row, Vec<Row>> {
    let mut groups: BTreeMap<Row, Vec<Row>> = BTreeMap::new();
    for (row, weight) in rows {
        let group = groups.entry(by.iter().map(|&c| row[c]).collect()).or_default();
        group.extend(std::iter::repeat_n(row.clone(), *weight as usize));
    }
    groups
}

/// A list of numbers as a number.
pub(crate) fn list_code(elements: impl IntoIterator<Item = Option<i64>>) -> i64 {
    let code = |code: u64, element: Option<i64>| mix(code.wrapping_mul(31) ^ element.map_or(1, |e| e as u64 + 2));
    elements.into_iter().fold(1, code) as i64
}

/// A row as an error shows it, whose columns are numbers or text.
pub(crate) fn row_text(schema: &SchemaRef, row: &[Option<i64>]) -> String {
    let value = |data_type: &DataType, value: Option<i64>| match (data_type, value) {
        (_, None) => "NULL".to_owned(),
        (DataType::Utf8View, Some(v)) => TEXTS[v as usize].to_owned(),
        (_, Some(v)) => v.to_string(),
    };
    let fields = schema.fields().iter().zip(row);
    fields.map(|(f, v)| format!("{}={}", f.name(), value(f.data_type(), *v))).collect::<Vec<_>>().join(" ")
}

fn value_of(column: &ArrayRef, row_idx: usize) -> Option<i64> {
    column.is_valid(row_idx).then(|| match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row_idx),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row_idx) as i64,
        DataType::Boolean => column.as_boolean().value(row_idx).into(),
        t if *t == LOOSE => {
            let value = column.as_primitive::<IntervalMonthDayNanoType>().value(row_idx);
            INTERVALS.iter().position(|i| *i == value).expect("one of few intervals") as i64
        }
        t if *t == COLLIDING => {
            let value = column.as_primitive::<Decimal128Type>().value(row_idx);
            (0..N_VALUES).find(|&v| collision(v) == value).expect("one of few numerics") as i64
        }
        DataType::Decimal128(_, 0) => {
            let value = column.as_primitive::<Decimal128Type>().value(row_idx);
            if value % NUMERIC_UNIT == 0 { (value / NUMERIC_UNIT) as i64 } else { value as i64 }
        }
        DataType::List(_) => {
            let elements = column.as_list::<i32>().value(row_idx);
            list_code(elements.as_primitive::<Int64Type>())
        }
        _ => {
            let text = column.as_string_view().value(row_idx);
            TEXTS.iter().position(|t| *t == text).expect("one of few texts") as i64
        }
    })
}

/// The rows of a delta with their weights.
pub(crate) fn rows_of(delta: &Delta) -> impl Iterator<Item = (Row, i64)> + '_ {
    let row = |i: usize| delta.columns().iter().map(|c| value_of(c, i)).collect();
    (0..delta.n_rows()).map(move |i| (row(i), delta.weight(i)))
}
