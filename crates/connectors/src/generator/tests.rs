//! Tests of the general generator: ranges, projections, distributions, options.

use super::*;
use arrow::array::{Array, AsArray};
use arrow::compute::{self, concat_batches};
use arrow::datatypes::*;
use millstream_types::SqlType;

use crate::random::below;
use crate::{BoundExpr, create_source};

fn declare(columns: &[(&str, SqlType)]) -> Vec<ColumnDeclaration> {
    columns.iter().map(|(name, t)| ColumnDeclaration { name: (*name).to_owned(), sql_type: t.clone() }).collect()
}

fn options(columns: &[(&str, SqlType)], more: &[(&str, &str)]) -> SourceOptions {
    let base = [("connector", "generator")];
    SourceOptions::new(base.into_iter().chain(more.iter().copied())).unwrap().with_columns(declare(columns))
}

fn source(columns: &[(&str, SqlType)], more: &[(&str, &str)]) -> Arc<dyn Source> {
    create_source(&options(columns, more)).unwrap_or_else(|error| panic!("{error}"))
}

/// The first `n_rows` values of a column of this type and distribution.
fn values(sql_type: SqlType, distribution: &str, n_rows: u64) -> ArrayRef {
    source(&[("v", sql_type)], &[("col.v", distribution)]).read(0..n_rows, &[0]).unwrap().column(0).clone()
}

fn bigints(distribution: &str, n_rows: u64) -> Vec<i64> {
    values(SqlType::BigInt, distribution, n_rows).as_primitive::<Int64Type>().values().to_vec()
}

/// A column of every type.
fn every_type() -> Vec<(&'static str, SqlType)> {
    let array = |element| SqlType::Array(Box::new(element));
    vec![
        ("boolean", SqlType::Boolean),
        ("smallint", SqlType::SmallInt),
        ("integer", SqlType::Integer),
        ("bigint", SqlType::BigInt),
        ("real", SqlType::Real),
        ("double", SqlType::Double),
        ("numeric", SqlType::Numeric(None)),
        ("numeric_10_2", SqlType::Numeric(Some((10, 2)))),
        ("numeric_5_5", SqlType::Numeric(Some((5, 5)))),
        ("numeric_3_0", SqlType::Numeric(Some((3, 0)))),
        ("text", SqlType::Text),
        ("varchar", SqlType::Varchar(None)),
        ("varchar_5", SqlType::Varchar(Some(5))),
        ("char_20", SqlType::Char(20)),
        ("bytea", SqlType::Bytea),
        ("date", SqlType::Date),
        ("time", SqlType::Time),
        ("timestamp", SqlType::Timestamp),
        ("timestamptz", SqlType::Timestamptz),
        ("interval", SqlType::Interval),
        ("bigints", array(SqlType::BigInt)),
        ("texts", array(SqlType::Text)),
        ("matrix", array(array(SqlType::Double))),
    ]
}

#[test]
fn every_type_has_a_default() {
    let columns = every_type();
    let source = source(&columns, &[("rate", "100")]);
    let all: Vec<usize> = (0..columns.len()).collect();
    let batch = source.read(0..1_000, &all).unwrap();
    for (i, (name, sql_type)) in columns.iter().enumerate() {
        assert_eq!(*batch.column(i).data_type(), sql_type.arrow_type(), "{name}");
        assert_eq!(batch.column(i).null_count(), 0, "{name}");
    }
    let step = batch.column_by_name("timestamp").unwrap().as_primitive::<TimestampMicrosecondType>();
    assert_eq!(step.value(1) - step.value(0), 10_000);
    assert!(batch.column_by_name("char_20").unwrap().as_string_view().iter().flatten().all(|v| v.len() == 20));
    assert!(batch.column_by_name("varchar_5").unwrap().as_string_view().iter().flatten().all(|v| v.len() == 5));
}

#[test]
fn splits_and_projections_agree_with_the_full_read() {
    let columns = every_type();
    let source = source(&columns, &[("seed", "5"), ("col.bigint", "null(0.2, zipf(100, 1.2))")]);
    let all: Vec<usize> = (0..columns.len()).collect();
    for case in 0..10 {
        let key = Key::new(case, "split");
        let start = below(key.word(0), 1 << 40);
        let middle = start + below(key.word(1), 200);
        let end = middle + below(key.word(2), 200);
        let whole = source.read(start..end, &all).unwrap();
        let parts = [source.read(start..middle, &all).unwrap(), source.read(middle..end, &all).unwrap()];
        assert_eq!(whole, concat_batches(&source.schema(), &parts).unwrap(), "case {case}");
        let some = [below(key.word(3), 23) as usize, below(key.word(4), 23) as usize];
        assert_eq!(source.read(start..end, &some).unwrap(), whole.project(&some).unwrap(), "case {case}");
    }
    assert_eq!(source.read(7..19, &[]).unwrap().num_rows(), 12);
}

