//! Recovery: an engine goes on from what is on its disk.
//!
//! The last checkpoint has what tables and streams held as of an epoch. The log has, from there on, epoch by epoch, what became of the catalog, of tables and streams, and how far sources have been read.
//! Tables and streams take it in as if it were written again; then every view takes in what there is, like a new one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use millstream_planner::catalog::{CatalogChange, Kind, Relation};
use millstream_planner::{Catalog, RelationId};
use millstream_runtime::{Command, Events, LoadRows, RowsToLoad, Workers};
use millstream_state::codec::decode_rows;
use millstream_state::rows_after;
use millstream_storage::log::Log;
use millstream_types::hash::partitions_of;
use millstream_types::{Delta, Epoch, Error, ErrorKind, Result, SqlState};

use crate::checkpoints::Restored;
use crate::coordinator::{Coordinator, RestoreProgress};
use crate::engine::EngineState;
use crate::journal::{Change, EPOCH, EpochRecord, decode_epoch};
use crate::live::{Body, Failed, LiveRelation};
use crate::retention::Retention;
use crate::session::stored_dataflow;

/// Bytes of records that workers may be behind.
const AHEAD_BYTES: usize = 64 << 20;

/// What a start has gone on from.
#[derive(Clone, Debug)]
pub(crate) struct Recovered {
    /// The epoch of the checkpoint; none if there was none.
    pub(crate) checkpoint: Epoch,
    /// The last epoch.
    pub(crate) epoch: Epoch,
    /// Records of the log that were done again, and their bytes.
    pub(crate) n_records: u64,
    pub(crate) n_bytes: usize,
    /// Bytes of what was taken in from the checkpoint.
    pub(crate) n_checkpoint_bytes: u64,
    /// Views, sinks and arrangements that go on from their state.
    pub(crate) restored: Arc<RestoreProgress>,
    /// Those that are made anew, from what they read.
    pub(crate) rebuilt: Vec<RelationId>,
    /// Bytes of tables and streams that were taken in from the checkpoint.
    pub(crate) n_base_bytes: u64,
    /// How long it took until tables and streams were as they had been.
    pub(crate) took: Duration,
}

/// Takes in all records of a log. Nobody else uses the engine yet.
///
/// # Errors
/// XX001, naming file and place, if a record does not read right.
pub(crate) fn replay(
    engine: &Arc<EngineState>,
    coordinator: &mut Coordinator,
    restored: Option<&Arc<Restored>>,
    log: &Log,
) -> Result<Recovered> {
    let began = Instant::now();
    let last = log.last_found();
    let mut catalog = engine.catalog.read().clone();
    let first = restored.map_or(1, |restored| restored.log_sequence());
    if first > last + 1 {
        let message = format!("the log ends with record {last}, and the last checkpoint goes on from record {first}");
        return Err(Error::new(ErrorKind::External, SqlState::DATA_CORRUPTED, message)
            .with_hint("Files of the folder \"log\" of the data directory are missing."));
    }
    let progress = &engine.start_progress;
    progress.expect(log.n_bytes_found(first)?);
    let views = RestoreProgress::new();
    let n_base_bytes = match restored {
        Some(restored) => restore(engine, coordinator, &mut catalog, restored, &views)?,
        None => 0,
    };
    let n_checkpoint_bytes = n_base_bytes + views.read.n_expected();
    let (mut n_bytes, mut n_bytes_ahead) = (0, 0);
    for record in log.records(first)? {
        let record = record?;
        if record.kind != EPOCH {
            let message = format!("the log has a record of kind {}, which this release does not know", record.kind);
            return Err(
                Error::internal(message).with_hint("Start a later release of Millstream with this data directory.")
            );
        }
        let epoch = decode_epoch(&record.payload)?;
        n_bytes += record.payload.len();
        progress.advance(record.payload.len() as u64);
        n_bytes_ahead += record.payload.len();
        replay_epoch(engine, coordinator, &mut catalog, epoch)?;
        if n_bytes_ahead > AHEAD_BYTES {
            wait_for(&engine.workers)?;
            n_bytes_ahead = 0;
        }
    }
    wait_for(&engine.workers)?;
    coordinator.replayed();
    *engine.catalog.write() = catalog;
    let checkpoint = restored.map_or(Epoch::ZERO, |restored| restored.header().epoch);
    let (epoch, took, n_records) = (coordinator.last_made(), began.elapsed(), last + 1 - first);
    if epoch > Epoch::ZERO {
        tracing::info!(%checkpoint, n_checkpoint_bytes, %epoch, n_records, n_bytes, ?took, "tables and streams have recovered");
    }
    let (restored, rebuilt) = (views, vec![]);
    Ok(Recovered { checkpoint, epoch, n_records, n_bytes, n_checkpoint_bytes, n_base_bytes, restored, rebuilt, took })
}

