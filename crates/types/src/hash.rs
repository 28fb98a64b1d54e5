//! The versioned row hash that decides a row's partition, and with it the worker that keeps the row.
//!
//! A row's hash is 64 bits. The upper 8 are its partition (one of 256), which never changes for a hash version; indexes
//! use the lower bits. For one column of at most 64 bits the hash is a bijection of the value, so equal hashes of
//! non-null values mean equal keys: see [`is_exact`].

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, UInt32Type,
};
use arrow::row::{RowConverter, SortField};

/// The version of the hash; written into everything durable that is partitioned by it.
pub const HASH_VERSION: u32 = 1;
/// The number of hash partitions, fixed for ever.
pub const N_PARTITIONS: usize = 256;

const NULL_HASH: u64 = 0x6a09_e667_f3bc_c909;
const MUL: u64 = 0x9e37_79b9_7f4a_7c15;

/// The partition of a row with this hash.
#[inline]
pub fn partition_of(hash: u64) -> usize {
    (hash >> 56) as usize
}

/// The worker, of `n_workers`, that owns a row with this hash: workers own consecutive ranges of partitions.
#[inline]
pub fn worker_of(hash: u64, n_workers: usize) -> usize {
    partition_of(hash) * n_workers / N_PARTITIONS
}

/// The partitions that a worker, of `n_workers`, owns.
pub fn partitions_of(worker: usize, n_workers: usize) -> std::ops::Range<usize> {
    let first = |worker: usize| (worker * N_PARTITIONS).div_ceil(n_workers);
    first(worker)..first(worker + 1)
}

/// A bijection of 64 bits that spreads every input bit (the `moremur` constants of P. Evensen, 2019).
#[inline]
pub fn mix(mut x: u64) -> u64 {
    x ^= x >> 27;
    x = x.wrapping_mul(0x3c79_ac49_2ba7_b653);
    x ^= x >> 33;
    x = x.wrapping_mul(0x1c69_b3f7_4ac4_ae35);
    x ^ (x >> 27)
}

#[inline]
fn combine(seed: u64, hash: u64) -> u64 {
    mix(seed.rotate_left(23).wrapping_mul(MUL) ^ hash)
}

#[inline]
fn absorb(state: u64, word: u64) -> u64 {
    let product = u128::from(state ^ word) * u128::from(0xa076_1d64_78bd_642fu64);
    ((product as u64) ^ ((product >> 64) as u64)).wrapping_add(word.rotate_left(32))
}

/// Hashes bytes, eight at a time, with 128-bit multiplication (after wyhash, Wang Yi, 2019).
#[inline]
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut state = MUL ^ (bytes.len() as u64);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        state = absorb(state, u64::from_le_bytes(chunk.try_into().expect("chunks of eight")));
    }
    let rest = chunks.remainder();
    let mut last = [0u8; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(state ^ u64::from_le_bytes(last))
}

/// What [`hash_bytes`] gives for the value of a view that holds its bytes itself, which are at most 12 and padded with
/// zeros.
#[inline]
fn hash_inline(view: u128) -> u64 {
    let state = MUL ^ u64::from(view as u32);
    let first_word = (view >> 32) as u64;
    if view as u32 >= 8 { mix(absorb(state, first_word) ^ (view >> 96) as u64) } else { mix(state ^ first_word) }
}

/// Whether equal hashes of non-null values of this type mean equal values.
pub fn is_exact(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt32
            | DataType::Date32
            | DataType::Boolean
            | DataType::Time64(TimeUnit::Microsecond)
            | DataType::Timestamp(TimeUnit::Microsecond, _)
    )
}

/// Writes one hash a row of `columns` into `hashes`, which is cleared first.
///
/// Integers of every width hash by value; floats so that -0.0 equals 0.0 and all NaN are one, as in SQL equality. Types
/// without a fast path hash by their row encoding. Without columns every row has the same hash.
pub fn hash_columns(columns: &[ArrayRef], n_rows: usize, hashes: &mut Vec<u64>) {
    hashes.clear();
    let Some((first, rest)) = columns.split_first() else {
        hashes.resize(n_rows, mix(0));
        return;
    };
    hash_column(first, |h| hashes.push(h));
    for column in rest {
        let mut i = 0;
        hash_column(column, |h| {
            hashes[i] = combine(hashes[i], h);
            i += 1;
        });
    }
    debug_assert_eq!(hashes.len(), n_rows);
}

