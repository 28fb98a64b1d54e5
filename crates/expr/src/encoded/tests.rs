//! Constants, schemas and expressions of all kinds come back as they were.

use std::collections::HashMap;

use arrow::array::{Array, Int64Array, RecordBatch};
use arrow::array::{ArrayRef, DictionaryArray, Int32Array, ListArray, MapArray, StringArray, StructArray};
use arrow::compute::CastOptions;
use arrow::datatypes::{DataType, Field, Fields, Int8Type, Int64Type, IntervalUnit, Schema, TimeUnit, i256};
use arrow::util::display::FormatOptions;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::expressions::{
    BinaryExpr, CaseExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NegativeExpr,
    NoOp, NotExpr, TryCastExpr,
};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use millstream_types::ErrorKind;
use millstream_types::delta::schema_of;

use super::*;
use crate::scalar::batch_of;

fn decoder(encoder: Encoder<'_>) -> Decoder<'_> {
    let functions = encoder.functions;
    let bytes = encoder.pool.finish().expect("Arrow can write it");
    Decoder { functions, pool: PoolReader::new(&bytes).expect("it was written") }
}

fn columns() -> SchemaRef {
    schema_of(&[("a", DataType::Int64), ("b", DataType::Boolean), ("t", DataType::Utf8View)])
}

fn column(index: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(columns().field(index).name(), index))
}

fn literal(value: impl Into<ScalarValue>) -> Arc<dyn PhysicalExpr> {
    Arc::new(Literal::new(value.into()))
}

/// The form of an expression as JSON, after it has come back as it was.
fn check(expr: Arc<dyn PhysicalExpr>, functions: &FunctionsByName) -> String {
    let mut encoder = Encoder::new(functions);
    let form = encoder.scalar(&Scalar::new(Arc::clone(&expr))).expect("it has a form");
    let text = serde_json::to_string(&form).expect("it has JSON");
    let form: ScalarForm = serde_json::from_str(&text).expect("it was JSON");
    let decoded = decoder(encoder).scalar(&form, &columns()).expect("it was encoded");
    assert_eq!(decoded.inner(), &expr, "{expr:?}");
    assert_eq!(decoded.to_string(), expr.to_string());
    text
}

fn plain(expr: impl PhysicalExpr) -> String {
    check(Arc::new(expr), &FunctionsByName::default())
}

fn numbers() -> DataType {
    DataType::List(Arc::new(Field::new("number", DataType::Int64, false)))
}

fn values() -> Vec<ScalarValue> {
    use ScalarValue as V;
    let list: ListArray = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None])]);
    let item = Arc::new(Field::new("number", DataType::Int64, false));
    let offsets = arrow::buffer::OffsetBuffer::from_lengths([2]);
    let numbers = ListArray::new(item, offsets, Arc::new(Int64Array::from(vec![3, 4])), None);
    let pair: Fields = vec![Field::new("x", DataType::Int32, false), Field::new("x", DataType::Utf8, true)].into();
    let members: Vec<ArrayRef> =
        vec![Arc::new(Int32Array::from(vec![1])), Arc::new(StringArray::from(vec![None::<&str>]))];
    let mut values = vec![
        V::Null,
        V::Boolean(Some(true)),
        V::Int16(Some(-1)),
        V::Int32(Some(i32::MIN)),
        V::Int64(Some(i64::MAX)),
        V::UInt32(Some(u32::MAX)),
        V::UInt64(None),
        V::Float32(Some(f32::MIN_POSITIVE)),
        V::Float64(Some(-0.0)),
        V::Float64(Some(f64::INFINITY)),
        V::Float64(Some(f64::from_bits(0x7ff8_0000_0000_beef))),
        V::Decimal128(Some(-12345), 10, 2),
        V::Decimal128(Some(10i128.pow(38) - 1), 38, 16),
        V::Decimal128(None, 5, -3),
        V::Decimal256(Some(i256::MAX), 76, 10),
        V::Utf8(Some("text".into())),
        V::Utf8View(Some(String::new())),
        V::Utf8View(Some("a text that is not in the view itself, ünïcödé".into())),
        V::LargeUtf8(Some("x".into())),
        V::Binary(Some(vec![0, 255])),
        V::BinaryView(Some((0..40).collect())),
        V::FixedSizeBinary(3, Some(vec![1, 2, 3])),
        V::Date32(Some(i32::MAX)),
        V::Time64Microsecond(Some(86_400_000_000)),
        V::TimestampMicrosecond(Some(i64::MIN), None),
        V::TimestampMicrosecond(Some(1), Some("UTC".into())),
        V::TimestampNanosecond(Some(1), Some("Europe/Berlin".into())),
        V::DurationMicrosecond(Some(-3)),
        V::new_interval_mdn(1, -2, 3),
        V::new_interval_ym(1, 1),
        V::new_interval_dt(1, 1),
        V::List(Arc::new(list)),
        V::List(Arc::new(numbers)),
        V::List(Arc::new(ListArray::new_null(Arc::new(Field::new_list_field(DataType::Utf8View, true)), 1))),
        V::Struct(Arc::new(StructArray::new(pair, members, None))),
        V::Dictionary(Box::new(DataType::Int8), Box::new(V::Utf8(Some("again".into())))),
    ];
    // A second value of a type lies beside the first.
    values.extend([V::Int64(None), V::Int64(Some(7)), V::Utf8View(None), V::new_interval_mdn(0, 0, 0)]);
    values
}

