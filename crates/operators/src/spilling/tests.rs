//! Operators in parts: what of them is in memory, and when. That they do the same is what all property tests see.

use std::cell::Cell;

use arrow::datatypes::{DataType, SchemaRef};
use millstream_expr::OrderBy;
use millstream_state::changes::net;
use millstream_state::{ColdMemory, StateChanges};
use millstream_types::delta::schema_of;
use millstream_types::{ErrorKind, SqlState};

use super::*;
use crate::dataflow::Exchange;
use crate::property::{self, Changes, Emitted};
use crate::top_n::TopNSpec;

/// Memory of which there is as much too little as is said.
#[derive(Default)]
struct Told {
    excess: Cell<usize>,
    is_spilling: Cell<bool>,
    /// There is no room for so many bytes more.
    room: Cell<usize>,
    n_whole_bytes: Cell<usize>,
}

impl MemoryWatch for Told {
    fn report(&self, _: usize, _: usize) {}

    fn note_whole(&self, n_bytes: usize) {
        self.n_whole_bytes.set(n_bytes);
    }

    fn excess(&self) -> usize {
        self.excess.get()
    }

    fn is_short_for(&self, n_bytes: usize) -> bool {
        n_bytes > self.room.get()
    }

    fn is_spilling(&self) -> bool {
        self.is_spilling.get()
    }
}

fn schema() -> SchemaRef {
    schema_of(&[("p", DataType::Int64), ("o", DataType::Int64)])
}

/// The first of each `p`, exchanged by some columns.
fn first_rows(by: &[usize], store: &Arc<ColdMemory>, memory: &Rc<Told>) -> Box<dyn Operator> {
    let spec: Arc<dyn OperatorSpec> = Arc::new(TopNSpec {
        input: schema(),
        partition_by: vec![0],
        order_by: vec![OrderBy::ascending(1)],
        offset: 0,
        limit: Some(1),
        with_row_number: false,
        append_only: false,
        schema: schema(),
    });
    let edges = [Edge { from: 0, exchange: Exchange::Hash(by.to_vec()) }];
    let (store, watch) = (Arc::clone(store), Rc::clone(memory) as Rc<dyn MemoryWatch>);
    let spill_to = SpillTo { store, watch, queued_bytes_max: 0, starts_in_parts: false };
    build(&spec, &edges, BuildContext::alone(), spill_to).expect("integers can be kept")
}

/// Takes rows of a range of `p`, each with this `o`; gives how many rows were emitted.
fn epoch(operator: &mut dyn Operator, number: u64, rows: std::ops::Range<i64>, o: i64) -> usize {
    let changes: Changes = rows.map(|p| (0, vec![Some(p), Some(o)], 1)).collect();
    let mut emitted = Emitted::default();
    let input = vec![(0, property::delta_of(&schema(), &changes))];
    property::push_all(operator, input, &mut emitted).expect("rows come");
    property::end_epoch(operator, number, &mut emitted).expect("the epoch ends");
    emitted.deltas.iter().map(Delta::n_rows).sum()
}

#[test]
fn what_is_put_away_is_not_in_memory() {
    let (store, memory) = (Arc::default(), Rc::default());
    let mut operator = first_rows(&[0], &store, &memory);
    assert_eq!(epoch(&mut *operator, 1, 0..1000, 5), 1000);
    let (n_bytes, n_entries) = (operator.n_bytes(), operator.n_entries());
    operator.relieve().expect("there is nothing to do");
    assert_eq!((operator.n_bytes(), operator.n_spillable_bytes()), (n_bytes, n_bytes), "there is enough memory");

    memory.excess.set(1);
    operator.relieve().expect("it can be put away");
    assert_eq!((operator.n_bytes(), operator.n_entries()), (0, n_entries));
    assert!(operator.n_spilled_bytes() > 0 && operator.n_spilled_bytes() == store.n_bytes());
    // Nothing is read for rows that do not come, and what was read is put away again.
    assert_eq!(epoch(&mut *operator, 2, 0..0, 5), 0);
    assert_eq!(epoch(&mut *operator, 3, 0..1000, 4), 2000, "the first rows are others");
    memory.excess.set(usize::MAX);
    operator.relieve().expect("it can be put away");
    assert_eq!((operator.n_bytes(), operator.n_entries()), (0, 2 * n_entries));

    memory.excess.set(0);
    assert_eq!(epoch(&mut *operator, 4, 7..8, 3), 2);
    let n_bytes_of_one = operator.n_bytes();
    assert!(n_bytes_of_one > 0 && n_bytes_of_one == operator.n_spillable_bytes());
    assert_eq!(epoch(&mut *operator, 5, 0..1000, 3), 1998);
    assert!(operator.n_bytes() > 10 * n_bytes_of_one, "all parts stay where they were used");
    drop(operator);
    assert_eq!(store.n_bytes(), 0);
}

