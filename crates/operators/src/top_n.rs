//! Top-n: the first rows of each partition in some order, as `ORDER BY ... LIMIT` and `row_number() <= n` ask for.
//!
//! The order is completed with all remaining columns, so which rows are first never depends on when they came. While
//! rows only come, a partition keeps as many as it may ever show; when rows may be taken back it keeps all of them, in
//! order, so that the next one moves up.

mod append_only;
mod retracting;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::row::{RowConverter, Rows as EncodedRows, SortField};
pub use millstream_expr::OrderBy;
use millstream_state::RowStore;
use millstream_types::{Delta, Result};

use crate::operator::{BuildContext, Operator, OperatorSpec, Output};
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
        let name = |c: &usize| self.input.field(*c).name().as_str();
        let partition: Vec<&str> = self.partition_by.iter().map(name).collect();
        let order: Vec<String> = self.order_by.iter().map(|o| o.describe(&self.input)).collect();
        let mut text = String::new();
        if !partition.is_empty() {
            text += &format!("partition by ({}) ", partition.join(", "));
        }
        text += &format!("order by ({})", order.join(", "));
        if let Some(limit) = self.limit {
            text += &format!(" limit {limit}");
        }
        if self.offset > 0 {
            text += &format!(" offset {}", self.offset);
        }
        if self.append_only {
            text += " append-only";
        }
        text
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn build(&self, _: BuildContext) -> Result<Box<dyn Operator>> {
        match self.limit {
            Some(limit) if self.append_only => Ok(Box::new(AppendOnlyTopN::new(self.clone(), self.offset + limit)?)),
            _ => Ok(Box::new(RetractingTopN::new(self.clone())?)),
        }
    }
}

/// Encodes columns so that bytes compare as the order says.
struct OrderEncoder {
    columns: Vec<usize>,
    converter: RowConverter,
}

impl fmt::Debug for OrderEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OrderEncoder({:?})", self.columns)
    }
}

impl OrderEncoder {
    /// The columns of `ORDER BY`.
    fn of_order(spec: &TopNSpec) -> Result<Self> {
        let field =
            |o: &OrderBy| SortField::new_with_options(spec.input.field(o.column).data_type().clone(), o.options());
        let columns = spec.order_by.iter().map(|o| o.column).collect();
        Ok(OrderEncoder { columns, converter: RowConverter::new(spec.order_by.iter().map(field).collect())? })
    }

    /// All other columns, ascending, nulls last.
    fn of_ties(spec: &TopNSpec) -> Result<Self> {
        let is_rest = |c: &usize| spec.order_by.iter().all(|o| o.column != *c) && !spec.partition_by.contains(c);
        let columns: Vec<usize> = (0..spec.input.fields().len()).filter(is_rest).collect();
        let options = SortOptions { descending: false, nulls_first: false };
        let field = |c: &usize| SortField::new_with_options(spec.input.field(*c).data_type().clone(), options);
        let converter = RowConverter::new(columns.iter().map(field).collect())?;
        Ok(OrderEncoder { columns, converter })
    }

    fn encode(&self, columns: &[ArrayRef]) -> Result<Option<EncodedRows>> {
        if self.columns.is_empty() {
            return Ok(None);
        }
        let columns: Vec<ArrayRef> = self.columns.iter().map(|&c| columns[c].clone()).collect();
        Ok(Some(self.converter.convert_columns(&columns)?))
    }
}

/// The schema of a partition's key.
fn key_schema(spec: &TopNSpec) -> SchemaRef {
    Arc::new(Schema::new(spec.partition_by.iter().map(|&c| spec.input.field(c).clone()).collect::<Vec<_>>()))
}

/// Emits the difference between what partitions showed and what they show: rows by id, in order.
fn emit_difference(
    spec: &TopNSpec,
    rows: &RowStore,
    shown: impl Iterator<Item = (Vec<u32>, Vec<u32>)>,
    out: &mut Output,
) -> Result<()> {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    for (before, after) in shown {
        if spec.with_row_number {
            let numbered = |rows: Vec<u32>| rows.into_iter().zip(spec.offset as i64 + 1..);
            let after: Vec<(u32, i64)> = numbered(after).collect();
            let before: Vec<(u32, i64)> = numbered(before).collect();
            gone.extend(before.iter().filter(|b| !after.contains(b)));
            come.extend(after.iter().filter(|a| !before.contains(a)));
        } else {
            let mut counts: HashMap<u32, i64> = HashMap::new();
            after.into_iter().for_each(|row| *counts.entry(row).or_default() += 1);
            before.into_iter().for_each(|row| *counts.entry(row).or_default() -= 1);
            let mut counts: Vec<(u32, i64)> = counts.into_iter().filter(|(_, n)| *n != 0).collect();
            counts.sort_unstable();
            for (row, n) in counts {
                let side = if n < 0 { &mut gone } else { &mut come };
                side.extend(std::iter::repeat_n((row, 0), n.unsigned_abs() as usize));
            }
        }
    }
    for (numbered, weight) in [(gone, -1i64), (come, 1)] {
        let ids: Vec<u32> = numbered.iter().map(|(row, _)| *row).collect();
        let mut columns = rows.gather(&ids).columns().to_vec();
        if spec.with_row_number {
            columns.push(Arc::new(Int64Array::from_iter_values(numbered.iter().map(|(_, number)| *number))));
        }
        let batch = millstream_expr::scalar::batch_of(spec.schema.clone(), columns, ids.len())?;
        out.emit(Delta::new(batch, (weight < 0).then(|| vec![weight; ids.len()].into())));
    }
    Ok(())
}

/// The part of an ordered list that is shown.
fn window<T: Copy>(spec: &TopNSpec, ordered: impl Iterator<Item = T>) -> Vec<T> {
    let shown = ordered.skip(spec.offset);
    match spec.limit {
        Some(limit) => shown.take(limit).collect(),
        None => shown.collect(),
    }
}

/// The partition key's columns of a delta.
fn partition_keys(spec: &TopNSpec, delta: &Delta) -> Vec<ArrayRef> {
    debug_assert!(delta.columns().iter().all(|c| c.len() == delta.n_rows()));
    spec.partition_by.iter().map(|&c| delta.columns()[c].clone()).collect()
}
