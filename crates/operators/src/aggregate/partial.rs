//! The first of two levels: each batch of rows is reduced to one state a group before the exchange.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Field, SchemaRef};
use millstream_expr::AggregateCall;
use millstream_expr::encoded::Encoder;
use millstream_state::{SavedState, StateChanges};
use millstream_types::{Delta, EpochHeader, Result};

use super::{Filters, describe};
use crate::batch_groups::BatchGroups;
use crate::encoded::EncodedSpec;
use crate::operator::{BuildContext, Operator, OperatorSpec, Output, Port, Progress};

/// Batches are only grouped while that makes them at least this much smaller.
const GROUPS_PER_ROW_MAX: f64 = 0.7;
/// Every so many ungrouped batches one is grouped again, to see whether that has changed.
const RETRY_EVERY: u32 = 64;
/// Batches below this size say nothing about how well grouping works. Few rows in tests, so that they see it skipped.
const SAMPLE_ROWS_MIN: usize = if cfg!(test) { 2 } else { 256 };

/// Reduces rows to states of the calls, batch by batch; keeps nothing between batches. The calls are not distinct.
#[derive(Clone, Debug)]
pub struct PartialAggregateSpec {
    /// The schema of the input.
    pub input: SchemaRef,
    /// The columns of the group key.
    pub group_by: Vec<usize>,
    /// The aggregates.
    pub calls: Vec<AggregateCall>,
    /// No row is ever taken back.
    pub append_only: bool,
}

impl PartialAggregateSpec {
    fn keys(&self) -> Vec<Arc<Field>> {
        self.group_by.iter().map(|&c| Arc::clone(&self.input.fields()[c])).collect()
    }
}

impl OperatorSpec for PartialAggregateSpec {
    fn name(&self) -> &'static str {
        "PartialAggregate"
    }

    fn describe(&self) -> String {
        describe(&self.schema(), self.group_by.len(), &self.calls, self.append_only)
    }

    fn schema(&self) -> SchemaRef {
        reduce::schema(&self.keys(), &self.input, &self.calls, true).expect("the planner chose calls with accumulators")
    }

    fn is_stateless(&self) -> bool {
        true
    }

    fn encode(&self, encoder: &mut Encoder<'_>) -> Result<EncodedSpec> {
        EncodedSpec::of(self, encoder)
    }

    fn build(&self, _: BuildContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(PartialAggregate {
            spec: self.clone(),
            schema: self.schema(),
            table: BatchGroups::default(),
            skipping: Skipping::default(),
        }))
    }
}

struct PartialAggregate {
    spec: PartialAggregateSpec,
    schema: SchemaRef,
    table: BatchGroups,
    skipping: Skipping,
}

/// Whether batches are worth grouping before they are exchanged.
#[derive(Debug, Default)]
pub(super) struct Skipping {
    is_on: bool,
    n_skipped: u32,
}

impl Skipping {
    /// Whether the next batch should not be grouped.
    pub(super) fn skips_next(&mut self) -> bool {
        self.n_skipped += 1;
        self.is_on && !self.n_skipped.is_multiple_of(RETRY_EVERY)
    }

    /// Learns from a batch that was grouped.
    pub(super) fn learn(&mut self, n_rows: usize, n_groups: usize) {
        if n_rows >= SAMPLE_ROWS_MIN {
            self.is_on = n_groups as f64 > GROUPS_PER_ROW_MAX * n_rows as f64;
        }
    }
}

impl Operator for PartialAggregate {
    fn push(&mut self, _: Port, delta: Delta, out: &mut Output) -> Result<Progress> {
        let n_rows = delta.n_rows();
        let keys: Vec<ArrayRef> = self.spec.group_by.iter().map(|&c| delta.columns()[c].clone()).collect();
        if self.skipping.skips_next() {
            let groups: Vec<u32> = (0..n_rows as u32).collect();
            out.emit(self.reduce(&delta, &groups, &keys, &groups)?);
            return Ok(Progress::Done);
        }
        self.table.group(&keys, n_rows)?;
        self.skipping.learn(n_rows, self.table.len());
        let all: Vec<u32> = (0..self.table.len() as u32).collect();
        let keys = keys.iter().map(|key| self.table.first_values(key)).collect::<Result<Vec<_>>>()?;
        out.emit(self.reduce(&delta, self.table.groups(), &keys, &all)?);
        Ok(Progress::Done)
    }

