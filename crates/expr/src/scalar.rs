//! Scalar expressions over batches, and stages of filters and projections.
//!
//! When a batch fails, it is evaluated again with AND and OR short-circuiting row by row, and if it still fails, halved
//! until the failing rows stand alone; a row fails only if it fails evaluated by itself. So an error costs what its rows
//! cost, the good rows of the batch lose nothing, and rows that a condition guards cost no halving.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use millstream_types::delta::Weights;
use millstream_types::{Delta, Error, ErrorKind, Result, SqlState};

use crate::row_errors::RowErrors;
use crate::short_circuit::short_circuiting;

/// A scalar expression bound to the columns of a batch.
#[derive(Clone, Debug)]
pub struct Scalar(Arc<dyn PhysicalExpr>);

impl Scalar {
    /// Wraps a bound expression of DataFusion.
    pub fn new(expr: Arc<dyn PhysicalExpr>) -> Self {
        Scalar(expr)
    }

    /// The `index`th column.
    pub fn column(name: &str, index: usize) -> Self {
        Scalar(Arc::new(Column::new(name, index)))
    }

    /// The index, if the expression is nothing but a column.
    pub fn as_column(&self) -> Option<usize> {
        self.0.downcast_ref::<Column>().map(Column::index)
    }

    /// The wrapped expression.
    pub fn inner(&self) -> &Arc<dyn PhysicalExpr> {
        &self.0
    }

    /// The type of the values, over batches of a schema.
    ///
    /// # Errors
    /// Internal, if the expression does not fit the schema.
    pub fn data_type(&self, schema: &SchemaRef) -> Result<DataType> {
        self.0.data_type(schema).map_err(error_of)
    }

    /// One value for each row.
    ///
    /// # Errors
    /// The error of some row.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef> {
        let value = self.0.evaluate(batch).map_err(error_of)?;
        value.into_array(batch.num_rows()).map_err(error_of)
    }

    /// The expression in the form for batches that fail, if it has another one.
    fn short_circuiting(&self) -> Option<Scalar> {
        short_circuiting(&self.0).map(Scalar)
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What DataFusion says, as an error of ours: Arrow's kernel errors keep their SQLSTATE.
pub fn error_of(error: DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::ArrowError(e, _) => match e.as_ref() {
            arrow::error::ArrowError::DivideByZero => Error::user(SqlState::DIVISION_BY_ZERO, "division by zero"),
            arrow::error::ArrowError::IoError(_, io) => Error::of_io(io),
            other => Error::user(SqlState::DATA_EXCEPTION, other.to_string()).or_state_of(other),
        },
        DataFusionError::Execution(m) => {
            Error::of_kernel(m).unwrap_or_else(|| Error::user(SqlState::DATA_EXCEPTION, m.clone()))
        }
        DataFusionError::NotImplemented(m) => Error::not_supported(m.clone()),
        DataFusionError::IoError(io) => Error::of_io(io),
        DataFusionError::ResourcesExhausted(m) => Error::out_of_memory(m.clone()),
        DataFusionError::External(e) => match e.downcast_ref::<Error>() {
            Some(ours) => ours.clone(),
            None => Error::user(SqlState::DATA_EXCEPTION, e.to_string()),
        },
        other => Error::internal(other.to_string()),
    }
}

trait OrStateOf {
    fn or_state_of(self, error: &arrow::error::ArrowError) -> Error;
}

impl OrStateOf for Error {
    fn or_state_of(self, error: &arrow::error::ArrowError) -> Error {
        use arrow::error::ArrowError as A;
        match error {
            A::ArithmeticOverflow(m) => Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, m.to_lowercase()),
            A::ComputeError(m) => Error::of_kernel(m).unwrap_or(self),
            A::CastError(m) | A::ParseError(m) => Error::user(SqlState::INVALID_TEXT_REPRESENTATION, m.to_lowercase()),
            A::ExternalError(e) => e.downcast_ref::<Error>().cloned().unwrap_or(self),
            _ => self,
        }
    }
}

/// A filter, then a projection of what passes it. Without a projection all columns pass.
#[derive(Clone, Debug)]
pub struct MapStage {
    /// Rows for which this is not true are dropped.
    pub predicate: Option<Scalar>,
    /// The output columns; `None` keeps the input's.
    pub projection: Option<Vec<Scalar>>,
    /// The schema of the output.
    pub schema: SchemaRef,
}

/// Filters and projections, one after the other, evaluated batch by batch.
#[derive(Clone, Debug)]
pub struct Stages(pub Vec<MapStage>);

impl Stages {
    /// The schema of the output; `input` if there are no stages.
    pub fn schema<'a>(&'a self, input: &'a SchemaRef) -> &'a SchemaRef {
        self.0.last().map_or(input, |s| &s.schema)
    }

    /// Evaluates all stages; rows on which one fails go to `errors` and are left out.
    ///
    /// # Errors
    /// Errors that are not the fault of a row: internal, not supported, resource.
    pub fn evaluate(&self, delta: Delta, errors: &mut RowErrors) -> Result<Delta> {
        let mut delta = delta;
        for stage in &self.0 {
            if delta.is_empty() {
                return Ok(Delta::empty(self.0.last().expect("in the loop").schema.clone()));
            }
            delta = stage.evaluate(delta, errors)?;
        }
        Ok(delta)
    }
}

