//! Before distinct values are exchanged: each batch of rows is reduced to its distinct values.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_expr::encoded::Encoder;
use millstream_expr::scalar::batch_of;
use millstream_state::{SavedState, StateChanges};
use millstream_types::{Delta, EpochHeader, Error, Result};

use super::Filters;
use super::distinct::{DistinctPartialSpec, Variant, is_seen_enough, variants_of};
use super::partial::Skipping;
use crate::batch_groups::BatchGroups;
use crate::encoded::EncodedSpec;
use crate::operator::{BuildContext, Operator, OperatorSpec, Output, Port, Progress};

/// Prepares rows for a [`DistinctPartialSpec`]: one row for each group and value of a batch, with the group key's
/// columns, the value, and what the filters say of its rows. While rows only come that is one column with a bit for each
/// filter that some row passed; else a column for each filter with the weights of the rows that passed it. Values that
/// no filter lets through are left out.
///
/// Values come in every batch again, hot ones most of all, so fewer and narrower rows change workers, and the large
/// table behind the exchange is asked less often.
#[derive(Clone, Debug)]
pub struct DistinctReduceSpec(pub DistinctPartialSpec);

impl DistinctReduceSpec {
    fn variants(&self) -> Vec<Variant> {
        variants_of(self.0.calls.iter().enumerate())
    }

    fn argument(&self) -> Result<usize> {
        let argument = self.0.calls.first().and_then(|c| c.argument);
        argument.ok_or_else(|| Error::internal("DISTINCT without an argument"))
    }
}

impl OperatorSpec for DistinctReduceSpec {
    fn name(&self) -> &'static str {
        "DistinctReduce"
    }

    fn describe(&self) -> String {
        self.0.describe()
    }

    fn schema(&self) -> SchemaRef {
        let n_variants = self.variants().len();
        let n_counts = if is_seen_enough(self.0.append_only, n_variants) { 1 } else { n_variants };
        let argument = self.argument().expect("the planner chose calls with an argument");
        let mut fields = self.0.keys();
        fields.push(Arc::clone(&self.0.input.fields()[argument]));
        fields.extend((0..n_counts).map(|i| Arc::new(Field::new(format!("count_{i}"), DataType::Int64, false))));
        Arc::new(Schema::new(fields))
    }

    fn is_stateless(&self) -> bool {
        true
    }

    fn encode(&self, encoder: &mut Encoder<'_>) -> Result<EncodedSpec> {
        EncodedSpec::of(self, encoder)
    }

    fn build(&self, _: BuildContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(DistinctReduce {
            group_by: self.0.group_by.clone(),
            argument: self.argument()?,
            seen_is_enough: is_seen_enough(self.0.append_only, self.variants().len()),
            variants: self.variants(),
            schema: self.schema(),
            table: BatchGroups::default(),
            skipping: Skipping::default(),
        }))
    }
}

struct DistinctReduce {
    group_by: Vec<usize>,
    argument: usize,
    variants: Vec<Variant>,
    seen_is_enough: bool,
    schema: SchemaRef,
    table: BatchGroups,
    skipping: Skipping,
}

impl Operator for DistinctReduce {
    fn push(&mut self, _: Port, delta: Delta, out: &mut Output) -> Result<Progress> {
        let n_rows = delta.n_rows();
        let values = &delta.columns()[self.argument];
        let mut columns: Vec<ArrayRef> = self.group_by.iter().map(|&c| delta.columns()[c].clone()).collect();
        columns.push(values.clone());
        let (counts, n_out) = if self.skipping.skips_next() {
            let each: Vec<u32> = (0..n_rows as u32).collect();
            (self.counts(&delta, values, &each, n_rows)?, n_rows)
        } else {
            self.table.group(&columns, n_rows)?;
            self.skipping.learn(n_rows, self.table.len());
            columns = columns.iter().map(|c| self.table.first_values(c)).collect::<Result<_>>()?;
            (self.counts(&delta, values, self.table.groups(), self.table.len())?, self.table.len())
        };
        let passes: BooleanArray = (0..n_out).map(|i| Some(counts.iter().any(|c| c[i] != 0))).collect();
        columns.extend(counts.into_iter().map(|c| -> ArrayRef { Arc::new(Int64Array::from(c)) }));
        let batch = batch_of(self.schema.clone(), columns, n_out)?;
        let all_pass = passes.true_count() == n_out;
        out.emit(Delta::inserts(if all_pass { batch } else { filter_record_batch(&batch, &passes)? }));
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

impl DistinctReduce {
    /// The columns that tell, for each group of the batch, what passed the filters.
    fn counts(&self, delta: &Delta, values: &ArrayRef, groups: &[u32], n_groups: usize) -> Result<Vec<Vec<i64>>> {
        let mut masks = Filters::default();
        let nulls = values.nulls().filter(|n| n.null_count() > 0);
        let mut counts = vec![vec![0; n_groups]; if self.seen_is_enough { 1 } else { self.variants.len() }];
        for (variant_idx, variant) in self.variants.iter().enumerate() {
            let mask = masks.get(delta, variant.filter);
            let passes = |i: usize| nulls.is_none_or(|n| n.is_valid(i)) && mask.is_none_or(|m| m.value(i));
            if self.seen_is_enough {
                if delta.weights().is_some_and(|w| w.iter().any(|&w| w < 0)) {
                    return Err(Error::internal("a row was taken back from append-only input"));
                }
                for (i, &group) in groups.iter().enumerate() {
                    counts[0][group as usize] |= i64::from(passes(i) && delta.weight(i) > 0) << variant_idx;
                }
            } else {
                for (i, &group) in groups.iter().enumerate() {
                    counts[variant_idx][group as usize] += if passes(i) { delta.weight(i) } else { 0 };
                }
            }
        }
        Ok(counts)
    }
}
