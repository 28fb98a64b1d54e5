//! Functions over the elements of arrays, one of which may be null.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, UInt32Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::kernels::cmp;
use arrow::compute::{filter, take};
use millstream_types::{Error, SqlState};

use super::builtin::Spec;
use super::equal_key::key;

/// The functions of this file.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: "array_without", returns: |args| args[0].clone(), run: |a, _| without(&a[0], &a[1]), strict: false },
    Spec { name: "accumulated_array", returns: |args| args[0].clone(), run: |a, _| accumulated(&a[0]), strict: false },
];

/// `array_remove`: the elements that are distinct from a value, which may be null.
fn without(arrays: &ArrayRef, values: &ArrayRef) -> Result<ArrayRef, Error> {
    let lists = arrays.as_list::<i32>();
    let offsets = lists.value_offsets();
    let (first, end) = (offsets[0] as usize, offsets[lists.len()] as usize);
    let elements = lists.values().slice(first, end - first);
    let n_elements = |row: usize| lists.value_length(row) as usize;
    let rows: UInt32Array = (0..lists.len()).flat_map(|row| std::iter::repeat_n(row as u32, n_elements(row))).collect();
    let kept = cmp::distinct(&key(&elements)?, &key(&take(values, &rows, None)?)?)?;
    let mut at = 0;
    let lengths = (0..lists.len()).map(|row| {
        let of_row = at..at + n_elements(row);
        at = of_row.end;
        of_row.filter(|&i| kept.value(i)).count()
    });
    let offsets = OffsetBuffer::from_lengths(lengths);
    let arrow::datatypes::DataType::List(field) = arrays.data_type() else {
        return Err(Error::internal("array_remove of something else than an array"));
    };
    let field = Arc::clone(field);
    Ok(Arc::new(ListArray::try_new(field, offsets, filter(&elements, &kept)?, lists.nulls().cloned())?))
}

/// An array as an element of an array with one more dimension, which null and empty ones cannot be.
fn accumulated(arrays: &ArrayRef) -> Result<ArrayRef, Error> {
    let lists = arrays.as_list::<i32>();
    for row in 0..lists.len() {
        if lists.is_null(row) {
            return Err(Error::user(SqlState("22004"), "cannot accumulate null arrays"));
        }
        if lists.value_length(row) == 0 {
            return Err(Error::user(SqlState("2202E"), "cannot accumulate empty arrays"));
        }
    }
    Ok(arrays.clone())
}
