//! The batch run of a Nexmark query with DataFusion: what the engine's result is compared with.
//!
//! The queries are written in Millstream's dialect, so three things are put into DataFusion's words first:
//! - `TUMBLE(r, t, i)` becomes a derived table with `date_bin(i, t)` and its end;
//! - `HOP(r, t, slide, size)` becomes a derived table that joins each row with the windows it lies in;
//! - `to_char` has another language of templates.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::IntervalMonthDayNanoType;
use datafusion::config::Dialect;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::FunctionRegistry;
use datafusion::functions::datetime::planner::DatetimeFunctionPlanner;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use millstream_runtime::Source;
use millstream_types::pg::{FormatSettings, TextColumnBuilder};
use millstream_types::{Error, Result, SqlState, SqlType};

use crate::checksum::Checksum;
use crate::queries::Query;

/// Offsets read at once.
const READ_SIZE: u64 = 20_000;

/// Runs a query over the first `n_events` offsets of its sources.
///
/// # Errors
/// If the query does not run.
pub async fn run(query: &Query, sources: &[(&'static str, Arc<dyn Source>)], n_events: u64) -> Result<Checksum> {
    let mut config = SessionConfig::new();
    config.options_mut().sql_parser.dialect = Dialect::PostgreSQL;
    config.options_mut().sql_parser.parse_float_as_decimal = true;
    let mut context = SessionContext::new_with_config(config);
    // EXTRACT is planned by default only with a feature that nothing else here needs.
    context.register_expr_planner(Arc::new(DatetimeFunctionPlanner)).map_err(external)?;
    for (table, source) in sources {
        let mem_table = MemTable::try_new(source.schema(), vec![read(&**source, n_events)?]).map_err(external)?;
        context.register_table(*table, Arc::new(mem_table)).map_err(external)?;
    }
    let mut stream =
        context.sql(&batch_sql(query.sql)?).await.map_err(external)?.execute_stream().await.map_err(external)?;
    let mut checksum = Checksum::default();
    while let Some(batch) = stream.try_next().await.map_err(external)? {
        checksum.add_batch(&batch)?;
    }
    Ok(checksum)
}

fn read(source: &dyn Source, n_events: u64) -> Result<Vec<RecordBatch>> {
    let all: Vec<usize> = (0..source.schema().fields().len()).collect();
    (0..n_events).step_by(READ_SIZE as usize).map(|at| source.read(at..n_events.min(at + READ_SIZE), &all)).collect()
}

fn external(error: DataFusionError) -> Error {
    Error::internal(format!("batch run: {error}"))
}

/// The query in DataFusion's words.
fn batch_sql(sql: &str) -> Result<String> {
    let mut rewritten = String::new();
    let mut rest = sql;
    while let Some((at, function)) = next_window(rest) {
        let (before, call) = rest.split_at(at);
        let Some(end) = call.find(')') else { return Err(malformed(call)) };
        let args: Vec<_> = call[function.len() + 1..end].split(',').map(str::trim).collect();
        rewritten.push_str(before);
        rewritten.push_str(&match (function, args.as_slice()) {
            ("TUMBLE", [relation, time, size]) => tumble(relation, time, size),
            ("HOP", [relation, time, slide, size]) => hop(relation, time, slide, size)?,
            _ => return Err(malformed(call)),
        });
        rest = &call[end + 1..];
    }
    rewritten.push_str(rest);
    Ok(rewritten.replace("'YYYY-MM-DD'", "'%Y-%m-%d'").replace("'HH24:MI'", "'%H:%M'"))
}

/// The next window function, and where it starts.
fn next_window(sql: &str) -> Option<(usize, &'static str)> {
    let find = |function: &'static str| sql.find(&format!("{function}(")).map(|at| (at, function));
    find("TUMBLE").into_iter().chain(find("HOP")).min()
}

fn tumble(relation: &str, time: &str, size: &str) -> String {
    let start = format!("date_bin({size}, {time})");
    format!("(SELECT *, {start} AS window_start, {start} + {size} AS window_end FROM {relation}) AS tumbled")
}

fn hop(relation: &str, time: &str, slide: &str, size: &str) -> Result<String> {
    let (slide_ns, size_ns) = (interval_ns(slide)?, interval_ns(size)?);
    let slides: Vec<_> =
        (0..size_ns / slide_ns).map(|i| format!("(INTERVAL '{} milliseconds')", i * slide_ns / 1_000_000)).collect();
    let start = format!("date_bin({slide}, {time}) - back");
    Ok(format!(
        "(SELECT {relation}.*, {start} AS window_start, {start} + {size} AS window_end \
         FROM {relation} CROSS JOIN (VALUES {}) AS slides(back)) AS hopped",
        slides.join(", ")
    ))
}

/// The length of `INTERVAL '...'`.
fn interval_ns(sql: &str) -> Result<i64> {
    let text = sql.strip_prefix("INTERVAL '").and_then(|rest| rest.strip_suffix('\'')).ok_or_else(|| malformed(sql))?;
    let mut builder = TextColumnBuilder::new(&SqlType::Interval, &FormatSettings::default(), 1);
    builder.append(text)?;
    let interval = builder.finish().as_primitive::<IntervalMonthDayNanoType>().value(0);
    if interval.nanoseconds <= 0 { Err(malformed(sql)) } else { Ok(interval.nanoseconds) }
}

fn malformed(sql: &str) -> Error {
    Error::user(SqlState::SYNTAX_ERROR, format!("not a window that the batch run knows: {sql}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::nexmark_source;
    use crate::queries::QUERIES;

    #[test]
    fn windows_become_derived_tables() {
        let sql = batch_sql("SELECT a FROM TUMBLE(bid, t, INTERVAL '10 seconds') GROUP BY a").unwrap();
        assert_eq!(
            sql,
            "SELECT a FROM (SELECT *, date_bin(INTERVAL '10 seconds', t) AS window_start, \
             date_bin(INTERVAL '10 seconds', t) + INTERVAL '10 seconds' AS window_end FROM bid) AS tumbled GROUP BY a"
        );
        let sql = batch_sql("FROM HOP(bid, t, INTERVAL '2 seconds', INTERVAL '4 seconds')").unwrap();
        assert!(sql.contains("(VALUES (INTERVAL '0 milliseconds'), (INTERVAL '2000 milliseconds'))"), "{sql}");
        assert!(batch_sql("FROM TUMBLE(bid, t)").is_err());
    }

    /// Row counts of the first 300,000 events that Postgres 15 gives for the same queries over the same rows.
    #[test]
    fn row_counts_are_those_of_postgres() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let expected = [
            276_000, 276_000, 1_881, 1_659, 5, 1_507, 300, 146, 16_856, 78_449, 1, 10_004, 17_982, 87_760, 132_350,
            56_170, 261_908, 276_000,
        ];
        for (query, expected) in QUERIES.iter().zip(expected) {
            let sources: Vec<_> = query.tables.iter().map(|t| (*t, nexmark_source(t, 10.0).unwrap())).collect();
            let checksum = runtime.block_on(run(query, &sources, 300_000)).unwrap();
            assert_eq!(checksum.n_rows, expected, "{}", query.name);
        }
    }
}
