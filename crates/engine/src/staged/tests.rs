//! Staged writes against the definition: one row after the other into a map.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringViewArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use millstream_planner::Catalog;
use millstream_planner::ast::Statement;
use millstream_planner::catalog::{Created, Relation};
use millstream_planner::parser::parse;

use super::*;

type Rows = BTreeMap<String, Option<i64>>;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// `k` is the key, a text or a bigint.
fn relation(key_type: &str) -> Arc<Relation> {
    let parsed = parse(&format!("CREATE TABLE t (k {key_type} PRIMARY KEY, v bigint)")).unwrap().remove(0);
    let Statement::CreateTable(create) = parsed.statement else { panic!("a table") };
    let mut catalog = Catalog::new();
    match catalog.create_table(&create).unwrap() {
        Created::New(relation) => relation,
        _ => panic!("it is new"),
    }
}

fn batch(relation: &Relation, rows: &[(String, Option<i64>)]) -> RecordBatch {
    let keys: ArrayRef = match relation.columns[0].sql_type {
        millstream_types::SqlType::Text => {
            Arc::new(rows.iter().map(|r| Some(r.0.as_str())).collect::<StringViewArray>())
        }
        _ => Arc::new(rows.iter().map(|r| r.0.parse::<i64>().unwrap()).collect::<Int64Array>()),
    };
    let values: ArrayRef = Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>());
    under(relation, vec![keys, values], rows.len()).unwrap()
}

fn rows_of(batch: &RecordBatch) -> Vec<(String, Option<i64>)> {
    let key = |i: usize| match batch.column(0).as_string_view_opt() {
        Some(texts) => texts.value(i).to_owned(),
        None => batch.column(0).as_primitive::<Int64Type>().value(i).to_string(),
    };
    let values = batch.column(1).as_primitive::<Int64Type>();
    (0..batch.num_rows()).map(|i| (key(i), values.is_valid(i).then(|| values.value(i)))).collect()
}

/// The base's rows that have one of the keys.
fn found(relation: &Relation, base: &Rows, keys: &[(String, Option<i64>)]) -> KeyedRows {
    let wanted: std::collections::BTreeSet<&String> = keys.iter().map(|k| &k.0).collect();
    let rows: Vec<_> = wanted.into_iter().filter_map(|k| base.get(k).map(|v| (k.clone(), *v))).collect();
    let mut found = KeyedRows::empty_of(relation);
    found.push(batch(relation, &rows)).unwrap();
    found.index();
    found
}

/// Adds the new value where the old one is not null.
fn add_where_not_null() -> Conflict {
    Conflict::Update(Arc::new(|old: &RecordBatch, new: &RecordBatch| {
        let (o, n) = (old.column(1).as_primitive::<Int64Type>(), new.column(1).as_primitive::<Int64Type>());
        let applies: BooleanArray = (0..old.num_rows()).map(|i| Some(o.is_valid(i))).collect();
        let sums: Int64Array = o.iter().zip(n).map(|(o, n)| o.map(|o| o + n.unwrap_or(0))).collect();
        let columns = vec![old.column(0).clone(), Arc::new(sums) as ArrayRef];
        let all = RecordBatch::try_new(old.schema(), columns)?;
        Ok((applies.clone(), filter_record_batch(&all, &applies)?))
    }))
}

/// One row after the other; the rows as they were if one fails.
fn insert(rows: &mut Rows, new: &[(String, Option<i64>)], conflict: &Conflict) -> bool {
    let before = rows.clone();
    let mut own = std::collections::BTreeSet::new();
    for (k, v) in new {
        let Some(old) = rows.get(k).copied() else {
            rows.insert(k.clone(), *v);
            own.insert(k);
            continue;
        };
        match conflict {
            Conflict::Ignore => {}
            Conflict::Overwrite => {
                rows.insert(k.clone(), *v);
            }
            Conflict::UpdateIfNotNull => {
                rows.insert(k.clone(), v.or(old));
            }
            Conflict::Update(_) | Conflict::Move(_) if !own.contains(k) => {
                if let Some(old) = old {
                    rows.insert(k.clone(), Some(old + v.unwrap_or(0)));
                    own.insert(k);
                }
            }
            Conflict::Error | Conflict::Update(_) | Conflict::Move(_) => {
                *rows = before;
                return false;
            }
        }
    }
    true
}

/// What the staged writes make of the base.
fn applied(staged: &mut Staged, base: &Rows) -> Rows {
    let mut rows = base.clone();
    let (removed, added) = staged.parts().unwrap();
    for (k, v) in removed.alive().unwrap().iter().flat_map(rows_of) {
        assert_eq!(rows.remove(&k), Some(v), "a removed row is of the base");
    }
    for (k, v) in added.iter().flat_map(rows_of) {
        assert_eq!(rows.insert(k, v), None, "an added row's key is free");
    }
    rows
}

