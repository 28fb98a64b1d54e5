//! Aggregates of one and of two levels against their definition.

use std::collections::{BTreeMap, BTreeSet};

use millstream_expr::AggregateFunction as F;
use millstream_types::delta::schema_of;

use super::*;
use crate::dataflow::{Dataflow, Edge, Exchange, Node};
use crate::property::{self, Expected, Input, Row, Rows};

const G: usize = 0;
const X: usize = 1;
const B: usize = 2;
const C: usize = 3;

fn schema() -> SchemaRef {
    schema_of(&[
        ("g", DataType::Utf8View),
        ("x", DataType::Int64),
        ("b", DataType::Boolean),
        ("c", property::COLLIDING),
    ])
}

fn call(function: F, argument: Option<usize>, distinct: bool, filter: Option<usize>) -> AggregateCall {
    AggregateCall { function, argument, distinct, filter }
}

/// Calls whose states can be taken back.
fn sums() -> Vec<AggregateCall> {
    vec![
        call(F::Count, None, false, None),
        call(F::Count, Some(X), false, None),
        call(F::Count, Some(X), true, None),
        call(F::Count, Some(G), true, Some(B)),
        call(F::Count, Some(C), true, None),
        call(F::Sum, Some(X), false, Some(B)),
        call(F::Sum, Some(X), true, Some(B)),
        call(F::BoolAnd, Some(B), false, None),
        call(F::BoolOr, Some(B), false, None),
        call(F::BitXor, Some(X), false, None),
    ]
}

fn bests() -> Vec<AggregateCall> {
    vec![
        call(F::Min, Some(X), false, None),
        call(F::Max, Some(X), false, Some(B)),
        call(F::Min, Some(G), false, Some(B)),
        call(F::Max, Some(G), false, None),
        call(F::BitAnd, Some(X), false, None),
        call(F::BitOr, Some(X), false, Some(B)),
    ]
}

#[derive(Clone, Debug)]
struct Case {
    group_by: Vec<usize>,
    calls: Vec<AggregateCall>,
    append_only: bool,
}

impl Case {
    fn spec(&self, ports: Vec<AggregateInput>) -> AggregateSpec {
        let key = self.group_by.iter().map(|&c| schema().field(c).clone());
        let result = |c: &AggregateCall| {
            let argument = c.argument.map(|a| schema().field(a).data_type().clone());
            Field::new("c", c.function.result_type(argument.as_ref()).expect("of these types"), true)
        };
        let fields: Vec<Field> = key.chain(self.calls.iter().map(result)).collect();
        AggregateSpec {
            input: schema(),
            calls: self.calls.clone(),
            ports,
            n_keys: self.group_by.len(),
            append_only: self.append_only,
            schema: Arc::new(Schema::new(fields)),
        }
    }

    fn one_level(&self) -> AggregateSpec {
        self.spec(vec![AggregateInput::Rows { group_by: self.group_by.clone() }])
    }

    /// As the planner makes it of calls whose states add up.
    fn two_levels(&self) -> Dataflow {
        let mut dataflow = Dataflow::default();
        let from = dataflow.add(property::import(0, &schema()));
        let n_keys = self.group_by.len();
        let by_key = Exchange::Hash((0..n_keys).collect());
        let of = |indices: &[usize]| indices.iter().map(|&i| self.calls[i].clone()).collect::<Vec<_>>();
        let node = |spec: Arc<dyn OperatorSpec>, from: usize, exchange: Exchange| Node::Operator {
            spec,
            inputs: vec![Edge { from, exchange }],
        };
        let plain: Vec<usize> = (0..self.calls.len()).filter(|&i| !self.calls[i].distinct).collect();
        let partial = PartialAggregateSpec {
            input: schema(),
            group_by: self.group_by.clone(),
            calls: of(&plain),
            append_only: self.append_only,
        };
        let partial = dataflow.add(node(Arc::new(partial), from, Exchange::Local));
        let mut ports = vec![AggregateInput::States { counts_rows: true, calls: plain }];
        let mut edges = vec![Edge { from: partial, exchange: by_key.clone() }];
        for argument in 0..schema().fields().len() {
            let of_argument = |i: &usize| self.calls[*i].distinct && self.calls[*i].argument == Some(argument);
            let indices: Vec<usize> = (0..self.calls.len()).filter(of_argument).collect();
            if indices.is_empty() {
                continue;
            }
            let distinct = DistinctPartialSpec {
                input: schema(),
                group_by: self.group_by.clone(),
                calls: of(&indices),
                append_only: self.append_only,
            };
            let reduce = dataflow.add(node(Arc::new(DistinctReduceSpec(distinct.clone())), from, Exchange::Local));
            let by_value = Exchange::Hash((0..=n_keys).collect());
            let distinct = dataflow.add(node(Arc::new(distinct), reduce, by_value));
            ports.push(AggregateInput::States { counts_rows: false, calls: indices });
            edges.push(Edge { from: distinct, exchange: by_key.clone() });
        }
        dataflow.add(Node::Operator { spec: Arc::new(self.spec(ports)), inputs: edges });
        dataflow
    }

    fn definition(&self, inputs: &[Rows]) -> Rows {
        let mut groups: BTreeMap<Row, Vec<(&Row, i64)>> = BTreeMap::new();
        if self.group_by.is_empty() {
            groups.insert(vec![], vec![]);
        }
        for (row, weight) in &inputs[0] {
            groups.entry(self.group_by.iter().map(|&c| row[c]).collect()).or_default().push((row, *weight));
        }
        let result = |(key, rows): (Row, Vec<(&Row, i64)>)| {
            let results = self.calls.iter().map(|c| result_of(c, &rows));
            (key.into_iter().chain(results).collect::<Row>(), 1)
        };
        groups.into_iter().map(result).collect()
    }
}

