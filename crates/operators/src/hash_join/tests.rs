//! Joins of every kind against their definition: nested loops over the rows of both sides.

use std::cell::RefCell;
use std::rc::Rc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator as Comparison;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use millstream_state::{Arrangement, ArrangementSpec, ColdMemory};
use millstream_types::delta::schema_of;
use millstream_types::hash::mix;

use super::*;
use crate::dataflow::{Dataflow, Edge, Exchange};
use crate::materialize::consolidate;
use crate::operator::Arrangements;

use crate::property::{self, Changes, Emitted, Expected, Input, Row, Rows, Subject};
use crate::spilling::{self, SpillTo};

/// What a join emits beside pairs, and whether it emits pairs.
const KINDS: [(Alone, Alone, bool); 10] = [
    (Alone::Nothing, Alone::Nothing, true),
    (Alone::NullExtended, Alone::Nothing, true),
    (Alone::Nothing, Alone::NullExtended, true),
    (Alone::NullExtended, Alone::NullExtended, true),
    (Alone::Semi, Alone::Nothing, false),
    (Alone::Nothing, Alone::Semi, false),
    (Alone::Anti, Alone::Nothing, false),
    (Alone::Nothing, Alone::Anti, false),
    (Alone::NullAwareAnti, Alone::Nothing, false),
    (Alone::Mark, Alone::Nothing, false),
];

/// A condition beside the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    /// `l.v < r.v`
    Less,
    /// `l.v / r.v < 2`, which fails where `r.v` is 0.
    Quotient,
}

/// What is known of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    AppendOnly,
    /// No two rows have the same key.
    Unique,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    left: Alone,
    right: Alone,
    emits_pairs: bool,
    /// No keys: a nested loop.
    cross: bool,
    null_safe: bool,
    residual: Option<Condition>,
    known: [Known; 2],
    /// Whether a side's rows are kept elsewhere.
    shared: [bool; 2],
    /// Whether different keys have the same hash.
    colliding: bool,
}

const INNER: Case = Case {
    left: Alone::Nothing,
    right: Alone::Nothing,
    emits_pairs: true,
    cross: false,
    null_safe: false,
    residual: None,
    known: [Known::Nothing; 2],
    shared: [false; 2],
    colliding: false,
};

impl Condition {
    fn residual(self) -> Residual {
        let column = |name: &str, i: usize| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new(name, i)) };
        let binary = |l, op, r| -> Arc<dyn PhysicalExpr> { Arc::new(BinaryExpr::new(l, op, r)) };
        let (l, r) = (column("l", 0), column("r", 1));
        let condition = match self {
            Condition::Less => binary(l, Comparison::Lt, r),
            Condition::Quotient => {
                let two = Arc::new(Literal::new(ScalarValue::Int64(Some(2))));
                binary(binary(l, Comparison::Divide, r), Comparison::Lt, two)
            }
        };
        Residual {
            columns: vec![JoinColumn::Of(Side::Left, 1), JoinColumn::Of(Side::Right, 1)],
            schema: schema_of(&[("l", DataType::Int64), ("r", DataType::Int64)]),
            condition: Scalar::new(condition),
        }
    }

    /// Nothing if it fails.
    fn holds(self, l: Option<i64>, r: Option<i64>) -> Option<bool> {
        let Some((l, r)) = l.zip(r) else { return Some(false) };
        match self {
            Condition::Less => Some(l < r),
            Condition::Quotient => l.checked_div(r).map(|quotient| quotient < 2),
        }
    }
}

fn schema(colliding: bool) -> SchemaRef {
    let key = if colliding { property::COLLIDING } else { DataType::Int64 };
    schema_of(&[("k", key), ("v", DataType::Int64), ("i", property::LOOSE)])
}

impl Case {
    fn inputs(&self) -> [Input; 2] {
        let key = |known: Known| (known == Known::Unique).then(|| vec![0]);
        self.known.map(|k| Input::of(schema(self.colliding)).append_only(k == Known::AppendOnly).keyed(key(k)))
    }

    /// Each row with the rows of its key, as they are exchanged; all on one worker where all rows of a side decide about
    /// each row of the other.
    fn dataflow(&self) -> Dataflow {
        let keys = if self.left == Alone::NullAwareAnti { vec![] } else { self.spec().inputs.left.keys };
        let schema = schema(self.colliding);
        property::exchanged(self.spec(), &[(schema.clone(), keys.clone()), (schema, keys)])
    }

