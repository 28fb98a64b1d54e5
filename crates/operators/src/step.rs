//! A driver that runs a dataflow in plain steps on any number of simulated workers: for tests, and for queries that are
//! executed once.

use std::collections::BTreeMap;

use millstream_expr::RowError;
use millstream_state::{SavedState, StateChanges};
use millstream_types::hash::partitions_of;
use millstream_types::{Delta, EpochHeader, Result};

use crate::dataflow::{Dataflow, Exchange, Node, NodeId, RelationId, split_by_hash};
use crate::operator::{BuildContext, Operator, Output, Progress};
use crate::spilling::{self, SpillTo};

/// In so many parts saved state is taken over, where that can be.
const RESTORED_PARTS: usize = 3;

/// Runs a dataflow, one epoch at a time, on simulated workers.
pub struct StepDriver {
    dataflow: Dataflow,
    /// For each worker, its operators by node; imports have none.
    workers: Vec<Vec<Option<Box<dyn Operator>>>>,
}

impl StepDriver {
    /// Builds the operators of all workers.
    ///
    /// # Errors
    /// If an operator cannot be built.
    pub fn new(dataflow: Dataflow, n_workers: usize) -> Result<Self> {
        Self::with_spilling(dataflow, n_workers, None)
    }

    /// The same, of operators that put their state away.
    pub(crate) fn with_spilling(dataflow: Dataflow, n_workers: usize, spill_to: Option<&SpillTo>) -> Result<Self> {
        let build = |worker: usize| {
            let context = BuildContext { worker, n_workers, ..BuildContext::alone() };
            let nodes = dataflow.nodes.iter().map(|node| match node {
                Node::Import { .. } => Ok(None),
                Node::Operator { spec, inputs } => match spill_to {
                    Some(spill_to) => spilling::build(spec, inputs, context, spill_to.clone()).map(Some),
                    None => spec.build(context).map(Some),
                },
            });
            nodes.collect::<Result<Vec<_>>>()
        };
        let workers = (0..n_workers).map(build).collect::<Result<_>>()?;
        Ok(StepDriver { dataflow, workers })
    }

    /// The state of all workers' operators, by node, as of the last epoch.
    ///
    /// # Errors
    /// Internal.
    pub fn save(&self) -> Result<Vec<StateChanges>> {
        let save = |node: usize| {
            let mut saved = StateChanges::default();
            for operator in self.workers.iter().filter_map(|operators| operators[node].as_ref()) {
                let mut of_worker = StateChanges::default();
                operator.save(&self.partitioned_by(node), &mut of_worker)?;
                saved.merge(of_worker)?;
            }
            Ok(saved)
        };
        (0..self.dataflow.nodes.len()).map(save).collect()
    }

    /// From now on operators note what changes.
    pub fn track_changes(&mut self) {
        self.workers.iter_mut().flatten().flatten().for_each(|operator| operator.track_changes());
    }

    /// What has changed, by node, since the last call, as of the last epoch; see [`Operator::save_changes`].
    ///
    /// # Errors
    /// Internal.
    pub fn save_changes(&mut self) -> Result<Vec<StateChanges>> {
        let mut all = Vec::new();
        for node in 0..self.dataflow.nodes.len() {
            let partitioned_by = self.partitioned_by(node);
            let mut saved = StateChanges::default();
            for operator in self.workers.iter_mut().filter_map(|operators| operators[node].as_mut()) {
                let mut of_worker = StateChanges::default();
                operator.save_all_changes(&partitioned_by, &mut of_worker)?;
                saved.merge(of_worker)?;
            }
            all.push(saved);
        }
        Ok(all)
    }

    fn partitioned_by(&self, node: NodeId) -> Vec<Vec<usize>> {
        match &self.dataflow.nodes[node] {
            Node::Import { .. } => vec![],
            Node::Operator { inputs, .. } => {
                inputs.iter().map(|edge| edge.exchange.partitioned_by().to_vec()).collect()
            }
        }
    }

    /// A driver of any number of workers that goes on from saved state of the same dataflow, encoded, by node.
    ///
    /// # Errors
    /// If an operator cannot be built, or the state is not its own.
    pub fn restore(dataflow: Dataflow, n_workers: usize, saved: &[Vec<u8>]) -> Result<Self> {
        StepDriver::new(dataflow, n_workers)?.restored(saved)
    }