fn result_of(call: &AggregateCall, rows: &[(&Row, i64)]) -> Option<i64> {
    let passes = |row: &Row| call.filter.is_none_or(|f| row[f] == Some(1));
    let taken = rows.iter().filter(|(row, _)| passes(row));
    let Some(argument) = call.argument else { return Some(taken.map(|(_, n)| n).sum()) };
    let mut values: Vec<(i64, i64)> = taken.filter_map(|(row, n)| Some((row[argument]?, *n))).collect();
    if call.distinct {
        let distinct: BTreeSet<i64> = values.iter().map(|v| v.0).collect();
        values = distinct.into_iter().map(|v| (v, 1)).collect();
    }
    let all = || values.iter().map(|v| v.0);
    match call.function {
        F::Count => Some(values.iter().map(|v| v.1).sum()),
        F::Sum => all().zip(values.iter().map(|v| v.1)).map(|(v, n)| v * n).reduce(|a, b| a + b),
        F::Min | F::BoolAnd => all().min(),
        F::Max | F::BoolOr => all().max(),
        F::BitAnd => all().reduce(|a, b| a & b),
        F::BitOr => all().reduce(|a, b| a | b),
        F::BitXor => values.iter().map(|(v, n)| if n % 2 == 1 { *v } else { 0 }).reduce(|a, b| a ^ b),
        other => panic!("{other:?} has no definition here"),
    }
}

#[test]
fn aggregates_are_their_definition() {
    for group_by in [vec![G], vec![G, B], vec![], vec![C], vec![C, X]] {
        for append_only in [false, true] {
            for calls in [sums(), [sums(), bests()].concat(), bests(), vec![]] {
                let case = Case { group_by: group_by.clone(), calls, append_only };
                let inputs = [Input::of(schema()).append_only(append_only)];
                let name = format!("{case:?}");
                let spec = case.one_level();
                let alone = |_| property::consolidated(property::operator(&spec));
                property::check(&name, &inputs, alone, |i| case.definition(i));
                let on_workers = |dataflow: Dataflow| {
                    move |seed| property::consolidated(property::dataflow(&dataflow, property::n_workers(seed)))
                };
                let one_level = property::exchanged(spec.clone(), &[(schema(), group_by.clone())]);
                property::check(&name, &inputs, on_workers(one_level), |i| case.definition(i));
                let is_best = |c: &AggregateCall| matches!(c.function, F::Min | F::Max | F::BitAnd | F::BitOr);
                if append_only || !case.calls.iter().any(is_best) {
                    property::check(&name, &inputs, on_workers(case.two_levels()), |i| case.definition(i));
                }
            }
        }
    }
}

/// A group whose sum does not fit is an error for as long as it does not, in one level and in two.
#[test]
fn groups_that_fail_are_errors_while_they_do() {
    let input = schema_of(&[("g", DataType::Int64), ("n", DataType::Decimal128(38, 0))]);
    let calls = vec![call(F::Count, None, false, None), call(F::Sum, Some(1), false, None)];
    for group_by in [vec![0], vec![]] {
        let definition = |inputs: &[Rows]| {
            let mut expected = Expected::default();
            let mut groups = property::groups_of(&inputs[0], &group_by);
            if group_by.is_empty() {
                groups.entry(vec![]).or_default();
            }
            for (key, rows) in groups {
                let sum = rows.iter().filter_map(|r| r[1]).reduce(|a, b| a + b);
                if sum.is_some_and(|sum| sum > 3) {
                    let text = property::row_text(&input, &key);
                    expected.errors.insert(format!("value overflows numeric format: {text}"), 1);
                } else {
                    expected.rows.insert([key, vec![Some(rows.len() as i64), sum]].concat(), 1);
                }
            }
            expected
        };
        let key = group_by.iter().map(|&c: &usize| input.field(c).clone());
        let results = [("c", DataType::Int64), ("s", DataType::Decimal128(38, 0))];
        let fields = key.chain(results.map(|(name, t)| Field::new(name, t, true)));
        let spec = |ports| AggregateSpec {
            input: input.clone(),
            calls: calls.clone(),
            ports,
            n_keys: group_by.len(),
            append_only: false,
            schema: Arc::new(Schema::new(fields.clone().collect::<Vec<_>>())),
        };
        let inputs = [Input::of(input.clone())];
        let one_level = spec(vec![AggregateInput::Rows { group_by: group_by.clone() }]);
        property::check("one level", &inputs, |_| property::operator(&one_level), definition);
        let partial = PartialAggregateSpec {
            input: input.clone(),
            group_by: group_by.clone(),
            calls: calls.clone(),
            append_only: false,
        };
        let mut two_levels = Dataflow::default();
        let from = two_levels.add(property::import(0, &input));
        let edge = |from, exchange| vec![Edge { from, exchange }];
        let rows = edge(from, Exchange::Local);
        let from = two_levels.add(Node::Operator { spec: Arc::new(partial), inputs: rows });
        let states = edge(from, Exchange::Hash((0..group_by.len()).collect()));
        let sums = spec(vec![AggregateInput::States { counts_rows: true, calls: vec![0, 1] }]);
        two_levels.add(Node::Operator { spec: Arc::new(sums), inputs: states });
        let on_workers = |seed| property::dataflow(&two_levels, property::n_workers(seed));
        property::check("two levels", &inputs, on_workers, definition);
    }
}
