//! What Postgres answers to a case, where it answers at all: so what is wrong alike in views and in ad-hoc queries is found.

use millstream_testkit::slt::Connection;
use millstream_types::pg::parse_interval;

use super::{Case, Query, Rows, Type, rows_of};
use crate::postgres::Database;

/// Of how many cases one is compared.
const ONE_OF: u64 = 4;

/// Whether the case of a seed is compared with Postgres.
pub(super) fn is_asked(seed: u64) -> bool {
    seed.is_multiple_of(ONE_OF)
}

/// Compares the rows of queries, named by their views, at the end of a case with what Postgres gives; says how many.
///
/// # Errors
/// The first query whose rows differ.
pub(super) async fn compare(database: &Database, case: &Case, ours: &[(String, Rows)]) -> Result<usize, String> {
    let mut session = database.connect().await.map_err(|e| e.to_string())?;
    let compared = compare_in(&mut session, case, ours).await;
    for i in 0..case.tables.len() {
        let drop = format!("DROP TABLE IF EXISTS t{i} CASCADE");
        session.run(&drop).await.map_err(|e| format!("{drop} in Postgres: {e}"))?;
    }
    session.close().await;
    compared
}

async fn compare_in(session: &mut dyn Connection, case: &Case, ours: &[(String, Rows)]) -> Result<usize, String> {
    for statement in case.tables.iter().chain(&case.before).chain(&case.after) {
        session.run(statement).await.map_err(|e| format!("{statement} in Postgres: {e}"))?;
    }
    let mut n_compared = 0;
    for (name, query) in &case.views {
        // What has an error here is compared with nothing, nor is what stands on it.
        if session.run(&format!("CREATE VIEW {name} AS {}", query.sql)).await.is_err() {
            continue;
        }
        let Some((_, ours)) = ours.iter().find(|(of, _)| of == name) else { continue };
        let Ok(theirs) = session.run(&query.sql).await else { continue };
        let (ours, theirs) = (comparable(ours, query), comparable(&rows_of(theirs), query));
        if ours != theirs {
            return Err(format!("the query of {name} in the end:\n  ours     {ours:?}\n  Postgres {theirs:?}"));
        }
        n_compared += 1;
    }
    Ok(n_compared)
}

/// The rows in order, with one form for values that are equal: which of them is shown is open.
fn comparable(rows: &Rows, query: &Query) -> Rows {
    let value = |(value, value_type): (&Option<String>, &Type)| value.as_ref().map(|v| form(v, *value_type));
    let mut rows: Rows = rows.iter().map(|row| row.iter().zip(&query.types).map(value).collect()).collect();
    rows.sort_unstable();
    rows
}

fn form(value: &str, value_type: Type) -> String {
    match value_type {
        Type::Float if value == "-0" => "0".to_owned(),
        Type::Interval => match parse_interval(value) {
            Ok(i) => {
                let days = i128::from(i.months) * 30 + i128::from(i.days);
                (days * 86_400_000_000_000 + i128::from(i.nanoseconds)).to_string()
            }
            Err(_) => value.to_owned(),
        },
        _ => value.to_owned(),
    }
}
