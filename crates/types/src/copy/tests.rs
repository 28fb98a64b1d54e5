//! Lines against what Postgres 15 made of them, and round trips of random values.

mod verified;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};

use super::*;
use crate::hash::mix;
use crate::pg::FormatSettings;
use crate::{Error, Result, SqlState, SqlType};
use verified::{DECODED, ENCODED};

fn options(format: CopyFormat, settings: &[(&str, &str)]) -> CopyOptions {
    let mut options = CopyOptions::new(format);
    for (name, value) in settings {
        let byte = value.as_bytes().first().copied();
        match *name {
            "delimiter" => options.delimiter = byte.expect("a character"),
            "quote" => {
                let quote = byte.expect("a character");
                (options.quote, options.escape) = (quote, quote);
            }
            "escape" => options.escape = byte.expect("a character"),
            "null" => options.null = (*value).to_owned(),
            "header" if *value == "true" => options.header = CopyHeader::Yes,
            "header" => {}
            _ => panic!("no option {name}"),
        }
    }
    options
}

fn two_texts() -> Vec<(String, SqlType)> {
    vec![("a".to_owned(), SqlType::Text), ("b".to_owned(), SqlType::Text)]
}

/// Decodes data that comes in pieces of `n_bytes`.
fn decode(
    columns: &[(String, SqlType)],
    options: &CopyOptions,
    data: &[u8],
    n_bytes: usize,
) -> Result<Vec<RecordBatch>> {
    let mut decoder = CopyDecoder::new("t", columns, options.clone(), &FormatSettings::default());
    let mut batches = Vec::new();
    for mut piece in data.chunks(n_bytes) {
        while let Some(batch) = decoder.decode(&mut piece)? {
            batches.push(batch);
        }
        assert!(piece.is_empty());
    }
    batches.extend(decoder.finish()?);
    Ok(batches)
}

fn texts(batches: &[RecordBatch]) -> Vec<[Option<String>; 2]> {
    let rows = batches.iter().flat_map(|batch| {
        let column = |i: usize| batch.column(i).as_string_view().iter().map(|t| t.map(str::to_owned));
        column(0).zip(column(1)).map(|(a, b)| [a, b])
    });
    rows.collect()
}

#[test]
fn lines_are_read_as_postgres_does_in_pieces_of_any_size() {
    for (format, settings, data, expected) in DECODED {
        let options = options(*format, settings);
        for n_bytes in [1, 2, 3, 5, 1000] {
            let got = decode(&two_texts(), &options, data.as_bytes(), n_bytes);
            let what = format!("{format:?} {settings:?} {data:?} by {n_bytes}");
            match (got, expected) {
                (Ok(batches), Ok(rows)) => {
                    let rows: Vec<_> = rows.iter().map(|row| row.map(|t| t.map(str::to_owned))).collect();
                    assert_eq!(texts(&batches), rows, "{what}");
                }
                (Err(error), Err((state, message))) => {
                    assert_eq!((error.state().0, error.message()), (*state, *message), "{what}");
                }
                (got, _) => panic!("{what} gives {got:?}"),
            }
        }
    }
}

fn encode(options: &CopyOptions, columns: &[(SqlType, ArrayRef)]) -> Vec<u8> {
    let (types, arrays): (Vec<SqlType>, Vec<ArrayRef>) = columns.iter().cloned().unzip();
    let settings = FormatSettings::default();
    let columns = CopyColumns::new(options, &types, &arrays, &settings).expect("the carrying types");
    let mut out = Vec::new();
    (0..arrays[0].len()).for_each(|row_idx| columns.write_row(row_idx, &mut out));
    out
}

#[test]
fn lines_are_written_as_postgres_does() {
    let first = StringViewArray::from(vec!["a\tb\\c\nd\re", "", "\\N", "a|b"]);
    let second = StringViewArray::from(vec![None, Some("\\."), Some("a,\"b\""), Some("\u{8}\u{c}\u{b} x")]);
    let columns: [(SqlType, ArrayRef); 2] = [(SqlType::Text, Arc::new(first)), (SqlType::Text, Arc::new(second))];
    for (format, settings, expected) in ENCODED {
        let got = encode(&options(*format, settings), &columns);
        assert_eq!(String::from_utf8_lossy(&got), *expected, "{format:?} {settings:?}");
    }
    let alone: [(SqlType, ArrayRef); 1] = [(SqlType::Text, Arc::new(StringViewArray::from(vec!["\\."])))];
    assert_eq!(encode(&CopyOptions::new(CopyFormat::Csv), &alone), b"\"\\.\"\n");
}

#[test]
fn header_names_are_protected_like_values() {
    let mut out = Vec::new();
    write_header(&["a", "b,c"], &CopyOptions::new(CopyFormat::Csv), &mut out);
    write_header(&["a", "b\tc"], &CopyOptions::new(CopyFormat::Text), &mut out);
    assert_eq!(out, b"a,\"b,c\"\na\tb\\tc\n");
}