#[test]
fn state_that_cannot_be_put_away_is_an_error() {
    let (store, memory): (Arc<ColdMemory>, Rc<Told>) = Default::default();
    let mut operator = first_rows(&[0], &store, &memory);
    epoch(&mut *operator, 1, 0..1000, 5);
    memory.excess.set(1);
    store.set_fails(true);
    let error = operator.relieve().expect_err("nothing can be put there");
    assert_eq!((error.kind(), error.state()), (ErrorKind::Resource, SqlState::OUT_OF_MEMORY), "{error}");
}

#[test]
fn rows_that_are_all_in_one_partition_stay() {
    let (store, memory): (Arc<ColdMemory>, Rc<Told>) = Default::default();
    memory.excess.set(1);
    let mut operator = first_rows(&[], &store, &memory);
    epoch(&mut *operator, 1, 0..1000, 5);
    operator.relieve().expect("there is nothing to do");
    assert!(operator.n_bytes() > 0 && operator.n_spillable_bytes() == 0 && store.n_bytes() == 0);
}

#[test]
fn what_spills_elsewhere_is_in_parts_before_memory_is_short() {
    let (store, memory): (Arc<ColdMemory>, Rc<Told>) = Default::default();
    let mut operator = first_rows(&[0], &store, &memory);
    epoch(&mut *operator, 1, 0..1000, 5);
    assert!(operator.n_whole_bytes() > 0 && memory.n_whole_bytes.get() == operator.n_whole_bytes());
    memory.is_spilling.set(true);
    epoch(&mut *operator, 2, 0..10, 5);
    assert_eq!((operator.n_whole_bytes(), memory.n_whole_bytes.get()), (0, 0));
    assert!(operator.n_spilled_bytes() > 0);
    // Parts stay in memory from then on, as long as there is enough.
    epoch(&mut *operator, 3, 0..1000, 4);
    assert!(operator.n_bytes() > 0 && operator.n_whole_bytes() == 0);
}

#[test]
fn what_is_handed_over_is_put_away_where_memory_is_short() {
    for is_in_parts in [false, true] {
        let (store, memory): (Arc<ColdMemory>, Rc<Told>) = Default::default();
        let mut operator = first_rows(&[0], &store, &memory);
        epoch(&mut *operator, 1, 0..1000, 5);
        if is_in_parts {
            memory.excess.set(1);
            operator.relieve().expect("it can be put away");
            memory.excess.set(0);
            epoch(&mut *operator, 2, 0..1000, 5);
        }
        operator.track_changes();
        memory.room.set(5_000);
        let (before, mut saved) = (store.n_bytes(), StateChanges::default());
        operator.save_all_changes(&[vec![0]], &mut saved).expect("it can be put away");
        assert!(saved.n_bytes() <= 10_000, "{} bytes", saved.n_bytes());
        assert!(is_in_parts || saved.n_bytes() > 0 && store.n_bytes() > before, "the rest is put away");
        let mut all = StateChanges::default();
        operator.save(&[vec![0]], &mut all).expect("it can be said");
        let rows = |changes: StateChanges| net(&[changes]).expect("adds up").rows(0).expect("of one shape").unwrap();
        assert_eq!(rows(saved).num_rows(), rows(all).num_rows());

        // Of what changes since only that is said.
        epoch(&mut *operator, 3, 7..10, 4);
        let mut saved = StateChanges::default();
        operator.save_all_changes(&[vec![0]], &mut saved).expect("it can be said");
        assert_eq!(saved.n_rows(), 3, "what has come");
    }
}
