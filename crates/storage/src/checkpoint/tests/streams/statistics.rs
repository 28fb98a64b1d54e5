//! What is said of blocks is what a scan of them finds.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int16Array, Int64Array, RecordBatch, StringViewArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    UInt32Array, UInt64Array,
};
use arrow::compute::{SortOptions, cast, sort_to_indices, take};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use millstream_types::Epoch;

use super::super::model::open;
use super::model::commit;
use super::reading::rows_of_all_types;
use crate::disk::sim::SimDisk;
use crate::random::Bits;

/// Values of all types that have bounds, from few and from extreme ones.
fn random_rows(random: &mut Bits, n_rows: u64) -> RecordBatch {
    let n_nulls = random.below(4);
    let mut values = |of: &mut dyn FnMut(&mut Bits) -> u64| -> Vec<Option<u64>> {
        (0..n_rows).map(|_| (random.below(4) >= n_nulls).then(|| of(random))).collect()
    };
    let numbers = |random: &mut Bits| if random.coin() { random.below(9).wrapping_sub(4) } else { random.next() };
    let floats = |random: &mut Bits| {
        let of = [0.0, -0.0, f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.5, -2.5, f64::MIN_POSITIVE];
        let zeros_only = random.below(3) == 0;
        of[random.below(if zeros_only { 3 } else { 9 }) as usize].to_bits()
    };
    let text =
        |n: u64| ["", "a", "ä", "aa", "B"][(n % 5) as usize].repeat([1, 1, 3, 64, 65, 150][(n / 5 % 6) as usize]);
    macro_rules! column {
        ($array:ty, $of:expr, $value:expr) => {
            Arc::new(values(&mut { $of }).into_iter().map(|n| n.map($value)).collect::<$array>()) as ArrayRef
        };
    }
    let columns = [
        column!(Int16Array, numbers, |n| n as i16),
        column!(Int64Array, numbers, |n| n as i64),
        column!(UInt32Array, numbers, |n| n as u32),
        column!(UInt64Array, numbers, |n| n),
        column!(Date32Array, numbers, |n| n as i32),
        column!(Time64MicrosecondArray, numbers, |n| n as i64),
        column!(TimestampMicrosecondArray, numbers, |n| n as i64),
        column!(Decimal128Array, numbers, |n| i128::from(n as i64) << 20),
        column!(BooleanArray, numbers, |n| n % 2 == 1),
        column!(Float64Array, floats, f64::from_bits),
        column!(Float32Array, floats, |n| f64::from_bits(n) as f32),
        column!(StringViewArray, numbers, text),
        column!(BinaryViewArray, numbers, |n| text(n).into_bytes()),
    ];
    let named = |(i, c): (usize, &ArrayRef)| Field::new(format!("c{i}"), c.data_type().clone(), true);
    let schema = Schema::new(columns.iter().enumerate().map(named).collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns.to_vec()).expect("columns of one length")
}

/// The least or the greatest value, as it should be said: unknown if it is long, and on the outer side of zero.
fn bound_of(column: &ArrayRef, descending: bool) -> ArrayRef {
    let none = arrow::array::new_null_array(column.data_type(), 1);
    if column.data_type().is_floating() {
        let wide = cast(column, &DataType::Float64).expect("floats");
        let values = wide.as_primitive::<Float64Type>().iter().flatten();
        // As Postgres orders floats.
        let order = |a: &f64, b: &f64| a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
        let bound = if descending { values.max_by(order) } else { values.min_by(order) };
        let bound = bound.map(|bound| match bound {
            _ if bound.is_nan() => f64::NAN,
            0.0 => {
                if descending {
                    0.0
                } else {
                    -0.0
                }
            }
            bound => bound,
        });
        return cast(&Float64Array::from(vec![bound]), column.data_type()).expect("it was one of them");
    }
    let options = SortOptions { descending, nulls_first: false };
    let first = sort_to_indices(column, Some(options), Some(1)).expect("it can be sorted");
    let bound = take(column, &first, None).expect("it is there");
    let is_long = match bound.data_type() {
        DataType::Utf8View => bound.as_string_view().iter().flatten().any(|bound| bound.len() > 128),
        DataType::BinaryView => bound.as_binary_view().iter().flatten().any(|bound| bound.len() > 128),
        _ => false,
    };
    if is_long { none } else { bound }
}

/// Whether a bound has the same bits, or both are not known.
fn is_same(bound: &ArrayRef, expected: &ArrayRef) -> bool {
    bound.to_data() == expected.to_data() && format!("{bound:?}") == format!("{expected:?}")
}

#[test]
fn bounds_are_those_of_a_scan() {
    let mut n_unknown = 0;
    for seed in 0..60 {
        println!("seed {seed}");
        let mut random = Bits(seed);
        let store = open(&SimDisk::default()).expect("it opens");
        let n_rows = 1 + random.below(40);
        let rows = random_rows(&mut random, n_rows);
        commit(&store, &[(1, 0)], |checkpoint, epoch| {
            let mut writer = checkpoint.stream_object(1, &rows.schema()).expect("it begins");
            writer.push(0, &[(0, Epoch(epoch))], &rows).expect("there is room");
            writer.push(1, &[(0, Epoch(epoch))], &rows.slice(0, 1)).expect("there is room");
            writer.finish().expect("there is room").into_iter().collect()
        });
        for (_, block) in store.hold().stream_blocks(1).expect("it reads right") {
            let rows = block.rows.read(None).expect("it reads right");
            for (column, known) in rows.columns().iter().zip(&block.statistics.columns) {
                assert_eq!(known.n_nulls.value(block.place), column.null_count() as u64);
                let expected = [bound_of(column, false), bound_of(column, true)];
                let Some((min, max)) = &known.bounds else {
                    assert!(expected.iter().all(|bound| bound.is_null(0)));
                    continue;
                };
                for (bound, expected) in [min, max].into_iter().zip(&expected) {
                    let bound = bound.slice(block.place, 1);
                    assert!(is_same(&bound, expected), "{column:?}: {bound:?} instead of {expected:?}");
                    n_unknown += usize::from(bound.is_null(0));
                }
            }
        }
    }
    assert!(n_unknown > 100, "{n_unknown} bounds are unknown");
}

#[test]
fn types_without_bounds_have_their_nulls_counted() {
    let store = open(&SimDisk::default()).expect("it opens");
    let rows = rows_of_all_types(0, 100);
    let blocks = commit(&store, &[(1, 0)], |checkpoint, epoch| {
        let mut writer = checkpoint.stream_object(1, &rows.schema()).expect("it begins");
        writer.push(0, &[(0, Epoch(epoch))], &rows).expect("there is room");
        writer.finish().expect("there is room").into_iter().collect()
    });
    let known = &blocks[0].blocks[0].1.statistics;
    let n_blocks = blocks[0].blocks.len();
    for (i, column) in known.columns.iter().enumerate() {
        let has_bounds = !(11..=14).contains(&i);
        assert_eq!(column.bounds.is_some(), has_bounds, "column {i}");
        let n_nulls: u64 = column.n_nulls.values().iter().sum();
        assert_eq!(n_nulls, rows.column(i).logical_null_count() as u64);
        assert_eq!(column.n_nulls.len(), n_blocks);
        assert!(column.bounds.as_ref().is_none_or(|(min, max)| (min.len(), max.len()) == (n_blocks, n_blocks)));
    }
}
