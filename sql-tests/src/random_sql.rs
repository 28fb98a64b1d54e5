//! Random SQL: views over random queries, kept up to date under random changes, against the same queries ad hoc.
//!
//! A case is a few tables, views over them and over each other, and statements that change the tables. After each
//! statement every view must have the rows that its query gives when it is run by itself, and at the end of some cases those
//! that Postgres gives. A case that fails is made smaller before it is shown, as a script.

mod generate;
mod oracle;
mod shrink;

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use millstream_testkit::slt::{Connection, Output, SqlError};

use crate::millstream::{self, Handle, Options};
use crate::postgres::Database;
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
    Float,
    Numeric,
    Interval,
    Date,
    Timestamp,
    Boolean,
    /// An array of them.
    Numbers,
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
    /// Comparisons of a query with Postgres.
    pub n_with_postgres: usize,
}

/// Rows of text.
type Rows = Vec<Vec<Option<String>>>;

/// What the cases run on.
struct Servers<'a> {
    ours: Handle,
    /// Nothing where Postgres is not installed.
    postgres: Option<&'a Database>,
}

/// Runs the cases of some seeds on one server, and says what was compared. A server that a case broke is replaced.
///
/// # Errors
/// The first case that fails, made smaller, as a script.
pub async fn run_seeds(options: Options, seeds: Range<u64>, postgres: Option<&Database>) -> Result<Compared, String> {
    let mut compared = Compared::default();
    let mut servers = Servers { ours: millstream::start(options).await?, postgres };
    for seed in seeds {
        servers.postgres = postgres.filter(|_| oracle::is_asked(seed));
        match run_once(&servers, &case(seed)).await {
            Ok(of_case) => compared.add(of_case),
            Err(error) => {
                let next = millstream::start(options).await?;
                std::mem::replace(&mut servers.ours, next).stop().await;
                let fails = async |case: &Case| {
                    let is_failing = run_once(&servers, case).await.is_err();
                    if is_failing {
                        let next = millstream::start(options).await;
                        let Ok(next) = next else { return false };
                        std::mem::replace(&mut servers.ours, next).stop().await;
                    }
                    is_failing
                };
                let smaller = shrink(case(seed), fails).await;
                let again = run_once(&servers, &smaller).await.err().unwrap_or_default();
                servers.ours.stop().await;
                return Err(format!("seed {seed}: {error}\nmade smaller:\n{}{again}", smaller.script()));
            }
        }
    }
    servers.ours.stop().await;
    Ok(compared)
}

async fn run_once(servers: &Servers<'_>, case: &Case) -> Result<Compared, String> {
    let mut session = servers.ours.connect().await.map_err(|e| e.to_string())?;
    let outcome = tokio::time::timeout(CASE_TIMEOUT, async {
        let (mut compared, rows) = run(&mut session, case).await?;
        if let Some(postgres) = servers.postgres {
            compared.n_with_postgres = oracle::compare(postgres, case, &rows).await?;
        }
        Ok(compared)
    });
    let outcome = outcome.await;
    session.close().await;
    outcome.unwrap_or_else(|_elapsed| Err(format!("not done after {} seconds", CASE_TIMEOUT.as_secs())))
}

/// Runs a case; leaves nothing behind. Gives the rows of the queries at the end, by the names of their views.
async fn run(session: &mut dyn Connection, case: &Case) -> Result<(Compared, Vec<(String, Rows)>), String> {
    let outcome = compare(session, case).await;
    for i in 0..case.tables.len() {
        let drop = format!("DROP TABLE IF EXISTS t{i} CASCADE");
        session.run(&drop).await.map_err(|e| format!("{drop}: {}", e))?;
    }
    outcome
}

async fn compare(session: &mut dyn Connection, case: &Case) -> Result<(Compared, Vec<(String, Rows)>), String> {
    let mut last: BTreeMap<String, Rows> = BTreeMap::new();
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
            let (view, by_itself) = (rows_of(view), rows_of(by_itself));
            if view != by_itself {
                return Err(format!("{name} after {statement}:\n  view  {view:?}\n  query {by_itself:?}"));
            }
            compared.n_comparisons += 1;
            last.insert((*name).clone(), by_itself);
        }
    }
    Ok((compared, last.into_iter().collect()))
}

impl Compared {
    fn add(&mut self, other: Compared) {
        self.n_views += other.n_views;
        self.n_refused += other.n_refused;
        self.n_comparisons += other.n_comparisons;
        self.n_with_postgres += other.n_with_postgres;
    }
}

fn is_internal(error: &SqlError) -> bool {
    error.state.as_deref().is_none_or(|state| state.starts_with("XX"))
}

/// The rows, in order.
fn rows_of(output: Output) -> Rows {
    match output {
        Output::Rows { mut rows, .. } => {
            rows.sort_unstable();
            rows
        }
        Output::Complete(_) => vec![],
    }
}
