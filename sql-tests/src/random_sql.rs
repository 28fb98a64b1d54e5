//! Random SQL: views over random queries, kept up to date under random changes, against the same queries ad hoc.
//!
//! A case is a few tables, views over them and over each other, and statements that change the tables. After each
//! statement every view must have the rows that its query gives when it is run by itself. A case that fails is made
//! smaller before it is shown, as a script.

mod generate;
mod shrink;

use std::ops::Range;
use std::time::Duration;

use millstream_testkit::slt::{Connection, Output, SqlError};

use crate::millstream::{self, Handle, Options};
use generate::case;
use shrink::shrink;

/// A case that takes longer hangs.
const CASE_TIMEOUT: Duration = Duration::from_secs(60);

/// A random query.
#[derive(Clone, Debug)]
struct Query {
    /// Its text.
    sql: String,
    /// The queries that it is made of.
    parts: Vec<Query>,
    /// The types of its columns, which are named `c0`, `c1` and so on.
    types: Vec<Type>,
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Number,
    Text,
}

/// What is run.
#[derive(Clone, Debug)]
struct Case {
    /// `CREATE TABLE` statements, of `t0`, `t1` and so on.
    tables: Vec<String>,
    /// Views by name, in the order in which they are made.
    views: Vec<(String, Query)>,
    /// `INSERT`, `UPDATE` and `DELETE` statements; the first come before the views.
    before: Vec<String>,
    /// Those that come after the views.
    after: Vec<String>,
}

impl Case {
    /// The case as a script.
    fn script(&self) -> String {
        let views = self.views.iter().map(|(name, query)| create(name, query));
        let tables = self.tables.iter().chain(&self.before).cloned();
        let statements = tables.chain(views).chain(self.after.iter().cloned());
        statements.map(|s| s + ";\n").collect()
    }
}

fn create(name: &str, query: &Query) -> String {
    format!("CREATE MATERIALIZED VIEW {name} AS {}", query.sql)
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compared {
    /// Views that were made.
    pub n_views: usize,
    /// Views that are refused as not supported.
    pub n_refused: usize,
    /// Comparisons of a view with its query.
    pub n_comparisons: usize,
}

/// Runs the cases of some seeds on one server, and says what was compared. A server that a case broke is replaced.
///
/// # Errors
/// The first case that fails, made smaller, as a script.
pub async fn run_seeds(options: Options, seeds: Range<u64>) -> Result<Compared, String> {
    let mut compared = Compared::default();
    let mut server = millstream::start(options).await?;
    for seed in seeds {
        match run_once(&server, &case(seed)).await {
            Ok(of_case) => compared.add(of_case),
            Err(error) => {
                server.stop().await;
                server = millstream::start(options).await?;
                let fails = async |case: &Case| {
                    let is_failing = run_once(&server, case).await.is_err();
                    if is_failing {
                        let next = millstream::start(options).await;
                        let Ok(next) = next else { return false };
                        std::mem::replace(&mut server, next).stop().await;
                    }
                    is_failing
                };
                let smaller = shrink(case(seed), fails).await;
                let again = run_once(&server, &smaller).await.err().unwrap_or_default();
                server.stop().await;
                return Err(format!("seed {seed}: {error}\nmade smaller:\n{}{again}", smaller.script()));
            }
        }
    }
    server.stop().await;
    Ok(compared)
}

async fn run_once(server: &Handle, case: &Case) -> Result<Compared, String> {
    let mut session = server.connect().await.map_err(|e| e.to_string())?;
    let outcome = tokio::time::timeout(CASE_TIMEOUT, run(&mut session, case)).await;
    session.close().await;
    outcome.unwrap_or_else(|_elapsed| Err(format!("not done after {} seconds", CASE_TIMEOUT.as_secs())))
}

/// Runs a case; leaves nothing behind.
async fn run(session: &mut dyn Connection, case: &Case) -> Result<Compared, String> {
    let outcome = compare(session, case).await;
    for i in 0..case.tables.len() {
        let drop = format!("DROP TABLE IF EXISTS t{i} CASCADE");
        session.run(&drop).await.map_err(|e| format!("{drop}: {}", e))?;
    }
    outcome
}

async fn compare(session: &mut dyn Connection, case: &Case) -> Result<Compared, String> {
    let mut compared = Compared::default();
    for statement in case.tables.iter().chain(&case.before) {
        session.run(statement).await.map_err(|e| format!("{statement}: {}", e))?;
    }
    let mut made = Vec::new();
    for (name, query) in &case.views {
        match session.run(&create(name, query)).await {
            Ok(_) => made.push((name, query)),
            Err(error) if error.state.as_deref() == Some("0A000") => compared.n_refused += 1,
            // It stands on a view that was refused.
            Err(error) if error.state.as_deref() == Some("42P01") => compared.n_refused += 1,
            Err(error) => {
                // What is no query at all is no view.
                if is_internal(&error) || session.run(&query.sql).await.is_ok() {
                    return Err(format!("{name} is not made: {}", error));
                }
            }
        }
    }
    compared.n_views = made.len();
    for statement in std::iter::once("SELECT 1").chain(case.after.iter().map(String::as_str)) {
        session.run(statement).await.map_err(|e| format!("{statement}: {}", e))?;
        for (name, query) in &made {
            let view = session.run(&format!("SELECT * FROM {name}")).await;
            let view = view.map_err(|e| format!("{name} after {statement}: {}", e))?;
            let by_itself = match session.run(&query.sql).await {
                Ok(output) => output,
                Err(error) if error.state.as_deref() == Some("0A000") => continue,
                Err(error) => return Err(format!("the query of {name} after {statement}: {}", error)),
            };
            let (view, by_itself) = (sorted(view), sorted(by_itself));
            if view != by_itself {
                return Err(format!("{name} after {statement}:\n  view  {view:?}\n  query {by_itself:?}"));
            }
            compared.n_comparisons += 1;
        }
    }
    Ok(compared)
}

impl Compared {
    fn add(&mut self, other: Compared) {
        self.n_views += other.n_views;
        self.n_refused += other.n_refused;
        self.n_comparisons += other.n_comparisons;
    }
}

fn is_internal(error: &SqlError) -> bool {
    error.state.as_deref().is_none_or(|state| state.starts_with("XX"))
}

fn sorted(output: Output) -> Vec<Vec<Option<String>>> {
    match output {
        Output::Rows { mut rows, .. } => {
            rows.sort_unstable();
            rows
        }
        Output::Complete(_) => vec![],
    }
}