#[test]
fn seeds_and_columns_are_independent() {
    let columns = [("a", SqlType::BigInt), ("b", SqlType::BigInt)];
    let read = |seed| source(&columns, &[("seed", seed)]).read(0..100, &[0, 1]).unwrap();
    assert_eq!(read("1"), read("1"));
    assert_ne!(read("1"), read("2"));
    assert_ne!(read("1").column(0), read("1").column(1));
}

#[test]
fn sequences_count() {
    assert_eq!(bigints("sequence(1)", 4), [1, 2, 3, 4]);
    assert_eq!(bigints("sequence(10, -5)", 4), [10, 5, 0, -5]);
    let numeric = values(SqlType::Numeric(Some((6, 2))), "sequence(1.50, 0.25)", 3);
    assert_eq!(numeric.as_primitive::<Decimal128Type>().values(), &[150, 175, 200]);
    let double = values(SqlType::Double, "sequence(0.5)", 3);
    assert_eq!(double.as_primitive::<Float64Type>().values(), &[0.5, 1.5, 2.5]);
    let small = source(&[("v", SqlType::SmallInt)], &[("col.v", "sequence(1)")]);
    assert!(small.read(0..32_767, &[0]).is_ok());
    let error = small.read(32_760..32_768, &[0]).unwrap_err();
    assert_eq!((error.state().0, error.fields().detail.as_deref()), ("22003", Some("in generated column \"v\"")));
}

#[test]
fn times_advance() {
    let stamps = values(SqlType::Timestamptz, "timestamp('2024-02-29 12:00:00+00', '250 ms')", 3);
    let stamps = stamps.as_primitive::<TimestampMicrosecondType>();
    assert_eq!(stamps.value(0), 1_709_208_000_000_000);
    assert_eq!(stamps.value(2) - stamps.value(0), 500_000);
    let days = values(SqlType::Date, "timestamp(1970-01-01, 12 hours)", 5);
    assert_eq!(days.as_primitive::<Date32Type>().values(), &[0, 0, 1, 1, 2]);
    let times = values(SqlType::Time, "timestamp(23:00:00, 30 minutes)", 4);
    let minutes: Vec<_> =
        times.as_primitive::<Time64MicrosecondType>().values().iter().map(|t| t / 60_000_000).collect();
    assert_eq!(minutes, [1380, 1410, 0, 30]);
}

#[test]
fn uniform_includes_its_bounds() {
    let mut counts = [0; 6];
    bigints("uniform(-2, 3)", 6_000).iter().for_each(|v| counts[(v + 2) as usize] += 1);
    assert!(counts.iter().all(|c| (850..1_150).contains(c)), "{counts:?}");
    let extremes = bigints("uniform(-9223372036854775808, 9223372036854775807)", 1_000);
    assert!(extremes.iter().filter(|v| **v < 0).count() > 400);
    let wide = values(SqlType::Numeric(Some((38, 0))), &format!("uniform(-{0}, {0})", "9".repeat(38)), 100);
    assert!(wide.as_primitive::<Decimal128Type>().values().iter().any(|v| v.unsigned_abs() > 1 << 120));
    let cents = values(SqlType::Numeric(None), "uniform(0, 5)", 100);
    assert!(cents.as_primitive::<Decimal128Type>().values().iter().all(|v| v % 10i128.pow(14) == 0));
    let time = values(SqlType::Interval, "uniform('-1 hour', '1 day')", 500);
    let nanos = time.as_primitive::<IntervalMonthDayNanoType>().values().iter().map(|v| v.nanoseconds);
    assert!(nanos.clone().max().unwrap() > 80_000_000_000_000 && nanos.min().unwrap() < 0);
    let float = values(SqlType::Real, "uniform(10, 20)", 1_000);
    assert!(float.as_primitive::<Float32Type>().values().iter().all(|v| (10.0..=20.0).contains(v)));
}

#[test]
fn normal_has_its_moments() {
    let values = values(SqlType::Double, "normal(50, 10)", 20_000);
    let values = values.as_primitive::<Float64Type>().values();
    let mean = values.iter().sum::<f64>() / 20_000.0;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 20_000.0;
    assert!((mean - 50.0).abs() < 0.3 && (variance.sqrt() - 10.0).abs() < 0.3, "{mean} {variance}");
    let within = values.iter().filter(|v| (40.0..60.0).contains(*v)).count();
    assert!((13_300..14_000).contains(&within), "{within} within one deviation");
    assert!(bigints("normal(0, 1)", 1_000).iter().all(|v| v.abs() < 6));
}

