//! Expressions, calls and what they are made of, in a form that is kept on disk and read by later releases.
//!
//! What has a shape of ours is JSON. What is Arrow's, the types, the schemas and the constants, is pooled and written as
//! Arrow writes it, and JSON refers to it by number. Functions are kept by name, and [`Functions`] knows the names.
//!
//! The names of fields and variants that serde sees are the format: a change of one is a change of the format. A field
//! may come to a form without a new version if it has a default that says what was meant before, and if a release that
//! does not know it may leave it out.

mod by_name;
mod expr;
mod frame;
mod pool;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use millstream_types::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::recomputed::Argument;
use crate::scalar::{MapStage, Scalar, Stages};
pub use by_name::FunctionsByName;
pub use expr::ScalarForm;
pub use frame::FrameForm;
pub use pool::{FieldNumber, Place, Pool, PoolReader, RowsForm};

/// The functions that a release has, by names that all later releases know.
///
/// Contract: the function that a name gives is equal to the one that the name was given for, parameters included. Who
/// implements this looks the name up and compares before giving it, so a function that cannot be found again is an error
/// where a view is made, not where it is recovered.
pub trait Functions: Sync {
    /// The name of a scalar function.
    ///
    /// # Errors
    /// Internal, if it has none.
    fn name_of_scalar(&self, function: &ScalarUDF) -> Result<Value>;

    /// The scalar function of a name.
    ///
    /// # Errors
    /// Not supported, if there is none.
    fn scalar(&self, name: &Value) -> Result<Arc<ScalarUDF>>;

    /// The name of an aggregate.
    ///
    /// # Errors
    /// Internal, if it has none.
    fn name_of_aggregate(&self, function: &AggregateUDF) -> Result<Value>;

    /// The aggregate of a name.
    ///
    /// # Errors
    /// Not supported, if there is none.
    fn aggregate(&self, name: &Value) -> Result<Arc<AggregateUDF>>;

    /// The name of a window function.
    ///
    /// # Errors
    /// Internal, if it has none.
    fn name_of_window(&self, function: &WindowUDF) -> Result<Value>;

    /// The window function of a name.
    ///
    /// # Errors
    /// Not supported, if there is none.
    fn window(&self, name: &Value) -> Result<Arc<WindowUDF>>;

    /// The options under which all functions run. They are a release's own, and are not kept.
    fn options(&self) -> &Arc<ConfigOptions>;
}

/// What is met while something is brought into its form.
pub struct Encoder<'a> {
    /// The names of functions.
    pub functions: &'a dyn Functions,
    /// Types, schemas and constants so far.
    pub pool: Pool,
}

impl<'a> Encoder<'a> {
    /// An encoder with an empty pool.
    pub fn new(functions: &'a dyn Functions) -> Self {
        Encoder { functions, pool: Pool::default() }
    }

    /// A schema's place in the pool.
    pub fn schema(&mut self, schema: &SchemaRef) -> FieldNumber {
        self.pool.schema(schema)
    }

    /// The form of an expression.
    ///
    /// # Errors
    /// Internal, if some part of it has no form.
    pub fn scalar(&mut self, scalar: &Scalar) -> Result<ScalarForm> {
        ScalarForm::of(scalar, self)
    }

    /// The form of an argument.
    ///
    /// # Errors
    /// Internal, if a constant cannot be kept.
    pub fn argument(&mut self, argument: &Argument) -> Result<ArgumentForm> {
        Ok(match argument {
            Argument::Column(column) => ArgumentForm::Column(*column),
            Argument::Constant(value) => ArgumentForm::Constant(self.pool.value(value)?),
        })
    }

    /// The form of filters and projections.
    ///
    /// # Errors
    /// As for [`Encoder::scalar`].
    pub fn stages(&mut self, stages: &Stages) -> Result<Vec<StageForm>> {
        let stage = |stage: &MapStage| {
            let projection = stage.projection.as_ref();
            Ok(StageForm {
                predicate: stage.predicate.as_ref().map(|e| self.scalar(e)).transpose()?,
                projection: projection.map(|all| all.iter().map(|e| self.scalar(e)).collect()).transpose()?,
                schema: self.schema(&stage.schema),
            })
        };
        stages.0.iter().map(stage).collect()
    }
}

