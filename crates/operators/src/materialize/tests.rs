//! What a view keeps, and what it tells of its changes: the sum of its input.

use arrow::datatypes::DataType;
use millstream_state::ColdMemory;
use millstream_types::delta::schema_of;
use millstream_types::hash::mix;

use super::*;
use crate::property::{self, Emitted, Input, Rows, Subject};

fn schema() -> SchemaRef {
    schema_of(&[
        ("k", property::COLLIDING),
        ("t", DataType::Utf8View),
        ("b", DataType::Boolean),
        ("i", property::LOOSE),
    ])
}

/// There is none.
struct NoMemory;

impl MemoryWatch for NoMemory {
    fn report(&self, _: usize, _: usize) {}

    fn excess(&self) -> usize {
        1
    }
}

/// What an epoch has changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// As the end of the epoch says.
    ByTheEpoch,
    /// As readers see it.
    ByReaders,
}

/// Emits what an epoch has changed; whether anybody wants to know of it is as the seed says.
fn materialize(spec: &MaterializeSpec, told: Told, seed: u64) -> Subject {
    let arrangement = Arrangement::new(&spec.arrangement()).expect("the types can be kept");
    let arrangement = Rc::new(RefCell::new(arrangement));
    let reader = arrangement.borrow().reader();
    let mut materialize = Materialize::new(spec.clone(), arrangement);
    if seed.is_multiple_of(2) {
        materialize = materialize.putting_away(Arc::new(ColdMemory::default()), Rc::new(NoMemory));
    }
    Box::new(move |epoch, input| {
        let keep = told == Told::ByTheEpoch || mix(seed ^ epoch).is_multiple_of(2);
        for (_, delta) in input {
            materialize.push(delta, keep).map_err(|e| e.to_string())?;
        }
        let (epoch, before) = (Epoch(epoch), Epoch(epoch - 1));
        let kept = materialize.end_epoch(epoch, before).map_err(|e| e.to_string())?;
        let deltas = match told {
            Told::ByTheEpoch => kept,
            Told::ByReaders => reader.changes(before, epoch).deltas().map_err(|e| e.to_string())?,
        };
        let n_rows = reader.snapshot(epoch).n_rows();
        if materialize.n_rows() != n_rows {
            return Err(format!("{} rows are kept, readers see {n_rows}", materialize.n_rows()));
        }
        Ok(Emitted { deltas, n_entries: materialize.n_rows(), ..Emitted::default() })
    })
}

#[test]
fn a_view_is_the_sum_of_its_input() {
    for (key, append_only) in
        [(None, false), (None, true), (Some(vec![0]), false), (Some(vec![1, 0]), false), (Some(vec![0]), true)]
    {
        let input = Input::of(schema()).append_only(append_only).keyed(key.clone());
        let spec = MaterializeSpec {
            schema: schema(),
            key,
            partitioned_by: None,
            append_only,
            consolidated: false,
            indexes: vec![],
        };
        let name = format!("{spec:?}");
        let by_readers = |seed| materialize(&spec, Told::ByReaders, seed);
        property::check(&name, std::slice::from_ref(&input), by_readers, |i: &[Rows]| i[0].clone());
        let by_the_epoch = |seed| {
            let subject = materialize(&spec, Told::ByTheEpoch, seed);
            if append_only { subject } else { property::consolidated(subject) }
        };
        property::check(&name, &[input], by_the_epoch, |i: &[Rows]| i[0].clone());
    }
}

/// Rows without columns differ in nothing, and are still counted.
#[test]
fn a_view_without_columns_counts_its_rows() {
    let schema = schema_of(&[]);
    let spec = MaterializeSpec {
        schema: schema.clone(),
        key: None,
        partitioned_by: None,
        append_only: false,
        consolidated: false,
        indexes: vec![],
    };
    for told in [Told::ByTheEpoch, Told::ByReaders] {
        let inputs = [Input::of(schema.clone())];
        property::check("no columns", &inputs, |seed| materialize(&spec, told, seed), |i: &[Rows]| i[0].clone());
    }
}

#[test]
fn equal_rows_are_summed() {
    let input = Input::of(schema());
    let summed = |_| -> Subject {
        Box::new(|_, input| {
            let schema = schema();
            let deltas: Vec<Delta> = input.into_iter().map(|(_, delta)| delta).collect();
            let all = Delta::concat(&schema, &deltas).map_err(|e| e.to_string())?;
            let sum = consolidate(&all).map_err(|e| e.to_string())?;
            assert!((0..sum.n_rows()).all(|i| sum.weight(i) != 0));
            Ok(Emitted { deltas: vec![sum], ..Emitted::default() })
        })
    };
    let consolidated = |seed| property::consolidated(summed(seed));
    property::check("sums", &[input], consolidated, |i: &[Rows]| i[0].clone());
}