#[test]
fn zipf_has_its_frequencies() {
    for (n, exponent) in [(1_000u32, 1.1), (10, 1.0), (50, 0.5), (3, 2.5), (1, 1.0)] {
        let values = bigints(&format!("zipf({n}, {exponent})"), 50_000);
        assert!(values.iter().all(|v| (1..=i64::from(n)).contains(v)));
        let total: f64 = (1..=n).map(|k| f64::from(k).powf(-exponent)).sum();
        for k in 1..=n.min(5) {
            let expected = 50_000.0 * f64::from(k).powf(-exponent) / total;
            let n_k = values.iter().filter(|v| **v == i64::from(k)).count() as f64;
            assert!((n_k - expected).abs() < 5.0 * expected.sqrt() + 1.0, "zipf({n}, {exponent}): {n_k} of {k}");
        }
    }
    assert!(bigints("zipf(1000000000000, 1.01)", 1_000).iter().any(|v| *v > 1_000_000));
}

#[test]
fn choices_are_values_of_the_type() {
    let texts = values(SqlType::Text, "choice(red, 'light, blue', 'it''s')", 300);
    let texts: std::collections::BTreeSet<_> = texts.as_string_view().iter().flatten().collect();
    assert_eq!(texts.into_iter().collect::<Vec<_>>(), ["it's", "light, blue", "red"]);
    assert!(values(SqlType::Char(4), "choice(a, abcd)", 50).as_string_view().iter().flatten().all(|v| v.len() == 4));
    let bytes = values(SqlType::Bytea, r"choice('\x00ff')", 1);
    assert_eq!(bytes.as_binary_view().value(0), [0, 255]);
    let dates = values(SqlType::Date, "choice(1970-01-02)", 2);
    assert_eq!(dates.as_primitive::<Date32Type>().values(), &[1, 1]);
    let arrays = values(SqlType::Array(Box::new(SqlType::Integer)), "choice('{1,2}', {})", 100);
    let lengths: std::collections::BTreeSet<_> = arrays.as_list::<i32>().iter().flatten().map(|a| a.len()).collect();
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [0, 2]);
    let booleans = values(SqlType::Boolean, "bernoulli(0.1)", 10_000);
    assert!((900..1_100).contains(&booleans.as_boolean().true_count()));
}

#[test]
fn nulls_and_arrays_nest() {
    let column = values(SqlType::BigInt, "null(0.25, sequence(0))", 10_000);
    assert!((2_300..2_700).contains(&column.null_count()));
    assert_eq!(column.as_primitive::<Int64Type>().iter().flatten().zip(0..).filter(|(v, i)| v < i).count(), 0);
    let arrays =
        values(SqlType::Array(Box::new(SqlType::Text)), "null(0.1, array(2, 5, null(0.5, text(1, 3))))", 1_000);
    let arrays = arrays.as_list::<i32>();
    assert!((50..150).contains(&arrays.null_count()));
    let lengths: std::collections::BTreeSet<_> = arrays.iter().flatten().map(|a| a.len()).collect();
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert!(arrays.values().null_count() > 1_000);
}

/// A binder of sums: `a + b` over bigint columns.
fn sum_binder() -> crate::ExprBinder {
    Arc::new(|text, schema, sql_type| {
        assert_eq!(*sql_type, SqlType::BigInt);
        let inputs = text.split('+').map(|name| schema.index_of(name.trim())).collect::<Result<Vec<_>, _>>()?;
        let evaluate = |batch: &RecordBatch| {
            let mut sum = vec![0; batch.num_rows()];
            for column in batch.columns() {
                sum.iter_mut().zip(column.as_primitive::<Int64Type>().values()).for_each(|(sum, v)| *sum += v);
            }
            Ok(Arc::new(Int64Array::from(sum)) as ArrayRef)
        };
        Ok(BoundExpr { inputs, evaluate: Arc::new(evaluate) })
    })
}

