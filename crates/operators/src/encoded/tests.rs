//! Plans that come back, plans that do not, and a plan that an earlier release has written.

use std::sync::LazyLock;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::{Operator as Op, ScalarUDF, WindowFrame, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use millstream_expr::encoded::FunctionsByName;
use millstream_expr::recomputed::{Argument, ForeignFunction};
use millstream_expr::window::{Frame, RowFunction};
use millstream_expr::{AggregateCall, AggregateFunction, OrderBy, RecomputedCall, WindowCall};
use millstream_expr::{MapStage, Scalar, Stages};
use millstream_types::ErrorKind;
use millstream_types::delta::schema_of;

use super::*;
use crate::aggregate::AggregateInput;
use crate::dataflow::Exchange;
use crate::flat_map::{FlatColumn, Keeps};
use crate::hash_join::{Alone, JoinColumn, JoinInput, Residual, SharedInput, Side, Sides};
use crate::property;

/// DataFusion's functions.
fn functions() -> &'static FunctionsByName {
    static ALL: LazyLock<FunctionsByName> = LazyLock::new(|| {
        let all = FunctionsByName::default();
        let all = SessionStateDefaults::default_scalar_functions().into_iter().fold(all, FunctionsByName::with_scalar);
        let aggregates = SessionStateDefaults::default_aggregate_functions();
        let all = aggregates.into_iter().fold(all, FunctionsByName::with_aggregate);
        SessionStateDefaults::default_window_functions().into_iter().fold(all, FunctionsByName::with_window)
    });
    &ALL
}

fn result_of(dataflow: &Dataflow) -> MaterializeSpec {
    MaterializeSpec {
        schema: dataflow.schema(dataflow.root()),
        key: Some(vec![0]),
        partitioned_by: None,
        append_only: false,
        consolidated: true,
        indexes: vec![vec![], vec![0]],
    }
}

/// The dataflow that comes back of a stored one, which is the same.
pub(crate) fn stored(dataflow: &Dataflow) -> Dataflow {
    let result = result_of(dataflow);
    let bytes = encode(dataflow, &result, functions()).expect("it has a form");
    let (decoded, decoded_result) = decode(&bytes, functions()).expect("it was encoded");
    assert_eq!(decoded.explain(), dataflow.explain());
    assert_eq!(format!("{decoded_result:?}"), format!("{result:?}"));
    assert_eq!(encode(&decoded, &decoded_result, functions()).expect("it has a form"), bytes);
    decoded
}

fn rows() -> SchemaRef {
    schema_of(&[("k", DataType::Int64), ("t", DataType::Utf8View)])
}

fn column(name: &str, index: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(name, index))
}

fn with(schema: &SchemaRef, name: &str, data_type: &DataType) -> SchemaRef {
    let mut fields = schema.fields().to_vec();
    fields.push(Arc::new(Field::new(name, data_type.clone(), true)));
    Arc::new(Schema::new(fields))
}

/// A plan under construction.
struct Plan(Dataflow);

impl Plan {
    fn add(&mut self, spec: impl OperatorSpec + 'static, inputs: &[(NodeId, Exchange)]) -> NodeId {
        let edge = |(from, exchange): &(NodeId, Exchange)| Edge { from: *from, exchange: exchange.clone() };
        self.0.add(Node::Operator { spec: Arc::new(spec), inputs: inputs.iter().map(edge).collect() })
    }