#[test]
fn constants_of_all_types_come_back() {
    let functions = FunctionsByName::default();
    let mut encoder = Encoder::new(&functions);
    let values = values();
    let places: Vec<Place> = values.iter().map(|v| encoder.pool.value(v).expect("it can be kept")).collect();
    let decoder = decoder(encoder);
    for (value, place) in values.iter().zip(places) {
        let decoded = decoder.value(place).expect("it was encoded");
        assert_eq!(decoded.data_type(), value.data_type());
        assert_eq!(decoded, *value);
        // Equality does not tell all bits of numbers.
        if let (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b))) = (&decoded, value) {
            assert_eq!(a.to_bits(), b.to_bits());
        }
    }
}

#[test]
fn schemas_come_back_with_all_that_lies_within() {
    let metadata = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let shown = Field::new("n", DataType::Int64, true).with_metadata(metadata(&[("b", ""), ("a", "1"), ("c", "ü")]));
    let entries = DataType::Struct(
        vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Int64, true)].into(),
    );
    let fields = vec![
        shown.clone(),
        Field::new("n", DataType::Decimal128(38, 16), false),
        Field::new("", DataType::Null, true),
        Field::new("z", DataType::Timestamp(TimeUnit::Microsecond, Some("+02:00".into())), true),
        Field::new("i", DataType::Interval(IntervalUnit::MonthDayNano), true),
        Field::new("l", DataType::List(Arc::new(shown.clone())), true),
        Field::new("s", DataType::Struct(vec![shown, Field::new("l", numbers(), false)].into()), false),
        Field::new("v", DataType::Utf8View, true),
        Field::new("bv", DataType::BinaryView, true),
        Field::new("d", DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)), true),
        Field::new("m", DataType::Map(Arc::new(Field::new("entries", entries, false)), false), true),
        Field::new("f", DataType::FixedSizeList(Arc::new(Field::new("x", DataType::Date32, true)), 2), true),
        Field::new("e", DataType::Struct(Fields::empty()), true),
    ];
    let schemas: Vec<SchemaRef> = vec![
        Arc::new(Schema::new(fields.clone())),
        Arc::new(Schema::new_with_metadata(fields, metadata(&[("of", "all")]))),
        Arc::new(Schema::empty()),
        columns(),
    ];
    let functions = FunctionsByName::default();
    let mut encoder = Encoder::new(&functions);
    let numbers: Vec<FieldNumber> = schemas.iter().map(|s| encoder.schema(s)).collect();
    assert_eq!(encoder.schema(&columns()), numbers[3], "each is kept once");
    let decoder = decoder(encoder);
    for (schema, number) in schemas.iter().zip(numbers) {
        assert_eq!(decoder.schema(number).expect("it was encoded"), *schema);
    }
}

