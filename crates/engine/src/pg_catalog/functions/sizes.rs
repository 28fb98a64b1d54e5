//! How large things are.

use std::sync::atomic::Ordering;

use millstream_types::{Error, Result, SqlState};

use super::objects::class_arg;
use crate::live::Body;
use crate::pg_catalog::CatalogView;
use crate::pg_catalog::cell::CellType::{BigInt, Oid, Text};
use crate::pg_catalog::cell::{Cell, int, text};
use crate::pg_catalog::function::Run::{Catalog, Pure};
use crate::pg_catalog::function::Spec;
use crate::pg_catalog::objects::Class;

pub(super) const SPECS: &[Spec] = &[
    Spec::strict("pg_size_pretty", Text, Pure(pg_size_pretty)),
    Spec::strict("pg_table_size", BigInt, Catalog(size)),
    Spec::strict("pg_relation_size", BigInt, Catalog(size)),
    Spec::strict("pg_total_relation_size", BigInt, Catalog(size)),
    Spec::strict("pg_indexes_size", BigInt, Catalog(no_size)),
    Spec::strict("pg_database_size", BigInt, Catalog(database_size)),
    Spec::strict("pg_tablespace_size", BigInt, Catalog(database_size)),
    Spec::strict("pg_relation_filenode", Oid, Pure(same)),
    Spec::strict("pg_tablespace_location", Text, Pure(empty)),
];

/// The state of a relation's dataflow; 0 for what has none.
fn state_bytes(view: &CatalogView, class: Class<'_>) -> i64 {
    let Class::Relation(relation) = class else { return 0 };
    let live = view.engine.clock.relation(relation.id);
    match live.as_deref().map(|l| &l.body) {
        Some(Body::Dataflow { metrics, .. }) => {
            let nodes = metrics.workers.iter().flatten();
            nodes.map(|n| n.state_bytes.load(Ordering::Relaxed) as i64).sum()
        }
        _ => 0,
    }
}

fn size(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    let class = args.first().and_then(|arg| class_arg(view, arg));
    Ok(class.map_or(Cell::Null, |class| int(state_bytes(view, class))))
}

fn no_size(_: &CatalogView, _: &[Cell]) -> Result<Cell> {
    Ok(int(0))
}

fn database_size(view: &CatalogView, _: &[Cell]) -> Result<Cell> {
    Ok(int(view.catalog.relations().map(|r| state_bytes(view, Class::Relation(r))).sum::<i64>()))
}

fn same(args: &[Cell]) -> Result<Cell> {
    Ok(args.first().cloned().unwrap_or(Cell::Null))
}

fn empty(_: &[Cell]) -> Result<Cell> {
    Ok(text(""))
}

/// In the unit in which the number has at most four digits, rounded half away from zero.
fn pg_size_pretty(args: &[Cell]) -> Result<Cell> {
    let size = args
        .first()
        .and_then(Cell::as_int)
        .ok_or_else(|| Error::user(SqlState::UNDEFINED_FUNCTION, "function pg_size_pretty takes a number of bytes"))?;
    const LIMIT: u128 = 10 * 1024;
    let (sign, mut amount) = (if size < 0 { "-" } else { "" }, u128::from(size.unsigned_abs()));
    if amount < LIMIT {
        return Ok(text(format!("{sign}{amount} bytes")));
    }
    // Twice the amount in the next unit, so that the last bit says how to round.
    amount >>= 9;
    let mut units = ["kB", "MB", "GB", "TB", "PB"].into_iter().peekable();
    while let Some(unit) = units.next() {
        if amount < 2 * LIMIT - 1 || units.peek().is_none() {
            return Ok(text(format!("{sign}{} {unit}", amount.div_ceil(2))));
        }
        amount >>= 10;
    }
    Ok(Cell::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_postgres_shows_them() {
        let pretty = |n: i64| pg_size_pretty(&[Cell::Int(n)]);
        // What Postgres 15 answers.
        for (n, shown) in [
            (0, "0 bytes"),
            (10_239, "10239 bytes"),
            (10_240, "10 kB"),
            (10_752, "11 kB"),
            (-10_752, "-11 kB"),
            (10_485_247, "10239 kB"),
            (10_485_248, "10 MB"),
            (1_000_000_000, "954 MB"),
            (1_000_000_000_000_000, "909 TB"),
        ] {
            assert_eq!(pretty(n), Ok(text(shown)), "{n}");
        }
    }
}