    /// `WHERE k > 0`, and then `abs(k)`.
    fn map(&mut self, from: NodeId) -> NodeId {
        let zero: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(ScalarValue::Int64(Some(0))));
        let positive = BinaryExpr::new(column("k", 0), Op::Gt, zero);
        let abs: Arc<ScalarUDF> = functions().scalar(&"abs".into()).expect("one of DataFusion's");
        let options = Arc::clone(functions().options());
        let abs = ScalarFunctionExpr::try_new(abs, vec![column("k", 0)], &rows(), options).expect("over bigint");
        let stages = vec![
            MapStage { predicate: Some(Scalar::new(Arc::new(positive))), projection: None, schema: rows() },
            MapStage {
                predicate: None,
                projection: Some(vec![Scalar::new(Arc::new(abs)), Scalar::column("t", 1)]),
                schema: rows(),
            },
        ];
        self.add(MapSpec { stages: Stages(stages), schema: rows() }, &[(from, Exchange::Local)])
    }

    fn constant(&mut self) -> NodeId {
        let columns: [ArrayRef; 2] = [
            Arc::new(Int64Array::from(vec![Some(1), None])),
            Arc::new(StringViewArray::from(vec![Some("a text that is longer"), Some("b")])),
        ];
        let rows = RecordBatch::try_new(rows(), columns.into()).expect("columns of the schema");
        self.add(ConstantSpec { rows }, &[])
    }

    /// `count(DISTINCT t)` and `min(k)` by `k`.
    fn aggregates(&mut self, from: NodeId) -> NodeId {
        let call = |function, argument, distinct| AggregateCall { function, argument, distinct, filter: None };
        let minimum = call(AggregateFunction::Min, Some(0), false);
        let distinct = call(AggregateFunction::Count, Some(1), true);
        let (input, group_by, append_only) = (rows(), vec![0], true);
        let values = DistinctPartialSpec {
            input: input.clone(),
            group_by: group_by.clone(),
            calls: vec![distinct.clone()],
            append_only,
        };
        let partial =
            PartialAggregateSpec { input: input.clone(), group_by, calls: vec![minimum.clone()], append_only };
        let partial = self.add(partial, &[(from, Exchange::Local)]);
        let reduced = self.add(DistinctReduceSpec(values.clone()), &[(from, Exchange::Local)]);
        let values = self.add(values, &[(reduced, Exchange::Hash(vec![0, 1]))]);
        let schema = schema_of(&[("k", DataType::Int64), ("n", DataType::Int64), ("least", DataType::Int64)]);
        let ports = vec![
            AggregateInput::States { counts_rows: true, calls: vec![1] },
            AggregateInput::States { counts_rows: false, calls: vec![0] },
        ];
        let spec = AggregateSpec { input, calls: vec![distinct, minimum], ports, n_keys: 1, append_only, schema };
        self.add(spec, &[(partial, Exchange::Hash(vec![0])), (values, Exchange::Hash(vec![0]))])
    }

    /// `string_agg(t, ', ' ORDER BY k DESC)`, and then the elements of an array.
    fn recompute(&mut self, from: NodeId) -> NodeId {
        let function = |name: &str| functions().aggregate(&name.into()).expect("one of DataFusion's");
        let separator = Argument::Constant(ScalarValue::from(", "));
        let by_k = || vec![OrderBy { column: 0, descending: true, nulls_first: true }];
        let foreign = |name, arguments| ForeignFunction {
            function: function(name),
            arguments,
            within_group: vec![],
            ignore_nulls: false,
        };
        let texts = foreign("string_agg", vec![Argument::Column(1), separator]);
        let numbers = foreign("array_agg", vec![Argument::Column(0)]);
        let input = rows();
        let calls = vec![
            RecomputedCall::foreign(&texts, by_k(), false, None, &input).expect("over text"),
            RecomputedCall::foreign(&numbers, vec![], true, None, &input).expect("over bigint"),
        ];
        let schema = with(&with(&rows(), "x", calls[0].data_type()), "y", calls[1].data_type());
        let schema = Arc::new(schema.project(&[0, 2, 3]).expect("columns"));
        let spec = RecomputeSpec { input, group_by: vec![0], calls, append_only: false, schema };
        let node = self.add(spec, &[(from, Exchange::Hash(vec![0]))]);
        let columns = vec![FlatColumn::Elements(2), FlatColumn::Kept(1)];
        self.add(FlatMapSpec { columns, keeps: Keeps::Nulls, schema: rows() }, &[(node, Exchange::Local)])
    }

    /// `lag(t, 2)`, a sum over a frame of a range, and `array_agg` over one of rows.
    fn window(&mut self, from: NodeId) -> NodeId {
        let input = rows();
        let by_k = || vec![OrderBy::ascending(0)];
        let bound = |n: i64| ScalarValue::Int64(Some(n));
        let range = WindowFrame::new_bounds(
            WindowFrameUnits::Range,
            WindowFrameBound::Preceding(bound(5)),
            WindowFrameBound::CurrentRow,
        );
        let to_the_end = WindowFrame::new_bounds(
            WindowFrameUnits::Rows,
            WindowFrameBound::Following(ScalarValue::UInt64(Some(1))),
            WindowFrameBound::Following(ScalarValue::UInt64(None)),
        );
        let frame = |frame: &WindowFrame| Frame { frame: Arc::new(frame.clone()), order_by: by_k(), filter: None };
        let lag = RowFunction {
            function: functions().window(&"lag".into()).expect("one of DataFusion's"),
            arguments: vec![Argument::Column(1), Argument::Constant(bound(2))],
            partition_by: vec![1],
            order_by: by_k(),
            frame: Arc::new(WindowFrame::new(Some(false))),
            ignore_nulls: true,
            shown_as: "lag(t, 2)".to_owned(),
        };
        let array = ForeignFunction {
            function: functions().aggregate(&"array_agg".into()).expect("one of DataFusion's"),
            arguments: vec![Argument::Column(1)],
            within_group: vec![],
            ignore_nulls: false,
        };
        let calls = vec![
            WindowCall::of_rows(lag, &input).expect("over text"),
            WindowCall::aggregate(AggregateFunction::Sum, Some(0), frame(&range), &input).expect("over bigint"),
            WindowCall::foreign(&array, frame(&to_the_end), &input).expect("over text"),
        ];
        let schema = calls.iter().fold(rows(), |schema, call| with(&schema, "w", call.data_type()));
        let spec = WindowSpec {
            input,
            partition_by: vec![1],
            order_by: by_k(),
            calls,
            key: Some(vec![0]),
            append_only: false,
            schema,
        };
        let node = self.add(spec, &[(from, Exchange::Hash(vec![1]))]);
        let kept = [0, 1].map(|c| Scalar::column(rows().field(c).name(), c)).into();
        let stage = MapStage { predicate: None, projection: Some(kept), schema: rows() };
        self.add(MapSpec { stages: Stages(vec![stage]), schema: rows() }, &[(node, Exchange::Local)])
    }

    /// `left LEFT JOIN right ON left.k = right.k AND left.t <> right.t`, where a relation keeps the right side.
    fn join(&mut self, left: NodeId, right: NodeId) -> NodeId {
        let relation = RelationId(8);
        let shared = Some(SharedInput { relation, keys: vec![0], columns: vec![0, 1] });
        let side = |shared| JoinInput { schema: rows(), keys: vec![0], append_only: false, unique: true, shared };
        let columns = vec![JoinColumn::Of(Side::Left, 1), JoinColumn::Of(Side::Right, 1)];
        let schema = schema_of(&[("t", DataType::Utf8View), ("t2", DataType::Utf8View)]);
        let unequal = BinaryExpr::new(column("t", 0), Op::NotEq, column("t2", 1));
        let condition = Scalar::new(Arc::new(unequal));
        let spec = HashJoinSpec {
            inputs: Sides { left: side(None), right: side(shared) },
            emits_pairs: true,
            alone: Sides { left: Alone::NullExtended, right: Alone::Nothing },
            null_equals_null: vec![false],
            residual: Some(Residual { columns, schema, condition }),
            output: vec![JoinColumn::Of(Side::Left, 0), JoinColumn::Of(Side::Right, 1)],
            schema: rows(),
        };
        self.add(spec, &[(left, Exchange::Hash(vec![0])), (right, Exchange::Partitioned(vec![0]))])
    }
}