    /// The driver, when its operators, which were not called yet, have taken over saved state.
    pub(crate) fn restored(mut self, saved: &[Vec<u8>]) -> Result<Self> {
        let n_workers = self.workers.len();
        for (worker, operators) in self.workers.iter_mut().enumerate() {
            for (operator, saved) in operators.iter_mut().zip(saved) {
                if let Some(operator) = operator {
                    let parts = operator.restored_parts(&partitions_of(worker, n_workers), RESTORED_PARTS);
                    for (part, partitions) in parts.iter().enumerate() {
                        operator.restore_part(part, &mut SavedState::decode(saved, partitions)?)?;
                    }
                }
            }
        }
        Ok(self)
    }

    /// Runs one epoch: deltas by relation in, in any order and splitting; deltas of the root and failed rows out.
    ///
    /// # Errors
    /// If an operator fails.
    pub fn epoch(
        &mut self,
        header: &EpochHeader,
        input: &BTreeMap<RelationId, Vec<Delta>>,
    ) -> Result<(Vec<Delta>, Vec<RowError>)> {
        let n_workers = self.workers.len();
        let mut outputs: Vec<Vec<Vec<Delta>>> = Vec::new();
        let mut errors = Vec::new();
        for node in 0..self.dataflow.nodes.len() {
            let mut produced: Vec<Vec<Delta>> = vec![Vec::new(); n_workers];
            match &self.dataflow.nodes[node] {
                Node::Import { relation, projection, schema, .. } => {
                    for (i, delta) in input.get(relation).into_iter().flatten().enumerate() {
                        let columns = projection.iter().map(|&c| delta.columns()[c].clone()).collect();
                        produced[i % n_workers].push(delta.with_columns(schema.clone(), columns)?);
                    }
                }
                Node::Operator { inputs, .. } => {
                    let inputs = inputs.clone();
                    let mut arriving: Vec<Vec<(usize, Delta)>> = vec![Vec::new(); n_workers];
                    for (port, edge) in inputs.iter().enumerate() {
                        for (from, deltas) in outputs[edge.from].iter().enumerate() {
                            for delta in deltas {
                                for (to, piece) in route(delta, &edge.exchange, from, n_workers)? {
                                    arriving[to].push((port, piece));
                                }
                            }
                        }
                    }
                    for (worker, deltas) in arriving.into_iter().enumerate() {
                        self.run(worker, node, header, deltas, &mut produced[worker], &mut errors)?;
                    }
                }
            }
            outputs.push(produced);
        }
        Ok((outputs.pop().into_iter().flatten().flatten().collect(), errors))
    }

    /// Lets operators put state away, between epochs.
    #[cfg(test)]
    pub(crate) fn relieve(&mut self) -> Result<()> {
        self.workers.iter_mut().flatten().flatten().try_for_each(|operator| operator.relieve())
    }

    /// Rows, groups or entries of the state of all operators.
    #[cfg(test)]
    pub(crate) fn n_entries(&self) -> usize {
        self.workers.iter().flatten().flatten().map(|operator| operator.n_entries()).sum()
    }

    fn run(
        &mut self,
        worker: usize,
        node: NodeId,
        header: &EpochHeader,
        deltas: Vec<(usize, Delta)>,
        produced: &mut Vec<Delta>,
        errors: &mut Vec<RowError>,
    ) -> Result<()> {
        let operator = self.workers[worker][node].as_mut().expect("an operator node");
        let mut out = Output::default();
        let mut drain = |operator: &mut Box<dyn Operator>, out: &mut Output, mut progress: Progress| -> Result<()> {
            loop {
                produced.extend(out.take());
                errors.extend(out.errors.take());
                if progress == Progress::Done {
                    return Ok(());
                }
                progress = operator.resume(out)?;
            }
        };
        for (port, delta) in deltas.into_iter().filter(|(_, d)| !d.is_empty()) {
            let progress = operator.push(port, delta, &mut out)?;
            drain(operator, &mut out, progress)?;
        }
        let progress = operator.end_epoch(header, &mut out)?;
        drain(operator, &mut out, progress)
    }
}

fn route(delta: &Delta, exchange: &Exchange, from: usize, n_workers: usize) -> Result<Vec<(usize, Delta)>> {
    Ok(match exchange {
        Exchange::Local | Exchange::Partitioned(_) => vec![(from, delta.clone())],
        Exchange::Hash(columns) => split_by_hash(delta, columns, n_workers)?.into_iter().enumerate().collect(),
    })
}
