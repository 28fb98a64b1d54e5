//! Drives an operator within timely: the only place that knows of frontiers and capabilities.
//!
//! Deltas of the earliest open epoch are pushed as they come; those of later epochs wait. An epoch ends when no input's
//! frontier allows more of it. Between two calls of an operator commands get their turn, and an operator whose consumer
//! has enough to do puts off its work. A failed operator keeps its capabilities, so that no worker completes the epoch in
//! which it failed.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use millstream_operators::operator::Operator;
use millstream_operators::{Exchange, NodeId, Output, Port, Progress};
use millstream_state::StateChanges;
use millstream_types::{Delta, Epoch};
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, InputCapability};
use timely::dataflow::{Scope, Stream};
use timely::progress::frontier::MutableAntichain;
use timely::progress::operate::FrontierInterest;
use timely::scheduling::Activator;

use crate::chunk::{Chunk, HashSplit};
use crate::dataflow::{Awaited, Context};
use crate::memory::{Charge, HeldMemory};
use crate::metrics::NodeMetrics;
use crate::pressure::Load;
use crate::quanta::QUANTUM;
use crate::saving::SavedPart;

/// Rows that an operator is given before others get a turn.
const QUANTUM_ROWS: usize = 1 << 16;
/// Rows in one message, at most and, however large they are, at least.
const SENT_ROWS_MAX: usize = 1 << 15;
const SENT_ROWS_MIN: usize = 16;
/// After which an operator looks again whether its consumer can take more.
const BACKED_UP_FOR: Duration = Duration::from_micros(100);
/// Rows after which an operator's state is measured again, however short the time, and their bytes.
pub(crate) const MEASURE_ROWS: i64 = 1 << 12;
pub(crate) const MEASURE_BYTES: i64 = 1 << 20;
/// Time after which it is measured again, however few the rows. Measuring takes time that grows with the state.
pub(crate) const MEASURE_EVERY: Duration = Duration::from_millis(20);
/// Bytes up to which measuring costs next to nothing.
pub(crate) const SMALL_STATE: usize = 1 << 20;

pub(crate) type Edges<'scope> = Stream<'scope, u64, Chunk>;

/// An operator and its place in its dataflow.
pub(crate) struct Placed {
    pub(crate) name: &'static str,
    pub(crate) node: NodeId,
    pub(crate) operator: Box<dyn Operator>,
    pub(crate) is_stateless: bool,
    /// For each input, the columns whose hash says on which worker rows arrive.
    pub(crate) partitioned_by: Vec<Vec<usize>>,
    /// What it reads of others has to be there before it is called first.
    pub(crate) awaits: Vec<Awaited>,
    pub(crate) metrics: Arc<NodeMetrics>,
    pub(crate) memory: Rc<HeldMemory>,
}

/// Takes what has arrived on an input, whatever its pact.
pub(crate) type Receive = Box<dyn FnMut(&mut dyn FnMut(InputCapability<u64>, Delta, Load))>;

pub(crate) fn new_input<'scope>(
    builder: &mut OperatorBuilder<'scope, u64>,
    stream: Edges<'scope>,
    exchange: &Exchange,
    n_workers: usize,
) -> Receive {
    macro_rules! receive {
        ($pact:expr) => {{
            let mut input = builder.new_input(stream, $pact);
            Box::new(move |take: &mut dyn FnMut(InputCapability<u64>, Delta, Load)| {
                input.for_each(|capability, chunk| {
                    if let Chunk { delta: Some(delta), load } = std::mem::take(chunk) {
                        take(capability, delta, load);
                    }
                });
            })
        }};
    }
    match exchange {
        Exchange::Hash(columns) if n_workers > 1 => {
            let columns = columns.clone();
            receive!(DistributorPact(move |_peers| HashSplit { columns }))
        }
        _ => receive!(Pipeline),
    }
}