/// A plan with all operators.
fn everything() -> Dataflow {
    let mut plan = Plan(Dataflow::default());
    let left = plan.0.add(property::import(7, &rows()));
    let relation = RelationId(8);
    let right =
        Node::Import { relation, name: "right".into(), projection: vec![3, 1], schema: rows(), changes_only: true };
    let right = plan.0.add(right);
    let joined = plan.join(left, right);
    let constant = plan.constant();
    let mapped = plan.map(joined);
    let union = plan.add(UnionSpec { schema: rows() }, &[(mapped, Exchange::Local), (constant, Exchange::Local)]);
    let windowed = plan.window(union);
    let recomputed = plan.recompute(windowed);
    let first = TopNSpec {
        input: rows(),
        partition_by: vec![],
        order_by: vec![OrderBy { column: 1, descending: true, nulls_first: false }],
        offset: 2,
        limit: Some(10),
        with_row_number: false,
        append_only: false,
        schema: rows(),
    };
    let first = plan.add(first, &[(recomputed, Exchange::Hash(vec![]))]);
    let root = plan.aggregates(first);
    plan.0.facts.insert(left, NodeFacts { append_only: true, key: Some(vec![]) });
    plan.0.facts.insert(root, NodeFacts { append_only: false, key: Some(vec![0]) });
    plan.0
}

