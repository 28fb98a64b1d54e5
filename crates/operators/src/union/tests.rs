//! Set operations, built as the planner builds them, against their definition over multisets.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::WindowFrame;
use millstream_expr::window::RowFunction;
use millstream_expr::{MapStage, Scalar, Stages, WindowCall};
use millstream_types::delta::schema_of;

use super::*;
use crate::aggregate::{AggregateInput, AggregateSpec, PartialAggregateSpec};
use crate::dataflow::{Dataflow, Edge, Exchange, Node, NodeId};
use crate::hash_join::{Alone, HashJoinSpec, JoinColumn, JoinInput, Side, Sides};
use crate::map::MapSpec;
use crate::property::{self, Input, Row, Rows};
use crate::window::WindowSpec;

const N_COLUMNS: usize = 2;

fn schema() -> SchemaRef {
    schema_of(&[("a", property::COLLIDING), ("b", DataType::Utf8View)])
}

fn all() -> Vec<usize> {
    (0..N_COLUMNS).collect()
}

fn add(dataflow: &mut Dataflow, spec: impl OperatorSpec + 'static, inputs: Vec<(NodeId, Exchange)>) -> NodeId {
    let inputs = inputs.into_iter().map(|(from, exchange)| Edge { from, exchange }).collect();
    dataflow.add(Node::Operator { spec: Arc::new(spec), inputs })
}

fn imports(dataflow: &mut Dataflow) -> [NodeId; 2] {
    [0, 1].map(|port| dataflow.add(property::import(port, &schema())))
}

fn union(dataflow: &mut Dataflow, inputs: [NodeId; 2]) -> NodeId {
    let inputs = inputs.map(|from| (from, Exchange::Local)).into();
    add(dataflow, UnionSpec { schema: schema() }, inputs)
}

/// Each row once, in two levels.
fn distinct(dataflow: &mut Dataflow, from: NodeId, append_only: bool) -> NodeId {
    let partial = PartialAggregateSpec { input: schema(), group_by: all(), calls: vec![], append_only };
    let partial = add(dataflow, partial, vec![(from, Exchange::Local)]);
    let spec = AggregateSpec {
        input: schema(),
        calls: vec![],
        ports: vec![AggregateInput::States { counts_rows: true, calls: vec![] }],
        n_keys: N_COLUMNS,
        append_only,
        schema: schema(),
    };
    add(dataflow, spec, vec![(partial, Exchange::Hash(all()))])
}

/// Equal rows numbered from 1.
fn numbered(dataflow: &mut Dataflow, from: NodeId, append_only: bool) -> NodeId {
    let function = RowFunction {
        function: row_number_udwf(),
        arguments: vec![],
        partition_by: all(),
        order_by: vec![],
        frame: Arc::new(WindowFrame::new(None)),
        ignore_nulls: false,
        shown_as: "n".to_owned(),
    };
    let call = WindowCall::of_rows(function, &schema()).expect("it can be bound");
    let mut fields = schema().fields().to_vec();
    fields.push(Arc::new(Field::new("n", call.data_type().clone(), true)));
    let spec = WindowSpec {
        input: schema(),
        partition_by: all(),
        order_by: vec![],
        calls: vec![call],
        key: None,
        append_only,
        schema: Arc::new(Schema::new(fields)),
    };
    add(dataflow, spec, vec![(from, Exchange::Hash(all()))])
}

/// Rows of the left side that have an equal one on the right, or have none; nulls are equal.
fn matched(dataflow: &mut Dataflow, [left, right]: [NodeId; 2], alone: Alone) -> NodeId {
    let sides = [left, right].map(|from| dataflow.schema(from));
    let keys: Vec<usize> = (0..sides[0].fields().len()).collect();
    let input = |schema: &SchemaRef| JoinInput {
        schema: schema.clone(),
        keys: keys.clone(),
        append_only: false,
        unique: false,
        shared: None,
    };
    let spec = HashJoinSpec {
        inputs: Sides { left: input(&sides[0]), right: input(&sides[1]) },
        emits_pairs: false,
        alone: Sides { left: alone, right: Alone::Nothing },
        null_equals_null: vec![true; keys.len()],
        residual: None,
        output: keys.iter().map(|&c| JoinColumn::Of(Side::Left, c)).collect(),
        schema: sides[0].clone(),
    };
    add(dataflow, spec, [left, right].map(|from| (from, Exchange::Hash(keys.clone()))).into())
}

/// Without the number.
fn unnumbered(dataflow: &mut Dataflow, from: NodeId) -> NodeId {
    let columns = schema().fields().iter().enumerate().map(|(i, f)| Scalar::column(f.name(), i)).collect();
    let stage = MapStage { predicate: None, projection: Some(columns), schema: schema() };
    add(dataflow, MapSpec { stages: Stages(vec![stage]), schema: schema() }, vec![(from, Exchange::Local)])
}

/// Checks a set operation: `weight` is how often a row is in it, given how often it is in each input.
fn check(name: &str, build: impl Fn(&mut Dataflow, bool), weight: fn(i64, i64) -> i64) {
    let definition = |inputs: &[Rows]| {
        let n = |port: usize, row: &Row| inputs[port].get(row).copied().unwrap_or(0);
        let rows = inputs.iter().flat_map(Rows::keys);
        rows.map(|row| (row.clone(), weight(n(0, row), n(1, row)))).collect::<Rows>()
    };
    for append_only in [false, true] {
        let mut dataflow = Dataflow::default();
        build(&mut dataflow, append_only);
        let inputs = [(); 2].map(|()| Input::of(schema()).append_only(append_only));
        let on_workers = |seed| property::dataflow(&dataflow, property::n_workers(seed));
        property::check(&format!("{name}, append-only {append_only}"), &inputs, on_workers, definition);
    }
}

#[test]
fn unions_are_their_definition() {
    let all = |dataflow: &mut Dataflow, _| {
        let inputs = imports(dataflow);
        union(dataflow, inputs);
    };
    check("UNION ALL", all, |l, r| l + r);
    let once = |dataflow: &mut Dataflow, append_only| {
        let inputs = imports(dataflow);
        let both = union(dataflow, inputs);
        distinct(dataflow, both, append_only);
    };
    check("UNION", once, |l, r| (l + r).min(1));
}

#[test]
fn differences_and_intersections_are_their_definition() {
    for (name, alone, weight) in [
        ("EXCEPT", Alone::Anti, (|l, r| i64::from(l > 0 && r == 0)) as fn(i64, i64) -> i64),
        ("INTERSECT", Alone::Semi, |l, r| l.min(r).min(1)),
    ] {
        let build = |dataflow: &mut Dataflow, append_only| {
            let [left, right] = imports(dataflow);
            let left = distinct(dataflow, left, append_only);
            matched(dataflow, [left, right], alone);
        };
        check(name, build, weight);
    }
}

#[test]
fn differences_and_intersections_of_multisets_are_their_definition() {
    for (name, alone, weight) in [
        ("EXCEPT ALL", Alone::Anti, (|l, r| (l - r).max(0)) as fn(i64, i64) -> i64),
        ("INTERSECT ALL", Alone::Semi, |l, r| l.min(r)),
    ] {
        let build = |dataflow: &mut Dataflow, append_only| {
            let sides = imports(dataflow).map(|from| numbered(dataflow, from, append_only));
            let rows = matched(dataflow, sides, alone);
            unnumbered(dataflow, rows);
        };
        check(name, build, weight);
    }
}
