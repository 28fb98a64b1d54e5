//! Random values go out as text and as binary and come back the same.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int16Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, ListArray, StringViewArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, UInt32Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{Field, IntervalMonthDayNano};

use super::super::*;
use crate::SqlType;
use crate::hash::mix;

const N_ROWS: usize = 4000;

/// A seeded source of numbers, of very different sizes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn sized(&mut self) -> u64 {
        let shift = self.next() % 64;
        self.next() >> shift
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn signed(&mut self) -> i64 {
        let magnitude = self.sized() as i64;
        if self.below(2) == 0 { magnitude } else { magnitude.wrapping_neg() }
    }

    fn string(&mut self) -> String {
        const ALPHABET: [char; 16] =
            ['a', 'B', '0', ' ', '"', '\\', '{', '}', ',', '\t', '\n', '\u{e4}', '\u{1f600}', 'N', 'U', 'L'];
        (0..self.below(9)).map(|_| ALPHABET[self.below(16) as usize]).collect()
    }

    /// Between 4714 BC and 294000 AD, often near today.
    fn timestamp_us(&mut self) -> i64 {
        const MIN: i64 = -210_866_000_000_000_000;
        let near = 1_700_000_000_000_000 + self.signed() % 1_000_000_000_000_000;
        if self.below(3) == 0 { (self.sized() as i64 & i64::MAX).min(9_200_000_000_000_000_000) + MIN } else { near }
    }
}

fn array(sql_type: &SqlType, n_rows: usize, random: &mut Random) -> ArrayRef {
    let nulls = Some(NullBuffer::from_iter((0..n_rows).map(|_| random.below(8) > 0)));
    macro_rules! primitive {
        ($array:ty, $value:expr) => {{
            let values = (0..n_rows).map(|_| $value).collect::<Vec<_>>();
            <$array>::new(values.into(), nulls)
        }};
    }
    match sql_type {
        SqlType::Boolean => Arc::new(BooleanArray::new((0..n_rows).map(|_| random.below(2) == 0).collect(), nulls)),
        SqlType::SmallInt => Arc::new(primitive!(Int16Array, random.signed() as i16)),
        SqlType::Integer => Arc::new(primitive!(Int32Array, random.signed() as i32)),
        SqlType::BigInt => Arc::new(primitive!(Int64Array, random.signed())),
        SqlType::Oid => Arc::new(primitive!(UInt32Array, random.next() as u32)),
        SqlType::Real => Arc::new(primitive!(Float32Array, f32::from_bits(random.next() as u32))),
        SqlType::Double => Arc::new(primitive!(
            Float64Array,
            match random.below(3) {
                0 => f64::from_bits(random.next()),
                1 => random.signed() as f64,
                _ => random.signed() as f64 / 1e6,
            }
        )),
        SqlType::Numeric(_) => Arc::new(
            primitive!(Decimal128Array, {
                let wide = i128::from(random.signed()) * i128::from(random.sized() % 1_000_000_007);
                if *sql_type == SqlType::Numeric(None) { wide } else { wide % 1_000_000_000_000 }
            })
            .with_data_type(sql_type.arrow_type()),
        ),
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) => {
            Arc::new(StringViewArray::from_iter((0..n_rows).map(|_| (random.below(8) > 0).then(|| random.string()))))
        }
        SqlType::Bytea => {
            Arc::new(BinaryViewArray::from_iter((0..n_rows).map(|_| {
                (random.below(8) > 0).then(|| random.next().to_be_bytes()[..random.below(9) as usize].to_vec())
            })))
        }
        SqlType::Date => Arc::new(primitive!(Date32Array, (random.timestamp_us() / 86_400_000_000) as i32)),
        SqlType::Time => Arc::new(primitive!(Time64MicrosecondArray, random.below(86_400_000_001) as i64)),
        SqlType::Timestamp => Arc::new(primitive!(TimestampMicrosecondArray, random.timestamp_us())),
        SqlType::Timestamptz => {
            Arc::new(primitive!(TimestampMicrosecondArray, random.timestamp_us()).with_timezone("UTC"))
        }
        SqlType::Interval => Arc::new(primitive!(
            IntervalMonthDayNanoArray,
            IntervalMonthDayNano {
                months: random.signed() as i32 / 2,
                days: random.signed() as i32,
                nanoseconds: random.signed() / 1000 * 1000,
            }
        )),
        SqlType::Array(element) => {
            let lengths: Vec<usize> = (0..n_rows).map(|_| random.below(4) as usize).collect();
            let values = array(element, lengths.iter().sum(), random);
            let field = Arc::new(Field::new_list_field(element.arrow_type(), true));
            Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lengths), values, nulls))
        }
    }
}