/// Takes in a checkpoint: what tables and streams held, all workers at once; dataflows come back later. Gives the bytes.
fn restore(
    engine: &Arc<EngineState>,
    coordinator: &mut Coordinator,
    catalog: &mut Catalog,
    restored: &Arc<Restored>,
    views: &Arc<RestoreProgress>,
) -> Result<u64> {
    let header = restored.header();
    replay_change(engine, coordinator, catalog, restored.catalog()?)?;
    coordinator.restored(&header);
    let bases = coordinator.base_relations();
    let n_bytes = bases.iter().map(|id| restored.n_bytes_of(id.0)).sum();
    engine.start_progress.expect(n_bytes);
    let (send, receive) = channel();
    let n_workers = engine.workers.len();
    for id in &bases {
        let (restored, id, send) = (Arc::clone(restored), *id, send.clone());
        let position = restored.position(id);
        coordinator.note_restored(id, header.epoch, restored.next_row_id(id), position);
        if position.is_some() {
            (0..n_workers).for_each(|worker| engine.clock.completed(id, worker, header.epoch));
            continue;
        }
        // What is in memory was born with the checkpoint, and a floor of the log says which of the rows before it are forgotten.
        let keeps_all = catalog.get(id).is_some_and(|relation| matches!(Retention::of_stream(relation), Ok(None)));
        let is_indexed = keeps_all && catalog.indexed_columns(id).next().is_some();
        let floor = restored.floor(id);
        coordinator.note_floor(id, floor);
        restored.stream_objects(id).for_each(|(epoch, now_us, n)| coordinator.note_stored(id, epoch, now_us, n));
        let is_stream = catalog.get(id).is_some_and(|relation| relation.kind == Kind::Stream);
        let rows = Box::new(move |worker| {
            let partitions = partitions_of(worker, n_workers);
            if !restored.is_in_objects(id) {
                // The next checkpoint has those of a stream in objects.
                let rows = restored.rows(id.0, &partitions)?;
                return Ok(RowsToLoad { rows, are_new: is_stream, ..RowsToLoad::default() });
            }
            let stored = restored.stream_blocks(id, &partitions)?;
            if !is_indexed {
                return Ok(RowsToLoad { stored, floor, ..RowsToLoad::default() });
            }
            // An index is over rows in memory.
            let rows = rows_after(&stored, floor)?;
            Ok(RowsToLoad { rows, ..RowsToLoad::default() })
        });
        let loaded = Box::new(move |outcome| {
            // Whoever waited may have given up.
            let _ = send.send((id, outcome));
        });
        let load = Arc::new(LoadRows { relation: id, epoch: header.epoch, rows, loaded });
        engine.workers.send_all(|_| Command::Load(Arc::clone(&load)));
    }
    drop(send);
    for (id, outcome) in receive {
        if let Err(error) = outcome {
            coordinator.fail_base(id, error);
        }
    }
    restore_dataflows(engine, coordinator, catalog, restored, views)?;
    Ok(n_bytes)
}

/// Has the dataflows come back whose state a checkpoint has, if what they read does. They are read when the log has been done
/// again; from now on what they read is held.
fn restore_dataflows(
    engine: &Arc<EngineState>,
    coordinator: &mut Coordinator,
    catalog: &Catalog,
    restored: &Arc<Restored>,
    views: &Arc<RestoreProgress>,
) -> Result<()> {
    let owners = restored.dataflows();
    for relation in in_order(catalog, |_| true) {
        let Some(&(plan_hash, owner)) = owners.get(&relation.id) else { continue };
        let installation = match stored_dataflow(engine, catalog, &relation) {
            Ok(installation) => installation,
            Err(error) => {
                tracing::warn!(relation = %relation.name, %error, "a view's state is of no use");
                continue;
            }
        };
        let runs = |id: &RelationId| engine.clock.relation(*id).is_some_and(|live| live.failure().is_none());
        // Otherwise it is made anew.
        if installation.live.plan_hash() == Some(plan_hash) && installation.imports.iter().all(runs) {
            installation.restore(coordinator, restored, owner, views)?;
        }
    }
    Ok(())
}

fn replay_epoch(
    engine: &Arc<EngineState>,
    coordinator: &mut Coordinator,
    catalog: &mut Catalog,
    record: EpochRecord<'_>,
) -> Result<()> {
    for change in record.catalog {
        replay_change(engine, coordinator, catalog, change)?;
    }
    let mut deltas: HashMap<RelationId, Vec<Delta>> = HashMap::new();
    let mut offsets = Vec::new();
    for (id, change) in record.changes {
        // What was dropped may have been written to while the drop was made known.
        let Some(relation) = coordinator.base_relation(id) else { continue };
        match change {
            Change::Offsets(range) => offsets.push((id, range)),
            Change::Deltas(encoded) => {
                let schema = relation.full_schema();
                let decoded = encoded.into_iter().map(|bytes| decode_rows(bytes, &schema));
                let decoded = decoded.collect::<Result<Vec<_>>>()?;
                if let Some(row_id) = decoded.iter().filter_map(|d| last_row_id(&relation, d)).max() {
                    coordinator.note_row_id(id, row_id);
                }
                deltas.insert(id, decoded);
            }
        }
    }
    let floors = record.floors.into_iter().filter(|(id, _)| coordinator.base_relation(*id).is_some()).collect();
    coordinator.replay(&record.header, deltas, offsets, floors);
    Ok(())
}