/// Adds an operator to a scope.
pub(crate) fn add_operator<'scope>(
    scope: Scope<'scope, u64>,
    placed: Placed,
    inputs: Vec<(Edges<'scope>, Exchange)>,
    context: Rc<Context>,
) -> Edges<'scope> {
    let mut builder = OperatorBuilder::new(placed.name.to_owned(), scope);
    let n_workers = scope.peers();
    let receive = inputs.into_iter().map(|(stream, exchange)| new_input(&mut builder, stream, &exchange, n_workers));
    let receive: Vec<Receive> = receive.collect();
    let (output, stream) = builder.new_output::<Chunk>();
    let interest = if placed.is_stateless { FrontierInterest::Never } else { FrontierInterest::IfCapability };
    (0..receive.len()).for_each(|i| builder.set_notify_for(i, interest));
    let activator = scope.activator_for(builder.operator_info().address.clone());
    if !placed.is_stateless {
        context.add_stateful(scope.activator_for(builder.operator_info().address));
    }
    builder.build_reschedule(move |capabilities| {
        let mut adapter = Adapter {
            receive,
            output: OutputBuilder::from(output),
            out: Output::of_bytes(context.pressure.piece_bytes()),
            waiting: BTreeMap::new(),
            parked: Load::default(),
            phase: Phase::Idle,
            activator,
            relieved: 0,
            measured_at: Instant::now(),
            unmeasured: Load::default(),
            n_saves: 0,
            saving: None,
            placed,
            context,
        };
        if !adapter.placed.is_stateless && !adapter.context.is_restored {
            // Every stateful operator is called at the end of the first epoch, whatever arrives.
            let start = adapter.context.start.0;
            let waiting = Waiting::new(capabilities[0].delayed(&start));
            adapter.waiting.insert(Epoch(start), waiting);
        }
        move |frontiers: &[MutableAntichain<u64>]| {
            adapter.schedule(frontiers);
            false
        }
    });
    stream
}

/// A delta in pieces that each take little of a turn, and of memory where they are taken in.
fn pieces(delta: Delta, n_bytes_max: usize) -> impl Iterator<Item = Chunk> {
    let mut load = Load::of(&delta);
    let n_rows = delta.n_rows();
    let n_rows_max = SENT_ROWS_MAX.min(rows_of_bytes(load, n_bytes_max));
    (0..n_rows).step_by(n_rows_max).map(move |from| {
        let delta = delta.slice(from, n_rows_max.min(n_rows - from));
        Chunk { load: load.take_part(delta.n_rows()), delta: Some(delta) }
    })
}

/// How many rows like these have so many bytes; at least some, so that they are worth a call.
fn rows_of_bytes(load: Load, n_bytes: usize) -> usize {
    let row_bytes = (load.bytes / load.rows.max(1)).max(1) as usize;
    (n_bytes / row_bytes).max(SENT_ROWS_MIN)
}

/// What an epoch has still to bring to the operator.
struct Waiting {
    capability: Capability<u64>,
    deltas: VecDeque<(Port, Delta, Load)>,
    /// Of all deltas.
    load: Load,
}

impl Waiting {
    fn new(capability: Capability<u64>) -> Self {
        Waiting { capability, deltas: VecDeque::new(), load: Load::default() }
    }
}

/// What the operator was doing when it last put off work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Pushing,
    Ending,
}

/// What is to become of an operator that has worked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Nothing, until something arrives or a frontier moves.
    Rest,
    /// It goes on in the next step.
    GoOn,
    /// It goes on when its consumer has less to do, or what it reads of others is there.
    BackedUp,
}

struct Adapter {
    placed: Placed,
    context: Rc<Context>,
    receive: Vec<Receive>,
    output: OutputBuilder<u64, NoopBuilder<Chunk>>,
    out: Output,
    waiting: BTreeMap<Epoch, Waiting>,
    /// Rows among those that wait whose turn has not come.
    parked: Load,
    phase: Phase,
    activator: Activator,
    /// How often it has handed over what has changed.
    n_saves: u64,
    /// What it has said so far of what has changed, while there is more; until then nothing else is done.
    saving: Option<(StateChanges, Charge)>,
    /// How often it was asked to give memory back, when it last did.
    relieved: u64,
    // metrics
    measured_at: Instant,
    unmeasured: Load,
}

impl Adapter {
    fn schedule(&mut self, frontiers: &[MutableAntichain<u64>]) {
        self.receive_all();
        if self.context.failure.has_failed() {
            self.waiting.values_mut().for_each(|w| w.deltas.clear());
            self.context.pressure.close();
            return;
        }
        self.relieve();
        let start = Instant::now();
        if self.waiting.is_empty() {
            if self.save_if_due(frontiers, start) == Progress::More {
                self.activator.activate();
            }
            return;
        }
        let mut next = self.work(frontiers, start);
        if self.save_if_due(frontiers, start) == Progress::More {
            next = Next::GoOn;
        }
        match next {
            Next::Rest => {}
            Next::GoOn => self.activator.activate(),
            Next::BackedUp => self.activator.activate_after(BACKED_UP_FOR),
        }
        self.park(next);
        self.placed.metrics.busy_since(start);
        self.measure();
    }