fn bytes() -> Vec<u8> {
    let dataflow = everything();
    encode(&dataflow, &result_of(&dataflow), functions()).expect("it has a form")
}

/// The plan with a part of its JSON replaced.
fn with_replaced(from: &str, to: &str) -> Vec<u8> {
    let bytes = bytes();
    let (form, pool) = split(&bytes).expect("a plan");
    let form = std::str::from_utf8(form).expect("JSON is UTF-8");
    assert!(form.contains(from), "{form}");
    let form = form.replacen(from, to, 1);
    let len = u32::try_from(form.len()).expect("a short plan");
    [&bytes[..HEADER_BYTES - 4], &len.to_le_bytes(), form.as_bytes(), pool].concat()
}

fn error_of(bytes: &[u8]) -> Error {
    decode(bytes, functions()).map(|_| ()).expect_err("it makes no sense")
}

#[test]
fn a_plan_with_all_operators_comes_back() {
    let dataflow = everything();
    let operators = dataflow.nodes.iter().filter_map(|node| match node {
        Node::Operator { spec, .. } => Some(spec.name()),
        Node::Import { .. } => None,
    });
    let all: std::collections::BTreeSet<&str> = operators.collect();
    assert_eq!(all.len(), OPERATORS.len(), "{all:?}");
    stored(&dataflow);
}

/// What the first release wrote is read, and means what it meant. The file is never written anew: a later version has one of
/// its own beside it.
#[test]
fn a_plan_of_the_first_release_is_read() {
    let old = include_bytes!("version_1.plan");
    let (dataflow, result) = decode(old, functions()).expect("a release reads what earlier ones wrote");
    assert_eq!(dataflow.explain(), everything().explain());
    assert_eq!(format!("{result:?}"), format!("{:?}", result_of(&everything())));
    let now = bytes();
    let json = |bytes| String::from_utf8_lossy(split(bytes).expect("a plan").0).into_owned();
    assert_eq!(json(&now), json(old), "another form is another version, or a field with a default");
}

