//! Functions over byte strings that DataFusion has for texts only.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewBuilder, Int32Array};
use arrow::datatypes::{DataType, Int64Type};
use millstream_types::{Error, SqlState};

use super::builtin::Spec;

/// The functions of this file.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: "bytea_substr", returns: |_| DataType::BinaryView, run: substr, strict: true },
    Spec { name: "bytea_position", returns: |_| DataType::Int32, run: position, strict: true },
    Spec { name: "bytea_overlay", returns: |_| DataType::BinaryView, run: overlay, strict: true },
    Spec { name: "bytea_btrim", returns: |_| DataType::BinaryView, run: |a, n| trim(a, n, (true, true)), strict: true },
    Spec {
        name: "bytea_ltrim",
        returns: |_| DataType::BinaryView,
        run: |a, n| trim(a, n, (true, false)),
        strict: true,
    },
    Spec {
        name: "bytea_rtrim",
        returns: |_| DataType::BinaryView,
        run: |a, n| trim(a, n, (false, true)),
        strict: true,
    },
];

/// A column of byte strings; a null argument makes a null.
fn map(args: &[ArrayRef], n_rows: usize, f: impl Fn(usize) -> Result<Vec<u8>, Error>) -> Result<ArrayRef, Error> {
    let mut out = BinaryViewBuilder::with_capacity(n_rows);
    for row in 0..n_rows {
        if args.iter().any(|a| a.is_null(row)) {
            out.append_null();
        } else {
            out.append_value(f(row)?);
        }
    }
    Ok(Arc::new(out.finish()))
}

fn negative_length() -> Error {
    Error::user(SqlState("22011"), "negative substring length not allowed")
}

/// The bytes from one position, counted from 1, up to before another.
fn between(bytes: &[u8], from: i64, to: i64) -> &[u8] {
    let at = |position: i64| usize::try_from(position.saturating_sub(1)).unwrap_or(0).min(bytes.len());
    let (from, to) = (at(from), at(to));
    &bytes[from..to.max(from)]
}

fn integer(args: &[ArrayRef], index: usize, row: usize) -> Option<i64> {
    args.get(index).map(|a| a.as_primitive::<Int64Type>().value(row))
}

fn substr(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let bytes = args[0].as_binary_view();
    map(args, n_rows, |row| {
        let from = args[1].as_primitive::<Int64Type>().value(row);
        let to = match integer(args, 2, row) {
            Some(length) if length < 0 => return Err(negative_length()),
            Some(length) => from.saturating_add(length),
            None => i64::MAX,
        };
        Ok(between(bytes.value(row), from, to).to_vec())
    })
}

fn overlay(args: &[ArrayRef], n_rows: usize) -> Result<ArrayRef, Error> {
    let (bytes, placed) = (args[0].as_binary_view(), args[1].as_binary_view());
    map(args, n_rows, |row| {
        let from = args[2].as_primitive::<Int64Type>().value(row);
        if from < 1 {
            return Err(negative_length());
        }
        let length = integer(args, 3, row).unwrap_or(placed.value(row).len() as i64);
        let before = between(bytes.value(row), 1, from);
        let after = between(bytes.value(row), from.saturating_add(length), i64::MAX);
        Ok([before, placed.value(row), after].concat())
    })
}

/// Where the second begins in the first, from 1; 0 if it does not.
fn position(args: &[ArrayRef], _: usize) -> Result<ArrayRef, Error> {
    let (bytes, wanted) = (args[0].as_binary_view(), args[1].as_binary_view());
    let find = |bytes: &[u8], wanted: &[u8]| match wanted {
        [] => 1,
        _ => bytes.windows(wanted.len()).position(|w| w == wanted).map_or(0, |at| at as i32 + 1),
    };
    let positions: Int32Array = bytes.iter().zip(wanted).map(|(b, w)| Some(find(b?, w?))).collect();
    Ok(Arc::new(positions))
}

/// Without the bytes of a set at the beginning, at the end, or both.
fn trim(args: &[ArrayRef], n_rows: usize, (start, end): (bool, bool)) -> Result<ArrayRef, Error> {
    let (bytes, trimmed) = (args[0].as_binary_view(), args[1].as_binary_view());
    map(args, n_rows, |row| {
        let (mut rest, set) = (bytes.value(row), trimmed.value(row));
        while let [first, others @ ..] = rest
            && start
            && set.contains(first)
        {
            rest = others;
        }
        while let [others @ .., last] = rest
            && end
            && set.contains(last)
        {
            rest = others;
        }
        Ok(rest.to_vec())
    })
}