    /// Lets the operator give memory back if it is asked to, and between two epochs.
    fn relieve(&mut self) {
        let asked = self.context.n_relieved.get();
        let is_between = self.phase == Phase::Idle && self.saving.is_none();
        if self.relieved == asked || !is_between || self.placed.is_stateless {
            return;
        }
        self.relieved = asked;
        let epoch = self.waiting.keys().next().copied().unwrap_or(self.context.start);
        if self.context.failure.guard(epoch, || self.placed.operator.relieve()).is_some() {
            self.report();
        }
    }

    fn receive_all(&mut self) {
        for (port, receive) in self.receive.iter_mut().enumerate() {
            receive(&mut |capability, delta, load| {
                let epoch = *capability.least().expect("every chunk is sent at an epoch");
                NodeMetrics::add(&self.placed.metrics.rows_in, delta.n_rows());
                NodeMetrics::add(&self.placed.metrics.batches_in, 1);
                let retain = || capability.retain_least(0).expect("every chunk is sent at an epoch");
                let waiting = self.waiting.entry(Epoch(epoch)).or_insert_with(|| Waiting::new(retain()));
                waiting.load += load;
                waiting.deltas.push_back((port, delta, load));
            });
        }
    }

    /// Does what can be done, up to a quantum.
    fn work(&mut self, frontiers: &[MutableAntichain<u64>], start: Instant) -> Next {
        self.placed.awaits.retain(|awaited| !awaited.is_complete());
        if !self.placed.awaits.is_empty() {
            return Next::BackedUp;
        }
        let is_stateless = self.placed.is_stateless;
        let (mut n_rows, mut now) = (0, start);
        while let Some((&epoch, waiting)) = self.waiting.first_key_value() {
            let is_earliest = is_stateless || !frontiers.iter().any(|f| f.less_than(&epoch.0));
            let is_complete = is_stateless || !frontiers.iter().any(|f| f.less_equal(&epoch.0));
            let has_deltas = !waiting.deltas.is_empty();
            if self.phase == Phase::Idle && (!is_earliest || !has_deltas && !is_complete) {
                return Next::Rest;
            }
            if self.phase == Phase::Idle && !is_stateless {
                if !self.context.may_begin(epoch) {
                    return Next::Rest;
                }
                if self.save_if_due(frontiers, start) == Progress::More {
                    return Next::GoOn;
                }
            }
            if n_rows >= QUANTUM_ROWS || now.duration_since(start) >= QUANTUM || self.context.quanta.turn(now) {
                return Next::GoOn;
            }
            if self.context.pressure.is_backed_up(self.placed.node) {
                return Next::BackedUp;
            }
            let progress = self.call(epoch, has_deltas, &mut n_rows);
            self.send(epoch);
            now = Instant::now();
            match progress {
                None => return Next::Rest,
                Some(Progress::More) => return Next::GoOn,
                Some(Progress::Done) => {
                    if self.phase == Phase::Ending {
                        self.waiting.remove(&epoch);
                    }
                    self.phase = Phase::Idle;
                }
            }
        }
        Next::Rest
    }

    /// Hands over what has changed, if that is wanted as of an epoch that is complete here and no later one has begun. That
    /// may take several turns, in which others get theirs.
    fn save_if_due(&mut self, frontiers: &[MutableAntichain<u64>], start: Instant) -> Progress {
        let Some(upto) = self.context.wanted_upto(self.n_saves) else { return Progress::Done };
        let has_more = self.waiting.first_key_value().is_some_and(|(epoch, _)| *epoch <= upto);
        let is_complete = !has_more && !frontiers.iter().any(|f| f.less_equal(&upto.0));
        if self.placed.is_stateless || self.phase != Phase::Idle || !is_complete {
            return Progress::Done;
        }
        let (context, placed) = (&self.context, &mut self.placed);
        let new = || (StateChanges::default(), Charge::new(&context.account));
        let (changes, charge) = self.saving.get_or_insert_with(new);
        loop {
            let now = Instant::now();
            if now.duration_since(start) >= QUANTUM || context.quanta.turn(now) {
                return Progress::More;
            }
            let saved = context.failure.guard(upto, || placed.operator.save_changes(&placed.partitioned_by, changes));
            charge.set(changes.n_bytes());
            match saved {
                None => return Progress::Done,
                Some(Progress::Done) => break,
                Some(Progress::More) => {}
            }
        }
        if let Some((changes, charge)) = self.saving.take() {
            self.n_saves = context.hand_over(SavedPart::State(placed.node as u32, changes, charge));
        }
        Progress::Done
    }

