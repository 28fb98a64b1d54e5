//! Tests of the Nexmark tables: ranges, projections, references between the tables, distributions.

use std::collections::HashMap;

use super::*;
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;

use crate::random::{Key, below};
use crate::{ColumnDeclaration, SourceOptions, create_source};

fn options(table: &str, more: &[(&str, &str)]) -> SourceOptions {
    let base = [("connector", "nexmark"), ("table", table)];
    SourceOptions::new(base.into_iter().chain(more.iter().copied())).unwrap()
}

fn source(table: &str, more: &[(&str, &str)]) -> Arc<dyn Source> {
    create_source(&options(table, more)).unwrap()
}

fn read_all(source: &dyn Source, offsets: Range<u64>) -> RecordBatch {
    let all: Vec<usize> = (0..source.schema().fields().len()).collect();
    source.read(offsets, &all).unwrap()
}

fn bigint<'a>(batch: &'a RecordBatch, column: &str) -> &'a [i64] {
    batch.column_by_name(column).unwrap().as_primitive::<Int64Type>().values()
}

fn times<'a>(batch: &'a RecordBatch, column: &str) -> &'a [i64] {
    batch.column_by_name(column).unwrap().as_primitive::<TimestampMicrosecondType>().values()
}

fn text_bytes(batch: &RecordBatch, column: &str) -> usize {
    batch.column_by_name(column).unwrap().as_string_view().iter().map(|v| v.unwrap().len()).sum()
}

#[test]
fn any_split_of_a_range_gives_the_same_rows() {
    for table in ["person", "auction", "bid"] {
        let source = source(table, &[("seed", "7")]);
        for case in 0..30u64 {
            let key = Key::new(case, "split");
            let start = below(key.word(0), 10_000);
            let end = start + below(key.word(1), 500);
            let whole = read_all(&*source, start..end);
            let mut parts = Vec::new();
            let mut at = start;
            for i in 2.. {
                let to = (at + below(key.word(i), 60)).min(end);
                parts.push(read_all(&*source, at..to));
                at = to;
                if at == end {
                    break;
                }
            }
            assert_eq!(whole, concat_batches(&source.schema(), &parts).unwrap(), "{table} case {case}");
        }
    }
}

#[test]
fn a_projection_agrees_with_the_full_read() {
    for table in ["person", "auction", "bid"] {
        let source = source(table, &[]);
        let n_columns = source.schema().fields().len();
        let full = read_all(&*source, 123..4_567);
        for i in 0..n_columns {
            let one = source.read(123..4_567, &[i]).unwrap();
            assert_eq!(one, full.project(&[i]).unwrap());
        }
        let reversed: Vec<usize> = (0..n_columns).rev().collect();
        assert_eq!(source.read(123..4_567, &reversed).unwrap(), full.project(&reversed).unwrap());
        let none = source.read(123..4_567, &[]).unwrap();
        assert_eq!((none.num_columns(), none.num_rows()), (0, full.num_rows()));
    }
}

#[test]
fn the_mix_is_1_to_3_to_46() {
    let count = |table, offsets| source(table, &[]).read(offsets, &[]).unwrap().num_rows();
    assert_eq!(["person", "auction", "bid"].map(|t| count(t, 0..5_000)), [100, 300, 4_600]);
    for (start, end) in [(0, 1), (1, 4), (3, 7), (49, 51), (77, 1_234)] {
        let sum: usize = ["person", "auction", "bid"].iter().map(|t| count(t, start..end)).sum();
        assert_eq!(sum as u64, end - start);
    }
}