/// As the fixture, for words that do not stand in it.
#[test]
fn words_are_those_of_the_first_release() {
    let words = |forms: &[Value]| forms.iter().map(Value::to_string).collect::<Vec<_>>().join(" ");
    let of = |form: &dyn Fn() -> Result<Value>| form().expect("it has JSON");
    let alone = [Alone::Nothing, Alone::NullExtended, Alone::Semi, Alone::Anti, Alone::NullAwareAnti, Alone::Mark];
    let alone = alone.map(|a| of(&|| json(&a)));
    assert_eq!(words(&alone), r#""nothing" "null_extended" "semi" "anti" "null_aware_anti" "mark""#);
    let keeps = [Keeps::None, Keeps::Nulls, Keeps::All].map(|k| of(&|| json(&k)));
    assert_eq!(words(&keeps), r#""none" "nulls" "all""#);
    let columns = [JoinColumn::Of(Side::Right, 2), JoinColumn::Mark].map(|c| of(&|| json(&c)));
    assert_eq!(words(&columns), r#"{"of":["right",2]} "mark""#);
    let rows = of(&|| json(&AggregateInput::Rows { group_by: vec![1] }));
    assert_eq!(words(&[rows]), r#"{"rows":{"group_by":[1]}}"#);
}

#[test]
fn another_version_is_an_error_that_says_so() {
    let mut bytes = bytes();
    bytes[MAGIC.len()] = 9;
    let error = error_of(&bytes);
    assert_eq!(error.kind(), ErrorKind::NotSupported);
    assert_eq!(error.message(), "a stored plan is of version 9, and this release knows 1");
}

#[test]
fn what_is_cut_off_is_no_plan() {
    let bytes = bytes();
    // The last eight bytes are the end of the stream, which nobody needs.
    for len in 0..bytes.len() - 8 {
        assert_eq!(error_of(&bytes[..len]).kind(), ErrorKind::Internal, "{len} of {}", bytes.len());
    }
    assert_eq!(error_of(b"something else altogether").kind(), ErrorKind::Internal);
}

#[test]
fn what_a_release_does_not_have_is_not_guessed() {
    for (from, to, message) in [
        (r#""kind":"top_n""#, r#""kind":"top_m""#, r#"operator "top_m" of a stored plan is not known"#),
        (r#""function":"abs""#, r#""function":"abz""#, r#"function "abz" is not known"#),
        (r#""function":"lag""#, r#""function":"lug""#, r#"function "lug" is not known"#),
        (r#""op":"Gt""#, r#""op":"Gx""#, "operator Gx of a stored plan is not known"),
    ] {
        let error = error_of(&with_replaced(from, to));
        assert_eq!(error.kind(), ErrorKind::NotSupported, "{error}");
        assert_eq!(error.message(), message);
    }
}

#[test]
fn what_makes_no_sense_is_an_internal_error() {
    for (from, to) in [
        (r#""index":0"#, r#""index":77"#),
        (r#""from":0"#, r#""from":77"#),
        (r#""group_by":[0],"input"#, r#""group_by":[77],"input"#),
        (r#""partition_by":[1],"schema"#, r#""partition_by":[77],"schema"#),
        (r#""keys":[0]"#, r#""keys":[77]"#),
        (r#""argument":1"#, r#""argument":77"#),
        (r#""hash":[0]"#, r#""hash":[77]"#),
        (r#""key":[0]}}"#, r#""key":[77]}}"#),
        (r#""schema":0"#, r#""schema":77"#),
        (r#""stages""#, r#""stages_of""#),
        (r#""top_n""#, r#""map""#),
        (r#""facts":{"0""#, r#""facts":{"77""#),
        (r#""constant":["#, r#""constant":[77,"#),
    ] {
        assert_eq!(error_of(&with_replaced(from, to)).kind(), ErrorKind::Internal, "{to}");
    }
}

/// A field that a later release adds, and that may be left out, is left out.
#[test]
fn more_fields_are_left_out() {
    let more = with_replaced(r#""offset":2"#, r#""offset":2,"hint":"of a later release""#);
    let (dataflow, result) = decode(&more, functions()).expect("it is read");
    assert_eq!(encode(&dataflow, &result, functions()).expect("it has a form"), bytes());
}
