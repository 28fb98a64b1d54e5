//! `UNION ALL`: the deltas of all inputs, under one schema.

use arrow::datatypes::SchemaRef;
use millstream_expr::encoded::{Decoder, Encoder, FieldNumber};
use millstream_state::{SavedState, StateChanges};
use millstream_types::{Delta, EpochHeader, Result};
use serde::{Deserialize, Serialize};

use crate::encoded::{EncodedSpec, StoredSpec};
use crate::operator::{BuildContext, Operator, OperatorSpec, Output, Port, Progress};

/// The sum of its inputs, whose columns have the same types.
#[derive(Clone, Debug)]
pub struct UnionSpec {
    /// The schema of the output.
    pub schema: SchemaRef,
}

impl OperatorSpec for UnionSpec {
    fn name(&self) -> &'static str {
        "Union"
    }

    fn describe(&self) -> String {
        String::new()
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn is_stateless(&self) -> bool {
        true
    }

    fn encode(&self, encoder: &mut Encoder<'_>) -> Result<EncodedSpec> {
        EncodedSpec::of(self, encoder)
    }

    fn build(&self, _: BuildContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Union { schema: self.schema.clone() }))
    }
}

/// The form of a [`UnionSpec`].
#[derive(Serialize, Deserialize)]
pub(crate) struct UnionForm {
    schema: FieldNumber,
}

impl StoredSpec for UnionSpec {
    const KIND: &'static str = "union";
    type Form = UnionForm;

    fn form(&self, encoder: &mut Encoder<'_>) -> Result<UnionForm> {
        Ok(UnionForm { schema: encoder.schema(&self.schema) })
    }

    fn of_form(form: UnionForm, _: &[SchemaRef], decoder: &Decoder<'_>) -> Result<Self> {
        Ok(UnionSpec { schema: decoder.schema(form.schema)? })
    }
}

struct Union {
    schema: SchemaRef,
}

impl Operator for Union {
    fn push(&mut self, _: Port, delta: Delta, out: &mut Output) -> Result<Progress> {
        out.emit(delta.with_columns(self.schema.clone(), delta.columns().to_vec())?);
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

#[cfg(test)]
mod tests;
