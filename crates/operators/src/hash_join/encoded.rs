//! The form of joins that is kept in plans.

use arrow::datatypes::SchemaRef;
use millstream_expr::encoded::{Decoder, Encoder, FieldNumber, ScalarForm};
use millstream_types::Result;
use serde::{Deserialize, Serialize};

use super::{Alone, HashJoinSpec, JoinColumn, JoinInput, Residual, SharedInput, Sides};
use crate::encoded::{StoredSpec, columns};

/// The form of a [`HashJoinSpec`].
#[derive(Serialize, Deserialize)]
pub(crate) struct HashJoinForm {
    inputs: Sides<InputForm>,
    emits_pairs: bool,
    alone: Sides<Alone>,
    null_equals_null: Vec<bool>,
    residual: Option<ResidualForm>,
    output: Vec<JoinColumn>,
    schema: FieldNumber,
}

/// The form of a [`JoinInput`].
#[derive(Serialize, Deserialize)]
struct InputForm {
    schema: FieldNumber,
    keys: Vec<usize>,
    append_only: bool,
    unique: bool,
    shared: Option<SharedInput>,
}

/// The form of a [`Residual`].
#[derive(Serialize, Deserialize)]
struct ResidualForm {
    columns: Vec<JoinColumn>,
    schema: FieldNumber,
    condition: ScalarForm,
}

impl StoredSpec for HashJoinSpec {
    const KIND: &'static str = "hash_join";
    type Form = HashJoinForm;

    fn form(&self, encoder: &mut Encoder<'_>) -> Result<HashJoinForm> {
        let residual = self.residual.as_ref().map(|residual| ResidualForm::of(residual, encoder)).transpose()?;
        Ok(HashJoinForm {
            inputs: Sides {
                left: InputForm::of(&self.inputs.left, encoder),
                right: InputForm::of(&self.inputs.right, encoder),
            },
            emits_pairs: self.emits_pairs,
            alone: self.alone.clone(),
            null_equals_null: self.null_equals_null.clone(),
            residual,
            output: self.output.clone(),
            schema: encoder.schema(&self.schema),
        })
    }

    fn of_form(form: HashJoinForm, _: &[SchemaRef], decoder: &Decoder<'_>) -> Result<Self> {
        let Sides { left, right } = form.inputs;
        Ok(HashJoinSpec {
            inputs: Sides { left: left.decode(decoder)?, right: right.decode(decoder)? },
            emits_pairs: form.emits_pairs,
            alone: form.alone,
            null_equals_null: form.null_equals_null,
            residual: form.residual.map(|residual| residual.decode(decoder)).transpose()?,
            output: form.output,
            schema: decoder.schema(form.schema)?,
        })
    }
}

impl InputForm {
    fn of(input: &JoinInput, encoder: &mut Encoder<'_>) -> Self {
        InputForm {
            schema: encoder.schema(&input.schema),
            keys: input.keys.clone(),
            append_only: input.append_only,
            unique: input.unique,
            shared: input.shared.clone(),
        }
    }

    fn decode(self, decoder: &Decoder<'_>) -> Result<JoinInput> {
        let InputForm { schema, keys, append_only, unique, shared } = self;
        let schema = decoder.schema(schema)?;
        Ok(JoinInput { keys: columns(keys, &schema)?, schema, append_only, unique, shared })
    }
}

impl ResidualForm {
    fn of(residual: &Residual, encoder: &mut Encoder<'_>) -> Result<Self> {
        Ok(ResidualForm {
            columns: residual.columns.clone(),
            schema: encoder.schema(&residual.schema),
            condition: encoder.scalar(&residual.condition)?,
        })
    }

    fn decode(self, decoder: &Decoder<'_>) -> Result<Residual> {
        let schema = decoder.schema(self.schema)?;
        let condition = decoder.scalar(&self.condition, &schema)?;
        Ok(Residual { columns: self.columns, schema, condition })
    }
}
