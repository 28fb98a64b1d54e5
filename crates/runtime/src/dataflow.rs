//! Builds a dataflow on a worker: one timely operator for each node, and one for the root.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_operators::materialize::Materialize;
use millstream_operators::operator::{Arrangements, Operator};
use millstream_operators::spilling::{self, MemoryWatch, SpillTo};
use millstream_operators::{BuildContext, Exchange, Node, NodeId, RelationId};
use millstream_state::{Arrangement, ColdStore, Rows, SavedState};
use millstream_types::{Delta, Epoch, EpochHeader, Error, Result};
use timely::container::NoopBuilder;
use timely::dataflow::InputHandle;
use timely::dataflow::operators::Input;
use timely::scheduling::Activator;
use timely::worker::Worker;

use crate::adapter::{Edges, Placed, add_operator};
use crate::chunk::Chunk;
use crate::command::{InstallDataflow, OperatorHook, Root};
use crate::failure::Failure;
use crate::memory::{Account, HeldMemory};
use crate::pressure::Pressure;
use crate::quanta::Quanta;
use crate::root::{RootEnd, RootState, add_root};
use crate::row_errors::RowErrorLog;
use crate::saving::{SaveRequest, SavedPart, Saving};

/// What the operators of a dataflow share on a worker.
pub(crate) struct Context {
    pub(crate) name: String,
    pub(crate) worker: usize,
    pub(crate) start: Epoch,
    pub(crate) failure: Failure,
    pub(crate) errors: Arc<RowErrorLog>,
    pub(crate) pressure: Arc<Pressure>,
    pub(crate) quanta: Quanta,
    pub(crate) account: Arc<Account>,
    /// How often operators were asked to give memory back.
    pub(crate) n_relieved: Cell<u64>,
    /// Somebody takes the root's changes, so they have to be kept until the end of each epoch.
    pub(crate) is_followed: Cell<bool>,
    /// The root has sealed all epochs up to this one on this worker.
    pub(crate) sealed: Cell<Epoch>,
    hook: Option<OperatorHook>,
    /// Headers of epochs that are not complete.
    headers: RefCell<BTreeMap<Epoch, EpochHeader>>,
    /// It goes on from what was saved.
    pub(crate) is_restored: bool,
    /// It is saved now and then: no operator begins with an epoch that this worker does not know of yet, since it may be
    /// asked for its state before that.
    pub(crate) keeps: bool,
    /// Some operator waits for an epoch to be known.
    awaits_epoch: Cell<bool>,
    /// How often it was to be saved.
    n_saves: Cell<u64>,
    saving: RefCell<Option<Saving>>,
    /// Those of the operators that have state, the root's last.
    activators: RefCell<Vec<Activator>>,
}

impl Context {
    /// Adds an operator that has state.
    pub(crate) fn add_stateful(&self, activator: Activator) {
        self.activators.borrow_mut().push(activator);
    }

    /// Lets operators hand over what has changed, each when it has completed an epoch.
    pub(crate) fn save(&self, upto: Epoch, owner: u64, request: &Arc<SaveRequest>) {
        let n_parts = self.activators.borrow().len();
        // One that is not done yet ends now.
        *self.saving.borrow_mut() = Some(Saving::new(upto, n_parts, owner, self.worker, request));
        self.n_saves.set(self.n_saves.get() + 1);
        self.activate_all();
    }

    /// The epoch as of which an operator is to hand over what has changed, if it has not for the last so many saves.
    #[inline]
    pub(crate) fn wanted_upto(&self, n_saves: u64) -> Option<Epoch> {
        (self.n_saves.get() > n_saves).then(|| self.saving.borrow().as_ref().map(|saving| saving.upto)).flatten()
    }

    /// Takes what an operator hands over; returns how many saves it has taken part in now.
    pub(crate) fn hand_over(&self, part: SavedPart) -> u64 {
        let mut saving = self.saving.borrow_mut();
        if saving.as_mut().is_some_and(|saving| saving.take(part)) {
            *saving = None;
        }
        self.n_saves.get()
    }

    /// Asks operators to give memory back, in the next step.
    pub(crate) fn relieve(&self) {
        self.n_relieved.set(self.n_relieved.get() + 1);
        self.activate_all();
    }

    pub(crate) fn activate_all(&self) {
        self.activators.borrow().iter().for_each(Activator::activate);
    }

    /// Whether an operator may begin with an epoch; if not, it is activated when that may be so.
    pub(crate) fn may_begin(&self, epoch: Epoch) -> bool {
        let may_begin = !self.keeps || self.is_open(epoch);
        if !may_begin {
            self.awaits_epoch.set(true);
        }
        may_begin
    }
}