impl MapStage {
    fn evaluate(&self, delta: Delta, errors: &mut RowErrors) -> Result<Delta> {
        match self.try_evaluate(&delta) {
            Ok(out) => Ok(out),
            Err(error) if error.kind() != ErrorKind::User => Err(error),
            Err(_) => self.short_circuiting().by_halves(delta, errors),
        }
    }

    fn by_halves(&self, delta: Delta, errors: &mut RowErrors) -> Result<Delta> {
        match self.try_evaluate(&delta) {
            Ok(out) => Ok(out),
            Err(error) if error.kind() != ErrorKind::User => Err(error),
            Err(error) if delta.is_empty() => Err(of_no_row(&error)),
            Err(error) if delta.n_rows() == 1 => {
                errors.add(error, delta.batch(), 0, delta.weight(0));
                Ok(Delta::empty(self.schema.clone()))
            }
            Err(_) => {
                let half = delta.n_rows() / 2;
                let left = self.by_halves(delta.slice(0, half), errors)?;
                let right = self.by_halves(delta.slice(half, delta.n_rows() - half), errors)?;
                Delta::concat(&self.schema, &[left, right])
            }
        }
    }

    /// The stage in the form for batches that fail.
    fn short_circuiting(&self) -> MapStage {
        let form = |expr: &Scalar| expr.short_circuiting().unwrap_or_else(|| expr.clone());
        MapStage {
            predicate: self.predicate.as_ref().map(form),
            projection: self.projection.as_ref().map(|exprs| exprs.iter().map(form).collect()),
            schema: self.schema.clone(),
        }
    }

    fn try_evaluate(&self, delta: &Delta) -> Result<Delta> {
        let kept = match &self.predicate {
            None => delta.clone(),
            Some(predicate) => {
                let mask = predicate.evaluate(delta.batch())?;
                let mask = truth(&mask);
                match mask.true_count() {
                    0 => return Ok(Delta::empty(self.schema.clone())),
                    n if n == delta.n_rows() => delta.clone(),
                    _ => delta.filter(&mask)?,
                }
            }
        };
        match &self.projection {
            None => Ok(kept),
            Some(exprs) => {
                let columns = exprs.iter().map(|e| e.evaluate(kept.batch())).collect::<Result<Vec<_>>>()?;
                kept.with_columns(self.schema.clone(), columns)
            }
        }
    }
}

/// A boolean column with nulls taken as false.
pub fn truth(mask: &ArrayRef) -> BooleanArray {
    let mask = mask.as_boolean();
    if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() }
}

/// Evaluates a boolean condition; rows on which it fails count as false and go to `errors`. Their weights are only asked
/// for if there are some.
///
/// # Errors
/// Errors that are not the fault of a row.
pub fn condition(
    expr: &Scalar,
    batch: &RecordBatch,
    weights: impl FnOnce() -> Option<Weights>,
    errors: &mut RowErrors,
) -> Result<BooleanArray> {
    match expr.evaluate(batch) {
        Ok(mask) => Ok(truth(&mask)),
        Err(error) if error.kind() != ErrorKind::User => Err(error),
        Err(_) => {
            let form = expr.short_circuiting();
            condition_by_halves(form.as_ref().unwrap_or(expr), &Delta::new(batch.clone(), weights()), errors)
        }
    }
}

/// What fails on no rows is the fault of none, and would be halved for ever.
fn of_no_row(error: &Error) -> Error {
    Error::internal(format!("an expression fails without a row: {}", error.message()))
}

fn condition_by_halves(expr: &Scalar, rows: &Delta, errors: &mut RowErrors) -> Result<BooleanArray> {
    match expr.evaluate(rows.batch()) {
        Ok(mask) => Ok(truth(&mask)),
        Err(error) if error.kind() != ErrorKind::User => Err(error),
        Err(error) if rows.is_empty() => Err(of_no_row(&error)),
        Err(error) if rows.n_rows() == 1 => {
            errors.add(error, rows.batch(), 0, rows.weight(0));
            Ok(BooleanArray::from(vec![false]))
        }
        Err(_) => {
            let half = rows.n_rows() / 2;
            let left = condition_by_halves(expr, &rows.slice(0, half), errors)?;
            let right = condition_by_halves(expr, &rows.slice(half, rows.n_rows() - half), errors)?;
            Ok(left.iter().chain(right.iter()).collect())
        }
    }
}

/// A batch of the given columns; `n_rows` counts when there are none.
///
/// # Errors
/// If the columns do not fit the schema.
pub fn batch_of(schema: SchemaRef, columns: Vec<ArrayRef>, n_rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
    Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, Int64Array};
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::BinaryExpr;
    use millstream_types::delta::schema_of;

    #[test]
    fn what_fails_on_no_rows_is_an_internal_error() {
        let schema = schema_of(&[("a", DataType::Int32), ("b", DataType::Int64)]);
        let column = |name: &str, i: usize| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new(name, i)) };
        let unequal_types = BinaryExpr::new(column("a", 0), Operator::Eq, column("b", 1));
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int32Array::from(Vec::<i32>::new())), Arc::new(Int64Array::from(Vec::<i64>::new()))];
        let batch = batch_of(schema, columns, 0).unwrap();
        let failed = condition(&Scalar::new(Arc::new(unequal_types)), &batch, || None, &mut RowErrors::default());
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Internal);
    }
}
