//! Builds a dataflow on a worker: one timely operator for each node, and one for the root.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_operators::materialize::Materialize;
use millstream_operators::operator::Arrangements;
use millstream_operators::spilling::{self, MemoryWatch, SpillTo};
use millstream_operators::{BuildContext, Exchange, Node, RelationId};
use millstream_state::{Arrangement, ColdStore, Rows};
use millstream_types::hash::partitions_of;
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
use crate::saving::{RestoredDataflow, SaveRequest, SavedPart, Saving};

/// Rows of a view that are likely not to fit are read in so many pieces.
const RESTORED_PIECES: usize = 16;

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
    /// What its operators may read instead of keeping it.
    pub(crate) arrangements: &'a dyn Arrangements,
    /// The dataflows on this worker that are to complete an epoch before what they keep can be read.
    pub(crate) awaited: HashMap<RelationId, Awaited>,
    /// Where state goes that memory has no room for, if it may go anywhere.
    pub(crate) spill: Option<&'a Arc<dyn ColdStore>>,
    /// About what the rows take that its inputs have at the start, on this worker.
    pub(crate) n_bytes: usize,
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
    insert(arrangement, rows)?;
    arrangement.seal(epoch, since)
}

fn insert(arrangement: &mut Arrangement, rows: Vec<RecordBatch>) -> Result<()> {
    rows.into_iter().try_for_each(|rows| {
        let n_rows = rows.num_rows();
        arrangement.insert(rows.columns(), Rows::Range { offset: 0, len: n_rows })
    })
}

/// Inserts the rows that were saved of a view, piece by piece, and puts some away where there is too little memory.
fn insert_restored(
    arrangement: &mut Arrangement,
    restored: &RestoredDataflow,
    pieces: impl Iterator<Item = Range<usize>>,
    memory: &HeldMemory,
) -> Result<()> {
    for partitions in pieces {
        insert(arrangement, (restored.rows)(&partitions)?)?;
        memory.report(arrangement.n_bytes(), arrangement.n_bytes_spillable());
        let excess = memory.excess();
        if excess > 0 {
            arrangement.spill(excess)?;
        }
    }
    Ok(())
}

/// Builds all operators of a dataflow.
///
/// # Errors
/// If an operator cannot be built; then nothing was installed on this worker.
pub(crate) fn build(worker: &mut Worker, install: &InstallDataflow, site: Site<'_>) -> Result<Built> {
    let Site { failure, quanta, outbox, arrangements, awaited, spill, n_bytes } = site;
    let start = install.start.epoch;
    let build_context = BuildContext { worker: worker.index(), n_workers: worker.peers(), start, arrangements };
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
    // All that the inputs have is one epoch, in which nothing that has taken rows can be spilled.
    let n_workers = build_context.n_workers;
    let n_bytes = install.restored.as_ref().map_or(n_bytes.saturating_mul(n_workers), |restored| restored.n_bytes);
    let starts_in_parts = install.account.is_small_for(n_bytes);
    let mut operators = Vec::new();
    for (node_idx, node) in install.dataflow.nodes.iter().enumerate() {
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
        if let Some(restored) = install.restored.as_ref().filter(|_| !spec.is_stateless()) {
            // All workers build the same dataflows: on one where something is damaged it is there, and has failed.
            let partitions = partitions_of(context.worker, n_workers);
            let read = |partitions: &Range<usize>| (restored.state)(partitions, node_idx as u32);
            context.failure.guard(start, || operator.restore_from(&partitions, &read));
        }
        if install.keeps {
            operator.track_changes();
        }
        operators.push(Some((operator, memory)));
    }
    let root_memory = Rc::new(HeldMemory::new(&install.account));
    let (root, arrangement) = match &install.root {
        Root::Materialize { spec, shared } => {
            let mut arrangement = Arrangement::new(&spec.arrangement())?;
            if let Some(store) = spill {
                arrangement.spill_into(Arc::clone(store));
            }
            if let Some(place) = spec.place()? {
                arrangement.note_place(place);
            }
            let arrangement = Rc::new(RefCell::new(arrangement));
            if let Some(restored) = &install.restored {
                let since = shared.holds.advance(start);
                let n_pieces = if starts_in_parts { RESTORED_PIECES } else { 1 };
                let piece = |piece| partitions_of(context.worker * n_pieces + piece, n_workers * n_pieces);
                let restore = || {
                    let mut arrangement = arrangement.borrow_mut();
                    insert_restored(&mut arrangement, restored, (0..n_pieces).map(piece), &root_memory)?;
                    arrangement.seal(start, since)?;
                    arrangement.note_saved();
                    Ok(())
                };
                context.failure.guard(start, restore);
            }
            shared.set_reader(build_context.worker, arrangement.borrow().reader());
            let mut materialize = Materialize::new(spec.clone(), Rc::clone(&arrangement));
            if let Some(store) = spill {
                materialize =
                    materialize.putting_away(Arc::clone(store), Rc::clone(&root_memory) as Rc<dyn MemoryWatch>);
            }
            (RootState::Materialize(Box::new(materialize), Arc::clone(shared)), Some(arrangement))
        }
        Root::Sink(sink) => (RootState::Sink(sink.open(build_context.worker)?, Vec::new()), None),
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