    /// The sides whose columns the output has; a mark comes last.
    fn shows(&self) -> (bool, bool) {
        (self.emits_pairs || self.left != Alone::Nothing, self.emits_pairs || self.right != Alone::Nothing)
    }

    fn spec(&self) -> HashJoinSpec {
        let keys = if self.cross { vec![] } else { vec![0] };
        let input = |port: usize| JoinInput {
            schema: schema(self.colliding),
            keys: keys.clone(),
            append_only: self.known[port] == Known::AppendOnly,
            unique: self.known[port] == Known::Unique,
            shared: self.shared[port].then(|| shared_input(port)),
        };
        let (left, right) = self.shows();
        let mut output = Vec::new();
        for side in [Side::Left, Side::Right].into_iter().filter(|s| if *s == Side::Left { left } else { right }) {
            output.extend([0, 1, 2].map(|c| JoinColumn::Of(side, c)));
        }
        let types = schema(self.colliding);
        let mut names: Vec<(&str, DataType)> =
            (["a", "b", "c", "d", "e", "f"].into_iter().enumerate().take(output.len()))
                .map(|(i, name)| (name, types.field(i % 3).data_type().clone()))
                .collect();
        if self.left == Alone::Mark {
            output.push(JoinColumn::Mark);
            names.push(("m", DataType::Boolean));
        }
        HashJoinSpec {
            inputs: Sides { left: input(0), right: input(1) },
            emits_pairs: self.emits_pairs,
            alone: Sides { left: self.left, right: self.right },
            null_equals_null: vec![self.null_safe; keys.len()],
            residual: self.residual.map(Condition::residual),
            output,
            schema: schema_of(&names),
        }
    }

    fn has_key_in_common(&self, left: &Row, right: &Row) -> bool {
        match (left[0], right[0]) {
            _ if self.cross => true,
            (None, None) => self.null_safe,
            (a, b) => a.is_some() && a == b,
        }
    }

    fn matches(&self, left: &Row, right: &Row) -> bool {
        let holds = |c: Condition| c.holds(left[1], right[1]).unwrap_or(false);
        self.has_key_in_common(left, right) && self.residual.is_none_or(holds)
    }

    /// What a row emits by itself, with and without a partner.
    fn alone(&self, kind: Alone, row: &Row, others: &Rows, has_partner: bool) -> Option<Row> {
        let shown = match kind {
            Alone::Nothing => false,
            Alone::NullExtended | Alone::Anti => !has_partner,
            Alone::Semi => has_partner,
            Alone::Mark => true,
            Alone::NullAwareAnti => {
                others.is_empty() || !has_partner && row[0].is_some() && others.keys().all(|o| o[0].is_some())
            }
        };
        let mark = (kind == Alone::Mark).then_some(Some(i64::from(has_partner)));
        shown.then(|| row.iter().copied().chain(mark).collect())
    }

    fn definition(&self, inputs: &[Rows]) -> Expected {
        let (left, right) = (&inputs[0], &inputs[1]);
        let mut expected = Expected::default();
        for ((l, n), (r, m)) in left.iter().flat_map(|l| right.iter().map(move |r| (l, r))) {
            let fails = |c: Condition| c.holds(l[1], r[1]).is_none();
            if self.has_key_in_common(l, r) && self.residual.is_some_and(fails) {
                let text = property::row_text(&Condition::Quotient.residual().schema, &[l[1], r[1]]);
                *expected.errors.entry(format!("division by zero: {text}")).or_default() += n * m;
            }
        }
        let out = &mut expected.rows;
        let mut emit = |row: Row, weight: i64| *out.entry(row).or_default() += weight;
        let nulls = vec![None; 3];
        for (l, n) in left {
            let partners: Vec<_> = right.iter().filter(|(r, _)| self.matches(l, r)).collect();
            for (r, m) in partners.iter().filter(|_| self.emits_pairs) {
                emit([l.as_slice(), r].concat(), n * *m);
            }
            if let Some(row) = self.alone(self.left, l, right, !partners.is_empty()) {
                emit(if self.shows().1 { [row, nulls.clone()].concat() } else { row }, *n);
            }
        }
        for (r, m) in right {
            let has_partner = left.keys().any(|l| self.matches(l, r));
            if let Some(row) = self.alone(self.right, r, left, has_partner) {
                emit(if self.shows().0 { [nulls.clone(), row].concat() } else { row }, *m);
            }
        }
        expected
    }
}

