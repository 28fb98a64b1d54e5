//! `VALUES`, a `SELECT` without `FROM`, and what a rule has found to be empty.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat;
use datafusion::common::DFSchema;
use datafusion::logical_expr::{EmptyRelation, Values};
use millstream_expr::scalar::batch_of;
use millstream_operators::constant::ConstantSpec;
use millstream_types::Result;

use super::exprs::physical;
use super::{Facts, Lowered, Planner, arrow_schema};

impl Planner<'_> {
    pub(super) fn lower_values(&mut self, values: &Values) -> Result<Lowered> {
        let empty = DFSchema::empty();
        let one_row = one_row(&empty)?;
        let rows = values
            .values
            .iter()
            .map(|row| row.iter().map(|e| physical(e, &empty)?.evaluate(&one_row)).collect::<Result<Vec<ArrayRef>>>());
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let schema = arrow_schema(&values.schema);
        let column = |c: usize| -> Result<ArrayRef> {
            let parts: Vec<_> = rows.iter().map(|row| row[c].as_ref()).collect();
            Ok(concat(&parts)?)
        };
        let columns = (0..schema.fields().len()).map(column).collect::<Result<Vec<_>>>()?;
        let rows = batch_of(schema, columns, rows.len())?;
        self.constant(rows, values.schema.as_ref().clone())
    }

    pub(super) fn lower_empty(&mut self, empty: &EmptyRelation) -> Result<Lowered> {
        let rows = if empty.produce_one_row && empty.schema.fields().is_empty() {
            one_row(&empty.schema)?
        } else {
            RecordBatch::new_empty(arrow_schema(&empty.schema))
        };
        self.constant(rows, empty.schema.as_ref().clone())
    }

    fn constant(&mut self, rows: RecordBatch, schema: DFSchema) -> Result<Lowered> {
        let facts = Facts { append_only: true, consolidated: true, ..Facts::default() };
        let node = self.add(ConstantSpec { rows }, vec![]);
        Ok(Lowered { node, stages: vec![], schema, facts })
    }
}

fn one_row(schema: &DFSchema) -> Result<RecordBatch> {
    batch_of(arrow_schema(schema), vec![], 1)
}
