//! What is known of blocks: bounds of each column's values, in SQL's order, and how many are null.
//!
//! A block is a row of the batch that objects have: of each column `min` and `max`, if its type has an order that is
//! known here, and `nulls`.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryViewArray, BooleanArray, PrimitiveArray, RecordBatch,
    RecordBatchOptions, StringViewArray, UInt64Array, new_null_array,
};
use arrow::compute;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Schema,
    SchemaRef, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, UInt32Type, UInt64Type,
};
use millstream_state::{ColumnStatistics, Statistics};
use millstream_types::Result;

/// Longer values than that are no bounds, in bytes.
const BOUND_BYTES_MAX: usize = 128;

/// What is known of a column's values; `None` if it is not known, or all are null.
struct Bounds {
    min: Option<ArrayRef>,
    max: Option<ArrayRef>,
}

/// The columns of the batch that has what is known of blocks with these columns.
pub(super) fn schema_for(schema: &Schema) -> SchemaRef {
    let mut fields = Vec::new();
    for (i, field) in schema.fields().iter().enumerate() {
        if has_bounds(field.data_type()) {
            fields.extend(["min", "max"].map(|of| Field::new(format!("{i}.{of}"), field.data_type().clone(), true)));
        }
        fields.push(Field::new(format!("{i}.nulls"), DataType::UInt64, false));
    }
    Arc::new(Schema::new(fields))
}

/// What is known of rows, as one row.
pub(super) fn of_rows(rows: &RecordBatch) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = Vec::new();
    for column in rows.columns() {
        if has_bounds(column.data_type()) {
            let Bounds { min, max } = bounds_of(column);
            columns.extend([min, max].map(|of| of.unwrap_or_else(|| new_null_array(column.data_type(), 1))));
        }
        columns.push(Arc::new(UInt64Array::from(vec![column.logical_null_count() as u64])));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    Ok(RecordBatch::try_new_with_options(schema_for(&rows.schema()), columns, &options)?)
}

/// What is known of all blocks, by column.
pub(super) fn by_column(schema: &Schema, batch: &RecordBatch) -> Statistics {
    let mut rest = batch.columns().iter();
    let mut next = || Arc::clone(rest.next().expect("the batch is of the schema's statistics"));
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let bounds = has_bounds(field.data_type()).then(|| (next(), next()));
        let is_known = |(min, max): &(ArrayRef, ArrayRef)| min.null_count() < min.len() || max.null_count() < max.len();
        columns.push(ColumnStatistics { bounds: bounds.filter(is_known), n_nulls: next().as_primitive().clone() });
    }
    Statistics { columns }
}

/// Whether bounds of values of a type are found; else nothing is known of them.
fn has_bounds(data_type: &DataType) -> bool {
    use DataType::*;
    let is_number = matches!(data_type, Int16 | Int32 | Int64 | UInt32 | UInt64 | Float32 | Float64 | Decimal128(..));
    let is_time = matches!(data_type, Date32 | Time64(TimeUnit::Microsecond) | Timestamp(TimeUnit::Microsecond, _));
    is_number || is_time || matches!(data_type, Boolean | Utf8View | BinaryView)
}

/// The bounds of values of a type that has some.
fn bounds_of(column: &ArrayRef) -> Bounds {
    use DataType::*;
    match column.data_type() {
        Boolean => {
            let bounds = [compute::min_boolean(column.as_boolean()), compute::max_boolean(column.as_boolean())];
            Bounds::of(bounds.map(|bound| Some(Arc::new(BooleanArray::from(vec![bound?])) as ArrayRef)))
        }
        Int16 => integers::<Int16Type>(column),
        Int32 => integers::<Int32Type>(column),
        Int64 => integers::<Int64Type>(column),
        UInt32 => integers::<UInt32Type>(column),
        UInt64 => integers::<UInt64Type>(column),
        Decimal128(..) => integers::<Decimal128Type>(column),
        Date32 => integers::<Date32Type>(column),
        Time64(TimeUnit::Microsecond) => integers::<Time64MicrosecondType>(column),
        Timestamp(TimeUnit::Microsecond, _) => integers::<TimestampMicrosecondType>(column),
        Float32 => {
            let values = column.as_primitive::<Float32Type>().iter().flatten().map(f64::from);
            let narrow = |bound| Arc::new(PrimitiveArray::<Float32Type>::from_value(bound as f32, 1)) as ArrayRef;
            Bounds::of(floats(values).map(|bound| bound.map(narrow)))
        }
        Float64 => {
            let values = column.as_primitive::<Float64Type>().iter().flatten();
            let array = |bound| Arc::new(PrimitiveArray::<Float64Type>::from_value(bound, 1)) as ArrayRef;
            Bounds::of(floats(values).map(|bound| bound.map(array)))
        }
        Utf8View => {
            let values = column.as_string_view();
            let bounds = [compute::min_string_view(values), compute::max_string_view(values)];
            let short = bounds.map(|bound| bound.filter(|bound| bound.len() <= BOUND_BYTES_MAX));
            Bounds::of(short.map(|bound| Some(Arc::new(StringViewArray::from(vec![bound?])) as ArrayRef)))
        }
        BinaryView => {
            let values = column.as_binary_view();
            let bounds = [compute::min_binary_view(values), compute::max_binary_view(values)];
            let short = bounds.map(|bound| bound.filter(|bound| bound.len() <= BOUND_BYTES_MAX));
            Bounds::of(short.map(|bound| Some(Arc::new(BinaryViewArray::from(vec![bound?])) as ArrayRef)))
        }
        _ => Bounds { min: None, max: None },
    }
}

impl Bounds {
    fn of([min, max]: [Option<ArrayRef>; 2]) -> Bounds {
        Bounds { min, max }
    }
}

/// The bounds of values that are ordered as integers are.
fn integers<T: ArrowPrimitiveType>(column: &ArrayRef) -> Bounds {
    let values = column.as_primitive::<T>();
    let array = |bound| {
        let array = PrimitiveArray::<T>::from_value(bound, 1).with_data_type(column.data_type().clone());
        Arc::new(array) as ArrayRef
    };
    Bounds { min: compute::min(values).map(array), max: compute::max(values).map(array) }
}

/// The bounds of floats: NaN is greater than all else, and the two zeros are equal, so both are within a bound of zero.
fn floats(values: impl Iterator<Item = f64>) -> [Option<f64>; 2] {
    let is_less = |a: f64, b: f64| a < b || (b.is_nan() && !a.is_nan());
    let mut bounds: Option<(f64, f64)> = None;
    for value in values {
        let (min, max) = bounds.unwrap_or((value, value));
        bounds = Some((if is_less(value, min) { value } else { min }, if is_less(max, value) { value } else { max }));
    }
    let canonical = |bound: f64, zero: f64| match bound {
        _ if bound.is_nan() => f64::NAN,
        _ if bound == 0.0 => zero,
        _ => bound,
    };
    [bounds.map(|(min, _)| canonical(min, -0.0)), bounds.map(|(_, max)| canonical(max, 0.0))]
}