#[test]
fn random_texts_come_back() {
    const ALPHABET: [char; 14] =
        ['a', 'N', '\\', '.', ',', ';', '"', '\'', '\t', '\n', '\r', ' ', '\u{e4}', '\u{1f600}'];
    let mut seed = 20_240_229u64;
    let mut next = |bound: u64| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(seed) % bound
    };
    let mut text = || {
        let length = next(7);
        (next(6) > 0).then(|| (0..length).map(|_| ALPHABET[next(14) as usize]).collect::<String>())
    };
    let rows: Vec<[Option<String>; 2]> = (0..3000).map(|_| [text(), text()]).collect();
    let column = |i: usize| -> ArrayRef { Arc::new(StringViewArray::from_iter(rows.iter().map(|row| row[i].clone()))) };
    let columns = [(SqlType::Text, column(0)), (SqlType::Text, column(1))];
    let cases: [(CopyFormat, &[(&str, &str)]); 5] = [
        (CopyFormat::Text, &[]),
        (CopyFormat::Text, &[("delimiter", ";"), ("null", "nil")]),
        (CopyFormat::Csv, &[]),
        (CopyFormat::Csv, &[("quote", "'"), ("null", "a")]),
        (CopyFormat::Csv, &[("escape", "\\"), ("delimiter", ";")]),
    ];
    for (format, settings) in cases {
        let options = options(format, settings);
        let lines = encode(&options, &columns);
        for n_bytes in [7, 100_000] {
            let batches = decode(&two_texts(), &options, &lines, n_bytes).expect("what was written can be read");
            assert_eq!(texts(&batches), rows, "{format:?} {settings:?}");
        }
    }
}

#[test]
fn errors_name_line_column_and_value() {
    let columns = vec![("a".to_owned(), SqlType::BigInt), ("n".to_owned(), SqlType::Numeric(Some((3, 1))))];
    let refuse = |data: &str| -> Error {
        let options = CopyOptions::new(CopyFormat::Csv);
        decode(&columns, &options, data.as_bytes(), 4).expect_err("an error")
    };
    let context = |error: &Error| error.fields().context.clone();
    let error = refuse("1,2\n\n");
    assert_eq!(context(&error).as_deref(), Some("COPY t, line 2: \"\""));
    let error = refuse("1,2\nx,2\n");
    assert_eq!(error.message(), "invalid input syntax for type bigint: \"x\"");
    assert_eq!(context(&error).as_deref(), Some("COPY t, line 2, column a: \"x\""));
    let error = refuse("1,2\n1,2,3\n");
    assert_eq!(context(&error).as_deref(), Some("COPY t, line 2: \"1,2,3\""));
    let error = refuse("1,1000");
    assert_eq!(error.state(), SqlState::NUMERIC_VALUE_OUT_OF_RANGE);
    let expected = "A field with precision 3, scale 1 must round to an absolute value less than 10^2.";
    assert_eq!(error.fields().detail.as_deref(), Some(expected));
    assert_eq!(context(&error).as_deref(), Some("COPY t, line 1, column n: \"1000\""));
}

#[test]
fn long_data_comes_in_batches() {
    let columns = vec![("a".to_owned(), SqlType::BigInt)];
    let data: String = (0..50_000).map(|i| format!("{i}\n")).collect();
    let batches = decode(&columns, &CopyOptions::new(CopyFormat::Text), data.as_bytes(), 10_000).expect("rows");
    assert!(batches.len() > 1 && batches.iter().all(|b| b.num_rows() <= 8192));
    let all = batches.iter().flat_map(|b| b.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec());
    assert_eq!(Int64Array::from_iter_values(all), Int64Array::from_iter_values(0..50_000));
}

#[test]
fn binary_data_goes_out_and_comes_in() {
    let columns = vec![("a".to_owned(), SqlType::BigInt), ("b".to_owned(), SqlType::Text)];
    let options = CopyOptions::new(CopyFormat::Binary);
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![Some(1), None, Some(-3)])),
        Arc::new(StringViewArray::from(vec![Some("x"), Some(""), None])),
    ];
    let settings = FormatSettings::default();
    let encoder = CopyColumns::new(&options, columns.iter().map(|c| &c.1), &arrays, &settings).expect("columns");
    let mut data = copy_signature(&options).to_vec();
    (0..3).for_each(|row| encoder.write_row(row, &mut data));
    data.extend_from_slice(copy_end(&options));
    for piece in [1, 7, 1000] {
        let batches = decode(&columns, &options, &data, piece).expect("rows");
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].columns(), &arrays[..], "pieces of {piece}");
    }
    let refused = |data: &[u8]| decode(&columns, &options, data, 1000).expect_err("refused").state();
    assert_eq!(refused(b"1\tx\n"), SqlState::BAD_COPY_FILE_FORMAT);
    assert_eq!(refused(&data[..data.len() - 4]), SqlState::BAD_COPY_FILE_FORMAT);
}