impl Context {
    pub(crate) fn header(&self, epoch: Epoch) -> EpochHeader {
        self.headers.borrow()[&epoch].clone()
    }

    pub(crate) fn open(&self, header: &EpochHeader) {
        self.headers.borrow_mut().insert(header.epoch, header.clone());
        if self.awaits_epoch.take() {
            self.activate_all();
        }
    }

    /// Whether this worker knows of an epoch that is not complete.
    pub(crate) fn is_open(&self, epoch: Epoch) -> bool {
        self.headers.borrow().contains_key(&epoch)
    }

    pub(crate) fn close(&self, epoch: Epoch) {
        let mut headers = self.headers.borrow_mut();
        let later = headers.split_off(&epoch.next());
        *headers = later;
    }

    pub(crate) fn call_hook(&self, operator: &str) {
        if let Some(hook) = &self.hook {
            hook(&self.name, operator);
        }
    }

    /// Fails the dataflow if it has more in use than it may, and tells of it if all have.
    pub(crate) fn check_limits(&self, epoch: Epoch) {
        if self.account.is_over() {
            self.failure.fail(epoch, over_limit(&self.account));
        } else if self.account.is_whole_over() {
            self.failure.whole_is_over(epoch);
        }
    }
}

/// The error of a dataflow whose state has passed its own limit.
fn over_limit(account: &Account) -> Error {
    let detail = format!(
        "Its state takes {} bytes that cannot be spilled, and its limit is {} bytes.",
        account.pinned(),
        account.limit().unwrap_or(usize::MAX)
    );
    Error::out_of_memory("its memory limit was reached")
        .with_detail(detail)
        .with_hint("A higher limit is given by WITH (memory_limit = '...') when it is created.")
}

/// Epochs that a root has completed, with what changed in them.
pub(crate) struct Sealed {
    pub(crate) relation: RelationId,
    /// All epochs up to this one are complete.
    pub(crate) upto: Epoch,
    pub(crate) changes: Vec<(Epoch, Vec<Delta>)>,
}

pub(crate) type Outbox = Rc<RefCell<Vec<Sealed>>>;
pub(crate) type Handle = InputHandle<u64, NoopBuilder<Chunk>>;

/// A dataflow as its worker drives it.
pub(crate) struct Built {
    pub(crate) inputs: Vec<Handle>,
    pub(crate) timely_index: usize,
    pub(crate) context: Rc<Context>,
    pub(crate) arrangement: Option<Rc<RefCell<Arrangement>>>,
    /// What the root has in use.
    pub(crate) root_memory: Rc<HeldMemory>,
}

/// What a worker gives to a dataflow that it builds.
pub(crate) struct Site<'a> {
    pub(crate) failure: Failure,
    pub(crate) quanta: Quanta,
    pub(crate) outbox: &'a Outbox,
    /// The dataflows on this worker that are to complete an epoch before what they keep can be read.
    pub(crate) awaited: HashMap<RelationId, Awaited>,
    /// Where state goes that memory has no room for, if it may go anywhere.
    pub(crate) spill: Option<&'a Arc<dyn ColdStore>>,
}

/// A dataflow that is to complete an epoch.
#[derive(Clone)]
pub(crate) struct Awaited {
    pub(crate) context: Rc<Context>,
    pub(crate) epoch: Epoch,
}

impl Awaited {
    pub(crate) fn is_complete(&self) -> bool {
        self.context.sealed.get() >= self.epoch
    }
}

/// Puts what was saved into an arrangement that has nothing yet.
pub(crate) fn fill(arrangement: &mut Arrangement, rows: Vec<RecordBatch>, epoch: Epoch, since: Epoch) -> Result<()> {
    for rows in rows {
        arrangement.insert(rows.columns(), Rows::Range { offset: 0, len: rows.num_rows() })?;
    }
    arrangement.seal(epoch, since)
}

/// An operator, and what it has in use.
type Accounted = (Box<dyn Operator>, Rc<HeldMemory>);

/// The operators of a dataflow on a worker, and where its rows go, before timely runs them.
pub(crate) struct Parts {
    /// By node; imports have none.
    operators: Vec<Option<Accounted>>,
    /// The nodes of those that have state.
    stateful: Vec<NodeId>,
    arrangement: Option<Rc<RefCell<Arrangement>>>,
    root_memory: Rc<HeldMemory>,
    /// There is likely to be too much for memory.
    starts_in_parts: bool,
}

