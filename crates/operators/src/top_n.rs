//! Top-n: the first rows of each partition in some order, as `ORDER BY ... LIMIT` and `row_number() <= n` ask for.
//!
//! The order is completed with all remaining columns, so which rows are first never depends on when they came. While
//! rows only come, a partition keeps as many as it may ever show; when rows may be taken back it keeps all of them, in
//! order, so that the next one moves up.

mod append_only;
mod retracting;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::datatypes::{Schema, SchemaRef};
pub use millstream_expr::OrderBy;
use millstream_expr::encoded::{Decoder, Encoder, FieldNumber};
use millstream_expr::{RowOrder, order};
use millstream_state::RowStore;
use millstream_types::{Delta, Epoch, EpochHeader, Result};
use serde::{Deserialize, Serialize};

use crate::encoded::{EncodedSpec, StoredSpec, columns};
use crate::operator::{BuildContext, OUTPUT_BATCH_ROWS, Operator, OperatorSpec, Output};
use append_only::AppendOnlyTopN;
use retracting::RetractingTopN;

/// The first rows of each partition.
#[derive(Clone, Debug)]
pub struct TopNSpec {
    /// The schema of the input.
    pub input: SchemaRef,
    /// The partition's columns; none if there is one partition.
    pub partition_by: Vec<usize>,
    /// The order within a partition.
    pub order_by: Vec<OrderBy>,
    /// Rows to leave out at the beginning.
    pub offset: usize,
    /// Rows to show after these; `None` shows all.
    pub limit: Option<usize>,
    /// The output has the row's number in its partition, from 1, as a last column.
    pub with_row_number: bool,
    /// No row is ever taken back.
    pub append_only: bool,
    /// The schema of the output.
    pub schema: SchemaRef,
}

impl OperatorSpec for TopNSpec {
    fn name(&self) -> &'static str {
        "TopN"
    }

    fn describe(&self) -> String {
        let mut parts = order::describe(&self.input, &self.partition_by, &self.order_by);
        parts.extend(self.limit.map(|limit| format!("limit {limit}")));
        parts.extend((self.offset > 0).then(|| format!("offset {}", self.offset)));
        parts.extend(self.append_only.then(|| "append-only".to_owned()));
        parts.join(" ")
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn keeps(&self) -> String {
        let of_each = if self.partition_by.is_empty() { "" } else { " of each partition" };
        match self.limit {
            Some(limit) if self.append_only => format!("{} rows{of_each}", self.offset + limit),
            _ => "all rows".to_owned(),
        }
    }

    fn encode(&self, encoder: &mut Encoder<'_>) -> Result<EncodedSpec> {
        EncodedSpec::of(self, encoder)
    }

    fn build(&self, _: BuildContext) -> Result<Box<dyn Operator>> {
        match self.limit {
            Some(limit) if self.append_only => Ok(Box::new(AppendOnlyTopN::new(self.clone(), self.offset + limit)?)),
            _ => Ok(Box::new(RetractingTopN::new(self.clone())?)),
        }
    }
}

/// The form of a [`TopNSpec`].
#[derive(Serialize, Deserialize)]
pub(crate) struct TopNForm {
    input: FieldNumber,
    partition_by: Vec<usize>,
    order_by: Vec<OrderBy>,
    offset: usize,
    limit: Option<usize>,
    with_row_number: bool,
    append_only: bool,
    schema: FieldNumber,
}

impl StoredSpec for TopNSpec {
    const KIND: &'static str = "top_n";
    type Form = TopNForm;

    fn form(&self, encoder: &mut Encoder<'_>) -> Result<TopNForm> {
        Ok(TopNForm {
            input: encoder.schema(&self.input),
            partition_by: self.partition_by.clone(),
            order_by: self.order_by.clone(),
            offset: self.offset,
            limit: self.limit,
            with_row_number: self.with_row_number,
            append_only: self.append_only,
            schema: encoder.schema(&self.schema),
        })
    }

    fn of_form(form: TopNForm, _: &[SchemaRef], decoder: &Decoder<'_>) -> Result<Self> {
        let input = decoder.schema(form.input)?;
        Ok(TopNSpec {
            partition_by: columns(form.partition_by, &input)?,
            order_by: order::columns_of(&form.order_by, &input)?,
            offset: form.offset,
            limit: form.limit,
            with_row_number: form.with_row_number,
            append_only: form.append_only,
            schema: decoder.schema(form.schema)?,
            input,
        })
    }
}

