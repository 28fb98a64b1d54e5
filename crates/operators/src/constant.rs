//! Rows that are always there: `VALUES`, and a `SELECT` without `FROM`.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use millstream_expr::encoded::{Decoder, Encoder, RowsForm};
use millstream_state::{SavedState, StateChanges};
use millstream_types::{Delta, EpochHeader, Result};

use crate::encoded::{EncodedSpec, StoredSpec};
use crate::operator::{BuildContext, Operator, OperatorSpec, Output, Port, Progress};

/// Rows that come in the first epoch and stay. The operator has no inputs.
#[derive(Clone, Debug)]
pub struct ConstantSpec {
    /// The rows.
    pub rows: RecordBatch,
}

impl OperatorSpec for ConstantSpec {
    fn name(&self) -> &'static str {
        "Constant"
    }

    fn describe(&self) -> String {
        let schema = self.rows.schema();
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let plural = if self.rows.num_rows() == 1 { "" } else { "s" };
        format!("({}) {} row{plural}", names.join(", "), self.rows.num_rows())
    }

    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    fn encode(&self, encoder: &mut Encoder<'_>) -> Result<EncodedSpec> {
        EncodedSpec::of(self, encoder)
    }

    fn build(&self, context: BuildContext) -> Result<Box<dyn Operator>> {
        // One worker has the rows.
        Ok(Box::new(Constant { rows: (context.worker == 0).then(|| self.rows.clone()) }))
    }
}

impl StoredSpec for ConstantSpec {
    const KIND: &'static str = "constant";
    type Form = RowsForm;

    fn form(&self, encoder: &mut Encoder<'_>) -> Result<RowsForm> {
        Ok(encoder.pool.rows(&self.rows))
    }

    fn of_form(rows: RowsForm, _: &[SchemaRef], decoder: &Decoder<'_>) -> Result<Self> {
        Ok(ConstantSpec { rows: decoder.rows(&rows)? })
    }
}

struct Constant {
    /// The rows, until they were emitted.
    rows: Option<RecordBatch>,
}

impl Operator for Constant {
    fn push(&mut self, _: Port, _: Delta, _: &mut Output) -> Result<Progress> {
        Ok(Progress::Done)
    }

    fn end_epoch(&mut self, _: &EpochHeader, out: &mut Output) -> Result<Progress> {
        if let Some(rows) = self.rows.take() {
            out.emit(Delta::inserts(rows));
        }
        Ok(Progress::Done)
    }

    /// Nothing: what is saved has ended an epoch, and has emitted the rows.
    fn save(&self, _: &[Vec<usize>], _: &mut StateChanges) -> Result<()> {
        Ok(())
    }

    fn track_changes(&mut self) {}

    fn save_changes(&mut self, _: &[Vec<usize>], _: &mut StateChanges) -> Result<Progress> {
        Ok(Progress::Done)
    }

    /// What is restored has ended an epoch, and the rows came in its first.
    fn restore(&mut self, _: &mut SavedState) -> Result<()> {
        self.rows = None;
        Ok(())
    }
}
