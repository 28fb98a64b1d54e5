//! Properties of operators: whatever changes come, split into batches and epochs in whatever way, the sum of what an
//! operator has emitted is what its definition makes of the sum of its input.
//!
//! Input is random, with rows that go before they come within an epoch. A failure is made smaller, epoch by epoch and
//! change by change, before it is shown with its seed. `MILLSTREAM_PROPERTY_CASES` sets how many cases are run,
//! `MILLSTREAM_PROPERTY_SEED` the first of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, SchemaRef};
use millstream_types::hash::mix;
use millstream_types::{Delta, Epoch, EpochHeader};

use crate::dataflow::{Dataflow, Node, RelationId};
use crate::operator::{BuildContext, Operator, OperatorSpec, Output, Progress};
use crate::step::StepDriver;

/// A row: numbers, and text and booleans as numbers.
pub(crate) type Row = Vec<Option<i64>>;
/// Changes of an epoch: port, row, weight.
pub(crate) type Changes = Vec<(usize, Row, i64)>;
/// The rows of an input or of the output, by weight.
pub(crate) type Rows = BTreeMap<Row, i64>;

/// Values of a column are few, so that rows meet.
const N_VALUES: u64 = 4;
/// In order.
const TEXTS: [&str; N_VALUES as usize] = ["", "a text that is longer", "a text that is longer still", "b"];
/// Cases of each property, unless the environment says otherwise.
const N_CASES: u64 = 12;

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

/// Random epochs of changes, after each of which no row of any port has a negative weight.
fn random_epochs(inputs: &Inputs, seed: u64) -> Vec<Changes> {
    let mut random = Random::new(seed);
    let mut rows: Vec<Vec<(Row, i64)>> = vec![Vec::new(); inputs.schemas.len()];
    let n_epochs = 1 + random.below(8);
    (0..n_epochs).map(|_| random_changes(&mut random, inputs, &mut rows)).collect()
}