/// What a worker gives to operators that it makes.
pub(crate) struct Around<'a> {
    pub(crate) worker: usize,
    pub(crate) n_workers: usize,
    /// What they may read instead of keeping it.
    pub(crate) arrangements: &'a dyn Arrangements,
    /// Where state goes that memory has no room for, if it may go anywhere.
    pub(crate) spill: Option<&'a Arc<dyn ColdStore>>,
    /// About what the rows take that the dataflow begins with, on all workers.
    pub(crate) n_bytes: usize,
}

impl Parts {
    /// Makes all operators of a dataflow. If it is to be restored they have still to take that over.
    ///
    /// # Errors
    /// If an operator cannot be built.
    pub(crate) fn new(install: &InstallDataflow, around: Around<'_>) -> Result<Parts> {
        let Around { worker, n_workers, arrangements, spill, n_bytes } = around;
        let build_context = BuildContext { worker, n_workers, start: install.start.epoch, arrangements };
        // All that the inputs have is one epoch, in which nothing that has taken rows can be spilled.
        let starts_in_parts = install.account.is_small_for(n_bytes);
        let (mut operators, mut stateful) = (Vec::new(), Vec::new());
        for (id, node) in install.dataflow.nodes.iter().enumerate() {
            let Node::Operator { spec, inputs } = node else {
                operators.push(None);
                continue;
            };
            let memory = Rc::new(HeldMemory::new(&install.account));
            let mut operator = match spill {
                None => spec.build(build_context)?,
                Some(store) => {
                    let watch = Rc::clone(&memory) as Rc<dyn MemoryWatch>;
                    let queued_bytes_max = install.pressure.queue_bytes();
                    let spill_to = SpillTo { store: Arc::clone(store), watch, queued_bytes_max, starts_in_parts };
                    spilling::build(spec, inputs, build_context, spill_to)?
                }
            };
            if install.keeps && install.restored.is_none() {
                operator.track_changes();
            }
            stateful.extend((!spec.is_stateless()).then_some(id));
            operators.push(Some((operator, memory)));
        }
        let arrangement = match &install.root {
            Root::Materialize { spec, .. } => {
                let mut arrangement = Arrangement::new(&spec.arrangement())?;
                if let Some(store) = spill {
                    arrangement.spill_into(Arc::clone(store));
                }
                if let Some(place) = spec.place()? {
                    arrangement.note_place(place);
                }
                Some(Rc::new(RefCell::new(arrangement)))
            }
            Root::Sink(_) => None,
        };
        let root_memory = Rc::new(HeldMemory::new(&install.account));
        Ok(Parts { operators, stateful, arrangement, root_memory, starts_in_parts })
    }

    pub(crate) fn starts_in_parts(&self) -> bool {
        self.starts_in_parts
    }

    /// For each node whose operator has state, the ranges of partitions in which it takes it over: `n_wanted`, if it can.
    pub(crate) fn restored_parts(
        &self,
        partitions: &Range<usize>,
        n_wanted: usize,
    ) -> Vec<(NodeId, Vec<Range<usize>>)> {
        let parts =
            |&node: &NodeId| Some((node, self.operators[node].as_ref()?.0.restored_parts(partitions, n_wanted)));
        self.stateful.iter().filter_map(parts).collect()
    }

    /// The operator at a node takes over a part of its state.
    ///
    /// # Errors
    /// As [`Operator::restore_part`].
    pub(crate) fn restore(&mut self, node: NodeId, part: usize, saved: &mut SavedState) -> Result<()> {
        let Some((operator, memory)) = self.operators.get_mut(node).and_then(Option::as_mut) else { return Ok(()) };
        operator.restore_part(part, saved)?;
        memory.set_of(&**operator);
        Ok(())
    }

    /// Inserts rows that were saved of a view, and puts some away where there is too little memory.
    ///
    /// # Errors
    /// 53200 if there is no other place for them.
    pub(crate) fn insert_restored(&self, rows: &RecordBatch) -> Result<()> {
        let Some(arrangement) = &self.arrangement else { return Ok(()) };
        let mut arrangement = arrangement.borrow_mut();
        arrangement.insert(rows.columns(), Rows::Range { offset: 0, len: rows.num_rows() })?;
        self.root_memory.report(arrangement.n_bytes(), arrangement.n_bytes_spillable());
        let excess = self.root_memory.excess();
        if excess > 0 {
            arrangement.spill(excess)?;
        }
        Ok(())
    }

    /// All that was saved is there: it is as of the dataflow's start.
    ///
    /// # Errors
    /// If rows are not in memory and cannot be read.
    pub(crate) fn end_restore(&mut self, install: &InstallDataflow) -> Result<()> {
        if install.keeps {
            self.operators.iter_mut().flatten().for_each(|(operator, _)| operator.track_changes());
        }
        if let (Some(arrangement), Root::Materialize { shared, .. }) = (&self.arrangement, &install.root) {
            let start = install.start.epoch;
            let mut arrangement = arrangement.borrow_mut();
            arrangement.seal(start, shared.holds.advance(start))?;
            arrangement.note_saved();
        }
        Ok(())
    }
}