#[test]
fn expressions_read_the_row_number_and_earlier_columns() {
    let columns = [("a", SqlType::BigInt), ("b", SqlType::BigInt), ("c", SqlType::BigInt), ("d", SqlType::BigInt)];
    let more = [
        ("col.a", "sequence(100)"),
        ("col.b", "expr(n + n)"),
        ("col.c", "expr(a + b + n)"),
        ("col.d", "null(0.5, expr( c ))"),
    ];
    let options = options(&columns, &more).with_binder(sum_binder());
    let source = create_source(&options).unwrap();
    let batch = source.read(10..13, &[2, 0]).unwrap();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[140, 144, 148]);
    assert_eq!(batch.column(1).as_primitive::<Int64Type>().values(), &[110, 111, 112]);
    let nullable = source.read(0..1_000, &[3, 2]).unwrap();
    assert!((400..600).contains(&nullable.column(0).null_count()));
    let equal = arrow::compute::kernels::cmp::eq(nullable.column(0), nullable.column(1)).unwrap();
    assert_eq!(equal.true_count(), 1_000 - equal.null_count());
    assert!(compute::is_null(nullable.column(0)).unwrap().true_count() > 0);
    // A later column is not known.
    let options = super::tests::options(&columns, &[("col.a", "expr(b)")]).with_binder(sum_binder());
    assert!(create_source(&options).is_err());
    let options = super::tests::options(&columns, &[("col.a", "expr(n)")]);
    assert_eq!(create_source(&options).err().unwrap().state().0, "0A000");
}

#[test]
fn a_column_n_hides_the_row_number() {
    let columns = [("n", SqlType::BigInt), ("b", SqlType::BigInt)];
    let options = options(&columns, &[("col.n", "sequence(7)"), ("col.b", "expr(n)")]).with_binder(sum_binder());
    let batch = create_source(&options).unwrap().read(0..2, &[1]).unwrap();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[7, 8]);
}

#[test]
fn rows_end_and_rate_is_told() {
    let source = source(&[("v", SqlType::BigInt)], &[("rows", "10"), ("rate", "2.5")]);
    assert_eq!((source.end(), source.rate()), (Some(10), Some(2.5)));
    assert_eq!(source.read(8..20, &[0]).unwrap().num_rows(), 2);
    assert_eq!(source.read(20..30, &[0]).unwrap().num_rows(), 0);
}

#[test]
fn errors_say_what_is_expected() {
    let error = |sql_type: SqlType, distribution: &str| {
        let options = options(&[("v", sql_type)], &[("col.v", distribution)]);
        let error = create_source(&options).err().unwrap_or_else(|| panic!("{distribution} is accepted"));
        assert_eq!(error.state().0, "22023");
        let expected = format!("invalid value \"{distribution}\" of option \"col.v\" of connector \"generator\"");
        assert_eq!(error.message(), expected);
        error.fields().detail.clone().unwrap()
    };
    let no_gauss = error(SqlType::BigInt, "gauss(1, 2)");
    assert!(no_gauss.starts_with("no distribution gauss for type bigint; there are sequence,"), "{no_gauss}");
    assert_eq!(error(SqlType::BigInt, "uniform(1)"), "for type bigint, expected uniform(least, greatest)");
    for (sql_type, distribution) in [
        (SqlType::BigInt, "uniform(2, 1)"),
        (SqlType::BigInt, "uniform(1, 2.5x)"),
        (SqlType::SmallInt, "uniform(1, 100000)"),
        (SqlType::BigInt, "zipf(0, 1)"),
        (SqlType::BigInt, "zipf(10, 0)"),
        (SqlType::Double, "normal(0, -1)"),
        (SqlType::Double, "uniform(0, nan)"),
        (SqlType::Boolean, "bernoulli(2)"),
        (SqlType::Boolean, "bernoulli(0.5, 1)"),
        (SqlType::Varchar(Some(3)), "text(1, 4)"),
        (SqlType::Varchar(Some(3)), "choice(abcd)"),
        (SqlType::Text, "text(1, 10000000)"),
        (SqlType::Text, "choice()"),
        (SqlType::Date, "choice(tomorrow)"),
        (SqlType::Timestamp, "timestamp(2020-01-01 00:00:00, 1 month)"),
        (SqlType::Interval, "uniform(1 month, 2 months)"),
        (SqlType::Array(Box::new(SqlType::BigInt)), "array(1, 2)"),
        (SqlType::Array(Box::new(SqlType::BigInt)), "array(0, 2, text(1, 2))"),
        (SqlType::BigInt, "null(0.1, uniform(2, 1))"),
        (SqlType::BigInt, "null(0.1)"),
        (SqlType::BigInt, "1 + 1"),
    ] {
        error(sql_type, distribution);
    }
}

#[test]
fn options_of_other_columns_are_unknown() {
    let error = create_source(&options(&[("v", SqlType::BigInt)], &[("col.w", "uniform(1, 2)")])).err().unwrap();
    assert_eq!(error.message(), "unknown option \"col.w\" of connector \"generator\"");
    assert_eq!(create_source(&options(&[], &[])).err().unwrap().state().0, "42P16");
}
