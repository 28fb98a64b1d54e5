//! What a worker keeps: its part of every relation, its copy of every dataflow, and the commands it has still to do.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use millstream_operators::operator::Arrangements;
use millstream_operators::{NodeId, RelationId};
use millstream_state::{Arrangement, ColdStore, Hold, Matches};
use millstream_types::hash::hash_columns;
use millstream_types::{Delta, Epoch, Error, ErrorKind, Result};
use timely::worker::Worker;

use super::feed::FeedQueue;
use super::relief::ReliefState;
use crate::adapter::SMALL_STATE;
use crate::command::{
    Command, EpochWork, Events, InstallDataflow, LoadRows, Lookup, RelationInput, RelationSpec, Root, Round,
    RowsToLoad, StoreRows,
};
use crate::dataflow::{Awaited, Built, Outbox, Parts, Site, build, fill};
use crate::failure::Failure;
use crate::memory::Charge;
use crate::quanta::Quanta;
use crate::relation::{Arrivals, Arriving, Part, Relation};
use crate::restoring::Restoring;
use crate::saving::{HandedOver, SaveRequest};

/// Rows applied to a store after which its size is looked at.
const CHARGED_ROWS: usize = 1 << 12;

/// What a row of an input takes in an operator at least, more or less.
const START_ROW_BYTES: usize = 64;
/// What a row of a source is taken to need there before one was read. A guess that is too large would have every dataflow over
/// a source that nobody has read yet begin in parts, and stay so.
const START_OFFSET_BYTES: u64 = 1 << 10;

/// Time for building indexes after which operators and commands get their turn.
const BUILT_FOR: Duration = Duration::from_micros(500);

/// A dataflow on this worker.
pub(super) struct Installed {
    pub(super) built: Built,
    pub(super) install: Arc<InstallDataflow>,
    pub(super) imports: Vec<ImportState>,
    /// On relations that its operators read themselves, at the last epoch that is complete here.
    holds: Vec<Hold>,
    /// The last epoch in which it gets something.
    last_ticked: Epoch,
    /// All epochs up to this one are complete here.
    pub(super) sealed: Epoch,
    /// The last round, or the start: nothing after it is fed before it is complete on all workers, so that whoever waits
    /// for the dataflow to take more never waits for rows of a later epoch.
    pub(super) round: Epoch,
    /// It gets the epochs that touch its inputs.
    follows: bool,
}

/// An import of a dataflow, and what is still to be fed to it.
pub(super) struct ImportState {
    pub(super) node: NodeId,
    pub(super) relation: RelationId,
    pub(super) projection: Vec<usize>,
    pub(super) schema: arrow::datatypes::SchemaRef,
    pub(super) arrivals: Arrivals,
}

pub(super) struct WorkerState {
    pub(super) index: usize,
    pub(super) n_workers: usize,
    pub(super) events: Arc<dyn Events>,
    commands: Receiver<Command>,
    /// Commands that were received and must wait for the end of a step.
    pending: VecDeque<Command>,
    pub(super) relations: HashMap<RelationId, Relation>,
    pub(super) dataflows: HashMap<RelationId, Installed>,
    /// Dataflows in the order in which they were installed: views come after what they are built on.
    order: Vec<RelationId>,
    /// Dataflows that take over what was saved of them, and those that have, until they are installed.
    pub(super) restoring: Vec<Restoring>,
    pub(super) restored: HashMap<RelationId, Parts>,
    outbox: Outbox,
    /// Dataflows that may be able to take something in.
    pub(super) to_feed: FeedQueue,
    quanta: Quanta,
    /// Relations that have indexes to build.
    building: VecDeque<RelationId>,
    /// Where state goes that memory has no room for, if it may go anywhere.
    pub(super) spill: Option<Arc<dyn ColdStore>>,
    pub(super) relief: ReliefState,
}

impl WorkerState {
    pub(super) fn new(
        index: usize,
        n_workers: usize,
        events: Arc<dyn Events>,
        commands: Receiver<Command>,
        quanta: Quanta,
        spill: Option<Arc<dyn ColdStore>>,
    ) -> Self {
        WorkerState {
            index,
            n_workers,
            events,
            commands,
            pending: VecDeque::new(),
            relations: HashMap::new(),
            dataflows: HashMap::new(),
            order: Vec::new(),
            restoring: Vec::new(),
            restored: HashMap::new(),
            outbox: Outbox::default(),
            to_feed: FeedQueue::default(),
            quanta,
            building: VecDeque::new(),
            spill,
            relief: ReliefState::default(),
        }
    }

