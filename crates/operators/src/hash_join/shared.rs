//! A side of a join that keeps nothing: its rows are those of a relation's arrangement on the same worker.

use std::cell::RefCell;
use std::rc::Rc;

use arrow::array::ArrayRef;
use millstream_state::{Arrangement, Matches};
use millstream_types::{Epoch, Error, Result};

use super::SharedInput;
use crate::operator::BuildContext;

/// The rows of a relation as of the last epoch that the join has ended, or of the one that it is ending.
///
/// The relation runs ahead of the join and is compacted behind it; whoever drives the dataflow holds it at the last
/// epoch that the join has ended. Row ids change when the arrangement merges chunks, so none is kept between calls.
pub(super) struct SharedSide {
    arrangement: Rc<RefCell<Arrangement>>,
    index: usize,
    /// For each column of the input, its place in the arrangement.
    columns: Vec<usize>,
    at: Epoch,
}

impl SharedSide {
    /// # Errors
    /// Internal, if this worker does not keep the relation, or not indexed by the join's key.
    pub(super) fn new(input: &SharedInput, context: BuildContext<'_>) -> Result<Self> {
        let missing = || Error::internal(format!("relation {} is not arranged by the key of a join", input.relation));
        let arrangement = context.arrangements.arrangement(input.relation).ok_or_else(missing)?;
        let index = arrangement.borrow().index_on(&input.keys).ok_or_else(missing)?;
        Ok(SharedSide { arrangement, index, columns: input.columns.clone(), at: context.start })
    }

    /// From here on the rows are those as of an epoch, which the relation has completed.
    pub(super) fn advance(&mut self, epoch: Epoch) {
        self.at = epoch;
    }

    /// Adds pairs for keys, whose probes are numbered from `first` on.
    pub(super) fn probe(&self, keys: &[ArrayRef], hashes: &[u64], first: usize, matches: &mut Matches) {
        let from = matches.len();
        self.arrangement.borrow().probe(self.index, keys, hashes, Some(self.at), matches);
        matches.probes[from..].iter_mut().for_each(|probe| *probe += first as u32);
    }

    pub(super) fn gather(&self, column: usize, rows: &[u32]) -> ArrayRef {
        self.arrangement.borrow().gather_column(self.columns[column], rows)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Int64Type, SchemaRef};
    use millstream_state::ArrangementSpec;
    use millstream_types::delta::schema_of;
    use millstream_types::hash::mix;
    use millstream_types::{Delta, EpochHeader};

    use super::*;
    use crate::hash_join::{Alone, HashJoinSpec, JoinColumn, JoinInput, Side, Sides};
    use crate::operator::{Arrangements, OperatorSpec, Output, Progress};
    use crate::{Operator, RelationId};

    const LEFT: RelationId = RelationId(1);
    const RIGHT: RelationId = RelationId(2);

    /// Rows `(key, value)`, the key unique, and their changes by epoch.
    struct Table {
        rows: BTreeMap<i64, i64>,
        arrangement: Rc<RefCell<Arrangement>>,
    }

    impl Table {
        fn new() -> Self {
            let spec = ArrangementSpec { schema: schema(), identity: Some(vec![0]), indexes: vec![] };
            let arrangement = Arrangement::new(&spec).expect("integers can be kept");
            Table { rows: BTreeMap::new(), arrangement: Rc::new(RefCell::new(arrangement)) }
        }

        /// Changes some rows and seals the epoch; what is older than `since` may be forgotten.
        fn change(&mut self, seed: u64, epoch: Epoch, since: Epoch) -> Delta {
            let mut changes = Vec::new();
            for i in 0..40 {
                let key = (mix(seed + i) % 60) as i64;
                let value = (mix(seed ^ i << 20) % 5) as i64;
                if let Some(old) = self.rows.remove(&key) {
                    changes.push((key, old, -1));
                }
                if value != 0 {
                    self.rows.insert(key, value);
                    changes.push((key, value, 1));
                }
            }
            // Within a delta, deletions come first.
            let delta = crate::materialize::consolidate(&delta_of(&changes)).expect("integers have a row encoding");
            self.arrangement.borrow_mut().apply(&delta).expect("the changes add up");
            self.arrangement.borrow_mut().seal(epoch, since);
            delta
        }
    }

    fn schema() -> SchemaRef {
        schema_of(&[("k", DataType::Int64), ("v", DataType::Int64)])
    }

    fn delta_of(rows: &[(i64, i64, i64)]) -> Delta {
        let keys: Int64Array = rows.iter().map(|r| Some(r.0)).collect();
        let values: Int64Array = rows.iter().map(|r| Some(r.1)).collect();
        let batch = RecordBatch::try_new(schema(), vec![Arc::new(keys), Arc::new(values)]).expect("two columns");
        Delta::new(batch, Some(rows.iter().map(|r| r.2).collect()))
    }

