//! The form of recomputed calls that is kept in plans.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use millstream_types::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Argument, Computation, ForeignFunction, RecomputedCall};
use crate::aggregate::{AggregateCall, AggregateFunction};
use crate::encoded::{ArgumentForm, Decoder, Encoder, FieldNumber, column_of, damaged};
use crate::order::{OrderBy, columns_of};

/// The form of a [`RecomputedCall`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecomputedCallForm {
    computation: ComputationForm,
    arguments: Vec<ArgumentForm>,
    order_by: Vec<OrderBy>,
    distinct: bool,
    filter: Option<usize>,
    returns: FieldNumber,
}

/// The form of what makes a value of rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ComputationForm {
    Ours(AggregateFunction),
    Foreign { function: Value, within_group: Vec<OrderBy>, ignore_nulls: bool },
}

impl ComputationForm {
    pub(crate) fn of(computation: &Computation, encoder: &Encoder<'_>) -> Result<Self> {
        Ok(match computation {
            Computation::Ours(function) => ComputationForm::Ours(*function),
            Computation::DataFusion(foreign, _) => ComputationForm::Foreign {
                function: encoder.functions.name_of_aggregate(&foreign.function)?,
                within_group: foreign.within_group.clone(),
                ignore_nulls: foreign.ignore_nulls,
            },
        })
    }
}

impl Encoder<'_> {
    /// The form of a recomputed call.
    ///
    /// # Errors
    /// Internal, if some part of it has no form.
    pub fn recomputed(&mut self, call: &RecomputedCall) -> Result<RecomputedCallForm> {
        Ok(RecomputedCallForm {
            computation: ComputationForm::of(&call.computation, self)?,
            arguments: self.arguments(&call.arguments)?,
            order_by: call.order_by.clone(),
            distinct: call.distinct,
            filter: call.filter,
            returns: self.returned(&call.data_type),
        })
    }

    pub(crate) fn arguments(&mut self, arguments: &[Argument]) -> Result<Vec<ArgumentForm>> {
        arguments.iter().map(|a| self.argument(a)).collect()
    }

    /// The type of a result.
    pub(crate) fn returned(&mut self, data_type: &DataType) -> FieldNumber {
        self.pool.field(&Arc::new(Field::new("", data_type.clone(), true)))
    }
}

impl Decoder<'_> {
    /// The recomputed call of a form, over rows of a schema.
    ///
    /// # Errors
    /// Not supported, for functions that this release does not have, or whose results have another type now; internal,
    /// if the form makes no sense.
    pub fn recomputed(&self, form: &RecomputedCallForm, input: &SchemaRef) -> Result<RecomputedCall> {
        let arguments = self.arguments(&form.arguments, input)?;
        let filter = form.filter.map(|f| column_of(f, input)).transpose()?;
        let call = match &form.computation {
            ComputationForm::Ours(function) => {
                let argument = only_column(&arguments)?;
                let call = AggregateCall { function: *function, argument, distinct: form.distinct, filter };
                RecomputedCall::ours(&call, input)?
            }
            ComputationForm::Foreign { function, within_group, ignore_nulls } => {
                let function = ForeignFunction {
                    function: self.functions.aggregate(function)?,
                    arguments,
                    within_group: columns_of(within_group, input)?,
                    ignore_nulls: *ignore_nulls,
                };
                RecomputedCall::foreign(&function, columns_of(&form.order_by, input)?, form.distinct, filter, input)?
            }
        };
        self.check_returned(&call.data_type, form.returns, &call)?;
        Ok(call)
    }

    pub(crate) fn arguments(&self, forms: &[ArgumentForm], input: &SchemaRef) -> Result<Vec<Argument>> {
        forms.iter().map(|a| self.argument(a, input)).collect()
    }

    /// Compares the type that a function has with the one that it had.
    pub(crate) fn check_returned(
        &self,
        now: &DataType,
        then: FieldNumber,
        call: &impl std::fmt::Display,
    ) -> Result<()> {
        let then = self.field(then)?;
        if now == then.data_type() {
            return Ok(());
        }
        Err(Error::not_supported(format!(
            "the result of {call} in a stored plan is {}, and now {now}",
            then.data_type()
        )))
    }
}

/// The column that a function of ours is over, if it is over one.
pub(crate) fn only_column(arguments: &[Argument]) -> Result<Option<usize>> {
    match arguments {
        [] => Ok(None),
        [Argument::Column(column)] => Ok(Some(*column)),
        _ => Err(damaged("an aggregate of more than a column")),
    }
}