    /// Builds indexes for a part of a turn; returns whether there is more to do.
    pub(super) fn build_indexes(&mut self) -> bool {
        let start = Instant::now();
        while let Some(id) = self.building.front() {
            let arrangement = self.relations.get(id).and_then(Relation::arrangement);
            let built = arrangement.map_or(Ok(false), |a| a.borrow_mut().build_indexes());
            let goes_on = built.unwrap_or_else(|error| {
                // The index is never found complete; the rows are read without it.
                tracing::error!(relation = %id, %error, "an index cannot be built");
                false
            });
            if !goes_on {
                self.building.pop_front();
            }
            if start.elapsed() >= BUILT_FOR {
                break;
            }
        }
        !self.building.is_empty()
    }

    /// The next command, if there is one.
    pub(super) fn next_command(&mut self) -> Option<Command> {
        if let Some(command) = self.pending.pop_front() {
            return Some(command);
        }
        match self.commands.try_recv() {
            Ok(command) => Some(command),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Command::Shutdown),
        }
    }

    /// Within a step: does the commands that need no more than this state; returns whether one waits that needs more.
    pub(super) fn serve(&mut self) -> bool {
        while let Some(command) = self.next_command() {
            if let Err(command) = self.handle_within_step(command) {
                self.pending.push_front(command);
                return true;
            }
        }
        false
    }

    pub(super) fn handle(&mut self, timely: &mut Worker, command: Command) {
        match self.handle_within_step(command) {
            Err(Command::Install(install)) => self.install(timely, install),
            Err(Command::Drop(id)) => self.drop_dataflow(timely, id),
            Err(Command::Run(work)) => work(),
            Ok(()) | Err(_) => {}
        }
    }

    /// Does a command; gives it back if it adds or takes away a dataflow, or is no matter of this state.
    fn handle_within_step(&mut self, command: Command) -> std::result::Result<(), Command> {
        match command {
            Command::CreateRelation(id, spec) => self.create_relation(id, &spec),
            Command::DropRelation(id) => {
                self.relations.remove(&id);
            }
            Command::SetIndexes(id, columns) => {
                if let Some(arrangement) = self.relations.get(&id).and_then(Relation::arrangement) {
                    arrangement.borrow_mut().set_indexes(&columns);
                    self.building.push_back(id);
                }
            }
            Command::Restore(install) => self.begin_restore(install),
            Command::Round(round) => self.round(&round),
            Command::Follow(id) => self.set_follows(id, true),
            Command::SetAside(id) => self.set_follows(id, false),
            Command::Epoch(work) => self.epoch(work),
            Command::Lookup(lookup) => self.lookup(lookup),
            Command::Load(load) => (load.loaded)(self.load(&load)),
            Command::Save(request) => self.save(&request),
            Command::Store(store) => self.store(&store),
            Command::Forget(epoch) => self.forget(epoch),
            Command::Tap(id, tap) => {
                if let Some(relation) = self.relations.get_mut(&id) {
                    relation.taps.push(tap);
                }
                self.note_followers(id);
            }
            other => return Err(other),
        }
        Ok(())
    }

    fn create_relation(&mut self, id: RelationId, spec: &RelationSpec) {
        let part = match spec {
            RelationSpec::Source { source, .. } => Part::Source(Arc::clone(source)),
            RelationSpec::Stored { arrangement, shared } => match Arrangement::new(arrangement) {
                Ok(mut arrangement) => {
                    if let Some(store) = &self.spill {
                        arrangement.spill_into(Arc::clone(store));
                    }
                    shared.set_reader(self.index, arrangement.reader());
                    Part::Stored(Rc::new(arrangement.into()))
                }
                Err(error) => return self.events.failed(id, Epoch::ZERO, error),
            },
        };
        let shared = Arc::clone(spec.shared());
        let charge = Some(Charge::new(&shared.account));
        let (importers, taps) = (Vec::new(), Vec::new());
        self.relations.insert(id, Relation { part, shared, importers, taps, charge, n_uncharged: 0 });
    }

    fn install(&mut self, timely: &mut Worker, install: Arc<InstallDataflow>) {
        let start = install.start.epoch;
        let failure = Failure::new(install.id, start, Arc::clone(&self.events));
        let awaited = self.awaited(&install);
        let parts = match self.restored.remove(&install.id) {
            Some(parts) => Ok(parts),
            None if install.restored.is_some() => Err(Error::internal("a dataflow that was not restored")),
            None => self.make_parts(&install, self.bytes_at_start(&install).saturating_mul(self.n_workers)),
        };
        let (quanta, outbox, spill) = (self.quanta.clone(), &self.outbox, self.spill.as_ref());
        let site = Site { failure, quanta, outbox, awaited, spill };
        let built = parts.and_then(|parts| build(timely, &install, parts, site));
        let built = built.and_then(|built| Ok((built, self.hold_shared(&install)?)));
        let (built, holds) = match built {
            Ok(built) => built,
            Err(error) => return self.events.failed(install.id, start, error),
        };
        let is_restored = install.restored.is_some();
        let mut imports = Vec::new();
        for (i, (node, relation, projection)) in install.dataflow.imports().enumerate() {
            let arriving = match &install.offsets[i] {
                _ if install.dataflow.is_changes_only(node) => Arriving::Ready(vec![]),
                Some(offsets) => self.offsets(&install, offsets),
                None => Arriving::Snapshot { needs: self.last_ticked(relation), next_chunk: 0, snapshot: None },
            };
            imports.push(ImportState {
                node,
                relation,
                projection: projection.to_vec(),
                schema: install.dataflow.schema(node),
                arrivals: if is_restored { VecDeque::new() } else { VecDeque::from([(start, arriving)]) },
            });
            if let Some(imported) = self.relations.get_mut(&relation) {
                imported.importers.push((install.id, i));
            }
        }
        if let Root::Materialize { shared, .. } = &install.root {
            let arrangement = built.arrangement.clone().expect("a view has an arrangement");
            let (importers, taps, shared) = (Vec::new(), Vec::new(), Arc::clone(shared));
            let part = Part::View(arrangement);
            self.relations.insert(install.id, Relation { part, shared, importers, taps, charge: None, n_uncharged: 0 });
        }
        self.order.push(install.id);
        self.to_feed.push(install.id);
        let (sealed, last_ticked, round) = (built.context.sealed.get(), start, start);
        let id = install.id;
        let installed = Installed { built, imports, holds, last_ticked, sealed, round, follows: false, install };
        self.dataflows.insert(id, installed);
        if is_restored {
            self.events.completed(id, self.index, start);
        }
    }

    fn save(&self, request: &Arc<SaveRequest>) {
        for &(id, owner) in &request.of {
            if let Some(installed) = self.dataflows.get(&id) {
                installed.built.context.save(installed.last_ticked, owner, request);
                continue;
            }
            let rows = self.relations.get(&id).and_then(Relation::take_unsaved);
            (request.take)(HandedOver { owner, worker: self.index, parts: Some(rows.into_iter().collect()) });
        }
    }

    /// About what the rows take that a dataflow's inputs have for this worker at its start.
    fn bytes_at_start(&self, install: &InstallDataflow) -> usize {
        let of_import = |(i, (node, relation, _)): (usize, (NodeId, RelationId, &[usize]))| {
            let relation = self.relations.get(&relation)?;
            if install.dataflow.is_changes_only(node) {
                return None;
            }
            let (n_rows, n_bytes) = match (&install.offsets[i], relation.arrangement()) {
                (Some(offsets), _) => {
                    let n_rows = (offsets.end - offsets.start) as usize / self.n_workers;
                    let offset_bytes = relation.shared.known_offset_bytes().unwrap_or(START_OFFSET_BYTES);
                    (n_rows, n_rows.saturating_mul(offset_bytes as usize))
                }
                (None, Some(arrangement)) => {
                    let arrangement = arrangement.borrow();
                    (arrangement.len(), arrangement.n_bytes() + arrangement.n_bytes_spilled())
                }
                (None, None) => (0, 0),
            };
            Some(n_bytes.max(n_rows.saturating_mul(START_ROW_BYTES)))
        };
        install.dataflow.imports().enumerate().filter_map(of_import).sum()
    }

    /// The dataflows whose rows operators read themselves, with the epoch that each has to complete first: all that it
    /// was sent so far is part of the start.
    fn awaited(&self, install: &InstallDataflow) -> HashMap<RelationId, Awaited> {
        let awaited = |id: RelationId| {
            let upstream = self.dataflows.get(&id)?;
            Some((id, Awaited { context: Rc::clone(&upstream.built.context), epoch: upstream.last_ticked }))
        };
        install.dataflow.shared_relations().filter_map(awaited).collect()
    }

    /// Holds the relations that operators read themselves, as of the start.
    fn hold_shared(&self, install: &InstallDataflow) -> Result<Vec<Hold>> {
        let start = install.start.epoch;
        let hold = |id: RelationId| {
            let relation = self.relations.get(&id).ok_or_else(|| Error::internal(format!("relation {id} is gone")))?;
            let held = relation.shared.holds.acquire(start);
            held.map_err(|since| {
                Error::internal(format!("epoch {start} of relation {id} cannot be held after {since}"))
            })
        };
        install.dataflow.shared_relations().map(hold).collect()
    }

    /// This worker's part of a range of offsets, as a part of a round.
    fn offsets(&self, install: &InstallDataflow, offsets: &std::ops::Range<u64>) -> Arriving {
        let (index, n) = (self.index as u64, self.n_workers as u64);
        let len = offsets.end - offsets.start;
        let share = offsets.start + len * index / n..offsets.start + len * (index + 1) / n;
        install.intake.expect(share.end - share.start);
        Arriving::Offsets(share)
    }

    /// The epoch that a relation has to complete before all that was sent to it so far is in it.
    fn last_ticked(&self, relation: RelationId) -> Epoch {
        self.dataflows.get(&relation).map_or(Epoch::ZERO, |d| d.last_ticked)
    }

    fn round(&mut self, round: &Round) {
        let Some(mut installed) = self.dataflows.remove(&round.id) else { return };
        let epoch = round.header.epoch;
        installed.built.context.open(&round.header);
        (installed.last_ticked, installed.round) = (epoch, epoch);
        for (import, offsets) in installed.imports.iter_mut().zip(&round.offsets) {
            let arriving = match offsets {
                Some(offsets) => self.offsets(&installed.install, offsets),
                None => {
                    let needs = self.last_ticked(import.relation);
                    Arriving::Changes { needs, from: round.from, changes: None, next_chunk: 0 }
                }
            };
            import.arrivals.push_back((epoch, arriving));
        }
        self.dataflows.insert(round.id, installed);
        self.to_feed.push(round.id);
        self.set_follows(round.id, round.follows);
    }

    fn set_follows(&mut self, id: RelationId, follows: bool) {
        let Some(installed) = self.dataflows.get_mut(&id) else { return };
        installed.follows = follows;
        let inputs: Vec<RelationId> = installed.imports.iter().map(|i| i.relation).collect();
        inputs.into_iter().for_each(|input| self.note_followers(input));
    }

    /// Tells a dataflow whether somebody takes its changes.
    fn note_followers(&mut self, id: RelationId) {
        let Some(relation) = self.relations.get(&id) else { return };
        // One that was set aside has still to get the changes of the epochs that it was sent.
        let takes = |d: &Installed, import: usize| {
            d.follows || d.imports[import].arrivals.iter().any(|(_, a)| matches!(a, Arriving::Awaited))
        };
        let is_taken = |(id, import): &(RelationId, usize)| self.dataflows.get(id).is_some_and(|d| takes(d, *import));
        let is_followed = !relation.taps.is_empty() || relation.importers.iter().any(is_taken);
        if let Some(installed) = self.dataflows.get(&id) {
            installed.built.context.is_followed.set(is_followed);
        }
    }

    fn drop_dataflow(&mut self, timely: &mut Worker, id: RelationId) {
        if let Some(installed) = self.dataflows.remove(&id) {
            timely.drop_dataflow(installed.built.timely_index);
        }
        self.forget_restored(id);
        self.order.retain(|d| *d != id);
        self.relations.remove(&id);
        for relation in self.relations.values_mut() {
            relation.importers.retain(|(dataflow, _)| *dataflow != id);
        }
        let rest: Vec<RelationId> = self.order.clone();
        rest.into_iter().for_each(|id| self.note_followers(id));
    }

    pub(super) fn forget_dataflows(&mut self) {
        self.dataflows.clear();
        self.restoring.clear();
        self.restored.clear();
    }

    fn epoch(&mut self, work: EpochWork) {
        let epoch = work.header.epoch;
        let mut touched: HashMap<RelationId, RelationInput> = HashMap::new();
        for (id, input) in work.inputs {
            let Some(relation) = self.relations.get_mut(&id) else { continue };
            let applied = match &input {
                RelationInput::Deltas(deltas) => apply(relation, self.index, epoch, deltas),
                RelationInput::Floor(floor) => relation.set_floor(self.index, epoch, *floor),
                RelationInput::Offsets(_) => Ok(()),
            };
            if let Err(error) = applied {
                self.events.failed(id, epoch, error);
            }
            touched.insert(id, input);
        }
        let mut affected: HashSet<RelationId> = touched.keys().copied().collect();
        for &id in &self.order {
            let installed = self.dataflows.get_mut(&id).expect("an installed dataflow");
            if !installed.follows || !installed.imports.iter().any(|i| affected.contains(&i.relation)) {
                continue;
            }
            affected.insert(id);
            installed.last_ticked = epoch;
            installed.built.context.open(&work.header);
            for import in &mut installed.imports {
                let arriving = match touched.get(&import.relation) {
                    Some(RelationInput::Deltas(deltas)) => Arriving::Ready(deltas.clone()),
                    Some(RelationInput::Offsets(offsets)) => Arriving::Offsets(offsets.clone()),
                    None if affected.contains(&import.relation) => Arriving::Awaited,
                    Some(RelationInput::Floor(_)) | None => Arriving::Ready(vec![]),
                };
                import.arrivals.push_back((epoch, arriving));
            }
            self.to_feed.push(id);
        }
        touched.keys().for_each(|&id| self.events.completed(id, self.index, epoch));
    }

    /// Hands on what roots have completed.
    pub(super) fn take_outbox(&mut self) {
        let sealed = std::mem::take(&mut *self.outbox.borrow_mut());
        for sealed in sealed {
            let Some(installed) = self.dataflows.get_mut(&sealed.relation) else { continue };
            installed.sealed = sealed.upto;
            installed.holds.iter_mut().for_each(|hold| hold.advance(sealed.upto));
            if installed.imports.iter().any(|i| !i.arrivals.is_empty()) {
                self.to_feed.push(sealed.relation);
            }
            if let Some(relation) = self.relations.get_mut(&sealed.relation) {
                for (epoch, changes) in &sealed.changes {
                    relation.taps.retain(|tap| (tap.follow)(self.index, *epoch, changes));
                }
                for (dataflow, import) in &relation.importers {
                    let Some(importer) = self.dataflows.get_mut(dataflow) else { continue };
                    for (epoch, arriving) in &mut importer.imports[*import].arrivals {
                        if *epoch <= sealed.upto && matches!(arriving, Arriving::Awaited) {
                            // An epoch in which nothing changed here is not among them.
                            let changed = sealed.changes.iter().find(|(e, _)| e == epoch);
                            *arriving = Arriving::Ready(changed.map(|(_, deltas)| deltas.clone()).unwrap_or_default());
                        }
                    }
                    self.to_feed.push(*dataflow);
                }
            }
            self.events.completed(sealed.relation, self.index, sealed.upto);
        }
    }

    fn load(&mut self, load: &LoadRows) -> Result<()> {
        let Some(relation) = self.relations.get_mut(&load.relation) else { return Ok(()) };
        let Part::Stored(arrangement) = &relation.part else {
            return Err(Error::internal(format!("relation {} keeps no rows of its own", load.relation)));
        };
        let mut arrangement = arrangement.borrow_mut();
        let since = relation.shared.holds.advance(load.epoch);
        let RowsToLoad { rows, are_new, stored, floor } = (load.rows)(self.index)?;
        arrangement.begin_stored(load.epoch, floor, stored);
        fill(&mut arrangement, rows, load.epoch, since)?;
        if !are_new {
            arrangement.note_saved();
        }
        drop(arrangement);
        relation.measure(self.index);
        self.events.completed(load.relation, self.index, load.epoch);
        Ok(())
    }

    fn store(&mut self, store: &StoreRows) {
        // It may have been dropped.
        let Some(relation) = self.relations.get_mut(&store.relation) else { return };
        let Some(arrangement) = relation.arrangement() else { return };
        let blocks = store.blocks[self.index].clone();
        let stored = if store.replaced.is_empty() {
            arrangement.borrow_mut().store(store.up_to, blocks)
        } else {
            let since = relation.shared.holds.since();
            arrangement.borrow_mut().replace_stored(&store.replaced, store.up_to, blocks, since)
        };
        if let Err(error) = stored {
            tracing::error!(relation = %store.relation, %error, "rows of a stream stay where they are");
        }
        relation.measure(self.index);
    }

    fn forget(&mut self, epoch: Epoch) {
        for (&id, relation) in &mut self.relations {
            let Some(arrangement) = relation.arrangement() else { continue };
            let forgotten = arrangement.borrow_mut().forget(relation.shared.holds.advance(epoch));
            if let Err(error) = forgotten {
                self.events.failed(id, epoch, error);
            }
            relation.measure(self.index);
        }
    }

    fn lookup(&mut self, lookup: Lookup) {
        let found = self.find(&lookup);
        (lookup.reply)(found);
    }

    fn find(&self, lookup: &Lookup) -> Result<Option<RecordBatch>> {
        let relation = self.relations.get(&lookup.relation);
        let arrangement = relation.and_then(Relation::arrangement).ok_or_else(|| {
            Error::internal(format!("a lookup in relation {}, which keeps no rows here", lookup.relation))
        })?;
        let mut arrangement = arrangement.borrow_mut();
        let Some(index) = arrangement.index_on(&lookup.columns) else { return Ok(None) };
        let mut hashes = Vec::new();
        hash_columns(&lookup.keys, lookup.keys.first().map_or(0, |k| k.len()), &mut hashes);
        let mut matches = Matches::default();
        arrangement.probe(index, &lookup.keys, &hashes, lookup.at, &mut matches)?;
        let mut rows = matches.rows;
        if hashes.len() > 1 {
            // A key may have been asked for twice.
            rows.sort_unstable();
            rows.dedup();
        }
        (rows.len() <= lookup.rows_max).then(|| arrangement.gather(&rows)).transpose()
    }
}