#[test]
fn the_tables_are_consistent() {
    let [persons, auctions, bids] = ["person", "auction", "bid"].map(|t| read_all(&*source(t, &[]), 0..100_000));
    let born = |batch: &RecordBatch| -> HashMap<i64, i64> {
        bigint(batch, "id").iter().copied().zip(times(batch, "date_time").iter().copied()).collect()
    };
    let (person_born, auction_born) = (born(&persons), born(&auctions));
    assert_eq!(person_born.len(), persons.num_rows());
    assert_eq!(auction_born.len(), auctions.num_rows());
    assert_eq!((bigint(&persons, "id")[0], bigint(&auctions, "id")[0]), (1000, 1000));
    let exists = |born: &HashMap<i64, i64>, ids: &[i64], at: &[i64]| {
        ids.iter().zip(at).all(|(id, at)| born.get(id).is_some_and(|born| born < at))
    };
    assert!(exists(&person_born, bigint(&auctions, "seller"), times(&auctions, "date_time")));
    assert!(exists(&person_born, bigint(&bids, "bidder"), times(&bids, "date_time")));
    assert!(exists(&auction_born, bigint(&bids, "auction"), times(&bids, "date_time")));
    let expire = times(&auctions, "expires").iter().zip(times(&auctions, "date_time"));
    assert!(expire.clone().all(|(expires, opens)| expires > opens));
    let life_mean = expire.map(|(e, o)| e - o).sum::<i64>() as f64 / auctions.num_rows() as f64;
    assert!((life_mean / 16.66e6 - 1.0).abs() < 0.05, "mean life {life_mean} us");
}

#[test]
fn hot_ids_have_their_share() {
    let [auctions, bids] = ["auction", "bid"].map(|t| read_all(&*source(t, &[("seed", "3")]), 100_000..400_000));
    let share =
        |values: &[i64], hot: fn(i64) -> bool| values.iter().filter(|v| hot(**v)).count() as f64 / values.len() as f64;
    let near = |share: f64, expected: f64| assert!((share - expected).abs() < 0.01, "{share} is not {expected}");
    near(share(bigint(&bids, "auction"), |id| id % 100 == 0), 0.5 + 0.5 * 0.01);
    near(share(bigint(&bids, "bidder"), |id| id % 100 == 1), 0.75 + 0.25 * 0.01);
    near(share(bigint(&auctions, "seller"), |id| id % 100 == 0), 0.75 + 0.25 * 0.01);
    for category in 10..15 {
        let n = bigint(&auctions, "category").iter().filter(|c| **c == category).count();
        assert!((n as f64 / auctions.num_rows() as f64 - 0.2).abs() < 0.015, "category {category}: {n}");
    }
    // Prices are log-uniform over six decades.
    for decade in 2..8 {
        let (from, to) = (10i64.pow(decade), 10i64.pow(decade + 1));
        let n = bigint(&bids, "price").iter().filter(|p| (from..to).contains(*p)).count();
        near(n as f64 / bids.num_rows() as f64, 1.0 / 6.0);
    }
    let channels = bids.column_by_name("channel").unwrap().as_string_view();
    near(channels.iter().filter(|c| *c == Some("Apple")).count() as f64 / bids.num_rows() as f64, 1.0 / 8.0);
    let cold: std::collections::HashSet<_> = channels.iter().flatten().filter(|c| c.starts_with("channel-")).collect();
    assert!(cold.len() > 9_900, "{} cold channels", cold.len());
}

#[test]
fn records_have_their_mean_size() {
    let size = |table: &str, texts: &[&str], fixed: usize| {
        let batch = read_all(&*source(table, &[]), 0..200_000);
        let bytes: usize = texts.iter().map(|c| text_bytes(&batch, c)).sum();
        fixed as f64 + bytes as f64 / batch.num_rows() as f64
    };
    let person = size("person", &["name", "email_address", "credit_card", "city", "state", "extra"], 8);
    let auction = size("auction", &["item_name", "description", "extra"], 48);
    let bid = size("bid", &["extra"], 32);
    assert!((person - 200.0).abs() < 2.0 && (auction - 500.0).abs() < 2.0 && (bid - 100.0).abs() < 1.0);
}

#[test]
fn texts_look_as_published() {
    let persons = read_all(&*source("person", &[]), 0..50_000);
    let text = |column: &str| persons.column_by_name(column).unwrap().as_string_view().clone();
    let states: std::collections::BTreeSet<_> = text("state").iter().map(|s| s.unwrap().to_owned()).collect();
    assert_eq!(states.into_iter().collect::<Vec<_>>(), ["AZ", "CA", "ID", "OR", "WA", "WY"]);
    assert!(text("city").iter().flatten().any(|c| c == "San Francisco"));
    assert!(text("name").iter().flatten().all(|n| n.split(' ').count() == 2));
    for address in text("email_address").iter().flatten() {
        assert!(address.len() == 17 && address.as_bytes()[7] == b'@' && address.ends_with(".com"), "{address}");
    }
    for card in text("credit_card").iter().flatten() {
        assert!(card.len() == 19 && card.split(' ').all(|p| p.parse::<u16>().is_ok_and(|n| n < 10_000)), "{card}");
    }
}