/// Alone, and on several workers.
fn check(case: Case) {
    let name = format!("{case:?}");
    property::check(&name, &case.inputs(), |_| property::operator(&case.spec()), |i| case.definition(i));
    let on_workers = |seed| property::dataflow(&case.dataflow(), property::n_workers(seed));
    property::check(&name, &case.inputs(), on_workers, |i| case.definition(i));
}

#[test]
fn joins_of_every_kind_are_their_definition() {
    for (left, right, emits_pairs) in KINDS {
        for bits in 0..16 {
            let [cross, null_safe, residual, colliding] = [0, 1, 2, 3].map(|bit| bits >> bit & 1 == 1);
            if cross && (null_safe || colliding) || left == Alone::NullAwareAnti && (cross || null_safe || residual) {
                continue;
            }
            let residual = residual.then_some(Condition::Less);
            check(Case { left, right, emits_pairs, cross, null_safe, residual, colliding, ..INNER });
        }
    }
}

#[test]
fn what_is_known_of_the_inputs_changes_nothing() {
    use Known::{AppendOnly, Nothing, Unique};
    for (i, (left, right, emits_pairs)) in KINDS.into_iter().enumerate() {
        for (j, known) in [
            [AppendOnly, AppendOnly],
            [AppendOnly, Nothing],
            [Nothing, AppendOnly],
            [Unique, Nothing],
            [AppendOnly, Unique],
            [Unique, Unique],
        ]
        .into_iter()
        .enumerate()
        {
            let aware = left == Alone::NullAwareAnti;
            let [null_safe, residual] = [0, 1].map(|bit| !aware && (i + j) >> bit & 1 == 1);
            let residual = residual.then_some(Condition::Less);
            let colliding = (i + j) >> 2 & 1 == 1;
            check(Case { left, right, emits_pairs, null_safe, residual, known, colliding, ..INNER });
        }
    }
}

#[test]
fn pairs_that_fail_are_errors_while_both_rows_are_there() {
    for (left, right, emits_pairs) in KINDS.into_iter().filter(|k| k.0 != Alone::NullAwareAnti) {
        for cross in [false, true] {
            check(Case { left, right, emits_pairs, cross, residual: Some(Condition::Quotient), ..INNER });
        }
    }
}

/// The relation of a port has its columns the other way round.
fn shared_input(port: usize) -> SharedInput {
    SharedInput { relation: RelationId(port as u64), keys: vec![1], columns: vec![1, 0, 2] }
}

/// The relations of both ports.
struct Relations([Rc<RefCell<Arrangement>>; 2]);

impl Arrangements for Relations {
    fn arrangement(&self, relation: RelationId) -> Option<Rc<RefCell<Arrangement>>> {
        self.0.get(relation.0 as usize).cloned()
    }
}

impl Relations {
    fn new(case: &Case) -> Self {
        let relation = |known: Known| {
            let (identity, indexes) = match known {
                Known::Unique => (vec![1], vec![]),
                _ => (vec![0, 1, 2], vec![vec![1]]),
            };
            let schema = Arc::new(schema(case.colliding).project(&[1, 0, 2]).expect("three columns"));
            let spec = ArrangementSpec { schema, identity: Some(identity), indexes };
            Rc::new(RefCell::new(Arrangement::new(&spec).expect("integers can be kept")))
        };
        Relations(case.known.map(relation))
    }

    /// Completes an epoch of both; what is older than `since` may be forgotten.
    fn complete(&self, changes: &Changes, epoch: Epoch, since: Epoch) {
        for (port, relation) in self.0.iter().enumerate() {
            let mut relation = relation.borrow_mut();
            let of_port: Changes = changes
                .iter()
                .filter(|c| c.0 == port)
                .map(|(port, row, weight)| (*port, vec![row[1], row[0], row[2]], *weight))
                .collect();
            let delta = property::delta_of(relation.schema(), &of_port);
            let delta = consolidate(&delta).expect("integers have a row encoding");
            relation.apply(&delta).expect("the changes add up");
            relation.seal(epoch, since).expect("all is in memory");
        }
    }
}

