//! The text and binary forms against what Postgres 15 answered, and round trips of random values.

mod round_trips;
mod verified;

use arrow::array::{Array, ArrayRef, StringViewArray};

use super::*;
use crate::{Error, SqlType};
use verified::{EXAMPLES, Outcome};

fn sql_type(name: &str) -> SqlType {
    if let Some(element) = name.strip_suffix("[]") {
        return SqlType::Array(Box::new(sql_type(element)));
    }
    match name {
        "boolean" => SqlType::Boolean,
        "smallint" => SqlType::SmallInt,
        "integer" => SqlType::Integer,
        "bigint" => SqlType::BigInt,
        "real" => SqlType::Real,
        "double precision" => SqlType::Double,
        "numeric" => SqlType::Numeric(None),
        "numeric(10,2)" => SqlType::Numeric(Some((10, 2))),
        "numeric(5,5)" => SqlType::Numeric(Some((5, 5))),
        "numeric(38,0)" => SqlType::Numeric(Some((38, 0))),
        "numeric(38,38)" => SqlType::Numeric(Some((38, 38))),
        "text" => SqlType::Text,
        "varchar(3)" => SqlType::Varchar(Some(3)),
        "char(3)" => SqlType::Char(3),
        "bytea" => SqlType::Bytea,
        "date" => SqlType::Date,
        "time" => SqlType::Time,
        "timestamp" => SqlType::Timestamp,
        "timestamptz" => SqlType::Timestamptz,
        "interval" => SqlType::Interval,
        _ => panic!("no type {name} in the table of examples"),
    }
}

fn parse(text: &str, sql_type: &SqlType, settings: &FormatSettings) -> Result<ArrayRef, Error> {
    parse_column(&StringViewArray::from(vec![Some(text)]), sql_type, settings)
}

fn text_of(array: &dyn Array, sql_type: &SqlType, settings: &FormatSettings) -> String {
    let mut out = Vec::new();
    TextColumn::new(array, sql_type, settings).expect("the carrying type").write(0, &mut out);
    String::from_utf8(out).expect("UTF-8")
}

fn hex_of(array: &dyn Array, sql_type: &SqlType) -> String {
    let mut out = Vec::new();
    BinaryColumn::new(array, sql_type).expect("the carrying type").write(0, &mut out);
    out.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

fn check(name: &str, input: &str, expected: &Outcome) -> Result<(), String> {
    let (sql_type, settings) = (sql_type(name), FormatSettings::default());
    match (parse(input, &sql_type, &settings), expected) {
        (Ok(array), Outcome::Value(text, hex)) => {
            let (got_text, got_hex) = (text_of(&array, &sql_type, &settings), hex_of(&array, &sql_type));
            if (got_text.as_str(), got_hex.as_str()) != (*text, *hex) {
                return Err(format!("gives {got_text} {got_hex} instead of {text} {hex}"));
            }
            let mut builder = BinaryColumnBuilder::new(&sql_type, 1);
            builder.append(&bytes_of(hex)).map_err(|e| format!("binary {hex}: {e}"))?;
            let again = builder.finish();
            if text_of(&again, &sql_type, &settings) == *text {
                Ok(())
            } else {
                Err(format!("binary {hex} reads as {}", text_of(&again, &sql_type, &settings)))
            }
        }
        (Err(error), Outcome::Error(state, message)) => {
            let same = error.state().0 == *state && error.message() == *message;
            if same { Ok(()) } else { Err(format!("says {error} instead of {message} ({state})")) }
        }
        (Ok(array), Outcome::Error(_, message)) => {
            Err(format!("gives {} instead of: {message}", text_of(&array, &sql_type, &settings)))
        }
        (Err(error), Outcome::Value(text, _)) => Err(format!("says {error} instead of {text}")),
    }
}

#[test]
fn values_are_read_and_written_as_postgres_does() {
    let wrong: Vec<String> = EXAMPLES
        .iter()
        .filter_map(|(name, input, expected)| {
            check(name, input, expected).err().map(|why| format!("{name} {input:?} {why}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn zone_and_date_order_decide_what_is_open() {
    // As Postgres 15.18 answered under these settings.
    let cases = [
        ("Europe/Berlin", DateOrder::Ymd, "timestamptz", "oct 02, 1960 08:26 utc", "1960-10-02 09:26:00+01"),
        ("Europe/Berlin", DateOrder::Ymd, "timestamptz", "5-july-1981 BC 12:47Z", "1981-07-05 13:40:28+00:53:28 BC"),
        ("Europe/Berlin", DateOrder::Ymd, "timestamptz", "Aug-7-6107 15:45+05:30", "6107-08-07 12:15:00+02"),
        ("Europe/Berlin", DateOrder::Ymd, "date", "May 27, 1994", "1994-05-27"),
        ("Europe/Berlin", DateOrder::Ymd, "date", "july 21, 1974 BC", "1974-07-21 BC"),
        ("Asia/Kolkata", DateOrder::Dmy, "date", "01/02/03", "2003-02-01"),
        ("UTC", DateOrder::Mdy, "date", "01/02/03", "2003-01-02"),
        ("UTC", DateOrder::Ymd, "date", "01/02/03", "2001-02-03"),
        ("America/New_York", DateOrder::Mdy, "timestamptz", "2024-01-02 03:04:05Z", "2024-01-01 22:04:05-05"),
        ("<+05:30>-05:30", DateOrder::Mdy, "timestamptz", "2024-01-02 03:04:05", "2024-01-02 03:04:05+05:30"),
    ];
    for (zone, date_order, name, input, expected) in cases {
        let time_zone = TimeZone::parse(zone).expect("a zone");
        let settings = FormatSettings { time_zone, date_order, now_us: None };
        let sql_type = sql_type(name);
        let array = parse(input, &sql_type, &settings).expect(input);
        assert_eq!(text_of(&array, &sql_type, &settings), expected, "{input}");
    }
}

#[test]
fn words_that_mean_now_need_a_now() {
    let settings = FormatSettings { now_us: Some(1_704_164_645_600_000), ..FormatSettings::default() };
    for (input, expected) in [("now", "2024-01-02 03:04:05.6"), ("tomorrow", "2024-01-03 00:00:00")] {
        let array = parse(input, &SqlType::Timestamp, &settings).expect(input);
        assert_eq!(text_of(&array, &SqlType::Timestamp, &settings), expected);
        let refused = parse(input, &SqlType::Timestamp, &FormatSettings::default()).expect_err(input);
        assert_eq!(refused.state(), crate::SqlState::FEATURE_NOT_SUPPORTED);
    }
}
