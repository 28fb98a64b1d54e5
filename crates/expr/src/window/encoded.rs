//! The form of window calls that is kept in plans.

use arrow::datatypes::SchemaRef;
use millstream_types::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Frame, Function, RowFunction, WindowCall};
use crate::encoded::{ArgumentForm, Decoder, Encoder, FieldNumber, FrameForm, column_of};
use crate::order::{OrderBy, columns_of};
use crate::recomputed::{ComputationForm, ForeignFunction, only_column};

/// The form of a [`WindowCall`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WindowCallForm {
    function: FunctionForm,
    arguments: Vec<ArgumentForm>,
    order_by: Vec<OrderBy>,
    frame: FrameForm,
    returns: FieldNumber,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FunctionForm {
    OfRows { function: Value, partition_by: Vec<usize>, ignore_nulls: bool, shown_as: String },
    Aggregate { computation: ComputationForm, filter: Option<usize> },
}

impl Encoder<'_> {
    /// The form of a window call.
    ///
    /// # Errors
    /// Internal, if some part of it has no form.
    pub fn window(&mut self, call: &WindowCall) -> Result<WindowCallForm> {
        let (function, arguments, order_by, frame) = match &call.function {
            Function::OfRows(of_rows, _) => {
                let function = FunctionForm::OfRows {
                    function: self.functions.name_of_window(&of_rows.function)?,
                    partition_by: of_rows.partition_by.clone(),
                    ignore_nulls: of_rows.ignore_nulls,
                    shown_as: of_rows.shown_as.clone(),
                };
                (function, &of_rows.arguments, &of_rows.order_by, &of_rows.frame)
            }
            Function::Aggregate(aggregate) => {
                let computation = ComputationForm::of(&aggregate.computation, self)?;
                let function = FunctionForm::Aggregate { computation, filter: aggregate.frame.filter };
                (function, &aggregate.arguments, &aggregate.frame.order_by, &aggregate.frame.frame)
            }
        };
        Ok(WindowCallForm {
            function,
            arguments: self.arguments(arguments)?,
            order_by: order_by.clone(),
            frame: FrameForm::of(frame, self)?,
            returns: self.returned(&call.data_type),
        })
    }
}

impl Decoder<'_> {
    /// The window call of a form, over rows of a schema.
    ///
    /// # Errors
    /// As for [`Decoder::recomputed`].
    pub fn window(&self, form: &WindowCallForm, input: &SchemaRef) -> Result<WindowCall> {
        let arguments = self.arguments(&form.arguments, input)?;
        let (order_by, frame) = (columns_of(&form.order_by, input)?, form.frame.decode(self)?);
        let call = match &form.function {
            FunctionForm::OfRows { function, partition_by, ignore_nulls, shown_as } => {
                let function = RowFunction {
                    function: self.functions.window(function)?,
                    arguments,
                    partition_by: partition_by.iter().map(|c| column_of(*c, input)).collect::<Result<_>>()?,
                    order_by,
                    frame,
                    ignore_nulls: *ignore_nulls,
                    shown_as: shown_as.clone(),
                };
                WindowCall::of_rows(function, input)?
            }
            FunctionForm::Aggregate { computation, filter } => {
                let filter = filter.map(|f| column_of(f, input)).transpose()?;
                let frame = Frame { frame, order_by, filter };
                match computation {
                    ComputationForm::Ours(function) => {
                        WindowCall::aggregate(*function, only_column(&arguments)?, frame, input)?
                    }
                    ComputationForm::Foreign { function, within_group, ignore_nulls } => {
                        let foreign = ForeignFunction {
                            function: self.functions.aggregate(function)?,
                            arguments,
                            within_group: columns_of(within_group, input)?,
                            ignore_nulls: *ignore_nulls,
                        };
                        WindowCall::foreign(&foreign, frame, input)?
                    }
                }
            }
        };
        self.check_returned(&call.data_type, form.returns, &call)?;
        Ok(call)
    }
}