impl TopNSpec {
    /// The order of the query, and the one that decides where it does not.
    fn orders(&self) -> Result<(RowOrder, RowOrder)> {
        let ties = order::remaining_columns(&self.input, &self.partition_by, &self.order_by);
        Ok((RowOrder::new(&self.input, &self.order_by)?, RowOrder::new(&self.input, &ties)?))
    }
}

/// The schema of a partition's key.
fn key_schema(spec: &TopNSpec) -> SchemaRef {
    Arc::new(Schema::new(spec.partition_by.iter().map(|&c| spec.input.field(c).clone()).collect::<Vec<_>>()))
}

/// The differences between what partitions showed and what they show.
#[derive(Default)]
struct Differences {
    gone: Numbered,
    come: Numbered,
    scratch: [Vec<u32>; 2],
}

/// Rows by id, each with its number in its partition where that is shown.
#[derive(Default)]
struct Numbered {
    rows: Vec<u32>,
    numbers: Vec<i64>,
}

impl Differences {
    /// Takes the rows that a partition showed and those that it shows, in order.
    fn add(&mut self, spec: &TopNSpec, before: &[u32], after: &[u32]) {
        if !spec.with_row_number {
            return self.add_multisets(before, after);
        }
        let numbers = spec.offset as i64 + 1..;
        for (i, number) in (0..before.len().max(after.len())).zip(numbers) {
            let (old, new) = (before.get(i), after.get(i));
            if old != new {
                for (row, side) in [(old, &mut self.gone), (new, &mut self.come)] {
                    if let Some(&row) = row {
                        side.rows.push(row);
                        side.numbers.push(number);
                    }
                }
            }
        }
    }

    /// Merges both lists by row id, after what they have in common at either end is left out.
    fn add_multisets(&mut self, mut before: &[u32], mut after: &[u32]) {
        while let ([a, old @ ..], [b, new @ ..]) = (before, after)
            && a == b
        {
            (before, after) = (old, new);
        }
        while let ([old @ .., a], [new @ .., b]) = (before, after)
            && a == b
        {
            (before, after) = (old, new);
        }
        let [old, new] = &mut self.scratch;
        for (sorted, rows) in [(&mut *old, before), (&mut *new, after)] {
            sorted.clear();
            sorted.extend_from_slice(rows);
            sorted.sort_unstable();
        }
        let (mut i, mut j) = (0, 0);
        while i < old.len() || j < new.len() {
            match (old.get(i), new.get(j)) {
                (Some(a), Some(b)) if a == b => (i, j) = (i + 1, j + 1),
                (Some(&a), b) if b.is_none_or(|&b| a < b) => {
                    self.gone.rows.push(a);
                    i += 1;
                }
                (_, Some(&b)) => {
                    self.come.rows.push(b);
                    j += 1;
                }
                (_, None) => break,
            }
        }
    }

    fn emit(&self, spec: &TopNSpec, rows: &RowStore, out: &mut Output) -> Result<()> {
        for (side, weight) in [(&self.gone, -1i64), (&self.come, 1)] {
            for from in (0..side.rows.len()).step_by(OUTPUT_BATCH_ROWS) {
                let ids = &side.rows[from..side.rows.len().min(from + OUTPUT_BATCH_ROWS)];
                let mut columns = rows.gather(ids).columns().to_vec();
                if spec.with_row_number {
                    columns.push(Arc::new(Int64Array::from(side.numbers[from..from + ids.len()].to_vec())));
                }
                let batch = millstream_expr::scalar::batch_of(spec.schema.clone(), columns, ids.len())?;
                out.emit(Delta::new(batch, (weight < 0).then(|| vec![weight; ids.len()].into())));
            }
        }
        Ok(())
    }
}

/// The part of an ordered list that is shown.
fn window<'a>(spec: &TopNSpec, ordered: &'a [u32]) -> &'a [u32] {
    let shown = ordered.get(spec.offset..).unwrap_or_default();
    &shown[..shown.len().min(spec.limit.unwrap_or(usize::MAX))]
}

/// Takes rows over as if they came in one epoch, and says nothing of it.
fn restore_by_pushing(operator: &mut dyn Operator, rows: Delta) -> Result<()> {
    let mut out = Output::default();
    operator.push(0, rows, &mut out)?;
    operator.end_epoch(&EpochHeader { epoch: Epoch::ZERO, now_us: 0 }, &mut out)?;
    Ok(())
}

/// The partition key's columns of a delta.
fn partition_keys(spec: &TopNSpec, delta: &Delta) -> Vec<ArrayRef> {
    debug_assert!(delta.columns().iter().all(|c| c.len() == delta.n_rows()));
    spec.partition_by.iter().map(|&c| delta.columns()[c].clone()).collect()
}

#[cfg(test)]
mod tests;