    /// Calls the operator once, with the next delta, for the end of the epoch, or to go on; `None` if it failed.
    fn call(&mut self, epoch: Epoch, has_deltas: bool, n_rows: &mut usize) -> Option<Progress> {
        let (context, placed) = (&self.context, &mut self.placed);
        context.failure.guard(epoch, || {
            context.call_hook(placed.name);
            match self.phase {
                Phase::Idle if has_deltas => {
                    let waiting = self.waiting.get_mut(&epoch).expect("just seen");
                    let (port, delta, load) = waiting.deltas.pop_front().expect("just seen");
                    waiting.load += -load;
                    context.pressure.change(context.worker, placed.node, -load);
                    *n_rows += delta.n_rows();
                    self.unmeasured += load;
                    self.phase = Phase::Pushing;
                    placed.operator.push(port, delta, &mut self.out)
                }
                Phase::Idle if placed.is_stateless => {
                    self.phase = Phase::Ending;
                    Ok(Progress::Done)
                }
                Phase::Idle => {
                    self.phase = Phase::Ending;
                    placed.operator.end_epoch(&context.header(epoch), &mut self.out)
                }
                Phase::Pushing | Phase::Ending => placed.operator.resume(&mut self.out),
            }
        })
    }

    fn send(&mut self, epoch: Epoch) {
        self.context.errors.add(epoch, self.out.errors.take());
        let deltas = self.out.take();
        if deltas.is_empty() {
            return;
        }
        let capability = &self.waiting[&epoch].capability;
        let mut output = self.output.activate();
        let mut session = output.session_with_builder(capability);
        let piece_bytes = self.context.pressure.piece_bytes();
        let is_tight = self.context.pressure.is_tight();
        let compact = |delta: Delta| if is_tight { delta.compact() } else { delta };
        for mut chunk in deltas.into_iter().flat_map(|delta| pieces(compact(delta), piece_bytes)) {
            NodeMetrics::add(&self.placed.metrics.rows_out, chunk.load.rows as usize);
            NodeMetrics::add(&self.placed.metrics.batches_out, 1);
            self.context.pressure.sent(self.context.worker, self.placed.node, chunk.load);
            session.give_container(&mut chunk);
        }
    }

    /// Takes rows whose turn has not come out of the count of those that wait to be worked on, and puts back the others.
    fn park(&mut self, next: Next) {
        let mut parked = Load::default();
        let n_counted = usize::from(next != Next::Rest);
        self.waiting.values().skip(n_counted).for_each(|waiting| parked += waiting.load);
        let mut by = self.parked;
        by += -parked;
        if by != Load::default() {
            self.context.pressure.change(self.context.worker, self.placed.node, by);
            self.parked = parked;
        }
    }

    /// Reports the state's size if it may have changed much; fails the dataflow if that is too much.
    fn measure(&mut self) {
        let is_small = self.placed.memory.bytes() < SMALL_STATE;
        let is_little = self.unmeasured.rows < MEASURE_ROWS && self.unmeasured.bytes < MEASURE_BYTES;
        if !is_small && is_little && self.measured_at.elapsed() < MEASURE_EVERY {
            return;
        }
        self.report();
    }

    fn report(&mut self) {
        self.unmeasured = Load::default();
        self.measured_at = Instant::now();
        let (operator, metrics) = (&self.placed.operator, &self.placed.metrics);
        metrics.state_bytes.store(operator.n_bytes() as u64, Relaxed);
        metrics.state_entries.store(operator.n_entries() as u64, Relaxed);
        let epoch = self.waiting.keys().next().copied().unwrap_or(self.context.start);
        metrics.spilled_bytes.store(operator.n_spilled_bytes() as u64, Relaxed);
        self.placed.memory.set_of(&**operator);
        self.context.check_limits(epoch);
    }
}
