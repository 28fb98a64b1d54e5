//! The end of a dataflow within timely: a view's arrangement, or a sink.
//!
//! Rows of the earliest open epoch go into the arrangement as they come, where nobody sees them before the epoch is
//! sealed; so a view of any size is filled without its rows standing aside.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use millstream_operators::materialize::Materialize;
use millstream_operators::{Exchange, RelationId};
use millstream_types::{Delta, Epoch, Result};
use timely::dataflow::Scope;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::frontier::MutableAntichain;
use timely::progress::operate::FrontierInterest;
use timely::scheduling::Activator;

use crate::adapter::{Edges, MEASURE_BYTES, MEASURE_EVERY, MEASURE_ROWS, Receive, SMALL_STATE, new_input};
use crate::dataflow::{Context, Outbox, Sealed};
use crate::memory::HeldMemory;
use crate::metrics::NodeMetrics;
use crate::pressure::Load;
use crate::quanta::QUANTUM;
use crate::relation::RelationShared;
use crate::saving::SavedPart;
use crate::sink::SinkWriter;

/// What a root does with an epoch's deltas.
pub(crate) enum RootState {
    /// Keeps the rows.
    Materialize(Box<Materialize>, Arc<RelationShared>),
    /// Hands each epoch's changes over as a whole.
    Sink(Box<dyn SinkWriter>, Vec<Delta>),
}

impl RootState {
    fn push(&mut self, delta: Delta, is_followed: bool) -> Result<()> {
        match self {
            RootState::Materialize(materialize, _) => materialize.push(delta, is_followed),
            RootState::Sink(_, deltas) => {
                deltas.push(delta);
                Ok(())
            }
        }
    }

    /// Ends an epoch; returns what changed, as far as that was kept.
    fn end_epoch(&mut self, epoch: Epoch) -> Result<Vec<Delta>> {
        match self {
            RootState::Materialize(materialize, shared) => materialize.end_epoch(epoch, shared.holds.advance(epoch)),
            RootState::Sink(writer, deltas) => {
                writer.write(epoch, std::mem::take(deltas))?;
                Ok(vec![])
            }
        }
    }

    fn n_bytes(&self) -> usize {
        match self {
            RootState::Materialize(materialize, _) => materialize.n_bytes(),
            RootState::Sink(_, deltas) => deltas.iter().map(Delta::n_bytes).sum(),
        }
    }

    fn note_size(&self, worker: usize, in_memory: usize, spilled: usize) {
        if let RootState::Materialize(_, shared) = self {
            shared.note_size(worker, in_memory, spilled);
        }
    }

    /// Bytes in memory that can be spilled, and bytes that are.
    fn n_bytes_spillable(&self) -> (usize, usize) {
        match self {
            RootState::Materialize(materialize, _) => materialize.n_bytes_spillable(),
            RootState::Sink(..) => (0, 0),
        }
    }

    fn n_entries(&self) -> usize {
        match self {
            RootState::Materialize(materialize, _) => materialize.n_rows(),
            RootState::Sink(..) => 0,
        }
    }
}

/// What the end of a dataflow reports to.
pub(crate) struct RootEnd {
    pub(crate) metrics: Arc<NodeMetrics>,
    pub(crate) memory: Rc<HeldMemory>,
    pub(crate) outbox: Outbox,
}

struct RootAdapter {
    relation: RelationId,
    state: RootState,
    receive: Receive,
    waiting: BTreeMap<Epoch, VecDeque<(Delta, Load)>>,
    sealed: Epoch,
    context: Rc<Context>,
    outbox: Outbox,
    activator: Activator,
    /// How often it has handed over what has changed.
    n_saves: u64,
    // metrics
    metrics: Arc<NodeMetrics>,
    memory: Rc<HeldMemory>,
    unmeasured: Load,
    measured_at: Instant,
}

/// Adds the root to a scope.
pub(crate) fn add_root<'scope>(
    scope: Scope<'scope, u64>,
    relation: RelationId,
    stream: Edges<'scope>,
    state: RootState,
    end: RootEnd,
    context: Rc<Context>,
) {
    let RootEnd { metrics, memory, outbox } = end;
    let mut builder = OperatorBuilder::new("Root".to_owned(), scope);
    let receive = new_input(&mut builder, stream, &Exchange::Local, scope.peers());
    builder.set_notify_for(0, FrontierInterest::Always);
    let activator = scope.activator_for(builder.operator_info().address.clone());
    context.add_stateful(scope.activator_for(builder.operator_info().address));
    let mut root = RootAdapter {
        relation,
        state,
        receive,
        waiting: BTreeMap::new(),
        sealed: context.sealed.get(),
        n_saves: 0,
        memory,
        context,
        outbox,
        activator,
        metrics,
        unmeasured: Load::default(),
        measured_at: Instant::now(),
    };
    builder.build_reschedule(move |_| {
        move |frontiers: &[MutableAntichain<u64>]| {
            root.schedule(&frontiers[0]);
            false
        }
    });
}