    struct Shared([(RelationId, Rc<RefCell<Arrangement>>); 2]);

    impl Arrangements for Shared {
        fn arrangement(&self, relation: RelationId) -> Option<Rc<RefCell<Arrangement>>> {
            self.0.iter().find(|(id, _)| *id == relation).map(|(_, a)| Rc::clone(a))
        }
    }

    fn spec(left_shared: bool, alone: Alone) -> HashJoinSpec {
        let shared = |relation| SharedInput { relation, keys: vec![0], columns: vec![0, 1] };
        let input = |shared| JoinInput { schema: schema(), keys: vec![0], append_only: false, unique: true, shared };
        let names = [("a", DataType::Int64), ("b", DataType::Int64), ("c", DataType::Int64)];
        HashJoinSpec {
            inputs: Sides { left: input(left_shared.then(|| shared(LEFT))), right: input(Some(shared(RIGHT))) },
            emits_pairs: true,
            alone: Sides { left: alone, right: Alone::Nothing },
            null_equals_null: vec![false],
            residual: None,
            output: vec![JoinColumn::Of(Side::Left, 0), JoinColumn::Of(Side::Left, 1), JoinColumn::Of(Side::Right, 1)],
            schema: schema_of(&names),
        }
    }

    type Joined = BTreeMap<(i64, i64, Option<i64>), i64>;

    fn add(joined: &mut Joined, out: &mut Output) {
        for delta in out.take() {
            let [a, b, c] = [0, 1, 2].map(|i| delta.columns()[i].as_primitive::<Int64Type>().clone());
            for i in 0..delta.n_rows() {
                let c = arrow::array::Array::is_valid(&c, i).then(|| c.value(i));
                *joined.entry((a.value(i), b.value(i), c)).or_default() += delta.weight(i);
            }
        }
        joined.retain(|_, weight| *weight != 0);
    }

    fn finish(join: &mut dyn Operator, mut progress: Progress, out: &mut Output, joined: &mut Joined) {
        add(joined, out);
        while progress == Progress::More {
            progress = join.resume(out).expect("the join goes on");
            add(joined, out);
        }
    }

    /// The definition, over both sides' rows as of one epoch.
    fn expected(left: &BTreeMap<i64, i64>, right: &BTreeMap<i64, i64>, alone: Alone) -> Joined {
        let pairs = left.iter().map(|(k, v)| (*k, *v, right.get(k).copied()));
        pairs.filter(|p| p.2.is_some() || alone == Alone::NullExtended).map(|p| (p, 1)).collect()
    }

    #[test]
    fn a_side_kept_elsewhere_may_be_ahead() {
        for (left_shared, alone) in [(false, Alone::Nothing), (false, Alone::NullExtended), (true, Alone::Nothing)] {
            for seed in 0..20 {
                let (mut left, mut right) = (Table::new(), Table::new());
                // The join starts over rows that are there.
                let start = Epoch(5);
                let initial = left.change(seed, start, start);
                right.change(seed + 1000, start, start);
                let shared = [(LEFT, Rc::clone(&left.arrangement)), (RIGHT, Rc::clone(&right.arrangement))];
                let context = BuildContext { start, arrangements: &Shared(shared), ..BuildContext::alone() };
                let mut join = spec(left_shared, alone).build(context).expect("both are arranged");
                let (mut out, mut joined) = (Output::default(), Joined::new());
                let mut end = |epoch: Epoch, deltas: Vec<(usize, Delta)>, joined: &mut Joined| {
                    for (port, delta) in deltas {
                        let progress = join.push(port, delta, &mut out).expect("the join takes a delta");
                        finish(join.as_mut(), progress, &mut out, joined);
                    }
                    let progress = join.end_epoch(&EpochHeader { epoch, now_us: 0 }, &mut out).expect("it ends");
                    finish(join.as_mut(), progress, &mut out, joined);
                };
                end(start, vec![(0, initial)], &mut joined);
                assert_eq!(joined, expected(&left.rows, &right.rows, alone), "seed {seed}");
                for round in 0..10u64 {
                    // Both relations complete two epochs before the join sees the first.
                    let done = Epoch(5 + round * 2);
                    let mut history = Vec::new();
                    for epoch in [done.next(), done.next().next()] {
                        let change = mix(seed << 32 | epoch.0);
                        let deltas =
                            [(0, left.change(change, epoch, done)), (1, right.change(change + 7, epoch, done))];
                        history.push((epoch, deltas, left.rows.clone(), right.rows.clone()));
                    }
                    for (epoch, mut deltas, left, right) in history {
                        if mix(seed + epoch.0).is_multiple_of(2) {
                            deltas.reverse();
                        }
                        end(epoch, deltas.into(), &mut joined);
                        assert_eq!(joined, expected(&left, &right, alone), "seed {seed} epoch {epoch}");
                    }
                }
            }
        }
    }
}