fn random_changes(random: &mut Random, inputs: &Inputs, rows: &mut [Vec<(Row, i64)>]) -> Changes {
    let mut changes = Changes::new();
    for _ in 0..random.below(14) {
        let port = random.below(inputs.schemas.len() as u64) as usize;
        let there = &mut rows[port];
        if !inputs.append_only && !there.is_empty() && random.below(2) == 0 {
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
        let row = random_row(random, &inputs.schemas[port]);
        let weight = [1, 1, 1, 2, 3][random.below(5) as usize];
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

/// What is tested: takes the batches of an epoch, by port, and gives what it emits.
pub(crate) type Subject = Box<dyn FnMut(u64, Vec<(usize, Delta)>) -> Result<Vec<Delta>, String>>;

/// One operator, on one worker.
pub(crate) fn operator(spec: &dyn OperatorSpec) -> Subject {
    let mut operator = spec.build(BuildContext::alone()).expect("types can be kept");
    Box::new(move |epoch, input| {
        let (mut out, mut deltas) = (Output::default(), Vec::new());
        for (port, delta) in input {
            let progress = operator.push(port, delta, &mut out).map_err(|e| e.to_string())?;
            drain(operator.as_mut(), progress, &mut out, &mut deltas)?;
        }
        let progress = operator.end_epoch(&header(epoch), &mut out).map_err(|e| e.to_string())?;
        drain(operator.as_mut(), progress, &mut out, &mut deltas)?;
        Ok(deltas)
    })
}

/// A dataflow, whose relations are numbered as ports, on some workers.
pub(crate) fn dataflow(dataflow: &Dataflow, n_workers: usize) -> Subject {
    let mut driver = StepDriver::new(dataflow.clone(), n_workers).expect("types can be kept");
    Box::new(move |epoch, input| {
        let mut relations: BTreeMap<RelationId, Vec<Delta>> = BTreeMap::new();
        input.into_iter().for_each(|(port, delta)| relations.entry(RelationId(port as u64)).or_default().push(delta));
        let (deltas, errors) = driver.epoch(&header(epoch), &relations).map_err(|e| e.to_string())?;
        if errors.is_empty() { Ok(deltas) } else { Err(format!("{errors:?}")) }
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

/// The inputs of a subject.
pub(crate) struct Inputs {
    /// The schema of each port.
    pub(crate) schemas: Vec<SchemaRef>,
    /// No row is ever taken back.
    pub(crate) append_only: bool,
}

/// Checks subjects, made for a seed, over many random inputs.
pub(crate) fn check(name: &str, inputs: &Inputs, build: impl Fn(u64) -> Subject, definition: impl Fn(&[Rows]) -> Rows) {
    let first = from_environment("MILLSTREAM_PROPERTY_SEED", 1);
    for seed in first..first + from_environment("MILLSTREAM_PROPERTY_CASES", N_CASES) {
        let epochs = random_epochs(inputs, seed);
        let fails = |epochs: &[Changes]| run(build(seed), inputs, epochs, seed, &definition).err();
        if fails(&epochs).is_some() {
            let smaller = shrink(epochs, |e| adds_up(e) && fails(e).is_some());
            let error = fails(&smaller).unwrap_or_default();
            panic!("{name}: seed {seed}: {error}\nepochs: {smaller:?}");
        }
    }
}

/// Whether no row's weight is negative at the end of an epoch.
fn adds_up(epochs: &[Changes]) -> bool {
    let mut sums: BTreeMap<(usize, &Row), i64> = BTreeMap::new();
    epochs.iter().all(|changes| {
        changes.iter().for_each(|(port, row, weight)| *sums.entry((*port, row)).or_default() += weight);
        sums.values().all(|n| *n >= 0)
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
pub(crate) fn run(
    mut subject: Subject,
    inputs: &Inputs,
    epochs: &[Changes],
    seed: u64,
    definition: impl Fn(&[Rows]) -> Rows,
) -> Result<(), String> {
    let mut random = Random::new(seed ^ 0xba7c);
    let mut sums = vec![Rows::new(); inputs.schemas.len()];
    let mut emitted = Rows::new();
    for (i, changes) in epochs.iter().enumerate() {
        let mut batches = Vec::new();
        let mut rest = changes.as_slice();
        while let Some((port, ..)) = rest.first() {
            let n_same = rest.iter().take_while(|c| c.0 == *port).count();
            let (now, later) = rest.split_at(1 + random.below(n_same as u64) as usize);
            rest = later;
            batches.push((*port, delta_of(&inputs.schemas[*port], now)));
        }
        let deltas = subject(i as u64 + 1, batches)?;
        for (port, row, weight) in changes {
            add(&mut sums[*port], row.clone(), *weight);
        }
        deltas.iter().for_each(|delta| add_delta(&mut emitted, delta));
        let mut expected = definition(&sums);
        expected.retain(|_, n| *n != 0);
        if emitted != expected {
            return Err(format!("epoch {}: emitted {emitted:?}, by definition {expected:?}", i + 1));
        }
    }
    Ok(())
}

fn add(rows: &mut Rows, row: Row, weight: i64) {
    let sum = rows.entry(row.clone()).or_default();
    *sum += weight;
    if *sum == 0 {
        rows.remove(&row);
    }
}

fn drain(
    operator: &mut dyn Operator,
    mut progress: Progress,
    out: &mut Output,
    deltas: &mut Vec<Delta>,
) -> Result<(), String> {
    loop {
        deltas.extend(out.take());
        if progress == Progress::Done {
            return Ok(());
        }
        progress = operator.resume(out).map_err(|e| e.to_string())?;
    }
}

fn delta_of(schema: &SchemaRef, changes: &[(usize, Row, i64)]) -> Delta {
    let column = |(c, t): (usize, &DataType)| -> ArrayRef {
        let values = changes.iter().map(|(_, row, _)| row[c]);
        match t {
            DataType::Int64 => Arc::new(values.collect::<Int64Array>()),
            DataType::Boolean => Arc::new(values.map(|v| v.map(|v| v == 1)).collect::<BooleanArray>()),
            _ => Arc::new(values.map(|v| v.map(|v| TEXTS[v as usize])).collect::<StringViewArray>()),
        }
    };
    let columns = schema.fields().iter().map(|f| f.data_type()).enumerate().map(column).collect();
    let batch = RecordBatch::try_new(schema.clone(), columns).expect("columns of the schema");
    let weights: Vec<i64> = changes.iter().map(|c| c.2).collect();
    let all_once = weights.iter().all(|w| *w == 1);
    Delta::new(batch, (!all_once).then(|| weights.into()))
}

fn add_delta(rows: &mut Rows, delta: &Delta) {
    let value = |column: &ArrayRef, i: usize| -> Option<i64> {
        column.is_valid(i).then(|| match column.data_type() {
            DataType::Int64 => column.as_primitive::<Int64Type>().value(i),
            DataType::Boolean => column.as_boolean().value(i).into(),
            // Sums of whole numbers.
            DataType::Decimal128(_, 0) => column.as_primitive::<Decimal128Type>().value(i) as i64,
            _ => {
                let text = column.as_string_view().value(i);
                TEXTS.iter().position(|t| *t == text).map_or(-1, |at| at as i64)
            }
        })
    };
    for i in 0..delta.n_rows() {
        add(rows, delta.columns().iter().map(|c| value(c, i)).collect(), delta.weight(i));
    }
}