#[test]
fn rows_come_back() {
    let list: ArrayRef =
        Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1)]), None, Some(vec![])]));
    let dictionary: DictionaryArray<Int8Type> = [Some("a"), None, Some("a")].into_iter().collect();
    let mut map =
        arrow::array::MapBuilder::new(None, arrow::array::StringBuilder::new(), arrow::array::Int64Builder::new());
    map.keys().append_value("k");
    map.values().append_value(1);
    [true, false, true].into_iter().for_each(|valid| map.append(valid).expect("keys and values"));
    let map: MapArray = map.finish();
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])), list, Arc::new(dictionary), Arc::new(map)];
    let fields: Vec<Field> = columns.iter().map(|c| Field::new("c", c.data_type().clone(), true)).collect();
    let all = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of the schema");
    let none = batch_of(Arc::new(Schema::empty()), vec![], 2).expect("rows without columns");
    let functions = FunctionsByName::default();
    let mut encoder = Encoder::new(&functions);
    let batches = [all.clone(), all.slice(1, 2), all.slice(0, 0), none];
    let forms: Vec<RowsForm> = batches.iter().map(|batch| encoder.pool.rows(batch)).collect();
    let decoder = decoder(encoder);
    for (batch, form) in batches.iter().zip(forms) {
        let decoded = decoder.rows(&form).expect("it was encoded");
        assert_eq!(decoded, *batch);
        assert_eq!(decoded.num_rows(), batch.num_rows());
    }
}