/// A join of relations that are ahead of it, and that forget what it has ended. It starts before their first epoch, or
/// over the rows that they have after it.
fn over_relations(case: Case, seed: u64, epochs: &[Changes]) -> Subject {
    let relations = Relations::new(&case);
    let start = Epoch(seed % 2);
    let mut done = 0;
    let epochs = epochs.to_vec();
    let mut complete = move |relations: &Relations, upto: u64, since: Epoch| {
        for epoch in done + 1..=upto.min(epochs.len() as u64) {
            relations.complete(&epochs[epoch as usize - 1], Epoch(epoch), since);
            done = epoch;
        }
    };
    complete(&relations, start.0, start);
    let context = BuildContext { start, arrangements: &relations, ..BuildContext::alone() };
    let spec: Arc<dyn OperatorSpec> = Arc::new(case.spec());
    let memory = Rc::new(property::RandomMemory::default());
    let (store, watch) = (Arc::new(ColdMemory::default()), memory.clone());
    let spill_to = SpillTo { store, watch, queued_bytes_max: 0, starts_in_parts: seed.is_multiple_of(3) };
    let edges = [0, 1].map(|from| Edge { from, exchange: Exchange::Partitioned(vec![0]) });
    let mut join = spilling::build(&spec, &edges, context, spill_to).expect("both are arranged");
    Box::new(move |epoch, mut input| {
        memory.begin(mix(seed << 16 ^ epoch));
        // Of two relations, the rows of one come all the same.
        let is_fed = |port: usize| !case.shared[port] || case.shared == [true; 2] && port == 0;
        input.retain(|(port, _)| epoch > start.0 || is_fed(*port));
        let random = mix(seed << 8 ^ epoch);
        let upto = epoch + random % 3;
        let since = Epoch(epoch - 1).max(start);
        // An epoch's rows may arrive before the relations have completed it, never its end.
        let is_ahead = random >> 8 & 1 == 1;
        let mut emitted = Emitted::default();
        complete(&relations, if is_ahead { upto } else { epoch - 1 }, since);
        property::push_all(join.as_mut(), input, &mut emitted)?;
        complete(&relations, upto, since);
        property::end_epoch(join.as_mut(), epoch, &mut emitted)?;
        Ok(emitted)
    })
}

#[test]
fn a_side_that_is_kept_elsewhere_may_be_ahead() {
    use Known::{Nothing, Unique};
    for (left, right, emits_pairs) in KINDS.into_iter().filter(|k| k.0 != Alone::NullAwareAnti) {
        for shared in [[false, true], [true, false], [true, true]] {
            if shared[0] && left != Alone::Nothing || shared[1] && right != Alone::Nothing {
                continue;
            }
            for known in [[Unique, Unique], [Nothing, Nothing]] {
                for residual in [None, Some(Condition::Less), Some(Condition::Quotient)] {
                    for (null_safe, colliding) in [(false, false), (true, false), (true, true), (false, true)] {
                        let case =
                            Case { left, right, emits_pairs, null_safe, residual, known, shared, colliding, ..INNER };
                        let over_relations = |seed, epochs: &[Changes]| over_relations(case, seed, epochs);
                        let definition = |i: &[Rows]| case.definition(i);
                        property::check_over(&format!("{case:?}"), &case.inputs(), over_relations, definition);
                    }
                }
            }
        }
    }
}

/// Three copies of a row that came as two and one go at once.
#[test]
fn one_change_takes_back_rows_that_several_brought() {
    let row = vec![Some(1), Some(7), Some(0)];
    let epochs: Vec<Changes> = vec![
        vec![(0, row.clone(), 2), (1, vec![Some(1), Some(8), Some(0)], 1)],
        vec![(0, row.clone(), 1)],
        vec![(0, row, -3)],
    ];
    for case in [Case { left: Alone::NullExtended, ..INNER }, INNER] {
        let join = property::operator(&case.spec());
        let result = property::run(join, &case.inputs(), &epochs, 1, |i| case.definition(i));
        assert_eq!(result, Ok(()), "{case:?}");
    }
}
