//! The Nexmark stream: persons, auctions and bids of an auction house, generated as columns.
//!
//! One sequence of events feeds three tables. Of every fifty events the first is a person, the next three are auctions
//! and the remaining 46 are bids; an offset counts events of all kinds, so the three tables stay consistent with one
//! another when they are read up to the same offset. Every value is a function of (seed, event number, field): any
//! range and any projection can be generated alone.
//!
//! Meanings and distributions are those of the public generator (Apache Beam, `nexmark/nexmark`), with two exceptions:
//! ids never run ahead (the public generator lets one in ten cold ids point at an auction or person still to come), and
//! times are in microseconds. Mean record sizes are 200, 500 and 100 bytes for person, auction and bid, `extra`
//! padding what is missing; a bid's channel and url do not count, as in the public generator.
//!
//! Options:
//!
//! | option | meaning | default |
//! |---|---|---|
//! | `table` | `person`, `auction` or `bid` | none: must be given |
//! | `events` | the stream ends after so many events of all kinds | never |
//! | `rate` | events of all kinds that become available each second | `unlimited` |
//! | `event_interval_ms` | event time between two events, fractions allowed | 1000 / `rate`; 10 without a rate |
//! | `base_time` | event time of the first event | `2015-07-15 00:00:00` |
//! | `seed` | another seed gives other values, with the same ids and times | 0 |

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, Schema, SchemaRef, TimestampMicrosecondType};
use millstream_runtime::Source;
use millstream_types::{Error, Result, SqlState, SqlType};

use crate::literal;
use crate::options::{OptionReader, SourceOptions};
use events::{Clock, Rows, Table};
use model::Model;

mod auction;
mod bid;
mod channels;
mod events;
mod model;
mod person;
#[cfg(test)]
mod tests;

const OPTIONS: &[&str] = &["table", "events", "rate", "event_interval_ms", "base_time", "seed"];
/// 2015-07-15 00:00:00 UTC, the base time of the first implementation, in microseconds.
const BASE_TIME_US: i64 = 1_436_918_400_000_000;
/// No stream has more events: ids and the arithmetic on event numbers stay within 64 bits.
const EVENTS_MAX: u64 = 1 << 60;

/// A column of one of the tables.
struct Column {
    name: &'static str,
    sql_type: SqlType,
    generate: fn(&Model, &Rows) -> ArrayRef,
}

/// One of the three Nexmark tables, as a stream.
pub struct NexmarkSource {
    table: Table,
    columns: Vec<&'static Column>,
    schema: SchemaRef,
    events: Option<u64>,
    rate: Option<f64>,
    model: Model,
}

impl NexmarkSource {
    /// Reads the options. Declared columns may be any of the table's, in any order; without a declaration there are
    /// all of them.
    ///
    /// # Errors
    /// 22023 for options, 42703 and 42804 for declared columns that the table does not have.
    pub fn from_options(options: &SourceOptions) -> Result<Self> {
        let reader = OptionReader::new(options, OPTIONS, |_| false)?;
        reader.required("table")?;
        let table = reader.parse("table", "person, auction or bid", Table::of_name)?.expect("it is given");
        let rate = reader.rate()?;
        let interval_ms = reader.parse("event_interval_ms", "a positive number of milliseconds", |text| {
            text.trim().parse().ok().filter(|ms: &f64| ms.is_finite() && *ms > 0.0)
        })?;
        let interval_ms = interval_ms.unwrap_or_else(|| rate.map_or(10.0, |rate| 1000.0 / rate));
        let base_time_us = reader.parse("base_time", "a timestamp like 2015-07-15 00:00:00", parse_timestamp)?;
        let events = reader.count("events")?;
        if events.is_some_and(|events| events > EVENTS_MAX) {
            return Err(reader.malformed("events", &format!("at most {EVENTS_MAX}")));
        }
        let columns = select_columns(table, options)?;
        let fields: Vec<_> = columns.iter().map(|c| Field::new(c.name, c.sql_type.arrow_type(), true)).collect();
        let clock = Clock::new(base_time_us.unwrap_or(BASE_TIME_US), interval_ms);
        Ok(NexmarkSource {
            table,
            columns,
            schema: Arc::new(Schema::new(fields)),
            events,
            rate,
            model: Model::new(reader.count("seed")?.unwrap_or(0), clock),
        })
    }
}

impl Source for NexmarkSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn end(&self) -> Option<u64> {
        self.events
    }

    fn rate(&self) -> Option<f64> {
        self.rate
    }

    fn read(&self, offsets: Range<u64>, projection: &[usize]) -> Result<RecordBatch> {
        let end = offsets.end.min(self.events.unwrap_or(u64::MAX));
        if end > EVENTS_MAX || !self.model.clock.can_tell(end) {
            return Err(Error::user(
                SqlState::DATETIME_FIELD_OVERFLOW,
                format!("event {end} of the nexmark stream is beyond the range of timestamps"),
            ));
        }
        let rows = Rows::new(self.table, offsets.start.min(end)..end);
        let columns = projection.iter().map(|&i| (self.columns[i].generate)(&self.model, &rows)).collect();
        let schema = Arc::new(self.schema.project(projection)?);
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }
}

fn parse_timestamp(text: &str) -> Option<i64> {
    let value = literal::parse(text, &SqlType::Timestamp)?;
    Some(value.as_primitive::<TimestampMicrosecondType>().value(0))
}

/// The table's columns that the declaration names, or all.
fn select_columns(table: Table, options: &SourceOptions) -> Result<Vec<&'static Column>> {
    let all = match table {
        Table::Person => person::COLUMNS,
        Table::Auction => auction::COLUMNS,
        Table::Bid => bid::COLUMNS,
    };
    if options.columns.is_empty() {
        return Ok(all.iter().collect());
    }
    let find = |declared: &crate::ColumnDeclaration| {
        let Some(column) = all.iter().find(|c| c.name == declared.name) else {
            let names: Vec<_> = all.iter().map(|c| c.name).collect();
            let message = format!("table {table} of connector \"nexmark\" has no column \"{}\"", declared.name);
            return Err(Error::user(SqlState::UNDEFINED_COLUMN, message)
                .with_hint(format!("columns of {table}: {}", names.join(", "))));
        };
        if declared.sql_type.arrow_type() != column.sql_type.arrow_type() {
            let message = format!("column \"{}\" is of type {}", declared.name, declared.sql_type);
            return Err(Error::user(SqlState::DATATYPE_MISMATCH, message)
                .with_detail(format!("in table {table} of connector \"nexmark\" it is {}", column.sql_type)));
        }
        Ok(column)
    };
    options.columns.iter().map(find).collect()
}