#[test]
fn expressions_of_all_kinds_come_back() {
    let comparison = BinaryExpr::new(column(0), Operator::IsNotDistinctFrom, literal(1i64));
    let form = plain(comparison);
    assert_eq!(
        form,
        r#"[{"column":{"name":"a","index":0}},{"literal":{"value":[0,0]}},{"binary":{"op":"IsNotDistinctFrom","left":0,"right":1}}]"#
    );
    let checked = BinaryExpr::new(column(0), Operator::Plus, column(0)).with_fail_on_overflow(true);
    assert!(plain(checked).contains(r#""fail_on_overflow":true"#));
    plain(IsNullExpr::new(column(0)));
    plain(IsNotNullExpr::new(column(0)));
    plain(NotExpr::new(column(1)));
    plain(NegativeExpr::new(column(0)));
    for (negated, case_insensitive) in [(false, false), (true, false), (false, true), (true, true)] {
        let pattern = literal(ScalarValue::Utf8View(Some("a%".into())));
        plain(LikeExpr::new(negated, case_insensitive, column(2), pattern));
    }
    for list in [vec![literal(1i64), literal(2i64)], vec![literal(1i64), column(0)], vec![]] {
        for negated in [false, true] {
            plain(InListExpr::try_new(column(0), list.clone(), negated, &columns()).expect("bigints"));
        }
    }
    let pairs = || vec![(literal(1i64), column(0)), (literal(2i64), column(0))];
    let conditions = || vec![(column(1), column(0)), (Arc::new(NotExpr::new(column(1))) as _, literal(3i64))];
    for otherwise in [None, Some(column(0))] {
        plain(CaseExpr::try_new(Some(column(0)), pairs(), otherwise.clone()).expect("a case"));
        plain(CaseExpr::try_new(None, conditions(), otherwise).expect("a case"));
    }
    let metadata = [("of".to_owned(), "a constant".to_owned())].into_iter().collect::<HashMap<_, _>>();
    plain(Literal::new_with_metadata(ScalarValue::Int64(None), Some(metadata.into())));
}

/// A plan that has been written says these words, whatever the code calls them.
#[test]
fn nodes_are_written_as_they_were_by_the_first_release() {
    let a = || r#"{"column":{"name":"a","index":0}}"#;
    let t = || r#"{"column":{"name":"t","index":2}}"#;
    let seven = || r#"{"literal":{"value":[0,0]}}"#;
    let not_in = InListExpr::try_new(column(0), vec![literal(7i64)], true, &columns()).expect("bigints");
    let of = CaseExpr::try_new(Some(column(0)), vec![(literal(7i64), column(0))], Some(column(0))).expect("a case");
    let field = Arc::new(Field::new("x", DataType::Int32, false));
    let pattern = literal(ScalarValue::Utf8View(Some("a%".into())));
    let metadata: HashMap<_, _> = [("k".to_owned(), "v".to_owned())].into();
    let noted = Literal::new_with_metadata(ScalarValue::Int64(Some(7)), Some(metadata.into()));
    let checked = BinaryExpr::new(column(0), Operator::Plus, column(0)).with_fail_on_overflow(true);
    let cases: [(String, String); 12] = [
        (plain(IsNullExpr::new(column(0))), format!(r#"[{},{{"is_null":0}}]"#, a())),
        (plain(IsNotNullExpr::new(column(0))), format!(r#"[{},{{"is_not_null":0}}]"#, a())),
        (plain(NotExpr::new(column(0))), format!(r#"[{},{{"not":0}}]"#, a())),
        (plain(NegativeExpr::new(column(0))), format!(r#"[{},{{"negative":0}}]"#, a())),
        (
            plain(LikeExpr::new(true, true, column(2), pattern)),
            format!(
                r#"[{},{},{{"like":{{"arg":0,"pattern":1,"negated":true,"case_insensitive":true}}}}]"#,
                t(),
                seven()
            ),
        ),
        (plain(not_in), format!(r#"[{},{},{{"in_list":{{"arg":0,"list":[1],"negated":true}}}}]"#, a(), seven())),
        (
            plain(of),
            format!(r#"[{},{},{},{},{{"case":{{"of":0,"when_then":[[1,2]],"otherwise":3}}}}]"#, a(), seven(), a(), a()),
        ),
        (
            plain(CastExpr::new(column(0), DataType::Int32, None)),
            format!(r#"[{},{{"cast":{{"arg":0,"to":{{"type":0}}}}}}]"#, a()),
        ),
        (
            plain(CastExpr::new_with_target_field(column(0), field, None)),
            format!(r#"[{},{{"cast":{{"arg":0,"to":{{"field":0}}}}}}]"#, a()),
        ),
        (
            plain(TryCastExpr::new(column(0), DataType::Int32)),
            format!(r#"[{},{{"try_cast":{{"arg":0,"to":{{"type":0}}}}}}]"#, a()),
        ),
        (plain(noted), r#"[{"literal":{"value":[0,0],"metadata":{"k":"v"}}}]"#.to_owned()),
        (
            plain(checked),
            format!(r#"[{},{},{{"binary":{{"op":"Plus","left":0,"right":1,"fail_on_overflow":true}}}}]"#, a(), a()),
        ),
    ];
    for (form, wanted) in cases {
        assert_eq!(form, wanted);
    }
}

#[test]
fn aggregates_of_ours_are_written_by_their_names() {
    use crate::AggregateFunction as F;
    for function in [
        F::Count,
        F::Sum,
        F::Avg,
        F::Min,
        F::Max,
        F::BoolAnd,
        F::BoolOr,
        F::BitAnd,
        F::BitOr,
        F::BitXor,
        F::VarPop,
        F::VarSamp,
        F::StddevPop,
        F::StddevSamp,
    ] {
        assert_eq!(json(&function).expect("it has JSON"), function.name());
    }
}

#[test]
fn casts_come_back_with_their_options() {
    let safe =
        CastOptions { safe: true, format_options: datafusion::common::format::DEFAULT_CAST_OPTIONS.format_options };
    plain(CastExpr::new(column(0), DataType::Decimal128(12, 3), None));
    assert!(plain(CastExpr::new(column(0), numbers(), Some(safe.clone()))).contains(r#""safe":true"#));
    let metadata = [("of".to_owned(), "a field".to_owned())].into_iter().collect();
    let field = Arc::new(Field::new("x", DataType::Int32, false).with_metadata(metadata));
    plain(CastExpr::new_with_target_field(column(0), Arc::clone(&field), Some(safe)));
    plain(TryCastExpr::new(column(0), DataType::Utf8View));
    plain(TryCastExpr::new_with_target_field(column(0), field));

    let shown = CastOptions { safe: false, format_options: FormatOptions::default().with_null("nothing") };
    let functions = FunctionsByName::default();
    let cast = Scalar::new(Arc::new(CastExpr::new(column(0), DataType::Utf8View, Some(shown))));
    let error = Encoder::new(&functions).scalar(&cast).expect_err("it would be lost");
    assert_eq!(error.message(), "CAST(a@0 AS Utf8View) formats in a way that is not kept in plans");
}

#[test]
fn calls_come_back_with_their_functions() {
    let all = SessionStateDefaults::default_scalar_functions();
    let functions = all.into_iter().fold(FunctionsByName::default(), FunctionsByName::with_scalar);
    let call = |name: &str, args: Vec<Arc<dyn PhysicalExpr>>| {
        let function = functions.scalar(&name.into()).expect("one of DataFusion's");
        let options = Arc::clone(functions.options());
        ScalarFunctionExpr::try_new(function, args, &columns(), options).expect("arguments that it takes")
    };
    let part = literal(ScalarValue::Utf8View(Some("year".into())));
    let time = literal(ScalarValue::TimestampMicrosecond(Some(1), Some("UTC".into())));
    check(Arc::new(call("date_part", vec![part, time])), &functions);
    check(Arc::new(call("concat", vec![column(2), literal("x"), column(2)])), &functions);
    check(Arc::new(call("abs", vec![column(0)]).with_nullable(false)), &functions);

    let elsewhere =
        Encoder::new(&FunctionsByName::default()).scalar(&Scalar::new(Arc::new(call("abs", vec![column(0)]))));
    assert_eq!(elsewhere.expect_err("other options").kind(), ErrorKind::Internal);
}

#[test]
fn a_kind_without_a_form_is_named() {
    let functions = FunctionsByName::default();
    let error = Encoder::new(&functions).scalar(&Scalar::new(Arc::new(NotExpr::new(Arc::new(NoOp::new())))));
    let error = error.expect_err("it has no form");
    assert_eq!(error.message(), "an expression of the kind NoOp has no form that is kept in plans");
    assert_eq!(error.kind(), ErrorKind::Internal);
}

/// Deeper than JSON may nest.
#[test]
fn deep_expressions_come_back() {
    let functions = FunctionsByName::default();
    let sum = |left, _| -> Arc<dyn PhysicalExpr> { Arc::new(BinaryExpr::new(left, Operator::Plus, literal(1i64))) };
    let deep = Scalar::new((0..300).fold(column(0), sum));
    let mut encoder = Encoder::new(&functions);
    let form = encoder.scalar(&deep).expect("it has a form");
    let text = serde_json::to_string(&form).expect("it has JSON");
    let form: ScalarForm = serde_json::from_str(&text).expect("it does not nest");
    let decoded = decoder(encoder).scalar(&form, &columns()).expect("it was encoded");
    let rows = RecordBatch::new_empty(columns());
    assert!(matches!(decoded.inner().evaluate(&rows), Ok(ColumnarValue::Array(_))));
    assert_eq!(decoded.inner(), deep.inner());
}

#[test]
fn forms_that_make_no_sense_are_errors() {
    let functions = FunctionsByName::default();
    for (text, message) in [
        ("[]", "an expression without nodes"),
        (r#"[{"not":0}]"#, "node 0 over node 0"),
        (r#"[{"column":{"name":"a","index":3}}]"#, "column 3 of 3"),
        (r#"[{"literal":{"value":[1,0]}}]"#, "field 1 of 1"),
        (r#"[{"literal":{"value":[0,1]}}]"#, "constants 1 to 1 + 1 of 1"),
        (r#"[{"column":{"name":"b","index":1}},{"in_list":{"arg":0,"list":[0,9]}}]"#, "node 1 over node 9"),
    ] {
        let mut encoder = Encoder::new(&functions);
        encoder.pool.value(&ScalarValue::Int64(Some(1))).expect("it can be kept");
        let form: ScalarForm = serde_json::from_str(text).expect("a form");
        let error = decoder(encoder).scalar(&form, &columns()).expect_err("it makes no sense");
        assert_eq!(error.message(), format!("a stored plan makes no sense: {message}"));
    }
    assert_eq!(PoolReader::new(b"no stream").map(|_| ()).expect_err("no stream").kind(), ErrorKind::Internal);
}