fn replay_change(
    engine: &Arc<EngineState>,
    coordinator: &mut Coordinator,
    catalog: &mut Catalog,
    change: CatalogChange,
) -> Result<()> {
    change.gone().iter().for_each(|id| coordinator.drop_if_running(*id));
    // What has another plan is built anew, as it was then.
    change.planned().for_each(|id| coordinator.drop_flow(id));
    let relations: Vec<RelationId> = change.relations().iter().map(|r| r.id).collect();
    catalog.apply(change);
    for id in relations {
        let Some(relation) = catalog.get(id).filter(|r| matches!(r.kind, Kind::Table | Kind::Stream)) else { continue };
        if coordinator.base_relation(id).is_none() {
            let (live, spec) = engine.base(catalog, Arc::clone(relation))?;
            coordinator.create_base(live, spec);
        }
    }
    Ok(())
}

/// The greatest row id among the rows of a table that has no key of its own.
fn last_row_id(relation: &Relation, delta: &Delta) -> Option<i64> {
    if relation.kind != Kind::Table || relation.declared_key().is_some() {
        return None;
    }
    let column = delta.columns().get(*relation.primary_key.first()?)?;
    arrow::compute::max(column.as_primitive::<Int64Type>())
}

/// Waits until workers have done what they were sent.
fn wait_for(workers: &Workers) -> Result<()> {
    let (send, receive) = channel();
    workers.send_all(|_| {
        let send = send.clone();
        Command::Run(Box::new(move || {
            // Whoever waited may have given up.
            let _ = send.send(());
        }))
    });
    drop(send);
    let n_done = receive.iter().count();
    if n_done < workers.len() { Err(Error::internal("a worker has ended")) } else { Ok(()) }
}

/// Starts the dataflows of the catalog's views, sinks and arrangements that neither run nor come back, each after those that it
/// reads. One that cannot be started says so when it is read.
pub(crate) fn start_dataflows(engine: &Arc<EngineState>, coordinator: &mut Coordinator) -> Vec<RelationId> {
    let catalog = engine.catalog.read().clone();
    let rebuilt = in_order(&catalog, |relation| engine.clock.relation(relation.id).is_none());
    for relation in &rebuilt {
        match stored_dataflow(engine, &catalog, relation) {
            Ok(installation) => installation.start_when_back(coordinator),
            Err(error) => {
                tracing::error!(relation = %relation.name, %error, "a view could not be started again");
                fail(engine, coordinator, relation, error);
            }
        }
    }
    for relation in catalog.relations() {
        coordinator.set_indexes(relation.id, &catalog);
    }
    coordinator.drive_restore();
    rebuilt.iter().map(|relation| relation.id).collect()
}

/// The views, sinks and arrangements of a catalog that are meant, each after those of them that it reads.
fn in_order(catalog: &Catalog, is_meant: impl Fn(&Relation) -> bool) -> Vec<Arc<Relation>> {
    let has_dataflow = |r: &&Arc<Relation>| matches!(r.kind, Kind::MaterializedView(_) | Kind::Sink(_));
    let all = catalog.arrangements().chain(catalog.relations().filter(has_dataflow));
    let mut waiting: Vec<Arc<Relation>> = all.filter(|r| is_meant(r)).cloned().collect();
    waiting.sort_by_key(|r| r.id);
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let n_waiting = waiting.len();
        let ids: HashSet<RelationId> = waiting.iter().map(|r| r.id).collect();
        let is_next = |r: &Arc<Relation>| below(catalog, r).iter().all(|id| *id == r.id || !ids.contains(id));
        let (next, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_next);
        ordered.extend(next);
        waiting = later;
        if waiting.len() == n_waiting {
            break;
        }
    }
    ordered
}

/// A relation whose dataflow does not run, and why.
fn fail(engine: &EngineState, coordinator: &Coordinator, relation: &Arc<Relation>, cause: Error) {
    let account = engine.memory.part(None);
    let shared =
        Arc::new(millstream_runtime::RelationShared::new(engine.config.workers, account, engine.clock.holds()));
    let live = Arc::new(LiveRelation::new(Arc::clone(relation), shared, Body::Stored, engine.config.workers));
    live.fail(Failed { epoch: coordinator.last_made().max(Epoch::ZERO.next()), cause, origin: None });
    engine.clock.relations.write().insert(relation.id, live);
}

/// All that a relation reads, at any distance.
fn below(catalog: &Catalog, relation: &Relation) -> HashSet<RelationId> {
    let mut all = HashSet::new();
    let mut pending = relation.depends_on.clone();
    while let Some(id) = pending.pop() {
        if all.insert(id) {
            let arrangement = || catalog.arrangements().find(|a| a.id == id);
            let read = catalog.get(id).or_else(arrangement);
            pending.extend(read.into_iter().flat_map(|r| r.depends_on.iter().copied()));
        }
    }
    all
}