/// What is needed to make things of their forms.
pub struct Decoder<'a> {
    /// The functions by name.
    pub functions: &'a dyn Functions,
    /// Types, schemas and constants.
    pub pool: PoolReader,
}

impl Decoder<'_> {
    /// A schema of the pool.
    ///
    /// # Errors
    /// Internal, if there is none of the number.
    pub fn schema(&self, number: FieldNumber) -> Result<SchemaRef> {
        self.pool.schema(number)
    }

    /// A field of the pool.
    ///
    /// # Errors
    /// Internal, if there is none of the number.
    pub fn field(&self, number: FieldNumber) -> Result<FieldRef> {
        self.pool.field(number).cloned()
    }

    /// A constant of the pool.
    ///
    /// # Errors
    /// Internal, if there is none at the place.
    pub fn value(&self, place: Place) -> Result<ScalarValue> {
        self.pool.value(place)
    }

    /// The rows that were put into the pool.
    ///
    /// # Errors
    /// Internal, if they are not there.
    pub fn rows(&self, rows: &RowsForm) -> Result<RecordBatch> {
        self.pool.rows(rows)
    }

    /// The expression of a form, over columns of a schema.
    ///
    /// # Errors
    /// Not supported, for functions that this release does not have; internal, if the form makes no sense.
    pub fn scalar(&self, form: &ScalarForm, input: &SchemaRef) -> Result<Scalar> {
        form.decode(input, self)
    }

    /// The argument of a form, over columns of a schema.
    ///
    /// # Errors
    /// Internal, if the form makes no sense.
    pub fn argument(&self, form: &ArgumentForm, input: &SchemaRef) -> Result<Argument> {
        Ok(match form {
            ArgumentForm::Column(column) => Argument::Column(column_of(*column, input)?),
            ArgumentForm::Constant(place) => Argument::Constant(self.value(*place)?),
        })
    }

    /// The filters and projections of forms, over rows of a schema.
    ///
    /// # Errors
    /// As for [`Decoder::scalar`].
    pub fn stages(&self, forms: &[StageForm], input: &SchemaRef) -> Result<Stages> {
        let mut input = input.clone();
        let mut stages = Vec::with_capacity(forms.len());
        for form in forms {
            let projection = form.projection.as_ref();
            let stage = MapStage {
                predicate: form.predicate.as_ref().map(|e| self.scalar(e, &input)).transpose()?,
                projection: projection
                    .map(|all| all.iter().map(|e| self.scalar(e, &input)).collect::<Result<Vec<_>>>())
                    .transpose()?,
                schema: self.schema(form.schema)?,
            };
            input = stage.schema.clone();
            stages.push(stage);
        }
        Ok(Stages(stages))
    }
}

/// The form of an [`Argument`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArgumentForm {
    /// A column.
    Column(usize),
    /// A constant of the pool.
    Constant(Place),
}

/// The form of a [`MapStage`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageForm {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    predicate: Option<ScalarForm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    projection: Option<Vec<ScalarForm>>,
    schema: FieldNumber,
}

/// A form as JSON.
///
/// # Errors
/// Internal, if it has no JSON.
pub fn json(form: &impl Serialize) -> Result<Value> {
    serde_json::to_value(form).map_err(|e| Error::internal(format!("a form without JSON: {e}")))
}

/// The form that a JSON value is.
///
/// # Errors
/// Internal, if it is not such a form.
pub fn form_of<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| damaged(format!("unexpected JSON: {e}")))
}

/// A position, if a schema has such a column.
///
/// # Errors
/// Internal, if it has not.
pub fn column_of(column: usize, input: &SchemaRef) -> Result<usize> {
    if column < input.fields().len() {
        return Ok(column);
    }
    Err(damaged(format!("column {column} of {}", input.fields().len())))
}

/// What is said of forms that nothing has written.
pub fn damaged(what: impl std::fmt::Display) -> Error {
    Error::internal(format!("a stored plan makes no sense: {what}"))
}

/// Whether a flag is not set: such are left out of forms.
pub(crate) fn is_false(flag: &bool) -> bool {
    !*flag
}
