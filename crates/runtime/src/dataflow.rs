//! Builds a dataflow on a worker: one timely operator for each node, and one for the root.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use millstream_operators::materialize::Materialize;
use millstream_operators::{BuildContext, Exchange, Node, RelationId};
use millstream_state::Arrangement;
use millstream_types::{Delta, Epoch, EpochHeader, Result};
use timely::container::NoopBuilder;
use timely::dataflow::operators::Input;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{InputHandle, Scope};
use timely::progress::frontier::MutableAntichain;
use timely::progress::operate::FrontierInterest;
use timely::worker::Worker;

use crate::adapter::{Edges, add_operator, new_input};
use crate::chunk::Chunk;
use crate::command::{InstallDataflow, Root};
use crate::failure::Failure;
use crate::relation::RelationShared;
use crate::row_errors::RowErrorLog;
use crate::sink::SinkWriter;

/// What the operators of a dataflow share on a worker.
pub(crate) struct Context {
    pub(crate) start: Epoch,
    pub(crate) failure: Failure,
    pub(crate) errors: Arc<RowErrorLog>,
    /// Headers of epochs that are not complete.
    headers: RefCell<BTreeMap<Epoch, EpochHeader>>,
}

impl Context {
    pub(crate) fn header(&self, epoch: Epoch) -> EpochHeader {
        self.headers.borrow()[&epoch].clone()
    }

    pub(crate) fn open(&self, header: &EpochHeader) {
        self.headers.borrow_mut().insert(header.epoch, header.clone());
    }

    fn close(&self, epoch: Epoch) {
        let mut headers = self.headers.borrow_mut();
        let later = headers.split_off(&epoch.next());
        *headers = later;
    }
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
}

/// What a root does with an epoch's deltas; returns what changed.
enum RootState {
    Materialize(Materialize, Arc<RelationShared>),
    Sink(Box<dyn SinkWriter>),
}

impl RootState {
    fn end_epoch(&mut self, epoch: Epoch, deltas: Vec<Delta>) -> Result<Vec<Delta>> {
        match self {
            RootState::Materialize(materialize, shared) => {
                deltas.into_iter().for_each(|d| materialize.push(d));
                materialize.end_epoch(epoch, shared.holds.advance(epoch))
            }
            RootState::Sink(writer) => {
                writer.write(epoch, deltas)?;
                Ok(vec![])
            }
        }
    }
}

/// Builds all operators of a dataflow.
///
/// # Errors
/// If an operator cannot be built; then nothing was installed on this worker.
pub(crate) fn build(
    worker: &mut Worker,
    install: &InstallDataflow,
    failure: Failure,
    outbox: &Outbox,
) -> Result<Built> {
    let build_context = BuildContext { worker: worker.index(), n_workers: worker.peers() };
    let context = Rc::new(Context {
        start: install.start.epoch,
        failure,
        errors: Arc::clone(&install.errors),
        headers: RefCell::default(),
    });
    context.open(&install.start);
    let mut operators = Vec::new();
    for node in &install.dataflow.nodes {
        operators.push(match node {
            Node::Import { .. } => None,
            Node::Operator { spec, .. } => Some(spec.build(build_context)?),
        });
    }
    let (root, arrangement) = match &install.root {
        Root::Materialize { spec, shared } => {
            let arrangement = Rc::new(RefCell::new(Arrangement::new(&spec.arrangement())?));
            shared.set_reader(build_context.worker, arrangement.borrow().reader());
            let materialize = Materialize::new(spec.clone(), Rc::clone(&arrangement));
            (RootState::Materialize(materialize, Arc::clone(shared)), Some(arrangement))
        }
        Root::Sink(sink) => (RootState::Sink(sink.open(build_context.worker)?), None),
    };
    let timely_index = worker.next_dataflow_index();
    let metrics = Arc::clone(&install.metrics.workers);
    let inputs = worker.dataflow_named::<u64, _, _>(&install.name, |scope| {
        let mut inputs = Vec::new();
        let mut streams: Vec<Edges<'_>> = Vec::new();
        for ((node, operator), metrics) in install.dataflow.nodes.iter().zip(operators).zip(&metrics[scope.index()]) {
            streams.push(match (node, operator) {
                (Node::Operator { spec, inputs }, Some(operator)) => {
                    let inputs = inputs.iter().map(|e| (streams[e.from].clone(), e.exchange.clone())).collect();
                    let stateless = spec.is_stateless();
                    add_operator(
                        scope,
                        spec.name(),
                        operator,
                        stateless,
                        inputs,
                        Arc::clone(metrics),
                        Rc::clone(&context),
                    )
                }
                _ => {
                    let (mut handle, stream) = scope.new_input_with_builder::<NoopBuilder<Chunk>>();
                    handle.advance_to(install.start.epoch.0);
                    inputs.push(handle);
                    stream
                }
            });
        }
        let result = streams.pop().expect("a dataflow has nodes");
        add_root(scope, install.id, result, root, Rc::clone(&context), Rc::clone(outbox));
        inputs
    });
    Ok(Built { inputs, timely_index, context, arrangement })
}

fn add_root<'scope>(
    scope: Scope<'scope, u64>,
    relation: RelationId,
    stream: Edges<'scope>,
    mut root: RootState,
    context: Rc<Context>,
    outbox: Outbox,
) {
    let mut builder = OperatorBuilder::new("Root".to_owned(), scope);
    let mut receive = new_input(&mut builder, stream, &Exchange::Local, scope.peers());
    builder.set_notify_for(0, FrontierInterest::Always);
    let mut waiting: BTreeMap<Epoch, Vec<Delta>> = BTreeMap::new();
    let mut sealed = context.start.prev();
    builder.build_reschedule(move |_| {
        move |frontiers: &[MutableAntichain<u64>]| {
            receive(&mut |capability, delta| {
                let epoch = *capability.least().expect("every chunk is sent at an epoch");
                waiting.entry(Epoch(epoch)).or_default().push(delta);
            });
            // An empty frontier means that the inputs were closed: the dataflow is being dropped.
            let Some(&frontier) = frontiers[0].frontier().first() else { return false };
            let upto = Epoch(frontier).prev();
            if upto <= sealed || context.failure.has_failed() {
                return false;
            }
            let mut changes = Vec::new();
            let mut complete = std::mem::take(&mut waiting);
            waiting = complete.split_off(&upto.next());
            complete.entry(upto).or_default();
            for (epoch, deltas) in complete {
                let Some(changed) = context.failure.guard(epoch, || root.end_epoch(epoch, deltas)) else {
                    return false;
                };
                changes.push((epoch, changed));
            }
            sealed = upto;
            context.close(upto);
            outbox.borrow_mut().push(Sealed { relation, upto, changes });
            false
        }
    });
}