fn element_types() -> Vec<SqlType> {
    vec![
        SqlType::Boolean,
        SqlType::SmallInt,
        SqlType::Integer,
        SqlType::BigInt,
        SqlType::Oid,
        SqlType::Real,
        SqlType::Double,
        SqlType::Numeric(None),
        SqlType::Numeric(Some((12, 3))),
        SqlType::Numeric(Some((12, 0))),
        SqlType::Text,
        SqlType::Varchar(Some(9)),
        SqlType::Bytea,
        SqlType::Date,
        SqlType::Time,
        SqlType::Timestamp,
        SqlType::Timestamptz,
        SqlType::Interval,
    ]
}

/// As text, row for row; floats compare by their text, so that NaN equals NaN.
fn texts(array: &dyn Array, sql_type: &SqlType, settings: &FormatSettings) -> Vec<Option<String>> {
    let column = TextColumn::new(array, sql_type, settings).expect("the carrying type");
    (0..array.len())
        .map(|row_idx| {
            let mut out = Vec::new();
            (!column.is_null(row_idx)).then(|| {
                column.write(row_idx, &mut out);
                String::from_utf8(out).expect("UTF-8")
            })
        })
        .collect()
}

fn check(sql_type: &SqlType, settings: &FormatSettings, seed: u64) {
    let original = array(sql_type, N_ROWS, &mut Random(seed));
    assert_eq!(original.data_type(), &sql_type.arrow_type());
    let written = texts(original.as_ref(), sql_type, settings);
    let from_text = parse_column(&StringViewArray::from_iter(written.iter()), sql_type, settings);
    let from_text = from_text.unwrap_or_else(|e| panic!("{sql_type}, seed {seed}: {e}"));
    assert_eq!(texts(from_text.as_ref(), sql_type, settings), written, "{sql_type} through text, seed {seed}");
    if !matches!(sql_type, SqlType::Real | SqlType::Double | SqlType::Array(_)) {
        assert_eq!(&from_text, &original, "{sql_type} through text, seed {seed}");
    }
    let column = BinaryColumn::new(original.as_ref(), sql_type).expect("the carrying type");
    let mut builder = BinaryColumnBuilder::new(sql_type, N_ROWS);
    for (row_idx, text) in written.iter().enumerate() {
        let Some(text) = text else {
            builder.append_null();
            continue;
        };
        let mut out = Vec::new();
        column.write(row_idx, &mut out);
        builder.append(&out).unwrap_or_else(|e| panic!("{sql_type}, seed {seed}, {text}: {e}"));
    }
    let from_binary = builder.finish();
    assert_eq!(texts(from_binary.as_ref(), sql_type, settings), written, "{sql_type} through binary, seed {seed}");
}

#[test]
fn values_come_back_from_text_and_binary() {
    for (i, element) in element_types().into_iter().enumerate() {
        for sql_type in [element.clone(), SqlType::Array(Box::new(element))] {
            check(&sql_type, &FormatSettings::default(), 4711 + i as u64);
        }
    }
}

#[test]
fn instants_come_back_in_every_zone() {
    for zone in ["America/New_York", "Europe/Berlin", "Asia/Kolkata", "<+05:30>-05:30", "-8", "Australia/Lord_Howe"] {
        let settings = FormatSettings { time_zone: TimeZone::parse(zone).expect("a zone"), ..Default::default() };
        check(&SqlType::Timestamptz, &settings, 99);
    }
}

#[test]
fn slices_are_read_from_their_own_rows() {
    for sql_type in element_types().into_iter().flat_map(|e| [e.clone(), SqlType::Array(Box::new(e))]) {
        let whole = array(&sql_type, 20, &mut Random(7));
        let settings = FormatSettings::default();
        let expected = texts(whole.as_ref(), &sql_type, &settings)[5..12].to_vec();
        assert_eq!(texts(whole.slice(5, 7).as_ref(), &sql_type, &settings), expected, "{sql_type}");
    }
}
