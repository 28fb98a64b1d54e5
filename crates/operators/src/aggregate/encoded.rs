//! The forms of aggregates that are kept in plans.

use arrow::datatypes::SchemaRef;
use millstream_expr::AggregateCall;
use millstream_expr::encoded::{Decoder, Encoder, FieldNumber, column_of, damaged};
use millstream_types::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{AggregateInput, AggregateSpec, DistinctPartialSpec, DistinctReduceSpec, PartialAggregateSpec};
use crate::encoded::{StoredSpec, check_columns};

/// The form of an [`AggregateSpec`].
#[derive(Serialize, Deserialize)]
pub(crate) struct AggregateForm {
    input: FieldNumber,
    calls: Vec<AggregateCall>,
    ports: Vec<AggregateInput>,
    n_keys: usize,
    append_only: bool,
    schema: FieldNumber,
}

impl StoredSpec for AggregateSpec {
    const KIND: &'static str = "aggregate";
    type Form = AggregateForm;

    fn form(&self, encoder: &mut Encoder<'_>) -> Result<AggregateForm> {
        Ok(AggregateForm {
            input: encoder.schema(&self.input),
            calls: self.calls.clone(),
            ports: self.ports.clone(),
            n_keys: self.n_keys,
            append_only: self.append_only,
            schema: encoder.schema(&self.schema),
        })
    }

    fn of_form(form: AggregateForm, _: &[SchemaRef], decoder: &Decoder<'_>) -> Result<Self> {
        let input = decoder.schema(form.input)?;
        check_calls(&form.calls, &input)?;
        Ok(AggregateSpec {
            input,
            calls: form.calls,
            ports: form.ports,
            n_keys: form.n_keys,
            append_only: form.append_only,
            schema: decoder.schema(form.schema)?,
        })
    }
}

/// The form of what reduces rows before they are exchanged.
#[derive(Serialize, Deserialize)]
pub(crate) struct ReducingForm {
    input: FieldNumber,
    group_by: Vec<usize>,
    calls: Vec<AggregateCall>,
    append_only: bool,
}

impl ReducingForm {
    /// The input's schema, which has all columns that are spoken of.
    fn checked_input(&self, decoder: &Decoder<'_>) -> Result<SchemaRef> {
        let input = decoder.schema(self.input)?;
        check_columns(&self.group_by, &input)?;
        check_calls(&self.calls, &input)?;
        Ok(input)
    }
}

/// Whether there are the columns and the functions that calls name.
fn check_calls(calls: &[AggregateCall], input: &SchemaRef) -> Result<()> {
    for call in calls {
        call.argument.iter().chain(&call.filter).try_for_each(|c| column_of(*c, input).map(|_| ()))?;
        let argument = call.argument.map(|c| input.field(c).data_type());
        if call.function.result_type(argument).is_none() {
            return Err(Error::not_supported(format!("{call} of a stored plan is not known for its argument")));
        }
    }
    Ok(())
}

impl StoredSpec for PartialAggregateSpec {
    const KIND: &'static str = "partial_aggregate";
    type Form = ReducingForm;

    fn form(&self, encoder: &mut Encoder<'_>) -> Result<ReducingForm> {
        let input = encoder.schema(&self.input);
        let (group_by, calls) = (self.group_by.clone(), self.calls.clone());
        Ok(ReducingForm { input, group_by, calls, append_only: self.append_only })
    }

    fn of_form(form: ReducingForm, _: &[SchemaRef], decoder: &Decoder<'_>) -> Result<Self> {
        let input = form.checked_input(decoder)?;
        let ReducingForm { group_by, calls, append_only, .. } = form;
        Ok(PartialAggregateSpec { input, group_by, calls, append_only })
    }
}

impl StoredSpec for DistinctPartialSpec {
    const KIND: &'static str = "distinct_partial";
    type Form = ReducingForm;

    fn form(&self, encoder: &mut Encoder<'_>) -> Result<ReducingForm> {
        let input = encoder.schema(&self.input);
        let (group_by, calls) = (self.group_by.clone(), self.calls.clone());
        Ok(ReducingForm { input, group_by, calls, append_only: self.append_only })
    }

    fn of_form(form: ReducingForm, _: &[SchemaRef], decoder: &Decoder<'_>) -> Result<Self> {
        let input = form.checked_input(decoder)?;
        let ReducingForm { group_by, calls, append_only, .. } = form;
        if calls.first().and_then(|call| call.argument).is_none() {
            return Err(damaged("distinct values of no column"));
        }
        Ok(DistinctPartialSpec { input, group_by, calls, append_only })
    }
}

impl StoredSpec for DistinctReduceSpec {
    const KIND: &'static str = "distinct_reduce";
    type Form = ReducingForm;

    fn form(&self, encoder: &mut Encoder<'_>) -> Result<ReducingForm> {
        self.0.form(encoder)
    }

    fn of_form(form: ReducingForm, inputs: &[SchemaRef], decoder: &Decoder<'_>) -> Result<Self> {
        DistinctPartialSpec::of_form(form, inputs, decoder).map(DistinctReduceSpec)
    }
}