    fn end_epoch(&mut self, _: &EpochHeader, _: &mut Output) -> Result<Progress> {
        Ok(Progress::Done)
    }

    fn save(&self, _: &[Vec<usize>], _: &mut StateChanges) -> Result<()> {
        Ok(())
    }

    fn track_changes(&mut self) {}

    fn save_changes(&mut self, _: &[Vec<usize>], _: &mut StateChanges) -> Result<Progress> {
        Ok(Progress::Done)
    }

    fn restore(&mut self, _: &mut SavedState) -> Result<()> {
        Ok(())
    }
}

impl PartialAggregate {
    fn reduce(&self, delta: &Delta, groups: &[u32], keys: &[ArrayRef], all: &[u32]) -> Result<Delta> {
        let mut states = reduce::States::new(&self.spec.input, &self.spec.calls, self.spec.append_only)?;
        states.count_rows(groups, delta.weights().map(|w| w.as_ref()));
        let mut filters = Filters::default();
        for (i, call) in self.spec.calls.iter().enumerate() {
            let argument = call.argument.map(|a| &delta.columns()[a]);
            states.update_rows(
                i,
                groups,
                argument,
                filters.get(delta, call.filter),
                delta.weights().map(|w| w.as_ref()),
            )?;
        }
        states.emit(&self.schema, keys, all)
    }
}

/// States of calls for the groups of one batch.
pub(super) mod reduce {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Int64Array};
    use arrow::datatypes::{Field, SchemaRef};
    use millstream_expr::aggregate::Input;
    use millstream_expr::scalar::batch_of;
    use millstream_expr::{AggregateCall, GroupAccumulator};
    use millstream_types::{Delta, Result};

    use super::super::{accumulator_of, state_schema};

    /// The schema of the states of some calls.
    pub(in super::super) fn schema(
        keys: &[Arc<Field>],
        input: &SchemaRef,
        calls: &[AggregateCall],
        counts_rows: bool,
    ) -> Result<SchemaRef> {
        let accumulators = calls.iter().map(|c| accumulator_of(c, input, true)).collect::<Result<Vec<_>>>()?;
        Ok(state_schema(keys, counts_rows, &accumulators))
    }

    pub(in super::super) struct States {
        accumulators: Vec<Box<dyn GroupAccumulator>>,
        n_rows: Option<Vec<i64>>,
    }

    impl States {
        pub(in super::super) fn new(input: &SchemaRef, calls: &[AggregateCall], append_only: bool) -> Result<Self> {
            let accumulators = calls.iter().map(|c| accumulator_of(c, input, append_only));
            Ok(States { accumulators: accumulators.collect::<Result<_>>()?, n_rows: None })
        }

        pub(in super::super) fn count_rows(&mut self, groups: &[u32], weights: Option<&[i64]>) {
            let bound = groups.iter().max().map_or(0, |&g| g as usize + 1);
            let mut n_rows = vec![0; bound];
            for (i, &group) in groups.iter().enumerate() {
                n_rows[group as usize] += weights.map_or(1, |w| w[i]);
            }
            self.n_rows = Some(n_rows);
        }

        pub(in super::super) fn update_rows(
            &mut self,
            call: usize,
            groups: &[u32],
            argument: Option<&ArrayRef>,
            filter: Option<&BooleanArray>,
            weights: Option<&[i64]>,
        ) -> Result<()> {
            self.accumulators[call].update(Input { groups, argument, filter, weights })
        }

        pub(in super::super) fn update(
            &mut self,
            call: usize,
            groups: &[u32],
            values: &ArrayRef,
            weights: &[i64],
        ) -> Result<()> {
            self.update_rows(call, groups, Some(values), None, Some(weights))
        }

        /// One row for each of `groups`, whose keys are given.
        pub(in super::super) fn emit(&self, schema: &SchemaRef, keys: &[ArrayRef], groups: &[u32]) -> Result<Delta> {
            let mut columns = keys.to_vec();
            if let Some(n_rows) = &self.n_rows {
                columns.push(Arc::new(Int64Array::from_iter_values(groups.iter().map(|&g| n_rows[g as usize]))));
            }
            for accumulator in &self.accumulators {
                columns.extend(accumulator.partial(groups));
            }
            Ok(Delta::inserts(batch_of(schema.clone(), columns, groups.len())?))
        }
    }
}
