//! System relations: what the engine knows of itself, as tables.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use millstream_planner::Catalog;
use millstream_planner::catalog::{Column, Relation};
use millstream_types::{Epoch, Error, Result, SqlType};

use crate::checkpoints::Written;
use crate::engine::EngineState;
use crate::epoch_history::EpochEntry;
use crate::journal::{JournalObserver, JournalState};
use crate::live::{Body, LiveRelation, Stage};
use crate::recovery::Recovered;

/// Makes the system relations known to a new catalog.
pub(crate) fn register(catalog: &mut Catalog) -> Result<()> {
    for (name, columns) in RELATIONS {
        let columns = columns.iter().map(|(name, t)| Column::new(*name, t.sql_type())).collect();
        catalog.create_system("millstream", name, columns)?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum ColumnType {
    Text,
    BigInt,
    Timestamptz,
}

impl ColumnType {
    fn sql_type(self) -> SqlType {
        match self {
            ColumnType::Text => SqlType::Text,
            ColumnType::BigInt => SqlType::BigInt,
            ColumnType::Timestamptz => SqlType::Timestamptz,
        }
    }
}

use ColumnType::{BigInt, Text, Timestamptz};

const RELATIONS: [(&str, &[(&str, ColumnType)]); 10] = [
    (
        "relations",
        &[
            ("id", BigInt),
            ("schema", Text),
            ("name", Text),
            ("kind", Text),
            ("definition", Text),
            ("rows", BigInt),
            ("state_bytes", BigInt),
            ("memory_limit", BigInt),
        ],
    ),
    (
        "jobs",
        &[
            ("id", BigInt),
            ("name", Text),
            ("kind", Text),
            ("state", Text),
            ("progress", Text),
            ("epoch", BigInt),
            ("queued_rows", BigInt),
            ("state_bytes", BigInt),
            ("error", Text),
        ],
    ),
    (
        "operators",
        &[
            ("relation_id", BigInt),
            ("relation", Text),
            ("node", BigInt),
            ("worker", BigInt),
            ("operator", Text),
            ("description", Text),
            ("rows_in", BigInt),
            ("rows_out", BigInt),
            ("batches_in", BigInt),
            ("batches_out", BigInt),
            ("busy_us", BigInt),
            ("state_bytes", BigInt),
            ("state_entries", BigInt),
            ("spilled_bytes", BigInt),
        ],
    ),
    (
        "arrangements",
        &[
            ("relation_id", BigInt),
            ("relation", Text),
            ("worker", BigInt),
            ("rows", BigInt),
            ("sealed", BigInt),
            ("since", BigInt),
            ("holds", BigInt),
            ("bytes_in_memory", BigInt),
            ("bytes_spilled", BigInt),
            ("rows_stored", BigInt),
            ("bytes_stored", BigInt),
            ("users", BigInt),
        ],
    ),
    (
        "checkpoints",
        &[
            ("epoch", BigInt),
            ("duration_us", BigInt),
            ("bytes_written", BigInt),
            ("objects", BigInt),
            ("state_bytes", BigInt),
        ],
    ),
    (
        "epochs",
        &[
            ("epoch", BigInt),
            ("closed_at", Timestamptz),
            ("rows", BigInt),
            ("transactions", BigInt),
            ("log_bytes", BigInt),
            ("log_us", BigInt),
            ("compute_us", BigInt),
        ],
    ),
    (
        "log",
        &[
            ("segments", BigInt),
            ("bytes", BigInt),
            ("last_sequence", BigInt),
            ("durable_sequence", BigInt),
            ("oldest_sequence", BigInt),
            ("oldest_epoch", BigInt),
            ("oldest_at", Timestamptz),
        ],
    ),
    (
        "recoveries",
        &[
            ("checkpoint_epoch", BigInt),
            ("epoch", BigInt),
            ("log_records", BigInt),
            ("log_bytes", BigInt),
            ("duration_us", BigInt),
            ("checkpoint_bytes", BigInt),
            ("views_restored", BigInt),
            ("views_rebuilt", BigInt),
            ("views_to_come", BigInt),
            ("state", Text),
            ("bytes_restored", BigInt),
            ("views_us", BigInt),
        ],
    ),
    (
        "sources",
        &[("relation_id", BigInt), ("name", Text), ("connector", Text), ("position", BigInt), ("end_position", BigInt)],
    ),
    (
        "row_errors",
        &[
            ("relation_id", BigInt),
            ("relation", Text),
            ("epoch", BigInt),
            ("sqlstate", Text),
            ("message", Text),
            ("row", Text),
            ("count", BigInt),
        ],
    ),
];

/// A row of a system relation.
type Row = Vec<Cell>;

enum Cell {
    Text(Option<String>),
    BigInt(Option<i64>),
    /// Microseconds since 1970 UTC.
    Timestamptz(Option<i64>),
}

fn text(value: impl Into<String>) -> Cell {
    Cell::Text(Some(value.into()))
}

fn int(value: impl TryInto<i64>) -> Cell {
    Cell::BigInt(value.try_into().ok())
}

/// The rows of a system relation, now.
pub(crate) fn rows(engine: &EngineState, relation: &Relation) -> Result<RecordBatch> {
    let last_closed = engine.clock.last_closed();
    let mut running: Vec<Arc<LiveRelation>> = engine.clock.relations.read().values().cloned().collect();
    running.sort_by_key(|r| r.id);
    let rows: Vec<Row> = match relation.name.as_str() {
        "relations" => relations(engine),
        "jobs" => {
            let jobs = running.iter().filter(|r| matches!(r.body, Body::Dataflow { .. }));
            jobs.map(|r| job(r, last_closed)).collect()
        }
        "operators" => running.iter().flat_map(|r| operators(r)).collect(),
        "arrangements" => running.iter().flat_map(|r| arrangements(engine, r)).collect(),
        "checkpoints" => engine.checkpoints.lock().iter().map(checkpoint).collect(),
        "epochs" => engine.clock.epochs.closed().iter().map(|entry| epoch(entry)).collect(),
        "log" => engine.journal.get().map(log).transpose()?.into_iter().collect(),
        "recoveries" => engine.recovered.lock().iter().map(|recovered| recovery(engine, recovered)).collect(),
        "sources" => running.iter().filter_map(|r| source(r)).collect(),
        "row_errors" => running.iter().flat_map(|r| row_errors(r)).collect(),
        other => return Err(Error::internal(format!("system relation \"{other}\" has no rows"))),
    };
    let columns = relation.columns.iter().enumerate().map(|(i, column)| -> ArrayRef {
        match column.sql_type {
            SqlType::BigInt => Arc::new(rows.iter().map(|r| bigint_of(&r[i])).collect::<Int64Array>()),
            SqlType::Timestamptz => {
                let times = rows.iter().map(|r| timestamptz_of(&r[i])).collect::<TimestampMicrosecondArray>();
                Arc::new(times.with_timezone("UTC"))
            }
            _ => Arc::new(rows.iter().map(|r| text_of(&r[i])).collect::<StringViewArray>()),
        }
    });
    Ok(RecordBatch::try_new(relation.visible_schema(), columns.collect())?)
}

fn bigint_of(cell: &Cell) -> Option<i64> {
    if let Cell::BigInt(value) = cell { *value } else { None }
}

fn text_of(cell: &Cell) -> Option<&str> {
    if let Cell::Text(value) = cell { value.as_deref() } else { None }
}

fn timestamptz_of(cell: &Cell) -> Option<i64> {
    if let Cell::Timestamptz(value) = cell { *value } else { None }
}

fn epoch(entry: &EpochEntry) -> Row {
    let micros = |micros: Option<u64>| micros.map_or(Cell::BigInt(None), int);
    vec![
        int(entry.epoch.0),
        Cell::Timestamptz(entry.closed_at_us()),
        int(entry.brought.n_rows),
        int(entry.brought.n_transactions),
        entry.brought.n_log_bytes.map_or(Cell::BigInt(None), int),
        micros(entry.log_us()),
        micros(entry.compute_us()),
    ]
}

fn log(observer: &JournalObserver) -> Result<Row> {
    let JournalState { size, durable, oldest } = observer.look()?;
    let (sequence, header) = oldest.unzip();
    Ok(vec![
        int(size.n_segments),
        int(size.n_bytes),
        int(size.last),
        int(durable),
        sequence.map_or(Cell::BigInt(None), int),
        header.as_ref().map_or(Cell::BigInt(None), |header| int(header.epoch.0)),
        Cell::Timestamptz(header.map(|header| header.now_us)),
    ])
}

fn checkpoint(written: &Written) -> Row {
    vec![
        int(written.epoch.0),
        int(written.took.as_micros()),
        int(written.n_bytes_written),
        int(written.n_objects),
        int(written.n_bytes),
    ]
}

fn recovery(engine: &EngineState, recovered: &Recovered) -> Row {
    let (rebuilt, restored) = (&recovered.rebuilt, &recovered.restored);
    let relations = engine.clock.relations.read();
    // What has failed does not come, and what was dropped neither.
    let is_to_come = |live: &&Arc<LiveRelation>| live.stage() != Stage::Following && live.failure().is_none();
    let n_rebuilding = rebuilt.iter().filter_map(|id| relations.get(id)).filter(is_to_come).count();
    let state = match (restored.n_to_come(), n_rebuilding) {
        (0, 0) => "complete",
        (0, _) => "rebuilding",
        _ => "restoring",
    };
    vec![
        int(recovered.checkpoint.0),
        int(recovered.epoch.0),
        int(recovered.n_records),
        int(recovered.n_bytes as u64),
        int(recovered.took.as_micros()),
        int(recovered.n_checkpoint_bytes),
        int(restored.n_back()),
        int(rebuilt.len()),
        int(restored.n_to_come() + n_rebuilding),
        text(state),
        int(recovered.n_base_bytes + restored.read.n_done()),
        restored.took().map_or(Cell::BigInt(None), |took| int(took.as_micros())),
    ]
}

fn relations(engine: &EngineState) -> Vec<Row> {
    let catalog = engine.catalog.read().clone();
    let row = |r: &Arc<Relation>| {
        let definition = Cell::Text(r.query_text().map(ToOwned::to_owned));
        let live = engine.clock.relation(r.id);
        let stored = live.as_ref().filter(|l| !l.shared.is_unstored());
        let n_rows = stored.map_or(Cell::BigInt(None), |l| int(n_rows(l)));
        let bytes = live.as_ref().map_or(Cell::BigInt(None), |l| int(l.shared.account.used()));
        let limit = live.as_ref().and_then(|l| l.shared.account.limit()).map_or(Cell::BigInt(None), int);
        vec![int(r.id.0), text(&r.schema), text(&r.name), text(r.kind.noun()), definition, n_rows, bytes, limit]
    };
    let is_clients = |r: &Relation| matches!(r.schema.as_str(), "pg_catalog" | "information_schema");
    catalog.relations().filter(|r| !is_clients(r)).chain(catalog.arrangements()).map(row).collect()
}

fn n_rows(live: &LiveRelation) -> usize {
    live.shared.readers().iter().map(|reader| reader.snapshot(reader.sealed()).n_rows()).sum()
}

fn job(live: &LiveRelation, last_closed: Epoch) -> Row {
    let Body::Dataflow { pressure, .. } = &live.body else { return vec![] };
    let error = live.check().err().map(|e| e.message().to_owned());
    let (state, progress) = job_state(live);
    vec![
        int(live.id.0),
        text(&live.relation.name),
        text(live.relation.kind.noun()),
        text(state),
        Cell::Text(progress),
        int(live.complete_to(last_closed).0),
        int(pressure.queued_rows().max(0)),
        int(live.shared.account.used()),
        Cell::Text(error),
    ]
}

/// What a dataflow is doing, and how far it is with that.
pub(crate) fn job_state(live: &LiveRelation) -> (&'static str, Option<String>) {
    let Body::Dataflow { intake, .. } = &live.body else { return ("running", None) };
    let state = match live.stage() {
        _ if live.failure().is_some() => return ("failed", None),
        Stage::Following => return ("running", None),
        Stage::Hydrating => "hydrating",
        Stage::Restoring => "restoring",
        Stage::Replaying => "replaying",
        Stage::CatchingUp => "catching up",
    };
    let (total, done) = (intake.total.load(Relaxed), intake.done.load(Relaxed));
    let percent = (done.min(total) * 100).checked_div(total).unwrap_or(0);
    let of_what = if live.stage() == Stage::Restoring { "bytes" } else { "rows" };
    (state, Some(format!("{done} of {total} {of_what} ({percent} %)")))
}

fn arrangements(engine: &EngineState, live: &LiveRelation) -> Vec<Row> {
    if live.shared.is_unstored() {
        return vec![];
    }
    let n_users = engine.catalog.read().dependents_of(live.id).count();
    let readers = live.shared.readers();
    let row = |(worker, reader): (usize, &millstream_state::ArrangementReader)| {
        let sealed = reader.sealed();
        let (since, n_holds) = (live.shared.holds.since(), live.shared.holds.n_holds());
        let (in_memory, spilled) = live.shared.n_bytes(worker);
        let (rows_stored, bytes_stored) = live.shared.stored(worker);
        vec![
            int(live.id.0),
            text(&live.relation.name),
            int(worker),
            int(reader.snapshot(sealed).n_rows()),
            int(sealed.0),
            int(since.0),
            int(n_holds),
            int(in_memory),
            int(spilled),
            int(rows_stored),
            int(bytes_stored),
            int(n_users),
        ]
    };
    readers.iter().enumerate().map(row).collect()
}

fn operators(live: &LiveRelation) -> Vec<Row> {
    let Body::Dataflow { metrics, operators, .. } = &live.body else { return vec![] };
    let mut rows = Vec::new();
    for (worker, nodes) in metrics.workers.iter().enumerate() {
        for (node, (counters, (operator, description))) in nodes.iter().zip(operators).enumerate() {
            rows.push(vec![
                int(live.id.0),
                text(&live.relation.name),
                int(node as u64),
                int(worker as u64),
                text(operator),
                text(description),
                int(counters.rows_in.load(Relaxed)),
                int(counters.rows_out.load(Relaxed)),
                int(counters.batches_in.load(Relaxed)),
                int(counters.batches_out.load(Relaxed)),
                int(counters.busy_ns.load(Relaxed) / 1000),
                int(counters.state_bytes.load(Relaxed)),
                int(counters.state_entries.load(Relaxed)),
                int(counters.spilled_bytes.load(Relaxed)),
            ]);
        }
    }
    rows
}

fn source(live: &LiveRelation) -> Option<Row> {
    let Body::Source { source, .. } = &live.body else { return None };
    let connector = live.relation.option("connector").unwrap_or_default();
    let end = Cell::BigInt(source.end().and_then(|e| i64::try_from(e).ok()));
    let position = live.position(millstream_types::Epoch::MAX);
    Some(vec![int(live.id.0), text(&live.relation.name), text(connector), int(position), end])
}

fn row_errors(live: &LiveRelation) -> Vec<Row> {
    let Body::Dataflow { errors, .. } = &live.body else { return vec![] };
    let row = |e: millstream_runtime::RowErrorEntry| {
        let (id, name) = (int(live.id.0), text(&live.relation.name));
        vec![id, name, int(e.epoch.0), text(e.sqlstate), text(e.message), text(e.row), int(e.count)]
    };
    errors.entries().into_iter().map(row).collect()
}