impl RootAdapter {
    fn schedule(&mut self, frontier: &MutableAntichain<u64>) {
        self.receive_all();
        // An empty frontier means that the inputs were closed: the dataflow is being dropped.
        let Some(&open) = frontier.frontier().first() else { return };
        let open = Epoch(open);
        if self.context.failure.has_failed() {
            self.waiting.clear();
            self.context.pressure.close();
            return;
        }
        if self.waiting.is_empty() && open.prev() <= self.sealed {
            return self.save_if_due(open);
        }
        let start = Instant::now();
        let goes_on = self.work(open, start);
        self.save_if_due(open);
        if goes_on {
            self.activator.activate();
        }
        self.metrics.busy_since(start);
        self.measure(open);
    }

    fn receive_all(&mut self) {
        let (worker, root) = (self.context.worker, self.context.pressure.root());
        (self.receive)(&mut |capability, delta, load| {
            let epoch = *capability.least().expect("every chunk is sent at an epoch");
            NodeMetrics::add(&self.metrics.rows_in, delta.n_rows());
            NodeMetrics::add(&self.metrics.batches_in, 1);
            // Nobody has to wait for the root: it takes in what there is.
            self.context.pressure.change(worker, root, -load);
            self.waiting.entry(Epoch(epoch)).or_default().push_back((delta, load));
        });
    }

    /// Takes rows in and seals epochs; returns whether there is more to do. `open` is the first epoch that is not
    /// complete.
    ///
    /// What was taken in is sealed with the next epoch that is, so rows of the open one wait until all before are sealed.
    fn work(&mut self, open: Epoch, start: Instant) -> bool {
        let mut changes = Vec::new();
        let mut goes_on = false;
        while let Some((&epoch, _)) = self.waiting.first_key_value().filter(|(e, _)| **e < open) {
            self.save_if_due(open);
            goes_on = !self.take_in(epoch, start);
            if goes_on || !self.end_epoch(epoch, &mut changes) {
                break;
            }
            self.waiting.remove(&epoch);
        }
        if self.context.failure.has_failed() {
            return false;
        }
        if !goes_on {
            // Epochs without changes are complete as well.
            if self.sealed < open.prev() && !self.end_epoch(open.prev(), &mut changes) {
                return false;
            }
            // Rows may come from other workers before this one knows of their epoch, and who follows its changes.
            if self.waiting.contains_key(&open) && self.context.is_open(open) {
                self.save_if_due(open);
                goes_on = !self.take_in(open, start);
            }
        }
        if !changes.is_empty() {
            let upto = self.sealed;
            self.context.close(upto);
            self.outbox.borrow_mut().push(Sealed { relation: self.relation, upto, changes });
        }
        goes_on
    }

    /// Hands over what has changed, if that is wanted as of an epoch that is complete here and no later one has begun.
    fn save_if_due(&mut self, open: Epoch) {
        let Some(upto) = self.context.wanted_upto(self.n_saves) else { return };
        let has_more = self.waiting.first_key_value().is_some_and(|(epoch, _)| *epoch <= upto);
        if open <= upto || has_more || self.context.failure.has_failed() {
            return;
        }
        let part = match &self.state {
            RootState::Materialize(materialize, _) => {
                SavedPart::rows(materialize.take_unsaved(), &self.context.account)
            }
            RootState::Sink(..) => SavedPart::Nothing,
        };
        self.n_saves = self.context.hand_over(part);
        // What is complete here is so for all operators before.
        self.context.activate_all();
    }

    /// Seals an epoch; returns whether that went well.
    fn end_epoch(&mut self, epoch: Epoch, changes: &mut Vec<(Epoch, Vec<Delta>)>) -> bool {
        let ended = self.context.failure.guard(epoch, || self.state.end_epoch(epoch));
        let Some(changed) = ended else { return false };
        self.sealed = epoch;
        self.context.sealed.set(epoch);
        changes.push((epoch, changed));
        true
    }

    /// Takes in the rows of an epoch that are there; returns whether that is all of them.
    fn take_in(&mut self, epoch: Epoch, start: Instant) -> bool {
        let is_followed = self.context.is_followed.get();
        while let Some((delta, load)) = self.waiting.get_mut(&epoch).and_then(VecDeque::pop_front) {
            let taken = self.context.failure.guard(epoch, || {
                self.context.call_hook("Root");
                self.state.push(delta, is_followed)
            });
            if taken.is_none() {
                return false;
            }
            self.unmeasured += load;
            let now = Instant::now();
            if now.duration_since(start) >= QUANTUM || self.context.quanta.turn(now) {
                return false;
            }
        }
        true
    }

    fn measure(&mut self, epoch: Epoch) {
        let is_small = self.memory.bytes() < SMALL_STATE;
        let is_little = self.unmeasured.rows < MEASURE_ROWS && self.unmeasured.bytes < MEASURE_BYTES;
        if !is_small && is_little && self.measured_at.elapsed() < MEASURE_EVERY {
            return;
        }
        self.unmeasured = Load::default();
        self.measured_at = Instant::now();
        let waiting: i64 = self.waiting.values().flatten().map(|(_, load)| load.bytes).sum();
        let n_bytes = self.state.n_bytes() + waiting as usize;
        self.metrics.state_bytes.store(n_bytes as u64, Relaxed);
        self.metrics.state_entries.store(self.state.n_entries() as u64, Relaxed);
        let (spillable, spilled) = self.state.n_bytes_spillable();
        self.state.note_size(self.context.worker, n_bytes, spilled);
        self.metrics.spilled_bytes.store(spilled as u64, Relaxed);
        self.memory.set_all(n_bytes, spillable, spilled);
        self.context.check_limits(epoch);
    }
}