fn run(seed: u64, key_type: &str) {
    let relation = relation(key_type);
    let mut random = Random(seed);
    let base: Rows = (0..random.below(20)).map(|k| (k.to_string(), Some(k as i64).filter(|k| k % 3 > 0))).collect();
    let mut staged = Staged::new(&relation);
    let mut model = base.clone();
    let mut marks: Vec<(Mark, Rows)> = Vec::new();
    for _ in 0..30 {
        let n = 1 + random.below(12);
        let mut some: Vec<(String, Option<i64>)> = (0..n)
            .map(|_| (random.below(30).to_string(), Some(random.below(100) as i64).filter(|v| v % 4 > 0)))
            .collect();
        match random.below(9) {
            0 => marks.push((staged.mark(), model.clone())),
            1 => {
                if let Some((mark, rows)) = marks.pop() {
                    staged.rollback_to(mark);
                    model = rows;
                }
            }
            2 | 3 => {
                // Rows that are there go, or get other values.
                some.dedup_by(|a, b| a.0 == b.0);
                let old: BTreeMap<_, _> =
                    some.iter().filter_map(|(k, _)| model.get(k).map(|v| (k.clone(), *v))).collect();
                let old: Vec<_> = old.into_iter().collect();
                let deletes = random.below(2) == 0;
                let new: Vec<_> = old.iter().map(|(k, v)| (k.clone(), v.map(|v| v + 1))).collect();
                let new_batch = (!deletes).then(|| batch(&relation, &new));
                let nothing = KeyedRows::empty_of(&relation);
                staged.change(&batch(&relation, &old), new_batch.as_ref(), &nothing).unwrap();
                model.retain(|k, _| old.iter().all(|(o, _)| o != k));
                if !deletes {
                    model.extend(new);
                }
            }
            kind => {
                let conflict = match kind {
                    4 => Conflict::Error,
                    5 => Conflict::Ignore,
                    6 => Conflict::Overwrite,
                    7 => Conflict::UpdateIfNotNull,
                    _ => add_where_not_null(),
                };
                let (mark, since) = (staged.mark(), staged.n_added());
                let found = found(&relation, &base, &some);
                let known = Known { found: &found, moved: None };
                let outcome = staged.insert(&batch(&relation, &some), &conflict, known, since);
                if outcome.is_err() {
                    staged.rollback_to(mark);
                }
                assert_eq!(outcome.is_ok(), insert(&mut model, &some, &conflict), "seed {seed}: {some:?}");
            }
        }
        assert_eq!(applied(&mut staged, &base), model, "seed {seed}");
    }
    // Taken over by somebody else, with the base looked up again, it comes to the same.
    let (removed, added) = staged.parts().unwrap();
    let all: Vec<_> = base.iter().map(|(k, v)| (k.clone(), *v)).collect();
    let mut other = Staged::new(&relation);
    let merged = other.merge(removed.batches(), &added, Some(&found(&relation, &base, &all)));
    assert!(merged.is_ok(), "seed {seed}: nothing has changed");
    assert_eq!(applied(&mut other, &base), model, "seed {seed}");
    let weights: i64 = other
        .into_deltas()
        .unwrap()
        .iter()
        .flat_map(|d| (0..d.n_rows()).map(|i| d.weight(i)).collect::<Vec<_>>())
        .sum();
    assert_eq!(weights, model.len() as i64 - base.len() as i64, "seed {seed}");
}

#[test]
fn staged_writes_do_what_one_row_after_the_other_does() {
    for seed in 0..300 {
        run(seed, "bigint");
        run(seed, "text");
    }
}

#[test]
fn a_base_that_has_changed_is_noticed() {
    let relation = relation("bigint");
    let row = |k: &str, v: i64| (k.to_owned(), Some(v));
    let merge = |removed: &[(String, Option<i64>)], added: &[(String, Option<i64>)], base: Rows| {
        let all: Vec<_> = removed.iter().chain(added).cloned().collect();
        let mut staged = Staged::new(&relation);
        let found = found(&relation, &base, &all);
        staged.merge(&[batch(&relation, removed)], &[batch(&relation, added)], Some(&found))
    };
    let base: Rows = [row("1", 1)].into();
    assert!(merge(&[row("1", 1)], &[row("1", 2)], base.clone()).is_ok());
    assert!(matches!(merge(&[row("1", 0)], &[], base.clone()), Err(Clash::Changed)));
    assert!(matches!(merge(&[row("2", 0)], &[], base.clone()), Err(Clash::Changed)));
    assert!(matches!(merge(&[], &[row("2", 0), row("1", 0)], base), Err(Clash::Taken(_, 1))));
}