/// A worker's relations, as operators may read them.
pub(super) struct Kept<'a>(pub(super) &'a HashMap<RelationId, Relation>);

impl Arrangements for Kept<'_> {
    fn arrangement(&self, relation: RelationId) -> Option<Rc<RefCell<Arrangement>>> {
        self.0.get(&relation).and_then(Relation::arrangement).map(Rc::clone)
    }
}

/// Applies an epoch's changes to a table's or stream's store, and tells those who follow it.
///
/// # Errors
/// If rows are not in memory and cannot be read.
fn apply(relation: &mut Relation, worker: usize, epoch: Epoch, deltas: &[Delta]) -> Result<()> {
    let Part::Stored(arrangement) = &relation.part else { return Ok(()) };
    let mut arrangement = arrangement.borrow_mut();
    if let Err(error) = deltas.iter().try_for_each(|d| arrangement.apply(d)) {
        if error.kind() != ErrorKind::Internal {
            return Err(error);
        }
        // The coordinator resolved the write against this very store.
        panic!("a resolved write does not fit its relation: {error}");
    }
    arrangement.seal(epoch, relation.shared.holds.advance(epoch))?;
    drop(arrangement);
    relation.n_uncharged += deltas.iter().map(Delta::n_rows).sum::<usize>();
    if relation.n_uncharged >= CHARGED_ROWS || relation.charge.as_ref().is_some_and(|c| c.bytes() < SMALL_STATE) {
        relation.measure(worker);
    }
    relation.taps.retain(|tap| (tap.follow)(worker, epoch, deltas));
    Ok(())
}