/// Builds a dataflow of its parts within timely.
///
/// # Errors
/// If a sink cannot be opened; then nothing was installed on this worker.
pub(crate) fn build(worker: &mut Worker, install: &InstallDataflow, parts: Parts, site: Site<'_>) -> Result<Built> {
    let Site { failure, quanta, outbox, awaited, spill } = site;
    let Parts { operators, arrangement, root_memory, .. } = parts;
    let start = install.start.epoch;
    let context = Rc::new(Context {
        name: install.name.clone(),
        worker: worker.index(),
        start,
        failure,
        errors: Arc::clone(&install.errors),
        pressure: Arc::clone(&install.pressure),
        quanta,
        account: Arc::clone(&install.account),
        n_relieved: Cell::default(),
        is_followed: Cell::new(false),
        sealed: Cell::new(if install.restored.is_some() { start } else { start.prev() }),
        hook: install.hook.clone(),
        headers: RefCell::default(),
        is_restored: install.restored.is_some(),
        keeps: install.keeps,
        awaits_epoch: Cell::default(),
        n_saves: Cell::default(),
        saving: RefCell::default(),
        activators: RefCell::default(),
    });
    if install.restored.is_none() {
        context.open(&install.start);
    }
    let root = match (&install.root, &arrangement) {
        (Root::Materialize { spec, shared }, Some(arrangement)) => {
            shared.set_reader(context.worker, arrangement.borrow().reader());
            let mut materialize = Materialize::new(spec.clone(), Rc::clone(arrangement));
            if let Some(store) = spill {
                materialize =
                    materialize.putting_away(Arc::clone(store), Rc::clone(&root_memory) as Rc<dyn MemoryWatch>);
            }
            RootState::Materialize(Box::new(materialize), Arc::clone(shared))
        }
        (Root::Sink(sink), _) => RootState::Sink(sink.open(context.worker)?, Vec::new()),
        (Root::Materialize { .. }, None) => return Err(Error::internal("a view without an arrangement")),
    };
    let timely_index = worker.next_dataflow_index();
    let inputs = worker.dataflow_named::<u64, _, _>(&install.name, |scope| {
        let metrics = &install.metrics.workers[scope.index()];
        let mut inputs = Vec::new();
        let mut streams: Vec<Edges<'_>> = Vec::new();
        // A dataflow of constants alone has an input that brings nothing and never ends: an input's end means that the
        // dataflow is being dropped.
        let mut clock = install.dataflow.imports().next().is_none().then(|| {
            let (mut handle, stream) = scope.new_input_with_builder::<NoopBuilder<Chunk>>();
            handle.advance_to(install.start.epoch.next().0);
            inputs.push(handle);
            stream
        });
        for (id, (node, operator)) in install.dataflow.nodes.iter().zip(operators).enumerate() {
            streams.push(match (node, operator) {
                (Node::Operator { spec, inputs }, Some((operator, memory))) => {
                    let by = inputs.iter().map(|edge| edge.exchange.partitioned_by().to_vec()).collect();
                    let mut inputs: Vec<(Edges<'_>, Exchange)> =
                        inputs.iter().map(|e| (streams[e.from].clone(), e.exchange.clone())).collect();
                    if inputs.is_empty() {
                        inputs.extend(clock.take().map(|clock| (clock, Exchange::Local)));
                    }
                    let placed = Placed {
                        name: spec.name(),
                        node: id,
                        operator,
                        is_stateless: spec.is_stateless(),
                        partitioned_by: by,
                        awaits: spec.shared_relations().iter().filter_map(|id| awaited.get(id).cloned()).collect(),
                        metrics: Arc::clone(&metrics[id]),
                        memory,
                    };
                    add_operator(scope, placed, inputs, Rc::clone(&context))
                }
                _ => {
                    let (mut handle, stream) = scope.new_input_with_builder::<NoopBuilder<Chunk>>();
                    let first = if context.is_restored { start.next() } else { start };
                    handle.advance_to(first.0);
                    inputs.push(handle);
                    stream
                }
            });
        }
        let result = streams.pop().expect("a dataflow has nodes");
        let metrics = metrics.last().expect("the root has metrics");
        let end = RootEnd { metrics: Arc::clone(metrics), memory: Rc::clone(&root_memory), outbox: Rc::clone(outbox) };
        add_root(scope, install.id, result, root, end, Rc::clone(&context));
        inputs
    });
    Ok(Built { inputs, timely_index, context, arrangement, root_memory })
}
