//! A worker: a thread that runs its share of every dataflow and keeps its partitions of every relation.

mod feed;

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::Thread;
use std::time::Duration;

use millstream_operators::RelationId;
use millstream_state::{Arrangement, Matches};
use millstream_types::hash::hash_columns;
use millstream_types::{Delta, Epoch, Error, Result};
use parking_lot::Mutex;
use timely::WorkerConfig;
use timely::communication::WorkerGuards;

use crate::command::{Command, EpochWork, Events, InstallDataflow, Lookup, LookupReply, RelationInput, RelationSpec};
use crate::dataflow::{Built, Outbox, build};
use crate::failure::Failure;
use crate::relation::{Arrivals, Arriving, Part, Relation};

/// All workers, as the coordinator holds them. Dropping it ends them.
pub struct Workers {
    senders: Vec<(Sender<Command>, Thread)>,
    guards: Mutex<Option<WorkerGuards<()>>>,
}

impl Workers {
    /// The number of workers.
    pub fn len(&self) -> usize {
        self.senders.len()
    }

    /// Whether there are none, which never is.
    pub fn is_empty(&self) -> bool {
        self.senders.is_empty()
    }

    /// Gives a command to a worker. A worker that has ended ignores it.
    pub fn send(&self, worker: usize, command: Command) {
        let (sender, thread) = &self.senders[worker];
        if sender.send(command).is_ok() {
            thread.unpark();
        }
    }

    /// Gives each worker a command.
    pub fn send_all(&self, mut command: impl FnMut(usize) -> Command) {
        (0..self.len()).for_each(|worker| self.send(worker, command(worker)));
    }