fn hash_column(array: &ArrayRef, mut put: impl FnMut(u64)) {
    macro_rules! primitive {
        ($t:ty, $to_u64:expr) => {{
            let array = array.as_primitive::<$t>();
            let to_u64 = $to_u64;
            match array.nulls().filter(|n| n.null_count() > 0) {
                None => array.values().iter().for_each(|&v| put(mix(to_u64(v)))),
                Some(nulls) => array
                    .values()
                    .iter()
                    .zip(nulls.iter())
                    .for_each(|(&v, valid)| put(if valid { mix(to_u64(v)) } else { NULL_HASH })),
            }
        }};
    }
    macro_rules! bytes {
        ($array:expr) => {{
            let array = $array;
            for i in 0..array.len() {
                put(if array.is_valid(i) { hash_bytes(array.value(i).as_ref()) } else { NULL_HASH });
            }
        }};
    }
    macro_rules! views {
        ($array:expr) => {{
            let array = $array;
            let nulls = array.nulls().filter(|n| n.null_count() > 0);
            for (i, &view) in array.views().iter().enumerate() {
                put(match nulls {
                    Some(nulls) if nulls.is_null(i) => NULL_HASH,
                    _ if view as u32 <= 12 => hash_inline(view),
                    _ => hash_bytes(array.value(i).as_ref()),
                });
            }
        }};
    }
    match array.data_type() {
        DataType::Int16 => primitive!(Int16Type, |v: i16| v as i64 as u64),
        DataType::Int32 => primitive!(Int32Type, |v: i32| v as i64 as u64),
        DataType::Int64 => primitive!(Int64Type, |v: i64| v as u64),
        DataType::UInt32 => primitive!(UInt32Type, u64::from),
        DataType::Date32 => primitive!(Date32Type, |v: i32| v as i64 as u64),
        DataType::Time64(TimeUnit::Microsecond) => primitive!(Time64MicrosecondType, |v: i64| v as u64),
        DataType::Timestamp(TimeUnit::Microsecond, _) => primitive!(TimestampMicrosecondType, |v: i64| v as u64),
        DataType::Float32 => primitive!(Float32Type, |v: f32| canonical_f64(f64::from(v))),
        DataType::Float64 => primitive!(Float64Type, canonical_f64),
        DataType::Decimal128(_, _) => {
            primitive!(Decimal128Type, |v: i128| mix(v as u64) ^ ((v >> 64) as u64).wrapping_mul(MUL))
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            primitive!(IntervalMonthDayNanoType, |v: arrow::datatypes::IntervalMonthDayNano| {
                interval_nanos(v) as u64
            })
        }
        DataType::Boolean => {
            let array = array.as_boolean();
            for i in 0..array.len() {
                put(if array.is_valid(i) { mix(u64::from(array.value(i))) } else { NULL_HASH });
            }
        }
        DataType::Utf8View => views!(array.as_string_view()),
        DataType::Utf8 => bytes!(array.as_string::<i32>()),
        DataType::BinaryView => views!(array.as_binary_view()),
        DataType::Binary => bytes!(array.as_binary::<i32>()),
        _ => hash_by_rows(array, put),
    }
}

/// Nested types, by their order-preserving row encoding, which is equal exactly for equal values.
fn hash_by_rows(array: &ArrayRef, mut put: impl FnMut(u64)) {
    let converter = RowConverter::new(vec![SortField::new(array.data_type().clone())]);
    let rows = converter.and_then(|c| c.convert_columns(std::slice::from_ref(array)));
    let rows = rows.expect("the planner admits only types with a row encoding");
    for (i, row) in rows.iter().enumerate() {
        put(if array.is_valid(i) { hash_bytes(row.as_ref()) } else { NULL_HASH });
    }
}

#[inline]
fn canonical_f64(v: f64) -> u64 {
    if v.is_nan() {
        f64::NAN.to_bits()
    } else if v == 0.0 {
        0
    } else {
        v.to_bits()
    }
}

/// Postgres compares intervals with months of 30 days and days of 24 hours, so equal intervals must hash equal.
fn interval_nanos(v: arrow::datatypes::IntervalMonthDayNano) -> i64 {
    const DAY: i64 = 86_400_000_000_000;
    i64::from(v.months).wrapping_mul(30).wrapping_add(i64::from(v.days)).wrapping_mul(DAY).wrapping_add(v.nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int32Array, Int64Array, StringArray, StringViewArray};
    use std::sync::Arc;

    /// Hashes that version 1 gives. They decide where rows lie on disk: a change needs a new version.
    const GOLDEN: [u64; 3] = [0x3c02_aa47_7582_92bd, 0x9840_33ca_baf4_28fa, 0xbeea_2b59_c543_a274];

    fn hashes(columns: &[ArrayRef]) -> Vec<u64> {
        let mut out = Vec::new();
        hash_columns(columns, columns[0].len(), &mut out);
        out
    }

    #[test]
    fn equal_values_hash_equal_across_types() {
        let narrow: ArrayRef = Arc::new(Int32Array::from(vec![Some(7), None, Some(-1)]));
        let wide: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), None, Some(-1)]));
        assert_eq!(hashes(&[narrow]), hashes(&[wide]));
        let texts: Vec<&str> = (0..40).map(|len| &"a text as long as it has to be, and longer"[..len]).collect();
        let a: ArrayRef = Arc::new(StringArray::from(texts.clone()));
        let b: ArrayRef = Arc::new(StringViewArray::from(texts));
        assert_eq!(hashes(&[a]), hashes(&[b]));
        let f: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN]));
        let h = hashes(&[f]);
        assert_eq!(h[0], h[1]);
        assert_eq!(h[2], h[3]);
    }

    #[test]
    fn the_hash_of_version_1_never_changes() {
        assert_eq!([mix(1), hash_bytes(b"millstream"), combine(1, 2)], GOLDEN);
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100_000));
        let mut counts = [0usize; N_PARTITIONS];
        hashes(&[keys]).iter().for_each(|&h| counts[partition_of(h)] += 1);
        assert!(counts.iter().all(|&c| (250..550).contains(&c)), "partitions are even: {counts:?}");
    }

    #[test]
    fn every_worker_owns_a_range() {
        for n in 1..=8 {
            let owners: Vec<_> = (0..256u64).map(|p| worker_of(p << 56, n)).collect();
            assert!(owners.windows(2).all(|w| w[0] <= w[1]) && owners[255] == n - 1);
        }
    }
}
