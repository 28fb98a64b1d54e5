//! Joins of every kind against their definition: nested loops over the rows of both sides.

use arrow::datatypes::DataType;
use datafusion::logical_expr::Operator as Comparison;
use datafusion::physical_expr::expressions::{BinaryExpr, Column};
use millstream_types::delta::schema_of;

use super::*;
use crate::dataflow::{Dataflow, Edge, Exchange, Node};
use crate::property::{self, Changes, Inputs, Row, Rows};

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

#[derive(Clone, Copy, Debug)]
struct Case {
    left: Alone,
    right: Alone,
    emits_pairs: bool,
    /// No keys: a nested loop.
    cross: bool,
    null_safe: bool,
    residual: bool,
}

/// `l.v < r.v`.
fn residual() -> Residual {
    let column = |name: &str, i: usize| Arc::new(Column::new(name, i));
    Residual {
        columns: vec![JoinColumn::Of(Side::Left, 1), JoinColumn::Of(Side::Right, 1)],
        schema: schema_of(&[("l", DataType::Int64), ("r", DataType::Int64)]),
        condition: Scalar::new(Arc::new(BinaryExpr::new(column("l", 0), Comparison::Lt, column("r", 1)))),
    }
}

fn schema() -> SchemaRef {
    schema_of(&[("k", DataType::Int64), ("v", DataType::Int64)])
}

fn inputs() -> Inputs {
    Inputs { schemas: vec![schema(), schema()], append_only: false }
}

impl Case {
    /// Each row with the rows of its key, as they are exchanged.
    fn dataflow(&self) -> Dataflow {
        let mut dataflow = Dataflow::default();
        let spec = Arc::new(self.spec());
        let exchange = Exchange::Hash(spec.inputs.left.keys.clone());
        let edges = [0, 1]
            .map(|port| Edge { from: dataflow.add(property::import(port, &schema())), exchange: exchange.clone() });
        dataflow.add(Node::Operator { spec, inputs: edges.into() });
        dataflow
    }

    /// The sides whose columns the output has; a mark comes last.
    fn shows(&self) -> (bool, bool) {
        (self.emits_pairs || self.left != Alone::Nothing, self.emits_pairs || self.right != Alone::Nothing)
    }

    fn spec(&self) -> HashJoinSpec {
        let keys = if self.cross { vec![] } else { vec![0] };
        let input = JoinInput { schema: schema(), keys: keys.clone(), append_only: false, unique: false, shared: None };
        let (left, right) = self.shows();
        let mut output = Vec::new();
        for side in [Side::Left, Side::Right].into_iter().filter(|s| if *s == Side::Left { left } else { right }) {
            output.extend([JoinColumn::Of(side, 0), JoinColumn::Of(side, 1)]);
        }
        let mut names: Vec<(&str, DataType)> =
            ["a", "b", "c", "d"][..output.len()].iter().map(|n| (*n, DataType::Int64)).collect();
        if self.left == Alone::Mark {
            output.push(JoinColumn::Mark);
            names.push(("m", DataType::Boolean));
        }
        HashJoinSpec {
            inputs: Sides { left: input.clone(), right: input },
            emits_pairs: self.emits_pairs,
            alone: Sides { left: self.left, right: self.right },
            null_equals_null: vec![self.null_safe; keys.len()],
            residual: self.residual.then(residual),
            output,
            schema: schema_of(&names),
        }
    }

    fn matches(&self, left: &Row, right: &Row) -> bool {
        let keys = match (left[0], right[0]) {
            _ if self.cross => true,
            (None, None) => self.null_safe,
            (a, b) => a.is_some() && a == b,
        };
        keys && (!self.residual || left[1].zip(right[1]).is_some_and(|(l, r)| l < r))
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

    fn definition(&self, inputs: &[Rows]) -> Rows {
        let (left, right) = (&inputs[0], &inputs[1]);
        let mut out = Rows::new();
        let mut emit = |row: Row, weight: i64| *out.entry(row).or_default() += weight;
        let nulls = vec![None, None];
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
        out
    }
}

#[test]
fn joins_of_every_kind_are_their_definition() {
    for (left, right, emits_pairs) in KINDS {
        for bits in 0..8 {
            let [cross, null_safe, residual] = [0, 1, 2].map(|bit| bits >> bit & 1 == 1);
            let aware = left == Alone::NullAwareAnti;
            if cross && null_safe || aware && bits != 0 {
                continue;
            }
            let case = Case { left, right, emits_pairs, cross, null_safe, residual };
            let name = format!("{case:?}");
            property::check(&name, &inputs(), |_| property::operator(&case.spec()), |i| case.definition(i));
            // All rows of one side decide about each row of the other: these run on one worker.
            if !aware {
                let on_workers = |seed| property::dataflow(&case.dataflow(), 1 + seed as usize % 3);
                property::check(&name, &inputs(), on_workers, |i| case.definition(i));
            }
        }
    }
}

/// Three copies of a row that came as two and one go at once.
#[test]
fn one_change_takes_back_rows_that_several_brought() {
    let case = Case {
        left: Alone::NullExtended,
        right: Alone::Nothing,
        emits_pairs: true,
        cross: false,
        null_safe: false,
        residual: false,
    };
    let row = vec![Some(1), Some(7)];
    let epochs: Vec<Changes> =
        vec![vec![(0, row.clone(), 2), (1, vec![Some(1), Some(8)], 1)], vec![(0, row.clone(), 1)], vec![(0, row, -3)]];
    for case in [case, Case { left: Alone::Nothing, ..case }] {
        let join = property::operator(&case.spec());
        let result = property::run(join, &inputs(), &epochs, 1, |i| case.definition(i));
        assert_eq!(result, Ok(()), "{case:?}");
    }
}