    /// Ends all workers and waits for them.
    pub fn shutdown(&self) {
        if let Some(guards) = self.guards.lock().take() {
            self.send_all(|_| Command::Shutdown);
            // A worker that panicked has been reported through `Events::worker_lost`.
            drop(guards.join());
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Starts workers.
///
/// # Errors
/// Internal, if threads cannot be started.
pub fn start(n_workers: usize, events: Arc<dyn Events>) -> Result<Workers> {
    let (receivers, senders): (Vec<_>, Vec<_>) = (0..n_workers).map(|_| channel()).map(|(s, r)| (Some(r), s)).unzip();
    let receivers = Mutex::new(receivers);
    let (threads_send, threads) = channel();
    let config = timely::Config {
        communication: if n_workers == 1 {
            timely::CommunicationConfig::Thread
        } else {
            timely::CommunicationConfig::Process(n_workers)
        },
        worker: WorkerConfig::default(),
    };
    let guards = timely::execute(config, move |timely| {
        let index = timely.index();
        let receiver = receivers.lock()[index].take().expect("each worker starts once");
        // The receiver lives as long as `start` runs.
        let _ = threads_send.send((index, std::thread::current()));
        let work = std::panic::AssertUnwindSafe(|| WorkerState::new(timely, Arc::clone(&events)).run(&receiver));
        if std::panic::catch_unwind(work).is_err() {
            events.worker_lost(index, Error::internal("a worker panicked outside of any dataflow"));
        }
    });
    let guards = guards.map_err(|e| Error::internal(format!("workers did not start: {e}")))?;
    let mut by_index: Vec<(usize, Thread)> = threads.iter().take(n_workers).collect();
    by_index.sort_by_key(|(index, _)| *index);
    let senders = senders.into_iter().zip(by_index).map(|(sender, (_, thread))| (sender, thread)).collect();
    Ok(Workers { senders, guards: Mutex::new(Some(guards)) })
}

/// A dataflow on this worker.
struct Installed {
    built: Built,
    install: Arc<InstallDataflow>,
    /// For each import: the relation, the columns wanted of it, and what is still to be fed.
    imports: Vec<ImportState>,
    /// The last epoch in which it gets something.
    last_ticked: Epoch,
    /// All epochs up to this one are complete here.
    sealed: Epoch,
}

struct ImportState {
    relation: RelationId,
    projection: Vec<usize>,
    schema: arrow::datatypes::SchemaRef,
    arrivals: Arrivals,
}

struct WorkerState<'a> {
    timely: &'a mut timely::worker::Worker,
    events: Arc<dyn Events>,
    relations: HashMap<RelationId, Relation>,
    dataflows: HashMap<RelationId, Installed>,
    /// Dataflows in the order in which they were installed: views come after what they are built on.
    order: Vec<RelationId>,
    outbox: Outbox,
    /// Dataflows that may be able to take something in.
    to_feed: HashSet<RelationId>,
}

impl<'a> WorkerState<'a> {
    fn new(timely: &'a mut timely::worker::Worker, events: Arc<dyn Events>) -> Self {
        WorkerState {
            timely,
            events,
            relations: HashMap::new(),
            dataflows: HashMap::new(),
            order: Vec::new(),
            outbox: Outbox::default(),
            to_feed: HashSet::new(),
        }
    }

    fn run(&mut self, commands: &Receiver<Command>) {
        loop {
            loop {
                match commands.try_recv() {
                    Ok(Command::Shutdown) | Err(TryRecvError::Disconnected) => return self.end(),
                    Ok(command) => self.handle(command),
                    Err(TryRecvError::Empty) => break,
                }
            }
            let goes_on = self.feed_all();
            // A command wakes the thread, as a message of another worker does.
            self.timely.step_or_park(if goes_on { Some(Duration::ZERO) } else { None });
            self.take_outbox();
        }
    }

    /// Drops all dataflows, which timely would otherwise wait for.
    fn end(&mut self) {
        self.dataflows.clear();
        for index in self.timely.installed_dataflows() {
            self.timely.drop_dataflow(index);
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::CreateRelation(id, spec) => self.create_relation(id, &spec),
            Command::DropRelation(id) => {
                self.relations.remove(&id);
            }
            Command::CreateIndex(id, columns) => {
                let relation = self.relations.get(&id);
                if let Some(mut arrangement) = relation.and_then(|r| r.arrangement()).map(|a| a.borrow_mut())
                    && arrangement.index_on(&columns).is_none()
                {
                    arrangement.add_index(&columns);
                }
            }
            Command::Install(install) => self.install(install),
            Command::Drop(id) => self.drop_dataflow(id),
            Command::Epoch(work) => self.epoch(work),
            Command::Lookup(lookup) => self.lookup(lookup),
            Command::Tap(id, tap) => {
                if let Some(relation) = self.relations.get_mut(&id) {
                    relation.taps.push(tap);
                }
            }
            Command::Run(work) => work(),
            Command::Shutdown => {}
        }
    }

    fn create_relation(&mut self, id: RelationId, spec: &RelationSpec) {
        let part = match spec {
            RelationSpec::Source { source, .. } => Part::Source(Arc::clone(source)),
            RelationSpec::Stored { arrangement, shared } => match Arrangement::new(arrangement) {
                Ok(arrangement) => {
                    shared.set_reader(self.timely.index(), arrangement.reader());
                    Part::Stored(Rc::new(arrangement.into()))
                }
                Err(error) => return self.events.failed(id, Epoch::ZERO, error),
            },
        };
        let shared = Arc::clone(spec.shared());
        self.relations.insert(id, Relation { part, shared, importers: Vec::new(), taps: Vec::new() });
    }

    fn install(&mut self, install: Arc<InstallDataflow>) {
        let failure = Failure::new(install.id, Arc::clone(&self.events));
        let built = match build(self.timely, &install, failure, &self.outbox) {
            Ok(built) => built,
            Err(error) => return self.events.failed(install.id, install.start.epoch, error),
        };
        let start = install.start.epoch;
        let mut imports = Vec::new();
        for (i, (node, relation, projection)) in install.dataflow.imports().enumerate() {
            let arriving = match &install.imports[i].offsets {
                Some(offsets) => Arriving::Offsets(self.share_of(offsets)),
                None => Arriving::Snapshot { needs: self.last_ticked(relation), next_chunk: 0, snapshot: None },
            };
            imports.push(ImportState {
                relation,
                projection: projection.to_vec(),
                schema: install.dataflow.schema(node),
                arrivals: VecDeque::from([(start, arriving)]),
            });
            if let Some(imported) = self.relations.get_mut(&relation) {
                imported.importers.push((install.id, i));
            }
        }
        if let crate::Root::Materialize { shared, .. } = &install.root {
            let arrangement = built.arrangement.clone().expect("a view has an arrangement");
            let shared = Arc::clone(shared);
            let relation = Relation { part: Part::View(arrangement), shared, importers: Vec::new(), taps: Vec::new() };
            self.relations.insert(install.id, relation);
        }
        self.order.push(install.id);
        self.to_feed.insert(install.id);
        let installed = Installed { built, imports, last_ticked: start, sealed: start.prev(), install };
        self.dataflows.insert(installed.install.id, installed);
    }

    /// This worker's part of a range of offsets.
    fn share_of(&self, offsets: &std::ops::Range<u64>) -> std::ops::Range<u64> {
        let (index, n) = (self.timely.index() as u64, self.timely.peers() as u64);
        let len = offsets.end - offsets.start;
        offsets.start + len * index / n..offsets.start + len * (index + 1) / n
    }

    /// The epoch that a relation has to complete before all that was sent to it so far is in it.
    fn last_ticked(&self, relation: RelationId) -> Epoch {
        self.dataflows.get(&relation).map_or(Epoch::ZERO, |d| d.last_ticked)
    }

    fn drop_dataflow(&mut self, id: RelationId) {
        if let Some(installed) = self.dataflows.remove(&id) {
            self.timely.drop_dataflow(installed.built.timely_index);
        }
        self.order.retain(|d| *d != id);
        self.to_feed.remove(&id);
        self.relations.remove(&id);
        for relation in self.relations.values_mut() {
            relation.importers.retain(|(dataflow, _)| *dataflow != id);
        }
    }

    fn epoch(&mut self, work: EpochWork) {
        let epoch = work.header.epoch;
        let mut touched: HashMap<RelationId, RelationInput> = HashMap::new();
        for (id, input) in work.inputs {
            let Some(relation) = self.relations.get_mut(&id) else { continue };
            if let (Part::Stored(arrangement), RelationInput::Deltas(deltas)) = (&relation.part, &input) {
                let mut arrangement = arrangement.borrow_mut();
                let applied = deltas.iter().try_for_each(|d| arrangement.apply(d));
                if let Err(error) = applied {
                    // The coordinator resolved the write against this very store.
                    panic!("a resolved write does not fit its relation: {error}");
                }
                arrangement.seal(epoch, relation.shared.holds.advance(epoch));
                drop(arrangement);
                let worker = self.timely.index();
                relation.taps.retain(|tap| (tap.follow)(worker, epoch, deltas));
            }
            touched.insert(id, input);
        }
        let mut affected: HashSet<RelationId> = touched.keys().copied().collect();
        for &id in &self.order {
            let installed = self.dataflows.get_mut(&id).expect("an installed dataflow");
            if !installed.imports.iter().any(|i| affected.contains(&i.relation)) {
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
                    None => Arriving::Ready(vec![]),
                };
                import.arrivals.push_back((epoch, arriving));
            }
            self.to_feed.insert(id);
        }
        let worker = self.timely.index();
        touched.keys().for_each(|&id| self.events.completed(id, worker, epoch));
    }

    /// Hands on what roots have completed.
    fn take_outbox(&mut self) {
        let sealed = std::mem::take(&mut *self.outbox.borrow_mut());
        for sealed in sealed {
            let Some(installed) = self.dataflows.get_mut(&sealed.relation) else { continue };
            installed.sealed = sealed.upto;
            installed.install.holds.lock().clear();
            let worker = self.timely.index();
            if let Some(relation) = self.relations.get_mut(&sealed.relation) {
                for (epoch, changes) in &sealed.changes {
                    relation.taps.retain(|tap| (tap.follow)(worker, *epoch, changes));
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
                    self.to_feed.insert(*dataflow);
                }
            }
            self.events.completed(sealed.relation, worker, sealed.upto);
        }
    }

    fn lookup(&mut self, lookup: Lookup) {
        let found = self.find(&lookup);
        (lookup.reply)(found);
    }

    fn find(&self, lookup: &Lookup) -> Result<LookupReply> {
        let relation = self.relations.get(&lookup.relation);
        let arrangement = relation.and_then(Relation::arrangement).ok_or_else(|| {
            Error::internal(format!("a lookup in relation {}, which keeps no rows here", lookup.relation))
        })?;
        let arrangement = arrangement.borrow();
        let index =
            arrangement.index_on(&lookup.columns).ok_or_else(|| Error::internal("a lookup without an index"))?;
        let mut hashes = Vec::new();
        hash_columns(&lookup.keys, lookup.keys.first().map_or(0, |k| k.len()), &mut hashes);
        let mut matches = Matches::default();
        arrangement.probe(index, &lookup.keys, &hashes, lookup.at, &mut matches);
        let rows = arrangement.gather(&matches.rows);
        Ok(LookupReply { probes: matches.probes, rows })
    }
}

/// Columns of whole rows, under an import's schema.
fn project(delta: &Delta, import: &ImportState) -> Result<Delta> {
    let columns = import.projection.iter().map(|&c| delta.columns()[c].clone()).collect();
    delta.with_columns(import.schema.clone(), columns)
}