#[test]
fn event_time_follows_the_options() {
    let first_times = |more: &[(&str, &str)]| times(&read_all(&*source("auction", more), 1..4), "date_time").to_vec();
    let base = BASE_TIME_US;
    assert_eq!(first_times(&[]), [base + 10_000, base + 20_000, base + 30_000]);
    assert_eq!(first_times(&[("rate", "200")]), [base + 5_000, base + 10_000, base + 15_000]);
    assert_eq!(first_times(&[("rate", "200"), ("event_interval_ms", "1")]), [base + 1_000, base + 2_000, base + 3_000]);
    assert_eq!(first_times(&[("event_interval_ms", "0.0005")]), [base, base + 1, base + 1]);
    assert_eq!(first_times(&[("base_time", "1970-01-01 00:00:01")]), [1_010_000, 1_020_000, 1_030_000]);
}

#[test]
fn the_stream_ends_after_its_events() {
    let source = source("bid", &[("events", "100")]);
    assert_eq!(source.end(), Some(100));
    assert_eq!(source.read(90..1_000, &[0]).unwrap().num_rows(), 10);
    assert_eq!(source.read(200..300, &[0]).unwrap().num_rows(), 0);
    assert_eq!(source.rate(), None);
}

#[test]
fn times_beyond_the_range_are_an_error() {
    let source = source("bid", &[("event_interval_ms", "1000000000")]);
    assert!(source.read(0..10, &[5]).is_ok());
    assert_eq!(source.read(0..100_000_000, &[0]).unwrap_err().state().0, "22008");
}

#[test]
fn declared_columns_choose_among_the_tables() {
    let column = |name: &str, sql_type| ColumnDeclaration { name: name.to_owned(), sql_type };
    let declare = |columns| create_source(&options("bid", &[]).with_columns(columns));
    let two = declare(vec![column("price", SqlType::BigInt), column("channel", SqlType::Varchar(None))]).unwrap();
    let full = read_all(&*source("bid", &[]), 0..500);
    assert_eq!(read_all(&*two, 0..500).columns(), full.project(&[2, 3]).unwrap().columns());
    let state = |columns| declare(columns).err().unwrap().state().0;
    assert_eq!(state(vec![column("prize", SqlType::BigInt)]), "42703");
    assert_eq!(state(vec![column("price", SqlType::Text)]), "42804");
}

#[test]
fn option_errors_name_the_option_and_the_connector() {
    let error = |table: &str, more: &[(&str, &str)]| {
        let error = create_source(&options(table, more)).err().unwrap();
        assert_eq!(error.state().0, "22023");
        (error.message().to_owned(), error.fields().hint.clone().unwrap())
    };
    let (message, hint) = error("bid", &[("evens", "10")]);
    assert_eq!(message, "unknown option \"evens\" of connector \"nexmark\"");
    assert_eq!(hint, "options of connector \"nexmark\": table, events, rate, event_interval_ms, base_time, seed");
    assert_eq!(error("bids", &[]).0, "invalid value \"bids\" of option \"table\" of connector \"nexmark\"");
    for (name, value) in [
        ("events", "-1"),
        ("events", "2000000000000000000"),
        ("rate", "0"),
        ("rate", "fast"),
        ("event_interval_ms", "nan"),
        ("base_time", "yesterday"),
        ("seed", "x"),
    ] {
        let expected = format!("invalid value \"{value}\" of option \"{name}\" of connector \"nexmark\"");
        assert_eq!(error("bid", &[(name, value)]).0, expected);
    }
    let missing = SourceOptions::new([("connector", "nexmark")]).unwrap();
    let missing = create_source(&missing).err().unwrap();
    assert_eq!(missing.message(), "option \"table\" of connector \"nexmark\" is missing");
    let other = create_source(&SourceOptions::new([("connector", "kafka")]).unwrap()).err().unwrap();
    assert_eq!(other.message(), "unknown source connector \"kafka\"");
    assert_eq!(SourceOptions::new([("table", "bid")]).unwrap_err().message(), "option \"connector\" is missing");
}
