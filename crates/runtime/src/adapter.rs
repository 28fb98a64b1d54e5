//! Drives an operator within timely: the only place that knows of frontiers and capabilities.
//!
//! Deltas of the earliest open epoch are pushed as they come; those of later epochs wait. An epoch ends when no input's
//! frontier allows more of it. A failed operator keeps its capabilities for ever, so that no worker completes the epoch
//! in which it failed.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use millstream_operators::operator::Operator;
use millstream_operators::{Exchange, Output, Port, Progress};
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
use crate::dataflow::Context;
use crate::metrics::NodeMetrics;

/// Rows that an operator is given before others get a turn.
const QUANTUM_ROWS: usize = 1 << 16;

pub(crate) type Edges<'scope> = Stream<'scope, u64, Chunk>;

/// Takes what has arrived on an input, whatever its pact.
type Receive = Box<dyn FnMut(&mut dyn FnMut(InputCapability<u64>, Delta))>;

pub(crate) fn new_input<'scope>(
    builder: &mut OperatorBuilder<'scope, u64>,
    stream: Edges<'scope>,
    exchange: &Exchange,
    n_workers: usize,
) -> Receive {
    macro_rules! receive {
        ($pact:expr) => {{
            let mut input = builder.new_input(stream, $pact);
            Box::new(move |take: &mut dyn FnMut(InputCapability<u64>, Delta)| {
                input.for_each(|capability, chunk| {
                    if let Some(delta) = std::mem::take(chunk).0 {
                        take(capability, delta);
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
    name: &str,
    operator: Box<dyn Operator>,
    is_stateless: bool,
    inputs: Vec<(Edges<'scope>, Exchange)>,
    metrics: Arc<NodeMetrics>,
    context: Rc<Context>,
) -> Edges<'scope> {
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let n_workers = scope.peers();
    let receive = inputs.into_iter().map(|(stream, exchange)| new_input(&mut builder, stream, &exchange, n_workers));
    let receive: Vec<Receive> = receive.collect();
    let (output, stream) = builder.new_output::<Chunk>();
    let interest = if is_stateless { FrontierInterest::Never } else { FrontierInterest::IfCapability };
    (0..receive.len()).for_each(|i| builder.set_notify_for(i, interest));
    let activator = scope.activator_for(builder.operator_info().address);
    builder.build_reschedule(move |capabilities| {
        let mut adapter = Adapter {
            operator,
            receive,
            output: OutputBuilder::from(output),
            out: Output::default(),
            waiting: BTreeMap::new(),
            phase: Phase::Idle,
            activator,
            metrics,
            is_stateless,
        };
        if !is_stateless {
            // Every stateful operator is called at the end of the first epoch, whatever arrives.
            let start = context.start.0;
            let waiting = Waiting { capability: capabilities[0].delayed(&start), deltas: VecDeque::new() };
            adapter.waiting.insert(Epoch(start), waiting);
        }
        move |frontiers: &[MutableAntichain<u64>]| {
            adapter.schedule(frontiers, &context);
            false
        }
    });
    stream
}

/// What an epoch has still to bring to the operator.
struct Waiting {
    capability: Capability<u64>,
    deltas: VecDeque<(Port, Delta)>,
}

/// What the operator was doing when it last put off work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Pushing,
    Ending,
}

struct Adapter {
    operator: Box<dyn Operator>,
    receive: Vec<Receive>,
    output: OutputBuilder<u64, NoopBuilder<Chunk>>,
    out: Output,
    waiting: BTreeMap<Epoch, Waiting>,
    phase: Phase,
    activator: Activator,
    metrics: Arc<NodeMetrics>,
    is_stateless: bool,
}

impl Adapter {
    fn schedule(&mut self, frontiers: &[MutableAntichain<u64>], context: &Context) {
        self.receive_all();
        if context.failure.has_failed() {
            self.waiting.values_mut().for_each(|w| w.deltas.clear());
            return;
        }
        if self.waiting.is_empty() {
            return;
        }
        let start = Instant::now();
        let goes_on = self.work(frontiers, context);
        if goes_on {
            self.activator.activate();
        }
        self.metrics.busy_since(start);
        self.metrics.state_bytes.store(self.operator.n_bytes() as u64, std::sync::atomic::Ordering::Relaxed);
        self.metrics.state_entries.store(self.operator.n_entries() as u64, std::sync::atomic::Ordering::Relaxed);
    }

    fn receive_all(&mut self) {
        for (port, receive) in self.receive.iter_mut().enumerate() {
            receive(&mut |capability, delta| {
                let epoch = *capability.least().expect("every chunk is sent at an epoch");
                NodeMetrics::add(&self.metrics.rows_in, delta.n_rows());
                NodeMetrics::add(&self.metrics.batches_in, 1);
                let waiting = self.waiting.entry(Epoch(epoch)).or_insert_with(|| Waiting {
                    capability: capability.retain_least(0).expect("every chunk is sent at an epoch"),
                    deltas: VecDeque::new(),
                });
                waiting.deltas.push_back((port, delta));
            });
        }
    }

    /// Does what can be done, up to a quantum; returns whether there is more.
    fn work(&mut self, frontiers: &[MutableAntichain<u64>], context: &Context) -> bool {
        let mut n_rows = 0;
        while let Some((&epoch, waiting)) = self.waiting.first_key_value() {
            if n_rows >= QUANTUM_ROWS {
                return true;
            }
            let is_earliest = self.is_stateless || !frontiers.iter().any(|f| f.less_than(&epoch.0));
            let is_complete = self.is_stateless || !frontiers.iter().any(|f| f.less_equal(&epoch.0));
            let has_deltas = !waiting.deltas.is_empty();
            if self.phase == Phase::Idle && (!is_earliest || !has_deltas && !is_complete) {
                return false;
            }
            let progress = context.failure.guard(epoch, || match self.phase {
                Phase::Idle if has_deltas => {
                    let waiting = self.waiting.get_mut(&epoch).expect("just seen");
                    let (port, delta) = waiting.deltas.pop_front().expect("just seen");
                    n_rows += delta.n_rows();
                    self.phase = Phase::Pushing;
                    self.operator.push(port, delta, &mut self.out)
                }
                Phase::Idle if self.is_stateless => {
                    self.phase = Phase::Ending;
                    Ok(Progress::Done)
                }
                Phase::Idle => {
                    self.phase = Phase::Ending;
                    self.operator.end_epoch(&context.header(epoch), &mut self.out)
                }
                Phase::Pushing | Phase::Ending => self.operator.resume(&mut self.out),
            });
            self.send(epoch, context);
            match progress {
                None => return false,
                Some(Progress::More) => return true,
                Some(Progress::Done) => {
                    if self.phase == Phase::Ending {
                        self.waiting.remove(&epoch);
                    }
                    self.phase = Phase::Idle;
                }
            }
        }
        false
    }

    fn send(&mut self, epoch: Epoch, context: &Context) {
        context.errors.add(epoch, self.out.errors.take());
        let deltas = self.out.take();
        if deltas.is_empty() {
            return;
        }
        let capability = &self.waiting[&epoch].capability;
        let mut output = self.output.activate();
        let mut session = output.session_with_builder(capability);
        for delta in deltas {
            NodeMetrics::add(&self.metrics.rows_out, delta.n_rows());
            session.give_container(&mut Chunk(Some(delta)));
        }
    }
}
